"""Tests of `--shard`: the parts, what a worker sends and writes, and the merge."""

import json
import os
import shutil
import signal
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from cli_fixtures import FILES, command, own_folder_fixture, read_only_line, write_questions  # noqa: F401
from dual_cot_teacher import (  # noqa: F401
    DUAL_COTS,
    RIGHT_COTS,
    WRONG_COTS,
    as_sent,
    one_ssl_context,
    questions,
    steps_of,
    teach,
    teach_but,
    time_limit,
)
from teacher import Response, Teacher, client_for, completion
from test_cli_mend import command as mend_command
from test_cli_mend import write_replies
from test_mending import COTS, mend_script

from edit_trl.cli import main
from edit_trl.synthesis import Shards


pytest.importorskip("openai")

# The teacher gets eight wrong, more than the three that the examples are drawn from, and four right.
COTS_OF_RUN = [RIGHT_COTS[0], *WRONG_COTS[:4], RIGHT_COTS[1], *WRONG_COTS[4:8], *RIGHT_COTS[2:4]]
NUM_REQUESTS = 12 + 8 + 4


def shard(teacher, name, *flags):
    return main(command(teacher, "--file_format", "jsonl", "--shard", name, *flags))


def run_all(teacher, total, *flags):
    """Each shard twice: in the second round, the corrupted chains."""
    for _ in range(2):
        for number in range(1, total + 1):
            assert shard(teacher, f"{number}/{total}", *flags) == 0


def written(folder="out"):
    return {path.name: path.read_bytes() for path in Path(folder).iterdir() if path.suffix != ".sqlite"}


@pytest.fixture
def teacher():
    write_questions(questions(COTS_OF_RUN))
    with Teacher(teach) as teacher:
        yield teacher


class TestPart:
    @pytest.mark.parametrize("total", [1, 2, 3, 5, 7])
    def test_parts_are_disjoint_complete_and_of_one_size(self, total):
        items = [f"question {i}" for i in range(5)]
        parts = [Shards("out/r.sqlite", f"{number}/{total}").part(items, str) for number in range(1, total + 1)]

        assert sorted(sum(parts, [])) == items
        assert max(map(len, parts)) - min(map(len, parts)) <= 1

    def test_same_question_is_in_one_part(self):
        parts = [Shards("out/r.sqlite", f"{number}/2").part("abacbd", str) for number in (1, 2)]
        assert parts == [["a", "a", "c"], ["b", "b", "d"]]

    def test_run_without_a_shard_has_all(self):
        assert Shards("out/r.sqlite").part("abc", str) == ["a", "b", "c"]

    @pytest.mark.parametrize("name", ["0/4", "5/4", "1/0", "2", "1:4", "-1/4", "a/b", ""])
    def test_other_names_are_refused(self, name):
        with pytest.raises(
            ValueError, match="must be a number and how many shards there are, from '1/4' to '4/4', got"
        ):
            Shards("out/r.sqlite", name)


