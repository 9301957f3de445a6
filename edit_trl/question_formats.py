r"""
Read the rows of benchmarks as they were released: GSM8K, MATH, BIG-Bench Hard, BIG-bench, AGIEval, ARC, StrategyQA,
and tables of questions with choices.

The columns of the rows decide which reader is used. A reader turns a row into `question` and `answer`, with `task` and
`task_description` if the row has them. The answer is what a reply must state, and not its explanation: `18` of
`... #### 18`, the content of the last `\boxed{}`, the option of a letter. Options are written below the question, a
line `(A) ...` for each. The answer of a question with options is the letter with the text, so that both are right.

An answer is text; or a list of texts if the benchmark accepts each of them. `None` means that the row has no answer.
"""

import datetime
import decimal
import itertools
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from .answers import answers_match, extract_answer


Row = Mapping[str, Any]


class SeveralAnswers(ValueError):
    """Raised for a question whose answer is several options that must all be named. No reading can judge it."""


class Format(NamedTuple):
    """
    A released format.

    Args:
        name (`str`):
            Name of the benchmark and of the columns that are read, for the output.
        fits (`Callable`):
            Function that takes a row and tells whether it may have this format. All rows must.
        read (`Callable`):
            Function that takes a row and returns its `question` and `answer`, and `task` and `task_description` if the
            row has them.
        shows (`Callable`, *optional*):
            Function that takes a row and tells whether it shows this format. One row must.
    """

    name: str
    fits: Callable[[Row], bool]
    read: Callable[[Row], dict[str, Any]]
    shows: Callable[[Row], bool] = lambda row: True


def find_format(rows: Sequence[Row]) -> Format | None:
    """
    Find the format of rows.

    Args:
        rows (`Sequence[Mapping]`):
            Rows of one file.

    Returns:
        [`Format`] or `None`: The first format that fits all rows; `None` if there is none.
    """
    if not rows or not all(isinstance(row, Mapping) for row in rows):
        return None
    for known in FORMATS:
        if all(map(known.fits, rows)) and any(map(known.shows, rows)):
            return known
    return _choices_format(rows)


_ASKS_FOR_TRUE = re.compile(r"\btrue(?:\s*(?:or|/|,)\s*(?:false|not)|\?)|\b(?:is|be) (?:it|this|that) true\b", re.I)


def accepted_words(value: bool) -> list[str]:
    """
    Return the words that a reply may have for a truth value.

    Args:
        value (`bool`):
            The right answer.

    Returns:
        `list[str]`: `["yes", "true"]` or `["no", "false"]`.
    """
    return ["yes", "true"] if value else ["no", "false"]


def text_of(value: Any, question: str = "") -> str | None:
    """
    Return the text of an answer that is not text: a number, a truth value or a date.

    Args:
        value (`Any`):
            The answer.
        question (`str`, *optional*, defaults to `""`):
            Its question. If it asks what is true, a truth value is `"true"` or `"false"`, else `"yes"` or `"no"`.

    Returns:
        `str` or `None`: The text; `None` if there is none.

    Examples:

    ```python
    >>> text_of(42.0), text_of(0.5), text_of(True), text_of(False, "True or false: 7 is even.")
    ('42', '0.5', 'yes', 'false')
    >>> text_of(float("nan")) is None
    True

    ```
    """
    if hasattr(value, "item") and not isinstance(value, str):  # a number of NumPy
        value = value.item()
    if isinstance(value, str):
        return value.strip() or None
    if isinstance(value, bool):
        return accepted_words(value)[bool(_ASKS_FOR_TRUE.search(question))]
    if isinstance(value, (datetime.date, datetime.datetime)):
        return value.isoformat()
    if isinstance(value, int):
        return str(value)
    if isinstance(value, (float, decimal.Decimal)):
        number = decimal.Decimal(str(value))
        if not number.is_finite():
            return None
        return str(int(number)) if number == int(number) and abs(number) < 10**15 else str(value)
    return None


def final_answer(text: str) -> str | None:
    r"""
    Return the answer at the end of a worked solution, in the form of GSM8K or MATH.

    Args:
        text (`str`):
            A solution, or only an answer.

    Returns:
        `str` or `None`: The text after the last `####`; the content of the last `\boxed{}`; what several lines state
        as their answer; other text as it is. `None` if there is no text after `####` or in the box.

    Examples:

    ```python
    >>> final_answer("9 * 2 = 18\n#### 18"), final_answer(r"So $x = \boxed{\frac{1}{2}}$."), final_answer("18")
    ('18', '\\frac{1}{2}', '18')

    ```
    """
    if "####" in text:
        return text.rpartition("####")[2].strip() or None
    if _BOX.search(text):
        return last_box(text)
    if "\n" in text.strip():
        return extract_answer(text) or text.strip()
    return text.strip() or None


