"""
Tests of changes to generated pairs: spans stay on their text, and only text outside of spans changes.
"""

import random

import pytest
from benchmark_pairs import generated_examples
from key_steps_chains import Chain
from key_steps_generated import reword, swap_steps

from edit_trl.tasks import Span


class TestChanges:
    @pytest.mark.parametrize("rate", [0.3, 1.0])
    def test_rewording_carries_the_spans(self, rate):
        changed = 0
        for number, example in enumerate(generated_examples()):
            chain = Chain(example.rejected, example.rejected_spans)
            reworded = reword(chain, rate, random.Random(number))

            for span, moved in zip(chain.spans, reworded.spans, strict=True):
                assert moved.role == span.role
                assert reworded.text[moved.start : moved.end] == chain.text[span.start : span.end]
            changed += reworded.text != chain.text
            assert reworded == reword(chain, rate, random.Random(number))
        assert changed > 0.8 * len(generated_examples())

    def test_rate_is_the_share_of_the_places(self):
        text = "Therefore, the answer is 4.\n" * 1000
        reworded = reword(Chain(text), 0.25, random.Random(0)).text

        assert 0.2 < 1 - reworded.count("Therefore") / 1000 < 0.3
        assert reword(Chain(text), 0.0, random.Random(0)).text == text

    def test_nothing_is_reworded_inside_of_a_span(self):
        text = "2 + 3 = 5. 5 = 5."
        chain = Chain(text, (Span(6, 9, "mistake"),))
        reworded = reword(chain, 1.0, random.Random(0))

        assert text[6:9] == "= 5"
        assert reworded.text.startswith("2 + 3 = 5. ")
        assert reworded.text.count("=") == 1

    def test_swapped_steps_carry_their_spans(self):
        for number, example in enumerate(generated_examples()):
            chain = Chain(example.rejected, example.rejected_spans)
            swapped = swap_steps(chain, 2, random.Random(number))

            assert sorted(swapped.text) == sorted(chain.text)
            assert swapped.text.endswith(f"Therefore, the answer is {example.wrong_answer}.")
            texts = [sorted(c.text[a:b] for a, b, _ in c.spans) for c in (chain, swapped)]
            if len(swapped.spans) == len(chain.spans):
                assert texts[0] == texts[1]
            assert sorted("".join(texts[0])) == sorted("".join(texts[1]))

    def test_swap_moves_two_neighbours(self):
        chain = Chain("One. Two. Three.", (Span(0, 3, "mistake"),))

        assert swap_steps(chain, 1, random.Random(0)) == Chain("Two. One. Three.", (Span(5, 8, "mistake"),))
        two_steps = Chain("One. Two.")
        assert swap_steps(two_steps, 3, random.Random(0)) == two_steps
