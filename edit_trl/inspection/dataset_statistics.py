"""
Compute statistics of a dual-CoT dataset, pair by pair, and advice for training.

`pairs.py` reads the pairs. `terminal.py` and `report.py` show the statistics, `distributions.py` makes histograms.
"""

import math
import os
from array import array
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

from .pairs import DROPPED, PROBLEMS, InspectedPair, InspectionConfig


# Share of key tokens in the paper's data, from its appendix.
PAPER_KEY_TOKEN_RATIO = 0.047

_QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
# Maximum number of different key tokens that are counted. A vocabulary has fewer; infrequent words are dropped.
_MAX_COUNTED = 200_000


class Statistics:
    """
    Statistics of a dataset, gathered pair by pair. They keep only a few bytes of each pair.

    Args:
        config ([`InspectionConfig`], *optional*):
            Options with which the pairs were read.
        unit (`str`, *optional*, defaults to `"tokens"`):
            Unit of the counts, `"tokens"` or `"words"`.

    Examples:

    ```python
    >>> from edit_trl.inspection import read_pairs
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
        self.num_completions = 0
        self.problems: Counter[str] = Counter()
        self.num_with_problems = 0
        self.values = {name: array("f") for name in ("both", "chosen", "rejected", "similarity", "shared")}
        self.lengths = {name: array("f") for name in ("prompt", "chosen", "rejected")}
        self.teachers: Counter[tuple[str, str | None]] = Counter()
        self.totals: Counter[str] = Counter()
        self.groups: dict[str, dict[str, dict[str, float]]] = {"task": {}, "origin": {}}
        self.key_pieces: dict[str, Counter[str]] = {"chosen": Counter(), "rejected": Counter()}

    @property
    def num_rows(self) -> int:
        """`int`: Pairs and completions that were counted."""
        return self.num_pairs + self.num_completions

    def add(self, pair: InspectedPair) -> None:
        """
        Count a pair or a completion.

        Args:
            pair ([`InspectedPair`]):
                The pair.
        """
        for problem in pair.problems:
            self.problems[problem] += 1
        self.num_with_problems += bool(pair.problems)
        if pair.is_completion:
            self.num_completions += 1
            self._add_totals(**pair.cost, cut=pair.num_cut, pairs_cut=pair.num_cut > 0)
            return
        self.num_pairs += 1
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
            for name, lengths in self.lengths.items():
                lengths.append(getattr(pair, f"num_{name}"))
            sums.update(read=1, both=numbers["both"], similarity=numbers["similarity"])
            self._count_tokens(pair)
        teacher, prompt_version = (pair.example.get(name) for name in ("teacher", "prompt_version"))
        if isinstance(teacher, str) and teacher:
            self.teachers[_public_name(teacher), prompt_version if isinstance(prompt_version, str) else None] += 1
        for column, groups in self.groups.items():
            name = getattr(pair, column)
            if name is not None:
                group = groups.setdefault(name, defaultdict(float))
                for key, number in sums.items():
                    group[key] += number

    def _add_totals(self, **numbers: int) -> None:
        for name, number in numbers.items():
            self.totals[name] += number

    def _count_tokens(self, pair: InspectedPair) -> None:
        self._add_totals(
            **pair.cost,
            cut=pair.num_cut,
            key_cut=pair.num_key_cut,
            pairs_cut=pair.num_cut > 0,
            no_chosen_key=not pair.num_chosen_key,
            no_rejected_key=not pair.num_rejected_key,
        )
        for side, counter in self.key_pieces.items():
            for text, is_key, _, _ in getattr(pair, side):
                if is_key:
                    counter[text] += 1
            if len(counter) > _MAX_COUNTED:
                self.key_pieces[side] = Counter(dict(counter.most_common(_MAX_COUNTED // 2)))

    def _repr_html_(self) -> str:
        """How a notebook shows the statistics."""
        from ..drawings import html_image
        from .plots import plot_statistics

        return html_image(plot_statistics(self), f"Distributions of key {self.unit}, similarity and common start")

    def summary(self) -> dict[str, Any]:
        """
        Return the statistics as a dictionary of values that JSON can hold.

        Returns:
            `dict[str, Any]`: `pairs` and `readable_pairs`; `completions`, the number of rows without a wrong chain;
            `unit`; `problems` by name, and the number of pairs `with_problems`; mean and quantiles of
            `key_token_ratio` (of `both` chains, `chosen`, `rejected`), `similarity`, `shared_start` and `lengths` (of
            `prompt`, `chosen` and `rejected`); `by_task` and `by_origin`; `teachers`, lists of a teacher, the version
            of its prompts and the number of its pairs, from the columns of [`synthesize`]; `truncation` at
            `max_length`; `one_sided`, the numbers of pairs without key tokens in one chain; the most frequent
            `key_tokens`; `cost`, the number of tokens through the model per epoch in the two layouts; `paper`; and
            `advice`.
        """
        values = {name: _describe(numbers) for name, numbers in self.values.items()}
        totals = self.totals
        summary = {
            "pairs": self.num_pairs,
            "readable_pairs": len(self.values["both"]),
            "completions": self.num_completions,
            "unit": self.unit,
            "problems": {name: self.problems[name] for name in PROBLEMS if self.problems[name]},
            "with_problems": self.num_with_problems,
            "key_token_ratio": {name: values[name] for name in ("both", "chosen", "rejected")},
            "similarity": values["similarity"],
            "shared_start": values["shared"],
            "lengths": {name: _describe(numbers) for name, numbers in self.lengths.items()},
            **{
                f"by_{column}": {name: _describe_group(counts) for name, counts in sorted(groups.items())}
                for column, groups in self.groups.items()
            },
            "teachers": [[*names, num] for names, num in self.teachers.most_common(20)],
            "truncation": {
                "max_length": self.config.max_length,
                "truncation_mode": self.config.truncation_mode,
                "pairs": totals["pairs_cut"],
                self.unit: totals["cut"],
                f"key_{self.unit}": totals["key_cut"],
            },
            "one_sided": {"chosen": totals["no_chosen_key"], "rejected": totals["no_rejected_key"]},
            "key_tokens": {side: counter.most_common(20) for side, counter in self.key_pieces.items()},
            "cost": {layout: totals[layout] for layout in ("padded", "shared_prefix")},
            "paper": {"key_token_ratio": PAPER_KEY_TOKEN_RATIO},
        }
        return {**summary, "advice": advise(summary, self.config)}


def advise(summary: dict[str, Any], config: InspectionConfig) -> list[str]:
    """
    Write advice: what the statistics mean for training.

    Args:
        summary (`dict[str, Any]`):
            Output of [`Statistics.summary`].
        config ([`InspectionConfig`]):
            Options with which the pairs were read.

    Returns:
        `list[str]`: Sentences, the most serious first. Empty if there is no advice.
    """
    num, problems, unit = summary["pairs"] + summary["completions"], summary["problems"], summary["unit"]
    if not summary["readable_pairs"] and not summary["completions"]:
        return ["No pair can be read: nothing would be trained on."] if num else ["There is no pair."]

    def share(number: int) -> str:
        return f"{number:,} of {num:,} {'rows' if summary['completions'] else 'pairs'}"

    advice = []
    if summary["completions"] and not (config.completion_weight or config.chosen_other_weight):
        advice.append(
            f"{share(summary['completions'])} have a completion and no rejected chain. Training needs a "
            "weight for their tokens: `completion_weight=1.0` trains them as SFT does."
        )
    ratio = summary["key_token_ratio"]["both"]["mean"] or 0.0
    if ratio > 0.3:
        advice.append(
            f"{ratio:.0%} of the {unit} are key: these chains are not dual, because they share too little to show "
            "where the mistake is. Training on them is close to training on whole chains. Make pairs that share their "
            "reasoning, or keep only such pairs with `--filter`."
        )
    elif ratio > 3 * PAPER_KEY_TOKEN_RATIO:
        advice.append(
            f"{ratio:.0%} of the {unit} are key, against about {PAPER_KEY_TOKEN_RATIO:.1%} of the tokens in the "
            "paper. Short chains have a higher share, and so have pairs that differ in wording and not only in "
            "reasoning. Look at the pairs with the highest ratio (`--sort key_token_ratio`)."
        )
    dropped = sum(problems.get(name, 0) for name in DROPPED)
    if dropped:
        advice.append(f"{share(dropped)} would be left out by the trainer: nothing can be learned from them.")
    for name, what in (
        ("chosen_is_wrong", "teach a wrong answer: their `chosen` does not arrive at `answer`"),
        ("rejected_is_right", "push the right answer away: their `rejected` arrives at `answer`"),
        ("same_answer", "give the same answer in both chains: their key tokens are wording"),
        (
            "not_dual",
            f"share less than {config.min_similarity:.0%} of their {unit}: most of their key tokens are wording",
        ),
        ("only_answer_differs", "have the same steps in both chains: they teach an answer and no reasoning"),
        ("duplicate", "repeat an earlier pair, which then counts more than the others"),
        ("unreadable", "cannot be read, and would stop the training"),
        ("too_long", "hold a text of more than a million characters: look for missing line breaks"),
        ("keys_cut", f"lose all their key tokens at `max_length={config.max_length}`: raise it"),
    ):
        if problems.get(name):
            advice.append(f"{share(problems[name])} {what}.")
    cut = summary["truncation"]["pairs"]
    if cut > problems.get("keys_cut", 0) + problems.get("no_room", 0):
        lost = "ends" if config.truncation_mode == "keep_start" else "beginnings"
        advice.append(
            f"{share(cut)} are cut at `max_length={config.max_length}`, and lose the {lost} of their chains."
        )
    if problems.keys() - set(DROPPED):
        advice.append(
            "`--filter FILE` writes the pairs without problems to a file, and the pairs with problems to a second "
            "file."
        )
    cost = summary["cost"]
    if summary["readable_pairs"] and cost["shared_prefix"] > 0.9 * cost["padded"]:
        advice.append(
            "The chains differ early: to compute their common start only once (`shared_prefix`) saves little here."
        )
    return advice


def _public_name(model: str) -> str:
    """Return the name of a model without the folder that it is in, since statistics may be published."""
    return Path(model).name if os.path.isabs(model) or model.startswith((".", "~")) else model


def _describe(numbers: "array[float]") -> dict[str, Any]:
    """Return mean and quantiles."""
    if not numbers:
        return {"mean": None, "quantiles": {}}
    ordered = sorted(numbers)
    last = len(ordered) - 1
    quantiles = {str(share): round(ordered[round(share * last)], 4) for share in _QUANTILES}
    return {"mean": round(math.fsum(numbers) / len(numbers), 4), "quantiles": quantiles}


def _describe_group(sums: dict[str, float]) -> dict[str, Any]:
    read = sums["read"]
    ratio, mean_similarity = (round(sums[name] / read, 4) if read else None for name in ("both", "similarity"))
    numbers = {name: int(sums[name]) for name in ("pairs", "problems")}
    return {**numbers, "key_token_ratio": ratio, "similarity": mean_similarity}
