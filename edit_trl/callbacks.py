"""
What watches a run: an alarm for when pushing mistakes away drags the right chains along.

Lowering the likelihood of tokens that resemble the right ones can lower theirs too (likelihood displacement,
https://huggingface.co/papers/2410.08847). The trainer logs the mean log-probability of the right chains' key tokens;
the alarm compares it with where it began.
"""

from collections import deque
from typing import Any

from accelerate.logging import get_logger
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments


logger = get_logger(__name__)


class CollapseAlarmCallback(TrainerCallback):
    """
    Warn when the key tokens of the right chains become less likely instead of more.

    Watches `edit/logps_key_chosen`, the mean log-probability of the right chains' key tokens, in nats. The alarm goes
    off when it has been lower than its first logged value by more than `margin` in `window` consecutive logs. It goes
    off once, and again only after the value has recovered.

    Args:
        margin (`float`, *optional*, defaults to `1.0`):
            How far the value may fall, in nats: at 1.0 the key tokens have become 2.7 times less likely.
        window (`int`, *optional*, defaults to `5`):
            For how many consecutive logs it must stay there. With `logging_steps=10`, 5 logs are 50 steps.
        stop (`bool`, *optional*, defaults to `False`):
            Whether to end the run when the alarm goes off.

    Raises:
        ValueError: If `margin` is negative or `window` is below 1.

    Examples:

    ```python
    >>> from edit_trl import CollapseAlarmCallback

    >>> callback = CollapseAlarmCallback(margin=0.5, window=3, stop=True)  # EDITTrainer(..., callbacks=[callback])

    ```
    """

    metric = "edit/logps_key_chosen"

    def __init__(self, margin: float = 1.0, window: int = 5, stop: bool = False) -> None:
        if not margin >= 0:
            raise ValueError(
                f"`margin` must be positive or zero, got {margin}. It is how many nats the right chains' key tokens "
                f"may lose before the alarm goes off; pass `margin={-margin}`."
            )
        if window < 1:
            raise ValueError(
                f"`window` must be at least 1, got {window}. It is the number of consecutive logs that must agree; "
                "pass `window=1` to warn at the first."
            )
        self.margin = margin
        self.window = window
        self.stop = stop
        self._first: float | None = None
        self._recent: deque[float] = deque(maxlen=window)
        self._is_on = False

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        # A resumed run goes on comparing with its true beginning.
        values = [entry[self.metric] for entry in state.log_history if self.metric in entry]
        self._first = values[0] if values else None
        self._recent = deque(values, maxlen=self.window)
        self._is_on = False

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        if logs is None or self.metric not in logs:
            return
        value = logs[self.metric]
        if self._first is None:
            self._first = value
        self._recent.append(value)
        limit = self._first - self.margin
        has_collapsed = len(self._recent) == self.window and all(value < limit for value in self._recent)
        if has_collapsed and not self._is_on:
            outcome = "Stopping the run." if self.stop else "Pass `stop=True` to end the run here."
            logger.warning(
                f"Collapse alarm at step {state.global_step}: `{self.metric}` is {value:.3f} nats, down from "
                f"{self._first:.3f} at the start, and has been below {limit:.3f} for {self.window} logs. The student "
                "unlearns the right chains' key tokens. Lower `learning_rate` or `rejected_key_weight`, anchor the "
                'right chain with `chosen_other_weight` (0.1 to 1), or bound the push with `rejected_loss="unlikelihood"'
                f"`. {outcome}"
            )
        self._is_on = has_collapsed
        if has_collapsed and self.stop:
            control.should_training_stop = True
