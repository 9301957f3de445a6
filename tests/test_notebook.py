"""
Tests of the notebook of `examples/notebooks`: it runs, with a tiny student in place of the named one, and the outputs
that it is committed with come from its cells.
"""

import ast
import json
import re
import shutil
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient


ROOT = Path(__file__).parents[1]
PLACE = Path("examples", "notebooks", "quickstart.ipynb")
PAIRS = Path("examples", "data", "qwen_dual_cots", "dual_cots.jsonl")


def read(path: Path) -> nbformat.NotebookNode:
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    return notebook


@pytest.fixture(scope="module")
def committed() -> nbformat.NotebookNode:
    return read(ROOT / PLACE)


@pytest.fixture
def clone(tmp_path, monkeypatch, model_folder) -> Path:
    """The part of a clone that the notebook reads, and an environment without internet, with a tiny student."""
    for place in (PLACE, PAIRS):
        (tmp_path / "clone" / place).parent.mkdir(parents=True)
        shutil.copy(ROOT / place, tmp_path / "clone" / place)
    for name, value in {
        "EDIT_TRL_STUDENT": model_folder,
        "HF_DATASETS_CACHE": str(tmp_path / "cache"),
        "IPYTHONDIR": str(tmp_path / "ipython"),
        "JUPYTER_RUNTIME_DIR": str(tmp_path / "runtime"),
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(ROOT),
    }.items():
        monkeypatch.setenv(name, value)
    return tmp_path / "clone"


def code_cells(notebook: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def shown(notebook: nbformat.NotebookNode, kind: str) -> list[str]:
    """Outputs of a type, such as `text/html`, in their order."""
    return [
        output.data[kind]
        for cell in code_cells(notebook)
        for output in cell.outputs
        if output.output_type in ("display_data", "execute_result") and kind in output.data
    ]


def kinds(notebook: nbformat.NotebookNode) -> list[list[tuple]]:
    """For each cell, what kinds of outputs it has, without warnings."""
    return [
        [
            (output.output_type, *sorted(output.get("data", ())))
            for output in cell.outputs
            if output.get("name") != "stderr"
        ]
        for cell in code_cells(notebook)
    ]


@pytest.mark.slow
@pytest.mark.parametrize("folder", [".", PLACE.parent], ids=["in the repository", "in its folder"])
def test_it_runs_with_a_tiny_student(clone, folder, committed):
    notebook = read(clone / PLACE)
    for cell in code_cells(notebook):
        cell.outputs, cell.execution_count = [], None

    NotebookClient(
        notebook,
        timeout=300,
        kernel_name="python3",
        resources={"metadata": {"path": str(clone / folder)}},
        coalesce_streams=True,
    ).execute()

    assert [cell.execution_count for cell in code_cells(notebook)] == list(range(1, len(code_cells(notebook)) + 1))
    assert kinds(notebook) == kinds(committed)
    pages = shown(notebook, "text/html")
    assert any("<mark" in page and "22 + 7 gives" in re.sub("<[^>]*>", "", page) for page in pages)
    assert any("edits; key tokens" in page and "data:image/svg+xml;base64" in page for page in pages)
    # 128 pairs in batches of 4 are 32 steps, with a line in the logs for every fourth.
    (logs,) = [text for text in shown(notebook, "text/plain") if "edit/key_margin" in text]
    rows = [line.split() for line in logs.splitlines()[2:]]
    assert [int(row[0]) for row in rows] == list(range(4, 33, 4))
    assert all(float(row[1]) > 0 for row in rows)
    text = "".join(output.text for cell in code_cells(notebook) for output in cell.outputs if "text" in output)
    assert "32 steps, mean loss " in text


class TestCommitted:
    def test_every_cell_was_run_once_and_in_order(self, committed):
        cells = code_cells(committed)
        assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
        for cell in cells:
            counts = {output.execution_count for output in cell.outputs if output.output_type == "execute_result"}
            assert counts <= {cell.execution_count}

    def test_outputs_are_results_only(self, committed):
        """No errors and no warnings."""
        for cell in code_cells(committed):
            for output in cell.outputs:
                assert output.output_type != "error" and output.get("name") != "stderr", output
        assert "widgets" not in committed.metadata

    def test_nothing_names_a_machine(self, committed):
        text = json.dumps(committed)
        assert not re.findall(r"(?<![\w.])/(?:home|root|Users|work|tmp|mnt|opt|usr|var)\b[^\"]*", text)
        assert str(ROOT) not in text and str(Path.home()) not in text
        assert len(text) < 150_000

    def test_shows_a_row_of_the_pairs(self, committed):
        rows = [json.loads(line) for line in (ROOT / PAIRS).read_text().splitlines()]
        (row,) = [ast.literal_eval(text) for text in shown(committed, "text/plain") if text.startswith("{'prompt'")]
        assert row in [{name: pair[name] for name in ("prompt", "chosen", "rejected")} for pair in rows]
        (page,) = [page for page in shown(committed, "text/html") if "<mark" in page]
        for text in row.values():
            assert text.strip() in re.sub("<[^>]*>", "", page.replace("<br>", "\n"))

    def test_is_readable_without_styles(self, committed):
        """Pages of repositories remove styles, scripts and `svg` elements, and show marks, tables and images."""
        for page in shown(committed, "text/html"):
            assert "<script" not in page and "<svg" not in page
            assert re.search("<table|<img", page)

    def test_links_lead_somewhere(self, committed):
        text = "\n".join(cell.source for cell in committed.cells if cell.cell_type == "markdown")
        links = re.findall(r"\]\(([^)#:]+)", text)
        assert len(links) > 5
        for link in links:
            assert (ROOT / PLACE).parent.joinpath(link).is_file(), link

    def test_says_what_the_readme_says_of_results(self, committed):
        text, readme = (
            " ".join(text.split())
            for text in (
                "\n".join(cell.source for cell in committed.cells if cell.cell_type == "markdown"),
                (ROOT / "README.md").read_text(),
            )
        )
        for pattern in (r"\*\*Does it help\?\*\* [^.]*[.;]", r"What the package is good for: [^.]*\."):
            assert re.search(pattern, readme)[0].rstrip(".;") in text
