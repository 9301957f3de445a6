"""
Decide which tokens of a pair are key tokens, which weight each token has, and what truncation keeps.

[`weigh_pair`] reads the weights of a tokenized pair, or computes them from the alignment of its chains. It aligns the
whole chains first and truncates at `max_length` afterwards, so that truncation does not create differences. A
completion, which is a right chain without a rejected one, has one weight for all of its tokens. The collator and the
inspection both use the result. Works on lists and imports no model library.
"""

import math
from collections.abc import Mapping, Sequence, Sized
from dataclasses import dataclass
from numbers import Real
from typing import Any, Protocol

from .alignment import TIE_BREAKS, Alignment, align, check_strengths, token_weights
from .pair_checks import PairError, is_completion
from .token_texts import split_words


ALIGNMENT_LEVELS = ("token", "word")
TRUNCATION_MODES = ("keep_start", "keep_end")

# Columns of weights in tokenized data. A dataset has both or neither.
WEIGHT_COLUMNS = ("chosen_weights", "rejected_weights")


class WeightingOptions(Protocol):
    """Options that decide the weights of tokens: fields of `EDITConfig`, of the collator and of `InspectionConfig`."""

    alignment_level: str
    tie_break: str
    chosen_key_weight: float
    rejected_key_weight: float
    chosen_other_weight: float
    completion_weight: float | None
    max_length: int | None
    truncation_mode: str


def check_options(options: WeightingOptions) -> None:
    """
    Check the options that decide the weights of tokens.

    Args:
        options (`WeightingOptions`):
            Options to check.

    Raises:
        ValueError: If an option has an unknown value, or a weight is negative or not finite.
    """
    weight = options.completion_weight
    if weight is not None and not 0 < weight < math.inf:
        raise ValueError(
            f"`completion_weight` must be positive and finite, or `None`, got {weight}. It is the weight of the "
            "tokens of rows without a rejected chain; pass `completion_weight=1.0` to train them as SFT does."
        )
    for name, values, meaning in (
        ("alignment_level", ALIGNMENT_LEVELS, "the unit of the edit script"),
        ("tie_break", TIE_BREAKS, "which minimum edit script is used if there are several"),
        ("truncation_mode", TRUNCATION_MODES, "which end of a chain longer than `max_length` is kept"),
    ):
        value = getattr(options, name)
        if value not in values:
            raise ValueError(
                f"`{name}` must be one of {', '.join(map(repr, values))}, got {value!r}. It is {meaning}; pass "
                f"`{name}={values[0]!r}`, the default, if in doubt."
            )
    check_strengths(options.chosen_key_weight, options.rejected_key_weight, options.chosen_other_weight)


def completion_weight(options: WeightingOptions) -> float:
    """
    Return the weight of the tokens of completions: `completion_weight`, or `chosen_other_weight` if it is `None`.

    Args:
        options (`WeightingOptions`):
            Options.

    Returns:
        `float`: The weight, above zero.

    Raises:
        ValueError: If neither option is set, so that completions would not be trained.
    """
    weight = options.chosen_other_weight if options.completion_weight is None else options.completion_weight
    if not weight:
        raise ValueError(
            "`completion_weight` must be set to train rows with a `completion` and no rejected chain, got `None`. "
            "With `chosen_other_weight=0.0` only tokens that differ between two chains are trained, and a completion "
            "has no second chain. Pass `completion_weight=1.0` to train all of its tokens as SFT does, or use "
            "`trl.SFTTrainer` if there are no pairs."
        )
    return weight


def check_tokenizer(options: WeightingOptions, tokenizer: Any) -> None:
    """
    Refuse the alignment of words without a tokenizer.

    Args:
        options (`WeightingOptions`):
            Options, with `alignment_level`.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`] or `None`):
            The tokenizer.

    Raises:
        ValueError: If words are to be aligned and there is no tokenizer.
    """
    if options.alignment_level == "word" and tokenizer is None:
        raise ValueError(
            "`alignment_level='word'` needs the text of the tokens, but `tokenizer` is `None`. Pass `tokenizer=` the "
            "tokenizer that made the token IDs."
        )


def check_max_length(max_length: int | None) -> None:
    """
    Refuse a length that leaves no room for a pair.

    Args:
        max_length (`int` or `None`):
            Maximum number of tokens of prompt and completion together; `None` keeps all tokens.

    Raises:
        ValueError: If `max_length` is below 2.
    """
    if max_length is not None and max_length < 2:
        raise ValueError(
            f"`max_length` must be at least 2 or `None`, got {max_length}. A prompt and a completion need a token "
            "each; pass `max_length=1024`, the trainer's default, if in doubt."
        )


