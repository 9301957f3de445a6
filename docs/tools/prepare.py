"""
Prepare the pages of the site: `python docs/tools/prepare.py build/docs`.

The pages of `docs/` are copied. What they link to outside of it, such as scripts and configs, becomes pages of the
site under `repository/`, so that every link works on the site and in the repository. Large data files and notebooks
are named and not linked. Pages of the API reference, under `api/`, name the public objects; mkdocstrings reads their
docstrings.

Needs the standard library only.
"""

import ast
import os
import re
import shutil
import sys
from pathlib import Path


ROOT = Path(__file__).parents[2]

# Modules of the API reference. Their public names are those of `__all__`, or what they define.
API = (
    "edit_trl",
    "edit_trl.synthesis",
    "edit_trl.inspection",
    "edit_trl.evaluation",
    "edit_trl.chat",
    "edit_trl.answers",
    "edit_trl.tasks",
    "edit_trl.data_utils",
    "edit_trl.key_steps",
    "edit_trl.checkpoints",
    "edit_trl.hub",
    "edit_trl.model_card",
)
# Pages outside of `docs/` that the navigation names.
OTHER_PAGES = ("CHANGELOG.md", "CONTRIBUTING.md", "benchmarks/README.md")

_LANGUAGES = {"": "text", ".sbatch": "bash", ".sh": "bash", ".yml": "yaml", ".py": "python", ".txt": "text"}
_DATA = (".ipynb", ".jsonl", ".parquet")
_LINK = re.compile(r"(!?)\[((?:[^][]|\[[^]]*\])*)\]\(([^)\s#]*)(#[^)\s]*)?\)")


class Pages:
    """
    The pages of the site, written as they are linked to.

    Args:
        target (`Path`):
            Folder to write them to. It is replaced.
    """

    def __init__(self, target: Path) -> None:
        self.target = target
        self.waiting: list[Path] = []
        self.done: set[Path] = set()

    def write(self) -> None:
        """Write all pages."""
        shutil.rmtree(self.target, ignore_errors=True)
        self.waiting += sorted((ROOT / "docs").glob("*.md")) + [ROOT / name for name in OTHER_PAGES]
        while self.waiting:
            source = self.waiting.pop()
            if source not in self.done:
                self.done.add(source)
                self._write_page(source)
        shutil.copy(Path(__file__).with_name("site.css"), self.target)
        for module in API:
            self._put(f"api/{module}.md", api_page(module))

    def _write_page(self, source: Path) -> None:
        place = page_place(source)
        if source.suffix == ".md":
            self._put(place, self._with_links(source, place))
        elif source.is_dir():
            files = [file for file in sorted(source.iterdir()) if is_linked(file) and not file.name.startswith("_")]
            links = "\n".join(f"- [{file.name}]({self._link(file, place)})" for file in files)
            self._put(place, f"# {source.relative_to(ROOT)}\n\n{links}\n", is_found=False)
        elif source.suffix == ".svg":
            (self.target / place).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, self.target / place)
        else:
            language = _LANGUAGES.get(source.suffix, source.suffix.removeprefix("."))
            code = source.read_text(encoding="utf-8")
            self._put(place, f"# {source.relative_to(ROOT)}\n\n`````{language}\n{code}`````\n", is_found=False)

    def _put(self, place: str, content: str, is_found: bool = True) -> None:
        """Write a page. The search leaves out pages that are not to be found."""
        path = self.target / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(("" if is_found else "---\nsearch:\n  exclude: true\n---\n\n") + content, encoding="utf-8")

    def _with_links(self, source: Path, place: str) -> str:
        """Text of a page, with links to where the files are on the site."""

        def replace(match: re.Match[str]) -> str:
            is_image, text, link, anchor = match.groups()
            file = Path(os.path.normpath(source.parent / link))
            if not link or ":" in link or not file.exists():
                return match[0]
            if not is_linked(file):
                return text if text.startswith("`") else f"{text} (`{file.relative_to(ROOT)}`)"
            return f"{is_image}[{text}]({self._link(file, place)}{anchor or ''})"

        # Every second part is a code block.
        parts = re.split(r"(^```.*?^```)", source.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
        return "".join(part if number % 2 else _LINK.sub(replace, part) for number, part in enumerate(parts))

    def _link(self, file: Path, place: str) -> str:
        """Link from a page to the page of a file, which will be written too."""
        if file.is_dir() and (file / "README.md").exists():  # as a repository shows a folder
            file = file / "README.md"
        self.waiting.append(file)
        return os.path.relpath(page_place(file), os.path.dirname(place) or ".")


def is_linked(file: Path) -> bool:
    """Tell whether the site has a page of a file: all but data files and notebooks."""
    return file.suffix not in _DATA


def page_place(source: Path) -> str:
    """Place of a file of the repository among the pages."""
    if source.is_relative_to(ROOT / "docs"):
        return str(source.relative_to(ROOT / "docs"))
    # A site does not serve names that begin with a dot.
    place = f"repository/{source.relative_to(ROOT)}".replace("/.", "/")
    if source.is_dir():
        return f"{place}/index.md"
    return place if source.suffix in (".md", ".svg") else f"{place}.md"


def public_names(module: str) -> list[str]:
    """Names of a module for users, in the order of the reference."""
    path = ROOT.joinpath(*module.split("."))
    body = ast.parse((path / "__init__.py" if path.is_dir() else path.with_suffix(".py")).read_text("utf-8")).body
    for node in body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return ast.literal_eval(node.value)
    kinds = (ast.FunctionDef, ast.ClassDef)
    return [node.name for node in body if isinstance(node, kinds) and not node.name.startswith("_")]


def api_page(module: str) -> str:
    """Page of the API reference of a module."""
    objects = "\n".join(f"::: {module}.{name}\n" for name in public_names(module))
    options = "options: {members: false, show_root_heading: false, show_root_toc_entry: false}"
    return f"# {module}\n\n::: {module}\n    {options}\n\n{objects}"


if __name__ == "__main__":
    Pages(Path(sys.argv[1])).write()
