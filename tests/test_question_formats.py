"""
Tests of benchmarks as they were released: which reader reads them, and what is question and answer. The rows have the
columns and types of the released files with invented content; the real files are read where they are at hand.
"""

import csv
import json
from decimal import Decimal
from pathlib import Path

import numpy as np
import pytest
from cli_fixtures import own_folder_fixture  # noqa: F401
from datasets import Dataset
from dual_cot_teacher import one_ssl_context, time_limit  # noqa: F401

from edit_trl.answers import answers_match
from edit_trl.cli import main
from edit_trl.cli.rows import read_questions as read_files
from edit_trl.evaluation import EvaluationConfig, Generation, evaluate, print_results
from edit_trl.evaluation.verdicts import judge_reply
from edit_trl.question_formats import final_answer, last_box, text_of
from edit_trl.questions import normalize_questions, read_questions


REAL = Path(__file__).parents[1] / ".." / "shared" / "data"
ICE = "Which is cold?\nOptions:\n(A) steam\n(B) ice"
CHOICES = [{"text": "steam", "label": "A"}, {"text": "ice", "label": "B"}]
NUMBERED = [{"text": "steam", "label": "1"}, {"text": "ice", "label": "2"}]
AGIEVAL = {"passage": None, "question": "Which is cold?", "options": ["(A)steam", "(B)ice"], "label": "B"}
BIG_BENCH = {"input": "Which is cold?", "target_scores": {"steam": 0, "ice": 1}}

