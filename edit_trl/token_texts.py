"""
Tokenizers, and the text of tokens: one by one, or of the words that they make.

Decoding a token alone loses its leading space with many tokenizers, and a character may be spread over several tokens.
The functions here keep both right, for the alignment of words and for showing a chain token by token.
"""

from itertools import accumulate, pairwise
from typing import TYPE_CHECKING

from .alignment import word_lengths


if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def decode_part(tokenizer: "PreTrainedTokenizerBase", ids: list[int]) -> str:
    """
    Text of some tokens from the middle of a text, with the whitespace they carry there.

    Decoding a part on its own loses the leading space with many tokenizers, so it is decoded behind an anchor.

    Args:
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]):
            Tokenizer that made the token IDs.
        ids (`list[int]`):
            Token IDs.

    Returns:
        `str`: Their text, special tokens included.
    """
    anchor = tokenizer.encode("a", add_special_tokens=False)[-1:]
    options = {"skip_special_tokens": False, "clean_up_tokenization_spaces": False}
    return tokenizer.decode(anchor + list(ids), **options)[len(tokenizer.decode(anchor, **options)) :]


def decode_pieces(
    tokenizer: "PreTrainedTokenizerBase", ids: list[int], known_texts: dict[int, str] | None = None
) -> list[tuple[str, int]]:
    """
    Text of the tokens of a chain, one by one, or of the few that share a character.

    Args:
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]):
            Tokenizer that made the token IDs.
        ids (`list[int]`):
            Token IDs.
        known_texts (`dict[int, str]`, *optional*):
            Texts of single tokens, filled as they are met: a chain has hundreds, and the next chain the same ones.

    Returns:
        `list[tuple[str, int]]`: For each piece its text and number of tokens.
    """
    known = {} if known_texts is None else known_texts
    special_ids = set(tokenizer.all_special_ids)
    pieces: list[tuple[str, int]] = []
    start = 0
    for stop in range(1, len(ids) + 1):
        if stop - start > 1:
            text = decode_part(tokenizer, ids[start:stop])
        elif ids[start] in known:
            text = known[ids[start]]
        else:
            text = known[ids[start]] = decode_part(tokenizer, ids[start:stop])
        # A character may span several tokens: UTF-8 has at most four bytes to one.
        is_border = ids[start] in special_ids or stop == len(ids) or ids[stop] in special_ids
        if text.endswith("\ufffd") and stop - start < 4 and not is_border:
            continue
        pieces.append((text, stop - start))
        start = stop
    return pieces


def split_words(
    tokenizer: "PreTrainedTokenizerBase", ids: list[int], known_texts: dict[int, str] | None = None
) -> tuple[list[str], list[int]]:
    """
    Words of a chain, between whitespace borders; special tokens stand alone.

    Args:
        tokenizer, ids, known_texts:
            As for [`decode_pieces`].

    Returns:
        `tuple[list[str], list[int]]`: For each word its text, with the whitespace before it, and its number of tokens.
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
    A tokenizer by name.

    Args:
        option (`str`):
            Option that the name was given with, for the error.
        name (`str`):
            Name or folder.

    Returns:
        [`~transformers.PreTrainedTokenizerBase`]: The tokenizer.

    Raises:
        ValueError: If there is none.
    """
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(name)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"`{option}` must be the name or folder of a tokenizer, got {name!r} ({error}). Pass the student's, or "
            "leave it out to count words."
        ) from error
