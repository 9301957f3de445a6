"""Tests that old names of the evaluation still work and that their warning gives the new name. Removed in 0.3.0."""

import importlib
import warnings
from pathlib import Path

import pytest

from edit_trl import evaluation
from edit_trl.evaluation import accuracy, benchmarks, bootstrap_interval, compare_students, wilson_interval


@pytest.mark.parametrize(
    ("module", "old", "new"),
    [
        ("edit_trl.evaluation", "compare", evaluation.compare_runs),
        ("edit_trl.evaluation", "score", evaluation.score_generations),
        ("edit_trl.evaluation.harness", "run_harness", benchmarks.evaluate_benchmarks),
        ("edit_trl.evaluation.harness", "harness_tasks", benchmarks.harness_tasks),
        ("edit_trl.evaluation.harness", "BENCHMARKS", benchmarks.BENCHMARKS),
    ],
)
def test_old_name_gives_the_new_one_and_warns_where_it_is_written(module, old, new):
    module = importlib.import_module(module)
    with pytest.warns(FutureWarning, match=rf"`{module.__name__}.{old}` is now `edit_trl.evaluation") as caught:
        assert getattr(module, old) is new
    assert [Path(warning.filename).name for warning in caught] == [Path(__file__).name]


@pytest.mark.parametrize(
    ("function", "arguments"),
    [
        (accuracy, ([True, False, None],)),
        (wilson_interval, (1, 3)),
        (bootstrap_interval, ([1.0, 0.0, 0.0],)),
        (compare_students, ([True, False], [False, False])),
    ],
)
def test_old_argument_gives_the_same_and_warns_where_it_is_written(function, arguments):
    name = function.__name__
    with pytest.warns(
        FutureWarning, match=rf"`{name}\(level=...\)` is now `{name}\(confidence_level=...\)`"
    ) as caught:
        found = function(*arguments, level=0.5)
    assert found == function(*arguments, confidence_level=0.5) != function(*arguments)
    assert [Path(warning.filename).name for warning in caught] == [Path(__file__).name]


def test_old_argument_of_the_metric(tmp_path):
    metric = pytest.importorskip("edit_trl.evaluation.answer_accuracy").AnswerAccuracy(cache_dir=str(tmp_path))
    replies = {"predictions": ["The answer is 5.", "The answer is 6."], "references": ["5", "5"]}
    with pytest.warns(FutureWarning, match=r"`compute\(level=...\)` is now `compute\(confidence_level=...\)`"):
        assert metric.compute(**replies, level=0.5) == accuracy([True, False], confidence_level=0.5)


def test_old_argument_beside_the_new_one_is_refused():
    with pytest.raises(TypeError, match="unexpected keyword argument 'level'"):
        wilson_interval(1, 3, confidence_level=0.9, level=0.5)


def test_new_names_do_not_warn():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        wilson_interval(1, 3, confidence_level=0.9)
        assert {name for name in evaluation.__all__ if getattr(evaluation, name) is None} == set()


def test_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match=r"module 'edit_trl\.evaluation' has no attribute 'evaluat'"):
        _ = evaluation.evaluat


def test_old_key_of_the_results():
    record = {"question": "Why?", "answer": "5", "task": "sums", "sample": 0, "finish_reason": "length"}
    results = evaluation.score_generations([{**record, "extracted": None, "is_right": False}])
    for scores in (results, results["tasks"]["sums"]):
        with pytest.warns(
            FutureWarning, match=r'`results\["cut_rate"\]` is now `results\["truncated_rate"\]`'
        ) as caught:
            assert scores["cut_rate"] == scores["truncated_rate"] == 1.0
        assert [Path(warning.filename).name for warning in caught] == [Path(__file__).name]
        assert "cut_rate" not in scores
        with pytest.raises(KeyError, match="no_such_key"):
            _ = scores["no_such_key"]


@pytest.mark.parametrize("module", ["edit_trl.chat_client", "edit_trl.evaluation.harness"])
def test_star_gives_the_names_of_an_old_module(module):
    names: dict = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        exec(f"from {module} import *", names)
    assert set(importlib.import_module(module).__all__) <= set(names)
