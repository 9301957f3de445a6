"""
Tests of leaks: which replies speak of their prompt, and which only use the same words. The numbers are in the docs.
"""

import re
import time
from collections import Counter
from pathlib import Path

import pytest
from leaky_replies import HELD_OUT_INNOCENT, HELD_OUT_LEAKY, INNOCENT, LEAKY
from real_replies import SHARED_DATA, real_replies

from edit_trl.synthesis.leaks import leaks_prompt


QUESTION = "What is it?"
DOCS = Path(__file__).parents[1] / "docs" / "synthesis.md"


class TestReplies:
    @pytest.mark.parametrize(
        ("kind", "reply"), [(kind, reply) for kind, replies in LEAKY.items() for reply in replies]
    )
    def test_reply_that_speaks_of_its_prompt_leaks(self, kind, reply):
        assert leaks_prompt(reply, allowed=QUESTION)

    @pytest.mark.parametrize("reply", HELD_OUT_LEAKY)
    def test_reply_of_the_second_list_leaks(self, reply):
        assert leaks_prompt(reply, allowed=QUESTION)

    @pytest.mark.parametrize("reply", [*INNOCENT, *HELD_OUT_INNOCENT])
    def test_reply_with_the_same_words_is_kept(self, reply):
        assert not leaks_prompt(reply, allowed=QUESTION)

    @pytest.mark.skipif(not (SHARED_DATA / "gsm8k").is_dir(), reason="needs the shared data")
    def test_no_real_reply_is_flagged(self):
        nums: Counter[str] = Counter()
        for source, question, reply in real_replies():
            nums[source] += 1
            # Also not if the question did not excuse it.
            assert not leaks_prompt(reply, allowed=question), reply
            assert not leaks_prompt(reply, allowed=""), reply

        page = DOCS.read_text(encoding="utf-8")
        for source, num in nums.items():
            assert f"| {source} | {num:,} | 0 |" in page

    def test_page_has_the_numbers_of_the_lists(self):
        page = DOCS.read_text(encoding="utf-8")
        for kind, replies in LEAKY.items():
            assert f"| {kind} | {len(replies)} | 0 |" in page
        numbers = len(INNOCENT), len(HELD_OUT_LEAKY), len(HELD_OUT_INNOCENT)
        assert re.search(r"{}\s+innocent .*{}\s+leaky .*{}\s+innocent".format(*numbers), page, re.DOTALL)


class TestAllowed:
    @pytest.mark.parametrize(
        ("reply", "question"),
        [
            ("The hint is red.", "Eve hides a hint. Which colour has it?"),
            ("The mistake is in the sum.", "Find the mistake in 2 + 3 = 6."),
            ("Therefore, the wrong answer is 6.", "Which answer is wrong?"),
            ("She gave the right response.", "Who gave the right response?"),
            ("This matches the given answer.", "Is the given answer right?"),
        ],
    )
    def test_question_may_be_about_the_same(self, reply, question):
        assert leaks_prompt(reply, allowed="What is 2 + 3?")
        assert not leaks_prompt(reply, allowed=question)

    @pytest.mark.parametrize(
        ("reply", "question"),
        [
            ("The hint says 5. Therefore, the answer is 5.", "Eve makes 2 mistakes and Bob 3. How many?"),
            ("The mistake is in the sum.", "Eve hides a hint. Which colour has it?"),
            ("We know the correct answer is 5.", "Eve makes 2 mistakes and Bob 3. How many?"),
        ],
    )
    def test_question_about_one_thing_does_not_excuse_another(self, reply, question):
        assert leaks_prompt(reply, allowed=question)


class TestSpeed:
    @pytest.mark.parametrize(
        "chain",
        [
            "the answer is " + "( " * 30_000,
            "answer mistake =" + "x" * 60_000,
            "mistake answer hint " + "\n" * 60_000,
            "answer is " * 6_000 + "wrong",
            "[" * 60_000 + " answer error hint",
            " " * 60_000 + "answer hint mistake",
        ],
        ids=lambda chain: chain.strip()[:14],
    )
    def test_time_is_linear_in_the_length(self, chain):
        """Quadratic time would be minutes."""
        start = time.process_time()
        leaks_prompt(chain, allowed="")
        assert time.process_time() - start < 10
