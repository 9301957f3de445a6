"""
Tests of pairs and statistics printed in a terminal.
"""

import io
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as some
from inspected import ROW, generated, summary_of
from rich.cells import cell_len
from rich.console import Console
from script_pairs import PAIRS, RIGHT_TO_LEFT

from edit_trl.inspection import print_statistics, read_pairs, show_pair
from edit_trl.inspection.pairs import PROBLEMS
from edit_trl.inspection.terminal import visible


def printed(*pairs, width=80, **options):
    file = io.StringIO()
    console_options = {name: options.pop(name) for name in ("force_terminal", "no_color") if name in options}
    console = Console(file=file, width=width, **console_options)
    for pair in pairs:
        show_pair(pair, console=console, **options)
    return file.getvalue()


class TestTerminal:
    def test_key_words_are_marked_where_there_is_no_colour(self):
        assert printed(ROW).splitlines() == [
            "Pair 0 · 28.6% key · similarity 0.71",
            "",
            "Q: 2 + 3?",
            "A:",
            "",
            "right: 2 + 3 = {+5.+} So {+5.+}",
            "",
            "wrong: 2 + 3 = [-6.-] So [-6.-]",
            "",
        ]

    def test_they_are_coloured_where_there_is(self, monkeypatch):
        monkeypatch.setattr(Console, "_environ", {"TERM": "xterm-256color"})

        shown = printed(ROW, force_terminal=True)

        assert "\x1b[1;4;32m 5.\x1b[0m" in shown and "\x1b[1;4;31m 6.\x1b[0m" in shown
        assert "{+" not in shown and "[-" not in shown

    def test_no_color_means_marks(self, monkeypatch):
        # Not `os.environ`: `Dataset.map(num_proc=...)` of another test may have put a copy in its place.
        monkeypatch.setattr(Console, "_environ", {"TERM": "xterm-256color", "NO_COLOR": "1"})

        shown = printed(ROW, force_terminal=True)

        assert "{+5.+}" in shown and "32m" not in shown

    def test_chains_stand_side_by_side_where_there_is_room(self):
        (line,) = [line for line in printed(ROW, width=120).splitlines() if "{+5.+}" in line]

        assert "{+5.+} So {+5.+}" in line and "[-6.-] So [-6.-]" in line
        assert all("[-" not in line for line in printed(ROW, width=99).splitlines() if "{+5.+}" in line)

    def test_shared_stretches_are_folded(self):
        words = [f"w{i}" for i in range(30)]
        row = {
            "prompt": "Q",
            "chosen": " ".join([*words, "yes", *words]),
            "rejected": " ".join([*words, "no", *words]),
        }

        (right,) = [line for line in printed(row, fold=2).splitlines() if line.startswith("right:")]
        assert right == "right: … 28 … w28 w29 {+yes+} w0 w1 … 28 …"
        assert "…" not in printed(row) and "…" not in printed(row, fold=30)
        assert "w15" in printed(row, fold=15) and "w15" not in printed(row, fold=14).split("Q")[1].split("{+")[0]

    def test_weights_are_listed_by_edit(self):
        shown = printed(ROW, weights=True)

        rows = [line for line in shown.splitlines() if "5." in line and "│" in line]
        assert [[cell.strip() for cell in row.split("│")[1:-1]] for row in rows] == [
            [str(i), "5.", "1", "6.", "-0.025"] for i in (1, 2)
        ]

    def test_replies_come_last(self):
        (pair,) = read_pairs([ROW])
        lines = printed(
            replace(pair, replies={"before": " I\x1b[31m do not know.\n", "after: right": "5"})
        ).splitlines()

        start = lines.index("before")
        assert lines[start:] == ["before", " I␛[31m do not know.", "", "after: right", "5", ""]
        assert lines[start - 2].startswith("wrong: 2 + 3 =")

    def test_pair_that_cannot_be_read_says_why(self):
        shown = printed({**ROW, "chosen": ""})

        assert shown.splitlines()[0] == "Pair 0 · missing"
        assert PROBLEMS["missing"] in " ".join(shown.split())

    def test_data_cannot_steer_the_terminal(self):
        """Escape sequences, rich's own marks, and what turns the direction of text."""
        nasty = "\x1b[31m\x07[bold]x[/] \u202eevil\u2069 \x9b2J"
        row = {"prompt": nasty, "chosen": f"{nasty} 5", "rejected": f"{nasty} 6", "task": nasty, "origin": "[red]o[/]"}

        shown = printed(row, width=200)
        summary = summary_of([row, {**row, "task": "b", "origin": "c", "chosen": f"{nasty}\x1b 5"}])
        file = io.StringIO()
        print_statistics(summary, Console(file=file, width=200))

        for text in (shown, file.getvalue()):
            assert not {"\x1b", "\x07", "\x9b", "\u202e", "\u2069"} & set(text)
        assert shown.count("[bold]x[/]") == 4
        assert "␛[31m␇" in shown and "⟨U+202E⟩evil" in shown

    @given(some.text(some.characters(codec=None)))
    def test_visible_text_has_no_control_characters(self, text):
        shown = visible(text)

        assert visible(shown) == shown
        shown.encode()
        assert all(ord(c) >= 0x20 and not 0x7F <= ord(c) < 0xA0 for c in shown if c not in "\n\t")

    def test_key_space_is_shown(self, tokenizer):
        (pair,) = read_pairs([{"prompt": "Q", "chosen": "a\n\n b", "rejected": "a b"}], tokenizer)

        assert "{+⏎" in printed(pair) or "⏎" in printed(pair)

    def test_statistics_are_printed_with_advice(self):
        rows = generated(20, seed=2)
        file = io.StringIO()
        summary = summary_of([*rows, rows[0], {**rows[1], "chosen": None}])

        print_statistics(summary, Console(file=file, width=120))

        text = file.getvalue()
        assert "22 pairs, in words" in text
        assert f"{summary['key_token_ratio']['both']['mean']:.1%}" in text
        for name in summary["by_task"]:
            assert name in text
        assert "2 pairs with problems" in text
        for advice in summary["advice"]:
            assert advice in " ".join(text.split())

    def test_one_pair_with_problems_is_one_pair(self):
        file = io.StringIO()

        print_statistics(summary_of([*generated(20, seed=2), {**ROW, "chosen": None}]), Console(file=file, width=120))

        assert "1 pair with problems" in file.getvalue()

    def test_pairs_with_keys_on_one_side_are_counted(self):
        file = io.StringIO()
        summary = summary_of([ROW, {**ROW, "rejected": f"{ROW['chosen']} Or 6."}])

        print_statistics(summary, Console(file=file, width=120))

        assert summary["one_sided"] == {"chosen": 1, "rejected": 0}
        assert "Without key words in the right chain (the wrong chain only adds words): 1 pairs" in file.getvalue()

    def test_negative_fold_is_refused(self):
        with pytest.raises(ValueError, match="`fold` must be at least 0, got -1"):
            show_pair(ROW, fold=-1)


