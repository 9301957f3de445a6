"""
Tests of the command as it is typed: what it sends, writes and prints, and how it fails. The teacher on loopback knows its
questions by heart (`dual_cot_teacher.py`).
"""

import csv
import importlib
import json
import math
import os
import random
import re
import signal
import subprocess
import sys
import threading
from dataclasses import fields
from pathlib import Path

import pytest
import yaml
from datasets import Dataset
from dual_cot_teacher import (
    DUAL_COTS,
    as_sent,
    asked,
    one_ssl_context,  # noqa: F401
    questions,
    refuse,
    steps_of,
    teach,
    teach_but,
    time_limit,  # noqa: F401
)
from pyarrow import parquet
from teacher import Response, Teacher, completion

from edit_trl import DataCollatorForDualCoT, align
from edit_trl.chat import ChatClient
from edit_trl.cli import main
from edit_trl.data_utils import prepare_dual_cots
from edit_trl.inspection import InspectionConfig, Statistics, read_pairs
from edit_trl.synthesis import SynthesisConfig, dataset_files


pytest.importorskip("openai")

# The teacher is wrong on three: 6 + 3 + 3 requests.
SIX_COTS = DUAL_COTS[:6]
FILES = ["README.md", "dual_cots.parquet", "rejected.parquet", "replies.sqlite", "report.json", "sft.parquet"]


