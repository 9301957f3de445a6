"""
Tests of the architecture: which part of the package may import which, and how long files and classes may be.

`docs/architecture.md` describes the same parts, here called rooms. A room may import only rooms that come before it in
`ROOMS`.
"""

import ast
import re
from pathlib import Path

import pytest

import edit_trl


PACKAGE = Path(edit_trl.__file__).parent
ROOT = PACKAGE.parent

# Each room with what it may import of ours. A folder is one room; within it, files may import each other.
ROOMS: dict[str, set[str]] = {
    "deprecation": set(),
    "files": set(),
    "option_help": set(),
    "install_hint": set(),
    "words": set(),
    "drawings": set(),
    "alignment": {"drawings", "words"},
    "loss": set(),
    "tasks": set(),
    "thinking": set(),
    "answers": {"thinking"},
    "token_texts": {"alignment"},
    "pair_checks": set(),
    "checkpoints": set(),
    "model_card": {"drawings"},
    "hub": {"model_card"},
    "weighting": {"alignment", "pair_checks", "token_texts"},
    "text_checks": {"pair_checks"},
    "data_utils": {"weighting", "deprecation", "pair_checks", "text_checks"},
    "shared_attention": set(),
    "layouts": {"shared_attention"},
    "data_collator": {"alignment", "data_utils", "layouts", "pair_checks", "shared_attention", "weighting"},
    "scoring": set(),
    "pair_metrics": {"loss"},
    "edit_config": {"alignment", "loss", "option_help", "weighting"},
    "key_steps": {"data_utils", "pair_checks", "scoring"},
    "callbacks": {"deprecation", "key_steps", "scoring"},
    "trainer_arguments": {"data_utils", "edit_config", "weighting"},
    "edit_trainer": {
        *("checkpoints", "data_collator", "data_utils", "edit_config", "hub", "layouts", "loss"),
        *("pair_metrics", "scoring", "shared_attention", "trainer_arguments", "weighting"),
    },
    "question_formats": {"answers"},
    "questions": {"deprecation", "question_formats"},
    "chat": {"install_hint", "files", "option_help", "thinking"},
    "chat_client": {"deprecation"},  # the old place of `chat`
    "synthesis": {
        "alignment",
        "answers",
        "chat",
        "deprecation",
        "files",
        "option_help",
        "questions",
        "tasks",
        "token_texts",
        "words",
    },
    "evaluation": {
        "install_hint",
        "answers",
        "chat",
        "deprecation",
        "files",
        "option_help",
        "question_formats",
        "questions",
    },
    "inspection": {
        "drawings",
        *("alignment", "answers", "data_utils", "files", "option_help", "pair_checks", "scoring", "text_checks"),
        *("token_texts", "weighting", "words"),
    },
    "scripts": {
        *("callbacks", "checkpoints", "data_utils", "edit_config", "evaluation", "files", "hub", "inspection"),
        *("install_hint", "option_help", "pair_checks", "tasks", "trainer_arguments"),
    },
    "cli": {
        *("chat", "evaluation", "files", "inspection", "install_hint", "option_help", "question_formats"),
        *("questions", "synthesis", "token_texts"),
    },
    "__main__": {"cli"},
}
# What training loads. None of it may load a client.
TRAINING = {
    *(
        "alignment",
        "callbacks",
        "checkpoints",
        "data_collator",
        "data_utils",
        "deprecation",
        "drawings",
        "edit_config",
    ),
    "edit_trainer",
    *(
        "hub",
        "key_steps",
        "layouts",
        "loss",
        "model_card",
        "option_help",
        "pair_checks",
        "pair_metrics",
        "scoring",
        "shared_attention",
        "text_checks",
        "token_texts",
        "trainer_arguments",
    ),
    "weighting",
    "words",
}
# Data rather than code: eight tasks with their questions.
LONG_FILES = {"edit_trl/tasks.py"}
LONG_CLASSES = {"EDITTrainer"}
MAX_LINES, MAX_CLASS_LINES = 650, 200

