"""
Tests of the weights of a pair and of truncation, mostly in the batches that the collator makes.

The alignment itself is tested in `test_alignment.py`; these tests assume that it is right.
"""

import math
import re

import pytest
import torch
from hypothesis import given, settings
from slow_collator import PAD, SCORED, example, examples_lists, key_places, options_dicts

from edit_trl.alignment import align
from edit_trl.data_collator import DataCollatorForDualCoT
from edit_trl.weighting import check_options, weigh_pair


class TestTruncation:
    pair = example([1, 2, 3], [4, 5, 6, 7], [4, 8, 6, 9])

    def batch(self, **options):
        return DataCollatorForDualCoT(pad_token_id=PAD, **options)([self.pair])

    def test_keep_start_cuts_the_end(self):
        """Five tokens are left: the prompt and "4 5" or "4 8". The second key token of each chain is cut away."""
        batch = self.batch(max_length=5)

        assert batch["input_ids"].tolist() == [[1, 2, 3, 4, 5], [1, 2, 3, 4, 8]]
        assert batch["scored_ids"].tolist() == [5, 8]
        assert batch["scored_positions"].tolist() == [3, 3]
        assert batch["num_completion_tokens"].tolist() == [2, 2]
        assert batch["num_key_tokens"].tolist() == [2, 2]

    def test_keep_end_cuts_the_start(self):
        """Of three tokens "5 6 7" the first opens the row: nothing predicts it, though it is key and counts."""
        batch = self.batch(max_length=3, truncation_mode="keep_end")

        assert batch["input_ids"].tolist() == [[5, 6, 7], [8, 6, 9]]
        assert batch["scored_ids"].tolist() == [7, 9]
        assert batch["scored_positions"].tolist() == [1, 1]
        assert batch["num_completion_tokens"].tolist() == [3, 3]

    def test_keep_end_counts_no_prompt_token(self):
        batch = self.batch(max_length=6, truncation_mode="keep_end")

        assert batch["input_ids"].tolist() == [[2, 3, 4, 5, 6, 7], [2, 3, 4, 8, 6, 9]]
        assert batch["num_completion_tokens"].tolist() == [4, 4]
        assert batch["scored_positions"].tolist() == [2, 4, 2, 4]

    @pytest.mark.parametrize("max_length", [1, 2, 3])
    def test_prompt_that_fills_the_length_leaves_nothing(self, max_length):
        batch = self.batch(max_length=max_length)

        assert batch["input_ids"].tolist() == [[1, 2, 3][:max_length]] * 2
        assert batch["num_completion_tokens"].tolist() == [0, 0]
        assert batch["num_key_tokens"].tolist() == [2, 2]
        assert all(len(batch[name]) == 0 for name in SCORED)

    def test_empty_prompt_leaves_the_first_token_unscored(self):
        batch = DataCollatorForDualCoT(pad_token_id=PAD)([example([], [4, 5], [8, 5, 9])])

        assert batch["scored_ids"].tolist() == [9]
        assert batch["scored_positions"].tolist() == [1]
        assert batch["num_completion_tokens"].tolist() == [2, 3]
        assert batch["num_key_tokens"].tolist() == [1, 2]

    def test_chains_are_cut_each_on_its_own(self):
        batch = DataCollatorForDualCoT(pad_token_id=PAD, max_length=4)([example([1], [2, 3], [2, 3, 4, 5, 6])])

        assert batch["input_ids"].tolist() == [[1, 2, 3, PAD], [1, 2, 3, 4]]
        assert batch["num_completion_tokens"].tolist() == [2, 3]

    def test_chains_are_aligned_before_they_are_cut(self):
        """
        The wrong chain has one token, 9, in front. Cut to three tokens, "5 6 7" and "9 5 6" differ in 7 as well,
        although the full chains share it.
        """
        assert align([5, 6, 7], [9, 5, 6]).chosen_key == [False, False, True]
        batch = DataCollatorForDualCoT(pad_token_id=PAD, max_length=4)([example([1], [5, 6, 7], [9, 5, 6, 7])])

        assert batch["input_ids"].tolist() == [[1, 5, 6, 7], [1, 9, 5, 6]]
        assert batch["scored_ids"].tolist() == [9]
        assert batch["scored_chains"].tolist() == [1]

    def test_weights_are_cut_with_their_tokens(self):
        pair = example([1, 2], [3, 4, 5], [3], chosen_weights=[1.0, 2.0, 3.0], rejected_weights=[-1.0])
        for mode, ids, weights in (("keep_start", [3, 3], [1.0, -1.0]), ("keep_end", [4, 5, 3], [2.0, 3.0, -1.0])):
            collator = DataCollatorForDualCoT(pad_token_id=PAD, max_length=3, truncation_mode=mode)
            batch = collator([pair])
            assert batch["scored_ids"].tolist() == ids
            assert batch["scored_weights"].tolist() == weights


