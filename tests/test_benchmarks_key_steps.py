"""
Tests of `benchmarks/key_steps.py`: the truth falls on the right tokens, the rules mark what they say, scores and
intervals are right, the solvers write right chains, and the script runs to its end.
"""

import importlib.util
import json
import os
import random
import re
import subprocess
import sys
from itertools import accumulate, pairwise
from pathlib import Path

import numpy as np
import pytest
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st

from edit_trl import DataCollatorForDualCoT
from edit_trl.data_utils import prepare_dual_cots
from edit_trl.tasks import Span


SCRIPT = Path(__file__).parents[1] / "benchmarks" / "key_steps.py"
REAL = Path(__file__).parents[2] / "shared" / "data" / "big_bench_mistake"


def load_script():
    spec = importlib.util.spec_from_file_location("benchmarks_key_steps", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


benchmark = load_script()


def token_chain(text):
    """Words and punctuation marks, with the space before them, and an end of sequence."""
    pieces = re.findall(r"\s?\w+|\s?[^\w\s]", text)
    assert "".join(pieces) == text
    borders = list(accumulate(map(len, pieces), initial=0))
    ids = [1 + int.from_bytes(piece.encode(), "big") % 1_000_003 for piece in pieces]
    return benchmark.TokenChain(text, [*ids, 0], [*pairwise(borders), (len(text), len(text))])


def token_pair(chosen, rejected, collator=None, seed="0"):
    return benchmark.TokenPair(token_chain(chosen), token_chain(rejected), collator, seed)


def marked_texts(rule, pair):
    """Text of the key tokens of both sides, without the spaces before them."""
    masks = benchmark.RULES[rule](pair)
    return [
        [side.text[a:b].strip() for (a, b), key in zip(side.offsets, mask, strict=True) if key]
        for side, mask in zip(pair.sides, masks, strict=True)
    ]


@pytest.fixture(scope="module")
def examples():
    return benchmark.generate(48, [1, 2, 3], seed=0)


@pytest.fixture(scope="module")
def tokenizers(examples):
    texts = [text for example in examples for text in example.to_pair().values()]
    return benchmark.build_tokenizers(texts, vocab_size=400)


def word_pair(tokenizer, chosen, rejected):
    collator = DataCollatorForDualCoT(pad_token_id=0, alignment_level="word", tokenizer=tokenizer)
    sides = [benchmark.tokenize(tokenizer, "Q:", text) for text in (chosen, rejected)]
    return benchmark.TokenPair(*sides, collator, "0")


class TestTokenizers:
    @pytest.mark.parametrize("name", ["bpe", "unigram", "words", "characters"])
    def test_tokens_are_those_of_the_trainer_and_spell_the_chain(self, tokenizers, examples, name):
        tokenizer = tokenizers[name]
        pairs = [example.to_pair() for example in examples]
        prepared = prepare_dual_cots(Dataset.from_list(pairs), tokenizer, eos_token=tokenizer.eos_token)
        for example, pair, row in zip(examples, pairs, prepared, strict=True):
            for text, ids in ((example.chosen, row["chosen_ids"]), (example.rejected, row["rejected_ids"])):
                chain = benchmark.tokenize(tokenizer, pair["prompt"], text)

                assert chain.ids == ids
                assert "".join(text[a:b] for a, b in chain.offsets) == text
                assert chain.offsets[-1] == (len(text), len(text))

    def test_same_texts_give_the_same_tokens_in_another_process(self, examples):
        """Hashes of strings, and with them the order of hash maps, differ between processes."""
        texts = [example.chosen for example in examples]
        code = (
            "import importlib.util, json, sys\n"
            f"spec = importlib.util.spec_from_file_location('key_steps', {str(SCRIPT)!r})\n"
            "module = importlib.util.module_from_spec(spec)\n"
            "spec.loader.exec_module(module)\n"
            "texts = json.load(sys.stdin)\n"
            "built = module.build_tokenizers(texts, 300).values()\n"
            "print(json.dumps([tokenizer(texts)['input_ids'] for tokenizer in built]))\n"
        )
        process = subprocess.run(
            [sys.executable, "-c", code], input=json.dumps(texts), capture_output=True, text=True, check=True
        )

        built = benchmark.build_tokenizers(texts, 300).values()
        assert json.loads(process.stdout) == [tokenizer(texts)["input_ids"] for tokenizer in built]


class TestTruth:
    def test_tokens_with_a_character_of_a_span_are_touched(self):
        """The span `b c` touches both tokens, `4` of 42 the one token of 42."""
        chain = token_chain("a b c 42 d.")

        assert chain.touches(2, 5) == [False, True, True, False, False, False, False]
        assert chain.touches(6, 7) == [False, False, False, True, False, False, False]

    def test_whitespace_at_the_ends_of_a_span_is_left_out(self):
        """The space after a forgotten step belongs to the token of the next step."""
        chain = token_chain("One. Two. Three.")
        assert chain.text[5:10] == "Two. "

        assert chain.touches(5, 10) == [False, False, True, True, False, False, False]
        assert chain.touches(4, 9) == chain.touches(5, 10)

    def test_truth_of_characters_is_the_text_of_the_spans(self, tokenizers, examples):
        """Independent of `touches`: the characters of the spans themselves, spaces at the ends of each taken off."""
        for example in examples:
            chain = benchmark.tokenize(tokenizers["characters"], "Q:", example.rejected)
            truth = benchmark.find_truth(chain, example.rejected_spans)
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
            truth = benchmark.find_truth(chain, order)
            assert truth.roles == ["mistake", None, None]
            assert dict(truth.spans) == {"mistake": [0], "consequence": [0]}

    def test_side_that_forgets_a_step_has_no_mistake_to_find(self):
        chain = token_chain("One. Five.")
        truth = benchmark.find_truth(chain, [Span(5, 9, "consequence")])
        counts = dict(zip(benchmark.FIELDS, benchmark.count(truth, [True] * 5), strict=True))

        assert counts["mistake"] == counts["mistake_spans"] == counts["mistake_found"] == 0
        assert (counts["key"], counts["truth"], counts["consequence_found"]) == (5, 1, 1)


class TestScores:
    def test_scores_agree_with_sets_of_tokens(self, tokenizers, examples):
        """Precision, recall and F1 from sets of (pair, side, token), each written out."""
        rng = random.Random(0)
        all_counts, key, truth, mistake, consequence, num_tokens = [], set(), set(), set(), set(), 0
        for number, example in enumerate(examples):
            sides = []
            for side, text, spans in (
                (0, example.chosen, example.chosen_spans),
                (1, example.rejected, example.rejected_spans),
            ):
                chain = benchmark.tokenize(tokenizers["bpe"], "Q:", text)
                mask = [rng.random() < 0.3 for _ in chain.ids]
                sides.append(benchmark.count(benchmark.find_truth(chain, spans), mask))
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

        scores = benchmark.scores(np.array(all_counts).sum(0))

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
        truth = benchmark.find_truth(token_chain("a b c d"), spans)
        counts = np.array(
            [benchmark.count(truth, [True, *[False] * 4]), benchmark.count(truth, [False] * 3 + [True] * 2)]
        )

        scores = benchmark.scores(counts)

        assert scores["mistake_recall"] == 1 / 4
        assert scores["chosen_mistake_recall"] == 1 / 2
        assert scores["rejected_mistake_recall"] == 0
        assert scores["consequence_recall"] == 1 / 2
        assert scores["mistake_span_recall"] == 1 / 2
        assert scores["chosen_mistake_span_recall"] == 1
        assert scores["chosen_f1"] == 2 * 1 / (1 + 3)
        assert scores["rejected_f1"] == 2 * 1 / (2 + 3)

    def test_nothing_found_scores_zero(self):
        truth = benchmark.find_truth(token_chain("a b"), [])
        scores = benchmark.scores(np.array([benchmark.count(truth, [False] * 3)] * 2))

        assert scores["precision"] == scores["recall"] == scores["f1"] == 0


class TestIntervals:
    def counts(self, num_pairs):
        """Random counts of the right shape: of 20 tokens a side, some are key, some true, and some both."""
        rng = np.random.default_rng(3)
        counts = np.zeros((num_pairs, len(benchmark.RULES), 2, len(benchmark.FIELDS)))
        for field, value in (("tokens", 20), ("key", 6), ("truth", 5)):
            counts[..., benchmark.FIELDS.index(field)] = value
        counts[..., benchmark.FIELDS.index("found")] = rng.integers(0, 6, size=counts.shape[:3])
        return counts

    def test_interval_contains_the_estimate_and_shrinks(self):
        few, many = (benchmark.summarize(self.counts(n), num_resamples=400, seed=0) for n in (25, 2500))
        for record, other in zip(few, many, strict=True):
            for name in ("precision", "recall", "f1"):
                low, high = record[f"{name}_interval"]
                assert low < record[name] < high
                # A hundred times the pairs, a tenth of the width.
                assert 6 < (high - low) / np.diff(other[f"{name}_interval"])[0] < 16

    def test_bootstrap_agrees_with_the_standard_error(self):
        """The precision of 2,500 pairs is a mean of independent shares, so the interval is 2 * 1.96 standard errors wide."""
        counts = self.counts(2500)
        record = benchmark.summarize(counts, num_resamples=2000, seed=0)[0]
        shares = counts[:, 0, :, benchmark.FIELDS.index("found")].sum(1) / 12

        width = np.diff(record["precision_interval"])[0]

        assert width == pytest.approx(2 * 1.96 * shares.std() / 50, rel=0.1)

    def test_resamples_have_as_many_pairs_and_a_seed(self):
        weights = benchmark.bootstrap_weights(30, 100, seed=1)

        assert weights.shape == (100, 30)
        assert (weights.sum(1) == 30).all()
        assert weights.std() > 0.5
        assert (weights == benchmark.bootstrap_weights(30, 100, seed=1)).all()
        assert (weights != benchmark.bootstrap_weights(30, 100, seed=2)).any()

    def test_difference_to_align_is_paired(self):
        """A rule that finds one token more in every pair is better by about the same in every resample."""
        counts = self.counts(200)
        baseline, other = list(benchmark.RULES).index("align"), list(benchmark.RULES).index("word")
        found = benchmark.FIELDS.index("found")
        counts[:, other] = counts[:, baseline]
        counts[:, other, 0, found] += 1
        records = benchmark.summarize(counts, num_resamples=400, seed=0)

        low, high = records[other]["f1_difference_interval"]
        assert low <= records[other]["f1_difference"] <= high
        assert high - low < 1e-9 < records[other]["f1_difference"]
        assert np.diff(records[other]["f1_interval"])[0] > 0.01
        assert records[baseline]["f1_difference_interval"] == [0, 0]

    @pytest.mark.parametrize(
        ("successes", "trials", "expected"),
        [(0, 10, [0.0, 0.2775]), (5, 10, [0.2366, 0.7634]), (10, 10, [0.7225, 1.0]), (0, 0, [0.0, 1.0])],
    )
    def test_wilson(self, successes, trials, expected):
        assert benchmark.wilson(successes, trials) == pytest.approx(expected, abs=1e-4)


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
            benchmark.TokenChain(text, list(ids), [(0, 0)] * len(ids))
            for text, ids in zip(texts, ["aaaa", "aba"], strict=True)
        ]
        pair = benchmark.TokenPair(*tokens, None, "0")

        assert benchmark.RULES["align"](pair) == ([False, True, True, False], [False, True, False])
        assert benchmark.RULES["reference"](pair) == ([False, True, False, True], [False, True, False])

    @pytest.mark.parametrize("swap", [False, True])
    def test_slid_begins_at_a_step(self, swap):
        """`B is 4. A ` and `A is 4. B` are deletions of as many tokens; so is the whole step."""
        texts = ["A is 4. B is 4. C is 4.", "A is 4. C is 4."]
        pair = token_pair(*(texts[::-1] if swap else texts))

        longer, shorter = marked_texts("slid", pair)[:: -1 if swap else 1]

        assert (longer, shorter) == (["B", "is", "4", "."], [])
        assert sum(map(len, marked_texts("align", pair))) == 4

    def test_slid_begins_at_a_word_where_no_step_does(self, tokenizers):
        """Of `ab ab`, as characters, the second word can go with the space before it or the first with that after it."""
        sides = [benchmark.tokenize(tokenizers["characters"], "Q:", text) for text in ("ab ab c", "ab c")]
        pair = benchmark.TokenPair(*sides, None, "0")

        [chosen, rejected] = benchmark.RULES["slid"](pair)

        start = chosen.index(True)
        assert chosen[start : start + 3] == [True] * 3
        assert sum(chosen) == 3 and not any(rejected)
        assert pair.chosen.starts[start] in (0, 3)

    @settings(deadline=None, max_examples=150)
    @given(texts=st.tuples(*[st.lists(st.sampled_from(["a", "b", "c.", "d. a", "ab"]), max_size=9)] * 2))
    def test_what_is_not_key_is_the_same_on_both_sides(self, texts):
        pair = token_pair(*(" ".join(text) for text in texts))
        for rule in ("align", "slid", "lexeme", "step", "difflib"):
            masks = benchmark.RULES[rule](pair)
            kept = [
                [token for token, key in zip(side.ids, mask, strict=True) if not key]
                for side, mask in zip(pair.sides, masks, strict=True)
            ]
            assert kept[0] == kept[1]
            if rule == "slid":
                assert [sum(mask) for mask in masks] == [sum(mask) for mask in benchmark.RULES["align"](pair)]
            if rule == "step":
                steps = [
                    [step for step, key in zip(side.steps, mask, strict=True) if not key]
                    for side, mask in zip(pair.sides, masks, strict=True)
                ]
                matched = set(zip(*steps, strict=True))
                assert all(len({step[side] for step in matched}) == len(matched) for side in range(2))

    def test_word_marks_what_stands_between_spaces(self, tokenizers):
        pair = word_pair(tokenizers["characters"], "3 is 12. So", "3 is 13. So")

        assert "".join(marked_texts("word", pair)[0]) == "12."
        assert "".join(marked_texts("align", pair)[0]) == "2"

    def test_lexeme_leaves_punctuation_out(self, tokenizers):
        pair = word_pair(tokenizers["characters"], "3 is 12. So", "3 is 13. So")

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

    def test_first_and_after(self):
        pair = token_pair(CHOSEN, REJECTED)

        assert marked_texts("first", pair) == [["5"], ["6"]]
        assert marked_texts("after", pair)[1] == ["6", ".", "6", "is", "even", ".", "So", "6", ".", ""]

    def test_first_difference_of_a_chain_that_goes_on(self):
        """The shorter chain has its end of sequence where the other one goes on."""
        pair = token_pair("a b", "a b c")

        assert marked_texts("first", pair) == [[""], ["c"]]

    def test_words_are_compared_as_sets(self):
        """`even` and `6` are nowhere in the right chain; `odd` and `5` nowhere in the wrong one. Order does not count."""
        assert marked_texts("words", token_pair(CHOSEN, REJECTED)) == [["5", "5", "odd", "5"], ["6", "6", "even", "6"]]
        assert marked_texts("words", token_pair("a b, c", "c b, a")) == [[], []]

    def test_random_marks_as_many_as_align(self):
        pair = token_pair(CHOSEN, REJECTED)
        masks = {}
        for seed in ("0", "0 again", "1"):
            seeded = benchmark.TokenPair(pair.chosen, pair.rejected, None, seed.split()[0])
            masks[seed] = benchmark.RULES["random"](seeded)
            assert [sum(mask) for mask in masks[seed]] == [4, 4]

        assert masks["0"] == masks["0 again"] != masks["1"]


