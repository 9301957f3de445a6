"""
Callbacks of a training run: an alarm when the right chains become less likely, key-step accuracy, and a checkpoint
when the run is told to end.

If a wrong token resembles a right token, making the wrong one less likely can also make the right one less likely
(likelihood displacement, https://huggingface.co/papers/2410.08847). The trainer logs the mean log-probability of the
right chains' key tokens; the alarm compares it with its first logged value. `key_steps.py` measures key-step accuracy.
"""

import math
import signal
import threading
from collections import deque
from typing import Any

import torch
from accelerate import PartialState
from accelerate.logging import get_logger
from accelerate.utils import gather
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

    Watches `edit/logps_key_chosen`, the mean log-probability of the right chains' key tokens, in nats. The callback
    warns when this value is lower than its first logged value by more than `margin` in `window` consecutive logs. It
    warns once, and again only after the value has recovered.

    Args:
        margin (`float`, *optional*, defaults to `1.0`):
            How far the value may fall, in nats. After a fall of 1.0 the key tokens are 2.7 times less likely.
        window (`int`, *optional*, defaults to `5`):
            Number of consecutive logs that must be below the limit. With `logging_steps=10`, 5 logs are 50 steps.
        stop (`bool`, *optional*, defaults to `False`):
            Whether to end training at the warning.

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
        # A resumed run compares with the first value of the original run.
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
                "unlearns the right chains' key tokens. Lower `learning_rate` or `rejected_key_weight`, train the "
                "other tokens of the right chain too with `chosen_other_weight` (0.1 to 1), or use the bounded "
                f'`rejected_loss="unlikelihood"`. {outcome}'
            )
        self._is_on = has_collapsed
        if has_collapsed and self.stop:
            control.should_training_stop = True


