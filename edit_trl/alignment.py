"""
Find the key tokens of a dual chain-of-thought.

A dual chain-of-thought is one prompt with two completions that share most of their tokens and reach different
answers. A minimum edit script turns one chain into the other with as few edits as possible. The tokens that it keeps
are shared. The tokens that it deletes, inserts or replaces are the key tokens: they decide the answer.

Works on plain sequences of token IDs. Tokenization happens in `data_utils.py`; truncation, padding and batching happen
in `data_collator.py`. Align before truncating: if two chains of different length are cut, the end of one chain loses
its match in the other chain, and its tokens wrongly count as key tokens.

There can be several minimum edit scripts, so two correct implementations can mark different tokens. The default rule
here is fixed and symmetric: swapping the two chains swaps the two masks and changes nothing else. It uses the script
that rapidfuzz finds from the smaller sequence (fewer elements, then first in list order) to the larger one.

Paper: https://huggingface.co/papers/2405.19737
"""

import codecs
import math
import sys
from array import array
from collections import defaultdict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from itertools import accumulate, count
from numbers import Integral
from typing import Any

from rapidfuzz.distance import Levenshtein

from .words import unspaced_starts


try:
    from editdistance import eval as _edit_distance
except ImportError:  # `editdistance` has no wheels for Python 3.13; rapidfuzz gives the same number
    _edit_distance = Levenshtein.distance

TIE_BREAKS = ("symmetric", "reference")

# Weights of the paper (α and β) and of the authors' code (γ). All defaults in the package are taken from here.
CHOSEN_KEY_WEIGHT, REJECTED_KEY_WEIGHT, CHOSEN_OTHER_WEIGHT = 1.0, 0.025, 0.0

# Reads an array of machine integers as characters. The byte order is given explicitly, because plain "utf-32" reads
# 0xFEFF at the start as a byte order mark.
_decode_utf_32 = codecs.getdecoder("utf-32-le" if sys.byteorder == "little" else "utf-32-be")


@dataclass(frozen=True)
class Alignment:
    """
    Minimum edit script between the two completions of a dual chain-of-thought.

    Args:
        chosen_key (`list[bool]`):
            For each token of the right chain, whether the script deletes or replaces it.
        rejected_key (`list[bool]`):
            For each token of the wrong chain, whether the script inserts it or replaces another token with it.
        distance (`int`):
            Number of edits: the Levenshtein distance between the aligned sequences.
        blocks (`list[tuple[int, int, int, int]]`):
            Spans that the script keeps, in order: `(chosen_start, chosen_end, rejected_start, rejected_end)` of each
            span that both chains share. Everything between two blocks is an edit. (Under `tie_break="reference"`
            the two masks come from two scripts. The blocks are those of the script from the right chain to the wrong
            chain.)
    """

    chosen_key: list[bool]
    rejected_key: list[bool]
    distance: int
    blocks: list[tuple[int, int, int, int]]

    def _repr_html_(self) -> str:
        """How a notebook shows the alignment: an image of both chains with their key tokens."""
        from .drawings import draw_alignment, html_image

        right, wrong = (f"{sum(keys)} of {len(keys)}" for keys in (self.chosen_key, self.rejected_key))
        counts = f"{self.distance} edits; key tokens: {right} in the right chain, {wrong} in the wrong one"
        drawing = draw_alignment(self.chosen_key, self.rejected_key, self.blocks)
        return f"<p>{counts}</p>{html_image(drawing, counts)}"

    def expand(self, chosen_lengths: Sequence[int], rejected_lengths: Sequence[int]) -> "Alignment":
        """
        Project an alignment of groups of tokens, such as words, onto the tokens.

        Args:
            chosen_lengths (`Sequence[int]`):
                Number of tokens of each aligned group of the right chain.
            rejected_lengths (`Sequence[int]`):
                Number of tokens of each aligned group of the wrong chain.

        Returns:
            [`Alignment`]: Masks and blocks of the tokens. A token is a key token if its group is key. `distance` still
            counts edits of groups.

        Raises:
            ValueError: If the number of groups differs from the number of groups that were aligned.

        Examples:

        ```python
        >>> align(["2 + 2", " = 4"], ["2 + 2", " = 5"]).expand([3, 2], [3, 2]).chosen_key
        [False, False, False, True, True]

        ```
        """
        starts = []
        for name, lengths, key in (
            ("chosen_lengths", chosen_lengths, self.chosen_key),
            ("rejected_lengths", rejected_lengths, self.rejected_key),
        ):
            if len(lengths) != len(key):
                raise ValueError(
                    f"`{name}` must hold one length per aligned group, expected {len(key)}, got {len(lengths)}. Pass "
                    "the lengths of the groups that were given to `align`."
                )
            starts.append(list(accumulate(lengths, initial=0)))
        chosen_starts, rejected_starts = starts
        return Alignment(
            chosen_key=[
                key for key, length in zip(self.chosen_key, chosen_lengths, strict=True) for _ in range(length)
            ],
            rejected_key=[
                key for key, length in zip(self.rejected_key, rejected_lengths, strict=True) for _ in range(length)
            ],
            distance=self.distance,
            blocks=[
                (chosen_starts[i], chosen_starts[i_end], rejected_starts[j], rejected_starts[j_end])
                for i, i_end, j, j_end in self.blocks
            ],
        )


