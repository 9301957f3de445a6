"""
Split text into words, in scripts with and without spaces between words.

In most scripts a word is what stands between two spaces, with its punctuation. Chinese, Japanese, Thai, Lao, Khmer,
Burmese and some others write no spaces between words, so there a whole chain of thought would be one word. In these
scripts a word is here the smallest part that a reader sees as one: a character with its marks (a grapheme cluster), a
run of katakana, or a Tibetan syllable. Finding longer words needs a dictionary, and only tells more edits apart. Runs
of other scripts between them, such as numbers and Latin words, are words too.

Text in which every word is between spaces is split at the spaces alone.
"""

import re

import regex


# Letters of scripts that write no spaces between words. Their digits are not among them: a number is one word.
_LETTERS = (
    r"\p{Ideographic}\p{Han}\p{Hiragana}\p{Katakana}\p{Bopomofo}\p{Yi}ー\p{Tibetan}"
    r"\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}\p{Tai_Le}\p{New_Tai_Lue}\p{Tai_Tham}\p{Tai_Viet}\p{Ahom}"
    r"\p{Javanese}\p{Balinese}"
)
# Punctuation of these scripts, in the width of an ideograph: 、。「」（），：＝ and more. Full-width digits and
# letters are not among it.
_PUNCTUATION = (
    r"\u3001-\u3003\u3008-\u3020\u3030\u303b-\u303f・゠\ufe30-\ufe6b"
    r"\uff01-\uff0f\uff1a-\uff20\uff3b-\uff40\uff5b-\uff65\uffe0-\uffee"
)
_BREAKS = r"\u0f0b\u0f0c\u1361"  # marks between Tibetan syllables, and between Ethiopic words in older spelling
# `\s` of `regex` leaves out the separators of files that `str.isspace` has. The zero-width space separates words.
_SPACE = r"\s\x1c-\x1f\u200b"
_ONE = rf"[[{_LETTERS}{_PUNCTUATION}]--[\p{{M}}\p{{Nd}}{_BREAKS}]]"  # begins a word of one character with its marks

_UNSPACED = regex.compile(rf"{_ONE}|[{_BREAKS}\u200b]", regex.V1)
# A class that has all of these characters (the first two are Bopomofo). Most text has none, and `re` is far quicker.
_PERHAPS_UNSPACED = re.compile("[\u02ea\u02eb\u0e00-\U0010ffff]")
_WORD_UNSPACED = regex.compile(
    r"(?:(?=[\p{Katakana}ー])\X)+"
    rf"|(?:(?=[\p{{Tibetan}}&&\p{{L}}])\X)+[{_BREAKS}]*"
    rf"|(?={_ONE})\X(?:(?=\p{{M}})\X)*"  # some Burmese vowels are marks, but clusters of their own
    rf"|(?:(?!{_ONE}|[{_SPACE}{_BREAKS}])\X)+[{_BREAKS}]*"  # a word of another script, or a number
    rf"|[{_BREAKS}]+",
    regex.V1,
)
_WORD = re.compile(r"\s*\S+")
_SPACES = re.compile(r"[\s\u200b]*")


def split_text(text: str) -> list[str]:
    """
    Split a text into words, each with the whitespace before it.

    Args:
        text (`str`):
            Any text.

    Returns:
        `list[str]`: The words. Joined, they are the text without the whitespace at its end.

    Examples:

    ```python
    >>> split_text("So the answer is 42.")
    ['So', ' the', ' answer', ' is', ' 42.']
    >>> split_text("答案是42。 正しい")
    ['答', '案', '是', '42', '。', ' 正', 'し', 'い']

    ```
    """
    if not _has_unspaced(text):
        return _WORD.findall(text)
    pieces: list[str] = []
    place = 0
    while True:
        spaces = _SPACES.match(text, place)
        unit = _WORD_UNSPACED.match(text, spaces.end() if spaces else place)
        if unit is None:
            return pieces
        pieces.append(text[place : unit.end()])
        place = unit.end()


def words(text: str) -> list[str]:
    """
    Split a text into words, without whitespace.

    Args:
        text (`str`):
            Any text.

    Returns:
        `list[str]`: The words. For text with spaces between all words, this is `text.split()`.

    Examples:

    ```python
    >>> words("คำตอบคือ 42")
    ['คำ', 'ต', 'อ', 'บ', 'คื', 'อ', '42']

    ```
    """
    if not _has_unspaced(text):
        return text.split()
    return [piece[_lead(piece) :] for piece in split_text(text)]


def unspaced_starts(text: str) -> set[int]:
    """
    Return the places of a text where a word starts without whitespace before it.

    Args:
        text (`str`):
            Any text.

    Returns:
        `set[int]`: The places, without the start of the text. Empty for text with spaces between all words.

    Examples:

    ```python
    >>> sorted(unspaced_starts("x=5 的答案")), unspaced_starts("x = 5")
    ([5, 6], set())

    ```
    """
    if not _has_unspaced(text):
        return set()
    starts = set()
    place = 0
    for piece in split_text(text):
        start = place + _lead(piece)
        if not text[start - 1 : start].isspace():
            starts |= {place, start}
        place += len(piece)
    return starts - {0}


def _has_unspaced(text: str) -> bool:
    """Tell whether a text has a word that starts without whitespace before it."""
    if text.isascii():
        return False
    first = _PERHAPS_UNSPACED.search(text)
    return first is not None and _UNSPACED.search(text, first.start()) is not None


def _lead(piece: str) -> int:
    spaces = _SPACES.match(piece)
    return spaces.end() if spaces else 0
