"""
Measure how long it takes to prepare many pairs, and how much memory.

The pairs are those of the demo's tasks, each with a number of its own in the prompt, in a JSON lines file. They go the
way that they go in training, step by step: the file is loaded, the pairs are tokenized and checked by one or several
processes, and the collator makes batches of them, read from disk. The file is also streamed, without a copy. Memory is
that of this process and its children, without files that are mapped into it, so it shows what grows with the pairs.

Examples:

    python benchmarks/preparation.py --model SmolLM2-135M-Instruct --pairs 1000000 --processes 2
"""

import argparse
import json
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import datasets
import psutil
import reporting
from transformers import AutoTokenizer

from edit_trl import DataCollatorForDualCoT, align
from edit_trl.data_utils import prepare_dual_cots
from edit_trl.tasks import generate_dual_cots


# Pairs that differ in more than the number in their prompt, pairs in a batch, and pairs whose alignment is timed.
NUM_DIFFERENT, BATCH_SIZE, NUM_ALIGNED = 2000, 8, 20_000


class Peak(threading.Thread):
    """Largest memory of this process and its children while it runs, in MiB, sampled a few times per second."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.mib = 0.0
        self._is_done = threading.Event()

    def run(self) -> None:
        while not self._is_done.wait(0.3):
            total = 0
            for process in (psutil.Process(), *psutil.Process().children(recursive=True)):
                with suppress(psutil.Error):
                    memory = process.memory_info()
                    total += memory.rss - getattr(memory, "shared", 0)
            self.mib = max(self.mib, total / 2**20)

    def stop(self) -> float:
        self._is_done.set()
        self.join()
        return self.mib


@contextmanager
def measured(results: list[dict[str, Any]], step: str, num_pairs: int) -> Iterator[None]:
    """Measure a step, print it, and add it to the results."""
    peak, begin = Peak(), time.perf_counter()
    peak.start()
    yield
    seconds = time.perf_counter() - begin
    results.append({"step": step, "pairs": num_pairs, "seconds": seconds, "memory_mib": peak.stop()})
    print(f"{step}: {num_pairs:,} pairs, {seconds:.1f} s, {results[-1]['memory_mib']:,.0f} MiB", file=sys.stderr)


def write_pairs(path: Path, num_pairs: int) -> None:
    """Write pairs whose prompts are all different."""
    pairs = generate_dual_cots(min(num_pairs, NUM_DIFFERENT), level=2)
    with path.open("w", encoding="utf-8") as file:
        for number in range(num_pairs):
            pair = pairs[number % len(pairs)]
            prompt = f"{number}. {pair.question}\n"
            file.write(json.dumps({"prompt": prompt, "chosen": pair.chosen, "rejected": pair.rejected}) + "\n")


def collate(pairs: Any, num_pairs: int) -> None:
    """Make batches of pairs, in order."""
    collator = DataCollatorForDualCoT(pad_token_id=0, layout="packed")
    batch: list[dict[str, Any]] = []
    for _, pair in zip(range(num_pairs), pairs, strict=False):
        batch.append(pair)
        if len(batch) == BATCH_SIZE:
            collator(batch)
            batch = []
    if batch:
        collator(batch)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__.split("Examples:\n")[0], formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", required=True, help="Name or folder of the tokenizer.")
    parser.add_argument("--pairs", type=int, default=100_000, metavar="N", help="Default: %(default)s.")
    processes_help = "Numbers of processes that tokenize, one after the other. Default: 1."
    parser.add_argument("--processes", type=int, nargs="+", default=[1], metavar="N", help=processes_help)
    parser.add_argument("--json", metavar="FILE", help="Write everything that was measured.")
    args = parser.parse_args(argv)
    if min(args.pairs, *args.processes) < 1:
        parser.error("`--pairs` and `--processes` must be at least 1")
    datasets.disable_progress_bars()
    datasets.disable_caching()  # otherwise the second number of processes would get the pairs of the first
    tokenizer = AutoTokenizer.from_pretrained(args.model)
    options = {"eos_token": tokenizer.eos_token, "max_length": 1024}
    results: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "pairs.jsonl"
        write_pairs(file, args.pairs)
        source = {"path": "json", "data_files": str(file), "split": "train", "cache_dir": folder}
        with measured(results, "load the file", args.pairs):
            dataset = datasets.load_dataset(**source)
        for number in args.processes:
            name = "1 process" if number == 1 else f"{number} processes"
            with measured(results, f"tokenize and check, {name}", args.pairs):
                # None, and not 1, tokenizes in this process
                prepared = prepare_dual_cots(dataset, tokenizer, num_proc=number if number > 1 else None, **options)
            assert len(prepared) == args.pairs
        with measured(results, "read and collate", args.pairs):
            collate(prepared, args.pairs)
        stream = prepare_dual_cots(datasets.load_dataset(**source, streaming=True), tokenizer, **options)
        with measured(results, "the same from a stream, with tokenizing", args.pairs):
            collate(stream, args.pairs)
        sample = list(prepared.select(range(min(args.pairs, NUM_ALIGNED))))
        with measured(results, "collate, pairs in memory", len(sample)):
            collate(sample, len(sample))
        with measured(results, "of this, align", len(sample)):
            for pair in sample:
                align(pair["chosen_ids"], pair["rejected_ids"])
        num_tokens = sum(len(pair[f"{name}_ids"]) for pair in sample for name in ("prompt", "chosen", "rejected"))
    rows = []
    for result in results:
        microseconds = 1e6 * result["seconds"] / result["pairs"]
        numbers = [f"{result['pairs']:,}", f"{result['seconds']:,.1f}", f"{microseconds:,.0f}"]
        rows.append([result["step"], *numbers, f"{result['memory_mib']:,.0f}"])
    print(f"{num_tokens / len(sample):.0f} tokens per pair\n")
    print(reporting.markdown_table(["step", "pairs", "seconds", "µs per pair", "peak memory, MiB"], rows))
    if args.json:
        machine = reporting.describe_machine("torch", "transformers", "datasets")
        Path(args.json).write_text(
            json.dumps({"machine": machine, "steps": results}, indent=2) + "\n", encoding="utf-8"
        )


if __name__ == "__main__":
    main()
