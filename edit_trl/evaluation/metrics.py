"""
Metrics of a student's answers: accuracy with intervals, comparison of two students, pass@k, majority vote.

All functions work on verdicts. A verdict is `True` for a right answer, `False` for a wrong answer, and `None` if no
answer could be read from the reply. `None` counts as wrong, and is also counted separately as unparsed. `answers.py`
reads and compares answers. All rates are shares between 0 and 1.

Two students that were asked the same questions are compared question by question. Use the interval of their difference
and not the overlap of their two intervals: it is narrower if the students make the same mistakes.
"""

import itertools
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from statistics import NormalDist
from typing import Any

from ..answers import answers_match
from ..deprecation import renamed_argument


# Maximum number of values drawn at the same time: distinct values times resamples.
_MAX_DRAWN = 10**6


@renamed_argument(level="confidence_level")
def accuracy(
    verdicts: Sequence[bool | None], tasks: Sequence[str | None] | None = None, confidence_level: float = 0.95
) -> dict[str, Any]:
    """
    Compute the accuracy over all questions and by task, with intervals, and the share of replies without an answer.

    The accuracy over all questions (micro average) gives each question the same weight; its interval is
    [`wilson_interval`]. The macro average gives each task the same weight; its interval is [`bootstrap_interval`].

    Args:
        verdicts (`Sequence[bool | None]`):
            Verdict on the answer to each question; `None` if no answer could be read.
        tasks (`Sequence[str | None]`, *optional*):
            Task of each question. Questions with `None` are a task of their own, `"no task"`. Without `tasks`, all
            questions are one task.
        confidence_level (`float`, *optional*, defaults to `0.95`):
            Confidence level of the intervals.

    Returns:
        `dict[str, Any]`: `accuracy`, its `interval` (list of two), `unparsed_rate`, `num_questions`, `num_right`,
        `macro_accuracy`, `macro_interval`; and `tasks`, which has the first five of these for each task and is empty
        without tasks.

    Raises:
        ValueError: If there are no verdicts, the number of tasks differs from the number of verdicts, or
            `confidence_level` is not between 0 and 1.

    Examples:

    ```python
    >>> scores = accuracy([True, True, False, None], tasks=["sums", "sums", "sums", "dates"])
    >>> scores["accuracy"], scores["unparsed_rate"]
    (0.5, 0.25)
    >>> [round(end, 3) for end in scores["interval"]]
    [0.15, 0.85]
    >>> round(scores["macro_accuracy"], 3), scores["tasks"]["dates"]["accuracy"]
    (0.333, 0.0)

    ```
    """
    whole = _accuracy(verdicts, confidence_level)
    by_task = {} if tasks is None else _grouped(verdicts, ["no task" if task is None else task for task in tasks])
    scores = {task: _accuracy(group, confidence_level) for task, group in by_task.items()}
    if len(scores) > 1:
        macro = math.fsum(score["accuracy"] for score in scores.values()) / len(scores)
        names = [task for task, group in by_task.items() for _ in group]
        right = [bool(verdict) for group in by_task.values() for verdict in group]
        interval = list(bootstrap_interval(right, names, confidence_level))
    else:
        macro, interval = whole["accuracy"], list(whole["interval"])
    return {**whole, "macro_accuracy": macro, "macro_interval": interval, "tasks": scores}


def _accuracy(verdicts: Sequence[bool | None], confidence_level: float) -> dict[str, Any]:
    num_questions, num_right = len(verdicts), sum(map(bool, verdicts))
    interval = wilson_interval(num_right, num_questions, confidence_level)
    return {
        "accuracy": num_right / num_questions,
        "interval": list(interval),
        "unparsed_rate": sum(verdict is None for verdict in verdicts) / num_questions,
        "num_questions": num_questions,
        "num_right": num_right,
    }


