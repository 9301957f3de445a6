"""
`benchmarks/preparation.py` with few pairs.
"""

import json

import preparation
import pytest
from conftest import build_tokenizer


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
