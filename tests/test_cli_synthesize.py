"""Tests of `edit-trl synthesize`: what it sends, writes and prints, and how it stops and continues."""

import json
import math
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from cli_fixtures import (  # noqa: F401
    FILES,
    capsys_err_last,
    command,
    own_folder_fixture,
    read_only_line,
    rows_of,
    teacher_fixture,
    write_questions,
)
from dual_cot_teacher import (  # noqa: F401
    DUAL_COTS,
    as_sent,
    asked,
    one_ssl_context,
    questions,
    refuse,
    steps_of,
    teach,
    teach_but,
    time_limit,
)
from teacher import Response, Teacher, completion

from edit_trl.cli import main


pytest.importorskip("openai")


class TestSynthesize:
    def test_files_are_written_and_named(self, teacher, capsys):
        assert main(command(teacher)) == 0

        assert sorted(os.listdir("out")) == FILES
        out = capsys.readouterr().out.splitlines()
        names = ("dual_cots.parquet", "sft.parquet", "rejected.parquet", "report.json", "README.md")
        assert out[-5:] == [str(Path("out", name)) for name in names]
        assert len(rows_of("out/dual_cots.parquet")) == len(rows_of("out/sft.parquet")) == 6
        assert steps_of(teacher.requests) == {"extract": 6, "rectify": 3, "corrupt": 3}

    def test_progress_in_a_file_is_a_line_now_and_then(self, capsys, monkeypatch):
        monkeypatch.setattr("edit_trl.cli.progress.SECONDS_PER_LINE", 0.0)
        with Teacher(teach) as teacher:
            assert main(command(teacher)) == 0
        lines = [line for line in capsys.readouterr().err.splitlines() if "/6: " in line or "/3: " in line]
        assert len(lines) == 6 + 3 + 3
        assert re.fullmatch(r"extract 6/6: 6 kept, [\d.]+ replies/s", lines[5])

    def test_report_goes_to_standard_output_and_progress_to_standard_error(self, capsys):
        """One of 3 chains cannot be mended, in 3 attempts: 6 + 2 + 3 + 3 requests, of 20 and 10 tokens each."""
        cot = DUAL_COTS[0]
        with Teacher(teach_but({("rectify", cot.question): [cot.rejected] * 3})) as teacher:
            assert main(command(teacher, "--prompt_price", "1000", "--completion_price", "500")) == 0

        out, err = capsys.readouterr()
        cells = [re.findall(r"[^│┃\s][^│┃]*?(?=\s*[│┃])", line) for line in out.splitlines() if "│" in line]
        assert cells == [
            ["extract", "6", "6", "-"],
            ["rectify", "3", "2", "1 still_wrong"],
            ["corrupt", "3", "3", "-"],
        ]
        assert out.split("\n")[0].strip() == "5 pairs"
        assert "\n14 requests, 280 tokens in, 140 tokens out, cost 0.35\n" in out  # 0.28 + 0.07
        assert "\nNote: 2 rectified questions are too few to draw 3 examples" in out
        assert re.search(r"^Key words: \d+\.\d% of the chains .* Similarity: 0\.\d\d\.$", out, re.MULTILINE), out
        for step, counts in (("extract", "6/6"), ("rectify", "3/3"), ("corrupt", "3/3")):
            assert re.search(rf"^{step} .*{counts}", err, re.MULTILINE)
            assert counts not in out
        assert "2 kept, 1 still_wrong" in err
        assert "replies/s, cost 0.35" in err

    def test_same_command_again_asks_nothing(self, teacher, capsys):
        assert main(command(teacher)) == 0
        before = {name: Path("out", name).read_bytes() for name in FILES if name != "replies.sqlite"}
        assert main(command(teacher)) == 0

        assert len(teacher.requests) == 12
        assert {name: Path("out", name).read_bytes() for name in before} == before

    def test_store_may_be_elsewhere(self, teacher):
        assert main(command(teacher, "--store", "kept/here/replies.db", "--limit", "2")) == 0

        assert Path("kept/here/replies.db").is_file()
        assert sorted(os.listdir("out")) == [name for name in FILES if name != "replies.sqlite"]

    def test_options_reach_the_requests_and_the_dataset(self, teacher):
        flags = (
            "--temperature 0.7 --top_p 0.9 --max_tokens none --seed 3 --num_samples 2 --file_format parquet".split()
        )
        extra = ["--extra_body", '{"chat_template_kwargs": {"enable_thinking": false}}']

        assert main(command(teacher, *flags, *extra, "--limit", "1", "--num_examples", "0")) == 0

        first, second = (request for request in teacher.requests if asked(request)[0] == "extract")
        assert len(first.pop("messages")) == 1
        assert first == {
            "model": "teacher",
            "temperature": 0.7,
            "top_p": 0.9,
            "seed": 3,
            "chat_template_kwargs": {"enable_thinking": False},
        }
        assert second["seed"] == 4
        assert "dual_cots.parquet" in os.listdir("out")

    def test_kinds_of_mistakes_are_asked_for_by_a_bare_flag(self, teacher, capsys):
        assert main(command(teacher, "--classify_mistakes", "--limit", "4")) == 0

        kinds = [row["mistake_kinds"] for row in rows_of("out/dual_cots.parquet")]
        assert sorted(kinds) == sorted([cot.mistake_kind] for cot in DUAL_COTS[:4])
        assert re.search(r"^classify .*4/4", capsys.readouterr().err, re.MULTILINE)

    def test_dataset_is_pushed_on_demand(self, teacher, capsys, monkeypatch):
        pushed = []
        url = "https://huggingface.co/datasets/lab/cots"
        monkeypatch.setattr("edit_trl.cli.teacher.push_to_hub", lambda config, _: pushed.append(config) or url)

        assert main(command(teacher, "--limit", "2", "--push_to_hub", "--hub_dataset_id", "lab/cots")) == 0

        assert [config.hub_dataset_id for config in pushed] == ["lab/cots"]
        assert capsys.readouterr().out.endswith(f"\nPushed to {url}\n")

    @pytest.mark.slow
    def test_real_push_has_nothing_private(self, tmp_path, loopback_hub):
        """Through the Hub's own client: the dataset, its card, and a page of `edit-trl inspect` beside it."""
        model = tmp_path / "models" / "teacher"
        model.mkdir(parents=True)
        environment = {**os.environ, **loopback_hub.environment}
        with Teacher(teach) as teacher:
            arguments = command(teacher, questions=str(tmp_path / "questions.jsonl"), output_dir=str(tmp_path / "out"))
            arguments[arguments.index("teacher")] = str(model)
            inspect = [
                "inspect",
                str(tmp_path / "out" / "dual_cots.parquet"),
                "--html",
                str(tmp_path / "out/report.html"),
            ]
            push = ["--push_to_hub", "--hub_dataset_id", "somebody/cots"]
            for line in (arguments, inspect, [*arguments, *push]):
                done = subprocess.run(
                    [sys.executable, "-m", "edit_trl", *line], env=environment, capture_output=True, text=True
                )
                assert done.returncode == 0, done.stderr
            num_requests = len(teacher.requests)
        assert num_requests == 12  # the second run asks nothing
        datasets = ("dual_cots.parquet", "rejected.parquet", "sft.parquet")
        assert loopback_hub.files["somebody/cots"].keys() == {"README.md", "report.html", "report.json", *datasets}
        report = json.loads(loopback_hub.files["somebody/cots"]["report.json"])
        assert (report["teacher"], report["base_url"]) == ("teacher", "private")
        loopback_hub.assert_nothing_private(tmp_path)

    def test_failed_push_is_one_line_after_the_report(self, teacher, capsys, monkeypatch):
        """Whatever the HTTP library raises: it is none of Python's own."""

        class ConnectError(Exception):
            pass

        def fail(config, more_files):
            raise ConnectError("[Errno 111]\nConnection refused")

        monkeypatch.setattr("edit_trl.cli.teacher.push_to_hub", fail)

        assert main(command(teacher, "--limit", "2", "--push_to_hub")) == 1

        out, last = capsys_err_last(capsys)
        assert out.endswith(f"{Path('out', 'README.md')}\n")
        assert last == (
            "edit-trl synthesize: The files are written, but could not be pushed to the Hub: [Errno 111] Connection "
            "refused. Run the same command to push them; no request is sent to the teacher again."
        )
        assert sorted(os.listdir("out")) == FILES

    def test_key_is_in_no_file_and_not_printed(self, capfd, monkeypatch, own_folder):
        """Also not if the endpoint repeats it."""
        key = "sk-loopback-0123456789"
        monkeypatch.setenv("TEACHER_KEY", key)
        script = teach_but({("extract", DUAL_COTS[0].question): [refuse(f"no, {key}")]})
        with Teacher(script) as teacher:
            assert main(command(teacher, "--api_key_env", "TEACHER_KEY", "--limit", "4")) == 0
            assert main(command(teacher, "--api_key_env", "TEACHER_KEY", "--dry_run")) == 0

        assert {headers["authorization"] for headers in teacher.headers} == {f"Bearer {key}"}
        assert [row["reject_reason"] for row in rows_of("out/rejected.parquet")] == ["endpoint_error"]
        out, err = capfd.readouterr()
        texts = [out.encode(), err.encode(), *(path.read_bytes() for path in own_folder.rglob("*") if path.is_file())]
        assert len(texts) > 8
        assert not any(key.encode() in text for text in texts)