@renamed_argument(level="confidence_level")
def wilson_interval(num_right: int, num_questions: int, confidence_level: float = 0.95) -> tuple[float, float]:
    """
    Compute Wilson's score interval of a share: all shares that the score test does not reject.

    The interval is wider than zero even if all answers are right or all are wrong.

    Args:
        num_right (`int`):
            Number of questions answered right.
        num_questions (`int`):
            Number of questions asked.
        confidence_level (`float`, *optional*, defaults to `0.95`):
            Confidence level.

    Returns:
        `tuple[float, float]`: Ends of the interval, between 0 and 1.

    Raises:
        ValueError: If the counts or the confidence level are out of range.

    Reference: Wilson, "Probable Inference, the Law of Succession, and Statistical Inference", Journal of the American
    Statistical Association, 1927.

    Examples:

    ```python
    >>> [round(end, 4) for end in wilson_interval(81, 263)]
    [0.2553, 0.3662]

    ```
    """
    _check_count("num_right", num_right, num_questions)
    z = _quantile(confidence_level)
    share, shrink = num_right / num_questions, 1 + z * z / num_questions
    center = (share + z * z / (2 * num_questions)) / shrink
    margin = z / shrink * math.sqrt(share * (1 - share) / num_questions + (z / (2 * num_questions)) ** 2)
    # If no answer or every answer is right, one end is exactly zero or one. Rounding would give another number.
    return (
        0.0 if num_right == 0 else max(0.0, center - margin),
        1.0 if num_right == num_questions else min(1.0, center + margin),
    )


