"""Draw curves, distributions and alignments as SVG images, without a library for plots."""

import base64
import html
import math
import unicodedata
from collections.abc import Callable, Mapping, Sequence


_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 330, 220, 62, 18, 30, 40
_ALIGNMENT_WIDTH = 800
_BAR_HEIGHT, _MAX_NAME = 18, 30
_LINE, _BAR, _MARKER = "#2f6db5", "#4d86c6", "#a13a00"


def draw_curves(curves: Mapping[str, Sequence[Sequence[float]]], x_label: str) -> str:
    """
    Draw each curve in a plot of its own, side by side.

    Args:
        curves (`Mapping[str, Sequence[Sequence[float]]]`):
            By title, the points `(x, y)` of a curve, in the order of x. Points that are not finite are left out.
        x_label (`str`):
            Label of the horizontal axes.

    Returns:
        `str`: The image, as SVG. It has a white background, for pages of any colour.

    Examples:

    ```python
    >>> draw_curves({"loss": [(0, 2.0), (10, 1.0)]}, x_label="step")[:4]
    '<svg'

    ```
    """
    plots = []
    for place, (title, points) in enumerate(curves.items()):
        finite = [(x, y) for x, y in points if math.isfinite(x) and math.isfinite(y)]
        plots.append(f'<g transform="translate({place * _WIDTH} 0)">{_plot(title, finite, x_label)}</g>')
    return _svg(_WIDTH * max(1, len(curves)), _HEIGHT, plots)


def _svg(width: float, height: float, parts: Sequence[str]) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{height:.0f}" '
        f'viewBox="0 0 {width:.0f} {height:.0f}" font-family="sans-serif" font-size="11" fill="#1b1f24">'
        f'<rect width="100%" height="100%" fill="#ffffff"/>{"".join(parts)}</svg>\n'
    )


def _plot(title: str, points: Sequence[tuple[float, float]], x_label: str) -> str:
    if not points:
        return _labels(title, x_label)
    x_ticks, y_ticks = (_ticks(min(values), max(values)) for values in zip(*points, strict=True))
    xs = (min(x_ticks[0], points[0][0]), max(x_ticks[-1], points[-1][0]))
    at, axes = _axes(x_ticks, y_ticks, xs)
    parts = [_labels(title, x_label), axes]
    places = [at(x, y) for x, y in points]
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    parts.append(f'<polyline points="{line}" fill="none" stroke="{_LINE}" stroke-width="1.5"/>')
    if len(places) == 1:
        parts.append(f'<circle cx="{places[0][0]:.1f}" cy="{places[0][1]:.1f}" r="3" fill="{_LINE}"/>')
    return "".join(parts)


def _labels(title: str, x_label: str) -> str:
    middle = (_LEFT + _WIDTH - _RIGHT) / 2
    return (
        f'<text x="{_LEFT}" y="18" font-weight="bold">{html.escape(title)}</text>'
        f'<text x="{middle}" y="{_HEIGHT - 8}" text-anchor="middle">{html.escape(x_label)}</text>'
    )


