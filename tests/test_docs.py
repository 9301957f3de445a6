"""Tests that every Python snippet of the README and the docs runs, with a tiny student instead of the named one."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from teacher import Teacher


ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def snippets(page: Path) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", page.read_text(), flags=re.DOTALL | re.MULTILINE)


# Snippets of the tutorials are files for their commands. `test_tutorials.py` runs both.
PAGES_WITH_SNIPPETS = [page for page in PAGES if page.name != "tutorials.md" and snippets(page)]


def answer(request: dict, number: int) -> str:
    """A teacher for the question of the docs."""
    asked = request["messages"][-1]["content"]
    if "Category" in asked:
        return "17 + 25 is not 43.\nCategory: c"
    total = 43 if "Right response:" in asked else 42
    return f"17 + 25: 7 + 5 = 12 and 10 + 20 = 30, so {total}. Therefore, the answer is {total}."


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES_WITH_SNIPPETS, ids=lambda page: page.name)
def test_snippets_run(page, tmp_path, model_folder, pairs, loopback_hub):
    code = "\n".join(snippets(page)).replace("HuggingFaceTB/SmolLM2-135M-Instruct", model_folder)
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    (tmp_path / "dual_cots.jsonl").write_text("\n".join(json.dumps(pair) for pair in pairs))
    environment = {**os.environ, **(loopback_hub.environment if "push_to_hub" in code else {}), "OMP_NUM_THREADS": "1"}
    with Teacher(answer) as teacher:
        code = code.replace("http://localhost:8000/v1", teacher.url)
        (tmp_path / "snippets.py").write_text(code)
        completed = subprocess.run(
            [sys.executable, "snippets.py"], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300
        )
    assert completed.returncode == 0, completed.stderr[-3000:]
    # What a comment behind or below a `print` shows is what is printed.
    printed = completed.stdout
    for line in code.splitlines():
        if match := re.match(r"(?:print\(.*\)  )?# (\[\(.*|\[.*\]|\d\S*)$", line):
            assert match[1] in printed, f"{match[1]} is not in {printed}"


def test_relative_links_lead_somewhere():
    for page in [*PAGES, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"]:
        for target in re.findall(r"\]\(([^)#:]+?)(?:#[^)]*)?\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_folder_of_scores_is_used_for_one_run():
    """A folder with the scores of another student or other settings is refused, so one is not named for two."""
    runs: dict[str, set[tuple[str, ...]]] = {}
    for page in PAGES:
        for block in re.findall(r"^```bash\n(.*?)^```", page.read_text(), flags=re.DOTALL | re.MULTILINE):
            for line in block.replace("\\\n", " ").splitlines():
                words = shlex.split(line, comments=True)
                if words[:2] == ["edit-trl", "evaluate"] and "--output_dir" in words:
                    if "--compare" in words:
                        place = words.index("--compare")
                        del words[place : place + 2]
                    folder = words[words.index("--output_dir") + 1]
                    runs.setdefault(folder, set()).add(tuple(words))
    assert {"scores", "scores_sft"} <= set(runs)
    assert {folder: found for folder, found in runs.items() if len(found) > 1} == {}


def test_commands_of_the_readme_are_targets_of_the_makefile():
    makefile = (ROOT / "Makefile").read_text()
    commands = re.findall(r"^make (\w+)", (ROOT / "README.md").read_text(), flags=re.MULTILINE)
    assert {"demo", "test"} <= set(commands)
    for command in commands:
        assert re.search(rf"^{command}:", makefile, flags=re.MULTILINE), command


@pytest.mark.parametrize("page", [*PAGES, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"], ids=lambda page: page.name)
def test_lines_end_at_119(page):
    """But for tables and code, which cannot be broken."""
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    assert [line for line in text.splitlines() if len(line) > 119 and not line.lstrip().startswith("|")] == []