def last_box(text: str) -> str | None:
    r"""Return the content of the last `\boxed{...}`, `\boxed ...` or `\fbox{...}` of a `text`; `None` if none."""
    boxes = list(_BOX.finditer(text))
    if not boxes:
        return None
    rest = text[boxes[-1].end() :]
    if not rest.startswith("{"):
        match = re.match(r"\s*([^\s$.,;]+)", rest)  # \boxed 5, as in a few solutions of MATH
        return match[1] if match else None
    depth = 0
    for brace in re.finditer(r"\\.|[{}]", rest, re.DOTALL):
        depth += {"{": 1, "}": -1}.get(brace[0], 0)
        if depth == 0:
            return rest[1 : brace.start()].strip() or None
    return None


def with_options(question: str, options: Sequence[str], right: int) -> tuple[str, str]:
    """
    Write a question with its options.

    Args:
        question (`str`):
            The question.
        options (`Sequence[str]`):
            Its options, without letters.
        right (`int`):
            Number of the right option, from 0.

    Returns:
        `tuple[str, str]`: The question with a line for each option; and the answer, see [`option_answer`].

    Raises:
        IndexError: If there is no such option.
    """
    lines = [f"({_letter(number)}) {option.strip()}" for number, option in enumerate(options)]
    if not 0 <= right < len(lines):
        raise IndexError(f"there are {len(lines)} options and no option {right}")
    return "\n".join([question.strip(), "Options:", *lines]), option_answer(lines[right])


def option_answer(option: str) -> str:
    """Return an `option` such as "(B) Paris", or its letter if its text would be read as another: "(B) (A) only"."""
    return option if answers_match(option[:3], option) else option[:3]


_BOX = re.compile(r"\\(?:boxed|fbox)(?![a-z])\s*")
# "(A)two", "A) two", "A. two"
_LETTERED = re.compile(r"\s*(?:\(\s?[A-Z]\s?\)|[A-Z]\)|[A-Z][.:](?=\s|$))\s*")


def _letter(number: int) -> str:
    return chr(ord("A") + number)


def _unlettered(options: Sequence[Any]) -> list[str]:
    """Remove the letters of options, if all have theirs."""
    texts = [str(option).strip() for option in options]
    marks = [_LETTERED.match(text) for text in texts]
    if texts and all(mark and mark[0].strip(" ().:") == _letter(i) for i, mark in enumerate(marks)):
        return [text[mark.end() :] for text, mark in zip(texts, marks, strict=True) if mark]
    return texts


def _has(*columns: str) -> Callable[[Row], bool]:
    return lambda row: all(column in row for column in columns)


def _is_text(row: Row, *columns: str) -> bool:
    return all(isinstance(row.get(column), str) for column in columns)


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, (str, bytes))


def _with_labels(question: str, texts: Sequence[str], labels: Sequence[str], key: Any) -> dict[str, Any]:
    """A question whose options have labels, which are letters or numbers, and the label of the right one."""
    names = [str(label).strip() for label in labels]
    if str(key or "").strip() not in names:
        return {"question": question, "answer": None}
    question, answer = with_options(question, texts, names.index(str(key).strip()))
    return {"question": question, "answer": answer}


def _read_arc_released(row: Row) -> dict[str, Any]:
    choices = row["question"]["choices"]
    texts, labels = [choice["text"] for choice in choices], [choice["label"] for choice in choices]
    return _with_labels(row["question"]["stem"], texts, labels, row.get("answerKey"))


def _read_arc_hub(row: Row) -> dict[str, Any]:
    question = row["question"] if "question" in row else row["question_stem"]
    return _with_labels(question, row["choices"]["text"], row["choices"]["label"], row.get("answerKey"))


def _read_arc_csv(row: Row) -> dict[str, Any]:
    """Read a question with its options in one line: "... (A) ice (B) steam", or with (1), (2)."""
    marks = list(re.finditer(r"\(([A-H1-8])\)\s", row["question"]))
    labels = [mark[1] for mark in marks]
    if len(marks) < 2 or len(set(labels)) != len(labels):
        return {"question": row["question"], "answer": text_of(row["AnswerKey"])}
    ends = [*(mark.start() for mark in marks[1:]), len(row["question"])]
    texts = [row["question"][mark.end() : end].strip() for mark, end in zip(marks, ends, strict=True)]
    return _with_labels(row["question"][: marks[0].start()], texts, labels, row["AnswerKey"])


