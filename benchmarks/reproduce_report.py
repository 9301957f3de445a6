"""
Tables and plot of `reproduce.py`, made from its records alone.

Intervals are of a hierarchical bootstrap: seeds are drawn with replacement, then the test questions of each drawn
seed, the same ones for both arms. Each seed has students, training data and questions of its own, so the seeds are
what varies most. The p-value is twice the share of resamples on the other side of zero. Student's t over the seeds is
given beside it, since a bootstrap of few seeds is somewhat too narrow.
"""

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from reporting import import_pyplot, markdown_table
from reproduce_arms import ARMS
from reproduce_students import unpack
from reproduce_tasks import MAIN_TASKS


Record = dict[str, Any]
TESTS = {"in_domain": "in domain", "longer": "longer", "other": "other tasks"}
# The preset whose comparisons decide, and its seeds in the plan. With fewer, a verdict is marked as one so far.
DECIDING_PRESET, PLANNED_SEEDS = "small", 20
# What is compared, as the plan says: first the arms that decide, in the order of the plan.
DECIDING = {
    "EDIT": ("edit", "continued"),
    "own mistakes": ("mix_mended", "mix_teacher"),
    "key tokens": ("mix_key", "mix_mended"),
    "key, not random tokens": ("mix_key", "mix_random"),
}
# Kinds of mistakes on the same questions: mistakes of reasoning, and those of the task's own kind.
KINDS = {"with the push away": ("reasoning", "edit"), "without it": ("alpha_reasoning", "alpha_only")}
# What the paper reports of the same arms: mean accuracy of five benchmarks, LLaMA2-7B, single runs.
PAPER = {
    "stage_1": 44.3,
    "continued": 42.8,  # "data repeated to the same volume", of the right chains alone
    "edit": 46.5,
    "alpha_only": 45.0,
    "beta_only": 44.3,
    "dpo": 8.1,
    "marked": 43.8,
}
REFERENCES = {"paper": "continued", "mix": "mix_teacher", "scratch": "scratch_sft"}
NUM_RESAMPLES = 10_000


def num_questions(record: Record, test: str) -> int:
    """Number of questions of a test."""
    if "num_questions" in record:
        return record["num_questions"][test]
    settings = record["settings"]
    number, num_tasks = {
        "in_domain": ("num_test", 2),
        "longer": ("num_longer", 2),
        "other": ("num_other", 1),
        "pass": ("num_voted", 2),
        "self_consistency": ("num_voted", 2),
    }[test]
    return settings[number] * num_tasks


def marks(record: Record, test: str) -> np.ndarray:
    """Verdicts on the questions of a test, of shape (number of questions,)."""
    return np.array(unpack(record[test], num_questions(record, test)), dtype=float)


def by_seed(records: Iterable[Record], *arms: str) -> list[tuple[Record, ...]]:
    """The records of some arms, of the seeds that have all of them."""
    found = {(record["arm"], record["seed"]): record for record in records}
    seeds = sorted({seed for _, seed in found})
    return [tuple(found[arm, seed] for arm in arms) for seed in seeds if all((arm, seed) in found for arm in arms)]


def hierarchical_bootstrap(values: Sequence[np.ndarray], num_resamples: int = NUM_RESAMPLES) -> np.ndarray:
    """
    Draw means: first seeds with replacement, then as many questions of each drawn seed.

    The questions are drawn by the counts of their distinct values, since differences of verdicts have three values.
    `values` has one array for each seed. Returns an array of shape (number of resamples,).
    """
    generator = np.random.default_rng(0)
    drawn = generator.integers(len(values), size=(num_resamples, len(values)))
    means = np.empty(drawn.shape)
    for seed, own in enumerate(values):
        distinct, counts = np.unique(own, return_counts=True)
        places = drawn == seed
        sampled = generator.multinomial(len(own), counts / len(own), size=int(places.sum()))
        means[places] = sampled @ distinct / len(own)
    return means.mean(axis=1)


def estimate(values: Sequence[np.ndarray]) -> Record:
    """Mean over seeds with its bootstrap interval and p-value, and Student's t over seeds."""
    own = np.array([value.mean() for value in values])
    resampled = hierarchical_bootstrap(values)
    low, high = np.quantile(resampled, [0.025, 0.975])
    tail = min((resampled <= 0).sum(), (resampled >= 0).sum())
    spread = float(own.std(ddof=1)) if len(own) > 1 else math.nan
    half = t_quantile(len(own) - 1) * spread / math.sqrt(len(own)) if len(own) > 1 else math.nan
    mean = float(own.mean())
    return {
        "mean": mean,
        "interval": (float(low), float(high)),
        "p_value": min(1.0, 2 * (int(tail) + 1) / (len(resampled) + 1)),
        "t_interval": (mean - half, mean + half),
        "spread": spread,
        "num_seeds": len(own),
    }


def compare(records: Iterable[Record], arm: str, reference: str, test: str = "in_domain") -> Record | None:
    """The difference of an arm to another one, question by question; `None` if no seed has both."""
    pairs = by_seed(records, arm, reference)
    return estimate([marks(one, test) - marks(other, test) for one, other in pairs]) if pairs else None


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjust p-values for their number, with Holm's method."""
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    adjusted, highest = [0.0] * len(p_values), 0.0
    for rank, i in enumerate(order):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[i]))
        adjusted[i] = highest
    return adjusted


