"""
The rules that mark key tokens in the key-step benchmark:

- `align`: `align(chosen, rejected)`, the default of the package. Tokens that a minimum edit script changes.
- `reference`: the same in the tie order of the authors' code (`tie_break="reference"`).
- `slid`: `align`, but inserted or deleted spans are moved to begin at the start of a step or, if this is not possible,
  of a word, if the tokens at their ends allow it. Still a minimum edit script. Not in the package.
- `word`: `alignment_level="word"` of the package's collator.
- `lexeme`: the same as `word`, but punctuation is not part of a word: "12." is two words. Not in the package.
- `step`: the minimum edit script in which the tokens of a step match tokens of one step of the other chain only, in
  order. Steps are lines and sentences. Not in the package.
- `first`: the first token that differs, in each chain.
- `after`: the first token that differs, and all tokens after it.
- `difflib`: tokens outside the matching blocks of `difflib.SequenceMatcher`.
- `words`: tokens of words and punctuation marks that the other chain does not have anywhere.
- `random`: as many tokens of each chain as `align` marks, drawn at random.
"""

import difflib
import random
import re
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise

import numpy as np
from key_steps_chains import TokenChain, TokenPair
from rapidfuzz.distance import Levenshtein

from edit_trl import align


# Whether each token is key, of the right chain and of the wrong one.
Masks = tuple[list[bool], list[bool]]


def unmatched(pair: TokenPair, blocks: Iterable[Sequence[int]]) -> Masks:
    """Return all tokens except the tokens of the blocks `(chosen_start, chosen_end, rejected_start, rejected_end)`."""
    chosen_key, rejected_key = ([True] * len(side.ids) for side in pair.sides)
    for i, i_end, j, j_end in blocks:
        chosen_key[i:i_end] = [False] * (i_end - i)
        rejected_key[j:j_end] = [False] * (j_end - j)
    return chosen_key, rejected_key


def align_tokens(pair: TokenPair, tie_break: str = "symmetric") -> Masks:
    alignment = align(pair.chosen.ids, pair.rejected.ids, tie_break=tie_break)
    return alignment.chosen_key, alignment.rejected_key


def align_reference(pair: TokenPair) -> Masks:
    return align_tokens(pair, tie_break="reference")


def align_slid(pair: TokenPair) -> Masks:
    blocks = [list(block) for block in align(pair.chosen.ids, pair.rejected.ids).blocks]
    # With an empty block at each end, every gap lies between two blocks.
    blocks = [[0, 0, 0, 0], *blocks, [len(side.ids) for side in pair.sides for _ in range(2)]]
    for before, after in zip(blocks, blocks[1:], strict=False):
        for side in range(2):
            start, end = before[2 * side + 1], after[2 * side]
            other_is_empty = before[3 - 2 * side] == after[2 - 2 * side]
            if start == end or not other_is_empty:
                continue
            shift = best_shift(pair.sides[side], start, end, before[1] - before[0], after[1] - after[0])
            for border in (1, 3):
                before[border] += shift
                after[border - 1] += shift
    return unmatched(pair, blocks)


def best_shift(chain: TokenChain, start: int, end: int, max_left: int, max_right: int) -> int:
    """
    Return by how many tokens to move the span `[start, end)`, which the other chain does not have, so that it begins
    at a step or, if this is not possible, at a word.

    Each token that enters the span at one end must equal the token that leaves it at the other end. A move to the
    right is positive.
    """
    ids = chain.ids
    left = right = 0
    while left < max_left and ids[start - left - 1] == ids[end - left - 1]:
        left += 1
    while right < max_right and ids[start + right] == ids[end + right]:
        right += 1

    def rank(shift: int) -> tuple[int, int, int]:
        first = chain.starts[start + shift]
        begins_word = first == 0 or chain.text[first - 1].isspace()
        return (2 if first in chain.step_starts else int(begins_word), -abs(shift), shift)

    return max(range(-left, right + 1), key=rank)


def align_words(pair: TokenPair) -> Masks:
    example = {"prompt_ids": [0], "chosen_ids": pair.chosen.ids, "rejected_ids": pair.rejected.ids}
    batch = pair.collator([example])
    masks = tuple([False] * len(side.ids) for side in pair.sides)
    # After a prompt of one token, the position that predicts a token equals the token's place in its chain.
    scored = zip(*(batch[f"scored_{name}"].tolist() for name in ("chains", "positions", "key")), strict=True)
    for side, token, key in scored:
        masks[side][token] = key
    return masks[0], masks[1]


