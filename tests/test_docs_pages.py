"""
Tests that pages which name parts of the package, its messages or its pictures are true.
"""

import ast
import functools
import importlib
import importlib.util
import re
import xml.etree.ElementTree as ElementTree
from dataclasses import fields
from pathlib import Path

import pytest


ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"

spec = importlib.util.spec_from_file_location("draw", DOCS / "tools" / "draw.py")
draw = importlib.util.module_from_spec(spec)
spec.loader.exec_module(draw)


def text_of(node: ast.AST) -> str | None:
    """Text of a literal, with a NUL for what is put in, or None if it is no literal."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(text_of(value) or "\0" for value in node.values)
    return None


@functools.cache
def literals() -> list[str]:
    texts = []
    for file in sorted((ROOT / "edit_trl").rglob("*.py")):
        tree = ast.parse(file.read_text())
        documentation = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        texts += [
            text for node in ast.walk(tree) if id(node) not in documentation and (text := text_of(node)) is not None
        ]
    return texts


class TestTroubleshooting:
    MESSAGES = [
        line
        for block in re.findall(r"^```output\n(.*?)^```", (DOCS / "troubleshooting.md").read_text(), re.M | re.S)
        for line in block.splitlines()
    ]

    def test_has_messages(self):
        assert len(self.MESSAGES) > 20

    def test_every_message_is_in_the_source(self):
        texts = literals()
        missing = [message for message in self.MESSAGES if not self.is_in(message, texts)]
        assert missing == []

    def test_a_changed_message_is_noticed(self):
        texts = literals()
        assert self.is_in("The loss must be finite, got …", texts)
        assert not self.is_in("The loss should be finite, got …", texts)

    @staticmethod
    def is_in(message: str, texts: list[str]) -> bool:
        """Whether all parts of a message are in one literal, in this order."""
        parts = [part for part in re.split(" ?… ?", message) if part]
        assert len("".join(parts)) > 15, f"{message} says too little"
        pattern = re.compile(".*".join(map(re.escape, parts)), re.DOTALL)
        return any(pattern.search(text) for text in texts)


class TestPaperMap:
    CONFIGS = {
        "EDITConfig": "edit_trl",
        "SynthesisConfig": "edit_trl.synthesis",
        "EvaluationConfig": "edit_trl.evaluation",
        "GenerationSettings": "edit_trl.evaluation",
    }
    TEXT = (DOCS / "paper_map.md").read_text()

    @pytest.mark.parametrize("name", sorted(set(re.findall(r"`(edit_trl\.[\w.]+)(?:\(\))?`", TEXT))))
    def test_name_is_there(self, name):
        *parents, last = name.split(".")
        try:
            importlib.import_module(name)
        except ModuleNotFoundError:
            assert callable(getattr(importlib.import_module(".".join(parents)), last))

    @pytest.mark.parametrize(("owner", "place"), CONFIGS.items())
    def test_options_are_there(self, owner, place):
        config = getattr(importlib.import_module(place), owner)
        named = set(re.findall(rf"`{owner}\.(\w+)`", self.TEXT))
        assert named and named <= {field.name for field in fields(config)}


class TestPictures:
    def test_all_are_drawn(self):
        """All but the screenshot of a report."""
        assert {path.name for path in (DOCS / "images").iterdir()} == {*draw.PICTURES, "report.png"}

    @pytest.mark.parametrize("name", draw.PICTURES)
    def test_is_what_the_command_draws(self, name):
        assert (DOCS / "images" / name).read_text() == draw.PICTURES[name](), "run `make docs-images`"

    def test_marks_the_differences_of_the_pair(self):
        """The picture of the weights has the tokens in bold that one chain has and the other has not."""
        svg = ElementTree.fromstring(draw.draw_pair())
        bold = [node.text for node in svg.iter("{http://www.w3.org/2000/svg}text") if node.get("font-weight")]
        assert bold == ["do", "not", "0", "6", "5", "11", "6", "10", "11", "15", "10", "15"]

    def test_every_picture_of_a_page_has_a_text(self):
        shown = re.findall(r"!\[([^]]*)\]\(images/([\w.]+)\)", (DOCS / "concept.md").read_text())
        assert {name for _, name in shown} == set(draw.PICTURES)
        assert all(len(text) > 40 for text, _ in shown)
