"""
Tests of answers that only the last sentence states, and of the replies on which each such rule must stay silent.

Unread is better than misread. Every bug adds a row.
"""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edit_trl.answers import extract_answer, reasoning


# Each row: what a model wrote, what is read.
READ = [
    # is actually, is therefore
    ("She sells 4 * 4 = 16 eggs. The total is actually 16.", "16"),
    ("The number of apples is therefore 16.", "16"),
    ("4 * 4 is thus 16 apples.", "16 apples"),
    ("The answer is actually 16.", "16"),
    ("The answer is therefore 16.", "16"),
    ("The answer is, in fact, 16.", "16"),
    ("The answer is in fact (C).", "(C)"),
    ("The answer is indeed $16.", "$16"),
    ("The correct answer is actually B. Paris", "(B)"),
    ("The answer is thus equal to 16.", "16"),
    ("So the time is actually 4:15 PM.", "4:15 PM"),
    ("Hence the claim is actually false.", "false"),
    # thus
    ("4 * 4 = 16. Thus 16.", "16"),
    ("4 * 4 = 16. Thus, 16.", "16"),
    ("Therefore, 16 apples.", "16 apples"),
    ("Four times four, thus 16.", "16"),
    ("Hence: $16", "$16"),
    ("It is not an odd number. Therefore, no.", "no"),
    ("Only one is left. Therefore, (C).", "(C)"),
    ("Only one is left, thus C.", "(C)"),
    # leaves
    ("(A) and (B) are too small. That leaves **(C) 13**.", "(C)"),
    ("A and B are too small. That leaves (C) 13", "(C)"),
    ("A and B are too small. This leaves only option C.", "(C)"),
    ("A and B are too small, which leaves us with (C).", "(C)"),
    ("A and B are too small, leaving (C).", "(C)"),
    ("All others are too small.\nThat leaves C.", "(C)"),
    # would go with
    ("Both look right. I would go with D.", "(D)"),
    ("Both look right. I'd go with (D) Paris.", "(D)"),
    ("Both look right. I’ll go with option D", "(D)"),
    ("Both look right. I would choose **D**.", "(D)"),
    ("I pick the letter D.", "(D)"),
    ("I select (D).", "(D)"),
    ("I would answer 16.", "16"),
    ("I will answer with yes.", "yes"),
    ("I would have to go with D.", "(D)"),
    ("My choice is D.", "(D)"),
    ("The best option is D.", "(D)"),
    ("The correct one is (D).", "(D)"),
    ("So it's (D).", "(D)"),
    ("Therefore it must be (D) Paris.", "(D)"),
    # bold at the end
    ("She has 12 + 4 eggs.\n\n**16**", "16"),
    ("She has 12 + 4 eggs.\n\n**16**.", "16"),
    ("She has 12 + 4 eggs.\n\n**$16**", "$16"),
    ("She has 12 + 4 eggs.\n\n**16 eggs**", "16 eggs"),
    ("She has 12 + 4 eggs, so she has **16**.", "16"),
    ("She has 12 + 4 eggs.\nShe has **16 eggs**.", "16 eggs"),
    ("So Janet makes **$18** every day at the market.", "$18"),
    ("Therefore, **Yes**.", "Yes"),
    ("It cannot be the first.\n\n**(C) Paris**", "(C)"),
    ("It cannot be the first.\n\n**C**", "(C)"),
    ("**Step 1:** add.\n**Step 2:** halve.\n\n**16**", "16"),
    # the last line
    ("It takes 2 + 1 = 3 bolts.\nA: 3", "3"),
    ("It takes 2 + 1 = 3 bolts.\nA: $3.50", "$3.50"),
    ("It takes 2 + 1 = 3 bolts.\nAns: 3 bolts", "3 bolts"),
    ("It takes 2 + 1 = 3 bolts.\nFinal result: 3", "3"),
    ("The final result is 3.", "3"),
    ("One fits.\n\\fbox{3}", "3"),
    ("One fits.\n$\\boxed 3$", "3"),
    ("4:15 PM", "4:15 PM"),
    ("-8°C", "-8°C"),
    ("1 250 000", None),  # several words: it may be a list
]
SILENT = [
    # is actually
    "If the total is actually 16, she lied.",
    "The total is not actually 16.",
    "The total isn't actually 16.",
    "Maybe the total is actually 16.",
    "Is the total actually 16?",
    "The price is actually 16. She pays with a note of 20",
    "The total is actually between 16 and 20.",
    "The total is actually more than 16.",
    "The total is actually 16 or 17.",
    "What is actually 16% of 50?",
    "The first step is therefore 16.",
    "It is therefore a mistake to add 16.",
    "The total is therefore unclear.",
    # thus
    "4 * 4 = 16, thus 16 + 4 = 20.",
    "Thus 16 people came to the party.",
    "So 2 of them are red.",
    "Thus 16 is not the total.",
    "Thus, x = 16 or x = 17.",
    "A pound makes 40 cups, so 3 lbs.",
    "Thus 16.\nThen we add 4 and get the next number",
    "Thus it is not 16.",
    "Thus 16...",
    "So 5 times 3",
    "So, A has more than B.",
    "Therefore A and B.",
    "So A dog.",
    "If D is the answer, it rains.",
    # leaves
    "That leaves 13 apples for the others.",
    "That leaves 13.",
    "That leaves (A) or (B).",
    "That leaves (A), (B).",
    "That leaves A and B.",
    "That leaves the question open.",
    "If that leaves (C), I am lost.",
    "This leaves (C) out, since it is not red.",
    # go with
    "I would not go with D.",
    "I wouldn't go with D.",
    "If I go with D, it is too small.",
    "I would go with D or E.",
    "I would go with D if it were larger.",
    "I would go with the flow.",
    "I would go with D, but it may be E.",
    "Would you go with D?",
    "I choose a random number.",
    "I would go with D. Then I look at E again.",
    "You should go with D.",
    # bold
    "She has **12** eggs and **4** hens.",
    "She has either **12** or 16.",
    "The total is not **16**.",
    "Is it **16**?",
    "- Count: **16**",
    "2. Count: **16**",
    "**Step 3**",
    "**2.** We add.\n**3.**",
    "**Note:**",
    "It is at least **16**.",
    "She has **16** of them left on the first day.",
    "**12** eggs go to the market.",
    "| total | **16** |",
    "I am **not** sure.",
    "It was a **big** dog.",
    "Next we look at **(B)**.",
    "(B) is wrong and so is **(C)**.",
    "Step 2: we get **16**.",
    "**16**\nBut that is too many, so we need another way.",
    # the last line
    "1 + 2 + 5 = 10\nA: 1 + 2 + 3 = 4\nA: 1 + 2 + 4 = 10",
    "Options:\nA: 5",
    "A: 5",
    "(A) 5 (B) 6\nA: 5",
    "B: 6\nA: 5",
    "Who is it?\nA: Bob",
    "Q: How many?\nA:",
    # and nothing of all this
    "3 + 4 = 7",
    "She has 16 eggs.",
    "The result of the first sum is 16.",
    "So the next number is 16.",
    "It is (C).\nOr is it (D)",
    "42 is a nice number.",
]  # fmt: skip


