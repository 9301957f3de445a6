"""Tests of `--batch_requests` and `--batch_results`: rounds with a service that answers files."""

import json
import os
import re
from pathlib import Path

import pytest
from batch_service import answer, failure, requests_of, result, write
from cli_fixtures import command, own_folder_fixture, read_only_line, write_questions  # noqa: F401
from dual_cot_teacher import (  # noqa: F401
    RIGHT_COTS,
    WRONG_COTS,
    as_sent,
    asked,
    one_ssl_context,
    questions,
    steps_of,
    teach,
    teach_but,
    time_limit,
)
from teacher import Teacher, completion
from test_cli_mend import command as mend_command
from test_cli_mend import write_replies
from test_mending import COTS, mend_script

from edit_trl.cli import main


pytest.importorskip("openai")

RUN = [*WRONG_COTS[:4], *RIGHT_COTS[:2]]
# One is wrong again after rectifying; the replies to another are cut, refused and right.
REPLIES = {
    ("rectify", RUN[3].question): [RUN[3].rejected] * 3,
    ("extract", RUN[0].question): [
        completion("2 + 3", finish_reason="length"),
        completion(None, refusal="No."),
        completion(RUN[0].rejected),
    ],
}
FLAGS = ["--file_format", "jsonl", "--classify_mistakes", "--prompt_price", "1", "--completion_price", "2"]


class NoTeacher:
    url = "http://127.0.0.1:9/v1"


def written(folder):
    return {path.name: path.read_bytes() for path in Path(folder).iterdir() if path.suffix != ".sqlite"}


def rounds(run, script, most=20):
    """
    Write a file, let the service answer it, read the results while the next file is written, and so on, until there is
    no next file. Returns the bodies of the requests of each round.
    """
    sent, results = [], []
    for number in range(most):
        assert run("--batch_requests", f"round-{number}.jsonl", *results) == 0
        if not Path(f"round-{number}.jsonl").exists():
            return sent
        sent.append([request["body"] for request in requests_of(f"round-{number}.jsonl")])
        lines = answer(script, f"round-{number}.jsonl")
        results = ["--batch_results", write(lines[::2], f"a-{number}.jsonl"), write(lines[1::2], f"b-{number}.jsonl")]
    raise AssertionError("the rounds do not end")


