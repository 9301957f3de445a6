"""
Key-step accuracy: does the student prefer the right chain's token to the wrong chain's where the two part?

Measured on held-back pairs, at the first point where the chains of a pair part. Behind it each chain has a context of
its own, and two probabilities under different contexts do not say which token a student would choose.

This is measured during training too, so it stands beside the callbacks and not in `evaluation`, which training does
not import.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from accelerate import PartialState
from datasets import Dataset, IterableDataset
from transformers import PreTrainedTokenizerBase, ProcessorMixin
from trl.data_utils import common_prefix_length

from .data_utils import ID_COLUMNS, get_column_names, is_tokenized, prepare_dual_cots
from .scoring import eval_mode, score_tokens


# Why a pair has no key step that can be scored.
LEFT_OUT = {
    "too_long": "the chains part beyond `max_length`",
    "ended": "one chain ends where they part",
    "no_context": "nothing comes before the point where the chains part",
}


@dataclass(frozen=True)
class KeyStepScores:
    """
    How a student ranks the two tokens at the point where the chains of each pair part.

    Args:
        margins (`list[float | None]`):
            For each pair, log p(right token) - log p(wrong token), in nats: above zero where the student prefers the
            right one. `None` for a pair that was left out. Pairs that preparation drops are not in the list.
        left_out (`dict[str, int]`):
            Number of pairs left out by reason: `"too_long"` (the chains part beyond `max_length`), `"ended"` (one
            chain ends where they part, without an end-of-sequence token), `"no_context"` (no prompt, and the chains
            part at their first token). Reasons that did not occur are not in it.

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
    contexts. The trainer's `edit/key_token_accuracy` is another measure: it takes all key tokens of the right chain,
    each behind its own chain, and asks whether it is the first choice of the student. `edit/key_margin` likewise
    compares tokens behind different chains.

    Needs one forward pass over the context of each pair, without generation. All pairs are scored by the process that
    calls; [`KeyStepAccuracyCallback`] shares them out.

    Args:
        model ([`~transformers.PreTrainedModel`] or [`~peft.PeftModel`]):
            Causal language model. It runs on its device without gradients and dropout, and is left in the mode that it
            was in.
        dataset ([`~datasets.Dataset`] or [`~datasets.IterableDataset`]):
            Held-back preference dataset with `prompt`, `chosen` and `rejected`, as text or messages; or tokenized,
            with `prompt_ids`, `chosen_ids` and `rejected_ids`. Pairs that [`~data_utils.prepare_dual_cots`] drops
            (missing or equal chains) are not scored, with a warning.
        processing_class ([`~transformers.PreTrainedTokenizerBase`] or [`~transformers.ProcessorMixin`], *optional*):
            Tokenizer of the model. Not needed for tokenized data.
        max_length (`int`, *optional*):
            Pairs whose chains part at a later token than this, counted from the start of the prompt, are left out: of
            what training with `truncation_mode="keep_start"` cuts away. The context is never cut. Defaults to the
            positions that the model has.
        batch_size (`int`, *optional*, defaults to `8`):
            Contexts per forward pass.

    Returns:
        [`KeyStepScores`]: The margin of each pair, in the order of the dataset, with the share and the counts.

    Raises:
        ValueError: If columns are missing, there is no pair to score, text comes without `processing_class`, tokens
            are not the model's, or `batch_size` is below 1.
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
    key_steps = read_key_steps(model, dataset, processing_class, max_length)
    with eval_mode(model):
        margins = score_key_steps(model, key_steps.scored, batch_size)
    return key_steps.with_margins(margins)


class KeyStep(NamedTuple):
    """
    The point where the chains of a pair part.

    Args:
        context (`list[int]`):
            Token IDs of the prompt and of what both chains begin with.
        chosen (`int`):
            Token with which the right chain goes on.
        rejected (`int`):
            Token with which the wrong chain goes on.
    """

    context: list[int]
    chosen: int
    rejected: int


