"""Tests of the table of features: named tests exist, errors are raised, and the page of the docs is up to date."""

import ast
from functools import cache
from pathlib import Path

import pytest
from features import AREAS
from page import make_page
from test_supported_surface import build, dataset, options  # noqa: F401


TESTS = Path(__file__).parents[1]
FEATURES = [feature for features in AREAS.values() for feature in features]


@cache
def names_of_tests(file: str) -> set[str]:
    """Names of the tests of a file, those of a class with the name of the class."""
    names = set()
    for node in ast.parse((TESTS / file).read_text()).body:
        functions = [("", node)] if isinstance(node, ast.FunctionDef) else []
        if isinstance(node, ast.ClassDef):
            functions = [(f"{node.name}::", part) for part in node.body if isinstance(part, ast.FunctionDef)]
        names |= {f"{prefix}{function.name}" for prefix, function in functions if function.name.startswith("test_")}
    return names


class TestTable:
    @pytest.mark.parametrize("feature", FEATURES, ids=lambda feature: feature.name)
    def test_has_one_kind_of_evidence(self, feature):
        assert sum(map(bool, (feature.test, feature.error, feature.reason))) == 1
        assert bool(feature.error) == (feature.provoke is not None)
        assert len(feature.reason.split()) != 1

    @pytest.mark.parametrize("feature", [f for f in FEATURES if f.test], ids=lambda feature: feature.name)
    def test_named_test_exists(self, feature):
        file, _, name = feature.test.partition("::")
        assert name in names_of_tests(file)

    @pytest.mark.parametrize("feature", [f for f in FEATURES if f.error], ids=lambda feature: feature.name)
    def test_error_is_raised(self, feature, build):
        with pytest.raises((ValueError, TypeError)) as raised:
            feature.provoke(build)
        assert feature.error in str(raised.value)

    def test_no_name_is_there_twice(self):
        names = [feature.name for feature in FEATURES]
        assert len(names) == len(set(names)) > 50


class TestPage:
    def test_is_what_the_tables_say(self):
        page = TESTS.parent / "docs" / "compatibility.md"
        assert page.read_text() == make_page(), "the page is stale: `make docs-compat` writes it"
