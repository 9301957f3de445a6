"""What the commands that ask a teacher share: its options with their store, its shards, and the push to the Hub."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..chat import BatchResults, ChatClient, Collector
from ..files import check_outputs
from ..synthesis import Shards, SynthesisConfig, push_to_hub
from .flags import add_fields, add_flag, field_values, listed


def add_teacher(parser: argparse.ArgumentParser) -> None:
    """Add the flags of the teacher, and of several workers that ask it, to the `parser`."""
    store = "SQLite file for the replies, created if it does not exist. By default 'replies.sqlite' in 'output_dir'"
    add_fields(parser.add_argument_group("teacher"), ChatClient, store=store)
    group = parser.add_argument_group("several workers")
    text = (
        "Ask about a part of the questions: '2/4' is the second of four parts, counted from 1. Run all parts, each "
        "until it is finished, then the command without this flag, which writes the dataset"
    )
    add_flag(group, "shard", str, text, metavar="I/N")
    group = parser.add_argument_group("batch files, for a service that answers them at a lower price")
    text = "Send nothing, and write the requests without a reply to this JSON Lines file, for OpenAI's Batch API"
    add_flag(group, "batch_requests", str, text, metavar="FILE")
    group.add_argument(
        "--batch_results",
        nargs="+",
        metavar="FILE",
        help="Read these result and error files of a batch first, and send nothing",
    )


def shards_of(args: argparse.Namespace, config: SynthesisConfig) -> Shards:
    """
    Return the shard that the flags name. The store of the whole run is in the output folder if no flag says where.

    Args:
        args (`argparse.Namespace`):
            The flags as read.
        config (`SynthesisConfig` or a class made from it):
            Its `output_dir` holds the store.

    Returns:
        [`Shards`]: The shard, or all of them.

    Raises:
        ValueError: If `--shard` names none.
    """
    return Shards(args.store or Path(config.output_dir, "replies.sqlite"), args.shard)


def client_options(args: argparse.Namespace, shards: Shards) -> dict[str, Any]:
    """
    Return the options of the client.

    Args:
        args (`argparse.Namespace`):
            The flags as read. With `--dry_run` no folder is made and no store is opened that is not there.
        shards ([`Shards`]):
            Says where the store is.

    Returns:
        `dict[str, Any]`: Arguments of [`ChatClient`].
    """
    options = {**field_values(args, ChatClient), "store": None}
    store = Path(shards.store)
    if store.exists() or not args.dry_run:
        store.parent.mkdir(parents=True, exist_ok=True)
        options["store"] = str(store)
    return options


def start_batch(args: argparse.Namespace, client: ChatClient, read: Sequence[str]) -> Collector | None:
    """
    Read the results of batches, if flags name some, and let the client send nothing if it works with batch files.

    Args:
        args (`argparse.Namespace`):
            The flags as read.
        client ([`ChatClient`]):
            The teacher.
        read (`Sequence[str]`):
            Files that the command reads, which no batch file may replace.

    Returns:
        [`~chat.Collector`] or `None`: Collects the requests; `None` without flags of batches.

    Raises:
        FileExistsError: If the file of `--batch_requests` exists.
        ValueError: If results are torn, or none is of a request of the store.
    """
    if args.batch_requests is None and args.batch_results is None:
        return None
    names = listed(args.batch_results or [])
    if args.batch_requests is not None:
        remedy = "delete it if it was never submitted"
        check_outputs({"`--batch_requests`": args.batch_requests}, [*read, *names], remedy=remedy)
    if names:
        results = client.read_batch(names)
        _print_results(results)
        if results.torn:
            raise ValueError(
                f"`--batch_results` must be whole files of JSON Lines, but {len(results.torn)} lines cannot be read: "
                f"{'; '.join(results.torn[:3])}. Their requests were paid for: download the file again, and run the "
                "same command. The other results are in the store."
            )
        if results.unknown and not (results.replies or results.repeated or results.refused or results.failed):
            raise ValueError(
                f"`--batch_results` must be results of requests that this command wrote, but none of "
                f"{len(results.unknown)} is. They belong to another store, or to other settings; pass the same "
                "`--output_dir` and settings as for `--batch_requests`."
            )
    return client.collect_batch()


def write_batch(args: argparse.Namespace, batch: Collector) -> bool:
    """
    Write the requests that were collected, and print what is next.

    Args:
        args (`argparse.Namespace`):
            The flags as read.
        batch ([`~chat.Collector`]):
            What was collected.

    Returns:
        `bool`: Whether replies are missing. If not, the dataset can be written.
    """
    num = len(batch.requests)
    if batch.waiting:
        files = ", ".join(batch.files)
        print(f"{len(batch.waiting):,} requests wait for their results: read those of {files} with `--batch_results`.")
    if num and args.batch_requests is not None:
        print(f"{num:,} requests to submit, about {batch.prompt_tokens:,} tokens in:")
        print("\n".join(batch.write(args.batch_requests)))
        print("Keep the files until their results are read: run this command with `--batch_results` then.")
    elif num:
        print(
            f"{num:,} requests have no reply yet. Write them with `--batch_requests FILE`, or run the command without "
            "flags of batches, to send them one by one."
        )
    if batch.stopped:
        print(f"Stopped: {batch.stopped}. Run the same command with a larger limit to continue.")
    return bool(num or batch.waiting)


def _print_results(results: BatchResults) -> None:
    print(
        f"{results.replies:,} new replies, {results.refused.total():,} requests refused, {results.failed.total():,} "
        f"to write again, {results.repeated:,} results read before, {len(results.unknown):,} of unknown requests"
    )
    for counts, what in ((results.refused, "Refused"), (results.failed, "To write again")):
        for reason, num in counts.most_common(5):
            print(f"{what}: {num:,} times {reason}")
    if results.unknown:
        print(f"Of no request of this store: {', '.join(map(repr, results.unknown[:3]))}")


def print_stopped(stopped: str | None, shards: Shards) -> None:
    """
    Print why a run stopped and how to go on. Of a shard, print what is next.

    Args:
        stopped (`str` or `None`):
            Why it stopped; `None` if it did not.
        shards ([`Shards`]):
            The shard of the run, or all of them.
    """
    if stopped and shards.waits_for:
        print(f"Waits: {stopped}. Run the same command again when they are.")
    elif stopped:
        print(f"Stopped: {stopped}. Run the same command with a larger limit to continue.")
    if shards.is_worker and not stopped:
        others = shards.unfinished
        what = f"Not finished: {', '.join(others)}." if others else "So are all others: run the command without it."
        print(f"`--shard {shards.number}/{shards.total}` is finished. {what}")


def push_if_asked(config: SynthesisConfig, more_files: Sequence[str] = ()) -> None:
    """
    Push the written files to the Hub if `config` says so.

    Args:
        config ([`SynthesisConfig`]):
            The run: its `push_to_hub` and its folder.
        more_files (`Sequence[str]`, *optional*, defaults to `()`):
            Names of further files of the folder that are pushed beside the dataset and its card.

    Raises:
        OSError: If the push fails. The message says how to try again.
    """
    if not config.push_to_hub:
        return
    try:
        print(f"Pushed to {push_to_hub(config, more_files)}")
    except Exception as error:  # the Hub's client and its HTTP library raise many types
        raise OSError(
            f"The files are written, but could not be pushed to the Hub: {error}. Run the same command to push "
            "them; no request is sent to the teacher again."
        ) from error
