"""
Tests of the collator against the slow implementation of the method's definitions in `slow_collator.py`.
"""

import copy
import math
import pickle

import numpy as np
import pytest
import torch
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st
from slow_collator import (
    BORDERS,
    DTYPES,
    LAYOUTS,
    LONGEST,
    PAD,
    PAIRS,
    SCORED,
    check_batch,
    check_layout,
    completion_dicts,
    dtypes,
    example,
    examples_lists,
    options_dicts,
    pair_dicts,
    slow_rows,
)
from torch.utils.data import DataLoader

from edit_trl.data_collator import DataCollatorForDualCoT


class TestLayout:
    def test_worked_example(self):
        """
        Two pairs with prompts of 2 and 1 tokens. Pair 0: 11 is replaced by 21. Pair 1: the wrong chain has 22 more.
        Rows are right 0, right 1, wrong 0, wrong 1, padded to the 5 tokens of the longest. A token at position p is
        predicted at p - 1: 11 and 21 stand at 3, 22 at 2.
        """
        collator = DataCollatorForDualCoT(pad_token_id=PAD)

        batch = collator([example([1, 2], [10, 11, 12], [10, 21, 12]), example([3], [13, 14], [13, 22, 14])])

        assert dtypes(batch) == DTYPES
        assert batch["input_ids"].tolist() == [
            [1, 2, 10, 11, 12],
            [3, 13, 14, PAD, PAD],
            [1, 2, 10, 21, 12],
            [3, 13, 22, 14, PAD],
        ]
        assert batch["attention_mask"].tolist() == [[1] * 5, [1, 1, 1, 0, 0], [1] * 5, [1, 1, 1, 1, 0]]
        assert batch["position_ids"].tolist() == [
            [0, 1, 2, 3, 4],
            [0, 1, 2, 0, 0],
            [0, 1, 2, 3, 4],
            [0, 1, 2, 3, 0],
        ]
        assert batch["scored_rows"].tolist() == [0, 2, 3]
        assert batch["scored_positions"].tolist() == [2, 2, 1]
        assert batch["scored_ids"].tolist() == [11, 21, 22]
        assert batch["scored_weights"].tolist() == pytest.approx([1.0, -0.025, -0.025])
        assert batch["scored_key"].tolist() == [True, True, True]
        assert batch["scored_chains"].tolist() == [0, 2, 3]
        assert batch["num_completion_tokens"].tolist() == [3, 2, 3, 3]
        assert batch["num_key_tokens"].tolist() == [1, 0, 1, 1]
        assert batch["num_tokens"].item() == 5 + 3 + 5 + 4

    @given(examples=examples_lists, options=options_dicts)
    @settings(deadline=None, max_examples=300)
    def test_batch_is_that_of_the_definitions(self, examples, options):
        check_batch(DataCollatorForDualCoT(pad_token_id=PAD, **options)(examples), examples, options)

    @given(examples=examples_lists, options=options_dicts, data=st.data())
    @settings(deadline=None)
    def test_batch_with_given_weights_is_that_of_the_definitions(self, examples, options, data):
        """Some pairs bring weights of either sign on either chain, others are aligned."""
        for pair in examples:
            if "completion_ids" not in pair and data.draw(st.booleans(), label="has weights"):
                for side in ("chosen", "rejected"):
                    length = len(pair[f"{side}_ids"])
                    weights = st.lists(st.sampled_from([0.0, 1.5, -0.5]), min_size=length, max_size=length)
                    pair[f"{side}_weights"] = data.draw(weights, label=side)

        check_batch(DataCollatorForDualCoT(pad_token_id=PAD, **options)(examples), examples, options)

    def test_pad_to_multiple_of_widens_the_rows_alone(self):
        examples = [example([1, 2], [3, 4, 9], [3, 5, 9])]

        plain = DataCollatorForDualCoT(pad_token_id=PAD)(examples)
        padded = DataCollatorForDualCoT(pad_token_id=PAD, pad_to_multiple_of=8)(examples)

        assert padded["input_ids"].shape == (2, 8)
        assert (padded["input_ids"][:, 5:] == PAD).all() and (padded["attention_mask"][:, 5:] == 0).all()
        for name in DTYPES:
            if name not in ("input_ids", "attention_mask", "position_ids"):
                assert torch.equal(padded[name], plain[name])

    def test_batch_without_scored_tokens_has_empty_tensors(self):
        batch = DataCollatorForDualCoT(pad_token_id=PAD)([example([1], [2, 3], [2, 3])])

        for name in SCORED:
            assert batch[name].shape == (0,)
            assert batch[name].dtype == DTYPES[name]
        assert batch["num_completion_tokens"].tolist() == [2, 2]

    def test_other_columns_are_ignored(self):
        collator = DataCollatorForDualCoT(pad_token_id=PAD)
        pair = example([1], [2, 3], [2, 4])
        batch = collator([{**pair, "task": "sums", "length": 3}])
        expected = collator([pair])
        assert all(torch.equal(batch[name], expected[name]) for name in DTYPES)

    def test_lists_of_the_examples_are_not_changed(self):
        examples = [example([1] * 4, [2, 3], [4], chosen_weights=[1.0, 0.0], rejected_weights=[-1.0])]
        examples.append(example([1], [2, 3, 5], [2, 4, 6]))
        before = copy.deepcopy(examples)
        for mode in ("keep_start", "keep_end"):
            DataCollatorForDualCoT(pad_token_id=PAD, max_length=3, truncation_mode=mode)(examples)
        assert examples == before

    @pytest.mark.parametrize("column", ["prompt_ids", "chosen_ids", "rejected_ids", "completion_ids"])
    @pytest.mark.parametrize("value", [2.0, 2.5, "2", True])
    def test_ids_that_are_no_whole_numbers_are_refused(self, column, value):
        pair = {"prompt_ids": [1], "chosen_ids": [2, 3], "rejected_ids": [2, 4]}
        if column == "completion_ids":
            pair = {"prompt_ids": [1], "completion_ids": [2, 3]}
        pair[column] = [1, value]
        with pytest.raises(ValueError, match=f"`{column}` must be token IDs"):
            DataCollatorForDualCoT(0, completion_weight=1.0)([pair])

    def test_arrays_give_what_lists_give(self):
        collator = DataCollatorForDualCoT(pad_token_id=PAD, max_length=4)
        pair = example([1, 2], [3, 4, 9], [3, 5])
        batch, expected = (collator([p]) for p in ({k: np.array(v) for k, v in pair.items()}, pair))
        assert all(torch.equal(batch[name], expected[name]) for name in DTYPES)


