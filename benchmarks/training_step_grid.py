"""
The grid of `training_step.py --grid`: which cells it has, the file with their measurements, the table and the plot.

A cell is a length of the chains and a share of them that is common. The pairs of a cell are generated, each with two
chains of the same length. A prompt of one token is part of the common start, so the share is that of the whole row.
"""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import reporting


# What a line of the file must have in common with a cell, to be its measurement.
IDENTITY = ("model", "vocab_size", "dtype", "length", "shared", "pairs")
# Rows that are neither padded nor packed, in the plot.
LABELS = {"shared_prefix": "one row per pair with a mask", "padding_free": "chains in one row without padding"}

# Goals: largest ratio of the time of packed rows to that of the better other layout; and, where enough of the chains
# is shared, to the time of padded rows scaled by the number of tokens. Memory must not be above that of padded rows;
# repeated measurements differ by almost 1 %.
LARGEST_TO_BEST, LARGEST_TO_SCALED, ENOUGH_SHARED = 1.03, 1.15, 0.3
LARGEST_MEMORY = 1.01


def layouts_to_compare(attention: str | None) -> tuple[str, str, str]:
    """Padded rows, the other layout that an attention implementation takes, and packed rows."""
    return "padded", "padding_free" if "flash" in (attention or "") else "shared_prefix", "packed"


