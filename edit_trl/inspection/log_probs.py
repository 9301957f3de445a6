"""
Add to pairs the log-probabilities that a model gives to the tokens of both chains.
"""

import itertools
import math
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

from .pairs import InspectedPair, Piece


def add_log_probs(pairs: Iterable[InspectedPair], model: Any, batch_size: int = 8) -> Iterator[InspectedPair]:
    """
    Add to pairs the log-probability of each token of both chains, given the prompt and the tokens before it.

    A token beyond the last position of the model gets NaN, and so does the first token of a chain without a prompt.
    Pairs that could not be read are not changed.

    Args:
        pairs (`Iterable[InspectedPair]`):
            Pairs from [`read_pairs`], read with the tokenizer of the model.
        model ([`~transformers.PreTrainedModel`] or [`~peft.PeftModel`]):
            Causal language model. It runs on its device without gradients and dropout.
        batch_size (`int`, *optional*, defaults to `8`):
            Number of pairs in a batch. With long chains or a large vocabulary, a batch is run in several parts.

    Yields:
        [`InspectedPair`]: The pairs in order, with `log_probs`.

    Raises:
        ValueError: If the pairs have no token IDs, a token ID is not in the model's vocabulary, or `batch_size` is
            below 1.

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
                    f"Pairs must hold tokens to be scored, but the pair of row {pair.row} was read by words. Pass the "
                    "tokenizer of the model to `read_pairs`."
                )
            ids = pair.ids
            if (largest := max(map(max, filter(None, ids.values())))) >= config.vocab_size:
                raise ValueError(
                    f"Tokens must be in the model's vocabulary, but the pair of row {pair.row} has token {largest}, "
                    f"and the model has {config.vocab_size} tokens. Pass the tokenizer of the model to `read_pairs`."
                )
            prompts += [ids["prompt_ids"]] * 2
            completions += [ids["chosen_ids"], ids["rejected_ids"]]
        scores = iter(_score(model, prompts, completions, longest))
        for pair in batch:
            if pair.chosen and pair.rejected:
                pair = replace(pair, log_probs=(next(scores), next(scores)))
            yield pair


def _score(
    model: Any, prompts: list[list[int]], completions: list[list[int]], longest: int | None
) -> list[list[float]]:
    """Return the log-probabilities of the tokens of each completion; NaN for tokens that cannot be scored."""
    from ..scoring import eval_mode, score_tokens

    sequences = [(prompt + completion)[:longest] for prompt, completion in zip(prompts, completions, strict=True)]
    # The first token of a sequence has no hidden state before it and cannot be scored.
    firsts = [max(len(prompt), 1) for prompt in prompts]
    targets = [
        [(place - 1, sequence[place]) for place in range(first, len(sequence))]
        for sequence, first in zip(sequences, firsts, strict=True)
    ]
    with eval_mode(model):
        scores = score_tokens(model, sequences, targets, batch_size=len(sequences))
    log_probs = []
    for prompt, completion, score in zip(prompts, completions, scores, strict=True):
        known = [math.nan] * (not prompt) + score.log_probs.tolist()
        log_probs.append(known + [math.nan] * (len(completion) - len(known)))
    return log_probs


def piece_log_probs(pair: InspectedPair, side: str) -> list[float | None]:
    """
    Sum the log-probabilities of the tokens of each piece of a chain.

    Args:
        pair ([`InspectedPair`]):
            Pair from [`read_pairs`] or [`add_log_probs`].
        side (`str`):
            `"chosen"` or `"rejected"`.

    Returns:
        `list[float | None]`: One sum for each piece, in nats; `None` where a token has none.
    """
    pieces: list[Piece] = getattr(pair, side)
    if pair.log_probs is None:
        return [None] * len(pieces)
    log_probs = pair.log_probs[side == "rejected"]
    starts = itertools.accumulate((piece.num_tokens for piece in pieces), initial=0)
    sums = [sum(log_probs[start : start + piece.num_tokens]) for piece, start in zip(pieces, starts, strict=False)]
    return [value if math.isfinite(value) else None for value in sums]


def key_log_prob(pair: InspectedPair, side: str) -> float | None:
    """
    Compute the mean log-probability of the key pieces of a chain, per token.

    Args:
        pair ([`InspectedPair`]):
            Pair from [`add_log_probs`].
        side (`str`):
            `"chosen"` or `"rejected"`.

    Returns:
        `float` or `None`: Mean in nats; `None` if no key token has a log-probability.
    """
    known = [
        (log_prob, piece.num_tokens)
        for piece, log_prob in zip(getattr(pair, side), piece_log_probs(pair, side), strict=True)
        if piece.is_key and log_prob is not None
    ]
    num_tokens = sum(num for _, num in known)
    return sum(log_prob for log_prob, _ in known) / num_tokens if known else None
