"""
Read the rows of files and datasets, one by one if the format allows it.

Text files are not read with `datasets`, because it guesses types: the answers "007", "NA" and "2030-01-02" would not
stay text.
"""

import csv
import difflib
import itertools
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any


def read_rows(flag: str, name: str, split: str, limit: int | None = None) -> Iterator[dict[str, Any]]:
    """
    Read the rows of a file or dataset.

    Args:
        flag (`str`):
            Flag that gave the name, for error messages.
        name (`str`):
            JSON, JSON Lines, CSV or Parquet file, dataset folder, or dataset on the Hub.
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


def _rows_of(name: str, split: str) -> Iterable[Any]:
    path = Path(name)
    if path.suffix == ".csv":
        with open(path, encoding="utf-8-sig", newline="") as file:
            yield from csv.DictReader(file, restkey="more columns than names")
    elif path.suffix == ".parquet":
        from pyarrow import parquet

        for batch in parquet.ParquetFile(path).iter_batches():
            yield from batch.to_pylist()
    elif path.suffix in (".json", ".jsonl") or path.is_file():
        with open(path, encoding="utf-8-sig") as file:
            is_list = file.read(1024).lstrip()[:1] == "["
            file.seek(0)
            if is_list:
                yield from json.load(file)
            else:
                yield from _rows_of_lines(file)
    else:
        from datasets import disable_progress_bars, load_dataset, load_from_disk

        disable_progress_bars()
        yield from load_from_disk(name) if (path / "state.json").is_file() else load_dataset(name, split=split)


def _rows_of_lines(lines: Iterable[str]) -> Iterator[Any]:
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                yield json.loads(line)
            except json.JSONDecodeError as error:
                raise ValueError(f"line {number}, column {error.colno}: {error.msg}") from None
