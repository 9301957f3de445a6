"""
Read the help text of options from the docstring of their dataclass.

Each option is described once, in the `Args:` of a dataclass. `--help` of `edit-trl` and of `examples/train.py` shows
this text, and `docs/cli.md` is generated from it.
"""

import dataclasses
import inspect
import re
from types import MappingProxyType
from typing import NamedTuple, TypeVar


_T = TypeVar("_T")

# Matches `name (`type`, *optional*, defaults to `1`):`, or several names with commas between them.
_ENTRY = re.compile(r"^ {4}((?:\w+, )*\w+)(?: \((.*)\))?:\n((?: {8}.*\n|\n)+)", re.MULTILINE)
_DEFAULT = re.compile(r"defaults to `(.*)`$")


class Option(NamedTuple):
    """
    An option as a docstring describes it.

    Args:
        text (`str`):
            Its description, on one line, with quotes instead of Markdown.
        default (`str`, *optional*):
            Its default as a command line takes it, if the docstring states one as code.
    """

    text: str
    default: str | None = None


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
    return {name: option.text for name, option in options_in(inspect.cleandoc(cls.__doc__ or "")).items()}


def options_in(doc: str) -> dict[str, Option]:
    """
    Read the options from the `Args:` of a docstring.

    Args:
        doc (`str`):
            Docstring, without indentation.

    Returns:
        `dict[str, Option]`: Each option by its name.
    """
    options: dict[str, Option] = {}
    for names, kind, text in _ENTRY.findall(doc + "\n"):
        text = re.sub(r"\[`~?([^`]+)`\]", r"`\1`", " ".join(text.split()))
        value = default[1].strip('"') if (default := _DEFAULT.search(kind)) else None
        if value is not None:
            value = value.lower() if value in ("True", "False") else value.strip("[]").replace(", ", " ")
        options |= dict.fromkeys(names.split(", "), Option(re.sub('`"|"`|`', "'", text), value))
    return options


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
