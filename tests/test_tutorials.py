"""
Tests that the tutorials run as they are written: their files are saved, and their commands run in order in a folder
with the `examples` of the repository. Only the student, the teacher's URL and sizes are others.
"""

import json
import os
import re
import runpy
import shlex
import subprocess
import sys
from pathlib import Path

import dual_cot_teacher
import pytest
import torch
from conftest import build_model
from datasets import load_dataset
from dual_cot_teacher import teach
from safetensors.torch import load_file
from teacher import (
    Teacher,
    time_limit,  # noqa: F401
)

from edit_trl.cli import main
from edit_trl.tasks import generate_dual_cots


pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
WALKS = re.split(r"^## ", (ROOT / "docs" / "tutorials.md").read_text(), flags=re.MULTILINE)[1:]
STUDENT = "HuggingFaceTB/SmolLM2-135M-Instruct"


class Walk:
    """
    A section of the page.

    `sizes` are texts of the section and what to put in their places; `flags` are added to a command of this name.
    """

    def __init__(self, title: str, model_folder: str, sizes: dict[str, str], flags: dict[str, str]) -> None:
        (text,) = [walk for walk in WALKS if walk.startswith(title)]
        for before, after in {STUDENT: model_folder, **sizes}.items():
            assert before in text, f"{title}: {before} is not there"
            text = text.replace(before, after)
        self.text, self.flags = text, flags
        blocks = re.findall(r"^```(\w+)\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)
        self.files = [code for language, code in blocks if language in ("python", "yaml")]
        lines = [code.replace("\\\n", " ").splitlines() for language, code in blocks if language == "bash"]
        self.commands = [shlex.split(line) for line in sum(lines, [])]

    def save(self) -> None:
        """Save the files under the names in their first lines. All of them are run or read by a command."""
        Path("examples").symlink_to(ROOT / "examples")
        for code in self.files:
            name = re.match(r"# (\w+\.(?:py|yaml))\n", code)
            assert name, f"a file without a name: {code[:80]}"
            assert any(name[1] in command for command in self.commands), name[1]
            Path(name[1]).write_text(code)

    def run(self, environment: dict[str, str] = {}) -> None:  # noqa: B006
        """Run the commands, in this process, because it has loaded torch. Those that push get an environment."""
        for words in self.commands:
            tool, *arguments = words
            if tool == "hf" or "--push_to_hub" in words:
                prefix = [sys.executable, "-m", "edit_trl"] if tool != "hf" else [Path(sys.executable).with_name("hf")]
                options = {"env": {**os.environ, **environment}, "capture_output": True, "text": True}
                done = subprocess.run([*prefix, *arguments], **options)
                assert done.returncode == 0, done.stderr
            elif tool == "python":
                run_script(*arguments)
            else:
                assert tool == "edit-trl", words
                assert run_command([*arguments, *self.flags.get(arguments[0], "").split()]) == 0, words


def run_command(arguments: list[str]) -> int | str | None:
    try:
        return main(arguments)
    except SystemExit as end:  # `edit-trl train` ends its process
        return end.code


def run_script(name: str, *arguments: str) -> None:
    before = sys.argv
    sys.argv = [name, *arguments]
    try:
        runpy.run_path(name, run_name="__main__")
    finally:
        sys.argv = before


@pytest.fixture(autouse=True)
def own_folder(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))  # as `python` does for a script
    monkeypatch.setattr(sys, "argv", sys.argv)
    monkeypatch.setenv("COLUMNS", "200")
    yield
    sys.modules.pop("bus", None)


SHORT = {"train": "--max_steps 2 --sft_max_steps 2 --per_device_train_batch_size 2", "evaluate": "--max_new_tokens 4"}


def test_page_has_three_walks():
    assert len(WALKS) == 3