@pytest.fixture(autouse=True)
def own_folder(monkeypatch, tmp_path):
    """Paths of the tests are relative to a folder of their own. Tables are wide enough for one line a row."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    write_questions()
    return tmp_path


@pytest.fixture
def teacher():
    with Teacher(teach) as teacher:
        yield teacher


def write_questions(rows=None, path="questions.jsonl"):
    Path(path).write_text("".join(json.dumps(row) + "\n" for row in rows or questions(SIX_COTS)))
    return path


def command(teacher, *flags, questions="questions.jsonl", output_dir="out"):
    endpoint = ["--model", "teacher", "--base_url", teacher.url, "--api_key_env", "none"]
    return ["synthesize", "--questions", questions, *endpoint, "--output_dir", output_dir, *flags]


def rows_of(path):
    return parquet.read_table(path).to_pylist()


def read_only_line(capsys):
    """What was printed, if that is one line on standard error."""
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1 and err.endswith("\n"), err
    return err.rstrip("\n")


def fresh_python(code, *arguments):
    return subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=100)


class TestHelp:
    @pytest.mark.parametrize(
        "arguments",
        [["--help"], ["synthesize", "--help"], ["inspect", "--help"], ["evaluate", "--help"]],
        ids=" ".join,
    )
    def test_it_answers_without_loading_anything_heavy(self, arguments):
        code = (
            "import sys\nfrom edit_trl.cli import main\ntry:\n    main()\nexcept SystemExit as end:\n"
            "    print('status', end.code, *(set(sys.modules) & {'torch', 'transformers', 'datasets', 'openai', 'jinja2'}))"
        )
        done = fresh_python(code, *arguments)

        assert done.stdout.startswith("usage: edit-trl")
        assert done.stdout.splitlines()[-1] == "status 0"
        assert done.stderr == ""

    def test_every_option_of_client_and_recipe_is_a_flag_with_its_help(self, capsys):
        with pytest.raises(SystemExit) as end:
            main(["synthesize", "--help"])

        assert end.value.code == 0
        text = " ".join(capsys.readouterr().out.split())
        for field in [*fields(ChatClient), *fields(SynthesisConfig)]:
            assert f"--{field.name} " in text
            assert " ".join(field.metadata["help"].rstrip(".").split()) in text
        assert "the paper's by default. 'None' leaves it to the endpoint (default: 0.2)" in text

    @pytest.mark.parametrize("argv", [[], ["train"], ["synthesize", "--modle", "x"]])
    def test_unknown_words_are_refused(self, argv, capsys):
        with pytest.raises(SystemExit) as end:
            main(argv)

        assert end.value.code == 2
        assert "edit-trl" in capsys.readouterr().err

    def test_script_of_the_package_is_this_command(self):
        text = Path(__file__).parents[1].joinpath("pyproject.toml").read_text()
        module, _, name = re.search(r'^edit-trl = "(.*)"$', text, re.MULTILINE)[1].partition(":")

        assert getattr(importlib.import_module(module), name) is main


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
        monkeypatch.setattr("edit_trl.cli._SECONDS_PER_LINE", 0.0)
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
        assert re.search(r"^Key words: \d+\.\d% of the chains .* Similarity: 0\.\d\d\.$", out, re.MULTILINE)
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

    @pytest.mark.parametrize("kind", ["json", "csv", "parquet", "txt"])
    def test_kind_of_the_file_does_not_matter(self, kind, teacher):
        path = f"other.{kind}"
        if kind == "json":
            Path(path).write_text(json.dumps(questions(SIX_COTS), indent=2))
        elif kind == "csv":
            with open(path, "w", newline="") as file:
                writer = csv.DictWriter(file, ["task", "answer", "question"])
                writer.writeheader()
                writer.writerows(questions(SIX_COTS))
        elif kind == "parquet":
            Dataset.from_list(questions(SIX_COTS)).to_parquet(path)
        else:  # lines of JSON by another name
            write_questions(path=path)

        assert main(command(teacher, questions=path)) == 0

        keys = ("prompt", "chosen", "rejected", "answer", "task")
        pairs = sorted(rows_of("out/dual_cots.parquet"), key=str)
        expected = sorted((cot.to_pair() for cot in SIX_COTS), key=str)
        assert [[pair[key] for key in keys] for pair in pairs] == [[pair[key] for key in keys] for pair in expected]

    @pytest.mark.parametrize("kind", ["jsonl", "csv"])
    def test_answers_stay_the_text_that_they_are(self, kind, capsys):
        """Readers that guess types make numbers, dates, truth values and nothing of them."""
        rows = [
            {"question": f"Question {number}?", "answer": answer, "task": str(number)}
            for number, answer in enumerate(
                ("007", "1.50", "1e3", "2030-01-02", "True", "NA", "None", "null", "nan", "Ü")
            )
        ]
        if kind == "csv":
            with open("odd.csv", "w", newline="", encoding="utf-8-sig") as file:  # as spreadsheets write it
                writer = csv.DictWriter(file, ["question", "answer", "task"])
                writer.writeheader()
                writer.writerows(rows)
        else:
            write_questions(rows, "odd.jsonl")
        with Teacher(lambda *_: "I do not know.") as teacher:
            assert main(command(teacher, questions=f"odd.{kind}")) == 0

        assert [{name: row[name] for name in rows[0]} for row in rows_of("out/rejected.parquet")] == rows

    @pytest.mark.parametrize("kind", ["jsonl", "parquet"])
    def test_limit_takes_the_first_questions(self, kind, teacher):
        Dataset.from_list(questions(SIX_COTS)).to_parquet("questions.parquet")

        assert main(command(teacher, "--limit", "3", questions=f"questions.{kind}")) == 0

        assert {asked(request)[1].question for request in teacher.requests} == {cot.question for cot in DUAL_COTS[:3]}

    def test_split_of_a_dataset_is_used(self, teacher, capfd):
        os.mkdir("data")
        write_questions(questions(DUAL_COTS[:2]), "data/train.jsonl")
        write_questions(questions(DUAL_COTS[2:5]), "data/test.jsonl")

        assert main(command(teacher, "--split", "test", questions="data")) == 0

        assert {asked(request)[1] for request in teacher.requests} == {*DUAL_COTS[2:5]}

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
        monkeypatch.setattr(dataset_files, "push_to_hub", lambda config: pushed.append(config) or url)

        assert main(command(teacher, "--limit", "2", "--push_to_hub", "--hub_dataset_id", "lab/cots")) == 0

        assert [config.hub_dataset_id for config in pushed] == ["lab/cots"]
        assert capsys.readouterr().out.endswith(f"\nPushed to {url}\n")

    def test_failed_push_is_one_line_after_the_report(self, teacher, capsys, monkeypatch):
        """Whatever the HTTP library raises: it is none of Python's own."""

        class ConnectError(Exception):
            pass

        def fail(config):
            raise ConnectError("[Errno 111]\nConnection refused")

        monkeypatch.setattr(dataset_files, "push_to_hub", fail)

        assert main(command(teacher, "--limit", "2", "--push_to_hub")) == 1

        out, last = capsys_err_last(capsys)
        assert out.endswith(f"{Path('out', 'README.md')}\n")
        assert last == (
            "edit-trl synthesize: The files are written, but could not be pushed to the Hub: [Errno 111] Connection refused. "
            "The same command pushes them and asks nothing again."
        )
        assert sorted(os.listdir("out")) == FILES

    def test_key_is_in_no_file_and_not_printed(self, capfd, monkeypatch, own_folder):
        """Not even where the endpoint repeats it."""
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


