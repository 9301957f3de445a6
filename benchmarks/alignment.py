"""
Measure how fast key tokens are found, with `edit_trl.align` and other methods, and memory while pairs are streamed.

Prints one row per length and method: the time of a pair (median and quartiles over the repeats), pairs per second, the
growth of the time with the length (1 is linear, 2 is quadratic) and two ratios. A ratio is the number of pairs that
the method of the row aligns in the time in which the method of the column aligns one pair.

    python benchmarks/alignment.py --json alignment.json
    python benchmarks/alignment.py --data pairs.jsonl --tokenizer HuggingFaceTB/SmolLM2-135M --lengths 100 200 400
    python benchmarks/alignment.py --stream 1000000

The methods:

- `align`: `align(chosen, rejected)`, the default.
- `align-reference`: `align(chosen, rejected, tie_break="reference")`.
- `python`: the edit distance table cell by cell and the walk back through it in the order of the authors' code, once
  for each direction, in plain Python. Gives the masks of `align-reference`.
- `numpy`: the same, one row of the table at a time.
- `difflib`: `difflib.SequenceMatcher` without its junk heuristic. Finds matching blocks, not a minimum edit script.
- `editdistance`: `editdistance.eval`, where the package is installed. Gives the distance only, no script.

A method is not run above the length that its option gives; nothing is extrapolated. All methods run in one process and
take turns, so that a change of the processor's clock affects all of them. Ratios are computed within a turn. Times are
processor time, so other programs on the machine do not count.
"""

import argparse
import difflib
import itertools
import json
import math
import sys
import time
import timeit
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import reporting

from edit_trl import align


try:
    import editdistance
except ImportError:  # no wheels for Python 3.13
    editdistance = None

Pair = tuple[list[int], list[int]]

LENGTHS = [100, 200, 400, 1000, 2000, 4000, 8000]
# From the slowest to the fastest, which is the order of the rows.
METHODS = ["python", "numpy", "difflib", *(["editdistance"] if editdistance else []), "align-reference", "align"]
REFERENCES = ["python", "numpy"]
MIN_SECONDS = 0.05  # of one measurement; a fast method is called more than once to reach it


def reference_mask(source: list[int], target: list[int]) -> list[bool]:
    """Return the key tokens of `source`. After the common prefix: deletion, then insertion, then the diagonal."""
    prefix = 0
    while prefix < len(source) and prefix < len(target) and source[prefix] == target[prefix]:
        prefix += 1
    a, b = source[prefix:], target[prefix:]
    table = [[0] * (len(b) + 1) for _ in range(len(a) + 1)]
    for i in range(len(a) + 1):
        table[i][0] = i
    for j in range(len(b) + 1):
        table[0][j] = j
    for i in range(1, len(a) + 1):
        for j in range(1, len(b) + 1):
            cost = 0 if a[i - 1] == b[j - 1] else 1
            table[i][j] = min(table[i - 1][j] + 1, table[i][j - 1] + 1, table[i - 1][j - 1] + cost)
    return [False] * prefix + walk_back(a, b, table)


def numpy_reference_mask(source: list[int], target: list[int]) -> list[bool]:
    """Return the same as `reference_mask`, from a table that is filled row by row."""
    prefix = 0
    while prefix < len(source) and prefix < len(target) and source[prefix] == target[prefix]:
        prefix += 1
    a, b = source[prefix:], target[prefix:]
    target_ids = np.array(b, dtype=np.int64)
    columns = np.arange(len(b) + 1, dtype=np.int32)
    table = np.empty((len(a) + 1, len(b) + 1), dtype=np.int32)
    table[0] = columns
    for i in range(1, len(a) + 1):
        row = table[i]
        row[0] = i
        np.minimum(table[i - 1, 1:] + 1, table[i - 1, :-1] + (target_ids != a[i - 1]), out=row[1:])
        # A cell is also at most one more than its left neighbour: a running minimum, once the column is subtracted.
        row -= columns
        np.minimum.accumulate(row, out=row)
        row += columns
    # Rows are views; as indices of a list they are reached faster than through the two-dimensional table.
    return [False] * prefix + walk_back(a, b, list(table))


