"""Tests of the evaluation: the prompts for a student and the scores of its replies. The students are scripted."""

import json
from pathlib import Path

import pytest
from conftest import build_model
from scripted_student import QUESTIONS, RIGHT, Scripted, config, lines

from edit_trl.evaluation import (
    EvaluationConfig,
    Generation,
    LocalStudent,
    compare_runs,
    evaluate,
    print_results,
    score_generations,
    verdicts,
)
from edit_trl.evaluation.identity import hash_of_prompt
from edit_trl.evaluation.students import STOP
from edit_trl.questions import student_prompt


class TestEvaluate:
    def test_answers_are_read_and_scored_by_task(self, tmp_path):
        def reply(question, sample):
            return {
                "What is 2 + 3?": Generation("2 + 3 = 5. Therefore, the answer is 5.", "stop", 12),
                "What is 4 + 4, all in all?": Generation("It is hard to say, and I", "length", 9),
                "Is 7 odd?": Generation("So the answer is no.", "stop", 5),
            }[question]

        results = evaluate(QUESTIONS, Scripted(reply), config(tmp_path))

        assert results["num_questions"] == 3
        assert results["accuracy"] == pytest.approx(1 / 3)
        assert results["macro_accuracy"] == pytest.approx((1 / 2 + 0) / 2)
        assert results["unparsed_rate"] == results["truncated_rate"] == pytest.approx(1 / 3)
        assert results["tasks"]["sum"]["accuracy"] == 0.5
        assert results["tasks"]["sum"]["unparsed_rate"] == 0.5
        assert results["tasks"]["odd"]["accuracy"] == 0.0
        for scores in (results, *results["tasks"].values()):
            low, high = scores["interval"]
            assert 0 <= low <= scores["accuracy"] <= high <= 1
        assert json.loads(Path(tmp_path, "scores", "results.json").read_text()) == json.loads(json.dumps(results))

    def test_every_generation_is_kept_with_its_verdict(self, tmp_path):
        evaluate(QUESTIONS, Scripted(), config(tmp_path, num_paths=2))

        rows = sorted(lines(tmp_path / "scores"), key=lambda row: (row["question"], row["sample"]))
        assert rows == [
            {
                "row": QUESTIONS.index(question),
                **question,
                "prompt": hash_of_prompt(student_prompt(question["question"])),
                "sample": sample,
                "text": f"Therefore, the answer is {question['answer']}.",
                "finish_reason": "stop",
                "num_tokens": 7,
                "extracted": question["answer"],
                "is_right": True,
            }
            for question in sorted(QUESTIONS, key=lambda row: row["question"])
            for sample in (0, 1)
        ]

    def test_reply_ends_where_the_student_asks_the_next_question(self, tmp_path):
        text = f"The answer is 5.{STOP} What is 9 + 9?\nA: The answer is 18."

        results = evaluate(QUESTIONS[:1], Scripted(lambda *_: text), config(tmp_path))

        assert results["accuracy"] == 1.0

    def test_students_see_the_prompt_of_training_or_messages(self, tmp_path):
        prompts = []

        def student(batch, samples):
            prompts.extend(batch)
            return [Generation("5", "stop", 1)] * len(batch)

        rows = [QUESTIONS[0], {**QUESTIONS[1], "task_description": "Own."}]
        evaluate(rows, student, config(tmp_path, task_description="Add."))
        evaluate(rows[:1], student, EvaluationConfig(output_dir=str(tmp_path / "chat"), chat=True))

        assert prompts == [
            student_prompt(rows[1]["question"], "Own."),  # the longest first
            student_prompt(rows[0]["question"], "Add."),
            [{"role": "user", "content": student_prompt(rows[0]["question"])}],
        ]

    @pytest.mark.parametrize("batch_size", [1, 2, 100])
    def test_batches_are_no_larger_than_asked_for(self, batch_size, tmp_path):
        sizes = []

        def student(batch, samples):
            sizes.append(len(batch))
            return [Generation("The answer is 5.", "stop", 1)] * len(batch)

        evaluate(QUESTIONS, student, config(tmp_path, batch_size=batch_size, num_paths=3))

        assert sum(sizes) == 9 and max(sizes) == min(batch_size, 9)

    def test_student_that_batches_itself_gets_all_prompts_at_once(self, tmp_path):
        student = Scripted()
        student.batches_itself = True
        calls = []

        evaluate(QUESTIONS, student, config(tmp_path, batch_size=1, num_paths=3), lambda *call: calls.append(call))

        assert calls == [(9, 9)]

    def test_majority_of_the_paths_is_the_answer(self, tmp_path):
        def reply(question, sample):
            return f"The answer is {[RIGHT[question], '1', RIGHT[question], '2'][sample]}."

        results = evaluate(QUESTIONS, Scripted(reply), config(tmp_path, num_paths=4))

        assert results["accuracy"] == 1.0
        assert results["single_path_accuracy"] == 0.5
        assert results["pass_at_k"]["1"] == pytest.approx(0.5)
        assert results["pass_at_k"]["2"] == pytest.approx(1 - 1 / 6)  # of six pairs of paths one has two wrong ones
        assert results["pass_at_k"]["4"] == 1.0

    def test_progress_counts_replies(self, tmp_path):
        calls = []

        evaluate(QUESTIONS, Scripted(), config(tmp_path, batch_size=2, num_paths=2), lambda *call: calls.append(call))

        assert calls == [(2, 6), (4, 6), (6, 6)]


