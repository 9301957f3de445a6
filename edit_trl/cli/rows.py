"""
Read the rows of files and datasets, one by one if the format allows it.

Text files are not read with `datasets`, because it guesses types: the answers "007", "NA" and "2030-01-02" would not
stay text. They are in UTF-8, or in UTF-16 with its mark at the start, and may be packed by gzip.
"""

import codecs
import contextlib
import csv
import difflib
import gzip
import io
import itertools
import json
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TextIO


def read_rows(flag: str, name: str, split: str, limit: int | None = None) -> Iterator[dict[str, Any]]:
    """
    Read the rows of a file or dataset.

    Args:
        flag (`str`):
            Flag that gave the name, for error messages.
        name (`str`):
            JSON, JSON Lines or CSV file, also as `.gz`; Parquet file; dataset folder; dataset on the Hub; or `-`, JSON
            on standard input.
        split (`str`):
            Split of a dataset in a folder or on the Hub.
        limit (`int`, *optional*):
            Maximum number of rows to read. Defaults to all rows.

    Yields:
        `dict[str, Any]`: A row.

    Raises:
        ValueError: If the limit is below 1, or a row cannot be read.
    """
    if limit is not None and limit < 1:
        raise ValueError(f"`--limit` must be at least 1, got {limit}. Leave it out for all rows.")
    try:
        for row in itertools.islice(_rows_of(name, split), limit):
            if not isinstance(row, dict):
                raise ValueError("a row is not an object")
            yield row
    except Exception as error:  # the readers of the formats raise many types
        raise ValueError(
            f"`{flag}` must be a JSON, JSON Lines, CSV or Parquet file, or a dataset on the Hub, got {name!r}: "
            f"{' '.join(str(error).split())[:300]}"
        ) from error


def read_questions(flag: str, name: str, split: str, limit: int | None) -> list[dict[str, Any]]:
    """
    Read rows as [`read_rows`] does, with the same `flag`, `name`, `split` and `limit`. Raises `ValueError` if the
    column `question` or `answer` is missing.
    """
    questions = list(read_rows(flag, name, split, limit))
    columns = list(dict.fromkeys(column for row in questions for column in row))
    for column in ("question", "answer"):
        if questions and column not in columns:
            near = difflib.get_close_matches(column, columns, n=1)
            hint = f" Did you mean {near[0]!r}? Rename it." if near else " Rename the columns."
            raise ValueError(f"`{flag}` must have the column `{column}`, got {columns}.{hint}")
    return questions


def inputs(*names: str | None) -> list[str]:
    """Return the `names` of what a command reads, without those that are missing. `-` is the file on standard input."""
    return ["/dev/stdin" if name == "-" else name for name in names if name is not None]


def _rows_of(name: str, split: str) -> Iterable[Any]:
    path = Path(name)
    kind = path.with_suffix("").suffix if path.suffix == ".gz" else path.suffix
    if kind == ".parquet":
        from pyarrow import parquet

        for batch in parquet.ParquetFile(path).iter_batches():
            yield from batch.to_pylist()
    elif name == "-" or kind in (".csv", ".json", ".jsonl") or path.is_file():
        with _open_text(name) as file:
            start = file.read(1024)
            lines = itertools.chain(io.StringIO(start + file.readline(), newline=""), file)
            if kind == ".csv":
                yield from csv.DictReader(lines, restkey="more columns than names")
            elif start.lstrip()[:1] == "[":
                yield from json.loads("".join(lines))
            else:
                yield from _rows_of_lines(lines)
    else:
        from datasets import disable_progress_bars, load_dataset, load_from_disk

        disable_progress_bars()
        yield from load_from_disk(name) if (path / "state.json").is_file() else load_dataset(name, split=split)


@contextlib.contextmanager
def _open_text(name: str) -> Iterator[TextIO]:
    """A text file, unpacked if it is a gzip file, or standard input for `-`."""
    with contextlib.ExitStack() as stack:
        raw = sys.stdin.buffer if name == "-" else stack.enter_context(open(name, "rb"))
        file: Any = raw
        # Only looked at, not taken: standard input cannot go back.
        if file.peek(2)[:2] == b"\x1f\x8b":
            file = stack.enter_context(gzip.open(file))
        start = file.peek(2)[:2]
        # Excel and PowerShell write UTF-16, with a mark at the start.
        encoding = "utf-16" if start in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) else "utf-8-sig"
        text = io.TextIOWrapper(file, encoding=encoding, newline="")
        # Taken off the file again at the end, which would else be closed with it: standard input is not ours.
        stack.callback(text.detach)
        try:
            yield text
        except UnicodeDecodeError as error:
            raise ValueError(
                f"it must be in UTF-8, and its byte {error.object[error.start]:#04x} is not. Convert it, from Latin-1 "
                f"with `iconv -f latin1 -t utf-8 {name} > converted`"
            ) from error


def _rows_of_lines(lines: Iterable[str]) -> Iterator[Any]:
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                yield json.loads(line)
            except json.JSONDecodeError as error:
                raise ValueError(f"line {number}, column {error.colno}: {error.msg}") from None