class TestChanges:
    @pytest.mark.parametrize("rate", [0.3, 1.0])
    def test_rewording_carries_the_spans(self, examples, rate):
        changed = 0
        for number, example in enumerate(examples):
            chain = benchmark.Chain(example.rejected, example.rejected_spans)
            reworded = benchmark.reword(chain, rate, random.Random(number))

            for span, moved in zip(chain.spans, reworded.spans, strict=True):
                assert moved.role == span.role
                assert reworded.text[moved.start : moved.end] == chain.text[span.start : span.end]
            changed += reworded.text != chain.text
            assert reworded == benchmark.reword(chain, rate, random.Random(number))
        assert changed > 0.8 * len(examples)

    def test_rate_is_the_share_of_the_places(self):
        text = "Therefore, the answer is 4.\n" * 1000
        reworded = benchmark.reword(benchmark.Chain(text), 0.25, random.Random(0)).text

        assert 0.2 < 1 - reworded.count("Therefore") / 1000 < 0.3
        assert benchmark.reword(benchmark.Chain(text), 0.0, random.Random(0)).text == text

    def test_nothing_is_reworded_inside_of_a_span(self):
        text = "2 + 3 = 5. 5 = 5."
        chain = benchmark.Chain(text, (Span(6, 9, "mistake"),))
        reworded = benchmark.reword(chain, 1.0, random.Random(0))

        assert text[6:9] == "= 5"
        assert reworded.text.startswith("2 + 3 = 5. ")
        assert reworded.text.count("=") == 1

    def test_swapped_steps_carry_their_spans(self, examples):
        for number, example in enumerate(examples):
            chain = benchmark.Chain(example.rejected, example.rejected_spans)
            swapped = benchmark.swap_steps(chain, 2, random.Random(number))

            assert sorted(swapped.text) == sorted(chain.text)
            assert swapped.text.endswith(f"Therefore, the answer is {example.wrong_answer}.")
            texts = [sorted(c.text[a:b] for a, b, _ in c.spans) for c in (chain, swapped)]
            if len(swapped.spans) == len(chain.spans):
                assert texts[0] == texts[1]
            assert sorted("".join(texts[0])) == sorted("".join(texts[1]))

    def test_swap_moves_two_neighbours(self):
        chain = benchmark.Chain("One. Two. Three.", (Span(0, 3, "mistake"),))

        assert benchmark.swap_steps(chain, 1, random.Random(0)) == benchmark.Chain(
            "Two. One. Three.", (Span(5, 8, "mistake"),)
        )
        two_steps = benchmark.Chain("One. Two.")
        assert benchmark.swap_steps(two_steps, 3, random.Random(0)) == two_steps


