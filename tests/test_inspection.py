"""
Tests of what is read out of pairs, against a slow computation written here; of the numbers of a dataset; and of what is
printed of both.
"""

import io
import json
import math
import random
import statistics as st
import tracemalloc
from pathlib import Path

import pytest
from conftest import build_tokenizer
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as some
from rich.console import Console

from edit_trl import DataCollatorForDualCoT, align, similarity
from edit_trl.data_utils import prepare_dual_cots
from edit_trl.inspection import InspectionConfig, Statistics, print_statistics, read_pairs, show_pair
from edit_trl.inspection.statistics import DROPPED, PROBLEMS, advise
from edit_trl.inspection.terminal import visible
from edit_trl.tasks import generate_dual_cots


ROW = {"prompt": "Q: 2 + 3?\nA:", "chosen": " 2 + 3 = 5. So 5.", "rejected": " 2 + 3 = 6. So 6."}
SHARED_DATA = Path(__file__).parents[2] / "shared" / "data"


def pair_of(*texts, tokenizer=None, config=None, **columns):
    row = {**dict(zip(("prompt", "chosen", "rejected"), texts, strict=True)), **columns}
    (pair,) = read_pairs([row], tokenizer, config)
    return pair


def statistics_of(rows, tokenizer=None, config=None):
    statistics = Statistics(config, "tokens" if tokenizer else "words")
    for pair in read_pairs(rows, tokenizer, config):
        statistics.add(pair)
    return statistics.summary()


def texts_of(pieces):
    return "".join(piece.text for piece in pieces)


def key_texts(pieces):
    return [piece.text for piece in pieces if piece.is_key]


def printed(*pairs, width=80, **options):
    file = io.StringIO()
    console_options = {name: options.pop(name) for name in ("force_terminal", "no_color") if name in options}
    console = Console(file=file, width=width, **console_options)
    for pair in pairs:
        show_pair(pair, console=console, **options)
    return file.getvalue()


class TestWords:
    def test_key_words_are_those_that_differ(self):
        pair = pair_of(*ROW.values())

        assert key_texts(pair.chosen) == [" 5.", " 5."]
        assert key_texts(pair.rejected) == [" 6.", " 6."]
        assert pair.edits == [(4, 5, 4, 5), (6, 7, 6, 7)]
        assert (pair.num_prompt, pair.num_chosen, pair.num_rejected) == (5, 7, 7)
        assert (pair.num_chosen_key, pair.num_rejected_key, pair.num_shared) == (2, 2, 4)
        assert pair.similarity == pytest.approx(5 / 7)
        assert pair.key_token_ratio == 4 / 14
        assert (pair.problems, pair.ids) == ([], None)

    def test_space_between_words_is_no_difference(self):
        pair = pair_of("Q", "one two\n three", "one  two three four")

        assert key_texts(pair.chosen) == []
        assert key_texts(pair.rejected) == [" four"]
        assert pair.edits == [(3, 3, 3, 4)]

    def test_implicit_prompt_is_the_common_start_up_to_a_word(self):
        (pair,) = read_pairs([{"chosen": "Q: 1 + 1? It is two.", "rejected": "Q: 1 + 1? It is twelve."}])

        assert pair.prompt == "Q: 1 + 1? It is "
        assert (texts_of(pair.chosen), texts_of(pair.rejected)) == ("two.", "twelve.")

    def test_contents_of_messages_are_read(self):
        ask, right, wrong = ([{"role": "user", "content": text}] for text in ("2 + 3?", "It is 5.", "It is 6."))

        pair = pair_of(ask, right, wrong)

        assert (pair.prompt, key_texts(pair.chosen), key_texts(pair.rejected)) == ("2 + 3?", [" 5."], [" 6."])

    @given(
        some.lists(some.sampled_from(["a", "b", "7", "=", "🎈"]), min_size=1, max_size=12),
        some.lists(some.sampled_from(["a", "b", "7", "=", "🎈"]), min_size=1, max_size=12),
    )
    @settings(deadline=None)
    def test_pieces_give_back_the_chains_and_edits_what_is_not_shared(self, right, wrong):
        pair = pair_of("Q", " ".join(right), " ".join(wrong))

        assert (texts_of(pair.chosen), texts_of(pair.rejected)) == (" ".join(right), " ".join(wrong))
        for (start, stop), pieces in (
            (slice_ends, pieces)
            for edit in pair.edits
            for slice_ends, pieces in ((edit[:2], pair.chosen), (edit[2:], pair.rejected))
        ):
            assert all(piece.is_key for piece in pieces[start:stop])
        assert sum(edit[1] - edit[0] for edit in pair.edits) == sum(piece.is_key for piece in pair.chosen)
        assert sum(edit[3] - edit[2] for edit in pair.edits) == sum(piece.is_key for piece in pair.rejected)
        # Without the edits both chains are the same.
        rests = []
        for side, pieces in ((0, pair.chosen), (2, pair.rejected)):
            cut = {i for edit in pair.edits for i in range(edit[side], edit[side + 1])}
            rests.append([piece.text.strip() for i, piece in enumerate(pieces) if i not in cut])
        assert rests[0] == rests[1]


