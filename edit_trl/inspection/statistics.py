"""
What the alignment sees in a dual-CoT dataset, pair by pair and in numbers.

A pair is read as `EDITTrainer` reads it: with a tokenizer in that tokenizer's tokens, without one in words. Both ends are
cut into pieces that can be shown (a token, or the few tokens that share a character), each with its weight, and the
edits between them. Pairs that would teach nothing, or the wrong thing, get the names of their problems; nothing is
raised for one bad row among many. How all this is shown is `report.py`'s concern.

What would surprise: alignment precedes truncation, here as in training, so figures are those of whole chains, and what
`max_length` cuts is counted apart.

Paper: https://huggingface.co/papers/2405.19737
"""

import hashlib
import math
import os
import re
import sys
from array import array
from bisect import bisect_left, bisect_right
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, pairwise
from typing import Any, NamedTuple

from ..alignment import TIE_BREAKS, Alignment, align, similarity, token_weights
from ..answers import answers_match, extract_answer, reasoning
from ..option_help import help_from_docstring


# Share of key tokens in the paper's data, appendix.
PAPER_KEY_TOKEN_RATIO = 0.047

PROBLEMS = {
    "missing": "`prompt`, `chosen` or `rejected` is missing or empty",
    "unreadable": "a text is neither text nor messages, or the texts of the pair are of different kinds",
    "too_long": "a text is longer than a million characters, too long to be a chain of thought",
    "equal": "the tokens of both chains are equal",
    "no_room": "the prompt leaves no room for a completion under `max_length`",
    "keys_cut": "truncation at `max_length` cuts all key tokens",
    "duplicate": "the same pair was there before",
    "not_dual": "the chains share less than `min_similarity`",
    "only_answer_differs": "the steps of both chains are the same, so that nothing but the conclusion is key",
    "same_answer": "both chains give the same answer",
    "chosen_is_wrong": "the answer of `chosen` is not that of the column `answer`",
    "rejected_is_right": "the answer of `rejected` is that of the column `answer`",
}
# Those that the trainer leaves out by itself.
DROPPED = ("missing", "equal", "no_room")

_MAX_CHARACTERS = 1_000_000
_WORD = re.compile(r"\s*\S+")
_QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
# Key tokens whose counts are kept: all of a tokenizer's; of words those that are met often.
_MAX_COUNTED = 200_000


@help_from_docstring
@dataclass
class InspectionConfig:
    """
    Options of [`read_pairs`] and of the command `edit-trl inspect`: those of [`EDITConfig`] that decide what is aligned.

    Args:
        alignment_level (`str`, *optional*, defaults to `"token"`):
            `"token"` or `"word"`, as in [`EDITConfig`]. Without a tokenizer words are aligned in any case.
        tie_break (`str`, *optional*, defaults to `"symmetric"`):
            Which of several minimum edit scripts counts, `"symmetric"` or `"reference"`, as in [`EDITConfig`].
        chosen_key_weight (`float`, *optional*, defaults to `1.0`):
            Weight of the right chain's key tokens.
        rejected_key_weight (`float`, *optional*, defaults to `0.025`):
            Strength with which the wrong chain's key tokens are pushed away.
        chosen_other_weight (`float`, *optional*, defaults to `0.0`):
            Weight of the right chain's other tokens.
        max_length (`int`, *optional*, defaults to `1024`):
            Tokens of prompt and chain that training keeps; `None` keeps all.
        min_similarity (`float`, *optional*, defaults to `0.5`):
            Least share of the longer chain that needs no edit in a pair that counts as dual.

    Raises:
        ValueError: If an option cannot work.
    """

    alignment_level: str = "token"
    tie_break: str = "symmetric"
    chosen_key_weight: float = 1.0
    rejected_key_weight: float = 0.025
    chosen_other_weight: float = 0.0
    max_length: int | None = 1024
    min_similarity: float = 0.5

    def __post_init__(self) -> None:
        for name, values in (("alignment_level", ("token", "word")), ("tie_break", TIE_BREAKS)):
            if getattr(self, name) not in values:
                raise ValueError(
                    f"`{name}` must be {' or '.join(map(repr, values))}, got {getattr(self, name)!r}. Leave it out for the "
                    "method of the paper."
                )
        if not 0 <= self.min_similarity <= 1:
            raise ValueError(
                f"`min_similarity` must lie between 0 and 1, got {self.min_similarity}. It is a share of the longer chain; "
                "pass 0 to call any pair dual."
            )
        if self.max_length is not None and self.max_length < 2:
            raise ValueError(
                f"`max_length` must be at least 2 or `None`, got {self.max_length}. A prompt and a completion need a token "
                "each; leave it out for the trainer's default."
            )


