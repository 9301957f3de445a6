"""Tests of the scores of saved replies: columns of any name, several replies, and logged samples of other tools."""

import csv
import json
import re
from pathlib import Path

import pytest
from cli_fixtures import own_folder_fixture, read_only_line  # noqa: F401
from datasets import Dataset
from dual_cot_teacher import one_ssl_context, time_limit  # noqa: F401
from scripted_student import QUESTIONS, RIGHT, Scripted, config

from edit_trl.cli import main
from edit_trl.evaluation import EvaluationConfig, evaluate, score_replies
from edit_trl.evaluation.replies import read_replies


def reply(number: int, right: bool = True) -> str:
    return f"So the answer is {number + (not right)}."


def table(reply_name="response", answer_name="answer", **more):
    """Four questions, of which the last is answered wrong."""
    return [
        {"question": f"What is {i} + 0?", reply_name: reply(i, i < 3), answer_name: str(i), **more} for i in range(4)
    ]


def sample(doc_id, resps, target, **more):
    """A logged sample of lm-evaluation-harness, in its fields."""
    known = {"doc": {"question": f"Question {doc_id}?"}, "arguments": {"gen_args_0": {"arg_0": "Q", "arg_1": {}}}}
    hashes = {"doc_hash": "a", "prompt_hash": "b", "target_hash": "c"}
    row = {"doc_id": doc_id, **known, "target": target, "resps": resps, "filtered_resps": [resps[0][0]], **hashes}
    return {**row, "filter": "none", "metrics": ["exact_match"], "exact_match": 1.0, **more}


def write(rows, path):
    Path(path).write_text("".join(json.dumps(row) + "\n" for row in rows))


