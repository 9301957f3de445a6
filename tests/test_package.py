"""
Tests of the package as a whole: its imports, public names, documentation, examples and metadata.
"""

import ast
import doctest
import importlib
import importlib.metadata
import inspect
import json
import re
import subprocess
import sys
import textwrap
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml
from packaging.requirements import Requirement

import edit_trl


PACKAGE = Path(edit_trl.__file__).parent
ROOT = PACKAGE.parent
# Entry points read `sys.argv` when they are imported.
MODULES = sorted(
    ".".join(path.relative_to(ROOT).with_suffix("").parts)
    for path in PACKAGE.rglob("*.py")
    if path.stem not in ("__init__", "__main__")
)
# The modules that training loads; they need no client.
TRAINING_MODULES = [
    "edit_trl.alignment",
    "edit_trl.deprecation",
    "edit_trl.callbacks",
    "edit_trl.checkpoints",
    "edit_trl.drawings",
    "edit_trl.data_collator",
    "edit_trl.data_utils",
    "edit_trl.edit_config",
    "edit_trl.edit_trainer",
    "edit_trl.hub",
    "edit_trl.loss",
    "edit_trl.key_steps",
    "edit_trl.layouts",
    "edit_trl.model_card",
    "edit_trl.option_help",
    "edit_trl.pair_checks",
    "edit_trl.pair_metrics",
    "edit_trl.scoring",
    "edit_trl.shared_attention",
    "edit_trl.text_checks",
    "edit_trl.token_texts",
    "edit_trl.trainer_arguments",
    "edit_trl.weighting",
    "edit_trl.words",
]
HEAVY = ["accelerate", "datasets", "openai", "peft", "torch", "transformers", "trl"]
# Distributions whose name is not that of their module.
DISTRIBUTIONS = {
    "huggingface_hub": "huggingface-hub",
    "lm_eval": "lm-eval",
    "math_verify": "math-verify",
    "yaml": "pyyaml",
}

pytestmark = pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.* is deprecated:FutureWarning")


def run_python(code: str) -> str:
    """Output of a fresh interpreter."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    return done.stdout.strip()


def loaded_by(statement: str) -> set[str]:
    """Which of the heavy packages a statement loads."""
    shown = run_python(f"{statement}\nimport json, sys\nprint(json.dumps([n for n in {HEAVY} if n in sys.modules]))")
    return set(json.loads(shown.splitlines()[-1]))


def tree(module: str) -> ast.Module:
    return ast.parse(Path(importlib.util.find_spec(module).origin).read_text())


def imported_packages(node: ast.AST) -> set[str]:
    """Top-level packages that are imported anywhere below a node, those for type checking aside."""
    if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
        return set()
    if isinstance(node, ast.Import):
        return {alias.name.split(".")[0] for alias in node.names}
    if isinstance(node, ast.ImportFrom):
        return set() if node.level else {node.module.split(".")[0]}
    return set().union(*(imported_packages(child) for child in ast.iter_child_nodes(node)), set())


class TestImport:
    def test_of_the_package_loads_nothing_heavy(self):
        assert loaded_by("import edit_trl") == set()

    def test_of_everything_that_the_package_lists_loads_nothing_heavy(self):
        assert loaded_by("import edit_trl; dir(edit_trl); edit_trl.__version__; edit_trl.__all__") == set()

    def test_of_the_alignment_loads_no_model_library(self):
        assert loaded_by("from edit_trl import align") == set()

    def test_of_the_loss_loads_torch_alone(self):
        assert loaded_by("from edit_trl import krsl_loss") == {"torch"}

    def test_of_the_tasks_loads_nothing_heavy(self):
        assert loaded_by("import edit_trl.tasks") == set()

    @pytest.mark.slow
    def test_of_all_names_loads_no_client(self):
        loaded = loaded_by("from edit_trl import *\nassert EDITTrainer.__name__ and krsl_loss.__name__")
        assert {"torch", "trl"} <= loaded
        assert "openai" not in loaded

    @pytest.mark.parametrize("module", TRAINING_MODULES)
    def test_training_modules_import_no_client(self, module):
        assert not imported_packages(tree(module)) & {"openai", "httpx", "requests", "aiohttp"}

    def test_training_modules_import_each_other_alone(self):
        """Synthesis builds on training, not the other way round."""
        allowed = {module.split(".")[1] for module in TRAINING_MODULES}
        for module in TRAINING_MODULES:
            for node in ast.walk(tree(module)):
                if isinstance(node, ast.ImportFrom) and node.level:
                    assert node.level == 1 and node.module in allowed, f"{module} imports .{node.module}"


class TestExports:
    @pytest.mark.parametrize("name", edit_trl.__all__)
    def test_name_resolves(self, name):
        value = getattr(edit_trl, name)
        assert value.__name__ == name
        assert value.__module__.startswith("edit_trl.")

    def test_names_are_sorted_and_unique(self):
        """Capitals first, as ruff's RUF022 sorts them."""
        assert edit_trl.__all__ == sorted(set(edit_trl.__all__))

    def test_every_name_is_known_to_type_checkers(self):
        """The lazy names stand under `TYPE_CHECKING` too."""
        (block,) = (node for node in tree("edit_trl").body if isinstance(node, ast.If))
        names = {alias.name: node.module for node in block.body for alias in node.names}
        assert names == edit_trl._MODULES
        assert set(names) == set(edit_trl.__all__)

    def test_dir_has_every_name(self):
        assert set(edit_trl.__all__) <= set(dir(edit_trl))
        assert dir(edit_trl) == sorted(dir(edit_trl))

    def test_unknown_attribute(self):
        with pytest.raises(AttributeError, match="module 'edit_trl' has no attribute 'EDITTrainers'"):
            _ = edit_trl.EDITTrainers
        assert not hasattr(edit_trl, "DPOTrainer")

    def test_unknown_name_cannot_be_imported(self):
        with pytest.raises(ImportError, match="cannot import name 'nothing'"):
            from edit_trl import nothing  # noqa: F401

    def test_submodules_are_importable(self):
        for module in MODULES:
            importlib.import_module(module)

    def test_has_type_hints_for_others(self):
        assert (PACKAGE / "py.typed").is_file()


