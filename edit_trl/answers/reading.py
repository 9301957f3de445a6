r"""
Read the final answer of a chain of thought.

`extract_answer` reads an answer only if the reply states it as its answer (`the answer is ...`, `Answer: ...`,
`#### 42`, `\boxed{...}`, `<answer>...</answer>`), in one of the languages of `phrases`, or if its last sentence does
so in a way that no other sentence does (`Therefore, 42.`, `I would go with D`, a number alone in bold). It never takes
the last number or letter of a reply that does not say what the answer is: a missing answer is counted, but nobody
notices an answer that was read wrongly.

How a reply is read:

- A dash or an arrow may stand for the verb (`Final answer - 42`), if nothing but an answer follows.
- The last statement of an answer decides. If it is cut off or denies an answer (`the answer is not clear`), no answer
  is read, even if an earlier statement has one. Conditions (`if the answer is 5`) and remarks (`the answer is
  correct`) do not state an answer and are ignored.
- Thinking is never read. If the thinking of a reply is not closed, no answer is read.
- The result is text with ASCII digits. `answers_match` decides which texts match. Two texts that match a third text
  need not match each other: `"50%"` matches `"50"` and `"0.5"`.

The caller must end the reply at the right place. A base model may continue with a new question; it needs a stop
string, because otherwise the answer to that new question is read.
"""

import json
import re
from typing import Any

from ..thinking import split_thinking
from .characters import plain_characters
from .kinds import MAX_LENGTH, STYLED, is_both_ways, kind, option, tidy, verdict, without_bold, without_brackets
from .phrases import (
    ABOUT_ANSWER,
    BEFORE_DASHED,
    CJK_CLAUSE,
    CLAUSE_WORDS,
    CONDITION,
    ENGLISH_CONDITION,
    LANGUAGES,
    NOT_BUT,
    OTHER_ANSWER,
    VERDICTS,
    Language,
)
from .quantities import with_decimal_point
from .remarks import HEDGE, INVERTED, MAX_SENTENCE_LENGTH, is_lesser, is_retracted, is_said_of_option


def extract_answer(reply: str) -> str | None:
    r"""
    Read the final answer of a chain of thought.

    The answer is the text after the last phrase such as "the answer is", up to the end of the sentence or line.
    Numbers, dates, abbreviations, lists and formulas stay whole. Markdown, quotes, dollar signs around formulas,
    brackets around a single answer and closing punctuation are removed. Options are reduced to their letter in
    parentheses (`"B. Paris"` to `"(B)"`). An explanation after yes, no, true, false, valid, invalid or a number is
    removed. If the whole reply is the letter of an option, one of these words, a number, a date or brackets, the reply
    itself is the answer.

    The phrases may be in English, Chinese, Japanese, Korean, German, French, Spanish, Portuguese, Russian, Italian,
    Arabic, Persian or Hindi. Digits of all scripts become ASCII digits. `1.234` becomes `1234`, and `1,234` becomes
    `1.234`, if the other numbers of the reply, or its language, have decimal commas.

    If no phrase states an answer, the last sentence may do so: "Therefore, 42.", "It is actually 42.", "That leaves
    (C).", "I would go with D.", "A: 42", or a number or an option in bold at its end.

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
    >>> extract_answer("因此，答案是（Ｃ）。")
    '(C)'
    >>> extract_answer("It is either 3 or 4, I do not know.") is None
    True

    ```
    """
    text = plain_characters(_outside_thoughts(reply))
    if "<" in text:
        text = _TAGS.sub("", text)
    lowered = text.lower()
    if (value := _answer_field(text)) is not None:
        return stated_answer(value) or _reduced(tidy(value)) or None
    answer, is_final = _from_statements(text, lowered)
    if answer or is_final:
        return answer or None
    if " is the " in text or " is correct" in text or " is right" in text:
        for statement in reversed(list(INVERTED.finditer(text))):
            if is_said_of_option(text, statement):
                return f"({statement[1] or statement[2]})"
    if explained := _EXPLANATION.match(text.lstrip()):
        text = explained[1]
    if len(text) < _MAX_BARE_LENGTH or (len(text) < MAX_LENGTH and not text.strip(_BRACKETS)):
        whole = tidy(text)
        found, value = kind(whole)
        is_letter = found == "option" and not value[1]
        if is_letter or found in ("date", "brackets", "time") or (found != "text" and len(whole.split()) == 1):
            return _reduced(whole) or None
    return _closing(text) or None


