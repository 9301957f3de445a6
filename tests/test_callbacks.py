"""
Tests of the collapse alarm, called as the trainer calls it: at the beginning of training and at each log; and of
key-step accuracy, in runs of the trainer.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import build_model, build_tokenizer
from datasets import Dataset, IterableDataset
from peft import LoraConfig
from transformers import TrainerCallback, TrainerControl, TrainerState
from trl import SFTConfig, SFTTrainer

from edit_trl import EDITConfig, EDITTrainer
from edit_trl.callbacks import CollapseAlarmCallback, KeyStepAccuracyCallback
from edit_trl.key_steps import key_step_accuracy


# TRL sets `gradient_checkpointing`, which transformers 5.23 deprecates; that warning is between the two.
pytestmark = pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.* is deprecated:FutureWarning")

ROOT = Path(__file__).parents[1]


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


def make_trainer(folder, pairs, model=None, eval_dataset=None, train_dataset=None, peft_config=None, **options):
    """Eight pairs, two per step: four steps per epoch."""
    return EDITTrainer(
        model=model if model is not None else build_model(attention_dropout=0.2),
        args=EDITConfig(
            **{
                "output_dir": str(folder / "student"),
                "use_cpu": True,
                "bf16": False,
                "gradient_checkpointing": False,
                "learning_rate": 0.01,
                "per_device_train_batch_size": 2,
                "num_train_epochs": 1,
                "logging_steps": 1,
                "save_strategy": "no",
                "report_to": "none",
                "disable_tqdm": True,
                **options,
            }
        ),
        train_dataset=Dataset.from_list(pairs) if train_dataset is None else train_dataset,
        eval_dataset=eval_dataset,
        processing_class=build_tokenizer(),
        peft_config=peft_config,
    )


def entries(trainer, name):
    """Steps and values of a logged metric."""
    return [(entry["step"], entry[name]) for entry in trainer.state.log_history if name in entry]


@pytest.fixture
def held_back(pairs):
    return Dataset.from_list(pairs[5:])


ACCURACY, MARGIN = "eval_key_step_accuracy", "eval_key_step_margin"

# Runs that differ in what the student goes through.
RUNS = {
    "shared rows": {},
    "padded rows": {"shared_prefix": False},
    "accumulated": {"gradient_accumulation_steps": 2, "logging_steps": 2, "num_train_epochs": 2},
    "checkpointed": {"gradient_checkpointing": True},
    "evaluated": {"eval_strategy": "steps", "eval_steps": 2},
    "adapter": {"peft_config": LoraConfig(target_modules=["q_proj", "v_proj"], lora_dropout=0.3)},
    "adapter, checkpointed": {
        "peft_config": LoraConfig(target_modules=["q_proj", "v_proj"], lora_dropout=0.3),
        "gradient_checkpointing": True,
    },
    "lazy": {"max_steps": 3},
}


class TestCollapseAlarmInTraining:
    def test_it_stops_a_run_that_unlearns_the_right_chains(self, tmp_path, pairs):
        """A weight column that pushes the right chains' own tokens away makes them less likely at every step."""
        tokenizer = build_tokenizer()
        prompt = tokenizer(pairs[0]["prompt"])["input_ids"]
        chosen = tokenizer(pairs[0]["chosen"])["input_ids"]
        example = {
            "prompt_ids": prompt,
            "chosen_ids": chosen,
            "rejected_ids": chosen[:-1],
            "chosen_weights": [-1.0] * len(chosen),
            "rejected_weights": [0.0] * (len(chosen) - 1),
        }
        trainer = make_trainer(tmp_path, [example], max_steps=50, learning_rate=0.05)
        trainer.add_callback(CollapseAlarmCallback(margin=0.2, window=2, stop=True))
        trainer.train()
        values = [entry["edit/logps_key_chosen"] for entry in trainer.state.log_history if "loss" in entry]
        assert trainer.state.global_step < 50
        assert all(value < values[0] - 0.2 for value in values[-2:])
        assert not all(value < values[0] - 0.2 for value in values[-3:-1])


