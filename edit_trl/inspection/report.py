"""
Write the report of a dataset: its statistics and pairs in one HTML file.

The file is `templates/report.html` with its style, its scripts, and the data as JSON, which the scripts show. Data is
never part of the markup: each `<` in the data is escaped in the file, and the scripts put data only into text nodes.
The content security policy of the page allows only this style and this script, and forbids the network.

The statistics are read after the last pair, because the pairs may come from a generator that counts them while they
are read. Of more than `max_pairs` pairs the file has a random sample, which `sampling.py` draws.
"""

import base64
import hashlib
import html
import json
import math
import os
import re
from collections.abc import Collection, Iterable, Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ..files import written_aside
from .dataset_statistics import Statistics
from .distributions import histograms, key_ratio_by_task
from .log_probs import key_log_prob, piece_log_probs
from .pairs import PROBLEMS, InspectedPair, Piece
from .sampling import Sample
from .terminal import visible


# Maximum number of rows of a table by task or origin.
_MAX_GROUPS = 200

# Maximum number of characters shown of a text that could not be read.
_MAX_RAW = 2_000

_TEMPLATES = Path(__file__).parent / "templates"
# The files are joined to one script. `overview.js` comes first, because `report.js` calls its functions at once.
_SCRIPTS = ("overview.js", "report.js")

# Fields of a pair in the report, in this order. A pair is written as a list, so that the names are written only once.
_COLUMNS = (
    *("row", "task", "origin", "problems", "answer", "prompt", "chosen", "rejected"),
    *("num_prompt", "num_chosen", "num_rejected", "num_chosen_key", "num_rejected_key", "num_shared", "similarity"),
    *("num_cut", "num_key_cut", "key_log_prob_chosen", "key_log_prob_rejected", "raw", "replies"),
)

# Characters that might end a script element, are not valid text, or change the direction of text in the source file.
# JSON reads their escapes as the same characters.
_UNSAFE = re.compile("[<>&\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufeff\ufffe\uffff]")


