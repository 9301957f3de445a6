"""
Bring characters that differ only in form into one form, before an answer is read.

Digits of all scripts, full-width letters and punctuation become ASCII; marks that are not seen (of direction, of zero
width, control characters) are removed. Quotes, dashes and letters stay as they are.
"""

import re
import unicodedata


_DIGITS = {
    code: str(unicodedata.digit(chr(code)))
    for code in range(128, 0x20000)  # later planes have none
    if unicodedata.category(chr(code)) == "Nd"
}
# Full-width ASCII. The full-width marks "！" and "？" stay: they end a sentence without a space after them.
_FULL_WIDTH = {code: chr(code - 0xFEE0) for code in range(0xFF01, 0xFF5F) if chr(code) not in "！？"}
_UNSEEN = dict.fromkeys(
    [
        *(code for code in range(32) if chr(code) not in "\t\n\r\x0b\x0c"),
        *(0x7F, 0xAD, 0x061C, 0x200B, 0x200E, 0x200F, 0x2060, 0xFEFF),
        *range(0x202A, 0x202F),
        *range(0x2066, 0x206A),
    ]
)
_PUNCTUATION = dict(zip(map(ord, "٫٬٪،؛؟∶﹕﹐\u3000\x85\u2028\u2029"), ".,%,;?::, \n\n\n", strict=True))
_TABLE = {**_DIGITS, **_FULL_WIDTH, **_UNSEEN, **_PUNCTUATION}
_CONTROL = re.compile(r"[\x00-\x08\x0e-\x1f\x7f]")


def plain_characters(text: str) -> str:
    """
    Bring the characters of a text into one form.

    Args:
        text (`str`):
            Any text.

    Returns:
        `str`: The text with ASCII digits and without full-width forms, unseen marks and carriage returns.

    Examples:

    ```python
    >>> plain_characters("（Ｃ） ４２، ٤٢, ४२")
    '(C) 42, 42, 42'

    ```
    """
    if "\r" in text:
        text = text.replace("\r\n", "\n").replace("\r", "\n")
    if text.isascii() and not _CONTROL.search(text):
        return text
    return text.translate(_TABLE)
