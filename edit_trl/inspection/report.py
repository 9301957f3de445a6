"""
The report of a dataset: its numbers and pairs in one HTML file.

The file is `templates/report.html` with its style, its scripts, and the data as JSON, which the scripts show. Data is
never part of the markup: every `<` of it is escaped in the file, and on the page it only becomes text. The content
security policy of the page admits this one style and script, no other, and forbids the network.

The numbers are read after the last pair, since the pairs may come from a generator that counts them as it goes. Pairs
beyond the first `max_pairs` are counted, but not kept in the file.
"""

import base64
import hashlib
import html
import itertools
import json
import math
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import IO, Any

from ..files import written_aside
from .dataset_statistics import Statistics
from .distributions import histograms, key_ratio_by_task
from .pairs import PROBLEMS, InspectedPair, Piece
from .terminal import visible


# Rows of a table by task or origin.
_MAX_GROUPS = 200

# Characters shown of a text that could not be read.
_MAX_RAW = 2_000

_TEMPLATES = Path(__file__).parent / "templates"
# One script on the page. What the others call comes first, and the last one starts it.
_SCRIPTS = ("overview.js", "report.js")

# Fields of a pair in the report, in this order. Their names are in the file once.
_COLUMNS = (
    *("row", "task", "origin", "problems", "answer", "prompt", "chosen", "rejected"),
    *("num_prompt", "num_chosen", "num_rejected", "num_chosen_key", "num_rejected_key", "num_shared", "similarity"),
    *("num_cut", "num_key_cut", "key_log_prob_chosen", "key_log_prob_rejected", "raw"),
)

# Characters that might end a script element, are no valid text, or turn the direction of the source for its reader.
# Their escapes mean the same to a reader of JSON.
_UNSAFE = re.compile("[<>&\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufeff\ufffe\uffff]")


def write_html(
    pairs: Iterable[InspectedPair],
    statistics: Statistics | None,
    path: str | os.PathLike,
    title: str = "Dual chains-of-thought",
    max_pairs: int = 5_000,
) -> None:
    """
    Write a report to open in a browser: one file that needs no network.

    It holds the numbers with advice and plots, a table of the pairs to search and sort, and a view of each pair in
    which a key token shows its counterpart, its weight and, after [`add_log_probs`], its log-probability. `#pair=12`
    at the end of its address leads to the pair of row 12. An older file is replaced when the new one is complete.

    Args:
        pairs (`Iterable[InspectedPair]`):
            Pairs from [`read_pairs`]. A generator is read once, pair by pair.
        statistics ([`Statistics`] or `None`):
            Numbers to show, which the caller gathers before or while the pairs are read. With `None` they are gathered
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
    template, style, *scripts = (
        (_TEMPLATES / name).read_text(encoding="utf-8") for name in ("report.html", "report.css", *_SCRIPTS)
    )
    script = "\n".join(scripts)
    with written_aside(path) as (page,):
        embedded = page.with_name("pairs.json")
        with open(embedded, "w", encoding="utf-8") as file:
            statistics, counts = _write_pairs(pairs, statistics, max_pairs, file)
        parts: dict[str, str] = {
            "title": html.escape(visible(title)),
            "style_hash": _hash(style),
            "style": style,
            "script_hash": _hash(script),
            "script": script,
            "summary": _to_json({**_summary(statistics), **counts}),
        }
        with open(page, "w", encoding="utf-8", newline="\n") as file:
            # Data may look like a placeholder of the template, so all of them are found before any is filled.
            for index, part in enumerate(re.split(r"\{\{(\w+)\}\}", template)):
                if index % 2 == 0:
                    file.write(part)
                elif part == "pairs":
                    with open(embedded, encoding="utf-8") as source:
                        file.writelines(source)
                else:
                    file.write(parts[part])


# Pairs as JSON


def _write_pairs(
    pairs: Iterable[InspectedPair], statistics: Statistics | None, max_pairs: int, file: IO[str]
) -> tuple[Statistics, dict[str, Any]]:
    """Write the first pairs and read the others; returns the numbers of all, and what was written."""
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
            f"`statistics` must have counted all pairs when the last one is read, got {statistics.num_pairs} of "
            f"{num}. Call `statistics.add(pair)` for each, or pass `None` to have them counted here."
        )
    return statistics, {"embedded": min(num, max_pairs), "has_log_probs": has_log_probs}


def _fields(pair: InspectedPair) -> list[Any]:
    """What the report holds of a pair, in the order of `_COLUMNS`."""
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

    `edit` is the number of the edit, from 0, or -1 outside of all. To save space a text alone stands for
    `[text, 0, 0, -1]`, and `[text, log_prob]` for `[text, 0, 0, -1, log_prob]`. Neighbours outside of the edits are
    merged unless they have log-probabilities. Where an edit has nothing on this side, an empty text marks its place.
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
    """A number in as few digits as possible; `None` for NaN and infinities, which JSON does not have."""
    if value is None or not math.isfinite(value):
        return None
    value = round(float(value), digits)
    return int(value) if value.is_integer() else value


def _to_json(value: Any) -> str:
    """JSON that is safe in a script element, whatever its strings hold."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return _UNSAFE.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def _summary(statistics: Statistics) -> dict[str, Any]:
    summary = statistics.summary()
    for column in ("task", "origin"):
        groups = sorted(summary[f"by_{column}"].items(), key=lambda item: -item[1]["pairs"])
        summary[f"num_{column}s"] = len(groups)
        # Pairs of name and numbers: JavaScript puts names that are numbers first in an object.
        summary[f"by_{column}"] = groups[:_MAX_GROUPS]
    return {
        **summary,
        "histograms": [histogram._asdict() for histogram in histograms(statistics)],
        "key_ratio_by_task": key_ratio_by_task(statistics),
        "columns": _COLUMNS,
        "problem_texts": PROBLEMS,
    }


def _hash(content: str) -> str:
    """How the content security policy names the content of an element."""
    return "sha256-" + base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
