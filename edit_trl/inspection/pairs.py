"""
Read the pairs of a dual-CoT dataset as `EDITTrainer` reads them, to show them.

With a tokenizer, a pair is read as tokens; without a tokenizer, as words. As in training, `weighting.py` decides which
tokens are key tokens, the weight of each token, and what `max_length` cuts. Both chains are split into pieces that can
be shown (a token, or several tokens that make one character), each with its weight. The edits between the chains are
listed.

If a pair teaches nothing or something wrong, its problems are listed by name. A single bad row raises no error.

As in training, chains are aligned before they are truncated. The numbers of a pair are computed on its whole chains,
and the tokens that truncation cuts are counted separately. A completion, which has no wrong chain, is read as a pair
whose wrong chain is empty.

Paper: https://huggingface.co/papers/2405.19737
"""

import hashlib
import math
import os
import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import lru_cache
from itertools import accumulate, islice, pairwise, repeat
from typing import Any, NamedTuple

from ..alignment import CHOSEN_KEY_WEIGHT, CHOSEN_OTHER_WEIGHT, REJECTED_KEY_WEIGHT, similarity
from ..answers import answers_match, extract_answer, reasoning
from ..option_help import help_from_docstring
from ..pair_checks import PairError, check_pair, is_completion, is_tokenized_row
from ..text_checks import check_ids_of_texts
from ..token_texts import decode_pieces
from ..weighting import WeightedChain, WeightedPair, align_completions, check_max_length, check_options, weigh_pair
from ..words import split_text, unspaced_starts, words


PROBLEMS = {
    "missing": "`prompt` is missing, or `chosen`, `rejected` or `completion` is missing or empty",
    "unreadable": "a column has another type than its name says, and training would stop with an error",
    "too_long": "a text is longer than a million characters, too long for a chain of thought",
    "equal": "the tokens of both chains are equal",
    "no_room": "the prompt leaves no room for a completion under `max_length`",
    "keys_cut": "truncation at `max_length` cuts all key tokens",
    "duplicate": "an earlier row has the same prompt and the same two chains",
    "not_dual": "the similarity of the chains is below `min_similarity`",
    "only_answer_differs": "the steps of both chains are the same, so only the conclusion has key tokens",
    "same_answer": "both chains give the same answer",
    "chosen_is_wrong": "the answer of `chosen` differs from the column `answer`",
    "rejected_is_right": "the answer of `rejected` is the same as the column `answer`",
}
# Problems of pairs that the trainer drops.
DROPPED = ("missing", "equal", "no_room")

_MAX_CHARACTERS = 1_000_000
_TEXTS = ("prompt", "chosen", "rejected", "completion")

# Maximum number of rows that are tokenized at once.
_BATCH_SIZE = 64


