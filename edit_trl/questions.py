"""
Check tables of questions with their right answers, and write the prompt of a question.

Synthesis asks a teacher these questions and makes pairs from its replies; evaluation asks a student. Both use this
file, so that both read the same columns and write the same prompt.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from .deprecation import renamed


__getattr__ = renamed(__name__, {"check_questions": "normalize_questions"})


def student_prompt(question: str, task_description: str = "") -> str:
    """
    Write the prompt of a question as in the paper: zero-shot, after the description of its task if there is one.

    Args:
        question (`str`):
            The question.
        task_description (`str`, *optional*, defaults to `""`):
            Description of the task.

    Returns:
        `str`: The prompt.

    Examples:

    ```python
    >>> student_prompt("What is 2 + 3?")
    'Q: What is 2 + 3?\\nA:'

    ```
    """
    head = f"{task_description}\n" if task_description else ""
    return f"{head}Q: {question}\nA:"


def normalize_questions(questions: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """
    Check questions and bring them into one form.

    Args:
        questions ([`~datasets.Dataset`] or `Iterable[dict]`):
            Rows with `question` and `answer`; optionally `task` and `task_description`.

    Returns:
        `list[dict[str, Any]]`: The rows with these four columns, without spaces around question and answer.

    Raises:
        TypeError: If an element is not a row.
        ValueError: If there is no question, a question or answer is missing, or a question is repeated.
    """
    rows: list[dict[str, Any]] = []
    missing: dict[str, list[int]] = {"question": [], "answer": []}
    places: dict[str, list[int]] = {}
    for number, row in enumerate(questions):
        if not isinstance(row, Mapping):
            raise TypeError(
                f"`questions` must be rows with `question` and `answer`, got {row!r}. If it is a `DatasetDict`, pass "
                'one split, for example `questions["train"]`.'
            )
        texts = {name: row.get(name) for name in ("question", "answer")}
        for name, text in texts.items():
            if not isinstance(text, str) or not text.strip():
                missing[name].append(number)
        rows.append(
            {
                **{name: text.strip() if isinstance(text, str) else "" for name, text in texts.items()},
                "task": None if row.get("task") in (None, "") else str(row["task"]),
                "task_description": row.get("task_description") or "",
            }
        )
        places.setdefault(rows[-1]["question"], []).append(number)
    if not rows:
        raise ValueError("`questions` must hold at least one question, got none. Check the file and its split.")
    for name, numbers in missing.items():
        if numbers:
            raise ValueError(
                f"Each question must have a text `{name}`, but {len(numbers)} of {len(rows)} have none, the first in "
                f"rows {', '.join(map(str, numbers[:5]))} (from 0). Such a row cannot be used; rename the columns to "
                "`question` and `answer`, make answers text, or leave these rows out."
            )
    repeated = {question: numbers for question, numbers in places.items() if len(numbers) > 1}
    if repeated:
        question, numbers = next(iter(repeated.items()))
        raise ValueError(
            f"Each question must be there once, but {len(repeated)} are repeated, the first in rows "
            f"{', '.join(map(str, numbers[:5]))} (from 0): {question[:60]!r}. Leave out the repetitions; to sample a "
            "question several times set `num_samples`."
        )
    return rows