class TestColumns:
    @pytest.mark.parametrize("reply_name", ["reply", "response", "Response", "completion", "output", "generated_text"])
    @pytest.mark.parametrize("answer_name", ["answer", "gold", "target", "reference", "ground_truth", "Expected"])
    def test_common_names_are_found(self, reply_name, answer_name):
        results = score_replies(table(reply_name, answer_name))

        assert (results["accuracy"], results["num_questions"]) == (0.75, 4)
        assert results["questions"]["reader"] == f"reply from `{reply_name}`, answer from `{answer_name}`"
        assert results["truncated_rate"] is None

    def test_any_name_can_be_given_and_parts_of_objects_too(self):
        rows = [
            {"a.b": {"choices": [{"message": {"content": reply(i, i < 3)}}]}, "meta": {"gold": i}} for i in range(4)
        ]
        found = read_replies(rows, "a.b.choices.0.message.content", "meta.gold")
        assert [record["is_right"] for record in found.records] == [True, True, True, False]

    @pytest.mark.parametrize(
        "wrap",
        [
            lambda text: {"content": text},
            lambda text: {"message": {"role": "assistant", "content": text}},
            lambda text: {
                "message": {"content": [{"type": "text", "text": text[:5]}, {"type": "text", "text": text[5:]}]}
            },
            lambda text: [{"role": "user", "content": "So the answer is 77."}, {"role": "assistant", "content": text}],
            lambda text: [{"message": {"content": text}}],
            lambda text: [text],
        ],
    )
    def test_reply_may_be_an_object_or_a_conversation(self, wrap):
        rows = [{**row, "response": wrap(row["response"])} for row in table()]
        assert score_replies(rows)["accuracy"] == 0.75

    @pytest.mark.parametrize(
        ("rows", "more"),
        [
            ([{"question": "Q?", "answer": "9 * 2 = 18\n#### 18"}], {}),
            ([{"problem": "Q?", "solution": r"so \boxed{18}", "type": "Algebra"}], {"task": "Algebra"}),
            ([{"input": "Q?", "target": "18"}], {}),
            ([{"question": "Q?", "choices": ["17", "18", "x"], "answer": "B"}], {}),
            ([{"question": "Q?", "answer": 18.0}], {}),
            ([{"question": "Q?", "answer": ["17.5", "18"]}], {}),
        ],
    )
    def test_released_benchmarks_with_a_column_of_replies(self, rows, more):
        found = read_replies([{**row, "model_output": "Hence the answer is 18."} for row in rows])
        assert [record["is_right"] for record in found.records] == [True]
        assert more.items() <= found.records[0].items()

    @pytest.mark.parametrize(
        ("rows", "options", "message"),
        [
            ([], {}, "at least one reply to score, got none"),
            (
                [{"a": "x", "answer": "5"}],
                {},
                r"a column for the reply, and none of \['a', 'answer'\].*`reply_column`",
            ),
            ([{"response": "x", "b": "5"}], {}, "a column for the answer, and none of .*`answer_column`"),
            (table(), {"reply_column": "nope"}, "`reply_column` must be a column of the rows, got 'nope'"),
            ([*table(), {"response": "x", "answer": " "}], {}, "1 of 5 have none, the first in rows 4 .*`answer`"),
            ([{"response": ["5", "6"], "answer": "5"}, {"response": ["5"], "answer": "5"}], {}, "1 to 1 questions, 2"),
            ([{"response": [], "answer": "5"}], {}, "lists of replies are empty"),
        ],
    )
    def test_what_cannot_be_scored_is_refused(self, rows, options, message):
        with pytest.raises(ValueError, match=message):
            read_replies(rows, **options)

    def test_empty_and_truncated_replies_are_counted(self):
        rows = [{**row, "finish_reason": "stop"} for row in table()]
        rows[0].update(response=None)
        rows[1].update(response="So it", finish_reason="max_tokens")

        results = score_replies(rows)

        assert (results["unparsed_rate"], results["truncated_rate"]) == (0.5, 0.25)
        assert results["questions"]["notes"] == ["1 replies are empty."]

    def test_options_of_a_question_are_no_replies(self):
        row = {"question": "2 + 3?", "choices": ["4", "5"], "answer": "B", "said": "The answer is B."}
        with pytest.raises(ValueError, match="a column for the reply"):
            score_replies([row])
        assert score_replies([row], reply_column="said")["accuracy"] == 1

    def test_choices_of_an_endpoint_are_replies(self):
        row = {"question": "2 + 3?", "choices": [{"message": {"content": "The answer is 5."}}], "answer": "5"}
        assert score_replies([row])["accuracy"] == 1

    def test_questions_with_one_prompt_are_several(self):
        rows = [{"prompt": "Solve it.", "input": f"{i} + 1?", "answer": "2", "output": "Answer: 2"} for i in range(4)]
        assert score_replies(rows)["num_questions"] == 4

    @pytest.mark.parametrize("word", ["True", "yes"])
    def test_truth_values_have_two_words(self, word):
        rows = [{"question": "Is 7 odd?", "response": f"The answer is {word}.", "answer": True}]
        assert score_replies(rows)["accuracy"] == 1


class TestSeveralReplies:
    def rows(self):
        """Three replies to each question: all right; two of three; one of three; none."""
        return [
            {"question": f"{i}?", "answer": str(i), "response": reply(i, k < 3 - i), "sample": k}
            for i in range(4)
            for k in range(3)
        ]

    def expect(self, results):
        assert (results["num_questions"], results["num_paths"]) == (4, 3)
        assert results["accuracy"] == 0.5 and results["single_path_accuracy"] == pytest.approx(6 / 12)
        # pass@2 by its definition: of three pairs of replies all, all, two and none have a right one
        assert results["pass_at_k"] == pytest.approx({"1": 0.5, "2": (1 + 1 + 2 / 3 + 0) / 4, "3": 0.75})

    def test_in_rows_of_their_own(self):
        self.expect(score_replies(self.rows()))
        self.expect(score_replies([{k: v for k, v in row.items() if k != "sample"} for row in self.rows()]))

    def test_in_a_list(self):
        rows = self.rows()
        joined = [
            {"question": f"{i}?", "answer": str(i), "responses": [r["response"] for r in rows[3 * i : 3 * i + 3]]}
            for i in range(4)
        ]
        self.expect(score_replies(joined))

    def test_question_that_the_dataset_has_twice_is_two_questions(self):
        rows = self.rows() + self.rows()[:3]
        results = score_replies(rows)
        assert (results["num_questions"], results["num_paths"]) == (5, 3)

    def test_repetitions_without_numbers_of_samples_are_rows(self):
        results = score_replies([*table(), table()[0]])
        assert results["num_questions"] == 5
        assert "1 rows repeat the question of another row" in results["questions"]["notes"][0]


