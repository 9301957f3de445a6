"""
Does edit distance find the key steps? Key tokens against mistakes whose place is known.

Part 1 takes pairs from `edit_trl.tasks`, which knows the characters that the injected mistake and its consequences
touch, and scores the key tokens of eleven rules against them: as generated, with the wrong chain reworded, and with
sentences of the wrong chain swapped. Part 2, with `--big_bench_mistake`, takes wrong chains of a large model in which
people marked the first mistaken step (Tyen et al. 2023, arXiv 2311.08516), works out a right chain that agrees with
them up to that step, and asks where the key tokens lie.

    python benchmarks/key_steps.py --tokenizers smollm2=SmolLM2-135M-Instruct --num_processes 2 --json key_steps.json
    python benchmarks/key_steps.py --num_pairs 300 --big_bench_mistake big_bench_mistake

The rules:

- `align`: `align(chosen, rejected)`, the default of the package. Tokens that a minimum edit script changes.
- `reference`: the same in the tie order of the authors' code (`tie_break="reference"`).
- `slid`: `align`, where what one chain has more than the other is moved to begin at the start of a step, or else of a
  word, if the tokens at its ends allow it. Still a minimum edit script. Not in the package.
- `word`: `alignment_level="word"` of the package's collator.
- `lexeme`: the same with punctuation apart from words: "12." is two, not one. Not in the package.
- `step`: the minimum edit script in which the tokens of a step match tokens of one step of the other chain only, in
  order. Steps are lines and sentences. Not in the package.
- `first`: the first token that differs, on either side.
- `after`: that token and all that follow.
- `difflib`: tokens outside of the matching blocks of `difflib.SequenceMatcher`.
- `words`: tokens of words and punctuation marks that the other chain does not have anywhere.
- `random`: as many tokens on each side as `align` marks there, drawn at random.

The truth of a generated pair: a token is part of the mistake (or of its consequences) if it has a character in such a
span, whitespace at the ends of a span left out. Both sides count. A step that the wrong chain forgets is a mistake of
the right chain only: it counts there, and nothing of the wrong chain counts as its counterpart. Intervals are 95 %
bootstrap intervals over pairs, Wilson intervals where a chain either has a property or not.

Four tokenizers are built here from the texts that are scored, beside those given: `bpe` (byte-level byte pairs, 800
tokens), `unigram` (800 pieces, spaces as in SentencePiece), `words` (whole words, with the space before them) and
`characters`.
"""

import argparse
import difflib
import json
import math
import os
import random
import re
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
from rapidfuzz.distance import Levenshtein
from tokenizers import decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from edit_trl import DataCollatorForDualCoT, align
from edit_trl.tasks import IN_DOMAIN_TASKS, OUT_OF_DOMAIN_TASKS, DualCoT, Span, generate_dual_cots


Masks = tuple[list[bool], list[bool]]

# A line break, or whitespace after the end of a sentence. "The bracket:" is a step of its own.
STEP_BREAK = re.compile(r"\n|(?<=[.?!])\s+|(?<=bracket:)\s+|(?<=Together:)\s+")


# Chains and their tokens


@dataclass(frozen=True)
class Chain:
    """A chain with the characters that its mistake touches."""

    text: str
    spans: tuple[Span, ...] = ()


@dataclass(frozen=True)
class TokenChain:
    """Token IDs of a chain with the characters of each; an end-of-sequence token has none."""

    text: str
    ids: list[int]
    offsets: list[tuple[int, int]]

    @cached_property
    def starts(self) -> list[int]:
        """Where the first character of each token stands that is no whitespace."""
        return [next((i for i in range(*offset) if not self.text[i].isspace()), offset[0]) for offset in self.offsets]

    @cached_property
    def step_starts(self) -> list[int]:
        return [0, *(match.end() for match in STEP_BREAK.finditer(self.text))]

    @cached_property
    def steps(self) -> list[int]:
        """Number of the step of each token."""
        return [max(bisect_right(self.step_starts, start) - 1, 0) for start in self.starts]

    @cached_property
    def lines(self) -> list[int]:
        """Number of the line of each token."""
        breaks = [i for i, character in enumerate(self.text) if character == "\n"]
        return [bisect_left(breaks, start) for start in self.starts]

    def touches(self, start: int, end: int) -> list[bool]:
        """Which tokens have a character of `[start, end)`, whitespace at its ends left out."""
        stripped = self.text[start:end].strip()
        start += self.text[start:end].find(stripped)
        return [a < start + len(stripped) and b > start for a, b in self.offsets]


@dataclass(frozen=True)
class TokenPair:
    chosen: TokenChain
    rejected: TokenChain
    collator: DataCollatorForDualCoT  # at word level
    seed: str

    @property
    def sides(self) -> tuple[TokenChain, TokenChain]:
        return self.chosen, self.rejected


def tokenize(tokenizer: PreTrainedTokenizerBase, prompt: str, text: str) -> TokenChain:
    """Tokens of a chain as `prepare_dual_cots` makes them: behind its prompt and a space, with an end of sequence."""
    start = len(prompt) + 1
    encoded = tokenizer(f"{prompt} {text}{tokenizer.eos_token}", return_offsets_mapping=True)
    kept = [
        (token, (min(max(a - start, 0), len(text)), min(max(b - start, 0), len(text))))
        for token, (a, b) in zip(encoded["input_ids"], encoded["offset_mapping"], strict=True)
        if a >= len(prompt)
    ]
    return TokenChain(text, [token for token, _ in kept], [offset for _, offset in kept])


