"""
Tests of the statistics of a dataset and of the advice.
"""

import json
import math
import random
import statistics as st
import tracemalloc
from pathlib import Path

import pytest
from datasets import Dataset
from inspected import ROW, generated, key_texts, summary_of

from edit_trl import DataCollatorForDualCoT
from edit_trl.data_utils import prepare_dual_cots
from edit_trl.inspection import InspectionConfig, Statistics, read_pairs
from edit_trl.inspection.dataset_statistics import advise
from edit_trl.inspection.pairs import PROBLEMS


SHARED_DATA = Path(__file__).parents[2] / "shared" / "data"


class TestStatistics:
    def test_numbers_are_those_of_the_pairs(self):
        rows = [{**row, "origin": "abc"[i % 3]} for i, row in enumerate(generated(40, seed=1))]
        rows += [rows[0], {**rows[1], "chosen": ""}]

        summary = summary_of(rows)

        pairs = [pair for pair in read_pairs(rows) if pair.chosen]
        ratios = sorted(pair.key_token_ratio for pair in pairs)
        assert (summary["pairs"], summary["readable_pairs"], summary["unit"]) == (42, 41, "words")
        assert summary["problems"]["duplicate"] == summary["problems"]["missing"] == 1
        both = summary["key_token_ratio"]["both"]
        assert both["mean"] == pytest.approx(st.mean(ratios), abs=1e-4)
        assert both["quantiles"]["0.5"] == pytest.approx(st.median(ratios), abs=1e-4)
        assert list(both["quantiles"].values()) == sorted(both["quantiles"].values())
        for side in ("chosen", "rejected"):
            shares = [sum(piece.is_key for piece in getattr(pair, side)) / len(getattr(pair, side)) for pair in pairs]
            assert summary["key_token_ratio"][side]["mean"] == pytest.approx(st.mean(shares), abs=1e-4)
        assert summary["similarity"]["mean"] == pytest.approx(st.mean(pair.similarity for pair in pairs), abs=1e-4)
        for column in ("task", "origin"):
            for name, group in summary[f"by_{column}"].items():
                own = [pair for pair in pairs if getattr(pair, column) == name]
                assert group["pairs"] == sum(row[column] == name for row in rows)
                assert group["similarity"] == pytest.approx(st.mean(pair.similarity for pair in own), abs=1e-4)
        for side in ("chosen", "rejected"):
            texts = [text for pair in pairs for text in key_texts(getattr(pair, side))]
            text, num = summary["key_tokens"][side][0]
            assert texts.count(text) == num == max(map(texts.count, set(texts)))
        json.dumps(summary, allow_nan=False)

    @pytest.mark.parametrize("mode", ["keep_start", "keep_end"])
    @pytest.mark.parametrize("limit", [None, 60])
    def test_cost_is_that_of_the_layouts(self, limit, mode, tokenizer):
        rows = generated(8, level=2, seed=4)
        prepared = prepare_dual_cots(Dataset.from_list(rows), tokenizer, eos_token=tokenizer.eos_token)
        costs = {}
        for layout in ("padded", "shared_prefix"):
            collator = DataCollatorForDualCoT(0, max_length=limit, truncation_mode=mode, layout=layout)
            costs[layout] = sum(collator([example])["input_ids"].numel() for example in prepared)

        config = InspectionConfig(max_length=limit, truncation_mode=mode)
        assert summary_of(rows, tokenizer, config)["cost"] == costs

    @pytest.mark.slow
    def test_memory_does_not_grow_with_the_pairs(self):
        """A few dozen bytes a pair; the chains alone are a thousand."""
        cots = generated(50, level=2, seed=1)

        def rows(number):
            rng = random.Random(0)
            for i in range(number):
                yield {**rng.choice(cots), "prompt": f"Question {i}"}

        peaks = []
        for number in (200, 1000):
            tracemalloc.start()
            assert summary_of(rows(number))["pairs"] == number
            peaks.append(tracemalloc.get_traced_memory()[1])
            tracemalloc.stop()
        assert (peaks[1] - peaks[0]) / 800 < 300

    def test_infrequent_words_are_forgotten_first(self, monkeypatch):
        monkeypatch.setattr("edit_trl.inspection.dataset_statistics._MAX_COUNTED", 50)
        rows = [{"prompt": "Q", "chosen": f"it is {i} twice", "rejected": "it is not twice"} for i in range(200)]
        rows += [{"prompt": "Q", "chosen": "it is so twice", "rejected": "it is not twice"}] * 5

        summary = summary_of(rows[200:] + rows[:200])

        assert summary["key_tokens"]["chosen"][0] == (" so", 5)
        assert summary["key_tokens"]["rejected"] == [(" not", 205)]

    def test_nothing_is_said_of_no_pairs(self):
        summary = Statistics().summary()

        assert (summary["pairs"], summary["key_token_ratio"]["both"]["mean"]) == (0, None)
        assert summary["advice"] == ["There is no pair."]