def t_quantile(degrees: int) -> float:
    """The value that Student's t exceeds with a probability of 2.5 %."""
    x = np.linspace(0, 20, 200_001)
    scale = math.exp(math.lgamma((degrees + 1) / 2) - math.lgamma(degrees / 2)) / math.sqrt(math.pi * degrees)
    density = scale * (1 + x**2 / degrees) ** (-(degrees + 1) / 2)
    middles = (density[1:] + density[:-1]) / 2
    return float(x[1 + np.searchsorted(np.cumsum(middles) * (x[1] - x[0]), 0.475)])


# Tables


def points(found: Record | None, digits: int = 1) -> str:
    """A difference in percentage points with its interval."""
    if found is None:
        return ""
    low, high = found["interval"]
    return f"{100 * found['mean']:+.{digits}f} ({100 * low:+.{digits}f} to {100 * high:+.{digits}f})"


def verdict(found: Record, adjusted: float) -> str:
    """What the plan says about a comparison: decided only if the adjusted p-value and Student's t agree."""
    low, high = found["t_interval"]
    is_decided = adjusted < 0.05 and (low > 0 or high < 0)
    word = ("better" if found["mean"] > 0 else "worse") if is_decided else "undecided"
    return word if found["num_seeds"] >= PLANNED_SEEDS else f"so far {word}"


def decides(records: Sequence[Record]) -> bool:
    """Whether the records are of the preset that the plan decides by."""
    return records[0]["settings"]["preset"] == DECIDING_PRESET


def deciding_table(records: Sequence[Record]) -> str:
    """The comparisons that decide, with Holm's correction. Of another preset, without a result."""
    found = {name: compare(records, *arms) for name, arms in DECIDING.items()}
    there = {name: result for name, result in found.items() if result is not None}
    adjusted = dict(zip(there, holm([result["p_value"] for result in there.values()]), strict=True))
    rows = []
    for name, result in there.items():
        arm, reference = DECIDING[name]
        low, high = result["t_interval"]
        student = "" if math.isnan(low) else f"{100 * low:+.1f} to {100 * high:+.1f}"
        rows.append(
            [
                name,
                f"`{arm}` - `{reference}`",
                str(result["num_seeds"]),
                points(result),
                student,
                "" if math.isnan(result["spread"]) else f"{100 * result['spread']:.1f}",
                f"{adjusted[name]:.4f}",
                verdict(result, adjusted[name]),
            ]
        )
    header = [
        "comparison",
        "arms",
        "seeds",
        "difference, points",
        "Student's t",
        "SD over seeds",
        "p (Holm)",
        "result",
    ]
    if not decides(records):
        header, rows = header[:-1], [row[:-1] for row in rows]
    return markdown_table(header, rows)


def accuracy_cell(group: Sequence[Record], test: str) -> str:
    """Mean accuracy over seeds in percent."""
    return f"{100 * np.mean([marks(record, test).mean() for record in group]):.1f}"


def mean_cell(group: Sequence[Record], name: str, factor: float = 1.0, digits: int = 1) -> str:
    """Mean of a number over seeds."""
    return f"{factor * np.mean([record[name] for record in group]):.{digits}f}"


def arms_table(records: Sequence[Record], differences: dict[str, Record]) -> str:
    """All arms: accuracy, difference to the matched arm of SFT, and the other read-outs."""
    rows = []
    adjusted = dict(zip(differences, holm([found["p_value"] for found in differences.values()]), strict=True))
    for name in ("stage_1", *ARMS):
        group = [record for record in records if record["arm"] == name]
        if not group:
            continue
        rates = sorted(f"{record['learning_rate']:g}" for record in group if "learning_rate" in record)
        chosen = ", ".join(f"{rate} × {rates.count(rate)}" for rate in sorted(set(rates), key=float))
        rows.append(
            [
                f"`{name}`",
                ARMS[name].what if name in ARMS else "stage 1",
                str(len(group)),
                *[accuracy_cell(group, test) for test in TESTS],
                points(differences.get(name)),
                f"{adjusted[name]:.4f}" if name in adjusted else "",
                mean_cell(group, "key_step_accuracy", 100),
                mean_cell(group, "nll", digits=3),
                mean_cell(group, "unparsed", 100 / num_questions(group[0], "in_domain")),
                chosen,
                mean_cell(group, "seconds", digits=0),
                f"{PAPER[name]:.1f}" if name in PAPER else "",
            ]
        )
    header = ["arm", "what", "seeds", *TESTS.values(), "minus SFT, points", "p (Holm)", "key steps", "NLL"]
    return markdown_table([*header, "unread, %", "rates", "seconds", "paper"], rows)


def sft_differences(records: Sequence[Record]) -> dict[str, Record]:
    """By arm, its difference to the matched arm of SFT."""
    references = {name: REFERENCES[arm.group] for name, arm in ARMS.items()}
    found = {name: compare(records, name, other) for name, other in references.items() if name != other}
    return {name: difference for name, difference in found.items() if difference is not None}


