"""
Measure whether edit distance finds the key steps: compare key tokens with mistakes whose position is known.

Part 1 takes pairs from `edit_trl.tasks`, which knows the characters of the injected mistake and of its consequences.
It scores the key tokens of eleven rules against them: in pairs as generated, with the wrong chain reworded, and with
sentences of the wrong chain swapped. Part 2, with `--big_bench_mistake`, takes wrong chains of a large model in which
people marked the first mistaken step (Tyen et al. 2023, arXiv 2311.08516). It makes a right chain that agrees with the
wrong chain up to this step, and measures where the key tokens are.

    python benchmarks/key_steps.py --tokenizers smollm2=SmolLM2-135M-Instruct --num_processes 2 --json key_steps.json
    python benchmarks/key_steps.py --num_pairs 300 --big_bench_mistake big_bench_mistake

Four tokenizers are built from the scored texts, in addition to the given ones: `bpe` (byte-level byte pairs, 800
tokens), `unigram` (800 pieces, spaces as in SentencePiece), `words` (whole words, with the space before them) and
`characters`.
"""

import argparse
import json
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import key_steps_rules
import key_steps_scores
import numpy as np
from key_steps_chains import Chain, build_tokenizers
from key_steps_generated import change_chains, change_pairs, generate, reword
from key_steps_rules import RULES
from key_steps_scores import Job, score_generated, score_real, summarize_generated, summarize_real
from key_steps_solvers import read_rectified
from reporting import markdown_table
from transformers import AutoTokenizer, PreTrainedTokenizerBase


def percent(record: dict[str, Any], name: str, with_interval: bool = True) -> str:
    """A score in percent, with the ends of its interval."""
    if not with_interval:
        return f"{100 * record[name]:.1f}"
    low, high = record[f"{name}_interval"]
    return f"{100 * record[name]:.1f} ({100 * low:.1f}-{100 * high:.1f})"


def print_generated(results: Sequence[dict[str, Any]]) -> None:
    """Tables of part 1, for each tokenizer."""
    for name in dict.fromkeys(record["tokenizer"] for record in results):
        of_tokenizer = [record for record in results if record["tokenizer"] == name]
        as_generated = [record for record in of_tokenizer if record["variant"] == "as generated"]
        everything = [record for record in as_generated if record["group"] == "all"]
        truth = percent(everything[0], "truth_ratio", with_interval=False)
        print(f"\n## {name}: {everything[0]['num_pairs']} pairs, {truth} % of the tokens are in the truth\n")
        rows = [
            [
                record["rule"],
                percent(record, "key_ratio", with_interval=False),
                *[percent(record, column) for column in ("precision", "recall", "f1", "f1_difference")],
                *[percent(record, f"{role}_recall") for role in ("mistake", "consequence")],
                *[percent(record, f"{role}_span_recall", with_interval=False) for role in ("mistake", "consequence")],
            ]
            for record in everything
        ]
        header = ["rule", "key %", "precision", "recall", "F1", "F1 - align's", "mistake recall", "consequence recall"]
        print(markdown_table([*header, "mistake spans", "consequence spans"], rows))
        for title, key, records in (
            ("F1 by group", "group", as_generated),
            ("F1 by change", "variant", [record for record in of_tokenizer if record["group"] == "all"]),
        ):
            columns = list(dict.fromkeys(record[key] for record in records))
            cells = {(record["rule"], record[key]): percent(record, "f1", key == "variant") for record in records}
            print(f"\n{title}, {name}:\n")
            rows = [[rule, *[cells[rule, column] for column in columns]] for rule in RULES]
            print(markdown_table(["rule", *columns], rows))


def print_real(results: Sequence[dict[str, Any]]) -> None:
    """Tables of part 2, for each tokenizer and change of the right chains."""
    for name, variant in dict.fromkeys((record["tokenizer"], record["variant"]) for record in results):
        print(f"\n## Real mistakes, {name}, right chain {variant}\n")
        rows = [
            [
                record["task"],
                str(record["num_pairs"]),
                record["rule"],
                *[percent(record, column) for column in ("first", "first_rejected", "alarmed")],
                "{:.1f} ({:.1f}-{:.1f})".format(record["num_before"], *record["num_before_interval"]),
                *[percent(record, f"{where}_key_ratio") for where in ("before", "marked", "after")],
            ]
            for record in results
            if (record["tokenizer"], record["variant"]) == (name, variant)
        ]
        header = ["task", "pairs", "rule", "first key token in the marked step", "of the wrong chain"]
        header += ["pairs with key tokens before", "key tokens before", "key % before", "key % in it", "key % after"]
        print(markdown_table(header, rows))


def run_jobs(
    function: Callable[..., np.ndarray], jobs: Sequence[tuple[Any, ...]], num_processes: int
) -> list[np.ndarray]:
    """Call a function on each job, and return the results in order."""
    if num_processes == 1:
        return [function(*job) for job in jobs]
    with ProcessPoolExecutor(num_processes) as executor:
        return [future.result() for future in [executor.submit(function, *job) for job in jobs]]