def capsys_err_last(capsys):
    """Standard output, and the last line of standard error."""
    out, err = capsys.readouterr()
    return out, err.splitlines()[-1]


class TestStops:
    def test_larger_budget_goes_on(self, teacher, capsys):
        for limit, num_pairs in ((5, 0), (8, 2), (12, 6)):
            assert main(command(teacher, "--max_requests", str(limit))) == 0

            assert len(teacher.requests) == limit
            out = capsys.readouterr().out
            stopped = f"Stopped: `max_requests={limit}` is reached. The same command with a larger limit goes on.\n"
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
            assert last == "Interrupted. Replies so far are kept; the same command goes on from there."
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
        The endpoint kills the process when a random number of further requests has come. 34 are needed: one chain cannot be
        mended, in 3 attempts. What is sent twice was in flight: 4 requests at most, for each time.
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


class TestFailures:
    def test_unreachable_endpoint_is_one_line(self, capsys):
        argv = ["synthesize", "--questions", "questions.jsonl", "--model", "teacher", "--api_key_env", "none"]

        assert main([*argv, "--base_url", "http://127.0.0.1:9/v1"]) == 1

        assert read_only_line(capsys).startswith(
            "edit-trl synthesize: http://127.0.0.1:9/v1: Cannot reach the endpoint ("
        )

    def test_fresh_process_shows_no_traceback(self):
        code = "import sys; from edit_trl.cli import main; sys.exit(main())"
        flags = ["--model", "teacher", "--api_key_env", "none", "--base_url", "http://127.0.0.1:9/v1"]
        done = fresh_python(code, "synthesize", "--questions", "questions.jsonl", *flags)

        assert (done.returncode, done.stdout) == (1, "")
        (line,) = done.stderr.splitlines()
        assert line.startswith("edit-trl synthesize: http://127.0.0.1:9/v1: Cannot reach the endpoint (")

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
        ("name", "content", "message"),
        [
            ("none.jsonl", None, r"got 'none.jsonl': .*No such file"),
            ("none.parquet", None, "got 'none.parquet': "),
            ("none.txt", None, "got 'none.txt': "),
            ("lab/none", None, "or a dataset on the Hub, got 'lab/none': "),
            ("a.jsonl", b'{"question": ', "got 'a.jsonl': line 1, column 14: Expecting value"),
            ("a.json", b"[1, 2]", "got 'a.json': a row is not an object"),
            ("a.jsonl", b'"question"', "got 'a.jsonl': a row is not an object"),
            ("a.csv", b"question,answer\n\xff,5\n", "got 'a.csv': 'utf-8' codec"),
            ("a.parquet", b"PAR1", "got 'a.parquet': "),
            ("a.jsonl", b"", "`questions` must hold at least one question, got none"),
            ("a.csv", b"question,answer\n", "`questions` must hold at least one question, got none"),
            (
                "a.csv",
                b"questions,answer\nWhy?,5\n",
                r"the column `question`, got \['questions', 'answer'\]. Did you mean 'q",
            ),
            ("a.csv", b"question;answer\nWhy?;5\n", r"the column `question`, got \['question;answer'\]"),
            ("a.jsonl", b'{"question": "Why?", "y": "5"}', "the column `answer`, got .* Rename the columns"),
            ("a.csv", b"question,answer\nWhy?\n", "a text `answer`, but 1 of 1 have none, the first in rows 0"),
            ("a.jsonl", b'{"question": "Why?", "answer": 5}', "a text `answer`, but 1 of 1"),
            ("a.csv", b"question,answer\nWhy?,5\nWhy?,6\n", "1 are repeated, the first in rows 0, 1"),
        ],
    )
    def test_bad_questions_are_one_line_and_nothing_is_sent(self, name, content, message, teacher, capsys):
        if content is not None:
            Path(name).write_bytes(content)

        assert main(command(teacher, questions=name)) == 1

        last = capsys_err_last(capsys)[1]
        assert re.search(f"^edit-trl synthesize: .*{message}", last), last
        assert teacher.requests == []
        assert not Path("out", "dual_cots.parquet").exists()

    def test_folder_is_not_made_for_questions_that_cannot_be_read(self, teacher, capsys):
        assert main(command(teacher, questions="none.jsonl")) == 1

        assert os.listdir() == ["questions.jsonl"]

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

    @pytest.mark.parametrize(
        ("flags", "message"),
        [
            (["--temperature", "warm"], "argument --temperature: must be a number, got 'warm'"),
            (["--num_samples", "2.5"], "argument --num_samples: must be a whole number, got '2.5'"),
            (["--num_samples", "none"], "argument --num_samples: must be a whole number, got 'none'"),
            (["--limit", "ten"], "argument --limit: must be a whole number, got 'ten'"),
            (["--push_to_hub", "maybe"], "argument --push_to_hub: must be 'true' or 'false', got 'maybe'"),
            (["--extra_body", "{thinking}"], "argument --extra_body: must be a JSON object, got '{thinking}'"),
            (["--extra_body", "[1]"], "argument --extra_body: must be a JSON object, got '[1]'"),
            (["--output_dir", "none"], "argument --output_dir: must be a text, got 'none'"),
            (["--temperature"], "argument --temperature: expected one argument"),
        ],
    )
    def test_values_of_another_type_are_refused(self, flags, message, teacher, capsys):
        """One line after the usage."""
        with pytest.raises(SystemExit) as end:
            main(command(teacher, *flags))

        assert end.value.code == 2
        assert capsys.readouterr().err == (
            "usage: edit-trl synthesize --questions DATA --model TEXT [--config FILE] [...]\n"
            f"edit-trl synthesize: error: {message}\n"
        )