def _read_agieval_released(row: Row) -> dict[str, Any]:
    question = "\n".join(part.strip() for part in (row["passage"], row["question"]) if part)
    label = row["label"][0] if _is_list(row["label"]) and len(row["label"]) == 1 else row["label"]
    if _is_list(label) or (isinstance(label, str) and re.fullmatch(r"[A-Z]{2,}", label.strip())):
        raise SeveralAnswers
    if not row["options"]:
        return {"question": question, "answer": text_of(row.get("answer") or label)}
    options = _unlettered(row["options"])
    number = ord(label.strip().strip("()")[:1] or "?") - ord("A") if isinstance(label, str) else -1
    if not 0 <= number < len(options):
        return {"question": question, "answer": None}
    question, answer = with_options(question, options, number)
    return {"question": question, "answer": answer}


def _read_agieval_hub(row: Row) -> dict[str, Any]:
    match = re.fullmatch(
        r"(.*?)Q: (.*)\sAnswer Choices:.*\nA: Among A through [A-Z], the answer is\s*", row["query"], re.DOTALL
    )
    if match is None or len(row["gold"]) != 1:
        raise ValueError(
            "A row must have a `query` of AGIEval, '...Q: ... Answer Choices: ...' and 'A: Among A through E, the "
            f"answer is', and one right answer, got {row['query'][-300:]!r} with `gold={row['gold']}`. The dataset "
            "has changed, and its questions cannot be read any more."
        )
    passage, question = (part.strip() for part in match.groups())
    options = [re.sub(r"^\(?[A-Z]\)\s*", "", choice.strip()) for choice in row["choices"]]
    question, answer = with_options(f"{passage}\n{question}".strip(), options, row["gold"][0])
    return {"question": question, "answer": answer}


def _read_solution(row: Row) -> dict[str, Any]:
    """Read `question`, and `answer` or `solution`, in which the answer stands after "####" or in a box."""
    text = row["answer"] if isinstance(row.get("answer"), str) else row["solution"]
    is_marked = "####" in text or _BOX.search(text)
    # Another answer is one if it is as short as an answer, and a solution without its answer if it is not.
    is_answer = is_marked or len(text.split()) < 6
    return {**_kept(row), "question": row["question"], "answer": final_answer(text) if is_answer else None}


def _solution(row: Row) -> str:
    text = row.get("answer") if isinstance(row.get("answer"), str) else row.get("solution")
    return text if isinstance(text, str) and isinstance(row.get("question"), str) else ""


def _read_math(row: Row) -> dict[str, Any]:
    answer = text_of(row.get("answer"))
    answer = final_answer(answer) if answer else last_box(row.get("solution") or "")
    task = row.get("type") or row.get("subject") or row.get("task")
    return {**_kept(row), "question": row["problem"], "answer": answer, "task": task}


def _read_bbh(row: Row) -> dict[str, Any]:
    """Read `input`, which includes the options, and `target`, such as "(A)", "True", "valid", "24" or "] }"."""
    question, answer = row["input"].strip(), row["target"].strip()
    options = re.findall(rf"^{re.escape(answer)}[ \t]+\S.*$", question, re.MULTILINE) if answer[:1] == "(" else []
    return {**_kept(row), "question": question, "answer": option_answer(options[-1].strip()) if options else answer}


def _read_big_bench(row: Row) -> dict[str, Any]:
    """Read `input` with `target`, a text or a list of texts that are all right, or `target_scores` of options."""
    found = {**_kept(row), "question": row["input"].strip()}
    if not found.get("task_description") and row.get("task_prefix"):
        found["task_description"] = row["task_prefix"].strip()
    scores = row.get("target_scores")
    if not scores:
        return {**found, "answer": _any_of(row.get("target"))}
    best = max(scores.values())
    right = [number for number, score in enumerate(scores.values()) if score == best]
    if len(right) == len(scores):
        return {**found, "answer": None}  # all options have the same score
    written = [with_options(found["question"], list(scores), number) for number in right]
    if row.get("append_choices_to_input", True):
        found["question"] = written[0][0]
        return {**found, "answer": _any_of([answer for _, answer in written])}
    return {**found, "answer": _any_of([list(scores)[number] for number in right])}


def _read_big_bench_hub(row: Row) -> dict[str, Any]:
    choices, scores = row.get("multiple_choice_targets") or [], row.get("multiple_choice_scores") or []
    if not choices:
        return {**_kept(row), "question": row["inputs"], "answer": _any_of(row["targets"])}
    scored = dict(zip(choices, scores, strict=True))
    return _read_big_bench({**row, "input": row["inputs"], "target_scores": scored})


