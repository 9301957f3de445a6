"""Tests of the files and datasets that commands read, with `edit-trl synthesize` as an example of all commands."""

import csv
import gzip
import json
import os
import re
from pathlib import Path

import pytest
from cli_fixtures import (  # noqa: F401
    SIX_COTS,
    capsys_err_last,
    command,
    own_folder_fixture,
    rows_of,
    teacher_fixture,
    write_questions,
)
from datasets import Dataset
from dual_cot_teacher import DUAL_COTS, asked, one_ssl_context, questions, time_limit  # noqa: F401
from teacher import Teacher

from edit_trl.cli import main
from edit_trl.cli.rows import read_rows


pytest.importorskip("openai")


class TestFiles:
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

    @pytest.mark.parametrize("kind", ["jsonl", "json", "csv"])
    @pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "gzip", "standard input"])
    def test_packing_and_encoding_do_not_matter(self, kind, encoding, teacher, monkeypatch):
        rows = [{"question": f"Größe {number}?\nUnd?", "answer": "Ü"} for number in range(300)]
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        if kind == "json":
            text = json.dumps(rows, ensure_ascii=False, indent=1)
        elif kind == "csv":
            text = "question,answer\r\n" + "".join(f'"{row["question"]}",{row["answer"]}\r\n' for row in rows)
        content = text.encode(encoding if encoding.startswith("utf") else "utf-8")
        name = f"rows.{kind}"
        if encoding == "gzip":
            name, content = f"{name}.gz", gzip.compress(content)
        Path(name).write_bytes(content)
        if encoding == "standard input":
            if kind == "csv":
                pytest.skip("standard input is JSON")
            with open(name) as file:
                monkeypatch.setattr("sys.stdin", file)
                assert list(read_rows("DATA", "-", "train")) == rows
            return

        assert list(read_rows("DATA", name, "train")) == rows

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
            assert main(command(teacher, questions=f"odd.{kind}")) == 1  # no pair

        assert [{name: row[name] for name in rows[0]} for row in rows_of("out/rejected.parquet")] == rows

    def test_marks_and_empty_cells_of_csv_are_read(self, teacher):
        """Quotation marks and line breaks in a text, rows that end with a comma, and an unnamed column of numbers."""
        content = ',question,answer,\n0,"Is ""a, b""\nright?",5,\n1,How "many" are there?,6,,,\n'
        Path("odd.csv").write_text(content, encoding="utf-8")
        with Teacher(lambda *_: "I do not know.") as teacher:
            assert main(command(teacher, questions="odd.csv")) == 1  # no pair

        found = {(row["question"], row["answer"]) for row in rows_of("out/rejected.parquet")}
        assert found == {('Is "a, b"\nright?', "5"), ('How "many" are there?', "6")}

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


class TestFailures:
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
            (
                "a.csv",
                b"question,answer\n\xff,5\n",
                "got 'a.csv': it must be in UTF-8, and its byte 0xff is",
            ),
            ("a.jsonl", b'{"question": "Caf\xe9?"}', "must be in UTF-8, .* 0xe9 .* `iconv -f latin1 -t utf-8 a.jsonl"),
            (
                "a.jsonl.gz",
                gzip.compress(b'{"question": ', mtime=0),
                "got 'a.jsonl.gz': line 1, column 14: Expecting value",
            ),
            ("a.jsonl.gz", gzip.compress(b"{}", mtime=0)[:-9], "got 'a.jsonl.gz': Compressed file ended before"),
            ("a.parquet", b"PAR1", "got 'a.parquet': "),
            ("a.jsonl", b"", "`questions` must hold at least one question, got none"),
            ("a.csv", b"question,answer\n", "`questions` must hold at least one question, got none"),
            (
                "a.csv",
                b"questions,answer\nWhy?,5\n",
                r"the column `question`, got \['questions', 'answer'\]. Did you mean 'q",
            ),
            ("a.csv", b"question;answer\nWhy?;5\n", r"got \['question;answer'\]. The cells .* they are by ';'"),
            ("a.csv", b"question\tanswer\nWhy?\t5\n", r"must be separated by commas, and here they are by '\\t'"),
            ("a.jsonl", b'{"question": "Why?", "y": "5"}', "the column `answer`, got .* Rename the columns"),
            ("a.csv", b"question,answer\nWhy?\n", "a text `answer`, but 1 of 1 have none, the first in rows 0"),
            ("a.csv", b'question,answer\nWho?,1\n"Why?,5\nHow?,6\n', "line 3: unexpected end of data. A text with"),
            ("a.csv", b'question,answer\n"Why?,5\nHow ""?,6\n"How?",7\n', "line 2: ',' expected after '\"'"),
            ("a.csv", b'question,answer\n"Why" he asks,5\n', "line 2: ',' expected after '\"'. A text with quotation"),
            ("a.csv", b'"question,answer\nWhy?,5\n', "line 1: unexpected end of data"),
            ("a.csv", b"question,answer\nWho?,1\nWhy, then?,5\n", "line 3 has more cells than the 2 columns"),
            ("a.csv", b"question,answer,answer\nWhy?,5,6\n", "several columns have the name 'answer'"),
            ("a.jsonl", b'{"question": "Why?", "answer": null}', "a text `answer`, but 1 of 1"),
            ("a.csv", b"question,answer\nWhy?,5\nWhy?,6\n", "have one answer, but all 1 have several, .* rows 0, 1"),
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
