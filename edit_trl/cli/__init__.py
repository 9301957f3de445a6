"""
The command line tool `edit-trl`, with one file for each command.

A command parses its flags, calls one public function and prints where the results are. Its file has two functions:
`add_parser` adds the flags, `run` runs the command. The flags are the fields of the dataclasses that the public
function takes, with the same names. A YAML file can give them too; a flag on the command line wins over the file.
Results go to files and standard output, progress goes to standard error. An expected failure prints one line.

`--help` must answer at once, so packages that are slow to import are imported in the functions that use them.
"""

import argparse
import asyncio
import importlib.metadata
import os
import signal
import sys
import threading
from typing import Any

from ..chat import BudgetReached, EndpointError
from . import evaluate, inspect, mend, score, synthesize, train
from .completion import SHELLS, completion_script
from .flags import parse


# The modules of the commands, in the order of `--help`.
COMMANDS = (synthesize, mend, inspect, train, evaluate, score)

# Commands that can be repeated after an interruption and continue where they stopped.
_RESUMABLE = ("synthesize", "mend", "evaluate")


class _ShowVersion(argparse.Action):
    """Reads the versions when they are asked for."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        names = ("edit-trl", "trl", "transformers", "torch")
        print(", ".join(f"{name} {importlib.metadata.version(name)}" for name in names))
        parser.exit()


class _PrintCompletion(argparse.Action):
    """Prints a script for a shell, and ends."""

    def __call__(self, parser: argparse.ArgumentParser, _: Any, values: Any, *__: Any) -> None:
        print(completion_script(parser, values))
        parser.exit()


def _handle_interrupts() -> None:
    """
    Let the first interrupt (Ctrl-C) end the command in order, and the second end the process at once.

    Python's own handler lets a second interrupt fall into the cleaning up after the first, where it hangs or prints a
    traceback. What was received is in files that the end of a process does not damage.
    """
    num_interrupts = 0

    def interrupt(*_: Any) -> None:
        nonlocal num_interrupts
        num_interrupts += 1
        if num_interrupts > 1:
            if sys.stderr.isatty():
                os.write(2, b"\x1b[?25h\n")  # a progress bar has hidden the cursor
            os._exit(130)
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            raise KeyboardInterrupt from None
        # Raised within the loop, the error would stop it in the middle of a task.
        for task in asyncio.all_tasks(loop):
            loop.call_soon_threadsafe(task.cancel)

    # A shell ignores the signal for its background jobs, and this stays so.
    if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, interrupt)


def main(argv: list[str] | None = None) -> int:
    """
    Run a command.

    Args:
        argv (`list[str]`, *optional*):
            Arguments without the program's name. Defaults to the arguments of the process.

    Returns:
        `int`: Exit status: 0 after success, 1 after an expected failure or if the reader of the output closed it, 130
            after an interruption. A second interruption ends the process at once, with the same status.

    Raises:
        SystemExit: With status 0 after `--help`, with status 2 for flags or values that argparse refuses.
    """
    parser = argparse.ArgumentParser(
        prog="edit-trl", description="Key reasoning step distillation, before and after training."
    )
    parser.add_argument(
        "--version", action=_ShowVersion, nargs=0, help="show the versions of what is installed and exit"
    )
    parser.add_argument(
        "--print_completion",
        action=_PrintCompletion,
        choices=SHELLS,
        help="print the script that completes commands and flags in a shell and exit",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for module in COMMANDS:
        module.add_parser(commands)
    command = ""
    if argv is None:  # the process is ours
        _handle_interrupts()
        # A character that the terminal cannot show is written as its code.
        sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    try:
        arguments = sys.argv[1:] if argv is None else argv
        if arguments[:1] == ["train"]:  # TRL's parser reads its flags
            command = "train"
            return train.run_script(arguments[1:])
        args = parse(parser, arguments)
        command = args.command
        args.run(args)
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader of the output, such as `head`, wants no more of it. What is still buffered has nowhere to go.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (KeyboardInterrupt, asyncio.CancelledError):
        hint = " All replies so far are kept. Run the same command to continue." if command in _RESUMABLE else ""
        print(f"Interrupted.{hint}", file=sys.stderr)
        if argv is None:
            # While the interpreter ends, another interrupt would kill it with another status.
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(130)
        return 130
    except (BudgetReached, EndpointError, ImportError, OSError, ValueError) as error:
        print(f"{f'edit-trl {command}'.strip()}: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    return 0
