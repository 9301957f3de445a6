"""
Measure how long `edit-trl inspect` takes, and compare two copies of the package in one run.

The pairs are generated, each with a prompt of its own. Both copies read the same file in turns, each in a process of
its own, and must print and write the same. The time is processor time of the whole command, with its start.

    git worktree add ../before 5ba0264
    python benchmarks/inspection.py --pairs 20000 --before ../before
    python benchmarks/inspection.py --pairs 20000 --before ../before --model HuggingFaceTB/SmolLM2-135M-Instruct
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from edit_trl.tasks import generate_dual_cots


HERE = Path(__file__).parents[1]


def write_pairs(path: Path, num: int) -> None:
    """Write `num` pairs, of 2,000 different questions with a number before each."""
    rows = [cot.to_pair() for cot in generate_dual_cots(min(num, 2_000), level=2, seed=1)]
    with open(path, "w", encoding="utf-8") as file:
        for number in range(num):
            row = rows[number % len(rows)]
            file.write(json.dumps({**row, "prompt": f"Question {number}. {row['prompt']}"}) + "\n")


def inspect(copy: Path, data: Path, model: str | None, output: Path) -> tuple[float, str]:
    """Run the command of a copy of the package. Returns processor seconds, and the statistics that it wrote."""
    command = [sys.executable, "-m", "edit_trl", "inspect", str(data), "--num_pairs", "0", "--json", str(output)]
    command += ["--overwrite", *([] if model is None else ["--model", model])]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    # Tokenizers use one core, so that ratios do not depend on the number of cores.
    environment = {**os.environ, "PYTHONPATH": str(copy), "TOKENIZERS_PARALLELISM": "false"}
    subprocess.run(
        command, check=True, cwd=copy, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
    return seconds, output.read_text(encoding="utf-8")


def main() -> None:
    """Parse the arguments, measure and print a table."""
    parser = argparse.ArgumentParser(description="Time of `edit-trl inspect`, against another copy of the package")
    parser.add_argument("--pairs", type=int, default=20_000, help="number of pairs (default: %(default)s)")
    parser.add_argument("--model", help="tokenizer; without it, words are read")
    parser.add_argument("--before", type=Path, help="folder with another copy of the package, for the ratio")
    parser.add_argument("--repeats", type=int, default=3, help="turns (default: %(default)s)")
    args = parser.parse_args()
    copies = {"here": HERE, **({} if args.before is None else {"before": args.before.resolve()})}
    times: dict[str, list[float]] = {name: [] for name in copies}
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "pairs.jsonl"  # absolute, because each copy runs in its own folder
        write_pairs(data, args.pairs)
        for _ in range(args.repeats):
            results = {name: inspect(copy, data, args.model, Path(folder) / name) for name, copy in copies.items()}
            for name, (seconds, _) in results.items():
                times[name].append(seconds)
            if len({text for _, text in results.values()}) > 1:
                raise SystemExit("The two copies write different statistics.")
    for name, seconds in times.items():
        median = statistics.median(seconds)
        print(f"{name}: {median:.1f} s, {median / args.pairs * 1e6:.0f} µs per pair")
    if "before" in times:
        ratios = [before / here for before, here in zip(times["before"], times["here"], strict=True)]
        print(f"before ÷ here: {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})")


if __name__ == "__main__":
    main()