class TestSharedPrefix:
    def collator(self, **options):
        return DataCollatorForDualCoT(pad_token_id=PAD, layout="shared_prefix", **options)

    def test_worked_example(self):
        """
        Pair 0: 1 2 10 are common. 11 is replaced by 21, and both are predicted by 10, at place 2. Pair 1: 3 13 are
        common; the wrong chain has 22 more, predicted by 13, at place 1. Row 0 has 3 + 2 + 2 tokens, row 1 has 2 + 1 +
        2.
        """
        batch = self.collator()([example([1, 2], [10, 11, 12], [10, 21, 12]), example([3], [13, 14], [13, 22, 14])])

        assert batch["layout"] == "shared_prefix"
        assert dtypes(batch) == {**DTYPES, **PAIRS, "branch_ids": torch.long}
        assert batch["pair_lengths"].tolist() == [[3, 2, 2], [2, 1, 2]]
        assert batch["input_ids"].tolist() == [[1, 2, 10, 11, 12, 21, 12], [3, 13, 14, 22, 14, PAD, PAD]]
        assert batch["attention_mask"].tolist() == [[1] * 7, [1] * 5 + [0] * 2]
        assert batch["position_ids"].tolist() == [[0, 1, 2, 3, 4, 3, 4], [0, 1, 2, 2, 3, 0, 0]]
        assert batch["branch_ids"].tolist() == [[0, 0, 0, 1, 1, 2, 2], [0, 0, 1, 2, 2, 0, 0]]
        assert batch["scored_rows"].tolist() == [0, 0, 1]
        assert batch["scored_positions"].tolist() == [2, 2, 1]
        assert batch["scored_ids"].tolist() == [11, 21, 22]
        assert batch["scored_weights"].tolist() == pytest.approx([1.0, -0.025, -0.025])
        assert batch["scored_key"].tolist() == [True, True, True]
        assert batch["scored_chains"].tolist() == [0, 2, 3]
        assert batch["num_completion_tokens"].tolist() == [3, 2, 3, 3]
        assert batch["num_key_tokens"].tolist() == [1, 0, 1, 1]
        assert batch["num_tokens"].item() == 7 + 5

    @pytest.mark.parametrize(
        ("chosen", "rejected", "input_ids", "entry"),
        [
            ([5, 6], [5], [1, 5, 6], (1, 6, 0)),  # the wrong chain ends early
            ([5], [5, 6], [1, 5, 6], (1, 6, 1)),
            ([7, 5], [5], [1, 7, 5, 5], (0, 7, 0)),  # nothing shared but the prompt
        ],
    )
    def test_key_token_on_one_side_alone(self, chosen, rejected, input_ids, entry):
        """`entry` is the place, the token and the chain of the only key token."""
        batch = self.collator()([example([1], chosen, rejected)])

        assert batch["input_ids"].tolist() == [input_ids]
        assert [batch[name].item() for name in ("scored_positions", "scored_ids", "scored_chains")] == list(entry)
        assert batch["scored_key"].tolist() == [True]

    def test_identical_chains_may_have_weights(self):
        """
        Both branches are empty. 2 and 3 of either chain are predicted at places 0 and 1 of the common start.
        """
        pair = example([1], [2, 3], [2, 3], chosen_weights=[0.5, 1.0], rejected_weights=[0.0, -1.0])

        batch = self.collator()([pair])

        assert batch["input_ids"].tolist() == [[1, 2, 3]]
        assert batch["branch_ids"].tolist() == [[0, 0, 0]]
        assert batch["position_ids"].tolist() == [[0, 1, 2]]
        assert batch["scored_positions"].tolist() == [0, 1, 1]
        assert batch["scored_ids"].tolist() == [2, 3, 3]
        assert batch["scored_weights"].tolist() == [0.5, 1.0, -1.0]
        assert batch["scored_chains"].tolist() == [0, 0, 1]

    def test_chains_cut_at_the_start_share_what_is_left(self):
        """
        "3 5 6" and "4 8 9" are left of the chains, so nothing is shared. Chains of one length lose the same tokens:
        "2 3 5" and "2 3 8" share 2 3.
        """
        options = {"max_length": 3, "truncation_mode": "keep_end"}

        longer, equal = self.collator(**options)(
            [example([1, 2, 3], [5, 6], [4, 8, 9]), example([1, 2], [3, 5], [3, 8])]
        )["input_ids"].tolist()

        assert longer == [3, 5, 6, 4, 8, 9]
        assert equal == [2, 3, 5, 8, PAD, PAD]

    def test_pad_to_multiple_of_widens_the_row(self):
        """Row 1 2 | 3 | 4 5 of five tokens becomes one of eight; padding counts as common start."""
        examples = [example([1, 2], [3], [4, 5])]

        plain, padded = (self.collator(**options)(examples) for options in ({}, {"pad_to_multiple_of": 8}))

        assert padded["input_ids"].tolist() == [[1, 2, 3, 4, 5, PAD, PAD, PAD]]
        assert padded["attention_mask"].tolist() == [[1] * 5 + [0] * 3]
        assert padded["position_ids"].tolist() == [[0, 1, 2, 2, 3, 0, 0, 0]]
        assert padded["branch_ids"].tolist() == [[0, 0, 1, 2, 2, 0, 0, 0]]
        for name in DTYPES:
            if name not in ("input_ids", "attention_mask", "position_ids"):
                assert torch.equal(padded[name], plain[name])


