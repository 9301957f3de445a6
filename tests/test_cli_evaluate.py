"""Tests of `edit-trl evaluate`: what it asks, scores and prints, and how it fails."""

import json
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from cli_fixtures import SIX_COTS, own_folder_fixture, read_only_line, teacher_fixture, write_questions  # noqa: F401
from datasets import Dataset
from dual_cot_teacher import asked, one_ssl_context, questions, time_limit  # noqa: F401
from teacher import Teacher

from edit_trl.cli import main


pytest.importorskip("openai")


class TestEvaluate:
    """A tiny model answers nothing right; the endpoint's teacher knows what it was taught."""

    def results(self, folder="scores"):
        return json.loads(Path(folder, "results.json").read_text())

    def test_local_model_is_scored(self, model_folder, capsys):
        flags = [
            "--dataset",
            "questions.jsonl",
            "--output_dir",
            "scores",
            "--max_new_tokens",
            "4",
            "--batch_size",
            "4",
        ]

        assert main(["evaluate", model_folder, *flags]) == 0

        out = capsys.readouterr().out
        assert [cell.strip() for cell in re.findall(r"^│ all (.*)│$", out, re.MULTILINE)[0].split("│")[1:3]] == [
            "6",
            "0.0%",
        ]
        results = self.results()
        assert results["num_questions"] == 6 and results["settings"]["max_new_tokens"] == 4
        assert len(Path("scores", "generations.jsonl").read_text().splitlines()) == 6
        assert out.splitlines()[-2:] == ["scores/generations.jsonl", "scores/results.json"]

    @pytest.mark.slow
    def test_killed_while_it_generates(self, model_folder, tmp_path):
        """The replies that are written are used again, and the result is that of a run that was not disturbed."""
        rows = [{"question": f"What is {number} + 1?", "answer": f"{number + 1}"} for number in range(40)]
        write_questions(rows, "forty.jsonl")
        command = [sys.executable, "-m", "edit_trl", "evaluate", model_folder, "--dataset", "forty.jsonl"]
        command += ["--max_new_tokens", "12", "--batch_size", "1", "--output_dir"]
        written = Path("killed", "generations.jsonl")
        process = subprocess.Popen([*command, "killed"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while process.poll() is None and not (written.exists() and written.read_bytes().count(b"\n") > 2):
            time.sleep(0.01)
        process.kill()
        process.wait()
        with written.open("a") as file:
            file.write('{"question": "What')  # as if the kill had come in the middle of a line
        num_written = len(written.read_text().splitlines()) - 1
        again = subprocess.run([*command, "killed"], check=True, capture_output=True, text=True, timeout=200)
        assert f"{num_written} used again" in again.stdout
        subprocess.run([*command, "undisturbed"], check=True, capture_output=True, timeout=200)
        runs = [sorted(Path(name, "generations.jsonl").read_text().splitlines()) for name in ("killed", "undisturbed")]
        assert runs[0] == runs[1] and len(runs[0]) == 40

    def test_served_model_is_scored_and_asked_once(self, teacher, capsys):
        """The teacher is wrong on three of six."""
        flags = ["--dataset", "questions.jsonl", "--output_dir", "scores", "--base_url", teacher.url]

        assert main(["evaluate", "teacher", *flags]) == 0
        assert self.results()["accuracy"] == 0.5
        assert re.search(r"^replies .*6/6", capsys.readouterr().err, re.MULTILINE)
        assert len(teacher.requests) == 6
        assert main(["evaluate", "teacher", *flags]) == 0
        assert len(teacher.requests) == 6
        assert {request["temperature"] for request in teacher.requests} == {0.0}

    def test_paths_vote(self, capsys):
        """Two of three paths are right; each is a request of its own."""
        texts = ["The answer is 5.", "The answer is 6.", "The answer is 5."]
        write_questions([{"question": "2 + 3?", "answer": "5"}], "one.jsonl")
        with Teacher(lambda request, number: texts[request["seed"] - 42]) as teacher:
            flags = ["--base_url", teacher.url, "--num_paths", "3", "--temperature", "0.7", "--top_p", "0.95"]
            assert main(["evaluate", "teacher", "--dataset", "one.jsonl", "--output_dir", "scores", *flags]) == 0

        results = self.results()
        assert (results["accuracy"], results["single_path_accuracy"]) == (1.0, pytest.approx(2 / 3))
        assert "Majority of 3 paths" in capsys.readouterr().out

    def test_two_students_are_compared(self, teacher, capsys):
        better = Teacher(lambda request, _: asked(request)[1].chosen)
        with better:
            for student, folder, more in ((teacher, "worse", []), (better, "better", ["--compare", "worse"])):
                flags = ["--dataset", "questions.jsonl", "--output_dir", folder, "--base_url", student.url]
                assert main(["evaluate", "teacher", *flags, *more]) == 0

        out = capsys.readouterr().out
        assert "Difference to the other student: +50.0% (" in out
        assert "McNemar's p 0.25, on 6 questions; right alone: 3 and 0." in out

    @pytest.mark.parametrize(
        ("flags", "message"),
        [
            ([], "`--dataset` or `--harness` is needed"),
            (["--dataset", "none.jsonl"], "`--dataset` must be a JSON, JSON Lines, CSV or Parquet file"),
            (
                ["--dataset", "odd.jsonl"],
                "`--dataset` must have the column `answer`, got ['question', 'answers']. Did you",
            ),
            (["--dataset", "empty.jsonl"], "must hold at least one question, got none"),
            (["--dataset", "questions.jsonl"], "must be a model or adapter in a folder or on the Hub, got 'nowhere'"),
            (["--dataset", "questions.jsonl", "--backend", "tgi"], "`--backend` must be 'transformers' or 'vllm'"),
            (["--dataset", "questions.jsonl", "--backend", "vllm"], "needs the `vllm` package"),
            (["--dataset", "questions.jsonl", "--base_url", "vllm"], "Pass `--backend vllm` to run the student."),
            (
                ["--dataset", "questions.jsonl", "--temperature", "-1"],
                "`temperature` must be positive or zero, got -1.0",
            ),
            (["--dataset", "questions.jsonl", "--top_p", "0"], "`top_p` must be above 0 and at most 1, got 0.0"),
            (["--dataset", "questions.jsonl", "--max_new_tokens", "0"], "`max_new_tokens` must be at least 1, got 0"),
            (
                ["--dataset", "questions.jsonl", "--dtype", "float99"],
                "name of a type of torch, such as 'bfloat16', got",
            ),
            (
                ["--dataset", "questions.jsonl", "--dtype", "nn"],
                "name of a type of torch, such as 'bfloat16', got 'nn'",
            ),
            (["--dataset", "questions.jsonl", "--leave_out", "x"], "`--leave_out` is about the benchmarks"),
            (["--dataset", "questions.jsonl", "--task_descriptions"], "`--task_descriptions` is about the benchmarks"),
            (["--dataset", "questions.jsonl", "--batch_size", "0"], "`batch_size` must be at least 1, got 0"),
            (["--dataset", "questions.jsonl", "--base_url", "http://127.0.0.1:9/v1"], "Cannot reach the endpoint"),
        ],
    )
    def test_what_cannot_work_is_one_line(self, flags, message, monkeypatch, capsys):
        monkeypatch.setitem(sys.modules, "vllm", None)
        write_questions([{"question": "Why?", "answers": "5"}], "odd.jsonl")
        Path("empty.jsonl").write_text("")

        assert main(["evaluate", "nowhere", *flags, "--output_dir", "scores"]) == 1

        line = read_only_line(capsys)
        assert line.startswith("edit-trl evaluate: ") and message in line

    @pytest.mark.parametrize(
        ("flags", "message"),
        [
            (["--harness", "gsm9k"], "`benchmarks` must be among bbh, agieval, arc_easy, arc_challenge, gsm8k"),
            (["--harness", "gsm8k", "--data_dir", "nowhere"], "needs the dataset 'nowhere/openai/gsm8k'"),
            (["--harness", "gsm8k", "--dataset", "questions.jsonl"], "`--dataset` or `--harness` is needed"),
        ],
    )
    def test_benchmarks_that_cannot_be_run_are_one_line(self, flags, message, model_folder, capsys):

        assert main(["evaluate", model_folder, *flags, "--output_dir", "scores"]) == 1

        assert message in capsys.readouterr().err.splitlines()[-1]

    def test_benchmarks_are_run_from_local_copies(self, model_folder, capsys):
        rows = [{"question": f"What is {i} + 1?", "answer": f"It is {i + 1}.\n#### {i + 1}"} for i in range(4)]
        Path("copies/openai/gsm8k/main").mkdir(parents=True)
        Dataset.from_list(rows).to_parquet("copies/openai/gsm8k/main/test.parquet")
        Path("copies/openai/gsm8k/README.md").write_text(
            "---\nconfigs:\n- config_name: main\n  data_files:\n  - split: test\n    path: main/test.parquet\n---\n"
        )
        write_questions([{"question": "What is 2 + 1?", "answer": "3"}], "train.jsonl")
        flags = ["--data_dir", "copies", "--leave_out", "train.jsonl", "--limit", "2", "--max_new_tokens", "4"]

        assert main(["evaluate", model_folder, "--harness", "gsm8k", *flags, "--output_dir", "scores"]) == 0

        results = self.results()
        assert list(results["tasks"]) == ["gsm8k"]
        assert (results["num_questions"], results["num_left_out"]) == (2, 1)
