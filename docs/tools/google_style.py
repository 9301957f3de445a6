"""
Turn docstrings in the form of TRL into Google's form, which the reader of mkdocstrings knows.
"""

import re

from prepare import API, public_names


# Where the reference has a name. The first module that has it counts.
_PLACES = {name: f"{module}.{name}" for module in reversed(API) for name in public_names(module)}

_REFERENCE = re.compile(r"\[`~?([\w.]+)`\](?![(\[])")
_NOTE = re.compile(r"^( *)> \[!(\w+)\]\n((?: *>.*\n?)+)", re.MULTILINE)
# An entry of a section: a name or several, and a type in brackets, which may have brackets itself.
_ENTRY = re.compile(r"^([*\w, ]+?) \((.*)\):$")
_RETURNS = re.compile(r"^(?:\[?`.*?`\]?(?: (?:or|of)\b[^:]*)?): ")


def to_google(text: str) -> str:
    """
    Rewrite a docstring.

    Args:
        text (`str`):
            Docstring, with the indentation taken out.

    Returns:
        `str`: The same in the form that griffe reads: types without markup, and links to the pages of the reference.
    """
    text = _NOTE.sub(lambda note: f"{note[2].capitalize()}:\n" + re.sub(r"^ *> ?", "    ", note[3], flags=re.M), text)
    lines = []
    for line in text.splitlines():
        stripped = line.strip()
        indent = line[: len(line) - len(line.lstrip())]
        if stripped.startswith("> "):  # headings of groups of parameters
            continue
        if not stripped and lines and lines[-1] in ("Parameters:", "Args:"):
            continue
        if indent and (entry := _ENTRY.match(stripped)):
            kind = re.sub(r", \*optional\*.*", "", entry[2])
            line = f"{indent}{entry[1]} ({_plain(kind)}):"
        elif indent and (returns := _RETURNS.match(stripped)):
            line = f"{indent}{_plain(returns[0])}{stripped[returns.end() :]}"
        lines.append(_REFERENCE.sub(_link, line))
    return "\n".join(lines)


def _plain(kind: str) -> str:
    """A type without markup."""
    kind = re.sub(r"\[`~?(?:[\w.]+\.)?(\w+)`\]", r"\1", kind)
    return kind.replace("`", "").replace("*", "").replace(" or ", " | ")


def _link(match: re.Match[str]) -> str:
    name = match[1].split(".")[-1]
    is_ours = not match[1].startswith(("trl.", "transformers.", "peft.", "datasets.", "torch."))
    return f"[`{name}`][{_PLACES[name]}]" if is_ours and name in _PLACES else f"`{name}`"
