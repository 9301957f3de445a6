"""
The replies of a teacher: what of them is kept, and why a reply is not good enough.

Answers are read by the code that scores students. A reply that fails a check becomes a record with one of
`REJECT_REASONS`.
"""

import re

from ..alignment import similarity
from ..answers import answers_match, extract_answer, reasoning


# What a reply, or the lack of one, can be rejected for.
REJECT_REASONS = {
    "cut": "the reply was cut at the limit of tokens",
    "not_finished": "the reply ended for another reason than its end",
    "unparsed": "no answer can be read from the reply",
    "no_reasoning": "the reply gives an answer and no steps",
    "still_wrong": "rectified, and the answer is still wrong",
    "still_right": "corrupted, and the answer is still right",
    "leaks_prompt": "the reply speaks of the hint, or of being wrong",
    "only_answer_differs": "the steps of both chains are the same",
    "too_different": "the chains share less than `min_similarity`",
    "too_similar": "the chains share more than `max_similarity`",
    "too_long": "prompt and chain are longer than `max_length`",
    "duplicate": "the same pair was made before",
    "endpoint_error": "the endpoint gave no usable reply",
    "not_asked": "the budget was reached",
}

# Words before the conclusion that count as reasoning.
_MIN_WORDS = 3

# What teachers repeat of the prompt before they begin, and what they go on with after the end.
_OPENINGS = re.compile(
    r"\s*(?:\**(?:Q|H|Question)\**\s*:.*\n\s*|\**(?:A|Answer|Response|(?:Right|Wrong) response)\**\s*:\**\s*"
    r"|Let(?:['’]s| us) think step[ -]by[ -]step[.:]*\s*)+",
    re.IGNORECASE,
)
_CONTINUATION = re.compile(r"\n\s*\**(?:Q|H|Question|(?:Right|Wrong) response)\**\s*:")

_LEAKS = re.compile(
    r"\bhint(?:s|ed)?\b|\b(?:given|knowing|since|know) (?:that )?the (?:correct|right) answer\b|"
    r"\bthe (?:given|provided|stated) (?:correct )?answer\b|\b(?:wrong|right|correct|incorrect) response\b|"
    r"\b(?:incorrect|wrong) answer\b|\bmistake(?:s|nly)?\b|\b(?:deliberate|intentional)(?:ly)?\b|\AH\s*:",
    re.IGNORECASE,
)


def clean(reply: str) -> str:
    """
    A chain-of-thought without what a teacher repeats of the prompt before it, or adds after it.

    Args:
        reply (`str`):
            What the teacher wrote.

    Returns:
        `str`: The chain.

    Examples:

    ```python
    >>> clean("A: Let's think step by step. 2 + 3 = 5. Therefore, the answer is 5.\\n\\nQ: What is 1 + 1?")
    '2 + 3 = 5. Therefore, the answer is 5.'

    ```
    """
    opening = _OPENINGS.match(reply)
    return _CONTINUATION.split(reply[opening.end() if opening else 0 :])[0].strip()


def chain_reject_reason(chain: str, finish_reason: str | None, num_tokens: int, max_length: int) -> str | None:
    """
    Why a chain is not good enough, whatever it was asked for.

    Args:
        chain (`str`):
            The chain.
        finish_reason (`str` or `None`):
            Why the reply ended, as the endpoint says.
        num_tokens (`int`):
            Tokens of the student's prompt and the chain.
        max_length (`int`):
            How many they may be.

    Returns:
        `str` or `None`: One of `REJECT_REASONS`; `None` if it is good enough.

    Examples:

    ```python
    >>> chain_reject_reason("2 + 3 = 5. Therefore, the answer is", "length", num_tokens=16, max_length=1024)
    'cut'

    ```
    """
    if finish_reason == "length":
        return "cut"
    if finish_reason not in ("stop", None):
        return "not_finished"
    if extract_answer(chain) is None:
        return "unparsed"
    if len(reasoning(chain).split()) < _MIN_WORDS:
        return "no_reasoning"
    return "too_long" if num_tokens > max_length else None


def pair_reject_reason(
    chain: str,
    first: str,
    question: str,
    answer: str,
    should_be_right: bool,
    min_similarity: float,
    max_similarity: float,
) -> str | None:
    """
    Why a chain makes no pair with the first one of its question.

    Args:
        chain (`str`):
            The chain, rectified or corrupted. Has passed [`chain_reject_reason`].
        first (`str`):
            The first chain.
        question (`str`):
            The question.
        answer (`str`):
            Its right answer.
        should_be_right (`bool`):
            Whether the chain was rectified.
        min_similarity, max_similarity (`float`):
            Least and largest share of the longer chain, in words, that needs no edit.

    Returns:
        `str` or `None`: One of `REJECT_REASONS`; `None` if the two make a pair.

    Examples:

    ```python
    >>> right, wrong = (f"2 + 3 = {n}. Therefore, the answer is {n}." for n in (5, 6))
    >>> pair_reject_reason(right, wrong, "What is 2 + 3?", "5", True, min_similarity=0.5, max_similarity=0.98) is None
    True
    >>> pair_reject_reason(right, wrong, "What is 2 + 3?", "5", True, min_similarity=0.9, max_similarity=0.98)
    'too_different'

    ```
    """
    is_right = answers_match(extract_answer(chain), answer)
    if is_right != should_be_right:
        return "still_right" if is_right else "still_wrong"
    if leaks_prompt(chain, allowed=f"{question} {first}"):
        return "leaks_prompt"
    if reasoning(chain).split() == reasoning(first).split():
        return "only_answer_differs"
    share = similarity(first.split(), chain.split())
    if share < min_similarity:
        return "too_different"
    return "too_similar" if share > max_similarity else None


def leaks_prompt(chain: str, allowed: str) -> bool:
    """
    Whether a chain speaks of what it was told: of the hint, or of being a wrong response.

    Args:
        chain (`str`):
            The chain.
        allowed (`str`):
            Text, such as the question, that the chain may quote. If it uses such words, so may the chain.

    Returns:
        `bool`: Whether it does.

    Examples:

    ```python
    >>> leaks_prompt("The hint says 5, so the answer is 5.", allowed="What is 2 + 3?")
    True

    ```
    """
    return _LEAKS.search(chain) is not None and _LEAKS.search(allowed) is None
