"""
Draw the statistics of a dataset with matplotlib.

The HTML report draws the same numbers without matplotlib.
"""

import os
from typing import TYPE_CHECKING

from ..install_hint import install_hint
from .dataset_statistics import Statistics
from .distributions import Histogram, histograms, key_ratio_by_task
from .terminal import visible


if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


_TEXT, _BAR, _MARKER = "#1b1f24", "#4d86c6", "#a13a00"


def plot_statistics(statistics: Statistics) -> "Figure":
    """
    Draw the distributions of key tokens, similarity and common starts, and the share of key tokens of each task.

    Args:
        statistics ([`Statistics`]):
            Statistics of the dataset.

    Returns:
        [`~matplotlib.figure.Figure`]: The figure. It opens no window; its `savefig` writes PNG, SVG and PDF.

    Raises:
        ImportError: If `matplotlib` is not installed.

    Examples:

    ```python
    >>> from edit_trl.inspection import Statistics, read_pairs
    >>> row = {"prompt": "Q: 2 + 3?\\nA:", "chosen": " 2 + 3 = 5. So 5.", "rejected": " 2 + 3 = 6. So 6."}
    >>> statistics = Statistics(unit="words")
    >>> for pair in read_pairs([row]):
    ...     statistics.add(pair)
    >>> [axes.get_xlabel() for axes in plot_statistics(statistics).axes]
    ['key words of a pair', 'similarity', 'start that both chains share']

    ```
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(
            f"`plot_statistics` needs the `matplotlib` package. Install it with `{install_hint('plot')}`."
        ) from error
    plots, bars = histograms(statistics), key_ratio_by_task(statistics)
    num = len(plots) + bool(bars)
    figure = Figure(figsize=(4.4 * num, max(3.4, 0.8 + 0.26 * len(bars))), layout="constrained")
    axes = list(figure.subplots(1, num, squeeze=False)[0])
    for histogram, place in zip(plots, axes, strict=False):
        _draw_histogram(histogram, place)
    if bars:
        _draw_bars(bars, axes[-1])
        _label(f"key {statistics.unit} by task", axes[-1])
    return figure


def _draw_histogram(histogram: Histogram, axes: "Axes") -> None:
    from matplotlib.ticker import MaxNLocator

    axes.stairs(histogram.counts, histogram.edges, fill=True, color=_BAR)
    axes.set_ylabel("pairs", color=_TEXT)
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_ylim(0, max(1.0, 1.15 * max(histogram.counts)))  # room for the name of the marker
    if histogram.marker is not None:
        place, name = histogram.marker
        axes.axvline(place, color=_MARKER, linestyle="--")
        is_left = place < (histogram.edges[0] + histogram.edges[-1]) / 2
        axes.annotate(
            name,
            (place, 1.0),
            xycoords=("data", "axes fraction"),
            xytext=(4 if is_left else -4, -2),
            textcoords="offset points",
            ha="left" if is_left else "right",
            va="top",
            color=_MARKER,
        )
    if not any(histogram.counts):
        axes.annotate("no pair could be read", (0.5, 0.5), xycoords="axes fraction", ha="center", color=_TEXT)
    _label(histogram.label, axes)


def _draw_bars(bars: list[tuple[str, float]], axes: "Axes") -> None:
    places = list(range(len(bars)))
    names = [visible(name).replace("\n", " ") for name, _ in bars]
    names = [name if len(name) <= 30 else f"{name[:29]}…" for name in names]
    axes.barh(places, [mean for _, mean in bars], color=_BAR)
    axes.set_xlim(0, max(0.15, 1.05 * bars[0][1]))
    # Dollar signs in a name do not delimit a formula.
    axes.set_yticks(places, labels=names, parse_math=False, fontfamily=_fonts_with("".join(names)))
    axes.invert_yaxis()


def _fonts_with(text: str) -> list[str]:
    """Return the default fonts, and after them installed fonts with the characters that these do not have."""
    from matplotlib import font_manager, rcParams

    def characters(path: str) -> set[int]:
        return set(font_manager.get_font(path).get_charmap())

    families = list(rcParams["font.family"])
    missing = {ord(character) for character in text if not character.isspace()}
    missing -= characters(font_manager.findfont(font_manager.FontProperties(family=families)))
    fonts = [font for font in font_manager.fontManager.ttflist if font.style == "normal" and font.weight == 400]
    for font in sorted(fonts, key=lambda font: "Sans" not in font.name):
        if not missing:
            break
        # matplotlib's own "Last Resort" fonts have a box for each character.
        if "LastResort" not in font.name.replace(" ", "") and os.path.exists(font.fname):
            found = missing & characters(font.fname)
            if found:
                families.append(font.name)
                missing -= found
    return families


def _label(label: str, axes: "Axes") -> None:
    from matplotlib.ticker import PercentFormatter

    axes.set_xlabel(label, color=_TEXT)
    axes.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.tick_params(colors=_TEXT)
    for name, spine in axes.spines.items():
        spine.set_color(_TEXT)
        spine.set_visible(name in ("left", "bottom"))
