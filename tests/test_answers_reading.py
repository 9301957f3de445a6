"""
Tests of `extract_answer`: which answer is read from a reply.

Rows are modelled on what language models write for the tasks of BIG-Bench Hard, AGIEval, ARC, GSM8K and MATH. Every
bug adds a row.
"""

import json
import random
import re
import subprocess
import sys
from pathlib import Path

import pytest
from answer_texts import TROUBLE, answers, answers_of_every_kind, scraps
from hypothesis import given, settings
from hypothesis import strategies as st

from edit_trl.answers import reference_answer
from edit_trl.evaluation import answers_match, extract_answer
from edit_trl.tasks import IN_DOMAIN_TASKS, LEVELS, OUT_OF_DOMAIN_TASKS, generate_dual_cots


SHARED_DATA = Path(__file__).parents[2] / "shared" / "data"

# Each row: what a model wrote, what is read. One block per task or format.
REPLIES = [
    # BIG-Bench Hard: boolean_expressions
    ("not ( True ) = False. False or False = False. Therefore, the answer is False.", "False"),
    ("Z = A or B = True or False = True. So the answer is True.", "True"),
    ("The expression evaluates to true. The answer is true", "true"),
    ("Thus, the answer is **True**.", "True"),
    ("Therefore, the answer is `False`.", "False"),
    ("So the answer is False, since both sides of `or` are False.", "False"),
    ("The answer is True and False = False.", "True and False = False"),
    # causal_judgement
    ("A typical person would say that Ann caused it. So the answer is Yes.", "Yes"),
    ("So the answer is No, because the lever alone was sufficient.", "No"),
    ("Therefore, the answer is: No. The janitor did not mean to.", "No"),
    ("The answer is yes - he foresaw the harm and did nothing.", "yes"),
    ("Therefore, the answer is Yes (the wiring was not to be used).", "Yes"),
    # date_understanding
    ("One week later is 03/12/2004. So the answer is (B).", "(B)"),
    ("Yesterday was the 8th. Therefore, the answer is (E) 09/02/2021.", "(E)"),
    ("So the answer is (A) 01/31/1990 and not (B).", "(A)"),
    ("the date should be 08/02/1987. Therefore, the answer is (D).", "(D)"),
    ("The date is 05/01/2021. The answer is 05/01/2021.", "05/01/2021"),
    ("So the answer is May 1, 2021.", "May 1, 2021"),
    ("So the answer is Sept. 2nd, 2021.", "Sept. 2nd, 2021"),
    # disambiguation_qa
    ("`They` may be either of them. So the answer is (C) Ambiguous.", "(C)"),
    ("So the answer is (A) The chief was unhappy.", "(A)"),
    ("The pronoun is ambiguous. So the answer is (C).\n\nQ: next", "(C)"),
    # dyck_languages
    ('We need "]", ")", ">". So the answer is ] ) >', "] ) >"),
    ("Therefore, the answer is ) > ].", ") > ]"),
    ("Therefore, the answer is }.", "}"),
    ("Therefore, the answer is } } }.", "} } }"),
    ("So the answer is >", ">"),
    ("So the answer is > >.", "> >"),
    ("So the answer is )", ")"),
    ("So the answer is ] ] ] }", "] ] ] }"),
    ("So the answer is: `] } >`", "] } >"),
    ('So the answer is "] } >".', "] } >"),
    ("The final stack is empty. Therefore, the answer is empty.", "empty"),
    # formal_fallacies
    ("The premises do not give that. So the answer is invalid.", "invalid"),
    ("So the answer is valid, since it is a chain of two conditionals.", "valid"),
    ("So, it is true that Lesley is a cousin. The answer is valid.", "valid"),
    ("The correct answer is: **invalid**", "invalid"),
    ("The answer is Invalid because some are not.", "Invalid"),
    # geometric_shapes
    ('It has eight sides, so it is an "octagon". So the answer is (F).', "(F)"),
    ("It does not close. Therefore, the answer is (E) line.", "(E)"),
    ("So the answer is (K) triangle, which has three edges.", "(K)"),
    ("So the answer is (D) kite (two pairs of equal sides).", "(D)"),
    # hyperbaton
    ("(A) has an order of opinion, size, age. So the answer is (A).", "(A)"),
    ('So the answer is (B) "repulsive small Brazilian exercise ship".', "(B)"),
    ("Sentence B has the right order. The answer is B.", "(B)"),
    # logical_deduction
    ("The hawk is the second from the left. So the answer is (B).", "(B)"),
    ("So the answer is (G)", "(G)"),
    ("The green book is the rightmost. Therefore, the answer is: (A) The green book is the rightmost.", "(A)"),
    ("Therefore, the correct answer is (D) The truck is the second-oldest.", "(D)"),
    ("Amy finished last. The answer is option (C).", "(C)"),
    ("So the answer is (None of the above choices.)", "None of the above choices"),
    ("The answer is not (A), (B), (C), (D), (E), (F), or (G).", None),
    # movie_recommendation
    ("They are all dramas of the nineties. So the answer is (D).", "(D)"),
    ("So the answer is (C) Dr. Strangelove.", "(C)"),
    ("**Answer:** (A) Hannah and Her Sisters", "(A)"),
    # multistep_arithmetic_two
    ("A * B = -133 * 41 = -5453. Therefore, the answer is -5453.", "-5453"),
    ("A - B = -8 - (-22) = 14. So the answer is 14", "14"),
    ("So the answer is −35.", "−35"),
    ("So the answer is 0.", "0"),
    ("So the answer is A + B = -29 + 8 = -21.", "A + B = -29 + 8 = -21"),
    # navigate
    ("(0, 0), facing the positive y-axis. Since it is (0, 0), the answer is Yes.", "Yes"),
    ("We end at (2, -1). So the answer is No.", "No"),
    ("Final answer: No", "No"),
    # object_counting
    ("1 + 3 + 1 + 2 = 7. Therefore, the answer is 7.", "7"),
    ("So the answer is 12 musical instruments.", "12 musical instruments"),
    ("So the answer is eight.", "eight"),
    ("So the answer is 9 (three pears and six plums).", "9"),
    # penguins_in_a_table
    ("Gwen is 8 years old. So the answer is (A).", "(A)"),
    ("Only Bernard is heavier. So the answer is (B) 2", "(B)"),
    # reasoning_about_colored_objects
    ("The colour is pink. Therefore, the answer is (R).", "(R)"),
    ("One remains. Therefore, the answer is (B) one.", "(B)"),
    ("So the answer is (N) gold.", "(N)"),
    ("So the answer is (I).", "(I)"),
    # ruin_names
    ("`stark wars` swaps letters for a pun. So the answer is (B).", "(B)"),
    ("So the answer is (D) the dark knight rices.", "(D)"),
    # salient_translation_error_detection
    ("It is an error of Negation or Antonyms. Therefore, the answer is (C).", "(C)"),
    ("So the answer is (F) Facts, as a village became a city.", "(F)"),
    ("Hence the error is in (D) Named Entities. So the answer is (D) Named Entities.", "(D)"),
    # snarks
    ("Statement (B) praises a failure. So the answer is (B).", "(B)"),
    ("The answer is (A) Oh great, another meeting.", "(A)"),
    # sports_understanding
    ("Taking the snap is part of American football. So the answer is yes.", "yes"),
    ("The FA Cup is a soccer tournament. Therefore, the answer is no.", "no"),
    ("So the answer is no, the sentence is not plausible.", "no"),
    # temporal_sequences
    ("Free from 5 p.m. to 6 p.m. So the answer is (C) 5pm to 6pm.", "(C)"),
    ("So the answer is 5 p.m. to 6 p.m.", "5 p.m. to 6 p.m."),
    ("So the answer is 5 p.m. The shop closes at six.", "5 p.m."),
    # tracking_shuffled_objects
    ("Bob: green ball. At the end, Bob has the green ball. So the answer is (B).", "(B)"),
    ("Eve is dancing with Lola. Therefore, the answer is (C) Lola.", "(C)"),
    ("Therefore, the answer is Lola (C).", "(C)"),
    ("The answer is the third, (C).", "(C)"),
    # web_of_lies
    ("Sal lies. Thus Kim tells the truth. So the answer is Yes.", "Yes"),
    ('"Jim tells the truth" is false. So, the answer is "No".', "No"),
    # word_sorting
    ("So the answer is bird jewel meadow olive spoon.", "bird jewel meadow olive spoon"),
    ("I have now sorted all the words. The answer is ache bee cat", "ache bee cat"),
    ("So the answer is: apple, banana, cherry.", "apple, banana, cherry"),
    ("The answer is apple banana being but cherry so", "apple banana being but cherry so"),
    ("The answer is no, onion, pear.", "no, onion, pear"),
    ("The answer is invalid pear valid yes.", "invalid pear valid yes"),
    ("The answer is a, b, c.", "a, b, c"),
    ("The answer is:\n\n- apple\n- banana\n- cherry", "apple, banana, cherry"),
    ("**Answer:**\n1. apple\n2. banana\n\nThey are sorted.", "apple, banana"),
    ("The answer is ['apple', 'banana'].", "['apple', 'banana']"),
    ("The answer is:\napple banana\ncherry", "apple banana"),
    # AGIEval, ARC
    ("Therefore, the answer is B.", "(B)"),
    ("Therefore, the answer is B", "(B)"),
    ("The answer is B .", "(B)"),
    ("The answer is ( B ) .", "(B)"),
    ("The answer is B. Because light is faster.", "(B)"),
    ("The answer is B: light is faster.", "(B)"),
    ("The answer is B) light is faster.", "(B)"),
    ("The answer is b) light is faster.", "(B)"),
    ("The answer is (b).", "(B)"),
    ("The answer is (b) gravity.", "(B)"),
    ("The answer is B, because light is faster.", "(B)"),
    ("The answer is B because light is faster.", "(B)"),
    ("The answer is D - Evaporation.", "(D)"),
    ("The answer is option B.", "(B)"),
    ("The answer is Option B. Paris is a city.", "(B)"),
    ("The answer is option b.", "(B)"),
    ("The answer is choice (b).", "(B)"),
    ("The answer is most likely (C).", "(C)"),
    ("The answer is clearly no.", "no"),
    ("The correct option is (C).", "(C)"),
    # an option before what is said of it
    ("(B) is the correct answer.", "(B)"),
    ("A: A is the correct answer.", "(A)"),
    ("Only two remain. Option C is correct.", "(C)"),
    ("Thus **(D)** is the best choice, since it is the last.", "(D)"),
    ("(A) is the right answer. No: (C) is the right answer.", "(C)"),
    ("(B) is not the correct answer.", None),
    ("If B is the correct answer, then it rained.", None),
    ("So, D is the answer.", "(D)"),
    ("(B) is the correct answer. Therefore, the answer is (A).", "(A)"),
    # generations of SmolLM2-135M-Instruct before training
    ("9 + 8 + 1 + 9 = 27\n\nThe answer is: 27", "27"),
    ("1\nB: 1\nC: 1\nD: 1\nE: 1", None),
    ("False\nB: True\nC: True\nD: False\nE: None", None),
    ("Claire\nB: Kate\nC: Neither\nD: None of the above\n\nThe answer is: C: Neither", "(C)"),
    ("The answer is: \nB\n\nThe answer is: \nC\n\nThe answer is: \nD", "(D)"),
    ("The answer is:\n\nThe answer is:\n\nThe answer is:", None),
    ("1 + 2 + 5 = 10\nA: 1 + 2 + 3 = 4\nA: 1 + 2 + 4 = 10", None),
    # and after it
    ("False or True = True. Therefore, the answer is True.", "True"),
    ("Kinder is a word: not kettle. Therefore, the answer is not a word.", None),
    ('Autumn is "dra" (mara). Therefore, the answer is "adma".', "adma"),
    ("Forest is a word:enty. Therefore, the answer isenty.", None),
    ("Bridge is in the order of E-R-I. Therefore, the answer is E.", "(E)"),
    ("Jack is 20 years old. Fred is 21 years old. Therefore, the answer is 21.", "21"),
    # generations of Qwen2.5-Coder-0.5B-Instruct
    (
        "November 18, 2026 + 8 days = November 26, 2026\nTherefore, the answer is November 26, 2026.",
        "November 26, 2026",
    ),
    ("27 + 18 = 45. June has 30 days. That is June 45. Therefore, the answer is 06/45/2024.", "06/45/2024"),
    ("1993-08-10 + 4 = 1993-08-14.\n\nTherefore, the date 4 days from now in MM/DD/YYYY is 1993-08-14.", None),
    ("1990 + 50 = 2040\n\nTherefore, the date 20 days from now in MM/DD/YYYY is 2040/", None),
    ("It is August 10, 1993 today. What will be the date 4 days from now in MM/DD/YYYY?", None),
    ("8 + 7 gives 15. 15 + 8 gives 23. Therefore, the answer is 23.", "23"),
    ("Hence the correct choice is D.", "(D)"),
    ("Correct option: A", "(A)"),
    ("Answer: C", "(C)"),
    ("Answer: (C)", "(C)"),
    ("answer: c) gravity", "(C)"),
    ("ANSWER: C", "(C)"),
    ("**Answer: C**", "(C)"),
    ("**Answer**: C", "(C)"),
    ("**Answer:** C. Gravity", "(C)"),
    ("*Answer:* C", "(C)"),
    ("### Answer: C", "(C)"),
    ("### Final Answer\n\n(C)", "(C)"),
    ("**Final Answer**\n\nC. gravity", "(C)"),
    ("## Answer\n\n**(C) gravity**", "(C)"),
    ("Answer = C", "(C)"),
    ("The answer is \\boxed{C}.", "(C)"),
    ("The answer is $\\boxed{\\text{C}}$.", "(C)"),
    ("The answer is \\boxed{\\textbf{(C)}}.", "(C)"),
    ("The answer is \\boxed{\\textbf{(C)}\\ 12}.", "(C)"),
    ("The answer is **C. Gravity pulls**.", "(C)"),
    ("The answer is **(C)** gravity.", "(C)"),
    ('The answer is "C".', "(C)"),
    ("The answer is 'C'.", "(C)"),
    ("The answer is A.", "(A)"),
    ("The answer is A dog.", "A dog"),
    ("The answer is A dog and a cat.", "A dog and a cat"),
    ("The answer is a.", "a"),
    ("The answer is I.", "I"),
    ("The answer is I do.", "I do"),
    ("The answer is x.", "x"),
    ("The answer is C major.", "C major"),
    ("The answer is (A) or (B).", "(A) or (B)"),
    ("The answer is (A) or maybe (B).", "(A) or maybe (B)"),
    ("Therefore, the correct choice would be (B).", "(B)"),
    ("The answer would then be 16.", "16"),
    ("The answer is sixteen (16).", "sixteen"),
    ('{"answer": 42}', "42"),
    ('{"reasoning": "6 * 7", "answer": "B"}', "(B)"),
    ("The answer is A and C.", "A and C"),
    ("The answer is (A), (C).", "(A), (C)"),
    ("The answer is either (A) or (B).", "either (A) or (B)"),
    ("The answer is (A) A dog.", "(A)"),
    ("The answer is (A) I think.", "(A)"),
    ("The answer is (A)\nExplanation: it is hot.", "(A)"),
    ("(The answer is C.)", "(C)"),
    ("(So the answer is 5)", "5"),
    # SAT, GSM8K
    ("He has 3 + 4 = 7 apples left.\n#### 7", "7"),
    ("9 * 2 = $18 every day.\n#### 18", "18"),
    ("#### 1,000", "1,000"),
    ("####42", "42"),
    ("#### $18.50", "$18.50"),
    ("#### -3", "-3"),
    ("#### 12 apples", "12 apples"),
    ("#### 50%", "50%"),
    ("#### Step 2: add\n3 + 4 = 7. The answer is 7.", "7"),
    ("The answer is 7.\n#### Why this is right\n3 + 4 = 7", "7"),
    ("##### 42", None),
    ("She makes $18. The answer is $18.", "$18"),
    ("The answer is $18 every day.", "$18 every day"),
    ("The answer is $18. He has $10 left.", "$18"),
    ("The answer is $1,000.50.", "$1,000.50"),
    ("The answer is 1,000.50. Next.", "1,000.50"),
    ("The answer is \\$18.", "\\$18"),
    ("The answer is **$18**.", "$18"),
    ("The answer is 3.5.", "3.5"),
    ("The answer is 3.5", "3.5"),
    ("The answer is .5.", ".5"),
    ("The answer is 42!", "42"),
    ("The answer is 42!!", "42"),
    ("So the answer is 42?", "42"),
    ("The answer is 42. 6 * 7 = 42.", "42"),
    ("The answer is 42, which is even.", "42"),
    ("The answer is 42 because 6 * 7 = 42.", "42"),
    ("The answer is 42; the rest does not matter.", "42"),
    ("The answer is 42 (forty-two).", "42"),
    ("The answer is 42 - not bad.", "42"),
    ("The answer is 8 - 3 = 5.", "8 - 3 = 5"),
    ("The answer is 5, 6.", "5, 6"),
    ("The answer is 5 or 6.", "5 or 6"),
    ("The answer is 42 apples.", "42 apples"),
    ("The answer is 5 km/h.", "5 km/h"),
    ("The answer is about 3.14.", "about 3.14"),
    ("The answer is: 1/2.", "1/2"),
    ("The answer is 2 1/2 cups.", "2 1/2 cups"),
    ("The answer is 25%.", "25%"),
    ("The answer is 12:30.", "12:30"),
    ("The answer is $5 million.", "$5 million"),
    ("Answer: 42\n\nAnswer explanation follows.", "42"),
    ("My final answer is 42.", "42"),
    ("So the answer would be 42.", "42"),
    ("The answer should be 42.", "42"),
    ("The answer must be 42.", "42"),
    ("The answer, therefore, is 42.", "42"),
    ("The answer is therefore 42.", "42"),
    ("The answer to the question is 42.", "42"),
    ("The answer to this problem is: 42.", "42"),
    ("The answers are 3 and 4.", "3 and 4"),
    ("Thus, the *answer* is 42.", "42"),
    ("The final answer is 42. I hope it is correct.", "42"),
    ("Final Answer: The final answer is $42$. I hope it is correct.", "42"),
    ("**Final Answer:** \\(\\boxed{42}\\)", "42"),
    ("The answer is $\\boxed{42}$ dollars.", "42"),
    ("The answer is **42** dollars.", "42 dollars"),
    ("The answer is 2**3.", "2**3"),
    ("The answer is 42. I am sure that the answer is correct.", "42"),
    ("The answer is 42. No, the answer is wrong.", None),
    ("The answer is 42\u2026 I think", "42\u2026 I think"),
    ("The answer is... 42.", "42"),
    ("THE ANSWER IS 42.", "42"),
    ("The answer is:\n\n42\n\nSo he has 42.", "42"),
    ("The answer is:\r\n\r\n42\r\n", "42"),
    ("The answer is\n42", "42"),
    ("<answer>42</answer>", "42"),
    ("<answer> (B) </answer>", "(B)"),
    ("<answer>\nThe answer is 42.\n</answer>", "42"),
    ("The answer is 42</answer>", "42"),
    ("The answer is 42<|im_end|>", "42"),
    ("The answer is 42.</s>", "42"),
    # MATH
    ("Hence $\\boxed{\\frac{1}{2}}$.", "\\frac{1}{2}"),
    ("\\boxed{42}", "42"),
    ("\\boxed {42}", "42"),
    ("\\boxed{3\\sqrt{2}}", "3\\sqrt{2}"),
    ("\\boxed{\\sqrt{\\frac{a}{b}}} is it.", "\\sqrt{\\frac{a}{b}}"),
    ("\\boxed{(-\\infty, 3]}", "(-\\infty, 3]"),
    ("\\boxed{[0, 5)}", "[0, 5)"),
    ("\\boxed{\\{1, 2\\}}", "\\{1, 2\\}"),
    ("\\boxed{\\boxed{5}}", "5"),
    ("\\boxed{\\text{east}}", "east"),
    ("\\boxed{10\\text{ cm}}", "10\\text{ cm}"),
    ("\\boxed{x = 5}", "x = 5"),
    ("\\boxed{5!}", "5!"),
    ("First \\boxed{3}, then \\boxed{4}.", "4"),
    ("\\boxed{3}. So the answer is 4.", "4"),
    ("The answer is 4, that is \\boxed{4}.", "4"),
    ("\\[\n\\boxed{\n7\n}\n\\]", "7"),
    ("The answer is $\\frac{3}{4}$.", "\\frac{3}{4}"),
    ("The answer is $$x^2 + 1$$.", "x^2 + 1"),
    ("The answer is \\(2\\pi\\).", "2\\pi"),
    ("The answer is \\[ 2\\pi. \\]", "2\\pi"),
    ("The answer is:\n\\[\nx = 5\n\\]\nDone.", "x = 5"),
    ("The answer is $x = 3$ or $x = 4$.", "$x = 3$ or $x = 4$"),
    ("The answer is $5$ meters.", "$5$ meters"),
    ("The answer is $(1, 2)$.", "(1, 2)"),
    ("The answer is (1, 2).", "(1, 2)"),
    ("The answer is $[1, 2)$.", "[1, 2)"),
    ("The answer is $\\left. f \\right|_{x=1} . g$ indeed", "$\\left. f \\right|_{x=1} . g$ indeed"),
    ("The answer is \\boxed{", None),
    ("The answer is 5. \\boxed{\\frac{1}{2}", None),
    ("\\boxed{}", None),
    # Text
    ("The answer is Paris.", "Paris"),
    ("The answer is Paris. It is in France.", "Paris"),
    ("The answer is Paris, which is in France.", "Paris"),
    ("The answer is the U.S. Senate.", "the U.S. Senate"),
    ("The answer is the U.S. The law says so.", "the U.S."),
    ("The answer is Washington, D.C.", "Washington, D.C."),
    ("The answer is Dr. Who. He travels.", "Dr. Who"),
    ("The answer is J. K. Rowling.", "J. K. Rowling"),
    ("The answer is George W. Bush.", "George W. Bush"),
    ("The answer is St. Louis.", "St. Louis"),
    ('The answer is "The Great Gatsby."', "The Great Gatsby"),
    ("The answer is \u201cMoby Dick\u201d.", "Moby Dick"),
    ("The answer is No one.", "No one"),
    ("The answer is none of the above.", "none of the above"),
    ("The answer is the one with 3.5 stars. Yes.", "the one with 3.5 stars"),
    ("The answer is Alice\nQ: Who is next?\nA:", "Alice"),
    # No answer, or none that is finished
    ("", None),
    (" \n", None),
    ("I do not know.", None),
    ("It is 4 or 5; the options are (A) and (B).", None),
    ("Therefore, the answer is", None),
    ("Therefore, the answer is .", None),
    ("Therefore, the answer is:", None),
    ("The answer is 4. No wait. Therefore, the answer is", None),
    ("The answer is not clear.", None),
    ("The answer is not (A).", None),
    ("The answer is unclear.", None),
    ("The answer isn't here.", None),
    ("I do not know what the answer is.", None),
    ("Answer: Let's think step by step. 3 + 4 is 7, and then", None),
    ("Answer: Let us start. So the answer is 7.", "7"),
    ("If the answer is 3 then I am wrong.", None),
    ("If the answer is 3 then the answer is 4.", "4"),
    ("The answer is 4. If the correct answer is 5, tell me.", "4"),
    ("The answer is 4. Let me check whether the answer is right or not.", "4"),
    ("There are 5 answers. Answering takes time.", None),
    ("The unanswered question is 5.", None),
    ("Step 1: add.\n\n#### Step 2", None),
    # Brackets around an answer
    ("So the answer is (16).", "16"),
    ("The answer is [16].", "16"),
    ("The answer is ((16))", "16"),
    ("#### (16)", "16"),
    (r"It is \boxed{(16)}", "16"),
    ("The answer is (16 apples), because 8 + 8 = 16.", "16 apples"),
    ("The answer is ( -3 )", "-3"),
    ("The answer is (yes).", "yes"),
    ("The answer is [B].", "(B)"),
    ("(16)", "16"),
    ("The answer is (3, 4).", "(3, 4)"),
    ("The answer is (1,25).", "(1,25)"),
    ("The answer is (x + 1)(x + 2).", "(x + 1)(x + 2)"),
    ("The answer is f(2).", "f(2)"),
    ("The answer is ( [ ] ).", "( [ ] )"),
    # The last statement decides
    ("At first the answer is 3. But no, the answer is 4.", "4"),
    ("The answer is (A). Wait, (B) is larger. The correct answer is (B).", "(B)"),
    ("Answer: 3\n\nLet me check. The answer is 4.", "4"),
    ("The answer is 3.\n#### 4", "4"),
    ("#### 4\nThe answer is 3.", "3"),
    # A reply that is nothing but an answer
    ("Option C", "(C)"),
    ("Choice (D)", "(D)"),
    ("Option C is too large", None),
    ("(B)", "(B)"),
    ("B.", "(B)"),
    ("**B**", "(B)"),
    ("B. Paris", None),
    ("(A) is too cold. (B) is too hot.", None),
    ("A. First we add.", None),
    ("Yes.", "Yes"),
    ("no, because it is not", None),
    ("One of them lies.", None),
    ("3 of them lie.", None),
    ("May 1, 2021.", "May 1, 2021"),
    ("42", "42"),
    ("$42", "$42"),
    (" -7.", "-7"),
    ("05/01/2021", "05/01/2021"),
    ("] ) >", "] ) >"),
    ("Paris", None),
    ("apple banana", None),
    ("42\n43", None),
    ("A dog", None),
    # Thoughts
    ("<think>The answer is 3.</think>The answer is 4.", "4"),
    ("<think>\nThe answer is 3.\n</think>\n\n4", "4"),
    ("<think>The answer is 3.</think>", None),
    ("<think>The answer is 3.</think> I am not sure.", None),
    ("<think>The answer is 3.", None),
    ("The answer is 4. <think>The answer is 3.", None),
    ("The answer is 4. <think>The answer is 3.</think>", "4"),
    ("The answer is <think>3?</think> 4.", "4"),
    ("The answer is 3.</think>The answer is 4.", "4"),
    ("The answer is 3.</think>", None),
    ("The answer is 3.</think> <think>5</think> The answer is 4.", "4"),
    ("<think>The answer is 1.</think>The answer is 2.<think>The answer is 3.</think>", "2"),
    ("<think>1</think>The answer is 2.</think>The answer is 4.", "4"),
    ("<think>A <think> tag. The answer is 3.</think>The answer is 4.", "4"),
    ("<thinking>The answer is 3.</thinking>The answer is 4.", "4"),
    ("<reasoning>The answer is 3.</reasoning><answer>4</answer>", "4"),
    ("<THINK>The answer is 3.</THINK>The answer is 4.", "4"),
    ("<think>The answer is 3.</reasoning>The answer is 4.", None),
    ("<think></think>\\boxed{4}", "4"),
]


