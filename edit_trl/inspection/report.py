"""
How the numbers and pairs of a dataset are shown outside a terminal: plots, and a report in one HTML file.

The report is `templates/report.html` with the data put in as JSON; the script of that page shows it. Data is never part
of the markup: in the file every `<` of it is escaped, and on the page it only becomes text. Its content security policy
lets no other script run and forbids the network.

What would surprise: the pairs may come from a generator that counts them on their way, so the numbers are read when the
last pair has come. Pairs beyond the first `max_pairs` are counted, and not kept in the file.
"""

import base64
import hashlib
import html
import io
import itertools
import json
import math
import os
import re
import tempfile
import warnings
from array import array
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NamedTuple

from .dataset_statistics import PAPER_KEY_TOKEN_RATIO, Statistics
from .pairs import PROBLEMS, InspectedPair, Piece
from .terminal import visible


if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


# Bars of a plot by task, and rows of a table of the report.
_MAX_BARS, _MAX_GROUPS = 20, 200

# What is shown of a text that could not be read.
_MAX_RAW = 2_000

_TEMPLATE = Path(__file__).parent / "templates" / "report.html"

# Fields of a pair in the report, in this order; the names are sent once.
_COLUMNS = (
    *("row", "task", "origin", "problems", "answer", "prompt", "chosen", "rejected"),
    *("num_prompt", "num_chosen", "num_rejected", "num_chosen_key", "num_rejected_key", "num_shared", "similarity"),
    *("num_cut", "num_key_cut", "key_log_prob_chosen", "key_log_prob_rejected", "raw"),
)

# In a script element, what might end it, is no valid text, or misleads who looks at the source by turning its direction;
# the escapes mean the same to a reader of JSON.
_UNSAFE = re.compile("[<>&\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufeff\ufffe\uffff]")


class _Colors(NamedTuple):
    text: str
    bar: str
    marker: str


_COLORS = _Colors(text="#1b1f24", bar="#4d86c6", marker="#a13a00")
# Matplotlib knows no variables: it draws in these colours, which are found again and replaced by those of the theme.
_SENTINELS = _Colors(text="#010a0e", bar="#020a0e", marker="#030a0e")
_THEME = _Colors(text="currentColor", bar="var(--bar)", marker="var(--marker)")


