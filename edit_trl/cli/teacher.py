"""What the commands that ask a teacher share: its options with their store, its shards, and the push to the Hub."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..chat import ChatClient
from ..synthesis import Shards, SynthesisConfig, push_to_hub
from .flags import add_fields, add_flag, field_values


def add_teacher(parser: argparse.ArgumentParser) -> None:
    """Add the flags of the teacher, and of several workers that ask it, to the `parser`."""
    add_fields(parser.add_argument_group("teacher"), ChatClient)
    group = parser.add_argument_group("several workers")
    text = (
        "Ask about a part of the questions: '2/4' is the second of four parts, counted from 1. Run all parts, each "
        "until it is finished, then the command without this flag, which writes the dataset"
    )
    add_flag(group, "shard", str, text, metavar="I/N")


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
