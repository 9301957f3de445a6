"""
The command line tool `edit-trl`, with one file for each command.

A command parses its flags, calls one public function and prints where the results are. Its file has two functions:
`add_parser` adds the flags, `run` runs the command. The flags are the fields of the dataclasses that the public
function takes, with the same names. A YAML file can give them too; a flag on the command line wins over the file.
Results go to files and standard output, progress goes to standard error. An expected failure prints one line.

`--help` must answer at once, so packages that are slow to import are imported in the functions that use them.
"""

import argparse
import importlib.metadata
import os
import sys
from typing import Any

from ..chat import BudgetReached, EndpointError
from . import evaluate, inspect, mend, synthesize
from .flags import parse


# The modules of the commands, in the order of `--help`.
COMMANDS = (synthesize, mend, inspect, evaluate)

# Commands that can be repeated after an interruption and continue where they stopped.
_RESUMABLE = ("synthesize", "mend", "evaluate")


class _ShowVersion(argparse.Action):
    """Reads the versions when they are asked for."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        names = ("edit-trl", "trl", "transformers", "torch")
        print(", ".join(f"{name} {importlib.metadata.version(name)}" for name in names))
        parser.exit()


def main(argv: list[str] | None = None) -> int:
    """
    Run a command.

    Args:
        argv (`list[str]`, *optional*):
            Arguments without the program's name. Defaults to the arguments of the process.

    Returns:
        `int`: Exit status: 0 after success, 1 after an expected failure or if the reader of the output closed it, 130
            after an interruption.

    Raises:
        SystemExit: With status 0 after `--help`, with status 2 for flags or values that argparse refuses.
    """
    parser = argparse.ArgumentParser(
        prog="edit-trl", description="Key reasoning step distillation, before and after training."
    )
    parser.add_argument(
        "--version", action=_ShowVersion, nargs=0, help="show the versions of what is installed and exit"
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for module in COMMANDS:
        module.add_parser(commands)
    command = ""
    try:
        args = parse(parser, sys.argv[1:] if argv is None else argv)
        command = args.command
        args.run(args)
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader of the output, such as `head`, wants no more of it. What is still buffered has nowhere to go.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        hint = " All replies so far are kept. Run the same command to continue." if command in _RESUMABLE else ""
        print(f"Interrupted.{hint}", file=sys.stderr)
        return 130
    except (BudgetReached, EndpointError, ImportError, OSError, ValueError) as error:
        print(f"{f'edit-trl {command}'.strip()}: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    return 0