class TestPacked:
    def collator(self, **options):
        return DataCollatorForDualCoT(pad_token_id=PAD, layout="packed", **options)

    def test_worked_example(self):
        """
        Pair 0 is 1 2 10 | 11 12 | 21 12, at places 0 to 6: both 11 and 21 are predicted by 10, at place 2. Pair 1 is 3
        13 | 14 | 22 14, at places 7 to 11: 22 is predicted by 13, at place 8.

        Segments are the right chain, whose keys are its tokens, and the rest of the wrong chain, whose keys are the
        common start and this rest: 5 keys of 5 queries, 5 of 2, 3 of 3, 4 of 2.
        """
        examples = [example([1, 2], [10, 11, 12], [10, 21, 12]), example([3], [13, 14], [13, 22, 14])]
        batch = self.collator()(examples)

        assert batch["layout"] == "packed"
        assert dtypes(batch) == {**DTYPES, **PAIRS, **BORDERS, "segment_keys": torch.long}
        assert batch["input_ids"].tolist() == [[1, 2, 10, 11, 12, 21, 12, 3, 13, 14, 22, 14]]
        assert batch["attention_mask"].tolist() == [[1] * 12]
        assert batch["position_ids"].tolist() == [[0, 1, 2, 3, 4, 3, 4, 0, 1, 2, 2, 3]]
        assert batch["pair_lengths"].tolist() == [[3, 2, 2], [2, 1, 2]]
        assert batch["segment_keys"].tolist() == [[[[0, 1, 2, 3, 4, 0, 1, 2, 5, 6, 7, 8, 9, 7, 8, 10, 11]]]]
        assert batch["cu_seq_lens_q"].tolist() == [0, 5, 7, 10, 12]
        assert batch["cu_seq_lens_k"].tolist() == [0, 5, 10, 13, 17]
        assert [batch[name] for name in LONGEST] == [5, 5]
        assert batch["scored_rows"].tolist() == [0, 0, 0]
        assert batch["scored_positions"].tolist() == [2, 2, 8]
        assert batch["scored_ids"].tolist() == [11, 21, 22]
        assert batch["scored_weights"].tolist() == pytest.approx([1.0, -0.025, -0.025])
        assert batch["scored_key"].tolist() == [True, True, True]
        assert batch["scored_chains"].tolist() == [0, 2, 3]
        assert batch["num_completion_tokens"].tolist() == [3, 2, 3, 3]
        assert batch["num_tokens"].item() == 7 + 5

    def test_completion_is_one_segment(self):
        """1 | 2 | 3, then the completion 4 5 6, then 7 8 twice: the second chain of equal ones has no token."""
        rows = [example([1], [2], [3]), {"prompt_ids": [4], "completion_ids": [5, 6]}, example([7], [8], [8])]
        batch = self.collator(completion_weight=0.5)(rows)

        assert batch["input_ids"].tolist() == [[1, 2, 3, 4, 5, 6, 7, 8]]
        assert batch["pair_lengths"].tolist() == [[1, 1, 1], [0, 3, 0], [2, 0, 0]]
        assert batch["cu_seq_lens_q"].tolist() == [0, 2, 3, 6, 8]
        assert batch["cu_seq_lens_k"].tolist() == [0, 2, 4, 7, 9]
        assert batch["scored_positions"].tolist() == [0, 3, 4, 0]
        assert batch["scored_ids"].tolist() == [2, 5, 6, 3]

    def test_first_token_is_not_predicted_by_the_pair_before(self):
        """Without prompts the first tokens 4 and 8 follow on nothing."""
        batch = self.collator()([example([], [1], [1, 2]), example([], [4], [8, 9])])

        assert batch["input_ids"].tolist() == [[1, 2, 4, 8, 9]]
        assert batch["scored_ids"].tolist() == [2, 9]
        assert batch["scored_positions"].tolist() == [0, 3]

    def test_padding_to_a_multiple_is_a_chain_of_its_own(self):
        """Row 1 2 | 3 | 4 5 of five tokens becomes one of eight: three more queries, which see three more keys."""
        examples = [example([1, 2], [3], [4, 5])]

        plain, padded = (self.collator(**options)(examples) for options in ({}, {"pad_to_multiple_of": 8}))

        assert padded["input_ids"].tolist() == [[1, 2, 3, 4, 5, PAD, PAD, PAD]]
        assert padded["attention_mask"].tolist() == [[1] * 5 + [0] * 3]
        assert padded["position_ids"].tolist() == [[0, 1, 2, 2, 3, 0, 1, 2]]
        assert padded["segment_keys"].flatten().tolist() == [*plain["segment_keys"].flatten().tolist(), 5, 6, 7]
        assert padded["cu_seq_lens_q"].tolist() == [*plain["cu_seq_lens_q"].tolist(), 8]
        assert padded["num_tokens"] == 5 and padded["pair_lengths"].tolist() == [[2, 1, 2]]