class TestWeights:
    pair = example([1], [3, 4, 9], [3, 5, 9])

    def test_other_weight_lists_all_tokens_of_the_right_chain(self):
        batch = DataCollatorForDualCoT(pad_token_id=PAD, chosen_other_weight=0.25)([self.pair])

        assert batch["scored_ids"].tolist() == [3, 4, 9, 5]
        assert batch["scored_weights"].tolist() == pytest.approx([0.25, 1.0, 0.25, -0.025])
        assert batch["scored_key"].tolist() == [False, True, False, True]
        assert batch["num_key_tokens"].tolist() == [1, 1]

    def test_strength_of_zero_keeps_the_key_tokens_listed(self):
        """They are not trained, but their likelihood is logged."""
        batch = DataCollatorForDualCoT(pad_token_id=PAD, chosen_key_weight=0.0, rejected_key_weight=0.0)([self.pair])

        assert batch["scored_ids"].tolist() == [4, 5]
        assert batch["scored_weights"].tolist() == [0.0, 0.0]
        assert not torch.signbit(batch["scored_weights"]).any()
        assert batch["scored_key"].tolist() == [True, True]

    def test_given_weights_replace_the_alignment(self):
        """Signs are free on both chains; a token is key where its weight is not zero."""
        pair = {**self.pair, "chosen_weights": [-1.0, 0.0, 2.0], "rejected_weights": [0.5, 0.0, 0.0]}

        batch = DataCollatorForDualCoT(pad_token_id=PAD, chosen_other_weight=7.0)([pair])

        assert batch["scored_ids"].tolist() == [3, 9, 3]
        assert batch["scored_weights"].tolist() == [-1.0, 2.0, 0.5]
        assert batch["scored_key"].tolist() == [True, True, True]
        assert batch["num_key_tokens"].tolist() == [2, 1]

    def test_weights_of_none_are_as_good_as_no_weights(self):
        collator = DataCollatorForDualCoT(pad_token_id=PAD)
        batch = collator([{**self.pair, "chosen_weights": None, "rejected_weights": None}])
        assert torch.equal(batch["scored_ids"], collator([self.pair])["scored_ids"])

    def test_whole_numbers_are_weights(self):
        pair = {**self.pair, "chosen_weights": [1, 0, 0], "rejected_weights": [0, -1, 0]}
        assert DataCollatorForDualCoT(pad_token_id=PAD)([pair])["scored_weights"].tolist() == [1.0, -1.0]

    @pytest.mark.parametrize(("given_side", "missing"), [("chosen", "rejected"), ("rejected", "chosen")])
    def test_weights_of_one_chain_alone_are_refused(self, given_side, missing):
        for extra in ({}, {f"{missing}_weights": None}):
            pair = {**self.pair, f"{given_side}_weights": [1.0, 1.0, 1.0], **extra}
            with pytest.raises(ValueError, match=rf"`{missing}_weights` is missing.*=\[0.0\] \* 3"):
                DataCollatorForDualCoT(pad_token_id=PAD)([pair])

    @pytest.mark.parametrize("side", ["chosen", "rejected"])
    @pytest.mark.parametrize("length", [0, 2, 4])
    def test_wrong_number_of_weights_is_refused(self, side, length):
        pair = {
            **self.pair,
            "chosen_weights": [0.0] * 3,
            "rejected_weights": [0.0] * 3,
            f"{side}_weights": [1.0] * length,
        }
        with pytest.raises(
            ValueError, match=f"`{side}_weights` must hold one float per token.*expected 3, got {length}"
        ):
            DataCollatorForDualCoT(pad_token_id=PAD)([pair])

    @pytest.mark.parametrize("side", ["chosen", "rejected"])
    @pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, None, "1.0"])
    def test_weight_that_is_no_finite_number_is_refused(self, side, bad):
        pair = {**self.pair, "chosen_weights": [0.0] * 3, "rejected_weights": [0.0] * 3}
        pair[f"{side}_weights"] = [1.0, bad, 0.0]
        with pytest.raises(
            ValueError, match=f"`{side}_weights` must be finite numbers, got {re.escape(repr(bad))} at token 1"
        ):
            DataCollatorForDualCoT(pad_token_id=PAD)([pair])


