"""
Tests of tables of questions (which rows are accepted, and their form) and of the prompt of a question.
"""

import pytest

from edit_trl.questions import normalize_questions, student_prompt


GOOD = {"question": "What is 2 + 3?", "answer": "5"}


class TestNormalizeQuestions:
    def test_empty_task_is_no_task(self):
        """As an empty cell of a CSV file."""
        rows = normalize_questions([{"question": "Why?", "answer": "5", "task": ""}])
        assert rows[0]["task"] is None

    @pytest.mark.parametrize(
        ("rows", "message"),
        [
            ([], "`questions` must hold at least one question, got none. Check the file and its split"),
            ([{"question": "", "answer": "5"}], "a text `question`, but 1 of 1 have none, the first in rows 0 "),
            (
                [GOOD, {"question": " \n", "answer": "5"}],
                "a text `question`, but 1 of 2 have none, the first in rows 1 ",
            ),
            ([GOOD, {"question": "What?"}], "a text `answer`, but 1 of 2 have none, the first in rows 1 "),
            ([GOOD, {"question": "What?", "answer": ""}], "a text `answer`, but 1 of 2"),
            ([{**GOOD, "answer": None}], "a text `answer`"),
            ([{**GOOD, "answer": {"5": 5}}], "a text `answer`"),
            ([{**GOOD, "answer": float("nan")}], "a text `answer`"),
            ([{**GOOD, "answer": []}], "a text `answer`"),
            ([{**GOOD, "question": [{"role": "user", "content": "What?"}]}], "a text `question`"),
            (
                [{"prompt": "What?", "solution": "5"}],
                "a text `question`.* rename the columns to `question` and `answer`",
            ),
            ([{**GOOD, "answer": None}] * 9, "9 of 9 have none, the first in rows 0, 1, 2, 3, 4 "),
            (
                [GOOD, {**GOOD, "answer": "6"}],
                r"have one answer, but all 1 have several, the first in rows 0, 1 \(from 0\): 'What is 2",
            ),
        ],
    )
    def test_bad_rows_are_named_with_what_to_do(self, rows, message):
        with pytest.raises(ValueError, match=message):
            normalize_questions(rows)

    @pytest.mark.parametrize("rows", [["What is 2 + 3?"], {"train": [GOOD]}, "questions.jsonl"])
    def test_what_are_no_rows_is_refused(self, rows):
        with pytest.raises(TypeError, match="must be rows with `question` and `answer`, got '.* pass one split"):
            normalize_questions(rows)

    def test_good_rows_come_with_four_columns_and_without_spaces_around(self):
        rows = [
            {"question": " What is 2 + 3?\n", "answer": " 5", "more": 1},
            {"question": "What?", "answer": "6", "task": "sums", "task_description": "Add."},
            {"question": "Why?", "answer": "7", "task": 3, "task_description": None},
        ]

        assert normalize_questions(rows) == [
            {"question": "What is 2 + 3?", "answer": "5", "task": None, "task_description": ""},
            {"question": "What?", "answer": "6", "task": "sums", "task_description": "Add."},
            {"question": "Why?", "answer": "7", "task": "3", "task_description": ""},
        ]


class TestStudentPrompt:
    def test_description_of_the_task_is_the_first_line(self):
        assert student_prompt("What is 2 + 3?", "Add.") == "Add.\nQ: What is 2 + 3?\nA:"
        assert student_prompt("What is 2 + 3?") == "Q: What is 2 + 3?\nA:"
