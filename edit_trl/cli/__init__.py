"""
The command `edit-trl`.

A command parses its flags, calls one public function and says where the result went. Flags are the fields of that
function's dataclasses, spelt alike; they can stand in a YAML file, and the command line wins over the file. Results go
to files, progress to standard error. An expected failure is one line.
"""

import argparse
import collections
import contextlib
import csv
import dataclasses
import difflib
import heapq
import itertools
import json
import os
import sys
import tempfile
import time
import typing
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from ..chat import BudgetReached, ChatClient, EndpointError
from ..evaluation import EvaluationConfig
from ..inspection.pairs import InspectedPair, InspectionConfig
from ..questions import normalize_questions
from ..synthesis.dual_cot import SynthesisConfig, estimate_requests, synthesize


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
    _add_inspect(commands)
    _add_evaluate(commands)
    command = ""
    try:
        args = _parse(parser, sys.argv[1:] if argv is None else argv)
        command = f" {args.command}"
        return args.run(args)
    except KeyboardInterrupt:
        left = "" if "inspect" in command else "Replies so far are kept; the same command goes on from there."
        print(f"Interrupted. {left}".strip(), file=sys.stderr)
        return 130
    except (BudgetReached, EndpointError, ImportError, OSError, ValueError) as error:
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
    _add_rows(group, "train", "use the first N questions only")
    _add_fields(parser.add_argument_group("teacher"), ChatClient)
    _add_fields(parser.add_argument_group("pairs"), SynthesisConfig)
    _add_switch(parser, "dry_run", "print requests, tokens and cost to expect; send nothing")


def _synthesize(args: argparse.Namespace) -> int:
    for name in ("questions", "model"):
        if getattr(args, name) is None:
            raise ValueError(f"`--{name}` is needed, on the command line or in the file of `--config`.")
    config = SynthesisConfig(**_values(args, SynthesisConfig))
    options = _values(args, ChatClient)
    questions = _load_questions("--questions", args.questions, args.split, args.limit)
    store = Path(options["store"] or Path(config.output_dir, "replies.sqlite"))
    if store.exists() or not args.dry_run:
        store.parent.mkdir(parents=True, exist_ok=True)
        options["store"] = str(store)
    with ChatClient(**options) as client:
        if args.dry_run:
            _print_estimate(estimate_requests(questions, client, config), client)
            return 0
        with _Progress(client) as progress:
            result = synthesize(questions, client, config, on_progress=progress)
    from datasets import disable_progress_bars

    from ..synthesis.dataset_files import push_to_hub, save_dual_cots

    disable_progress_bars()  # of writing Parquet
    files = save_dual_cots(result, config)
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


def _load_questions(flag: str, name: str, split: str, limit: int | None) -> list[dict[str, Any]]:
    questions = list(_read_rows(flag, name, split, limit))
    columns = list(dict.fromkeys(column for row in questions for column in row))
    for column in ("question", "answer"):
        if questions and column not in columns:
            near = difflib.get_close_matches(column, columns, n=1)
            hint = f" Did you mean {near[0]!r}? Rename it." if near else " Rename the columns."
            raise ValueError(f"`{flag}` must have the column `{column}`, got {columns}.{hint}")
    return questions


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


# inspect


_SORT_KEYS = ("key_token_ratio", "similarity", "length")


