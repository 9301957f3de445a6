"""
Judge replies. A reply that cannot be read or compared costs this reply and never the run.
"""

from typing import Any

from ..answers import answers_match, extract_answer


def judge_reply(reply: str, answer: str | list[str]) -> dict[str, Any]:
    """
    Read the answer of a reply and compare it with the right answer.

    Args:
        reply (`str`):
            Reply of a student.
        answer (`str` or `list[str]`):
            The right answer, or several of which each is right.

    Returns:
        `dict[str, Any]`: `extracted`, the answer that was read, `None` if there is none; `is_right`; and `problem` if
        the reply could not be read or compared because of an error. Such a reply has no answer.

    Examples:

    ```python
    >>> judge_reply("2 + 3 = 5. So the answer is 5.", "5")
    {'extracted': '5', 'is_right': True}

    ```
    """
    try:
        extracted = extract_answer(reply)
        return {"extracted": extracted, "is_right": is_right(extracted, answer)}
    except Exception as error:  # whatever the readers of formulas raise
        return {"extracted": None, "is_right": False, "problem": f"{type(error).__name__}: {error}"[:500]}


def is_right(extracted: str | None, answer: str | list[str]) -> bool:
    """
    Tell whether an answer matches the right answer.

    Args:
        extracted (`str` or `None`):
            Answer that was read from a reply.
        answer (`str` or `list[str]`):
            The right answer, or several of which each is right.

    Returns:
        `bool`: Whether it matches one of them.
    """
    answers = [answer] if isinstance(answer, str) else answer
    return any(answers_match(extracted, reference) for reference in answers)