# Name of the reader, rows, and the question and the answer of the first one.
RELEASED = {
    "gsm8k": ("GSM8K", [{"question": "9 * 2?", "answer": "9*2=<<9*2=18>>18\n#### 18"}], "9 * 2?", "18"),
    "gsm8k, with separators": ("GSM8K", [{"question": "Q?", "answer": "So.\n#### 1,500"}], "Q?", "1,500"),
    "gsm8k, the answers only": ("GSM8K", [{"question": "Q?", "answer": "#### 18"}], "Q?", "18"),
    "math": (
        "MATH",
        [{"problem": "P", "level": "Level 5", "type": "Algebra", "solution": r"Is $\boxed{\frac{1}{2}}$, not $2$."}],
        "P",
        r"\frac{1}{2}",
    ),
    "math, box without braces": ("MATH", [{"problem": "P", "solution": r"Thus $x=\boxed 7$."}], "P", "7"),
    "math, frame": ("MATH", [{"problem": "P", "solution": r"Thus \fbox{7}."}], "P", "7"),
    "math, several boxes": ("MATH", [{"problem": "P", "solution": r"\boxed{1} or rather \boxed{2}"}], "P", "2"),
    "math-500": (
        "MATH",
        [{"problem": "P", "solution": r"\boxed{x}", "answer": r"\sqrt{2}", "subject": "Algebra", "level": 5}],
        "P",
        r"\sqrt{2}",
    ),
    "boxed answers": ("solutions", [{"question": "P", "answer": r"\boxed{12}"}], "P", "12"),
    "bbh": ("BIG-Bench Hard", [{"input": f"{ICE}\n", "target": "(B)"}], ICE, "(B) ice"),
    "bbh, words": ("BIG-Bench Hard", [{"input": "Is it?\nOptions:\n- Yes\n- No", "target": "Yes"}], None, "Yes"),
    "agieval v1": ("AGIEval v1", [{**AGIEVAL, "answer": None, "other": {"solution": "Because."}}], ICE, "(B) ice"),
    "agieval v1, passage": (
        "AGIEval v1",
        [{**AGIEVAL, "passage": "Water.", "answer": None}],
        f"Water.\n{ICE}",
        "(B) ice",
    ),
    "agieval v1, cloze": (
        "AGIEval v1",
        [{"passage": None, "question": "P", "options": None, "label": None, "answer": "(3,4]", "other": {}}],
        "P",
        "(3,4]",
    ),
    "agieval v1, label in a list": ("AGIEval v1", [{**AGIEVAL, "label": ["B"], "answer": None}], ICE, "(B) ice"),
    "agieval on the Hub": (
        "AGIEval (query",
        [
            {
                "query": "Q: Which is cold? Answer Choices: (A)steam (B)ice\nA: Among A through B, the answer is",
                "choices": ["(A)steam", "(B)ice"],
                "gold": [1],
            }
        ],
        ICE,
        "(B) ice",
    ),
    "arc, jsonl": (
        "ARC (question.stem",
        [{"id": "Mercury_1", "question": {"stem": "Which is cold?", "choices": CHOICES}, "answerKey": "B"}],
        ICE,
        "(B) ice",
    ),
    "arc, jsonl with numbers": (
        "ARC (question.stem",
        [{"id": "NYSEDREGENTS_1", "question": {"stem": "Which is cold?", "choices": NUMBERED}, "answerKey": "2"}],
        ICE,
        "(B) ice",
    ),
    "arc, parquet": (
        "ARC (question, choices.text",
        [
            {
                "id": "Mercury_1",
                "question": "Which is cold?",
                "choices": {"text": ["steam", "ice"], "label": ["A", "B"]},
                "answerKey": "B",
            }
        ],
        ICE,
        "(B) ice",
    ),
    "arc, csv": (
        "ARC (question with its options",
        [
            {"questionID": "M_1", "question": "Which is cold? (A) steam (B) ice", "AnswerKey": "B"}
            | {"isMultipleChoiceQuestion": "1", "examName": "Mercury", "schoolGrade": "8"}
        ],
        ICE,
        "(B) ice",
    ),
    "big-bench, scores": ("BIG-bench (input", [BIG_BENCH], ICE, "(B) ice"),
    "big-bench, scores with a reason": (
        "BIG-bench (input",
        [{**BIG_BENCH, "target": "ice. It is frozen."}],
        ICE,
        "(B) ice",
    ),
    "big-bench, choices in the input": (
        "BIG-bench (input",
        [{**BIG_BENCH, "append_choices_to_input": False}],
        "Which is cold?",
        "ice",
    ),
    "big-bench, several right options": (
        "BIG-bench (input",
        [{"input": "Cold?", "target_scores": {"ice": 1, "steam": 0, "snow": 1}}],
        "Cold?\nOptions:\n(A) ice\n(B) steam\n(C) snow",
        ["(A) ice", "(C) snow"],
    ),
    "big-bench, several right texts": (
        "BIG-bench (input",
        [{"input": "Q", "target": ["eleven", "11"]}],
        "Q",
        ["eleven", "11"],
    ),
    "big-bench on the Hub": (
        "BIG-bench (inputs",
        [{"inputs": "Q", "targets": ["11"], "multiple_choice_targets": [], "multiple_choice_scores": []}],
        "Q",
        "11",
    ),
    "big-bench on the Hub, choices": (
        "BIG-bench (inputs",
        [
            {"inputs": "Which is cold?", "targets": ["ice"]}
            | {"multiple_choice_targets": ["steam", "ice"], "multiple_choice_scores": [0, 1]}
        ],
        ICE,
        "(B) ice",
    ),
    "strategyqa": (
        "StrategyQA",
        [{"qid": "a1", "term": "T", "description": "D", "question": "Did he?", "answer": False, "facts": ["F"]}],
        "Did he?",
        ["no", "false"],
    ),
    "mmlu": ("multiple choice", [{"question": "Which is cold?", "choices": ["steam", "ice"], "answer": 1}], ICE, None),
    "letters": (
        "multiple choice",
        [{"question": "Which is cold?", "choices": ["steam", "ice"], "answer": "B"}],
        ICE,
        None,
    ),
    "text": (
        "multiple choice",
        [{"question": "Which is cold?", "choices": ["steam", "ice"], "answer": "ice"}],
        ICE,
        None,
    ),
    "from one": (
        "multiple choice",
        [{"question": "Which is cold?", "choices": ["steam", "ice"], "answer": 2}],
        ICE,
        None,
    ),
    "aqua": (
        "multiple choice",
        [{"question": "Which is cold?", "options": ["A)steam", "B)ice"], "rationale": "R", "correct": "B"}],
        ICE,
        "(B) ice",
    ),
    "columns": (
        "multiple choice",
        [{"question": "Which is cold?", "A": "steam", "B": "ice", "answer": "B"}],
        ICE,
        None,
    ),
    "option columns": (
        "multiple choice",
        [{"question": "Which is cold?", "option_a": "steam", "option_b": "ice", "answer": "b"}],
        ICE,
        None,
    ),
}


