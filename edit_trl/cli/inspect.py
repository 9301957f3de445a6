"""The command `edit-trl inspect`: look at dual chains-of-thought before training on them."""

import argparse
import collections
import contextlib
import dataclasses
import heapq
import itertools
import json
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from ..files import check_outputs, written_aside
from ..inspection import (
    InspectedPair,
    InspectionConfig,
    Statistics,
    add_log_probs,
    card_section,
    plot_statistics,
    print_statistics,
    read_pairs,
    show_pair,
    write_html,
)
from ..token_texts import load_tokenizer
from .flags import add_command, add_fields, add_flag, add_rows, field_values
from .progress import Progress
from .rows import inputs, read_rows


# A bar is shown if reading takes longer than this, and then changes so often.
_SILENT_SECONDS = 2.0
_SECONDS_PER_CHANGE = 0.1
# Maximum number of characters of the card's example, if there is a pair so short.
_MAX_EXAMPLE = 2_000
_SORT_KEYS = ("key_token_ratio", "similarity", "length")


def add_parser(commands: Any) -> None:
    """Add the parser of this command to the `commands`."""
    parser = add_command(
        commands,
        "inspect",
        help="look at dual chains-of-thought before training on them",
        description="Align the pairs of a dataset of dual chains-of-thought. Print statistics, what they mean for "
        "training, and some pairs with their key tokens marked.",
        usage="edit-trl inspect DATA [--model TOKENIZER] [--html FILE] [...]",
    )
    parser.set_defaults(run=run)
    parser.add_argument(
        "data", metavar="DATA", help="JSON, JSON Lines, CSV or Parquet file, dataset folder, or dataset on the Hub"
    )
    group = parser.add_argument_group("data")
    add_rows(group, split="train", limit="Read only the first N pairs")
    text = "Student whose tokenizer is used; without it, pairs are aligned by words"
    add_flag(group, "model", str, text, metavar="TOKENIZER")
    group = parser.add_argument_group("pairs")
    add_flag(group, "num_pairs", int, "Pairs to show", default=3)
    text = "Show the pairs with the highest and the lowest 'key_token_ratio', 'similarity' or 'length'"
    add_flag(group, "sort", str, text, metavar="NAME")
    add_flag(group, "fold", int, "Show only N tokens at each end of a span that both chains share")
    add_flag(group, "weights", bool, "List the edits of the pairs shown, with the weights of their tokens")
    text = "Run the model '--model' and shade the tokens of the report by their log-probabilities"
    add_flag(group, "log_probs", bool, text)
    group = parser.add_argument_group("files")
    for name, text in (
        ("html", "File for a report to open in a browser"),
        ("plot", "SVG file for a picture of the statistics"),
        ("json", "File for the statistics"),
        ("card", "Markdown file for a part of the dataset card on the Hub, with the statistics and an example"),
        (
            "filter",
            "JSON Lines file for the pairs without problems; a second file beside it has the pairs with problems",
        ),
    ):
        add_flag(group, name, str, text, metavar="FILE")
    add_flag(group, "overwrite", bool, "Replace files that exist; the data itself is never replaced")
    add_fields(parser.add_argument_group("alignment"), InspectionConfig)