def test_from_questions_to_a_pushed_student(model_folder, loopback_hub, monkeypatch):
    pytest.importorskip("openai")
    cots = generate_dual_cots(16, tasks=["multistep_arithmetic", "object_counting"], level=1, seed=1)
    monkeypatch.setattr(dual_cot_teacher, "BY_QUESTION", {cot.question: cot for cot in cots})
    monkeypatch.setattr(dual_cot_teacher, "WRONG", {cot.question for cot in cots[::2]})
    sizes = {"360": "16", "[:300]": "[:12]", "[300:]": "[12:]", "--limit 20": "--limit 4"}
    with Teacher(teach) as teacher:
        walk = Walk("From a CSV", model_folder, {**sizes, "http://localhost:8000/v1": teacher.url}, SHORT)
        walk.save()
        walk.run(loopback_hub.environment)

    assert loopback_hub.files["somebody/dual_cots"].keys() >= {"README.md", "report.html", "dual_cots.parquet"}
    student = loopback_hub.files["somebody/csv_student"]
    assert student.keys() >= {"README.md", "adapter_model.safetensors", "sft/adapter_model.safetensors"}
    assert not [name for name in student if "training_args" in name]
    assert len(load_dataset("parquet", data_files="dual_cots/dual_cots.parquet", split="train")) == 12


def test_from_preferences(model_folder, capsys):
    sizes = {"generate_dual_cots(120": "generate_dual_cots(4", "train_batch_size=4": "train_batch_size=2"}
    walk = Walk("From a preference dataset", model_folder, sizes, SHORT)
    walk.save()
    walk.run()

    shown = capsys.readouterr().out
    # What the teacher's rejects are left out for, with the student of the page. Its tokens are others here, so pairs
    # near the limit of similarity may be on its other side.
    assert "27 `only_answer_differs`" in walk.text
    problems = [json.loads(line)["problems"] for line in Path("dual.rejected.jsonl").read_text().splitlines()]
    assert sum("only_answer_differs" in names for names in problems) == 27
    assert any("not_dual" in names for names in problems)
    # As the page says: with `edit` the script trains the student of `edit-trl train`; the other arms are others.
    run_script("second_stage.py", "edit")
    folders = ("pairs_student", "pairs_edit", "pairs_dpo", "pairs_student/control", "pairs_student/sft")
    students = [load_file(f"{folder}/adapter_model.safetensors") for folder in folders]
    is_same = [all(torch.equal(student[name], students[0][name]) for name in students[0]) for student in students]
    assert is_same == [True, True, False, False, False]
    for name in re.findall(r"`(edit/\w+)`", walk.text):
        assert f"'{name}'" in shown, name


def wrong_reply(chain: str) -> str:
    """A chain of the solver with a mistake in its last step."""
    result = re.search(r"(\d+)\.$", chain)[1]
    return chain.replace(f" {result}.", f" {int(result) + 1}.")


def train_to_reply(folder: str, texts: list[str], tokenizer) -> None:
    """Save a student that knows these texts by heart, so that its samples are near them."""
    batch = tokenizer(texts, return_tensors="pt", padding=True)
    labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
    model = build_model(hidden_size=64, intermediate_size=128, initializer_range=0.02)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    for _ in range(150):
        optimizer.zero_grad()
        model(**batch, labels=labels).loss.backward()
        optimizer.step()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def test_own_domain_with_a_solver(tokenizer, tmp_path):
    sizes = {"range(500)": "range(30)", "max_steps 60": "max_steps 2"}
    sizes |= {"rows[:60]": "rows[:4]", "rows[60:160]": "rows[4:12]", "rows[160:]": "rows[12:]"}
    student = str(tmp_path / "bus-llama")
    walk = Walk("Your own domain", student, sizes, {"train": "--sft_max_steps 2"})
    walk.save()
    run_script("bus.py")
    solve = runpy.run_path("bus.py")["solve"]
    questions = [json.loads(line)["question"] for line in Path("bus_asked.jsonl").read_text().splitlines()]
    mistakes = {f"Q: {text}\nA:": (f" {solve(text)}", f" {wrong_reply(solve(text))}") for text in questions}
    train_to_reply(student, [f"{prompt}{wrong}<|im_end|>" for prompt, (_, wrong) in mistakes.items()], tokenizer)
    walk.run()

    pairs = load_dataset("parquet", data_files="bus_mistakes/dual_cots.parquet", split="train")
    assert set(pairs["origin"]) == {"student"}
    assert [pair for pair in pairs if (pair["chosen"], pair["rejected"]) == mistakes[pair["prompt"]]]
    mix = load_dataset("parquet", data_files="bus_mistakes/mix.parquet", split="train")
    assert len(mix) == 2 * len(pairs) and list(mix["completion"]).count(None) == len(pairs)
    assert Path("bus_round_1/adapter_model.safetensors").exists()
