r"""
Compare two answers, and read right answers in the forms in which benchmarks are released.
"""

import math
import re
from decimal import Decimal
from fractions import Fraction
from numbers import Real
from typing import Any

from .characters import plain_characters
from .formulas import same_formula
from .kinds import kind, option, plain, tidy, without_brackets
from .quantities import Quantity, Time, parse_quantity, parse_time
from .reading import said_value, stated_answer


def answers_match(answer: str | None, reference: str) -> bool:
    r"""
    Tell whether an answer and the right answer mean the same, even if they are written differently.

    - Options are compared by letter. If only one side is an option, its text is compared with the other side.
    - Yes, no, true, false, valid and invalid match only the same word, in any case and in any of the languages that
      [`extract_answer`] reads: yes does not match true.
    - Numbers are compared by exact value: `"1/2"` matches `"0.5"`, `"0.33"` does not match `"1/3"`. They may be
      written as `1,234.5`, `1.234,5`, `1 234,5`, `12,34,567` or `3 x 10^8`; `1.234` and `1,234` are read as in
      English. A percentage matches the number of percent and the fraction.
    - Units are compared only if both sides have one: `"42 km"` matches `"42"`, but not `"42 miles"`. Units of one
      dimension are converted if the factor is exact: `"2500 g"` matches `"2.5 kg"` and `"90 minutes"` matches
      `"1 hour 30 minutes"`. Temperatures, areas, rates and currencies are not converted.
    - Dates are compared by day. In `"05/01/2021"` the month comes first. Times are compared by minute: `"4:15 PM"`
      matches `"16:15"`; `"4:15"` matches both `"4:15 AM"` and `"4:15 PM"`.
    - Brackets are compared without whitespace, and those around a single answer are ignored: `"(16)"` matches `"16"`.
      Lists of words are compared without separators; their order matters.
    - If only one side is an equation, its last side is compared: `"x = 5"` matches `"5"`, `"x + y = 5"` does not.
    - If only one side is a number, a date or a time, and the other a sentence that says one, they are compared: `"She
      has 18 eggs left"` matches `"18"`.
    - Formulas are compared by mathematical equality, with the package `math-verify`, if the strings differ and one of
      them is LaTeX or algebra. A comparison that takes longer than 5 seconds is given up, and counts as different.
    - Other text is compared without case, a leading article, quotes, commas, whitespace and a closing period.
    - A reference such as `"2 + 3 = 5\n#### 5"` is read by [`reference_answer`] first.

    The order of the two answers does not matter, except that only `answer` may be `None` or blank.

    Args:
        answer (`str` or `None`):
            Answer that was read from a reply. `None` and blank answers match nothing.
        reference (`str`):
            The right answer.

    Returns:
        `bool`: Whether they match.

    Raises:
        ValueError: If `reference` is blank.

    Examples:

    ```python
    >>> answers_match("(B)", "B"), answers_match("$1,000", "1000"), answers_match("42 km", "42 miles")
    (True, True, False)
    >>> answers_match("May 1, 2021", "05/01/2021"), answers_match("apple, pear", "pear apple")
    (True, False)
    >>> answers_match(None, "yes")
    False

    ```
    """
    if not reference.strip():
        raise ValueError(
            f"`reference` must be the right answer, got {reference!r}. A blank reference would match nothing and "
            "count every answer as wrong. Pass the text of the answer, or leave the question out."
        )
    if answer is None or not answer.strip():
        return False
    left, right = (_tidied(side) for side in (answer, reference))
    if ("=" in left) != ("=" in right):
        if _is_unsolved(left) or _is_unsolved(right):
            return False
        left, right = _last_side(left), _last_side(right)
    if left == right:
        return True
    (left_kind, left_value), (right_kind, right_value) = kind(left), kind(right)
    kinds = {left_kind, right_kind}
    if "text" in kinds and kinds & {"number", "date", "time"}:
        sentence, value = (left, right) if left_kind == "text" else (right, left)
        if said := said_value(sentence):
            return answers_match(said, value)
    if "option" in kinds:
        return _same_option(left, right)
    if kinds == {"number"}:
        return left_value.matches(right_value)
    if kinds == {"time"}:
        return left_value[0].matches(right_value[0])
    if kinds == {"time", "number"}:
        time, number = (left_value, right_value) if left_kind == "time" else (right_value, left_value)
        return _same_time(time, number)
    if (left_kind == right_kind and left_value == right_value) or plain(left) == plain(right):
        return True
    if kinds == {"text"} and (start := _time_range(left)) and (end := _time_range(right)):
        return all(one.matches(other) for one, other in zip(start, end, strict=True))
    return kinds <= {"text", "number"} and same_formula(left, right)


