"""The command `edit-trl score`: score replies that were saved by any tool, without a model."""

import argparse
import re
from pathlib import Path
from typing import Any

from ..evaluation import print_results
from ..evaluation.replies import SavedReplies, read_replies, scores_of
from ..evaluation.runs import FILES, check_scores_dir, compare_verdicts, read_verdicts, save_scores, verdicts_of
from ..files import check_outputs
from .flags import add_command, add_flag, add_rows
from .rows import inputs, read_rows


# Files of samples that lm-evaluation-harness writes, such as samples_gsm8k_2026-01-31T10-00-00.000000.jsonl.
_SAMPLES = re.compile(r"samples_(.+)_[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9:.-]+")


def add_parser(commands: Any) -> None:
    """Add the parser of this command to the `commands`."""
    parser = add_command(
        commands,
        "score",
        help="score saved replies of any tool",
        description="Score replies that were saved by any tool, without a model: read their answers, compare them "
        "with the right answers, and print the table of 'edit-trl evaluate'. Knows the logged samples of "
        "lm-evaluation-harness, 'generations.jsonl' of this package, and benchmarks as they were released with a "
        "column of replies.",
        usage="edit-trl score REPLIES [REPLIES ...] [--reply_column NAME --answer_column NAME] [...]",
    )
    parser.set_defaults(run=run)
    parser.add_argument(
        "data",
        metavar="REPLIES",
        nargs="+",
        help="JSON, JSON Lines, CSV or Parquet files, datasets on the Hub, or a folder of logged samples",
    )
    group = parser.add_argument_group("columns")
    text = "; parts of objects are separated by dots. By default a common name is looked for"
    for name, what in (
        ("reply_column", "Column of the replies, such as 'choices.0.message.content'"),
        ("answer_column", "Column of the right answers"),
        ("question_column", "Column that identifies a question; rows with the same one are replies to it"),
        ("task_column", "Column of the tasks"),
    ):
        add_flag(group, name, str, what + text, metavar="NAME")
    group = parser.add_argument_group("rows")
    add_rows(group, split="train", limit="Read only the first N rows of each file")
    group = parser.add_argument_group("results")
    text = "Folder for the judged replies and the results, in the form of 'edit-trl evaluate'. By default none"
    add_flag(group, "output_dir", str, text, metavar="FOLDER")
    text = "'output_dir' of another student's run on the same questions, to compare these replies with"
    add_flag(group, "compare", str, text, metavar="FOLDER")


def run(args: argparse.Namespace) -> None:
    """Run this command with the values of its flags, `args`."""
    other = None if args.compare is None else read_verdicts(args.compare)
    files, notes = _files(args.data)
    if args.output_dir is not None:
        check_scores_dir(args.output_dir)
        folder = Path(args.output_dir)
        places = {f"{name!r} in `--output_dir`": folder / name for name in FILES if folder.is_dir()}
        check_outputs(places, inputs(*files, args.config), overwrite=True)
    saved = [
        read_replies(
            read_rows("REPLIES", name, args.split, args.limit),
            args.reply_column,
            args.answer_column,
            args.question_column,
            args.task_column,
            task=_task(name) if len(files) > 1 or _SAMPLES.match(Path(name).stem) else None,
        )
        for name in files
    ]
    merged = _merged(saved, notes)
    results = scores_of(merged)
    results["settings"] = {"model": ", ".join(args.data), "replies": files}
    comparison = None if other is None else compare_verdicts(verdicts_of(merged.records), other)
    if args.output_dir is not None:
        save_scores(args.output_dir, merged.records, results)
    print_results(results, comparison)
    if args.output_dir is not None:
        for name in FILES[1:]:
            print(Path(args.output_dir, name))


def _files(names: list[str]) -> tuple[list[str], list[str]]:
    """
    Return the files to read, and notes. Of a folder these are its logged samples, the newest of each task, or the
    generations of a run.
    """
    files: list[str] = []
    notes: list[str] = []
    for name in names:
        found = sorted(Path(name).rglob("samples_*.jsonl")) if Path(name).is_dir() else []
        generations = Path(name, "generations.jsonl")
        if not found:
            files.append(str(generations) if generations.is_file() else name)
            continue
        newest: dict[str, Path] = {}
        for path in found:  # the name ends in its time
            task = _task(str(path))
            other = newest.setdefault(task, path)
            if other.parent != path.parent:
                raise ValueError(
                    f"A folder of logged samples must be of one model, but {str(path.parent)!r} and "
                    f"{str(other.parent)!r} both have {task!r}. Pass one of them."
                )
            newest[task] = path
        if len(newest) < len(found):
            notes.append(f"{len(found) - len(newest)} files of older runs in {name!r} are left out.")
        files += map(str, newest.values())
    return files, notes


def _task(name: str) -> str:
    stem = Path(name).stem
    match = _SAMPLES.match(stem)
    return match[1] if match else stem


def _merged(saved: list[SavedReplies], notes: list[str]) -> SavedReplies:
    """Join the replies of several files, with further `notes`."""
    records: list[dict[str, Any]] = []
    for part in saved:
        start = 1 + records[-1]["row"] if records else 0
        records += [{**record, "row": start + record["row"]} for record in part.records]
    readers = dict.fromkeys(part.reader for part in saved)
    all_notes = dict.fromkeys([*notes, *(note for part in saved for note in part.notes)])
    return SavedReplies(records, "; ".join(readers), list(all_notes))
