"""
Compute the distributions of a dataset: counts for histograms, and means by task.

`report.py` and `plots.py` both draw these numbers.
"""

import math
from bisect import bisect_left
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

from .dataset_statistics import PAPER_KEY_TOKEN_RATIO, Statistics


# Maximum number of tasks in a plot by task.
_MAX_TASKS = 20

# Possible widths of bins, in units of 1/400. The first width that gives at most 40 bins is used; edges are round.
_WIDTHS = (1, 2, 4, 8, 10)


class Marker(NamedTuple):
    """
    A value that is marked in a histogram.

    Args:
        place (`float`):
            The value.
        name (`str`):
            Label of the value.
    """

    place: float
    name: str


class Histogram(NamedTuple):
    """
    Number of pairs in each range of values.

    Args:
        label (`str`):
            Name of the values. All values are shares between 0 and 1.
        edges (`list[float]`):
            Edges of the bins. All bins have the same width.
        counts (`list[int]`):
            Number of pairs in each bin. The list has one element less than `edges`. A value on an edge counts in the
            bin above it.
        marker ([`Marker`] or `None`):
            Value for comparison.
    """

    label: str
    edges: list[float]
    counts: list[int]
    marker: Marker | None


def histograms(statistics: Statistics) -> list[Histogram]:
    """
    Count the pairs by their share of key tokens, their similarity and their common start.

    Args:
        statistics ([`Statistics`]):
            Statistics of the dataset.

    Returns:
        `list[Histogram]`: The three histograms. Most shares of key tokens are low and most similarities are high, so
        the bins leave out ranges without pairs.

    Examples:

    ```python
    >>> from edit_trl.inspection import read_pairs
    >>> row = {"prompt": "Q: 2 + 3?\\nA:", "chosen": " 2 + 3 = 5. So 5.", "rejected": " 2 + 3 = 6. So 6."}
    >>> statistics = Statistics(unit="words")
    >>> for pair in read_pairs([row]):
    ...     statistics.add(pair)
    >>> histogram = histograms(statistics)[0]
    >>> bin = histogram.counts.index(1)
    >>> histogram.label, histogram.edges[bin], histogram.edges[bin + 1]
    ('key words of a pair', 0.28, 0.29)

    ```
    """
    values, least = statistics.values, statistics.config.min_similarity
    highest = max([0.15, *values["both"]])
    lowest = min([least - 0.1, *values["similarity"]])
    paper = Marker(PAPER_KEY_TOKEN_RATIO, f"paper: {PAPER_KEY_TOKEN_RATIO:.1%} of tokens")
    return [
        _histogram(f"key {statistics.unit} of a pair", values["both"], 0.0, highest, paper),
        _histogram("similarity", values["similarity"], lowest, 1.0, Marker(least, f"min_similarity: {least:.0%}")),
        _histogram("start that both chains share", values["shared"], 0.0, 1.0, None),
    ]


def _histogram(label: str, values: Sequence[float], low: float, high: float, marker: Marker | None) -> Histogram:
    """Make bins from `low`, rounded down to a tenth, to `high`, rounded up. All values lie between these two."""
    start = 40 * max(math.floor(10 * low), 0)
    stop = 40 * min(math.ceil(10 * high), 10)
    width = next(width for width in _WIDTHS if (stop - start) / width <= 40)
    edges = [place / 400 for place in range(start, stop + 1, width)]
    ordered = sorted(values)
    borders = [0, *(bisect_left(ordered, edge) for edge in edges[1:-1]), len(ordered)]
    return Histogram(label, edges, [above - below for below, above in pairwise(borders)], marker)


def key_ratio_by_task(statistics: Statistics) -> list[tuple[str, float]]:
    """
    Compute the mean share of key tokens of the twenty tasks with the most pairs.

    Args:
        statistics ([`Statistics`]):
            Statistics of the dataset.

    Returns:
        `list[tuple[str, float]]`: Task and mean, the highest mean first. Empty if there are fewer than two tasks.
    """
    groups = [(name, group) for name, group in statistics.groups["task"].items() if group["read"]]
    groups = sorted(groups, key=lambda item: -item[1]["pairs"])[:_MAX_TASKS]
    means = [(name, group["both"] / group["read"]) for name, group in groups]
    return sorted(means, key=lambda item: -item[1]) if len(means) > 1 else []