def align_lexemes(pair: TokenPair) -> Masks:
    ids, lengths = [], []
    for chain in pair.sides:
        # A token continues a word if its first character and the one before it are letters or digits.
        text = chain.text
        goes_on = [i > 0 and bool(re.fullmatch(r"\w\w", text[i - 1 : i + 1])) for i in chain.starts]
        borders = [token for token in range(len(goes_on)) if token == 0 or not goes_on[token]] + [len(goes_on)]
        ids.append([tuple(chain.ids[i:j]) for i, j in pairwise(borders)])
        lengths.append([j - i for i, j in pairwise(borders)])
    alignment = align(*ids).expand(*lengths)
    return alignment.chosen_key, alignment.rejected_key


def align_steps(pair: TokenPair) -> Masks:
    chosen, rejected = (step_ranges(side) for side in pair.sides)
    ids = [[side.ids[i:j] for i, j in ranges] for side, ranges in zip(pair.sides, (chosen, rejected), strict=True)]
    cost = np.zeros((len(chosen) + 1, len(rejected) + 1), dtype=int)
    cost[1:, 0], cost[0, 1:] = (np.cumsum([len(step) for step in side]) for side in ids)
    for a, chosen_step in enumerate(ids[0]):
        for b, rejected_step in enumerate(ids[1]):
            replace = cost[a, b] + Levenshtein.distance(chosen_step, rejected_step)
            cost[a + 1, b + 1] = min(replace, cost[a, b + 1] + len(chosen_step), cost[a + 1, b] + len(rejected_step))
    blocks = []
    a, b = len(chosen), len(rejected)
    while a and b:
        if cost[a, b] == cost[a - 1, b] + len(ids[0][a - 1]):
            a -= 1
        elif cost[a, b] == cost[a, b - 1] + len(ids[1][b - 1]):
            b -= 1
        else:
            a, b = a - 1, b - 1
            i, j = chosen[a][0], rejected[b][0]
            blocks += [
                (i + start, i + end, j + other_start, j + other_end)
                for start, end, other_start, other_end in align(ids[0][a], ids[1][b]).blocks
            ]
    return unmatched(pair, blocks)


def step_ranges(chain: TokenChain) -> list[tuple[int, int]]:
    borders = [token for token, step in enumerate(chain.steps) if token == 0 or step != chain.steps[token - 1]]
    return list(pairwise([*borders, len(chain.ids)]))


def first_difference(pair: TokenPair) -> int:
    chosen, rejected = pair.chosen.ids, pair.rejected.ids
    shorter = min(len(chosen), len(rejected))
    return next((i for i in range(shorter) if chosen[i] != rejected[i]), shorter)


def first_token(pair: TokenPair) -> Masks:
    first = first_difference(pair)
    chosen_key, rejected_key = ([i == first for i in range(len(side.ids))] for side in pair.sides)
    return chosen_key, rejected_key


def all_after(pair: TokenPair) -> Masks:
    first = first_difference(pair)
    chosen_key, rejected_key = ([i >= first for i in range(len(side.ids))] for side in pair.sides)
    return chosen_key, rejected_key


def difflib_blocks(pair: TokenPair) -> Masks:
    matcher = difflib.SequenceMatcher(None, pair.chosen.ids, pair.rejected.ids, autojunk=False)
    return unmatched(pair, [(i, i + size, j, j + size) for i, j, size in matcher.get_matching_blocks()])


def word_sets(pair: TokenPair) -> Masks:
    found = [list(re.finditer(r"\w+|[^\w\s]", side.text)) for side in pair.sides]
    sets = [{match.group() for match in side} for side in found]
    masks = []
    for side, chain in enumerate(pair.sides):
        differs = [False] * len(chain.text)
        for match in found[side]:
            differs[match.start() : match.end()] = [match.group() not in sets[1 - side]] * len(match.group())
        masks.append([any(differs[start:end]) for start, end in chain.offsets])
    return masks[0], masks[1]


def random_tokens(pair: TokenPair) -> Masks:
    rng = random.Random(pair.seed)
    masks = []
    for key in align_tokens(pair):
        drawn = set(rng.sample(range(len(key)), sum(key)))
        masks.append([i in drawn for i in range(len(key))])
    return masks[0], masks[1]


RULES: dict[str, Callable[[TokenPair], Masks]] = {
    "align": align_tokens,
    "reference": align_reference,
    "slid": align_slid,
    "word": align_words,
    "lexeme": align_lexemes,
    "step": align_steps,
    "first": first_token,
    "after": all_after,
    "difflib": difflib_blocks,
    "words": word_sets,
    "random": random_tokens,
}