class TestVersion:
    def test_pyproject_agrees_with_the_installed_metadata(self):
        assert pyproject()["project"]["version"] == importlib.metadata.version("edit-trl") == edit_trl.__version__

    def test_newest_heading_of_the_changelog_agrees(self):
        changelog = (ROOT / "CHANGELOG.md").read_text()
        version, date = re.search(r"^## \[(\d+\.\d+\.\d+)\] - (.+)$", changelog, re.MULTILINE).groups()
        assert version == importlib.metadata.version("edit-trl")
        assert re.fullmatch(r"\d{4}-\d{2}-\d{2}", date)


def pyproject() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def requirements(extra: str | None = None) -> list[Requirement]:
    """What pyproject.toml declares."""
    project = pyproject()["project"]
    texts = project["dependencies"] if extra is None else project["optional-dependencies"][extra]
    return [Requirement(text) for text in texts]


class TestCitation:
    def test_it_is_of_this_version(self):
        citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
        project = pyproject()["project"]

        assert citation["version"] == project["version"]
        assert citation["license"] == project["license"]
        assert citation["authors"] == project["authors"]
        changelog = (ROOT / "CHANGELOG.md").read_text()
        assert f"## [{citation['version']}] - {citation['date-released']}" in changelog


class TestDependencies:
    def test_every_import_is_declared(self):
        """
        At the top of a module: a base dependency of every Python version. In a `try` or a function: any of the
        dependencies.
        """
        base = {requirement.name for requirement in requirements() if requirement.marker is None}
        extras = {
            requirement.name
            for extra in (None, *pyproject()["project"]["optional-dependencies"])
            for requirement in requirements(extra)
        }
        known = {*sys.stdlib_module_names, "edit_trl"}
        for module in ["edit_trl", *MODULES]:
            body = tree(module).body
            statements = [node for node in body if isinstance(node, (ast.Import, ast.ImportFrom))]
            at_the_top = set().union(*(imported_packages(node) for node in statements), set()) - known
            anywhere = imported_packages(tree(module)) - known
            assert {DISTRIBUTIONS.get(name, name) for name in at_the_top} <= base, module
            assert {DISTRIBUTIONS.get(name, name) for name in anywhere} <= extras, module

    def test_installed_versions_are_allowed(self):
        """Otherwise the tests would prove nothing about what is declared."""
        for requirement in requirements():
            if requirement.marker is None or requirement.marker.evaluate():
                version = importlib.metadata.version(requirement.name)
                assert requirement.specifier.contains(version, prereleases=True), f"{requirement}, got {version}"

    def test_oldest_versions_of_the_constraints_are_those_of_pyproject(self):
        """What `make test-oldest` installs, of the dependencies and of the extras that the tests use."""
        lines = (ROOT / ".github" / "constraints-oldest.txt").read_text().splitlines()
        expected = {}
        for extra in (None, "completion", "demo", "math", "openai"):
            for requirement in requirements(extra):
                (oldest,) = (limit.version for limit in requirement.specifier if limit.operator == ">=")
                expected[requirement.name] = oldest
        assert dict(line.split("==") for line in lines if not line.startswith("#")) == expected

    def test_tests_run_on_the_oldest_and_the_newest_python(self):
        project = pyproject()["project"]
        versions = [text.rpartition(" ")[2] for text in project["classifiers"] if re.search(r":: 3\.\d+$", text)]
        workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "tests.yml").read_text())
        cells = workflow["jobs"]["versions"]["strategy"]["matrix"]["include"]

        assert project["requires-python"] == f">={versions[0]}"
        assert {cell["python"] for cell in cells} == {versions[0], versions[-1]}

    @pytest.mark.parametrize("name", ["trl", "transformers"])
    def test_next_major_release_is_not_allowed(self, name):
        """Trainer hooks are internals, and move."""
        (requirement,) = (requirement for requirement in requirements() if requirement.name == name)
        assert sorted(limit.operator for limit in requirement.specifier) == ["<", ">="]
        (end,) = (limit.version for limit in requirement.specifier if limit.operator == "<")
        assert end.isdecimal()


