r"""
Tell what kind of answer a text is: an option, a verdict, brackets, a date, a time, a number, or other text.
"""

import re
from datetime import date
from fractions import Fraction
from typing import Any

from .phrases import VERDICTS
from .quantities import Quantity, parse_quantity, parse_time


# Maximum number of characters of an answer. The limit keeps the time linear in the length of the reply.
MAX_LENGTH = 2000
# Maximum number of characters of a date, a time or a number.
_MAX_SHORT_LENGTH = 120

_BOLD = re.compile(r"(?<![\w)])\*\*|\*\*(?![\w(])")  # 2**3 stays
# Brackets around a text that has no others and is no list.
_BRACKETED = re.compile(r"([(\[{]{1,3})([^()\[\]{},;]+)([)\]}]{1,3})")
_CLOSING = str.maketrans("([{", ")]}")
# Marks of joy around an answer. A cross may say that it is wrong.
_EMOJI = "✅✓✔☑🎉🎯👉👍🚀😊🌟\ufe0f "
_QUOTES = "\"'`“”‘’„‟«»‹›「」『』【】〔〕*_"
STYLED = re.compile(r"\\(?:text(?:bf|it|sf|rm|tt)?|math(?:rm|bf|sf|it)|mbox|operatorname)\s*\{([^{}]*)\}")
_WRAPPED = re.compile(
    r"\$\$?((?:[^$\\]|\\.)+)\$\$?|\\\(((?:[^\\]|\\[^()])*)\\\)|\\\[((?:[^\\]|\\[^\[\]])*)\\\]|" + STYLED.pattern,
    re.DOTALL,
)
_WHOLE_NUMBER = re.compile(r"-?[0-9]{1,18}")
_CJK = "\u3040-\u30ff\u3400-\u9fff\uac00-\ud7a3"

_OPTION = re.compile(
    rf"""(?: [Oo]ption\s+\(?([A-Ra-r])\)?(?!\w) | [Cc]hoice\s+\(?([A-Ra-r])\)?(?!\w)
          | \(\s?([A-Ra-r])\s?\)(?!\s*[(+*/^=]|[a-z])                          # (B), (B) Paris
          | ([A-Ra-r])\)(?=\s|$|[{_CJK}])                                      # b) Paris
          # B, B. Paris, B - Paris; I is a word
          | ([A-HJ-R])(?=$|[.:](?:\s(?![A-Z]\.)|$)|\s[-–—]\s+[A-Za-z]{{2}}|[.:、]\s?[{_CJK}]
              |,\s(?:all|none|both|neither)\b) )
        (?! \s*\([A-Za-z]\)  # not one of many
          | \s*(?:,|/|&|、|,?\ or\b|,?\ and\b|[或和と및])\s*(?:maybe\ |perhaps\ |possibly\ )?\(?[A-HJ-R]\)?(?!\w) )
        [\s.:,、]*(?:[-–—]\s+)?(.*)""",
    re.VERBOSE | re.DOTALL,
)
_VERDICT = re.compile(
    rf"({'|'.join(sorted(map(re.escape, VERDICTS), key=len, reverse=True))})"
    r"(?=$|\s*[,;:.。、](?:\s|$|[^\x00-\x7f])|\s+[-–—(]|\s+(?:because|since|as|weil|denn|car|parce|porque|perché)\s)",
    re.I,
)
_OPPOSITES = {"yes": "no", "no": "yes", "true": "false", "false": "true", "valid": "invalid", "invalid": "valid"}
_DEPENDS = re.compile(r"\botherwise,?\s+(?:it['’]s\s)?(?:no|yes|true|false|valid|invalid)\b|\bit depends\b", re.I)
# What is said of an option that is not the answer, and words before the other options of an explanation.
_DENIED_OPTION = re.compile(
    r"(?:is|are|was|would be)\s+"
    r"(?:not\s+(?:correct|right|true|valid|the\s+(?:correct|right|answer))|incorrect|wrong|false)"
    r"(?=\W*$|\s*[.,;:]|\s+(?:because|since|as)\b)|[❌✗✘]"
)
_REASON = re.compile(r"\b(?:because|since|as|which|not|than|while|whereas|unlike|both|all|none)\b", re.I)
_SINGLE_WORDS = re.compile(r"[\w'-]+(?:,\s*[\w'-]+){2,}")