class KeyStepAccuracyCallback(TrainerCallback):
    """
    Log how often the student prefers the right chain's token at the first point where the chains of a pair differ.

    Scores held-back pairs as [`~key_steps.key_step_accuracy`] does, at the beginning and the end of training and at
    each evaluation. Logs two values through the trainer, so that every tracker gets them:

    - `eval_key_step_accuracy`: share of the pairs in which the right token is more likely than the wrong token. A tie
      counts as one half.
    - `eval_key_step_margin`: mean of log p(right token) - log p(wrong token), in nats.

    Both values are also in the metrics of `trainer.evaluate()`, so `metric_for_best_model="key_step_accuracy"` works.
    `eval_edit/key_token_accuracy` is a different metric: it counts how often a key token of the right chain is the
    student's most likely token.

    The callback does not change training: the student is run in evaluation mode and then returned to its mode, no
    random number is drawn and no gradient is changed. Each process scores its share of the pairs. Works with every
    trainer of a causal language model, such as [`~trl.SFTTrainer`] for the first stage, and with adapters. FSDP,
    DeepSpeed and tensor parallelism are untested.

    Args:
        trainer ([`~transformers.Trainer`]):
            Trainer to which the callback will be attached. Its tokenizer, `max_length` (with
            `truncation_mode="keep_start"`) and `per_device_eval_batch_size` are used.
        dataset ([`~datasets.Dataset`] or [`~datasets.IterableDataset`], *optional*):
            Held-back pairs, in any shape that [`EDITTrainer`] takes. Defaults to the trainer's evaluation dataset.
            With a hundred pairs the accuracy is known to within about ten percentage points. An `IterableDataset` is
            read once, to its end.
        freq (`int`, *optional*):
            Number of optimizer steps between measurements during training, for runs without evaluation. By default
            the callback measures only at the beginning, at evaluations and at the end.

    Attributes:
        scores ([`~key_steps.KeyStepScores`] or `None`):
            The newest scores: counts for a confidence interval, the margin of each pair, and the number of pairs that
            were left out, by reason.

    Raises:
        TypeError: If `dataset` is no dataset.
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
                "the next; leave it out to measure at evaluations only."
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
            if getattr(trainer.args, "truncation_mode", "keep_start") == "keep_end":
                max_length = None  # training sees the end of a row, whatever its length
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
        # First, so that the callbacks after it find its metrics: early stopping, for example. A new list, because the
        # old one is being called.
        handler = self.trainer.callback_handler
        handler.callbacks = [self, *(callback for callback in handler.callbacks if callback is not self)]
        if state.global_step == 0:  # the log of a resumed run already has this measurement
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
        if args.load_best_model_at_end:
            self._measured_step = None  # the student is now that of an earlier step
        self._measure(args, state, control)
        self._is_in_train = False

    def _measure(self, args: TrainingArguments, state: TrainerState, control: TrainerControl) -> dict[str, float]:
        """Measure and log, at most once per training step, and return the metrics by name."""
        # Outside training the student may change while the step number stays the same, so it is always measured.
        if self.scores is None or not self._is_in_train or self._measured_step != state.global_step:
            # In evaluation mode, TRL's `log` does not use up the values that it gathers for the next training log.
            with eval_mode(self.trainer.model):
                self.scores = self._key_steps.with_margins(self._gathered_margins(args), step=state.global_step)
                logs = self._metrics(self.scores)
                # `log` resets `should_log`. A training log may be due at this step, so the value is restored.
                should_log = control.should_log
                self.trainer.log(logs)
                control.should_log = should_log
            self._measured_step = state.global_step
        return self._metrics(self.scores)

    @staticmethod
    def _metrics(scores: KeyStepScores) -> dict[str, float]:
        return {"eval_key_step_accuracy": scores.accuracy, "eval_key_step_margin": scores.mean_margin}

    def _gathered_margins(self, args: TrainingArguments) -> torch.Tensor:
        """Score a share of the key steps on each process and return the margins of all key steps."""
        accelerator = self.trainer.accelerator
        key_steps = self._key_steps.scored
        # All ranks of tensor parallelism must run the same batches.
        num_shares = accelerator.num_processes if self.trainer.get_tp_size() == 1 else 1
        num_each = math.ceil(len(key_steps) / num_shares)
        first = accelerator.process_index if num_shares > 1 else 0
        # A sharded model needs all processes in each forward pass, so all must run the same number of batches. Some
        # key steps are scored twice to fill the last shares.
        share = [key_steps[i % len(key_steps)] for i in range(first, num_each * num_shares, num_shares)]
        # With mixed precision, accelerate has already wrapped the model's forward in autocast.
        margins = score_key_steps(self.trainer.model, share, args.per_device_eval_batch_size)
        if num_shares > 1:
            margins = accelerator.gather(margins.to(accelerator.device)).cpu()
        return margins.view(num_shares, num_each).T.flatten()[: len(key_steps)]


class Interrupted(SystemExit):
    """
    A run was told to end and has saved a checkpoint. If nobody catches it, the process ends with code 143.

    This is the code of a process that SIGTERM ended (128 + 15), so schedulers do not count the run as finished.
    """

    def __init__(self) -> None:
        super().__init__(128 + signal.SIGTERM)


class InterruptCallback(TrainerCallback):
    """
    Save a checkpoint and end the process when it gets SIGTERM, as schedulers send it before they kill a job.

    The run ends after the optimizer step that it is in. All processes agree on this step, so it is enough if one of
    them gets the signal. Then [`~edit_trl.callbacks.Interrupted`] leaves `train()`: the process ends with code 143 and
    no line after `train()` is reached. Evaluation that is due at this step is left out. Training continues with
    `train(resume_from_checkpoint=True)`. For any [`~transformers.Trainer`].

    transformers has `enable_jit_checkpoint` for this. It saves in the middle of a step (so dropout differs when the
    run continues) and each process decides alone when to end (so several processes may fail without a checkpoint).
    `EDITConfig` refuses it.

    Raises:
        Interrupted: While training, when the checkpoint is saved.

    Examples:

    ```python
    >>> from edit_trl import InterruptCallback

    >>> callback = InterruptCallback()  # EDITTrainer(..., callbacks=[callback])

    ```
    """

    def __init__(self) -> None:
        self._is_told = False
        self._ends = False
        self._previous: Any = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._is_told = self._ends = False
        if threading.current_thread() is not threading.main_thread():
            logger.warning(
                "`InterruptCallback` has no effect here: Python takes signals in the main thread only, and `train()` "
                "runs in another one."
            )
        elif self._previous is None:
            self._previous = signal.signal(signal.SIGTERM, self._note)
        if args.save_only_model:
            logger.warning(
                "`save_only_model=True`: a checkpoint that is saved when this run is told to end has no state of the "
                "optimizer, so the run cannot continue as if undisturbed. Set `save_only_model=False` for that."
            )

    def _note(self, *args: Any) -> None:
        self._is_told = True

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self._previous is None:
            return  # an evaluation outside training
        self._ends = self._is_told
        if args.world_size > 1:
            self._ends = bool(gather(torch.tensor([int(self._is_told)], device=args.device)).any())
        if self._ends:
            control.should_save = True
            control.should_evaluate = False

    # The signal may come after the last step, and a checkpoint is saved after these too.
    on_evaluate = on_epoch_end = on_step_end

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if self._ends:
            logger.warning(
                f"This run was told to end: a checkpoint of step {state.global_step} of {state.max_steps} is saved in "
                f"{args.output_dir}. Continue with `resume_from_checkpoint`."
            )
            # A launcher ends all processes when the first has ended, and others may still be writing.
            PartialState().wait_for_everyone()
            self.restore_signal()
            raise Interrupted

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.restore_signal()

    def restore_signal(self) -> None:
        """Let SIGTERM do again what it did before training. `EDITTrainer.train()` calls it even after an error."""
        if self._previous is not None:
            signal.signal(signal.SIGTERM, self._previous)
            self._previous = None
