"""
Read the help text of options from the docstring of their dataclass.

Each option is described once, in the `Args:` of a dataclass. `--help` of `edit-trl` and of `examples/train.py` shows
this text, and `docs/cli.md` is generated from it.
"""

import dataclasses
import inspect
import re
from types import MappingProxyType
from typing import TypeVar


_T = TypeVar("_T")

# Matches `name (`type`, *optional*, defaults to `1`):`, or several names with commas between them.
_ENTRY = re.compile(r"^ {4}((?:\w+, )*\w+)(?: \((.*)\))?:\n((?: {8}.*\n|\n)+)", re.MULTILINE)
_DEFAULT = re.compile(r"defaults to `(.*)`$")


def described_options(cls: type) -> dict[str, str]:
    """
    Read the description of each field from the docstring of a dataclass.

    Args:
        cls (`type`):
            The dataclass.

    Returns:
        `dict[str, str]`: Description of each field, on one line, with quotes instead of Markdown. Empty if Python runs
        without docstrings (`-OO`).

    Examples:

    ```python
    >>> from dataclasses import dataclass
    >>> @dataclass
    ... class Options:
    ...     \"\"\"
    ...     Options of an example.
    ...
    ...     Args:
    ...         depth (`int`, *optional*, defaults to `2`):
    ...             How deep to look. See [`Other`].
    ...     \"\"\"
    ...
    ...     depth: int = 2
    >>> described_options(Options)
    {'depth': "How deep to look. See 'Other'."}

    ```
    """
    return options_in(inspect.cleandoc(cls.__doc__ or ""))


def options_in(doc: str) -> dict[str, str]:
    """
    Read the description of each option from the `Args:` of a docstring.

    Args:
        doc (`str`):
            Docstring, without indentation.

    Returns:
        `dict[str, str]`: Description of each option, on one line, with quotes instead of Markdown.
    """
    descriptions = {}
    for names, _, text in _ENTRY.findall(doc + "\n"):
        text = re.sub(r"\[`~?([^`]+)`\]", r"`\1`", " ".join(text.split()))
        for name in names.split(", "):
            descriptions[name] = re.sub('`"|"`|`', "'", text)
    return descriptions


def defaults_in(doc: str) -> dict[str, str]:
    """
    Read the default of each option from the `Args:` of a docstring.

    Args:
        doc (`str`):
            Docstring, without indentation.

    Returns:
        `dict[str, str]`: Default of each option that states one as code, as a command line takes it.
    """
    found: dict[str, str] = {}
    for names, kind, _ in _ENTRY.findall(doc + "\n"):
        if default := _DEFAULT.search(kind):
            value = default[1].strip('"')
            value = value.lower() if value in ("True", "False") else value.strip("[]").replace(", ", " ")
            found |= dict.fromkeys(names.split(", "), value)
    return found


def help_from_docstring(cls: type[_T]) -> type[_T]:
    """
    Set `metadata["help"]` of the fields of a dataclass to their descriptions in its docstring.

    Fields that the docstring does not describe, such as fields of a base class, keep their metadata. Use it as a
    decorator above `@dataclass`.

    Args:
        cls (`type`):
            The dataclass.

    Returns:
        `type`: The same class.
    """
    descriptions = described_options(cls)
    for field in dataclasses.fields(cls):  # type: ignore[arg-type]
        if field.name in descriptions:
            field.metadata = MappingProxyType({**field.metadata, "help": descriptions[field.name]})
    return cls