def _axes(
    x_ticks: Sequence[float], y_ticks: Sequence[float], xs: tuple[float, float], x_form: str = "g"
) -> tuple[Callable[[float, float], tuple[float, float]], str]:
    """Draw the lines and numbers of a plot. Returns a function from values to places, and the drawing."""
    right, bottom = _WIDTH - _RIGHT, _HEIGHT - _BOTTOM

    def at(x: float, y: float) -> tuple[float, float]:
        across = (x - xs[0]) / (xs[1] - xs[0])
        up = (y - y_ticks[0]) / (y_ticks[-1] - y_ticks[0])
        return _LEFT + across * (right - _LEFT), bottom - up * (bottom - _TOP)

    parts = []
    for tick in y_ticks:
        y = at(xs[0], tick)[1]
        parts.append(f'<path d="M{_LEFT} {y:.1f}H{right}" stroke="#d0d7de"/>')
        parts.append(f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{tick:g}</text>')
    for tick in x_ticks:
        x = at(tick, 0)[0]
        parts.append(f'<text x="{x:.1f}" y="{bottom + 16}" text-anchor="middle">{tick:{x_form}}</text>')
    return at, "".join(parts)


def _ticks(low: float, high: float, least_step: float = 0.0) -> list[float]:
    """Round numbers from at most `low` to at least `high`, about four, that are at least `least_step` apart."""
    size = max(abs(low), abs(high))
    if high - low <= max(1e-9 * size, 1e-300):  # they differ by rounding
        room = size / 2 if size > 1e-9 else 0.5
        low, high = low - room, high + room
    step = 10.0 ** math.floor(math.log10((high - low) / 4))
    step *= next(factor for factor in (1, 2, 5, 10) if (high - low) / (step * factor) <= 4.5)
    step = max(step, least_step)
    start, end = math.floor(low / step), math.ceil(high / step)
    digits = max(0, 12 - math.floor(math.log10(step)))
    return [round(number * step, digits) for number in range(start, end + 1)]


def draw_distributions(
    histograms: Sequence[tuple[str, Sequence[float], Sequence[int], tuple[float, str] | None]],
    bars: Sequence[tuple[str, float]] = (),
    bars_title: str = "",
) -> str:
    """
    Draw histograms of shares side by side, and below them a bar for each of several names.

    Args:
        histograms (`Sequence[tuple]`):
            For each histogram its title, the edges of the bins (shares between 0 and 1, in order), the number of pairs
            in each bin, and a value that is marked with its name, or `None`.
        bars (`Sequence[tuple[str, float]]`, *optional*):
            Names and shares.
        bars_title (`str`, *optional*):
            Title of the bars.

    Returns:
        `str`: The image, as SVG. It has a white background, for pages of any colour.

    Examples:

    ```python
    >>> draw_distributions([("similarity", [0.0, 0.5, 1.0], [1, 3], None)]).count("pairs</title>")
    2

    ```
    """
    parts = []
    for place, (title, edges, counts, marker) in enumerate(histograms):
        drawn = _histogram(title, edges, counts, marker)
        parts.append(f'<g transform="translate({place * _WIDTH} 0)">{drawn}</g>')
    width, height = _WIDTH * max(1, len(histograms)), _HEIGHT if histograms else 0
    if bars:
        parts.append(f'<g transform="translate(0 {height})">{_bars(bars, bars_title, width)}</g>')
        height += _TOP + _BAR_HEIGHT * len(bars) + 10
    return _svg(width, height, parts)


def _histogram(title: str, edges: Sequence[float], counts: Sequence[int], marker: tuple[float, str] | None) -> str:
    y_ticks = _ticks(0, 1.15 * max(1, *counts), least_step=1)  # with room for the name of the marker
    x_ticks = _ticks(edges[0], edges[-1])
    at, axes = _axes(x_ticks, y_ticks, (x_ticks[0], x_ticks[-1]), ".0%")
    parts = [_labels(title, "share"), f'<text x="{_LEFT - 6}" y="18" text-anchor="end">pairs</text>', axes]
    bottom = at(0, 0)[1]
    for count, start, end in zip(counts, edges, edges[1:], strict=False):
        if count:
            (x, y), x_end = at(start, count), at(end, 0)[0]
            parts.append(
                f'<rect x="{x:.2f}" y="{y:.2f}" width="{x_end - x - 0.5:.2f}" height="{bottom - y:.2f}" '
                f'fill="{_BAR}"><title>{100 * start:g}% to {100 * end:g}%: {count:,} pairs</title></rect>'
            )
    if marker is not None:
        x, is_left = at(marker[0], 0)[0], marker[0] < (x_ticks[0] + x_ticks[-1]) / 2
        parts.append(
            f'<path d="M{x:.2f} {_TOP}V{bottom}" stroke="{_MARKER}" stroke-width="1.5" stroke-dasharray="5 3"/>'
            f'<text x="{x + (5 if is_left else -5):.2f}" y="{_TOP + 10}" fill="{_MARKER}" '
            f'text-anchor="{"start" if is_left else "end"}">{html.escape(marker[1])}</text>'
        )
    if not any(counts):
        middle = (_LEFT + _WIDTH - _RIGHT) / 2
        parts.append(f'<text x="{middle}" y="{bottom / 2 + _TOP}" text-anchor="middle">no pair could be read</text>')
    return "".join(parts)


def _bars(bars: Sequence[tuple[str, float]], title: str, width: float) -> str:
    names = [name if len(name) <= _MAX_NAME else f"{name[: _MAX_NAME - 1]}…" for name, _ in bars]
    # About the width of a letter; letters of Chinese and other scripts are as wide as two.
    cells = [sum(1 + (unicodedata.east_asian_width(letter) in "WF") for letter in name) for name in names]
    left = max(_LEFT, 16 + 6.6 * max(cells))
    longest = max(0.15, *(share for _, share in bars))
    parts = [f'<text x="{_LEFT}" y="18" font-weight="bold">{html.escape(title)}</text>']
    for place, (name, (_, share)) in enumerate(zip(names, bars, strict=True)):
        y, length = _TOP + _BAR_HEIGHT * place, (width - left - 60) * share / longest
        parts.append(
            f'<text x="{left - 6:.1f}" y="{y + 12}" text-anchor="end">{html.escape(name)}</text>'
            f'<rect x="{left:.1f}" y="{y + 1}" width="{length:.2f}" height="{_BAR_HEIGHT - 4}" fill="{_BAR}"/>'
            f'<text x="{left + length + 5:.1f}" y="{y + 12}">{share:.1%}</text>'
        )
    return "".join(parts)


def draw_alignment(
    chosen_key: Sequence[bool], rejected_key: Sequence[bool], blocks: Sequence[tuple[int, int, int, int]]
) -> str:
    """
    Draw an alignment: the right chain above the wrong one, a cell for each token, with the spans that they share.

    Args:
        chosen_key, rejected_key (`Sequence[bool]`):
            For each token of a chain, whether it is a key token. Key tokens are green in the right chain and red in
            the wrong one.
        blocks (`Sequence[tuple[int, int, int, int]]`):
            Shared spans: `(chosen_start, chosen_end, rejected_start, rejected_end)`.

    Returns:
        `str`: The image, as SVG, up to 800 pixels wide.

    Examples:

    ```python
    >>> draw_alignment([False, True], [False, True], [(0, 1, 0, 1)]).count("<rect")
    5

    ```
    """
    cell = max(1.0, min(14.0, (_ALIGNMENT_WIDTH - _LEFT) / max(1, len(chosen_key), len(rejected_key))))
    parts = []
    for chosen_start, chosen_end, rejected_start, rejected_end in blocks:
        corners = [(chosen_start, 30), (chosen_end, 30), (rejected_end, 50), (rejected_start, 50)]
        points = " ".join(f"{_LEFT + cell * place:.1f},{y}" for place, y in corners)
        parts.append(f'<polygon points="{points}" fill="#e4e9ee"/>')
    for name, keys, y, colour in (("right", chosen_key, 14, "#2c8a3f"), ("wrong", rejected_key, 50, "#c03a3a")):
        parts.append(f'<text x="{_LEFT - 8}" y="{y + 12}" text-anchor="end">{name}</text>')
        for place, is_key in enumerate(keys):
            fill = colour if is_key else "#c6d0d9"
            x = _LEFT + cell * place
            parts.append(
                f'<rect x="{x:.1f}" y="{y}" width="{max(cell - 1, cell * 0.8):.1f}" height="16" fill="{fill}"/>'
            )
    width = _LEFT + cell * max(1, len(chosen_key), len(rejected_key)) + 8
    return _svg(width, 80, parts)


def html_image(drawing: str, description: str) -> str:
    """
    Write a drawing as an `img` of HTML. Viewers of notebooks that were run elsewhere, such as JupyterLab, remove `svg`
    elements.

    Args:
        drawing (`str`):
            The image, as SVG.
        description (`str`):
            Text for readers who do not see it.

    Returns:
        `str`: The element, with the image in it.

    Examples:

    ```python
    >>> html_image("<svg/>", "nothing")
    '<img alt="nothing" src="data:image/svg+xml;base64,PHN2Zy8+"/>'

    ```
    """
    image = base64.b64encode(drawing.encode()).decode()
    return f'<img alt="{html.escape(description)}" src="data:image/svg+xml;base64,{image}"/>'