class TestScripts:
    @pytest.mark.parametrize("name", PAIRS)
    def test_chains_of_every_script_are_whole(self, name):
        """Beside and below each other: no line is too wide, and no letter is lost."""
        for width in (60, 120):
            shown = printed(PAIRS[name], width=width)
            assert all(cell_len(line) <= width for line in shown.splitlines())
            if width == 60 or name in RIGHT_TO_LEFT:
                whole = "".join(shown.split())
                for side, name_of_side, marks in (
                    ("chosen", "right:", ("{+", "+}")),
                    ("rejected", "wrong:", ("[-", "-]")),
                ):
                    chain = whole.partition(name_of_side)[2].partition("wrong:")[0]
                    assert chain.replace(marks[0], "").replace(marks[1], "") == "".join(PAIRS[name][side].split())

    @pytest.mark.parametrize("name", ["Chinese", "Japanese", "Thai", "Lao"])
    @pytest.mark.parametrize("width", range(20, 60, 3))
    def test_no_number_is_wrapped(self, name, width):
        lines = printed(PAIRS[name], width=width).splitlines()
        assert not any(
            before.rstrip()[-1:].isdigit() and after[:1].isdigit()
            for before, after in zip(lines, lines[1:], strict=False)
        )
        assert sum(line.count("42") for line in lines) == 2
        assert not any(line[:1] in ("。", "、", "，") for line in lines if line)

    @pytest.mark.parametrize("name", RIGHT_TO_LEFT)
    def test_letters_from_right_to_left_are_not_printed_in_columns(self, name):
        """The name of the chain has a line of its own, so that it does not decide the direction of the chain."""
        lines = printed(PAIRS[name], width=160).splitlines()
        assert "right:" in lines and "wrong:" in lines
        assert PAIRS[name]["chosen"][:8] == lines[lines.index("right:") + 1][:8]

    def test_cells_of_such_letters_keep_their_place(self):
        row = {"prompt": "", "chosen": "זה כן", "rejected": "זה לא"}
        (line,) = [line for line in printed(row, width=120, weights=True).splitlines() if line.startswith("│ 1")]
        assert [cell.strip() for cell in line.split("│")[1:-1]] == [
            "1",
            "\u200eכן\u200e",
            "1",
            "\u200eלא\u200e",
            "-0.025",
        ]

    def test_zero_width_space_is_shown_where_it_ends_no_word(self):
        assert visible("ខ្មែរ\u200bល្អ ไทย\u200b4") == "ខ្មែរ\u200bល្អ ไทย\u200b4"
        assert visible("a\u200bb") == "a⟨U+200B⟩b"