class TestConfigFile:
    def write(self, teacher, **values):
        common = {"questions": "questions.jsonl", "model": "teacher", "api_key_env": None, "base_url": teacher.url}
        Path("run.yaml").write_text(yaml.safe_dump({**common, **values}))
        return ["synthesize", "--config", "run.yaml"]

    def test_it_may_hold_any_flag(self, teacher):
        argv = self.write(
            teacher,
            output_dir="from_file",
            limit=2,
            temperature=None,
            seed=7,
            extra_body={"top_k": 20, "stop": ["Q:"]},
            file_format="parquet",
            classify_mistakes=True,
        )

        assert main(argv) == 0

        assert "dual_cots.parquet" in os.listdir("from_file")
        assert steps_of(teacher.requests) == {"extract": 2, "rectify": 1, "corrupt": 1, "classify": 2}
        names = {"model", "messages", "max_tokens", "seed", "top_k", "stop"}
        assert all(request.keys() == names for request in teacher.requests)  # no temperature

    def test_flags_win_over_it_wherever_they_stand(self, teacher):
        argv = self.write(teacher, limit=9, output_dir="from_file", temperature=0.9, dry_run=True)

        assert main([*argv, "--limit", "2", "--dry_run", "false", "--output_dir=typed"]) == 0
        (name, *config) = argv
        assert main([name, "--limit", "3", "--dry_run", "false", "--output_dir", "again", *config]) == 0

        assert sorted(os.listdir()) == ["again", "questions.jsonl", "run.yaml", "typed"]
        assert {request["temperature"] for request in teacher.requests} == {0.9}
        assert [len(rows_of(f"{folder}/dual_cots.parquet")) for folder in ("typed", "again")] == [2, 3]

    def test_values_of_text_flags_need_no_quotes(self, teacher):
        """YAML takes these for a date, a number and a truth value."""
        Path("run.yaml").write_text(
            f"questions: questions.jsonl\nmodel: 4.5\nbase_url: {teacher.url}\napi_key_env: none\n"
            "output_dir: 2030-01-02\nlimit: 2\n"
        )

        assert main(["synthesize", "--config", "run.yaml"]) == 0

        assert Path("2030-01-02", "dual_cots.parquet").is_file()
        assert {request["model"] for request in teacher.requests} == {"4.5"}

    @pytest.mark.parametrize(("name", "nearest"), [("temprature", "temperature"), ("num-samples", "num_samples")])
    def test_unknown_key_names_the_nearest(self, name, nearest, teacher, capsys):
        assert main(self.write(teacher, **{name: 1})) == 1

        assert read_only_line(capsys) == (
            f"edit-trl: 'run.yaml' must have the names of flags as its keys, got `{name}`. Did you mean `{nearest}`?"
        )

    @pytest.mark.parametrize("name", ["config", "run", "command", "help"])
    def test_what_is_no_option_is_no_key(self, name, teacher, capsys):
        assert main(self.write(teacher, **{name: "x"})) == 1

        assert f"got `{name}`" in read_only_line(capsys)

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (b"model: [teacher", "`--config` must be a YAML file, got 'run.yaml': while parsing"),
            (b"model: a: b", "`--config` must be a YAML file, got 'run.yaml': mapping values"),
            (b"\xff\xfe\x00", "`--config` must be a YAML file, got 'run.yaml': "),
            (
                b"- model\n- teacher\n",
                "must be a YAML file of flags and values, and 'run.yaml' is not: ['model', 'teacher'].",
            ),
            (b"", "must be a YAML file of flags and values, and 'run.yaml' is not: None."),
            (None, "`--config` must be a YAML file, got 'run.yaml': [Errno 2]"),
            (b"1: 2", "must have the names of flags as its keys, got `1`"),
            (b"questions:\nmodel: teacher", "`--questions` is needed"),
        ],
    )
    def test_bad_file_is_one_line(self, content, message, capsys):
        if content is not None:
            Path("run.yaml").write_bytes(content)

        assert main(["synthesize", "--config", "run.yaml"]) == 1

        assert message in read_only_line(capsys)

    @pytest.mark.parametrize(
        ("values", "message"),
        [
            ({"temperature": "warm"}, "argument --temperature: must be a number, got 'warm'"),
            ({"temperature": True}, "argument --temperature: must be a number, got 'true'"),
            ({"temperature": [0.2]}, "argument --temperature: must be a number, got '[0.2]'"),
            ({"num_samples": True}, "argument --num_samples: must be a whole number, got 'true'"),
            ({"num_samples": None}, "argument --num_samples: must be a whole number, got 'none'"),
            ({"num_samples": 2.0}, "argument --num_samples: must be a whole number, got '2.0'"),
            ({"push_to_hub": 1}, "argument --push_to_hub: must be 'true' or 'false', got '1'"),
            ({"extra_body": "text"}, "argument --extra_body: must be a JSON object, got 'text'"),
            ({"output_dir": None}, "argument --output_dir: must be a text, got 'none'"),
            ({"task_description": None}, "argument --task_description: must be a text, got 'none'"),
        ],
    )
    def test_values_of_another_type_are_refused(self, values, message, teacher, capsys):
        with pytest.raises(SystemExit) as end:
            main(self.write(teacher, **values))

        assert end.value.code == 2
        assert capsys.readouterr().err.endswith(f"edit-trl synthesize: error: {message}\n")
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
        A token for four bytes, and four for a message; without examples a reply is taken to have 400 bytes, 104 tokens.
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

        assert "The store holds 4 replies; what is in it is not asked again." in capsys.readouterr().out
        assert {name: Path("out", name).read_bytes() for name in before} == before
        assert len(teacher.requests) == 4

    def test_bad_questions_are_refused_as_well(self, teacher, capsys):
        write_questions([{"question": "Why?", "answer": ""}])

        assert main(command(teacher, "--dry_run")) == 1
        assert "a text `answer`" in read_only_line(capsys)