def align(chosen: Sequence[Hashable], rejected: Sequence[Hashable], *, tie_break: str = "symmetric") -> Alignment:
    """
    Align the two completions of a dual chain-of-thought with a minimum edit script.

    Args:
        chosen (`Sequence[Hashable]`):
            Right chain, usually token IDs. Other hashable elements work too; they are compared by equality.
        rejected (`Sequence[Hashable]`):
            Wrong chain.
        tie_break (`str`, *optional*, defaults to `"symmetric"`):
            Which minimum edit script is used if there are several:

            - `"symmetric"`: one script for both chains. Swapping the arguments swaps the masks.
            - `"reference"`: the masks of the authors' code. It walks back through the distance table and prefers
              deletion, then insertion, then the diagonal. It does so once for each direction, and the two scripts may
              disagree. Time and memory grow with the product of the lengths.

    Returns:
        [`Alignment`]: Masks of the key tokens, distance and shared blocks.

    Raises:
        ValueError: If `tie_break` is not one of these two values.

    Paper: [Capture the Key in Reasoning to Enhance CoT Distillation
    Generalization](https://huggingface.co/papers/2405.19737), section 3.2. The `"reference"` order is that of the
    authors' code, [C-W-D/CasCoD](https://github.com/C-W-D/CasCoD).

    Examples:

    ```python
    >>> alignment = align("2+3=5 so 10".split(), "2+3=6 so 12".split())
    >>> alignment.chosen_key, alignment.rejected_key, alignment.distance
    ([True, False, True], [True, False, True], 2)
    >>> alignment.blocks
    [(1, 2, 1, 2)]

    ```
    """
    if tie_break not in TIE_BREAKS:
        raise ValueError(
            f"`tie_break` must be one of {', '.join(map(repr, TIE_BREAKS))}, got {tie_break!r}. It decides which of "
            'several minimum edit scripts marks the key tokens; pass `tie_break="symmetric"` if in doubt.'
        )
    source, target, same_order = _encode(chosen, rejected)
    if tie_break == "reference":
        return _reference_alignment(source, target)

    swap = (len(target), target) < (len(source), source) if same_order else _comes_first(rejected, chosen)
    if swap:
        source, target = target, source
    script = Levenshtein.editops(source, target)
    source_key, target_key = [False] * len(source), [False] * len(target)
    blocks = []
    edits: list[tuple[str, int, int]] = script.as_list()  # type: ignore[assignment]
    i = j = 0  # start of the span that the script keeps before its next edit
    for tag, edit_i, edit_j in edits:
        if i < edit_i:
            blocks.append((i, edit_i, j, edit_j))
        i, j = edit_i, edit_j
        if tag != "insert":
            source_key[i] = True
            i += 1
        if tag != "delete":
            target_key[j] = True
            j += 1
    if i < len(source):
        blocks.append((i, len(source), j, len(target)))
    if swap:
        blocks = [(j, j_end, i, i_end) for i, i_end, j, j_end in blocks]
        return Alignment(target_key, source_key, len(script), blocks)
    return Alignment(source_key, target_key, len(script), blocks)


def token_weights(
    alignment: Alignment,
    chosen_key_weight: float = CHOSEN_KEY_WEIGHT,
    rejected_key_weight: float = REJECTED_KEY_WEIGHT,
    chosen_other_weight: float = CHOSEN_OTHER_WEIGHT,
) -> tuple[list[float], list[float]]:
    """
    Return the signed weights of the tokens of both chains.

    A positive weight pulls towards the token, a negative weight pushes away, zero ignores it.

    Args:
        alignment ([`Alignment`]):
            Alignment of the two completions.
        chosen_key_weight (`float`, *optional*, defaults to `1.0`):
            Weight of the key tokens of the right chain, α in the paper.
        rejected_key_weight (`float`, *optional*, defaults to `0.025`):
            Strength with which the key tokens of the wrong chain are pushed away, β in the paper. The strength is
            positive; the returned weights are `-rejected_key_weight`.
        chosen_other_weight (`float`, *optional*, defaults to `0.0`):
            Weight of the other tokens of the right chain, γ in the authors' code.

    Returns:
        `tuple[list[float], list[float]]`: Weights of the right chain's tokens and of the wrong chain's tokens.

    Raises:
        ValueError: If a weight is negative or not finite.

    Examples:

    ```python
    >>> token_weights(align([7, 8, 9], [7, 5, 9]))
    ([0.0, 1.0, 0.0], [0.0, -0.025, 0.0])

    ```
    """
    check_strengths(chosen_key_weight, rejected_key_weight, chosen_other_weight)
    # `0.0 - x` and not `-x`, so that a strength of zero gives `0.0` and not `-0.0`.
    pushed_away = 0.0 - rejected_key_weight
    return (
        [chosen_key_weight if key else chosen_other_weight for key in alignment.chosen_key],
        [pushed_away if key else 0.0 for key in alignment.rejected_key],
    )