def walk_back(a: list[int], b: list[int], table: Any) -> list[bool]:
    """Return which tokens of `a` the script deletes or replaces, from the last cell of the table to the first."""
    key = [False] * len(a)
    i, j = len(a), len(b)
    while i > 0 or j > 0:
        if i > 0 and table[i][j] == table[i - 1][j] + 1:
            i -= 1
            key[i] = True
        elif j > 0 and table[i][j] == table[i][j - 1] + 1:
            j -= 1
        else:
            i, j = i - 1, j - 1
            key[i] = a[i] != b[j]
    return key


def align_reference(chosen: list[int], rejected: list[int]) -> Any:
    return align(chosen, rejected, tie_break="reference")


def python_masks(chosen: list[int], rejected: list[int]) -> tuple[list[bool], list[bool]]:
    return reference_mask(chosen, rejected), reference_mask(rejected, chosen)


def numpy_masks(chosen: list[int], rejected: list[int]) -> tuple[list[bool], list[bool]]:
    return numpy_reference_mask(chosen, rejected), numpy_reference_mask(rejected, chosen)


def difflib_blocks(chosen: list[int], rejected: list[int]) -> Any:
    return difflib.SequenceMatcher(None, chosen, rejected, autojunk=False).get_matching_blocks()


CALLS: dict[str, Callable[[list[int], list[int]], Any]] = {
    "python": python_masks,
    "numpy": numpy_masks,
    "difflib": difflib_blocks,
    **({"editdistance": editdistance.eval} if editdistance else {}),
    "align-reference": align_reference,
    "align": align,
}


class DualChains:
    """
    Seeded generator of pairs of token ID lists that differ in a few short runs.

    Each pair has its own vocabulary, drawn from the IDs of the tokenizer. The probability of an ID is proportional to
    one over the ID, because byte-pair tokenizers give frequent tokens low IDs; the same holds within the vocabulary of
    a pair. The size of this vocabulary is eight times the square root of the length. This gives about as many
    different tokens as the paper's chains for BIG-Bench Hard have with the SmolLM2 tokenizer: 44 of 100 and 54 of 200.
    The speed of some methods depends on how often tokens repeat and how many IDs are below 256.
    """

    def __init__(self, vocab_size: int, key_ratio: float, shared_start: float, seed: int):
        self.rng = np.random.default_rng(seed)
        self.vocab_size = vocab_size
        self.key_ratio = key_ratio
        self.shared_start = shared_start

    def zipf(self, size: int, num: int) -> np.ndarray:
        """`num` integers below `size`; integer k with a probability proportional to 1 / (k + 1)."""
        cumulative = np.cumsum(1.0 / np.arange(1, size + 1))
        return np.searchsorted(cumulative, self.rng.random(num) * cumulative[-1])

    def tokens(self, num_tokens: int) -> list[int]:
        vocabulary = self.zipf(self.vocab_size, math.ceil(8 * math.sqrt(num_tokens)))
        return vocabulary[self.zipf(len(vocabulary), num_tokens)].tolist()

    def pair(self, length: int) -> Pair:
        """Make a chain of `length` tokens, and a second chain in which about `key_ratio` of the tokens are changed."""
        # What the runs put in comes from the pair's vocabulary too.
        chosen, others = np.array_split(self.tokens(2 * length), 2)
        first = int(self.shared_start * length)
        # Runs have one to three tokens, two on average.
        starts_run = self.rng.random(length) < self.key_ratio / 2 / (1 - self.shared_start)
        starts_run[:first] = False
        run_lengths = self.rng.integers(1, 4, size=length)
        kinds = self.rng.choice(["replace", "insert", "delete"], p=[0.6, 0.2, 0.2], size=length)
        rejected: list[int] = []
        i = 0
        while i < length:
            run = int(run_lengths[i]) if starts_run[i] else 0
            if run and kinds[i] != "delete":
                rejected += others[i : i + run].tolist()
            if run and kinds[i] != "insert":
                i += run
            else:
                rejected.append(int(chosen[i]))
                i += 1
        return chosen.tolist(), rejected


def stream_examples(num_pairs: int, length: int, chains: dict[str, Any]) -> Iterator[dict[str, list[int]]]:
    """Yield tokenized examples. Each is made only when it is needed."""
    generator = DualChains(**chains)
    for _ in range(num_pairs):
        chosen, rejected = generator.pair(length)
        yield {"prompt_ids": generator.tokens(32), "chosen_ids": chosen, "rejected_ids": rejected}