class TestClosing:
    @pytest.mark.parametrize(("reply", "expected"), READ)
    def test_last_sentence_is_read(self, reply, expected):
        assert extract_answer(reply) == expected

    @pytest.mark.parametrize("reply", SILENT)
    def test_other_replies_are_unread(self, reply):
        assert extract_answer(reply) is None

    @pytest.mark.parametrize(("reply", "expected"), [row for row in READ if row[1] and "nswer is" not in row[0]])
    def test_a_statement_wins_against_the_last_sentence(self, reply, expected):
        if "boxed" not in reply and "fbox" not in reply:
            assert extract_answer(f"The answer is 99. I check this.\n\n{reply}") == "99"

    @pytest.mark.parametrize(("reply", "expected"), [row for row in READ if row[1]])
    def test_a_reply_that_goes_on_is_not_closed(self, reply, expected):
        if not any(word in reply for word in ("nswer is", "boxed", "fbox")):
            assert extract_answer(f"{reply}\n\nBut wait, this is only the first half of the way, and we go") is None


class TestReasoning:
    PIECES = [
        *(
            "the",
            "The ",
            "answer is",
            "answer is ",
            "correct ",
            "final ",
            "therefore",
            "so ",
            "hence,",
            " ",
            ",",
            "\n",
        ),
        *("\x1c", "a", "issue", "s", "5.", " the answer is", " therefore, the answer is"),
    ]

    @given(st.lists(st.sampled_from(PIECES), max_size=10))
    @settings(deadline=None, max_examples=500)
    def test_it_ends_at_the_last_conclusion(self, pieces):
        """The same phrase, searched from the start as one pattern."""
        chain = "".join(pieces)
        lead = r"(?:\b(?:therefore|thus|so|hence)\b[\s,]*)?"
        found = [m.start() for m in re.finditer(rf"(?i){lead}\bthe (?:correct |final )?answer is\b", chain)]

        assert reasoning(chain) == (chain[: found[-1]] if found else chain)
