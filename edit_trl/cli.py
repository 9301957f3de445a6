"""
The command `edit-trl`.

A command parses its flags, calls one public function and says where the result went. Flags are the fields of that
function's dataclasses, spelt alike; they can stand in a YAML file, and the command line wins over the file. Results go
to files, progress to standard error. An expected failure is one line.
"""

import argparse
import csv
import dataclasses
import difflib
import itertools
import json
import sys
import time
import typing
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .chat_client import ChatClient, EndpointError
from .synthesis.dual_cot import SynthesisConfig, estimate, synthesize


# Between two lines of progress, where standard error is a file.
_SECONDS_PER_LINE = 60.0


def main(argv: list[str] | None = None) -> int:
    """
    Run a command.

    Args:
        argv (`list[str]`, *optional*):
            Arguments without the program's name. Defaults to those of the process.

    Returns:
        `int`: Exit status: 0, 1 after an expected failure, 130 when interrupted.
    """
    parser = argparse.ArgumentParser(
        prog="edit-trl", description="Key reasoning step distillation, before and after training."
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_synthesize(commands)
    command = ""
    try:
        args = _parse(parser, sys.argv[1:] if argv is None else argv)
        command = f" {args.command}"
        return args.run(args)
    except KeyboardInterrupt:
        print("Interrupted. Replies so far are in the store; the same command goes on from there.", file=sys.stderr)
        return 130
    except (EndpointError, ImportError, OSError, ValueError) as error:
        print(f"edit-trl{command}: {' '.join(str(error).split())}", file=sys.stderr)
        return 1


# synthesize


def _add_synthesize(commands: Any) -> None:
    parser = commands.add_parser(
        "synthesize",
        help="make dual chains-of-thought with a teacher model",
        description="Turn questions and answers into a dataset of dual chains-of-thought, through an OpenAI-compatible "
        "endpoint. Interrupted, the same command goes on and pays for nothing twice.",
        usage="edit-trl synthesize --questions DATA --model TEXT [--config FILE] [...]",
    )
    parser.set_defaults(run=_synthesize)
    parser.add_argument("--config", metavar="FILE", help="YAML file with any of these flags")
    group = parser.add_argument_group("questions")
    group.add_argument(
        "--questions",
        type=_reader(str, may_be_none=True),
        metavar="DATA",
        help="JSON, JSON Lines, CSV or Parquet file, or dataset on the Hub, with 'question' and 'answer'; optionally "
        "'task' and 'task_description'",
    )
    group.add_argument(
        "--split",
        type=_reader(str, may_be_none=False),
        default="train",
        metavar="NAME",
        help="split of a dataset on the Hub (default: train)",
    )
    group.add_argument(
        "--limit", type=_reader(int, may_be_none=True), metavar="N", help="use the first N questions only"
    )
    _add_fields(parser.add_argument_group("teacher"), ChatClient)
    _add_fields(parser.add_argument_group("pairs"), SynthesisConfig)
    parser.add_argument(
        "--dry_run",
        type=_reader(bool, may_be_none=False),
        nargs="?",
        const=True,
        default=False,
        metavar="true|false",
        help="print requests, tokens and cost to expect; send nothing",
    )


def _synthesize(args: argparse.Namespace) -> int:
    for name in ("questions", "model"):
        if getattr(args, name) is None:
            raise ValueError(f"`--{name}` is needed, on the command line or in the file of `--config`.")
    config = SynthesisConfig(**_values(args, SynthesisConfig))
    options = _values(args, ChatClient)
    questions = _load_questions(args.questions, args.split, args.limit)
    store = Path(options["store"] or Path(config.output_dir, "replies.sqlite"))
    if store.exists() or not args.dry_run:
        store.parent.mkdir(parents=True, exist_ok=True)
        options["store"] = str(store)
    with ChatClient(**options) as client:
        if args.dry_run:
            _print_estimate(estimate(questions, client, config), client)
            return 0
        with _Progress(client) as progress:
            result = synthesize(questions, client, config, on_progress=progress)
    from .synthesis.dataset_files import push_to_hub, save

    files = save(result, config)
    _print_report(result.report)
    print("\n".join(files))
    if config.push_to_hub:
        try:
            print(f"Pushed to {push_to_hub(config)}")
        except Exception as error:  # whatever the Hub's client and its HTTP library raise
            raise OSError(
                f"The files are written, but could not be pushed to the Hub: {error}. The same command pushes them and asks "
                "nothing again."
            ) from error
    return 0


def _load_questions(name: str, split: str, limit: int | None) -> Any:
    if limit is not None and limit < 1:
        raise ValueError(f"`--limit` must be at least 1, got {limit}. Leave it out for all questions.")
    path = Path(name)
    try:
        if path.suffix in (".csv", ".json", ".jsonl") or (path.is_file() and path.suffix != ".parquet"):
            questions = _read_rows(path)
            columns = list(dict.fromkeys(column for row in questions for column in row))
        else:
            from datasets import Dataset, load_dataset

            is_parquet = path.suffix == ".parquet"
            questions = Dataset.from_parquet(name) if is_parquet else load_dataset(name, split=split)
            columns = questions.column_names
    except Exception as error:  # whatever the readers raise
        raise ValueError(
            f"`--questions` must be a JSON, JSON Lines, CSV or Parquet file, or a dataset on the Hub, got {name!r}: "
            f"{' '.join(str(error).split())[:300]}"
        ) from error
    for column in ("question", "answer"):
        if len(questions) and column not in columns:
            near = difflib.get_close_matches(column, columns, n=1)
            hint = f" Did you mean {near[0]!r}? Rename it." if near else " Rename the columns."
            raise ValueError(f"`--questions` must have the column `{column}`, got {columns}.{hint}")
    return itertools.islice(questions, limit)


def _read_rows(path: Path) -> list[dict[str, Any]]:
    """Rows of a text file. `datasets` would take the answers "007", "NA" and "2030-01-02" for something else than text."""
    if path.suffix == ".csv":
        with open(path, encoding="utf-8-sig", newline="") as file:
            return list(csv.DictReader(file, restkey="more columns than names"))
    text = path.read_text(encoding="utf-8-sig")
    if text.lstrip().startswith("["):
        rows = json.loads(text)
    else:
        rows = [json.loads(line) for line in text.split("\n") if line.strip()]
    if not all(isinstance(row, dict) for row in rows):
        raise ValueError("a row is not an object")
    return rows


def _print_estimate(totals: dict[str, dict], client: ChatClient) -> None:
    from rich.console import Console
    from rich.table import Table

    names = {
        "extract": "1. extract",
        "rectify": "2. rectify, if all are wrong",
        "corrupt": "3. corrupt, if all are right",
        "classify": "4. classify, if all are pairs",
        "least": "whole run, at least",
        "most": "whole run, first replies pass",
        "limit": "whole run, all attempts needed",
    }
    table = Table("", "requests", "tokens in", "tokens out", "cost", title=f"{client.model} at {client.base_url}")
    last_step = list(totals)[-4]
    for name, total in totals.items():
        cost = "-" if total["cost"] is None else f"{total['cost']:.4g}"
        numbers = (f"{total[key]:,}" for key in ("requests", "prompt_tokens", "completion_tokens"))
        table.add_row(names[name], *numbers, cost, end_section=name == last_step)
    Console().print(table)
    print("Estimated: a token per four bytes, replies as long as the worked examples. Nothing was sent.")
    if client.usage.replies:
        print(f"The store holds {client.usage.replies:,} replies; what is in it is not asked again.")
    if client.price(0, 0) is None:
        print("Pass `--prompt_price` and `--completion_price`, per million tokens, for the cost.")


def _print_report(report: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("step", "chains", "kept", "rejected", title=f"{report['pairs']} pairs")
    for name, step in report["steps"].items():
        reasons = ", ".join(f"{num} {reason}" for reason, num in step["rejected"].items())
        table.add_row(name, f"{step['chains']:,}", f"{step['kept']:,}", reasons or "-")
    console = Console()
    console.print(table)
    if report["pairs"]:
        console.print(
            f"Key {report['counted_in']}: {report['key_token_ratio']:.1%} of the chains (the paper's pairs: about 4.7% of "
            f"tokens). Similarity: {report['similarity']:.2f}.",
            highlight=False,
        )
    usage = report["usage"]
    cost = "" if report["cost"] is None else f", cost {report['cost']:.4g}"
    print(
        f"{usage['requests']:,} requests, {usage['prompt_tokens']:,} tokens in, {usage['completion_tokens']:,} tokens out"
        f"{cost}"
    )
    for note in report["notes"]:
        print(f"Note: {note}")
    if report["stopped"]:
        print(f"Stopped: {report['stopped']}. The same command with a larger limit goes on.")


class _Progress:
    """Progress on standard error: what was kept, what was rejected for what reason, rate, cost, time left."""

    def __init__(self, client: ChatClient):
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        self.client = client
        self.start = time.monotonic()
        self.num_old = client.usage.replies
        self.tasks: dict[str, Any] = {}
        self.console = Console(stderr=True)
        self.next_line = self.start + _SECONDS_PER_LINE
        self.progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=20),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[outcomes]}"),
            console=self.console,
        )

    def __enter__(self) -> "_Progress":
        return self

    def __exit__(self, *exception: Any) -> None:
        if self.tasks:
            self.progress.stop()

    def __call__(self, step: str, outcomes: "Counter[str]", num_done: int, num_all: int) -> None:
        if step not in self.tasks:
            self.progress.start()  # not before: a run that is refused prints one line
            self.tasks[step] = self.progress.add_task(step, total=num_all, outcomes="")
        parts = [
            f"{num} {outcome}" for outcome, num in sorted(outcomes.items(), key=lambda x: (x[0] != "kept", -x[1]))
        ]
        rate = (self.client.usage.replies - self.num_old) / (time.monotonic() - self.start + 1e-9)
        parts.append(f"{rate:.1f} replies/s")
        if self.client.cost is not None:
            parts.append(f"cost {self.client.cost:.4g}")
        self.progress.update(self.tasks[step], completed=num_done, outcomes=", ".join(parts))
        if not self.console.is_terminal and time.monotonic() > self.next_line:
            print(f"{step} {num_done}/{num_all}: {', '.join(parts)}", file=sys.stderr, flush=True)
            self.next_line = time.monotonic() + _SECONDS_PER_LINE