class TestExtractAnswer:
    @pytest.mark.parametrize(("reply", "expected"), REPLIES)
    def test_reply_has_the_expected_answer(self, reply, expected):
        assert extract_answer(reply) == expected

    @pytest.mark.parametrize(("reply", "expected"), [row for row in REPLIES if row[1] is not None])
    def test_reading_matches_itself(self, reply, expected):
        assert answers_match(extract_answer(reply), expected)

    @answers_of_every_kind
    @given(st.data())
    @settings(max_examples=30, deadline=None)
    def test_what_a_reply_states_is_read(self, kind, data):
        answer = data.draw(answers[kind])
        endings = ["Therefore, the answer is {}.", "The answer is: **{}**.\n", "Answer: {}", "<answer>{}</answer>"]
        for ending in endings:
            reading = extract_answer(f"3 + 4 = 7. At first, the answer is 12. {ending.format(answer)}")
            assert answers_match(reading, answer), (ending, reading)

    @given(st.sampled_from([row for row in REPLIES if not re.search("think|reasoning", row[0], re.I)]), st.data())
    @settings(max_examples=200, deadline=None)
    def test_thoughts_change_nothing(self, row, data):
        reply, expected = row
        place = data.draw(st.integers(0, len(reply)))
        thought = data.draw(scraps.filter(lambda text: "<" not in text))
        assert extract_answer(f"{reply[:place]}<think>{thought}</think>{reply[place:]}") == expected
        assert extract_answer(f"{thought}</think>{reply}") == expected
        assert extract_answer(f"{reply}<think>{thought}") is None

    @given(scraps)
    @settings(max_examples=300, deadline=None)
    def test_any_text_can_be_read(self, reply):
        reading = extract_answer(reply)
        if reading is not None:
            assert reading == reading.strip() != ""
            assert answers_match(reading, reading)

    @pytest.mark.slow
    @pytest.mark.parametrize("reply", TROUBLE, ids=lambda reply: repr(reply[:20]))
    def test_answer_of_a_long_reply_is_short_or_missing(self, reply):
        for ending in ("", "\nSo the answer is 7."):
            reading = extract_answer(reply + ending)
            assert reading is None or len(reading) <= 2000