_DAY = r"(?:[a-z]+day|(?:mon|tue|wed|thu|fri|sat|sun)\.?)"
_DATES = [
    re.compile(pattern, re.I)
    for pattern in (
        r"(?P<month>[0-9]{1,2})[/-](?P<day>[0-9]{1,2})[/-](?P<year>[0-9]{4})",
        r"(?P<year>[0-9]{4})[-/](?P<month>[0-9]{2})[-/](?P<day>[0-9]{2})",
        r"(?P<year>[0-9]{4})\s?[年년]\s?(?P<month>[0-9]{1,2})\s?[月월]\s?(?P<day>[0-9]{1,2})\s?[日일号號]",
        rf"(?:{_DAY},?\s)?(?P<month>[a-z]{{3,9}})\.?\s(?P<day>[0-9]{{1,2}})(?:st|nd|rd|th)?,?\s(?P<year>[0-9]{{4}})",
        rf"(?:{_DAY},?\s)?(?P<day>[0-9]{{1,2}})(?:st|nd|rd|th)?(?:\sof)?\s(?P<month>[a-z]{{3,9}})\.?,?\s(?P<year>[0-9]{{4}})",
    )
]
_MONTHS = (
    *("january", "february", "march", "april", "may", "june", "july", "august", "september", "october", "november"),
    "december",
)

_CHARACTERS = str.maketrans("‐‑‒–−﹣’٫", "------'.")
_LATEX = [
    (re.compile(r"\$(?=\S)([^$]+)(?<=\S)\$(?![0-9])"), r"\1"),
    (STYLED, r"\1"),
    (re.compile(r"\^\{?\\circ\}?"), "°"),
    (re.compile(r"\\(?:left|right|!)"), ""),
    (re.compile(r"\\(?:[,;: ]|q?quad\b)|(?<=[0-9}])~"), " "),
    (re.compile(r"(?<![0-9}])\\[dt]?frac\{([0-9]+)\}\{([0-9]+)\}"), r"\1/\2"),
    (re.compile(r"\\([$%{}])|\{(,)\}"), r"\1\2"),
    (re.compile(r"_\{(\w)\}"), r"_\1"),
    (re.compile(r"\\(?:times|cdot)\b"), "×"),
]
_LOOSE_QUOTE = re.compile(r"(?<!\w)['‘’]|['‘’](?!\w)|[\"“”`「」『』«»„《》]")


def tidy(text: str) -> str:
    """Remove Markdown, quotes, formula delimiters and closing punctuation around a text."""
    text = without_bold(text)
    for _ in range(4):  # there may be several layers, such as a formula in quotes before a period
        before = text
        text = text.strip() if text.isascii() else text.strip().strip(_EMOJI)
        text = text.strip(_QUOTES)
        if not text.endswith(".") or not re.search(r"\b[A-Za-z]\.[A-Za-z]\.$", text):  # p.m. or U.S.
            text = text.rstrip(".,;: 。、।")
        if text.startswith(("$", "\\")) and (wrapped := _WRAPPED.fullmatch(text)):
            text = wrapped[wrapped.lastindex or 0]
        if text == before:
            break
    return text.strip()


def without_bold(text: str) -> str:
    """Remove the asterisks around bold text."""
    return _BOLD.sub("", text) if "**" in text else text


def without_brackets(text: str) -> str:
    """
    Remove the brackets around an answer, as in `(16)` and `[yes]`. Those of options, lists and longer formulas stay.

    Args:
        text (`str`):
            The answer, as [`tidy`] leaves it.

    Returns:
        `str`: The text in the brackets, or the same text.

    Examples:

    ```python
    >>> without_brackets("((16))"), without_brackets("(3, 4)"), without_brackets("(B)")
    ('16', '(3, 4)', '(B)')

    ```
    """
    match = _BRACKETED.fullmatch(text) if text[:1] in ("(", "[", "{") else None
    if match is None or match[1][::-1].translate(_CLOSING) != match[3] or option(text):
        return text
    inner = match[2].strip()
    return inner if re.search(r"[^\W_]", inner) else text


def kind(text: str) -> tuple[str, Any]:
    """
    Tell of which kind an answer is.

    Args:
        text (`str`):
            The answer, as [`tidy`] leaves it.

    Returns:
        `tuple[str, Any]`: `"option"`, `"verdict"`, `"brackets"`, `"date"`, `"time"`, `"number"` or `"text"`; and a
        value. Answers of one kind with equal values match.

    Examples:

    ```python
    >>> kind("(B) Paris"), kind("Yes"), kind("2 km")[0]
    (('option', ('B', 'Paris')), ('verdict', 'yes'), 'number')

    ```
    """
    text = without_brackets(text)
    if found := option(text):
        return "option", found
    if (word := verdict(text)) is not None:
        return "verdict", VERDICTS[word.lower()]
    text = " ".join(text.translate(_CHARACTERS).split())
    if "\\" in text or "{" in text or text.count("$") == 2:
        for pattern, replacement in _LATEX:
            text = pattern.sub(replacement, text)
        text = " ".join(text.split())
    if _WHOLE_NUMBER.fullmatch(text):
        return "number", Quantity(Fraction(int(text)), "")
    if not text[:1].isalnum():
        brackets = re.sub(r"[\s,\"'`]", "", text)
        if brackets and not brackets.strip("()[]{}<>"):
            return "brackets", brackets
    if len(text) <= _MAX_SHORT_LENGTH:
        if day := _date(text):
            return "date", day
        if time := parse_time(text):
            return "time", (time, text)
        if quantity := parse_quantity(text):
            return "number", quantity
    return "text", plain(text)


