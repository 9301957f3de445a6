"""
The help of an option, read from the docstring of its dataclass.

Options are described once, in the `Args:` of a dataclass. Command lines take their help from there: a flag's text is
what `--help` of `edit-trl` and of `examples/train.py` shows, and `docs/cli.md` is made of the same.
"""

import dataclasses
import inspect
import re
from types import MappingProxyType
from typing import TypeVar


_T = TypeVar("_T")

# `name (`type`, *optional*, defaults to `1`):`, or several names with commas between.
_ENTRY = re.compile(r"^ {4}((?:\w+, )*\w+)(?: \(.*\))?:\n((?: {8}.*\n|\n)+)", re.MULTILINE)


def described_options(cls: type) -> dict[str, str]:
    """
    What the docstring of a dataclass says of each of its fields.

    Args:
        cls (`type`):
            The dataclass.

    Returns:
        `dict[str, str]`: Description by field, in one line each, with quotes in place of Markdown. Empty where Python
        runs without docstrings (`-OO`).

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
    doc = inspect.cleandoc(cls.__doc__ or "")
    descriptions = {}
    for names, text in _ENTRY.findall(doc + "\n"):
        text = re.sub(r"\[`~?([^`]+)`\]", r"`\1`", " ".join(text.split()))
        for name in names.split(", "):
            descriptions[name] = re.sub('`"|"`|`', "'", text)
    return descriptions


def help_from_docstring(cls: type[_T]) -> type[_T]:
    """
    Give the fields of a dataclass the help that its docstring holds, as `metadata["help"]`.

    Fields of a base class keep what they have.

    Args:
        cls (`type`):
            The dataclass. Stands above `@dataclass`, as a decorator.

    Returns:
        `type`: The same class.
    """
    descriptions = described_options(cls)
    for field in dataclasses.fields(cls):  # type: ignore[arg-type]
        if field.name in descriptions:
            field.metadata = MappingProxyType({**field.metadata, "help": descriptions[field.name]})
    return cls