class TestTokens:
    @pytest.mark.parametrize("level", ["token", "word"])
    def test_it_sees_what_the_collator_sees(self, level, tokenizer):
        """Tokens, weights and key tokens of each pair are those of a batch of the trainer's."""
        rows = [cot.to_pair() for cot in generate_dual_cots(12, level=2, seed=3)]
        prepared = prepare_dual_cots(Dataset.from_list(rows), tokenizer, eos_token=tokenizer.eos_token)
        collator = DataCollatorForDualCoT(0, 0.9, 0.05, 0.01, alignment_level=level, tokenizer=tokenizer)
        config = InspectionConfig(level, "symmetric", 0.9, 0.05, 0.01, max_length=None)

        pairs = list(read_pairs(rows, tokenizer, config))

        for example, pair in zip(prepared, pairs, strict=True):
            batch = collator([example])
            scored = {}
            for chain, t, weight, key in zip(
                *(batch[f"scored_{name}"].tolist() for name in ("chains", "positions", "weights", "key")), strict=True
            ):
                scored[chain, t + 1 - len(example["prompt_ids"])] = (weight, key)
            assert pair.ids == {name: example[name] for name in ("prompt_ids", "chosen_ids", "rejected_ids")}
            assert [pair.num_chosen_key, pair.num_rejected_key] == batch["num_key_tokens"].tolist()
            for side, pieces in enumerate((pair.chosen, pair.rejected)):
                t = 0
                for piece in pieces:
                    own = [scored.get((side, i), (0.0, False)) for i in range(t, t + piece.num_tokens)]
                    assert piece.is_key == any(key for _, key in own)
                    assert piece.weight in [pytest.approx(weight) for weight, key in own if key == piece.is_key]
                    t += piece.num_tokens

    def test_pieces_give_back_the_text_whatever_tokens_cut(self, any_tokenizer):
        """Characters of several tokens, of which the chains share the first."""
        texts = ("Q: ?\nA:", " So 😀 and é, 漢字.", " So 😂 and è, 漢子.")
        pair = pair_of(*texts, tokenizer=any_tokenizer)

        for text, pieces, ids in zip(
            texts[1:], (pair.chosen, pair.rejected), (pair.ids["chosen_ids"], pair.ids["rejected_ids"]), strict=True
        ):
            whole = any_tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
            assert texts_of(pieces).strip() == whole.strip()
            assert sum(piece.num_tokens for piece in pieces) == len(ids)
            if "[UNK]" not in whole and "<unk>" not in whole:
                assert text.strip() in whole
        for (i, i_end, j, j_end), (next_i, _, next_j, _) in zip(pair.edits, pair.edits[1:], strict=False):
            assert i <= i_end <= next_i and j <= j_end <= next_j

    def test_numbers_are_those_of_the_tokens(self, tokenizer):
        for row in [cot.to_pair() for cot in generate_dual_cots(6, level=2, seed=5)]:
            (pair,) = read_pairs([row], tokenizer, InspectionConfig(max_length=None))
            chosen, rejected = pair.ids["chosen_ids"], pair.ids["rejected_ids"]
            alignment = align(chosen, rejected)

            assert pair.num_chosen_key == sum(alignment.chosen_key)
            assert pair.similarity == similarity(chosen, rejected)
            shared = next(
                (i for i, (a, b) in enumerate(zip(chosen, rejected, strict=False)) if a != b),
                min(len(chosen), len(rejected)),
            )
            assert pair.num_shared == shared

    def test_truncation_is_counted_and_not_aligned(self, tokenizer):
        row = generate_dual_cots(1, level=3, seed=2)[0].to_pair()
        (whole,) = read_pairs([row], tokenizer, InspectionConfig(max_length=None))
        limit = whole.num_prompt + whole.num_shared + 3
        (pair,) = read_pairs([row], tokenizer, InspectionConfig(max_length=limit))

        room = limit - whole.num_prompt
        assert pair.num_cut == whole.num_chosen + whole.num_rejected - 2 * room
        alignment = align(whole.ids["chosen_ids"], whole.ids["rejected_ids"])
        assert pair.num_key_cut == sum(alignment.chosen_key[room:]) + sum(alignment.rejected_key[room:]) > 0
        assert pair.chosen == whole.chosen
        (pair,) = read_pairs([row], tokenizer, InspectionConfig(max_length=whole.num_prompt + whole.num_shared))
        assert "keys_cut" in pair.problems
        (pair,) = read_pairs([row], tokenizer, InspectionConfig(max_length=whole.num_prompt))
        assert "no_room" in pair.problems

    def test_weights_of_the_data_stand_in_for_the_alignment(self, tokenizer):
        (pair,) = read_pairs([ROW], tokenizer)
        weights = [[0.0] * pair.num_chosen, [0.0] * pair.num_rejected]
        weights[0][1], weights[1][2] = 0.5, -0.25
        row = {**pair.ids, "chosen_weights": weights[0], "rejected_weights": weights[1]}

        (weighted,) = read_pairs([row], tokenizer)

        assert (weighted.num_chosen_key, weighted.num_rejected_key) == (1, 1)
        assert [piece.weight for piece in weighted.chosen if piece.is_key] == [0.5]
        assert [piece.weight for piece in weighted.rejected if piece.is_key] == [-0.25]


