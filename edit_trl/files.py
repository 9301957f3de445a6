"""
Write files that appear whole or not at all, and never in the place of something else.

Files are written in a folder beside their place, and moved there when all of them are complete. An error or an
interrupt leaves older files as they were. Links are followed: the file that a link points to is written, and the link
stays. What is not a file (a device, a pipe, a folder) is refused. [`check_outputs`] refuses such places, inputs and
files that exist before any work is done.
"""

import os
import stat
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path


def check_outputs(
    outputs: Mapping[str, str | os.PathLike],
    inputs: Iterable[str | os.PathLike] = (),
    overwrite: bool = False,
    remedy: str = "pass `overwrite=True` to replace it",
) -> None:
    """
    Refuse to write where something would be lost. Nothing is written and no folder is made.

    Args:
        outputs (`Mapping[str, str or os.PathLike]`):
            Files to write, by the words that name them in an error, such as `` "`--json`" ``.
        inputs (`Iterable[str or os.PathLike]`, *optional*):
            Files and folders that are read. A name that is not there, such as the name of a dataset on the Hub, is
            ignored.
        overwrite (`bool`, *optional*, defaults to `False`):
            Whether outputs that exist may be replaced. Inputs are never replaced.
        remedy (`str`, *optional*):
            What to do to replace a file, for the error.

    Raises:
        FileExistsError: If an output exists and `overwrite` is false.
        ValueError: If an output is an input or lies in one, is not a file, is the same file as another output, or lies
            in a folder that is missing or cannot be written to.

    Examples:

    ```python
    >>> _ = Path("pairs.jsonl").write_text("[]")
    >>> check_outputs({"`json`": "statistics.json"}, inputs=["pairs.jsonl"])
    >>> check_outputs({"`json`": "./pairs.jsonl"}, inputs=["pairs.jsonl"], overwrite=True)
    Traceback (most recent call last):
        ...
    ValueError: `json` must not be a file that is read, got './pairs.jsonl', which is 'pairs.jsonl'. Pass another file.

    ```
    """
    sources = [Path(name) for name in inputs if os.path.exists(name)]
    places: dict[Path, str] = {}
    for flag, name in outputs.items():
        target = _target(name, flag)
        for source in sources:
            if target.exists() and (target.samefile(source) or source.resolve() in target.resolve().parents):
                where = "" if target.samefile(source) else "in "
                what = "" if str(name) == str(source) else f", which is {where}{str(source)!r}"
                raise ValueError(
                    f"{flag} must not be a file that is read, got {str(name)!r}{what}. Pass another file."
                )
        if target in places:
            raise ValueError(
                f"{flag} and {places[target]} must be two files, got {str(name)!r} for both. Pass another file."
            )
        places[target] = flag
        if not target.parent.is_dir():
            raise ValueError(f"The folder of {str(name)!r} must exist. Make it, or pass another file as {flag}.")
        if not os.access(target.parent, os.W_OK | os.X_OK):
            raise ValueError(
                f"The folder of {str(name)!r} must be one that can be written to. Pass another file as {flag}."
            )
        if target.exists() and not overwrite:
            raise FileExistsError(
                f"{flag} must be a new file, but {str(name)!r} exists. Pass another name, or {remedy}."
            )


def check_folder(flag: str, folder: str | os.PathLike) -> None:
    """
    Refuse a folder that files cannot be written to. Nothing is written and no folder is made.

    Args:
        flag (`str`):
            The words that name it in the error, such as `` "`output_dir`" ``.
        folder (`str` or `os.PathLike`):
            The folder. It need not exist, but must be one that can be made.

    Raises:
        ValueError: If it is a file, or lies where it cannot be written to or made.

    Examples:

    ```python
    >>> check_folder("`output_dir`", "scores/new")

    ```
    """
    place = Path(folder)
    try:
        while not place.exists() and not place.is_symlink() and place != place.parent:
            place = place.parent
        is_writable = place.is_dir() and os.access(place, os.W_OK | os.X_OK)
    except OSError:  # a name that is too long
        is_writable = False
    if not is_writable:
        raise ValueError(f"{flag} must be a folder that can be written to, got {str(folder)!r}. Pass another folder.")


@contextmanager
def written_aside(*paths: str | os.PathLike) -> Iterator[list[Path]]:
    """
    Write one or several files, and put them in place together. Files that exist are replaced.

    Args:
        *paths (`str` or `os.PathLike`):
            The files, in a folder that exists. Links are followed.

    Yields:
        `list[Path]`: Where to write each file. The names are those of the files.

    Raises:
        ValueError: If a path is a folder, a device or another thing that is not a file. Raised before anything is
            written.

    Examples:

    ```python
    >>> with written_aside("numbers.json") as (path,):
    ...     _ = path.write_text("[1]")
    ...     Path("numbers.json").exists()
    False
    >>> Path("numbers.json").read_text()
    '[1]'

    ```
    """
    targets = [_target(path, "The file") for path in paths]
    with ExitStack() as stack:
        # One folder for each place: a link may point to another disk, and a file cannot be moved there in one step.
        folders = {
            place: stack.enter_context(tempfile.TemporaryDirectory(dir=place, prefix=".unfinished-"))
            for place in dict.fromkeys(target.parent for target in targets)
        }
        unfinished = [Path(folders[target.parent], target.name) for target in targets]
        yield unfinished
        for source, target in zip(unfinished, targets, strict=True):
            if target.exists():
                os.chmod(source, stat.S_IMODE(target.stat().st_mode))
            os.replace(source, target)


def _target(path: str | os.PathLike, flag: str) -> Path:
    """Return the file that a path names, which is behind any links. Raises `ValueError` for what is not a file."""
    try:
        target = Path(os.path.realpath(path))
        # Asked by the name that was given: `/dev/stdout` points to a pipe that has no name.
        kind = os.stat(path).st_mode
    except FileNotFoundError:
        kind = stat.S_IFREG
    except OSError as error:  # a loop of links, or a name that is too long
        raise ValueError(f"{flag} must be a file, got {str(path)!r} ({error.strerror}). Pass another name.") from None
    if not stat.S_ISREG(kind):
        what = "a folder" if stat.S_ISDIR(kind) else "a device, a pipe or a socket"
        raise ValueError(f"{flag} must be a file, but {str(path)!r} is {what}. Pass the name of a file.")
    return target