DYCK = {
    "input": "( [ ] {",
    "target": "} )",
    "answer": ")",
    "mistake_index": 5,
    "steps": [
        "We should process each input one by one and keep track of the stack configuration.",
        "stack: empty",
        "( ; stack: (",
        "[ ; stack: ( [",
        "] ; stack: (",
        "{ ; stack: (",
        'Now, we have reached the end. The final stack is "(".',
        'We will need to pop out "(" one by one in that order.',
        'So, we need ")". So the answer is )',
    ],
}
TRACKING = {
    "input": "Ann and Bob are playing a game: Ann has a red ball, Bob has a blue ball, and Cy has a green ball.\n"
    "As the game progresses, they trade. First, Ann and Bob swap balls. Finally, Bob and Cy swap balls. "
    "At the end of the game, Bob has the\nOptions:\n(A) red ball.\n(B) blue ball.\n(C) green ball.",
    "target": "(C)",
    "answer": "(A)",
    "mistake_index": 2,
    "steps": [
        "At the start: Ann: red, Bob: blue, Cy: green.",
        "Ann and Bob swap: Ann: blue, Bob: red, Cy: green.",
        "Bob and Cy swap: Ann: blue, Bob: red, Cy: red.",
        "At the end of the game, Bob has the red ball. So the answer is (A)",
    ],
}
SORTING = {
    "input": "pear apple plum",
    "target": "apple pear plum",
    "answer": "apple plum pear",
    "mistake_index": 3,
    "steps": [
        "I should start by looking at the first letter of the words in the list. The first letter: "
        '"pear": "p" (16). "apple": "a" (1). "plum": "p" (16).',
        'We now have: (1) "apple" < (16) ["plum" ? "pear"].',
        'Now let\'s sort this subpart ["plum" ? "pear"] by looking at their second letters. The second letter: '
        '"plum": "l" (12). "pear": "e" (5).',
        'We now have: (12) "plum" < (5) "pear" for the subpart. Hence, we have "apple" < "plum" < "pear".',
        "I have now sorted all the words. The answer is apple plum pear",
    ],
}
ARITHMETIC = {
    "input": "((2 * 3 + 1) - (4 - -2)) = ",
    "target": "1",
    "answer": "5",
    "mistake_index": 2,
    "steps": [
        'This equation can be written as "A - B", where A = (2 * 3 + 1) and B = (4 - -2).',
        "Let's calculate A = (2 * 3 + 1) = (6 + 1) = 7.",
        "Let's calculate B = (4 - -2) = (4 - 2) = 2.",
        "Then, the final equation is A - B = 7 - 2 = 5. So the answer is 5",
    ],
}
RECORDS = {
    "dyck_languages": DYCK,
    "tracking_shuffled_objects": TRACKING,
    "word_sorting": SORTING,
    "multistep_arithmetic": ARITHMETIC,
}
RECTIFIED = {
    "dyck_languages": [
        "{ ; stack: ( {",
        'Now, we have reached the end. The final stack is "( {".',
        'We will need to pop out "{", "(" one by one in that order.',
        'So, we need "}", ")". So the answer is } )',
    ],
    "tracking_shuffled_objects": [
        "Bob and Cy swap: Ann: blue, Bob: green, Cy: red.",
        "At the end of the game, Bob has the green ball. So the answer is (C)",
    ],
    "word_sorting": [
        'We now have: (5) "pear" < (12) "plum" for the subpart. Hence, we have "apple" < "pear" < "plum".',
        "I have now sorted all the words. The answer is apple pear plum",
    ],
    "multistep_arithmetic": [
        "Let's calculate B = (4 - -2) = 6.",
        "Then, the final equation is A - B = 7 - 6 = 1. So the answer is 1",
    ],
}


