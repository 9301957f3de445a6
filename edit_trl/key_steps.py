"""
Key-step accuracy: how often a student prefers the right token at the first point where the chains of a pair differ.

It is measured on held-back pairs. Only the first difference is scored: after it, the two chains have different
contexts, and probabilities in different contexts do not tell which token a student would choose.

It is also measured during training, and training does not import `evaluation`, so this file is not in that folder.
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
from .pair_checks import is_completion
from .scoring import eval_mode, score_tokens


# Why a pair has no key step that can be scored.
LEFT_OUT = {
    "too_long": "the chains differ only beyond `max_length`",
    "ended": "one chain is the start of the other",
    "no_context": "there is no token before the first difference",
    "completion": "the row has no rejected chain",
}


@dataclass(frozen=True)
class KeyStepScores:
    """
    How a student ranks the right and the wrong token at the first difference of each pair.

    Args:
        margins (`list[float | None]`):
            For each pair, log p(right token) - log p(wrong token), in nats. It is above zero if the student prefers
            the right token, and `None` for a pair that was left out. Pairs that preparation drops are not in the list.
        left_out (`dict[str, int]`):
            Number of pairs left out, by reason: `"too_long"` (the chains differ only beyond `max_length`), `"ended"`
            (one chain is the start of the other and has no end-of-sequence token), `"no_context"` (there is no prompt,
            and the chains differ at their first token), `"completion"` (the row has no rejected chain). Reasons that
            did not occur are not in the dictionary.

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
        """Number of pairs in which the student prefers the right token. Use it with `num_pairs` for an interval."""
        return sum(margin > 0 for margin in self._known)

    @property
    def num_ties(self) -> int:
        """Number of pairs in which both tokens have the same log-probability. This happens in bf16."""
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
    Score how often a student prefers the right chain's token at the first point where the chains of a pair differ.

    The context is the prompt and all tokens that the chains share from their start. The student's probabilities of the
    next token of the right chain and of the next token of the wrong chain are compared in this context; other tokens
    do not matter. It makes no difference whether an edit script replaces, inserts or deletes here: each chain has a
    next token, which may be the end-of-sequence token. If a tokenizer splits " 42" and " 43" into " 4" + "2" and
    " 4" + "3", the second digits are compared.

    Later differences are not scored, because the chains have different contexts after the first one. The trainer logs
    two other metrics. `edit/key_token_accuracy` counts how often a key token of the right chain is the student's most
    likely token, for all key tokens, each in the context of its own chain. `edit/key_margin` compares key tokens of
    both chains, also each in the context of its own chain.

    Needs one forward pass over the context of each pair, without generation. The calling process scores all pairs;
    [`KeyStepAccuracyCallback`] divides them among the processes.

    Args:
        model ([`~transformers.PreTrainedModel`] or [`~peft.PeftModel`]):
            Causal language model. It runs on its device without gradients and dropout. Afterwards it is in the same
            mode as before.
        dataset ([`~datasets.Dataset`] or [`~datasets.IterableDataset`]):
            Held-back preference dataset with `prompt`, `chosen` and `rejected`, as text or messages; or tokenized,
            with `prompt_ids`, `chosen_ids` and `rejected_ids`. [`~data_utils.prepare_dual_cots`] drops pairs with
            missing or equal chains, with a warning; they are not scored.
        processing_class ([`~transformers.PreTrainedTokenizerBase`] or [`~transformers.ProcessorMixin`], *optional*):
            Tokenizer of the model. Not needed for tokenized data.
        max_length (`int`, *optional*):
            Maximum length in tokens, counted from the start of the prompt. Pairs whose first difference is beyond it
            are left out, because training with `truncation_mode="keep_start"` does not see this difference. The
            context is never truncated. Defaults to the number of positions of the model.
        batch_size (`int`, *optional*, defaults to `8`):
            Number of contexts per forward pass.

    Returns:
        [`KeyStepScores`]: The margin of each pair, in the order of the dataset, with the accuracy and the counts.

    Raises:
        TypeError: If `dataset` is no dataset.
        ValueError: If columns are missing, there is no pair to score, the dataset has text and `processing_class` is
            `None`, a token ID is not in the model's vocabulary, or `batch_size` is below 1.
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
    The first point where the chains of a pair differ.

    Args:
        context (`list[int]`):
            Token IDs of the prompt and of the common start of both chains.
        chosen (`int`):
            Next token of the right chain.
        rejected (`int`):
            Next token of the wrong chain.
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
            For each pair its key step, or a key of `LEFT_OUT`: the reason why it has no key step that can be scored.
    """

    by_pair: list[KeyStep | str]

    @property
    def scored(self) -> list[KeyStep]:
        """`list[KeyStep]`: The key steps that can be scored."""
        return [step for step in self.by_pair if isinstance(step, KeyStep)]

    @property
    def left_out(self) -> dict[str, int]:
        """`dict[str, int]`: Number of pairs without a key step, by reason."""
        counts = Counter(step for step in self.by_pair if isinstance(step, str))
        return {reason: counts[reason] for reason in LEFT_OUT if reason in counts}

    @property
    def left_out_text(self) -> str:
        """`str`: The numbers of `left_out` and their reasons in words."""
        return "; ".join(f"{number} where {LEFT_OUT[reason]}" for reason, number in self.left_out.items())

    def with_margins(self, margins: torch.Tensor, step: int | None = None) -> KeyStepScores:
        """
        Make the scores of the pairs from the margins of their key steps.

        Args:
            margins (`torch.Tensor` of shape `(num_scored,)`):
                Margins of the key steps `scored`, see [`score_key_steps`].
            step (`int`, *optional*):
                Training step, for the error message.

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
                "student's weights have diverged, or it computes in fp16 beyond its range; look at its loss, or use "
                "bf16 or fp32."
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
        TypeError, ValueError: As for [`key_step_accuracy`].
    """
    PartialState()  # the logger needs it to find the main process
    name = "held-back"
    if not isinstance(dataset, (Dataset, IterableDataset)):
        raise TypeError(
            f"`dataset` must be a `datasets.Dataset` or `IterableDataset` of held-back pairs, got "
            f"`{type(dataset).__name__}`. Of several datasets, pass one."
        )
    if isinstance(dataset, Dataset) and dataset.format["type"] == "custom":
        dataset = Dataset.from_list(list(dataset))  # what its transform makes
    if processing_class is None and not is_tokenized(get_column_names(dataset, name), name):
        raise ValueError(
            "`processing_class` must be the tokenizer of the model, got `None`. The dataset holds text; pass the "
            "tokenizer, or a dataset with `prompt_ids`, `chosen_ids` and `rejected_ids`."
        )
    tokenizer = getattr(processing_class, "tokenizer", processing_class)
    # Without `max_length`: pairs that it would drop are counted here as `"too_long"`.
    prepared = prepare_dual_cots(
        dataset, processing_class, eos_token=getattr(tokenizer, "eos_token", None), dataset_name=name
    )
    config = model.config.get_text_config()
    if max_length is None:
        max_length = getattr(config, "max_position_embeddings", None)
    columns = [*ID_COLUMNS, *({"completion_ids"} & set(get_column_names(prepared, name)))]
    key_steps = KeySteps([_key_step(example, max_length) for example in prepared.select_columns(columns)])
    if not key_steps.scored:
        raise ValueError(
            f"The {name} dataset must have at least one pair whose first difference can be scored, got none: "
            f"{key_steps.left_out_text or 'it is empty'}. Look at its first rows, and at `max_length` ({max_length})."
        )
    largest = max(max(*step.context, step.chosen, step.rejected) for step in key_steps.scored)
    if largest >= config.vocab_size:
        raise ValueError(
            f"The tokens of the {name} dataset must be in the model's vocabulary, got token {largest}, and the model "
            f"has {config.vocab_size} tokens. Pass the tokenizer of the model, or data that it tokenized."
        )
    return key_steps


def score_key_steps(model: Any, key_steps: Sequence[KeyStep], batch_size: int) -> torch.Tensor:
    """
    Compute the margin of each key step: by how much a model prefers the right token.

    Args:
        model ([`~transformers.PreTrainedModel`] or [`~peft.PeftModel`]):
            Causal language model. Its mode (training or evaluation) is not changed.
        key_steps (`Sequence[KeyStep]`):
            The key steps.
        batch_size (`int`):
            Number of contexts per forward pass.

    Returns:
        `torch.Tensor` of shape `(num_key_steps,)`: log p(right token) - log p(wrong token), in nats, in fp32 on the
        CPU.
    """
    contexts = [step.context for step in key_steps]
    targets = [[(len(step.context) - 1, token) for token in (step.chosen, step.rejected)] for step in key_steps]
    # In the same context, the difference of two logits is the difference of the log-probabilities.
    logits = torch.stack([scores.logits for scores in score_tokens(model, contexts, targets, batch_size)])
    return logits[:, 0] - logits[:, 1]


def _key_step(example: dict[str, Any], max_length: int | None) -> KeyStep | str:
    if is_completion(example):
        return "completion"
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