class TestStops:
    def test_larger_budget_goes_on(self, teacher, capsys):
        for limit, num_pairs in ((5, 0), (8, 2), (12, 6)):
            assert main(command(teacher, "--max_requests", str(limit))) == 0

            assert len(teacher.requests) == limit
            out = capsys.readouterr().out
            advice = "Run the same command with a larger limit to continue."
            stopped = f"Stopped: `max_requests={limit}` is reached. {advice}\n"
            assert (stopped in out) == (limit < 12)
            assert len(rows_of("out/dual_cots.parquet")) == num_pairs
        assert len(set(as_sent(teacher.requests))) == 12

    @pytest.fixture
    def interruptible(self):
        """Python leaves the signal alone where it is ignored, as in a shell's background."""
        before = signal.signal(signal.SIGINT, signal.default_int_handler)
        yield
        signal.signal(signal.SIGINT, before)

    @pytest.mark.skipif(not hasattr(signal, "pthread_kill"), reason="needs signals")
    def test_interrupted_run_says_how_to_go_on(self, capsys, interruptible):
        """As by Ctrl-C while the 20th request is open; at most 4 are."""
        write_questions(questions())
        main_thread = threading.get_ident()

        def script(request, number):
            if number == 19:
                signal.pthread_kill(main_thread, signal.SIGINT)
            return Response(completion(teach(request, number)), delay=0.02)

        with Teacher(script) as teacher:
            assert main(command(teacher, "--max_concurrency", "4")) == 130
            _, last = capsys_err_last(capsys)
            assert last == "Interrupted. All replies so far are kept. Run the same command to continue."
            assert os.listdir("out") == ["replies.sqlite"]
            num_sent = len(teacher.requests)
            assert num_sent < 32
            assert main(command(teacher, "--max_concurrency", "4")) == 0

        assert sorted(os.listdir("out")) == FILES
        assert len(teacher.requests) <= 32 + 4
        assert len(set(as_sent(teacher.requests))) == 32

    @pytest.mark.slow
    @pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
    def test_killed_runs_end_with_the_files_of_an_uninterrupted_one(self, own_folder):
        """
        The endpoint kills the process when a random number of further requests has come. 34 are needed: one chain
        cannot be mended, in 3 attempts. What is sent twice was in flight: 4 requests at most, for each time.
        """
        write_questions(questions())
        rng = random.Random(2)
        kill_at, process, stubborn = math.inf, None, DUAL_COTS[0]

        def script(request, number):
            if number >= kill_at:
                process.kill()
            text = stubborn.rejected if asked(request) == ("rectify", stubborn) else teach(request, number)
            return Response(completion(text), delay=0.01 * rng.random())

        code = "import sys; from edit_trl.cli import main; sys.exit(main())"
        flags = ["--max_concurrency", "4", "--seed", "0"]
        with Teacher(script) as teacher:
            arguments = [sys.executable, "-c", code, *command(teacher, *flags, output_dir="killed")]
            for kills in range(1, 4):
                kill_at = len(teacher.requests) + rng.randint(1, 10)
                process = subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
                assert process.wait(timeout=60) == -signal.SIGKILL
                assert len(teacher.requests) - len(set(as_sent(teacher.requests))) <= 4 * kills
            kill_at = math.inf
            done = subprocess.run(arguments, capture_output=True, text=True, timeout=60)
            assert (done.returncode, "Traceback" in done.stderr) == (0, False)
            sent = as_sent(teacher.requests)
            assert main(command(teacher, *flags, output_dir="whole")) == 0

        assert len(set(sent)) == 34
        assert len(sent) <= 34 + 3 * 4
        assert as_sent(teacher.requests[len(sent) :]) == sorted(set(sent))
        for name in ("dual_cots.parquet", "sft.parquet", "rejected.parquet"):
            assert Path("killed", name).read_bytes() == Path("whole", name).read_bytes() != b""
        assert sorted(os.listdir("killed")) == FILES