def build_tokenizers(texts: Sequence[str], vocab_size: int = 800) -> dict[str, PreTrainedTokenizerBase]:
    """Small tokenizers of four kinds, the same for the same texts."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    special: dict[str, Any] = {"special_tokens": ["</s>", "<unk>"], "show_progress": False}
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()

    bpe = tokenizers.Tokenizer(models.BPE())
    bpe.pre_tokenizer, bpe.decoder = byte_level, decoders.ByteLevel()
    bpe.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=vocab_size, initial_alphabet=alphabet, **special))

    characters = tokenizers.Tokenizer(models.BPE())
    characters.pre_tokenizer, characters.decoder = byte_level, decoders.ByteLevel()
    characters.train_from_iterator([], trainers.BpeTrainer(initial_alphabet=alphabet, **special))

    unigram = tokenizers.Tokenizer(models.Unigram(unigram_pieces(texts, vocab_size), unk_id=0))
    unigram.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split("\n", "isolated"), pre_tokenizers.Metaspace(prepend_scheme="never")]
    )
    unigram.decoder = decoders.Metaspace(prepend_scheme="never")

    words = tokenizers.Tokenizer(models.WordLevel(unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Split(tokenizers.Regex(r" ?\w+| ?[^\w\s]|\s"), "isolated")
    words.decoder = decoders.Fuse()
    words.train_from_iterator(texts, trainers.WordLevelTrainer(vocab_size=10**6, **special))

    built = {"bpe": bpe, "unigram": unigram, "words": words, "characters": characters}
    return {
        name: PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>", unk_token="<unk>")
        for name, tokenizer in built.items()
    }


def unigram_pieces(texts: Iterable[str], vocab_size: int) -> list[tuple[str, float]]:
    """Pieces with log-probabilities by plain counts: the trainer of `tokenizers` gives others in each process."""
    words = Counter(word for text in texts for word in text.replace(" ", " \u2581").split())
    counts: Counter[str] = Counter({"\n": 1})
    for word, number in words.items():
        for start in range(len(word)):
            for end in range(start + 1, min(len(word), start + 8) + 1):
                counts[word[start:end]] += number
    # All characters, then the pieces that cover most text.
    kept = sorted(counts, key=lambda piece: (len(piece) > 1, -counts[piece] * len(piece), piece))[:vocab_size]
    total = sum(counts[piece] for piece in kept)
    return [("<unk>", -100.0), *((piece, math.log(counts[piece] / total)) for piece in kept)]


# The rules


def unmatched(pair: TokenPair, blocks: Iterable[Sequence[int]]) -> Masks:
    """All tokens but those of the blocks `(chosen_start, chosen_end, rejected_start, rejected_end)`."""
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
    # Empty blocks at both ends let every gap lie between two blocks.
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
    """How far to move the tokens `[start, end)`, which the other chain lacks, for them to begin where a step or word does."""
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
    # Behind a prompt of one token, the position that predicts a token is the token's place in its chain.
    scored = zip(*(batch[f"scored_{name}"].tolist() for name in ("chains", "positions", "key")), strict=True)
    for side, token, key in scored:
        masks[side][token] = key
    return masks[0], masks[1]


def align_lexemes(pair: TokenPair) -> Masks:
    ids, lengths = [], []
    for chain in pair.sides:
        # A token goes on with the word before it where a letter or digit follows another one.
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
    for a, right_step in enumerate(ids[0]):
        for b, wrong_step in enumerate(ids[1]):
            replace = cost[a, b] + Levenshtein.distance(right_step, wrong_step)
            cost[a + 1, b + 1] = min(replace, cost[a, b + 1] + len(right_step), cost[a + 1, b] + len(wrong_step))
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


# Rewording and reordering

# What a teacher might write instead. Earlier entries are tried first where two could begin.
REWORDINGS = {
    r"Therefore, the answer is": ["So the answer is", "Hence the answer is", "The final answer is"],
    r"So the answer is": ["Therefore, the answer is", "The final answer is"],
    r"\bdo not count as\b": ["are not"],
    r"\bcount as\b": ["are"],
    r"\bare not\b": ["aren't"],
    r"\bis not the start\b": ["is away from the start"],
    r" = ": [" equals ", " is ", " makes "],
    r"\bgives\b": ["yields", "is", "becomes"],
    r", (?:which leaves|leaving|so we have)\b": [", and what is left is", ", so the rest is", ", giving"],
    r"\bThis leaves\b": ["What is left is", "The rest is"],
    r"\bThe (?:first |second )?bracket:": ["Inside the bracket:", "In brackets:"],
    r"\bTogether:": ["Combined:", "All in all:"],
    r"\bStart:": ["At first:", "Initially:"],
    r"\bAt the start:": ["At first:", "Initially:"],
    r"\bStart at\b": ["Begin at", "We set out from"],
    r"\b(?:swap|trade|switch)(?: balls| books| positions| partners)?:": ["exchange theirs:", "do a swap:"],
    r"\b(?:has|holds) the\b": ["ends up with the", "is left with the"],
    r"\bhas (?=\d+ days)": ["is a month of ", "counts "],
    r"\b(?:So the date is|So today is|That is)\b": ["This gives", "We land on"],
    r"\bsteps?\b": ["paces"],
    r"\bnow at\b": ["which is at", "ending at"],
    r"\bfacing\b": ["looking", "heading"],
    r"\bTurn (?=\w+:)": ["Turning "],
    r"\bIn order:": ["Sorted:", "The order is"],
    r"(?<=\b[a-z]) is(?= \d)": [" has number", " comes as"],
    r"(?<= ; )stack:": ["the stack is", "we hold"],
    r"\bNow, we have reached the end\.": ["That is the end of the input."],
    r"\bWe will need to pop out\b": ["What is left to close is"],
    r"\bWe now have:": ["This gives:"],
    r"\bHence, we have\b": ["So we have", "Altogether"],
    r"\bNow let's sort this subpart\b": ["Next we sort the part"],
    r"\bby looking at their\b": ["by their"],
    r"\bLet's calculate\b": ["We compute", "Next,"],
    r"\bThen, the final equation is\b": ["So the equation becomes"],
    # Between two sentences, something that says nothing.
    r"(?<=[a-z0-9)]\. )(?=[A-Z0-9(-])": ["Then ", "Next, ", "Now "],
}
REWORDING = re.compile("|".join(f"({pattern})" for pattern in REWORDINGS))


def reword(chain: Chain, rate: float, rng: random.Random) -> Chain:
    """Rewords each place that can be reworded and is outside of the spans with probability `rate`."""
    text, done, spans, num_carried = "", 0, [], 0
    for match in REWORDING.finditer(chain.text):
        start, end = match.span()
        if any(span.start < end and start < span.end for span in chain.spans) or rng.random() >= rate:
            continue
        # Spans up to here stand where the text before them ends now.
        while num_carried < len(chain.spans) and chain.spans[num_carried].end <= start:
            spans.append(moved(chain.spans[num_carried], len(text) - done))
            num_carried += 1
        assert match.lastindex is not None
        text += chain.text[done:start] + rng.choice(list(REWORDINGS.values())[match.lastindex - 1])
        done = end
    spans += [moved(span, len(text) - done) for span in chain.spans[num_carried:]]
    return Chain(text + chain.text[done:], tuple(spans))


def moved(span: Span, by: int) -> Span:
    return Span(span.start + by, span.end + by, span.role)


def swap_steps(chain: Chain, num_swaps: int, rng: random.Random) -> Chain:
    """Swaps two neighbouring steps that many times. The last step, the answer, stays."""
    borders = [0, *(match.end() for match in STEP_BREAK.finditer(chain.text)), len(chain.text)]
    order = list(range(len(borders) - 1))
    for _ in range(num_swaps if len(order) > 2 else 0):
        place = rng.randrange(len(order) - 2)
        order[place : place + 2] = reversed(order[place : place + 2])
    text, spans = "", []
    for step in order:
        start, end = borders[step : step + 2]
        for span in chain.spans:
            cut = Span(max(span.start, start), min(span.end, end), span.role)
            if cut.start < cut.end:
                spans.append(moved(cut, len(text) - start))
        text += chain.text[start:end]
    return Chain(text, tuple(spans))


# Scores of generated pairs

# Counts of one side. `found` is what has a key token.
FIELDS = ["tokens", "key", "truth", "found"]
FIELDS += [
    f"{role}{unit}{found}"
    for role in ("mistake", "consequence")
    for unit in ("", "_spans")
    for found in ("", "_found")
]


@dataclass(frozen=True)
class Truth:
    """What the spans of a chain say about its tokens: the role of each token, and the tokens of each span."""

    roles: list[str | None]
    spans: list[tuple[str, list[int]]]


def find_truth(chain: TokenChain, spans: Sequence[Span]) -> Truth:
    truth = Truth([None] * len(chain.ids), [])
    for span in spans:
        tokens = [i for i, touched in enumerate(chain.touches(span.start, span.end)) if touched]
        truth.spans.append((span.role, tokens))
        for i in tokens:
            # A token that holds part of both is one of the mistake.
            if truth.roles[i] != "mistake":
                truth.roles[i] = span.role
    return truth


def count(truth: Truth, key: Sequence[bool]) -> list[int]:
    """Counts of one side, in the order of `FIELDS`."""
    counts = dict.fromkeys(FIELDS, 0)
    counts["tokens"], counts["key"] = len(key), sum(key)
    for role, is_key in zip(truth.roles, key, strict=True):
        if role is not None:
            counts["truth"] += 1
            counts["found"] += is_key
            counts[role] += 1
            counts[f"{role}_found"] += is_key
    for role, tokens in truth.spans:
        counts[f"{role}_spans"] += 1
        counts[f"{role}_spans_found"] += any(key[i] for i in tokens)
    return list(counts.values())


def ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """Quotient, 0 where there is nothing to divide."""
    return np.divide(numerator, denominator, out=np.zeros(np.shape(denominator)), where=np.asarray(denominator) != 0)


def scores(sums: np.ndarray) -> dict[str, np.ndarray]:
    """Scores of counts of shape (..., side, field)."""
    chosen, rejected, both = (
        dict(zip(FIELDS, np.moveaxis(counts, -1, 0), strict=True))
        for counts in (sums[..., 0, :], sums[..., 1, :], sums.sum(-2))
    )
    values = {
        "key_ratio": ratio(both["key"], both["tokens"]),
        "truth_ratio": ratio(both["truth"], both["tokens"]),
        "precision": ratio(both["found"], both["key"]),
        "recall": ratio(both["found"], both["truth"]),
    }
    for side, counts in {"": both, "chosen_": chosen, "rejected_": rejected}.items():
        values[f"{side}f1"] = ratio(2 * counts["found"], counts["key"] + counts["truth"])
        for role in ("mistake", "consequence"):
            values[f"{side}{role}_recall"] = ratio(counts[f"{role}_found"], counts[role])
            values[f"{side}{role}_span_recall"] = ratio(counts[f"{role}_spans_found"], counts[f"{role}_spans"])
    return values


def bootstrap_weights(num_units: int, num_resamples: int, seed: int) -> np.ndarray:
    """How often each unit is in each resample, of shape (num_resamples, num_units)."""
    rng = np.random.default_rng(seed)
    return rng.multinomial(num_units, np.full(num_units, 1 / num_units), size=num_resamples).astype(float)


def interval(values: np.ndarray) -> list[float]:
    return np.percentile(values, [2.5, 97.5]).tolist()


def summarize(counts: np.ndarray, num_resamples: int, seed: int) -> list[dict[str, Any]]:
    """
    One record per rule, from counts of shape (pair, rule, side, field): each score with its interval. All rules share
    their resamples, so that the intervals of differences to `align` compare the same pairs.
    """
    estimates = scores(counts.sum(0))
    weights = bootstrap_weights(len(counts), num_resamples, seed)
    resampled = scores(np.tensordot(weights, counts, axes=1))
    baseline = list(RULES).index("align")
    results = []
    for number, rule in enumerate(RULES):
        record: dict[str, Any] = {"rule": rule, "num_pairs": len(counts)}
        for name, values in estimates.items():
            record[name] = float(values[number])
            record[f"{name}_interval"] = interval(resampled[name][:, number])
        record["f1_difference"] = float(estimates["f1"][number] - estimates["f1"][baseline])
        record["f1_difference_interval"] = interval(resampled["f1"][:, number] - resampled["f1"][:, baseline])
        results.append(record)
    return results


def wilson(successes: int, trials: int) -> list[float]:
    """95 % interval of a share."""
    if not trials:
        return [0.0, 1.0]
    z = 1.959964
    share, spread = successes / trials, z * z / trials
    middle, half = share + spread / 2, z * math.sqrt(share * (1 - share) / trials + spread / trials / 4)
    return [max((middle - half) / (1 + spread), 0.0), min((middle + half) / (1 + spread), 1.0)]


@dataclass(frozen=True)
class Job:
    """Pairs that one process tokenizes and scores: a tokenizer, and what is done to the wrong chains."""

    tokenizer_name: str
    tokenizer: PreTrainedTokenizerBase
    variant: str
    prompts: list[str]
    pairs: list[tuple[Chain, Chain]]
    seed: int

    def token_pairs(self) -> Iterable[TokenPair]:
        collator = DataCollatorForDualCoT(pad_token_id=0, alignment_level="word", tokenizer=self.tokenizer)
        for number, (prompt, pair) in enumerate(zip(self.prompts, self.pairs, strict=True)):
            chosen, rejected = (tokenize(self.tokenizer, prompt, chain.text) for chain in pair)
            yield TokenPair(chosen, rejected, collator, f"{self.seed}/{number}")


def score_generated(job: Job) -> np.ndarray:
    """Counts of shape (pair, rule, side, field)."""
    counts = []
    for tokens, pair in zip(job.token_pairs(), job.pairs, strict=True):
        truths = [find_truth(side, chain.spans) for side, chain in zip(tokens.sides, pair, strict=True)]
        counts.append([[*map(count, truths, rule(tokens))] for rule in RULES.values()])
    return np.array(counts)


def generate(num_pairs: int, levels: Sequence[int], seed: int) -> list[DualCoT]:
    tasks = IN_DOMAIN_TASKS + OUT_OF_DOMAIN_TASKS
    examples: list[DualCoT] = []
    for number, level in enumerate(levels):
        share = num_pairs // len(levels) + (number < num_pairs % len(levels))
        examples += generate_dual_cots(share, tasks=tasks, level=level, seed=seed)
    return examples


def variants(
    examples: Sequence[DualCoT], rates: Sequence[float], swaps: Sequence[int], seed: int
) -> dict[str, list[tuple[Chain, Chain]]]:
    """The pairs as they are, and with wrong chains that are reworded or have swapped steps."""
    pairs = [
        (Chain(example.chosen, example.chosen_spans), Chain(example.rejected, example.rejected_spans))
        for example in examples
    ]

    def change(how: Callable[[Chain, Any, random.Random], Chain], amount: float) -> list[tuple[Chain, Chain]]:
        return [
            (chosen, how(rejected, amount, random.Random(f"{seed}/{number}")))
            for number, (chosen, rejected) in enumerate(pairs)
        ]

    return {
        "as generated": pairs,
        **{f"reworded {rate:g}": change(reword, rate) for rate in rates},
        **{f"swapped {num_swaps}": change(swap_steps, num_swaps) for num_swaps in swaps},
    }


# Real mistakes: solvers that write the right chain in the form of the wrong one

Record = dict[str, Any]  # of BIG-Bench Mistake: input, steps, answer, target, mistake_index


class UnsolvableError(Exception):
    """Why a chain has no rectified one."""


BRACKETS = {"(": ")", "[": "]", "{": "}", "<": ">"}


def solve_dyck(record: Record) -> list[str]:
    steps = ["We should process each input one by one and keep track of the stack configuration.", "stack: empty"]
    stack: list[str] = []
    for symbol in record["input"].split():
        if symbol in BRACKETS:
            stack.append(symbol)
        elif not stack or BRACKETS[stack.pop()] != symbol:
            raise UnsolvableError("the input closes a bracket that is not open")
        steps.append(f"{symbol} ; stack: {' '.join(stack) or 'empty'}")
    popped = stack[::-1]
    closing = [BRACKETS[symbol] for symbol in popped]
    quoted, needed = (", ".join(f'"{symbol}"' for symbol in symbols) for symbols in (popped, closing))
    return [
        *steps,
        f'Now, we have reached the end. The final stack is "{" ".join(stack)}".',
        f"We will need to pop out {quoted} one by one in that order.",
        f"So, we need {needed}. So the answer is {' '.join(closing)}",
    ]


def solve_tracking(record: Record) -> list[str]:
    question, _, choices = record["input"].partition("\nOptions:")
    options = dict(re.findall(r"\(([A-Z])\) (.+?)\.?\s*(?:\n|$)", choices))
    start, _, story = question.partition("\n")
    owned = dict(
        re.findall(r"([A-Z]\w+) (?:has an?|gets|is playing|is dancing with) (.+?)(?=, (?:and )?[A-Z]\w+ |\.$)", start)
    )
    # The chains may shorten names to letters, "The Great Gatsby" to "Gatsby" and "blue ball" to "blue".
    heading = re.fullmatch(r"(At the start: )?(.+?)(\.?)", record["steps"][0])
    written = heading and dict(re.findall(r"(\w+): ([^,]+)", heading[2]))
    swap = re.search(r"^\w+ and \w+( (?:swap|switch|trade)(?: \w+)?: )", "\n".join(record["steps"]), re.MULTILINE)
    if not (heading and swap and written) or len(written) != len(owned):
        raise UnsolvableError("the steps are in another form")
    names = {name: short for name in owned for short in written if name.startswith(short)}
    if len(names) < len(owned) or any(written[names[name]].lower() not in owned[name].lower() for name in owned):
        raise UnsolvableError("the steps are in another form")

    def state() -> str:
        return ", ".join(f"{name}: {thing}" for name, thing in written.items()) + heading[3]

    steps = [f"{heading[1] or ''}{state()}"]
    for a, b in re.findall(r"(\w+) and (\w+) (?:swap|switch|trade)", story):
        one, other = names[a], names[b]
        written[one], written[other] = written[other], written[one]
        owned[a], owned[b] = owned[b], owned[a]
        steps.append(f"{one} and {other}{swap[1]}{state()}")
    asked = story.split(". ")[-1].strip()  # "At the end of the game, Alice has the"
    found = owned[asked.partition(", ")[2].split()[0]]
    letter, option = next((letter, option) for letter, option in options.items() if option == found)
    end = f"{asked} {option}. " if record["steps"][-1].startswith("At the end") else ""
    return [*steps, f"{end}So the answer is ({letter})"]


ORDINALS = ["first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth"]


def solve_sorting(record: Record) -> list[str]:
    wrong = record["steps"]
    words = record["input"].split()
    if len(set(words)) < len(words):
        raise UnsolvableError("a word occurs twice")
    # Words that are not told apart yet stand in the order in which the wrong chain first groups them.
    grouped = re.findall(r'"([^"]+)"', wrong[1]) if len(wrong) > 1 else []
    words.sort(key=lambda word: (grouped.index(word) if word in grouped else len(grouped), word))

    def number(word: str, place: int) -> int:
        if place >= len(word) or not "a" <= word[place] <= "z":
            raise UnsolvableError("words that no letter tells apart")
        return ord(word[place]) - 96

    def split(group: list[str], place: int) -> list[list[str]]:
        return [
            [word for word in group if number(word, place) == n]
            for n in sorted({number(word, place) for word in group})
        ]

    def spell(group: list[str]) -> str:
        quoted = " ? ".join(f'"{word}"' for word in group)
        return f"[{quoted}]" if len(group) > 1 else quoted

    def letters(group: list[str], place: int) -> str:
        return " ".join(f'"{word}": "{word[place]}" ({number(word, place)}).' for word in group)

    def numbered(groups: list[list[str]], place: int) -> str:
        return " < ".join(f"({number(group[0], place)}) {spell(group)}" for group in groups)

    state = split(words, 0)
    steps = [
        "I should start by looking at the first letter of the words in the list. The first letter: "
        f"{letters(record['input'].split(), 0)}",
        f"We now have: {numbered(state, 0)}.",
    ]
    depth = dict.fromkeys(words, 1)
    while open_groups := [group for group in state if len(group) > 1]:
        # Steps that are kept may have an order of their own; from the marked one on it is the first subpart.
        named = re.search(r"subpart \[(.+?)\]", wrong[len(steps)]) if len(steps) < record["mistake_index"] else None
        named_words = set(re.findall(r'"([^"]+)"', named[1])) if named else set()
        group = next((group for group in open_groups if set(group) == named_words), open_groups[0])
        place = depth[group[0]]
        if place >= len(ORDINALS):
            raise UnsolvableError("words that no letter tells apart")
        parts = split(group, place)
        state[state.index(group) : state.index(group) + 1] = parts
        depth.update(dict.fromkeys(group, place + 1))
        ordinal = ORDINALS[place]
        steps += [
            f"Now let's sort this subpart {spell(group)} by looking at their {ordinal} letters. "
            f"The {ordinal} letter: {letters(group, place)}",
            f"We now have: {numbered(parts, place)} for the subpart. Hence, we have {' < '.join(map(spell, state))}.",
        ]
    return [*steps, f"I have now sorted all the words. The answer is {' '.join(word for [word] in state)}"]


def calculate(expression: str) -> int | None:
    """Value of an expression of whole numbers, `None` if it is none."""
    # A bracket behind a number would be a call, two stars a power.
    if not re.fullmatch(r"[-+*() 0-9]+", expression) or re.search(r"[0-9)] *\(|\*\*", expression):
        return None
    try:
        return eval(expression, {"__builtins__": {}})
    except SyntaxError:  # brackets that do not match
        return None


def work_out(expression: str) -> list[str]:
    """What is left of an expression after each operation: brackets first, then products, from left to right."""
    steps: list[str] = []
    while True:
        expression = re.sub(r"\((-?\d+)\)", r"\1", expression)
        if re.fullmatch(r"-?\d+", expression):
            # The last operation took the brackets away.
            return [*steps[:-1], expression]
        inner = re.search(r"\(([^()]+)\)", expression)
        start, end = inner.span(1) if inner else (0, len(expression))
        part = expression[start:end]
        operation = re.search(r"-?\d+ \* -?\d+", part) or re.match(r"-?\d+ [-+] -?\d+", part)
        assert operation is not None
        result = calculate(operation[0])
        expression = expression[: start + operation.start()] + str(result) + expression[start + operation.end() :]
        steps.append(expression)


def continue_rightly(expressions: Sequence[str], start: str, value: int) -> list[str]:
    """The expressions up to the first of another value, worked out from there; `start` is worked out if none is left."""
    right = [*expressions]
    for number, expression in enumerate(expressions):
        if calculate(expression) != value:
            right = [*expressions[:number]] or [start]
            return right if re.fullmatch(r"-?\d+", right[-1]) else right + work_out(right[-1])
    return right


def solve_arithmetic(record: Record) -> list[str]:
    steps, target = record["steps"], int(record["target"])
    heading = re.fullmatch(r'This equation can be written as "(.+?)", where (.+)\.', steps[0])
    if not heading:
        raise UnsolvableError("the steps are in another form")
    formula = heading[1]
    definitions = dict(re.findall(r"([A-H]) = (.+?)(?=,? and [A-H] = |, [A-H] = |$)", heading[2]))
    values = {name: calculate(expression) for name, expression in definitions.items()}
    if None in values.values() or set(re.findall("[A-H]", formula)) != values.keys():
        raise UnsolvableError("the steps are in another form")
    # A negative number after an operator gets brackets.
    filled = re.sub(
        r"(?<=[-+*] )[A-H]", lambda name: f"({values[name[0]]})" if (values[name[0]] or 0) < 0 else name[0], formula
    )
    filled = re.sub("[A-H]", lambda name: str(values[name[0]]), filled)
    if calculate(filled) != target:
        raise UnsolvableError("the first step takes the expression apart wrongly")
    written = steps[:1]
    for step in steps[1:-1]:
        parts = step.rstrip(".").split(" = ")
        name = parts[0].removeprefix("Let's calculate ")
        if name not in values or step == parts[0]:
            raise UnsolvableError("the steps are in another form")
        value = values[name]
        assert value is not None
        written.append(" = ".join([parts[0], *continue_rightly(parts[1:], definitions[name], value)]) + ".")
    final = re.fullmatch(r"Then, the final equation is (.+?)\. So the answer is -?\d+", steps[-1])
    if not final or len(written) != len(values) + 1:
        raise UnsolvableError("the steps are in another form")
    parts = final[1].split(" = ")
    worked = continue_rightly(parts[1:], filled, target)
    return [*written, f"Then, the final equation is {' = '.join([parts[0], *worked])}. So the answer is {target}"]


SOLVERS: dict[str, Callable[[Record], list[str]]] = {
    "dyck_languages": solve_dyck,
    "tracking_shuffled_objects": solve_tracking,
    "word_sorting": solve_sorting,
    "multistep_arithmetic": solve_arithmetic,
}


def plain(step: str) -> str:
    """A step without what may be written one way or another: spaces, quotes, the order of words not told apart yet."""
    step = re.sub(r"\[([^\]]*\?[^\]]*)\]", lambda group: " ".join(sorted(group[1].split(" ? "))), step)
    return " ".join(re.sub(r'["\',.]|\band\b', " ", step).lower().split())


def rectify(task: str, record: Record) -> list[str]:
    """
    Steps of the right chain: those before the marked one kept, the others of the solver.

    Raises `UnsolvableError` with the reason if there is none to compare with.
    """
    marked = record["mistake_index"]
    if " ".join(record["answer"].split()) == " ".join(record["target"].split()):
        raise UnsolvableError("the answer is right")
    if marked is None:
        raise UnsolvableError("no step is marked")
    solution = SOLVERS[task](record)
    answer = re.split(r"answer is ", solution[-1])[-1]
    if answer != " ".join(record["target"].split()):
        raise UnsolvableError("the solver's answer is not the target")
    for kept, right in zip(record["steps"][:marked], solution, strict=False):
        # Some chains leave out the whole list after a subpart.
        if "Hence" not in kept:
            right = right.partition(" Hence")[0]
        if plain(kept) != plain(right):
            raise UnsolvableError("a step before the marked one differs from the solver's")
    if marked >= len(solution) or plain(solution[marked]) == plain(record["steps"][marked]):
        raise UnsolvableError("the marked step agrees with the solver's")
    return [*record["steps"][:marked], *solution[marked:]]


def read_rectified(folder: Path) -> tuple[dict[str, list[tuple[Record, list[str]]]], dict[str, Counter[str]]]:
    """For each task the records that can be rectified, with their right steps, and why the others cannot."""
    rectified: dict[str, list[tuple[Record, list[str]]]] = {}
    reasons: dict[str, Counter[str]] = {}
    for task in SOLVERS:
        rectified[task], reasons[task] = [], Counter()
        for line in (folder / f"{task}.jsonl").read_text(encoding="utf-8").splitlines():
            record = json.loads(line)
            try:
                rectified[task].append((record, rectify(task, record)))
            except UnsolvableError as error:
                reasons[task][str(error)] += 1
    return rectified, reasons


# Of a pair with a marked line: whether the first key token of either chain, and of the wrong one, is in it; whether key
# tokens lie before it; key tokens and tokens of both chains before it, in it and after it.
PLACES = ["first", "first_rejected", "alarmed"]
PLACES += [f"{what}_{where}" for where in ("before", "marked", "after") for what in ("key", "tokens")]


def place(pair: TokenPair, masks: Masks, marked: int) -> list[int]:
    """Counts in the order of `PLACES`."""
    lines = [side.lines for side in pair.sides]
    key_lines = [[line for line, key in zip(*side, strict=True) if key] for side in zip(lines, masks, strict=True)]
    parts = []
    for holds in (lambda line: line < marked, lambda line: line == marked, lambda line: line > marked):
        parts += [sum(holds(line) for side in found for line in side) for found in (key_lines, lines)]
    first, first_rejected = (min(found, default=-1) == marked for found in (sum(key_lines, []), key_lines[1]))
    return [int(first), int(first_rejected), int(parts[0] > 0), *parts]


def score_real(job: Job, marked: Sequence[int]) -> np.ndarray:
    """Counts of shape (pair, rule, place)."""
    return np.array(
        [
            [place(tokens, rule(tokens), line) for rule in RULES.values()]
            for tokens, line in zip(job.token_pairs(), marked, strict=True)
        ]
    )


def summarize_real(counts: np.ndarray, num_resamples: int, seed: int) -> list[dict[str, Any]]:
    """One record per rule, from counts of shape (pair, rule, place)."""
    weights = bootstrap_weights(len(counts), num_resamples, seed)
    resampled = np.moveaxis(np.tensordot(weights, counts, axes=1), -1, 0)
    results = []
    for number, rule in enumerate(RULES):
        sums = dict(zip(PLACES, counts[:, number].sum(0).tolist(), strict=True))
        draws = dict(zip(PLACES, resampled[..., number], strict=True))
        record: dict[str, Any] = {"rule": rule, "num_pairs": len(counts)}
        for name in PLACES[:3]:
            record[name] = sums[name] / len(counts)
            record[f"{name}_interval"] = wilson(sums[name], len(counts))
        record["num_before"] = sums["key_before"] / len(counts)
        record["num_before_interval"] = interval(draws["key_before"] / len(counts))
        for where in ("before", "marked", "after"):
            key, tokens = f"key_{where}", f"tokens_{where}"
            record[f"{where}_key_ratio"] = float(ratio(np.array(sums[key]), np.array(sums[tokens])))
            record[f"{where}_key_ratio_interval"] = interval(ratio(draws[key], draws[tokens]))
        results.append(record)
    return results


# The run


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table, padded to read as plain text."""
    widths = [max(len(row[column]) for row in [header, *rows]) for column in range(len(header))]
    lines = [[cell.ljust(width) for cell, width in zip(row, widths, strict=True)] for row in [header, *rows]]
    lines.insert(1, ["-" * width for width in widths])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def percent(record: dict[str, Any], name: str, with_interval: bool = True) -> str:
    if not with_interval:
        return f"{100 * record[name]:.1f}"
    low, high = record[f"{name}_interval"]
    return f"{100 * record[name]:.1f} ({100 * low:.1f}-{100 * high:.1f})"


