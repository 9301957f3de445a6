"""
Tests of the datasets and the report of a synthesis.
"""

import json
from collections import Counter

import pytest
from datasets import Value
from dual_cot_teacher import (
    CHAIN,
    DUAL_COTS,
    RIGHT_COTS,
    WRONG,
    WRONG_COTS,
    one_ssl_context,  # noqa: F401
    prompt_of,
    run,
    run_one,
    tables,
    teach,
)
from teacher import (
    time_limit,  # noqa: F401
)

from edit_trl.alignment import align
from edit_trl.data_utils import is_tokenized
from edit_trl.synthesis.results import STEPS


pytest.importorskip("openai")


class TestDatasets:
    def test_right_and_rectified_chains_are_data_for_the_first_stage(self, made):
        expected = [(cot, "right") for cot in RIGHT_COTS] + [(cot, "rectified") for cot in WRONG_COTS]

        assert made[0].sft.to_list() == [
            {
                "prompt": prompt_of(cot),
                "completion": f" {cot.chosen}",
                "answer": cot.answer,
                "task": cot.task,
                "origin": origin,
            }
            for cot, origin in expected
        ]

    @pytest.mark.parametrize(
        ("script", "num_rows"), [(teach, [6, 6, 0]), (lambda *_: "I do not know.", [0, 0, 6])], ids=["good", "bad"]
    )
    def test_columns_and_types_do_not_depend_on_the_rows(self, script, num_rows):
        """With a teacher that follows its prompts no chain is rejected; with a useless teacher there is no pair."""
        result, _ = run(script)
        text = ["prompt", "chosen", "rejected", "answer", "task", "origin"]

        assert result.pairs.features == {
            **dict.fromkeys(text, Value("string")),
            "similarity": Value("float64"),
            "key_token_ratio": Value("float64"),
            "teacher": Value("string"),
            "prompt_version": Value("string"),
        }
        names = ["prompt", "completion", "answer", "task", "origin"]
        assert result.sft.features == dict.fromkeys(names, Value("string"))
        names = ["question", "answer", "task", "step", "reject_reason", "chain", "reply", "detail"]
        assert result.rejected.features == dict.fromkeys(names, Value("string"))
        assert [len(table) for table in tables(result)] == num_rows

    def test_trainer_takes_the_columns(self, made):
        assert is_tokenized(made[0].pairs.column_names) is False

    def test_likeness_and_key_tokens_are_counted_in_words(self):
        """
        The chains have 10 words and differ in two places, the sum and the answer: 8 / 10 need no edit, and 2 + 2 of 20
        are key.
        """
        result = run_one("What is 2 + 3?", "5", "2 + 3 = 6. Therefore, the answer is 6.", CHAIN)

        (pair,) = result.pairs
        assert (pair["similarity"], pair["key_token_ratio"]) == (0.8, 0.2)
        assert (result.report["similarity"], result.report["key_token_ratio"]) == (0.8, 0.2)
        assert result.report["counted_in"] == "words"
        assert pair["task"] is None

    def test_likeness_and_key_tokens_are_counted_with_the_tokenizer_of_the_student(self, tokenizer, model_folder):
        result, _ = run(cots=DUAL_COTS[:3], tokenizer=model_folder)

        for pair in result.pairs:
            chosen, rejected = (tokenizer(pair[side])["input_ids"] for side in ("chosen", "rejected"))
            script = align(chosen, rejected)
            num_key = sum(script.chosen_key) + sum(script.rejected_key)
            assert pair["key_token_ratio"] == pytest.approx(num_key / len(chosen + rejected), abs=5e-5)
        assert result.report["counted_in"] == "tokens"


class TestReport:
    def test_report_counts_what_was_made(self, made):
        """The endpoint counts 20 tokens for each request and 10 for each reply."""
        report = made[0].report

        assert (report["pairs"], report["origin"]) == (16, {"rectified": 8, "corrupted": 8})
        assert report["steps"] == {
            "extract": {"chains": 16, "kept": 16, "rejected": {}},
            "rectify": {"chains": 8, "kept": 8, "rejected": {}},
            "corrupt": {"chains": 8, "kept": 8, "rejected": {}},
        }
        origins = Counter((cot.task, "rectified" if cot.question in WRONG else "corrupted") for cot in DUAL_COTS)
        assert report["tasks"] == {
            task: {"chains": 2, **{o: origins[task, o] for o in ("rectified", "corrupted") if origins[task, o]}}
            for task in {cot.task for cot in DUAL_COTS}
        }
        assert report["usage"] == {"requests": 32, "replies": 32, "prompt_tokens": 640, "completion_tokens": 320}
        assert (report["cost"], report["stopped"], report["notes"]) == (None, None, [])
        assert report["sampling"] == {"temperature": 0.2, "top_p": None, "max_tokens": 2048, "seed": None}
        json.dumps(report)  # it goes to a file

    def test_steps_of_the_report_are_those_that_are_explained(self, made):
        assert list(made[0].report["steps"]) == list(STEPS)

    def test_cost_is_reported_with_prices(self):
        """Two questions, two requests each, of 20 and 10 tokens: (80 * 5 + 40 * 10) / 10**6."""
        result, _ = run(cots=DUAL_COTS[:2], client={"prompt_price": 5, "completion_price": 10})

        assert result.report["cost"] == pytest.approx(0.0008)
