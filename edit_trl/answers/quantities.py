"""
Read numbers with their units, times of day and durations.

A number is read only if its form says what it is. `1,25`, `1.234.567`, `1 250 000` and `12,34,567` do. `1.234` and
`1,234` do not, and are read as in English; `with_decimal_point` rewrites them if the rest of a reply says otherwise.
"""

import re
from fractions import Fraction
from typing import NamedTuple

from .units import ATTACHED_UNITS, UNIT_NAMES, UNIT_SIZES, unit_key


class Quantity(NamedTuple):
    """
    A number with its unit.

    Args:
        value (`Fraction`):
            The number.
        unit (`str`):
            Name of the unit; empty if there is none.
        rest (`str`):
            Words after the unit, such as "of feed".
        is_compound (`bool`):
            Whether it has several units, such as "1 hour 30 minutes". Then it has no number without its units.
    """

    value: Fraction
    unit: str
    rest: str = ""
    is_compound: bool = False

    def matches(self, other: "Quantity") -> bool:
        """
        Tell whether two quantities are equal.

        Args:
            other ([`Quantity`]):
                The other quantity.

        Returns:
            `bool`: Whether they are equal. Units are compared only if both have one.
        """
        if self.unit and other.unit:
            if self.unit == other.unit or {self.unit, other.unit} in _SAME_UNITS:
                first, second = sorted((self.rest, other.rest), key=len)
                return self.value == other.value and (second + " ").startswith(first and first + " ")
            dimension, size = UNIT_SIZES.get(self.unit, ("", Fraction(1)))
            other_dimension, other_size = UNIT_SIZES.get(other.unit, ("", Fraction(1)))
            return bool(dimension) and dimension == other_dimension and self.value * size == other.value * other_size
        if self.is_compound or other.is_compound:
            return False
        fraction, other_fraction = (
            side.value / 100 if side.unit == "percent" else side.value for side in (self, other)
        )
        return self.value == other.value or fraction == other_fraction


class Time(NamedTuple):
    """
    A time of day.

    Args:
        hour (`int`):
            Hour as it is written.
        minute, second (`int`):
            Minute and second.
        day_hour (`int` or `None`):
            Hour of the day from 0 to 23; `None` if "4:15" may be either.
        is_half_known (`bool`):
            Whether it is written with am or pm.
    """

    hour: int
    minute: int
    second: int
    day_hour: int | None
    is_half_known: bool

    def matches(self, other: "Time") -> bool:
        """
        Tell whether two times are the same.

        Args:
            other ([`Time`]):
                The other time.

        Returns:
            `bool`: Whether they are the same. A time that may be in either half of the day matches both.
        """
        if (self.minute, self.second) != (other.minute, other.second):
            return False
        if self.day_hour is not None and other.day_hour is not None:
            return self.day_hour == other.day_hour
        if self.is_half_known or other.is_half_known:
            return self.hour % 12 == other.hour % 12
        return self.hour == other.hour


# "5 degrees" may be of temperature, "5 pounds" may be of money.
_SAME_UNITS = [
    {"degree", "degree_celsius"},
    {"degree", "degree_fahrenheit"},
    {"pound", "pound_sterling"},
]
_CJK = "\u3040-\u30ff\u3400-\u9fff\uac00-\ud7a3"

# Numbers

# Groups of thousands after spaces or apostrophes; anything else of digits, periods and commas. `_value` checks these.
_DIGITS = (
    r"(?:[0-9]{1,3}(?:\ [0-9]{3})+(?:[.,][0-9]+)?(?![0-9])|[0-9]{1,3}(?:['’][0-9]{3})+(?:\.[0-9]+)?(?![0-9])"
    r"|[0-9]{1,3}(?:_[0-9]{3})+(?![0-9_])|[0-9](?:[0-9.,]*[0-9])?|\.[0-9]+)"
)
_PLAIN = re.compile(r"[0-9]*\.?[0-9]+")
_COMMA_GROUPS = re.compile(
    r"(?!0)[0-9]{1,3}(?:,[0-9]{3})+(?:\.[0-9]+)?|(?!0)[0-9]{1,2}(?:,[0-9]{2})+,[0-9]{3}(?:\.[0-9]+)?"
)
_POINT_GROUPS = re.compile(r"(?!0)[0-9]{1,3}(?:(?:\.[0-9]{3}){2,}(?:,[0-9]+)?|\.[0-9]{3},[0-9]+)")
_DECIMAL_COMMA = re.compile(r"[0-9]+,[0-9]+")