def stated_answer(text: str) -> str | None:
    r"""
    Return the answer that a text states with a phrase such as `#### 18` or "the answer is 18".

    Args:
        text (`str`):
            A reply, or a solution of a benchmark.

    Returns:
        `str` or `None`: The answer, or `None` if no phrase states one.

    Examples:

    ```python
    >>> stated_answer("2 + 3 = 5\n#### 5"), stated_answer("5")
    ('5', None)

    ```
    """
    text = plain_characters(text)
    return extract_answer(text) if _statements(text, text.lower()) else None


def reasoning(chain: str) -> str:
    """
    Return the text of a chain of thought before its conclusion.

    Args:
        chain (`str`):
            The chain.

    Returns:
        `str`: The text before the last "the answer is", in any of the languages. A word such as "Therefore," before
        these words is removed too. The whole text if there is no "the answer is".

    Examples:

    ```python
    >>> reasoning("2 + 3 = 5. Therefore, the answer is 5.")
    '2 + 3 = 5. '

    ```
    """
    lowered = chain.lower()
    conclusion = _last_conclusion(chain, lowered)
    if conclusion is not None:
        return chain[:conclusion]
    starts = [
        statement.start()
        for name, language in LANGUAGES.items()
        if name != "en" and any(cue in lowered for cue in language.cues)
        for pattern in language.statements
        for statement in pattern.finditer(chain)
    ]
    # Without the words before the phrase, such as "daher ist die".
    return re.sub(r"[^.!?,;:。！？，；：\n]*$", "", chain[: max(starts)]) if starts else chain


# Reading. Each pattern below looks at a character a limited number of times, so the time is linear in the length of
# the reply.

_CONCLUSION = re.compile(
    r"(?:\b(?:therefore|thus|so|hence)\b[\s,]*)?\bthe (?:correct |final )?answer is\b", re.IGNORECASE
)


def _last_conclusion(chain: str, lowered: str) -> int | None:
    """
    Return the start of the last match of `_CONCLUSION`. In ASCII, each match ends with the words "answer is", which
    are found quickly from the end. Then only the text around them is searched.
    """
    if not chain.isascii():
        return max((conclusion.start() for conclusion in _CONCLUSION.finditer(chain)), default=None)
    place = lowered.rfind("answer is")
    while place >= 0:
        start = max(lowered.rfind("the", max(0, place - len("the correct ")), place), 0)
        while start > 0 and (chain[start - 1].isspace() or chain[start - 1] == ","):
            start -= 1
        # One character more than the words, because a word must end there.
        around = _CONCLUSION.finditer(chain, max(0, start - len("therefore")), place + len("answer is") + 1)
        if starts := [conclusion.start() for conclusion in around]:
            return starts[-1]
        place = lowered.rfind("answer is", 0, place)
    return None


