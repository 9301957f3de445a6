"""
Pairs for the tests of `benchmarks/key_steps.py`: tokens of whole words, generated examples with small tokenizers, and
one record per task in the format of BIG-Bench Mistake.
"""

import functools
import re
from itertools import accumulate, pairwise

from key_steps_chains import TokenChain, TokenPair, build_tokenizers, tokenize
from key_steps_generated import generate

from edit_trl import DataCollatorForDualCoT


@functools.cache
def generated_examples():
    return generate(48, [1, 2, 3], seed=0)


@functools.cache
def small_tokenizers():
    texts = [text for example in generated_examples() for text in example.to_pair().values()]
    return build_tokenizers(texts, vocab_size=400)


def token_chain(text):
    """Words and punctuation marks, with the space before them, and an end of sequence."""
    pieces = re.findall(r"\s?\w+|\s?[^\w\s]", text)
    assert "".join(pieces) == text
    borders = list(accumulate(map(len, pieces), initial=0))
    ids = [1 + int.from_bytes(piece.encode(), "big") % 1_000_003 for piece in pieces]
    return TokenChain(text, [*ids, 0], [*pairwise(borders), (len(text), len(text))])


def token_pair(chosen, rejected, collator=None, seed="0"):
    return TokenPair(token_chain(chosen), token_chain(rejected), collator, seed)


def word_pair(tokenizer, chosen, rejected):
    collator = DataCollatorForDualCoT(pad_token_id=0, alignment_level="word", tokenizer=tokenizer)
    sides = [tokenize(tokenizer, "Q:", text) for text in (chosen, rejected)]
    return TokenPair(*sides, collator, "0")


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
