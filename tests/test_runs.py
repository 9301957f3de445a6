"""Tests of runs on disk: nothing is generated twice, and two runs can be compared."""

import json

import pytest
from scripted_student import QUESTIONS, RIGHT, Scripted, config, lines

from edit_trl.evaluation import EvaluationConfig, compare_runs, evaluate


class TestResume:
    @pytest.mark.parametrize("fail_after", [0, 2, 4, 6])
    def test_interrupted_run_generates_nothing_twice(self, fail_after, tmp_path):
        options = config(tmp_path, batch_size=2, num_paths=3)
        whole = evaluate(QUESTIONS, Scripted(), EvaluationConfig(str(tmp_path / "whole"), 3, 2))
        first, second = Scripted(fail_after=fail_after), Scripted()
        with pytest.raises(KeyboardInterrupt):
            evaluate(QUESTIONS, first, options)

        results = evaluate(QUESTIONS, second, options)

        assert len(first.asked) == fail_after
        assert sorted(first.asked + second.asked) == sorted(
            (row["question"], i) for row in QUESTIONS for i in range(3)
        )
        names = [name for name in whole if name not in ("tokens_per_second", "settings", "replies")]
        assert {name: results[name] for name in names} == {name: whole[name] for name in names}

    def test_torn_last_line_is_generated_again(self, tmp_path):
        evaluate(QUESTIONS, Scripted(), config(tmp_path))
        path = tmp_path / "scores" / "generations.jsonl"
        content = path.read_bytes()
        path.write_bytes(content[:-20])
        again = Scripted()

        evaluate(QUESTIONS, again, config(tmp_path))

        assert len(again.asked) == 1
        assert sorted(path.read_bytes().splitlines()) == sorted(content.splitlines())

    def test_last_line_without_its_end_is_read_and_not_torn_further(self, tmp_path):
        """What is appended begins a new line, so that the file can be read after another interruption."""
        evaluate(QUESTIONS[:1], Scripted(), config(tmp_path))
        path = tmp_path / "scores" / "generations.jsonl"
        path.write_bytes(path.read_bytes().rstrip(b"\n"))
        with pytest.raises(KeyboardInterrupt):
            evaluate(QUESTIONS, Scripted(fail_after=1), config(tmp_path, batch_size=1))
        again = Scripted()

        results = evaluate(QUESTIONS, again, config(tmp_path))

        assert len(again.asked) == 1
        assert results["num_questions"] == len(lines(tmp_path / "scores")) == 3

    def test_line_that_cannot_be_read_is_named(self, tmp_path):
        evaluate(QUESTIONS, Scripted(), config(tmp_path))
        path = tmp_path / "scores" / "generations.jsonl"
        path.write_bytes(b"{oops\n" + path.read_bytes())

        with pytest.raises(ValueError, match="must hold a generation per line.*oops"):
            evaluate(QUESTIONS, Scripted(), config(tmp_path))

    def test_finished_run_asks_nothing_and_reads_again(self, tmp_path):
        """What can be read changes with the package; the replies do not."""
        evaluate(QUESTIONS, Scripted(), config(tmp_path))
        path = tmp_path / "scores" / "generations.jsonl"
        path.write_text(path.read_text().replace('"is_right": true', '"is_right": false'))
        again = Scripted()

        results = evaluate(QUESTIONS, again, config(tmp_path))

        assert again.asked == []
        assert results["accuracy"] == 1.0
        assert "tokens_per_second" not in results

    def test_more_questions_and_paths_ask_for_the_rest(self, tmp_path):
        evaluate(QUESTIONS[:2], Scripted(), config(tmp_path))
        more = Scripted()

        evaluate(QUESTIONS, more, config(tmp_path, num_paths=2))

        known = {(row["question"], 0) for row in QUESTIONS[:2]}
        assert set(more.asked) == {(row["question"], i) for row in QUESTIONS for i in (0, 1)} - known

    def test_other_settings_are_refused(self, tmp_path):
        evaluate(QUESTIONS, Scripted(), config(tmp_path))

        with pytest.raises(ValueError, match="made with other settings: `task_description=''`, now 'Add.'"):
            evaluate(QUESTIONS, Scripted(), config(tmp_path, task_description="Add."))

    def test_settings_are_written_before_the_first_reply(self, tmp_path):
        with pytest.raises(KeyboardInterrupt):
            evaluate(QUESTIONS, Scripted(fail_after=0), config(tmp_path, chat=True))

        settings = json.loads((tmp_path / "scores" / "settings.json").read_text())
        assert settings == {"format": 2, "chat": True, "task_description": ""}