# How long a reply may be that is nothing but an answer. Brackets may be longer.
_MAX_BARE_LENGTH = 200
_BRACKETS = " \n\t()[]{}<>,.\"'`*$"
_NO_ANSWERS = {"wrong", "incorrect", "unclear", "null"}
# Layout before an answer: also the first line of a block of code, a rule, and the mark of a quotation.
_LEAD = re.compile(r"(?:[\s:*_=…→]+|\.{2,}|(?<=\n)(?:```\w*\n|-{3,}\n|>\s?(?=[\w$*\\]|\([A-R]\))))*")
# An answer in a line of its own, and below it why.
_EXPLANATION = re.compile(
    r"([^\n]{1,100})\n\s*[#*_]{0,6}\s?(?:explanation|reasoning|rationale|justification|why|because|here['’]s why)\b",
    re.I,
)
# "not (A)": what is not the answer, and what does not matter to it.
_NOT_THIS = re.compile(r"not\s+(?:simply |just |necessarily )?(?=\S)", re.I)
_NO_MATTER = re.compile(r"(?:affected|changed|influenced|altered)\b", re.I)
# A phrase that names the answer and says nothing of it: "Answer: true", and not "the answer is true".
_LABEL = re.compile(r"[:=】>{\]#]|\*\*")
_CONCLUDED = re.compile(r"\b(?:so|thus|therefore|hence)\b[\s,]*(?:the\s+)?(?:\w+\s+)?\Z", re.I)
# A phrase within a box, an empty box or one with a word for the answer, and two boxes that are one answer.
_OPEN_BOX = re.compile(r"\\(?:boxed|fbox)\s*\{(?:[^{}]|\\text\w*\s*\{)*\Z")
_PLACEHOLDER = re.compile(r"\\(?:boxed|fbox)\s*\{\s*(?:(?:your |final |the )*answer|\.\.\.|…)?\s*\}", re.I)
_JOINED_BOX = re.compile(r"\\boxed\s*\{([^{}]{1,60})\}\$?\s*(?:,|and|or|,\s*(?:and|or))\s*\$?(?:\w\s*=\s*)?\Z")
_BOX_SPACES = re.compile(r"^(?:\s|\\[,;:! ]|~)+|(?:\s|\\[,;:! ]|~)+$")
_ANSWER_IS = re.compile(r"^\s*(?:the\s+)?(?:final\s+)?answer\s*(?:is|:)\s*", re.I)
# Tags of HTML in Markdown, and marks of a box that a model has for its answer.
_TAGS = re.compile(r"<\|(?:begin|end)_of_box\|>|</?(?:b|strong|em|u)>", re.I)
# An offer of more help at the end of a reply.
_OFFER = re.compile(
    r"\n(?:\s{0,8})(?:let me know|would you like|do you want|feel free|i hope|if you(?:['’]d like| have| need| want)"
    r"|is there anything|please let me know)\b[^\n]*\s*\Z",
    re.I,
)
_BULLET = re.compile(r"^[ \t]*(?:[-*•]|[0-9]{1,2}[.)])[ \t]+(\S.*)$", re.M)
# A dollar sign next to a space does not delimit a formula: it is an amount of money.
_FORMULA = re.compile(
    r"\$\$[^$]+\$\$|\$[^\s$](?:[^$\n]*[^\s$])?\$(?![0-9])|\\\((?:[^\\]|\\[^()])*\\\)|\\\[(?:[^\\]|\\[^\[\]])*\\\]"
)
_END = re.compile(r"""\n|</|\[/|<\||[.!?](?=["'”’*_`)\]]*(?:\s|$))(?!\s[A-Z]\.)|[。！？｡।]""")
_ABBREVIATION = re.compile(
    r"(?:\b(?:Dr|Mrs?|Ms|Prof|St|Mt|vs|approx|Jr|Sr|Inc|Ltd|Jan|Feb|Mar|Apr|Aug|Sept?|Oct|Nov|Dec)"
    r"|\b[A-Za-z](?:\.\s?[A-Za-z])+|\b[A-Z][a-z]+\s[A-Z])$"
)
_GERMAN_DAY = re.compile(r"\D?[0-9]{1,2}\.\s(?:Jan|Feb|März|Apr|Mai|Jun|Jul|Aug|Sep|Okt|Nov|Dez)[a-z]*\.?(?=\W|$)")
_NEW_SENTENCE = re.compile(
    r"\.(?:\W*$|\s+(?:The|This|That|There|It|I|So|Therefore|Thus|Hence|Because|Since|He|She|We|You|They|In|If|As)\b)"
)
_TRAILING_OPTION = re.compile(r"\S\s(\([A-HJ-R]\))$")
_EXCLUDED = re.compile(r"\b(?:except|other than|nor|not|neither|but|than|unlike|without|besides)\b", re.I)
# Explanations after an answer: `_CLAUSE` after any text, `_SHORT_CLAUSE` after a number, a verdict and the like.
_CLAUSE = re.compile(rf",\s+(?:{CLAUSE_WORDS})\s+\w")
_SHORT_CLAUSE = re.compile(
    rf"[,;]?\s+(?:{CLAUSE_WORDS})\s|(?:;|\s[-–—])\s+(?=[A-Za-z]{{2}})|\s\((?=[A-Za-z]{{2}}|[=≈])|\s+and\snot\s"
    r"|,\s+(?:rounded|meaning|making|given|assuming|calculated|i\.e\.|that\sis|thus|including)(?=[,\s])"
    r"|(?<=[0-9])\s\((?=[^()]*[0-9]\s?[×x*/+-]\s?[$0-9][^()]*\)$)"
    rf"|(?<=[a-z])\s\((?=[0-9.,]+\)$)|{CJK_CLAUSE.pattern}"
)
# The letter of an answer that is given first: "18, which is option C".
_NAMED_OPTION = re.compile(
    r"(?:,?\s(?:which|that)\s(?:is|corresponds\sto|matches)\s|,?\scorresponding\sto\s|\s\(|,\s|\s[-–—]\s)"
    r"(?:the\s)?(?:answer\s)?(?:[Oo]ption|[Cc]hoice)\s\(?([A-R])\)?(?![\w(])(?!\s(?:is|or|and|would)\b)"
)


