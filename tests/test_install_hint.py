"""Tests of the command that installs an extra: it is right for the way in which this copy was installed."""

import importlib.metadata
import json
import re
import shlex
from pathlib import Path

import pytest

from edit_trl import install_hint as module
from edit_trl.install_hint import install_hint


ROOT = Path(__file__).parents[1]


def installed_from(monkeypatch, origin):
    class Distribution:
        def read_text(self, name):
            assert name == "direct_url.json"
            return None if origin is None else json.dumps(origin)

    monkeypatch.setattr(module, "distribution", lambda name: Distribution())


@pytest.mark.parametrize(
    ("origin", "expected"),
    [
        (None, ["edit-trl[vllm]"]),
        ({"url": "file:///a%20b/repo", "dir_info": {"editable": True}}, ["--editable", "/a b/repo[vllm]"]),
        ({"url": "file:///repo", "dir_info": {}}, ["/repo[vllm]"]),
        ({"url": "file:///w/edit.whl", "archive_info": {}}, ["edit-trl[vllm] @ file:///w/edit.whl"]),
        (
            {"url": "https://host/edit.git", "vcs_info": {"vcs": "git", "commit_id": "1", "requested_revision": "v1"}},
            ["edit-trl[vllm] @ git+https://host/edit.git@v1"],
        ),
        (
            {"url": "https://host/edit.git", "vcs_info": {"vcs": "git", "commit_id": "1"}},
            ["edit-trl[vllm] @ git+https://host/edit.git"],
        ),
    ],
)
def test_command(monkeypatch, origin, expected):
    installed_from(monkeypatch, origin)
    assert shlex.split(install_hint("vllm")) == ["pip", "install", *expected]


def test_not_installed(monkeypatch):
    def missing(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(module, "distribution", missing)
    assert install_hint("vllm") == "pip install '.[vllm]'"


def test_this_copy():
    """The tests run on an editable installation of this folder, or on a built one."""
    hint = install_hint("vllm")
    assert hint.startswith("pip install ") and hint.endswith("[vllm]'") or " @ " in hint


def test_no_message_names_the_index():
    """All hints of the package come from this function, since the package may not be on the index."""
    for path in [*(ROOT / "edit_trl").rglob("*.py"), *(ROOT / "examples").rglob("*.py")]:
        if path.name != "install_hint.py":
            assert not re.search(r"pip install[^\n]*'?edit-trl\[", path.read_text()), path