def print_generated(results: Sequence[dict[str, Any]]) -> None:
    for name in dict.fromkeys(record["tokenizer"] for record in results):
        of_tokenizer = [record for record in results if record["tokenizer"] == name]
        as_generated = [record for record in of_tokenizer if record["variant"] == "as generated"]
        everything = [record for record in as_generated if record["group"] == "all"]
        truth = percent(everything[0], "truth_ratio", with_interval=False)
        print(f"\n## {name}: {everything[0]['num_pairs']} pairs, {truth} % of the tokens are in the truth\n")
        rows = [
            [
                record["rule"],
                percent(record, "key_ratio", with_interval=False),
                *[percent(record, column) for column in ("precision", "recall", "f1", "f1_difference")],
                *[percent(record, f"{role}_recall") for role in ("mistake", "consequence")],
                *[percent(record, f"{role}_span_recall", with_interval=False) for role in ("mistake", "consequence")],
            ]
            for record in everything
        ]
        header = ["rule", "key %", "precision", "recall", "F1", "F1 - align's", "mistake recall", "consequence recall"]
        print(table([*header, "mistake spans", "consequence spans"], rows))
        for title, key, records in (
            ("F1 by group", "group", as_generated),
            ("F1 by change", "variant", [record for record in of_tokenizer if record["group"] == "all"]),
        ):
            columns = list(dict.fromkeys(record[key] for record in records))
            cells = {(record["rule"], record[key]): percent(record, "f1", key == "variant") for record in records}
            print(f"\n{title}, {name}:\n")
            print(table(["rule", *columns], [[rule, *[cells[rule, column] for column in columns]] for rule in RULES]))