class TestRectify:
    @pytest.mark.parametrize("task", list(RECORDS))
    def test_steps_before_the_marked_one_are_kept_and_the_rest_is_solved(self, task):
        record = RECORDS[task]
        kept = record["steps"][: record["mistake_index"]]

        assert benchmark.rectify(task, record) == kept + RECTIFIED[task]

    @pytest.mark.parametrize(
        ("task", "changes", "reason"),
        [
            ("dyck_languages", {"answer": "}  )"}, "the answer is right"),
            ("dyck_languages", {"mistake_index": None}, "no step is marked"),
            ("dyck_languages", {"target": ") )"}, "the solver's answer is not the target"),
            ("dyck_languages", {"mistake_index": 6}, "a step before the marked one differs from the solver's"),
            ("dyck_languages", {"mistake_index": 4}, "the marked step agrees with the solver's"),
            ("dyck_languages", {"input": "( ]"}, "the input closes a bracket that is not open"),
            ("tracking_shuffled_objects", {"steps": ["Ann has red."] * 4}, "the steps are in another form"),
            ("word_sorting", {"input": "pea pear"}, "words that no letter tells apart"),
            ("word_sorting", {"input": "pear pear"}, "a word occurs twice"),
            ("multistep_arithmetic", {"target": "2"}, "the first step takes the expression apart wrongly"),
        ],
    )
    def test_what_cannot_be_rectified_has_a_reason(self, task, changes, reason):
        with pytest.raises(benchmark.UnsolvableError, match=re.escape(reason)):
            benchmark.rectify(task, {**RECORDS[task], **changes})

    def test_subparts_are_sorted_from_the_first_one_on(self):
        """Equal second letters send `bea` and `bet` to their third ones before the next subpart."""
        record = {"input": "bea bet pear plum", "steps": ["", ""], "mistake_index": 1}
        steps = benchmark.solve_sorting(record)

        subparts = [re.search(r"subpart (\[.+?\]) by looking at their (\w+)", step) for step in steps[2::2]]
        assert [found.groups() for found in subparts if found] == [
            ('["bea" ? "bet"]', "second"),
            ('["bea" ? "bet"]', "third"),
            ('["pear" ? "plum"]', "second"),
        ]
        assert steps[-1] == "I have now sorted all the words. The answer is bea bet pear plum"

    @pytest.mark.parametrize(
        ("expression", "steps"),
        [
            ("(2 * 3 + 1)", ["(6 + 1)", "7"]),
            ("(4 - -2)", ["6"]),
            ("(12 - 54) * (-8 + 16)", ["(-42) * (-8 + 16)", "-42 * (8)", "-336"]),
            ("2 - 3 * -4 * 5", ["2 - -12 * 5", "2 - -60", "62"]),
            ("9 - 5 - 3", ["4 - 3", "1"]),
        ],
    )
    def test_expressions_are_worked_out_an_operation_at_a_time(self, expression, steps):
        assert benchmark.work_out(expression) == steps

    def test_right_start_of_a_calculation_is_kept(self):
        """The third expression is the first wrong one."""
        expressions = ["(5 + 3 - -2 * 2)", "(5 + 3 + 4)", "(8 + 2)", "10"]
        kept = expressions[:2]

        assert benchmark.continue_rightly(expressions, "(5 + 3 - -2 * 2)", 12) == [*kept, "(8 + 4)", "12"]
        assert benchmark.continue_rightly(["9", "9"], "(8 + 4)", 12) == ["(8 + 4)", "12"]
        assert benchmark.continue_rightly([*kept, "12"], "", 12) == [*kept, "12"]
        assert benchmark.continue_rightly([*kept, "12", "13"], "", 12) == [*kept, "12"]

    @settings(deadline=None, max_examples=200)
    @given(
        st.recursive(
            st.integers(-9, 9).map(str),
            lambda inner: st.tuples(inner, st.sampled_from("+-*"), inner).map(lambda parts: f"({' '.join(parts)})"),
            max_leaves=7,
        )
    )
    def test_every_step_has_the_value_of_the_expression(self, expression):
        value = benchmark.calculate(expression)

        steps = benchmark.work_out(expression)

        assert {benchmark.calculate(step) for step in steps} <= {value}
        assert not steps or steps[-1] == str(value)

    @pytest.mark.parametrize("text", ["__import__('os')", "(1 + 2", "1 (2)", "2 ** 3", "A + 1", ""])
    def test_what_is_no_expression_has_no_value(self, text):
        assert benchmark.calculate(text) is None

    @pytest.mark.skipif(not REAL.is_dir(), reason="the real chains are not here")
    def test_real_chains(self):
        rectified, reasons = benchmark.read_rectified(REAL)
        for task, pairs in rectified.items():
            # Of the wrong chains with a marked step, most can be rectified.
            others = {reason: number for reason, number in reasons[task].items() if "right" not in reason}
            assert len(pairs) > 2 * sum(others.values())
            for record, steps in pairs:
                marked = record["mistake_index"]
                assert steps[:marked] == record["steps"][:marked]
                assert steps[marked] != record["steps"][marked]
                assert steps[-1].endswith(f"answer is {' '.join(record['target'].split())}")

    @pytest.mark.skipif(not REAL.is_dir(), reason="the real chains are not here")
    def test_every_equation_of_real_arithmetic_holds(self):
        for _, steps in benchmark.read_rectified(REAL)[0]["multistep_arithmetic"]:
            for step in steps[1:]:
                expressions = step.split(". So the answer")[0].rstrip(".").split(" = ")[1:]
                assert len({benchmark.calculate(expression) for expression in expressions}) == 1