def samples_table(records: Sequence[Record]) -> str:
    """Pass@k and self-consistency of the arms that decide."""
    rows = []
    for name in ("stage_1", *ARMS):
        group = [record for record in records if record["arm"] == name and "pass" in record]
        if group:
            cells = [accuracy_cell(group, test) for test in ("pass", "self_consistency")]
            rows.append([f"`{name}`", str(len(group)), *cells])
    paths = records[0]["settings"]["num_paths"] if records else 0
    return markdown_table(["arm", "seeds", f"pass@{paths}, %", f"self-consistency@{paths}, %"], rows)


def transfer_table(records: Sequence[Record]) -> str:
    """The comparisons that decide on the other tests; not corrected, and nothing is decided by them."""
    rows = []
    for name, arms in DECIDING.items():
        cells = [compare(records, *arms, test) for test in TESTS]
        if cells[0] is not None:
            rows.append([name, *[points(cell) for cell in cells]])
    return markdown_table(["comparison", *TESTS.values()], rows)


def tasks_table(records: Sequence[Record], comparisons: dict[str, tuple[str, str]]) -> str:
    """Comparisons by task; not corrected, and nothing is decided by them."""
    rows = []
    for name, arms in comparisons.items():
        pairs = by_seed(records, *arms)
        if pairs:
            differences = [marks(one, "in_domain") - marks(other, "in_domain") for one, other in pairs]
            # The test has the questions of one task after those of the other.
            parts = zip(*(np.split(own, len(MAIN_TASKS)) for own in differences), strict=True)
            cells = [points(estimate(part)) for part in parts]
            rows.append([name, "`{}` - `{}`".format(*arms), str(len(pairs)), *cells])
    return markdown_table(["comparison", "arms", "seeds", *(f"`{task}`" for task in MAIN_TASKS)], rows)


def write_report(records: Sequence[Record], plot: Path | None = None) -> str:
    """Write all tables, and draw the plot."""
    if not records:
        return "No arm is finished, so there is no table yet."
    seeds = sorted({record["seed"] for record in records})
    differences = sft_differences(records)
    by_task = []
    if "source" not in records[0]["settings"]:
        by_task = [
            "The same by task, in domain:",
            tasks_table(records, DECIDING),
            "Kinds of mistakes in the wrong chains of the same questions: reasoning (one step applies another "
            "operation\nthan the question has) minus calculation (`totals`) or knowledge (`routes`):",
            tasks_table(records, KINDS),
        ]
    parts = [
        f"{len(records)} records of {len(seeds)} {'seed' if len(seeds) == 1 else 'seeds'}.",
        "The comparisons that decide, in domain:"
        if decides(records)
        else "The comparisons of the plan, in domain. They decide nothing here:",
        deciding_table(records),
        "The same on the other tests (nothing is decided by these):",
        transfer_table(records),
        *by_task,
        "All arms. Means over the seeds of each arm; the differences are paired, over the seeds that have both arms,\n"
        "and their p-values are corrected for the number of all arms. The last column is the paper's, for LLaMA2-7B:",
        arms_table(records, differences),
        "Sampled replies:",
        samples_table(records),
    ]
    if plot is not None:
        draw(records, differences, plot)
    return "\n\n".join(parts)


def draw(records: Sequence[Record], differences: dict[str, Record], path: Path) -> None:
    """Draw the difference of each arm to the matched arm of SFT, with its interval and one dot for each seed."""
    pyplot = import_pyplot()
    found = list(differences.items())
    figure, axes = pyplot.subplots(figsize=(8, 0.32 * len(found) + 1.2))
    for place, (name, result) in enumerate(reversed(found)):
        low, high = (100 * end for end in result["interval"])
        pairs = by_seed(records, name, REFERENCES[ARMS[name].group])
        dots = [100 * (marks(one, "in_domain") - marks(other, "in_domain")).mean() for one, other in pairs]
        axes.plot(dots, [place] * len(dots), ".", color="0.75")
        axes.plot([low, high], [place, place], color="C0")
        axes.plot(100 * result["mean"], place, "o", color="C0")
    axes.axvline(0, color="0.5", linewidth=0.8)
    axes.set_yticks(range(len(found)), [name for name, _ in reversed(found)])
    axes.set_xlabel("accuracy minus that of the matched arm of SFT, points (dots: seeds; bars: 95 % intervals)")
    figure.tight_layout()
    figure.savefig(path)


def write_docs(page: Path, preset_name: str, report: str) -> None:
    """Write the tables between the markers of a page."""
    begin, end = (f"<!-- reproduce {preset_name}: {word} -->" for word in ("begin", "end"))
    text = page.read_text(encoding="utf-8")
    if begin not in text or end not in text:
        raise SystemExit(f"{page} must have the lines {begin!r} and {end!r}, between which the tables are written.")
    before, after = text.split(begin)[0], text.split(end)[1]
    page.write_text(f"{before}{begin}\n\n{report}\n\n{end}{after}", encoding="utf-8")