def print_real(results: Sequence[dict[str, Any]]) -> None:
    for name, variant in dict.fromkeys((record["tokenizer"], record["variant"]) for record in results):
        print(f"\n## Real mistakes, {name}, right chain {variant}\n")
        rows = [
            [
                record["task"],
                str(record["num_pairs"]),
                record["rule"],
                *[percent(record, column) for column in ("first", "first_rejected", "alarmed")],
                "{:.1f} ({:.1f}-{:.1f})".format(record["num_before"], *record["num_before_interval"]),
                *[percent(record, f"{where}_key_ratio") for where in ("before", "marked", "after")],
            ]
            for record in results
            if (record["tokenizer"], record["variant"]) == (name, variant)
        ]
        header = ["task", "pairs", "rule", "first key token in the marked step", "of the wrong chain"]
        header += ["pairs with key tokens before", "key tokens before", "key % before", "key % in it", "key % after"]
        print(table(header, rows))


def run_jobs(
    function: Callable[..., np.ndarray], jobs: Sequence[tuple[Any, ...]], num_processes: int
) -> list[np.ndarray]:
    if num_processes == 1:
        return [function(*job) for job in jobs]
    with ProcessPoolExecutor(num_processes) as executor:
        return [future.result() for future in [executor.submit(function, *job) for job in jobs]]


