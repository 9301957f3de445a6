"""
Tests of the rules of the key-step benchmark: each rule marks the tokens that its description says.
"""

import pytest
from benchmark_pairs import small_tokenizers, token_pair, word_pair
from hypothesis import given, settings
from hypothesis import strategies as st
from key_steps_chains import TokenChain, TokenPair, tokenize
from key_steps_rules import RULES


def marked_texts(rule, pair):
    """Text of the key tokens of both sides, without the spaces before them."""
    masks = RULES[rule](pair)
    return [
        [side.text[a:b].strip() for (a, b), key in zip(side.offsets, mask, strict=True) if key]
        for side, mask in zip(pair.sides, masks, strict=True)
    ]


CHOSEN, REJECTED = "2 + 3 = 5. 5 is odd. So 5.", "2 + 3 = 6. 6 is even. So 6."


class TestRules:
    @pytest.mark.parametrize("rule", ["align", "reference", "slid", "lexeme", "step", "difflib"])
    def test_tokens_that_differ_are_key(self, rule):
        assert marked_texts(rule, token_pair(CHOSEN, REJECTED)) == [["5", "5", "odd", "5"], ["6", "6", "even", "6"]]

    def test_reference_has_the_tie_order_of_the_authors(self):
        """The default takes the middle two of four equal tokens away, the authors' order the second and the last."""
        pair = token_pair("a a a a", "a b a")
        texts = [side.text for side in pair.sides]
        tokens = [
            TokenChain(text, list(ids), [(0, 0)] * len(ids)) for text, ids in zip(texts, ["aaaa", "aba"], strict=True)
        ]
        pair = TokenPair(*tokens, None, "0")

        assert RULES["align"](pair) == ([False, True, True, False], [False, True, False])
        assert RULES["reference"](pair) == ([False, True, False, True], [False, True, False])

    @pytest.mark.parametrize("swap", [False, True])
    def test_slid_begins_at_a_step(self, swap):
        """`B is 4. A ` and `A is 4. B` are deletions of as many tokens; so is the whole step."""
        texts = ["A is 4. B is 4. C is 4.", "A is 4. C is 4."]
        pair = token_pair(*(texts[::-1] if swap else texts))

        longer, shorter = marked_texts("slid", pair)[:: -1 if swap else 1]

        assert (longer, shorter) == (["B", "is", "4", "."], [])
        assert sum(map(len, marked_texts("align", pair))) == 4

    def test_slid_begins_at_a_word_where_no_step_does(self):
        """Of the characters of `ab ab`, the second can go with the space before it, or the first with the next."""
        sides = [tokenize(small_tokenizers()["characters"], "Q:", text) for text in ("ab ab c", "ab c")]
        pair = TokenPair(*sides, None, "0")

        [chosen, rejected] = RULES["slid"](pair)

        start = chosen.index(True)
        assert chosen[start : start + 3] == [True] * 3
        assert sum(chosen) == 3 and not any(rejected)
        assert pair.chosen.starts[start] in (0, 3)

    @settings(deadline=None, max_examples=150)
    @given(texts=st.tuples(*[st.lists(st.sampled_from(["a", "b", "c.", "d. a", "ab"]), max_size=9)] * 2))
    def test_what_is_not_key_is_the_same_on_both_sides(self, texts):
        pair = token_pair(*(" ".join(text) for text in texts))
        for rule in ("align", "slid", "lexeme", "step", "difflib"):
            masks = RULES[rule](pair)
            kept = [
                [token for token, key in zip(side.ids, mask, strict=True) if not key]
                for side, mask in zip(pair.sides, masks, strict=True)
            ]
            assert kept[0] == kept[1]
            if rule == "slid":
                assert [sum(mask) for mask in masks] == [sum(mask) for mask in RULES["align"](pair)]
            if rule == "step":
                steps = [
                    [step for step, key in zip(side.steps, mask, strict=True) if not key]
                    for side, mask in zip(pair.sides, masks, strict=True)
                ]
                matched = set(zip(*steps, strict=True))
                assert all(len({step[side] for step in matched}) == len(matched) for side in range(2))

    def test_word_marks_what_stands_between_spaces(self):
        pair = word_pair(small_tokenizers()["characters"], "3 is 12. So", "3 is 13. So")

        assert "".join(marked_texts("word", pair)[0]) == "12."
        assert "".join(marked_texts("align", pair)[0]) == "2"

    def test_lexeme_leaves_punctuation_out(self):
        pair = word_pair(small_tokenizers()["characters"], "3 is 12. So", "3 is 13. So")

        # The space before it is a token, and a group, of its own.
        assert marked_texts("lexeme", pair) == [["1", "2"], ["1", "3"]]

    def test_step_matches_no_tokens_across_steps(self):
        """`x y` ends one step of the right chain and begins the next one of the wrong chain."""
        pair = token_pair("a b c d x y. e f g h.", "a b c d. x y e f g h.")

        assert marked_texts("align", pair) == [["."], ["."]]
        assert marked_texts("step", pair) == [["x", "y"], ["x", "y"]]

    def test_step_is_matched_with_the_one_that_needs_fewest_edits(self):
        """
        The end of sequence is part of the last step. The wrong step is the first right one with 1 replacement, 5
        deletions and 1 insertion, and the 4 tokens of the second deleted: 11. It is also the second one with 1
        replacement and 2 insertions, and the 10 tokens of the first deleted: 13.
        """
        pair = token_pair("a b c d e f g h i. p q.", "p b c d.")

        assert marked_texts("step", pair) == [["a", "e", "f", "g", "h", "i", "p", "q", ".", ""], ["p", ""]]

    def test_first_marks_one_token_and_after_marks_the_rest(self):
        pair = token_pair(CHOSEN, REJECTED)

        assert marked_texts("first", pair) == [["5"], ["6"]]
        assert marked_texts("after", pair)[1] == ["6", ".", "6", "is", "even", ".", "So", "6", ".", ""]

    def test_first_difference_of_a_chain_that_goes_on(self):
        """The shorter chain has its end-of-sequence token where the longer chain continues."""
        pair = token_pair("a b", "a b c")

        assert marked_texts("first", pair) == [[""], ["c"]]

    def test_words_are_compared_as_sets(self):
        """`even` and `6` are not in the right chain, `odd` and `5` not in the wrong one. Order does not count."""
        assert marked_texts("words", token_pair(CHOSEN, REJECTED)) == [["5", "5", "odd", "5"], ["6", "6", "even", "6"]]
        assert marked_texts("words", token_pair("a b, c", "c b, a")) == [[], []]

    def test_random_marks_as_many_as_align(self):
        pair = token_pair(CHOSEN, REJECTED)
        masks = {}
        for seed in ("0", "0 again", "1"):
            seeded = TokenPair(pair.chosen, pair.rejected, None, seed.split()[0])
            masks[seed] = RULES["random"](seeded)
            assert [sum(mask) for mask in masks[seed]] == [4, 4]

        assert masks["0"] == masks["0 again"] != masks["1"]
