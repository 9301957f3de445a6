"""
Tests of the scores of the key-step benchmark: the truth has the right tokens, and scores and intervals are right.
"""

import random

import numpy as np
import pytest
from benchmark_pairs import generated_examples, small_tokenizers, token_chain, token_pair
from key_steps_chains import tokenize
from key_steps_rules import RULES
from key_steps_scores import (
    FIELDS,
    PLACES,
    bootstrap_weights,
    compute_scores,
    count_places,
    count_side,
    find_truth,
    summarize_generated,
    summarize_real,
)

from edit_trl.tasks import Span


class TestTruth:
    def test_truth_of_characters_is_the_text_of_the_spans(self):
        """Independent of `touches`: the characters of the spans themselves, spaces at the ends of each taken off."""
        for example in generated_examples():
            chain = tokenize(small_tokenizers()["characters"], "Q:", example.rejected)
            truth = find_truth(chain, example.rejected_spans)
            expected = [None] * len(example.rejected)
            for start, end, role in example.rejected_spans:
                while example.rejected[end - 1] == " ":
                    end -= 1
                expected[start:end] = [role] * (end - start)

            # The first token is the space before the chain, the last one the end of sequence.
            assert truth.roles == [None, *expected, None]

    def test_token_of_both_roles_is_one_of_the_mistake(self):
        chain = token_chain("4242.")
        spans = [Span(0, 2, "mistake"), Span(2, 4, "consequence")]

        for order in (spans, spans[::-1]):
            truth = find_truth(chain, order)
            assert truth.roles == ["mistake", None, None]
            assert dict(truth.spans) == {"mistake": [0], "consequence": [0]}

    def test_side_that_forgets_a_step_has_no_mistake_to_find(self):
        chain = token_chain("One. Five.")
        truth = find_truth(chain, [Span(5, 9, "consequence")])
        counts = dict(zip(FIELDS, count_side(truth, [True] * 5), strict=True))

        assert counts["mistake"] == counts["mistake_spans"] == counts["mistake_found"] == 0
        assert (counts["key"], counts["truth"], counts["consequence_found"]) == (5, 1, 1)


class TestScores:
    def test_scores_agree_with_sets_of_tokens(self):
        """Precision, recall and F1 from sets of (pair, side, token), each written out."""
        rng = random.Random(0)
        all_counts, key, truth, mistake, consequence, num_tokens = [], set(), set(), set(), set(), 0
        for number, example in enumerate(generated_examples()):
            sides = []
            for side, text, spans in (
                (0, example.chosen, example.chosen_spans),
                (1, example.rejected, example.rejected_spans),
            ):
                chain = tokenize(small_tokenizers()["bpe"], "Q:", text)
                mask = [rng.random() < 0.3 for _ in chain.ids]
                sides.append(count_side(find_truth(chain, spans), mask))
                num_tokens += len(mask)
                for token, (start, end) in enumerate(chain.offsets):
                    roles = {
                        span.role
                        for span in spans
                        for i in range(start, end)
                        if span.start <= i < span.start + len(text[span.start : span.end].rstrip())
                    }
                    key |= {(number, side, token)} if mask[token] else set()
                    truth |= {(number, side, token)} if roles else set()
                    mistake |= {(number, side, token)} if "mistake" in roles else set()
                    consequence |= {(number, side, token)} if roles == {"consequence"} else set()
            all_counts.append(sides)

        scores = compute_scores(np.array(all_counts).sum(0))

        precision, recall = len(key & truth) / len(key), len(key & truth) / len(truth)
        assert scores["key_ratio"] == pytest.approx(len(key) / num_tokens)
        assert scores["truth_ratio"] == pytest.approx(len(truth) / num_tokens)
        assert scores["precision"] == pytest.approx(precision)
        assert scores["recall"] == pytest.approx(recall)
        assert scores["f1"] == pytest.approx(2 * precision * recall / (precision + recall))
        assert scores["mistake_recall"] == pytest.approx(len(key & mistake) / len(mistake))
        assert scores["consequence_recall"] == pytest.approx(len(key & consequence) / len(consequence))

    def test_sides_and_spans_are_counted_apart(self):
        """
        Right chain: the mistake is tokens 0 and 1, one of them key; the consequence, token 3, is not. Wrong chain: the
        mistake is not found, the consequence is.
        """
        spans = [Span(0, 3, "mistake"), Span(6, 7, "consequence")]
        truth = find_truth(token_chain("a b c d"), spans)
        counts = np.array([count_side(truth, [True, *[False] * 4]), count_side(truth, [False] * 3 + [True] * 2)])

        scores = compute_scores(counts)

        assert scores["mistake_recall"] == 1 / 4
        assert scores["chosen_mistake_recall"] == 1 / 2
        assert scores["rejected_mistake_recall"] == 0
        assert scores["consequence_recall"] == 1 / 2
        assert scores["mistake_span_recall"] == 1 / 2
        assert scores["chosen_mistake_span_recall"] == 1
        assert scores["chosen_f1"] == 2 * 1 / (1 + 3)
        assert scores["rejected_f1"] == 2 * 1 / (2 + 3)

    def test_nothing_found_scores_zero(self):
        truth = find_truth(token_chain("a b"), [])
        scores = compute_scores(np.array([count_side(truth, [False] * 3)] * 2))

        assert scores["precision"] == scores["recall"] == scores["f1"] == 0


