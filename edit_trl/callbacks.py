"""
Callbacks that watch a run: an alarm for right chains that become less likely, and key-step accuracy while training.

Lowering the likelihood of tokens that resemble the right ones can lower theirs too (likelihood displacement,
https://huggingface.co/papers/2410.08847). The trainer logs the mean log-probability of the right chains' key tokens;
the alarm compares it with where it began. Key-step accuracy is measured by `key_steps.py`.
"""

import math
from collections import deque
from typing import Any

import torch
from accelerate.logging import get_logger
from datasets import Dataset, IterableDataset
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from trl.trainer.utils import global_then_local_main_first

from .deprecation import renamed
from .key_steps import KeyStepScores, read_key_steps, score_key_steps
from .scoring import eval_mode


logger = get_logger(__name__)

__getattr__ = renamed(__name__, {"key_step_accuracy": "edit_trl.key_steps.key_step_accuracy"})


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
                "right chain with `chosen_other_weight` (0.1 to 1), or bound the push with "
                '`rejected_loss="unlikelihood"'
                f"`. {outcome}"
            )
        self._is_on = has_collapsed
        if has_collapsed and self.stop:
            control.should_training_stop = True


class KeyStepAccuracyCallback(TrainerCallback):
    """
    Log how often the student prefers the right chain's token where the chains of held-back pairs part.

    Measures with [`~key_steps.key_step_accuracy`] at the beginning and the end of training and at each evaluation, and
    logs through the trainer, so that every tracker gets it:

    - `eval_key_step_accuracy`: share of the pairs in which the right token is more likely than the wrong one, with a
      tie as one half.
    - `eval_key_step_margin`: mean of log p(right token) - log p(wrong token), in nats.

    Both are also among the metrics of `trainer.evaluate()`, for `metric_for_best_model="key_step_accuracy"`. Not to be
    confused with `eval_edit/key_token_accuracy`, which asks for the student's first choice at all key tokens of the
    right chain.

    Training goes on as it would have without: the student is run in evaluation mode and put back, no random number is
    drawn and no gradient touched. Each process scores its share of the pairs. Works with every trainer of a causal
    language model, such as [`~trl.SFTTrainer`] for the first stage, and with adapters; FSDP, DeepSpeed and tensor
    parallelism are untested.

    Args:
        trainer ([`~transformers.Trainer`]):
            Trainer to which the callback will be attached. Its tokenizer, `max_length` and
            `per_device_eval_batch_size` are used.
        dataset ([`~datasets.Dataset`] or [`~datasets.IterableDataset`], *optional*):
            Held-back pairs, in any shape that [`EDITTrainer`] takes. Defaults to the trainer's evaluation dataset. A
            hundred pairs give the share to within about ten points. A lazy dataset is read to its end, once.
        freq (`int`, *optional*):
            Optimizer steps after which it is measured too, for runs that are not evaluated.

    Attributes:
        scores ([`~key_steps.KeyStepScores`] or `None`):
            The newest scores: counts for an interval, the margin of each pair, and which pairs were left out.

    Raises:
        ValueError: If there is no dataset or no pair to score, or `freq` is below 1.
        FloatingPointError: While training, if a margin is not finite.

    Examples:

    ```python
    >>> trainer = EDITTrainer(..., eval_dataset=held_back)  # doctest: +SKIP
    >>> trainer.add_callback(KeyStepAccuracyCallback(trainer, freq=50))  # doctest: +SKIP

    ```
    """

    def __init__(
        self, trainer: Trainer, dataset: Dataset | IterableDataset | None = None, freq: int | None = None
    ) -> None:
        if freq is not None and freq < 1:
            raise ValueError(
                f"`freq` must be at least 1, got {freq}. It is the number of optimizer steps from one measurement to "
                "the next; leave it out to measure at evaluations alone."
            )
        if dataset is None:
            dataset = trainer.eval_dataset
            if dataset is None or isinstance(dataset, dict):
                found = "none" if dataset is None else f"several: {', '.join(map(repr, dataset))}"
                raise ValueError(
                    f"`KeyStepAccuracyCallback` needs held-back pairs, and the trainer has {found}. Pass one dataset: "
                    "`KeyStepAccuracyCallback(trainer, dataset=...)`."
                )
        self.trainer = trainer
        self.freq = freq
        self.scores: KeyStepScores | None = None
        self._is_in_train = False
        self._measured_step: int | None = None
        with global_then_local_main_first():
            max_length = getattr(trainer.args, "max_length", None)
            self._key_steps = read_key_steps(trainer.model, dataset, trainer.processing_class, max_length)
        num_left_out = sum(self._key_steps.left_out.values())
        if num_left_out:
            logger.warning(
                f"Key-step accuracy leaves out {num_left_out} of {len(self._key_steps.by_pair)} held-back pairs: "
                f"{self._key_steps.left_out_text}."
            )

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._is_in_train, self._measured_step = True, None
        if state.global_step == 0:  # a resumed run has its beginning in the log
            self._measure(args, state, control)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self.freq is not None and state.global_step % self.freq == 0:
            self._measure(args, state, control)

    def on_evaluate(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        metrics: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        measured = self._measure(args, state, control)
        if metrics is not None:
            metrics.update(measured)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._measure(args, state, control)
        self._is_in_train = False

    def _measure(self, args: TrainingArguments, state: TrainerState, control: TrainerControl) -> dict[str, float]:
        """Measure and log, once per step of training; the metrics by name."""
        # Outside training, the number of steps does not tell whether the student has changed.
        if self.scores is None or not self._is_in_train or self._measured_step != state.global_step:
            # In evaluation mode, TRL's `log` leaves alone what it gathers for the next training log.
            with eval_mode(self.trainer.model):
                self.scores = self._key_steps.with_margins(self._gathered_margins(args), step=state.global_step)
                logs = self._metrics(self.scores)
                # Logging ticks off the training log that may be due at this step.
                should_log = control.should_log
                self.trainer.log(logs)
                control.should_log = should_log
            self._measured_step = state.global_step
        return self._metrics(self.scores)

    @staticmethod
    def _metrics(scores: KeyStepScores) -> dict[str, float]:
        return {"eval_key_step_accuracy": scores.accuracy, "eval_key_step_margin": scores.mean_margin}

    def _gathered_margins(self, args: TrainingArguments) -> torch.Tensor:
        """Margins of all key steps, of which each process scores its share."""
        accelerator = self.trainer.accelerator
        key_steps = self._key_steps.scored
        # Tensor-parallel ranks have to run the same batches.
        num_shares = accelerator.num_processes if self.trainer.get_tp_size() == 1 else 1
        num_each = math.ceil(len(key_steps) / num_shares)
        first = accelerator.process_index if num_shares > 1 else 0
        # Some are scored twice, so that all processes run as many batches: a sharded model needs all of them at each.
        share = [key_steps[i % len(key_steps)] for i in range(first, num_each * num_shares, num_shares)]
        # Under mixed precision, accelerate has put autocast into the forward of the model.
        margins = score_key_steps(self.trainer.model, share, args.per_device_eval_batch_size)
        if num_shares > 1:
            margins = accelerator.gather(margins.to(accelerator.device)).cpu()
        return margins.view(num_shares, num_each).T.flatten()[: len(key_steps)]
