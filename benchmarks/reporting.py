"""
Functions for the reports of all benchmarks: the machine and the versions, Markdown tables, and matplotlib.
"""

import importlib.metadata
import os
import platform
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from edit_trl.install_hint import install_hint


def describe_machine(*packages: str) -> dict[str, Any]:
    """Return the processor, the number of cores, and the versions of Python and of the given packages."""
    cpu = platform.processor() or platform.machine()
    with suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        cpu = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), cpu)
    versions = {name: importlib.metadata.version(name) for name in packages}
    return {"cpu": cpu, "cores": os.cpu_count(), "python": platform.python_version(), **versions}


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Make a Markdown table with padded cells, so that it can also be read as plain text."""
    widths = [max(len(row[column]) for row in [header, *rows]) for column in range(len(header))]
    lines = [[cell.ljust(width) for cell, width in zip(row, widths, strict=True)] for row in [header, *rows]]
    lines.insert(1, ["-" * width for width in widths])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def import_pyplot() -> Any:
    """Import `matplotlib.pyplot` to draw to files only. Raises `ImportError` that says what to install."""
    try:
        import matplotlib
    except ImportError as error:
        raise ImportError(
            f"`--plot` needs the `matplotlib` package. Install it with `{install_hint('dev')}`."
        ) from error
    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot
