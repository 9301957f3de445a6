"""
Score replies that another tool saved, without a model.

A row has a reply, or several, and the right answer. Columns may have any name: common names are found, others are
given. Rows of benchmarks as they were released are known with their answers (`question_formats.py`), and so are the
logged samples of lm-evaluation-harness and the `generations.jsonl` of this package. Answers are read and judged as in
[`evaluate`], and the scores are the same.
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from ..question_formats import SeveralAnswers, accepted_words, final_answer, find_format, text_of
from .evaluator import score_generations
from .students import STOP
from .verdicts import judge_reply


# Common names of columns, the first ones first. Case does not matter.
REPLY_COLUMNS = (
    *("reply", "replies", "response", "responses", "completion", "completions", "output", "outputs"),
    *("generation", "generations", "generated_text", "generated_texts", "model_output", "model_response"),
    *("model_answer", "prediction", "predictions", "predicted", "pred", "raw_output", "text", "choices", "messages"),
)
ANSWER_COLUMNS = (
    *("answer", "gold", "gold_answer", "target", "targets", "reference", "references", "ground_truth"),
    *("correct_answer", "right_answer", "expected", "expected_answer", "expected_output", "ideal", "label"),
    *("answerkey", "solution"),
)
_QUESTION_TEXTS = ("question", "problem", "prompt", "input", "query", "instruction")
QUESTION_COLUMNS = (*_QUESTION_TEXTS, *("question_id", "doc_id", "task_id", "id", "idx", "index"))
TASK_COLUMNS = ("task", "task_name", "subject", "category", "dataset", "benchmark")
_SAMPLE_COLUMNS = (
    *("sample", "sample_id", "sample_idx", "sample_index", "path", "attempt", "trial", "repeat", "completion_id"),
    *("generation_id", "seed"),
)
_FINISH_COLUMNS = ("finish_reason", "stop_reason", "finish_reasons")
_TRUNCATED = {"length", "max_tokens", "max_length", "model_length"}


class SavedReplies(NamedTuple):
    """
    Replies that were read and judged.

    Args:
        records (`list[dict[str, Any]]`):
            Judged generations, in the form of `generations.jsonl`.
        reader (`str`):
            What the rows were read as, with the columns.
        notes (`list[str]`):
            What a user should know of these rows.
    """

    records: list[dict[str, Any]]
    reader: str
    notes: list[str]


class _Reply(NamedTuple):
    """A question with its replies, before they are judged. `right` is the verdict of replies that are no text."""

    question: str
    answer: Any
    task: str | None
    texts: list[str]
    finish: list[Any]
    sample: Any = None
    right: list[bool] | None = None


def score_replies(
    rows: Iterable[Mapping[str, Any]],
    reply_column: str | None = None,
    answer_column: str | None = None,
    question_column: str | None = None,
    task_column: str | None = None,
) -> dict[str, Any]:
    """
    Score saved replies.

    Args:
        rows (`Iterable[Mapping]`):
            As for [`read_replies`].
        reply_column, answer_column, question_column, task_column (`str`, *optional*):
            As for [`read_replies`].

    Returns:
        `dict[str, Any]`: The dictionary of [`score_generations`], and `questions` with the `reader` and its `notes`.
        `truncated_rate` is `None` if the rows do not say why replies ended.

    Raises:
        ValueError: If rows cannot be read.

    Examples:

    ```python
    >>> rows = [
    ...     {"question": "What is 2 + 3?", "response": "So the answer is 5.", "answer": "5"},
    ...     {"question": "What is 2 + 4?", "response": "So the answer is 7.", "answer": "6"},
    ... ]
    >>> score_replies(rows)["accuracy"]
    0.5

    ```
    """
    return scores_of(read_replies(rows, reply_column, answer_column, question_column, task_column))


def scores_of(saved: SavedReplies) -> dict[str, Any]:
    """Compute the scores of `saved` replies, see [`score_replies`]."""
    results = score_generations(saved.records)
    if all(record["finish_reason"] is None for record in saved.records):
        for scores in (results, *results["tasks"].values()):
            scores["truncated_rate"] = None
    results["questions"] = {"reader": saved.reader, "notes": saved.notes}
    return results


def read_replies(
    rows: Iterable[Mapping[str, Any]],
    reply_column: str | None = None,
    answer_column: str | None = None,
    question_column: str | None = None,
    task_column: str | None = None,
    task: str | None = None,
) -> SavedReplies:
    """
    Read and judge saved replies.

    Args:
        rows (`Iterable[Mapping]`):
            Rows of one file. A reply is a text, an object with its text (`content`, `text` or `message`), a list of
            messages, of which the last one of the assistant is the reply, or a list of several replies. Rows that
            repeat a question with other numbers of samples, or all equally often, are several replies to it.
        reply_column (`str`, *optional*):
            Column of the replies. Parts of objects are separated by dots: `choices.0.message.content`. By default one
            of the common names.
        answer_column (`str`, *optional*):
            Column of the right answers, in the same form.
        question_column (`str`, *optional*):
            Column that identifies a question, in the same form.
        task_column (`str`, *optional*):
            Column of the tasks, in the same form.
        task (`str`, *optional*):
            Task of rows that name none.

    Returns:
        [`SavedReplies`]: The judged replies.

    Raises:
        ValueError: If there are no rows, a column is missing, or an answer is missing.
    """
    rows = list(rows)
    if not rows:
        raise ValueError("There must be at least one reply to score, got none. Check the file.")
    notes: list[str] = []
    has_names = reply_column or answer_column
    if not has_names and all("filtered_resps" in row or "resps" in row for row in rows):
        found, reader = _of_harness(rows, notes)
    elif not has_names and all({"question", "sample", "text", "num_tokens"} <= set(row) for row in rows):
        found, reader = _of_runs(rows, notes)
    else:
        found, reader = _of_table(rows, reply_column, answer_column, question_column, task_column, notes)
    num_empty = sum(not text.strip() for reply in found if reply.right is None for text in reply.texts)
    if num_empty:
        notes.append(f"{num_empty:,} replies are empty.")
    return SavedReplies(_judged([reply._replace(task=reply.task or task) for reply in found], notes), reader, notes)


def _of_table(
    rows: Sequence[Mapping[str, Any]],
    reply_column: str | None,
    answer_column: str | None,
    question_column: str | None,
    task_column: str | None,
    notes: list[str],
) -> tuple[list[_Reply], str]:
    """Read rows of any tool."""
    # `choices` are replies as OpenAI's API writes them, or the options of a question.
    has_options = any(not isinstance(choice, Mapping) for row in rows for choice in row.get("choices") or ())
    names = [name for name in REPLY_COLUMNS if name != "choices" or not has_options]
    reply = _column(rows, "reply", reply_column, names)
    known = None if answer_column else find_format([{k: v for k, v in row.items() if k != reply} for row in rows])
    answer = None if known else _column(rows, "answer", answer_column, ANSWER_COLUMNS, but=reply)
    question = _column(rows, "question", question_column, QUESTION_COLUMNS, but=reply, needed=False)
    # The prompt may be the same for all questions, and the question in another column.
    asking = [] if question_column else [name for name in rows[0] if str(name).lower() in _QUESTION_TEXTS]
    asking = [name for name in asking if name not in (reply, answer)] or ([question] if question else [])
    task = _column(rows, "task", task_column, TASK_COLUMNS, but=question, needed=False)
    sample = _column(rows, "sample", None, _SAMPLE_COLUMNS, but=reply, needed=False)
    finish = _column(rows, "finish_reason", None, _FINISH_COLUMNS, but=reply, needed=False)
    found: list[_Reply] = []
    missing, num_left_out = [], 0
    for number, row in enumerate(rows):
        try:
            content = known.read(row) if known else {}
        except SeveralAnswers:
            num_left_out += 1
            continue
        value = content.get("answer") if known else _get(row, str(answer))
        asked = content.get("question") if known else None
        name = "\n".join(str(_get(row, column)) for column in asking) if asking else number
        gold = _answer(value)
        if not gold:
            missing.append(number)
            continue
        texts = _texts(_get(row, reply))
        ends: Any = _get(row, finish) if finish else None
        found.append(
            _Reply(
                question=str(asked or name),
                answer=gold,
                task=_name(_get(row, task)) if task else _name(content.get("task")),
                texts=texts,
                finish=list(ends) if _is_list(ends) and len(ends) == len(texts) else [ends] * len(texts),
                sample=_get(row, sample) if sample else None,
            )
        )
    if missing:
        raise ValueError(
            f"Each row must have the right answer, but {len(missing)} of {len(rows)} have none, the first in rows "
            f"{', '.join(map(str, missing[:5]))} (from 0), read from {known.name if known else f'`{answer}`'}. Name "
            "its column with `answer_column`, or leave these rows out."
        )
    if num_left_out:
        notes.append(f"{num_left_out} questions whose answer is several options are left out.")
    source = known.name if known else f"answer from `{answer}`"
    return _grouped(found, notes, has_samples=sample is not None), f"reply from `{reply}`, {source}"


def _of_runs(rows: Sequence[Mapping[str, Any]], notes: list[str]) -> tuple[list[_Reply], str]:
    """Read `generations.jsonl` of this package. Rows without an answer are not counted by its scores either."""
    counted = [row for row in rows if row.get("answer")]
    if not counted:
        raise ValueError(
            "`generations.jsonl` must be of a run that was scored, but its rows have no answers yet. Finish the run."
        )
    if len(counted) < len(rows):
        notes.append(f"{len(rows) - len(counted):,} replies that the last scores did not count are left out.")
    found = [
        _Reply(
            question=row["question"],
            answer=row["answer"],
            task=row.get("task"),
            texts=[row["text"].split(STOP)[0]],
            finish=[row.get("finish_reason")],
            sample=(row.get("row"), row["sample"]),
        )
        for row in counted
    ]
    # With the number of its row, a question that is there twice is told from one with two replies.
    by_row: dict[Any, list[_Reply]] = {}
    for reply in found:
        by_row.setdefault((reply.sample[0], reply.question), []).append(reply)
    groups = [sorted(group, key=lambda reply: reply.sample[1]) for group in by_row.values()]
    return [_joined(group) for group in groups], "generations.jsonl of `edit-trl evaluate`"


def _of_harness(rows: Sequence[Mapping[str, Any]], notes: list[str]) -> tuple[list[_Reply], str]:
    """Read logged samples of lm-evaluation-harness. It writes a row for each filter; the replies are the same."""
    column = "resps" if all("resps" in row for row in rows) else "filtered_resps"
    first: dict[Any, Mapping[str, Any]] = {}
    for number, row in enumerate(rows):
        first.setdefault(row.get("doc_id", number), row)
    filters = Counter(str(row.get("filter", "none")) for row in rows)
    if len(first) < len(rows):
        used = " The replies before any filter are read." if column == "resps" else " The first one is read."
        notes.append(f"The file has {len(filters)} filters: {', '.join(filters)}.{used}")
    found, is_choice = [], False
    for number, (name, row) in enumerate(first.items()):
        doc: Any = row.get("doc") if isinstance(row.get("doc"), Mapping) else {}
        known = find_format([doc]) if doc else None
        question = next((str(doc[key]) for key in QUESTION_COLUMNS if isinstance(doc.get(key), str)), str(name))
        likelihoods = _log_likelihoods(row[column])
        answer = _answer(row.get("target"))
        if likelihoods:
            is_choice = True
            right = _choice_number(row.get("target"), doc, len(likelihoods))
            chosen = max(range(len(likelihoods)), key=likelihoods.__getitem__)
            if right is None:
                raise ValueError(
                    "`target` of samples with log-likelihoods must be the number, the letter or the text of a choice, "
                    f"got {row.get('target')!r} in row {number} (from 0). Log samples of a task that generates text."
                )
            letters = [f"({chr(ord('A') + place)})" for place in (right, chosen)]
            found.append(_Reply(question, letters[0], None, [letters[1]], [None], right=[right == chosen]))
            continue
        if not answer and known:
            answer = _answer(known.read(doc).get("answer"))
        if not answer:
            raise ValueError(
                f"Each sample must have its right answer as `target`, but row {number} (from 0) has "
                f"{row.get('target')!r}. Name its column with `answer_column`, such as `doc.answer`."
            )
        texts = [text for value in row[column] for text in (_texts(value) if value is not None else [""])]
        found.append(_Reply(question, answer, None, texts, [None] * len(texts)))
    if is_choice:
        notes.append("Choices by log-likelihood: the most likely one is the answer, as in `acc`. No text is read.")
    return found, f"samples of lm-evaluation-harness (target, {column})"


def _log_likelihoods(values: Any) -> list[float]:
    """Return the log-likelihoods of the choices: pairs of a number and whether it is greedy. Empty for replies."""
    pairs = [value[0] if _is_list(value) and len(value) == 1 and _is_list(value[0]) else value for value in values]
    if not pairs or not all(_is_list(pair) and len(pair) == 2 and str(pair[1]) in _GREEDY for pair in pairs):
        return []
    try:
        return [float(pair[0]) for pair in pairs]
    except (TypeError, ValueError):
        return []


_GREEDY = ("True", "False", "0", "1", "0.0", "1.0")


def _choice_number(target: Any, doc: Mapping[str, Any], num_choices: int) -> int | None:
    text = str(target[0] if _is_list(target) and len(target) == 1 else target).strip()
    choices = doc.get("choices", doc.get("options"))
    texts: Any = choices.get("text") if isinstance(choices, Mapping) else choices
    number = None
    if re.fullmatch(r"[0-9]+", text):
        number = int(text)
    elif _is_list(texts) and text in [str(choice).strip() for choice in texts]:
        number = [str(choice).strip() for choice in texts].index(text)
    elif re.fullmatch(r"\(?[A-Z][).]?", text):
        number = ord(text.strip("().")) - ord("A")
    return number if number is not None and number < num_choices else None


def _grouped(found: list[_Reply], notes: list[str], has_samples: bool) -> list[_Reply]:
    """Join the rows of one question, if they are several replies to it."""
    if any(len(reply.texts) != 1 for reply in found):
        return found
    groups: dict[Any, list[_Reply]] = {}
    seen: Counter[Any] = Counter()
    for reply in found:
        name = (reply.task, reply.question, str(reply.answer))
        # With numbers of samples, the second row with the same one is of the same question in another row.
        again = (*name, str(reply.sample)) if has_samples else None
        groups.setdefault((*name, seen[again] if has_samples else 0), []).append(reply)
        seen[again] += 1
    sizes = Counter(map(len, groups.values()))
    if len(sizes) == 1 or has_samples:
        return [_joined(group) for group in groups.values()]
    num_repeated = len(found) - len(groups)
    notes.append(f"{num_repeated:,} rows repeat the question of another row, not all equally often. Each row counts.")
    return found


def _joined(group: list[_Reply]) -> _Reply:
    texts = [text for reply in group for text in reply.texts]
    return group[0]._replace(texts=texts, finish=[end for reply in group for end in reply.finish])


def _judged(found: list[_Reply], notes: list[str]) -> list[dict[str, Any]]:
    sizes = Counter(len(reply.texts) for reply in found)
    if len(sizes) > 1:
        shown = ", ".join(f"{size} to {num:,} questions" for size, num in sorted(sizes.items())[:4])
        raise ValueError(
            f"Each question must have the same number of replies, got {shown}. Leave out the questions whose replies "
            "are not complete."
        )
    if found and not found[0].texts:
        raise ValueError("Each question must have a reply, but the lists of replies are empty. Check the column.")
    records = []
    for number, reply in enumerate(found):
        for sample, (text, end) in enumerate(zip(reply.texts, reply.finish, strict=True)):
            verdict = (
                judge_reply(text, reply.answer)
                if reply.right is None
                else {"extracted": text, "is_right": reply.right[sample]}
            )
            records.append(
                {
                    "row": number,
                    **{"question": reply.question, "answer": reply.answer, "task": reply.task, "sample": sample},
                    **{"text": text, "finish_reason": "length" if str(end).lower() in _TRUNCATED else end},
                    **verdict,
                }
            )
    return records


def _answer(value: Any) -> Any:
    """Return the right answer as text, or several as a list. A worked solution is reduced to its answer."""
    if _is_list(value):
        texts = list(dict.fromkeys(filter(None, map(_answer, value))))
        return texts if len(texts) > 1 else texts[0] if texts else None
    if isinstance(value, bool):
        return accepted_words(value)
    text = text_of(value)
    return final_answer(text) if text else None


def _texts(value: Any) -> list[str]:
    """Return the replies in a value: a text, an object, a conversation, or a list of them."""
    if value is None:
        return [""]
    if isinstance(value, Mapping):
        inner = next((value[name] for name in ("content", "text", "message", "output") if value.get(name)), "")
        parts = _texts(inner)
        return ["".join(parts)]
    if _is_list(value):
        if value and all(isinstance(part, Mapping) and "role" in part for part in value):
            said = [part for part in value if part["role"] in ("assistant", "model")]
            return _texts(said[-1].get("content")) if said else [""]
        if value and all(isinstance(part, Mapping) and "type" in part and "role" not in part for part in value):
            return ["".join(str(part.get("text") or "") for part in value)]  # parts of one content
        return [text for part in value for text in _texts(part)]
    return [value if isinstance(value, str) else text_of(value) or ""]


def _name(value: Any) -> str | None:
    return None if value is None or not str(value).strip() else str(value).strip()


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, (str, bytes))


def _get(row: Any, column: str) -> Any:
    """Return a column of a row, or a part of it: `choices.0.text`. `None` if there is none."""
    if isinstance(row, Mapping) and column in row:
        return row[column]
    head, _, rest = column.partition(".")
    if isinstance(row, Mapping):
        # The name of a column may have dots.
        heads = [key for key in row if isinstance(key, str) and column.startswith(f"{key}.")]
        head = max(heads, key=len, default=head)
        rest, part = column[len(head) + 1 :], row.get(head)
    else:
        part = row[int(head)] if _is_list(row) and head.isdigit() and int(head) < len(row) else None
    return _get(part, rest) if rest and part is not None else part


def _column(
    rows: Sequence[Mapping[str, Any]],
    what: str,
    given: str | None,
    names: Sequence[str],
    but: str | None = None,
    needed: bool = True,
) -> Any:
    """Return the column that was given, or the first of the common names that all rows have."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    if given is not None:
        if any(_get(row, given) is not None for row in rows):
            return given
        raise ValueError(f"`{what}_column` must be a column of the rows, got {given!r}. They have {columns}.")
    lower = {str(column).lower(): column for column in reversed(columns)}
    for name in names:
        column = lower.get(name)
        if column is not None and column != but and any(row.get(column) is not None for row in rows):
            return column
    if needed:
        raise ValueError(
            f"The rows must have a column for the {what}, and none of {columns} has a common name. Name it with "
            f"`{what}_column`; parts of objects are separated by dots."
        )
    return None
