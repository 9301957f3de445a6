"""
Tests of the collapse alarm, called as the trainer calls it: at the beginning of training and at each log.
"""

import pytest
from transformers import TrainerControl, TrainerState

from edit_trl.callbacks import CollapseAlarmCallback


METRIC = "edit/logps_key_chosen"
LOGGER = "edit_trl.callbacks"


class Run:
    """Feeds logged values to a callback and says at which of them it warned."""

    def __init__(self, callback, caplog, log_history=()):
        caplog.set_level("WARNING", logger=LOGGER)
        self.callback, self.caplog = callback, caplog
        self.state, self.control = TrainerState(log_history=list(log_history)), TrainerControl()
        callback.on_train_begin(None, self.state, self.control)

    @property
    def messages(self):
        return [record.getMessage() for record in self.caplog.records if record.name == LOGGER]

    def log(self, logs):
        self.state.global_step += 10
        if logs is not None:
            self.state.log_history.append(logs)
        self.callback.on_log(None, self.state, self.control, logs=logs)

    def log_all(self, *values):
        """Numbers, from zero, of the values at which the alarm went off."""
        alarms = []
        for i, value in enumerate(values):
            num_messages = len(self.messages)
            self.log({METRIC: value, "loss": 0.5})
            alarms += [i] * (len(self.messages) - num_messages)
        return alarms


class TestCollapseAlarmCallback:
    def test_goes_off_after_window_logs_below_the_margin(self, caplog):
        """First value -2, margin 1: below -3 from the third value on, three in a row at the fifth."""
        run = Run(CollapseAlarmCallback(margin=1.0, window=3), caplog)
        assert run.log_all(-2.0, -2.9, -3.1, -4.0, -3.5) == [4]

    def test_value_at_the_limit_is_not_below(self, caplog):
        run = Run(CollapseAlarmCallback(margin=1.0, window=2), caplog)
        assert run.log_all(-2.0, -3.0, -3.0, -3.0) == []

    def test_one_log_above_starts_the_count_again(self, caplog):
        run = Run(CollapseAlarmCallback(margin=1.0, window=3), caplog)
        assert run.log_all(-2.0, -4.0, -4.0, -2.5, -4.0, -4.0) == []
        assert run.log_all(-4.0) == [0]

    def test_goes_off_once_and_again_after_recovery(self, caplog):
        run = Run(CollapseAlarmCallback(margin=1.0, window=2), caplog)
        assert run.log_all(-2.0, -4.0, -4.0, -4.0, -5.0) == [2]
        assert run.log_all(-2.0, -4.0, -4.0, -4.0) == [2]

    def test_limit_is_relative_to_the_first_value_not_the_best(self, caplog):
        run = Run(CollapseAlarmCallback(margin=1.0, window=1), caplog)
        assert run.log_all(-2.0, -0.1, -2.5, -3.01) == [3]

    def test_window_of_one_goes_off_at_once(self, caplog):
        run = Run(CollapseAlarmCallback(margin=0.0, window=1), caplog)
        assert run.log_all(-2.0, -2.0, -2.001) == [2]

    def test_defaults_are_one_nat_and_five_logs(self, caplog):
        run = Run(CollapseAlarmCallback(), caplog)
        assert run.log_all(-1.0, *[-2.01] * 8) == [5]

    def test_warning_has_the_figures_and_the_options(self, caplog):
        run = Run(CollapseAlarmCallback(margin=0.5, window=2), caplog)
        run.log_all(-1.25, -2.0, -3.125)

        (message,) = run.messages
        for part in (
            "step 30",
            f"`{METRIC}` is -3.125 nats",
            "from -1.250 at the start",
            "below -1.750 for 2 logs",
            "`learning_rate`",
            "`rejected_key_weight`",
            "`chosen_other_weight`",
            '`rejected_loss="unlikelihood"`',
            "`stop=True`",
        ):
            assert part in message

    def test_stop_ends_the_run(self, caplog):
        run = Run(CollapseAlarmCallback(margin=1.0, window=2, stop=True), caplog)

        run.log_all(-2.0, -4.0)
        assert not run.control.should_training_stop
        run.log_all(-4.0)

        assert run.control.should_training_stop
        assert "Stopping the run." in run.messages[0]

    def test_run_goes_on_without_stop(self, caplog):
        run = Run(CollapseAlarmCallback(margin=1.0, window=1), caplog)
        assert run.log_all(-2.0, -4.0) == [1]
        assert not run.control.should_training_stop

    def test_logs_without_the_metric_are_ignored(self, caplog):
        """Neither do they count for the window nor break it."""
        run = Run(CollapseAlarmCallback(margin=1.0, window=2), caplog)
        run.log({"loss": 9.0})
        run.log(None)
        assert run.log_all(-2.0, -4.0) == []
        run.log({"eval_loss": 1.0, f"eval_{METRIC}": 0.0})
        run.log(None)
        assert run.log_all(-4.0) == [0]

    def test_resumed_run_compares_with_its_true_beginning(self, caplog):
        history = [{"loss": 1.0}, {METRIC: -2.0}, {METRIC: -3.5}, {"eval_loss": 1.0}, {METRIC: -3.5}]
        run = Run(CollapseAlarmCallback(margin=1.0, window=3), caplog, history)
        assert run.log_all(-3.5) == [0]
        assert "from -2.000 at the start" in run.messages[0]

    def test_new_run_forgets_the_one_before(self, caplog):
        callback = CollapseAlarmCallback(margin=1.0, window=2)
        assert Run(callback, caplog).log_all(-2.0, -9.0, -9.0) == [2]
        assert Run(callback, caplog).log_all(-9.0, -9.5, -9.5) == []

    @pytest.mark.parametrize("margin", [-0.5, float("nan")])
    def test_negative_margin_is_refused(self, margin):
        with pytest.raises(ValueError, match="`margin` must be positive or zero, got"):
            CollapseAlarmCallback(margin=margin)

    @pytest.mark.parametrize("window", [0, -3])
    def test_window_below_one_is_refused(self, window):
        with pytest.raises(ValueError, match=f"`window` must be at least 1, got {window}"):
            CollapseAlarmCallback(window=window)