class TestInterrupts:
    @pytest.mark.slow
    @pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs signals")
    @pytest.mark.parametrize("num", [1, 2, 20])
    @pytest.mark.parametrize("gap", [0.0, 0.001, 0.05, 0.3])
    def test_every_number_of_interrupts_ends_with_130(self, num, gap, own_folder):
        """Real signals to a real process, while 4 requests are open that take half a minute."""
        write_questions(questions())
        code = "import sys; from edit_trl.cli import main; sys.exit(main())"

        def script(request, number):
            return Response(completion(teach(request, number)), delay=30.0 if number >= 4 else 0.0)

        with Teacher(script) as teacher:
            arguments = [sys.executable, "-c", code, *command(teacher, "--max_concurrency", "4")]
            # A process that a shell started in the background ignores the signal.
            before = signal.signal(signal.SIGINT, signal.default_int_handler)
            process = subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
            signal.signal(signal.SIGINT, before)
            while len(teacher.requests) < 8 and process.poll() is None:
                time.sleep(0.01)
            for _ in range(num):
                process.send_signal(signal.SIGINT)
                time.sleep(gap)
            _, err = process.communicate(timeout=20)
            assert process.returncode == 130
            assert "Traceback" not in err
            teacher.script = teach
            num_sent = len(teacher.requests)
            assert main(command(teacher)) == 0

        assert len(teacher.requests) - num_sent == 32 - 4