@help_from_docstring
@dataclass
class InspectionConfig:
    """
    Options of [`read_pairs`] and of the command `edit-trl inspect`: the options of [`EDITConfig`] that decide weights
    and truncation of a pair, and the similarity from which a pair counts as dual.

    Args:
        alignment_level (`str`, *optional*, defaults to `"token"`):
            Unit of the alignment, `"token"` or `"word"`, as in [`EDITConfig`]. Without a tokenizer, words are always
            aligned.
        tie_break (`str`, *optional*, defaults to `"symmetric"`):
            Which minimum edit script is used if there are several, `"symmetric"` or `"reference"`, as in
            [`EDITConfig`].
        chosen_key_weight (`float`, *optional*, defaults to `1.0`):
            Weight of the right chain's key tokens.
        rejected_key_weight (`float`, *optional*, defaults to `0.025`):
            Strength with which the wrong chain's key tokens are pushed away.
        chosen_other_weight (`float`, *optional*, defaults to `0.0`):
            Weight of the right chain's other tokens.
        completion_weight (`float`, *optional*):
            Weight of the tokens of rows without a rejected chain. Defaults to `chosen_other_weight`.
        max_length (`int`, *optional*, defaults to `1024`):
            Maximum number of tokens of prompt and chain that training keeps; `None` keeps all tokens.
        min_similarity (`float`, *optional*, defaults to `0.5`):
            Minimum share of the longer chain that needs no edit. A pair below it does not count as dual.
        truncation_mode (`str`, *optional*, defaults to `"keep_start"`):
            Which end of a longer prompt and chain training keeps, `"keep_start"` or `"keep_end"`.

    Raises:
        ValueError: If an option has a value that cannot work.
    """

    alignment_level: str = "token"
    tie_break: str = "symmetric"
    chosen_key_weight: float = CHOSEN_KEY_WEIGHT
    rejected_key_weight: float = REJECTED_KEY_WEIGHT
    chosen_other_weight: float = CHOSEN_OTHER_WEIGHT
    completion_weight: float | None = None
    max_length: int | None = 1024
    min_similarity: float = 0.5
    truncation_mode: str = "keep_start"

    @classmethod
    def of_training(cls, args: Any) -> "InspectionConfig":
        """
        Return the options that show pairs as training sees them.

        Args:
            args ([`EDITConfig`] or [`~trl.SFTConfig`]):
                Options of the training. Those that it has not are the defaults.

        Returns:
            [`InspectionConfig`]: The options.
        """
        return cls(**{option.name: getattr(args, option.name) for option in fields(cls) if hasattr(args, option.name)})

    def __post_init__(self) -> None:
        check_options(self)
        check_max_length(self.max_length)
        if not 0 <= self.min_similarity <= 1:
            raise ValueError(
                f"`min_similarity` must lie between 0 and 1, got {self.min_similarity}. It is a share of the longer "
                "chain; pass 0 to call any pair dual."
            )


class Piece(NamedTuple):
    """
    The smallest part of a chain that is shown: a token, several tokens that make one character, or a word.

    Args:
        text (`str`):
            Text of the piece, with the whitespace before it.
        is_key (`bool`):
            Whether at least one token of the piece is a key token.
        weight (`float`):
            Weight in training of its first key token, or of its first token if it has no key token.
        num_tokens (`int`):
            Number of tokens; 1 for a word without a tokenizer.
    """

    text: str
    is_key: bool
    weight: float
    num_tokens: int


@dataclass
class InspectedPair:
    """
    A pair with its weights, edits and problems.

    Args:
        row (`int`):
            Number of the pair in the dataset, from 0.
        example (`dict[str, Any]`):
            The row of the dataset.
        prompt (`str`):
            Text of the prompt.
        chosen, rejected (`list[Piece]`):
            Pieces of the right and of the wrong chain.
        edits (`list[tuple[int, int, int, int]]`):
            Spans that the chains do not share, in order: `(chosen_start, chosen_end, rejected_start, rejected_end)`,
            in pieces. An inserted span has an empty range in the other chain.
        problems (`list[str]`):
            Names from `PROBLEMS`. A pair that cannot be read has no pieces.
        task, origin (`str` or `None`):
            Values of the columns with these names.
        num_prompt, num_chosen, num_rejected (`int`):
            Lengths of prompt and chains, in tokens (words without a tokenizer).
        num_chosen_key, num_rejected_key (`int`):
            Number of key tokens of the right and of the wrong chain.
        num_shared (`int`):
            Number of tokens of the chains before their first difference.
        similarity (`float`):
            Share of the longer chain that needs no edit.
        num_cut, num_key_cut (`int`):
            Number of tokens, and of key tokens, of both chains that truncation cuts.
        ids (`dict[str, list[int]]`, *optional*):
            `prompt_ids`, `chosen_ids` and `rejected_ids`; `None` without a tokenizer.
        log_probs (`tuple[list[float], list[float]]`, *optional*):
            Log-probability, in nats, of each token of the right and of the wrong chain, if [`add_log_probs`] added
            them.
        replies (`dict[str, str]`, *optional*):
            Replies of students to the prompt, by a heading, to be shown below the chains. [`read_pairs`] adds none.
        cost (`dict[str, int]`):
            Tokens that the pair takes through the model after truncation, by layout: in two rows of the same length
            (`"padded"`) and in one that holds the common start once (`"shared_prefix"`).
        is_completion (`bool`, *optional*, defaults to `False`):
            Whether the row is a completion, without a wrong chain. Its only chain is in `chosen`.
        error (`str`, *optional*):
            Why the row is `"unreadable"`, as training says it.
    """

    row: int
    example: dict[str, Any]
    prompt: str = ""
    chosen: list[Piece] = field(default_factory=list)
    rejected: list[Piece] = field(default_factory=list)
    edits: list[tuple[int, int, int, int]] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    task: str | None = None
    origin: str | None = None
    num_prompt: int = 0
    num_chosen: int = 0
    num_rejected: int = 0
    num_chosen_key: int = 0
    num_rejected_key: int = 0
    num_shared: int = 0
    similarity: float = math.nan
    num_cut: int = 0
    num_key_cut: int = 0
    ids: dict[str, list[int]] | None = None
    log_probs: tuple[list[float], list[float]] | None = None
    replies: dict[str, str] | None = None
    cost: dict[str, int] = field(default_factory=dict)
    is_completion: bool = False
    error: str | None = None

    @property
    def key_token_ratio(self) -> float:
        """`float`: Share of key tokens among the tokens of both chains; NaN for a pair that cannot be read."""
        length = self.num_chosen + self.num_rejected
        return (self.num_chosen_key + self.num_rejected_key) / length if length else math.nan

    def _repr_html_(self) -> str:
        """How a notebook shows the pair."""
        from .markup import pair_html

        return pair_html(self)