def _outside_thoughts(reply: str) -> str:
    """Return the text outside of thinking. Nothing if the reply ends within its thinking."""
    parts = split_thinking(reply)
    return "" if parts.is_open else parts.answer


_CUES = [(cue, name) for name, language in LANGUAGES.items() for cue in language.cues]
_ASCII_CUES = [(cue, name) for cue, name in _CUES if cue.isascii()]


def _statements(text: str, lowered: str) -> list[tuple[re.Match[str], str]]:
    """Return the statements of an answer with their language, from the last to the first."""
    cues = _ASCII_CUES if text.isascii() else _CUES
    found = [
        (statement, name)
        for name in dict.fromkeys(name for cue, name in cues if cue in lowered)
        for language in (LANGUAGES[name],)
        for pattern in (*language.statements, *language.short_statements, language.dashed)
        for statement in pattern.finditer(text)
        if pattern is not language.dashed
        or BEFORE_DASHED.search(text[max(0, statement.start() - 80) : statement.start()])
    ]
    return sorted(found, key=lambda item: item[0].end(), reverse=True)


def _from_statements(text: str, lowered: str) -> tuple[str, bool]:
    """Return the answer that the last statement gives, and whether no other way of reading may give one."""
    aside = remark = denial = ""
    denied: list[str] = []
    for statement, name in _statements(text, lowered):
        condition = ENGLISH_CONDITION if name == "en" else CONDITION
        before = text[max(0, statement.start() - 80) : statement.start()]
        if condition.search(before) or OTHER_ANSWER.search(before):
            continue
        if not statement[0].endswith("{") and _OPEN_BOX.search(before):
            continue
        if _PLACEHOLDER.match(text, statement.start()) or (name == "en" and ABOUT_ANSWER.search(before)):
            continue
        language = LANGUAGES[name]
        stated = _without_frame(_stated(text, statement), language)
        what = kind(stated)[0]
        is_label = name in ("ko", "hi") or _LABEL.search(text, statement.start(), statement.end() + 4) is not None
        is_named_verdict = is_label and stated.lower() in VERDICTS
        is_denied = bool(language.denial and language.denial.search(stated)) or stated.lower() in _NO_ANSWERS
        if is_denied and not is_named_verdict:
            if stated.lower() in VERDICTS:  # "Die Antwort ist falsch" is an answer if there is no other
                denial = denial or stated
                continue
            other = _NOT_THIS.match(stated)
            not_this = _reduced(tidy(stated[other.end() :])) if other else ""
            if other and (kind(not_this)[0] != "text" or _NO_MATTER.match(not_this)):
                denied.append(not_this)  # "the answer is not (A)" takes nothing from an earlier "(B)"
                continue
            return "", True
        answer = _reduced(stated)
        if language.remark and language.remark.fullmatch(answer) and not is_named_verdict:
            continue
        if statement[0] == "####" and kind(answer)[0] == "text":
            continue  # a heading of the fourth level
        if statement.re in (*language.short_statements, language.dashed) and not _is_bare(answer, stated):
            continue
        is_remark = bool(language.aside and language.aside.match(answer))
        if is_remark and what == "verdict" and stated[:1].islower() and not is_label and not _CONCLUDED.search(before):
            remark = remark or answer
            continue
        if (is_remark and what == "text") or (name == "en" and is_lesser(text, statement)):
            aside = aside or answer
            continue
        if joined := _JOINED_BOX.search(text, max(0, statement.start() - 120), statement.start()):
            answer = f"{tidy(joined[1])}, {answer}"
        if denial or answer in denied:
            return "", True
        if is_retracted(text, statement.end()):
            return aside, False
        if remark and what in ("verdict", "text"):
            return remark, True
        return with_decimal_point(answer, text, name), True
    return remark or denial or aside, bool(denied) and not aside