def run(args: argparse.Namespace) -> None:
    """Run this command with the values of its flags, `args`."""
    if args.sort is not None and args.sort not in _SORT_KEYS:
        raise ValueError(f"`--sort` must be one of {', '.join(_SORT_KEYS)}, got {args.sort!r}.")
    if args.num_pairs < 0 or (args.fold or 0) < 0:
        raise ValueError("`--num_pairs` and `--fold` must be at least 0. They are numbers of pairs and of tokens.")
    if args.log_probs and not (args.model and args.html):
        raise ValueError("`--log_probs` needs `--model`, the model to run, and `--html`, the report that shows them.")
    if args.plot is not None and Path(args.plot).suffix != ".svg":
        name = f"{Path(args.plot).stem}.svg"
        raise ValueError(f"`--plot` must be an SVG file, got {args.plot!r}. Browsers open it: pass `--plot {name}`.")
    config = InspectionConfig(**field_values(args, InspectionConfig))
    outputs = {
        f"`--{name}`": Path(getattr(args, name))
        for name in ("html", "plot", "json", "card", "filter")
        if getattr(args, name) is not None
    }
    filtered = None if args.filter is None else _FilteredFiles(outputs["`--filter`"])
    places = outputs if filtered is None else {**outputs, "the second file of `--filter`": filtered.bad}
    check_outputs(
        places, inputs(args.data, args.model, args.config), args.overwrite, "pass `--overwrite` to replace it"
    )
    tokenizer = None
    if args.model is not None:
        tokenizer = load_tokenizer("--model", args.model)
    statistics = Statistics(config, unit="tokens" if tokenizer else "words")
    shown, example = _ShownPairs(args.sort, args.num_pairs), _Example()
    with contextlib.ExitStack() as stack:
        kept = None if filtered is None else stack.enter_context(filtered)
        pairs = read_pairs(read_rows("DATA", args.data, args.split, args.limit), tokenizer, config)
        watchers = [statistics.add, shown.add, *([] if kept is None else [kept.add])]
        if args.card is not None:
            watchers.append(example.add)
        reading = _ReadingProgress(stack.enter_context(Progress()), args.limit)
        pairs = _watch(_at_least_one(pairs, args.data), [*watchers, reading.add])
        if args.log_probs:
            pairs = add_log_probs(pairs, _load_model(args.model))
        if args.html is not None:
            write_html(pairs, statistics, args.html, title=Path(args.data).name, provenance=_provenance(args))
        else:
            collections.deque(pairs, maxlen=0)
        reading.end()
    summary = statistics.summary()
    if args.plot is not None:
        with written_aside(args.plot) as (path,):
            path.write_text(plot_statistics(statistics), encoding="utf-8")
    if args.json is not None:
        with written_aside(args.json) as (path,):
            # Half a character, which UTF-8 cannot hold, is written as JSON's escape of it.
            text = json.dumps(summary, indent=2, ensure_ascii=False) + "\n"
            path.write_text(text, encoding="utf-8", errors="backslashreplace")
    if args.card is not None:
        picture = None if args.plot is None else Path(args.plot).name
        with written_aside(args.card) as (path,):
            path.write_text(card_section(summary, example.pair, _provenance(args), picture), encoding="utf-8")
    print_statistics(summary)
    shown.print(weights=args.weights, fold=args.fold)
    if kept is not None:
        print(f"{kept.num_good:,} pairs without problems, {kept.num_bad:,} with: {kept.bad}")
    for path in outputs.values():
        print(path)


def _provenance(args: argparse.Namespace) -> dict[str, str]:
    """What report and card say of their origin. They are shared, so folders of this machine are left out."""

    def name(value: str) -> str:
        path = Path(value).expanduser()
        return path.name if path.is_absolute() or value.startswith((".", "~")) or path.exists() else value

    words = ["edit-trl", "inspect", name(args.data)]
    for flag, value in vars(args).items():
        if flag in ("html", "plot", "json", "card", "filter", "config") and value is not None:
            words += [f"--{flag}", Path(value).name]
        elif flag == "model" and value is not None:
            words += [f"--{flag}", name(value)]
    options: list[tuple[str, Any]] = [("limit", None), ("split", "train"), ("log_probs", False)]
    options += [(f.name, f.default) for f in dataclasses.fields(InspectionConfig)]
    for flag, default in options:
        value = getattr(args, flag, default)
        if value != default:
            words += [f"--{flag}"] if value is True else [f"--{flag}", str(value)]
    tokenizer = "none: read as words" if args.model is None else name(args.model)
    return {"Data": name(args.data), "Tokenizer": tokenizer, "Command": " ".join(words)}


def _at_least_one(pairs: Iterator[InspectedPair], data: str) -> Iterator[InspectedPair]:
    """Return the pairs. Raises `ValueError` if there are none, before any file is replaced."""
    for first in pairs:
        return itertools.chain([first], pairs)
    raise ValueError(f"DATA must hold at least one pair, {data!r} has none. Check the file and its split.")


def _watch(pairs: Iterable[InspectedPair], watchers: list[Any]) -> Iterator[InspectedPair]:
    for pair in pairs:
        for watch in watchers:
            watch(pair)
        yield pair