class TestHarness:
    def test_replies_before_the_filters_are_read_once(self):
        rows = [
            sample(i, [[reply(i, i < 3)]], f"{i} it is\n#### {i}", filter=name)
            for i in range(4)
            for name in ("strict-match", "flexible-extract")
        ]
        results = score_replies(rows)
        assert (results["num_questions"], results["accuracy"]) == (4, 0.75)
        assert "2 filters: strict-match, flexible-extract" in results["questions"]["notes"][0]

    def test_repeats_vote(self):
        rows = [sample(i, [[reply(i), reply(i, i < 1), reply(i, i < 2)]], str(i)) for i in range(4)]
        results = score_replies(rows)
        assert results["num_paths"] == 3
        assert results["accuracy"] == 0.5  # questions 0 and 1; the wrong replies to 2 and 3 agree

    @pytest.mark.parametrize("target", ["1", 1, "B", "steam"])
    @pytest.mark.parametrize("wrapped", [True, False])
    def test_choices_by_log_likelihood(self, target, wrapped):
        doc = {"question": "Hot?", "choices": {"text": ["ice", "steam"], "label": ["A", "B"]}, "answerKey": "B"}
        pairs = [["-1.5", "False"], ["-0.5", "True"]], [["-1.5", "False"], ["-2.5", "True"]]
        rows = [
            {**sample(i, [[pair] for pair in pairs[i]] if wrapped else pairs[i], target), "doc": doc} for i in range(2)
        ]
        found = read_replies(rows)
        assert [record["is_right"] for record in found.records] == [True, False]
        assert [record["extracted"] for record in found.records] == ["(B)", "(A)"]

    def test_files_of_a_folder_are_tasks(self, capsys):
        Path("lm/model").mkdir(parents=True)
        stamp = "2026-01-31T10-00-00.000000"
        write([sample(i, [[reply(i)]], str(i)) for i in range(2)], f"lm/model/samples_sums_{stamp}.jsonl")
        write([sample(i, [[reply(i, False)]], str(i)) for i in range(2)], f"lm/model/samples_more_sums_{stamp}.jsonl")

        assert main(["score", "lm"]) == 0

        out = capsys.readouterr().out
        assert re.search(r"more_sums +│ +2 │ +0.0%", out) and re.search(r" sums +│ +2 │ +100.0%", out)
        assert re.search(r"all +│ +4 │ +50.0%", out)

    def test_only_the_newest_run_of_a_task_is_read(self, capsys):
        Path("lm/model").mkdir(parents=True)
        for day, right in ((30, True), (31, False)):
            write([sample(0, [[reply(0, right)]], "0")], f"lm/model/samples_sums_2026-01-{day}T10-00-00.000000.jsonl")

        assert main(["score", "lm"]) == 0

        out = capsys.readouterr().out
        assert re.search(r"all +│ +1 │ +0.0%", out)
        assert "1 files of older runs in 'lm' are left out." in " ".join(out.split())

    def test_samples_of_two_models_are_not_mixed(self, capsys):
        for model in "ab":
            Path("lm", model).mkdir(parents=True)
            write([sample(0, [[reply(0)]], "0")], f"lm/{model}/samples_sums_2026-01-31T10-00-00.000000.jsonl")

        assert main(["score", "lm"]) == 1
        assert "'lm/b' and 'lm/a' both have 'sums'. Pass one of them." in capsys.readouterr().err
        assert main(["score", "lm/a"]) == 0