_CURRENCIES = r"(?:us\s?\$|r\$|[$€£¥₩₹₽]|(?:usd|eur|gbp|chf|inr|jpy|cny|krw|rs\.?)(?=\s?[0-9]))"
# Digits and signs of a power, as ASCII.
SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺", "0123456789-+")
_NUMBER = re.compile(
    rf"""(?:(?:about|approximately|approx\.|roughly|around|exactly|circa|ca\.|etwa|rund|environ|unos|aproximadamente
            |около|примерно)\s|[≈~约約]\s?)?
        (?P<sign>[-+]|(?:minus|negative)\s)?\s?(?P<currency>{_CURRENCIES})?\s?(?P<inner_sign>-?)
        (?: (?P<times>{_DIGITS})?(?(times)\s?(?:[x×*·⋅]|\\times|\\cdot)\s?)
                10(?:\^\s?[{{(]?(?P<power>[-+]?[0-9]{{1,3}})[}})]?|(?P<superscript>[⁻⁺]?[⁰¹²³⁴⁵⁶⁷⁸⁹]{{1,3}}))
          | (?P<mantissa>{_DIGITS})e(?P<exponent>[-+]?[0-9]{{1,3}})(?![0-9])
          | (?:(?P<whole>[0-9]+)\s(?=[0-9]+/))?(?P<number>{_DIGITS})(?:\s?/\s?(?P<divisor>0*[1-9][0-9]*)(?![0-9.,]))? )
        (?P<magnitude>(?<=[0-9])(?:k|m|bn|b)(?![^\W_])|[万萬亿億만억]|천(?![가-힣])|千(?![克米瓦]))?
        (?P<units>.*)""",
    re.VERBOSE | re.DOTALL | re.IGNORECASE,
)
_MAGNITUDES = {"k": 10**3, "m": 10**6, "b": 10**9, "bn": 10**9, "千": 10**3, "천": 10**3}
_MAGNITUDES |= dict.fromkeys("万萬만", 10**4) | dict.fromkeys("亿億억", 10**8)
_SCALES = {"dozen": 12, "hundred": 10**2, "thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}
_SCALES |= {
    "millions": 10**6,
    "billions": 10**9,
    "mio": 10**6,
    "mrd": 10**9,
    "тыс": 10**3,
    "млн": 10**6,
    "млрд": 10**9,
    "lakh": 10**5,
    "lakhs": 10**5,
    "crore": 10**7,
    "crores": 10**7,
}
_FRACTIONS = {"½": "1/2", "⅓": "1/3", "⅔": "2/3", "¼": "1/4", "¾": "3/4", "⅕": "1/5", "⅛": "1/8"}
_SMALL = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen"
).split()
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety".split()
_WORDS = {word: value for value, word in enumerate(_SMALL)} | {word: 10 * i for i, word in enumerate(_TENS, start=2)}
# Names of parts, as in "two thirds". "Second" is a unit of time, and "3 quarters" may be coins.
_PARTS = {"half": 2, "halve": 2, "third": 3, "quarter": 4, "fourth": 4, "fifth": 5, "sixth": 6, "seventh": 7}
_PARTS |= {"eighth": 8, "ninth": 9, "tenth": 10, "hundredth": 100, "thousandth": 1000}
_PART_NAMES = "|".join(_PARTS)
_HYPHENED_PARTS = re.compile(rf"(?<=[a-z])-(?=(?:{_PART_NAMES})s?\b)", re.I)
_PARTS_OF = re.compile(
    rf"(?:(?P<whole>[0-9]+) and )?(?P<number>an?|[a-z]+|[0-9]+) (?P<part>{_PART_NAMES})(?P<plural>s?)"
    r"(?=$| of\b|(?P<unit> [a-z]+))",
    re.I,
)
_HALVES = [
    (re.compile(r"\Ahalf(?=$| of (?!an? ))|(?:half an?|half of an?|an? half|a half an?)(?= [a-z])", re.I), "1/2"),
    (re.compile(r"an? ([a-z]+) and a half\b", re.I), r"1 1/2 \1"),
    (re.compile(r"([0-9]+) and (?:a|one) half\b", re.I), r"\1 1/2"),
    (re.compile(r"([0-9]+) ([a-z]+) and a half\b", re.I), r"\1 1/2 \2"),
]