class TestWordLevel:
    def collator(self, tokenizer, **options):
        return DataCollatorForDualCoT(pad_token_id=PAD, alignment_level="word", tokenizer=tokenizer, **options)

    def test_all_tokens_of_a_changed_word_are_key(self, any_tokenizer):
        """Only the last digit of the sum differs, and the full stop is part of its word; the rest is shared."""
        prompt, chosen, rejected = (
            any_tokenizer.encode(text, add_special_tokens=False)
            for text in ("Q:", " First, 12 + 30 = 42. Then", " First, 12 + 30 = 47. Then")
        )
        assert sum(align(chosen, rejected).chosen_key) < 3

        batch = self.collator(any_tokenizer)([example(prompt, chosen, rejected)])

        for row, ids, word in ((0, chosen, "42."), (1, rejected, "47.")):
            places = key_places(batch, row, len(prompt))
            assert places == list(range(places[0], places[-1] + 1))
            assert any_tokenizer.decode([ids[place] for place in places]).strip() == word
        assert batch["num_key_tokens"].tolist() == [len(key_places(batch, row, len(prompt))) for row in (0, 1)]

    def test_end_of_sequence_is_not_part_of_the_last_word(self, any_tokenizer):
        eos = any_tokenizer.eos_token_id
        chosen, rejected = (
            [*any_tokenizer.encode(f"The answer is {answer}", add_special_tokens=False), eos]
            for answer in ("42", "37")
        )

        batch = self.collator(any_tokenizer)([example([5], chosen, rejected)])

        assert batch["scored_key"].any()
        assert eos not in batch["scored_ids"].tolist()

    @pytest.mark.parametrize(
        ("chosen", "rejected"),
        [
            ("The answer is 42.", "The answer is 43."),
            ("First, 12 + 30 = 42.\nThen 42 - 5 = 37.", "First, 12 + 30 = 43.\n\nThen 43 - 5 = 38."),
            ("Évaluate naïve 😀 x😀y apples", "Évaluate naive 😁 x😀y apples"),
            ("a  b   c d", "a b c  d"),
            ("or(True)and False \t is not", "or(False)and False\t is not"),
            ("Zwölf Boxkämpfer jagen", "Zwölf Boxkampfer jagen"),
        ],
    )
    def test_words_are_those_of_the_decoded_text(self, chosen, rejected, any_tokenizer):
        """
        The tokenizer's own offsets say where each token starts in the text. A token whose start has whitespace on
        either side opens a word; tokens inside one character share their offset and open none.
        """
        ids, words, owners = [], [], []
        for text in (chosen, rejected):
            encoding = any_tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
            starts, owner, previous = [], [], -1
            for at, _ in encoding["offset_mapping"]:
                if at > previous and (at == 0 or text[at - 1].isspace() or text[at].isspace()):
                    starts.append(at)
                owner.append(len(starts) - 1)
                previous = at
            ids.append(encoding["input_ids"])
            words.append([text[a:b] for a, b in zip(starts, [*starts[1:], len(text)], strict=True)])
            owners.append(owner)
        script = align(*words)
        expected = [
            [place for place, word in enumerate(owner) if key[word]]
            for owner, key in zip(owners, (script.chosen_key, script.rejected_key), strict=True)
        ]

        batch = self.collator(any_tokenizer)([example([5], *ids)])

        assert any(expected[0])
        assert [key_places(batch, row, 1) for row in (0, 1)] == expected

    def test_words_are_split_as_a_regular_expression_splits_them(self, tokenizer):
        """In text whose spaces all belong to the next token, words are an optional space and non-spaces."""
        chosen = " First, 12 + 30 = 42. Then the answer is (B). It is not 37."
        rejected = " First, 12 + 30 = 47. Then the answer is (A). It is not 37."
        ids = [tokenizer.encode(text, add_special_tokens=False) for text in (chosen, rejected)]
        assert all(token != " " for token in map(tokenizer.decode, ids[0] + ids[1]))
        words = [re.findall(r" ?\S+", text) for text in (chosen, rejected)]
        expected = [
            "".join(word for word, other in zip(*order, strict=True) if word != other)
            for order in (words, reversed(words))
        ]

        batch = self.collator(tokenizer)([example([5], *ids)])

        for row in (0, 1):
            assert tokenizer.decode([ids[row][place] for place in key_places(batch, row, 1)]) == expected[row]

    @pytest.mark.parametrize("space", ["\u3000", "\u00a0", "\u2009"])
    def test_space_of_several_tokens_is_a_border_too(self, space, tokenizer):
        """The bytes of these spaces are tokens of their own, whose text is no space when read one by one."""
        num_apples = len(tokenizer.encode("apples"))
        assert len(tokenizer.encode(f"apples{space}")) > num_apples + 1
        chosen, rejected = (tokenizer.encode(f"apples{space}{answer}") for answer in ("42", "37"))

        batch = self.collator(tokenizer)([example([5], chosen, rejected)])

        for row in (0, 1):
            places = key_places(batch, row, 1)
            assert places and min(places) >= num_apples

    def test_word_that_differs_in_one_byte_of_a_character_is_key_as_a_whole(self, any_tokenizer):
        """The two faces differ in their last byte alone."""
        chosen, rejected = (any_tokenizer.encode(f"so x{face}y is", add_special_tokens=False) for face in "😀😁")
        assert sum(align(chosen, rejected).chosen_key) == 1

        batch = self.collator(any_tokenizer)([example([5], chosen, rejected)])

        # "x", four bytes and "y"; a space of its own token is shared.
        assert len(key_places(batch, 0, 1)) >= 6
        text = any_tokenizer.decode([chosen[place] for place in key_places(batch, 0, 1)])
        assert text.strip() == "x😀y"

    def test_words_are_compared_by_their_exact_text(self, tokenizer):
        """Case and spaces count: " the" is not " The" and not "the"."""
        chosen, rejected = (tokenizer.encode(text) for text in ("is the answer", "is The answer"))
        batch = self.collator(tokenizer)([example([5], chosen, rejected)])
        assert batch["num_key_tokens"].min() > 0

    def test_same_text_of_other_tokens_is_shared(self, tokenizer):
        """At word level a word is its text, however it is split into tokens."""
        merged = tokenizer.encode("answer")
        split = [token for character in "answer" for token in tokenizer.encode(character)]
        examples = [example([5], merged, split)]
        assert DataCollatorForDualCoT(pad_token_id=PAD)(examples)["num_key_tokens"].min() > 0

        assert self.collator(tokenizer)(examples)["num_key_tokens"].tolist() == [0, 0]

    def test_reference_tie_break_applies_to_words(self, tokenizer):
        """From " a b" to " b a", each direction of the authors' code deletes its own last word."""
        ids = [tokenizer.encode(text) for text in (" 3 4", " 4 3")]
        batch = self.collator(tokenizer, tie_break="reference")([example([5], *ids)])
        texts = [tokenizer.decode([ids[row][place] for place in key_places(batch, row, 1)]) for row in (0, 1)]
        assert texts == [" 4", " 3"]

    def test_truncation_follows_the_alignment(self, tokenizer):
        ids = [tokenizer.encode(text) for text in (" The answer is 42", " Therefore, the answer is 42")]
        full = self.collator(tokenizer)([example([5], *ids)])
        cut = self.collator(tokenizer, max_length=6)([example([5], *ids)])
        assert full["num_key_tokens"].tolist() == cut["num_key_tokens"].tolist()
        assert key_places(cut, 1, 1) == [place for place in key_places(full, 1, 1) if place < 5]


