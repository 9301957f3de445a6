"""Tests of the command `edit-trl`: what it imports, what it prints, and its exit status."""

import importlib.metadata
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from cli_fixtures import fresh_python, own_folder_fixture, read_only_line  # noqa: F401
from dual_cot_teacher import one_ssl_context, time_limit  # noqa: F401

from edit_trl.cli import main


pytest.importorskip("openai")


class TestHelp:
    @pytest.mark.parametrize(
        "arguments",
        [["--help"], ["synthesize", "--help"], ["inspect", "--help"], ["evaluate", "--help"]],
        ids=" ".join,
    )
    def test_it_answers_without_loading_anything_heavy(self, arguments):
        code = (
            "import sys\nfrom edit_trl.cli import main\ntry:\n    main()\nexcept SystemExit as end:\n"
            "    heavy = {'torch', 'transformers', 'datasets', 'openai', 'jinja2'}\n"
            "    print('status', end.code, *(set(sys.modules) & heavy))"
        )
        done = fresh_python(code, *arguments)

        assert done.stdout.startswith("usage: edit-trl")
        assert done.stdout.splitlines()[-1] == "status 0"
        assert done.stderr == ""

    @pytest.mark.parametrize("argv", [[], ["trian"]])
    def test_unknown_words_are_refused(self, argv, capsys):
        with pytest.raises(SystemExit) as end:
            main(argv)

        assert end.value.code == 2
        assert "edit-trl" in capsys.readouterr().err

    @pytest.mark.parametrize(
        ("argv", "message"),
        [
            (["synthesize", "--modle", "x"], "there is no '--modle' here. Did you mean `--model`?"),
            (["evaluate", "student", "--numpaths=3"], "there is no '--numpaths' here. Did you mean `--num_paths`?"),
            (["inspect", "pairs.jsonl", "--xyzzy"], "there is no '--xyzzy' here. See `edit-trl inspect --help`."),
            (["inspect", "a.jsonl", "b.jsonl"], "there is no 'b.jsonl' here. It takes one name before its flags."),
        ],
    )
    def test_unknown_flag_is_one_line_with_the_nearest(self, argv, message, capsys):
        with pytest.raises(SystemExit) as end:
            main(argv)

        assert end.value.code == 2
        assert read_only_line(capsys) == f"edit-trl {argv[0]}: {message}"

    def test_version_names_what_results_depend_on(self, capsys):
        with pytest.raises(SystemExit) as end:
            main(["--version"])

        assert end.value.code == 0
        shown = capsys.readouterr().out
        assert shown.startswith(f"edit-trl {importlib.metadata.version('edit-trl')}, trl ")
        assert "transformers" in shown and "torch" in shown

    def test_it_works_without_docstrings(self):
        done = subprocess.run(
            [sys.executable, "-OO", "-m", "edit_trl", "evaluate", "--help"], capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 0 and "--max_new_tokens N" in done.stdout

    def test_flag_in_a_help_text_stays_whole(self, capsys, monkeypatch):
        for columns in range(60, 130, 7):
            monkeypatch.setenv("COLUMNS", str(columns))
            with pytest.raises(SystemExit):
                main(["evaluate", "--help"])
            assert "'--\n" not in re.sub(" *\n *", "\n", capsys.readouterr().out)

    def test_module_is_the_command(self):
        done = subprocess.run(
            [sys.executable, "-m", "edit_trl", "--help"], capture_output=True, text=True, check=True, timeout=60
        )
        assert done.stdout.startswith("usage: edit-trl")

    def test_script_of_the_package_is_this_command(self):
        text = Path(__file__).parents[1].joinpath("pyproject.toml").read_text()
        module, _, name = re.search(r'^edit-trl = "(.*)"$', text, re.MULTILINE)[1].partition(":")

        assert getattr(importlib.import_module(module), name) is main


class TestFailures:
    def test_unreachable_endpoint_is_one_line(self, capsys):
        argv = ["synthesize", "--questions", "questions.jsonl", "--model", "teacher", "--api_key_env", "none"]

        assert main([*argv, "--base_url", "http://127.0.0.1:9/v1"]) == 1

        assert read_only_line(capsys).startswith(
            "edit-trl synthesize: http://127.0.0.1:9/v1: Cannot reach the endpoint ("
        )

    @pytest.mark.parametrize("num_lines", [1, 100_000])
    def test_reader_that_closes_the_output_early_sees_no_error(self, num_lines):
        """As in `edit-trl inspect … | head`. Short outputs fail when they are flushed, long ones when written."""
        code = (
            "from edit_trl.cli import inspect, main\n"
            f"inspect.run = lambda args: [print('pair', i) for i in range({num_lines})]\n"
            "raise SystemExit(main(['inspect', 'pairs.jsonl']))"
        )
        reader, writer = os.pipe()
        os.close(reader)
        with os.fdopen(writer) as output:
            done = subprocess.run([sys.executable, "-c", code], stdout=output, stderr=subprocess.PIPE, text=True)

        assert (done.returncode, done.stderr) == (1, "")

    def test_fresh_process_shows_no_traceback(self):
        code = "import sys; from edit_trl.cli import main; sys.exit(main())"
        flags = ["--model", "teacher", "--api_key_env", "none", "--base_url", "http://127.0.0.1:9/v1"]
        done = fresh_python(code, "synthesize", "--questions", "questions.jsonl", *flags)

        assert (done.returncode, done.stdout) == (1, "")
        (line,) = done.stderr.splitlines()
        assert line.startswith("edit-trl synthesize: http://127.0.0.1:9/v1: Cannot reach the endpoint (")

    @pytest.mark.parametrize(
        ("argv", "message"),
        [
            (["inspect", "questions.jsonl"], "Interrupted.\n"),
            (
                ["synthesize", "--questions", "questions.jsonl", "--model", "teacher", "--api_key_env", "none"],
                "Interrupted. All replies so far are kept. Run the same command to continue.\n",
            ),
        ],
        ids=["inspect", "synthesize"],
    )
    def test_interrupted_command_says_whether_it_goes_on(self, argv, message, monkeypatch, capsys):
        def interrupt(*_):
            raise KeyboardInterrupt

        monkeypatch.setattr("edit_trl.cli.rows.read_rows", interrupt)
        monkeypatch.setattr("edit_trl.cli.inspect.read_rows", interrupt)

        assert main(argv) == 130
        assert capsys.readouterr().err == message