FILES = sorted(PACKAGE.rglob("*.py"))
CODE = [path for folder in ("edit_trl", "benchmarks", "examples", "tests") for path in (ROOT / folder).rglob("*.py")]


def room(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(path: Path) -> list[tuple[str, list[str]]]:
    """Modules of the package that a file imports, in full, with the names that it takes from them."""
    package = ["edit_trl", *path.relative_to(PACKAGE).parent.parts] if path.is_relative_to(PACKAGE) else []
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found += [(alias.name, []) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *filter(None, [node.module])])
            found.append((module, [alias.name for alias in node.names]))
    return [(module, names) for module, names in found if module.split(".")[0] == "edit_trl"]


def imported_rooms(path: Path) -> set[str]:
    rooms = set()
    for module, names in imports(path):
        parts = module.split(".")
        rooms |= {parts[1]} if len(parts) > 1 else {name for name in names if name in ROOMS}
    return rooms


def code_lines(node: ast.ClassDef) -> int:
    """Lines of a class without its docstrings and blank lines."""
    documented = [n for n in ast.walk(node) if isinstance(n, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef))]
    docstrings = [n.body[0] for n in documented if ast.get_docstring(n) is not None]
    return node.end_lineno - node.lineno + 1 - sum(doc.end_lineno - doc.lineno + 1 for doc in docstrings)


class TestRooms:
    def test_every_file_has_its_room(self):
        assert {room(path) for path in FILES} - {"__init__"} == set(ROOMS)

    @pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
    def test_no_file_imports_a_room_that_it_may_not(self, path):
        if path == PACKAGE / "__init__.py":
            return  # gives out what others hold
        assert imported_rooms(path) <= ROOMS[room(path)] | {room(path)}

    @pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
    def test_rooms_are_in_the_order_of_their_imports(self, path):
        order = list(ROOMS)
        if room(path) != "__init__":
            assert all(order.index(name) < order.index(room(path)) for name in ROOMS[room(path)])

    def test_no_permission_is_unused(self):
        for name, allowed in ROOMS.items():
            used = set().union(*(imported_rooms(path) for path in FILES if room(path) == name))
            assert allowed <= used, f"{name} does not import {sorted(allowed - used)}"

    def test_training_imports_training_alone(self):
        for name in TRAINING:
            assert ROOMS[name] <= TRAINING, name

    @pytest.mark.parametrize("path", [*FILES, *CODE], ids=lambda path: str(path.relative_to(ROOT)))
    def test_nobody_imports_a_private_name(self, path):
        if path.is_relative_to(ROOT / "tests"):
            return
        taken = [f"{module}.{name}" for module, names in imports(path) for name in names]
        assert not [name for name in taken if re.search(r"\._(?!_)", name)]

    def test_page_of_the_docs_names_every_room(self):
        page = (ROOT / "docs" / "architecture.md").read_text()
        assert [name for name in ROOMS if f"`{name}" not in page] == []


class TestSizes:
    @pytest.mark.parametrize("path", CODE, ids=lambda path: str(path.relative_to(ROOT)))
    def test_no_file_is_too_long(self, path):
        num_lines = len(path.read_text().splitlines())
        assert num_lines <= MAX_LINES or str(path.relative_to(ROOT)) in LONG_FILES

    @pytest.mark.parametrize("path", [path for path in PACKAGE.rglob("*") if path.suffix in (".html", ".css", ".js")])
    def test_no_template_is_too_long(self, path):
        assert len(path.read_text().splitlines()) <= MAX_LINES

    def test_no_class_is_too_long(self):
        sizes = {
            node.name: code_lines(node)
            for path in CODE
            if not path.is_relative_to(ROOT / "tests")
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.ClassDef)
        }
        assert {
            name: size for name, size in sizes.items() if size > MAX_CLASS_LINES and name not in LONG_CLASSES
        } == {}