class TestIntervals:
    def counts(self, num_pairs):
        """Random counts of the right shape: of 20 tokens a side, some are key, some true, and some both."""
        rng = np.random.default_rng(3)
        counts = np.zeros((num_pairs, len(RULES), 2, len(FIELDS)))
        for field, value in (("tokens", 20), ("key", 6), ("truth", 5)):
            counts[..., FIELDS.index(field)] = value
        counts[..., FIELDS.index("found")] = rng.integers(0, 6, size=counts.shape[:3])
        return counts

    def test_interval_contains_the_estimate_and_shrinks(self):
        few, many = (summarize_generated(self.counts(n), num_resamples=400, seed=0) for n in (25, 2500))
        for record, other in zip(few, many, strict=True):
            for name in ("precision", "recall", "f1"):
                low, high = record[f"{name}_interval"]
                assert low < record[name] < high
                # A hundred times the pairs, a tenth of the width.
                assert 6 < (high - low) / np.diff(other[f"{name}_interval"])[0] < 16

    def test_bootstrap_agrees_with_the_standard_error(self):
        """The precision is a mean of 2,500 independent shares, so its interval is 2 * 1.96 standard errors wide."""
        counts = self.counts(2500)
        record = summarize_generated(counts, num_resamples=2000, seed=0)[0]
        shares = counts[:, 0, :, FIELDS.index("found")].sum(1) / 12

        width = np.diff(record["precision_interval"])[0]

        assert width == pytest.approx(2 * 1.96 * shares.std() / 50, rel=0.1)

    def test_resamples_have_as_many_pairs_and_a_seed(self):
        weights = bootstrap_weights(30, 100, seed=1)

        assert weights.shape == (100, 30)
        assert (weights.sum(1) == 30).all()
        assert weights.std() > 0.5
        assert (weights == bootstrap_weights(30, 100, seed=1)).all()
        assert (weights != bootstrap_weights(30, 100, seed=2)).any()

    def test_difference_to_align_is_paired(self):
        """A rule that finds one token more in every pair is better by about the same in every resample."""
        counts = self.counts(200)
        baseline, other = list(RULES).index("align"), list(RULES).index("word")
        found = FIELDS.index("found")
        counts[:, other] = counts[:, baseline]
        counts[:, other, 0, found] += 1
        records = summarize_generated(counts, num_resamples=400, seed=0)

        low, high = records[other]["f1_difference_interval"]
        assert low <= records[other]["f1_difference"] <= high
        assert high - low < 1e-9 < records[other]["f1_difference"]
        assert np.diff(records[other]["f1_interval"])[0] > 0.01
        assert records[baseline]["f1_difference_interval"] == [0, 0]


class TestPlaces:
    def test_key_tokens_are_placed_by_line(self):
        """Tokens are a b / c d / e and the end of sequence; the marked line is the second one, number 1."""
        pair = token_pair("a b\nc d\ne", "a b\nc f\ne")
        masks = ([False] * 6, [True, False, False, True, True, False])

        counts = dict(zip(PLACES, count_places(pair, masks, marked=1), strict=True))

        assert counts == {
            "first": 0,
            "first_rejected": 0,
            "alarmed": 1,
            "key_before": 1,
            "tokens_before": 4,
            "key_marked": 1,
            "tokens_marked": 4,
            "key_after": 1,
            "tokens_after": 4,
        }

    def test_first_key_token_may_be_of_either_chain(self):
        pair = token_pair("a\nb c\nd", "a\nb\ne")
        counts = count_places(pair, RULES["align"](pair), marked=1)

        first, first_rejected, alarmed = counts[:3]
        assert (first, first_rejected, alarmed) == (1, 0, 0)

    def test_summary_has_shares_and_means_of_the_pairs(self):
        """Two pairs: one with its first key token in the marked line, one with three key tokens before it."""
        counts = np.zeros((2, len(RULES), len(PLACES)))
        counts[0, :, :3], counts[1, :, :3] = [1, 1, 0], [0, 0, 1]
        counts[1, :, PLACES.index("key_before")] = 3
        counts[:, :, PLACES.index("tokens_before")] = 10

        record = summarize_real(counts, num_resamples=200, seed=0)[0]

        assert (record["first"], record["alarmed"]) == (0.5, 0.5)
        assert record["first_interval"] == pytest.approx([0.0945, 0.9055], abs=1e-4)
        assert record["num_before"] == 1.5
        assert record["num_before_interval"] == [0, 3]
        assert record["before_key_ratio"] == 0.15
        assert record["marked_key_ratio"] == 0