GOOD = {
    "prompt": "Q: 2 + 3?\nA:",
    "chosen": " 2 + 3 = 5. The answer is 5.",
    "rejected": " 2 + 3 = 6. The answer is 6.",
}
PAIRS = [
    GOOD,
    {**GOOD, "prompt": "Q: Which?\nA:", "rejected": " Not at all. So it cannot be: 6."},
    {**GOOD, "chosen": "  "},
    GOOD,
    {
        "prompt": "Q: 3 + 2?\nA:",
        "chosen": " 3 + 2 = 5, so 5. The answer is 5.",
        "rejected": " 3 + 2 = 5, so 6. The answer is 6.",
    },
]


class TestInspect:
    @pytest.fixture(autouse=True)
    def pairs_file(self):
        return write_questions(PAIRS, "pairs.jsonl")

    def shown(self, capsys):
        """Numbers of the pairs shown, in order."""
        return [int(number) for number in re.findall(r"^Pair (\d+) ", capsys.readouterr().out, re.MULTILINE)]

    def test_numbers_advice_and_the_first_pairs_are_printed(self, capsys):
        assert main(["inspect", "pairs.jsonl", "--num_pairs", "2"]) == 0

        out, err = capsys.readouterr()
        assert err == ""
        assert "5 pairs, in words" in out
        assert "1 of 5 pairs would be left out by the trainer" in out
        assert re.findall(r"^Pair (\d+) ", out, re.MULTILINE) == ["0", "1"]
        assert "{+5.+} The answer is {+5.+}" in out and "[-6.-] The answer is [-6.-]" in out

    def test_numbers_are_those_of_python(self, capsys):
        assert main(["inspect", "pairs.jsonl", "--json", "numbers.json", "--min_similarity", "0.9"]) == 0

        config = InspectionConfig(min_similarity=0.9)
        statistics = Statistics(config, "words")
        for pair in read_pairs(PAIRS, config=config):
            statistics.add(pair)
        assert json.loads(Path("numbers.json").read_text()) == json.loads(json.dumps(statistics.summary()))

    @pytest.mark.parametrize(
        ("flags", "expected"),
        [
            (["--sort", "key_token_ratio", "--num_pairs", "1"], [1, 4]),
            (["--sort", "similarity", "--num_pairs", "2"], [4, 0, 1, 0]),
            (["--sort", "length", "--num_pairs", "1"], [4, 1]),
            (["--num_pairs", "0"], []),
            (["--num_pairs", "9"], [0, 1, 2, 3, 4]),
            (["--limit", "2"], [0, 1]),
        ],
        ids=str,
    )
    def test_pairs_shown_are_those_asked_for(self, flags, expected, capsys):
        """Of pairs that are equal in what they are sorted by, the first ones."""
        assert main(["inspect", "pairs.jsonl", *flags]) == 0

        assert self.shown(capsys) == expected

    def test_truncation_keeps_the_end_where_it_is_asked_to(self, model_folder, tokenizer):
        """What is cut is what the collator cuts: of six tokens that are left, it scores all keys but a first one."""
        flags = ["--model", model_folder, "--max_length", "6", "--truncation_mode", "keep_end", "--json", "n.json"]
        assert main(["inspect", "pairs.jsonl", "--num_pairs", "0", *flags]) == 0

        rows = [row for row in PAIRS if row["chosen"].strip()]
        prepared = prepare_dual_cots(Dataset.from_list(rows), tokenizer, eos_token=tokenizer.eos_token)
        batch = DataCollatorForDualCoT(0, max_length=6, truncation_mode="keep_end")(list(prepared))
        chains = [(example["chosen_ids"], example["rejected_ids"]) for example in prepared]
        keys = [key for pair in chains for key in (align(*pair).chosen_key, align(*pair).rejected_key)]
        cut = json.loads(Path("n.json").read_text())["truncation"]
        assert cut["tokens"] == sum(map(len, keys)) - batch["num_completion_tokens"].sum() > 0
        num_scored = batch["scored_key"].sum() + sum(key[-6] for key in keys)
        assert cut["key_tokens"] == batch["num_key_tokens"].sum() - num_scored > 0

    def test_good_and_bad_pairs_are_written_apart(self, capsys):
        assert main(["inspect", "pairs.jsonl", "--filter", "good.jsonl"]) == 0

        good, bad = (
            [json.loads(line) for line in Path(name).open()] for name in ("good.jsonl", "good.rejected.jsonl")
        )
        assert good == [PAIRS[0], PAIRS[4]]
        assert bad == [
            {**PAIRS[1], "problems": ["not_dual"]},
            {**PAIRS[2], "problems": ["missing"]},
            {**PAIRS[3], "problems": ["duplicate"]},
        ]
        assert "2 pairs without problems, 3 with: good.rejected.jsonl" in capsys.readouterr().out

    def test_file_may_be_filtered_into_itself(self):
        assert main(["inspect", "pairs.jsonl", "--filter", "pairs.jsonl"]) == 0

        assert len(Path("pairs.jsonl").read_text().splitlines()) == 2
        assert sorted(os.listdir()) == ["pairs.jsonl", "pairs.rejected.jsonl", "questions.jsonl"]

    @pytest.mark.parametrize("kind", ["json", "csv", "parquet", "disk", "folder"])
    def test_pairs_may_come_in_any_container(self, kind, capsys):
        dataset = Dataset.from_list([PAIRS[0], PAIRS[1]])
        name = {"disk": "saved", "folder": "data"}.get(kind, f"pairs.{kind}")
        if kind == "json":
            Path(name).write_text(json.dumps(dataset.to_list()))
        elif kind == "csv":
            dataset.to_csv(name)
        elif kind == "disk":
            dataset.save_to_disk(name)
        else:
            Path("data").mkdir()
            dataset.to_parquet(name if kind == "parquet" else "data/train.parquet")
        capsys.readouterr()

        assert main(["inspect", name]) == 0
        assert self.shown(capsys) == [0, 1]

    def test_tokens_are_those_of_the_model(self, model_folder, tokenizer, capsys):
        assert main(["inspect", "pairs.jsonl", "--model", model_folder, "--json", "n.json", "--weights"]) == 0

        (pair,) = read_pairs([GOOD], tokenizer)
        out = capsys.readouterr().out
        assert "in tokens" in out and f"{pair.key_token_ratio:.1%} key" in out
        assert "-0.025" in out
        assert json.loads(Path("n.json").read_text())["unit"] == "tokens"

    def test_options_may_stand_in_a_file(self, capsys):
        Path("inspect.yaml").write_text("num_pairs: 1\nweights: true\nmin_similarity: 0\n")

        assert main(["inspect", "pairs.jsonl", "--config", "inspect.yaml"]) == 0
        out = capsys.readouterr().out
        assert out.count("Pair ") == 1 and "-0.025" in out and "not_dual" not in out

        Path("inspect.yaml").write_text("num_pair: 1\n")
        assert main(["inspect", "pairs.jsonl", "--config", "inspect.yaml"]) == 1
        assert "Did you mean `num_pairs`?" in read_only_line(capsys)

    @pytest.mark.parametrize(
        ("content", "flags", "message"),
        [
            (
                None,
                [],
                "`DATA` must be a JSON, JSON Lines, CSV or Parquet file, or a dataset on the Hub, got 'a.jsonl'",
            ),
            ("", [], "DATA must hold at least one pair"),
            ("no dataset", [], "line 1, column 1: Expecting value"),
            ('{"prompt": "Q"}\n[1]', [], "chosen"),
            (json.dumps(GOOD) + "\n[1]", [], "a row is not an object"),
            (json.dumps(GOOD) + '\n{"prompt', [], "line 2, column 2: Unterminated string"),
            (json.dumps({"question": "Q", "choosen": "a", "rejected": "b"}), [], "chosen"),
            (json.dumps({"prompt_ids": [1], "chosen_ids": [2], "rejected_ids": [3]}), [], "--model NAME"),
            (json.dumps(GOOD), ["--model", "nowhere"], "`--model` must be the name or folder of a tokenizer"),
            (json.dumps(GOOD), ["--sort", "beauty"], "`--sort` must be one of key_token_ratio, similarity, length"),
            (json.dumps(GOOD), ["--num_pairs", "-1"], "`--num_pairs` and `--fold` must be at least 0"),
            (json.dumps(GOOD), ["--limit", "0"], "`--limit` must be at least 1, got 0"),
            (json.dumps(GOOD), ["--log_probs"], "`--log_probs` needs `--model`"),
            (json.dumps(GOOD), ["--filter", "good.csv"], "Pass `--filter good.jsonl`"),
            (json.dumps(GOOD), ["--html", "nowhere/report.html"], "The folder of 'nowhere/report.html' must exist"),
            (json.dumps(GOOD), ["--tie_break", "left"], "`tie_break` must be one of 'symmetric', 'reference'"),
        ],
    )
    def test_what_cannot_work_is_one_line(self, content, flags, message, capsys):
        if content is not None:
            Path("a.jsonl").write_text(content)

        assert main(["inspect", "a.jsonl", *flags]) == 1

        line = read_only_line(capsys)
        assert line.startswith("edit-trl inspect: ") and message in line
        assert not Path("good.jsonl").exists()

    def test_failure_leaves_no_unfinished_files(self, capsys):
        Path("a.jsonl").write_text(json.dumps(GOOD) + "\n[1]")
        Path("good.jsonl").write_text("before")

        assert main(["inspect", "a.jsonl", "--filter", "good.jsonl"]) == 1

        assert Path("good.jsonl").read_text() == "before"
        assert sorted(os.listdir()) == ["a.jsonl", "good.jsonl", "pairs.jsonl", "questions.jsonl"]

    def test_very_long_line_is_read_and_named(self, capsys):
        """A file that has lost its line ends."""
        write_questions([GOOD, {**GOOD, "chosen": "5 " * 20_000_000}], "long.jsonl")

        assert main(["inspect", "long.jsonl", "--num_pairs", "0"]) == 0
        assert "hold a text of more than a million characters" in capsys.readouterr().out


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

    def test_served_model_is_scored_and_asked_once(self, teacher, capsys):
        """The teacher is wrong on three of six."""
        flags = ["--dataset", "questions.jsonl", "--output_dir", "scores", "--base_url", teacher.url]

        assert main(["evaluate", "teacher", *flags]) == 0
        assert self.results()["accuracy"] == 0.5
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
            (["--dataset", "twice.jsonl"], "Each question must be there once"),
            (["--dataset", "questions.jsonl"], "must be a model or adapter in a folder or on the Hub, got 'nowhere'"),
            (["--dataset", "questions.jsonl", "--backend", "tgi"], "`--backend` must be 'transformers' or 'vllm'"),
            (["--dataset", "questions.jsonl", "--backend", "vllm"], "needs the `vllm` package"),
            (["--dataset", "questions.jsonl", "--batch_size", "0"], "`batch_size` must be at least 1, got 0"),
            (["--dataset", "questions.jsonl", "--base_url", "http://127.0.0.1:9/v1"], "Cannot reach the endpoint"),
        ],
    )
    def test_what_cannot_work_is_one_line(self, flags, message, monkeypatch, capsys):
        monkeypatch.setitem(sys.modules, "vllm", None)
        write_questions([{"question": "Why?", "answers": "5"}], "odd.jsonl")
        Path("empty.jsonl").write_text("")
        write_questions(questions(SIX_COTS[:1]) * 2, "twice.jsonl")

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