def plot_statistics(statistics: Statistics) -> "Figure":
    """
    Draw how key tokens, similarity and shared starts are spread over the pairs, and the key tokens of each task.

    Args:
        statistics ([`Statistics`]):
            Numbers of the dataset.

    Returns:
        [`~matplotlib.figure.Figure`]: The figure, known to no window; its `savefig` writes PNG, SVG and PDF.

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
    Figure = _import_figure()
    plots = _plots(statistics)
    height = max(3.4, 0.8 + 0.26 * len(_bars(statistics)))
    figure = Figure(figsize=(4.4 * len(plots), height), layout="constrained")
    for axes, draw in zip(figure.subplots(1, len(plots), squeeze=False)[0], plots.values(), strict=True):
        draw(axes, _COLORS)
    return figure


def write_html(
    pairs: Iterable[InspectedPair],
    statistics: Statistics | None,
    path: str | os.PathLike,
    title: str = "Dual chains-of-thought",
    max_pairs: int = 5_000,
) -> None:
    """
    Write a report to open in a browser: one file that needs no network.

    It holds the numbers with advice, plots, a table of the pairs to search and sort, and a view of each pair in which a
    key token shows its counterpart, its weight and, after [`add_log_probs`], its log-probability. `#pair=12` at the end
    of its address leads to the pair of row 12. An older file is replaced when the new one is complete.

    Args:
        pairs (`Iterable[InspectedPair]`):
            Pairs from [`read_pairs`]. A generator is read once, pair by pair.
        statistics ([`Statistics`] or `None`):
            Numbers to show, which the caller gathers, before or while the pairs are read. With `None` they are gathered
            here, with the default options.
        path (`str` or `os.PathLike`):
            File to write.
        title (`str`, *optional*, defaults to `"Dual chains-of-thought"`):
            Title of the report.
        max_pairs (`int`, *optional*, defaults to `5000`):
            Pairs that the file holds. The numbers are those of all.

    Raises:
        ValueError: If `statistics` has not counted the pairs, or `max_pairs` is below 0.

    Examples:

    ```python
    >>> import tempfile
    >>> from edit_trl.inspection import read_pairs
    >>> row = {"prompt": "Q: 2 + 3?\\nA:", "chosen": " 2 + 3 = 5. So 5.", "rejected": " 2 + 3 = 6. So 6."}
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_html(read_pairs([row]), None, f"{folder}/report.html")
    ...     Path(folder, "report.html").stat().st_size > 10_000
    True

    ```
    """
    if max_pairs < 0:
        raise ValueError(f"`max_pairs` must be at least 0, got {max_pairs}. It is the number of pairs in the file.")
    path = Path(path)
    template = _TEMPLATE.read_text(encoding="utf-8")
    with tempfile.TemporaryDirectory(dir=path.parent) as unfinished:
        embedded = Path(unfinished, "pairs.json")
        with open(embedded, "w", encoding="utf-8") as file:
            statistics, counts = _write_pairs(pairs, statistics, max_pairs, file)
        parts: dict[str, str] = {
            "title": html.escape(visible(title)),
            "script_hash": _script_hash(template),
            "plots": _plots_html(statistics),
            "summary": _to_json({**_summary(statistics), **counts}),
        }
        page = Path(unfinished, "page.html")
        with open(page, "w", encoding="utf-8", newline="\n") as file:
            # Data may hold what looks like a place of the template, so all places are found before any is filled.
            for index, part in enumerate(re.split(r"\{\{(\w+)\}\}", template)):
                if index % 2 == 0:
                    file.write(part)
                elif part == "pairs":
                    with open(embedded, encoding="utf-8") as source:
                        file.writelines(source)
                else:
                    file.write(parts[part])
        os.replace(page, path)


# Pairs as JSON


def _write_pairs(
    pairs: Iterable[InspectedPair], statistics: Statistics | None, max_pairs: int, file: IO[str]
) -> tuple[Statistics, dict[str, Any]]:
    """Write the first pairs, read the others; the numbers of all, and what was written."""
    gathered = None
    num = 0
    has_log_probs = False
    file.write("[")
    for num, pair in enumerate(pairs, 1):
        if statistics is None:
            gathered = gathered or Statistics()
            if pair.chosen and pair.ids is None:
                gathered.unit = "words"
            gathered.add(pair)
        if num <= max_pairs:
            file.write(",\n" if num > 1 else "\n")
            file.write(_to_json(_fields(pair)))
            has_log_probs |= pair.log_probs is not None
    file.write("\n]")
    statistics = statistics or gathered or Statistics()
    if statistics.num_pairs < num:
        raise ValueError(
            f"`statistics` must have counted all pairs when the last one is read, got {statistics.num_pairs} of {num}. "
            "Call `statistics.add(pair)` for each, or pass `None` to have them counted here."
        )
    return statistics, {"embedded": min(num, max_pairs), "has_log_probs": has_log_probs}


def _fields(pair: InspectedPair) -> list[Any]:
    """What the report knows of a pair, in the order of `_COLUMNS`."""
    answer = pair.example.get("answer")
    fields: dict[str, Any] = {
        name: getattr(pair, name) for name in _COLUMNS if hasattr(pair, name) and name not in ("chosen", "rejected")
    }
    fields["answer"] = answer if isinstance(answer, str) else None
    fields["similarity"] = _number(pair.similarity, 4)
    if not (pair.chosen and pair.rejected):
        raw = {name: pair.example.get(name) for name in ("prompt", "chosen", "rejected")}
        fields["raw"] = {name: _raw_text(value) for name, value in raw.items()}
    for side, pieces in enumerate((pair.chosen, pair.rejected)):
        name = ("chosen", "rejected")[side]
        log_probs = None if pair.log_probs is None else _piece_log_probs(pieces, pair.log_probs[side])
        fields[name] = _segments(pieces, [edit[2 * side : 2 * side + 2] for edit in pair.edits], log_probs)
        if log_probs is not None:
            known = [
                (log_prob, piece.num_tokens)
                for piece, log_prob in zip(pieces, log_probs, strict=True)
                if piece.is_key and log_prob is not None
            ]
            num_tokens = sum(num for _, num in known)
            mean = sum(log_prob for log_prob, _ in known) / num_tokens if known else None
            fields[f"key_log_prob_{name}"] = _number(mean, 3)
    return [fields.get(name) for name in _COLUMNS]


def _segments(
    pieces: list[Piece], edits: list[tuple[int, ...]], log_probs: list[float | None] | None
) -> list[str | list[Any]]:
    """
    The pieces of a chain as `[text, weight, is_key, edit]`, with the log-probability if there are any.

    `edit` counts from 0, -1 outside of all. Most are shorter: a text alone stands for `[text, 0, 0, -1]`, and
    `[text, log_prob]` for `[text, 0, 0, -1, log_prob]`. Neighbours outside of the edits are merged unless they have
    log-probabilities. Where an edit has nothing on this side there is an empty text.
    """
    number_of = {place: number for number, (start, stop) in enumerate(edits) for place in range(start, stop)}
    gaps: dict[int, list[int]] = {}
    for number, (start, stop) in enumerate(edits):
        if start == stop:
            gaps.setdefault(start, []).append(number)
    segments: list[list[Any]] = []
    for place in range(len(pieces) + 1):
        segments += [["", 0, 0, number] for number in gaps.get(place, [])]
        if place == len(pieces):
            break
        piece, number = pieces[place], number_of.get(place, -1)
        segment = [piece.text, _number(piece.weight, 6), int(piece.is_key), number]
        if log_probs is not None:
            log_prob = _number(log_probs[place], 2)
            segments.append([piece.text, log_prob] if segment[1:] == [0, 0, -1] else [*segment, log_prob])
        elif segments and number < 0 and not piece.is_key and segments[-1][1:] == segment[1:]:
            segments[-1][0] += piece.text
        else:
            segments.append(segment)
    return [segment[0] if segment[1:] == [0, 0, -1] else segment for segment in segments]


def _piece_log_probs(pieces: list[Piece], log_probs: list[float]) -> list[float | None]:
    """Sum over the tokens of each piece."""
    starts = itertools.accumulate((piece.num_tokens for piece in pieces), initial=0)
    return [
        _number(sum(log_probs[start : start + piece.num_tokens]), 6)
        for piece, start in zip(pieces, starts, strict=False)
    ]


def _raw_text(value: Any) -> str:
    text = value if isinstance(value, str) else "" if value is None else repr(value)
    return text if len(text) <= _MAX_RAW else f"{text[:_MAX_RAW]} … ({len(text):,} characters)"


def _number(value: float | None, digits: int) -> float | int | None:
    """A number as short as JSON allows, none for NaN and infinities, which it does not have."""
    if value is None or not math.isfinite(value):
        return None
    value = round(float(value), digits)
    return int(value) if value.is_integer() else value


def _to_json(value: Any) -> str:
    """JSON that can stand in a script element, whatever its strings hold."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return _UNSAFE.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def _summary(statistics: Statistics) -> dict[str, Any]:
    summary = statistics.summary()
    for column in ("task", "origin"):
        groups = sorted(summary[f"by_{column}"].items(), key=lambda item: -item[1]["pairs"])
        summary[f"num_{column}s"] = len(groups)
        # Pairs of name and numbers: an object would put names that are numbers first.
        summary[f"by_{column}"] = groups[:_MAX_GROUPS]
    return {**summary, "columns": _COLUMNS, "problem_texts": PROBLEMS}