class TestProblems:
    @pytest.mark.parametrize(
        ("row", "problems"),
        [
            ({**ROW, "chosen": " "}, ["missing"]),
            ({**ROW, "rejected": None}, ["missing"]),
            ({**ROW, "prompt": ""}, ["missing"]),
            ({**ROW, "chosen": 5}, ["unreadable"]),
            ({**ROW, "chosen": ["5"]}, ["unreadable"]),
            ({**ROW, "rejected": "7 " * 600_000}, ["too_long"]),
            ({**ROW, "rejected": ROW["chosen"]}, ["equal"]),
            ({**ROW, "rejected": " Not at all like it, but 6."}, ["not_dual"]),
            ({**ROW, "rejected": " 2 + 3 = 6. So the answer is 5."}, []),
            (
                {**ROW, "chosen": " 2 + 3 = 5. So the answer is 5.", "rejected": " 2 + 3 = 5. So the answer is 6."},
                ["only_answer_differs"],
            ),
            ({**ROW, "chosen": " So the answer is 5.", "rejected": " Hence the answer is 5."}, ["same_answer"]),
            ({**ROW, "answer": "7", "chosen": " So the answer is 5."}, ["not_dual", "chosen_is_wrong"]),
            (
                {**ROW, "answer": "6", "chosen": " So the answer is 5.", "rejected": " So the answer is 6."},
                ["chosen_is_wrong", "rejected_is_right"],
            ),
            (
                {**ROW, "answer": "5", "chosen": " So the answer is 5.", "rejected": " So the answer is 6."},
                [],
            ),
        ],
        ids=lambda value: ",".join(value) or "none" if isinstance(value, list) else "",
    )
    @pytest.mark.parametrize("reads_tokens", [False, True])
    def test_each_is_named(self, row, problems, reads_tokens, tokenizer):
        (pair,) = read_pairs([row], tokenizer if reads_tokens else None)

        if reads_tokens and "not_dual" in problems:  # tokens are more alike than words
            problems = [name for name in problems if name != "not_dual"]
            pair.problems = [name for name in pair.problems if name != "not_dual"]
        assert pair.problems == problems
        assert set(problems) <= set(PROBLEMS)

    def test_one_bad_row_stops_nothing(self, tokenizer):
        """Rows of several kinds, one after the other."""
        messages = {name: [{"role": role, "content": ROW[name]}] for name, role in ROLES.items()}
        rows = [ROW, {"prompt": "Q"}, {**ROW, "chosen": messages["chosen"]}, {}, {**ROW, "prompt": "Q: 2+3"}]

        pairs = list(read_pairs(rows, tokenizer))

        assert [pair.problems for pair in pairs] == [[], ["missing"], ["unreadable"], ["missing"], []]
        assert [pair.row for pair in pairs] == [0, 1, 2, 3, 4]

    def test_plain_and_conversational_rows_may_be_mixed(self):
        chat_tokenizer = build_tokenizer()
        chat_tokenizer.chat_template = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
        messages = {name: [{"role": role, "content": ROW[name]}] for name, role in ROLES.items()}

        pairs = list(read_pairs([ROW, messages, ROW], chat_tokenizer))

        assert [pair.problems for pair in pairs] == [[], [], ["duplicate"]]
        assert all(pair.num_chosen_key for pair in pairs)

    def test_second_of_equal_pairs_is_a_duplicate(self):
        pairs = list(read_pairs([ROW, {**ROW, "prompt": "Q: 3 + 2?\nA:"}, ROW, ROW]))

        assert [pair.problems for pair in pairs] == [[], [], ["duplicate"], ["duplicate"]]

    @pytest.mark.parametrize(
        ("row", "message"),
        [({"question": "2 + 3?"}, "chosen"), ({"prompt_ids": [1], "chosen_ids": [2], "rejected_ids": [3]}, "--model")],
    )
    def test_other_columns_are_refused(self, row, message):
        with pytest.raises(ValueError, match=message):
            list(read_pairs([row]))

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"alignment_level": "step"}, "`alignment_level` must be 'token' or 'word', got 'step'"),
            ({"tie_break": "left"}, "`tie_break` must be 'symmetric' or 'reference', got 'left'"),
            ({"min_similarity": 1.5}, "`min_similarity` must lie between 0 and 1, got 1.5"),
            ({"max_length": 1}, "`max_length` must be at least 2 or `None`, got 1"),
        ],
    )
    def test_options_that_cannot_work_are_refused(self, options, message):
        with pytest.raises(ValueError, match=message):
            InspectionConfig(**options)


