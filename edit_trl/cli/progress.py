"""Progress on standard error."""

import sys
import time
from typing import Any


# Seconds between two lines of progress if standard error is not a terminal.
SECONDS_PER_LINE = 60.0


class Progress:
    """
    A progress bar for each step of a run, on standard error. If standard error is not a terminal, one line a minute.
    Nothing is shown before the first step, so a run that is refused prints only its error.
    """

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        self._steps: dict[str, Any] = {}
        self._console = Console(stderr=True)
        self._next_line = time.monotonic() + SECONDS_PER_LINE
        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=20),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[text]}"),
            console=self._console,
        )

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *exception: Any) -> None:
        if self._steps:
            self._bars.stop()

    def show(self, step: str, num_done: int, num_all: int | None, text: str = "") -> None:
        """
        Show that `num_done` of the `num_all` parts of a `step` are done, followed by a `text`. `None` if it is not
        known how many there are.
        """
        if step not in self._steps:
            self._bars.start()
            self._steps[step] = self._bars.add_task(step, total=num_all, text="")
        self._bars.update(self._steps[step], total=num_all, completed=num_done, text=text)
        if not self._console.is_terminal and time.monotonic() > self._next_line:
            parts = f"{num_done:,}" if num_all is None else f"{num_done}/{num_all}"
            print(f"{step} {parts}" + (f": {text}" if text else ""), file=sys.stderr, flush=True)
            self._next_line = time.monotonic() + SECONDS_PER_LINE