class Member(NamedTuple):
    """A public function, class or method of the package."""

    path: str
    value: Any
    is_override: bool

    @property
    def doc(self) -> str:
        return self.value.__doc__ or ""

    @property
    def leaves_the_rest_to_its_base(self) -> bool:
        """
        The documentation of an overridden method holds where the override adds none of its own. `torch_call` is what
        `DataCollatorMixin` calls; the class says what it takes and returns.
        """
        return (self.is_override or self.path.endswith(".torch_call")) and "Args:" not in self.doc


def public_members(module_name: str) -> Iterator[Member]:
    module = importlib.import_module(module_name)
    for name, value in vars(module).items():
        if name.startswith("_") or getattr(value, "__module__", None) != module_name:
            continue
        if inspect.isfunction(value):
            yield Member(f"{module_name}.{name}", value, is_override=False)
        elif inspect.isclass(value):
            yield Member(f"{module_name}.{name}", value, is_override=False)
            for method_name, method in vars(value).items():
                method = getattr(method, "__func__", getattr(method, "fget", method))
                if not method_name.startswith("_") and inspect.isfunction(method):
                    is_override = any(hasattr(base, method_name) for base in value.__mro__[1:])
                    yield Member(f"{module_name}.{name}.{method_name}", method, is_override)


def parameters_to_explain(value: Any) -> list[str]:
    """Parameters of a function, of a class's own `__init__`, or the fields that a dataclass adds."""
    if hasattr(value, "__dataclass_fields__"):
        return [name for name in vars(value).get("__annotations__", {}) if not name.startswith("_")]
    if inspect.isclass(value) and "__init__" not in vars(value):
        return []
    return [
        name
        for name, parameter in inspect.signature(value).parameters.items()
        if parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD) and name not in ("self", "cls")
    ]


def raised_by(value: Any) -> set[str]:
    """Names of the errors that the source of a function raises itself."""
    source = ast.parse(textwrap.dedent(inspect.getsource(value)))
    raised = (node.exc for node in ast.walk(source) if isinstance(node, ast.Raise) and node.exc is not None)
    names = (node.id for error in raised for node in ast.walk(error) if isinstance(node, ast.Name))
    return {name for name in names if name.endswith("Error")}


# A script is run, and not imported; its options are documented in `test_option_help.py`.
MEMBERS = [member for module in MODULES if ".scripts." not in module for member in public_members(module)]


class TestDocumentation:
    @pytest.mark.parametrize("module", ["edit_trl", *MODULES])
    def test_module_says_what_it_is_for(self, module):
        assert ast.get_docstring(tree(module))

    @pytest.mark.parametrize("member", MEMBERS, ids=lambda member: member.path)
    def test_public_name_is_documented_completely(self, member):
        if member.leaves_the_rest_to_its_base:
            return
        assert member.doc, f"`{member.path}` has no docstring"
        unexplained = [n for n in parameters_to_explain(member.value) if not re.search(rf"\b{n}\b", member.doc)]
        assert not unexplained, f"the docstring of `{member.path}` does not mention {unexplained}"
        if inspect.isclass(member.value) or "Args:" not in member.doc:
            return
        unsaid = [error for error in raised_by(member.value) if error not in member.doc]
        assert not unsaid, f"`{member.path}` raises {unsaid} and does not say so"
        returned = inspect.signature(member.value).return_annotation
        if returned not in (None, "None", inspect.Signature.empty):
            assert re.search(r"^ *(Returns|Yields):$", member.doc, re.MULTILINE), f"what `{member.path}` returns"


class Parser(doctest.DocTestParser):
    """Reads the examples of fenced blocks too, whose closing fence is no expected output."""

    def parse(self, string, name="<string>"):
        return super().parse(re.sub(r"^ *```\w*$", "", string, flags=re.MULTILINE), name)


def doctests() -> list[doctest.DocTest]:
    finder = doctest.DocTestFinder(parser=Parser(), exclude_empty=True)
    found = (test for module in MODULES for test in finder.find(importlib.import_module(module)))
    return [test for test in found if test.examples]


class TestExamples:
    @pytest.mark.parametrize("example", doctests(), ids=lambda test: test.name)
    def test_of_docstring_runs(self, example, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS)
        report = []
        result = runner.run(example, out=report.append)
        assert result.failed == 0, "".join(report)

    @pytest.mark.parametrize("name", [n for n in edit_trl.__all__ if n not in ("EDITTrainer", "Alignment")])
    def test_exported_name_has_an_example(self, name):
        assert any(test.name.endswith(f".{name}") for test in doctests()), name

    def test_example_of_the_trainer_compiles(self):
        """It needs a model from the Hub, so it is read rather than run."""
        (code,) = re.findall(r"```python\n(.*?)```", edit_trl.EDITTrainer.__doc__, re.DOTALL)
        compile(textwrap.dedent(code), "EDITTrainer", "exec")
