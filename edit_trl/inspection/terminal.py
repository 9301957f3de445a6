"""
Show pairs and statistics in a terminal or a notebook.

Key tokens are coloured, and the tokens that both chains share are dimmed. Without colour (a pipe, `NO_COLOR`) key
tokens are marked as in `git diff --word-diff`: `{+right+}` and `[-wrong-]`. This is a diff from the wrong chain to the
right chain, which is the direction of training.

Control characters in the data are printed as pictures or numbers, so that they cannot control the terminal.
"""

from typing import TYPE_CHECKING, Any

import regex

from ..words import split_text, unspaced_starts
from .pairs import PROBLEMS, InspectedPair, InspectionConfig, Piece, read_pairs


if TYPE_CHECKING:
    from rich.console import Console, Group
    from rich.table import Table
    from rich.text import Text


# Minimum width of a terminal, in characters, to show two chains side by side.
_MIN_WIDTH = 100

_STYLES = {"chosen": "bold underline green", "rejected": "bold underline red"}
_MARKS = {"chosen": ("{+", "+}"), "rejected": ("[-", "-]")}

# Control characters except line ends and tabs, marks that change the direction of text, characters without width, and
# single surrogates (halves of characters). The zero-width space ends a word in some scripts and stays there.
_SPACELESS = r"[\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}\p{Tibetan}]"
_INVISIBLE = regex.compile(
    "[\0-\x08\x0b-\x1f\x7f-\x9f\xad\u061c\u200e\u200f\u2028-\u202e\u2060-\u2069\ud800-\udfff\ufeff]"
    rf"|(?<!{_SPACELESS})\u200b(?!{_SPACELESS})"
)
# Letters that are read from right to left, and a mark that has no width and keeps what is beside it in its place.
_RIGHT_TO_LEFT = regex.compile(r"[\p{BidiClass=R}\p{BidiClass=AL}]")
_MARK = "\u200e"
_CLOSING = "、。，．：；！？）」』】》〉ー"


def show_pair(
    pair: "InspectedPair | dict[str, Any]",
    tokenizer: Any = None,
    config: InspectionConfig | None = None,
    *,
    weights: bool = False,
    fold: int | None = None,
    console: "Console | None" = None,
) -> None:
    """
    Print one pair with its key tokens marked.

    The chains are printed side by side if the terminal is wide enough, otherwise one below the other. So are chains
    with letters that are read from right to left: a terminal would change the order of the two columns. Replies of
    students, if the pair has any, come last.

    Args:
        pair ([`InspectedPair`] or `dict[str, Any]`):
            Pair from [`read_pairs`], or a row of a dataset.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`], *optional*):
            Tokenizer of the student, to read a row. Without it, rows are aligned by words.
        config ([`InspectionConfig`], *optional*):
            Options to read a row.
        weights (`bool`, *optional*, defaults to `False`):
            Whether to list the edits below the chains, with the weights of their tokens.
        fold (`int`, *optional*):
            Number of tokens to show at each end of a span that both chains share. `None` shows all tokens.
        console ([`~rich.console.Console`], *optional*):
            Where to print. Defaults to standard output or the notebook.

    Raises:
        ValueError: If `fold` is negative, or a column of the row is missing.

    Examples:

    ```python
    >>> row = {"prompt": "Q: 2 + 3?\\nA:", "chosen": " 2 + 3 = 5. So 5.", "rejected": " 2 + 3 = 6. So 6."}
    >>> from rich.console import Console
    >>> show_pair(row, console=Console(width=60, no_color=True))
    Pair 0 · 28.6% key · similarity 0.71
    <BLANKLINE>
    Q: 2 + 3?
    A:
    <BLANKLINE>
    right: 2 + 3 = {+5.+} So {+5.+}
    <BLANKLINE>
    wrong: 2 + 3 = [-6.-] So [-6.-]
    <BLANKLINE>

    ```
    """
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    if fold is not None and fold < 0:
        raise ValueError(f"`fold` must be at least 0, got {fold}. It is a number of tokens; `None` folds nothing.")
    if isinstance(pair, dict):
        (pair,) = read_pairs([pair], tokenizer, config)
    console = console or Console()
    console.print(Text(_title(pair)))
    console.print()
    if not (pair.chosen and (pair.rejected or pair.is_completion)):
        for problem in pair.problems:
            console.print(f"{problem}: {visible(pair.error or PROBLEMS[problem])}", highlight=False, markup=False)
        console.print()
        return
    console.print(_wrapped_by_words(Text(visible(pair.prompt).strip("\n"), style="italic")))
    console.print()
    if pair.is_completion:
        _print_chain("completion:", _chain(pair, "chosen", fold, False), console)
        return
    is_coloured = console.color_system is not None and not console.no_color
    chains = [_chain(pair, side, fold, is_coloured) for side in ("chosen", "rejected")]
    if console.width >= _MIN_WIDTH and not any(_RIGHT_TO_LEFT.search(chain.plain) for chain in chains):
        table = Table("right", "wrong", box=None, padding=(0, 2, 0, 0), expand=True)
        for column in table.columns:
            column.ratio, column.overflow = 1, "fold"
        table.add_row(*map(_wrapped_by_words, chains))
        console.print(table)
        if pair.replies:
            console.print()
    else:
        for name, chain in zip(("right:", "wrong:"), chains, strict=True):
            _print_chain(name, chain, console)
    for name, reply in (pair.replies or {}).items():
        console.print(_wrapped_by_words(Text(_in_place(visible(name)), style="bold")))
        console.print(_wrapped_by_words(Text(visible(reply).strip("\n"))))
        console.print()
    if weights:
        console.print(_edit_table(pair))