def write_html(
    pairs: Iterable[InspectedPair],
    statistics: Statistics | None,
    path: str | os.PathLike,
    title: str = "Dual chains-of-thought",
    max_pairs: int = 5_000,
    provenance: Mapping[str, str] | None = None,
) -> None:
    """
    Write a report to open in a browser: one file that needs no network.

    The report has the statistics with advice and plots, a table of the pairs that can be searched and sorted, and a
    view of each pair. In this view a key token shows its counterpart in the other chain, its weight and, after
    [`add_log_probs`], its log-probability. `#pair=12` at the end of the address opens the pair of row 12. An old file
    is replaced only when the new file is complete.

    Args:
        pairs (`Iterable[InspectedPair]`):
            Pairs from [`read_pairs`]. A generator is read once, pair by pair.
        statistics ([`Statistics`] or `None`):
            Statistics to show. The caller gathers them before or while the pairs are read. With `None` they are
            gathered here, with the default options.
        path (`str` or `os.PathLike`):
            File to write.
        title (`str`, *optional*, defaults to `"Dual chains-of-thought"`):
            Title of the report.
        max_pairs (`int`, *optional*, defaults to `5000`):
            Number of pairs in the file. Of more pairs, the file has a random sample, and 20 pairs of each problem.
            The same pairs give the same sample. The statistics are computed on all pairs.
        provenance (`Mapping[str, str]`, *optional*):
            What the report was made of and how, by name, such as the tokenizer. Shown below the statistics. The
            version of `edit_trl` and the date are always there.

    Raises:
        ValueError: If `statistics` has not counted the pairs, `max_pairs` is below 0, or `path` is a folder or a
            device.

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
    template, style, *scripts = (
        (_TEMPLATES / name).read_text(encoding="utf-8") for name in ("report.html", "report.css", *_SCRIPTS)
    )
    script = "\n".join(scripts)
    with written_aside(path) as (page,):
        statistics, texts, counts = _read_pairs(pairs, statistics, max_pairs)
        parts: dict[str, str] = {
            "title": html.escape(visible(title)),
            "style_hash": _hash(style),
            "style": style,
            "script_hash": _hash(script),
            "script": script,
            "summary": _to_json({**_summary(statistics), **counts, "provenance": _provenance(provenance or {})}),
        }
        with open(page, "w", encoding="utf-8", newline="\n") as file:
            # The data may contain text such as `{{style}}`, so all placeholders are found before the first is filled.
            for index, part in enumerate(re.split(r"\{\{(\w+)\}\}", template)):
                if index % 2 == 0:
                    file.write(part)
                elif part == "pairs":
                    file.write("[")
                    file.writelines(f"{',' if number else ''}\n{text}" for number, text in enumerate(texts))
                    file.write("\n]")
                else:
                    file.write(parts[part])


# Pairs as JSON


def _read_pairs(
    pairs: Iterable[InspectedPair], statistics: Statistics | None, max_pairs: int
) -> tuple[Statistics, Collection[str], dict[str, Any]]:
    """Read all pairs. Returns their statistics, the pairs to show as JSON, and how these were chosen."""
    gathered = None
    num = 0
    has_log_probs = False
    sample = Sample(max_pairs)
    for num, pair in enumerate(pairs, 1):
        if statistics is None:
            gathered = gathered or Statistics()
            if pair.chosen and pair.ids is None:
                gathered.unit = "words"
            gathered.add(pair)
        sample.add(num, lambda: _to_json(_fields(pair)), labels=pair.problems)  # noqa: B023, called at once
        has_log_probs |= pair.log_probs is not None
    statistics = statistics or gathered or Statistics()
    if statistics.num_rows < num:
        raise ValueError(
            f"`statistics` must have counted all pairs when the last one is read, got {statistics.num_rows} of "
            f"{num}. Call `statistics.add(pair)` for each, or pass `None` to have them counted here."
        )
    texts = sample.texts().values()
    counts = {"embedded": len(texts), "sampled": min(num, max_pairs), "examples": sample.num_examples}
    return statistics, texts, {**counts, "has_log_probs": has_log_probs}


def _fields(pair: InspectedPair) -> list[Any]:
    """Return the fields of a pair in the report, in the order of `_COLUMNS`."""
    answer = pair.example.get("answer")
    fields: dict[str, Any] = {
        name: getattr(pair, name) for name in _COLUMNS if hasattr(pair, name) and name not in ("chosen", "rejected")
    }
    fields["answer"] = answer if isinstance(answer, str) else None
    fields["similarity"] = _number(pair.similarity, 4)
    fields["replies"] = pair.replies and list(pair.replies.items())
    if not (pair.chosen and pair.rejected):
        names = ("prompt", "completion") if pair.is_completion else ("prompt", "chosen", "rejected")
        raw = {name: pair.example.get(name) for name in names}
        fields["raw"] = {name: _raw_text(value) for name, value in raw.items()}
    for side, pieces in enumerate((pair.chosen, pair.rejected)):
        name = ("chosen", "rejected")[side]
        log_probs = None
        if pair.log_probs is not None:
            log_probs = [_number(value, 6) for value in piece_log_probs(pair, name)]
            fields[f"key_log_prob_{name}"] = _number(key_log_prob(pair, name), 3)
        fields[name] = _segments(pieces, [edit[2 * side : 2 * side + 2] for edit in pair.edits], log_probs)
    return [fields.get(name) for name in _COLUMNS]


def _segments(
    pieces: list[Piece], edits: list[tuple[int, ...]], log_probs: list[float | None] | None
) -> list[str | list[Any]]:
    """
    Return the pieces of a chain as lists `[text, weight, is_key, edit]`, with `log_prob` at the end if it is known.

    `edit` is the number of the edit, from 0, or -1 outside of edits. To save space, `text` stands for
    `[text, 0, 0, -1]`, and `[text, log_prob]` for `[text, 0, 0, -1, log_prob]`. Neighbouring pieces outside of edits
    are merged unless they have log-probabilities. If an edit has no piece in this chain, an empty text marks its
    position.
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


def _raw_text(value: Any) -> str:
    text = value if isinstance(value, str) else "" if value is None else repr(value)
    return text if len(text) <= _MAX_RAW else f"{text[:_MAX_RAW]} … ({len(text):,} characters)"


def _number(value: float | None, digits: int) -> float | int | None:
    """Round a number to a few digits; `None` for NaN and infinities, which JSON does not have."""
    if value is None or not math.isfinite(value):
        return None
    value = round(float(value), digits)
    return int(value) if value.is_integer() else value


def _to_json(value: Any) -> str:
    """Write JSON that is safe in a script element, for any content of its strings."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return _UNSAFE.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def _summary(statistics: Statistics) -> dict[str, Any]:
    summary = statistics.summary()
    for column in ("task", "origin"):
        groups = sorted(summary[f"by_{column}"].items(), key=lambda item: -item[1]["pairs"])
        summary[f"num_{column}s"] = len(groups)
        # A list of names and numbers keeps its order. In a JavaScript object, names that are numbers would come first.
        summary[f"by_{column}"] = groups[:_MAX_GROUPS]
    return {
        **summary,
        "rows": statistics.num_rows,
        "histograms": [histogram._asdict() for histogram in histograms(statistics)],
        "key_ratio_by_task": key_ratio_by_task(statistics),
        "columns": _COLUMNS,
        "problem_texts": PROBLEMS,
    }


def _provenance(given: Mapping[str, str]) -> list[tuple[str, str]]:
    made = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    return [*given.items(), ("Made by", f"edit_trl {version('edit-trl')}"), ("Date", made)]


def _hash(content: str) -> str:
    """Return the hash by which the content security policy allows the content of an element."""
    return "sha256-" + base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