@pytest.mark.slow
class TestKeyStepAccuracyCallback:
    @pytest.mark.parametrize("run", RUNS)
    def test_training_is_as_it_would_be_without(self, tmp_path, pairs, held_back, run):
        """Every number that is logged, and every parameter, to the last bit; all students train with dropout."""
        finished = []
        for is_watched in (False, True):
            lazy = IterableDataset.from_generator(lambda: iter(pairs)) if run == "lazy" else None
            trainer = make_trainer(tmp_path, pairs, train_dataset=lazy, eval_dataset=held_back, **RUNS[run])
            if is_watched:
                trainer.add_callback(KeyStepAccuracyCallback(trainer, freq=1))
            trainer.train()
            finished.append(trainer)
        without, watched = finished

        def numbers(trainer):
            clock = ("runtime", "per_second")
            return [
                {name: value for name, value in entry.items() if not name.endswith(clock)}
                for entry in trainer.state.log_history
                if ACCURACY not in entry
            ]

        assert numbers(watched) == numbers(without)
        assert len(entries(without, "loss")) >= 2
        for mine, theirs in zip(watched.model.parameters(), without.model.parameters(), strict=True):
            assert torch.equal(mine, theirs)
        assert [step for step, _ in entries(watched, ACCURACY)] == list(range(watched.state.global_step + 1))
        assert entries(watched, MARGIN)[0] != entries(watched, MARGIN)[-1]

    def test_begins_and_ends_with_a_measurement(self, tmp_path, pairs, held_back):
        trainer = make_trainer(tmp_path, pairs)
        before = key_step_accuracy(trainer.model, held_back, trainer.processing_class)
        callback = KeyStepAccuracyCallback(trainer, held_back)
        trainer.add_callback(callback)
        trainer.train()
        after = key_step_accuracy(trainer.model, held_back, trainer.processing_class)

        assert entries(trainer, ACCURACY) == [(0, before.accuracy), (4, after.accuracy)]
        assert entries(trainer, MARGIN) == [
            (0, pytest.approx(before.mean_margin, abs=1e-5)),
            (4, pytest.approx(after.mean_margin, abs=1e-5)),
        ]
        assert callback.scores.margins == pytest.approx(after.margins, abs=1e-5)
        assert before.mean_margin != pytest.approx(after.mean_margin, abs=1e-2)

    @pytest.mark.parametrize(
        ("options", "freq", "steps"),
        [
            ({}, None, [0, 4]),
            ({}, 3, [0, 3, 4]),
            ({"eval_strategy": "steps", "eval_steps": 2}, None, [0, 2, 4]),
            ({"eval_strategy": "steps", "eval_steps": 2}, 1, [0, 1, 2, 3, 4]),
            ({"eval_strategy": "epoch", "num_train_epochs": 2, "eval_on_start": True}, None, [0, 4, 8]),
        ],
    )
    def test_measures_once_per_step(self, tmp_path, pairs, held_back, options, freq, steps):
        trainer = make_trainer(tmp_path, pairs, eval_dataset=held_back, **options)
        trainer.add_callback(KeyStepAccuracyCallback(trainer, freq=freq))
        trainer.train()
        assert [step for step, _ in entries(trainer, ACCURACY)] == steps

    def test_several_evaluation_datasets_are_one_measurement(self, tmp_path, pairs, held_back):
        named = {"easy": Dataset.from_list(pairs[:2]), "hard": held_back}
        trainer = make_trainer(tmp_path, pairs, eval_dataset=named, eval_strategy="epoch")
        trainer.add_callback(KeyStepAccuracyCallback(trainer, held_back))
        trainer.train()
        assert [step for step, _ in entries(trainer, ACCURACY)] == [0, 4]

    def test_chooses_the_best_checkpoint(self, tmp_path, pairs, held_back):
        trainer = make_trainer(
            tmp_path,
            pairs,
            eval_dataset=held_back,
            eval_strategy="steps",
            eval_steps=1,
            save_strategy="best",
            metric_for_best_model="key_step_margin",
            greater_is_better=True,
        )
        trainer.add_callback(KeyStepAccuracyCallback(trainer))
        trainer.train()
        step, margin = max(entries(trainer, MARGIN)[1:], key=lambda entry: entry[1])
        assert trainer.state.best_metric == margin
        assert trainer.state.best_global_step == step

    def test_evaluation_outside_training(self, tmp_path, pairs, held_back):
        """Each one measures: the number of steps does not tell whether the student has changed."""
        trainer = make_trainer(tmp_path, pairs, eval_dataset=held_back)
        trainer.add_callback(KeyStepAccuracyCallback(trainer))
        trainer.train()
        trained = trainer.evaluate()
        trainer.model.load_state_dict(build_model().state_dict())
        untrained = trainer.evaluate()
        again = trainer.evaluate()

        assert trained[MARGIN] == entries(trainer, MARGIN)[1][1]
        expected = key_step_accuracy(build_model(), held_back, trainer.processing_class)
        assert untrained[MARGIN] == pytest.approx(expected.mean_margin, abs=1e-5)
        assert untrained[ACCURACY] == expected.accuracy
        assert again[MARGIN] == untrained[MARGIN]

    def test_resumed_run_has_its_beginning_in_the_log(self, tmp_path, pairs, held_back):
        options = {"save_strategy": "steps", "save_steps": 2}
        first = make_trainer(tmp_path, pairs, **options)
        first.add_callback(KeyStepAccuracyCallback(first, held_back))
        first.train()
        trainer = make_trainer(tmp_path, pairs, **options)
        trainer.add_callback(KeyStepAccuracyCallback(trainer, held_back))
        trainer.train(resume_from_checkpoint=str(tmp_path / "student" / "checkpoint-2"))
        assert entries(trainer, ACCURACY) == entries(first, ACCURACY)
        assert [step for step, _ in entries(trainer, ACCURACY)] == [0, 4]

    def test_trackers_get_it_alone(self, tmp_path, pairs, held_back):
        """An entry of its own, with nothing of the training log in it."""
        logged = []

        class Tracker(TrainerCallback):
            def on_log(self, args, state, control, logs=None, **kwargs):
                logged.append(dict(logs))

        trainer = make_trainer(tmp_path, pairs)
        trainer.add_callback(Tracker())
        trainer.add_callback(KeyStepAccuracyCallback(trainer, held_back, freq=2))
        trainer.train()
        assert [set(logs) for logs in logged if ACCURACY in logs] == [{ACCURACY, MARGIN, "epoch"}] * 3

    def test_max_length_of_the_trainer(self, tmp_path, pairs, caplog):
        ids = [{"prompt_ids": [5], "chosen_ids": [*[7] * n, 8, 2], "rejected_ids": [*[7] * n, 9, 2]} for n in range(6)]
        trainer = make_trainer(tmp_path, pairs, max_length=60)
        trainer.args.max_length = 4
        caplog.set_level("WARNING", logger=LOGGER)
        callback = KeyStepAccuracyCallback(trainer, Dataset.from_list(ids))
        assert "leaves out 3 of 6 held-back pairs: 3 where the chains differ only beyond `max_length`" in caplog.text
        callback.on_evaluate(trainer.args, trainer.state, trainer.control, metrics={})
        assert (callback.scores.num_pairs, callback.scores.left_out) == (3, {"too_long": 3})

    def test_nothing_left_out_nothing_said(self, tmp_path, pairs, held_back, caplog):
        caplog.set_level("WARNING", logger=LOGGER)
        KeyStepAccuracyCallback(make_trainer(tmp_path, pairs), held_back)
        assert not [record for record in caplog.records if record.name == LOGGER]

    def test_autocast_of_the_trainer(self, tmp_path, pairs, held_back):
        """In bf16 the margins are those of bf16, a little off, and still of the needed positions alone."""
        trainer = make_trainer(tmp_path, pairs, eval_dataset=held_back, bf16=True, per_device_eval_batch_size=3)
        callback = KeyStepAccuracyCallback(trainer)
        trainer.add_callback(callback)
        shapes = []
        trainer.model.lm_head.register_forward_hook(lambda module, args, output: shapes.append(tuple(output.shape)))
        trainer.train()
        assert shapes[0] == shapes[-1] == (1, 3, 400)

        plain = build_model()
        plain.load_state_dict(trainer.model.state_dict())
        exact = key_step_accuracy(plain, held_back, trainer.processing_class)
        with torch.autocast("cpu", torch.bfloat16):
            expected = key_step_accuracy(plain, held_back, trainer.processing_class)
        assert callback.scores.margins == pytest.approx(expected.margins, abs=1e-5)
        assert callback.scores.margins != pytest.approx(exact.margins, abs=1e-5)

    def test_other_trainers(self, tmp_path, pairs, held_back):
        """The first stage, by TRL's own trainer, and its own metrics stay what they are."""
        logs = []
        for is_watched in (False, True):
            trainer = SFTTrainer(
                model=build_model(attention_dropout=0.2),
                args=SFTConfig(
                    output_dir=str(tmp_path / "sft"),
                    use_cpu=True,
                    bf16=False,
                    gradient_checkpointing=False,
                    per_device_train_batch_size=2,
                    num_train_epochs=1,
                    logging_steps=2,
                    save_strategy="no",
                    report_to="none",
                    disable_tqdm=True,
                ),
                train_dataset=Dataset.from_list([{"prompt": p["prompt"], "completion": p["chosen"]} for p in pairs]),
                processing_class=build_tokenizer(),
            )
            if is_watched:
                trainer.add_callback(KeyStepAccuracyCallback(trainer, held_back, freq=1))
            trainer.train()
            logs.append([entry for entry in trainer.state.log_history if "loss" in entry])
        assert logs[0] == logs[1]
        assert len(logs[0]) == 2 and "mean_token_accuracy" in logs[0][0]
        assert [step for step, _ in entries(trainer, ACCURACY)] == [0, 1, 2, 3, 4]

    def test_loss_of_the_student_stops_the_run(self, tmp_path, pairs, held_back):
        trainer = make_trainer(tmp_path, pairs, learning_rate=1e30, max_grad_norm=0.0, optim="sgd")
        trainer.add_callback(KeyStepAccuracyCallback(trainer, held_back, freq=1))
        with pytest.raises(FloatingPointError, match="Margins of key steps must be finite, got . of 3 .* at step 1"):
            trainer.train()

    def test_no_held_back_pairs(self, tmp_path, pairs, held_back):
        with pytest.raises(ValueError, match="needs held-back pairs, and the trainer has none"):
            KeyStepAccuracyCallback(make_trainer(tmp_path, pairs))
        trainer = make_trainer(tmp_path, pairs, eval_dataset={"easy": held_back, "hard": held_back})
        with pytest.raises(ValueError, match="the trainer has several: 'easy', 'hard'"):
            KeyStepAccuracyCallback(trainer)

    @pytest.mark.parametrize("freq", [0, -2])
    def test_freq_below_one_is_refused(self, tmp_path, pairs, held_back, freq):
        with pytest.raises(ValueError, match=f"`freq` must be at least 1, got {freq}"):
            KeyStepAccuracyCallback(make_trainer(tmp_path, pairs), held_back, freq=freq)

    def test_two_processes_share_the_pairs(self, tmp_path, pairs):
        """Fewer pairs than processes, and a number that two does not divide: each pair once, in order, on both."""
        (tmp_path / "pairs.json").write_text(json.dumps(pairs))
        (tmp_path / "measure.py").write_text(TWO_PROCESSES)
        environment = {
            **os.environ,
            "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}",
            "OMP_NUM_THREADS": "1",
            "CUDA_VISIBLE_DEVICES": "",
            "ACCELERATE_USE_CPU": "true",
        }
        subprocess.run(
            [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2",
             str(tmp_path / "measure.py"), str(tmp_path)],
            check=True, env=environment, timeout=300,
        )  # fmt: skip
        results = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2)]
        for num_pairs, num_each in ((1, 1), (5, 3)):
            alone = key_step_accuracy(build_model(), Dataset.from_list(pairs[:num_pairs]), build_tokenizer())
            for result in (result[str(num_pairs)] for result in results):
                assert result["num_processes"] == 2
                assert result["margins"] == pytest.approx(alone.margins, abs=1e-5)
                assert result["logged"] == [[0, alone.accuracy]]
                assert result["num_scored"] == num_each


TWO_PROCESSES = """
import gc, json, sys
from pathlib import Path
from accelerate import PartialState
from conftest import build_model
from datasets import Dataset
from edit_trl.callbacks import KeyStepAccuracyCallback
from test_callbacks import ACCURACY, entries, make_trainer


def measure(folder, pairs):
    rows = []
    trainer = make_trainer(folder, pairs, model=build_model(), eval_dataset=Dataset.from_list(pairs))
    callback = KeyStepAccuracyCallback(trainer)
    trainer.model.lm_head.register_forward_hook(lambda module, args, output: rows.append(output.shape[1]))
    callback.on_train_begin(trainer.args, trainer.state, trainer.control)
    return {
        "num_processes": trainer.accelerator.num_processes,
        "margins": callback.scores.margins,
        "logged": entries(trainer, ACCURACY),
        "num_scored": sum(rows),
    }


def main(folder):
    pairs = json.loads((folder / "pairs.json").read_text())
    results = {num_pairs: measure(folder, pairs[:num_pairs]) for num_pairs in (1, 5)}
    (folder / f"{PartialState().process_index}.json").write_text(json.dumps(results))


main(Path(sys.argv[1]))
gc.collect()
PartialState().wait_for_everyone()
PartialState().destroy_process_group()
"""