def chain_text(pair: InspectedPair, side: str) -> str:
    """
    Write a chain as plain text with its key tokens marked.

    Args:
        pair ([`InspectedPair`]):
            Pair from [`read_pairs`].
        side (`str`):
            `"chosen"` or `"rejected"`.

    Returns:
        `str`: The text.

    Examples:

    ```python
    >>> row = {"prompt": "Q: 2 + 3?\\nA:", "chosen": " 2 + 3 = 5. So 5.", "rejected": " 2 + 3 = 6. So 6."}
    >>> (pair,) = read_pairs([row])
    >>> chain_text(pair, "rejected")
    '2 + 3 = [-6.-] So [-6.-]'

    ```
    """
    return _chain(pair, side, None, False).plain


def _print_chain(name: str, chain: "Text", console: "Console") -> None:
    from rich.text import Text

    # The first letter of a line decides the direction of the line.
    space = "\n" if _RIGHT_TO_LEFT.search(chain.plain) else " "
    console.print(_wrapped_by_words(Text(name, style="bold") + Text(space) + chain), overflow="fold")
    console.print()


def _wrapped_by_words(text: "Text") -> "Group":
    """Return a text that is wrapped between words in scripts without spaces too. rich would wrap within numbers."""
    from rich.cells import cell_len
    from rich.console import Group
    from rich.containers import Lines
    from rich.text import Text

    if not unspaced_starts(text.plain):
        return Group(text)

    class WrappedByWords(Text):
        def wrap(self, console: "Console", width: int, **options: Any) -> Lines:  # type: ignore[override]
            lines = Lines()
            for line in self.split(allow_blank=True):
                line.expand_tabs(options.get("tab_size") or 8)
                words: list[str] = []
                for word in split_text(line.plain):
                    if words and word[0] in _CLOSING:  # no line begins with them
                        words[-1] += word
                    else:
                        words.append(word)
                breaks, place, used = [], 0, 0
                for word in words:
                    num_cells = cell_len(word)
                    if used and used + num_cells > width:
                        breaks.append(place)
                        used = 0
                    place, used = place + len(word), used + num_cells
                for part in line.divide(breaks):
                    lines.extend(
                        part.wrap(console, width, overflow="fold") if cell_len(part.plain) > width else [part]
                    )
            for line in lines:
                line.rstrip_end(width)
            return lines

    # A console prints a text as it is only within something else.
    return Group(WrappedByWords(text.plain, style=text.style, spans=text.spans, end=text.end))


def _in_place(text: str) -> str:
    """Keep letters that are read from right to left from changing the order of what is beside them."""
    return f"{_MARK}{text}{_MARK}" if _RIGHT_TO_LEFT.search(text) else text


def visible(text: str) -> str:
    """
    Replace the control characters of a text by characters that can be seen and have no effect.

    Args:
        text (`str`):
            Any text.

    Returns:
        `str`: The text with pictures or numbers instead of control characters, marks that change the direction of
        text, and halves of characters. Line ends and tabs are kept.

    Examples:

    ```python
    >>> visible("a\\x1b[31mb\\u202ec")
    'a␛[31mb⟨U+202E⟩c'

    ```
    """
    return _INVISIBLE.sub(_picture, text)


def _picture(match: "regex.Match[str]") -> str:
    code = ord(match[0])
    if code < 0x20:
        return chr(0x2400 + code)
    return "␡" if code == 0x7F else f"⟨U+{code:04X}⟩"


def _title(pair: InspectedPair) -> str:
    parts = [
        f"{'Completion' if pair.is_completion else 'Pair'} {pair.row}",
        *(_in_place(visible(name)) for name in (pair.task, pair.origin) if name),
    ]
    if pair.chosen and pair.rejected:
        parts += [f"{pair.key_token_ratio:.1%} key", f"similarity {pair.similarity:.2f}"]
    if pair.num_cut:
        parts.append(f"{pair.num_cut} cut, {pair.num_key_cut} of them key")
    if pair.problems:
        parts.append(", ".join(pair.problems))
    return " · ".join(parts)