def in_fresh_interpreter(code):
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    return done.stdout.strip()


class TestImport:
    def test_loads_nothing_heavy(self):
        """Nor does a comparison that needs no mathematics."""
        loaded = in_fresh_interpreter(
            "import sys\n"
            "from edit_trl.evaluation import answers_match, extract_answer\n"
            "assert answers_match(extract_answer('The answer is $1,000.'), '1000')\n"
            "print([name for name in ('math_verify', 'sympy', 'torch', 'transformers', 'trl') if name in sys.modules])"
        )
        assert loaded == "[]"


class TestGeneratedChains:
    @pytest.mark.parametrize("level", LEVELS)
    def test_right_and_wrong_answers_are_told_apart(self, level):
        for dual_cot in generate_dual_cots(300, tasks=(*IN_DOMAIN_TASKS, *OUT_OF_DOMAIN_TASKS), level=level):
            right, wrong = extract_answer(dual_cot.chosen), extract_answer(dual_cot.rejected)
            assert answers_match(right, dual_cot.answer)
            assert answers_match(wrong, dual_cot.wrong_answer)
            assert not answers_match(wrong, dual_cot.answer)
            assert not answers_match(right, dual_cot.wrong_answer)


def shared_rows(name):
    path = SHARED_DATA / name
    if not path.exists():
        pytest.skip(f"{name} is not here")
    return [json.loads(line) for line in path.read_text().splitlines()]


