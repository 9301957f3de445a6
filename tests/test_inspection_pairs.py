"""
Tests of the inspected pairs, against the collator's batches and slow computations written here.
"""

import subprocess
import sys
from dataclasses import fields

import pytest
from conftest import build_tokenizer
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as some
from inspected import ROW, generated, key_texts

from edit_trl import DataCollatorForDualCoT, EDITConfig, align, similarity
from edit_trl.data_utils import prepare_dual_cots
from edit_trl.inspection import InspectionConfig, read_pairs
from edit_trl.inspection.pairs import DROPPED, PROBLEMS
from edit_trl.token_texts import decode_part, decode_pieces


ROLES = {"prompt": "user", "chosen": "assistant", "rejected": "assistant"}


def read(*texts, tokenizer=None, config=None, **columns):
    row = {**dict(zip(("prompt", "chosen", "rejected"), texts, strict=True)), **columns}
    (pair,) = read_pairs([row], tokenizer, config)
    return pair


def texts_of(pieces):
    return "".join(piece.text for piece in pieces)


class TestWords:
    def test_key_words_are_those_that_differ(self):
        pair = read(*ROW.values())

        assert key_texts(pair.chosen) == [" 5.", " 5."]
        assert key_texts(pair.rejected) == [" 6.", " 6."]
        assert pair.edits == [(4, 5, 4, 5), (6, 7, 6, 7)]
        assert (pair.num_prompt, pair.num_chosen, pair.num_rejected) == (5, 7, 7)
        assert (pair.num_chosen_key, pair.num_rejected_key, pair.num_shared) == (2, 2, 4)
        assert pair.similarity == pytest.approx(5 / 7)
        assert pair.key_token_ratio == 4 / 14
        assert (pair.problems, pair.ids) == ([], None)

    def test_space_between_words_is_no_difference(self):
        pair = read("Q", "one two\n three", "one  two three four")

        assert key_texts(pair.chosen) == []
        assert key_texts(pair.rejected) == [" four"]
        assert pair.edits == [(3, 3, 3, 4)]

    def test_implicit_prompt_is_the_common_start_up_to_a_word(self):
        (pair,) = read_pairs([{"chosen": "Q: 1 + 1? It is two.", "rejected": "Q: 1 + 1? It is twelve."}])

        assert pair.prompt == "Q: 1 + 1? It is "
        assert (texts_of(pair.chosen), texts_of(pair.rejected)) == ("two.", "twelve.")

    def test_contents_of_messages_are_read(self):
        ask, right, wrong = ([{"role": "user", "content": text}] for text in ("2 + 3?", "It is 5.", "It is 6."))

        pair = read(ask, right, wrong)

        assert (pair.prompt, key_texts(pair.chosen), key_texts(pair.rejected)) == ("2 + 3?", [" 5."], [" 6."])

    @given(
        some.lists(some.sampled_from(["a", "b", "7", "=", "🎈"]), min_size=1, max_size=12),
        some.lists(some.sampled_from(["a", "b", "7", "=", "🎈"]), min_size=1, max_size=12),
    )
    @settings(deadline=None)
    def test_pieces_give_back_the_chains_and_edits_what_is_not_shared(self, right, wrong):
        pair = read("Q", " ".join(right), " ".join(wrong))

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
        """Tokens, weights and key tokens of each pair agree with a batch of the trainer."""
        rows = generated(12, level=2, seed=3)
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
        pair = read(*texts, tokenizer=any_tokenizer)

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
        for row in generated(6, level=2, seed=5):
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
        row = generated(1, level=3, seed=2)[0]
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

    @given(
        prompt=some.lists(some.integers(10, 12), max_size=4),
        chosen=some.lists(some.integers(10, 14), min_size=1, max_size=10),
        rejected=some.lists(some.integers(10, 14), min_size=1, max_size=10),
        limit=some.none() | some.integers(2, 14),
        mode=some.sampled_from(["keep_start", "keep_end"]),
    )
    @settings(deadline=None)
    def test_what_is_cut_and_what_it_costs_is_that_of_the_collator(
        self, tokenizer, prompt, chosen, rejected, limit, mode
    ):
        example = {"prompt_ids": prompt, "chosen_ids": chosen, "rejected_ids": rejected}
        options = {"max_length": limit, "truncation_mode": mode}

        (pair,) = read_pairs([example], tokenizer, InspectionConfig(**options))

        collators = {name: DataCollatorForDualCoT(0, layout=name, **options) for name in ("padded", "shared_prefix")}
        lengths = collators["padded"]([example])["num_completion_tokens"].tolist()
        assert pair.num_cut == len(chosen) + len(rejected) - sum(lengths)
        alignment = align(chosen, rejected)
        kept = [
            key[:length] if mode == "keep_start" else key[len(key) - length :]
            for key, length in zip((alignment.chosen_key, alignment.rejected_key), lengths, strict=True)
        ]
        assert pair.num_key_cut == pair.num_chosen_key + pair.num_rejected_key - sum(map(sum, kept))
        assert pair.cost == {
            "padded": 2 * collators["padded"].row_length(example),
            "shared_prefix": collators["shared_prefix"].row_length(example),
        }

    @pytest.mark.parametrize(("mode", "is_left"), [("keep_start", False), ("keep_end", True)])
    def test_long_prompt_leaves_room_if_the_end_is_kept(self, mode, is_left, tokenizer):
        config = InspectionConfig(max_length=20, truncation_mode=mode)

        (pair,) = read_pairs([{**ROW, "prompt": "Q: " + "very " * 20 + "long?\nA:"}], tokenizer, config)

        assert ("no_room" not in pair.problems) == is_left
        assert (pair.num_cut == 0) == is_left

    @pytest.mark.parametrize("mode", ["keep_start", "keep_end"])
    def test_dropped_pairs_are_those_of_the_trainer(self, mode, tokenizer):
        rows = generated(6, level=1, seed=4)
        rows[1]["chosen"] = rows[1]["rejected"]
        rows[2]["prompt"] = None
        rows[3]["prompt"] = "Q: " + "very " * 200 + "long?\nA:"
        rows[4]["rejected"] = "  "
        columns = {name: [row[name] for row in rows] for name in ("prompt", "chosen", "rejected")}
        options = {"max_length": 150, "truncation_mode": mode}

        pairs = list(read_pairs(rows, tokenizer, InspectionConfig(**options)))
        prepared = prepare_dual_cots(Dataset.from_dict(columns), tokenizer, eos_token=tokenizer.eos_token, **options)

        left = [pair.example["prompt"] for pair in pairs if not set(pair.problems) & set(DROPPED)]
        assert left == prepared["prompt"][:]
        assert len(left) == (2 if mode == "keep_start" else 3)

    def test_equal_chains_with_weights_are_not_dropped(self, tokenizer):
        row = {"prompt_ids": [10], "chosen_ids": [11, 12], "rejected_ids": [11, 12]}
        weights = {"chosen_weights": [1.0, 0.0], "rejected_weights": [0.0, 0.0]}

        (equal,) = read_pairs([row], tokenizer)
        (weighted,) = read_pairs([{**row, **weights}], tokenizer)

        assert "equal" in equal.problems and "equal" not in weighted.problems

    def test_weights_of_the_data_replace_the_alignment(self, tokenizer):
        (pair,) = read_pairs([ROW], tokenizer)
        weights = [[0.0] * pair.num_chosen, [0.0] * pair.num_rejected]
        weights[0][1], weights[1][2] = 0.5, -0.25
        row = {**pair.ids, "chosen_weights": weights[0], "rejected_weights": weights[1]}

        (weighted,) = read_pairs([row], tokenizer)

        assert (weighted.num_chosen_key, weighted.num_rejected_key) == (1, 1)
        assert [piece.weight for piece in weighted.chosen if piece.is_key] == [0.5]
        assert [piece.weight for piece in weighted.rejected if piece.is_key] == [-0.25]