def _stated(text: str, statement: re.Match[str]) -> str:
    """Return the answer after the phrase `statement`. Empty if there is none or if it is cut off."""
    rest = text[statement.end() : statement.end() + MAX_LENGTH]
    if statement[0].endswith("{"):
        boxed = _BOX_SPACES.sub("", _up_to_closing_brace(rest))
        if "nswer" in boxed:
            boxed = _ANSWER_IS.sub("", STYLED.sub(r"\1", boxed))
        return tidy(boxed)
    if statement[0].startswith("\\"):
        return re.split(r"[^\w.]", rest, maxsplit=1)[0].rstrip(".")
    if _JSON_KEY.search(statement[0]) and (value := _json_value(rest)) is not None:
        return tidy(value)
    below = rest.lstrip(" \t:*_")
    if below.startswith("\n") and _BULLET.match(below.lstrip()):
        items = _BULLET.findall(below.lstrip().partition("\n\n")[0])
        if len(items) > 1:
            return ", ".join(map(tidy, items))
        if re.match(r"\s*[-•]", below):
            rest = items[0]  # and not a negative number
    answer = tidy(_first_sentence(_LEAD.sub("", without_bold(rest), count=1)))
    if answer.endswith((")", "]", "}")) and re.search(r"\w", answer) and not re.search(r"[(\[{]", answer):
        return tidy(answer[:-1])  # this bracket opens before the statement
    return answer


# Replies in JSON

_JSON_KEY = re.compile(r"[\"']\s*:$")
_ANSWER_KEYS = (
    *("finalanswer", "correctanswer", "answer"),
    *("answerchoice", "choice", "selectedoption", "correctoption", "correctchoice"),
)


def _answer_field(text: str) -> str | None:
    """Return the answer in the JSON object with which a reply ends; `None` if there is none."""
    text = text.strip().removesuffix("```").rstrip()
    if not text.endswith("}") or not re.search("nswer|hoice|ption", text):
        return None
    for start in (text.find("{"), text.rfind("{")):
        try:
            fields = json.loads(text[start:])
        except (ValueError, RecursionError):
            continue
        if isinstance(fields, dict):
            found = {re.sub(r"[^a-z]", "", name.lower()): value for name, value in fields.items()}
            value = next((found[name] for name in _ANSWER_KEYS if name in found), None)
            return _scalar_text(value)
    return None


