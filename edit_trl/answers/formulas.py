r"""
Compare formulas by mathematical equality, with `math-verify`.

A student can write any formula, and `9^{9^{9^9}}` takes longer than anybody waits. `math-verify` limits its time with
an alarm, which works only in the main thread and does not stop a long computation in C. So it runs in a process of its
own, which is started at the first formula, answers in well under a millisecond, and is ended if it takes too long. One
formula costs one reply at most.
"""

import atexit
import functools
import importlib.util
import json
import logging
import os
import re
import subprocess
import sys
import threading
from pathlib import Path

from .quantities import SUPERSCRIPTS


# Seconds for one comparison, and for the start of the process, which loads sympy.
_TIME_LIMIT = 5.0
_START_LIMIT = 60.0
_MAX_LENGTH = 2000

# LaTeX; or a variable next to a digit or an operator, in a text without words.
_SYMBOLIC = re.compile(
    r"[\\^√π∞±]|\bsqrt\b|^(?!.*[A-Za-z]{3}).*(?:(?<![A-Za-z])[a-z]\s?[-+*/=]|[-+*/=0-9]\s?[a-z](?![A-Za-z]))",
    re.DOTALL,
)
_ROOT = re.compile(r"√\s?\(?([0-9a-z]+)\)?")
_PI = re.compile(r"π|(?<![A-Za-z\\])pi(?![A-Za-z])")
_SUPERSCRIPT = re.compile("[⁰¹²³⁴⁵⁶⁷⁸⁹⁻]+")
_WORD = re.compile(r"[A-Za-z]{3}")

logger = logging.getLogger(__name__)


def same_formula(left: str, right: str) -> bool:
    r"""
    Tell whether two formulas are mathematically equal.

    Args:
        left, right (`str`):
            The formulas: LaTeX, or algebra as it is typed.

    Returns:
        `bool`: Whether they are equal. `False` if neither is a formula, if `math-verify` cannot read one of them or
        takes longer than 5 seconds, or if it cannot be used, which is logged once.

    Examples:

    ```python
    >>> same_formula(r"\sqrt{8}", r"2\sqrt{2}")
    True

    ```
    """
    if len(left) + len(right) > _MAX_LENGTH:
        return False
    left, right = (
        _SUPERSCRIPT.sub(lambda power: f"^{{{power[0].translate(SUPERSCRIPTS)}}}", _PI.sub(r"\\pi ", side))
        for side in (left, right)
    )
    symbolic = [side for side in (left, right) if _SYMBOLIC.search(side)]
    if not symbolic or any(_WORD.search(side) for side in (left, right) if side not in symbolic):
        return False
    if importlib.util.find_spec("math_verify") is None:
        _say_once("the package `math-verify` is not installed. Install it with `pip install math-verify`")
        return False
    return _WORKER.compare(
        *(_ROOT.sub(r"\\sqrt{\1}", side.replace("$", "").replace("∞", r"\infty")) for side in (left, right))
    )


class _Worker:
    """The process with `math-verify`. One for the whole program; threads wait for each other."""

    def __init__(self) -> None:
        self.process: subprocess.Popen[str] | None = None
        self.lock = threading.Lock()
        self.num_failed_starts = 0

    def compare(self, left: str, right: str) -> bool:
        with self.lock:
            try:
                if self.process is not None and self.process.poll() is not None:
                    self.stop()  # somebody else has ended it
                if self.process is None and not self._start():
                    return False
                reply = self._ask(json.dumps([left, right]), _TIME_LIMIT)
            except BaseException:
                self.stop()  # its next line would answer this question
                raise
            if reply not in ("true", "false"):
                logger.warning("A comparison of formulas was given up: %.80r with %.80r.", left, right)
                self.stop()
            return reply == "true"

    def _start(self) -> bool:
        if self.num_failed_starts > 2:
            return False
        command = [sys.executable, "-P", str(Path(__file__).with_name("formula_worker.py"))]
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
            "PYTHONIOENCODING": "utf-8",
        }
        try:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=environment,
                encoding="utf-8",
            )
        except OSError:
            self.process = None
        if self.process is not None and self._ask("", _START_LIMIT) == "ready":
            self.num_failed_starts = 0
            return True
        self.stop()
        self.num_failed_starts += 1
        _say_once(f"`math-verify` does not start. To see why, run `{' '.join(command)}`")
        return False

    def _ask(self, question: str, limit: float) -> str:
        """Return the next line of the process; nothing if it does not come in time."""
        assert self.process is not None and self.process.stdin is not None and self.process.stdout is not None
        timer = threading.Timer(limit, self.process.kill)
        timer.start()
        try:
            if question:
                self.process.stdin.write(question + "\n")
                self.process.stdin.flush()
            return self.process.stdout.readline().strip()
        except (OSError, ValueError):
            return ""
        finally:
            timer.cancel()

    def stop(self) -> None:
        process, self.process = self.process, None
        if process is not None:
            process.kill()
            process.communicate()

    def forget(self) -> None:
        """In a fork, the process belongs to the parent."""
        self.process, self.lock = None, threading.Lock()


@functools.cache
def _say_once(reason: str) -> None:
    # Not a warning of Python: with a filter it is an error, which would end a run because of one reply.
    logger.warning("Formulas are compared as text, because %s.", reason)


_WORKER = _Worker()
atexit.register(_WORKER.stop)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_WORKER.forget)