@renamed_argument(level="confidence_level")
def bootstrap_interval(
    values: Sequence[float],
    groups: Sequence[str] | None = None,
    confidence_level: float = 0.95,
    num_resamples: int = 10_000,
    seed: int = 42,
) -> tuple[float, float]:
    """
    Compute the percentile bootstrap interval of a mean, or of the mean of group means.

    Use it for numbers to which Wilson's interval does not apply: macro averages, pass@k and the scores of a judge.
    With the differences of two students on each question as values, it is the interval of the difference. Values are
    drawn with replacement within each group. The draws depend on the seed and not on the order of the values.

    With few values the interval is too narrow, and if all values are equal, its width is zero.

    Args:
        values (`Sequence[float]`):
            One value per question.
        groups (`Sequence[str]`, *optional*):
            Group of each value, such as its task. All groups have the same weight. Without `groups`, all values are
            one group.
        confidence_level (`float`, *optional*, defaults to `0.95`):
            Confidence level.
        num_resamples (`int`, *optional*, defaults to `10_000`):
            Number of resamples.
        seed (`int`, *optional*, defaults to `42`):
            Seed of the draws.

    Returns:
        `tuple[float, float]`: Ends of the interval, in the unit of the values.

    Raises:
        ValueError: If there are no values, a value is not a finite number, the number of groups differs from the
            number of values, or `confidence_level` or `num_resamples` is out of range.

    Examples:

    ```python
    >>> [round(end, 1) for end in bootstrap_interval([7, 8, 6, 9, 7, 8, 7, 8])]
    [6.9, 8.1]

    ```
    """
    import numpy as np

    _quantile(confidence_level)
    if num_resamples < 1:
        raise ValueError(f"`num_resamples` must be at least 1, got {num_resamples}. Leave it out for the default.")
    numbers = [float(value) for value in values]
    if not numbers or not all(map(math.isfinite, numbers)):
        raise ValueError(
            "`values` must hold at least one number and nothing else, got "
            f"{'none' if not numbers else 'NaN or infinity'}. Leave missing values out."
        )
    by_group = _grouped(numbers, [""] * len(numbers) if groups is None else groups)
    generator = np.random.default_rng(seed)
    means = np.zeros(num_resamples)
    for group in by_group.values():
        # There are few distinct values, so only the count of each distinct value is drawn.
        distinct, counts = np.unique(group, return_counts=True)
        size = max(1, _MAX_DRAWN // len(distinct))
        for start in range(0, num_resamples, size):
            part = means[start : start + size]
            drawn = generator.multinomial(len(group), counts / len(group), size=len(part))
            part += drawn @ distinct / len(group) / len(by_group)
    low, high = np.quantile(means, [(1 - confidence_level) / 2, (1 + confidence_level) / 2])
    return float(low), float(high)


@renamed_argument(level="confidence_level")
def compare_students(
    verdicts: Sequence[bool | None], other_verdicts: Sequence[bool | None], confidence_level: float = 0.95
) -> dict[str, Any]:
    """
    Compare two students on the same questions.

    The interval is Tango's score interval. It is based on McNemar's test in the same way as Wilson's interval is based
    on the test of a share, so accuracies and differences are treated alike. It is wider than zero even if both
    students are right on exactly the same questions, where the width of a bootstrap interval would be zero. For other
    differences (of macro averages, of pass@k, of a judge's scores) pass the differences on each question to
    [`bootstrap_interval`].

    Args:
        verdicts (`Sequence[bool | None]`):
            Verdict on the first student's answer to each question. `None` (no answer could be read) counts as wrong.
        other_verdicts (`Sequence[bool | None]`):
            Verdicts on the other student's answers to the same questions, in the same order.
        confidence_level (`float`, *optional*, defaults to `0.95`):
            Confidence level.

    Returns:
        `dict[str, Any]`: `difference`, the accuracy of the first student minus the accuracy of the other; its
        `interval` (list of two); `p_value`, see [`mcnemar_p_value`]; `num_questions`; `num_right_alone` and
        `num_other_right_alone`, the numbers of questions that only the first or only the other student answered right.

    Raises:
        ValueError: If the numbers of verdicts differ, there are none, or `confidence_level` is not between 0 and 1.

    Reference: Tango, "Equivalence Test and Confidence Interval for the Difference in Proportions for the Paired-Sample
    Design", Statistics in Medicine, 1998.

    Examples:

    ```python
    >>> comparison = compare_students([True] * 8 + [False] * 2, [True] * 3 + [False] * 7)
    >>> comparison["difference"], comparison["p_value"]
    (0.5, 0.0625)
    >>> [round(end, 2) for end in comparison["interval"]]
    [0.08, 0.76]

    ```
    """
    if len(verdicts) != len(other_verdicts):
        raise ValueError(
            f"Both students must have been asked the same questions, got {len(verdicts)} and {len(other_verdicts)} "
            "verdicts. They are compared question by question; pass verdicts on the same questions, in the same order."
        )
    pairs = Counter((bool(one), bool(other)) for one, other in zip(verdicts, other_verdicts, strict=True))
    num_alone, num_other_alone = pairs[True, False], pairs[False, True]
    interval = _tango_interval(num_alone, num_other_alone, len(verdicts), confidence_level)
    return {
        "difference": (num_alone - num_other_alone) / len(verdicts),
        "interval": list(interval),
        "p_value": mcnemar_p_value(num_alone, num_other_alone),
        "num_questions": len(verdicts),
        "num_right_alone": num_alone,
        "num_other_right_alone": num_other_alone,
    }


def mcnemar_p_value(num_right_alone: int, num_other_right_alone: int) -> float:
    """
    Compute the exact two-sided p-value of McNemar's test, whose null hypothesis is that two students are equally good.

    Under this hypothesis, a question that only one student answered right is equally likely to be answered by either.

    Args:
        num_right_alone (`int`):
            Number of questions that only the first student answered right.
        num_other_right_alone (`int`):
            Number of questions that only the other student answered right.

    Returns:
        `float`: The p-value; 1 if there are no such questions.

    Raises:
        ValueError: If a count is negative.

    Examples:

    ```python
    >>> mcnemar_p_value(5, 0), mcnemar_p_value(7, 7)
    (0.0625, 1.0)

    ```
    """
    if min(num_right_alone, num_other_right_alone) < 0:
        raise ValueError(
            f"Counts must be positive or zero, got {num_right_alone} and {num_other_right_alone}. Pass the numbers of "
            "questions that only the first or only the other student answered right."
        )
    num_alone = num_right_alone + num_other_right_alone
    # Computed with integers, because two to the power of the number of questions may be too large for a float.
    tail, term = 0, 1
    for number in range(min(num_right_alone, num_other_right_alone) + 1):
        tail += term
        term = term * (num_alone - number) // (number + 1)
    return min(1.0, 2 * tail / 2**num_alone)


def pass_at_k(num_samples: int, num_right: int, k: int) -> float:
    """
    Estimate the probability that at least one of `k` replies to a question is right, without bias, from more samples.

    The pass@k of a student is the mean of this number over the questions; [`bootstrap_interval`] gives its interval.

    Args:
        num_samples (`int`):
            Number of replies that were sampled.
        num_right (`int`):
            Number of these replies that are right.
        k (`int`):
            Number of replies that may be tried.

    Returns:
        `float`: The share of all sets of `k` samples that contain a right reply.

    Raises:
        ValueError: If `num_right` or `k` is larger than the number of samples or too small.

    Paper: [Evaluating Large Language Models Trained on Code](https://huggingface.co/papers/2107.03374).

    Examples:

    ```python
    >>> pass_at_k(num_samples=4, num_right=1, k=1), pass_at_k(num_samples=4, num_right=1, k=2)
    (0.25, 0.5)

    ```
    """
    _check_count("num_right", num_right, num_samples)
    if not 1 <= k <= num_samples:
        raise ValueError(
            f"`k` must lie between 1 and `num_samples={num_samples}`, got {k}. More replies than were sampled cannot "
            f"be judged; sample {max(k, 1)} or more."
        )
    num_sets = math.comb(num_samples, k)
    # Python rounds the quotient of two integers only once, even if they are very large.
    return (num_sets - math.comb(num_samples - num_right, k)) / num_sets


def majority_vote(answers: Iterable[str | None]) -> str | None:
    """
    Return the answer on which most paths to one question agree (self-consistency).

    Each answer gets one vote from every answer that it matches, including itself. The answer with the most votes wins.
    For example, `"50%"` wins against `"50"` and `"0.5"`, because it matches both, and they do not match each other. If
    several answers have the same number of votes, the first of them wins; otherwise the order of the paths does not
    matter. Answers that cannot be compared because of an error do not match.

    Args:
        answers (`Iterable[str | None]`):
            Answer of each path. Paths without an answer, `None` or blank, do not vote.

    Returns:
        `str` or `None`: The answer that wins, as it was first written; `None` if no path has an answer.

    Paper: [Self-Consistency Improves Chain of Thought Reasoning in Language
    Models](https://huggingface.co/papers/2203.11171).

    Examples:

    ```python
    >>> majority_vote(["7", "(A)", None, "12", "12.0"])
    '12'
    >>> majority_vote(["no", "yes"])
    'no'

    ```
    """
    counts = Counter(answer for answer in answers if answer is not None and answer.strip())
    votes = dict(counts)
    for one, other in itertools.combinations(counts, 2):
        try:
            is_same = answers_match(one, other)
        except Exception:  # whatever the readers of formulas raise
            is_same = False
        if is_same:
            votes[one] += counts[other]
            votes[other] += counts[one]
    return max(votes, key=lambda answer: votes[answer], default=None)


def _tango_interval(
    num_alone: int, num_other_alone: int, num_questions: int, confidence_level: float
) -> tuple[float, float]:
    """Return the ends of the range of differences that the score test does not reject."""
    _check_count("num_right_alone", num_alone + num_other_alone, num_questions)
    z, estimate = _quantile(confidence_level), (num_alone - num_other_alone) / num_questions

    def is_rejected(difference: float) -> bool:
        """Tell whether the score test rejects a difference: the squared error exceeds z squared times its variance."""
        # The most likely share of questions that only the other student answered right, given the difference.
        a = 2 * num_questions
        b = (2 * num_questions - num_alone + num_other_alone) * difference - num_alone - num_other_alone
        c = -num_other_alone * difference * (1 - difference)
        share = (math.sqrt(max(0.0, b * b - 4 * a * c)) - b) / (2 * a)
        error = num_alone - num_other_alone - num_questions * difference
        return error**2 > z * z * num_questions * (2 * share + difference * (1 - difference))

    def end(bound: float) -> float:
        inside, outside = estimate, bound
        if not is_rejected(bound):
            return bound
        for _ in range(60):  # halves the range often enough for the precision of a float
            middle = (inside + outside) / 2
            inside, outside = (inside, middle) if is_rejected(middle) else (middle, outside)
        return inside

    return end(-1.0), end(1.0)


def _quantile(confidence_level: float) -> float:
    """Return the number of standard deviations around the mean that contains a share of the normal distribution."""
    if not 0 < confidence_level < 1:
        raise ValueError(
            f"`confidence_level` must lie between 0 and 1, got {confidence_level}. It is the share of such intervals "
            "that hold the true value; pass `confidence_level=0.95` for 95 percent."
        )
    return NormalDist().inv_cdf((1 + confidence_level) / 2)


def _check_count(name: str, count: int, total: int) -> None:
    if total < 1:
        raise ValueError(
            f"There must be at least one question or sample, got {total}. A share of zero questions does not exist."
        )
    if not 0 <= count <= total:
        raise ValueError(f"`{name}` must lie between 0 and {total}, got {count}. It is the number of a part of them.")


def _grouped(values: Sequence[Any], groups: Sequence[str]) -> dict[str, list[Any]]:
    """Return the values by group. Groups are sorted, so that the order of the questions does not matter."""
    if len(values) != len(groups):
        raise ValueError(
            f"There must be a task or group for each question, got {len(groups)} for {len(values)}. Pass them in the "
            "order of the questions."
        )
    by_group: dict[str, list[Any]] = {name: [] for name in sorted(set(groups))}
    for value, name in zip(values, groups, strict=True):
        by_group[name].append(value)
    return by_group
