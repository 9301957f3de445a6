"""Tests of the content of the table of results."""

import copy
import re

import pytest

from edit_trl.evaluation import compare_students, print_results, score_generations


RECORDS = [
    {
        "question": f"What is {number} + 1?",
        "answer": str(number + 1),
        "task": "sums" if number else "dates",
        "sample": sample,
        "finish_reason": "length" if number == 3 else "stop",
        "extracted": None if number == 3 else str(number + 1 if sample else 0),
        "is_right": number != 3 and sample == 1,
    }
    for number in range(4)
    for sample in range(2)
]


def cells(shown: str) -> dict[str, list[str]]:
    """Cells of a table by what is in the first of their row."""
    rows = [[cell.strip() for cell in re.split("[│┃]", line)[1:-1]] for line in shown.splitlines()]
    return {row[0]: row[1:] for row in rows if len(row) == 6}


@pytest.fixture
def results() -> dict:
    """Of four questions three are right, if each has its second path alone; one reply in four was truncated."""
    scores = score_generations([record for record in RECORDS if record["sample"] == 1])
    return {**scores, "settings": {"model": "student"}}


class TestPrintResults:
    def test_has_a_row_a_task_and_one_for_all(self, results, capsys):
        print_results(results)

        shown = cells(capsys.readouterr().out)
        assert shown[""] == ["questions", "accuracy", "95% interval", "unparsed", "cut"]
        assert shown["dates"] == ["1", "100.0%", "20.7 - 100.0%", "0.0%", "0.0%"]
        assert shown["sums"] == ["3", "66.7%", "20.8 - 93.9%", "33.3%", "33.3%"]
        assert shown["all"] == ["4", "75.0%", "30.1 - 95.4%", "25.0%", "25.0%"]
        assert shown["mean of the tasks"][:2] == ["", "83.3%"]

    def test_results_of_earlier_releases_are_shown(self, results, capsys):
        """They call the share of truncated replies `cut_rate`."""
        old = copy.deepcopy(results)
        for scores in (old, *old["tasks"].values()):
            scores["cut_rate"] = scores.pop("truncated_rate")

        print_results(results)
        print_results(old)

        out = capsys.readouterr().out
        assert out[: len(out) // 2] == out[len(out) // 2 :]

    def test_says_how_paths_vote(self, capsys):
        print_results({**score_generations(RECORDS), "settings": {}, "tokens_per_second": 1234.5})

        out = capsys.readouterr().out
        assert cells(out)["a single path"][:2] == ["", "37.5%"]
        assert "Majority of 2 paths. pass@k, 1: 37.5%, 2: 75.0%\n1,234.5 tokens generated a second" in out

    def test_says_how_the_students_compare(self, results, capsys):
        comparison = compare_students([True, True, True, False], [True, False, False, False])

        print_results(results, {**comparison, "num_left_out": 3})

        out = capsys.readouterr().out
        assert "Difference to the other student: +50.0% (" in out
        assert "on 4 questions; right alone: 2 and 0." in out
        assert "3 questions that only one of them was asked are left out." in out