class TestPaddingFree:
    def test_worked_example(self):
        """
        The chains "1 2 3" and "1 2 8 9" of pair 0, then "4 5 6 7" and "4 5 6" of pair 1. They begin at 0, 3, 7 and 11
        of 14 tokens. 7 stands alone in pair 1; 3 is replaced by 8 and 9 follows in pair 0.
        """
        collator = DataCollatorForDualCoT(pad_token_id=PAD, layout="padding_free")

        batch = collator([example([1, 2], [3], [8, 9]), example([4], [5, 6, 7], [5, 6])])

        assert dtypes(batch) == {k: v for k, v in {**DTYPES, **PAIRS, **BORDERS}.items() if k != "attention_mask"}
        assert batch["input_ids"].tolist() == [[1, 2, 3, 1, 2, 8, 9, 4, 5, 6, 7, 4, 5, 6]]
        assert batch["position_ids"].tolist() == [[0, 1, 2, 0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2]]
        assert batch["pair_lengths"].tolist() == [[0, 3, 4], [0, 4, 3]]
        assert batch["cu_seq_lens_q"].tolist() == batch["cu_seq_lens_k"].tolist() == [0, 3, 7, 11, 14]
        assert [batch[name] for name in LONGEST] == [4, 4]
        assert batch["scored_rows"].tolist() == [0] * 4
        assert batch["scored_positions"].tolist() == [1, 9, 4, 5]
        assert batch["scored_ids"].tolist() == [3, 7, 8, 9]
        assert batch["scored_weights"].tolist() == pytest.approx([1.0, 1.0, -0.025, -0.025])
        assert batch["scored_chains"].tolist() == [0, 1, 2, 2]
        assert batch["num_completion_tokens"].tolist() == [1, 3, 2, 2]
        assert batch["num_tokens"].item() == 14

    def test_first_token_of_a_chain_is_not_predicted_by_the_chain_before(self):
        """Without prompts the first tokens 4 and 8 follow on nothing, though 4 stands right before 8."""
        batch = DataCollatorForDualCoT(pad_token_id=PAD, layout="padding_free")([example([], [4], [8, 9])])

        assert batch["input_ids"].tolist() == [[4, 8, 9]]
        assert batch["scored_ids"].tolist() == [9]
        assert batch["scored_positions"].tolist() == [1]

    @given(examples=examples_lists, options=options_dicts)
    @settings(deadline=None, max_examples=50)
    def test_borders_are_those_of_the_chains(self, examples, options):
        batch = DataCollatorForDualCoT(pad_token_id=PAD, layout="padding_free", **options)(examples)

        chains = slow_rows(examples, options)[0]
        # Pair by pair. There is no segment without tokens.
        pairs = zip(chains[: len(examples)], chains[len(examples) :], strict=True)
        lengths = [len(chain) for pair in pairs for chain in pair]
        lengths.append(-sum(lengths) % (options.get("pad_to_multiple_of") or 1))
        assert batch["cu_seq_lens_q"].diff().tolist() == [length for length in lengths if length]
        assert torch.equal(batch["cu_seq_lens_q"], batch["cu_seq_lens_k"])
        assert [batch[name] for name in LONGEST] == [max(lengths)] * 2
        assert batch["input_ids"].shape == (1, sum(lengths))