def _script_hash(template: str) -> str:
    """What the content security policy calls the one script that may run."""
    (script,) = re.findall("<script>(.*?)</script>", template, flags=re.DOTALL)
    return "sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


# Plots


def _import_figure() -> "type[Figure]":
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(
            "`plot_statistics` needs the `matplotlib` package. Install it with `pip install 'edit-trl[plot]'`."
        ) from error
    return Figure


def _plots(statistics: Statistics) -> dict[str, "Callable[[Axes, _Colors], None]"]:
    """What draws each plot, by what it shows."""
    unit, values = statistics.unit, statistics.values
    least = statistics.config.min_similarity
    paper = (PAPER_KEY_TOKEN_RATIO, f"paper: {PAPER_KEY_TOKEN_RATIO:.1%} of tokens")
    # Most ratios are small and most similarities great: the axes leave out what is empty.
    highest, lowest = max([0.15, *values["both"]]), min([least - 0.1, *values["similarity"]])
    plots: dict[str, Callable[[Axes, _Colors], None]] = {
        f"key {unit} of a pair": partial(_histogram, values["both"], (0.0, min(highest, 1.0)), paper),
        "similarity": partial(
            _histogram, values["similarity"], (max(lowest, 0.0), 1.0), (least, f"min_similarity: {least:.0%}")
        ),
        "start that both chains share": partial(_histogram, values["shared"], (0.0, 1.0), None),
    }
    bars = _bars(statistics)
    if len(bars) > 1:
        plots[f"key {unit} by task"] = partial(_bar_chart, bars)
    return {label: partial(_labelled, label, draw) for label, draw in plots.items()}


