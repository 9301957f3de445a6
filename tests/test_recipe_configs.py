"""
Tests of `examples/configs`: each file goes through the parser of the recipe, and its values arrive.
"""

import re
import runpy
import sys
from pathlib import Path

import pytest
import yaml


ROOT = Path(__file__).parents[1]
RECIPE = str(ROOT / "edit_trl" / "scripts" / "train.py")
FILES = sorted((ROOT / "examples" / "configs").glob("*.yaml"))
PAPER = ROOT / "examples" / "configs" / "llama2_7b_paper.yaml"


@pytest.fixture(scope="module")
def recipe():
    return runpy.run_path(RECIPE)


@pytest.fixture
def parse(recipe, monkeypatch, tmp_path):
    """Parse flags as the recipe does. Returns the values of its three configs by name, and the config of stage 1."""

    def parse(*flags: str):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", [RECIPE, *flags])
        script_args, training_args, model_args = recipe["parse_arguments"]()
        stage_1 = recipe["stage_1_config"](script_args, training_args, "sft")
        return {**vars(script_args), **vars(training_args), **vars(model_args)}, stage_1

    return parse


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_values_arrive(path, parse):
    values = yaml.safe_load(path.read_text(encoding="utf-8"))
    found, stage_1 = parse("--config", str(path))
    # What the configs make of these two.
    read = {"report_to": {"none": []}, "lora_target_modules": {"['all-linear']": "all-linear"}}
    for name, value in values.items():  # with their types: YAML reads `5e-4` as a text, and `no` as false
        assert found[name] == read.get(name, {}).get(str(value), value), name
    assert stage_1.learning_rate == values["sft_learning_rate"]
    assert stage_1.num_train_epochs == values["sft_num_train_epochs"]
    assert stage_1.per_device_train_batch_size == values["per_device_train_batch_size"]
    assert stage_1.lr_scheduler_type == values["lr_scheduler_type"]


@pytest.mark.parametrize("path", [path for path in FILES if path.stem != "demo"], ids=lambda path: path.stem)
def test_comments_name_files_that_exist_and_what_was_not_run(path):
    text = path.read_text(encoding="utf-8")
    assert "not run here" in re.sub(r"\s+#? ?", " ", text).lower()
    named = re.findall(r"(?:examples|docs)/[\w./]+\w", text)
    assert f"examples/configs/{path.name}" in named
    for name in named:
        assert (ROOT / name).exists(), name


def test_demo_is_what_is_not_set_without_a_dataset(parse):
    demo = yaml.safe_load((ROOT / "examples" / "configs" / "demo.yaml").read_text(encoding="utf-8"))
    found, _ = parse("--lora_r", "4")
    assert found["lora_r"] == 4
    assert found["learning_rate"] == demo["learning_rate"]
    assert found["output_dir"] == "student"
    found, _ = parse("--dataset_name", "pairs.jsonl", "--output_dir", "other")
    assert found["learning_rate"] == 5e-6
    assert found["use_peft"] is False


def test_flags_win_over_a_file(parse):
    found, stage_1 = parse("--config", str(PAPER), "--learning_rate", "1e-6", "--sft_num_train_epochs", "1")
    assert found["learning_rate"] == 1e-6
    assert found["num_train_epochs"] == 10
    assert stage_1.num_train_epochs == 1


def test_paper_has_the_values_of_the_docs(parse):
    """The snippet in "Reproducing the paper" runs, and its two configs have the values of the file."""
    page = (ROOT / "docs" / "edit_trainer.md").read_text(encoding="utf-8")
    section = page[page.index("## Reproducing the paper") :]
    snippet: dict = {}
    exec(re.search(r"```python\n(.*?)```", section, re.DOTALL)[1], snippet)
    found, _ = parse("--config", str(PAPER))
    written = re.findall(r"^    (\w+)=", re.search(r"EDITConfig\((.*?)\n\)", section, re.DOTALL)[1], re.MULTILINE)
    assert len(written) > 8
    for name in set(written) - {"output_dir"}:
        assert found[name] == getattr(snippet["args"], name), name
    adapter = snippet["peft_config"]
    assert found["use_peft"]
    assert (found["lora_r"], found["lora_alpha"], found["lora_dropout"]) == (
        adapter.r,
        adapter.lora_alpha,
        adapter.lora_dropout,
    )
    assert set(found["lora_target_modules"]) == adapter.target_modules
    assert "`2e-4` for the first".replace("`", "") in section
    assert found["sft_learning_rate"] == 2e-4
    assert found["sft_num_train_epochs"] == 15


def test_every_value_of_the_paper_says_where_it_is_from():
    lines = [line for line in PAPER.read_text(encoding="utf-8").splitlines() if re.match(r"\w", line)]
    assert [line for line in lines if not re.search(r"  # (paper|authors\' code|ours)\b", line)] == []
