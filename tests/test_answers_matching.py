"""
Tests of `answers_match`: which answers count as right.

Rows are modelled on what language models write for the tasks of BIG-Bench Hard, AGIEval, ARC, GSM8K and MATH. Every
bug adds a row.
"""

import sys
import threading

import pytest
from answer_texts import TROUBLE, answers, answers_of_every_kind, days, lists, numbers, scraps
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from edit_trl.evaluation import answers_match


# Each row: reading, reference, whether they match. The other way round gives the same.
PAIRS = [
    # Options
    ("(B)", "(B)", True),
    ("(B)", "B", True),
    ("B", "(B)", True),
    ("(b)", "(B)", True),
    ("b", "(B)", True),
    ("B.", "(B)", True),
    ("B)", "(B)", True),
    ("(B) Paris", "(B)", True),
    ("(B)", "(B) Paris", True),
    ("(B) Paris", "(B) Rome", True),
    ("(B) Paris", "B. Paris", True),
    ("Paris", "(B) Paris", True),
    ("the paris", "(B) Paris", True),
    ("5", "(B) 5", True),
    ("-5", "(B) -5", True),
    ("05/01/2021", "(A) 05/01/2021", True),
    ("Rome", "(B) Paris", False),
    ("(A)", "(B)", False),
    ("(A) Paris", "(B) Paris", False),
    ("A", "(B)", False),
    ("(A) or (B)", "(B)", False),
    ("(A) or (B)", "(A)", False),
    ("A and C", "(A)", False),
    ("A dog", "(A)", False),
    ("a dog", "A dog", True),
    ("I", "(I)", True),
    ("(R)", "(R)", True),
    ("option B", "(B)", True),
    ("choice (b)", "B", True),
    ("\\text{(B)}", "(B)", True),
    ("\\textbf{B}", "(B)", True),
    ("**(B)**", "(B)", True),
    ("yes", "(B)", False),
    ("2", "(B)", False),
    ("] )", "(B)", False),
    ("Paris", "(B)", False),
    # Verdicts
    ("yes", "Yes", True),
    ("Yes.", "yes", True),
    ("YES", "yes", True),
    ("no", "No", True),
    ("true", "True", True),
    ("False", "False", True),
    ("valid", "Valid", True),
    ("Yes, it is", "yes", True),
    ("yes", "no", False),
    ("yes", "True", False),
    ("no", "False", False),
    ("valid", "True", False),
    ("valid", "invalid", False),
    ("not valid", "invalid", False),
    ("No one", "No", False),
    ("1", "True", False),
    ("True and False = False", "False", True),
    ("True and False", "False", False),
    # Numbers
    ("42", "42", True),
    ("42", "43", False),
    ("42.0", "42", True),
    ("042", "42", True),
    ("007", "7", True),
    ("1,000", "1000", True),
    ("1,234,567.5", "1234567.50", True),
    ("1,00", "100", False),
    ("$1,000", "1000", True),
    ("$18", "18", True),
    ("18$", "18", False),
    ("$18.00", "18", True),
    ("-$5", "-5", True),
    ("$-5", "-5", True),
    ("\\$18", "$18", True),
    ("$18", "18 dollars", True),
    ("18 USD", "$18", True),
    ("$18", "€18", False),
    ("$18 every day", "18", True),
    ("$18", "18 apples", False),
    ("-5453", "-5453", True),
    ("−5453", "-5453", True),
    ("–5", "-5", True),
    ("- 5", "-5", True),
    ("+5", "5", True),
    ("5", "-5", False),
    ("-0", "0", True),
    (".5", "0.5", True),
    ("1/2", "0.5", True),
    ("1/2", "2/4", True),
    ("-1/2", "-0.5", True),
    ("1/3", "0.33", False),
    ("1/3", "0.3333333333", False),
    ("2 1/2", "2.5", True),
    ("-2 1/2", "-2.5", True),
    ("1/0", "1/0", True),
    ("1/0", "2/0", False),
    ("\\frac{1}{2}", "0.5", True),
    ("\\dfrac{1}{2}", "1/2", True),
    ("-\\frac{1}{2}", "-1/2", True),
    ("50%", "50", True),
    ("50%", "0.5", True),
    ("50%", "50 percent", True),
    ("50\\%", "50%", True),
    ("50%", "1/2", True),
    ("0.5", "50", False),
    ("50%", "5", False),
    ("50%", "0.5%", False),
    ("0.5%", "0.005", True),
    ("42 apples", "42", True),
    ("42", "42 apples", True),
    ("42 apples", "42 apple", True),
    ("3 inches", "3 inch", True),
    ("42 km", "42 miles", False),
    ("42km", "42 km", True),
    ("42 km", "42 km/h", False),
    ("5 square feet", "5 square meters", False),
    ("5 m^2", "5", True),
    ("5 p.m.", "5 pm", True),
    ("5pm", "5 p.m.", True),
    ("5 pm", "5 am", False),
    ("90^\\circ", "90", True),
    ("90°", "90 degrees", True),
    ("10\\text{ cm}", "10", True),
    ("10\\text{ cm}", "10 cm", True),
    ("10\\text{ cm}", "10 inches", False),
    ("42 apples and 3 pears", "42", False),
    ("5 or 6", "5", False),
    ("5 to 6", "5", False),
    ("5 x", "5", False),
    ("5th", "5", False),
    ("5, 6", "5", False),
    ("5, 6", "56", False),
    ("7 out of 10", "7", False),
    ("12:30", "12", False),
    ("5 million", "5000000", True),
    ("$5 million", "5,000,000", True),
    ("5 million", "5", False),
    ("two thousand", "2000", True),
    ("three", "3", True),
    ("Three", "3", True),
    ("three apples", "3", True),
    ("twelve", "12", True),
    ("zero", "0", True),
    ("three", "4", False),
    ("about 3.14", "3.14", True),
    ("1e3", "1000", True),
    ("x = 5", "5", True),
    ("5", "x = 5", True),
    ("x = 5", "y = 5", False),
    ("x = 3 or x = 5", "5", False),
    ("x >= 5", "5", False),
    ("2 + 3 = 5", "5", True),
    ("A + B = -29 + 8 = -21", "-21", True),
    ("9" * 200, "9" * 200, True),
    ("9" * 200, "9" * 201, False),
    # Dates
    ("05/01/2021", "05/01/2021", True),
    ("5/1/2021", "05/01/2021", True),
    ("05-01-2021", "05/01/2021", True),
    ("2021-05-01", "05/01/2021", True),
    ("May 1, 2021", "05/01/2021", True),
    ("May 1st, 2021", "05/01/2021", True),
    ("1 May 2021", "05/01/2021", True),
    ("Saturday, May 1, 2021", "05/01/2021", True),
    ("Sept. 2nd, 2021", "09/02/2021", True),
    ("September 2, 2021", "09/02/2021", True),
    ("05/01/2021", "01/05/2021", False),
    ("05/01/2021", "05/02/2021", False),
    ("05/01/2021", "05/01/2020", False),
    ("13/01/2021", "01/13/2021", False),
    ("02/30/2021", "02/30/2021", True),
    ("May 1", "05/01/2021", False),
    ("2021", "05/01/2021", False),
    # Brackets
    ("] ) >", "] ) >", True),
    ("])>", "] ) >", True),
    ("] )>", "])  >", True),
    ('"]", ")", ">"', "] ) >", True),
    ("} ]", "\\} ]", True),
    ("] ) >", "] > )", False),
    ("] )", "] ) >", False),
    ("]", ")", False),
    ("empty", "]", False),
    # Brackets around an answer
    ("(16)", "16", True),
    ("[16]", "16", True),
    ("{16}", "16", True),
    ("( 16 km )", "16000 m", True),
    ("(-3)", "-3", True),
    ("(-3)", "3", False),
    ("((16))", "16", True),
    ("(yes)", "Yes", True),
    ("(1/2)", "0.5", True),
    ("(Paris)", "Paris", True),
    ("[B]", "(B)", True),
    ("(B)", "[B]", True),
    ("(16]", "16", False),
    ("((16)", "16", False),
    ("(3, 4)", "3, 4", False),
    ("(3, 4)", "[3, 4]", False),
    ("f(2)", "2", False),
    ("(2)(3)", "6", False),
    # Lists of words
    ("apple banana cherry", "apple banana cherry", True),
    ("apple, banana, cherry", "apple banana cherry", True),
    ("apple,banana,cherry", "apple banana cherry", True),
    ("apple\nbanana\ncherry", "apple banana cherry", True),
    ("apple, banana, and cherry", "apple banana cherry", True),
    ("'apple', 'banana', 'cherry'", "apple banana cherry", True),
    ("['apple', 'banana', 'cherry']", "apple banana cherry", True),
    ("Apple Banana Cherry", "apple banana cherry", True),
    ("apple cherry banana", "apple banana cherry", False),
    ("apple banana", "apple banana cherry", False),
    ("apple banana cherry cherry", "apple banana cherry", False),
    ("no, onion, pear", "no onion pear", True),
    ("no, onion, pear", "no", False),
    ("applebanana", "apple banana", False),
    # Text
    ("Paris", "paris", True),
    ("Paris.", "Paris", True),
    ('"Paris"', "Paris", True),
    ("the Great Gatsby", "The Great Gatsby", True),
    ("The Great Gatsby", "Great Gatsby", True),
    ("an apple", "apple", True),
    ("New  York", "New York", True),
    ("New\nYork", "New York", True),
    ("U.S.", "u.s", True),
    ("Alice’s book", "Alice's book", True),
    ("Paris", "Rome", False),
    ("Paris", "Paris Hilton", False),
    ("the", "a", False),
    ("Straße", "strasse", True),
    ("(None of the above)", "(None of the above.)", True),
    ("(1, 2)", "(1,2)", True),
    ("(1, 2)", "( 1 , 2 )", True),
    ("(1, 2)", "(2, 1)", False),
    ("[1, 2)", "(1, 2)", False),
    ("5 + 3", "8", False),
    # LaTeX that needs no mathematics
    ("\\text{east}", "east", True),
    ("\\frac{1}{3}", "\\dfrac{1}{3}", True),
    ("(1,\\ 2)", "(1, 2)", True),
    ("\\left(1, 2\\right)", "(1,2)", True),
    ("10{,}000", "10,000", True),
    ("\\$5", "5", True),
    ("Paris", "\\frac{a}{b}", False),
    ("yes", "\\frac{a}{b}", False),
    ("(B)", "\\frac{a}{b}", False),
    ("05/01/2021", "\\frac{a}{b}", False),
    # Text that only looks like algebra
    ("x-ray", "ray-x", False),
    ("e-mail", "email", False),
    # No answer
    (None, "5", False),
    (None, "None", False),
    ("", "5", False),
    (" ", "5", False),
    ("**", "5", False),
]
# The same for what only `math-verify` can tell.
FORMULAS = [
    ("\\frac{3}{4}", "\\frac34", True),
    ("\\sqrt{8}", "2\\sqrt{2}", True),
    ("√8", "2\\sqrt{2}", True),
    ("sqrt(8)", "2\\sqrt{2}", True),
    ("\\sqrt{4}", "2", True),
    ("2^{10}", "1024", True),
    ("2^10", "1024", True),
    ("x + 1", "1 + x", True),
    ("2x + 1", "1 + 2x", True),
    ("x^2 - 1", "(x-1)(x+1)", True),
    ("x^2 + 1", "x^2 - 1", False),
    ("\\frac{\\pi}{2}", "\\pi/2", True),
    ("π/2", "\\frac{\\pi}{2}", True),
    ("(-\\infty, 3]", "(-\\infty,3]", True),
    ("(-∞, 3]", "(-\\infty, 3]", True),
    ("(-\\infty, 3]", "(-\\infty, 3)", False),
    ("\\left(1, \\frac{1}{2}\\right)", "(1, 0.5)", True),
    ("\\{1, 2\\}", "\\{2, 1\\}", True),
    ("2\\frac{1}{2}", "\\frac{5}{2}", True),
    ("3\\frac{1}{2}", "31/2", False),
    ("\\frac{5}{2}", "2.5", True),
    ("y = \\frac{1}{2}x", "\\frac{x}{2}", True),
    ("10\\sqrt{3}\\text{ cm}", "10\\sqrt{3}", True),
    ("\\begin{pmatrix}1\\\\2\\end{pmatrix}", "\\begin{pmatrix} 1 \\\\ 2 \\end{pmatrix}", True),
    ("\\sqrt{2}", "3", False),
    ("\\sqrt{2}", "\\sqrt{3}", False),
]