def _add_inspect(commands: Any) -> None:
    parser = commands.add_parser(
        "inspect",
        help="look at dual chains-of-thought before training on them",
        description="Show what the alignment sees in a dataset of dual chains-of-thought: numbers, what they mean for "
        "training, and pairs with their key tokens marked.",
        usage="edit-trl inspect DATA [--model TOKENIZER] [--html FILE] [...]",
    )
    parser.set_defaults(run=_inspect)
    parser.add_argument(
        "data", metavar="DATA", help="JSON, JSON Lines, CSV or Parquet file, dataset folder, or dataset on the Hub"
    )
    parser.add_argument("--config", metavar="FILE", help="YAML file with any of these flags")
    group = parser.add_argument_group("data")
    _add_rows(group, "train", "read the first N pairs only")
    group.add_argument(
        "--model",
        type=_reader(str, may_be_none=True),
        metavar="NAME",
        help="the student, whose tokenizer is used; without it pairs are aligned by words",
    )
    group = parser.add_argument_group("pairs")
    group.add_argument(
        "--num_pairs", type=_reader(int, may_be_none=False), default=3, metavar="N", help="pairs to show (default: 3)"
    )
    group.add_argument(
        "--sort",
        type=_reader(str, may_be_none=True),
        metavar="NAME",
        help=f"show the pairs with the highest and the lowest {', '.join(_SORT_KEYS[:-1])} or {_SORT_KEYS[-1]}",
    )
    group.add_argument(
        "--fold",
        type=_reader(int, may_be_none=True),
        metavar="N",
        help="show N tokens at each end of what chains share",
    )
    for name, text in (
        ("weights", "list the edits of the pairs shown, with the weights of their tokens"),
        ("log_probs", "shade the report by the log-probabilities of the tokens under '--model', which is then run"),
    ):
        _add_switch(group, name, text)
    group = parser.add_argument_group("files")
    for name, text in (
        ("html", "report to open in a browser, in one file"),
        ("plot", "picture of the numbers, PNG or SVG"),
        ("json", "the numbers"),
        ("filter", "JSON Lines file for the pairs without problems; the others, with theirs, go beside it"),
    ):
        group.add_argument(f"--{name}", type=_reader(str, may_be_none=True), metavar="FILE", help=text)
    _add_fields(parser.add_argument_group("alignment"), InspectionConfig)


