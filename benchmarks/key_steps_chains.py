"""
Chains of the key-step benchmark: their texts, their tokens with the characters of each, and the small tokenizers.
"""

import math
import os
import re
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from edit_trl import DataCollatorForDualCoT
from edit_trl.tasks import Span


# A step ends with a line, a sentence, or one of the headings of `edit_trl.tasks`, such as "The bracket:".
STEP_BREAK = re.compile(r"\n|(?<=[.?!])\s+|(?<=bracket:)\s+|(?<=Together:)\s+")


@dataclass(frozen=True)
class Chain:
    """A chain with the characters that its mistake and the consequences touch."""

    text: str
    spans: tuple[Span, ...] = ()


@dataclass(frozen=True)
class TokenChain:
    """Token IDs of a chain with the characters of each token. An end-of-sequence token has no characters."""

    text: str
    ids: list[int]
    offsets: list[tuple[int, int]]

    @cached_property
    def starts(self) -> list[int]:
        """Place of the first character of each token that is not whitespace."""
        return [next((i for i in range(*offset) if not self.text[i].isspace()), offset[0]) for offset in self.offsets]

    @cached_property
    def step_starts(self) -> list[int]:
        """Place of the first character of each step."""
        return [0, *(match.end() for match in STEP_BREAK.finditer(self.text))]

    @cached_property
    def steps(self) -> list[int]:
        """Number of the step of each token."""
        return [max(bisect_right(self.step_starts, start) - 1, 0) for start in self.starts]

    @cached_property
    def lines(self) -> list[int]:
        """Number of the line of each token."""
        breaks = [i for i, character in enumerate(self.text) if character == "\n"]
        return [bisect_left(breaks, start) for start in self.starts]

    def touches(self, start: int, end: int) -> list[bool]:
        """Return which tokens have a character in `[start, end)`, without the whitespace at its ends."""
        stripped = self.text[start:end].strip()
        start += self.text[start:end].find(stripped)
        return [a < start + len(stripped) and b > start for a, b in self.offsets]


@dataclass(frozen=True)
class TokenPair:
    """The two chains of a pair, with additional data that some rules need."""

    chosen: TokenChain
    rejected: TokenChain
    collator: DataCollatorForDualCoT  # with `alignment_level="word"`
    seed: str  # of the tokens drawn at random

    @property
    def sides(self) -> tuple[TokenChain, TokenChain]:
        return self.chosen, self.rejected


def tokenize(tokenizer: PreTrainedTokenizerBase, prompt: str, text: str) -> TokenChain:
    """Tokens of a chain as `prepare_dual_cots` makes them: after its prompt and a space, with an end of sequence."""
    start = len(prompt) + 1
    encoded = tokenizer(f"{prompt} {text}{tokenizer.eos_token}", return_offsets_mapping=True)
    kept = [
        (token, (min(max(a - start, 0), len(text)), min(max(b - start, 0), len(text))))
        for token, (a, b) in zip(encoded["input_ids"], encoded["offset_mapping"], strict=True)
        if a >= len(prompt)
    ]
    return TokenChain(text, [token for token, _ in kept], [offset for _, offset in kept])


def build_tokenizers(texts: Sequence[str], vocab_size: int = 800) -> dict[str, PreTrainedTokenizerBase]:
    """Build small tokenizers of four kinds. The same texts give the same tokenizers in every process."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    special: dict[str, Any] = {"special_tokens": ["</s>", "<unk>"], "show_progress": False}
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()

    bpe = tokenizers.Tokenizer(models.BPE())
    bpe.pre_tokenizer, bpe.decoder = byte_level, decoders.ByteLevel()
    bpe.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=vocab_size, initial_alphabet=alphabet, **special))

    characters = tokenizers.Tokenizer(models.BPE())
    characters.pre_tokenizer, characters.decoder = byte_level, decoders.ByteLevel()
    characters.train_from_iterator([], trainers.BpeTrainer(initial_alphabet=alphabet, **special))

    unigram = tokenizers.Tokenizer(models.Unigram(unigram_pieces(texts, vocab_size), unk_id=0))
    unigram.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split("\n", "isolated"), pre_tokenizers.Metaspace(prepend_scheme="never")]
    )
    unigram.decoder = decoders.Metaspace(prepend_scheme="never")

    words = tokenizers.Tokenizer(models.WordLevel(unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Split(tokenizers.Regex(r" ?\w+| ?[^\w\s]|\s"), "isolated")
    words.decoder = decoders.Fuse()
    words.train_from_iterator(texts, trainers.WordLevelTrainer(vocab_size=10**6, **special))

    built = {"bpe": bpe, "unigram": unigram, "words": words, "characters": characters}
    return {
        name: PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>", unk_token="<unk>")
        for name, tokenizer in built.items()
    }


def unigram_pieces(texts: Iterable[str], vocab_size: int) -> list[tuple[str, float]]:
    """
    Pieces with their log-probabilities, from plain counts.

    The trainer of `tokenizers` is not used because its pieces differ from process to process.
    """
    words = Counter(word for text in texts for word in text.replace(" ", " \u2581").split())
    counts: Counter[str] = Counter({"\n": 1})
    for word, number in words.items():
        for start in range(len(word)):
            for end in range(start + 1, min(len(word), start + 8) + 1):
                counts[word[start:end]] += number
    # First all characters, then the pieces that cover most of the text.
    kept = sorted(counts, key=lambda piece: (len(piece) > 1, -counts[piece] * len(piece), piece))[:vocab_size]
    total = sum(counts[piece] for piece in kept)
    return [("<unk>", -100.0), *((piece, math.log(counts[piece] / total)) for piece in kept)]