@dataclass(frozen=True)
class WeightedChain:
    """
    One chain of a pair, not truncated, with the weights of its tokens.

    Args:
        ids (`list`):
            Token IDs of prompt and completion, not truncated.
        prompt_length (`int`):
            Number of tokens of the prompt.
        weights (`list[float]`):
            Signed weight of each token of the completion.
        is_key (`list[bool]`):
            Whether each token of the completion is a key token.
        start, stop (`int`):
            Truncation keeps `ids[start:stop]`.
    """

    ids: list[Any]
    prompt_length: int
    weights: list[float]
    is_key: list[bool]
    start: int
    stop: int

    @property
    def completion(self) -> range:
        """`range`: Positions in `ids` of the completion tokens that truncation keeps."""
        return range(max(self.prompt_length, self.start), self.stop)

    @property
    def num_cut(self) -> int:
        """`int`: Number of completion tokens that truncation removes."""
        return len(self.weights) - len(self.completion)

    @property
    def num_key_cut(self) -> int:
        """`int`: Number of key tokens that truncation removes."""
        start = self.completion.start - self.prompt_length
        return sum(self.is_key) - sum(self.is_key[start : start + len(self.completion)])

    @property
    def kept_ids(self) -> list[Any]:
        """`list`: Token IDs of prompt and completion that truncation keeps."""
        return self.ids[self.start : self.stop]


@dataclass(frozen=True)
class WeightedPair:
    """
    Both chains of a pair with the weights of their tokens, or a completion.

    Args:
        chosen ([`WeightedChain`]):
            The right chain, or the completion.
        rejected ([`WeightedChain`]):
            The wrong chain, without tokens for a completion.
        alignment ([`Alignment`] or `None`):
            Alignment of the whole completions; `None` if the pair has its own weights, and for a completion.
        is_completion (`bool`, *optional*, defaults to `False`):
            Whether it is a completion.
    """

    chosen: WeightedChain
    rejected: WeightedChain
    alignment: Alignment | None
    is_completion: bool = False


def weigh_pair(
    example: Mapping[str, Any],
    options: WeightingOptions,
    tokenizer: Any = None,
    known_texts: dict[int, str] | None = None,
) -> WeightedPair:
    """
    Give each token of a pair its weight: the weights of the pair if it has any, otherwise from the alignment.

    Args:
        example (`Mapping[str, Any]`):
            Pair with `prompt_ids`, `chosen_ids` and `rejected_ids`, not truncated. Optionally `chosen_weights` and
            `rejected_weights`, which replace the alignment: a token is then a key token if its weight is not zero. Or
            a completion, with `prompt_ids` and `completion_ids`. It has no key tokens.
        options (`WeightingOptions`):
            [`EDITConfig`], [`DataCollatorForDualCoT`], or anything else with these options.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`], *optional*):
            Tokenizer of the token IDs. Needed only for `alignment_level="word"`.
        known_texts (`dict[int, str]`, *optional*):
            Cache of the texts of single tokens, which this function fills. Pass it again for the next pair.

    Returns:
        [`WeightedPair`]: Both chains, not truncated, with their weights and the range that truncation keeps.

    Raises:
        ValueError: If the number of weights differs from the number of tokens, a weight is not finite, a strength is
            negative, or there is no weight for completions.

    Examples:

    ```python
    >>> from edit_trl import DataCollatorForDualCoT
    >>> options = DataCollatorForDualCoT(pad_token_id=0, max_length=4)
    >>> pair = weigh_pair({"prompt_ids": [1, 2], "chosen_ids": [3, 4, 9], "rejected_ids": [3, 5, 9]}, options)
    >>> pair.chosen.weights, pair.rejected.weights
    ([0.0, 1.0, 0.0], [0.0, -0.025, 0.0])
    >>> pair.chosen.kept_ids, pair.chosen.num_cut, pair.chosen.num_key_cut
    ([1, 2, 3, 4], 1, 0)

    ```
    """
    if is_completion(example):
        ids = example["completion_ids"]
        equal = [completion_weight(options)] * len(ids)
        chain = _weighted_chain(example["prompt_ids"], ids, equal, [False] * len(ids), options)
        return WeightedPair(chain, WeightedChain([], 0, [], [], 0, 0), None, is_completion=True)
    alignment = None
    if has_weight_columns(example):
        weights = (read_weights(example, "chosen"), read_weights(example, "rejected"))
        keys = tuple([weight != 0 for weight in side] for side in weights)
    else:
        alignment = align_completions(example["chosen_ids"], example["rejected_ids"], options, tokenizer, known_texts)
        weights = token_weights(
            alignment, options.chosen_key_weight, options.rejected_key_weight, options.chosen_other_weight
        )
        keys = (alignment.chosen_key, alignment.rejected_key)
    chosen, rejected = (
        _weighted_chain(example["prompt_ids"], example[f"{side}_ids"], weights[i], keys[i], options)
        for i, side in enumerate(("chosen", "rejected"))
    )
    return WeightedPair(chosen, rejected, alignment)