class TestCommand:
    def test_long_replies_in_a_csv_file(self, capsys):
        rows = table()
        rows[0]["response"] = "x " * 100_000 + rows[0]["response"]
        with open("replies.csv", "w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
        assert main(["score", "replies.csv"]) == 0

    @pytest.mark.parametrize("kind", ["jsonl", "json", "csv", "parquet"])
    def test_kind_of_the_file_does_not_matter(self, kind, capsys):
        name, rows = f"replies.{kind}", table(task="sums")
        if kind == "jsonl":
            write(rows, name)
        elif kind == "json":
            Path(name).write_text(json.dumps(rows, indent=1))
        elif kind == "csv":
            with open(name, "w", newline="") as file:
                writer = csv.DictWriter(file, list(rows[0]))
                writer.writeheader()
                writer.writerows(rows)
        else:
            Dataset.from_list([{**row, "answer": int(row["answer"])} for row in rows]).to_parquet(name)

        assert main(["score", name]) == 0

        out = capsys.readouterr().out
        assert re.search(r"sums +│ +4 │ +75.0% │ +30.1 - 95.4% │ +0.0% │ +- │", out)
        assert "Read as reply from `response`, answer from `answer`." in out

    def test_own_generations_have_the_same_scores(self, tmp_path, capsys):
        """Self-consistency, tasks and truncated replies; replies that the table does not count are left out."""

        def some(question, number):
            return f"The answer is {['4', RIGHT[question], RIGHT[question]][number]}.\nQ: And?\nA: The answer is 9."

        evaluate(QUESTIONS, Scripted(some), config(tmp_path, num_paths=3))
        results = evaluate(QUESTIONS[:2], Scripted(some), config(tmp_path, num_paths=3))

        assert main(["score", str(tmp_path / "scores"), "--output_dir", "again"]) == 0

        again = json.loads(Path("again/results.json").read_text())
        names = ("accuracy", "interval", "unparsed_rate", "truncated_rate", "tasks", "pass_at_k", "num_questions")
        assert {name: again[name] for name in names} == {name: json.loads(json.dumps(results[name])) for name in names}
        assert "3 replies that the last scores did not count are left out" in capsys.readouterr().out

    def test_replies_are_compared_with_a_run_and_with_replies(self, capsys):
        rows = [
            {"question": row["question"], "answer": row["answer"], "response": "The answer is 5."} for row in QUESTIONS
        ]
        write(rows, "replies.jsonl")
        evaluate(QUESTIONS, Scripted(), EvaluationConfig("run"))

        assert main(["score", "replies.jsonl", "--output_dir", "scored", "--compare", "run"]) == 0
        assert "Difference to the other student: -66.7%" in capsys.readouterr().out
        assert main(["score", "replies.jsonl", "--output_dir", "scored", "--compare", "scored"]) == 0
        assert "Difference to the other student: +0.0%" in capsys.readouterr().out

    @pytest.mark.parametrize(
        ("flags", "message"),
        [
            (["none.jsonl"], "`REPLIES` must be a JSON, JSON Lines, CSV or Parquet file"),
            (["replies.jsonl", "--output_dir", "run"], "'run' has the replies of a student. Pass another folder"),
            (["replies.jsonl", "--output_dir", "."], "'results.json' is not of one. It would be replaced"),
            (["scored/generations.jsonl", "--output_dir", "scored"], "must not be a file that is read"),
            (["replies.jsonl", "--compare", "nowhere"], "must be the `output_dir` of one that was scored"),
            (["replies.jsonl", "--answer_column", "gold"], "`answer_column` must be a column of the rows, got 'gold'"),
        ],
    )
    def test_what_cannot_work_is_one_line_and_writes_nothing(self, flags, message, capsys):
        write(table(), "replies.jsonl")
        evaluate(QUESTIONS, Scripted(), EvaluationConfig("run"))
        assert main(["score", "replies.jsonl", "--output_dir", "scored"]) == 0
        Path("results.json").write_text("mine")
        before = {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()}
        capsys.readouterr()

        assert main(["score", *flags]) == 1

        assert message in read_only_line(capsys)
        assert {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()} == before