class TestPlace:
    def test_key_tokens_are_placed_by_line(self):
        """Tokens are a b / c d / e and the end of sequence; the marked line is the second one, number 1."""
        pair = token_pair("a b\nc d\ne", "a b\nc f\ne")
        masks = ([False] * 6, [True, False, False, True, True, False])

        counts = dict(zip(benchmark.PLACES, benchmark.place(pair, masks, marked=1), strict=True))

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
        counts = benchmark.place(pair, benchmark.RULES["align"](pair), marked=1)

        first, first_rejected, alarmed = counts[:3]
        assert (first, first_rejected, alarmed) == (1, 0, 0)

    def test_summary(self):
        """Two pairs: one with its first key token in the marked line, one with three key tokens before it."""
        counts = np.zeros((2, len(benchmark.RULES), len(benchmark.PLACES)))
        counts[0, :, :3], counts[1, :, :3] = [1, 1, 0], [0, 0, 1]
        counts[1, :, benchmark.PLACES.index("key_before")] = 3
        counts[:, :, benchmark.PLACES.index("tokens_before")] = 10

        record = benchmark.summarize_real(counts, num_resamples=200, seed=0)[0]

        assert (record["first"], record["alarmed"]) == (0.5, 0.5)
        assert record["first_interval"] == pytest.approx([0.0945, 0.9055], abs=1e-4)
        assert record["num_before"] == 1.5
        assert record["num_before_interval"] == [0, 3]
        assert record["before_key_ratio"] == 0.15
        assert record["marked_key_ratio"] == 0