def reference_answer(released: Any) -> str:
    r"""
    Return the right answer from what a benchmark releases as its answer.

    Args:
        released (`str`, `int`, `float` or `bool`):
            A solution that ends in `#### 18` (GSM8K), holds `\boxed{18}` (MATH) or says "the answer is 18"; a number;
            or the answer itself.

    Returns:
        `str`: The answer. A whole number has no decimals: `42.0` is `"42"`. A solution without a stated answer is
        returned as it is, without spaces around it.

    Raises:
        TypeError: If it is neither text nor a number.
        ValueError: If it is blank or not a finite number.

    Examples:

    ```python
    >>> reference_answer("He eats 3 + 15 = 18 eggs.\n#### 18"), reference_answer(42.0)
    ('18', '42')
    >>> reference_answer(r"Hence $x = \boxed{\frac{1}{2}}$.")
    '\\frac{1}{2}'

    ```
    """
    if isinstance(released, str):
        if not released.strip():
            raise ValueError(
                f"An answer must not be blank, got {released!r}. A question without an answer cannot be scored. Leave "
                "it out."
            )
        return stated_answer(released) or released.strip()
    if isinstance(released, bool) or type(released).__name__ in ("bool", "bool_"):  # numpy 2 and 1
        return str(bool(released))
    if isinstance(released, (Real, Decimal)):
        if not math.isfinite(released):
            raise ValueError(f"An answer must be a finite number, got {released!r}. Leave the question out.")
        value = Fraction(str(released))
        return str(value.numerator) if value.denominator == 1 else str(released)
    raise TypeError(
        f"An answer must be text or a number, got {released!r}. If it is a list of right answers, make a question of "
        "each, or take the first."
    )


def _tidied(text: str) -> str:
    text = plain_characters(text)
    if "####" in text or "oxed" in text or "nswer" in text:
        text = stated_answer(text) or text
    return without_brackets(tidy(text)) or text.strip()


# The left side of an equation that is not solved: a sum with a variable. Not the name of a function, such as f(x + 1),
# of an inverse or of a part of a sequence.
_UNSOLVED = re.compile(r"(?<![A-Za-z])[a-z](?![A-Za-z])[^+-]*[+-]|[+-][^A-Za-z]*[a-z](?![A-Za-z])")
_INSIDE_NAME = re.compile(r"\([^()]*\)|[_^]\{[^{}]*\}|\^-1")


def _is_unsolved(text: str) -> bool:
    """Tell whether a text is one equation whose left side is a sum with a variable."""
    first, equals, last = text.partition("=")
    return bool(equals) and "=" not in last and bool(_UNSOLVED.search(_INSIDE_NAME.sub("", first)))


def _last_side(text: str) -> str:
    """Return the last side of a chain of equations; other text as it is."""
    several = re.search(r"[<>!]=|[,;]\s| or | and ", text[max(text.find("=") - 1, 0) :])
    between = text.split("=")[1:-1]  # "x=2,y=3" is two equations, "x = 4/2 = 2" a chain
    if several or any(re.search(r",(?![0-9]{3})|[;&]|\\\\|\\quad|\\lor|\\text", part) for part in between):
        return text
    last = text.rpartition("=")[2]
    return (last.replace("$", "") if last.count("$") == 1 else last).strip() or text


def _same_option(left: str, right: str) -> bool:
    """Tell whether two options have the same letter, or one side is the letter or the text of the other."""
    left_option, right_option = option(left), option(right)
    if left_option and right_option:
        return left_option[0] == right_option[0]
    letter, description = left_option or right_option or ("", "")
    other = right if left_option else left
    if other.strip("(). ").upper() == letter:
        return True
    if kind(description)[0] == "verdict" and len(description.split()) > 1:
        return plain(description) == plain(other)  # "Yes, the game is over" is more than yes
    return bool(description) and not option(description) and answers_match(description, other)


def _time_range(text: str) -> tuple[Time, Time] | None:
    """Return both ends of a text such as "5 pm to 6 pm" or "between 5 pm and 6 pm"."""
    if len(text) > 60:
        return None
    parts = re.split(r"\s+(?:to|and|until)\s+|\s*[-–—]\s*", re.sub(r"^(?:between|from)\s+", "", text, flags=re.I))
    times = [parse_time(part) for part in parts]
    return (times[0], times[1]) if len(times) == 2 and times[0] and times[1] else None


def _same_time(written: tuple[Time, str], number: Quantity) -> bool:
    """Compare a time with a number: 5 pm with 5, or the duration 1h30 with 90 minutes."""
    time, text = written
    if number.unit:
        duration = parse_quantity(re.sub(r"(?<=[0-9])\s?h\s?(?=[0-9])", " h ", f"{text} min", flags=re.I))
        return "h" in text and duration is not None and duration.matches(number)
    return (time.minute, time.second) == (0, 0) and number.value == time.hour
