"""The command `edit-trl mend`: dual chains-of-thought from a student's own mistakes."""

import argparse
import itertools
import json
from pathlib import Path
from typing import Any

from ..chat import ChatClient
from ..synthesis import MendingConfig, estimate_mending, mend_mistakes, mix_with_replay, save_mended
from ..synthesis.dataset_files import check_output_dir
from .flags import add_command, add_fields, add_flag, field_values, listed
from .progress import Progress
from .rows import read_rows
from .teacher import add_teacher, client_options, print_stopped, push_if_asked, shards_of, start_batch, write_batch


def add_parser(commands: Any) -> None:
    """Add the parser of this command to the `commands`."""
    parser = add_command(
        commands,
        "mend",
        help="make dual chains-of-thought from a student's own mistakes",
        description="Mend the wrong replies of a student with a teacher model, through an OpenAI-compatible endpoint. "
        "The replies are those of 'edit-trl evaluate --num_paths 8 --temperature 1'. After an interruption, run the "
        "same command to continue. No reply is paid twice.",
        usage="edit-trl mend --replies DATA [DATA ...] --model TEXT [--config FILE] [...]",
    )
    parser.set_defaults(run=run)
    add_flag(parser, "dry_run", bool, "Print the expected requests, tokens and cost; send nothing")
    text = "Replace files in the output folder that no earlier 'mend' wrote"
    add_flag(parser, "overwrite", bool, text)
    group = parser.add_argument_group("replies")
    group.add_argument(
        "--replies",
        nargs="+",
        metavar="DATA",
        help="Folder of an evaluation, or a file of replies with 'question', 'answer' and 'text'. Several are rounds "
        "of the same recipe, after more training",
    )
    add_flag(
        group,
        "replay",
        str,
        "Chains of stage 1, with 'prompt' and 'completion', to put beside the pairs in a file 'mix'",
        metavar="DATA",
    )
    add_teacher(parser)
    add_fields(parser.add_argument_group("pairs"), MendingConfig)


def run(args: argparse.Namespace) -> None:
    """Run this command with the values of its flags, `args`."""
    for name in ("replies", "model"):
        if getattr(args, name) is None:
            raise ValueError(f"`--{name}` is needed, on the command line or in the file of `--config`.")
    config = MendingConfig(**field_values(args, MendingConfig))
    read = [*listed(args.replies), *filter(None, [args.replay, args.config])]
    check_output_dir(config, read, args.overwrite, () if args.replay is None else ("mix",))
    replies = list(itertools.chain.from_iterable(map(_read_replies, listed(args.replies))))
    replay = None if args.replay is None else list(read_rows("--replay", args.replay, "train"))
    shards = shards_of(args, config)
    with ChatClient(**client_options(args, shards)) as client:
        if args.dry_run:
            part = shards.part(replies, lambda row: str(row.get("question")).strip())
            if part:
                _print_estimate(estimate_mending(part, client, config), client)
            return
        batch = start_batch(args, client, read)
        with Progress() as progress:
            result = mend_mistakes(
                replies,
                client,
                config,
                on_progress=lambda step, outcomes, num_done, num_all: progress.show(
                    step, num_done, num_all, ", ".join(f"{num} {outcome}" for outcome, num in outcomes.items())
                ),
                shards=shards,
            )
        if batch is not None and write_batch(args, batch):
            return
    if shards.is_worker:
        _print_report(result.report)
        print_stopped(result.report["stopped"], shards)
        return
    from datasets import disable_progress_bars

    disable_progress_bars()  # `datasets` shows one while it writes Parquet
    mix = None if replay is None else mix_with_replay(result.pairs, replay, config.replay_share, config.replay_seed)
    files = save_mended(result, config, mix, args.overwrite)
    _print_report(result.report)
    print_stopped(result.report["stopped"], shards)
    if mix is not None:
        print(f"Mix: {len(result.pairs):,} pairs and {len(mix) - len(result.pairs):,} chains of stage 1.")
    print("\n".join(files))
    if not result.report["pairs"] and not result.report["stopped"]:
        raise ValueError(
            "There must be at least one pair, but no reply of the student could be used or mended. The lines above "
            f"say why; {Path(config.output_dir, f'rejected.{config.file_format}')} has the chains."
        )
    push_if_asked(config, [] if mix is None else [f"mix.{config.file_format}"])


def _read_replies(name: str) -> list[dict[str, Any]]:
    """
    Read the replies of an evaluation, from its folder or from a file. Beside the file are the settings of the
    evaluation, which say what the student was asked.
    """
    path = Path(name, "generations.jsonl")
    path = path if path.is_file() else Path(name)
    rows = list(read_rows("--replies", str(path), "train"))
    settings_file = path.parent / "settings.json"
    if path.name == "generations.jsonl" and settings_file.is_file():
        settings = json.loads(settings_file.read_text(encoding="utf-8"))
        if settings.get("chat"):
            raise ValueError(
                f"`--replies` must be replies to plain-text prompts, but those of {name!r} were made with `--chat`. "
                "The pairs would have other prompts than the student saw; evaluate it without `--chat`."
            )
        for row in rows:
            row["task_description"] = row.get("task_description") or settings.get("task_description") or ""
    return rows


def _print_estimate(totals: dict[str, dict], client: ChatClient) -> None:
    for name, text in (("least", "one attempt each"), ("limit", "if all attempts are needed")):
        total = totals[name]
        cost = "" if total["cost"] is None else f", cost {total['cost']:.4g}"
        print(
            f"{total['requests']:,} requests, {total['prompt_tokens']:,} tokens in, {total['completion_tokens']:,} "
            f"tokens out{cost}: {text}"
        )
    print("This is an estimate: one token per four bytes, replies as long as the student's. Nothing was sent.")
    if client.usage.replies:
        print(f"The store has {client.usage.replies:,} replies. Their requests are not sent again.")


def _print_report(report: dict[str, Any]) -> None:
    student = report["student"]
    print(
        f"{student['replies']:,} replies to {student['questions']:,} questions: {student['right']:,} right, "
        f"{student['wrong']:,} wrong, {student['repeated']:,} wrong ones repeated, {student['unusable']:,} unusable"
    )
    for name, step in report["steps"].items():
        reasons = ", ".join(f"{num} {reason}" for reason, num in step["rejected"].items())
        print(f"{name}: {step['kept']:,} of {step['chains']:,} kept" + (f" ({reasons})" if reasons else ""))
    usage = report["usage"]
    cost = "" if report["cost"] is None else f", cost {report['cost']:.4g}"
    print(
        f"{report['pairs']:,} pairs. {usage['requests']:,} requests, {usage['prompt_tokens']:,} tokens in, "
        f"{usage['completion_tokens']:,} tokens out{cost}"
    )