class TestNothingMade:
    @pytest.mark.parametrize(
        "failure", [lambda: Response({"error": {"message": "out of memory"}}, 500), lambda: refuse("too long")]
    )
    def test_run_whose_requests_all_fail_is_a_failure_and_leaves_older_files(self, failure, teacher, capsys):
        """Three questions: too few for an endpoint that counts as down."""
        assert main(command(teacher, "--limit", "2")) == 0
        before = {name: Path("out", name).read_bytes() for name in FILES if name != "replies.sqlite"}
        write_questions(questions(DUAL_COTS[6:9]))
        teacher.script = lambda *_: failure()

        assert main(command(teacher, "--max_retries", "0")) == 1

        _, last = capsys_err_last(capsys)
        assert last.startswith("edit-trl synthesize: No request of 3 got a usable reply, so nothing was written. The ")
        assert re.search(r"last error: http://.* (out of memory|too long)", last)
        assert {name: Path("out", name).read_bytes() for name in before} == before

    def test_run_whose_later_requests_all_fail_is_a_failure(self, capsys):
        """The right chains are written all the same, for stage 1."""
        replies = {(step, cot.question): [refuse()] for step in ("rectify", "corrupt") for cot in DUAL_COTS[:6]}
        with Teacher(teach_but(replies)) as teacher:
            assert main(command(teacher)) == 1
            out, last = capsys_err_last(capsys)
            assert "Chains without a usable reply: 6. The last error: " in out
            assert "every chain was rejected. The table above says why; out/rejected.parquet has" in last
            assert len(rows_of("out/sft.parquet")) == 3
            assert main(command(teacher)) == 0

        assert len(rows_of("out/dual_cots.parquet")) == 6

    def test_run_without_a_pair_is_a_failure(self, capsys):
        with Teacher(lambda *_: completion(None, "content_filter")) as teacher:
            assert main(command(teacher)) == 1

        out, last = capsys_err_last(capsys)
        assert "6 refused" in out
        assert "There must be at least one pair" in last
        assert sorted(os.listdir("out")) == FILES

    def test_some_failures_are_named_and_no_failure(self, capsys):
        with Teacher(teach_but({("extract", DUAL_COTS[0].question): [refuse("too long")]})) as teacher:
            assert main(command(teacher)) == 0
            out = capsys.readouterr().out
            assert "Chains without a usable reply: 1. The last error: http://" in out
            assert main(command(teacher)) == 0

        assert len(rows_of("out/dual_cots.parquet")) == 6


