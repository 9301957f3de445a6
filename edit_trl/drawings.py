"""Draw curves and alignments as SVG images, without a library for plots."""

import html
import math
from collections.abc import Mapping, Sequence


_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 330, 220, 62, 14, 30, 40
_ALIGNMENT_WIDTH = 800


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
    width = _WIDTH * max(1, len(curves))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{_HEIGHT}" viewBox="0 0 {width} {_HEIGHT}" '
        f'font-family="sans-serif" font-size="11" fill="#1b1f24"><rect width="100%" height="100%" fill="#ffffff"/>'
        f"{''.join(plots)}</svg>\n"
    )


def _plot(title: str, points: Sequence[tuple[float, float]], x_label: str) -> str:
    right, bottom = _WIDTH - _RIGHT, _HEIGHT - _BOTTOM
    parts = [f'<text x="{_LEFT}" y="18" font-weight="bold">{html.escape(title)}</text>']
    parts.append(
        f'<text x="{(_LEFT + right) / 2}" y="{_HEIGHT - 8}" text-anchor="middle">{html.escape(x_label)}</text>'
    )
    if not points:
        return "".join(parts)
    x_ticks, y_ticks = (_ticks(min(values), max(values)) for values in zip(*points, strict=True))
    xs = (min(x_ticks[0], points[0][0]), max(x_ticks[-1], points[-1][0]))

    def at(x: float, y: float) -> tuple[float, float]:
        across = (x - xs[0]) / (xs[1] - xs[0])
        up = (y - y_ticks[0]) / (y_ticks[-1] - y_ticks[0])
        return _LEFT + across * (right - _LEFT), bottom - up * (bottom - _TOP)

    for tick in y_ticks:
        y = at(xs[0], tick)[1]
        parts.append(f'<path d="M{_LEFT} {y:.1f}H{right}" stroke="#d0d7de"/>')
        parts.append(f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{tick:g}</text>')
    for tick in x_ticks:
        parts.append(f'<text x="{at(tick, 0)[0]:.1f}" y="{bottom + 16}" text-anchor="middle">{tick:g}</text>')
    places = [at(x, y) for x, y in points]
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    parts.append(f'<polyline points="{line}" fill="none" stroke="#2f6db5" stroke-width="1.5"/>')
    if len(places) == 1:
        parts.append(f'<circle cx="{places[0][0]:.1f}" cy="{places[0][1]:.1f}" r="3" fill="#2f6db5"/>')
    return "".join(parts)


def _ticks(low: float, high: float) -> list[float]:
    """Round numbers from at most `low` to at least `high`, about four."""
    if low == high:
        low, high = low - (abs(low) or 1) / 2, high + (abs(high) or 1) / 2
    step = 10.0 ** math.floor(math.log10((high - low) / 4))
    step *= next(factor for factor in (1, 2, 5, 10) if (high - low) / (step * factor) <= 4.5)
    start, end = math.floor(low / step), math.ceil(high / step)
    return [round(number * step, 12) for number in range(start, end + 1)]


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
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="80" viewBox="0 0 {width:.0f} 80" '
        f'font-family="sans-serif" font-size="11" fill="#1b1f24"><rect width="100%" height="100%" fill="#ffffff"/>'
        f"{''.join(parts)}</svg>\n"
    )