def run_generated(args: argparse.Namespace, given: dict[str, PreTrainedTokenizerBase]) -> list[dict[str, Any]]:
    examples = generate(args.num_pairs, args.levels, args.seed)
    pairs = variants(examples, args.rates, args.swaps, args.seed)
    prompts = [example.to_pair()["prompt"] for example in examples]
    texts = [f" {chain.text}" for changed in pairs.values() for pair in changed for chain in pair]
    all_tokenizers = given | build_tokenizers([*prompts, *texts])
    jobs = [
        Job(name, tokenizer, variant, prompts, changed, args.seed)
        for name, tokenizer in all_tokenizers.items()
        for variant, changed in pairs.items()
    ]
    forgets = np.array([all(span.role != "mistake" for span in example.rejected_spans) for example in examples])
    groups = {"all": np.full(len(examples), True), "forgotten step": forgets, "other mistakes": ~forgets}
    groups |= {
        task: np.array([example.task == task for example in examples])
        for task in dict.fromkeys(example.task for example in examples)
    }
    results = []
    for job, counts in zip(jobs, run_jobs(score_generated, [(job,) for job in jobs], args.num_processes), strict=True):
        for group, members in groups.items():
            if members.any() and (group == "all" or job.variant == "as generated"):
                of_job = {"tokenizer": job.tokenizer_name, "variant": job.variant, "group": group}
                results += [of_job | record for record in summarize(counts[members], args.num_resamples, args.seed)]
    return results