def check_strengths(chosen_key_weight: float, rejected_key_weight: float, chosen_other_weight: float) -> None:
    """
    Refuse weights that would train the student towards mistakes or away from the right chain.

    Args:
        chosen_key_weight, rejected_key_weight, chosen_other_weight:
            As for [`token_weights`].

    Raises:
        ValueError: If a weight is negative or not finite.
    """
    for name, value, default, meaning in (
        (
            "chosen_key_weight",
            chosen_key_weight,
            CHOSEN_KEY_WEIGHT,
            "the weight of the key tokens of the right chain, so a negative value pushes the student away from the "
            "right answer",
        ),
        (
            "rejected_key_weight",
            rejected_key_weight,
            REJECTED_KEY_WEIGHT,
            "the strength with which mistaken tokens are pushed away, so a negative value trains the student to "
            "repeat them",
        ),
        (
            "chosen_other_weight",
            chosen_other_weight,
            CHOSEN_OTHER_WEIGHT,
            "the weight of the other tokens of the right chain, so a negative value pushes the student away from them",
        ),
    ):
        if not 0 <= value < math.inf:
            instead = -value if -math.inf < value < 0 else default
            raise ValueError(
                f"`{name}` must be positive or zero and finite, got {value}. It is {meaning}. Pass `{name}={instead}`."
            )


def similarity(chosen: Sequence[Hashable], rejected: Sequence[Hashable]) -> float:
    """
    Return the share of the longer chain that needs no edit: 1 - Levenshtein distance / length of the longer chain.

    Use it to judge whether a pair is dual: the value is near 1 for chains that share most of their tokens, and much
    lower for two unrelated explanations. Computed without an edit script, by `editdistance` if it is installed.

    Args:
        chosen (`Sequence[Hashable]`):
            Right chain.
        rejected (`Sequence[Hashable]`):
            Wrong chain.

    Returns:
        `float`: Between 0 (nothing in common) and 1 (equal, or both empty).

    Examples:

    ```python
    >>> similarity([1, 2, 3, 4], [1, 2, 5, 4])
    0.75

    ```
    """
    longer = max(len(chosen), len(rejected))
    chosen_codes, rejected_codes, _ = _encode(chosen, rejected)
    return 1.0 - _edit_distance(chosen_codes, rejected_codes) / longer if longer else 1.0


def word_lengths(token_texts: Sequence[str], special: Sequence[bool]) -> list[int]:
    """
    Group tokens into words. A word starts at a token that begins with whitespace or comes after whitespace. In scripts
    without spaces, it also starts at a token that begins with a character of its own: see [`words.split_text`]. A
    token is never divided, so a token of two such characters is one word.

    Args:
        token_texts (`Sequence[str]`):
            Text of each token, whitespace included.
        special (`Sequence[bool]`):
            For each token, whether it is a special token. A special token is a word of its own, so that the
            end-of-sequence token does not become part of the answer before it.

    Returns:
        `list[int]`: Number of tokens of each word.

    Examples:

    ```python
    >>> word_lengths(["The", " ans", "wer", " is", " 4", ".", "</s>"], [False] * 6 + [True])
    [1, 2, 1, 2, 1]
    >>> word_lengths(["答案", "是", "4", "2", "。", "</s>"], [False] * 5 + [True])
    [1, 1, 2, 1, 1]

    ```
    """
    lengths: list[int] = []
    unspaced = unspaced_starts("".join(token_texts))
    place = 0
    for i, (text, is_special) in enumerate(zip(token_texts, special, strict=True)):
        starts_word = i == 0 or is_special or special[i - 1] or text[:1].isspace() or token_texts[i - 1][-1:].isspace()
        starts_word = starts_word or (text != "" and place in unspaced)
        place += len(text)
        if starts_word:
            lengths.append(1)
        else:
            lengths[-1] += 1
    return lengths


