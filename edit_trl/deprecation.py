"""
Keep old names working for one release, with a warning that gives the new name.

A module with renamed attributes sets `__getattr__ = renamed(__name__, {...})`. Nothing else is needed: Python calls
`__getattr__` for names that the module does not have. A function with a renamed argument is decorated with
[`renamed_argument`].
"""

import functools
import importlib
import warnings
from collections.abc import Callable, Mapping
from typing import Any, TypeVar, cast


_F = TypeVar("_F", bound=Callable[..., Any])

# Release that drops the old names.
REMOVED_IN = "0.3.0"


def warn_of_old_name(old: str, new: str, stacklevel: int = 3) -> None:
    """
    Warn that a name is old.

    Args:
        old (`str`):
            The old name.
        new (`str`):
            The new name.
        stacklevel (`int`, *optional*, defaults to `3`):
            Number of calls up to the code that used the old name, as for `warnings.warn`: 3 is the caller of the
            caller.
    """
    warnings.warn(
        f"`{old}` is now `{new}`. The old name will be removed in {REMOVED_IN}.", FutureWarning, stacklevel=stacklevel
    )


def renamed(module: str, names: Mapping[str, str], stacklevel: int = 3) -> Callable[[str], Any]:
    """
    Make a `__getattr__` function for a module with renamed attributes.

    Args:
        module (`str`):
            The `__name__` of the module.
        names (`Mapping[str, str]`):
            New name for each old name. A new name with dots is in another module: `"edit_trl.chat.ChatClient"`.
        stacklevel (`int`, *optional*, defaults to `3`):
            As for [`warn_of_old_name`]. Pass 4 if the module's own `__getattr__` calls the result.

    Returns:
        `Callable[[str], Any]`: Function that returns the value of an old name, with a `FutureWarning`, and raises
        `AttributeError` for any other name.

    Examples:

    ```python
    >>> import warnings
    >>> look_up = renamed("edit_trl.data_utils", {"check_columns": "is_tokenized"})
    >>> with warnings.catch_warnings(record=True) as caught:
    ...     warnings.simplefilter("always")
    ...     look_up("check_columns")(["prompt", "chosen", "rejected"])
    False
    >>> str(caught[0].message)[:70]
    '`edit_trl.data_utils.check_columns` is now `edit_trl.data_utils.is_tok'

    ```
    """

    def look_up(name: str) -> Any:
        if name not in names:
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        new = names[name]
        place, _, attribute = (new if "." in new else f"{module}.{new}").rpartition(".")
        warn_of_old_name(f"{module}.{name}", f"{place}.{attribute}", stacklevel)
        return getattr(importlib.import_module(place), attribute)

    return look_up


def renamed_argument(**names: str) -> Callable[[_F], _F]:
    """
    Make a decorator for a function with renamed keyword arguments.

    Args:
        **names (`str`):
            New name for each old name.

    Returns:
        `Callable`: The decorator. The decorated function also takes the old names, with a `FutureWarning`.

    Examples:

    ```python
    >>> import warnings
    >>> @renamed_argument(size="length")
    ... def cut(text, length):
    ...     return text[:length]
    >>> with warnings.catch_warnings(record=True) as caught:
    ...     warnings.simplefilter("always")
    ...     cut("reasoning", size=6)
    'reason'
    >>> str(caught[0].message)
    '`cut(size=...)` is now `cut(length=...)`. The old name will be removed in 0.3.0.'

    ```
    """

    def decorate(function: _F) -> _F:
        @functools.wraps(function)
        def call(*args: Any, **options: Any) -> Any:
            for old, new in names.items():
                # If both names are given, the old one stays, and the call below fails as for any unknown argument.
                if old in options and new not in options:
                    warn_of_old_name(f"{function.__name__}({old}=...)", f"{function.__name__}({new}=...)")
                    options[new] = options.pop(old)
            return function(*args, **options)

        return cast(_F, call)

    return decorate


class RenamedKeys(dict[str, Any]):
    """
    A dictionary of results in which the names of some keys have changed.

    Args:
        values (`dict`):
            The results, by their new names.
        **names (`str`):
            New name by old name. An old name gives the value of the new one, with a `FutureWarning`.

    Examples:

    ```python
    >>> import warnings
    >>> results = RenamedKeys({"truncated_rate": 0.5}, cut_rate="truncated_rate")
    >>> with warnings.catch_warnings(record=True) as caught:
    ...     warnings.simplefilter("always")
    ...     results["cut_rate"]
    0.5
    >>> list(results), len(caught)
    (['truncated_rate'], 1)

    ```
    """

    def __init__(self, values: Mapping[str, Any], **names: str) -> None:
        super().__init__(values)
        self._names = names

    def __missing__(self, name: str) -> Any:
        if name not in self._names:
            raise KeyError(name)
        new = self._names[name]
        warn_of_old_name(f'results["{name}"]', f'results["{new}"]')
        return self[new]