def read_pairs(
    examples: Iterable[dict[str, Any]], tokenizer: Any = None, config: InspectionConfig | None = None
) -> Iterator[InspectedPair]:
    """
    Align the pairs of a dataset. Up to 64 rows are read ahead, because their texts are tokenized together.

    Args:
        examples ([`~datasets.Dataset`] or `Iterable[dict]`):
            Rows of a TRL preference dataset in any of its shapes. Plain and conversational rows may be mixed.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`], *optional*):
            Tokenizer of the student. Without it, the pairs are aligned by words.
        config ([`InspectionConfig`], *optional*):
            Options.

    Yields:
        [`InspectedPair`]: One pair for each row, in order.

    Raises:
        ValueError: If a column is missing in the first row, if the rows have token IDs and there is no tokenizer, or
            if a row has weights that do not fit its chains.

    Examples:

    ```python
    >>> row = {"prompt": "Q: 2 + 3?\\nA:", "chosen": " 2 + 3 = 5. So 5.", "rejected": " 2 + 3 = 6. So 6."}
    >>> (pair,) = read_pairs([row])
    >>> [piece.text for piece in pair.chosen if piece.is_key], pair.key_token_ratio
    ([' 5.', ' 5.'], 0.2857142857142857)

    ```
    """
    reader = _Reader(tokenizer, config or InspectionConfig())
    rows = enumerate(examples)
    size = 1  # the first pair is there at once
    while batch := list(islice(rows, size)):
        yield from reader.read_batch(batch)
        size = min(2 * size, _BATCH_SIZE)


