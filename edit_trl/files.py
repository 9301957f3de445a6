"""
Write files that appear whole or not at all.

Files are written in a folder beside their place, and moved there when all of them are complete. An error or an
interrupt leaves older files as they were.
"""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def written_aside(*paths: str | os.PathLike) -> Iterator[list[Path]]:
    """
    Write one or several files of one folder, and put them in place together.

    Args:
        *paths (`str` or `os.PathLike`):
            The files, in a folder that exists.

    Yields:
        `list[Path]`: Where to write each file. The names are those of `paths`.

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
    targets = [Path(path) for path in paths]
    with tempfile.TemporaryDirectory(dir=targets[0].parent, prefix=".unfinished-") as folder:
        unfinished = [Path(folder, target.name) for target in targets]
        yield unfinished
        for source, target in zip(unfinished, targets, strict=True):
            os.replace(source, target)
