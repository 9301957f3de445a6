"""
Compute the scores of the rules in the key-step benchmark, from the spans of generated pairs or the marked lines of
real chains.

In a generated pair, a token is part of the mistake (or of its consequences) if it has a character in such a span,
without the whitespace at the ends of the span. Both chains count. A step that the wrong chain forgets is a mistake of
the right chain only: it counts there, and has no counterpart in the wrong chain. Intervals are 95 % bootstrap
intervals over pairs, and Wilson intervals for shares of pairs.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from key_steps_chains import Chain, TokenChain, TokenPair, tokenize
from key_steps_rules import RULES, Masks
from transformers import PreTrainedTokenizerBase

from edit_trl import DataCollatorForDualCoT
from edit_trl.evaluation.metrics import wilson_interval
from edit_trl.tasks import Span


# Counts of one chain. `found` counts the tokens of the truth that the rule marks; a span is found if any token is key.
FIELDS = ["tokens", "key", "truth", "found"]
FIELDS += [
    f"{role}{unit}{found}"
    for role in ("mistake", "consequence")
    for unit in ("", "_spans")
    for found in ("", "_found")
]


@dataclass(frozen=True)
class Truth:
    """The truth about the tokens of a chain, from its spans: the role of each token, and the tokens of each span."""

    roles: list[str | None]
    spans: list[tuple[str, list[int]]]


def find_truth(chain: TokenChain, spans: Sequence[Span]) -> Truth:
    truth = Truth([None] * len(chain.ids), [])
    for span in spans:
        tokens = [i for i, touched in enumerate(chain.touches(span.start, span.end)) if touched]
        truth.spans.append((span.role, tokens))
        for i in tokens:
            # A token with characters of both counts as part of the mistake.
            if truth.roles[i] != "mistake":
                truth.roles[i] = span.role
    return truth


def count_side(truth: Truth, key: Sequence[bool]) -> list[int]:
    """Counts of one chain, in the order of `FIELDS`."""
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
    """Quotient, 0 where the denominator is 0."""
    return np.divide(numerator, denominator, out=np.zeros(np.shape(denominator)), where=np.asarray(denominator) != 0)


def compute_scores(sums: np.ndarray) -> dict[str, np.ndarray]:
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


# The library's `bootstrap_interval` cannot be used: it is the interval of a mean. Precision, recall and F1 are ratios
# of sums over pairs, and the difference of two rules needs the same resamples of pairs for both.
def bootstrap_weights(num_units: int, num_resamples: int, seed: int) -> np.ndarray:
    """Draw how often each unit is in each resample, of shape (num_resamples, num_units)."""
    rng = np.random.default_rng(seed)
    return rng.multinomial(num_units, np.full(num_units, 1 / num_units), size=num_resamples).astype(float)


def interval(values: np.ndarray) -> list[float]:
    return np.percentile(values, [2.5, 97.5]).tolist()


def summarize_generated(counts: np.ndarray, num_resamples: int, seed: int) -> list[dict[str, Any]]:
    """
    Make one record per rule, from counts of shape (pair, rule, side, field): each score with its interval. All rules
    use the same resamples, so that the intervals of differences to `align` compare the same pairs.
    """
    estimates = compute_scores(counts.sum(0))
    weights = bootstrap_weights(len(counts), num_resamples, seed)
    resampled = compute_scores(np.tensordot(weights, counts, axes=1))
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


@dataclass(frozen=True)
class Job:
    """Pairs that one process tokenizes and scores, and the labels of these pairs in the results."""

    labels: dict[str, str]
    tokenizer: PreTrainedTokenizerBase
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
        counts.append([[*map(count_side, truths, rule(tokens))] for rule in RULES.values()])
    return np.array(counts)


# Counts of a pair with a marked line: whether the first key token of the pair is in this line (`first`), and the first
# key token of the wrong chain (`first_rejected`); whether there are key tokens before the line (`alarmed`); the
# numbers of key tokens and of tokens of both chains before, in and after the line.
PLACES = ["first", "first_rejected", "alarmed"]
PLACES += [f"{what}_{where}" for where in ("before", "marked", "after") for what in ("key", "tokens")]


def count_places(pair: TokenPair, masks: Masks, marked: int) -> list[int]:
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
            [count_places(tokens, rule(tokens), line) for rule in RULES.values()]
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
            record[f"{name}_interval"] = list(wilson_interval(sums[name], len(counts)))
        record["num_before"] = sums["key_before"] / len(counts)
        record["num_before_interval"] = interval(draws["key_before"] / len(counts))
        for where in ("before", "marked", "after"):
            key, tokens = f"key_{where}", f"tokens_{where}"
            record[f"{where}_key_ratio"] = float(ratio(np.array(sums[key]), np.array(sums[tokens])))
            record[f"{where}_key_ratio_interval"] = interval(ratio(draws[key], draws[tokens]))
        results.append(record)
    return results
