"""The command `edit-trl synthesize`: dual chains-of-thought from a teacher model."""

import argparse
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..chat import ChatClient
from ..inspection.dataset_statistics import PAPER_KEY_TOKEN_RATIO
from ..synthesis import SynthesisConfig, estimate_requests, save_dual_cots, synthesize
from ..synthesis.dataset_files import check_output_dir
from .flags import add_command, add_fields, add_flag, add_questions, field_values
from .progress import Progress
from .rows import inputs, read_questions
from .teacher import add_teacher, client_options, print_stopped, push_if_asked, shards_of, start_batch, write_batch


def add_parser(commands: Any) -> None:
    """Add the parser of this command to the `commands`."""
    parser = add_command(
        commands,
        "synthesize",
        help="make dual chains-of-thought with a teacher model",
        description="Turn questions and answers into a dataset of dual chains-of-thought, through an "
        "OpenAI-compatible endpoint. After an interruption, run the same command to continue. No reply is paid twice.",
        usage="edit-trl synthesize --questions DATA --model TEXT [--config FILE] [...]",
    )
    parser.set_defaults(run=run)
    add_flag(parser, "dry_run", bool, "Print the expected requests, tokens and cost; send nothing")
    text = (
        "Replace files in 'output_dir' that no earlier 'synthesize' wrote; the questions themselves are never replaced"
    )
    add_flag(parser, "overwrite", bool, text)
    add_questions(parser, "questions", split="train", limit="Use only the first N questions")
    add_teacher(parser)
    add_fields(parser.add_argument_group("pairs"), SynthesisConfig)


def run(args: argparse.Namespace) -> None:
    """Run this command with the values of its flags, `args`."""
    for name in ("questions", "model"):
        if getattr(args, name) is None:
            raise ValueError(f"`--{name}` is needed, on the command line or in the file of `--config`.")
    config = SynthesisConfig(**field_values(args, SynthesisConfig))
    table = read_questions("--questions", args.questions, args.split, args.limit, distinct=True)
    check_output_dir(config, inputs(args.questions, args.config), args.overwrite)
    shards = shards_of(args, config)
    rows = shards.part(table.rows, lambda row: row["question"])
    with ChatClient(**client_options(args, shards)) as client:
        if args.dry_run:
            if rows:
                _print_estimate(estimate_requests(rows, client, config), client)
            print(f"Questions: {len(rows):,}, read as {table.reader}.", *table.notes)
            return
        batch = start_batch(args, client, inputs(args.questions, args.config))
        with Progress() as progress:
            result = synthesize(table.rows, client, config, on_progress=_progress_of(client, progress), shards=shards)
        if batch is not None and write_batch(args, batch):
            return
    from datasets import disable_progress_bars

    failed = [row["detail"] for row in result.rejected if row["reject_reason"] == "endpoint_error"]
    first_step = result.report["steps"]["extract"]
    if failed and first_step["kept"] == 0 and set(first_step["rejected"]) <= {"endpoint_error", "not_asked"}:
        raise ValueError(
            f"No request of {len(failed)} got a usable reply, so nothing was written. The last error: {failed[-1]} "
            "Run the same command to ask again."
        )
    disable_progress_bars()  # `datasets` shows one while it writes Parquet
    files = [] if shards.is_worker else save_dual_cots(result, config, args.overwrite)
    _print_report(result.report)
    if failed:
        print(f"Chains without a usable reply: {len(failed)}. The last error: {failed[-1]}")
        print("Run the same command to ask for them again.")
    print(f"Questions: {len(rows):,}, read as {table.reader}.", *table.notes)
    print_stopped(result.report["stopped"], shards)
    if shards.is_worker:
        return
    print("\n".join(files))
    if not result.report["pairs"] and not result.report["stopped"]:
        raise ValueError(
            "There must be at least one pair, but every chain was rejected. The table above says why; "
            f"{Path(config.output_dir, f'rejected.{config.file_format}')} has the replies."
        )
    push_if_asked(config)


def _progress_of(client: ChatClient, progress: Progress) -> Callable[[str, Counter[str], int, int], None]:
    """Return a function that shows the outcomes (kept, or the reasons of rejection), the rate and the cost."""
    start = time.monotonic()
    num_old = client.usage.replies

    def show(step: str, outcomes: Counter[str], num_done: int, num_all: int) -> None:
        by_number = sorted(outcomes.items(), key=lambda item: (item[0] != "kept", -item[1]))
        parts = [f"{num} {outcome}" for outcome, num in by_number]
        rate = (client.usage.replies - num_old) / (time.monotonic() - start + 1e-9)
        parts.append(f"{rate:.1f} replies/s")
        if client.cost is not None:
            parts.append(f"cost {client.cost:.4g}")
        progress.show(step, num_done, num_all, ", ".join(parts))

    return show


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
    print("This is an estimate: one token per four bytes, replies as long as the worked examples. Nothing was sent.")
    if client.usage.replies:
        print(f"The store has {client.usage.replies:,} replies. Their requests are not sent again.")
    if client.price(0, 0) is None:
        print("Pass `--prompt_price` and `--completion_price`, per million tokens, for the cost.")


def _print_report(report: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("step", "chains", "kept", "rejected", title=f"{report['pairs']} pairs")
    for name, step in report["steps"].items():
        reasons = ", ".join(f"{num} {reason}" for reason, num in step["rejected"].items())
        table.add_row(name, f"{step['chains']:,}", f"{step['kept']:,}", reasons or "-")
    Console().print(table)
    if report["pairs"]:
        print(
            f"Key {report['counted_in']}: {report['key_token_ratio']:.1%} of the chains (the paper's pairs: about "
            f"{PAPER_KEY_TOKEN_RATIO:.1%} of tokens). Similarity: {report['similarity']:.2f}."
        )
    usage = report["usage"]
    cost = "" if report["cost"] is None else f", cost {report['cost']:.4g}"
    print(
        f"{usage['requests']:,} requests, {usage['prompt_tokens']:,} tokens in, {usage['completion_tokens']:,} tokens "
        f"out{cost}"
    )
    for note in report["notes"]:
        print(f"Note: {note}")
