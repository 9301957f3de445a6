"""
What watches a run: an alarm for when pushing mistakes away drags the right chains along, and key-step accuracy.

Lowering the likelihood of tokens that resemble the right ones can lower theirs too (likelihood displacement,
https://huggingface.co/papers/2410.08847). The trainer logs the mean log-probability of the right chains' key tokens;
the alarm compares it with where it began.

Key-step accuracy asks, on held-back pairs, whether the student prefers the right chain's token to the wrong chain's at
the point where they part. The function that measures it stands here and not in `evaluation`, which builds on what
training loads, not the other way round. It looks at the first point alone: behind it each chain has a context of its
own, and two probabilities under different contexts do not say which token a student would choose.
"""

import inspect
import math
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from accelerate import PartialState
from accelerate.logging import get_logger
from accelerate.utils import is_peft_model
from datasets import Dataset, IterableDataset
from transformers import (
    PreTrainedTokenizerBase,
    ProcessorMixin,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from trl.data_utils import common_prefix_length
from trl.trainer.utils import global_then_local_main_first, pad

from .data_utils import ID_COLUMNS, get_column_names, is_tokenized, prepare_dual_cots


logger = get_logger(__name__)

# Why a pair has no key step that can be scored.
_LEFT_OUT = {
    "too_long": "the chains part beyond `max_length`",
    "ended": "one chain ends where they part",
    "no_context": "nothing comes before the point where the chains part",
}


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


@dataclass(frozen=True)
class KeyStepScores:
    """
    How a student ranks the two tokens at the point where the chains of each pair part.

    Args:
        margins (`list[float | None]`):
            For each pair, log p(right token) - log p(wrong token), in nats: above zero where the student prefers the
            right one. `None` for a pair that was left out. Pairs that preparation drops are not in the list.
        left_out (`dict[str, int]`):
            Number of pairs left out by reason: `"too_long"` (the chains part beyond `max_length`), `"ended"` (one chain
            ends where they part, without an end-of-sequence token), `"no_context"` (no prompt, and the chains part at
            their first token). Reasons that did not occur are not in it.

    Examples:

    ```python
    >>> scores = KeyStepScores(margins=[2.0, -1.0, 0.0, None], left_out={"too_long": 1})
    >>> scores.num_right, scores.num_ties, scores.num_pairs, scores.accuracy
    (1, 1, 3, 0.5)

    ```
    """

    margins: list[float | None]
    left_out: dict[str, int]

    @property
    def num_pairs(self) -> int:
        """Number of pairs that were scored."""
        return len(self._known)

    @property
    def num_right(self) -> int:
        """Number of pairs in which the student prefers the right token. With `num_pairs`, enough for an interval."""
        return sum(margin > 0 for margin in self._known)

    @property
    def num_ties(self) -> int:
        """Number of pairs in which both tokens have the same log-probability. In bf16, some do."""
        return sum(margin == 0 for margin in self._known)

    @property
    def accuracy(self) -> float:
        """Share of the scored pairs in which the student prefers the right token. A tie counts one half."""
        return (self.num_right + self.num_ties / 2) / self.num_pairs

    @property
    def mean_margin(self) -> float:
        """Mean margin of the scored pairs, in nats: the logarithm of how many times more likely the right token is."""
        return sum(self._known) / self.num_pairs

    @property
    def _known(self) -> list[float]:
        return [margin for margin in self.margins if margin is not None]


def key_step_accuracy(
    model: Any,
    dataset: Dataset | IterableDataset,
    processing_class: PreTrainedTokenizerBase | ProcessorMixin | None = None,
    max_length: int | None = None,
    batch_size: int = 8,
) -> KeyStepScores:
    """
    How often a student ranks the right chain's token above the wrong one's at the first point where they part.

    Both tokens are compared under one context, the prompt and all tokens that the chains share from their start. There
    the student prefers one or the other, whatever its first choice in the whole vocabulary is. It makes no difference
    whether an edit script replaces, inserts or deletes at this point: both chains have a next token, which may be the
    end-of-sequence token. What counts is the first token of what differs, so a tokenizer that splits " 42" and " 43"
    into " 4" + "2" and " 4" + "3" asks at the second digit.

    Later differences are not scored, not even single replaced tokens: behind the first one the chains have different
    contexts. The trainer's `edit/key_token_accuracy` is another measure: it takes all key tokens of the right chain, each
    behind its own chain, and asks whether it is the first choice of the student. `edit/key_margin` likewise compares
    tokens behind different chains.

    Needs one forward pass over the context of each pair, without generation. All pairs are scored by the process that
    calls; [`KeyStepAccuracyCallback`] shares them out.

    Args:
        model ([`~transformers.PreTrainedModel`] or [`~peft.PeftModel`]):
            Causal language model. It runs on its device without gradients and dropout, and is left in the mode that it
            was in.
        dataset ([`~datasets.Dataset`] or [`~datasets.IterableDataset`]):
            Held-back preference dataset with `prompt`, `chosen` and `rejected`, as text or messages; or tokenized, with
            `prompt_ids`, `chosen_ids` and `rejected_ids`. Pairs that [`~data_utils.prepare_dual_cots`] drops (missing or
            equal chains) are not scored, with a warning.
        processing_class ([`~transformers.PreTrainedTokenizerBase`] or [`~transformers.ProcessorMixin`], *optional*):
            Tokenizer of the model. Not needed for tokenized data.
        max_length (`int`, *optional*):
            Pairs whose chains part at a later token than this, counted from the start of the prompt, are left out: of
            what training with `truncation_mode="keep_start"` cuts away. The context is never cut. Defaults to the
            positions that the model has.
        batch_size (`int`, *optional*, defaults to `8`):
            Contexts per forward pass. A model whose forward takes no `logits_to_keep` computes the logits of all tokens;
            lower it there.

    Returns:
        [`KeyStepScores`]: The margin of each pair, in the order of the dataset, with the share and the counts.

    Raises:
        ValueError: If columns are missing, there is no pair to score, text comes without `processing_class`, tokens are
            not the model's, or `batch_size` is below 1.
        FloatingPointError: If a margin is not finite.

    Examples:

    ```python
    >>> from transformers import LlamaConfig, LlamaForCausalLM
    >>> options = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    >>> model = LlamaForCausalLM(LlamaConfig(vocab_size=10, **options))
    >>> _ = torch.nn.init.zeros_(model.lm_head.weight)  # to this student, all tokens are equally likely

    >>> dataset = Dataset.from_list([{"prompt_ids": [1, 2], "chosen_ids": [3, 4, 9], "rejected_ids": [3, 5, 9]}])
    >>> scores = key_step_accuracy(model, dataset)
    >>> scores.accuracy, scores.mean_margin, scores.num_pairs
    (0.5, 0.0, 1)

    ```
    """
    if batch_size < 1:
        raise ValueError(
            f"`batch_size` must be at least 1, got {batch_size}. It is the number of contexts per forward pass."
        )
    key_steps = _read_key_steps(model, dataset, processing_class, max_length)
    with _eval_mode(model):
        margins = _margins(model, [step for step in key_steps if isinstance(step, _KeyStep)], batch_size)
    return _scores(key_steps, margins)


class KeyStepAccuracyCallback(TrainerCallback):
    """
    Log how often the student prefers the right chain's token where the chains of held-back pairs part.

    Measures with [`key_step_accuracy`] at the beginning and the end of training and at each evaluation, and logs
    through the trainer, so that every tracker gets it:

    - `eval_key_step_accuracy`: share of the pairs in which the right token is more likely than the wrong one, with a tie
      as one half.
    - `eval_key_step_margin`: mean of log p(right token) - log p(wrong token), in nats.

    Both are also among the metrics of `trainer.evaluate()`, for `metric_for_best_model="key_step_accuracy"`. Not to be
    confused with `eval_edit/key_token_accuracy`, which asks for the student's first choice at all key tokens of the right
    chain.

    Training goes on as it would have without: the student is run in evaluation mode and put back, no random number is
    drawn and no gradient touched. Each process scores its share of the pairs. Works with every trainer of a causal
    language model, such as [`~trl.SFTTrainer`] for the first stage, and with adapters; FSDP, DeepSpeed and tensor
    parallelism are untested.

    Args:
        trainer ([`~transformers.Trainer`]):
            Trainer to which the callback will be attached. Its tokenizer, `max_length` and `per_device_eval_batch_size`
            are used.
        dataset ([`~datasets.Dataset`] or [`~datasets.IterableDataset`], *optional*):
            Held-back pairs, in any shape that [`EDITTrainer`] takes. Defaults to the trainer's evaluation dataset. A
            hundred pairs give the share to within about ten points. A lazy dataset is read to its end, once.
        freq (`int`, *optional*):
            Optimizer steps after which it is measured too, for runs that are not evaluated.

    Attributes:
        scores ([`KeyStepScores`] or `None`):
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
                f"`freq` must be at least 1, got {freq}. It is the number of optimizer steps from one measurement to the "
                "next; leave it out to measure at evaluations alone."
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
            self._key_steps = _read_key_steps(trainer.model, dataset, trainer.processing_class, max_length)
        left_out = _count_left_out(self._key_steps)
        if left_out:
            reasons = "; ".join(f"{count} where {_LEFT_OUT[reason]}" for reason, count in left_out.items())
            logger.warning(
                f"Key-step accuracy leaves out {sum(left_out.values())} of {len(self._key_steps)} held-back pairs: "
                f"{reasons}."
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
            with _eval_mode(self.trainer.model):
                self.scores = _scores(self._key_steps, self._gathered_margins(args), step=state.global_step)
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
        key_steps = [step for step in self._key_steps if isinstance(step, _KeyStep)]
        # Tensor-parallel ranks have to run the same batches.
        num_shares = accelerator.num_processes if self.trainer.get_tp_size() == 1 else 1
        num_each = math.ceil(len(key_steps) / num_shares)
        first = accelerator.process_index if num_shares > 1 else 0
        # Some are scored twice, so that all processes run as many batches: a sharded model needs all of them at each.
        share = [key_steps[i % len(key_steps)] for i in range(first, num_each * num_shares, num_shares)]
        # Under mixed precision, accelerate has put autocast into the forward of the model.
        margins = _margins(self.trainer.model, share, args.per_device_eval_batch_size)
        if num_shares > 1:
            margins = accelerator.gather(margins.to(accelerator.device)).cpu()
        return margins.view(num_shares, num_each).T.flatten()[: len(key_steps)]


class _KeyStep(NamedTuple):
    """What comes before the point where two chains part, and how each of them goes on."""

    context: list[int]
    right: int
    wrong: int


def _read_key_steps(
    model: Any,
    dataset: Dataset | IterableDataset,
    processing_class: PreTrainedTokenizerBase | ProcessorMixin | None,
    max_length: int | None,
) -> list[_KeyStep | str]:
    """The key step of each pair, or the reason why there is none to score."""
    PartialState()  # the logger asks it for the main process
    name = "held-back"
    if processing_class is None and not is_tokenized(get_column_names(dataset, name), name):
        raise ValueError(
            "`processing_class` must be the tokenizer of the model, got `None`. The dataset holds text; pass the "
            "tokenizer, or a dataset with `prompt_ids`, `chosen_ids` and `rejected_ids`."
        )
    tokenizer = getattr(processing_class, "tokenizer", processing_class)
    # Without `max_length`: what it cuts away is counted here.
    prepared = prepare_dual_cots(
        dataset, processing_class, eos_token=getattr(tokenizer, "eos_token", None), dataset_name=name
    )
    config = model.config.get_text_config()
    if max_length is None:
        max_length = getattr(config, "max_position_embeddings", None)
    key_steps = [_key_step(example, max_length) for example in prepared.select_columns(list(ID_COLUMNS))]
    if not any(isinstance(step, _KeyStep) for step in key_steps):
        reasons = "; ".join(f"{num} where {_LEFT_OUT[reason]}" for reason, num in _count_left_out(key_steps).items())
        raise ValueError(
            f"The {name} dataset must have at least one pair whose chains part where a model can be asked, got none: "
            f"{reasons or 'it is empty'}. Look at its first rows, and at `max_length` ({max_length})."
        )
    largest = max(max(*step.context, step.right, step.wrong) for step in key_steps if isinstance(step, _KeyStep))
    if largest >= config.vocab_size:
        raise ValueError(
            f"The tokens of the {name} dataset must be the model's, got token {largest}, and the model has "
            f"{config.vocab_size}. Pass the tokenizer of the model, or data that it tokenized."
        )
    return key_steps


def _key_step(example: dict[str, Any], max_length: int | None) -> _KeyStep | str:
    prompt, chosen, rejected = (list(example[column]) for column in ID_COLUMNS)
    num_shared = common_prefix_length(chosen, rejected)
    context = prompt + chosen[:num_shared]
    if num_shared == min(len(chosen), len(rejected)):
        return "ended"
    if not context:
        return "no_context"
    if max_length is not None and len(context) >= max_length:
        return "too_long"
    return _KeyStep(context, chosen[num_shared], rejected[num_shared])


def _count_left_out(key_steps: Sequence[_KeyStep | str]) -> dict[str, int]:
    counts = Counter(step for step in key_steps if isinstance(step, str))
    return {reason: counts[reason] for reason in _LEFT_OUT if reason in counts}


def _scores(key_steps: Sequence[_KeyStep | str], margins: torch.Tensor, step: int | None = None) -> KeyStepScores:
    """`margins`, of shape (num_scored,), are those of the key steps that can be scored."""
    num_bad = int((~margins.isfinite()).sum())
    if num_bad:
        where = "" if step is None else f" at step {step}"
        raise FloatingPointError(
            f"Margins of key steps must be finite, got {num_bad} of {len(margins)} that are not{where}. The student is "
            "lost or computes in fp16 beyond its range; look at its loss, or use bf16 or fp32."
        )
    values = iter(margins.tolist())
    return KeyStepScores(
        margins=[next(values) if isinstance(key_step, _KeyStep) else None for key_step in key_steps],
        left_out=_count_left_out(key_steps),
    )


@contextmanager
def _eval_mode(model: torch.nn.Module) -> Iterator[None]:
    """Evaluation mode. Afterwards each module is back in its own: frozen parts may have been in it before."""
    training_modules = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training_modules:
            module.training = True


def _margins(model: Any, key_steps: Sequence[_KeyStep], batch_size: int) -> torch.Tensor:
    """
    Margin of each key step, of shape (num_key_steps,), in fp32 on the CPU.

    Padding is on the right, where no causal model looks, and needs no positions of its own. Log-probabilities of one
    distribution differ as its logits do, so none is normalised.
    """
    base_model = model.get_base_model() if is_peft_model(model) else model
    keeps_logits = "logits_to_keep" in inspect.signature(base_model.forward).parameters
    margins = torch.zeros(len(key_steps))
    # The longest first: where memory is short, it shows at once.
    order = sorted(range(len(key_steps)), key=lambda i: -len(key_steps[i].context))
    for start in range(0, len(order), batch_size):
        places = order[start : start + batch_size]
        batch = [key_steps[i] for i in places]
        contexts = [torch.tensor(step.context) for step in batch]
        columns = torch.tensor([len(context) - 1 for context in contexts])
        options: dict[str, Any] = {"use_cache": False}  # a cache warns under gradient checkpointing
        if keeps_logits:
            # Positions that any row needs, on the CPU: the head may be on another device than the embeddings.
            options["logits_to_keep"], columns = columns.unique(return_inverse=True)
        with torch.no_grad():
            logits = model(
                input_ids=pad(contexts, padding_value=0, padding_side="right").to(model.device),
                attention_mask=pad([torch.ones_like(c) for c in contexts], 0, padding_side="right").to(model.device),
                **options,
            ).logits
        tokens = torch.tensor([(step.right, step.wrong) for step in batch])
        rows = torch.arange(len(batch))
        scored = logits[rows[:, None], columns[:, None], tokens].float()
        margins[places] = (scored[:, 0] - scored[:, 1]).cpu()
    return margins
