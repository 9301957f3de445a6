"""
Clean and check questions, and the replies of a teacher.

Answers are read with the same code that scores students. A reply that fails a check becomes a record with one of
`REJECT_REASONS`.
"""

import re
from collections.abc import Mapping
from typing import Any

from ..alignment import similarity
from ..answers import answers_match, extract_answer, reasoning
from ..chat import has_half_character, plain_text
from ..words import words
from .leaks import leaks_prompt


# Why a chain is not used, by the name of the reason.
REJECT_REASONS = {
    "cut": "the reply was cut at the limit of tokens",
    "not_finished": "the endpoint ended the reply early, for another reason than the limit of tokens",
    "refused": "the teacher refused, or a filter of the endpoint stopped the request or the reply",
    "empty": "the reply has no text: it is empty, has only thinking, or calls a tool",
    "garbled": "the reply has characters that are no text (U+FFFD)",
    "unparsed": "no answer can be read from the reply",
    "no_reasoning": "the reply gives an answer and no steps",
    "still_wrong": "the chain was rectified, but its answer is still wrong",
    "still_right": "the chain was corrupted, but its answer is still right",
    "leaks_prompt": "the reply mentions the hint, or says that it is a wrong response",
    "only_answer_differs": "the steps of both chains are the same",
    "too_different": "the chains share less than `min_similarity`",
    "too_similar": "the chains share more than `max_similarity`",
    "too_long": "prompt and chain are longer than `max_length`",
    "duplicate": "the same pair was made before",
    "endpoint_error": "the endpoint gave no usable reply",
    "not_asked": "the budget was reached",
}

# Minimum number of words before the conclusion for a chain to have reasoning.
_MIN_WORDS = 3

# Parts of the prompt that teachers repeat before the chain, and text with which they continue after its end.
_OPENINGS = re.compile(
    r"\s*(?:\**(?:Q|H|Question)\**\s*:.*\n\s*|\**(?:A|Answer|Response|(?:Right|Wrong) response)\**\s*:\**\s*"
    r"|Let(?:['’]s| us) think step[ -]by[ -]step[.:]*\s*)+",
    re.IGNORECASE,
)
_CONTINUATION = re.compile(r"\n\s*\**(?:Q|H|Question|(?:Right|Wrong) response)\**\s*:")


def clean(reply: str) -> str:
    """
    Remove the parts of the prompt that a teacher repeats before the chain-of-thought, and what it adds after it.

    Args:
        reply (`str`):
            Reply of the teacher.

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


def plain_question(row: Mapping[str, Any], number: int) -> dict[str, Any]:
    """
    Bring the texts of a question into plain characters, as those of replies. A right answer with an invisible
    character would match no reply.

    Args:
        row (`Mapping[str, Any]`):
            Row with `question` and `answer`, and perhaps `task` and `task_description`.
        number (`int`):
            Number of the row, from 0, for errors.

    Returns:
        `dict[str, Any]`: The row.

    Raises:
        ValueError: If a text holds half a character, or a question or answer has none that can be seen.
    """
    row = dict(row)
    for name in ("question", "answer", "task", "task_description"):
        text = row.get(name)
        if not isinstance(text, str):
            continue
        if has_half_character(text):
            raise ValueError(
                f"Each question must be text, but `{name}` of row {number} (from 0) holds half a character: "
                f"{ascii(text)[:80]}. It cannot be sent or stored; correct it, or leave the row out."
            )
        row[name] = plain_text(text).strip()
        if name in ("question", "answer") and not row[name]:
            raise ValueError(
                f"Each question must have a text `{name}`, but row {number} (from 0) has only invisible "
                f"characters: {ascii(text)[:80]}. Correct it, or leave the row out."
            )
    return row


def chain_reject_reason(chain: str, finish_reason: str | None, num_tokens: int, max_length: int) -> str | None:
    """
    Check a chain of any step.

    Args:
        chain (`str`):
            The chain.
        finish_reason (`str` or `None`):
            Why the reply ended, as [`~chat.ChatReply`] says.
        num_tokens (`int`):
            Number of tokens of the student's prompt and the chain.
        max_length (`int`):
            Maximum for `num_tokens`.

    Returns:
        `str` or `None`: One of `REJECT_REASONS`; `None` if the chain passes.

    Examples:

    ```python
    >>> chain_reject_reason("2 + 3 = 5. Therefore, the answer is", "length", num_tokens=16, max_length=1024)
    'cut'

    ```
    """
    if finish_reason == "length":
        return "cut"
    if finish_reason in ("content_filter", "refusal"):
        return "refused"
    if not chain:
        return "empty"
    if finish_reason not in ("stop", None):
        return "not_finished"
    if "\ufffd" in chain:
        return "garbled"
    if extract_answer(chain) is None:
        return "unparsed"
    if len(words(reasoning(chain))) < _MIN_WORDS:
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
    Check whether a second chain makes a pair with the first chain of its question.

    Args:
        chain (`str`):
            The second chain, rectified or corrupted. It must have passed [`chain_reject_reason`].
        first (`str`):
            The first chain.
        question (`str`):
            The question.
        answer (`str`):
            Its right answer.
        should_be_right (`bool`):
            Whether the second chain was rectified and should have the right answer.
        min_similarity, max_similarity (`float`):
            Minimum and maximum share of the longer chain, in words, that needs no edit.

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
    if words(reasoning(chain)) == words(reasoning(first)):
        return "only_answer_differs"
    share = similarity(words(first), words(chain))
    if share < min_similarity:
        return "too_different"
    return "too_similar" if share > max_similarity else None