def run_real(
    args: argparse.Namespace, given: dict[str, PreTrainedTokenizerBase]
) -> tuple[list[dict[str, Any]], dict[str, dict[str, int]]]:
    rectified, reasons = read_rectified(args.big_bench_mistake)
    jobs, places = [], []
    texts = []
    for task, records in rectified.items():
        prompts = [f"{record['input']}\n" for record, _ in records]
        wrong = [Chain("\n".join(record["steps"])) for record, _ in records]
        right = [Chain("\n".join(steps)) for _, steps in records]
        changed = {"kept": right}
        for rate in args.rates:
            rngs = [random.Random(f"{args.seed}/{number}") for number in range(len(right))]
            changed[f"reworded {rate:g}"] = [reword(chain, rate, rng) for chain, rng in zip(right, rngs, strict=True)]
        for variant, chains in changed.items():
            places.append((task, variant, prompts, list(zip(chains, wrong, strict=True))))
            texts += [f" {chain.text}" for chain in [*chains, *wrong]]
        texts += prompts
    # Without `characters`: chains of 4,000 characters take some rules minutes.
    built = {name: tokenizer for name, tokenizer in build_tokenizers(texts).items() if name != "characters"}
    for name, tokenizer in (given | built).items():
        for task, variant, prompts, pairs in places:
            marked = [record["mistake_index"] for record, _ in rectified[task]]
            jobs.append((task, Job(name, tokenizer, variant, prompts, pairs, args.seed), marked))
    results = []
    counts = run_jobs(score_real, [job[1:] for job in jobs if job[2]], args.num_processes)
    for (task, job, _), of_job in zip([job for job in jobs if job[2]], counts, strict=True):
        labels = {"tokenizer": job.tokenizer_name, "variant": job.variant, "task": task}
        results += [labels | record for record in summarize_real(of_job, args.num_resamples, args.seed)]
    return results, {task: {"rectified": len(rectified[task]), **reasons[task]} for task in rectified}


