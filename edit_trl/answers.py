r"""
Read the final answer of a chain of thought, and compare it with the right answer.

`extract_answer` reads an answer only if the reply states it as its answer (`the answer is ...`, `Answer: ...`,
`#### 42`, `\boxed{...}`, `<answer>...</answer>`). It never takes the last number or letter of a reply that does not
say what the answer is: a missing answer is counted, but nobody notices an answer that was read wrongly.

How a reply is read:

- The last statement of an answer decides. If it is cut off or denies an answer (`the answer is not clear`), no answer
  is read, even if an earlier statement has one. Conditions (`if the answer is 5`) and remarks (`the answer is
  correct`) do not state an answer and are ignored.
- Thinking is never read. If the thinking of a reply is not closed, no answer is read.
- The result is text. `answers_match` decides which texts match. Two texts that match a third text need not match each
  other: `"50%"` matches `"50"` and `"0.5"`.

The caller must end the reply at the right place. A base model may continue with a new question; it needs a stop
string, because otherwise the answer to that new question is read.
"""

import re
import threading
from datetime import date
from fractions import Fraction
from typing import Any

from .thinking import split_thinking


# Maximum number of characters of an answer. The limit keeps the time linear in the length of the reply.
_MAX_LENGTH = 2000


def extract_answer(reply: str) -> str | None:
    r"""
    Read the final answer of a chain of thought.

    The answer is the text after the last phrase such as "the answer is", up to the end of the sentence or line.
    Numbers, dates, abbreviations, lists and formulas stay whole. Markdown, quotes, dollar signs around formulas and
    closing punctuation are removed. Options are reduced to their letter in parentheses (`"B. Paris"` to `"(B)"`). An
    explanation after yes, no, true, false, valid, invalid or a number is removed. If the whole reply is the letter of
    an option, one of these words, a number, a date or brackets, the reply itself is the answer.

    Args:
        reply (`str`):
            Chain of thought, or any other reply of a student.

    Returns:
        `str` or `None`: The answer, or `None` if the reply states none.

    Examples:

    ```python
    >>> extract_answer("1.5 + 2 = 3.5. Therefore, the answer is 3.5.")
    '3.5'
    >>> extract_answer("<think>Is the answer (A)? The answer is (A).</think>**Answer:** B. The red ball")
    '(B)'
    >>> extract_answer(r"Hence $x = \boxed{\frac{1}{2}}$.")
    '\\frac{1}{2}'
    >>> extract_answer("It is either 3 or 4, I do not know.") is None
    True

    ```
    """
    text = _outside_thoughts(reply)
    statements = [match for pattern in _STATEMENTS for match in pattern.finditer(text)]
    for statement in sorted(statements, key=re.Match.end, reverse=True):
        if _CONDITION.search(text[max(0, statement.start() - 40) : statement.start()]):
            continue
        stated = _stated(text, statement)
        answer = "" if _NO_ANSWER.match(stated) else _reduced(stated)
        if _REMARK.fullmatch(answer) or (statement[0] == "####" and _kind(answer)[0] == "text"):
            continue  # a remark, or a heading of the fourth level
        return answer or None
    for statement in reversed(list(_INVERTED.finditer(text))):
        if not _CONDITION.search(text[max(0, statement.start() - 40) : statement.start()]):
            return f"({statement[1] or statement[2]})"
    whole = _tidy(text) if len(text) < _MAX_LENGTH else ""
    kind = _kind(whole)[0]
    bare = kind in ("date", "brackets") or (kind != "text" and len(whole.split()) == 1)
    return _reduced(whole) if bare else None