class TestCommand:
    def test_run_to_the_end(self, tmp_path, tokenizers):
        folder = tmp_path / "mistakes"
        folder.mkdir()
        for task, record in RECORDS.items():
            lines = [record, {**record, "mistake_index": None}]
            (folder / f"{task}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
        tokenizers["bpe"].save_pretrained(tmp_path / "tokenizer")
        arguments = ["--num_pairs", 17, "--levels", 1, 2, "--rates", 0.5, "--swaps", 1, "--num_resamples", 20]
        arguments += ["--tokenizers", f"mine={tmp_path / 'tokenizer'}", "--big_bench_mistake", folder]
        arguments += ["--num_processes", 2, "--json", tmp_path / "report.json"]

        process = subprocess.run(
            [sys.executable, str(SCRIPT), *map(str, arguments)],
            capture_output=True,
            text=True,
            encoding="utf-8",
            env={**os.environ, "PYTHONUTF8": "1", "HF_HUB_OFFLINE": "1"},
        )
        assert process.returncode == 0, process.stderr
        report = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))

        everything = [record for record in report["generated"] if record["group"] == "all"]
        names = ["mine", "bpe", "unigram", "words", "characters"]
        changes = ["as generated", "reworded 0.5", "swapped 1"]
        assert [(record["tokenizer"], record["variant"], record["rule"]) for record in everything] == [
            (name, change, rule) for name in names for change in changes for rule in benchmark.RULES
        ]
        assert {record["num_pairs"] for record in everything} == {17}
        for record in everything:
            low, high = record["f1_interval"]
            assert 0 <= low <= record["f1"] <= high <= 1
        groups = {record["group"]: record["num_pairs"] for record in report["generated"]}
        assert groups["forgotten step"] + groups["other mistakes"] == 17
        assert groups["word_sorting"] == 2
        f1 = {(r["tokenizer"], r["variant"], r["rule"]): r["f1"] for r in everything}
        for name in names:
            assert f1[name, "as generated", "align"] > f1[name, "as generated", "random"]

        assert report["real_pairs"] == {task: {"rectified": 1, "no step is marked": 1} for task in RECORDS}
        assert [(record["tokenizer"], record["variant"], record["task"]) for record in report["real"]] == [
            (name, change, task)
            for name in names[:-1]
            for task in RECORDS
            for change in ("kept", "reworded 0.5")
            for _ in benchmark.RULES
        ]
        kept = [record for record in report["real"] if record["variant"] == "kept" and record["rule"] == "align"]
        assert all(record["first"] == 1 and record["num_before"] == 0 for record in kept)
        assert "## mine: 17 pairs" in process.stdout
        assert "## Real mistakes, words, right chain reworded 0.5" in process.stdout
        assert str(tmp_path) not in json.dumps(report)

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["--num_pairs", "-1"], "`--num_pairs` must be positive or zero, got -1"),
            (["--tokenizers", "folder"], "must be name=path, got 'folder'"),
            (["--big_bench_mistake", "no/such/folder"], "`--big_bench_mistake` must be a folder"),
        ],
    )
    def test_unfit_arguments_are_refused(self, arguments, message, capsys):
        with pytest.raises(SystemExit):
            benchmark.main(arguments)
        assert message in capsys.readouterr().err
