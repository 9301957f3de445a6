"""Tests of the metric of the `evaluate` library: its numbers agree with `accuracy`, in every way to add replies."""

import subprocess
import sys
import textwrap

import pytest

from edit_trl.evaluation import accuracy, extract_answer


REPLIES = [
    "2 + 3 = 5. Therefore, the answer is 5.",
    "Therefore, the answer is 6.",
    "I do not know.",
    "<think>The answer is (A).</think>The answer is (B).",
    "The answer is yes.",
]
REFERENCES = ["5", "5.0", "1", "B", "no"]
TASKS = ["sums", "sums", "sums", "options", None]
EXPECTED = accuracy([True, False, None, True, False], TASKS)


@pytest.fixture(scope="module")
def AnswerAccuracy():
    return pytest.importorskip("edit_trl.evaluation.answer_accuracy").AnswerAccuracy


class TestAnswerAccuracy:
    def test_reads_and_compares_raw_replies(self, AnswerAccuracy, tmp_path):
        metric = AnswerAccuracy(cache_dir=str(tmp_path))

        assert metric.compute(predictions=REPLIES, references=REFERENCES, tasks=TASKS) == EXPECTED
        assert not list(tmp_path.rglob("*.arrow"))
        # and once more, from nothing
        scores = metric.compute(predictions=REPLIES[:1], references=REFERENCES[:1])
        assert scores == accuracy([True])

    def test_reply_that_cannot_be_read_costs_this_reply(self, AnswerAccuracy, monkeypatch):
        def broken(reply):
            if "6" in reply:
                raise ImportError("no reader of formulas")
            return extract_answer(reply)

        monkeypatch.setattr("edit_trl.evaluation.verdicts.extract_answer", broken)
        scores = AnswerAccuracy(keep_in_memory=True).compute(predictions=REPLIES[:2], references=REFERENCES[:2])
        assert scores == accuracy([True, None])

    @pytest.mark.parametrize("keep_in_memory", [False, True])
    def test_batches_add_up(self, keep_in_memory, AnswerAccuracy, tmp_path):
        metric = AnswerAccuracy(cache_dir=str(tmp_path), keep_in_memory=keep_in_memory)

        metric.add_batch(predictions=REPLIES[:2], references=REFERENCES[:2], tasks=TASKS[:2])
        metric.add(prediction=REPLIES[2], reference=REFERENCES[2], task=TASKS[2])
        metric.add_batch(predictions=REPLIES[3:4], references=REFERENCES[3:4], tasks=TASKS[3:4])
        metric.add(prediction=REPLIES[4], reference=REFERENCES[4])

        assert metric.compute() == EXPECTED

    def test_rest_may_come_with_the_call(self, AnswerAccuracy, tmp_path):
        metric = AnswerAccuracy(cache_dir=str(tmp_path))
        metric.add_batch(predictions=REPLIES[:3], references=REFERENCES[:3], tasks=TASKS[:3])

        assert metric.compute(predictions=REPLIES[3:], references=REFERENCES[3:], tasks=TASKS[3:]) == EXPECTED

    def test_without_tasks_there_are_none(self, AnswerAccuracy, tmp_path):
        metric = AnswerAccuracy(cache_dir=str(tmp_path))
        scores = metric.compute(predictions=REPLIES, references=REFERENCES, confidence_level=0.5)

        assert scores == accuracy([True, False, None, True, False], confidence_level=0.5)

    @pytest.mark.slow
    def test_two_processes_are_counted_together(self, AnswerAccuracy, tmp_path):
        """The second process has the last two replies. The first gets all numbers, the second none."""
        code = f"""
        from edit_trl.evaluation.answer_accuracy import AnswerAccuracy

        metric = AnswerAccuracy(num_process=2, process_id=1, experiment_id="two", cache_dir={str(tmp_path)!r})
        metric.add_batch(predictions={REPLIES[3:]}, references={REFERENCES[3:]}, tasks={TASKS[3:]})
        print(metric.compute())
        """
        second = subprocess.Popen([sys.executable, "-c", textwrap.dedent(code)], stdout=subprocess.PIPE, text=True)
        try:
            metric = AnswerAccuracy(num_process=2, process_id=0, experiment_id="two", cache_dir=str(tmp_path))
            metric.add_batch(predictions=REPLIES[:3], references=REFERENCES[:3], tasks=TASKS[:3])
            scores = metric.compute()
            output, _ = second.communicate(timeout=100)
        finally:
            second.kill()

        assert scores == EXPECTED
        assert output.strip() == "None"

    @pytest.mark.parametrize(
        ("predictions", "references", "tasks"),
        [(["a", "b"], ["a"], None), (["a"], ["a"], ["x", "y"]), ([5], ["a"], None), ([["a"]], ["a"], None)],
    )
    def test_what_does_not_fit_together_is_refused(self, predictions, references, tasks, AnswerAccuracy, tmp_path):
        with pytest.raises(ValueError, match="Mismatch in the number|don't match the expected format"):
            AnswerAccuracy(cache_dir=str(tmp_path)).compute(
                predictions=predictions, references=references, tasks=tasks
            )
