"""
Tell what a reply says about an answer that it states: that it is another one's, that it is taken back, or that it is
that of an option.
"""

import re

from .phrases import COUNTERFACTUAL, ENGLISH_CONDITION, LESSER_ANSWER, PAST_CONDITION


# How long a sentence may be that is read.
MAX_SENTENCE_LENGTH = 300
# Words that make a sentence say less than what the answer is.
HEDGE = re.compile(
    r"n['’]t\b|\b(?:not|never|no longer|either|or|neither|if|whether|unless|suppose|assum\w+|might|may|perhaps|maybe"
    r"|wrong|incorrect\w*|mistak\w+|except|exclud\w+|eliminat\w+|rul(?:e|es|ed|ing) out|instead of|rather than|between"
    r"|at least|at most|less than|more than|fewer than|greater than|guess|unsure|unclear|first|next"
    r"|step)\b|\?|…|\.\.\.",
    re.I,
)

# Statements that begin with the option: "(B) is the correct answer", "Option B is correct".
INVERTED = re.compile(
    r"(?<![\w'’])\(?([A-R])\)?[*_\"']{0,2}\ is\ the\ (?:(?:correct|right|best)\ (?:answer|option|choice)|answer)\b"
    r"|\b(?:[Oo]ption|[Cc]hoice)\ \(?([A-R])\)?[*_\"']{0,2}\ is\ (?:correct|right)\b"
)
_RETRACTION = re.compile(
    r"\b(?:wait,? no\b|no,? wait\b|scratch that|correction:|that(?:['’]s| is) (?:wrong|incorrect|not right)"
    r"|i made an? (?:mistake|error))",
    re.I,
)
# Before a retraction in its line: it is about what others say, about another option, or about an earlier attempt.
_OF_OTHERS = re.compile(
    r"\b(?:why not|if (?:you|we|one)|some|others|many|students?|people|first attempt|at first|initially|earlier"
    r"|option [A-R])\b|\([A-R]\)|^\W{0,4}[A-R][).:]\s",
    re.I | re.M,
)
# A doubt in the sentence of an answer, or at the start of the next one, and words that dispel it.
_DOUBT = (
    r"(?:wait\b|hold on\b|on second thought|oops|sorry,|(?:i |my )?apolog\w+|i meant\b|i mean\b|(?:that|this|it)(?:"
    r" (?:is|was) (?:wrong|incorrect|not (?:right|correct))| can(?:not|['’]t) be (?:right|correct)"
    r"| does(?: not|n['’]t) (?:look|seem) (?:right|correct)| (?:seems|looks) (?:wrong|off|too \w+))"
    r"|actually,? (?:no\b|it['’]s|it is))"
)
_SECOND_THOUGHT = re.compile(
    rf"(?:[^.!?\n]|\.(?=[0-9])){{0,120}}(?:[.!?…]{{1,3}}[*_)\"'}}$]{{0,4}}\s{{1,4}}|[ ]{{0,4}}\n\s{{0,4}})"
    rf"(?:(?:but|hmm|oh|um|well|ah|no)[,.…\s]{{1,4}}){{0,3}}{_DOUBT}"
    r"|[^!?\n]{0,60}?(?:[,;]|\s[-–—]|\.\.\.|…)\s*(?:(?:i mean|or rather|make that|no,|wait,?|sorry,|oops,?)\s)"
    r"|[^.!?\n]{0,60}\?\s+(?:no\b|hmm)|[^.!?\n]{0,60}\}\$?\s+is (?:not right|wrong|incorrect)",
    re.I,
)
_CONFIRMED = re.compile(
    r"(?:\bis|['’]s|\bare|\bwas|\blooks?|\bstill|\bindeed) (?:\w+ )?(?:right|correct|fine|good|confirmed)\b"
    r"|\bcorrect[.!]|\byes\b|\b(?:checks out|confirm\w*|verified)\b",
    re.I,
)
# Before and after "(B) is the correct answer".
_CLAIMED = re.compile(r"\b(?:claim\w*|says?|said|argu\w+|unlikely|doubt\w*|students?|people|some|one)\b", re.I)
_BEFORE_OPTION = re.compile(
    r"(?:^|[:,]|\b(?:so|thus|therefore|hence|option|choice|answer|that|letter|think|believe|means|conclude|is|and))"
    r"[\s*_\"'(]*\Z",
    re.I,
)
_ENDS_CLAUSE = re.compile(r"[*_\"')]*\s*(?:$|[.!,;:)\n]|because|since|as\b)", re.I)


def is_lesser(text: str, statement: re.Match[str]) -> bool:
    """
    Tell whether a phrase is about an answer that others may give, or about what is not the case: "if it were a leap
    year, the answer would be 6".

    Args:
        text (`str`):
            The reply.
        statement (`re.Match[str]`):
            The phrase, in English.

    Returns:
        `bool`: Whether it is. Such an answer counts only if the reply states no other.
    """
    before = text[max(0, statement.start() - MAX_SENTENCE_LENGTH) : statement.start()]
    if LESSER_ANSWER.search(before[-80:]):
        return True
    is_conditional = "would" in statement[0] or "should" in statement[0]
    return bool((COUNTERFACTUAL if is_conditional else PAST_CONDITION).search(before))


def is_retracted(text: str, end: int) -> bool:
    """
    Tell whether an answer is taken back after it.

    Args:
        text (`str`):
            The reply.
        end (`int`):
            Where the phrase before the answer ends.

    Returns:
        `bool`: Whether it is. Mistakes of others and doubts that the reply dispels take nothing back.

    Examples:

    ```python
    >>> is_retracted("The answer is 18. Wait, I forgot one.", 13), is_retracted("The answer is 18. Some say 20.", 13)
    (True, False)

    ```
    """
    for match in _RETRACTION.finditer(text, end):
        first = max(end, match.start() - MAX_SENTENCE_LENGTH)
        if not _OF_OTHERS.search(text, max(text.rfind("\n", first, match.start()) + 1, first), match.start()):
            return True
    doubt = _SECOND_THOUGHT.match(text[end : end + MAX_SENTENCE_LENGTH])
    return doubt is not None and not _CONFIRMED.search(text, end + doubt.end())


def is_said_of_option(text: str, statement: re.Match[str]) -> bool:
    """
    Tell whether a sentence says of an option that it is the answer: "(B) is the correct answer".

    Args:
        text (`str`):
            The reply.
        statement (`re.Match[str]`):
            Match of `INVERTED`.

    Returns:
        `bool`: Whether it does, and neither doubts it nor says what others claim.
    """
    first = max(0, statement.start() - MAX_SENTENCE_LENGTH)
    start = max(text.rfind(mark, first, statement.start()) + 1 for mark in (".", "!", "?", "\n", ";"))
    before = text[max(first, start) : statement.start()]
    if ENGLISH_CONDITION.search(before[-40:]) or HEDGE.search(before) or _CLAIMED.search(before):
        return False
    after = text[statement.end() : statement.end() + 60]
    if statement[2]:
        return _ENDS_CLAUSE.match(after) is not None
    is_marked = text[statement.start()] in "(*" or text[max(0, statement.start() - 1)] in "(*"
    return not after.startswith("?") and (is_marked or _BEFORE_OPTION.search(before) is not None)