class TestAdvice:
    def advice(self, rows, **options):
        return " ".join(summary_of(rows, config=InspectionConfig(**options))["advice"])

    def test_good_pairs_need_none(self):
        words = "one two three four five six seven eight nine ten".split()
        rows = [
            {"prompt": f"Q{i}", "chosen": " ".join([*words, "So", str(i)]), "rejected": " ".join([*words, "So", "x"])}
            for i in range(4)
        ]

        assert self.advice(rows) == ""

    def test_chains_that_share_little_are_not_dual(self):
        rows = [{"prompt": "Q", "chosen": "a b c d e f g", "rejected": "h i j d k l m"}]

        assert "86% of the words are key: these chains are not dual" in self.advice(rows)
        assert "1 of 1 pairs share less than 50% of their words" in self.advice(rows)

    @pytest.mark.parametrize(
        ("row", "options", "advice"),
        [
            ({**ROW, "rejected": ROW["chosen"]}, {}, "would be left out by the trainer"),
            ({**ROW, "answer": "9", "chosen": " 2 + 3 = 5. So the answer is 5."}, {}, "teach a wrong answer"),
            ({**ROW, "answer": "6", "rejected": " 2 + 3 = 6. So the answer is 6."}, {}, "push the right answer away"),
            (
                {**ROW, "prompt": "Q"},
                {"max_length": 7},
                "are cut at `max_length=7`, and lose the ends of their chains",
            ),
            (
                {**ROW, "prompt": "Q"},
                {"max_length": 4, "truncation_mode": "keep_end"},
                "are cut at `max_length=4`, and lose the beginnings of their chains",
            ),
            ({**ROW, "prompt": "Q"}, {"max_length": 4}, "lose all their key tokens at `max_length=4`: raise it"),
            ({**ROW, "chosen": 5}, {}, "No pair can be read"),
        ],
    )
    def test_what_is_wrong_with_pairs_is_said(self, row, options, advice):
        assert advice in self.advice([row], **options)

    def test_every_problem_has_its_sentence(self):
        """Each problem alone makes the advice longer."""
        summary = summary_of([ROW] * 2)
        summary["problems"] = {}
        summary["truncation"]["pairs"] = 0
        without = advise(summary, InspectionConfig())

        for name in PROBLEMS:
            assert len(advise({**summary, "problems": {name: 1}}, InspectionConfig())) > len(without), name


@pytest.mark.skipif(not SHARED_DATA.is_dir(), reason="needs the shared data")
class TestRealPairs:
    def test_chains_of_chatgpt(self):
        """42 pairs of 14 BIG-Bench Hard tasks; pairs of word sorting share little, pairs of object counting much."""
        with open(SHARED_DATA / "bbh_dual_cots.jsonl", encoding="utf-8") as file:
            summary = summary_of(map(json.loads, file))

        assert summary["pairs"] == summary["readable_pairs"] == 42
        by_task = {name: group["key_token_ratio"] for name, group in summary["by_task"].items()}
        assert by_task["object_counting"] < 0.05 < 0.25 < by_task["word_sorting"]
        assert not math.isnan(summary["similarity"]["mean"])