class TestFormats:
    @pytest.mark.parametrize("name", RELEASED)
    def test_question_and_answer(self, name):
        reader, rows, question, answer = RELEASED[name]

        table = read_questions(rows)

        assert table.reader.startswith(reader)
        assert question in (None, table.rows[0]["question"])
        assert table.rows[0]["answer"] == (answer or "(B) ice")
        assert read_questions(table.rows).rows == table.rows  # what was read can be read again

    @pytest.mark.parametrize("name", RELEASED)
    def test_right_answer_matches_a_reply_that_states_it(self, name):
        row = read_questions(RELEASED[name][1]).rows[0]
        answers = [row["answer"]] if isinstance(row["answer"], str) else row["answer"]
        for answer in answers:
            stated = rf"\boxed{{{answer}}}" if "\\" in answer else f"the answer is {answer}"
            assert judge_reply(f"So {stated}.", row["answer"])["is_right"]

    @pytest.mark.parametrize(
        ("rows", "message"),
        [
            ([{"question": "Q?", "answer": "so\n#### 18"}, {"question": "R?", "answer": "so\n####  "}], "GSM8K"),
            (
                [
                    {"question": "Q?", "answer": "#### 18"},
                    {"question": "R?", "answer": "We do not know what this is."},
                ],
                "GSM8K",
            ),
            ([{"problem": "P", "solution": r"\boxed{1}"}, {"problem": "R", "solution": "It is 1."}], "MATH"),
            ([{"problem": "P", "solution": r"\boxed{1}"}, {"problem": "R", "solution": r"\boxed{1"}], "MATH"),
            ([{"input": "Q", "target": "(A)"}, {"input": "R", "target": ""}], "BIG-Bench Hard"),
            ([BIG_BENCH, {"input": "R", "target_scores": {"a": 0, "b": 0}}], "BIG-bench"),
            ([{**AGIEVAL}, {**AGIEVAL, "label": None, "answer": None}], "AGIEval v1"),
            ([{**AGIEVAL}, {**AGIEVAL, "label": "E"}], "AGIEval v1"),
            (
                [
                    {"question": {"stem": "Q", "choices": CHOICES}, "answerKey": "A"},
                    {"question": {"stem": "R", "choices": CHOICES}},
                ],
                "ARC",
            ),
            ([{"qid": "1", "question": "Q?", "answer": True}, {"qid": "2", "question": "R?"}], "question, answer"),
            (
                [
                    {"question": "Q", "choices": ["a", "b"], "answer": "A"},
                    {"question": "R", "choices": ["a", "b"], "answer": None},
                ],
                "multiple choice",
            ),
        ],
    )
    def test_row_without_an_answer_is_named_with_the_reader(self, rows, message):
        with pytest.raises(ValueError) as raised:
            read_questions(rows)
        assert "a text `answer`, but 1 of 2 have none, the first in rows 1 (from 0)" in str(raised.value)
        assert f"read as {message}" in str(raised.value)

    @pytest.mark.parametrize(
        ("row", "message"),
        [
            ({"question": "Q", "choices": ["1", "2"], "answer": 1}, "and not both, got 1 for"),
            ({"question": "Q", "choices": ["a", "b"], "answer": "c d"}, "in the same way, got 'c d' for"),
            (
                {"question": {"stem": "Q", "choices": [{"text": "a"}]}, "answerKey": "A"},
                "form of ARC .* row 0 .*'label'",
            ),
            ({"input": "Q", "target_scores": [1, 0]}, "form of BIG-bench .* row 0"),
        ],
    )
    def test_row_that_could_mean_several_things_or_nothing_is_refused(self, row, message):
        with pytest.raises(ValueError, match=message):
            read_questions([row])

    def test_options_may_be_an_object_of_letters(self):
        """As MedQA is released. Arrow fills the letters that a row does not have."""
        rows = [
            {"question": "What?", "options": {"A": "Aspirin", "B": "Iron", "C": None}, "answer": "Aspirin"},
            {"question": "Why?", "options": {"A": "x", "B": "y", "C": "z"}, "answer": "z"},
        ]
        assert [(row["question"], row["answer"]) for row in read_questions(rows).rows] == [
            ("What?\nOptions:\n(A) Aspirin\n(B) Iron", "(A) Aspirin"),
            ("Why?\nOptions:\n(A) x\n(B) y\n(C) z", "(C) z"),
        ]

    def test_question_that_needs_several_options_is_left_out_with_a_note(self):
        """As in AGIEval's physics and law exams: no reading can judge them."""
        table = read_questions([AGIEVAL, {**AGIEVAL, "label": ["A", "B"]}, {**AGIEVAL, "label": "AB"}])
        assert len(table.rows) == 1
        assert table.notes == ["2 questions whose answer is several options are left out."]

    def test_option_that_reads_as_another_is_known_by_its_letter(self):
        row = {"question": "Q", "choices": ["one", "(A) only"], "answer": "B"}
        assert read_questions([row]).rows[0]["answer"] == "(B)"

    def test_order_of_the_rows_does_not_matter(self):
        rows = [{"question": f"{i}?", "choices": ["a", "b", "c"], "answer": i} for i in range(3)]
        assert [row["answer"] for row in read_questions(rows[::-1]).rows] == ["(C) c", "(B) b", "(A) a"]