class TestTeachersOfOtherKinds:
    def test_reasoning_model_is_named_once_and_in_report_and_card(self, capsys, caplog):
        def script(request, number):
            for name in ("max_tokens", "temperature"):
                if name in request:
                    body = {"message": f"Unsupported parameter: '{name}' is not supported with this model."}
                    return Response({"error": {**body, "param": name, "code": "unsupported_parameter"}}, 400)
            return teach(request, number)

        with Teacher(script) as teacher:
            assert main(command(teacher, "--max_concurrency", "1")) == 0
            assert main(command(teacher)) == 0

        assert len(teacher.requests) == 12 + 2
        assert len(caplog.messages) == 2
        report = json.loads(Path("out", "report.json").read_text())
        assert report["sampling"]["temperature"] is None
        assert report["sampling"]["max_completion_tokens"] == 2048
        card = Path("out", "README.md").read_text()
        assert "The endpoint refuses `temperature`; requests leave it out." in card
        assert "max_completion_tokens 2048" in card

    def test_corrected_command_works_after_a_wrong_url_a_wrong_model_and_a_missing_key(self, capsys, monkeypatch):
        with Teacher(lambda *_: Response({}, 404)) as wrong, Teacher(teach) as teacher:
            assert main(command(wrong)) == 1
            assert main([*command(teacher), "--model", "other", "--api_key_env", "TEACHER_KEY"]) == 1
            assert "TEACHER_KEY" in capsys_err_last(capsys)[1]
            assert main(command(teacher)) == 0


class TestFailures:
    @pytest.mark.parametrize("missing", ["questions", "model"])
    def test_missing_flag_is_named(self, missing, capsys):
        given = {"questions": "questions.jsonl", "model": "teacher"}
        del given[missing]
        ((name, value),) = given.items()

        assert main(["synthesize", f"--{name}", value]) == 1
        assert read_only_line(capsys) == (
            f"edit-trl synthesize: `--{missing}` is needed, on the command line or in the file of `--config`."
        )

    def test_missing_key_is_named_before_anything_is_sent(self, teacher, capsys):
        assert main([*command(teacher), "--api_key_env", "TEACHER_KEY"]) == 1

        assert "TEACHER_KEY" in capsys_err_last(capsys)[1]
        assert teacher.requests == []

    @pytest.mark.parametrize(
        ("flags", "message"),
        [
            (["--max_concurrency", "0"], "`max_concurrency` must be positive, got 0"),
            (["--num_samples", "0"], "`num_samples` must be at least 1, got 0"),
            (["--limit", "0"], "`--limit` must be at least 1, got 0"),
            (["--limit", "-2"], "`--limit` must be at least 1, got -2"),
            (["--template_dir", "nowhere"], "`template_dir` must hold at least one of"),
            (["--examples", "nowhere.jsonl"], "`examples` must be a JSON Lines file"),
            (["--tokenizer", "./nowhere"], "`tokenizer` must be the name or folder of a tokenizer, got './nowhere' ("),
            (["--max_cost", "1"], "`max_cost` needs `prompt_price`"),
        ],
    )
    def test_options_that_cannot_work_are_one_line(self, flags, message, teacher, capsys):
        assert main(command(teacher, *flags)) == 1

        line = read_only_line(capsys)
        assert line.startswith("edit-trl synthesize: ")
        assert message in line
        assert teacher.requests == []


