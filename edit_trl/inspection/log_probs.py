"""
Log-probabilities of the tokens of both chains of a pair, under a model.
"""

import inspect
import itertools
import math
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from .pairs import InspectedPair


if TYPE_CHECKING:
    import torch


# Logits of one forward pass: a gigabyte in 32 bits.
_MAX_LOGITS = 2**28


def add_log_probs(pairs: Iterable[InspectedPair], model: Any, batch_size: int = 8) -> Iterator[InspectedPair]:
    """
    Add to pairs the log-probability of each token of both chains, given the prompt and the tokens before it.

    Tokens beyond the positions that the model has, and a first token without a prompt, get NaN. Pairs that could not be
    read pass as they are.

    Args:
        pairs (`Iterable[InspectedPair]`):
            Pairs from [`read_pairs`], read with the tokenizer of the model.
        model ([`~transformers.PreTrainedModel`] or [`~peft.PeftModel`]):
            Causal language model, run on its device without gradients and dropout.
        batch_size (`int`, *optional*, defaults to `8`):
            Pairs that are taken together. With long chains or a large vocabulary they are run in several parts.

    Yields:
        [`InspectedPair`]: The pairs in order, with `log_probs`.

    Raises:
        ValueError: If the pairs hold no tokens, or tokens that the model does not have, or `batch_size` is below 1.

    Examples:

    ```python
    >>> from transformers import AutoModelForCausalLM, AutoTokenizer
    >>> model = AutoModelForCausalLM.from_pretrained("HuggingFaceTB/SmolLM2-135M")  # doctest: +SKIP
    >>> tokenizer = AutoTokenizer.from_pretrained("HuggingFaceTB/SmolLM2-135M")  # doctest: +SKIP
    >>> for pair in add_log_probs(read_pairs(dataset, tokenizer), model):  # doctest: +SKIP
    ...     print(pair.row, sum(pair.log_probs[0]) - sum(pair.log_probs[1]))

    ```
    """
    if batch_size < 1:
        raise ValueError(
            f"`batch_size` must be at least 1, got {batch_size}. It is the number of pairs per forward pass."
        )
    return _add_log_probs(iter(pairs), model, batch_size)


def _add_log_probs(pairs: Iterator[InspectedPair], model: Any, batch_size: int) -> Iterator[InspectedPair]:
    config = model.config.get_text_config()
    longest = getattr(config, "max_position_embeddings", None)
    while batch := list(itertools.islice(pairs, batch_size)):
        prompts, completions = [], []
        for pair in batch:
            if not (pair.chosen and pair.rejected):
                continue
            if pair.ids is None:
                raise ValueError(
                    f"Pairs must hold tokens to be scored, the pair of row {pair.row} was read by words. Pass the "
                    "tokenizer of the model to `read_pairs`."
                )
            ids = pair.ids
            if (largest := max(map(max, filter(None, ids.values())))) >= config.vocab_size:
                raise ValueError(
                    f"Tokens must be those of the model, the pair of row {pair.row} has token {largest}, and the model "
                    f"{config.vocab_size} tokens. Pass the tokenizer of the model to `read_pairs`."
                )
            prompts += [ids["prompt_ids"]] * 2
            completions += [ids["chosen_ids"], ids["rejected_ids"]]
        scores = iter(_score(model, prompts, completions, longest, config.vocab_size))
        for pair in batch:
            if pair.chosen and pair.rejected:
                pair = replace(pair, log_probs=(next(scores), next(scores)))
            yield pair


def _score(
    model: Any, prompts: list[list[int]], completions: list[list[int]], longest: int | None, vocab_size: int
) -> list[list[float]]:
    """Log-probabilities of the tokens of each completion, in as few forward passes as memory allows."""
    sequences = [(prompt + completion)[:longest] for prompt, completion in zip(prompts, completions, strict=True)]
    scores: list[list[float]] = []
    start = 0
    while start < len(sequences):
        stop, width = start, 0
        while stop < len(sequences):
            width = max(width, len(sequences[stop]))
            if stop > start and (stop + 1 - start) * width * vocab_size > _MAX_LOGITS:
                break
            stop += 1
        scores += _score_batch(model, sequences[start:stop], [len(prompt) for prompt in prompts[start:stop]])
        start = stop
    missing = [len(c) - len(score) for c, score in zip(completions, scores, strict=True)]
    return [score + [math.nan] * num for score, num in zip(scores, missing, strict=True)]


def _score_batch(model: Any, sequences: list[list[int]], prompt_lengths: list[int]) -> list[list[float]]:
    """Log-probabilities of the tokens of each sequence after its prompt, NaN for a first token without one."""
    import torch

    width = max(map(len, sequences))
    input_ids = torch.zeros(len(sequences), width, dtype=torch.long)
    attention_mask = torch.zeros_like(input_ids)
    for row, sequence in enumerate(sequences):
        input_ids[row, : len(sequence)] = torch.tensor(sequence)
        attention_mask[row, : len(sequence)] = 1
    # Logits of the prompts are not needed, but for their last token's.
    first = max(min(min(prompt_lengths), width) - 1, 0)
    options: dict[str, Any] = {"use_cache": False}
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    if "logits_to_keep" in inspect.signature(base.forward).parameters:
        options["logits_to_keep"] = width - first
    was_training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            logits = model(
                input_ids=input_ids.to(model.device), attention_mask=attention_mask.to(model.device), **options
            ).logits
            first = width - logits.shape[1]  # 0 for a model that computes all
            return [
                _log_probs_of(logits[row, max(length - 1, 0) - first : len(sequence) - 1 - first], sequence, length)
                for row, (sequence, length) in enumerate(zip(sequences, prompt_lengths, strict=True))
            ]
    finally:
        model.train(was_training)


def _log_probs_of(logits: "torch.Tensor", sequence: list[int], prompt_length: int) -> list[float]:
    """
    Log-probabilities of the tokens of a sequence after its prompt; `logits` of shape `(num_predicted, vocabulary)` are
    those that predict them.
    """
    import torch

    if prompt_length >= len(sequence):
        return []
    targets = torch.tensor(sequence[max(prompt_length, 1) :], device=logits.device)
    # In 32 bits one sequence at a time, and without a copy of the normalised logits.
    logits = logits.float()
    log_probs = logits.gather(1, targets[:, None])[:, 0] - logits.logsumexp(dim=-1)
    return [math.nan] * (prompt_length == 0) + log_probs.tolist()