# Flags from dataclasses, and from YAML


def _add_fields(group: Any, cls: type) -> None:
    """A flag for each field, with its type, default and help."""
    hints = typing.get_type_hints(cls)
    for field in dataclasses.fields(cls):
        default = None if field.default is dataclasses.MISSING else field.default
        kinds = typing.get_args(hints[field.name]) or (hints[field.name],)
        kind = typing.get_origin(kinds[0]) or kinds[0]
        group.add_argument(
            f"--{field.name}",
            type=_reader(kind, may_be_none=type(None) in kinds),
            default=default,
            help=field.metadata["help"].rstrip(".")
            + ("" if default in (None, "", False) else " (default: %(default)s)"),
            **({"nargs": "?", "const": True} if kind is bool else {}),
            metavar={bool: "true|false", dict: "JSON", str: "TEXT"}.get(kind, "N"),
        )


def _values(args: argparse.Namespace, cls: type) -> dict[str, Any]:
    """The flags that are fields of a dataclass."""
    return {field.name: getattr(args, field.name) for field in dataclasses.fields(cls)}


def _reader(kind: type, may_be_none: bool) -> Callable[[str], Any]:
    """What turns the text of a flag into its value."""

    def read(text: str) -> Any:
        if text.lower() == "none":
            if not may_be_none:
                raise ValueError
            return None
        if kind is bool:
            return {"true": True, "false": False}[text.lower()]
        value = json.loads(text) if kind is dict else kind(text)
        if not isinstance(value, kind):
            raise ValueError
        return value

    def read_or_refuse(text: str) -> Any:
        try:
            return read(text)
        except (KeyError, ValueError):
            names = {bool: "'true' or 'false'", dict: "a JSON object", int: "a whole number", float: "a number"}
            name = names.get(kind, "a text")
            raise argparse.ArgumentTypeError(f"must be {name}, got {text!r}") from None

    return read_or_refuse


