"""
Write the tables of flags in `docs/cli.md` from the parsers: `python -m edit_trl.cli.reference docs/cli.md`.

The text above the tables is written by hand and is kept.
"""

import argparse
import re
import sys
import textwrap
from pathlib import Path

from . import COMMANDS, train


# First line of the generated part of the page.
MARK = "<!-- From here on `make docs-cli` writes the page. The text of a flag is in a docstring or in its command. -->"


def flag_tables() -> str:
    """
    Make the tables.

    Returns:
        `str`: Markdown: a heading for each command, and a table for each group of its flags.
    """
    commands = argparse.ArgumentParser(prog="edit-trl").add_subparsers()
    for module in COMMANDS:
        module.add_parser(commands)
    train.add_shown_flags(commands.choices["train"])  # its script has a parser of its own
    sections = []
    for name, parser in commands.choices.items():
        description = textwrap.fill(parser.description or "", width=119, break_on_hyphens=False)
        sections.append(f"## `edit-trl {name}`\n\n{description}")
        # argparse has no public attribute for the groups of a parser.
        for group in parser._action_groups:
            rows = [_row(action) for action in group._group_actions if action.dest != "help"]
            if rows:
                title = group.title or ""
                head = f"| {title[:1].upper()}{title[1:]} | value | default | |\n| --- | --- | --- | --- |"
                sections.append("\n".join([head, *rows]))
    return "\n\n".join(sections) + "\n"


def _row(action: argparse.Action) -> str:
    flag = action.option_strings[0] if action.option_strings else action.metavar
    metavar = action.metavar if action.option_strings else ""
    default = "" if action.default is None or action.default == "" else str(action.default)
    if isinstance(action.default, bool):
        default = default.lower()
    text = (action.help or "").replace("%%", "%")
    # Words in single quotes become code. A quote inside a word is an apostrophe.
    text = re.sub(r"(?<!\w)'([^']+)'(?!\w)", r"`\1`", text)
    # The values of a switch are two pieces of code: the site shows the escape of a pipe inside of code.
    value = " or ".join(f"`{part}`" for part in str(metavar or "").split("|") if part)
    cells = [f"`{flag}`", value, f"`{default}`" if default else "", text]
    return "| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |"


def write_reference(path: Path) -> None:
    """
    Replace the tables of a page.

    Args:
        path (`Path`):
            The page. The text above the line `MARK` is kept.
    """
    text = path.read_text(encoding="utf-8").partition(MARK)[0]
    path.write_text(f"{text}{MARK}\n\n{flag_tables()}", encoding="utf-8")


if __name__ == "__main__":
    write_reference(Path(sys.argv[1]))