class TestSynthesize:
    def test_files_are_those_of_an_endpoint(self, capsys, monkeypatch):
        """The dataset, byte by byte. Neither an endpoint nor a key nor `openai` is needed."""
        write_questions(questions(RUN))
        with Teacher(teach_but(REPLIES)) as teacher:
            assert main([*command(teacher, *FLAGS), "--output_dir", "whole"]) == 0
        monkeypatch.setitem(__import__("sys").modules, "openai", None)
        teacher.requests, sent = [], teacher.requests
        flags = [*command(teacher, *FLAGS), "--api_key_env", "NO_SUCH_KEY"]

        bodies = rounds(lambda *more: main([*flags, *more]), teach_but(REPLIES))

        assert [steps_of(round_) for round_ in bodies] == [
            {"extract": 6},
            {"extract": 1, "rectify": 3},
            {"extract": 1, "rectify": 1, "classify": 2},
            {"rectify": 2},
            {"classify": 1, "corrupt": 2},
            {"classify": 2},
        ]
        assert as_sent(sum(bodies, [])) == as_sent(sent)
        assert written("out") == written("whole")
        assert teacher.requests == []
        out = capsys.readouterr().out
        assert re.search(r"^6 requests to submit, about [\d,]+ tokens in:\nround-0\.jsonl\nKeep the files", out, re.M)
        assert "\n6 new replies, 0 requests refused, 0 to write again, 0 results read before, 0 of unknown" in out

    def test_errors_of_the_service_are_counted(self, capsys):
        """The one refused is an `endpoint_error` in the dataset; the one that expired is asked again."""
        write_questions(questions(RUN))
        run = lambda *more: main([*command(NoTeacher, "--file_format", "jsonl"), *more])  # noqa: E731
        assert run("--batch_requests", "1.jsonl") == 0
        requests = requests_of("1.jsonl")
        about = {asked(request["body"])[1].question: request for request in requests}
        refused, late = about[RUN[5].question], about[RUN[0].question]
        write([*answer(teach, "1.jsonl"), {"custom_id": "other", "response": None}], "results.jsonl")
        lines = [json.loads(line) for line in Path("results.jsonl").read_text().splitlines()]
        kept = [line for line in lines if line["custom_id"] not in (refused["custom_id"], late["custom_id"])]
        too_long = {"error": {"message": "the context is too long"}}
        errors = [result(refused, too_long, 400), failure(late, "batch_expired", "too late")]
        write([*kept, *errors], "results.jsonl")
        capsys.readouterr()

        assert run("--batch_results", "results.jsonl") == 0
        out = capsys.readouterr().out
        assert "4 new replies, 1 requests refused, 1 to write again, 0 results read before, 1 of unknown req" in out
        assert "\nRefused: 1 times the context is too long [status 400]\n" in out
        assert "\nTo write again: 1 times too late (batch_expired)\n" in out
        assert "\nOf no request of this store: 'other'\n" in out
        assert "\n4 requests have no reply yet. Write them with `--batch_requests FILE`, or" in out
        assert not Path("out/report.json").exists()

        rounds(run, teach)
        report = json.loads(Path("out/report.json").read_text())
        assert report["steps"]["extract"] == {"chains": 6, "kept": 5, "rejected": {"endpoint_error": 1}}
        assert report["usage"]["requests"] == 5 + 4 + 1
        assert "The service refused the request: the context is too long" in Path("out/rejected.jsonl").read_text()

    def test_ordinary_command_finds_all_replies_and_can_send_the_rest(self):
        write_questions(questions(RUN))
        with Teacher(teach) as teacher:
            run = lambda *more: main([*command(teacher), *more])  # noqa: E731
            assert run("--batch_requests", "1.jsonl") == 0
            write(answer(teach, "1.jsonl"), "results.jsonl")
            assert run("--batch_results", "results.jsonl") == 0
            assert teacher.requests == []
            assert run() == 0

        assert steps_of(teacher.requests) == {"rectify": 4, "corrupt": 2}

    def test_command_that_would_pay_twice_is_refused(self, capsys):
        write_questions(questions(RUN))
        with Teacher(teach) as teacher:
            assert main([*command(teacher), "--batch_requests", "1.jsonl"]) == 0
            capsys.readouterr()
            assert main(command(teacher)) == 1
            assert "(6 of '1.jsonl'), and would be paid for twice. Read the results of that" in capsys.readouterr().err
            assert main([*command(teacher), "--batch_requests", "1.jsonl"]) == 1
            assert "`--batch_requests` must be a new file, but '1.jsonl' exists." in read_only_line(capsys)
            assert main([*command(teacher), "--batch_requests", "2.jsonl"]) == 0
        assert "6 requests wait for their results: read those of 1.jsonl with `--batch" in capsys.readouterr().out
        assert not Path("2.jsonl").exists() and teacher.requests == []

    def test_torn_and_foreign_files_are_refused(self, capsys):
        write_questions(questions(RUN))
        run = lambda *more: main([*command(NoTeacher), *more])  # noqa: E731
        assert run("--batch_requests", "1.jsonl") == 0
        write(answer(teach, "1.jsonl"), "results.jsonl")
        size = os.path.getsize("results.jsonl")
        os.truncate("results.jsonl", size - 20)
        assert run("--batch_results", "results.jsonl", "--batch_requests", "2.jsonl") == 1
        err = capsys.readouterr().err
        assert "must be whole files of JSON Lines, but 1 lines cannot be read: results.jsonl, line 6. Their" in err
        assert not Path("2.jsonl").exists()

        write([{"custom_id": "other", "response": None}], "other.jsonl")
        assert run("--batch_results", "other.jsonl") == 1
        assert "none of 1 is. They belong to another store, or to other settings;" in capsys.readouterr().err
        assert run("--batch_results", "nowhere.jsonl") == 1
        assert "got 'nowhere.jsonl' (No such file or directory). Download" in capsys.readouterr().err

    def test_budget_holds(self, capsys):
        write_questions(questions(RUN))
        assert main([*command(NoTeacher, "--max_requests", "4"), "--batch_requests", "1.jsonl"]) == 0
        assert len(requests_of("1.jsonl")) == 4
        assert "Stopped: `max_requests=4` is reached. Run the same command with a larger" in capsys.readouterr().out

    def test_dry_run_writes_nothing(self):
        assert main([*command(NoTeacher, "--dry_run"), "--batch_requests", "1.jsonl"]) == 0
        assert sorted(os.listdir()) == ["questions.jsonl"]

    def test_shards_have_batches_of_their_own(self):
        """Two rounds of the shards, each of as many rounds of files as it takes; then merged without an endpoint."""
        write_questions(questions(RUN))
        with Teacher(teach) as teacher:
            assert main([*command(teacher, *FLAGS), "--output_dir", "whole"]) == 0
        bodies = []
        for _ in range(2):
            for number in (1, 2):
                run = lambda *more, n=number: main([*command(teacher, *FLAGS), "--shard", f"{n}/2", *more])  # noqa: E731
                bodies += sum(rounds(run, teach), [])
                for path in Path().glob("round-*.jsonl"):
                    path.unlink()
        assert main(command(teacher, *FLAGS)) == 0

        assert as_sent(bodies) == as_sent(teacher.requests)
        assert written("out") == written("whole")


class TestMend:
    def test_files_are_those_of_an_endpoint(self):
        write_replies(COTS)
        with Teacher(mend_script) as teacher:
            flags = [*mend_command(teacher), "--file_format", "jsonl"]
            assert main([*flags, "--output_dir", "whole"]) == 0
            num = len(teacher.requests)
            bodies = rounds(lambda *more: main([*flags, *more]), mend_script)

        assert as_sent(sum(bodies, [])) == as_sent(teacher.requests) and len(teacher.requests) == num
        assert written("out") == written("whole")

    def test_yaml_may_name_the_files(self):
        write_replies(COTS)
        flags = [*mend_command(NoTeacher), "--file_format", "jsonl"]
        assert main([*flags, "--batch_requests", "1.jsonl"]) == 0
        lines = answer(mend_script, "1.jsonl")
        names = [write(lines[:3], "a.jsonl"), write(lines[3:], "b.jsonl")]
        Path("flags.yaml").write_text(f"batch_results: {json.dumps(names)}\n")

        assert main([*flags, "--config", "flags.yaml"]) == 0
        assert json.loads(Path("out/report.json").read_text())["pairs"] == 6