def cells(args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Yield the options of each cell: those that identify it, and those that generate its pairs."""
    for length in args.lengths:
        for shared in args.shared:
            num_shared = max(1, round(shared * length))
            yield {
                "model": args.model,
                "vocab_size": args.vocab_size,
                "dtype": args.dtype,
                "length": length,
                "shared": shared,
                "pairs": min(args.pairs, max(1, args.tokens_per_step // (2 * length))),
                "prompt": 1,
                "chain": length - 1,
                "share": (num_shared - 1) / (length - 1),
            }


def identity(cell: dict[str, Any]) -> tuple:
    """Model and size of a cell. The folder of a model does not matter."""
    return tuple(Path(cell[name]).name if name == "model" else cell[name] for name in IDENTITY)


def read_cells(file: str) -> list[dict[str, Any]]:
    """Read the measured cells. A last line that was cut off is left out."""
    if not Path(file).exists():
        return []
    lines = Path(file).read_text(encoding="utf-8").split("\n")
    return [json.loads(line) for line in lines[:-1]]


def append_cell(file: str, cell: dict[str, Any]) -> None:
    """Add a measured cell, in place of a last line that was cut off."""
    path = Path(file)
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    path.write_text(text[: text.rfind("\n") + 1] + json.dumps(cell) + "\n", encoding="utf-8")


def other_layout(cell: dict[str, Any]) -> str:
    """Return the layout of a measured cell that is neither padded nor packed."""
    return next(name for name in cell["layouts"] if name not in ("padded", "packed"))


def cell_ratios(cell: dict[str, Any]) -> dict[str, float]:
    """
    Return the ratios of a measured cell, of medians of processor time, or of wall time if it was measured on a GPU.

    - `tokens`: tokens of packed rows to those of padded rows, padding included.
    - `other`, `packed`: time of the rows that are neither padded nor packed, and of packed rows, to that of padded
      rows.
    - `to_best`: time of packed rows to that of the better one of the others.
    - `to_scaled`: time of packed rows to that of padded rows times `tokens`.
    - `memory_of_other`, `memory`: what a step adds to the memory of the process, of these and of packed rows, to what
      a step on padded rows adds. Only if it was measured.
    """
    layouts = cell["layouts"]
    kind = "wall_seconds" if cell["machine"]["accelerator"] else "cpu_seconds"
    seconds = {name: float(np.median(entry[kind])) for name, entry in layouts.items()}
    other = other_layout(cell)
    tokens = layouts["packed"]["tokens_with_padding"] / layouts["padded"]["tokens_with_padding"]
    ratios = {
        "tokens": tokens,
        "other": seconds[other] / seconds["padded"],
        "packed": seconds["packed"] / seconds["padded"],
        "to_best": seconds["packed"] / min(seconds["padded"], seconds[other]),
        "to_scaled": seconds["packed"] / (seconds["padded"] * tokens),
    }
    if "memory" in layouts["packed"]:
        growth = {name: entry["memory"]["growth_mib"] for name, entry in layouts.items()}
        ratios["memory_of_other"] = growth[other] / growth["padded"]
        ratios["memory"] = growth["packed"] / growth["padded"]
    return ratios


def missed_goals(cell: dict[str, Any]) -> list[str]:
    """Return the names of the ratios of a cell that are above their goal."""
    ratios = cell_ratios(cell)
    goals = {"to_best": LARGEST_TO_BEST, "memory": LARGEST_MEMORY}
    if cell["shared"] >= ENOUGH_SHARED:
        goals["to_scaled"] = LARGEST_TO_SCALED
    return [name for name, goal in goals.items() if ratios.get(name, 0) > goal]


def format_cells(measured: list[dict[str, Any]]) -> str:
    """Make a Markdown table of measured cells. Ratios that miss a goal are bold."""
    header = ["model", "tokens of a chain", "shared", "pairs", "tokens ÷ padded", "padded, s", "other ÷ padded"]
    header += ["packed ÷ padded", "packed ÷ best", "packed ÷ scaled padded"]
    header += ["memory, other ÷ padded", "memory, packed ÷ padded"]
    rows = []
    for cell in measured:
        ratios, missed = cell_ratios(cell), missed_goals(cell)
        names = ("other", "packed", "to_best", "to_scaled", "memory_of_other", "memory")
        texts = {name: f"{ratios[name]:.2f}" if name in ratios else "" for name in names}
        if cell["shared"] < ENOUGH_SHARED:
            texts["to_scaled"] = f"({texts['to_scaled']})"  # no goal
        texts.update({name: f"**{texts[name]}**" for name in missed})
        kind = "wall_seconds" if cell["machine"]["accelerator"] else "cpu_seconds"
        seconds = np.median(cell["layouts"]["padded"][kind])
        size = [cell["model"], f"{cell['length']:,}", f"{cell['shared']:.0%}", str(cell["pairs"])]
        rows.append([*size, f"{ratios['tokens']:.2f}", f"{seconds:.3g}", *texts.values()])
    lines = [reporting.markdown_table(header, rows), ""]
    goals = {"to_best": "1.03 of the best", "to_scaled": "1.15 of scaled padded", "memory": "memory of padded"}
    for name, goal in goals.items():
        number = sum(name in missed_goals(cell) for cell in measured)
        lines.append(f"Cells above {goal}: {number} of {len(measured)}.")
    return "\n".join(lines)


def plot_cells(measured: list[dict[str, Any]], file: str) -> None:
    """Draw, for each model and length, the time by the share, as a ratio to padded rows."""
    pyplot = reporting.import_pyplot()
    models = list(dict.fromkeys(cell["model"] for cell in measured))
    lengths = sorted({cell["length"] for cell in measured})
    shape = {"figsize": (2.4 * len(lengths) + 0.6, 2.3 * len(models) + 0.8), "layout": "constrained"}
    figure, grid = pyplot.subplots(len(models), len(lengths), squeeze=False, **shape)
    highest = max(max(cell_ratios(cell)[name] for name in ("other", "packed")) for cell in measured)
    for axes_of_model, model in zip(grid, models, strict=True):
        for axes, length in zip(axes_of_model, lengths, strict=True):
            of_panel = [cell for cell in measured if (cell["model"], cell["length"]) == (model, length)]
            of_panel.sort(key=lambda cell: cell["shared"])
            if not of_panel:
                axes.set_axis_off()
                continue
            shares = [100 * cell["shared"] for cell in of_panel]
            ratios = [cell_ratios(cell) for cell in of_panel]
            axes.axhline(1, color="C7", linewidth=1, label="two padded rows")
            for name, label, style in (
                ("other", LABELS[other_layout(of_panel[0])], "C1s-"),
                ("packed", "packed row", "C0o-"),
                ("tokens", "number of tokens", "k:"),
            ):
                axes.plot(shares, [ratio[name] for ratio in ratios], style, label=label, markersize=4)
            axes.set_title(f"{model}\n{length:,} tokens", fontsize=9)
            axes.set(xlim=(-5, 95), ylim=(0, 1.05 * max(highest, 1)))
            axes.set_xlabel("common share of the chains, %", fontsize=8)
    figure.supylabel("time ÷ two padded rows", fontsize=9)
    handles, labels = next(axes for axes in grid.flat if axes.lines).get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, fontsize=9)
    figure.savefig(file, dpi=150)