def _parse(parser: argparse.ArgumentParser, argv: list[str]) -> argparse.Namespace:
    """Flags over the YAML file of `--config` over the defaults."""
    args = parser.parse_args(argv)
    if getattr(args, "config", None) is None:
        return args
    import yaml

    try:
        values = yaml.safe_load(Path(args.config).read_text(encoding="utf-8"))
    except (OSError, UnicodeError, yaml.YAMLError) as error:
        raise ValueError(
            f"`--config` must be a YAML file, got {args.config!r}: {' '.join(str(error).split())}"
        ) from None
    if not isinstance(values, dict):
        raise ValueError(
            f"`--config` must be a YAML file of flags and values, and {args.config!r} is not: {values!r}."
        )
    known = [name for name in vars(args) if name not in ("command", "run", "config")]
    from_file = []
    for name, value in values.items():
        if name not in known:
            nearest = difflib.get_close_matches(str(name), known, n=1, cutoff=0.0)[0]
            raise ValueError(
                f"{args.config!r} must have the names of flags as its keys, got `{name}`. Did you mean `{nearest}`?"
            )
        is_json = isinstance(value, (bool, dict, list))
        text = "none" if value is None else json.dumps(value, default=str) if is_json else str(value)
        from_file.append(f"--{name}={text}")
    # The same parser reads both, and what comes last wins.
    return parser.parse_args([args.command, *from_file, *argv[argv.index(args.command) + 1 :]])