def _labelled(label: str, draw: "Callable[[Axes, _Colors], None]", axes: "Axes", colors: _Colors) -> None:
    from matplotlib.ticker import PercentFormatter

    draw(axes, colors)
    axes.set_xlabel(label, color=colors.text)
    axes.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.tick_params(colors=colors.text)
    for name, spine in axes.spines.items():
        spine.set_color(colors.text)
        spine.set_visible(name in ("left", "bottom"))


def _histogram(
    values: "array[float]",
    limits: tuple[float, float],
    marker: tuple[float, str] | None,
    axes: "Axes",
    colors: _Colors,
) -> None:
    import numpy as np
    from matplotlib.ticker import MaxNLocator

    counts, edges = np.histogram(np.asarray(values, dtype=float), bins=40, range=limits)
    axes.stairs(counts, edges, fill=True, color=colors.bar)
    axes.set_ylabel("pairs", color=colors.text)
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_ylim(0, max(1.0, 1.15 * counts.max()))  # room for the name of the marker
    if marker is not None:
        place, name = marker
        axes.axvline(place, color=colors.marker, linestyle="--")
        is_left = place < sum(limits) / 2
        axes.annotate(
            name,
            (place, 1.0),
            xycoords=("data", "axes fraction"),
            xytext=(4 if is_left else -4, -2),
            textcoords="offset points",
            ha="left" if is_left else "right",
            va="top",
            color=colors.marker,
        )
    if not len(values):
        axes.annotate("no pair could be read", (0.5, 0.5), xycoords="axes fraction", ha="center", color=colors.text)


def _bars(statistics: Statistics) -> list[tuple[str, float]]:
    """Mean ratio of key tokens of the tasks with most pairs, the highest first."""
    groups = [(name, group) for name, group in statistics.groups["task"].items() if group["read"]]
    groups = sorted(groups, key=lambda item: -item[1]["pairs"])[:_MAX_BARS]
    means = [(name, group["both"] / group["read"]) for name, group in groups]
    return sorted(means, key=lambda item: -item[1])


def _bar_chart(bars: list[tuple[str, float]], axes: "Axes", colors: _Colors) -> None:
    places = list(range(len(bars)))
    names = [visible(name).replace("\n", " ") for name, _ in bars]
    names = [name if len(name) <= 30 else f"{name[:29]}…" for name in names]
    axes.barh(places, [mean for _, mean in bars], color=colors.bar)
    axes.set_xlim(0, max(0.15, 1.05 * bars[0][1]))
    # A name with dollar signs is no formula.
    axes.set_yticks(places, labels=names, parse_math=False)
    axes.invert_yaxis()


def _plots_html(statistics: Statistics) -> str:
    """The plots as SVG elements in the colours of the page's theme."""
    try:
        Figure = _import_figure()
    except ImportError as error:
        return f"<p>{html.escape(str(error))}</p>"
    import matplotlib

    parts = []
    for number, (label, draw) in enumerate(_plots(statistics).items()):
        bars = len(_bars(statistics)) if "by task" in label else 0
        figure = Figure(figsize=(4.2, max(2.9, 0.8 + 0.26 * bars)), layout="constrained")
        with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "edit_trl"}), warnings.catch_warnings():
            # The browser has the letters that matplotlib's font may lack.
            warnings.filterwarnings("ignore", message="Glyph .* missing from")
            draw(figure.subplots(), _SENTINELS)
            file = io.StringIO()
            figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
        svg = re.sub("<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", "", file.getvalue(), flags=re.DOTALL)
        svg = svg[svg.index("<svg") :].replace("<svg ", f'<svg role="img" aria-label="{html.escape(label)}" ', 1)
        # Without a size of its own, it takes the width of its place.
        svg = re.sub(r' (width|height)="[\d.]+pt"', "", svg)
        svg = re.sub(r'( id="|href="#|url\(#)', rf"\g<1>plot{number}-", svg)
        for sentinel, color in zip(_SENTINELS, _THEME, strict=True):
            svg = svg.replace(sentinel, color)
        parts.append(f"<figure>{svg}</figure>")
    return "".join(parts)
