"""Fixtures for the tests of commands: a folder, a teacher, and functions that run a command and read its output."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from dual_cot_teacher import DUAL_COTS, questions, teach
from pyarrow import parquet
from teacher import Teacher


# The teacher is wrong on three: 6 + 3 + 3 requests.
SIX_COTS = DUAL_COTS[:6]
FILES = ["README.md", "dual_cots.parquet", "rejected.parquet", "replies.sqlite", "report.json", "sft.parquet"]


@pytest.fixture(autouse=True, name="own_folder")
def own_folder_fixture(monkeypatch, tmp_path):
    """Paths of the tests are relative to a folder of their own. Tables are wide enough for one line a row."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    write_questions()
    return tmp_path


@pytest.fixture(name="teacher")
def teacher_fixture():
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


def capsys_err_last(capsys):
    """Standard output, and the last line of standard error."""
    out, err = capsys.readouterr()
    return out, err.splitlines()[-1]


def fresh_python(code, *arguments):
    return subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=100)