# Right answers to the questions that can be computed from their text.
SOLVERS = {
    "boolean_expressions": lambda question: str(eval(question.removesuffix(" is"))),
    "multistep_arithmetic_two": lambda question: str(eval(question.removesuffix(" ="))),
    "word_sorting": lambda question: " ".join(sorted(question.partition("List: ")[2].split())),
}


class TestRealChains:
    """Chains of language models, where they are at hand."""

    def test_answers_of_pairs_differ(self):
        """The right chain and the wrong chain of a pair each state an answer, and not the same one."""
        for row in shared_rows("bbh_dual_cots.jsonl"):
            right, wrong = extract_answer(row["chosen"]), extract_answer(row["rejected"])
            assert right is not None and wrong is not None
            assert not answers_match(wrong, right)

    def test_right_chains_are_right(self):
        num_solved = 0
        for row in shared_rows("bbh_dual_cots.jsonl"):
            if solve := SOLVERS.get(row["task"]):
                question = re.search(r"Q: (.*)\nA:$", row["prompt"], re.DOTALL)[1]
                answer = solve(question)
                assert answers_match(extract_answer(row["chosen"]), answer)
                assert not answers_match(extract_answer(row["rejected"]), answer)
                num_solved += 1
        assert num_solved == 9

    def test_verdicts_on_solutions_of_gsm8k_are_those_of_its_authors(self):
        """Four models' replies to each question. Three of the four that are unread are cut off."""
        num_unread = 0
        for row in shared_rows("gsm8k/model_solutions.jsonl"):
            reference = row["ground_truth"].rpartition("\nA: ")[2]
            for reply in row.values():
                if isinstance(reply, dict):
                    answer = extract_answer(reply["solution"])
                    num_unread += answer is None
                    assert answers_match(answer, reference) is reply["is_correct"]
        assert num_unread == 4

    def test_released_solutions_of_gsm8k_are_their_answers(self):
        for row in shared_rows("gsm8k/test.jsonl"):
            answer = row["answer"].rpartition("#### ")[2]
            assert reference_answer(row["answer"]) == extract_answer(row["answer"]) == answer
            assert answers_match(f"{answer} apples", row["answer"])
            assert not answers_match(f"{answer}7", row["answer"])

    @pytest.mark.slow
    def test_verdicts_on_chains_of_codex_are_those_of_its_authors(self):
        """Few-shot chains for BIG-Bench Hard, all of which end in "So the answer is ..." if they are not cut off."""
        paths = sorted((SHARED_DATA / "bbh" / "codex").glob("*.json"))
        if not paths:
            pytest.skip("bbh/codex is not here")
        for path in paths:
            for row in json.loads(path.read_text())["outputs"]:
                answer = extract_answer(row["prediction"])
                said = row["prediction"].rpartition("So the answer is ")[2].strip().removesuffix(".")
                assert answers_match(answer, row["target"]) is (said == row["target"]), (path.name, answer)

    @pytest.mark.slow
    def test_replies_that_are_cut_before_their_answer_are_unread(self):
        rng = random.Random(0)
        for row in shared_rows("gsm8k/model_solutions.jsonl"):
            for reply in row.values():
                if isinstance(reply, dict):
                    body = reply["solution"].rpartition("\nA: ")[0]
                    ends = [end.end() for end in re.finditer(r"[.!?](?=\s)|(?=\n)", body)]
                    for end in rng.sample(ends, min(len(ends), 3)):
                        assert extract_answer(body[:end]) is None, body[:end]

    @pytest.mark.parametrize(
        ("task", "num_unread"),
        [
            ("dyck_languages", 24),  # chains that end in "So the answer is" and nothing, or a period
            ("logical_deduction", 1),  # "The answer is not (A), (B), ..."
            ("multistep_arithmetic", 0),
            ("tracking_shuffled_objects", 0),
            ("word_sorting", 0),
        ],
    )
    def test_readings_are_the_answers_of_the_data(self, task, num_unread):
        rows = shared_rows(f"big_bench_mistake/{task}.jsonl")
        readings = [extract_answer("\n".join(row["steps"])) for row in rows]
        assert readings.count(None) == num_unread
        for row, reading in zip(rows, readings, strict=True):
            if reading is not None:
                assert answers_match(reading, row["answer"])
                if row["answer"] == row["target"]:
                    assert answers_match(reading, row["target"])
