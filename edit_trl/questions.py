"""
Check tables of questions with their right answers, and write the prompt of a question. `question_formats.py` knows the
columns of benchmarks as they were released.

Synthesis asks a teacher these questions and makes pairs from its replies; evaluation asks a student. Both use this
file, so that both read the same columns and write the same prompt.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from .deprecation import renamed
from .question_formats import accepted_words, final_answer, read_released, text_of


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


class QuestionTable(NamedTuple):
    """
    Questions that were read.

    Args:
        rows (`list[dict[str, Any]]`):
            Rows with `question`, `answer`, `task` and `task_description`.
        reader (`str`):
            Name of the format that was read, with its columns.
        notes (`list[str]`):
            What a user should know of these questions: repetitions, and what was left out.
    """

    rows: list[dict[str, Any]]
    reader: str
    notes: list[str]


def normalize_questions(questions: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """
    Check questions for a teacher and bring them into one form: [`read_questions`] with `distinct=True`.

    Args:
        questions ([`~datasets.Dataset`] or `Iterable[dict]`):
            As for [`read_questions`].

    Returns:
        `list[dict[str, Any]]`: Rows with `question`, `answer`, `task` and `task_description`.

    Raises:
        TypeError: If an element is not a row.
        ValueError: If there is no question, a question or answer is missing, or all questions have several answers.
    """
    return read_questions(questions, distinct=True).rows


def read_questions(questions: Iterable[dict[str, Any]], distinct: bool = False) -> QuestionTable:
    """
    Check questions and bring them into one form.

    Args:
        questions ([`~datasets.Dataset`] or `Iterable[dict]`):
            Rows with `question` and `answer`, optionally `task` and `task_description`; or rows of a benchmark as it
            was released, see `question_formats`. An answer may be a number or a truth value.
        distinct (`bool`, *optional*, defaults to `False`):
            Whether each question must be there once and have one answer, as a teacher needs it. Repetitions, and
            questions with several answers, are then left out. By default each row counts, and an answer may be a list
            of texts, each of which is right.

    Returns:
        [`QuestionTable`]: The rows, without spaces around question and answer; the format; and notes.

    Raises:
        TypeError: If an element is not a row.
        ValueError: If there is no question, a question or answer is missing, or with `distinct` all questions have
            several answers.

    Examples:

    ```python
    >>> table = read_questions([{"question": "What is 9 * 2?", "answer": "9 * 2 = 18\\n#### 18"}])
    >>> table.rows[0]["answer"], table.reader
    ('18', 'GSM8K (question, answer after ####)')

    ```
    """
    given = list(questions)
    for row in given:
        if not isinstance(row, Mapping):
            raise TypeError(
                f"`questions` must be rows with `question` and `answer`, got {row!r}. If it is a `DatasetDict`, pass "
                'one split, for example `questions["train"]`.'
            )
    found, reader, num_left_out = read_released(given)
    notes = [f"{num_left_out} questions whose answer is several options are left out."] if num_left_out else []
    rows: list[dict[str, Any]] = []
    missing: dict[str, list[int]] = {"question": [], "answer": []}
    for number, row in enumerate(found):
        question = row.get("question")
        question = question.strip() if isinstance(question, str) else ""
        value = row.get("answer")
        # A teacher is told one word.
        answer = accepted_words(value) if isinstance(value, bool) and not distinct else _answer_of(value, question)
        task = row.get("task")
        rows.append(
            {
                "question": question,
                "answer": answer,
                "task": None if task is None or not str(task).strip() else str(task).strip(),
                "task_description": row.get("task_description") or "",
            }
        )
        for name in missing:
            if not rows[-1][name]:
                missing[name].append(number)
    if not rows:
        raise ValueError("`questions` must hold at least one question, got none. Check the file and its split.")
    for name, numbers in missing.items():
        if numbers:
            raise ValueError(
                f"Each question must have a text `{name}`, but {len(numbers)} of {len(rows)} have none, the first in "
                f"rows {', '.join(map(str, numbers[:5]))} (from 0). The rows were read as {reader}. Such a row cannot "
                "be used; rename the columns to `question` and `answer`, or leave these rows out."
            )
    places: dict[str, list[int]] = {}
    for number, row in enumerate(rows):
        places.setdefault(row["question"], []).append(number)
    num_repeated = len(rows) - len(places)
    if distinct:
        kept = [numbers[0] for numbers in places.values() if _has_one_answer([rows[number] for number in numbers])]
        if not kept:
            raise ValueError(
                f"Each question must have one answer, but all {len(places)} have several, the first in rows "
                f"{', '.join(map(str, places[rows[0]['question']][:5]))} (from 0): {rows[0]['question'][:60]!r}. "
                "Leave all but one of them out."
            )
        num_several = len(places) - len(kept)
        notes += [f"{num_repeated} repetitions of questions are left out."] if num_repeated else []
        notes += [f"{num_several} questions with several answers are left out."] if num_several else []
        rows = [rows[number] for number in kept]
    elif num_repeated:
        notes.append(f"{num_repeated} rows repeat the question of another row. Each row counts.")
    return QuestionTable(rows, reader, notes)


def _answer_of(value: Any, question: str) -> str | list[str]:
    """Return an answer as text, or as a list of texts if it is one. Empty if there is none."""
    if isinstance(value, Sequence) and not isinstance(value, (str, bytes)):
        texts = list(dict.fromkeys(filter(None, (text_of(text, question) for text in value))))
        return texts if len(texts) > 1 else (texts or [""])[0]
    text = text_of(value, question) or ""
    return (final_answer(text) or "") if "\n" in text else text


def _has_one_answer(rows: Sequence[dict[str, Any]]) -> bool:
    """Tell whether the rows of one question have one answer."""
    return not isinstance(rows[0]["answer"], list) and len({str(row["answer"]) for row in rows}) == 1