SCRAPS = [*"ab7=🎈éกำ字,", " ", "\n", "\u0301", "\ufffd", "\u200b", "<think>", "</s>", "the answer is 7", "therefore"]


class TestBatches:
    """Rows that are read together give what each row gives alone."""

    @given(some.lists(some.tuples(*[some.lists(some.sampled_from(SCRAPS), max_size=9)] * 3), min_size=3, max_size=9))
    @settings(deadline=None, max_examples=40)
    def test_texts_that_are_tokenized_together(self, any_tokenizer, rows):
        rows = [dict(zip(("prompt", "chosen", "rejected"), map("".join, row), strict=True)) for row in rows]
        rows += [{"prompt": "Q", "completion": " 7"}, {**ROW, "chosen": None}, {**ROW, "chosen": 5}, ROW]
        rows.insert(0, ROW)
        for tokenizer in (None, any_tokenizer):
            together = list(read_pairs(rows, tokenizer))
            alone = [pair for row in rows for pair in read_pairs([ROW, row], tokenizer) if pair.row]
            for row, (pair, other) in enumerate(zip(together, alone, strict=True)):
                other.row = row
                other.problems = [name for name in other.problems if name != "duplicate"]
                pair.problems = [name for name in pair.problems if name != "duplicate"]
                assert repr(pair) == repr(other)  # a similarity may be NaN
                if pair.ids and not pair.is_completion:
                    for side, name in ((pair.chosen, "chosen"), (pair.rejected, "rejected")):
                        assert texts_of(side) == "".join(slow_pieces(tokenizer, pair.ids.get(f"{name}_ids", [])))

    def test_rows_are_not_read_far_ahead(self, tokenizer):
        taken = []
        source = (taken.append(row) or row for row in generated(100))

        pairs = read_pairs(source, tokenizer)
        next(pairs)

        assert len(taken) == 1
        for _ in range(70):
            next(pairs)
        assert len(taken) < 100 + 28 and sum(1 for _ in pairs) == 29


