r"""
Tests of replies in the styles of models that are trained on instructions: JSON, headings, remarks after the answer,
reasons why other answers are wrong, LaTeX with units, and answers in sentences.

Each rule has rows on which it must stay silent.
"""

import pytest

from edit_trl.answers import answers_match, extract_answer


READINGS = [
    # What is said of the answer after it
    ("\\boxed{5}\n\nThis answer is consistent with the given conditions.", "5"),
    ("2 + 3 = 5. The answer is 5. The answer is reasonable, since it is small.", "5"),
    ("The answer is 5.33. The answer is rounded to two decimal places.", "5.33"),
    ("Die Antwort ist 5. Die Antwort ist plausibel.", "5"),
    ("La réponse est 5. Cette réponse est cohérente avec l'énoncé.", "5"),
    ("La respuesta es 5. La respuesta es razonable.", "5"),
    ("答案是5。这个答案是合理的。", "5"),
    ("The answer is consistent with both.", "consistent with both"),  # no other is stated
    ("First, the answer is 3. Sorted, the answer is given grape hello.", "given grape hello"),
    # Other answers than that of the reply
    ("**Correct Answer: B**\n\n**Incorrect answers:**\n- A: too small\n- C: too big", "(B)"),
    ("The correct answer is B. A common wrong answer is A.", "(B)"),
    ("The answer is (B).\n\n**Why the other answers are incorrect:**\n- A is too small.", "(B)"),
    ("**Correct option: B**\n\nIncorrect option: A", "(B)"),
    ("The student's answer is 7. The correct answer is 5.", "5"),
    ("Die richtige Antwort ist 5. Eine falsche Antwort ist 6.", "5"),
    ("Five students\n#### 280", "280"),
    # What is not the case
    ("\\boxed{5}\n\nIf the eggs had been sold for $3, the answer would be 27.", "5"),
    ("The answer is 5. (If it were a leap year, the answer would be 6.)", "5"),
    ("If he sells all of them, the answer would be 27.", "27"),
    ("So the answer would be 27.", "27"),
    # Taken back
    ("The answer is 5. Wait, no, it's 6.", None),
    ("The answer is 5. Wait, no. The answer is 6.", "6"),
    ("The answer is 5. I made a mistake: 2 + 4 = 6. Therefore, 6.", "6"),
    ("The answer is 5. Wait, let me check: 2 + 3 = 5. It is right.", "5"),
    # JSON
    ('{"answer": "18", "explanation": "Because."}', "18"),
    ('{"answer": 18, "confidence": 0.9}', "18"),
    ('{"answer": "C", "explanation": "The answer is not A because it is small."}', "(C)"),
    ('```json\n{"reasoning": "2 + 3", "answer": 18}\n```', "18"),
    ('Here it is:\n{"reasoning": "2 + 3", "final_answer": "7 km"}', "7 km"),
    ('Here it is: {"answer": 18, "confidence": 0.9} I hope it helps!', "18"),
    ('{"steps": [{"sum": 1}], "answer": "The answer is 7."}', "7"),
    ("{'answer': '18', 'explanation': 'It is.'}", "18"),
    ('{"answer": 1.50}', "1.5"),
    ('{"answer": true}', "true"),
    ('{"answer": ["pear", "plum"]}', "pear, plum"),
    ('{"answer": null}', None),
    ('{"result": {"answer": 5}}', "5"),
    ('{"thoughts": "The answer is 5"', "5"),
    # Layout
    ("Answer: 18 ✅", "18"),
    ("✅ **Answer:** B", "(B)"),
    ("The answer is: 18 🎉", "18"),
    ("Answer: 18 ❌", "18 ❌"),
    ("The answer is:\n```\n18\n```", "18"),
    ("The answer is:\n\n> 18", "18"),
    ("The answer is:\n> ] }", "> ] }"),  # brackets to be closed
    ("**Final Answer**\n\n---\n\n18", "18"),
    ("The answer is:\n- 18", "18"),
    ("The answer is:\n-18", "-18"),
    ("<Answer>18</Answer>", "18"),
    ("<ANSWER>B</ANSWER>", "(B)"),
    # The letter after the answer
    ("The answer is 5, which is option B.", "(B) 5"),
    ("The answer is 18 (option C).", "(C) 18"),
    ("The answer is 18, which corresponds to option (C).", "(C) 18"),
    ("The answer is Paris, which is choice A.", "(A) Paris"),
    ("The answer is 18, not option C.", "18"),
    ("The answer is letter C", "(C)"),
    ("The answer is E, all of the above", "(E)"),
    # The answer first, and why
    ("C\n\nExplanation: it is the only one that is cold, and all of the others are warm or even hot.", "(C)"),
    ("**Yes**\n\n**Explanation:** water is wet.", "Yes"),
    ("**C) 5**\n\nExplanation: 2 + 3.", "(C)"),
    ("First line\n\nExplanation: it is short.", None),
    # A day in German
    ("Die Antwort ist 5. März 2020.", "5. März 2020"),
    ("Die Antwort ist 5. Mehr ist es nicht.", "5"),
]
MATCHES = [
    # Units in LaTeX
    (r"12 \text{ dollars}", r"\$12", True),
    (r"2 \text{ million}", "2000000", True),
    (r"2 \text{ million}", "2", False),
    (r"2 \text{ dozen}", "2", False),
    (r"3 \text{ hours}", "180 minutes", True),
    (r"12:30 \text{ PM}", "12:30 PM", True),
    (r"5 \text{ PM}", r"5 \text{ AM}", False),
    (r"5 \text{ km}", r"5 \text{ miles}", False),
    (r"10~\text{cm}", "10 cm", True),
    (r"10\ \text{dollars}", "10", True),
    (r"10\,000", "10000", True),
    (r"20^\circ\text{C}", "20 °C", True),
    (r"45^\circ", "45", True),
    ("101_{2}", "101_2", True),
    (r"$9 \times 2 = 18$ dollars", "18", True),
    # A sentence with one value
    ("Janet makes **$18** every day at the farmers' market", "18", True),
    ("She has 18 eggs left", "18", True),
    ("There are eighteen eggs", "18", True),
    ("The total is 18 dollars", "17", False),
    ("The meeting is at 5 PM", "17:00", True),
    ("The one with 3.5 stars", "3.5", False),
    ("It is not 5", "5", False),
    ("She has at least 18 eggs", "18", False),
    ("He has 5 apples and 6 pears", "5", False),
    ("Of 20 eggs there are 18", "18", False),
    # Fractions in words
    ("two thirds", "2/3", True),
    ("two-thirds", "2/3", True),
    ("two thirds", "2", False),
    ("one half", "0.5", True),
    ("half", "1/2", True),
    ("a third", "1/3", True),
    ("half of the pie", "1/2", True),
    ("three quarters", "3/4", True),
    ("3 quarters", "3", True),  # coins
    ("two and two thirds", "8/3", True),
    ("one half cup", "1/2 cup", True),
    ("one tenth of the pie", "1", False),
    ("twenty-five hundredths", "0.25", True),
    ("two fifth graders", "2", True),
    ("one third grader", "1/3", False),
    ("1 second", "1", True),
    # Factors after a number
    ("36 π", "36", False),
    ("36 pi", r"36\pi", True),
    ("3 squared", "3", False),
    ("9 squared centimeters", "9", True),
    ("3 lakh", "300000", True),
    ("3 lakh", "3", False),
    ("5 crore rupees", "50000000", True),
    # Formulas
    ("x²", "x^2", True),
    ("x^2+y^2=25", "25", False),
    ("2x + 1 = 11", "11", False),
    ("x = 5", "5", True),
    ("f^{-1}(x) = x+1", "x+1", True),
    ("a_{n+1} = 5", "5", True),
    ("f(x+1) = 5", "5", True),
    ("profit - cost = 5", "5", True),
    # Lists
    ("apple, banana and cherry", "apple banana cherry", True),
    ("apple, banana and cherry", "banana apple cherry", False),
]


@pytest.mark.parametrize(("reply", "answer"), READINGS)
def test_reading(reply, answer):
    assert extract_answer(reply) == answer


@pytest.mark.parametrize(("first", "second", "is_same"), MATCHES)
def test_matching_in_both_orders(first, second, is_same):
    if "\\" in first + second or "^" in first + second:
        pytest.importorskip("math_verify")
    assert answers_match(first, second) is answers_match(second, first) is is_same