# Units

# Words that are not units: with them the text is a phrase or a formula and not a quantity.
_NO_UNITS = {
    *("and", "or", "to", "plus", "minus", "times", "x", "y", "z", "n", "i", "than", "if", "mod", "out"),
    *("und", "oder", "mal", "et", "ou", "fois", "más", "veces", "vezes", "volte", "раз", "и", "или"),
}
# And in a longer phrase: words that make it a sentence.
_NO_PHRASE = {
    *("is", "are", "was", "were", "be", "not", "but", "because", "so", "therefore", "has", "have", "had", "equals"),
    *("less", "fewer", "more", "equal"),
}
# What changes the number before it, if nothing follows: "9 squared cm" has a unit.
_FACTORS = ("squared", "cubed", "factorial")
_MAX_UNIT_WORDS, _MAX_PHRASE_WORDS = 6, 14
# Vowels of Arabic, Indian and Thai letters, which are characters of their own and no letters.
_VOWEL_SIGNS = "\u064b-\u0652\u0900-\u0903\u093a-\u094f\u0e31\u0e34-\u0e3a\u0e47-\u0e4e"
_UNIT_TEXT = re.compile(
    rf"\s?[%°‰℃℉€£¥₹₽₩¢](?P<sign_unit>[CFcf]?(?![^\W\d_]))(?P<sign_rest>(?:\s[^\W\d_]\S*)*)"
    rf"|\s?(?P<cjk>[{_CJK}]{{1,6}}(?:/[{_CJK}]{{1,3}})?)"
    r"|(?P<attached>[a-zµμ]{2,3}(?:/h|/s|[²³])?|m[²³]|m/s)(?P<attached_rest>(?:\s[^\W\d_](?:[^\W\d_]|[-'’])*)*)"
    r"|(?P<dollar>\s(?:\$|US\$))"
    rf"|(?P<words>(?:\s[^\W\d_](?:[^\W\d_]|[{_VOWEL_SIGNS}]|[./'’²³-]|\^[23])*){{0,14}})",
    re.VERBOSE | re.IGNORECASE,
)
# Words after which the unit is over: "cups of feed", "years old".
_REST = {
    *(
        "of",
        "in",
        "for",
        "at",
        "on",
        "from",
        "with",
        "after",
        "before",
        "that",
        "which",
        "left",
        "old",
        "long",
        "tall",
    ),
    *("wide", "high", "deep", "away", "total", "remaining", "altogether", "ago", "later"),
}
_NO_CJK_UNITS = re.compile(r"[倍折成或和到至比是]|分之")