def _json_value(rest: str) -> str | None:
    """Return the value at the start of the rest of an object, in JSON or in the quotes of Python."""
    rest = rest.lstrip()
    if rest.startswith("'"):
        match = re.match(r"'((?:[^'\\]|\\.)*)'\s*[,}]", rest)
        return match[1] if match else None
    try:
        value, end = json.JSONDecoder().raw_decode(rest)
    except (ValueError, RecursionError):
        return None
    return _scalar_text(value, rest[:end]) if rest[end:].lstrip()[:1] in (",", "}") else None


def _scalar_text(value: Any, written: str = "") -> str | None:
    """The text of a value of JSON, or of a list of them. Numbers stay as they are `written`, if this is known."""
    if isinstance(value, list) and value and not any(isinstance(part, (dict, list)) for part in value):
        return ", ".join(map(str, value))
    if isinstance(value, str):
        return value
    if isinstance(value, dict) and isinstance(value.get("value"), (str, int, float)):
        return f"{value['value']} {value.get('unit') or ''}".strip()
    return (written or json.dumps(value)) if isinstance(value, (bool, int, float)) else None


def _without_frame(stated: str, language: Language) -> str:
    """Remove words around an answer that do not belong to it, such as "therefore" or a verb at the end."""
    if lead := language.lead.match(stated):
        rest = tidy(stated[lead.end() :])
        # "Actually" may also be the first of sorted words.
        is_not = language.denial is not None and language.denial.search(rest)
        if is_not or rest[:1].isupper() or kind(tidy(_SHORT_CLAUSE.split(rest, maxsplit=1)[0]))[0] != "text":
            stated = rest
    if language.end is not None:
        ended = tidy(language.end.sub("", stated)) or stated
        if ended.lower() in VERDICTS or language.denial is None or not language.denial.search(stated):
            stated = ended
    if not_but := NOT_BUT.match(stated):
        other = tidy(stated[not_but.end() :])
        stated = other if kind(other)[0] != "text" else stated
    return stated


def _up_to_closing_brace(text: str) -> str:
    depth = 1
    for brace in re.finditer(r"\\.|[{}]", text):
        depth += {"{": 1, "}": -1}.get(brace[0], 0)
        if depth == 0:
            return text[: brace.start()]
    return ""


def _first_sentence(text: str) -> str:
    """Return the first sentence or line. Empty if it does not end within the limit."""
    hidden = _FORMULA.sub(lambda formula: "x" * len(formula[0]), text) if "$" in text or "\\" in text else text
    for end in _END.finditer(hidden):
        position = end.start()
        if end[0] == "." and _GERMAN_DAY.match(hidden, max(0, position - 2)):
            continue
        if end[0] != "." or not _ABBREVIATION.search(hidden, max(0, position - 12), position):
            sentence = text[:position].rstrip("!?")
            in_bracket = text.startswith(")", position + 1) and sentence.count("(") > sentence.count(")")
            return f"{sentence})" if in_bracket else sentence
        if _NEW_SENTENCE.match(hidden, position):
            return text[: position + 1]
    return text if len(text) < MAX_LENGTH else ""


def _reduced(text: str) -> str:
    """Reduce an option to its letter; remove the text after a verdict, a number, a date or brackets."""
    text = without_brackets(text)
    start = without_brackets(tidy(_SHORT_CLAUSE.split(text, maxsplit=1)[0]))
    if found := option(text) or option(start):
        return f"({found[0]})"
    what = kind(start)[0]
    named = _NAMED_OPTION.search(text) if what != "verdict" else None  # "option B is wrong" is no name
    if named and named.start() and not re.search(r"\bnot\b", text):
        return f"({named[1]}) {tidy(text[: named.start()])}"
    if what == "verdict":
        return text if is_both_ways(text) else verdict(start) or start
    if what != "text":
        return start
    trailing = _TRAILING_OPTION.search(text) if text.count("(") == 1 and not _EXCLUDED.search(text) else None
    return trailing[1] if trailing else tidy(_CLAUSE.split(text, maxsplit=1)[0])