class TestCompareRuns:
    """The one is right on all three questions, the other is wrong on one and was not asked another."""

    @pytest.fixture
    def folders(self, tmp_path):
        def wrong(question, sample):
            return f"The answer is {'4' if question.startswith('What') else RIGHT[question]}."

        evaluate(QUESTIONS, Scripted(), EvaluationConfig(str(tmp_path / "one")))
        evaluate(QUESTIONS[1:], Scripted(wrong), EvaluationConfig(str(tmp_path / "other")))
        return str(tmp_path / "one"), str(tmp_path / "other")

    def test_common_questions_are_compared(self, folders):
        comparison = compare_runs(*folders)

        assert (comparison["num_questions"], comparison["num_left_out"]) == (2, 1)
        assert (comparison["num_right_alone"], comparison["num_other_right_alone"]) == (1, 0)
        assert comparison["difference"] == 0.5
        assert compare_runs(*reversed(folders))["difference"] == -0.5

    def test_majority_of_the_paths_counts(self, folders, tmp_path):
        def reply(question, sample):
            return f"The answer is {['4', RIGHT[question], RIGHT[question]][sample]}."

        evaluate(QUESTIONS, Scripted(reply), EvaluationConfig(str(tmp_path / "voting"), num_paths=3))

        assert compare_runs(str(tmp_path / "voting"), folders[0])["difference"] == 0.0

    def test_files_stay_as_they_are(self, folders):
        """Of a run that is not finished too."""
        path = f"{folders[1]}/generations.jsonl"
        with open(path, "ab") as file:
            file.write(b'{"question": "What')
        with open(path, "rb") as file:
            before = file.read()

        assert compare_runs(*folders)["num_questions"] == 2
        with open(path, "rb") as file:
            assert file.read() == before

    def test_runs_without_a_common_question_are_refused(self, folders, tmp_path):
        evaluate([{"question": "1 + 1?", "answer": "2"}], Scripted(lambda *_: "2"), config(tmp_path))
        with pytest.raises(ValueError, match="Both runs must have been asked the same questions.*none in common"):
            compare_runs(folders[0], str(tmp_path / "scores"))

    def test_folder_that_was_not_scored_is_refused(self, folders, tmp_path):
        with pytest.raises(KeyboardInterrupt):
            evaluate(QUESTIONS, Scripted(fail_after=1), config(tmp_path, batch_size=1))
        for folder in ("nowhere", "scores"):
            with pytest.raises(ValueError, match="must be the `output_dir` of one that was scored"):
                compare_runs(folders[0], str(tmp_path / folder))

    def test_what_the_table_counts_is_compared(self, folders, tmp_path):
        """Four paths of which three are wrong, then one, which is right; three questions, then two."""

        def reply(question, sample):
            return f"The answer is {'1' if sample else RIGHT[question]}."

        folder = str(tmp_path / "fewer")
        evaluate(QUESTIONS, Scripted(reply), EvaluationConfig(folder, num_paths=4))
        assert compare_runs(folders[0], folder)["difference"] == 1.0
        again = Scripted(reply)
        results = evaluate(QUESTIONS[:2], again, EvaluationConfig(folder))

        comparison = compare_runs(folders[0], folder)

        assert again.asked == [] and (results["num_questions"], results["accuracy"]) == (2, 1.0)
        assert (comparison["num_questions"], comparison["num_left_out"], comparison["difference"]) == (2, 1, 0.0)
        assert len(lines(folder)) == 12  # the other replies are kept, and used again when they are asked for
        more = evaluate(QUESTIONS, again, EvaluationConfig(folder, num_paths=4))
        assert again.asked == [] and more["accuracy"] == 0.0

    def test_other_right_answers_are_not_the_same_question(self, folders, tmp_path):
        changed = [{**QUESTIONS[0], "answer": "6"}, *QUESTIONS[1:]]
        evaluate(changed, Scripted(), config(tmp_path))
        comparison = compare_runs(folders[0], str(tmp_path / "scores"))
        assert (comparison["num_questions"], comparison["num_left_out"]) == (2, 2)

    def test_runs_of_the_first_release_are_compared_as_their_table_counts(self, folders, tmp_path):
        """Their files have verdicts that their results do not count: of more paths."""
        folder = tmp_path / "old"
        folder.mkdir()
        records = [
            {**row, "sample": sample, "text": "", "finish_reason": "stop", "num_tokens": 1}
            | {"extracted": "1" if sample else row["answer"], "is_right": not sample}
            for row in QUESTIONS
            for sample in range(4)
        ]
        (folder / "generations.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
        (folder / "results.json").write_text(json.dumps({"num_questions": 3, "settings": {"num_paths": 1}}))
        assert compare_runs(folders[0], str(folder))["difference"] == 0.0

        (folder / "results.json").write_text(json.dumps({"num_questions": 2, "settings": {"num_paths": 1}}))
        with pytest.raises(ValueError, match="verdicts on 3 questions, and its results count 2. Score it again"):
            compare_runs(folders[0], str(folder))
