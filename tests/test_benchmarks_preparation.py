"""
`benchmarks/preparation.py` with few pairs, and `benchmarks/step_profile.py` with few steps.
"""

import json

import preparation
import pytest
import step_profile
from conftest import build_tokenizer

from edit_trl import EDITTrainer


def test_all_steps_are_measured(tmp_path, capsys):
    build_tokenizer().save_pretrained(tmp_path / "tokenizer")
    options = ["--model", str(tmp_path / "tokenizer"), "--pairs", "20", "--processes", "1", "2"]
    preparation.main([*options, "--json", str(tmp_path / "report.json")])
    steps = json.loads((tmp_path / "report.json").read_text())["steps"]
    assert [step["pairs"] for step in steps] == [20] * 7
    assert min(step["seconds"] for step in steps) > 0
    output = capsys.readouterr().out
    assert [line.split("|")[1].strip() for line in output.splitlines()[4:]] == [step["step"] for step in steps]


def test_pairs_have_different_prompts_and_are_all_written(tmp_path):
    preparation.write_pairs(tmp_path / "pairs.jsonl", 2010)
    pairs = [json.loads(line) for line in (tmp_path / "pairs.jsonl").read_text().splitlines()]
    assert len({pair["prompt"] for pair in pairs}) == 2010
    assert len({(pair["chosen"], pair["rejected"]) for pair in pairs}) > 1000
    assert all(pair["chosen"] != pair["rejected"] for pair in pairs)


def test_wrong_numbers_are_explained(capsys):
    with pytest.raises(SystemExit):
        preparation.main(["--model", "x", "--pairs", "0"])
    assert "must be at least 1" in capsys.readouterr().err


@pytest.mark.filterwarnings("ignore:`gradient_checkpointing` is deprecated:FutureWarning")
def test_parts_of_a_step(capsys):
    train = EDITTrainer.train
    step_profile.main("--steps 3 --vocab_size 300 --chain 40 --prompt 10 --pairs 2 --device cpu".split())
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")][2:]
    milliseconds = {}
    for line in lines:
        part, time, _ = (cell.strip(" ·") for cell in line.strip("|").split("|"))
        milliseconds[part] = float(time.replace(",", ""))
    assert list(milliseconds) == [part for part, *_ in step_profile.PARTS]
    assert min(milliseconds.values()) >= 0
    inner = [part for part, _, _, level in step_profile.PARTS if level == 2]
    assert 0 < sum(milliseconds[part] for part in inner) <= milliseconds["loss and metrics"] + 0.1
    assert milliseconds["loss and metrics"] < milliseconds["training step"]
    assert EDITTrainer.train is train and not hasattr(EDITTrainer.training_step, "__wrapped__")