@pytest.fixture
def without_math_verify(monkeypatch):
    monkeypatch.setitem(sys.modules, "math_verify", None)


class TestAnswersMatch:
    @pytest.mark.parametrize(("answer", "reference", "expected"), PAIRS)
    def test_pair_matches_or_differs_in_both_orders(self, answer, reference, expected, without_math_verify):
        assert answers_match(answer, reference) is expected
        if answer is not None and answer.strip():
            assert answers_match(reference, answer) is expected

    @pytest.mark.parametrize(("answer", "reference", "expected"), FORMULAS)
    def test_formulas_match_by_mathematical_equality(self, answer, reference, expected):
        pytest.importorskip("math_verify")
        assert answers_match(answer, reference) is expected
        assert answers_match(reference, answer) is expected

    def test_formulas_outside_the_main_thread(self):
        """Where no alarm can be set."""
        pytest.importorskip("math_verify")
        found = []
        thread = threading.Thread(target=lambda: found.append(answers_match("\\sqrt{8}", "2\\sqrt{2}")))
        thread.start()
        thread.join()
        assert found == [True]

    @pytest.mark.parametrize("reference", ["", " ", "\n\t"])
    def test_blank_reference_is_an_error(self, reference):
        for answer in ("5", None, ""):
            with pytest.raises(ValueError, match="`reference` must be the right answer, got '"):
                answers_match(answer, reference)

    def test_without_math_verify_formulas_are_compared_as_text(self, without_math_verify):
        assert not answers_match("\\sqrt{8}", "2\\sqrt{2}")
        assert answers_match("\\sqrt{8}", "$\\sqrt{8}$")
        assert answers_match("x^2 + 1", "x^2 + 1.")
        assert not answers_match("x^2 + 1", "1 + x^2")

    @answers_of_every_kind
    @given(st.data())
    @settings(max_examples=30, deadline=None)
    def test_answer_matches_itself(self, kind, data):
        answer = data.draw(answers[kind])
        assert answers_match(answer, answer)
        assert answers_match(f" {answer} ", f'"{answer}".')

    @given(st.data())
    @settings(max_examples=100, deadline=None)
    def test_different_answers_of_a_kind_do_not_match(self, data):
        for kind in ("option", "bare_option", "integer", "thousands", "date", "long_date", "brackets", "words"):
            one, other = data.draw(answers[kind]), data.draw(answers[kind])
            assert answers_match(one, other) == (one == other)

    @given(numbers)
    def test_forms_of_a_number_match_it_and_not_the_next(self, number):
        for form in (f"{number:,}", f"{number}.0", f"{number} apples", f"0 + {number} = {number}", f"\\({number}\\)"):
            assert answers_match(form, str(number))
            assert not answers_match(form, str(number + 1))

    @given(days)
    def test_forms_of_a_date_match(self, day):
        reference = f"{day.month:02}/{day.day:02}/{day.year}"
        for form in (f"{day.month}/{day.day}/{day.year}", f"{day:%B} {day.day}, {day.year}", day.isoformat()):
            assert answers_match(form, reference)
        if day.day <= 12 and day.day != day.month:
            assert not answers_match(f"{day.day:02}/{day.month:02}/{day.year}", reference)

    @given(lists, st.randoms())
    def test_order_of_a_list_matters_and_separators_do_not(self, items, rng):
        shuffled = rng.sample(items, len(items))
        for separator in (" ", ", ", ",", "\n", ",\n"):
            assert answers_match(separator.join(items), " ".join(items))
            assert answers_match(separator.join(shuffled), " ".join(items)) == (shuffled == items)

    @given(st.lists(st.sampled_from(")]}>([{<"), min_size=1, max_size=12), st.randoms())
    def test_whitespace_between_brackets_does_not_matter(self, brackets, rng):
        spaced = "".join(bracket + " " * rng.randrange(3) for bracket in brackets)
        assert answers_match(spaced, " ".join(brackets))
        assert not answers_match(spaced, " ".join([*brackets, "]"]))

    @given(scraps, scraps)
    @example("1/0", "0/1")
    @example("9" * 5000, "9" * 5001)
    @example("(B)", "(B) (B)")
    @settings(max_examples=300, deadline=None)
    def test_any_two_texts_can_be_compared_in_either_order(self, one, other):
        assume(one.strip() and other.strip())
        pytest.importorskip("math_verify")
        assert answers_match(one, other) is answers_match(other, one)
        assert answers_match(one, one)

    @pytest.mark.slow
    @pytest.mark.parametrize("text", TROUBLE, ids=lambda text: repr(text[:20]))
    def test_long_texts_match_themselves_and_order_does_not_matter(self, text):
        assert answers_match(text, text)
        for other in ("5", "(B) 5", "yes", text + "1"):
            assert answers_match(text, other) is answers_match(other, text)