def _chain(pair: InspectedPair, side: str, fold: int | None, is_coloured: bool) -> "Text":
    from rich.text import Text

    pieces: list[Piece] = getattr(pair, side)
    opening, closing = _MARKS[side]
    text = Text()
    start = 0
    while start < len(pieces):
        is_key = pieces[start].is_key
        stop = next((i for i in range(start, len(pieces)) if pieces[i].is_key != is_key), len(pieces))
        run = [visible(piece.text) for piece in pieces[start:stop]]
        if is_key:
            run = [_show_space(part) if not part.strip() else part for part in run]
        elif fold is not None and len(run) > 2 * fold + 1:
            # At the start and at the end of a chain, tokens are kept only on the side of the next edit.
            first, last = fold if start else 0, len(run) - fold if stop < len(pieces) else len(run)
            gap = "" if last == len(run) or run[last][:1].isspace() else " "
            run[first:last] = [f" … {last - first} …{gap}"]
        joined = "".join(run)
        if start == 0:
            joined = joined.lstrip(" ")
        if is_key and not is_coloured:
            word = joined.lstrip()
            joined = f"{joined[: len(joined) - len(word)]}{opening}{word}{closing}"
        text.append(joined, style=_STYLES[side] if is_key else "dim")
        start = stop
    return text


def _show_space(text: str) -> str:
    return text.replace(" ", "␣").replace("\t", "⇥").replace("\n", "⏎\n")


def _edit_table(pair: InspectedPair) -> "Table":
    from rich.table import Table
    from rich.text import Text

    table = Table("edit", "right", "weight", "wrong", "weight", title_justify="left")
    for column in (2, 4):
        table.columns[column].justify = "right"
    for number, (i, i_end, j, j_end) in enumerate(pair.edits, 1):
        cells: list[Any] = []
        for pieces in (pair.chosen[i:i_end], pair.rejected[j:j_end]):
            cells.append(Text(_in_place("".join(visible(piece.text) for piece in pieces).strip()) or "-"))
            cells.append(", ".join(dict.fromkeys(f"{piece.weight:g}" for piece in pieces)))
        table.add_row(str(number), *cells)
    return table


def print_statistics(summary: dict[str, Any], console: "Console | None" = None) -> None:
    """
    Print the statistics of a dataset and the advice for training.

    Args:
        summary (`dict[str, Any]`):
            Output of [`Statistics.summary`].
        console ([`~rich.console.Console`], *optional*):
            Where to print. Defaults to standard output or the notebook.
    """
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = console or Console()
    unit = summary["unit"]
    ratio = summary["key_token_ratio"]
    table = Table("", "mean", "5%", "25%", "median", "75%", "95%", title=f"{summary['pairs']:,} pairs, in {unit}")
    for name, numbers in {
        f"key {unit}": ratio["both"],
        "  of the right chain": ratio["chosen"],
        "  of the wrong chain": ratio["rejected"],
        "similarity": summary["similarity"],
        "shared before the first key": summary["shared_start"],
    }.items():
        if numbers["mean"] is not None:
            table.add_row(name, *(f"{number:.1%}" for number in (numbers["mean"], *numbers["quantiles"].values())))
    for number_column in table.columns[1:]:
        number_column.justify = "right"
    console.print(table)
    if summary["completions"]:
        console.print(f"Completions, without a wrong chain: {summary['completions']:,}.", highlight=False)
    paper = summary["paper"]["key_token_ratio"]
    console.print(f"The paper's pairs: about {paper:.1%} of tokens are key.", highlight=False)
    for column in ("task", "origin"):
        groups = summary[f"by_{column}"]
        if len(groups) > 1:
            table = Table(column, "pairs", f"key {unit}", "similarity", "with problems")
            for label, group in sorted(groups.items(), key=lambda item: -(item[1]["key_token_ratio"] or 0))[:40]:
                means = (
                    "-" if group[key] is None else f"{group[key]:.1%}" for key in ("key_token_ratio", "similarity")
                )
                table.add_row(Text(_in_place(visible(label))), f"{group['pairs']:,}", *means, f"{group['problems']:,}")
            console.print(table)
    for side, name in (("chosen", "right"), ("rejected", "wrong")):
        pieces = ", ".join(
            f"{_in_place(repr(visible(text)))} {num:,}" for text, num in summary["key_tokens"][side][:10]
        )
        if pieces:
            console.print(Text(f"Most frequent key {unit}, {name}: {pieces}"))
    cost, cut = summary["cost"], summary["truncation"]
    if cost["padded"]:
        console.print(
            f"Training: {cost['padded']:,} {unit} an epoch in two rows per pair, {cost['shared_prefix']:,} with "
            f"`shared_prefix` ({cost['shared_prefix'] / cost['padded']:.0%}). "
            f"Cut at `max_length={cut['max_length']}`: {cut[unit]:,}, of which {cut[f'key_{unit}']:,} key, in "
            f"{cut['pairs']:,} pairs.",
            highlight=False,
        )
        one_sided = summary["one_sided"]
        if any(one_sided.values()):
            console.print(
                f"Without key {unit} in the right chain (the wrong chain only adds {unit}): {one_sided['chosen']:,} "
                f"pairs; in the wrong chain: {one_sided['rejected']:,}.",
                highlight=False,
            )
    if summary["problems"]:
        noun = "pair" if summary["with_problems"] == 1 else "pairs"
        table = Table("problem", "pairs", "", title=f"{summary['with_problems']:,} {noun} with problems")
        for name, num in summary["problems"].items():
            table.add_row(name, f"{num:,}", PROBLEMS[name])
        console.print(table)
    for advice in summary["advice"]:
        console.print(Text(f"- {advice}"))