class TestMerge:
    @pytest.mark.parametrize("total", [1, 3])
    def test_files_are_those_of_a_run_without_shards(self, teacher, total, capsys):
        flags = ["--classify_mistakes", "--prompt_price", "1", "--completion_price", "2"]
        assert main(command(teacher, "--file_format", "jsonl", *flags, output_dir="whole")) == 0
        alone = as_sent(teacher.requests)
        teacher.requests.clear()

        run_all(teacher, total, *flags)
        assert os.listdir("out") == ["replies.shards"]
        assert as_sent(teacher.requests) == alone
        capsys.readouterr()
        assert main(command(teacher, "--file_format", "jsonl", *flags)) == 0

        assert as_sent(teacher.requests) == alone
        assert written() == written("whole")
        assert "drawn" not in json.dumps(json.loads(Path("out/report.json").read_text())["notes"])
        assert sorted(os.listdir("out")) == sorted(os.listdir("whole"))
        usage = json.loads(Path("out/report.json").read_text())["usage"]
        assert usage["requests"] == usage["replies"] == len(alone) == NUM_REQUESTS + 12

    def test_merged_run_is_an_ordinary_run(self, teacher):
        """It may be started again, have more questions, and be shared again: no reply is paid twice."""
        run_all(teacher, 2)
        assert main(command(teacher)) == 0
        assert main(command(teacher)) == 0
        assert len(teacher.requests) == NUM_REQUESTS
        write_questions(questions([*COTS_OF_RUN, RIGHT_COTS[5]]))

        run_all(teacher, 3)
        assert main(command(teacher)) == 0

        assert len(teacher.requests) == len(set(as_sent(teacher.requests))) == NUM_REQUESTS + 2
        assert json.loads(Path("out/report.json").read_text())["usage"]["requests"] == NUM_REQUESTS + 2

    def test_same_examples_are_drawn_when_the_last_shard_has_no_more_to_wait_for(self, teacher, capsys):
        """The last worker of the first round has the rectified pairs of all others, and goes on at once."""
        for name, waits_for in (("2/3", "1/3, 3/3"), ("1/3", "3/3"), ("3/3", None)):
            assert shard(teacher, name) == 0
            out = capsys.readouterr().out
            waits = f"Waits: the first two steps of other shards are not finished: {waits_for}. Run the same command"
            assert (waits in out) == (waits_for is not None)
            assert ("`--shard 3/3` is finished. Not finished: 1/3, 2/3." in out) == (waits_for is None)
        num_corrupt = steps_of(teacher.requests)["corrupt"]
        assert 0 < num_corrupt < 4

        for name in ("1/3", "2/3"):
            assert shard(teacher, name) == 0
        assert "is finished. So are all others: run the command without it." in capsys.readouterr().out
        assert len(teacher.requests) == NUM_REQUESTS

    def test_shards_without_a_question_are_finished_at_once(self, teacher, capsys):
        write_questions(questions(COTS_OF_RUN[:2]))
        run_all(teacher, 4)
        assert "Questions: 0, read as" in capsys.readouterr().out

        assert main(command(teacher)) == 0
        assert len(teacher.requests) == 4

    def test_without_examples_nobody_waits(self, teacher, capsys):
        assert shard(teacher, "1/2", "--num_examples", "0") == 0
        assert "`--shard 1/2` is finished. Not finished: 2/2." in capsys.readouterr().out

    def test_merged_dataset_alone_is_pushed(self, teacher, monkeypatch):
        pushed = []
        monkeypatch.setattr("edit_trl.cli.teacher.push_to_hub", lambda config, _: pushed.append(config) or "url")
        run_all(teacher, 2, "--push_to_hub")
        assert pushed == []

        assert main(command(teacher, "--push_to_hub")) == 0
        assert len(pushed) == 1

    def test_folder_that_was_removed_in_part_is_no_missing_shard(self, teacher):
        """The merge was killed while it removed the folder: it has another name by then."""
        run_all(teacher, 2)
        shutil.copytree("out/replies.shards", "out/replies.merged")
        os.remove("out/replies.merged/1-of-2.json")

        assert main(command(teacher, "--file_format", "jsonl")) == 0
        assert sorted(os.listdir("out")) == sorted(name.replace("parquet", "jsonl") for name in FILES)