def _is_bare(answer: str, stated: str) -> bool:
    """Tell whether a phrase is followed by an answer of a kind that can be told, and an option has no text."""
    if not answer or kind(answer)[0] in ("text", "brackets"):
        return False
    found = option(stated)
    return found is None or not found[1]


# The last sentence

_SENTENCE_START = re.compile(r"(?<=[.!?])(?<!\b[A-Z]\.)(?<!\bvs\.)[\"'”’*_)]*\s+(?=[\"'“(*_\\$]*[A-Z0-9])")
_WHAT = r"(?:the\s)?(?:option|choice|answer|letter)?\s?"
# Phrases of a last sentence, and what may follow them: only an option, or any kind that can be told.
_CLOSINGS = [
    (re.compile(pattern, re.I), kinds)
    for kinds, pattern in (
        (
            ("option", "verdict", "number"),
            r"\bI(?:['’]d| would|['’]ll| will|['’]m going to| am going to)?(?: have to)?"
            rf" (?:go(?:ing)? with|choose|pick|select|opt for|settle on|answer(?: with)?) {_WHAT}",
        ),
        (("option",), rf"\b(?:that|this|which|it|only) (?:only )?leaves (?:us )?(?:only |with |us with )*{_WHAT}"),
        (("option",), rf"\bleaving (?:us )?(?:only |with )*{_WHAT}"),
        (
            ("option",),
            r"\b(?:correct|right|best|matching|remaining) (?:one|letter|statement|option|choice|alternative) is "
            rf"{_WHAT}",
        ),
        (("option",), r"\b(?:my|the) (?:final )?(?:choice|pick|selection) is "),
        (("option",), r"\b(?:so|thus|therefore|hence)(?: it['’]s| it is| it must be),? "),
        (
            ("option", "verdict", "number", "date", "time"),
            r"\b(?:is|are|was|were|be|equals) (?:actually|therefore|thus|hence|indeed|in fact),? ",
        ),
        (("number", "date", "time"), r"\bfinal (?:result|total|value|amount|count)(?: is|:|\s?=) "),
    )
]
# "Thus 16." A unit has one word at most: "Thus 16 people came to the party" says something else. "So 16" is often said
# within a chain.
_CONCLUSION_WORD = re.compile(r"(?:^|[,;:–—-]\s|\band\s)(?:thus|therefore|hence|ergo|∴),?:?\s", re.I)
_BOLD_SPAN = re.compile(r"\*\*([^*\n]{1,100})\*\*")
_LIST_ITEM = re.compile(r"[-*•+]\s|\(?[0-9a-z]{1,2}[.)]\s|#|>|\||(?:step|part|case|note|check|example)\b", re.I)
_CONCLUDES = re.compile(
    r"(?:so|thus|therefore|hence|finally|in total|overall|altogether|in conclusion|this means|that leaves)\b", re.I
)
_LAST_LINE = re.compile(r"(?:A:|(?:Ans|Final result)(?:\.|:|\.:|\s?=))\s?(\S.*)")  # "A = 4" may be an equation
_OPTION_LINE = re.compile(r"^[ \t]*\(?[A-R][).:]|\([A-R]\)|\b(?:option|choice)s?:", re.I | re.M)


_VERB = re.compile(
    r"\b(?:is|are|was|were|be|has|have|had|makes?|made|earns?|needs?|costs?|takes?|spends?|spent|pays?|paid|gets?|got"
    r"|sells?|sold|uses?|used|starts?|ends?|receives?|received|left|weighs?|equals?|totals?)\s+"
    r"(?:(?:a total of|in total|exactly|only|about|at|on|now|still)\s+)*",
    re.I,
)


