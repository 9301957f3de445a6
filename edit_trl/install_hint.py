"""What to type to install an extra of this package, for the way in which this copy was installed."""

import json
from importlib.metadata import PackageNotFoundError, distribution
from urllib.parse import unquote, urlparse


def install_hint(extra: str) -> str:
    """
    Write the command that installs an extra of this package.

    A copy from a repository, a folder or a file is installed from there again, and one from an index from the index
    (see PEP 610, `direct_url.json`).

    Args:
        extra (`str`):
            Name of the extra.

    Returns:
        `str`: The command, for a shell.

    Examples:

    ```python
    >>> install_hint("vllm").startswith("pip install ")
    True

    ```
    """
    try:
        content = distribution("edit-trl").read_text("direct_url.json")
    except PackageNotFoundError:  # not installed: run from its folder
        return f"pip install '.[{extra}]'"
    origin = json.loads(content) if content else {}
    url = origin.get("url", "")
    if "dir_info" in origin:
        folder = unquote(urlparse(url).path)
        option = "--editable " if origin["dir_info"].get("editable") else ""
        return f"pip install {option}'{folder}[{extra}]'"
    if "vcs_info" in origin:
        reference = origin["vcs_info"].get("requested_revision")
        place = f"{origin['vcs_info']['vcs']}+{url}" + (f"@{reference}" if reference else "")
        return f"pip install 'edit-trl[{extra}] @ {place}'"
    if url:
        return f"pip install 'edit-trl[{extra}] @ {url}'"
    return f"pip install 'edit-trl[{extra}]'"
