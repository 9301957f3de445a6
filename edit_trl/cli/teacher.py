"""What the commands that ask a teacher share: its options with their store, and the push to the Hub."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..chat import ChatClient
from ..synthesis import SynthesisConfig, push_to_hub
from .flags import field_values


def client_options(args: argparse.Namespace, config: SynthesisConfig) -> dict[str, Any]:
    """
    Return the options of the client. Its store is in the output folder if no flag says where.

    Args:
        args (`argparse.Namespace`):
            The flags as read. With `--dry_run` no folder is made and no store is opened that is not there.
        config (`SynthesisConfig` or a class made from it):
            Its `output_dir` holds the store.

    Returns:
        `dict[str, Any]`: Arguments of [`ChatClient`].
    """
    options = field_values(args, ChatClient)
    store = Path(options["store"] or Path(config.output_dir, "replies.sqlite"))
    if store.exists() or not args.dry_run:
        store.parent.mkdir(parents=True, exist_ok=True)
        options["store"] = str(store)
    return options


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