def align_completions(
    chosen_ids: Sequence[Any],
    rejected_ids: Sequence[Any],
    options: WeightingOptions,
    tokenizer: Any = None,
    known_texts: dict[int, str] | None = None,
) -> Alignment:
    """
    Align two completions by tokens or by words, as `options.alignment_level` says. The result has masks of tokens.

    Args:
        chosen_ids, rejected_ids (`Sequence`):
            Token IDs of the right and of the wrong chain.
        options, tokenizer, known_texts:
            As for [`weigh_pair`].

    Returns:
        [`Alignment`]: Their alignment.
    """
    if options.alignment_level == "token":
        return align(chosen_ids, rejected_ids, tie_break=options.tie_break)
    check_tokenizer(options, tokenizer)
    chosen_words, chosen_lengths = split_words(tokenizer, list(chosen_ids), known_texts)
    rejected_words, rejected_lengths = split_words(tokenizer, list(rejected_ids), known_texts)
    alignment = align(chosen_words, rejected_words, tie_break=options.tie_break)
    return alignment.expand(chosen_lengths, rejected_lengths)


def kept_range(length: int, options: WeightingOptions) -> tuple[int, int]:
    """
    Return the range of a row that truncation keeps.

    Args:
        length (`int`):
            Number of tokens of prompt and completion.
        options (`WeightingOptions`):
            Options with `max_length` and `truncation_mode`.

    Returns:
        `tuple[int, int]`: Start and stop.
    """
    if options.max_length is None or length <= options.max_length:
        return 0, length
    if options.truncation_mode == "keep_start":
        return 0, options.max_length
    return length - options.max_length, length


def has_weight_columns(example: Mapping[str, Any]) -> bool:
    """
    Tell whether a tokenized pair has its own weights.

    Args:
        example (`dict[str, Any]`):
            Tokenized pair.

    Returns:
        `bool`: Whether it has `chosen_weights` or `rejected_weights` with a value that is not `None`.
    """
    return any(example.get(column) is not None for column in WEIGHT_COLUMNS)


def read_weights(example: Mapping[str, Any], side: str) -> list[float]:
    """
    Read and check the weights of one chain of a pair.

    Args:
        example (`dict[str, Any]`):
            Tokenized pair.
        side (`str`):
            `"chosen"` or `"rejected"`.

    Returns:
        `list[float]`: The weights of that chain.

    Raises:
        PairError: If the column is missing, or does not have one finite number for each token.
    """
    weights, num_tokens = example.get(f"{side}_weights"), len(example[f"{side}_ids"])
    if weights is None:
        raise PairError(
            f"`chosen_weights` and `rejected_weights` come together, but `{side}_weights` is missing. They replace "
            f"the alignment of both chains; pass `{side}_weights=[0.0] * {num_tokens}` to ignore that chain."
        )
    weights = weights.tolist() if hasattr(weights, "tolist") else weights  # an array
    is_list = isinstance(weights, Sized) and not isinstance(weights, (str, Mapping))
    if not is_list or len(weights) != num_tokens:
        found = len(weights) if is_list else f"{type(weights).__name__}: {weights!r:.80}"
        raise PairError(
            f"`{side}_weights` must hold one float per token of `{side}_ids`, expected {num_tokens}, got "
            f"{found}. Weights of other tokens would train the wrong ones; compute them on the tokenized "
            "chain, end-of-sequence token included."
        )
    bad = next((i for i, w in enumerate(weights) if not isinstance(w, Real) or not math.isfinite(w)), None)
    if bad is not None:
        raise PairError(
            f"`{side}_weights` must be finite numbers, got {weights[bad]!r} at token {bad}. The loss would not be "
            "finite either; pass `0.0` for tokens to ignore."
        )
    return [float(weight) for weight in weights]


def _weighted_chain(
    prompt_ids: Sequence[Any],
    completion_ids: Sequence[Any],
    weights: list[float],
    is_key: list[bool],
    options: WeightingOptions,
) -> WeightedChain:
    ids = [*prompt_ids, *completion_ids]
    return WeightedChain(ids, len(prompt_ids), weights, is_key, *kept_range(len(ids), options))