def run_generated(args: argparse.Namespace, given: dict[str, PreTrainedTokenizerBase]) -> list[dict[str, Any]]:
    """Part 1: a record for each tokenizer, change, group of pairs and rule."""
    examples = generate(args.num_pairs, args.levels, args.seed)
    pairs = change_pairs(examples, args.rates, args.swaps, args.seed)
    prompts = [example.to_pair()["prompt"] for example in examples]
    texts = [f" {chain.text}" for changed in pairs.values() for pair in changed for chain in pair]
    all_tokenizers = given | build_tokenizers([*prompts, *texts])
    jobs = [
        Job({"tokenizer": name, "variant": variant}, tokenizer, prompts, changed, args.seed)
        for name, tokenizer in all_tokenizers.items()
        for variant, changed in pairs.items()
    ]
    forgets = np.array([all(span.role != "mistake" for span in example.rejected_spans) for example in examples])
    groups = {"all": np.full(len(examples), True), "forgotten step": forgets, "other mistakes": ~forgets}
    groups |= {
        task: np.array([example.task == task for example in examples])
        for task in dict.fromkeys(example.task for example in examples)
    }
    results = []
    for job, counts in zip(jobs, run_jobs(score_generated, [(job,) for job in jobs], args.num_processes), strict=True):
        for group, members in groups.items():
            if members.any() and (group == "all" or job.labels["variant"] == "as generated"):
                records = summarize_generated(counts[members], args.num_resamples, args.seed)
                results += [job.labels | {"group": group} | record for record in records]
    return results


def run_real(
    args: argparse.Namespace, given: dict[str, PreTrainedTokenizerBase]
) -> tuple[list[dict[str, Any]], dict[str, dict[str, int]]]:
    """Part 2: a record for each tokenizer, task, change and rule; and by task how many chains could be rectified."""
    rectified, reasons = read_rectified(args.big_bench_mistake)
    parts, texts = [], []
    for task, records in rectified.items():
        prompts = [f"{record['input']}\n" for record, _ in records]
        marked = [record["mistake_index"] for record, _ in records]
        rejected = [Chain("\n".join(record["steps"])) for record, _ in records]
        kept = [Chain("\n".join(steps)) for _, steps in records]
        changed = {"kept": kept}
        changed |= {f"reworded {rate:g}": change_chains(kept, reword, rate, args.seed) for rate in args.rates}
        for variant, chosen in changed.items():
            parts.append(
                ({"variant": variant, "task": task}, prompts, list(zip(chosen, rejected, strict=True)), marked)
            )
            texts += [f" {chain.text}" for chain in [*chosen, *rejected]]
        texts += prompts
    # `characters` is left out: with chains of 4,000 characters some rules take minutes.
    built = {name: tokenizer for name, tokenizer in build_tokenizers(texts).items() if name != "characters"}
    jobs = [
        (Job({"tokenizer": name, **labels}, tokenizer, prompts, pairs, args.seed), marked)
        for name, tokenizer in (given | built).items()
        for labels, prompts, pairs, marked in parts
        if pairs
    ]
    results = []
    for (job, _), counts in zip(jobs, run_jobs(score_real, jobs, args.num_processes), strict=True):
        results += [job.labels | record for record in summarize_real(counts, args.num_resamples, args.seed)]
    return results, {task: {"rectified": len(rectified[task]), **reasons[task]} for task in rectified}


def named_path(argument: str) -> tuple[str, str]:
    name, separator, path = argument.partition("=")
    if not (name and separator and path):
        raise argparse.ArgumentTypeError(f"must be name=path, got {argument!r}")
    return name, path


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    description = "".join(str(text) for text in (__doc__, key_steps_rules.__doc__, key_steps_scores.__doc__))
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--num_pairs", type=int, default=2000, help="generated pairs; 0 leaves part 1 out (default: %(default)s)"
    )
    parser.add_argument(
        "--levels", type=int, nargs="+", default=[1, 2, 3], help="their difficulties, in equal shares (default: 1 2 3)"
    )
    parser.add_argument(
        "--tokenizers",
        type=named_path,
        nargs="+",
        default=[],
        metavar="NAME=PATH",
        help="tokenizers to use beside those built here, each a folder or a name on the Hub, with what to call it",
    )
    parser.add_argument(
        "--rates",
        type=float,
        nargs="*",
        default=[0.1, 0.25, 0.5, 1.0],
        help="shares of the places that can be reworded to reword (default: 0.1 0.25 0.5 1)",
    )
    parser.add_argument(
        "--swaps", type=int, nargs="*", default=[1, 2, 3], help="swaps of neighbouring steps (default: 1 2 3)"
    )
    parser.add_argument(
        "--big_bench_mistake",
        type=Path,
        metavar="FOLDER",
        help="folder with the JSONL files of BIG-Bench Mistake, one for each task, for part 2",
    )
    parser.add_argument(
        "--num_resamples", type=int, default=1000, help="of the bootstrap intervals (default: %(default)s)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of everything drawn (default: %(default)s)")
    parser.add_argument("--num_processes", type=int, default=1, help="processes (default: %(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write settings and results here")
    args = parser.parse_args(argv)
    if args.num_pairs < 0:
        parser.error(f"`--num_pairs` must be positive or zero, got {args.num_pairs}. Zero leaves part 1 out.")
    if args.big_bench_mistake and not args.big_bench_mistake.is_dir():
        parser.error(f"`--big_bench_mistake` must be a folder, got {args.big_bench_mistake}.")
    return args


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    given = {name: AutoTokenizer.from_pretrained(path) for name, path in args.tokenizers}
    report: dict[str, Any] = {
        "settings": {
            name: value
            for name, value in vars(args).items()
            if name not in ("json", "tokenizers", "big_bench_mistake")
        },
    }
    if args.num_pairs:
        report["generated"] = run_generated(args, given)
        print_generated(report["generated"])
    if args.big_bench_mistake:
        report["real"], report["real_pairs"] = run_real(args, given)
        print(f"\nReal pairs: {json.dumps(report['real_pairs'], indent=2)}")
        print_real(report["real"])
    if args.json:
        args.json.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
