"""Pairs and their statistics, for the tests of the inspection."""

import base64
import hashlib

from edit_trl.inspection import Statistics, read_pairs
from edit_trl.tasks import generate_dual_cots


ROW = {"prompt": "Q: 2 + 3?\nA:", "chosen": " 2 + 3 = 5. So 5.", "rejected": " 2 + 3 = 6. So 6."}

# Texts that would break a page, or be misread on it, if they were not data alone.
HOSTILE = {
    "script": "<script>document.title = 'hacked'</script> </script><!-- <![CDATA[ --><script>",
    "image": "<img src=x onerror=\"document.title = 'hacked'\"> <svg onload=\"document.title = 'hacked'\">",
    "quotes": "'single' \"double\" `tick` ${1} &amp; &lt; \\ \\u003c {{title}} {{pairs}}",
    "control": "NUL \0 escape \x1b[31m delete \x7f next line \x85",
    "separators": "line \u2028 paragraph \u2029 mark \ufeff",
    "surrogates": "high \ud83d and low \ude00 halves",
    "direction": "override \u202eabc\u202c isolate \u2066abc\u2069",
    "right to left": "שלום עולם, 2 + 3. مرحبا",
    "emoji": "👩‍👩‍👧 🏴 e\u0301\u0323 Z\u0351\u036b",
}


def pair_of(text, **columns):
    """A row whose prompt and chains hold a text."""
    return {
        "prompt": f"Q: {text}\nA:",
        "chosen": f" {text} gives 5. The answer is 5.",
        "rejected": f" {text} gives 6. The answer is 6.",
        **columns,
    }


def generated(num=60, **options):
    return [cot.to_pair() for cot in generate_dual_cots(num, **options)]


def statistics_of(pairs, tokenizer=None, config=None):
    statistics = Statistics(config, unit="tokens" if tokenizer else "words")
    for pair in pairs:
        statistics.add(pair)
    return statistics


def counted(rows, tokenizer=None, config=None):
    """Pairs, and the statistics of them."""
    pairs = list(read_pairs(rows, tokenizer, config))
    return pairs, statistics_of(pairs, tokenizer, config)


def summary_of(rows, tokenizer=None, config=None):
    return statistics_of(read_pairs(rows, tokenizer, config), tokenizer, config).summary()


def key_texts(pieces):
    return [piece.text for piece in pieces if piece.is_key]


def digest_of(content):
    """How a content security policy names the content of an element."""
    return "sha256-" + base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