ROLES = {"prompt": "user", "chosen": "assistant", "rejected": "assistant"}


class TestStatistics:
    def test_numbers_are_those_of_the_pairs(self):
        rows = [{**cot.to_pair(), "origin": "abc"[i % 3]} for i, cot in enumerate(generate_dual_cots(40, seed=1))]
        rows += [rows[0], {**rows[1], "chosen": ""}]

        summary = statistics_of(rows)

        pairs = [pair for pair in read_pairs(rows) if pair.chosen]
        ratios = sorted(pair.key_token_ratio for pair in pairs)
        assert (summary["pairs"], summary["readable_pairs"], summary["unit"]) == (42, 41, "words")
        assert summary["problems"]["duplicate"] == summary["problems"]["missing"] == 1
        both = summary["key_token_ratio"]["both"]
        assert both["mean"] == pytest.approx(st.mean(ratios), abs=1e-4)
        assert both["quantiles"]["0.5"] == pytest.approx(st.median(ratios), abs=1e-4)
        assert list(both["quantiles"].values()) == sorted(both["quantiles"].values())
        for side in ("chosen", "rejected"):
            shares = [sum(piece.is_key for piece in getattr(pair, side)) / len(getattr(pair, side)) for pair in pairs]
            assert summary["key_token_ratio"][side]["mean"] == pytest.approx(st.mean(shares), abs=1e-4)
        assert summary["similarity"]["mean"] == pytest.approx(st.mean(pair.similarity for pair in pairs), abs=1e-4)
        for column in ("task", "origin"):
            for name, group in summary[f"by_{column}"].items():
                own = [pair for pair in pairs if getattr(pair, column) == name]
                assert group["pairs"] == sum(row[column] == name for row in rows)
                assert group["similarity"] == pytest.approx(st.mean(pair.similarity for pair in own), abs=1e-4)
        for side in ("chosen", "rejected"):
            texts = [text for pair in pairs for text in key_texts(getattr(pair, side))]
            text, num = summary["key_tokens"][side][0]
            assert texts.count(text) == num == max(map(texts.count, set(texts)))
        json.dumps(summary, allow_nan=False)

    def test_cost_is_that_of_the_layouts(self, tokenizer):
        rows = [cot.to_pair() for cot in generate_dual_cots(8, level=2, seed=4)]
        prepared = prepare_dual_cots(Dataset.from_list(rows), tokenizer, eos_token=tokenizer.eos_token)
        for limit in (None, 60):
            costs = {}
            for layout in ("padded", "shared_prefix"):
                collator = DataCollatorForDualCoT(0, max_length=limit, layout=layout)
                batches = [collator([example])["input_ids"] for example in prepared]
                costs[layout] = sum(batch.numel() for batch in batches)

            assert statistics_of(rows, tokenizer, InspectionConfig(max_length=limit))["cost"] == costs

    def test_dropped_pairs_are_those_of_the_trainer(self, tokenizer):
        rows = [cot.to_pair() for cot in generate_dual_cots(6, level=1, seed=4)]
        rows[1]["chosen"] = rows[1]["rejected"]
        rows[2]["prompt"] = None
        rows[3]["prompt"] = "Q: " + "very " * 200 + "long?\nA:"
        rows[4]["rejected"] = "  "
        columns = {name: [row[name] for row in rows] for name in ("prompt", "chosen", "rejected")}

        pairs = list(read_pairs(rows, tokenizer, InspectionConfig(max_length=150)))
        prepared = prepare_dual_cots(
            Dataset.from_dict(columns), tokenizer, eos_token=tokenizer.eos_token, max_length=150
        )

        left = [pair.example["prompt"] for pair in pairs if not set(pair.problems) & set(DROPPED)]
        assert left == prepared["prompt"][:]
        assert len(left) == 2

    def test_memory_does_not_grow_with_the_pairs(self):
        """A few dozen bytes a pair; the chains alone are a thousand."""
        cots = [cot.to_pair() for cot in generate_dual_cots(50, level=2, seed=1)]

        def rows(number):
            rng = random.Random(0)
            for i in range(number):
                yield {**rng.choice(cots), "prompt": f"Question {i}"}

        peaks = []
        for number in (200, 1000):
            tracemalloc.start()
            assert statistics_of(rows(number))["pairs"] == number
            peaks.append(tracemalloc.get_traced_memory()[1])
            tracemalloc.stop()
        assert (peaks[1] - peaks[0]) / 800 < 300

    def test_infrequent_words_are_forgotten_first(self, monkeypatch):
        monkeypatch.setattr("edit_trl.inspection.statistics._MAX_COUNTED", 50)
        rows = [{"prompt": "Q", "chosen": f"it is {i} twice", "rejected": "it is not twice"} for i in range(200)]
        rows += [{"prompt": "Q", "chosen": "it is so twice", "rejected": "it is not twice"}] * 5

        summary = statistics_of(rows[200:] + rows[:200])

        assert summary["key_tokens"]["chosen"][0] == (" so", 5)
        assert summary["key_tokens"]["rejected"] == [(" not", 205)]

    def test_nothing_is_said_of_no_pairs(self):
        summary = Statistics().summary()

        assert (summary["pairs"], summary["key_token_ratio"]["both"]["mean"]) == (0, None)
        assert summary["advice"] == ["There is no pair."]