def _read_strategyqa(row: Row) -> dict[str, Any]:
    return {**_kept(row), "question": row["question"], "answer": row["answer"]}


def _any_of(value: Any) -> Any:
    """Return a text, or a list of texts that are all right. `None` if there is none."""
    texts = list(dict.fromkeys(filter(None, map(text_of, value)))) if _is_list(value) else [text_of(value)]
    return texts if len(texts) > 1 else texts[0] if texts else None


def _kept(row: Row) -> dict[str, Any]:
    return {name: row[name] for name in ("task", "task_description") if row.get(name)}


def _is_choices(value: Any) -> bool:
    return isinstance(value, Mapping) and _is_list(value.get("text")) and _is_list(value.get("label"))


FORMATS = (
    Format(
        "ARC (question.stem, question.choices, answerKey)",
        lambda row: isinstance(row.get("question"), Mapping) and {"stem", "choices"} <= set(row["question"]),
        _read_arc_released,
    ),
    Format(
        "ARC (question, choices.text, choices.label, answerKey)",
        lambda row: _is_choices(row.get("choices")) and ("question" in row or "question_stem" in row),
        _read_arc_hub,
    ),
    Format("ARC (question with its options, AnswerKey)", _has("question", "AnswerKey", "examName"), _read_arc_csv),
    Format(
        "AGIEval v1 (passage, question, options, label or answer)",
        _has("passage", "question", "options", "label"),
        _read_agieval_released,
    ),
    Format("AGIEval (query, choices, gold)", _has("query", "choices", "gold"), _read_agieval_hub),
    Format(
        "GSM8K (question, answer after ####)",
        lambda row: bool(_solution(row)),
        _read_solution,
        lambda row: "####" in _solution(row),
    ),
    Format(
        r"solutions (question, answer in \boxed{})",
        lambda row: bool(_solution(row)),
        _read_solution,
        lambda row: bool(_BOX.search(_solution(row))),
    ),
    Format(r"MATH (problem, answer or \boxed{} of solution)", lambda row: _is_text(row, "problem"), _read_math),
    Format(
        "BIG-bench (input, target or target_scores)",
        lambda row: _is_text(row, "input") and ("target_scores" in row or _is_list(row.get("target"))),
        _read_big_bench,
    ),
    Format("BIG-bench (inputs, targets, multiple_choice_targets)", _has("inputs", "targets"), _read_big_bench_hub),
    Format("BIG-Bench Hard (input, target)", lambda row: _is_text(row, "input", "target"), _read_bbh),
    Format(
        "StrategyQA (question, answer true or false)",
        lambda row: isinstance(row.get("answer"), bool) and bool({"qid", "facts", "decomposition"} & set(row)),
        _read_strategyqa,
    ),
)
"""Released formats, in the order in which they are tried."""


# Names of columns that hold one option each, with a letter or a number in the place of the star.
_OPTION_COLUMNS = (
    *("*A", "option_*a", "option_*A", "option*A", "choice_*a", "choice_*A", "choice*A", "op*a"),
    *("option*1", "option_*1", "choice*1", "choice_*1"),
)
_ANSWER_COLUMNS = ("answer", "answerKey", "label", "correct", "correct_answer", "answer_index", "target", "gold")


def _choices_format(rows: Sequence[Row]) -> Format | None:
    """
    Return the reader of tables with a question, its options and which of them is right.

    The options are a list, `choices` or `options`, or columns such as `A` to `D`. The answer may be a letter, the text
    of an option, or the number of an option. All rows of a table are read in one way, which must be possible for all
    of them. Raises `ValueError` if no way is possible.
    """
    options_of = next((found for found in _options_readers() if all(len(found[1](row)) > 1 for row in rows)), None)
    column = next((name for name in _ANSWER_COLUMNS if any(row.get(name) not in (None, "") for row in rows)), "")
    if options_of is None or not all(isinstance(row.get("question"), str) for row in rows):
        return None
    place, get = options_of
    if any(row.get(column) in (None, "") for row in rows):
        # Reported together with other rows that have no answer.
        return Format("multiple choice", lambda row: True, lambda row: {**row, "answer": row.get(column)})
    ways = ("letter", "text", "number from 0", "number from 1")
    possible = [way for way in ways if all(_number_of(row[column], get(row), way) is not None for row in rows)]
    shown = f"got {rows[0][column]!r} for {get(rows[0])!r}. Write letters."
    if {"number from 0", "text"} <= set(possible):
        raise ValueError(f"`{column}` must be the letter, the text or the number of an option, and not both, {shown}")
    if not possible:
        raise ValueError(
            f"`{column}` must be the letter, the text or the number of an option, in all rows in the same way, {shown}"
        )

    def read(row: Row) -> dict[str, Any]:
        number = _number_of(row[column], get(row), possible[0])
        question, answer = with_options(row["question"], get(row), -1 if number is None else number)
        return {**_kept(row), "question": question, "answer": answer}

    return Format(f"multiple choice (question, {place}; {column} is the {possible[0]})", lambda row: True, read)