@dataclass(frozen=True)
class KeySteps:
    """
    The key steps of a dataset.

    Args:
        by_pair (`list[KeyStep | str]`):
            For each pair its key step, or the reason, a key of `LEFT_OUT`, why there is none to score.
    """

    by_pair: list[KeyStep | str]

    @property
    def scored(self) -> list[KeyStep]:
        """`list[KeyStep]`: Those that can be scored."""
        return [step for step in self.by_pair if isinstance(step, KeyStep)]

    @property
    def left_out(self) -> dict[str, int]:
        """`dict[str, int]`: Number of pairs without one, by reason."""
        counts = Counter(step for step in self.by_pair if isinstance(step, str))
        return {reason: counts[reason] for reason in LEFT_OUT if reason in counts}

    @property
    def left_out_text(self) -> str:
        """`str`: The same in words."""
        return "; ".join(f"{number} where {LEFT_OUT[reason]}" for reason, number in self.left_out.items())

    def with_margins(self, margins: torch.Tensor, step: int | None = None) -> KeyStepScores:
        """
        The scores of the pairs.

        Args:
            margins (`torch.Tensor` of shape `(num_scored,)`):
                Margins of `scored`, see [`score_key_steps`].
            step (`int`, *optional*):
                Step of the training, for the error.

        Returns:
            [`KeyStepScores`]: The scores.

        Raises:
            FloatingPointError: If a margin is not finite.
        """
        num_bad = int((~margins.isfinite()).sum())
        if num_bad:
            where = "" if step is None else f" at step {step}"
            raise FloatingPointError(
                f"Margins of key steps must be finite, got {num_bad} of {len(margins)} that are not{where}. The "
                "student is lost or computes in fp16 beyond its range; look at its loss, or use bf16 or fp32."
            )
        values = iter(margins.tolist())
        return KeyStepScores(
            margins=[next(values) if isinstance(step, KeyStep) else None for step in self.by_pair],
            left_out=self.left_out,
        )


def read_key_steps(
    model: Any,
    dataset: Dataset | IterableDataset,
    processing_class: PreTrainedTokenizerBase | ProcessorMixin | None,
    max_length: int | None,
) -> KeySteps:
    """
    Find the key step of each pair of a dataset.

    Args:
        model, dataset, processing_class, max_length:
            As for [`key_step_accuracy`].

    Returns:
        [`KeySteps`]: The key steps.

    Raises:
        ValueError: As for [`key_step_accuracy`].
    """
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
    key_steps = KeySteps([_key_step(example, max_length) for example in prepared.select_columns(list(ID_COLUMNS))])
    if not key_steps.scored:
        raise ValueError(
            f"The {name} dataset must have at least one pair whose chains part where a model can be asked, got none: "
            f"{key_steps.left_out_text or 'it is empty'}. Look at its first rows, and at `max_length` ({max_length})."
        )
    largest = max(max(*step.context, step.chosen, step.rejected) for step in key_steps.scored)
    if largest >= config.vocab_size:
        raise ValueError(
            f"The tokens of the {name} dataset must be the model's, got token {largest}, and the model has "
            f"{config.vocab_size}. Pass the tokenizer of the model, or data that it tokenized."
        )
    return key_steps


def score_key_steps(model: Any, key_steps: Sequence[KeyStep], batch_size: int) -> torch.Tensor:
    """
    By how much a model prefers the right token at each key step.

    Args:
        model ([`~transformers.PreTrainedModel`] or [`~peft.PeftModel`]):
            Causal language model, run in the mode that it is in.
        key_steps (`Sequence[KeyStep]`):
            The key steps.
        batch_size (`int`):
            Contexts per forward pass.

    Returns:
        `torch.Tensor` of shape `(num_key_steps,)`: log p(right token) - log p(wrong token), in nats, in fp32 on the
        CPU.
    """
    contexts = [step.context for step in key_steps]
    targets = [[(len(step.context) - 1, token) for token in (step.chosen, step.rejected)] for step in key_steps]
    # Log-probabilities of one distribution differ as its logits do.
    logits = torch.stack([scores.logits for scores in score_tokens(model, contexts, targets, batch_size)])
    return logits[:, 0] - logits[:, 1]


def _key_step(example: dict[str, Any], max_length: int | None) -> KeyStep | str:
    prompt, chosen, rejected = (list(example[column]) for column in ID_COLUMNS)
    num_shared = common_prefix_length(chosen, rejected)
    context = prompt + chosen[:num_shared]
    if num_shared == min(len(chosen), len(rejected)):
        return "ended"
    if not context:
        return "no_context"
    if max_length is not None and len(context) >= max_length:
        return "too_long"
    return KeyStep(context, chosen[num_shared], rejected[num_shared])