class TestAdvice:
    def advice(self, rows, **options):
        return " ".join(statistics_of(rows, config=InspectionConfig(**options))["advice"])

    def test_good_pairs_need_none(self):
        words = "one two three four five six seven eight nine ten".split()
        rows = [
            {"prompt": f"Q{i}", "chosen": " ".join([*words, "So", str(i)]), "rejected": " ".join([*words, "So", "x"])}
            for i in range(4)
        ]

        assert self.advice(rows) == ""

    def test_chains_that_are_told_anew_are_not_dual(self):
        rows = [{"prompt": "Q", "chosen": "a b c d e f g", "rejected": "h i j d k l m"}]

        assert "86% of the words are key: these chains are not dual" in self.advice(rows)
        assert "1 of 1 pairs share less than 50% of their words" in self.advice(rows)

    @pytest.mark.parametrize(
        ("row", "options", "advice"),
        [
            ({**ROW, "rejected": ROW["chosen"]}, {}, "would be left out by the trainer"),
            ({**ROW, "answer": "9", "chosen": " 2 + 3 = 5. So the answer is 5."}, {}, "teach a wrong answer"),
            ({**ROW, "answer": "6", "rejected": " 2 + 3 = 6. So the answer is 6."}, {}, "push the right answer away"),
            ({**ROW, "prompt": "Q"}, {"max_length": 7}, "are cut at `max_length=7`"),
            ({**ROW, "prompt": "Q"}, {"max_length": 4}, "have all key tokens beyond `max_length=4`: raise it"),
            ({**ROW, "chosen": 5}, {}, "No pair can be read"),
        ],
    )
    def test_what_is_amiss_is_said(self, row, options, advice):
        assert advice in self.advice([row], **options)

    def test_every_problem_has_its_sentence(self):
        """Each problem alone makes the advice longer."""
        summary = statistics_of([ROW] * 2)
        summary["problems"] = {}
        summary["truncation"]["pairs"] = 0
        without = advise(summary, InspectionConfig())

        for name in PROBLEMS:
            assert len(advise({**summary, "problems": {name: 1}}, InspectionConfig())) > len(without), name


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
        monkeypatch.delenv("NO_COLOR", raising=False)
        monkeypatch.setenv("TERM", "xterm-256color")

        shown = printed(ROW, force_terminal=True)

        assert "\x1b[1;4;32m 5.\x1b[0m" in shown and "\x1b[1;4;31m 6.\x1b[0m" in shown
        assert "{+" not in shown and "[-" not in shown

    def test_no_color_means_marks(self, monkeypatch):
        monkeypatch.setenv("NO_COLOR", "1")

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

    def test_pair_that_cannot_be_read_says_why(self):
        shown = printed({**ROW, "chosen": ""})

        assert shown.splitlines()[0] == "Pair 0 · missing"
        assert PROBLEMS["missing"] in " ".join(shown.split())

    def test_data_cannot_steer_the_terminal(self):
        """Escape sequences, rich's own marks, and what turns the direction of text."""
        nasty = "\x1b[31m\x07[bold]x[/] \u202eevil\u2069 \x9b2J"
        row = {"prompt": nasty, "chosen": f"{nasty} 5", "rejected": f"{nasty} 6", "task": nasty, "origin": "[red]o[/]"}

        shown = printed(row, width=200)
        summary = statistics_of([row, {**row, "task": "b", "origin": "c", "chosen": f"{nasty}\x1b 5"}])
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
        pair = pair_of("Q", "a\n\n b", "a b", tokenizer=tokenizer)

        assert "{+⏎" in printed(pair) or "⏎" in printed(pair)

    def test_statistics_are_printed_with_advice(self):
        rows = [cot.to_pair() for cot in generate_dual_cots(20, seed=2)]
        file = io.StringIO()
        summary = statistics_of([*rows, rows[0], {**rows[1], "chosen": None}])

        print_statistics(summary, Console(file=file, width=120))

        text = file.getvalue()
        assert "22 pairs, in words" in text
        assert f"{summary['key_token_ratio']['both']['mean']:.1%}" in text
        for name in summary["by_task"]:
            assert name in text
        assert "2 pairs with problems" in text
        for advice in summary["advice"]:
            assert advice in " ".join(text.split())

    def test_pairs_with_keys_on_one_side_are_counted(self):
        file = io.StringIO()
        summary = statistics_of([ROW, {**ROW, "rejected": f"{ROW['chosen']} Or 6."}])

        print_statistics(summary, Console(file=file, width=120))

        assert summary["one_sided"] == {"chosen": 1, "rejected": 0}
        assert "Without key words in the right chain (the wrong one only adds): 1 pairs" in file.getvalue()

    def test_negative_fold_is_refused(self):
        with pytest.raises(ValueError, match="`fold` must be at least 0, got -1"):
            show_pair(ROW, fold=-1)


@pytest.mark.skipif(not SHARED_DATA.is_dir(), reason="needs the shared data")
class TestRealPairs:
    def test_chains_of_chatgpt(self):
        """42 pairs of 14 BIG-Bench Hard tasks; sorting words by hand is told anew, object counting is not."""
        with open(SHARED_DATA / "bbh_dual_cots.jsonl", encoding="utf-8") as file:
            summary = statistics_of(map(json.loads, file))

        assert summary["pairs"] == summary["readable_pairs"] == 42
        by_task = {name: group["key_token_ratio"] for name, group in summary["by_task"].items()}
        assert by_task["object_counting"] < 0.05 < 0.25 < by_task["word_sorting"]
        assert not math.isnan(summary["similarity"]["mean"])