def _options_readers() -> list[tuple[str, Callable[[Row], list[str]]]]:
    """Return ways to get the options of a row, each with the names of the columns."""

    def of_list(name: str) -> Callable[[Row], list[str]]:
        def get(row: Row) -> list[str]:
            options = row.get(name)
            if isinstance(options, Mapping):  # {"A": "Paris", "B": "Rome"}
                letters = [chr(ord("A") + number) for number in range(len(options))]
                known = itertools.takewhile(lambda letter: options.get(letter) not in (None, ""), letters)
                return [str(options[letter]) for letter in known]
            return _unlettered(row[name]) if _is_list(options) else []

        return get

    def of_columns(pattern: str) -> Callable[[Row], list[str]]:
        head, first = pattern.split("*")

        def get(row: Row) -> list[str]:
            names = (f"{head}{chr(ord(first) + number)}" for number in range(9))
            return [
                str(row[name]) for name in itertools.takewhile(lambda name: row.get(name) not in (None, ""), names)
            ]

        return get

    lists = [(name, of_list(name)) for name in ("choices", "options")]
    return [*lists, *((f"{name.replace('*', '')} ...", of_columns(name)) for name in _OPTION_COLUMNS)]


def _number_of(answer: Any, options: Sequence[str], way: str) -> int | None:
    """Return the number of the right option, from 0, if the answer names it in a way; else `None`."""
    text, number = answer.strip() if isinstance(answer, str) else answer, None
    if way == "letter" and isinstance(text, str):
        match = re.fullmatch(r"\(?([A-Za-z])[).]?", text)
        number = ord(match[1].upper()) - ord("A") if match else None
    elif way == "text" and not isinstance(text, bool) and str(text) in options:
        number = options.index(str(text))
    elif way.startswith("number") and not isinstance(text, bool):
        is_number = re.fullmatch(r"[0-9]+", text) if isinstance(text, str) else isinstance(text, int)
        number = int(text) - (way == "number from 1") if is_number else None
    return number if number is not None and 0 <= number < len(options) else None


_PASSAGES = ("passage", "article", "context", "paragraph", "story")


def read_released(rows: Iterable[Row]) -> tuple[list[dict[str, Any]], str, int]:
    """
    Read rows of a released format. Rows of no known format stay as they are.

    Args:
        rows (`Iterable[Mapping]`):
            Rows of one file.

    Returns:
        `tuple[list[dict], str, int]`: Rows with `question` and `answer`; the name of the format; and the number of
        questions that were left out because several options must all be named.

    Raises:
        ValueError: If a row cannot be read.
    """
    rows = list(rows)
    known = find_format(rows)
    name, read = (known.name, known.read) if known else ("question, answer", dict)
    found: list[dict[str, Any]] = []
    passages: dict[str, None] = {}
    num_left_out = 0
    for number, row in enumerate(rows):
        try:
            found.append({**read(row)})
        except SeveralAnswers:
            num_left_out += 1
        except (AttributeError, IndexError, KeyError, TypeError) as error:
            raise ValueError(
                f"Each row must have the form of {name}, but row {number} (from 0) has not: "
                f"{type(error).__name__}: {error}. Repair the row, or leave it out."
            ) from error
        else:
            if passage := _passage_of(row, found[-1]):
                found[-1]["question"] = f"{row[passage].strip()}\n\n{found[-1]['question'].strip()}"
                passages[passage] = None
    put = f"; {' and '.join(f'`{passage}`' for passage in passages)} put before the question" if passages else ""
    return found, name + put, num_left_out


def _passage_of(row: Row, found: dict[str, Any]) -> str | None:
    """Return the column with the text that a question is about, as in RACE, BoolQ and SQuAD, if it is not in it."""
    question = found.get("question")
    if not isinstance(question, str):
        return None
    texts = ((name, row[name].strip()) for name in _PASSAGES if isinstance(row.get(name), str))
    return next((name for name, text in texts if text and text not in question), None)