def said_value(sentence: str) -> str | None:
    """
    Return the number, the date or the time that a sentence says: what follows its verb, if nothing before it is one.

    Args:
        sentence (`str`):
            The sentence, as an answer that was read.

    Returns:
        `str` or `None`: The rest of the sentence, from the number on; `None` if it hedges, denies or says none.

    Examples:

    ```python
    >>> said_value("She has 18 eggs left"), said_value("The one with 3.5 stars"), said_value("It is not 5")
    ('18 eggs left', None, None)

    ```
    """
    if len(sentence) > MAX_SENTENCE_LENGTH or HEDGE.search(sentence):
        return None
    for verb in _VERB.finditer(sentence):
        if re.search("[0-9]", sentence[: verb.start()]):
            return None
        said = tidy(sentence[verb.end() :])
        if kind(said)[0] in ("number", "date", "time"):
            return said
    return None


def _closing(text: str) -> str | None:
    """Return the answer of a last sentence that states one in a way in which no other sentence does."""
    text = text.rstrip()
    text = text[: -2 * MAX_SENTENCE_LENGTH] + _OFFER.sub("", text[-2 * MAX_SENTENCE_LENGTH :])
    before, _, line = text.rstrip()[-4 * MAX_SENTENCE_LENGTH :].rpartition("\n")
    line = line.strip()
    if not line or len(line) > MAX_SENTENCE_LENGTH and not _SENTENCE_START.search(line):
        return None
    if stated := _LAST_LINE.fullmatch(line):
        return _last_line(stated[1], before)
    bold = "**" in line
    sentence = line[max((start.end() for start in _SENTENCE_START.finditer(line)), default=0) :]
    if bold and (answer := _bold(line, sentence)):
        return answer
    if len(sentence) > MAX_SENTENCE_LENGTH or HEDGE.search(sentence):
        return None
    plain = without_bold(sentence)
    for pattern, kinds in _CLOSINGS:
        if phrase := _last(pattern, plain):
            answer = tidy(plain[phrase.end() :])
            # "D. Paris" is an option; "D. Then I look at E." is another sentence.
            is_sentence = re.match(r"[A-R]\.\s", answer) and len(answer.split()) > 4
            if kind(answer)[0] in kinds and not is_sentence:
                return _reduced(answer)
    if phrase := _last(_CONCLUSION_WORD, plain):
        answer = tidy(plain[phrase.end() :])
        if kind(answer)[0] in ("option", "verdict", "number", "time") and len(answer.split()) <= 2:
            return _reduced(answer)
    return None


def _last(pattern: re.Pattern[str], text: str) -> re.Match[str] | None:
    return next(reversed(list(pattern.finditer(text))), None)


def _last_line(stated: str, before: str) -> str | None:
    """Return the answer of a last line "A: 42". Not if the reply has options, or several such lines."""
    answer = tidy(stated)
    if kind(answer)[0] in ("text", "option", "brackets") or _OPTION_LINE.search(before) or not before.strip():
        return None
    return _reduced(answer)


def _bold(line: str, sentence: str) -> str | None:
    """Return what is bold in a last line: the whole line, its end, or the only bold text of a conclusion."""
    spans = list(_BOLD_SPAN.finditer(line))
    if len(spans) != 1 or spans[0].start() < len(line) - len(sentence):
        return None
    [span] = spans
    answer, rest = tidy(span[1]), line[span.end() :].strip(" .!")
    if kind(answer)[0] not in ("option", "verdict", "number", "date", "time"):
        return None
    is_marker = re.fullmatch(r"[0-9]{1,2}[.):]", span[1].strip()) or span[1].rstrip().endswith(":")
    if is_marker or HEDGE.search(sentence) or _LIST_ITEM.match(line):
        return None
    is_whole = span.start() == 0 and not rest
    return _reduced(answer) if is_whole or not rest or _CONCLUDES.match(sentence) else None
