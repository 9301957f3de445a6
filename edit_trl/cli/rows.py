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
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TextIO

from .. import questions
from ..question_formats import find_format
from ..questions import QuestionTable


# Names of files and folders that `datasets` takes for splits.
_SPLIT = re.compile(r"(?:^|[^a-z])(?:train|test|valid|validation|val|dev|eval)(?:[^a-z]|$)", re.IGNORECASE)

# What a row of CSV has more than there are columns.
_MORE_CELLS = "more cells than columns"


def read_rows(
    flag: str, name: str, split: str, limit: int | None = None, task_files: bool = False
) -> Iterator[dict[str, Any]]:
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
        task_files (`bool`, *optional*, defaults to `False`):
            Whether a folder may have a JSON file for each task or question, as benchmarks are released.

    Yields:
        `dict[str, Any]`: A row.

    Raises:
        ValueError: If the limit is below 1, or a row cannot be read.
    """
    if limit is not None and limit < 1:
        raise ValueError(f"`--limit` must be at least 1, got {limit}. Leave it out for all rows.")
    try:
        for row in itertools.islice(_rows_of(name, split, task_files), limit):
            if not isinstance(row, dict):
                raise ValueError("a row is not an object")
            yield row
    except Exception as error:  # the readers of the formats raise many types
        raise ValueError(
            f"`{flag}` must be a JSON, JSON Lines, CSV or Parquet file, or a dataset on the Hub, got {name!r}: "
            f"{' '.join(str(error).split())[:300]}"
        ) from error


def read_questions(flag: str, name: str, split: str, limit: int | None, distinct: bool = False) -> QuestionTable:
    """
    Read questions: rows as [`read_rows`] reads them, with the same `flag`, `name`, `split` and `limit`, in the form of
    [`~questions.read_questions`] with `distinct`. Raises `ValueError` for rows that are no questions with answers.
    """
    rows = list(read_rows(flag, name, split, limit, True))
    columns = list(dict.fromkeys(column for row in rows for column in row))
    is_released = find_format(rows) is not None
    for column in ("question", "answer"):
        if rows and column not in columns and not is_released:
            near = difflib.get_close_matches(column, columns, n=1)
            hint = f" Did you mean {near[0]!r}? Rename it." if near else " Rename the columns."
            separator = next((mark for mark in ";\t|" if len(columns) == 1 and mark in columns[0]), None)
            if separator is not None:
                hint = f" The cells of CSV must be separated by commas, and here they are by {separator!r}."
            raise ValueError(f"`{flag}` must have the column `{column}`, got {columns}.{hint}")
    return questions.read_questions(rows, distinct)


def inputs(*names: str | None) -> list[str]:
    """Return the `names` of what a command reads. Missing ones are left out; `-` is the file on standard input."""
    return ["/dev/stdin" if name == "-" else name for name in names if name is not None]


def _rows_of(name: str, split: str, task_files: bool) -> Iterable[Any]:
    """Return the rows of a file, of the files of a folder, or of a dataset."""
    files = _files_of(Path(name), split) if task_files else []
    if files:
        for file in files:
            # In MATH each problem is a file with a number as its name.
            task = file.parent.name if file.stem.isdigit() else file.stem
            yield from ({"task": task, **row} for row in _with_examples(_rows_of_file(str(file), split), file))
    else:
        yield from _with_examples(_rows_of_file(name, split), Path(name))


def _files_of(path: Path, split: str) -> list[Path]:
    """
    Return the files of a folder of benchmark tasks, a JSON file for each task or question, in order. Empty for other
    folders and for folders with a file for each split, which `datasets` reads.
    """
    if not path.is_dir():
        return []
    path = path / split if (path / split).is_dir() else path
    files = [file for file in sorted(path.rglob("*")) if file.is_file() and file.name[0] not in "._"]
    data = [file for file in files if file.name == "task.json"]  # BIG-bench has files of results beside it
    data = data or [file for file in files if file.suffix in (".json", ".jsonl")]
    names = [str(file.relative_to(path).with_suffix("")) for file in data]
    is_other = any(file.suffix in (".parquet", ".csv", ".arrow", ".txt", ".gz") for file in files)
    # A folder that `datasets` saved or that has a dataset card, as on the Hub.
    is_dataset = any(file.name in ("dataset_info.json", "dataset_dict.json") for file in files)
    card = path / "README.md"
    is_dataset |= card.is_file() and card.read_text(encoding="utf-8", errors="replace").startswith("---")
    return [] if is_other or is_dataset or any(map(_SPLIT.search, names)) else data


def _with_examples(rows: Iterable[Any], file: Path) -> Iterator[Any]:
    """Replace an object with `examples`, which is a task of BIG-bench or BIG-Bench Hard, by these."""
    for row in rows:
        examples = row.get("examples") if isinstance(row, dict) else None
        if isinstance(examples, list) and examples and isinstance(examples[0], dict) and "input" in examples[0]:
            shared = {"task": row.get("name") or file.stem}
            shared.update({key: row[key] for key in ("task_prefix", "append_choices_to_input") if key in row})
            yield from ({**shared, **example} for example in examples)
        else:
            yield row


def _rows_of_file(name: str, split: str) -> Iterable[Any]:
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
                yield from _rows_of_csv(lines)
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


def _rows_of_csv(lines: Iterable[str]) -> Iterator[dict[str, Any]]:
    """Return the rows of CSV. Without its checks, a wrong quotation mark would put many rows into one text."""
    csv.field_size_limit(2**31 - 1)  # a reply with its thinking may be longer than the default
    reader = csv.DictReader(lines, restkey=_MORE_CELLS, strict=True)
    number = 1
    try:
        names = reader.fieldnames or []
        twice = [name for name in dict.fromkeys(names) if name and names.count(name) > 1]
        if twice:
            raise ValueError(
                f"several columns have the name {twice[0]!r}, so only one would be read. Rename the others"
            )
        number = reader.line_num + 1
        for row in reader:
            if any(row.pop(_MORE_CELLS, ())):
                raise ValueError(
                    f"the row that begins in line {number} has more cells than the {len(names)} columns. A text with "
                    "a comma must be in quotation marks"
                )
            yield row
            number = reader.line_num + 1
    except csv.Error as error:
        raise ValueError(
            f"the row that begins in line {number}: {error}. A text with quotation marks must be in quotation marks "
            "itself, and have each of its own twice"
        ) from None


def _rows_of_lines(lines: Iterable[str]) -> Iterator[Any]:
    """Return the objects of JSON Lines. A file that is one object over several lines, as in MATH, is one row."""
    lines = iter(lines)
    first = next(lines, "")
    if first.strip() == "{":
        yield json.loads("".join([first, *lines]))
        return
    lines = itertools.chain([first], lines)
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                yield json.loads(line)
            except json.JSONDecodeError as error:
                raise ValueError(f"line {number}, column {error.colno}: {error.msg}") from None