class TestStops:
    def test_dry_run_counts_the_part_and_makes_nothing(self, teacher, capsys):
        assert shard(teacher, "1/3", "--dry_run") == 0
        assert "Questions: 4, read as" in capsys.readouterr().out
        write_questions(questions(COTS_OF_RUN[:2]))
        assert shard(teacher, "3/3", "--dry_run") == 0

        assert "Questions: 0, read as" in capsys.readouterr().out
        assert not Path("out").exists() and teacher.requests == []

    def test_budget_and_a_dead_endpoint_stop_one_shard(self, capsys):
        """It goes on with a larger budget. The others do not draw examples before it has."""
        write_questions(questions(COTS_OF_RUN))
        with Teacher(teach) as teacher:
            assert shard(teacher, "1/2", "--max_requests", "3") == 0
            assert "Run the same command with a larger limit to continue." in capsys.readouterr().out
            assert shard(teacher, "2/2") == 0
            assert "Waits: the first two steps of other shards are not finished: 1/2." in capsys.readouterr().out
            assert main(command(teacher)) == 1
            assert "these are not finished: 1/2, 2/2. Run this command with `--shard 1/2`" in capsys.readouterr().err
            run_all(teacher, 2)
            assert main(command(teacher)) == 0
        assert len(teacher.requests) == len(set(as_sent(teacher.requests))) == NUM_REQUESTS

    def test_shard_that_ended_in_the_middle_is_not_finished(self, teacher, capsys):
        """As after a kill: its replies are there, and it asks for the others alone."""
        broken = teach_but({("rectify", COTS_OF_RUN[1].question): [Response({"error": {"message": "no"}}, 401)]})
        teacher.script = broken
        assert shard(teacher, "2/2") == 1
        num = len(teacher.requests)
        assert num >= 6
        capsys.readouterr()
        assert main(command(teacher)) == 1
        assert "these are missing: 1/2. Run this command with `--shard 1/2`, then" in read_only_line(capsys)

        run_all(teacher, 2)
        assert main(command(teacher)) == 0
        assert len(set(as_sent(teacher.requests))) == NUM_REQUESTS
        assert len(teacher.requests) <= NUM_REQUESTS + 4  # those in flight

    @pytest.mark.slow
    @pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
    def test_workers_at_once_of_which_one_is_killed(self):
        """The endpoint kills the first worker at the 5th request, and the merge is that of a run without shards."""
        write_questions(questions(COTS_OF_RUN))
        processes = []

        def script(request, number):
            if number == 5:
                processes[0].kill()
            return Response(completion(teach(request, number)), delay=0.01)

        code = "import sys; from edit_trl.cli import main; sys.exit(main())"
        with Teacher(script) as teacher:
            arguments = [sys.executable, "-c", code, *command(teacher, "--max_concurrency", "2"), "--shard"]
            for number in (1, 2):
                processes.append(subprocess.Popen([*arguments, f"{number}/2"], stdout=subprocess.DEVNULL))
            assert [process.wait(timeout=60) for process in processes] == [-signal.SIGKILL, 0]
            run_all(teacher, 2)
            assert main(command(teacher, "--file_format", "jsonl")) == 0
            sent = as_sent(teacher.requests)
            assert main(command(teacher, "--file_format", "jsonl", output_dir="whole")) == 0

        assert len(set(sent)) == NUM_REQUESTS and len(sent) <= NUM_REQUESTS + 2  # those in flight
        for name in ("dual_cots.jsonl", "sft.jsonl", "rejected.jsonl"):
            assert Path("out", name).read_bytes() == Path("whole", name).read_bytes()

    @pytest.mark.parametrize(
        ("flags", "message"),
        [
            (["--temperature", "0.9"], "shard 1/2 has `temperature` 0.2, here 0.9"),
            (["--num_examples", "2"], "shard 1/2 has `num_examples` 3, here 2"),
            (["--limit", "6"], "shard 1/2 has `questions` '"),
            (["--max_tokens", "64"], "shard 1/2 has `max_tokens` 2048, here 64"),
        ],
    )
    def test_other_settings_and_questions_are_refused(self, teacher, capsys, flags, message):
        assert shard(teacher, "1/2") == 0
        num = len(teacher.requests)
        for name in ("--shard=2/2", "--shard=none"):
            capsys.readouterr()
            assert main(command(teacher, name, *flags)) == 1
            assert message in read_only_line(capsys)
        assert len(teacher.requests) == num

    def test_other_settings_may_begin_anew_with_the_replies_that_are_there(self, teacher):
        assert shard(teacher, "1/2") == 0
        for path in Path("out/replies.shards").glob("*.json"):
            path.unlink()

        run_all(teacher, 2, "--min_similarity", "0.1")
        assert main(command(teacher, "--min_similarity", "0.1")) == 0
        assert len(teacher.requests) == NUM_REQUESTS

    def test_another_number_of_shards_is_refused(self, teacher, capsys):
        assert shard(teacher, "1/2") == 0
        capsys.readouterr()

        assert shard(teacher, "3/3") == 1
        assert "must be of the same number, got shards of 2 and of 3. Finish and merge" in read_only_line(capsys)

    def test_shard_that_runs_is_refused(self, teacher, capsys):
        run_all(teacher, 2)
        capsys.readouterr()
        with closing(client_for(teacher, store="out/replies.shards/2-of-2.sqlite")):
            assert shard(teacher, "2/2") == 1
            assert "must not be in use, but another run works with" in read_only_line(capsys)
            assert main(command(teacher)) == 1
            assert "2-of-2.sqlite' must be a store of replies that no run has open" in read_only_line(capsys)
            assert Path("out/replies.shards/1-of-2.json").exists()
        assert main(command(teacher)) == 0

    def test_replies_of_an_earlier_run_are_used(self, teacher):
        """`--limit 4` to try it, then all questions in shards."""
        assert main(command(teacher, "--limit", "4")) == 0  # draws the examples of one contrastive prompt
        num = len(teacher.requests)
        run_all(teacher, 3)
        assert main(command(teacher)) == 0

        assert len(set(as_sent(teacher.requests))) == len(teacher.requests) == NUM_REQUESTS
        assert 0 < num < NUM_REQUESTS


class TestMend:
    def test_files_are_those_of_a_run_without_shards(self, capsys):
        write_replies(COTS)
        with Teacher(mend_script) as teacher:
            assert main([*mend_command(teacher), "--file_format", "jsonl", "--output_dir", "whole"]) == 0
            alone = as_sent(teacher.requests)
            teacher.requests.clear()
            for number in (1, 2, 3, 4):
                assert main([*mend_command(teacher), "--file_format", "jsonl", "--shard", f"{number}/4"]) == 0
                assert f"`--shard {number}/4` is finished." in capsys.readouterr().out
            assert main([*mend_command(teacher), "--file_format", "jsonl"]) == 0

        assert as_sent(teacher.requests) == alone
        assert written() == written("whole")
        assert b"right_share" in written()["dual_cots.jsonl"]

    def test_dry_run_counts_the_part(self, capsys):
        write_replies(COTS)
        with Teacher(mend_script) as teacher:
            assert main([*mend_command(teacher), "--dry_run", "--shard", "1/4"]) == 0
        assert capsys.readouterr().out.startswith("2 requests, ")
