"""
Draw the pictures of the docs: `python docs/tools/draw.py docs/images`.

The key tokens and their weights are those that the package computes for the pair of the concept page.
"""

import html
import math
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from edit_trl.alignment import align, token_weights
from edit_trl.drawings import draw_alignment, draw_curves


CHOSEN = (
    "Plums count as fruits: 0 + 1 = 1. Apricots count as fruits: 1 + 5 = 6. Rabbits do not count as fruits: "
    "6 + 0 = 6. Kiwis count as fruits: 6 + 4 = 10. Therefore, the answer is 10."
)
REJECTED = (
    "Plums count as fruits: 0 + 1 = 1. Apricots count as fruits: 1 + 5 = 6. Rabbits count as fruits: "
    "6 + 5 = 11. Kiwis count as fruits: 11 + 4 = 15. Therefore, the answer is 15."
)

_WIDTH = 560
_PULLED, _PUSHED, _IGNORED = ("#d9f0dd", "#1c6b2e"), ("#f8dcdc", "#a12b2b"), ("#f2f4f6", "#6a737d")


def tokens(text: str) -> list[str]:
    """Words, numbers and punctuation: tokens that can be read in a picture."""
    return re.findall(r" ?\w+| ?[^\w\s]", text)


def image(width: int, height: float, parts: Sequence[str], family: str = "sans-serif") -> str:
    """An SVG image with a white background, for pages of any colour."""
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height:g}" width="{width}" '
        f'height="{height:g}" font-family="{family}" font-size="14"><rect width="100%" height="100%" fill="#ffffff"/>'
        f"{''.join(parts)}</svg>\n"
    )


def text(x: float, y: float, content: str, colour: str = "#1b1f24", more: str = "") -> str:
    """A line of text."""
    return f'<text x="{x:g}" y="{y:g}" fill="{colour}" {more}>{html.escape(content)}</text>'


def draw_pair() -> str:
    """Both chains, a step in a line, with the weight of each token as its colour."""
    chosen, rejected = tokens(CHOSEN), tokens(REJECTED)
    both = []
    for words, weights in zip((chosen, rejected), token_weights(align(chosen, rejected)), strict=True):
        steps: list[list[tuple[str, float]]] = [[]]
        for word, weight in zip(words, weights, strict=True):
            steps[-1].append((word, weight))
            if word == ".":
                steps.append([])
        both.append(steps[:-1])
    legend = [("α = 1: more likely", _PULLED), ("-β = -0.025: less likely", _PUSHED), ("0: not trained", _IGNORED)]
    parts = []
    for i, (label, (fill, ink)) in enumerate(legend):
        parts.append(f'<rect x="{10 + 182 * i}" y="10" width="172" height="22" rx="3" fill="{fill}"/>')
        parts.append(text(18 + 182 * i, 26, label, ink, 'font-size="13" font-family="sans-serif"'))
    y = 60.0
    for pair in zip(*both, strict=True):
        for name, step in zip(("right", "wrong"), pair, strict=True):
            x = 66.0
            parts.append(text(10, y, name, "#6a737d", 'font-size="12" font-family="sans-serif"'))
            for word, weight in step:
                width = 8.6 * len(word.strip())
                x += 6 if word.startswith(" ") and x > 66 else 0
                fill, ink = _PULLED if weight > 0 else _PUSHED if weight < 0 else _IGNORED
                parts.append(
                    f'<rect x="{x:g}" y="{y - 15:g}" width="{width + 3:g}" height="20" rx="2" fill="{fill}"/>'
                )
                more = f'textLength="{width:g}"' + (' font-weight="bold"' if weight else "")
                parts.append(text(x + 1.5, y, word.strip(), ink, more))
                x += width + 4
            y += 25
        y += 11
    return image(_WIDTH, y - 18, parts, "monospace")


def draw_stages() -> str:
    """From questions to a student, in boxes."""
    rows: list[list[tuple[str, str, str]]] = [
        [("Questions and answers", "your file", "#f2f4f6")],
        [("A teacher answers,", "hinted, or asked for a wrong reply", "#e6eefb")],
        [("Right chains", "completions", "#d9f0dd"), ("Dual chains", "right and wrong, nearly equal", "#f4ecd8")],
        [("Stage 1: SFT", "all tokens of right chains", "#e6eefb"), ("Stage 2: KRSL", "key tokens only", "#e6eefb")],
        [("The student", "scored on held-back questions", "#f2f4f6")],
    ]
    width, height, gap = 250, 52, 34
    arrow = 'stroke="#57606a" stroke-width="1.5" fill="none" marker-end="url(#head)"'
    parts = [
        '<defs><marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        '<path d="M0 0L8 4L0 8z" fill="#57606a"/></marker></defs>'
    ]

    def centre(row: int, place: int) -> float:
        return _WIDTH / 2 if len(rows[row]) == 1 else _WIDTH / 4 + place * _WIDTH / 2

    for row, boxes in enumerate(rows):
        y = 12 + row * (height + gap)
        for place, (title, what, fill) in enumerate(boxes):
            x = centre(row, place)
            parts.append(
                f'<rect x="{x - width / 2:g}" y="{y}" width="{width}" height="{height}" rx="6" fill="{fill}" '
                'stroke="#d0d7de"/>'
            )
            parts.append(text(x, y + 22, title, more='text-anchor="middle" font-weight="bold"'))
            parts.append(text(x, y + 41, what, "#57606a", 'text-anchor="middle" font-size="13"'))
    for row, start, end in [(0, 0, 0), (1, 0, 0), (1, 0, 1), (2, 0, 0), (2, 1, 1), (3, 1, 0)]:
        y = 12 + row * (height + gap) + height
        parts.append(f'<path d="M{centre(row, start):g} {y}L{centre(row + 1, end):g} {y + gap - 2}" {arrow}/>')
    y = 12 + 3 * (height + gap) + height / 2  # the student of stage 1 is the start of stage 2
    parts.append(f'<path d="M{centre(3, 0) + width / 2:g} {y:g}H{centre(3, 1) - width / 2 - 2:g}" {arrow}/>')
    return image(_WIDTH, 24 + len(rows) * height + (len(rows) - 1) * gap, parts)


def draw_token_loss() -> str:
    """What a key token adds to the loss at each probability."""
    places = [number / 100 for number in range(1, 100)]
    curves = {
        "right: -log p": [(p, -math.log(p)) for p in places],
        'wrong: β log p ("nll")': [(p, 0.025 * math.log(p)) for p in places],
        'wrong: -β log(1-p) ("unlikelihood")': [(p, -0.025 * math.log(1 - p)) for p in places],
    }
    return draw_curves(curves, x_label="probability p of the token")


def draw_chains() -> str:
    """The alignment of the end of the pair, as a notebook shows it."""
    alignment = align(*(tokens(chain[chain.index("Rabbits") :]) for chain in (CHOSEN, REJECTED)))
    return draw_alignment(alignment.chosen_key, alignment.rejected_key, alignment.blocks)


PICTURES = {
    "alignment.svg": draw_chains,
    "pair.svg": draw_pair,
    "stages.svg": draw_stages,
    "token_loss.svg": draw_token_loss,
}

if __name__ == "__main__":
    for name, draw in PICTURES.items():
        Path(sys.argv[1], name).write_text(draw(), encoding="utf-8")