class TestWeighPair:
    """Called directly, to test results that a batch does not have."""

    PAIR = {"prompt_ids": [1, 2], "chosen_ids": [3, 4, 9], "rejected_ids": [3, 5, 6, 9]}  # noqa: RUF012

    @given(examples=examples_lists, options=options_dicts)
    @settings(deadline=None)
    def test_what_is_kept_and_what_is_cut_make_up_the_chain(self, examples, options):
        options = DataCollatorForDualCoT(pad_token_id=PAD, **options)
        for pair in examples:
            weighed = weigh_pair(pair, options)
            sides = [(weighed.chosen, "chosen_ids"), (weighed.rejected, "rejected_ids")]
            if weighed.is_completion:
                assert not weighed.rejected.ids and not weighed.rejected.kept_ids
                sides = [(weighed.chosen, "completion_ids")]
            for chain, side in sides:
                assert chain.ids == pair["prompt_ids"] + pair[side]
                assert len(chain.weights) == len(chain.is_key) == len(pair[side])
                assert len(chain.completion) + chain.num_cut == len(pair[side])
                kept = [chain.is_key[place - chain.prompt_length] for place in chain.completion]
                assert sum(kept) + chain.num_key_cut == sum(chain.is_key)
                assert len(chain.kept_ids) == min(len(chain.ids), options.max_length or len(chain.ids))

    def test_alignment_is_that_of_the_whole_completions(self):
        options = DataCollatorForDualCoT(pad_token_id=PAD, max_length=3)
        assert weigh_pair(self.PAIR, options).alignment == align([3, 4, 9], [3, 5, 6, 9])

    def test_words_may_stand_in_for_tokens(self):
        """Any hashables can be weighed."""
        words = {"prompt_ids": ["Q:"], "chosen_ids": ["so", "4"], "rejected_ids": ["so", "5"]}
        weighed = weigh_pair(words, DataCollatorForDualCoT(pad_token_id=PAD))
        assert (weighed.chosen.weights, weighed.rejected.weights) == ([0.0, 1.0], [0.0, -0.025])

    def test_words_need_a_tokenizer(self):
        options = DataCollatorForDualCoT(pad_token_id=PAD)
        options.alignment_level = "word"
        with pytest.raises(ValueError, match="`alignment_level='word'` needs the text of the tokens"):
            weigh_pair(self.PAIR, options)

    def test_given_weights_leave_no_alignment(self):
        pair = {**self.PAIR, "chosen_weights": [0, -1, 0.5], "rejected_weights": [0.0] * 4}
        weighed = weigh_pair(pair, DataCollatorForDualCoT(pad_token_id=PAD))
        assert weighed.alignment is None
        assert weighed.chosen.weights == [0.0, -1.0, 0.5] and weighed.chosen.is_key == [False, True, True]

    @pytest.mark.parametrize("name", ["chosen_key_weight", "rejected_key_weight", "chosen_other_weight"])
    @pytest.mark.parametrize("value", [-0.5, math.nan, math.inf])
    def test_strength_that_trains_the_wrong_way_is_refused(self, name, value):
        with pytest.raises(ValueError, match=f"`{name}` must be positive or zero and finite, got {value}"):
            DataCollatorForDualCoT(pad_token_id=PAD, **{name: value})
        options = DataCollatorForDualCoT(pad_token_id=PAD)
        setattr(options, name, value)
        with pytest.raises(ValueError, match=name):
            check_options(options)
        with pytest.raises(ValueError, match=name):
            weigh_pair(self.PAIR, options)
