"""
Completion of `edit-trl` in a shell: `edit-trl --print_completion bash` prints a script that the shell loads.

The script has all commands and flags in it, so that a completion takes no time: Python is not started. shtab writes
it from the parsers. Flags are completed with dashes (`--num-paths`), as commands of TRL are typed; underscores work
too, but are not offered, because a shell would have to ask which of the two is meant.
"""

import argparse
from typing import Any

from ..install_hint import install_hint
from . import train


SHELLS = ("bash", "zsh", "fish", "tcsh")

# Placeholders of values that may be a file or a folder. Others are completed with nothing.
_PATHS = ("DATA", "FILE", "FOLDER", "MODEL", "REPLIES", "TOKENIZER")


def completion_script(parser: argparse.ArgumentParser, shell: str) -> str:
    """
    Write the script that completes the commands and flags of a parser.

    Args:
        parser (`argparse.ArgumentParser`):
            Parser with the commands. It cannot be used for anything else afterwards: its flags are renamed.
        shell (`str`):
            Shell, one of `SHELLS`.

    Returns:
        `str`: The script.

    Raises:
        ImportError: If shtab is not installed.
    """
    try:
        import shtab
    except ImportError:
        raise ImportError(
            f"`--print_completion` needs the package `shtab`. Install it with `{install_hint('completion')}`."
        ) from None
    # argparse has no public attribute for the actions of a parser.
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            train.add_shown_flags(action.choices["train"])
            for command in action.choices.values():
                _prepare(command, shtab.FILE)
    _prepare(parser, shtab.FILE)
    return str(shtab.complete(parser, shell))


def _prepare(parser: argparse.ArgumentParser, file: dict[str, Any]) -> None:
    """Give the flags of a parser their dashes, and say what completes their values: choices, or names of files."""
    for action in parser._actions:
        action.option_strings = [name.replace("_", "-") for name in action.option_strings]
        metavar = action.metavar
        if not isinstance(metavar, str) or action.choices is not None:
            continue
        if "|" in metavar:  # the values of a switch
            action.choices = metavar.split("|")
        elif metavar in _PATHS or action.dest.endswith("_dir"):
            action.complete = file  # type: ignore[attr-defined]