class _ReadingProgress:
    """Shows how many pairs were read. Files are read row by row, so their number is known only with `--limit`."""

    def __init__(self, progress: Progress, limit: int | None) -> None:
        self.progress = progress
        self.limit = limit
        self.num_read = 0
        self.is_shown = False
        self.next_time = time.monotonic() + _SILENT_SECONDS

    def add(self, pair: InspectedPair) -> None:
        self.num_read += 1
        if time.monotonic() > self.next_time:
            self.progress.show("pairs", self.num_read, self.limit)
            self.next_time = time.monotonic() + _SECONDS_PER_CHANGE
            self.is_shown = True

    def end(self) -> None:
        """All pairs were read, so their number is known."""
        if self.is_shown:
            self.progress.show("pairs", self.num_read, self.num_read)


def _load_model(name: str) -> Any:
    import torch
    from transformers import AutoModelForCausalLM

    try:
        model = AutoModelForCausalLM.from_pretrained(name, dtype="auto")
    except (OSError, ValueError) as error:
        raise ValueError(f"`--model` must be a model to run for `--log_probs`, got {name!r} ({error}).") from error
    return model.to("cuda" if torch.cuda.is_available() else "cpu").eval()


class _ShownPairs:
    """The pairs to show: the first pairs, or the pairs with the highest and the lowest value of the `sort` key."""

    def __init__(self, sort: str | None, num_pairs: int) -> None:
        self.sort = sort
        self.num_pairs = num_pairs
        self.first: list[InspectedPair] = []
        # Heaps of (value, -row, pair) with the smallest item first. In `lowest` the values are negated.
        self.highest: list[tuple[float, int, InspectedPair]] = []
        self.lowest: list[tuple[float, int, InspectedPair]] = []

    def add(self, pair: InspectedPair) -> None:
        if self.sort is None:
            if len(self.first) < self.num_pairs:
                self.first.append(pair)
        elif pair.chosen and pair.rejected:
            is_length = self.sort == "length"
            value = pair.num_chosen + pair.num_rejected if is_length else getattr(pair, self.sort)
            for heap, sign in ((self.highest, 1), (self.lowest, -1)):
                heapq.heappush(heap, (sign * value, -pair.row, pair))
                if len(heap) > self.num_pairs:
                    heapq.heappop(heap)

    def print(self, weights: bool, fold: int | None) -> None:
        for heap, name in ((self.highest, "Highest"), (self.lowest, "Lowest")):
            for number, (_, _, pair) in enumerate(sorted(heap, reverse=True), 1):
                print(f"\n{name} {self.sort}, {number}:")
                show_pair(pair, weights=weights, fold=fold)
        for pair in self.first:
            print()
            show_pair(pair, weights=weights, fold=fold)


class _Example:
    """The example of the card: the first pair without problems that is not long, or the shortest if all are long."""

    def __init__(self) -> None:
        self.pair: InspectedPair | None = None
        self.length = 0

    def add(self, pair: InspectedPair) -> None:
        is_found = self.pair is not None and self.length <= _MAX_EXAMPLE
        if is_found or pair.problems or not (pair.chosen and pair.rejected):
            return
        length = len(pair.prompt) + sum(len(piece.text) for piece in (*pair.chosen, *pair.rejected))
        if self.pair is None or length < self.length:
            self.pair, self.length = pair, length


class _FilteredFiles:
    """
    Writes the pairs without problems to one file and the pairs with problems to another file beside it. Both files
    appear only after all pairs were read.
    """

    def __init__(self, good: Path) -> None:
        if good.suffix != ".jsonl":
            raise ValueError(
                f"`--filter` must be a JSON Lines file, got {str(good)!r}. Pass `--filter {good.stem}.jsonl`."
            )
        self.good, self.bad = good, good.with_suffix(".rejected.jsonl")
        self.num_good = self.num_bad = 0
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> "_FilteredFiles":
        paths = self._stack.enter_context(written_aside(self.good, self.bad))
        self._files = [self._stack.enter_context(open(path, "w", encoding="utf-8")) for path in paths]
        return self

    def add(self, pair: InspectedPair) -> None:
        row = {**pair.example, "problems": pair.problems} if pair.problems else pair.example
        self.num_good += not pair.problems
        self.num_bad += bool(pair.problems)
        self._files[bool(pair.problems)].write(json.dumps(row, default=str) + "\n")

    def __exit__(self, *exception: Any) -> None:
        self._stack.__exit__(*exception)