def answers_match(answer: str | None, reference: str) -> bool:
    r"""
    Tell whether an answer and the right answer mean the same, even if they are written differently.

    - Options are compared by letter. If only one side is an option, its text is compared with the other side.
    - Yes, no, true, false, valid and invalid match only the same word, in any case: yes does not match true.
    - Numbers are compared by exact value: `"1/2"` matches `"0.5"`, `"0.33"` does not match `"1/3"`. Units are compared
      only if both sides have one: `"42 km"` matches `"42"`, but not `"42 miles"`. A percentage matches the number of
      percent and the fraction.
    - Dates are compared by day. In `"05/01/2021"` the month comes first.
    - Brackets are compared without whitespace. Lists of words are compared without separators; their order matters.
    - If only one side is an equation, its last side is compared: `"x = 5"` matches `"5"`.
    - Formulas are compared by mathematical equality, with the package `math-verify` (extra `math`). It is loaded when
      the strings differ and one of them is LaTeX or algebra. In the main thread it gives up after some seconds; in
      other threads it has no time limit. Without the package, algebra is compared as text, and LaTeX is an error.
    - Other text is compared without case, a leading article, quotes, commas, whitespace and a closing period.

    The order of the two answers does not matter, except that only `answer` may be `None` or blank.

    Args:
        answer (`str` or `None`):
            Answer that was read from a reply. `None` and blank answers match nothing.
        reference (`str`):
            The right answer.

    Returns:
        `bool`: Whether they match.

    Raises:
        ImportError: If a formula with a backslash must be compared and `math-verify` is not installed.
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
    left, right = (_tidy(side) or side.strip() for side in (answer, reference))
    if ("=" in left) != ("=" in right):
        left, right = _last_side(left), _last_side(right)
    if left == right:
        return True
    (left_kind, left_value), (right_kind, right_value) = _kind(left), _kind(right)
    kinds = {left_kind, right_kind}
    if "option" in kinds:
        return _same_option(left, right)
    if kinds == {"number"}:
        return _same_quantity(*left_value, *right_value)
    if left_kind == right_kind and left_value == right_value:
        return True
    return kinds <= {"text", "number"} and _same_formula(left, right)


def reasoning(chain: str) -> str:
    """
    Return the text of a chain of thought before its conclusion.

    Args:
        chain (`str`):
            The chain.

    Returns:
        `str`: The text before the last "the answer is". A word such as "Therefore," before these words is removed
        too. The whole text if there is no "the answer is".

    Examples:

    ```python
    >>> reasoning("2 + 3 = 5. Therefore, the answer is 5.")
    '2 + 3 = 5. '

    ```
    """
    conclusions = list(_CONCLUSION.finditer(chain))
    return chain[: conclusions[-1].start()] if conclusions else chain


_CONCLUSION = re.compile(
    r"(?:\b(?:therefore|thus|so|hence)\b[\s,]*)?\bthe (?:correct |final )?answer is\b", re.IGNORECASE
)

# Reading. Each pattern below looks at a character a limited number of times, so the time is linear in the length of
# the reply.

# Phrases that state an answer. Patterns with a fixed first character are fast, because `re` skips to this character.
_STATEMENTS = [
    re.compile(pattern, re.MULTILINE | re.VERBOSE)
    for pattern in (
        r"""[Aa](?i:nswer)s?[*_"')]{0,4}
            (?: (?:\s+(?:to|for)(?:\s+[\w'’]+){1,8}?)?  # the answer to this question, therefore, is
                (?:,?\s+(?:therefore|thus|then|hence|indeed|simply|clearly),?)?
                \s+(?i:is|are|was|equals|(?:would|should|must|will|has\sto)\s+be)\b
              | \s*[:=→] )""",
        r"[Cc]orrect\ (?:option|choice)\s*(?:is\b|:)",
        r"^[#*_\ \t]*(?i:(?:the\ |my\ )?(?:final\ |correct\ )?answer)[*_\ \t]*$",  # a heading
        r"<answer>",
        r"\\boxed\s*\{",
        r"\#{4}(?<![^\n]\#{4})(?!\#)",
    )
]
# Statements that begin with the option: "(B) is the correct answer", "Option B is correct".
_INVERTED = re.compile(
    r"(?<![\w'’])\(?([A-R])\)?[*_\"']{0,2}\ is\ the\ (?:correct|right|best)\ (?:answer|option|choice)\b"
    r"|\b(?:[Oo]ption|[Cc]hoice)\ \(?([A-R])\)?[*_\"']{0,2}\ is\ (?:correct|right)\b"
)
_CONDITION = re.compile(
    r"\b(?:if|whether|unless|what|suppose|assuming)(?:\s+that)?\s+(?:(?:the|my|our|your)\s+)?(?:\w+\s+)?$", re.I
)
_REMARK = re.compile(r"correct|verified|confirmed|clear|obvious", re.I)
_NO_ANSWER = re.compile(
    r"(?:wrong|incorrect|unclear)$"
    r"|(?:not|let['’]?s|let (?:me|us)|we (?:can|need|have|must|know|first|start))\b(?!\s*,)",
    re.I,
)
_LEAD = re.compile(r"(?:[\s:*_=…→]+|\.{2,})*")
_BULLET = re.compile(r"^[ \t]*(?:[-*•]|[0-9]{1,2}[.)])[ \t]+(\S.*)$", re.M)
_BOLD = re.compile(r"(?<![\w)])\*\*|\*\*(?![\w(])")  # 2**3 stays
# A dollar sign next to a space does not delimit a formula: it is an amount of money.
_FORMULA = re.compile(
    r"\$\$[^$]+\$\$|\$[^\s$](?:[^$\n]*[^\s$])?\$(?![0-9])|\\\((?:[^\\]|\\[^()])*\\\)|\\\[(?:[^\\]|\\[^\[\]])*\\\]"
)
_STYLED = re.compile(r"\\(?:text|textbf|textit|mathrm|mathbf|mbox)\s*\{([^{}]*)\}")
_WRAPPED = re.compile(
    r"\$\$?((?:[^$\\]|\\.)+)\$\$?|\\\(((?:[^\\]|\\[^()])*)\\\)|\\\[((?:[^\\]|\\[^\[\]])*)\\\]|" + _STYLED.pattern,
    re.DOTALL,
)
_END = re.compile(r"""\n|</|<\||[.!?](?=["'”’*_`)\]]*(?:\s|$))(?!\s[A-Z]\.)""")
_ABBREVIATION = re.compile(
    r"(?:\b(?:Dr|Mrs?|Ms|Prof|St|Mt|vs|approx|Jr|Sr|Inc|Ltd|Jan|Feb|Mar|Apr|Aug|Sept?|Oct|Nov|Dec)"
    r"|\b[A-Za-z](?:\.\s?[A-Za-z])+|\b[A-Z][a-z]+\s[A-Z])$"
)
_NEW_SENTENCE = re.compile(
    r"\.(?:\W*$|\s+(?:The|This|That|There|It|I|So|Therefore|Thus|Hence|Because|Since|He|She|We|You|They|In|If|As)\b)"
)
_ADVERB = re.compile(r"^(?:definitely|clearly|simply|most likely|probably)\s")
_TRAILING_OPTION = re.compile(r"\S\s(\([A-HJ-R]\))$")
# Explanations after an answer: `_CLAUSE` after any text, `_SHORT_CLAUSE` after a number, a verdict and the like.
_CLAUSE = re.compile(r",\s+(?:which|because|since|so|as|not|but|where)\s+\w")
_SHORT_CLAUSE = re.compile(
    r"[,;]?\s+(?:which|because|since|so|as|not|but|where)\s|(?:;|\s[-–—])\s+(?=[A-Za-z]{2})|\s\((?=[A-Za-z]{2})"
)


def _outside_thoughts(reply: str) -> str:
    """Return the text outside of thinking. Nothing if the reply ends within its thinking."""
    parts = split_thinking(reply)
    return "" if parts.is_open else parts.answer


def _stated(text: str, statement: re.Match[str]) -> str:
    """Return the answer after the phrase `statement`. Empty if there is none or if it is cut off."""
    rest = text[statement.end() : statement.end() + _MAX_LENGTH]
    if statement[0].startswith("\\"):
        return _tidy(_up_to_closing_brace(rest))
    below = rest.lstrip(" \t:*_")
    if below.startswith("\n") and _BULLET.match(below.lstrip()):
        items = _BULLET.findall(below.lstrip().partition("\n\n")[0])
        if len(items) > 1:
            return ", ".join(map(_tidy, items))
    answer = _tidy(_first_sentence(_LEAD.sub("", _BOLD.sub("", rest), count=1)))
    if answer.endswith((")", "]")) and re.search(r"\w", answer) and not re.search(r"[(\[{]", answer):
        return _tidy(answer[:-1])  # this bracket opens before the statement
    return answer


def _up_to_closing_brace(text: str) -> str:
    depth = 1
    for brace in re.finditer(r"\\.|[{}]", text):
        depth += {"{": 1, "}": -1}.get(brace[0], 0)
        if depth == 0:
            return text[: brace.start()]
    return ""


def _first_sentence(text: str) -> str:
    """Return the first sentence or line. Empty if it does not end within the limit."""
    hidden = _FORMULA.sub(lambda formula: "x" * len(formula[0]), text)
    for end in _END.finditer(hidden):
        position = end.start()
        if end[0] != "." or not _ABBREVIATION.search(hidden, max(0, position - 12), position):
            sentence = text[:position].rstrip("!?")
            in_bracket = text.startswith(")", position + 1) and sentence.count("(") > sentence.count(")")
            return f"{sentence})" if in_bracket else sentence
        if _NEW_SENTENCE.match(hidden, position):
            return text[: position + 1]
    return text if len(text) < _MAX_LENGTH else ""


def _tidy(text: str) -> str:
    """Remove Markdown, quotes, formula delimiters and closing punctuation around a text."""
    text = _BOLD.sub("", text)
    for _ in range(4):  # there may be several layers, such as a formula in quotes before a period
        text = text.strip().strip("\"'`“”‘’*_")
        if not re.search(r"\b[A-Za-z]\.[A-Za-z]\.$", text):  # p.m. or U.S.
            text = text.rstrip(".,;: ")
        if wrapped := _WRAPPED.fullmatch(text):
            text = wrapped[wrapped.lastindex or 0]
    return text.strip()


def _reduced(text: str) -> str:
    """Reduce an option to its letter; remove the text after a verdict, a number, a date or brackets."""
    start = _tidy(_SHORT_CLAUSE.split(_ADVERB.sub("", text), maxsplit=1)[0])
    if option := _option(text) or _option(start):
        return f"({option[0]})"
    kind, value = _kind(start)
    if kind == "verdict":
        return start[: len(value)]
    if kind != "text":
        return start
    trailing = _TRAILING_OPTION.search(text) if text.count("(") == 1 else None
    return trailing[1] if trailing else _tidy(_CLAUSE.split(text, maxsplit=1)[0])


# Comparing

_OPTION = re.compile(
    r"""(?: [Oo]ption\s+\(?([A-Ra-r])\)?(?!\w) | [Cc]hoice\s+\(?([A-Ra-r])\)?(?!\w)
          | \(\s?([A-Ra-r])\s?\)(?!\s*[(+*/^=]|[a-z])                          # (B), (B) Paris
          | ([A-Ra-r])\)(?=\s|$)                                               # b) Paris
          | ([A-HJ-R])(?=$|[.:](?:\s(?![A-Z]\.)|$)|\s[-–—]\s+[A-Za-z]{2}) )    # B, B. Paris, B - Paris; I is a word
        (?! \s*\([A-Za-z]\) | \s*(?:,|/|&|,?\ or\b|,?\ and\b)\s*\(?[A-HJ-R]\)?(?!\w) )  # not one of several
        [\s.:,]*(?:[-–—]\s+)?(.*)""",
    re.VERBOSE | re.DOTALL,
)
_VERDICT = re.compile(
    r"(yes|no|true|false|valid|invalid)(?=$|\s*[,;:.](?:\s|$)|\s+[-–—(]|\s+(?:because|since|as)\s)", re.I
)
_SINGLE_WORDS = re.compile(r"[\w'-]+(?:,\s*[\w'-]+){2,}")

_DATES = [
    re.compile(pattern, re.I)
    for pattern in (
        r"(?P<month>[0-9]{1,2})[/-](?P<day>[0-9]{1,2})[/-](?P<year>[0-9]{4})",
        r"(?P<year>[0-9]{4})-(?P<month>[0-9]{2})-(?P<day>[0-9]{2})",
        r"(?:[a-z]+day,?\s)?(?P<month>[a-z]{3})[a-z]*\.?\s(?P<day>[0-9]{1,2})(?:st|nd|rd|th)?,?\s(?P<year>[0-9]{4})",
        r"(?:[a-z]+day,?\s)?(?P<day>[0-9]{1,2})(?:st|nd|rd|th)?\s(?P<month>[a-z]{3})[a-z]*\.?,?\s(?P<year>[0-9]{4})",
    )
]
_MONTHS = {name: str(i) for i, name in enumerate("jan feb mar apr may jun jul aug sep oct nov dec".split(), start=1)}

_NUMBER = re.compile(
    r"""(?:(?:about|approximately|roughly|exactly)\s|≈\s?)?
        (?P<sign>[-+]?)\s?(?P<currency>[$€£]?)\s?(?P<inner_sign>-?)
        (?:(?P<whole>[0-9]+)\s(?=[0-9]+/))?
        (?P<number>(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)(?:\.[0-9]+)?|\.[0-9]+)
        (?:\s?/\s?(?P<divisor>0*[1-9][0-9]*))?
        (?P<units>\s?[%°]|(?:[kcm]m|[km]g|ml|mph|lbs?|ft|am|pm)|(?:\s[^\W\d_](?:[^\W\d_]|[./'²³-]|\^[23])*){0,6})""",
    re.VERBOSE,
)
_NUMBER_WORDS = "zero one two three four five six seven eight nine ten eleven twelve".split()
_NUMBERS = {word: str(value) for value, word in enumerate(_NUMBER_WORDS)}
_SCALES = {"hundred": 10**2, "thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}
_UNITS = {"$": "dollar", "usd": "dollar", "€": "euro", "£": "pound", "%": "percent", "°": "degree"}
# Words that are not units: with them the text is a phrase or a formula and not a quantity.
_NO_UNITS = {"and", "or", "to", "plus", "minus", "times", "x", "y", "z", "n", "i", "than", "if", "mod", "out"}

_CHARACTERS = str.maketrans("−–’\xa0", "--' ")
_LATEX = [
    (_STYLED, r"\1"),
    (re.compile(r"\\(?:left|right|[,!;: ])|\^\{?\\circ\}?"), ""),
    (re.compile(r"(?<![0-9}])\\[dt]?frac\{([0-9]+)\}\{([0-9]+)\}"), r"\1/\2"),
    (re.compile(r"\\([$%{}])|\{(,)\}"), r"\1\2"),
]
_LOOSE_QUOTE = re.compile(r"(?<!\w)['‘’]|['‘’](?!\w)|[\"“”`]")
# LaTeX; or a variable next to a digit or an operator, in a text without words.
_SYMBOLIC = re.compile(
    r"[\\^√π∞±]|\bsqrt\b|^(?!.*[A-Za-z]{3}).*(?:(?<![A-Za-z])[a-z]\s?[-+*/=]|[-+*/=0-9]\s?[a-z](?![A-Za-z]))",
    re.DOTALL,
)
_ROOT = re.compile(r"√\s?\(?([0-9a-z]+)\)?")


def _last_side(text: str) -> str:
    """Return the last side of a chain of equations; other text as it is."""
    several = re.search(r"[<>!]=|[,;]\s| or | and ", text[max(text.find("=") - 1, 0) :])
    return text if several else text.rpartition("=")[2].strip() or text


def _kind(text: str) -> tuple[str, Any]:
    """Return the kind of an answer and a value. Two answers of the same kind match if their values are equal."""
    if option := _option(text):
        return "option", option
    if (verdict := _VERDICT.match(text)) and not _SINGLE_WORDS.fullmatch(text):
        return "verdict", verdict[1].lower()
    text = " ".join(text.translate(_CHARACTERS).split())
    if "\\" in text or "{" in text:
        for pattern, replacement in _LATEX:
            text = pattern.sub(replacement, text)
    brackets = re.sub(r"[\s,\"'`]", "", text)
    if brackets and not brackets.strip("()[]{}<>"):
        return "brackets", brackets
    if len(text) < 100 and (day := _date(text)):
        return "date", day
    if len(text) < 100 and (quantity := _quantity(text)):
        return "number", quantity
    return "text", _plain(text)


def _option(text: str) -> tuple[str, str] | None:
    """Return the letter and the text of an option; `None` for other text."""
    match = _OPTION.match(_STYLED.sub(r"\1", text))
    if match is None:
        return None
    *letters, description = match.groups()
    return "".join(filter(None, letters)).upper(), description.strip()


def _same_option(left: str, right: str) -> bool:
    """Tell whether two options have the same letter, or one side is the letter or the text of the other."""
    left_option, right_option = _option(left), _option(right)
    if left_option and right_option:
        return left_option[0] == right_option[0]
    letter, description = left_option or right_option or ("", "")
    other = right if left_option else left
    if other.strip("(). ").upper() == letter:
        return True
    return bool(description) and not _option(description) and answers_match(description, other)


def _date(text: str) -> date | None:
    for pattern in _DATES:
        if match := pattern.fullmatch(text):
            month = _MONTHS.get(match["month"].lower(), match["month"])
            try:
                return date(int(match["year"]), int(month), int(match["day"]))
            except ValueError:  # no such day or month
                return None
    return None


def _quantity(text: str) -> tuple[Fraction, str] | None:
    """Return the value and the unit of a number. The unit is empty if there is none."""
    first, space, rest = text.partition(" ")
    match = _NUMBER.fullmatch(_NUMBERS.get(first.lower(), first) + space + rest)
    units = [_UNITS.get(unit, unit) for unit in match["units"].lower().replace(".", "").split()] if match else []
    if match is None or not _NO_UNITS.isdisjoint(units):
        return None
    value = Fraction(match["number"].replace(",", "")) / int(match["divisor"] or 1) + int(match["whole"] or 0)
    if units and units[0] in _SCALES:
        value *= _SCALES[units.pop(0)]
    if "-" in (match["sign"], match["inner_sign"]):
        value = -value
    # A final "s" and "e" is removed, so that mile and miles, inch and inches are the same unit.
    return value, _UNITS.get(match["currency"]) or " ".join(unit.rstrip("s").rstrip("e") for unit in units)


def _same_quantity(value: Fraction, unit: str, other_value: Fraction, other_unit: str) -> bool:
    if unit and other_unit:
        return value == other_value and unit == other_unit
    fraction = value / 100 if unit == "percent" else value
    other_fraction = other_value / 100 if other_unit == "percent" else other_value
    return value == other_value or fraction == other_fraction


def _plain(text: str) -> str:
    """Remove from a text what does not matter in prose and in lists of words."""
    plain = _LOOSE_QUOTE.sub("", text.casefold())
    if plain.startswith("[") and plain.endswith("]") and not re.search(r"[0-9]", plain):
        plain = plain[1:-1]  # a list of words, as Python writes it
    plain = " ".join(re.split(r"[\s,;]+", re.sub(r",\sand\s", " ", plain)))
    plain = re.sub(r"\.? ?([()\[\]{}]) ?", r"\1", plain).strip(" .")
    return re.sub(r"^(?:an?|the) (?=.)", "", plain) or text


def _same_formula(left: str, right: str) -> bool:
    if len(left) + len(right) > _MAX_LENGTH:
        return False
    symbolic = [side for side in (left, right) if _SYMBOLIC.search(side)]
    if not symbolic or any(re.search(r"[A-Za-z]{3}", side) for side in (left, right) if side not in symbolic):
        return False
    try:
        from math_verify import LatexExtractionConfig, parse, verify
    except ImportError as error:
        if "\\" not in left + right:
            return False
        raise ImportError(
            "`answers_match` needs the `math-verify` package to compare LaTeX. Install it with "
            "`pip install 'edit-trl[math]'`."
        ) from error
    # `math-verify` limits its time with an alarm signal, and only the main thread may set one.
    limit = 5 if threading.current_thread() is threading.main_thread() else None
    sides = [_ROOT.sub(r"\\sqrt{\1}", side.replace("$", "").replace("∞", r"\infty")) for side in (left, right)]
    config = [LatexExtractionConfig()]
    formulas = [parse(f"${side}$", config, fallback_mode="no_fallback", parsing_timeout=limit) for side in sides]
    return any(verify(*pair, timeout_seconds=limit) for pair in (formulas, formulas[::-1]))
