"""Tests of `edit-trl mend`: what it reads, sends, writes and prints."""

import json
import os
from pathlib import Path

import pytest
from cli_fixtures import own_folder_fixture, read_only_line, rows_of, write_questions  # noqa: F401
from dual_cot_teacher import one_ssl_context  # noqa: F401
from teacher import (
    Teacher,
    time_limit,  # noqa: F401
)
from test_mending import COTS, mend_script, reply

from edit_trl.cli import main


pytest.importorskip("openai")


@pytest.fixture
def teacher():
    with Teacher(mend_script) as teacher:
        yield teacher


def write_replies(cots=COTS, path="evaluation/generations.jsonl"):
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    rows = [reply(cot, text, sample=i) for cot in cots for i, text in enumerate((cot.chosen, cot.rejected))]
    Path(path).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def is_mending(request):
    return request["messages"][-1]["content"].splitlines()[-1].startswith("Response: ")


def command(teacher, *flags, replies=("evaluation",)):
    endpoint = ["--model", "teacher", "--base_url", teacher.url, "--api_key_env", "none"]
    return ["mend", "--replies", *replies, *endpoint, "--output_dir", "out", *flags]


class TestMend:
    def test_folder_of_an_evaluation_becomes_a_dataset(self, teacher, capsys):
        write_replies()

        assert main(command(teacher)) == 0

        assert sorted(os.listdir("out")) == [
            *("README.md", "dual_cots.parquet", "rejected.parquet", "replies.sqlite", "report.json", "sft.parquet")
        ]
        pairs = {(row["chosen"], row["rejected"]) for row in rows_of("out/dual_cots.parquet")}
        assert pairs == {(f" {cot.chosen}", f" {cot.rejected}") for cot in COTS}
        out = capsys.readouterr().out
        assert "12 replies to 6 questions: 6 right, 6 wrong, 0 wrong ones repeated, 0 unusable\n" in out
        assert "mend: 6 of 6 kept\n" in out
        assert "6 pairs. 6 requests, 120 tokens in, 60 tokens out\n" in out

    def test_dataset_of_a_synthesis_is_kept(self, teacher, capsys):
        """And that of a mending by a synthesis. Both may be the default of a script."""
        write_replies()
        teacher.script = lambda request, number: mend_script(request, number) if is_mending(request) else "?"
        questions = write_questions([{"question": cot.question, "answer": cot.answer} for cot in COTS], "q.jsonl")
        endpoint = [
            "--model",
            "teacher",
            "--base_url",
            teacher.url,
            "--api_key_env",
            "none",
            "--store",
            "other.sqlite",
        ]
        synthesize = ["synthesize", "--questions", questions, *endpoint, "--output_dir", "out"]
        mend = command(teacher, "--store", "own.sqlite")
        for first, second in ((mend, synthesize), (synthesize, mend)):
            main([*first, "--overwrite"])
            before = {path.name: path.read_bytes() for path in Path("out").iterdir()}
            number = len(teacher.requests)
            capsys.readouterr()

            assert main(second) == 1

            assert "'dual_cots.parquet' in `output_dir` must be a new file" in read_only_line(capsys)
            assert {path.name: path.read_bytes() for path in Path("out").iterdir()} == before
            assert len(teacher.requests) == number
            main(first)  # its own are replaced

    @pytest.mark.parametrize("place", ["out", "out/new/folder"])
    def test_file_in_the_place_of_the_folder_is_refused_before_any_request(self, place, teacher, capsys):
        write_replies()
        questions = write_questions([{"question": COTS[0].question, "answer": COTS[0].answer}], "q.jsonl")
        Path("out").write_text("mine")
        endpoint = ["--model", "teacher", "--base_url", teacher.url, "--api_key_env", "none", "--store", "own.sqlite"]
        for begin in (["mend", "--replies", "evaluation"], ["synthesize", "--questions", questions]):
            assert main([*begin, *endpoint, "--output_dir", place]) == 1
            message = f"`output_dir` must be a folder that can be written to, got '{place}'. Pass another folder."
            assert message in read_only_line(capsys)

        assert teacher.requests == [] and Path("out").read_text() == "mine" and not Path("own.sqlite").exists()

    def test_rounds_are_files_of_one_command(self, teacher):
        first, second = write_replies(COTS[:4], "one.jsonl"), write_replies(COTS[2:], "two.jsonl")

        assert main(command(teacher, replies=[first])) == 0
        assert len(teacher.requests) == 4
        assert main(command(teacher, replies=[first, second])) == 0

        assert len(teacher.requests) == 6
        assert len(rows_of("out/dual_cots.parquet")) == 6

    def test_mix_has_chains_of_stage_1(self, teacher, capsys):
        write_replies()
        chains = [{"prompt": f"Q: {i}?\nA:", "completion": f" {i}."} for i in range(4)]
        Path("sft.jsonl").write_text("".join(json.dumps(row) + "\n" for row in chains))

        assert main(command(teacher, "--replay", "sft.jsonl", "--replay_share", "0.25")) == 0

        mix = rows_of("out/mix.parquet")
        assert sum(row["completion"] is not None for row in mix) == 2
        assert "Mix: 6 pairs and 2 chains of stage 1.\n" in capsys.readouterr().out

    def test_dry_run_sends_nothing(self, teacher, capsys):
        write_replies()

        assert main(command(teacher, "--dry_run", "--prompt_price", "1", "--completion_price", "1")) == 0

        assert teacher.requests == []
        assert not Path("out").exists()
        out = capsys.readouterr().out
        assert out.startswith("6 requests, ") and "18 requests, " in out and ", cost " in out

    def test_file_of_flags_may_list_the_rounds(self, teacher):
        names = [write_replies(COTS[:3], "one.jsonl"), write_replies(COTS[3:], "two.jsonl")]
        Path("mend.yaml").write_text(
            f"replies: {json.dumps(names)}\nmodel: teacher\nbase_url: {teacher.url}\napi_key_env: none\n"
            "output_dir: out\nsometimes_right: true\n"
        )

        assert main(["mend", "--config", "mend.yaml"]) == 0
        assert len(rows_of("out/dual_cots.parquet")) == 6

    def test_prompts_are_those_that_the_student_saw(self, teacher):
        """A description of the task may be that of the evaluation, or of a question."""
        write_replies(COTS[:2])
        Path("evaluation/settings.json").write_text(json.dumps({"chat": False, "task_description": "Add up."}))
        lines = Path("evaluation/generations.jsonl").read_text().splitlines()
        own = [json.dumps({**json.loads(line), "task_description": "Count."}) for line in lines[2:]]
        Path("evaluation/generations.jsonl").write_text("\n".join([*lines[:2], *own]) + "\n")

        assert main(command(teacher)) == 0

        assert [row["prompt"] for row in rows_of("out/dual_cots.parquet")] == [
            f"{text}\nQ: {cot.question}\nA:" for text, cot in zip(("Add up.", "Count."), COTS, strict=False)
        ]

    def test_replies_to_chat_prompts_are_refused(self, teacher, capsys):
        write_replies()
        Path("evaluation/settings.json").write_text(json.dumps({"chat": True, "task_description": ""}))

        assert main(command(teacher)) == 1
        assert "must be replies to plain-text prompts, but those of 'evaluation' were made" in read_only_line(capsys)
        assert teacher.requests == []

    def test_replies_and_model_are_needed(self, capsys):
        assert main(["mend", "--model", "teacher"]) == 1
        assert read_only_line(capsys) == (
            "edit-trl mend: `--replies` is needed, on the command line or in the file of `--config`."
        )

    def test_file_of_questions_is_no_file_of_replies(self, teacher, capsys):
        assert main(command(teacher, replies=["questions.jsonl"])) == 1
        assert "row 0 (from 0) has no `text`" in read_only_line(capsys)
        assert not Path("out", "dual_cots.parquet").exists()