class TestValues:
    @pytest.mark.parametrize(
        ("value", "text"),
        [
            (42, "42"),
            (42.0, "42"),
            (-0.5, "-0.5"),
            (1e300, "1e+300"),
            (10**30, "1" + "0" * 30),
            (np.int64(7), "7"),
            (np.float32(0.5), "0.5"),
            (np.bool_(True), "yes"),
            (Decimal("1.50"), "1.50"),
            (True, "yes"),
            (False, "no"),
            (" 5 ", "5"),
            ("", None),
            (None, None),
            (float("inf"), None),
            ({"a": 1}, None),
        ],
    )
    def test_answers_that_are_no_text(self, value, text):
        assert text_of(value) == text

    def test_truth_value_is_said_as_the_question_asks(self):
        assert text_of(True, "True or false: 7 is odd.") == text_of(True, "Is it true that 7 is odd?") == "true"
        assert text_of(True, "Is the film based on a true story?") == "yes"

    @pytest.mark.parametrize("reply", ["The answer is yes.", "So it is true. Answer: True"])
    def test_both_words_for_a_truth_value_are_right(self, reply):
        rows = [{"question": "Is 7 odd?", "answer": True}, {"question": "Is 9 odd?", "answer": True}]
        (row, _) = read_questions(rows).rows
        assert judge_reply(reply, row["answer"])["is_right"]
        assert normalize_questions(rows)[0]["answer"] == "yes"  # a teacher is told one word

    @pytest.mark.parametrize("kind", ["jsonl", "parquet"])
    @pytest.mark.parametrize("answers", [[42, 7], [42.0, 0.5], [True, False]])
    def test_numbers_and_truth_values_in_files(self, kind, answers):
        rows = [{"question": f"{i}?", "answer": answer} for i, answer in enumerate(answers)]
        if kind == "jsonl":
            Path("a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        else:
            Dataset.from_list(rows).to_parquet("a.parquet")
        table = read_files("--dataset", f"a.{kind}", "test", None)
        words = {True: ["yes", "true"], False: ["no", "false"]}
        expected = [words[answer] if isinstance(answer, bool) else text_of(answer) for answer in answers]
        assert [row["answer"] for row in table.rows] == expected

    def test_answer_of_a_solution(self):
        assert final_answer("a\n#### 18") == "18" and final_answer("####") is None
        assert final_answer("2 + 3 = 5.\nSo the answer is 5.") == "5"
        assert final_answer("two\nlines") == "two\nlines"
        assert last_box(r"\boxed{\text{a \} b}}") == r"\text{a \} b}" and last_box("none") is None


class TestTeacher:
    """A teacher needs questions that are there once and have one answer."""

    def test_repetitions_and_questions_with_several_answers_are_left_out(self):
        rows = [
            {"question": "A?", "answer": "1"},
            {"question": "B?", "answer": "1"},
            {"question": "A?", "answer": "1"},
            {"question": "B?", "answer": "2"},
            {"question": "C?", "answer": ["1", "2"]},
        ]
        assert [row["question"] for row in normalize_questions(rows)] == ["A?"]
        notes = read_questions(rows, distinct=True).notes
        assert notes == ["2 repetitions of questions are left out.", "2 questions with several answers are left out."]


class TestFiles:
    def read(self, name, split="test", **options):
        return read_files("--dataset", str(name), split, None, **options)

    def test_task_of_bbh_and_big_bench(self):
        Path("snarks.json").write_text(json.dumps({"canary": "C", "examples": [{"input": "Q", "target": "A"}] * 2}))
        assert [row["task"] for row in self.read("snarks.json").rows] == ["snarks"] * 2
        Path("task.json").write_text(
            json.dumps({"name": "ice", "task_prefix": "Say which.\n", "examples": [BIG_BENCH]}, indent=2)
        )
        row = self.read("task.json").rows[0]
        assert (row["task"], row["task_description"], row["answer"]) == ("ice", "Say which.", "(B) ice")

    def test_folders(self):
        """BIG-Bench Hard: a file for each task. MATH: one for each problem. BIG-bench: results beside the task."""
        for path, content in {
            "bbh/b.json": {"examples": [{"input": "B", "target": "1"}]},
            "bbh/a.json": {"examples": [{"input": "A", "target": "2"}]},
            "MATH/test/algebra/10.json": {"problem": "P", "solution": r"\boxed{3}", "type": "Algebra"},
            "MATH/test/geometry/2.json": {"problem": "R", "solution": r"\boxed{4}", "type": "Geometry"},
            "MATH/train/algebra/1.json": {"problem": "T", "solution": r"\boxed{5}", "type": "Algebra"},
            "ice/task.json": {"name": "ice", "examples": [BIG_BENCH]},
            "ice/results/scores_model.json": {"scores": []},
        }.items():
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            Path(path).write_text(json.dumps(content, indent=4))

        assert [(row["task"], row["answer"]) for row in self.read("bbh").rows] == [("a", "2"), ("b", "1")]
        for name, split in (("MATH", "test"), ("MATH/test", "test")):
            rows = self.read(name, split).rows
            assert [(row["task"], row["answer"]) for row in rows] == [("Algebra", "3"), ("Geometry", "4")]
        assert [row["task"] for row in self.read("ice").rows] == ["ice"]

    def test_folder_of_splits_is_left_to_datasets(self):
        Path("data").mkdir()
        for split in ("train", "test"):
            Path("data", f"{split}.jsonl").write_text(json.dumps({"question": split, "answer": "5"}) + "\n")
        assert [(row["question"], row["task"]) for row in self.read("data").rows] == [("test", None)]

    def test_commands_name_the_reader(self, capsys):
        Path("a.jsonl").write_text(json.dumps({"question": "9 * 2?", "answer": "So.\n#### 18"}) + "\n")
        evaluate(self.read("a.jsonl"), lambda prompts, samples: [Generation("18", "stop", 1)], EvaluationConfig("out"))
        results = json.loads(Path("out/results.json").read_text())
        assert (results["accuracy"], results["questions"]["reader"]) == (1.0, "GSM8K (question, answer after ####)")
        print_results(results)
        assert "Read as GSM8K (question, answer after ####)." in capsys.readouterr().out
        pytest.importorskip("openai")
        flags = [
            "--questions",
            "a.jsonl",
            "--model",
            "m",
            "--api_key_env",
            "none",
            "--base_url",
            "http://localhost:9/v1",
        ]
        assert main(["synthesize", *flags, "--output_dir", "new", "--dry_run"]) == 0
        assert "Questions: 1, read as GSM8K (question, answer after ####)." in capsys.readouterr().out

    def test_choices_in_csv(self):
        with open("a.csv", "w", newline="") as file:
            csv.writer(file).writerows([["question", "A", "B", "answer"], ["Which is cold?", "steam", "ice", "B"]])
        assert self.read("a.csv").rows[0]["answer"] == "(B) ice"


@pytest.mark.skipif(not REAL.is_dir(), reason="needs the real files")
class TestRealFiles:
    def test_gsm8k(self):
        for split, size in (("train", 7473), ("test", 1319)):
            table = read_files("--dataset", str(REAL / "gsm8k" / f"{split}.jsonl"), split, None)
            assert table.reader == "GSM8K (question, answer after ####)" and table.notes == []
            assert len(table.rows) == size
            assert all(answers_match(row["answer"], row["answer"]) for row in table.rows[:200])

    def test_bbh(self):
        folder = REAL / "bbh" / "questions"
        table = read_files("--dataset", str(folder), "test", None)
        assert len(table.rows) == 6511 and len({row["task"] for row in table.rows}) == 27
        assert table.notes == ["4 rows repeat the question of another row. Each row counts."]
        asked = read_files("--questions", str(folder), "train", None, distinct=True)
        assert len(asked.rows) == 6511 - 4 - 2
        assert asked.notes == [
            "4 repetitions of questions are left out.",
            "2 questions with several answers are left out.",
        ]


class TestPassages:
    TEXT = "Tom bought a red car."

    @pytest.mark.parametrize(
        "row",
        [
            {"article": TEXT, "question": "What did Tom buy?", "options": ["a car", "a hat"], "answer": "A"},
            {"context": TEXT, "question": "What did Tom buy?", "answer": "a car"},
            {"passage": TEXT, "question": "did tom buy a car", "answer": True},
        ],
        ids=["race", "squad", "boolq"],
    )
    def test_text_that_a_question_is_about_is_before_it(self, row):
        table = read_questions([row])
        assert table.rows[0]["question"].startswith(f"{self.TEXT}\n\n{row['question']}")
        assert "put before the question" in table.reader

    def test_passage_in_the_question_is_not_repeated(self):
        row = {"passage": self.TEXT, "question": f"{self.TEXT} What did Tom buy?", "answer": "a car"}
        table = read_questions([row])
        assert table.rows[0]["question"] == row["question"] and "put before" not in table.reader

    def test_columns_that_are_no_text_are_left_alone(self):
        rows = [
            {"context": {"title": ["T"]}, "question": "Q?", "answer": "a"},
            {"context": " ", "question": "R?", "answer": "b"},
        ]
        assert [row["question"] for row in read_questions(rows).rows] == ["Q?", "R?"]