def _comes_first(a: Sequence[Hashable], b: Sequence[Hashable]) -> bool:
    """Tell whether `a` comes before `b` in a fixed order, so that swapped arguments give the same script."""
    if len(a) != len(b):
        return len(a) < len(b)
    # Integers and strings have a total order. Other types may have no order or, like sets, a partial order.
    if {*map(type, a), *map(type, b)} == {str}:
        return list(a) < list(b)  # type: ignore[operator]
    for kind in (Integral, str):
        if all(isinstance(x, kind) for seq in (a, b) for x in seq):
            return list(a) < list(b)  # type: ignore[operator]
    return [(type(x).__name__, repr(x)) for x in a] < [(type(x).__name__, repr(x)) for x in b]


def _encode(a: Sequence[Hashable], b: Sequence[Hashable]) -> tuple[str, str, bool]:
    """
    Write both sequences as strings in which two characters are equal exactly if the two elements are equal.

    rapidfuzz and editdistance compare the elements of other sequences by their hash only, and -1 and -2 have the same
    hash. Strings are compared exactly, and faster. A token ID becomes the character with this code. The third value
    tells whether all elements could be written in this way; then the strings sort in the same order as the sequences.
    """
    tokens: list[Any] = [*a, *b]
    try:
        text, same_order = _characters(tokens), True
    except (TypeError, ValueError, OverflowError):  # not integers, or not codes of characters
        numbers: defaultdict[Hashable, int] = defaultdict(count().__next__)
        text, same_order = _characters([numbers[token] for token in tokens]), False
    return text[: len(a)], text[len(a) :], same_order


def _characters(ids: list[int]) -> str:
    """Return `"".join(map(chr, ids))`, in a quarter of the time."""
    return _decode_utf_32(array("I", ids), "surrogatepass")[0]  # the codes of surrogates are token IDs too


def _reference_alignment(chosen: str, rejected: str) -> Alignment:
    """Return the masks of the two scripts that the authors' code finds, one for each direction."""
    prefix = 0
    shorter = min(len(chosen), len(rejected))
    while prefix < shorter and chosen[prefix] == rejected[prefix]:
        prefix += 1
    a, b = chosen[prefix:], rejected[prefix:]
    above, left = _smaller_neighbours(a, b)

    chosen_key, rejected_key = [False] * prefix + [True] * len(a), [False] * prefix + [True] * len(b)
    blocks = [(0, prefix, 0, prefix)] if prefix else []
    for i, j in reversed(_walk_back(a, b, above, left)):
        i, j = prefix + i, prefix + j
        chosen_key[i] = False
        if blocks and blocks[-1][1] == i and blocks[-1][3] == j:
            blocks[-1] = (blocks[-1][0], i + 1, blocks[-1][2], j + 1)
        else:
            blocks.append((i, i + 1, j, j + 1))
    # The table from the wrong chain to the right one is the transpose: its deletions are the insertions here.
    for _, j in _walk_back(a, b, above, left, insert_first=True):
        rejected_key[prefix + j] = False
    return Alignment(chosen_key, rejected_key, Levenshtein.distance(a, b), blocks)


def _walk_back(a: str, b: str, above: list[int], left: list[int], insert_first: bool = False) -> list[tuple[int, int]]:
    """Return the matching positions of `a` and `b` on the path from the last cell of the table back to its first."""
    matches = []
    i, j = len(a), len(b)
    while i or j:
        deletes, inserts = above[j] >> i & 1, left[j] >> i & 1
        if deletes and not (insert_first and inserts):
            i -= 1
        elif inserts:
            j -= 1
        else:
            i, j = i - 1, j - 1
            if a[i] == b[j]:
                matches.append((i, j))
    return matches


def _smaller_neighbours(a: str, b: str) -> tuple[list[int], list[int]]:
    """
    Return which cells of the distance table have a cell above that is one smaller, and which have a cell to the left
    that is one smaller.

    Cell (i, j) of the table is the distance between the first i characters of `a` and the first j of `b`. Bit i of the
    j-th integer stands for cell (i, j). Neighbouring cells differ by at most one, so a column can be stored as two
    sets of rows. Each column is computed from the column before in a few operations on long integers (Myers 1999, in
    the form of Hyyrö 2003).
    """
    positions: defaultdict[str, int] = defaultdict(int)
    for i, character in enumerate(a, start=1):
        positions[character] |= 1 << i
    rows = (1 << len(a) + 1) - 2  # all rows except row 0, which has no cell above
    # In column 0 every cell is one more than the cell above.
    above_smaller, above_greater = rows, 0
    above, left = [rows], [0]
    for character in b:
        equal = positions.get(character, 0)
        diagonal_same = (((equal & above_smaller) + above_smaller) ^ above_smaller) | equal | above_greater
        left_smaller = above_greater | ~(diagonal_same | above_smaller)
        left_greater = diagonal_same & above_smaller
        left.append(left_smaller)
        above_smaller = (left_greater << 1 | ~(diagonal_same | left_smaller << 1)) & rows
        above_greater = diagonal_same & left_smaller << 1 & rows
        above.append(above_smaller)
    return above, left