class _Reader:
    """Reads pairs, and remembers the pairs that it has read to find duplicates."""

    def __init__(self, tokenizer: Any, config: InspectionConfig) -> None:
        self.tokenizer = tokenizer
        # Without a tokenizer the "tokens" are words, so the alignment of "tokens" is the alignment of words.
        self.config = config if tokenizer is not None else replace(config, alignment_level="token")
        self.known_texts: dict[int, str] = {}
        self.known_ids: dict[str, list[int]] = {}
        self.seen: set[bytes] = set()
        # Many pairs have the same answers, and each pair has its own twice.
        self.answers_match = lru_cache(maxsize=10_000)(answers_match)

    def read_batch(self, batch: list[tuple[int, dict[str, Any]]]) -> Iterator[InspectedPair]:
        if batch[0][0] == 0:
            self._check_columns(batch[0][1])
        pairs = [self._checked(row, example) for row, example in batch]
        if self.tokenizer is not None:
            from ..data_utils import tokenize_texts

            rows = (pair.example for pair in pairs if not pair.problems and not is_tokenized_row(pair.example))
            self.known_ids = tokenize_texts(rows, self.tokenizer, self.tokenizer.eos_token)
        pairs.reverse()
        while pairs:  # only one pair at a time has its pieces
            pair = pairs.pop()
            if not pair.problems:
                if self.tokenizer is None:
                    self._read_words(pair)
                else:
                    self._read_tokens(pair)
            if pair.chosen and (pair.rejected or pair.is_completion):
                self._find_problems(pair)
            yield pair

    def _checked(self, row: int, example: dict[str, Any]) -> InspectedPair:
        """Return the pair without its pieces, with the problems for which they are not needed."""
        pair = InspectedPair(row, example, task=_name(example.get("task")), origin=_name(example.get("origin")))
        try:
            check_pair(example)
        except PairError as error:
            pair.problems.append("unreadable")
            pair.error = str(error)
            return pair
        pair.is_completion = is_completion(example)
        has_pair = {"chosen", "rejected"} <= example.keys() or {"chosen_ids", "rejected_ids"} <= example.keys()
        if not has_pair and not pair.is_completion:
            pair.problems.append("missing")
        elif any(len(_plain_text(example.get(name))) > _MAX_CHARACTERS for name in _TEXTS):
            pair.problems.append("too_long")
        return pair

    def _check_columns(self, example: dict[str, Any]) -> None:
        if {"chosen", "rejected"} <= example.keys() or (is_completion(example) and not is_tokenized_row(example)):
            return
        from ..data_utils import is_tokenized

        is_tokenized(list(example))
        if self.tokenizer is None:
            raise ValueError(
                f"The dataset must hold texts to be read without a tokenizer, got the columns {sorted(example)}. Pass "
                "the student's tokenizer, whose tokens they are: `--model NAME`."
            )

    def _read_words(self, pair: InspectedPair) -> None:
        prompt, chosen, rejected, completion = (_plain_text(pair.example.get(name)) for name in _TEXTS)
        chains: tuple[str, ...] = (completion,) if pair.is_completion else (chosen, rejected)
        if "prompt" not in pair.example:  # the prompt is the common start, as in TRL, but it ends at a whole word
            prompt = _common_words(chains)
            chains = tuple(chain[len(prompt) :] for chain in chains)
        if not all(chain.strip() for chain in chains) or pair.example.get("prompt", "") is None:
            pair.problems.append("missing")
            return
        names = ("completion_ids",) if pair.is_completion else ("chosen_ids", "rejected_ids")
        units = {"prompt_ids": words(prompt), **dict(zip(names, map(words, chains), strict=True))}
        pair.prompt = prompt
        self._fill(pair, units, [[(word, 1) for word in split_text(text)] for text in chains])

    def _read_tokens(self, pair: InspectedPair) -> None:
        from .. import data_utils

        example = pair.example
        try:
            names = ("prompt_ids", "completion_ids") if pair.is_completion else data_utils.ID_COLUMNS
            ids = {name: list(example.get(name) or []) for name in names}
            if is_tokenized_row(example):
                check_ids_of_texts(example, self.tokenizer)
            elif not data_utils.is_missing(example):
                ids, _ = data_utils.tokenize_pair(example, self.tokenizer, self.tokenizer.eos_token, self.known_ids)
            sides = [ids[name] for name in names[1:]]
            if not all(sides):
                pair.problems.append("missing")
                return
            pieces = [decode_pieces(self.tokenizer, side, self.known_texts) for side in sides]
            self._fill(pair, ids, pieces)
        # Another `ValueError` concerns all rows (a tokenizer without a chat template, for example): it is not caught.
        except PairError as error:
            pair.problems.append("unreadable")
            pair.error = str(error)
            return
        pair.ids = ids
        options = {"skip_special_tokens": False, "clean_up_tokenization_spaces": False}
        pair.prompt = self.tokenizer.decode(ids["prompt_ids"], **options)

    def _fill(self, pair: InspectedPair, ids: dict[str, list[Any]], pieces: list[list[tuple[str, int]]]) -> None:
        """
        Fill the fields of a pair from its weights. `ids` are tokens or words, `pieces` the texts and lengths of each
        chain.
        """
        config = self.config
        if pair.is_completion and not (config.completion_weight or config.chosen_other_weight):
            config = replace(config, completion_weight=1.0)  # training asks for a weight, and the advice says so
        weighted = weigh_pair({**pair.example, **ids}, config, self.tokenizer, self.known_texts)
        chains = (weighted.chosen, weighted.rejected)[: len(pieces)]
        starts = [_starts(side, len(chain.weights)) for side, chain in zip(pieces, chains, strict=True)]
        shown = [_shown(*parts) for parts in zip(pieces, starts, chains, strict=True)]
        pair.num_prompt = len(ids["prompt_ids"])
        pair.num_cut = sum(chain.num_cut for chain in chains)
        rows = [chain.kept_ids for chain in chains]
        pair.cost = {"padded": len(rows) * max(map(len, rows)), "shared_prefix": sum(map(len, rows))}
        if pair.is_completion:
            (pair.chosen,) = shown
            pair.num_chosen = len(ids["completion_ids"])
        else:
            pair.chosen, pair.rejected = shown
            self._compare(pair, ids["chosen_ids"], ids["rejected_ids"], weighted, starts)
            if chains[0].start == chains[1].start == 0:
                shared = min(pair.num_prompt + pair.num_shared, *map(len, rows))
            else:
                shared = _num_shared(*rows)
            pair.cost["shared_prefix"] -= shared
        limit = self.config.max_length
        if limit is not None and self.config.truncation_mode == "keep_start" and pair.num_prompt >= limit:
            pair.problems.append("no_room")
        elif 0 < pair.num_key_cut == pair.num_chosen_key + pair.num_rejected_key:
            pair.problems.append("keys_cut")
        # The trainer keeps equal chains that have their own weights, because they may still teach something.
        if weighted.alignment is not None and ids["chosen_ids"] == ids["rejected_ids"]:
            pair.problems.append("equal")

    def _compare(
        self,
        pair: InspectedPair,
        chosen: list[Any],
        rejected: list[Any],
        weighted: WeightedPair,
        starts: list[Sequence[int]],
    ) -> None:
        """Fill the fields that compare the two chains. `starts` are the positions of their pieces."""
        alignment = weighted.alignment or align_completions(
            chosen, rejected, self.config, self.tokenizer, self.known_texts
        )
        pair.edits = _edits(alignment.blocks, *starts)
        pair.num_chosen, pair.num_rejected = len(chosen), len(rejected)
        pair.num_chosen_key, pair.num_rejected_key = sum(weighted.chosen.is_key), sum(weighted.rejected.is_key)
        pair.num_shared = _num_shared(chosen, rejected)
        if self.config.alignment_level == "token":  # as `similarity` computes it, from the edits that are known
            pair.similarity = 1.0 - alignment.distance / max(len(chosen), len(rejected))
        else:
            pair.similarity = similarity(chosen, rejected)
        pair.num_key_cut = weighted.chosen.num_key_cut + weighted.rejected.num_key_cut

    def _find_problems(self, pair: InspectedPair) -> None:
        """Add the problems that can be found in the texts. The wrong chain of a completion is an empty text."""
        chosen, rejected = ("".join(piece.text for piece in side) for side in (pair.chosen, pair.rejected))
        digest = hashlib.blake2b(
            repr((pair.prompt, chosen, rejected)).encode(errors="replace"), digest_size=16
        ).digest()
        if digest in self.seen:
            pair.problems.append("duplicate")
        self.seen.add(digest)
        if pair.similarity < self.config.min_similarity:
            pair.problems.append("not_dual")
        if "equal" not in pair.problems and words(reasoning(chosen)) == words(reasoning(rejected)) != []:
            pair.problems.append("only_answer_differs")
        chosen_answer, rejected_answer = extract_answer(chosen), extract_answer(rejected)
        if "equal" not in pair.problems and chosen_answer is not None and rejected_answer is not None:
            if self.answers_match(rejected_answer, chosen_answer):
                pair.problems.append("same_answer")
        answer = pair.example.get("answer")
        if isinstance(answer, str) and answer.strip():
            if chosen_answer is not None and not self.answers_match(chosen_answer, answer):
                pair.problems.append("chosen_is_wrong")
            if rejected_answer is not None and self.answers_match(rejected_answer, answer):
                pair.problems.append("rejected_is_right")


