"""Tests that options are described once: the help of a flag and each default agree with the docstring."""

import dataclasses
import importlib
import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest

import edit_trl
from edit_trl.option_help import described_options, help_from_docstring


@help_from_docstring
@dataclasses.dataclass
class Options:
    """
    Options of an example.

    Args:
        depth (`int`, *optional*, defaults to `2`):
            How deep to look: `"all"` is too deep. See
            [`~inspection.Statistics`].

        left, right (`str` or `None`, *optional*):
            Two at once.
        other (`list[tuple[int, str]]`):
            Another one.

    Raises:
        ValueError: Never.
    """

    depth: int = 2
    left: str | None = None
    right: str | None = None
    other: list = dataclasses.field(default_factory=list, metadata={"choices": [1]})
    silent: bool = False


class TestHelpFromDocstring:
    def test_is_the_description_without_markdown(self):
        assert described_options(Options) == {
            "depth": "How deep to look: 'all' is too deep. See 'inspection.Statistics'.",
            "left": "Two at once.",
            "right": "Two at once.",
            "other": "Another one.",
        }

    def test_stands_in_the_metadata_beside_what_was_there(self):
        metadata = {field.name: dict(field.metadata) for field in dataclasses.fields(Options)}
        assert metadata["other"] == {"choices": [1], "help": "Another one."}
        assert metadata["silent"] == {}

    def test_without_docstrings_there_is_none(self):
        code = (
            "from edit_trl.inspection import InspectionConfig\n"
            "print(dict(InspectionConfig.__dataclass_fields__['tie_break'].metadata))"
        )
        done = subprocess.run([sys.executable, "-OO", "-c", code], capture_output=True, text=True, check=True)
        assert done.stdout.strip() == "{}"


# Where a default is written down: "defaults to `x`" behind a parameter, in the docstring of a function or class.
_DEFAULT = re.compile(r"^ *((?:\w+, )*\w+) \(.*defaults to `(.+?)`\):$", re.MULTILINE)


def documented_defaults():
    package = Path(edit_trl.__file__).parent
    for path in sorted(package.rglob("*.py")):
        if path.stem in ("__init__", "chat_client", "harness"):
            continue
        module = importlib.import_module(".".join(path.relative_to(package.parent).with_suffix("").parts))
        for name, value in vars(module).items():
            if name.startswith("_") or getattr(value, "__module__", None) != module.__name__:
                continue
            members = [(name, value)]
            if inspect.isclass(value):
                members += [(f"{name}.{key}", m) for key, m in vars(value).items() if inspect.isfunction(m)]
            for label, member in members:
                if callable(member) and _DEFAULT.search(member.__doc__ or ""):
                    yield pytest.param(member, id=f"{module.__name__}.{label}")


@pytest.mark.parametrize("member", list(documented_defaults()))
def test_defaults_in_docstrings_are_the_real_ones(member):
    parameters = inspect.signature(member).parameters
    for names, shown in _DEFAULT.findall(member.__doc__):
        for name in names.split(", "):
            if name in parameters:
                # A default may be a name of the module, such as a tuple of tasks.
                value = eval(shown, vars(sys.modules[member.__module__]).copy())
                default = parameters[name].default
                if repr(default) == "<factory>":
                    default = getattr(member(), name)
                assert value == default, f"{name}: {shown}"