class TestEveryLayout:
    @pytest.mark.parametrize("layout", LAYOUTS)
    @given(examples=examples_lists, options=options_dicts, data=st.data())
    @settings(deadline=None)
    def test_batch_is_that_of_the_definitions(self, layout, examples, options, data):
        """Pairs are aligned, bring weights of either sign on either chain, or are the same chain twice."""
        for pair in examples:
            if "completion_ids" in pair:
                continue
            kind = data.draw(st.sampled_from(["aligned", "weighted", "identical", "begins alike"]), label="kind")
            if kind in ("identical", "begins alike"):
                pair["rejected_ids"] = pair["chosen_ids"] + (pair["rejected_ids"] if kind == "begins alike" else [])
            if kind in ("weighted", "identical"):
                for side in ("chosen", "rejected"):
                    length = len(pair[f"{side}_ids"])
                    weights = st.lists(st.sampled_from([0.0, 1.5, -0.5]), min_size=length, max_size=length)
                    pair[f"{side}_weights"] = data.draw(weights, label=side)

        check_layout(DataCollatorForDualCoT(pad_token_id=PAD, layout=layout, **options)(examples), examples, options)

    @pytest.mark.parametrize("layout", LAYOUTS)
    @given(
        pair=st.one_of(pair_dicts, completion_dicts),
        max_length=st.one_of(st.none(), st.integers(1, 12)),
        truncation_mode=st.sampled_from(["keep_start", "keep_end"]),
    )
    @settings(deadline=None)
    def test_row_length_is_the_width_of_a_batch_of_one(self, layout, pair, **options):
        """Without padding up to a multiple. The row of a shared or padding-free pair holds all of its tokens."""
        collator = DataCollatorForDualCoT(pad_token_id=PAD, completion_weight=1.0, layout=layout, **options)

        batch = collator([pair])

        assert collator.row_length(pair) == batch["input_ids"].size(1)
        if layout != "padded":
            assert collator.row_length(pair) == batch["num_tokens"].item()

    @pytest.mark.parametrize(
        ("layout", "length"), [("padded", 5), ("shared_prefix", 6), ("packed", 6), ("padding_free", 9)]
    )
    def test_row_length_is_that_of_the_layout(self, layout, length):
        """
        Chains "1 2 3 4" and "1 2 3 5 6": 5 of the longer one; (1 2 3) + (4) + (5 6); 4 + 5. Weights are not read.
        """
        pair = example([1, 2], [3, 4], [3, 5, 6], chosen_weights=[1.0])
        collator = DataCollatorForDualCoT(pad_token_id=PAD, layout=layout, pad_to_multiple_of=8)

        assert collator.row_length(pair) == length
        assert collator.row_length({name: np.array(value) for name, value in pair.items()}) == length

    @pytest.mark.parametrize("layout", LAYOUTS)
    def test_batch_without_scored_tokens_has_empty_tensors(self, layout):
        batch = DataCollatorForDualCoT(pad_token_id=PAD, layout=layout)([example([1], [2, 3], [2, 3])])

        for name in SCORED:
            assert batch[name].shape == (0,)
            assert batch[name].dtype == DTYPES[name]

    @pytest.mark.parametrize("layout", LAYOUTS)
    def test_arrays_give_what_lists_give(self, layout):
        collator = DataCollatorForDualCoT(pad_token_id=PAD, max_length=4, layout=layout)
        pair = example([1, 2], [3, 4, 9], [3, 5])
        batch, expected = (collator([p]) for p in ({k: np.array(v) for k, v in pair.items()}, pair))
        assert batch.keys() == expected.keys()
        for name, value in expected.items():
            assert torch.equal(batch[name], value) if isinstance(value, torch.Tensor) else batch[name] == value


