"""
Decode token IDs token by token or word by word, and load tokenizers.

Many tokenizers lose the leading space if a token is decoded alone, and several tokens may make one character. The
functions here handle both cases, for the alignment of words and to show a chain token by token.
"""

from itertools import accumulate, pairwise, repeat
from typing import TYPE_CHECKING

import regex

from .alignment import word_lengths


if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


# Maximum number of tokens of one piece. More of them in a row are bytes that make no characters.
_MAX_JOINED = 32


def decode_part(tokenizer: "PreTrainedTokenizerBase", ids: list[int]) -> str:
    """
    Decode some tokens from the middle of a text, with their whitespace.

    Many tokenizers lose the leading space of a part that is decoded alone. So the part is decoded after another token,
    whose text is then removed.

    Args:
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]):
            Tokenizer that made the token IDs.
        ids (`list[int]`):
            Token IDs.

    Returns:
        `str`: The text, including special tokens.
    """
    anchor = tokenizer.encode("a", add_special_tokens=False)[-1:]
    options = {"skip_special_tokens": False, "clean_up_tokenization_spaces": False}
    return tokenizer.decode(anchor + list(ids), **options)[len(tokenizer.decode(anchor, **options)) :]


def decode_pieces(
    tokenizer: "PreTrainedTokenizerBase", ids: list[int], known_texts: dict[int, str] | None = None
) -> list[tuple[str, int]]:
    """
    Decode a chain token by token. Tokens that make one character together, with its marks, are one piece.

    Args:
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]):
            Tokenizer that made the token IDs.
        ids (`list[int]`):
            Token IDs.
        known_texts (`dict[int, str]`, *optional*):
            Cache of the texts of single tokens, which this function fills. Pass it again for the next chain, which has
            many of the same tokens.

    Returns:
        `list[tuple[str, int]]`: For each piece, its text and its number of tokens.
    """
    known = {} if known_texts is None else known_texts
    for token in set(ids).difference(known):
        known[token] = decode_part(tokenizer, [token])
    texts = list(map(known.__getitem__, ids))
    whole_text = "".join(texts)
    if whole_text.isascii():  # each token has whole characters, and none is a mark
        return list(zip(texts, repeat(1), strict=False))
    special_ids = set(tokenizer.all_special_ids)
    if "\ufffd" not in whole_text:
        return _with_their_marks(list(zip(texts, repeat(1), strict=False)), [token in special_ids for token in ids])
    pieces: list[tuple[str, int]] = []
    start = 0
    whole, last = "", 0  # whole characters of the piece so far, and where the last of them was completed
    for stop in range(1, len(ids) + 1):
        text = texts[start] if stop - start == 1 else decode_part(tokenizer, ids[start:stop])
        # Several tokens may make one character, and a token may end one character and begin the next. A character has
        # at most four bytes in UTF-8, so it is complete after at most four tokens.
        if text.rstrip("\ufffd") != whole:
            whole, last = text.rstrip("\ufffd"), stop - 1
        is_border = ids[start] in special_ids or stop == len(ids) or ids[stop] in special_ids
        if text.endswith("\ufffd") and stop - last < 4 and stop - start < _MAX_JOINED and not is_border:
            continue
        pieces.append((text, stop - start))
        start = last = stop
        whole = ""
    return _with_their_marks(pieces, [token in special_ids for token in ids])


def _with_their_marks(pieces: list[tuple[str, int]], special: list[bool]) -> list[tuple[str, int]]:
    """Join each piece that begins inside a character, such as an accent or a Thai vowel, to the piece before it."""
    text = "".join(text for text, _ in pieces)
    borders = {match.end() for match in regex.finditer(r"\X", text)} | {0}
    joined: list[tuple[str, int]] = []
    place = num_tokens = 0
    for piece, length in pieces:
        if place in borders or special[num_tokens - 1] or special[num_tokens]:
            joined.append((piece, length))
        else:
            joined[-1] = (joined[-1][0] + piece, joined[-1][1] + length)
        place += len(piece)
        num_tokens += length
    return joined


def split_words(
    tokenizer: "PreTrainedTokenizerBase", ids: list[int], known_texts: dict[int, str] | None = None
) -> tuple[list[str], list[int]]:
    """
    Split a chain into words at whitespace, and in scripts without spaces at characters, as [`alignment.word_lengths`]
    does. Each special token is a word of its own.

    Args:
        tokenizer, ids, known_texts:
            As for [`decode_pieces`].

    Returns:
        `tuple[list[str], list[int]]`: The text of each word, with the whitespace before it, and the number of tokens
        of each word.
    """
    special_ids = set(tokenizer.all_special_ids)
    pieces = decode_pieces(tokenizer, ids, known_texts)
    starts = list(accumulate((length for _, length in pieces), initial=0))
    texts = [text for text, _ in pieces]
    lengths = word_lengths(texts, [ids[start] in special_ids for start in starts[:-1]])
    borders = list(accumulate(lengths, initial=0))
    words = ["".join(texts[i:j]) for i, j in pairwise(borders)]
    return words, [starts[j] - starts[i] for i, j in pairwise(borders)]


def load_tokenizer(option: str, name: str) -> "PreTrainedTokenizerBase":
    """
    Load a tokenizer.

    Args:
        option (`str`):
            Option that gave the name, for the error message.
        name (`str`):
            Name on the Hub, or folder.

    Returns:
        [`~transformers.PreTrainedTokenizerBase`]: The tokenizer.

    Raises:
        ValueError: If there is no such tokenizer.
    """
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(name)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"`{option}` must be the name or folder of a tokenizer, got {name!r} ({error}). Pass the student's "
            "tokenizer, or leave the option out to count words."
        ) from error