class TestJudging:
    def test_each_row_counts_even_if_its_question_is_there_twice(self, tmp_path):
        """As in BIG-Bench Hard, twice with two answers."""
        rows = [QUESTIONS[0], {**QUESTIONS[0], "answer": "6"}, QUESTIONS[1], QUESTIONS[0]]
        student = Scripted()

        results = evaluate(rows, student, config(tmp_path))

        assert (results["num_questions"], results["accuracy"], len(student.asked)) == (4, 0.75, 2)
        assert results["questions"]["notes"] == ["2 rows repeat the question of another row. Each row counts."]
        assert compare_runs(str(tmp_path / "scores"), str(tmp_path / "scores"))["num_questions"] == 4

    def test_each_of_several_right_answers_is_right(self, tmp_path):
        rows = [{"input": "Say a number.", "target": ["one", "two"]}, {"input": "Another.", "target": ["three", "4"]}]
        replies = {"Say a number.": "The answer is two.", "Another.": "The answer is five."}

        results = evaluate(rows, Scripted(lambda question, _: replies[question]), config(tmp_path))

        assert results["accuracy"] == 0.5
        assert results["questions"]["reader"] == "BIG-bench (input, target or target_scores)"

    @pytest.mark.parametrize("name", ["extract_answer", "answers_match"])
    @pytest.mark.parametrize("error", [ImportError, RecursionError, ZeroDivisionError])
    def test_reply_that_cannot_be_read_costs_this_reply(self, name, error, tmp_path, monkeypatch, capsys):
        """In any place: reading, comparing, voting."""
        read = getattr(verdicts, name)

        def broken(text, *more):
            if text == "8" or (text and "8." in text):
                raise error("no")
            return read(text, *more)

        monkeypatch.setattr(verdicts, name, broken)
        if name == "answers_match":
            monkeypatch.setattr("edit_trl.evaluation.metrics.answers_match", broken)

        results = evaluate(QUESTIONS, Scripted(), config(tmp_path, num_paths=3))
        print_results(results)

        assert (results["accuracy"], results["unparsed_rate"], results["num_problems"]) == (2 / 3, 1 / 3, 3)
        assert "3 replies could not be read because of an error" in capsys.readouterr().out
        assert {row.get("problem") for row in lines(tmp_path / "scores")} == {None, f"{error.__name__}: no"}

    def test_half_of_a_surrogate_pair_is_kept(self, tmp_path):
        """An endpoint may send it, and UTF-8 cannot write it."""
        rows = [{"question": "2 + 3? \ud83d", "answer": "5"}]
        for _ in range(2):
            results = evaluate(rows, Scripted(lambda *_: "\ud83d The answer is 5."), config(tmp_path))
            assert results["accuracy"] == 1.0
        assert lines(tmp_path / "scores")[0]["text"] == "\ud83d The answer is 5."
        assert results["replies"] == {"reused": 1, "generated": 0}

    @pytest.mark.parametrize("tasks", [["sum", ""], ["", "sum"], [" ", "sum"], [None, "sum"], ["", None]])
    def test_empty_task_is_no_task(self, tasks, tmp_path):
        """As an empty cell of a CSV file; in questions and in records."""
        rows = [{**row, "task": task} for row, task in zip(QUESTIONS, tasks, strict=False)]
        results = evaluate(rows, Scripted(), config(tmp_path))
        assert set(results["tasks"]) == ({"sum", "no task"} if "sum" in tasks else set())
        records = [{**row, "task": task} for row, task in zip(lines(tmp_path / "scores"), tasks, strict=True)]
        assert score_generations(records)["num_questions"] == 2


class TestBadInput:
    @pytest.mark.parametrize(
        ("rows", "message"),
        [
            ([], "at least one question"),
            ([{"question": "Why?"}], "a text `answer`"),
            ([{"query": "Why?", "answer": "5"}], "a text `question`"),
        ],
    )
    def test_questions_are_checked(self, rows, message, tmp_path):
        with pytest.raises(ValueError, match=message):
            evaluate(rows, Scripted(), config(tmp_path))

    @pytest.mark.parametrize("options", [{"num_paths": 0}, {"batch_size": 0}])
    def test_options_that_cannot_work_are_refused(self, options):
        with pytest.raises(ValueError, match="must be at least 1, got 0"):
            EvaluationConfig(**options)

    def test_greedy_paths_are_refused(self, tmp_path, tokenizer):
        with pytest.raises(ValueError, match="`num_paths=8` needs a temperature above zero"):
            evaluate(QUESTIONS, LocalStudent(build_model(), tokenizer), config(tmp_path, num_paths=8))


class TestScoreGenerations:
    def test_scores_the_rows_of_the_file(self, tmp_path):
        results = evaluate(QUESTIONS, Scripted(), config(tmp_path, num_paths=2))

        scores = score_generations(lines(tmp_path / "scores"))

        assert scores == {name: results[name] for name in scores}
        assert scores["accuracy"] == scores["pass_at_k"]["2"] == 1.0

    @pytest.mark.parametrize(("num_rows", "numbers"), [(0, r"\[\]"), (5, r"\[1, 2\]")])
    def test_unfinished_run_is_refused(self, num_rows, numbers, tmp_path):
        evaluate(QUESTIONS, Scripted(), config(tmp_path, num_paths=2))

        with pytest.raises(ValueError, match=f"must have the same number of replies, got {numbers}"):
            score_generations(lines(tmp_path / "scores")[:num_rows])