class Piece(NamedTuple):
    """
    A part of a chain that is shown as one: a token, the few tokens that share a character, or a word.

    Args:
        text (`str`):
            Its text, with the whitespace before it.
        is_key (`bool`):
            Whether a token of it is key.
        weight (`float`):
            Its weight in training: that of its first key token, else of its first token.
        num_tokens (`int`):
            Its tokens; 1 for a word without a tokenizer.
    """

    text: str
    is_key: bool
    weight: float
    num_tokens: int


@dataclass
class InspectedPair:
    """
    A pair as training sees it.

    Args:
        row (`int`):
            Number of the pair in the dataset, from 0.
        example (`dict[str, Any]`):
            The row itself.
        prompt (`str`):
            Text of the prompt.
        chosen, rejected (`list[Piece]`):
            Pieces of the right and of the wrong chain.
        edits (`list[tuple[int, int, int, int]]`):
            What the chains do not share, in order: `(chosen_start, chosen_end, rejected_start, rejected_end)`, in pieces.
            What is inserted has an empty range on the other side.
        problems (`list[str]`):
            Names from `PROBLEMS`. A pair that cannot be read has no pieces.
        task, origin (`str` or `None`):
            From the columns of these names.
        num_prompt, num_chosen, num_rejected (`int`):
            Lengths, in tokens (words without a tokenizer).
        num_chosen_key, num_rejected_key (`int`):
            Key tokens of the right and of the wrong chain.
        num_shared (`int`):
            Tokens of the chains before their first difference.
        similarity (`float`):
            Share of the longer chain that needs no edit.
        num_cut, num_key_cut (`int`):
            Tokens, and key tokens, of both chains that `max_length` cuts.
        ids (`dict[str, list[int]]`, *optional*):
            `prompt_ids`, `chosen_ids` and `rejected_ids`; none without a tokenizer.
        log_probs (`tuple[list[float], list[float]]`, *optional*):
            Log-probability, in nats, of each token of the right and of the wrong chain, if [`add_log_probs`] added them.
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

    @property
    def key_token_ratio(self) -> float:
        """`float`: Share of the tokens of both chains that are key; NaN for a pair that cannot be read."""
        length = self.num_chosen + self.num_rejected
        return (self.num_chosen_key + self.num_rejected_key) / length if length else math.nan


def read_pairs(
    examples: Iterable[dict[str, Any]], tokenizer: Any = None, config: InspectionConfig | None = None
) -> Iterator[InspectedPair]:
    """
    Align the pairs of a dataset, one at a time.

    Args:
        examples ([`~datasets.Dataset`] or `Iterable[dict]`):
            Rows of a TRL preference dataset in any of its shapes, plain or conversational ones, or both.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`], *optional*):
            The student's. Without one the pairs are aligned by words.
        config ([`InspectionConfig`], *optional*):
            Options.

    Yields:
        [`InspectedPair`]: For each row, in order.

    Raises:
        ValueError: If no row has the columns, or they hold tokens and there is no tokenizer.

    Examples:

    ```python
    >>> row = {"prompt": "Q: 2 + 3?\\nA:", "chosen": " 2 + 3 = 5. So 5.", "rejected": " 2 + 3 = 6. So 6."}
    >>> (pair,) = read_pairs([row])
    >>> [piece.text for piece in pair.chosen if piece.is_key], pair.key_token_ratio
    ([' 5.', ' 5.'], 0.2857142857142857)

    ```
    """
    reader = _Reader(tokenizer, config or InspectionConfig())
    for row, example in enumerate(examples):
        yield reader.read(row, example)


class _Reader:
    """Reads pairs, and knows those it has read."""

    def __init__(self, tokenizer: Any, config: InspectionConfig) -> None:
        self.tokenizer = tokenizer
        self.config = config
        self.known_texts: dict[int, str] = {}
        self.seen: set[bytes] = set()

    def read(self, row: int, example: dict[str, Any]) -> InspectedPair:
        if row == 0:
            self._check_columns(example)
        pair = InspectedPair(row, example, task=_name(example.get("task")), origin=_name(example.get("origin")))
        try:
            texts = [_plain_text(example.get(name)) for name in ("prompt", "chosen", "rejected")]
        except (TypeError, AttributeError):
            pair.problems.append("unreadable")
            return pair
        if not ({"chosen", "rejected"} <= example.keys() or {"chosen_ids", "rejected_ids"} <= example.keys()):
            pair.problems.append("missing")
        elif max(map(len, texts)) > _MAX_CHARACTERS:
            pair.problems.append("too_long")
        elif self.tokenizer is None:
            self._read_words(pair, texts)
        else:
            self._read_tokens(pair)
        if pair.chosen and pair.rejected:
            self._find_problems(pair)
        return pair

    def _check_columns(self, example: dict[str, Any]) -> None:
        if {"chosen", "rejected"} <= example.keys():
            return
        from ..data_utils import is_tokenized

        is_tokenized(list(example))
        if self.tokenizer is None:
            raise ValueError(
                f"The dataset must hold texts to be read without a tokenizer, got the columns {sorted(example)}. Pass the "
                "student's tokenizer, whose tokens they are: `--model NAME`."
            )

    def _read_words(self, pair: InspectedPair, texts: list[str]) -> None:
        prompt, chosen, rejected = texts
        if "prompt" not in pair.example:  # as TRL does it, the common start; here up to a whole word
            prompt = re.sub(r"\S*\Z", "", os.path.commonprefix([chosen, rejected]))
            chosen, rejected = chosen[len(prompt) :], rejected[len(prompt) :]
        if not (chosen.strip() and rejected.strip() and (prompt.strip() or "prompt" not in pair.example)):
            pair.problems.append("missing")
            return
        sides = [_WORD.findall(text) for text in (chosen, rejected)]
        words = [[word.strip() for word in side] for side in sides]
        pair.prompt, pair.num_prompt = prompt, len(prompt.split())
        self._align(pair, words, align(*words, tie_break=self.config.tie_break), [[(w, 1) for w in s] for s in sides])

    def _read_tokens(self, pair: InspectedPair) -> None:
        import jinja2

        from .. import data_utils, token_texts, weighting

        example = pair.example
        weights = None
        try:
            ids = {name: list(example.get(name) or []) for name in data_utils.ID_COLUMNS}
            if "chosen_ids" not in example and not data_utils.is_missing(example):
                ids, _ = data_utils.tokenize_pair(example, self.tokenizer, self.tokenizer.eos_token)
            if weighting.has_weight_columns(example):
                weights = [weighting.read_weights({**example, **ids}, side) for side in ("chosen", "rejected")]
        except (
            TypeError,
            KeyError,
            AttributeError,
            IndexError,
            jinja2.TemplateError,
        ):  # `ValueError`: no chat template
            pair.problems.append("unreadable")
            return
        if not (ids["chosen_ids"] and ids["rejected_ids"]):
            pair.problems.append("missing")
            return
        pair.ids = ids
        options = {"skip_special_tokens": False, "clean_up_tokenization_spaces": False}
        pair.prompt, pair.num_prompt = self.tokenizer.decode(ids["prompt_ids"], **options), len(ids["prompt_ids"])
        sides = [ids["chosen_ids"], ids["rejected_ids"]]
        if self.config.alignment_level == "token":
            alignment = align(*sides, tie_break=self.config.tie_break)
        else:
            words = [token_texts.split_words(self.tokenizer, side, self.known_texts) for side in sides]
            alignment = align(*(texts for texts, _ in words), tie_break=self.config.tie_break)
            alignment = alignment.expand(*(lengths for _, lengths in words))
        pieces = [token_texts.decode_pieces(self.tokenizer, side, self.known_texts) for side in sides]
        self._align(pair, sides, alignment, pieces, weights)

    def _align(
        self,
        pair: InspectedPair,
        sides: list[list[Any]],
        alignment: Alignment,
        pieces: list[list[tuple[str, int]]],
        weights: list[list[float]] | None = None,
    ) -> None:
        """Fill in what follows from an alignment; `sides` are its tokens or words, `pieces` their texts and lengths."""
        config = self.config
        keys = [alignment.chosen_key, alignment.rejected_key]
        if weights is None:
            factors = (config.chosen_key_weight, config.rejected_key_weight, config.chosen_other_weight)
            weights = list(token_weights(alignment, *factors))
        else:
            keys = [[weight != 0 for weight in side] for side in weights]
        starts = [list(accumulate((length for _, length in side), initial=0)) for side in pieces]
        pair.chosen, pair.rejected = (
            [
                _piece(text, keys[side][start : start + length], weights[side][start : start + length])
                for (text, length), start in zip(pieces[side], starts[side], strict=False)
            ]
            for side in (0, 1)
        )
        pair.edits = _edits(alignment.blocks, *starts)
        pair.num_chosen, pair.num_rejected = map(len, sides)
        pair.num_chosen_key, pair.num_rejected_key = map(sum, keys)
        pair.num_shared = len(os.path.commonprefix(sides))
        pair.similarity = similarity(*sides)
        if config.max_length is not None:
            room = max(config.max_length - pair.num_prompt, 0)
            pair.num_cut = sum(len(side[room:]) for side in sides)
            pair.num_key_cut = sum(sum(side[room:]) for side in keys)
            if room == 0:
                pair.problems.append("no_room")
            elif 0 < pair.num_key_cut == pair.num_chosen_key + pair.num_rejected_key:
                pair.problems.append("keys_cut")
        if sides[0] == sides[1] and not (pair.num_chosen_key or pair.num_rejected_key):
            pair.problems.append("equal")

    def _find_problems(self, pair: InspectedPair) -> None:
        """Those that can be told from the texts."""
        chosen, rejected = ("".join(piece.text for piece in side) for side in (pair.chosen, pair.rejected))
        digest = hashlib.blake2b(
            repr((pair.prompt, chosen, rejected)).encode(errors="replace"), digest_size=16
        ).digest()
        if digest in self.seen:
            pair.problems.append("duplicate")
        self.seen.add(digest)
        if pair.similarity < self.config.min_similarity:
            pair.problems.append("not_dual")
        if "equal" not in pair.problems and reasoning(chosen).split() == reasoning(rejected).split() != []:
            pair.problems.append("only_answer_differs")
        right, wrong = extract_answer(chosen), extract_answer(rejected)
        if right is not None and wrong is not None and answers_match(wrong, right) and "equal" not in pair.problems:
            pair.problems.append("same_answer")
        answer = pair.example.get("answer")
        if isinstance(answer, str) and answer.strip():
            if right is not None and not answers_match(right, answer):
                pair.problems.append("chosen_is_wrong")
            if wrong is not None and answers_match(wrong, answer):
                pair.problems.append("rejected_is_right")


class Statistics:
    """
    Numbers of a dataset, gathered pair by pair: a few bytes are kept of each.

    Args:
        config ([`InspectionConfig`], *optional*):
            Options that the pairs were read with.
        unit (`str`, *optional*, defaults to `"tokens"`):
            What was counted, `"tokens"` or `"words"`.

    Examples:

    ```python
    >>> row = {"prompt": "Q: 2 + 3?\\nA:", "chosen": " 2 + 3 = 5. So 5.", "rejected": " 2 + 3 = 6. So 6."}
    >>> statistics = Statistics(unit="words")
    >>> for pair in read_pairs([row]):
    ...     statistics.add(pair)
    >>> statistics.summary()["key_token_ratio"]["both"]["mean"]
    0.2857

    ```
    """

    def __init__(self, config: InspectionConfig | None = None, unit: str = "tokens") -> None:
        self.config = config or InspectionConfig()
        self.unit = unit
        self.num_pairs = 0
        self.problems: Counter[str] = Counter()
        self.num_with_problems = 0
        self.values = {name: array("f") for name in ("both", "chosen", "rejected", "similarity", "shared")}
        self.totals: Counter[str] = Counter()
        self.groups: dict[str, dict[str, dict[str, float]]] = {"task": {}, "origin": {}}
        self.key_pieces: dict[str, Counter[str]] = {"chosen": Counter(), "rejected": Counter()}

    def add(self, pair: InspectedPair) -> None:
        """
        Count a pair.

        Args:
            pair ([`InspectedPair`]):
                The pair.
        """
        self.num_pairs += 1
        self.problems.update(pair.problems)
        self.num_with_problems += bool(pair.problems)
        sums: dict[str, float] = {"pairs": 1, "problems": bool(pair.problems)}
        if pair.chosen and pair.rejected:
            numbers = {
                "both": pair.key_token_ratio,
                "chosen": pair.num_chosen_key / pair.num_chosen,
                "rejected": pair.num_rejected_key / pair.num_rejected,
                "similarity": pair.similarity,
                "shared": pair.num_shared / max(pair.num_chosen, pair.num_rejected),
            }
            for name, number in numbers.items():
                self.values[name].append(number)
            sums.update(read=1, both=numbers["both"], similarity=numbers["similarity"])
            self._count_tokens(pair)
        for column, groups in self.groups.items():
            name = getattr(pair, column)
            if name is not None:
                group = groups.setdefault(name, defaultdict(float))
                for key, number in sums.items():
                    group[key] += number

    def _count_tokens(self, pair: InspectedPair) -> None:
        limit = self.config.max_length or sys.maxsize
        lengths = [min(pair.num_prompt + number, limit) for number in (pair.num_chosen, pair.num_rejected)]
        shared = min(pair.num_prompt + pair.num_shared, *lengths)
        self.totals.update(
            two_rows=2 * max(lengths),
            one_row=sum(lengths) - shared,
            cut=pair.num_cut,
            key_cut=pair.num_key_cut,
            pairs_cut=pair.num_cut > 0,
            no_chosen_key=not pair.num_chosen_key,
            no_rejected_key=not pair.num_rejected_key,
        )
        for side, counter in self.key_pieces.items():
            counter.update(piece.text for piece in getattr(pair, side) if piece.is_key)
            if len(counter) > _MAX_COUNTED:
                self.key_pieces[side] = Counter(dict(counter.most_common(_MAX_COUNTED // 2)))

    def summary(self) -> dict[str, Any]:
        """
        The numbers, as JSON can hold them.

        Returns:
            `dict[str, Any]`: `pairs` and `readable_pairs`; `unit`; `problems` by name, and the number of pairs
            `with_problems`; mean and quantiles of `key_token_ratio` (of `both` chains, `chosen`, `rejected`),
            `similarity` and `shared_start`; `by_task` and `by_origin`; `truncation` at `max_length`; `one_sided`, pairs without key
            tokens on a side; the most frequent `key_tokens`; `cost`, tokens through the model per epoch in the two layouts;
            `paper`; and `advice`.
        """
        values = {name: _describe(numbers) for name, numbers in self.values.items()}
        totals = self.totals
        summary = {
            "pairs": self.num_pairs,
            "readable_pairs": len(self.values["both"]),
            "unit": self.unit,
            "problems": {name: self.problems[name] for name in PROBLEMS if self.problems[name]},
            "with_problems": self.num_with_problems,
            "key_token_ratio": {name: values[name] for name in ("both", "chosen", "rejected")},
            "similarity": values["similarity"],
            "shared_start": values["shared"],
            **{
                f"by_{column}": {name: _describe_group(counts) for name, counts in sorted(groups.items())}
                for column, groups in self.groups.items()
            },
            "truncation": {
                "max_length": self.config.max_length,
                "pairs": totals["pairs_cut"],
                self.unit: totals["cut"],
                f"key_{self.unit}": totals["key_cut"],
            },
            "one_sided": {"chosen": totals["no_chosen_key"], "rejected": totals["no_rejected_key"]},
            "key_tokens": {side: counter.most_common(20) for side, counter in self.key_pieces.items()},
            "cost": {"padded": totals["two_rows"], "shared_prefix": totals["one_row"]},
            "paper": {"key_token_ratio": PAPER_KEY_TOKEN_RATIO},
        }
        return {**summary, "advice": advise(summary, self.config)}


def advise(summary: dict[str, Any], config: InspectionConfig) -> list[str]:
    """
    What the numbers mean for training.

    Args:
        summary (`dict[str, Any]`):
            Of [`Statistics.summary`].
        config ([`InspectionConfig`]):
            Options that the pairs were read with.

    Returns:
        `list[str]`: Sentences, the gravest first; empty if nothing is amiss.
    """
    num, problems, unit = summary["pairs"], summary["problems"], summary["unit"]
    if not summary["readable_pairs"]:
        return ["No pair can be read: nothing would be trained on."] if num else ["There is no pair."]
    advice = []
    ratio = summary["key_token_ratio"]["both"]["mean"]
    if ratio > 0.3:
        advice.append(
            f"{ratio:.0%} of the {unit} are key: these chains are not dual but told anew, and training on them is close to "
            "training on whole chains. Make pairs that share their reasoning, or keep those that do with `--filter`."
        )
    elif ratio > 3 * PAPER_KEY_TOKEN_RATIO:
        advice.append(
            f"{ratio:.0%} of the {unit} are key, against about {PAPER_KEY_TOKEN_RATIO:.1%} of the tokens in the paper: many "
            "edits are wording rather than reasoning. Look at the pairs with the highest ratio (`--sort key_token_ratio`)."
        )
    dropped = sum(problems.get(name, 0) for name in DROPPED)
    if dropped:
        advice.append(f"{_share(dropped, num)} would be left out by the trainer: nothing can be learnt from them.")
    for name, what in (
        ("chosen_is_wrong", "teach a wrong answer: their `chosen` does not arrive at `answer`"),
        ("rejected_is_right", "push the right answer away: their `rejected` arrives at `answer`"),
        ("same_answer", "give the same answer on both sides: their key tokens are wording"),
        (
            "not_dual",
            f"share less than {config.min_similarity:.0%} of their {unit}: most of their key tokens are wording",
        ),
        ("only_answer_differs", "have the same steps on both sides: they teach an answer and no reasoning"),
        ("duplicate", "are there more than once, and count as often"),
        ("unreadable", "cannot be read, and would stop the training"),
        ("too_long", "hold a text of more than a million characters: look for lost line ends"),
        ("keys_cut", f"have all key tokens beyond `max_length={config.max_length}`: raise it"),
    ):
        if problems.get(name):
            advice.append(f"{_share(problems[name], num)} {what}.")
    cut = summary["truncation"]["pairs"]
    if cut > problems.get("keys_cut", 0) + problems.get("no_room", 0):
        advice.append(
            f"{_share(cut, num)} are cut at `max_length={config.max_length}`, and lose the ends of their chains."
        )
    left = problems.keys() - set(DROPPED)
    if left:
        advice.append("`--filter FILE` writes the pairs without problems, and the others with theirs.")
    cost = summary["cost"]
    if cost["shared_prefix"] > 0.9 * cost["padded"]:
        advice.append("The chains part early: computing their common start once (`shared_prefix`) saves little here.")
    return advice


# Small parts


def _name(value: Any) -> str | None:
    return None if value is None or value == "" else str(value)


def _plain_text(value: Any) -> str:
    """Text of a column: of messages, their contents."""
    if value is None or isinstance(value, str):
        return value or ""
    if not isinstance(value, list):
        raise TypeError
    texts = [message.get("content") or message.get("value") or "" for message in value]
    return "\n".join(text if isinstance(text, str) else str(text) for text in texts)


def _piece(text: str, keys: Sequence[bool], weights: Sequence[float]) -> Piece:
    is_key = any(keys)
    return Piece(text, is_key, weights[list(keys).index(True)] if is_key else weights[0], len(keys))


def _edits(
    blocks: list[tuple[int, int, int, int]], chosen_starts: list[int], rejected_starts: list[int]
) -> list[tuple[int, int, int, int]]:
    """What lies between the blocks, in pieces. `starts` are the places of pieces in tokens, and the end."""
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
        # Pieces of several tokens may belong to two edits, or be shared in part.
        edit = (edit[0], max(edit[0], edit[1]), edit[2], max(edit[2], edit[3]))
        if edits and (edit[0] < edits[-1][1] or edit[2] < edits[-1][3]):
            last = edits.pop()
            edit = (last[0], max(last[1], edit[1]), last[2], max(last[3], edit[3]))
        edits.append(edit)
    return edits


def _describe(numbers: array) -> dict[str, Any]:
    """Mean and quantiles."""
    if not numbers:
        return {"mean": None, "quantiles": {}}
    ordered = sorted(numbers)
    last = len(ordered) - 1
    quantiles = {str(share): round(ordered[round(share * last)], 4) for share in _QUANTILES}
    return {"mean": round(math.fsum(numbers) / len(numbers), 4), "quantiles": quantiles}


def _describe_group(sums: dict[str, float]) -> dict[str, Any]:
    read = sums["read"]
    ratio, likeness = (round(sums[name] / read, 4) if read else None for name in ("both", "similarity"))
    numbers = {name: int(sums[name]) for name in ("pairs", "problems")}
    return {**numbers, "key_token_ratio": ratio, "similarity": likeness}


def _share(number: int, total: int) -> str:
    return f"{number:,} of {total:,} pairs"