class TestCompletions:
    def test_worked_example(self):
        """
        A pair, then a completion of 3 tokens after a prompt of 2. Chains 0 and 2 are those of the pair, 1 is that of
        the completion; chain 3 has no tokens and no row. 7, 8 and 9 are predicted at places 1, 2 and 3, with weight
        0.5.
        """
        rows = [example([1], [2, 3], [2, 4]), {"prompt_ids": [5, 6], "completion_ids": [7, 8, 9]}]
        batch = DataCollatorForDualCoT(pad_token_id=PAD, completion_weight=0.5)(rows)

        assert batch["input_ids"].tolist() == [[1, 2, 3, PAD, PAD], [5, 6, 7, 8, 9], [1, 2, 4, PAD, PAD]]
        assert batch["is_completion"].tolist() == [False, True]
        assert batch["scored_rows"].tolist() == [0, 1, 1, 1, 2]
        assert batch["scored_chains"].tolist() == [0, 1, 1, 1, 2]
        assert batch["scored_positions"].tolist() == [1, 1, 2, 3, 1]
        assert batch["scored_ids"].tolist() == [3, 7, 8, 9, 4]
        assert batch["scored_weights"].tolist() == pytest.approx([1.0, 0.5, 0.5, 0.5, -0.025])
        assert batch["scored_key"].tolist() == [True, False, False, False, True]
        assert batch["num_completion_tokens"].tolist() == [2, 3, 2, 0]
        assert batch["num_key_tokens"].tolist() == [1, 0, 1, 0]

    @pytest.mark.parametrize(("options", "weight"), [({"chosen_other_weight": 0.3}, 0.3), ({}, None)], ids=str)
    def test_weight_is_that_of_other_tokens_unless_set(self, options, weight):
        collator = DataCollatorForDualCoT(pad_token_id=PAD, **options)
        row = {"prompt_ids": [5, 6], "completion_ids": [7, 8, 9]}
        if weight is None:
            with pytest.raises(ValueError, match=r"`completion_weight` must be set .* Pass `completion_weight=1.0`"):
                collator([row])
        else:
            assert collator([row])["scored_weights"].tolist() == pytest.approx([weight] * 3)

    @pytest.mark.parametrize("weight", [0.0, -1.0, math.inf, math.nan])
    def test_weight_that_trains_nothing_is_refused(self, weight):
        with pytest.raises(ValueError, match="`completion_weight` must be positive and finite, or `None`, got"):
            DataCollatorForDualCoT(pad_token_id=PAD, completion_weight=weight)

    @pytest.mark.parametrize("layout", LAYOUTS)
    def test_batch_of_completions_alone(self, layout):
        rows = [{"prompt_ids": [5], "completion_ids": [7, 8]}, {"prompt_ids": [5, 6], "completion_ids": [7]}]
        batch = DataCollatorForDualCoT(pad_token_id=PAD, completion_weight=1.0, layout=layout)(rows)
        check_layout(batch, rows, {"completion_weight": 1.0})
        assert batch["num_tokens"].item() == 6


