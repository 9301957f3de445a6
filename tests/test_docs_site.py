"""
Tests of the pages that the site is made of. `make docs` builds it; the tests need no builder.
"""

import importlib
import inspect
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest


ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def tools() -> Iterator[tuple]:
    """The modules `prepare` and `google_style`."""
    sys.path.insert(0, str(ROOT / "docs" / "tools"))
    yield importlib.import_module("prepare"), importlib.import_module("google_style")
    sys.path.pop(0)


@pytest.fixture(scope="module")
def pages(tools, tmp_path_factory) -> Path:
    """Folder with the pages."""
    folder = tmp_path_factory.mktemp("site") / "docs"
    tools[0].Pages(folder).write()
    return folder


def without_code(text: str) -> str:
    """What is left of a page without its code, which may have brackets and signs of headings."""
    return re.sub(r"^(`{3,5}).*?^\1", "", text, flags=re.DOTALL | re.MULTILINE)


def anchors(page: Path) -> set[str]:
    """Anchors of a page's headings, as repositories make them."""
    headings = re.findall(r"^#+ (.*)$", without_code(page.read_text()), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_every_link_leads_to_a_page_and_its_heading(pages):
    num_links = 0
    for page in pages.rglob("*.md"):
        for target, anchor in re.findall(r"\]\(([^)\s#]*)(?:#([^)\s]*))?\)", without_code(page.read_text())):
            if ":" in target:
                continue
            place = (page.parent / target if target else page).resolve()
            where = f"{page.relative_to(pages)}: {target}#{anchor}"
            assert place.is_file() and place.is_relative_to(pages), where
            assert not anchor or anchor in anchors(place), where
            num_links += 1
    assert num_links > 100


def test_files_outside_of_the_docs_are_pages(pages):
    script = (pages / "repository/examples/train.py.md").read_text()
    assert (ROOT / "examples/train.py").read_text() in script
    assert "exclude: true" in script  # the search would find each word of it
    assert "[cpu.yaml](cpu.yaml.md)" in (pages / "repository/examples/accelerate_configs/index.md").read_text()
    assert "../examples/train.py" not in without_code((pages / "quickstart.md").read_text())
    # Data files and notebooks are named and not linked.
    assert "notebook (`examples/notebooks/quickstart.ipynb`)" in " ".join(
        (pages / "quickstart.md").read_text().split()
    )
    assert "records (`benchmarks/reproduce_small.jsonl`)" in " ".join((pages / "results.md").read_text().split())


def test_no_code_has_an_escaped_pipe(pages):
    """Repositories show `a\\|b` in a table without its backslash, and the site shows it as it is."""
    for page in pages.rglob("*.md"):
        found = re.findall(r"`[^`\n]*\\\|[^`\n]*`", without_code(page.read_text()))
        assert not found, f"{page.relative_to(pages)}: {found[0]}"


def test_the_navigation_names_every_page(tools, pages):
    def places(entries: list[dict]) -> Iterator[str]:
        for entry in entries:
            for value in entry.values():
                yield from places(value) if isinstance(value, list) else [value]

    settings = tomllib.loads((ROOT / "zensical.toml").read_text())["project"]
    named = list(places(settings["nav"]))
    assert len(named) == len(set(named))
    assert {page.name for page in pages.glob("*.md")} | {f"api/{page.name}" for page in pages.glob("api/*.md")} <= {
        *named
    }
    assert all((pages / name).is_file() for name in named)
    assert all((pages / name).is_file() for name in settings["extra_css"])


def test_the_reference_has_the_public_names(tools, pages):
    prepare, _ = tools
    for module in prepare.API:
        imported = importlib.import_module(module)
        names = prepare.public_names(module)
        assert names == getattr(imported, "__all__", names)
        page = (pages / f"api/{module}.md").read_text()
        for name in names:
            assert f"\n::: {module}.{name}\n" in page
            assert inspect.getdoc(getattr(imported, name)), f"{module}.{name}"


def test_docstrings_in_the_form_of_trl_become_those_of_google(tools):
    _, google_style = tools
    before = """\
Say something, as [`EDITTrainer`] does and [`~trl.SFTConfig`] allows.

Parameters:
    > Parameters that control it

    text (`str` or [`~transformers.Trainer`], *optional*, defaults to `"a (b)"`):
        A [link](https://example.com).
    first, second (`torch.Tensor` of shape `(B, 2)`):
        Tensors.

> [!NOTE]
> Two
> lines.

Returns:
    `dict[str, Any]`: Names: and values."""
    after = """\
Say something, as [`EDITTrainer`][edit_trl.EDITTrainer] does and `SFTConfig` allows.

Parameters:
    text (str | Trainer):
        A [link](https://example.com).
    first, second (torch.Tensor of shape (B, 2)):
        Tensors.

Note:
    Two
    lines.

Returns:
    dict[str, Any]: Names: and values."""
    assert google_style.to_google(before) == after