def read_pairs(data: Path, tokenizer_name: str) -> list[Pair]:
    """Token IDs of the completions of a JSONL file with the columns `prompt`, `chosen` and `rejected`."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tokenizer_name)
    pairs = []
    with open(data, encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            record = json.loads(line)
            texts = [record.get("chosen"), record.get("rejected")]
            if not all(isinstance(text, str) for text in texts):
                raise ValueError(
                    f"Line {number} of `--data` must have the strings `chosen` and `rejected`, got the columns "
                    f"{sorted(record)}. The completions are what is aligned; export the pairs as plain text."
                )
            chosen, rejected = (tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts)
            pairs.append((chosen, rejected))
    return pairs


def mean_length(pairs: list[Pair]) -> float:
    return sum(len(chosen) + len(rejected) for chosen, rejected in pairs) / (2 * len(pairs))


def group_by_length(pairs: list[Pair], lengths: list[int], num_pairs: int) -> dict[int, list[Pair]]:
    """Group pairs by the nearest of the given lengths (by ratio), at most `num_pairs` for each length."""
    groups: dict[int, list[Pair]] = {length: [] for length in lengths}
    for pair in pairs:
        if all(pair):
            nearest = min(lengths, key=lambda length: abs(math.log(length / mean_length([pair]))))
            groups[nearest].append(pair)
    return {length: group[:num_pairs] for length, group in groups.items() if group}


def key_share(pairs: list[Pair]) -> float:
    """Share of the tokens of both chains that are key."""
    alignments = [align(*pair) for pair in pairs]
    num_key = sum(sum(alignment.chosen_key) + sum(alignment.rejected_key) for alignment in alignments)
    return num_key / (2 * len(pairs) * mean_length(pairs))


def check_masks(pairs: list[Pair], methods: list[str]) -> None:
    """Methods with the same rule must give the same masks, or their ratios mean nothing."""
    for pair in pairs:
        expected = align_reference(*pair)
        for method in REFERENCES:
            if method in methods and CALLS[method](*pair) != (expected.chosen_key, expected.rejected_key):
                raise RuntimeError(f"`{method}` and `align-reference` disagree on {pair}.")


def measure(pairs: list[Pair], methods: list[str], num_repeats: int) -> dict[str, list[float]]:
    """Microseconds per pair of each method in each repeat."""

    def timer(method: str) -> timeit.Timer:
        call = CALLS[method]

        def call_all() -> None:
            for chosen, rejected in pairs:
                call(chosen, rejected)

        return timeit.Timer(call_all, timer=time.process_time)

    timers = {method: timer(method) for method in methods}
    calls = {method: math.ceil(MIN_SECONDS / max(timers[method].timeit(1), 1e-6)) for method in methods}
    times: dict[str, list[float]] = {method: [] for method in methods}
    for repeat in range(num_repeats):
        turn = repeat % len(methods)  # no method always follows the same one
        for method in methods[turn:] + methods[:turn]:
            seconds = timers[method].timeit(calls[method]) / calls[method]
            times[method].append(1e6 * seconds / len(pairs))
    return times


def summarize(length: int, pairs: list[Pair], times: dict[str, list[float]]) -> list[dict[str, Any]]:
    """One record per method, without the growth."""
    results = []
    for method in METHODS:
        result: dict[str, Any] = {
            "length": length,
            "mean_length": mean_length(pairs),
            "num_pairs": len(pairs),
            "key_ratio": key_share(pairs),
            "method": method,
            "microseconds": None,
            "microseconds_quartiles": None,
            "pairs_per_second": None,
            "growth": None,
        }
        for reference in REFERENCES:
            result[f"ratio_to_{reference}"] = result[f"ratio_to_{reference}_quartiles"] = None
        if method in times:
            low, median, high = np.percentile(times[method], [25, 50, 75]).tolist()
            result.update(microseconds=median, microseconds_quartiles=[low, high], pairs_per_second=1e6 / median)
            for reference in set(REFERENCES) & times.keys():
                low, median, high = np.percentile(np.divide(times[reference], times[method]), [25, 50, 75]).tolist()
                result[f"ratio_to_{reference}"] = median
                result[f"ratio_to_{reference}_quartiles"] = [low, high]
        results.append(result)
    return results


def add_growth(results: list[dict[str, Any]]) -> None:
    """Exponent by which the time of a method grows from the length before."""
    for method in METHODS:
        measured = [result for result in results if result["method"] == method and result["microseconds"]]
        for before, after in itertools.pairwise(measured):
            after["growth"] = math.log(after["microseconds"] / before["microseconds"]) / math.log(
                after["mean_length"] / before["mean_length"]
            )


def table(results: list[dict[str, Any]]) -> str:
    header = ["length", "pairs", "key", "method", "µs per pair", "quartiles", "pairs/s", "growth"]
    header += [f"x {reference} (quartiles)" for reference in REFERENCES]
    rows = []
    for result in results:
        row = [
            f"{result['mean_length']:.0f}",
            str(result["num_pairs"]),
            f"{result['key_ratio']:.1%}",
            result["method"],
        ]
        if result["microseconds"] is None:
            rows.append(row + ["-"] * (len(header) - len(row)))
            continue
        low, high = result["microseconds_quartiles"]
        row += [f"{result['microseconds']:,.1f}", f"{low:,.1f}-{high:,.1f}", f"{result['pairs_per_second']:,.1f}"]
        row.append("-" if result["growth"] is None else f"{result['growth']:.2f}")
        for reference in REFERENCES:
            ratio, quartiles = result[f"ratio_to_{reference}"], result[f"ratio_to_{reference}_quartiles"]
            row.append("-" if ratio is None else f"{ratio:,.1f} ({quartiles[0]:,.1f}-{quartiles[1]:,.1f})")
        rows.append(row)
    widths = [max(len(row[column]) for row in [header, *rows]) for column in range(len(header))]
    lines = ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in [header, *rows]]
    lines.insert(1, "-" * len(lines[0]))
    # A rule between two lengths.
    for number in range(len(results) - len(METHODS), 0, -len(METHODS)):
        lines.insert(2 + number, "")
    return "\n".join(lines)


def plot(results: list[dict[str, Any]], path: Path) -> None:
    pyplot = reporting.import_pyplot()
    figure, axes = pyplot.subplots(figsize=(7, 4.5), layout="constrained")
    for method, marker in zip(METHODS, "osv^Dx", strict=False):
        measured = [result for result in results if result["method"] == method and result["microseconds"]]
        if not measured:
            continue
        lengths = [result["mean_length"] for result in measured]
        (line,) = axes.plot(lengths, [result["microseconds"] for result in measured], marker=marker, label=method)
        low, high = zip(*[result["microseconds_quartiles"] for result in measured], strict=True)
        axes.fill_between(lengths, low, high, color=line.get_color(), alpha=0.2, linewidth=0)
    axes.set(xscale="log", yscale="log", xlabel="Tokens per chain", ylabel="Microseconds per pair")
    ticks = sorted({result["length"] for result in results})
    axes.set_xticks(ticks, labels=[str(tick) for tick in ticks])
    axes.minorticks_off()
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    figure.savefig(path)
    pyplot.close(figure)


def chain_settings(args: argparse.Namespace) -> dict[str, Any]:
    return {name: getattr(args, name) for name in ("vocab_size", "key_ratio", "shared_start", "seed")}


def stream(args: argparse.Namespace) -> list[dict[str, float]]:
    """Send pairs through the collator, and record the resident memory several times."""
    import psutil
    from datasets import IterableDataset

    from edit_trl import DataCollatorForDualCoT

    dataset = IterableDataset.from_generator(
        stream_examples,
        gen_kwargs={"num_pairs": args.stream, "length": args.stream_length, "chains": chain_settings(args)},
    )
    collator = DataCollatorForDualCoT(pad_token_id=0)
    process = psutil.Process()
    start = timeit.default_timer()
    records = []

    def note(num_pairs: int) -> None:
        resident, seconds = process.memory_info().rss / 2**20, timeit.default_timer() - start
        records.append({"num_pairs": num_pairs, "resident_mib": resident, "seconds": seconds})
        print(f"{num_pairs:>12,} pairs  {resident:8.1f} MiB resident  {seconds:8.1f} s", flush=True)

    note(0)
    marks = [math.ceil(args.stream * share) for share in (0.1, 0.5, 1.0)]
    num_pairs = 0
    examples = iter(dataset)
    while batch := list(itertools.islice(examples, args.batch_size)):
        collator(batch)
        num_pairs += len(batch)
        while marks and num_pairs >= marks[0]:
            note(num_pairs)
            marks.pop(0)
    return records


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--lengths", type=int, nargs="+", default=LENGTHS, help="tokens per chain (default: %(default)s)"
    )
    parser.add_argument("--num_pairs", type=int, default=4, help="pairs of each length (default: %(default)s)")
    parser.add_argument(
        "--num_repeats", type=int, default=7, help="times that each method has its turn (default: %(default)s)"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the generated pairs (default: %(default)s)")
    parser.add_argument("--vocab_size", type=int, default=49152, help="token IDs to draw from (default: %(default)s)")
    parser.add_argument(
        "--key_ratio",
        type=float,
        default=0.06,
        help="share of the tokens of a generated pair that is replaced, inserted or deleted (default: %(default)s)",
    )
    parser.add_argument(
        "--shared_start",
        type=float,
        default=0.0,
        help="share of a generated chain before which no token differs; methods that take off a common prefix then "
        "have less to do. Real dual chains share about half (default: %(default)s)",
    )
    parser.add_argument(
        "--data",
        type=Path,
        help="JSONL file with `prompt`, `chosen` and `rejected` to take the pairs from instead; needs `--tokenizer`. "
        "A pair counts for the nearest of `--lengths`, and lengths without pairs are left out",
    )
    parser.add_argument("--tokenizer", help="name or folder of the tokenizer for `--data`")
    for method, longest in {"python": 1000, "numpy": 4000, "difflib": 2000}.items():
        parser.add_argument(
            f"--{method}_max_length",
            type=int,
            default=longest,
            help=f"leave `{method}` out above this length (default: %(default)s)",
        )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write settings and results here")
    parser.add_argument(
        "--plot", type=Path, metavar="FILE", help="draw time over length here (.png or .svg); needs matplotlib"
    )
    parser.add_argument(
        "--stream",
        type=int,
        metavar="N",
        help="instead of timing, stream N generated pairs through `DataCollatorForDualCoT` and print the resident "
        "memory at the start and after 10, 50 and 100 %% of them",
    )
    parser.add_argument(
        "--stream_length", type=int, default=200, help="tokens per chain of `--stream` (default: %(default)s)"
    )
    parser.add_argument(
        "--batch_size", type=int, default=8, help="pairs per batch of `--stream` (default: %(default)s)"
    )
    args = parser.parse_args(argv)
    if (args.data is None) != (args.tokenizer is None):
        parser.error("`--data` and `--tokenizer` go together: the text of the pairs is aligned as token IDs.")
    if not 0 <= args.shared_start < 1:
        parser.error(f"`--shared_start` must be at least 0 and less than 1, got {args.shared_start}.")
    return args


def run(args: argparse.Namespace) -> None:
    if args.plot is not None:
        reporting.import_pyplot()  # fails now rather than after minutes of measuring
    report: dict[str, Any] = {
        "settings": {
            name: value.name if isinstance(value, Path) else value
            for name, value in vars(args).items()
            if name not in ("json", "plot", "tokenizer")
        },
        "environment": reporting.describe_machine("numpy", "rapidfuzz", *(["editdistance"] if editdistance else [])),
        "results": [],
        "stream": [],
    }
    if args.tokenizer is not None:
        report["settings"]["tokenizer"] = Path(args.tokenizer).name
    if args.stream:
        report["stream"] = stream(args)
    else:
        if args.data is not None:
            groups = group_by_length(read_pairs(args.data, args.tokenizer), sorted(args.lengths), args.num_pairs)
        else:
            chains = DualChains(**chain_settings(args))
            groups = {length: [chains.pair(length) for _ in range(args.num_pairs)] for length in sorted(args.lengths)}
        for length, pairs in groups.items():
            print(f"Timing {len(pairs)} pairs of about {mean_length(pairs):.0f} tokens", file=sys.stderr, flush=True)
            methods = [method for method in METHODS if length <= getattr(args, f"{method}_max_length", math.inf)]
            check_masks(pairs, methods)
            report["results"] += summarize(length, pairs, measure(pairs, methods, args.num_repeats))
        add_growth(report["results"])
        print(table(report["results"]))
    if args.json is not None:
        args.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
        print(f"Results are in {args.json}", file=sys.stderr)
    if args.plot is not None and report["results"]:
        plot(report["results"], args.plot)
        print(f"Plot is in {args.plot}", file=sys.stderr)


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    try:
        run(args)
    except (ImportError, OSError, ValueError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