def _inspect(args: argparse.Namespace) -> int:
    from ..inspection import Statistics, print_statistics, read_pairs, show_pair

    if args.sort is not None and args.sort not in _SORT_KEYS:
        raise ValueError(f"`--sort` must be one of {', '.join(_SORT_KEYS)}, got {args.sort!r}.")
    if args.num_pairs < 0 or (args.fold or 0) < 0:
        raise ValueError("`--num_pairs` and `--fold` must be at least 0. They are numbers of pairs and of tokens.")
    if args.log_probs and not (args.model and args.html):
        raise ValueError("`--log_probs` needs `--model`, to run it, and `--html`, to show them.")
    config = InspectionConfig(**_values(args, InspectionConfig))
    outputs = [Path(name) for name in (args.html, args.plot, args.json, args.filter) if name is not None]
    for path in outputs:
        if not path.parent.is_dir():
            raise ValueError(f"The folder of {str(path)!r} must exist. Make it, or pass another file.")
    tokenizer = None
    if args.model is not None:
        from ..token_texts import load_tokenizer

        tokenizer = load_tokenizer("--model", args.model)
    statistics = Statistics(config, unit="tokens" if tokenizer else "words")
    rows = _read_rows("DATA", args.data, args.split, args.limit)
    pairs = read_pairs(rows, tokenizer, config)
    shown: list[InspectedPair] = []
    extremes: tuple[list, list] = ([], [])

    with _Filter(args.filter) as kept:

        def watch(pairs: Iterable["InspectedPair"]) -> Iterator["InspectedPair"]:
            for pair in pairs:
                statistics.add(pair)
                kept.add(pair)
                if args.sort is None and len(shown) < args.num_pairs:
                    shown.append(pair)
                elif args.sort is not None and pair.chosen and pair.rejected:
                    value = {
                        "key_token_ratio": pair.key_token_ratio,
                        "similarity": pair.similarity,
                        "length": pair.num_chosen + pair.num_rejected,
                    }[args.sort]
                    for heap, sign in zip(extremes, (1, -1), strict=True):
                        heapq.heappush(heap, (sign * value, -pair.row, pair))
                        if len(heap) > args.num_pairs:
                            heapq.heappop(heap)
                yield pair

        watched = watch(pairs)
        if args.log_probs:
            from ..inspection import add_log_probs

            watched = add_log_probs(watched, _load_model(args.model))
        if args.html is not None:
            from ..inspection import write_html

            write_html(watched, statistics, args.html, title=Path(args.data).name)
        else:
            collections.deque(watched, maxlen=0)
    if not statistics.num_pairs:
        raise ValueError(f"DATA must hold at least one pair, {args.data!r} has none. Check the file and its split.")
    summary = statistics.summary()
    print_statistics(summary)
    for heap, name in zip(extremes, ("Highest", "Lowest"), strict=True):
        for number, (_, _, pair) in enumerate(sorted(heap, reverse=True), 1):
            print(f"\n{name} {args.sort}, {number}:")
            show_pair(pair, weights=args.weights, fold=args.fold)
    for pair in shown:
        print()
        show_pair(pair, weights=args.weights, fold=args.fold)
    if args.plot is not None:
        from ..inspection import plot_statistics

        plot_statistics(statistics).savefig(args.plot)
    if args.json is not None:
        Path(args.json).write_text(json.dumps(summary, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    if args.filter is not None:
        print(f"{kept.num_good:,} pairs without problems, {kept.num_bad:,} with: {kept.bad}")
    for path in outputs:
        print(path)
    return 0


def _load_model(name: str) -> Any:
    import torch
    from transformers import AutoModelForCausalLM

    try:
        model = AutoModelForCausalLM.from_pretrained(name, dtype="auto")
    except (OSError, ValueError) as error:
        raise ValueError(f"`--model` must be a model to run for `--log_probs`, got {name!r} ({error}).") from error
    return model.to("cuda" if torch.cuda.is_available() else "cpu").eval()


class _Filter:
    """Writes pairs without problems to a file, and the others beside it; both are there when all is read."""

    def __init__(self, name: str | None) -> None:
        self.num_good = self.num_bad = 0
        self.good = None if name is None else Path(name)
        if self.good is None:
            return
        if self.good.suffix != ".jsonl":
            raise ValueError(
                f"`--filter` must be a JSON Lines file, got {name!r}. Pass `--filter {self.good.stem}.jsonl`."
            )
        self.bad = self.good.with_suffix(".rejected.jsonl")
        self.folder = tempfile.TemporaryDirectory(dir=self.good.parent)
        self.files = [open(Path(self.folder.name, name), "w", encoding="utf-8") for name in ("good", "bad")]

    def __enter__(self) -> "_Filter":
        return self

    def add(self, pair: "InspectedPair") -> None:
        if self.good is None:
            return
        row = {**pair.example, "problems": pair.problems} if pair.problems else pair.example
        self.num_good += not pair.problems
        self.num_bad += bool(pair.problems)
        self.files[bool(pair.problems)].write(json.dumps(row, default=str) + "\n")

    def __exit__(self, kind: Any, *exception: Any) -> None:
        if self.good is None:
            return
        for file in self.files:
            file.close()
        if kind is None:
            for name, path in (("good", self.good), ("bad", self.bad)):
                os.replace(Path(self.folder.name, name), path)
        self.folder.cleanup()


# evaluate


def _add_evaluate(commands: Any) -> None:
    parser = commands.add_parser(
        "evaluate",
        help="score the answers of a student",
        description="Ask a student questions, read its answers, and score them, with intervals. Interrupted, the same "
        "command goes on and generates nothing twice.",
        usage="edit-trl evaluate MODEL --dataset DATA [--num_paths 8 --temperature 0.7 --top_p 0.95] [...]",
    )
    parser.set_defaults(run=_evaluate)
    parser.add_argument(
        "data", metavar="MODEL", help="folder or name on the Hub of a model or an adapter, or name of a served model"
    )
    parser.add_argument("--config", metavar="FILE", help="YAML file with any of these flags")
    group = parser.add_argument_group("questions")
    group.add_argument(
        "--dataset",
        type=_reader(str, may_be_none=True),
        metavar="DATA",
        help="JSON, JSON Lines, CSV or Parquet file, or dataset on the Hub, with 'question' and 'answer'; optionally "
        "'task' and 'task_description'",
    )
    _add_rows(group, "test", "use the first N questions only; of each task with --harness")
    group = parser.add_argument_group("benchmarks of the paper, instead of questions")
    for name, text in (
        (
            "harness",
            "'all', or some of bbh,agieval,arc_easy,arc_challenge,gsm8k or of their tasks, with commas between",
        ),
        ("data_dir", "folder with copies of their datasets; from the Hub by default"),
        (
            "leave_out",
            "dataset of pairs or questions whose questions are not to be asked, such as that of the training",
        ),
    ):
        group.add_argument(f"--{name}", type=_reader(str, may_be_none=True), metavar="TEXT", help=text)
    _add_switch(
        group,
        "task_descriptions",
        "head the questions of BIG-Bench Hard with the descriptions of their tasks, as the authors do",
    )
    _add_fields(parser.add_argument_group("evaluation"), EvaluationConfig)
    group = parser.add_argument_group("comparison")
    group.add_argument(
        "--compare",
        type=_reader(str, may_be_none=True),
        metavar="FOLDER",
        help="'output_dir' of another student's run on the same questions, to compare with",
    )
    group = parser.add_argument_group("student")
    for name, kind, default, text in (
        ("max_new_tokens", int, 512, "longest reply, in tokens"),
        ("temperature", float, 0.0, "sampling temperature; zero is greedy"),
        ("top_p", float, 1.0, "nucleus sampling"),
        ("seed", int, 42, "seed of the sampling"),
        ("dtype", str, "auto", "type of the weights of a local model"),
        ("backend", str, "transformers", "what runs a local model, 'transformers' or 'vllm'"),
    ):
        group.add_argument(
            f"--{name}",
            type=_reader(kind, may_be_none=False),
            default=default,
            metavar="TEXT" if kind is str else "N",
            help=f"{text} (default: {default})",
        )
    for name, text in (
        ("base_url", "OpenAI-compatible endpoint that serves the student, up to and with '/v1'"),
        ("api_key_env", "name of the environment variable that holds its key; none by default"),
    ):
        group.add_argument(f"--{name}", type=_reader(str, may_be_none=True), metavar="TEXT", help=text)


def _evaluate(args: argparse.Namespace) -> int:
    from ..evaluation import (
        EndpointStudent,
        LocalStudent,
        VLLMStudent,
        compare_runs,
        evaluate,
        evaluate_benchmarks,
        print_results,
    )

    if (args.dataset is None) == (args.harness is None):
        raise ValueError(
            "`--dataset` or `--harness` is needed, on the command line or in the file of `--config`, and not both."
        )
    if args.backend not in ("transformers", "vllm"):
        raise ValueError(f"`--backend` must be 'transformers' or 'vllm', got {args.backend!r}.")
    config = EvaluationConfig(**_values(args, EvaluationConfig))
    questions: list[dict[str, Any]] = []
    if args.dataset is not None:  # read before a model is loaded
        questions = normalize_questions(_load_questions("--dataset", args.dataset, args.split, args.limit))
    options = {name: getattr(args, name) for name in ("max_new_tokens", "temperature", "top_p", "seed")}
    with contextlib.ExitStack() as stack:
        student: Any
        if args.base_url is not None:
            Path(config.output_dir).mkdir(parents=True, exist_ok=True)
            client = ChatClient(
                args.data,
                args.base_url,
                api_key_env=args.api_key_env,
                store=str(Path(config.output_dir, "replies.sqlite")),
                temperature=args.temperature,
                top_p=args.top_p if args.temperature else None,
                max_tokens=args.max_new_tokens,
                seed=args.seed,
                max_concurrency=config.batch_size,
            )
            student = EndpointStudent(stack.enter_context(client))
        elif args.backend == "vllm":
            student = VLLMStudent(args.data, **options)
        else:
            student = LocalStudent.from_pretrained(args.data, args.dtype, **options)
        progress = stack.enter_context(_Replies())
        if args.harness is None:
            results = evaluate(questions, student, config, on_progress=progress)
        else:
            names = None if args.harness == "all" else [name.strip() for name in args.harness.split(",")]
            left_out = () if args.leave_out is None else _read_rows("--leave_out", args.leave_out, "train", None)
            results = evaluate_benchmarks(
                student,
                names,
                config,
                limit=args.limit,
                data_dir=args.data_dir,
                leave_out=[_question_of(row) for row in left_out],
                task_descriptions=args.task_descriptions,
                on_progress=progress,
            )
    print_results(results, compare_runs(config.output_dir, args.compare) if args.compare is not None else None)
    for name in ("generations.jsonl", "results.json"):
        print(Path(config.output_dir, name))
    return 0


def _question_of(row: dict[str, Any]) -> str:
    """What a row of training data asks: its question, or its prompt, or the last message of it."""
    prompt = row.get("question") or row.get("prompt") or ""
    return str(prompt[-1].get("content") or "") if isinstance(prompt, list) else str(prompt)


class _Replies:
    """Progress on standard error: how many replies there are."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import Progress

        self.progress = Progress(console=Console(stderr=True))
        self.task: Any = None

    def __enter__(self) -> "_Replies":
        return self

    def __exit__(self, *exception: Any) -> None:
        if self.task is not None:
            self.progress.stop()

    def __call__(self, num_done: int, num_all: int) -> None:
        if self.task is None:
            self.progress.start()  # not before: a run that is refused prints one line
            self.task = self.progress.add_task("replies", total=num_all)
        self.progress.update(self.task, completed=num_done)


# Tables


def _read_rows(flag: str, name: str, split: str, limit: int | None) -> Iterator[dict[str, Any]]:
    """Rows of a file or dataset, one by one where the format allows."""
    if limit is not None and limit < 1:
        raise ValueError(f"`--limit` must be at least 1, got {limit}. Leave it out for all rows.")
    try:
        for row in itertools.islice(_rows_of(name, split), limit):
            if not isinstance(row, dict):
                raise ValueError("a row is not an object")
            yield row
    except Exception as error:  # whatever the readers raise
        raise ValueError(
            f"`{flag}` must be a JSON, JSON Lines, CSV or Parquet file, or a dataset on the Hub, got {name!r}: "
            f"{' '.join(str(error).split())[:300]}"
        ) from error


def _rows_of(name: str, split: str) -> Iterable[Any]:
    """`datasets` would take the answers "007", "NA" and "2030-01-02" of text files for something else than text."""
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
            start = file.read(1024).lstrip()[:1]
            file.seek(0)
            if start == "[":
                yield from json.load(file)
            else:
                for number, line in enumerate(file, 1):
                    if line.strip():
                        try:
                            yield json.loads(line)
                        except json.JSONDecodeError as error:
                            raise ValueError(f"line {number}, column {error.colno}: {error.msg}") from None
    else:
        from datasets import disable_progress_bars, load_dataset, load_from_disk

        disable_progress_bars()
        yield from load_from_disk(name) if (path / "state.json").is_file() else load_dataset(name, split=split)


# Flags from dataclasses, and from YAML


def _add_switch(group: Any, name: str, text: str) -> None:
    read = _reader(bool, may_be_none=False)
    group.add_argument(f"--{name}", type=read, nargs="?", const=True, default=False, metavar="true|false", help=text)


def _add_rows(group: Any, split: str, limit: str) -> None:
    """Which rows of a dataset to read."""
    group.add_argument(
        "--split",
        type=_reader(str, may_be_none=False),
        default=split,
        metavar="NAME",
        help="split of a dataset in a folder or on the Hub (default: %(default)s)",
    )
    group.add_argument("--limit", type=_reader(int, may_be_none=True), metavar="N", help=limit)


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
    known = [name for name in vars(args) if name not in ("command", "run", "config", "data")]
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