def parse_quantity(text: str) -> Quantity | None:
    """
    Read a number with its unit.

    Args:
        text (`str`):
            The whole text. It has ASCII digits, hyphens for minus signs, and single spaces.

    Returns:
        [`Quantity`] or `None`: The quantity, or `None` if the text is anything else.

    Examples:

    ```python
    >>> parse_quantity("1.234,5 kg")
    Quantity(value=Fraction(2469, 2), unit='kilogram', rest='', is_compound=False)
    >>> parse_quantity("5 or 6") is None
    True

    ```
    """
    text = _with_digits(text)
    match = _NUMBER.fullmatch(text)
    if match is None:
        return None
    value = _number(match)
    if value is None:
        return None
    unit, rest, scale = "", "", Fraction(1)
    if match["units"]:
        found = _unit(match["units"])
        if found is None:
            return _compound(text)
        unit, rest, scale = found
    if magnitude := match["magnitude"]:
        if magnitude.isascii() and magnitude.lower() != "k" and not match["currency"]:
            return None  # 5m may be algebra
        value *= _MAGNITUDES[magnitude.lower()]
    value *= scale
    if (match["sign"] or "+").strip() not in "+" or match["inner_sign"]:
        value = -value
    if currency := match["currency"]:
        name = UNIT_NAMES[unit_key(currency.lower().replace(" ", ""))]
        unit, rest = name, "" if unit == name else f"{unit} {rest}".strip()
    return Quantity(value, unit, rest)


def _with_digits(text: str) -> str:
    """Write numbers in words and halves with digits."""
    for sign, fraction in _FRACTIONS.items():
        if sign in text:
            text = re.sub(rf"(?<=[0-9])\s?{sign}", f" {fraction}", text).replace(sign, fraction)
    first = text[:1]
    if first.isalpha():
        text = _HALVES[0][0].sub(_HALVES[0][1], text, count=1) if text[:2].lower() in ("ha", "a ", "an") else text
        text = _HYPHENED_PARTS.sub(" ", text, count=1)
        text = _words_to_digits(_PARTS_OF.sub(_with_parts, text, count=1) if _PARTS_OF.match(text) else text)
        text = re.sub(r"^an? (?=dozen\b|hundred\b|thousand\b|million\b)", "1 ", text, flags=re.I)
    if " half" in text or " and a" in text:
        for pattern, replacement in _HALVES[1:]:
            text = pattern.sub(replacement, text, count=1)
    return _PARTS_OF.sub(_with_parts, text, count=1) if first.isalnum() and _PARTS_OF.match(text) else text


def _with_parts(match: re.Match[str]) -> str:
    """Write a match of `_PARTS_OF` with digits, if it is a fraction: two thirds, and not two fifth graders."""
    number = "1" if match["number"].lower() in ("a", "an") else _words_to_digits(match["number"])
    unit = (match["unit"] or "").strip().lower()
    is_coin = match["part"].lower() == "quarter" and match["number"].isdigit() and match["whole"] is None
    if (
        not number.isdigit()
        or (number == "1") != (not match["plural"])
        or (unit and unit_key(unit) not in UNIT_NAMES)
        or is_coin
    ):
        return match[0]
    whole = f"{match['whole']} " if match["whole"] else ""
    return f"{whole}{number}/{_PARTS[match['part'].lower()]}"


def _words_to_digits(text: str) -> str:
    """Write the number in words at the start of a text with digits, up to the thousands."""
    words = text.split(" ")
    total = group = 0
    used = 0
    last = 10**9
    for i, word in enumerate(words):
        lowered = word.lower()
        tens, _, ones = lowered.partition("-")
        if lowered in _WORDS:
            value = _WORDS[lowered]
        elif tens in _TENS and ones in _SMALL[1:10]:
            value = _WORDS[tens] + _WORDS[ones]
        elif lowered == "hundred" and 0 < group < 10:
            group, last, used = group * 100, 100, i + 1
            continue
        elif lowered == "thousand" and 0 < group and total == 0:
            total, group, last, used = group * 1000, 0, 1000, i + 1
            continue
        elif lowered == "and" and used == i > 0 and last >= 100 and words[i + 1 : i + 2] and group | total:
            continue
        else:
            break
        if value >= last or (last < 100 and (last < 20 or value >= 10)):
            break  # "five six" is not a number
        group, last, used = group + value, value if value else 1, i + 1
    if not used:
        return text
    return " ".join([str(total + group), *words[used:]])