def _name(value: Any) -> str | None:
    return None if value is None or value == "" else str(value)


def _plain_text(value: Any) -> str:
    """Return the text of a column, or the contents of its messages; nothing if it holds neither."""
    if isinstance(value, str):
        return value
    if not (isinstance(value, list) and all(isinstance(message, Mapping) for message in value)):
        return ""
    texts = [message.get("content") or message.get("value") or "" for message in value]
    return "\n".join(text if isinstance(text, str) else str(text) for text in texts)


def _common_words(chains: Sequence[str]) -> str:
    """Return the words with which all texts begin. A word that one of the texts continues is not among them."""
    common = os.path.commonprefix(chains)
    starts = set.intersection(*map(unspaced_starts, chains))
    end = len(re.sub(r"\S*\Z", "", common))
    return common[: max([end, *(start for start in starts if start <= len(common))])]


def _starts(side: list[tuple[str, int]], num_tokens: int) -> Sequence[int]:
    """Return the token positions of the pieces of a chain, and of its end."""
    if len(side) == num_tokens:  # a piece for each token
        return range(num_tokens + 1)
    return list(accumulate((length for _, length in side), initial=0))


def _shown(side: list[tuple[str, int]], starts: Sequence[int], chain: WeightedChain) -> list[Piece]:
    """Return the pieces of a chain from their texts and lengths, and from where they start."""
    if len(side) == len(chain.weights):
        return list(map(Piece._make, zip((text for text, _ in side), chain.is_key, chain.weights, repeat(1))))
    pieces = []
    for (text, length), start in zip(side, starts, strict=False):
        keys = chain.is_key[start : start + length]
        is_key = any(keys)
        pieces.append(Piece(text, is_key, chain.weights[start + keys.index(True) if is_key else start], length))
    return pieces