class TestDryRun:
    @pytest.fixture
    def flags(self):
        """One question of 12 bytes, prompts of one message each without examples, prices, and three attempts."""
        write_questions([{"question": "0123456789ab", "answer": "42"}])
        os.mkdir("templates")
        Path("templates", "cot.txt").write_text("{{ question }}")
        Path("templates", "answer_hint.txt").write_text("{{ question }} {{ answer }}")
        Path("templates", "contrastive_cot.txt").write_text("{{ response }}")
        return ["--dry_run", "--template_dir", "templates", "--num_examples", "0"]

    def table(self, text):
        """The first five cells of each row, without spaces around."""
        lines = [line.strip("│ ") for line in text.splitlines() if line.startswith("│")]
        return [[cell.strip() for cell in line.split("│")] for line in lines]

    def test_nothing_is_sent_and_no_file_is_made(self, flags, teacher, capsys):
        before = sorted(os.listdir())

        assert main(command(teacher, *flags)) == 0

        assert (teacher.requests, teacher.num_listings) == ([], 0)
        assert sorted(os.listdir()) == before
        assert "Nothing was sent." in capsys.readouterr().out

    def test_no_key_is_needed(self, flags, teacher):
        assert main([*command(teacher, *flags), "--api_key_env", "TEACHER_KEY"]) == 0

    def test_requests_tokens_and_cost_are_printed(self, flags, teacher, capsys):
        """
        A token for four bytes, and four for a message; without examples a reply is taken to have 400 bytes, 104
        tokens.
        At 1000 and 2000 for a million tokens in and out:

        extract: 12 bytes, 7 tokens in: 0.007 + 0.208 = 0.215
        rectify: 15 bytes, 8 tokens in: 0.008 + 0.208 = 0.216
        corrupt: 400 bytes, 104 tokens in: 0.104 + 0.208 = 0.312
        """
        assert main(command(teacher, *flags, "--prompt_price", "1000", "--completion_price", "2000")) == 0

        out = capsys.readouterr().out
        assert out.split("\n")[0].strip() == f"teacher at {teacher.url}"
        assert self.table(out) == [
            ["1. extract", "1", "7", "104", "0.215"],
            ["2. rectify, if all are wrong", "1", "8", "104", "0.216"],
            ["3. corrupt, if all are right", "1", "104", "104", "0.312"],
            ["whole run, at least", "2", "15", "208", "0.431"],
            ["whole run, first replies pass", "2", "111", "208", "0.527"],
            ["whole run, all attempts needed", "6", "333", "624", "1.581"],
        ]
        assert "--prompt_price" not in out

    def test_classification_has_a_row_of_its_own(self, flags, teacher, capsys):
        assert main(command(teacher, *flags, "--classify_mistakes")) == 0

        rows = self.table(capsys.readouterr().out)
        assert rows[3][:2] == ["4. classify, if all are pairs", "1"]
        assert [row[1] for row in rows[4:]] == ["3", "3", "9"]

    def test_prices_are_asked_for_where_there_are_none(self, flags, teacher, capsys):
        assert main(command(teacher, *flags)) == 0

        out = capsys.readouterr().out
        assert {row[-1] for row in self.table(out)} == {"-"}
        assert "Pass `--prompt_price` and `--completion_price`, per million tokens, for the cost." in out

    def test_replies_of_an_earlier_run_are_mentioned(self, teacher, capsys):
        assert main(command(teacher, "--limit", "2")) == 0
        before = {name: Path("out", name).read_bytes() for name in FILES if name != "replies.sqlite"}
        capsys.readouterr()

        assert main(command(teacher, "--dry_run")) == 0

        assert "The store has 4 replies. Their requests are not sent again." in capsys.readouterr().out
        assert {name: Path("out", name).read_bytes() for name in before} == before
        assert len(teacher.requests) == 4

    def test_bad_questions_are_refused_as_well(self, teacher, capsys):
        write_questions([{"question": "Why?", "answer": ""}])

        assert main(command(teacher, "--dry_run")) == 1
        assert "a text `answer`" in read_only_line(capsys)
