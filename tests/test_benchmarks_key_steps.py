"""
Tests of `benchmarks/key_steps.py`: it runs to its end, and refuses arguments that cannot work.
"""

import json
import os
import subprocess
import sys

import key_steps
import pytest
from benchmark_pairs import RECORDS, small_tokenizers
from key_steps_rules import RULES


@pytest.mark.slow
class TestCommand:
    def test_run_to_the_end(self, tmp_path):
        folder = tmp_path / "mistakes"
        folder.mkdir()
        for task, record in RECORDS.items():
            lines = [record, {**record, "mistake_index": None}]
            (folder / f"{task}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
        small_tokenizers()["bpe"].save_pretrained(tmp_path / "tokenizer")
        arguments = ["--num_pairs", 17, "--levels", 1, 2, "--rates", 0.5, "--swaps", 1, "--num_resamples", 20]
        arguments += ["--tokenizers", f"mine={tmp_path / 'tokenizer'}", "--big_bench_mistake", folder]
        arguments += ["--num_processes", 2, "--json", tmp_path / "report.json"]

        process = subprocess.run(
            [sys.executable, key_steps.__file__, *map(str, arguments)],
            capture_output=True,
            text=True,
            encoding="utf-8",
            env={**os.environ, "PYTHONUTF8": "1", "HF_HUB_OFFLINE": "1"},
        )
        assert process.returncode == 0, process.stderr
        report = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))

        everything = [record for record in report["generated"] if record["group"] == "all"]
        names = ["mine", "bpe", "unigram", "words", "characters"]
        changes = ["as generated", "reworded 0.5", "swapped 1"]
        assert [(record["tokenizer"], record["variant"], record["rule"]) for record in everything] == [
            (name, change, rule) for name in names for change in changes for rule in RULES
        ]
        assert {record["num_pairs"] for record in everything} == {17}
        for record in everything:
            low, high = record["f1_interval"]
            assert 0 <= low <= record["f1"] <= high <= 1
        groups = {record["group"]: record["num_pairs"] for record in report["generated"]}
        assert groups["forgotten step"] + groups["other mistakes"] == 17
        assert groups["word_sorting"] == 2
        f1 = {(r["tokenizer"], r["variant"], r["rule"]): r["f1"] for r in everything}
        for name in names:
            assert f1[name, "as generated", "align"] > f1[name, "as generated", "random"]

        assert report["real_pairs"] == {task: {"rectified": 1, "no step is marked": 1} for task in RECORDS}
        assert [(record["tokenizer"], record["variant"], record["task"]) for record in report["real"]] == [
            (name, change, task)
            for name in names[:-1]
            for task in RECORDS
            for change in ("kept", "reworded 0.5")
            for _ in RULES
        ]
        kept = [record for record in report["real"] if record["variant"] == "kept" and record["rule"] == "align"]
        assert all(record["first"] == 1 and record["num_before"] == 0 for record in kept)
        assert "## mine: 17 pairs" in process.stdout
        assert "## Real mistakes, words, right chain reworded 0.5" in process.stdout
        assert str(tmp_path) not in json.dumps(report)

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["--num_pairs", "-1"], "`--num_pairs` must be positive or zero, got -1"),
            (["--tokenizers", "folder"], "must be name=path, got 'folder'"),
            (["--big_bench_mistake", "no/such/folder"], "`--big_bench_mistake` must be a folder"),
        ],
    )
    def test_unfit_arguments_are_refused(self, arguments, message, capsys):
        with pytest.raises(SystemExit):
            key_steps.main(arguments)
        assert message in capsys.readouterr().err