class TestSetup:
    @pytest.mark.parametrize("column", ["prompt_ids", "chosen_ids", "rejected_ids"])
    def test_missing_column_is_refused(self, column):
        pair = example([1], [2], [3])
        del pair[column]
        with pytest.raises(ValueError, match="Each example must have the columns `prompt_ids`, `chosen_ids`"):
            DataCollatorForDualCoT(pad_token_id=PAD)([pair])

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"alignment_level": "sentence"}, "`alignment_level` must be one of 'token', 'word', got 'sentence'"),
            ({"alignment_level": "word"}, "needs the text of the tokens, but `tokenizer` is `None`"),
            ({"truncation_mode": "middle"}, "`truncation_mode` must be one of 'keep_start', 'keep_end', got 'middle'"),
            (
                {"layout": "dense"},
                "`layout` must be one of 'padded', 'shared_prefix', 'packed', 'padding_free', got 'dense'. It is how "
                'chains become rows; pass `layout="padded"`, which every model takes.',
            ),
            ({"layout": None}, "`layout` must be one of .* got None"),
        ],
    )
    def test_bad_option_is_refused_at_once(self, options, message):
        with pytest.raises(ValueError, match=message):
            DataCollatorForDualCoT(pad_token_id=PAD, **options)

    def test_unknown_tie_break_is_refused(self):
        with pytest.raises(ValueError, match="`tie_break` must be one of"):
            DataCollatorForDualCoT(pad_token_id=PAD, tie_break="first")([example([1], [2], [3])])

    def test_data_loader_with_a_worker_gives_the_same_batches(self, tokenizer, pairs):
        rows = [
            {f"{column}_ids": tokenizer.encode(pair[column]) for column in ("prompt", "chosen", "rejected")}
            for pair in pairs
        ]
        collator = DataCollatorForDualCoT(pad_token_id=PAD, alignment_level="word", tokenizer=tokenizer)
        loader = DataLoader(Dataset.from_list(rows), batch_size=3, collate_fn=collator, num_workers=1)

        batches = list(loader)

        assert [len(batch["input_ids"]) for batch in batches] == [6, 6, 4]
        for start, batch in zip(range(0, 8, 3), batches, strict=True):
            expected = collator(rows[start : start + 3])
            assert all(torch.equal(batch[name], expected[name]) for name in DTYPES)

    def test_pickled_collator_gives_the_same_batch(self, tokenizer):
        collator = DataCollatorForDualCoT(
            pad_token_id=PAD, alignment_level="word", tokenizer=tokenizer, chosen_other_weight=0.5
        )
        examples = [example(*map(tokenizer.encode, ("Q:", " It is 4.", " It is 5.")))]
        expected = collator(examples)

        batch = pickle.loads(pickle.dumps(collator))(examples)

        assert all(torch.equal(batch[name], expected[name]) for name in DTYPES)
