"""Pairs as HTML and Markdown, with their key tokens marked, for notebooks and trackers."""

import html
import itertools

from .log_probs import piece_log_probs
from .pairs import InspectedPair, Piece
from .terminal import visible


# Text and background of key tokens of the right and of the wrong chain. Readable on pages of either colour.
_COLOURS = {"chosen": ("#0b5d1e", "#cdeccd"), "rejected": ("#8a1c1c", "#f8d4d4")}


def chain_html(pair: InspectedPair, side: str) -> str:
    """
    Write a chain as HTML with its key tokens coloured.

    Args:
        pair ([`InspectedPair`]):
            Pair from [`read_pairs`]. If [`add_log_probs`] added them, the log-probability of a key token, in nats, is
            shown when the mouse is over it, beside its weight.
        side (`str`):
            `"chosen"`, green, or `"rejected"`, red.

    Returns:
        `str`: HTML without a script. The text is escaped, and its control characters are shown.

    Examples:

    ```python
    >>> from edit_trl.inspection import read_pairs
    >>> row = {"prompt": "Q: 2 + 3?\\nA:", "chosen": " 2 + 3 = 5. So 5.", "rejected": " 2 + 3 = 6. So 6."}
    >>> (pair,) = read_pairs([row])
    >>> chain_html(pair, "chosen").count("<mark")
    2

    ```
    """
    pieces: list[Piece] = getattr(pair, side)
    colour, background = _COLOURS[side]
    log_probs = piece_log_probs(pair, side)
    parts = []
    for piece, log_prob in zip(pieces, log_probs, strict=True):
        text = html.escape(visible(piece.text)).replace("\n", "<br>")
        if piece.is_key:
            known = "" if log_prob is None else f", log-probability {log_prob:.2f}"
            style = f"color:{colour};background:{background};font-weight:600;border-radius:2px"
            text = f'<mark style="{style}" title="weight {piece.weight:g}{known}">{text}</mark>'
        parts.append(text)
    return "".join(parts)


def chain_markdown(pair: InspectedPair, side: str) -> str:
    """
    Write a chain as Markdown with its key tokens bold.

    They are in `<strong>`, which Markdown takes everywhere. Its own mark has no effect beside other letters, as in
    `3**(5)**`.

    Args:
        pair ([`InspectedPair`]):
            Pair from [`read_pairs`].
        side (`str`):
            `"chosen"` or `"rejected"`.

    Returns:
        `str`: One line. What Markdown or HTML would read as a mark is escaped.

    Examples:

    ```python
    >>> from edit_trl.inspection import read_pairs
    >>> row = {"prompt": "Q: 2 + 3?\\nA:", "chosen": " 2 + 3 = 5. So 5.", "rejected": " 2 + 3 = 6. So 6."}
    >>> (pair,) = read_pairs([row])
    >>> print(chain_markdown(pair, "chosen"))
     2 + 3 = <strong>5.</strong> So <strong>5.</strong>

    ```
    """
    parts: list[str] = []
    for is_key, pieces in itertools.groupby(getattr(pair, side), key=lambda piece: piece.is_key):
        text = markdown_text("".join(piece.text for piece in pieces))
        word = text.strip()
        parts.append(text.replace(word, f"<strong>{word}</strong>", 1) if is_key and word else text)
    return "".join(parts)


def markdown_text(text: str) -> str:
    """
    Write a text as Markdown that shows the text itself.

    Args:
        text (`str`):
            Any text.

    Returns:
        `str`: One line, also for a cell of a table. What Markdown or HTML would read as a mark is escaped.

    Examples:

    ```python
    >>> print(markdown_text("2*3 < 7\\n[yes]"))
    2\\*3 &lt; 7 ⏎ \\[yes\\]

    ```
    """
    text = html.escape(visible(text), quote=False).replace("\n", " ⏎ ")
    return "".join(f"\\{character}" if character in r"\`*_[]#|~" else character for character in text)


def pair_html(pair: InspectedPair) -> str:
    """
    Write a pair as HTML: its prompt, both chains with coloured key tokens, and replies if it has any. Notebooks show a
    pair in this form.

    Args:
        pair ([`InspectedPair`]):
            Pair from [`read_pairs`].

    Returns:
        `str`: HTML without a script.
    """
    numbers = [f"{'Completion' if pair.is_completion else 'Pair'} {pair.row}"]
    if pair.chosen and pair.rejected:
        numbers += [f"{pair.key_token_ratio:.1%} key", f"similarity {pair.similarity:.2f}"]
    title = html.escape(" · ".join([*numbers, *pair.problems]))

    def escaped(text: str) -> str:
        return html.escape(visible(text)).replace("\n", "<br>")

    cells = [("prompt", escaped(pair.prompt))]
    cells += [(name, chain_html(pair, side)) for name, side in (("right", "chosen"), ("wrong", "rejected"))]
    cells += [(escaped(name), escaped(reply)) for name, reply in (pair.replies or {}).items()]
    rows = "".join(
        f'<tr><th style="text-align:left;vertical-align:top">{name}</th>'
        f'<td style="text-align:left;white-space:pre-wrap">{content}</td></tr>'
        for name, content in cells
        if content
    )
    return f"<table><caption>{title}</caption>{rows}</table>"