def _number(match: re.Match[str]) -> Fraction | None:
    """Return the number of a match of `_NUMBER` without its sign."""
    if match["number"] is None:
        mantissa = _value(match["times"] or match["mantissa"] or "1")
        power = match["power"] or match["exponent"] or match["superscript"].translate(SUPERSCRIPTS)
        return None if mantissa is None else mantissa * Fraction(10) ** int(power)
    value = _value(match["number"])
    if value is None:
        return None
    return value / int(match["divisor"] or 1) + int(match["whole"] or 0)


def _value(digits: str) -> Fraction | None:
    """Return the value of digits with separators; `None` if their order makes no number."""
    if _PLAIN.fullmatch(digits):
        return Fraction(digits)
    if any(separator in digits for separator in " '’_"):
        return Fraction(re.sub(r"[ '’_]", "", digits).replace(",", "."))
    if _COMMA_GROUPS.fullmatch(digits):
        return Fraction(digits.replace(",", ""))
    if _POINT_GROUPS.fullmatch(digits):
        return Fraction(digits.replace(".", "").replace(",", "."))
    return Fraction(digits.replace(",", ".")) if _DECIMAL_COMMA.fullmatch(digits) else None


def _unit(text: str) -> tuple[str, str, Fraction] | None:
    """Return the name of a unit, the words after it and the scale before it; `None` if the text is no unit."""
    match = _UNIT_TEXT.fullmatch(text)
    if match is None:
        return None
    if cjk := match["cjk"]:
        return None if _NO_CJK_UNITS.search(cjk) else (UNIT_NAMES.get(cjk, cjk), "", Fraction(1))
    if match["attached"] and match["attached"].lower() not in ATTACHED_UNITS:
        return None
    words = text.lower().split()
    if not _NO_UNITS.isdisjoint(words) or words[:1] in (["pi"], ["π"]) or " ".join(words) in _FACTORS:
        return None
    if len(words) > _MAX_UNIT_WORDS and (len(words) > _MAX_PHRASE_WORDS or not _NO_PHRASE.isdisjoint(words)):
        return None
    scale = Fraction(1)
    if words and words[0].rstrip(".") in _SCALES:
        scale = Fraction(_SCALES[words.pop(0).rstrip(".")])
        if words[:1] == ["of"]:
            words.pop(0)
    for length in (3, 2, 1):  # the longest name that is known
        if name := UNIT_NAMES.get(unit_key(" ".join(words[:length]))):
            rest = words[length:]
            if not rest or rest[0] in _REST:
                return name, unit_key(" ".join(rest)), scale
    end = next((i for i, word in enumerate(words) if word in _REST and i > 0), len(words))
    name = unit_key(" ".join(words[:end]))
    return UNIT_NAMES.get(name, name), unit_key(" ".join(words[end:])), scale


_PART = re.compile(
    rf"({_DIGITS})\s?([^\W\d_{_CJK}]+\.?|[{_CJK}]{{1,3}})(?:,?\s(?:and|und|et|y|e|и)\s|,\s|\s|(?=[0-9])|$)", re.I
)


def _compound(text: str) -> Quantity | None:
    """Read several units of one dimension, from the largest to the smallest, such as 1 hour 30 minutes."""
    end, value = 0, Fraction(0)
    units: list[str] = []
    while part := _PART.match(text, end):
        end = part.end()
        number, name = _value(part[1]), part[2].lower()
        name = "minute" if name == "m" and units == ["hour"] else UNIT_NAMES.get(unit_key(name), "")
        if number is None or name not in UNIT_SIZES:
            return None
        dimension, size = UNIT_SIZES[name]
        if units and (dimension != UNIT_SIZES[units[-1]][0] or size >= UNIT_SIZES[units[-1]][1]):
            return None
        units.append(name)
        value += number * size
    if end < len(text) or len(units) < 2:
        return None
    return Quantity(value / UNIT_SIZES[units[-1]][1], units[-1], is_compound=True)