def _num_shared(chosen: Sequence[Any], rejected: Sequence[Any]) -> int:
    """Return the number of tokens with which both chains begin."""
    shorter = min(len(chosen), len(rejected))
    if chosen[:shorter] == rejected[:shorter]:
        return shorter
    return next(place for place, (a, b) in enumerate(zip(chosen, rejected, strict=False)) if a != b)


def _edits(
    blocks: list[tuple[int, int, int, int]], chosen_starts: Sequence[int], rejected_starts: Sequence[int]
) -> list[tuple[int, int, int, int]]:
    """Return the spans between the blocks, in pieces. The starts are token positions of the pieces, and of the end."""
    ends = [chosen_starts[-1], rejected_starts[-1]]
    gaps = [(a[1], b[0], a[3], b[2]) for a, b in pairwise([(0, 0, 0, 0), *blocks, (ends[0], 0, ends[1], 0)])]
    edits: list[tuple[int, int, int, int]] = []
    for i, i_end, j, j_end in gaps:
        if i == i_end and j == j_end:
            continue
        edit = (
            bisect_right(chosen_starts, i) - 1,
            bisect_left(chosen_starts, i_end),
            bisect_right(rejected_starts, j) - 1,
            bisect_left(rejected_starts, j_end),
        )
        # A piece of several tokens may belong to two edits or be partly shared. Such edits are merged.
        edit = (edit[0], max(edit[0], edit[1]), edit[2], max(edit[2], edit[3]))
        if edits and (edit[0] < edits[-1][1] or edit[2] < edits[-1][3]):
            last = edits.pop()
            edit = (last[0], max(last[1], edit[1]), last[2], max(last[3], edit[3]))
        edits.append(edit)
    return edits