def named_path(argument: str) -> tuple[str, str]:
    name, separator, path = argument.partition("=")
    if not (name and separator and path):
        raise argparse.ArgumentTypeError(f"must be name=path, got {argument!r}")
    return name, path


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--num_pairs", type=int, default=2000, help="generated pairs; 0 leaves part 1 out (default: %(default)s)"
    )
    parser.add_argument(
        "--levels", type=int, nargs="+", default=[1, 2, 3], help="their difficulties, in equal shares (default: 1 2 3)"
    )
    parser.add_argument(
        "--tokenizers",
        type=named_path,
        nargs="+",
        default=[],
        metavar="NAME=PATH",
        help="tokenizers to use beside those built here, each a folder or a name on the Hub, with what to call it",
    )
    parser.add_argument(
        "--rates",
        type=float,
        nargs="*",
        default=[0.1, 0.25, 0.5, 1.0],
        help="shares of the places that can be reworded to reword (default: 0.1 0.25 0.5 1)",
    )
    parser.add_argument(
        "--swaps", type=int, nargs="*", default=[1, 2, 3], help="swaps of neighbouring steps (default: 1 2 3)"
    )
    parser.add_argument(
        "--big_bench_mistake",
        type=Path,
        metavar="FOLDER",
        help="folder with the JSONL files of BIG-Bench Mistake, one for each task, for part 2",
    )
    parser.add_argument(
        "--num_resamples", type=int, default=1000, help="of the bootstrap intervals (default: %(default)s)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of everything drawn (default: %(default)s)")
    parser.add_argument("--num_processes", type=int, default=1, help="processes (default: %(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write settings and results here")
    args = parser.parse_args(argv)
    if args.num_pairs < 0:
        parser.error(f"`--num_pairs` must be positive or zero, got {args.num_pairs}. Zero leaves part 1 out.")
    if args.big_bench_mistake and not args.big_bench_mistake.is_dir():
        parser.error(f"`--big_bench_mistake` must be a folder, got {args.big_bench_mistake}.")
    return args


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    given = {name: AutoTokenizer.from_pretrained(path) for name, path in args.tokenizers}
    report: dict[str, Any] = {
        "settings": {
            name: value
            for name, value in vars(args).items()
            if name not in ("json", "tokenizers", "big_bench_mistake")
        },
    }
    if args.num_pairs:
        report["generated"] = run_generated(args, given)
        print_generated(report["generated"])
    if args.big_bench_mistake:
        report["real"], report["real_pairs"] = run_real(args, given)
        print(f"\nReal pairs: {json.dumps(report['real_pairs'], indent=2)}")
        print_real(report["real"])
    if args.json:
        args.json.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