# Times

_HALF_NAMES = {
    **dict.fromkeys(("am", "上午", "早上", "凌晨", "午前", "오전", "ص"), 0),
    **dict.fromkeys(("pm", "下午", "晚上", "午後", "오후", "م"), 12),
    **dict.fromkeys(("in the morning",), 0),
    **dict.fromkeys(("in the afternoon", "in the evening"), 12),
}
_TIME = re.compile(
    r"""(?:at\s)?(?:(?P<half_first>上午|早上|凌晨|午前|오전|下午|晚上|午後|오후)\s?)?
        (?P<hour>[01]?[0-9]|2[0-4])
        (?: (?P<colon>:|\.(?=[0-9]{2}\s?(?:[ap]\.?\s?m|uhr)\b))(?P<minute>[0-5][0-9])(?::(?P<second>[0-5][0-9]))?
          | (?P<h>\s?h\s?)(?P<h_minute>[0-5][0-9])
          | \s?[点點時시](?!間|간)(?:\s?(?:(?P<cjk_minute>[0-5]?[0-9])\s?[分분]|(?P<cjk_half>半|반)))? )?
        (?P<tail>\s?(?:[ap]\.?\s?m\b\.?)|\s?uhr\b|\s?h(?:rs|oras?)?\b|\so['’]clock
          |\sin\sthe\s(?:morning|afternoon|evening)
          |\sص|\sم)?
        (?P<named>\s(?:noon|midnight))?""",
    re.VERBOSE | re.IGNORECASE,
)
_NAMED_TIMES = {
    **dict.fromkeys(("noon", "midday", "12 noon", "mittag", "midi", "mediodía", "mezzogiorno", "正午", "полдень"), 12),
    **dict.fromkeys(("midnight", "12 midnight", "mitternacht", "minuit", "medianoche", "mezzanotte", "полночь"), 0),
}
_SPOKEN_TIME = re.compile(
    r"(?P<part>half|(?:a\s)?quarter|[a-z]+(?:-[a-z]+)?|[0-9]{1,2})(?:\sminutes)?\s(?P<side>past|to|after|before|of)\s"
    r"(?P<hour>[a-z]+|[0-9]{1,2})(?P<tail>\s?[ap]\.?m\.?)?",
    re.I,
)


def parse_time(text: str) -> Time | None:
    """
    Read a time of day.

    Args:
        text (`str`):
            The whole text. It has ASCII digits and single spaces.

    Returns:
        [`Time`] or `None`: The time, or `None` if the text is anything else.

    Examples:

    ```python
    >>> parse_time("4:15 p.m.").matches(parse_time("16:15"))
    True
    >>> parse_time("12") is None
    True

    ```
    """
    lowered = text.lower()
    if (named := _NAMED_TIMES.get(lowered)) is not None:
        return Time(12, 0, 0, named, True)
    match = _TIME.fullmatch(text)
    if match is None:
        return _spoken_time(lowered) if " past " in lowered or "quarter to " in lowered else None
    hour, tail = int(match["hour"]), (match["tail"] or "").lower().replace(".", "").strip()
    has_minute = bool(match["colon"] or match["h_minute"] or re.search(r"[点點時시]", text))
    if not (has_minute or tail.startswith(("a", "p", "o", "in", "uhr", "ص", "م")) or match["half_first"]):
        return None  # a number, or hours
    if not has_minute and match["named"]:
        return None
    minute = int(match["minute"] or match["h_minute"] or match["cjk_minute"] or (30 if match["cjk_half"] else 0))
    tail = "".join(tail.split()) if tail[:1] in ("a", "p") else tail
    half = _HALF_NAMES.get(match["half_first"] or tail)
    if match["named"]:
        half = 12 if "noon" in match["named"].lower() else 0
    if half is not None:
        if hour > 12:
            return Time(hour, minute, int(match["second"] or 0), hour, True) if half == 12 else None
        return Time(hour, minute, int(match["second"] or 0), hour % 12 + half, True)
    is_24 = hour > 12 or match["hour"].startswith("0") or tail == "uhr"
    return Time(hour, minute, int(match["second"] or 0), hour % 24 if is_24 else None, False)


