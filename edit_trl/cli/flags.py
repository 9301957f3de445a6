"""
Flags of the commands: flags made from dataclass fields, flags that several commands share, and a YAML file of flags.
"""

import argparse
import dataclasses
import difflib
import json
import re
import sys
import textwrap
import typing
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any


# Placeholder of a flag's value in the help, by the type of the value.
_METAVARS: Mapping[type, str] = {bool: "true|false", dict: "JSON", float: "N", int: "N", str: "TEXT"}


class HelpFormatter(argparse.HelpFormatter):
    """Help that shows the default of a flag at the end, if there is one. argparse calls a flag an `action`."""

    def _split_lines(self, text: str, width: int) -> list[str]:
        """Lines of a help text. A flag such as `--harness` stays whole."""
        return textwrap.wrap(" ".join(text.split()), width, break_on_hyphens=False)

    def _get_help_string(self, action: argparse.Action) -> str:
        text = action.help or ""
        # Compared by identity, because 0 == False and a default of 0 must be shown.
        if any(action.default is nothing for nothing in (None, False, "", argparse.SUPPRESS)):
            return text
        return f"{text} (default: %(default)s)"


def add_command(commands: Any, name: str, **texts: str) -> argparse.ArgumentParser:
    """Add the parser `name` to the `commands`, with `texts` (help, description, usage) and the flag `--config`."""
    parser: argparse.ArgumentParser = commands.add_parser(name, formatter_class=HelpFormatter, **texts)
    parser.add_argument("--config", metavar="FILE", help="YAML file with any of these flags")
    return parser


def add_flag(
    group: Any,
    name: str,
    kind: type,
    text: str,
    *,
    default: Any = None,
    metavar: str | None = None,
    may_be_none: bool | None = None,
) -> None:
    """
    Add a flag to a group of a parser. A switch (`bool`) may be given without a value.

    Args:
        group (`argparse.ArgumentParser` or argument group):
            Parser or group that gets the flag.
        name (`str`):
            Name of the flag without dashes.
        kind (`type`):
            Type of the value: `bool`, `dict`, `float`, `int` or `str`.
        text (`str`):
            Help text.
        default (`Any`, *optional*):
            Value if the flag is not given. A switch is off by default.
        metavar (`str`, *optional*):
            Placeholder of the value in the help. Defaults to the usual placeholder for the type.
        may_be_none (`bool`, *optional*):
            Whether `none` is an allowed value. By default it is allowed if `default` is `None`.
    """
    is_switch = kind is bool
    if is_switch and default is None:
        default = False
    group.add_argument(
        f"--{name}",
        type=_reader(kind, default is None if may_be_none is None else may_be_none),
        default=default,
        metavar=metavar or _METAVARS[kind],
        help=text.replace("%", "%%"),
        **({"nargs": "?", "const": True} if is_switch else {}),
    )


def add_fields(group: Any, cls: type, **texts: str) -> None:
    """
    Add a flag to the `group` for each field of the dataclass `cls`, with its type, default and help. Fields that
    cannot be set have none. `texts` are the help of fields that a command uses in another way than Python.
    """
    hints = typing.get_type_hints(cls)
    for field in filter(lambda field: field.init, dataclasses.fields(cls)):
        kinds = typing.get_args(hints[field.name]) or (hints[field.name],)
        # Docstrings have Python's `None`, `True` and `False`. On the command line it is `none`, `true` and `false`.
        text = re.sub("'(None|True|False)'", lambda match: match[0].lower(), field.metadata.get("help", ""))
        text = texts.get(field.name, text)
        add_flag(
            group,
            field.name,
            typing.get_origin(kinds[0]) or kinds[0],
            text.rstrip("."),
            default=None if field.default is dataclasses.MISSING else field.default,
            may_be_none=type(None) in kinds,
        )


def field_values(args: argparse.Namespace, cls: type) -> dict[str, Any]:
    """Return the values in `args` of the flags that are fields of the dataclass `cls`."""
    return {field.name: getattr(args, field.name) for field in dataclasses.fields(cls) if field.init}


def add_rows(group: Any, *, split: str, limit: str) -> None:
    """Add `--split`, with the default `split`, and `--limit`, with the help text `limit`, to the `group`."""
    add_flag(group, "split", str, "Split of a dataset in a folder or on the Hub", default=split, metavar="NAME")
    add_flag(group, "limit", int, limit)


