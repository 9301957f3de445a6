"""Answers and replies of every kind, for the tests of reading and of matching."""

import string
from datetime import date

import pytest
from hypothesis import strategies as st


# Long strings on which a careless pattern needs time without end.
PATTERNS_OF_TROUBLE = {
    "answer:": ("#", ".", "*", "_", "$", "(", "[", "{", " ", "\n", "\t", "!", '."', "9", "9,", "ab ", "ab, ", "..:"),
    "": (
        "answer ", "answer to ", "the answer is correct. ", "if the answer is 3 ", "correct option is ", "# answer\n",
        "#### a\n", "\\boxed{", "\\boxed ", "\\text{", "\\frac{1}{", "\\(", "\\[", "$a ", "**a", "<think>", "</think>",
        "<think>a</think>", "(A) ", "a = b ", "U.S. ", "it's ", "- a\n", "yes, ", "5 km ", "] ) ", "\\\\", "x^",
    ),
}  # fmt: skip
TROUBLE = [lead + piece * (100_000 // len(piece)) for lead, pieces in PATTERNS_OF_TROUBLE.items() for piece in pieces]

# Words that a list does not start with, or that end what comes before them.
MEANINGFUL = set(
    "yes no true false valid invalid not we let lets the a an and or zero one two three four five six seven eight "
    "nine ten eleven twelve which because since so as but where option choice clearly simply probably definitely "
    "clear "
    "correct wrong incorrect obvious verified confirmed unclear about exactly".split()
)

letters = st.sampled_from("ABCDEFGHIJKLMNOPQR")
words = st.text(string.ascii_lowercase, min_size=3, max_size=9).filter(lambda word: word not in MEANINGFUL)
lists = st.lists(words, min_size=2, max_size=20)
days = st.dates(min_value=date(1000, 1, 1))
numbers = st.integers(-(10**9), 10**9)
answers = {
    "option": letters.map("({})".format),
    "option_with_text": st.tuples(letters, words).map("({0[0]}) {0[1]}".format),
    "bare_option": letters.filter(lambda letter: letter != "I"),
    "verdict": st.sampled_from(["yes", "no", "Yes", "No", "True", "False", "valid", "invalid"]),
    "integer": numbers.map(str),
    "thousands": numbers.map("{:,}".format),
    "decimal": st.decimals(-1000, 1000, places=2).map(str),
    "money": st.decimals(0, 10**6, places=2).map("${:,}".format),
    "percentage": st.integers(0, 100).map("{}%".format),
    "fraction": st.tuples(st.integers(-99, 99), st.integers(1, 99)).map("{0[0]}/{0[1]}".format),
    "quantity": st.tuples(st.integers(0, 99), st.sampled_from(["km", "apples", "square feet"])).map(
        "{0[0]} {0[1]}".format
    ),
    "date": days.map(lambda day: f"{day.month:02}/{day.day:02}/{day.year}"),
    "long_date": days.map(lambda day: f"{day:%B} {day.day}, {day.year}"),
    "brackets": st.lists(st.sampled_from(")]}>"), min_size=1, max_size=12).map(" ".join),
    "words": lists.map(" ".join),
    "comma_separated": lists.map(", ".join),
    "name": st.sampled_from(["Alice", "the U.S.", "Dr. Watson", "Washington, D.C.", "The Great Gatsby"]),
}
answers_of_every_kind = pytest.mark.parametrize("kind", answers)
# What replies are made of, in any order.
PIECES = [
    "The answer is ", "Answer: ", "#### ", "\\boxed{", "}", "(B)", "B.", " ", "\n", "5", "1,000", "$", "%", "-", "/",
    "05/01/2021", "yes", ", ", ". ", "because ", "not ", "= ", "] )", ">", "**", "`", '"', "U.S.", " or ", "x",
    "\\frac{1}{2}", "\\text{", "\\(", "\\)", "[", "(", "km", "the ", "one", "- ", "…", "√", "é", "İ", "−", "٣", "²",
    "1/0",
]  # fmt: skip
scraps = st.lists(st.sampled_from(PIECES) | st.text(max_size=3), max_size=12).map("".join)