def slow_pieces(tokenizer, ids):
    """The texts of tokens, decoded one by one, or together where a token is not a whole character."""
    texts = [decode_part(tokenizer, [token]) for token in ids]
    return texts if "\ufffd" not in "".join(texts) else [text for text, _ in decode_pieces(tokenizer, ids)]


class TestProblems:
    @pytest.mark.parametrize(
        ("row", "problems"),
        [
            ({**ROW, "chosen": " "}, ["missing"]),
            ({**ROW, "rejected": None}, ["missing"]),
            ({**ROW, "prompt": ""}, []),
            ({**ROW, "prompt": None}, ["missing"]),
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
            ({"alignment_level": "step"}, "`alignment_level` must be one of 'token', 'word', got 'step'"),
            ({"tie_break": "left"}, "`tie_break` must be one of 'symmetric', 'reference', got 'left'"),
            ({"truncation_mode": "middle"}, "`truncation_mode` must be one of 'keep_start', 'keep_end', got 'middle'"),
            ({"rejected_key_weight": -0.5}, "`rejected_key_weight` must be positive or zero and finite, got -0.5"),
            ({"min_similarity": 1.5}, "`min_similarity` must lie between 0 and 1, got 1.5"),
            ({"max_length": 1}, "`max_length` must be at least 2 or `None`, got 1"),
        ],
    )
    def test_options_that_cannot_work_are_refused(self, options, message):
        with pytest.raises(ValueError, match=message):
            InspectionConfig(**options)

    def test_options_of_training_have_its_defaults(self):
        ours, theirs = (
            {field.name: field.default for field in fields(config)} for config in (InspectionConfig, EDITConfig)
        )
        shared = ours.keys() & theirs.keys()

        assert ours.keys() - shared == {"min_similarity"}
        assert {name: ours[name] for name in shared} == {name: theirs[name] for name in shared}


class TestImport:
    def test_reading_by_words_loads_nothing_heavy(self):
        code = (
            "import sys\nfrom edit_trl.inspection import read_pairs, print_statistics, Statistics\n"
            f"statistics = Statistics(unit='words')\nfor pair in read_pairs([{ROW!r}]):\n    statistics.add(pair)\n"
            "assert statistics.summary()['pairs'] == 1\n"
            "print(set(sys.modules) & {'torch', 'transformers', 'datasets', 'trl', 'matplotlib', 'jinja2'})"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)

        assert done.stdout == "set()\n"