def _spoken_time(text: str) -> Time | None:
    match = _SPOKEN_TIME.fullmatch(text)
    if match is None:
        return None
    part, hour = (_words_to_digits(match[name]) for name in ("part", "hour"))
    minutes = {"half": "30", "quarter": "15", "a quarter": "15"}.get(part, part)
    if not (minutes.isdigit() and hour.isdigit() and 1 <= int(hour) <= 12 and 0 < int(minutes) < 60):
        return None
    is_before = match["side"] in ("to", "before", "of")
    written = (int(hour) - is_before - 1) % 12 + 1
    tail = (match["tail"] or "").replace(".", "").strip()
    day_hour = written % 12 + _HALF_NAMES[tail] if tail else None
    return Time(written, 60 - int(minutes) if is_before else int(minutes), 0, day_hour, bool(tail))


# The decimal mark of a reply

_SEPARATED = re.compile(r"[0-9]+(?:[.,][0-9]+)+")
# In English, "(0,5)" is a pair, so that only the second pattern counts.
_COMMA_SIGNS = re.compile(r"[0-9]+,(?:[0-9]{1,2}|[0-9]{4,})|0,[0-9]+")
_POINT_GROUP_SIGNS = re.compile(r"[0-9]{1,3}(?:\.[0-9]{3})+,[0-9]+|[0-9]{1,3}(?:\.[0-9]{3}){2,}")
_POINT_SIGNS = re.compile(
    r"[0-9]+\.(?:[0-9]{1,2}|[0-9]{4,})|0\.[0-9]+|[0-9]{1,3}(?:,[0-9]{3})+\.[0-9]+|[0-9]{1,3}(?:,[0-9]{3}){2,}"
)
_AMBIGUOUS = re.compile(r"(?<![0-9.,])((?!0)[0-9]{1,3})([.,])([0-9]{3})(?![0-9]|[.,][0-9])")


def with_decimal_point(answer: str, reply: str, language: str) -> str:
    """
    Rewrite `1.234` or `1,234` in an answer as `1234` or `1.234` where the reply has decimal commas.

    Args:
        answer (`str`):
            Answer that was read.
        reply (`str`):
            The whole reply. Its other numbers, such as `0,5` or `2.75`, decide.
        language (`str`):
            Language of the phrase that states the answer. It decides if the other numbers say nothing.

    Returns:
        `str`: The answer. It is the same if it has no such number, or the reply has decimal points.

    Examples:

    ```python
    >>> with_decimal_point("1.234", "0,5 + 1.233,5 = 1.234", "en")
    '1234'
    >>> with_decimal_point("1.234", "0.5 + 0.734 = 1.234", "de")
    '1.234'

    ```
    """
    found = _AMBIGUOUS.findall(answer)
    if len(found) != 1:
        return answer
    mark = found[0][1]
    others = set(_SEPARATED.findall(reply))
    has_points = any(map(_POINT_SIGNS.fullmatch, others))
    has_commas = any(map(_POINT_GROUP_SIGNS.fullmatch, others))
    if language != "en":
        has_commas = has_commas or any(map(_COMMA_SIGNS.fullmatch, others))
    if has_commas == has_points:
        if has_points or language not in _COMMA_LANGUAGES[mark]:
            return answer
    elif has_points:
        return answer
    return _AMBIGUOUS.sub(r"\1\3" if mark == "." else r"\1.\3", answer)


# Languages in which the period separates thousands, and in which the comma separates decimals.
_COMMA_LANGUAGES = {".": {"de", "es", "it", "pt"}, ",": {"de", "fr", "it", "pt", "ru"}}