def add_questions(parser: argparse.ArgumentParser, name: str, *, split: str, limit: str) -> None:
    """
    Add the flags that say which questions to read to the `parser`: `--name`, and those of [`add_rows`] with the same
    `split` and `limit`.
    """
    group = parser.add_argument_group("questions")
    text = (
        "JSON, JSON Lines, CSV or Parquet file, or dataset on the Hub, with 'question' and 'answer'; optionally "
        "'task' and 'task_description'; or file or folder of a benchmark as it was released"
    )
    add_flag(group, name, str, text, metavar="DATA")
    add_rows(group, split=split, limit=limit)


def listed(names: list[str]) -> list[str]:
    """Return the `names` given to a flag of several values. A list in a YAML file comes as one text of JSON."""
    if len(names) == 1 and names[0].startswith("["):
        names = json.loads(names[0])
    return [str(name) for name in names]


def _reader(kind: type, may_be_none: bool) -> Callable[[str], Any]:
    """Return the function that turns the text of a flag into its value."""

    def read(text: str) -> Any:
        if text.lower() == "none":
            if not may_be_none:
                raise ValueError
            return None
        if kind is bool:
            return {"true": True, "false": False}[text.lower()]
        value = json.loads(text) if kind is dict else kind(text)
        if not isinstance(value, kind):
            raise ValueError
        return value

    def read_or_refuse(text: str) -> Any:
        try:
            return read(text)
        except (KeyError, ValueError):
            names = {bool: "'true' or 'false'", dict: "a JSON object", int: "a whole number", float: "a number"}
            raise argparse.ArgumentTypeError(f"must be {names.get(kind, 'a text')}, got {text!r}") from None

    return read_or_refuse


def parse(parser: argparse.ArgumentParser, argv: list[str]) -> argparse.Namespace:
    """
    Read flags from the command line and from the YAML file of `--config`. The command line wins over the file. A flag
    may be written with dashes for underscores.

    Args:
        parser (`argparse.ArgumentParser`):
            Parser of all commands.
        argv (`list[str]`):
            The command line, without the program's name.

    Returns:
        `argparse.Namespace`: Value of each flag. A flag that is given in neither place has its default.

    Raises:
        ValueError: If the file cannot be read or a key is not the name of a flag.
        SystemExit: After `--help`, and for flags or values that argparse refuses.
    """
    argv = [re.sub(r"^--[\w-]+", _with_underscores, argument) for argument in argv]
    args, unknown = parser.parse_known_args(argv)
    if unknown:
        _refuse_unknown(args, unknown)
    if args.config is None:
        return args
    import yaml

    try:
        values = yaml.safe_load(Path(args.config).read_text(encoding="utf-8"))
    except (OSError, UnicodeError, yaml.YAMLError) as error:
        raise ValueError(
            f"`--config` must be a YAML file, got {args.config!r}: {' '.join(str(error).split())}"
        ) from None
    if not isinstance(values, dict):
        raise ValueError(
            f"`--config` must be a YAML file of flags and values, and {args.config!r} is not: {values!r}."
        )
    known = _flag_names(args)
    from_file = []
    for name, value in values.items():
        if name not in known:
            nearest = difflib.get_close_matches(str(name), known, n=1, cutoff=0.0)[0]
            raise ValueError(
                f"{args.config!r} must have the names of flags as its keys, got `{name}`. Did you mean `{nearest}`?"
            )
        is_json = isinstance(value, (bool, dict, list))
        text = "none" if value is None else json.dumps(value, default=str) if is_json else str(value)
        from_file.append(f"--{name}={text}")
    # The parser reads the flags of the file first. If a flag comes twice, the last one wins.
    return parser.parse_args([args.command, *from_file, *argv[argv.index(args.command) + 1 :]])


def _with_underscores(match: re.Match[str]) -> str:
    """The name of a flag with underscores, since TRL's commands take `--num-paths` for `--num_paths` too."""
    return "--" + match[0][2:].replace("-", "_")


def _flag_names(args: argparse.Namespace) -> list[str]:
    """Flags of the command that can stand in a YAML file too."""
    return [name for name in vars(args) if name not in ("command", "run", "config", "data")]


def _refuse_unknown(args: argparse.Namespace, unknown: list[str]) -> None:
    """Name the nearest flag of the command. argparse would show the usage of all commands."""
    name = unknown[0].partition("=")[0]
    hint = "It takes one name before its flags."
    if name.startswith("-"):
        nearest = difflib.get_close_matches(name.lstrip("-"), [*_flag_names(args), "config"], n=1)
        hint = f"Did you mean `--{nearest[0]}`?" if nearest else f"See `edit-trl {args.command} --help`."
    print(f"edit-trl {args.command}: there is no {name!r} here. {hint}", file=sys.stderr)
    raise SystemExit(2)