def option(text: str) -> tuple[str, str] | None:
    """Return the letter and the text of an option; `None` for other text."""
    if "\\" in text:
        text = STYLED.sub(r"\1", text)
    match = _OPTION.match(text)
    if match is None:
        return None
    *letters, description = match.groups()
    mark = text[: match.start(match.lastindex or 0)]
    if description and (_DENIED_OPTION.match(description) or _is_one_of_several(mark, description)):
        return None
    return "".join(filter(None, letters)).upper(), description.strip()


def _is_one_of_several(mark: str, description: str) -> bool:
    """Tell whether another option follows an option: "(A) Paris and (B) Rome". Not "(B) because (A) is wrong"."""
    # Of the options "B. Harper, J. Smith" and "(B) J. Smith", only marks of the same form are others.
    form = r"\([A-Ra-r]\)" if "(" in mark else r"[A-Ra-r]\)(?=\s)" if ")" in mark else r"[A-R][.:](?=\s)"
    last = r"|[A-HJ-R]\s*$" if form.startswith("[A-R][") else ""  # "A. Paris or C", where a sentence ended
    other = rf"(?:{form}{last}|[Oo]ption\s\(?[A-R]\b|\(?[A-HJ-R]\)?\sis\salso\b)"
    joined = re.search(
        rf"(?:[,;/&]|\b(?:and|or|but|alternatively|as well as))\s*(?:or\s|and\s|alternatively\s)*{other}", description
    )
    if joined is None:
        return len(re.findall(rf"\s{form}", description)) > 1 and not _REASON.search(description)
    before = description[: joined.start()]
    return not _REASON.search(before) and re.search(form, before) is None and not before.strip().endswith("not")


def verdict(text: str) -> str | None:
    """Return the word yes, no, true, false, valid or invalid with which a text begins, as it is written."""
    match = _VERDICT.match(text)
    return match[1] if match and not _SINGLE_WORDS.fullmatch(text) and not is_both_ways(text) else None


def is_both_ways(text: str) -> bool:
    """
    Tell whether a text says yes and no.

    Args:
        text (`str`):
            An answer.

    Returns:
        `bool`: Whether it begins with a verdict and takes it back, or makes it depend on something.

    Examples:

    ```python
    >>> is_both_ways("yes - no"), is_both_ways("No, it depends."), is_both_ways("Yes, no doubt")
    (True, True, False)

    ```
    """
    match = _VERDICT.match(text)
    if match is None:
        return False
    rest = text[match.end() :]
    opposite = _OPPOSITES.get(VERDICTS[match[1].lower()])
    is_taken_back = re.match(rf"\W{{1,3}}(?:it['’]s |actually,? |rather )?{opposite}\b(?!\s+\w)", rest, re.I)
    return is_taken_back is not None or _DEPENDS.search(rest) is not None


def _date(text: str) -> date | None:
    for pattern in _DATES:
        if match := pattern.fullmatch(text):
            word = match["month"].lower()
            names = [number for number, name in enumerate(_MONTHS, 1) if name.startswith(word)]
            try:
                return date(int(match["year"]), names[0] if names else int(word), int(match["day"]))
            except ValueError:  # no such day or month
                return None
    return None


def plain(text: str) -> str:
    """Remove from a text what does not matter in prose and in lists of words."""
    plain = _LOOSE_QUOTE.sub("", text.casefold())
    if plain.startswith("[") and plain.endswith("]") and not re.search(r"[0-9]", plain):
        plain = plain[1:-1]  # a list of words, as Python writes it
    plain = re.sub(r",?\sand\s", " ", plain) if "," in plain else plain
    plain = " ".join(re.split(r"[\s,;、，；]+", plain))
    plain = re.sub(r"\.? ?([()\[\]{}]) ?", r"\1", plain).strip(" .").rstrip("!?. ") or plain
    return re.sub(r"^(?:an?|the) (?=.)", "", plain) or text
