"""
Tests of the preparation: columns, tokens in every shape of TRL preference data, and what is dropped.

Expected token IDs come from text written by hand and from the tokenizer, and once also from TRL's own `DPOTrainer`.
"""

import itertools
import json
import os
from types import SimpleNamespace

import pytest
from conftest import CHAT_TEMPLATE
from datasets import Dataset, IterableDataset
from trl import DPOTrainer

from edit_trl import data_utils
from edit_trl.data_utils import is_tokenized, prepare_dual_cots
from edit_trl.pair_checks import PairError


EOS = "<|im_end|>"
LOGGER = "edit_trl.data_utils"
IDS = ("prompt_ids", "chosen_ids", "rejected_ids")
MISSING = "`prompt` is None or has no message, or `chosen`, `rejected` or `completion` is None or empty"
EQUAL = "the tokens of both chains are equal"
NO_ROOM = "the prompt leaves no room for a completion under `max_length`"

PLAIN = [
    {"prompt": "Q: What is 2 + 2?\nA:", "chosen": " It is 4.", "rejected": " It is 5."},
    {"prompt": "Evaluate not True.\n", "chosen": "not True is False", "rejected": "It is True"},
]
TOOLS = [
    {"type": "function", "function": {"name": name, "description": "", "parameters": {}}} for name in ("add", "divide")
]
# The tokens of "The ans" end in the middle of the token " answer" that the full text has, those of "Therefo" of
# "Therefore".
SPLIT = {"prompt": "The ans", "chosen": "wer is 4.", "rejected": "wer is 5."}
OTHER_SPLIT = {"prompt": "Therefo", "chosen": "re, the answer is 4.", "rejected": "re, the answer is 5."}


def user(text):
    return {"role": "user", "content": text}


def assistant(text):
    return {"role": "assistant", "content": text}


CONVERSATIONS = [
    {
        "prompt": [user("What is 2 + 2?")],
        "chosen": [assistant("It is 4.")],
        "rejected": [assistant("Let's think. It is 5.")],
    },
    {
        "prompt": [{"role": "system", "content": "First, add."}, user("3 + 4?"), assistant("So 7."), user("Then 5?")],
        "chosen": [assistant("The answer is 12."), user("Really?"), assistant("It is.")],
        "rejected": [assistant("The answer is 11.")],
    },
]
TOKENIZED = [
    {"prompt_ids": [5, 6], "chosen_ids": [7, 8, 9], "rejected_ids": [7, 9]},
    {"prompt_ids": [5], "chosen_ids": [7], "rejected_ids": [8, 9, 10]},
]


@pytest.fixture(autouse=True)
def fresh_warnings():
    """A warning that is shown once per process is shown once per test."""
    type(data_utils.logger).warning_once.cache_clear()


@pytest.fixture
def warnings(caplog):
    """Reads the warnings of the module so far, without the rank that accelerate writes in front."""
    caplog.set_level("WARNING", logger=LOGGER)
    return lambda: [
        record.getMessage().removeprefix("[RANK 0] ") for record in caplog.records if record.name == LOGGER
    ]


def prepare(rows, tokenizer, **options):
    dataset = Dataset.from_list(rows) if isinstance(rows, list) else rows
    return prepare_dual_cots(dataset, tokenizer, **{"eos_token": EOS, **options})


def ids_of(rows):
    return [{column: row[column] for column in IDS} for row in rows]


def render(messages):
    """What the chat template of the tests writes for messages, by hand."""
    return "".join(f"<|im_start|>{message['role']}\n{message['content']}<|im_end|>\n" for message in messages)


def expected_ids(tokenizer, prompt, full_chosen, full_rejected):
    """The prompt ends where its tokens and those of both full texts stop being the same."""
    prompt_ids, chosen_ids, rejected_ids = (
        tokenizer(text)["input_ids"] for text in (prompt, full_chosen, full_rejected)
    )
    length = len(os.path.commonprefix([prompt_ids, chosen_ids, rejected_ids]))
    return dict(zip(IDS, (prompt_ids[:length], chosen_ids[length:], rejected_ids[length:]), strict=True))


def expected_of_text(tokenizer, row):
    prompt, chosen, rejected = row["prompt"], row["chosen"], row["rejected"]
    return expected_ids(tokenizer, prompt, prompt + chosen + EOS, prompt + rejected + EOS)


def expected_of_messages(tokenizer, row, start=""):
    return expected_ids(
        tokenizer,
        start + render(row["prompt"]) + "<|im_start|>assistant\n",
        start + render(row["prompt"] + row["chosen"]),
        start + render(row["prompt"] + row["rejected"]),
    )


def without_prompt_column(row):
    return {side: row["prompt"] + row[side] for side in ("chosen", "rejected")}


class TestIsTokenized:
    @pytest.mark.parametrize(
        ("columns", "expected"),
        [
            (["prompt", "chosen", "rejected"], False),
            (["chosen", "rejected"], False),
            (["id", "rejected", "prompt", "task", "chosen", "tools", "chat_template_kwargs"], False),
            (["prompt_ids", "chosen_ids", "rejected_ids"], True),
            (["prompt_ids", "chosen_ids", "rejected_ids", "chosen_weights", "rejected_weights"], True),
            (["prompt", "chosen", "rejected", "prompt_ids", "chosen_ids", "rejected_ids"], True),
        ],
    )
    def test_every_supported_shape_is_accepted(self, columns, expected):
        assert is_tokenized(columns) is expected

    @pytest.mark.parametrize(
        ("columns", "hints"),
        [
            (["prompt", "choosen", "rejected"], ["rename `choosen` to `chosen`"]),
            (["promt", "chosen", "rejected"], ["rename `promt` to `prompt`"]),
            (["Prompt", "chosen", "rejected"], ["rename `Prompt` to `prompt`"]),
            (["prompts", "chosens", "rejected"], ["rename `chosens` to `chosen`"]),
            (["prompt", "chosen", "rejects"], ["rename `rejects` to `rejected`"]),
            (["prompt", "Chosen", "Rejected"], ["rename `Chosen` to `chosen`", "rename `Rejected` to `rejected`"]),
            (["prompt_ids", "chosen_ids", "reject_ids"], ["rename `reject_ids` to `rejected_ids`"]),
            (["text"], ["add the missing columns"]),
        ],
    )
    def test_misspelt_column_is_told_its_nearest_name(self, columns, hints):
        with pytest.raises(ValueError, match="The eval dataset must have the columns") as error:
            is_tokenized(columns, "eval")
        for hint in hints:
            assert hint in str(error.value)
        assert str(sorted(columns)) in str(error.value)

    @pytest.mark.parametrize("column", ["image", "images"])
    def test_images_are_refused(self, column):
        with pytest.raises(ValueError, match=f"The train dataset must hold text alone, got the column `{column}`"):
            is_tokenized(["prompt", "chosen", "rejected", column])

    @pytest.mark.parametrize("column", ["chosen_weights", "rejected_weights"])
    def test_weights_without_token_ids_are_refused(self, column):
        with pytest.raises(ValueError, match=f"has `{column}` but is not tokenized"):
            is_tokenized(["prompt", "chosen", "rejected", column])

    @pytest.mark.parametrize("missing", IDS)
    def test_part_of_the_token_ids_is_refused(self, missing):
        with pytest.raises(ValueError, match=f"but `{missing}` is missing"):
            is_tokenized([column for column in IDS if column != missing])

    def test_preparation_checks_them(self, tokenizer):
        with pytest.raises(ValueError, match="The dev dataset must have the columns"):
            prepare([{"prompt": "a", "chosen": "b"}], tokenizer, dataset_name="dev")


class TestPlainText:
    def test_explicit_prompt_is_where_the_chains_leave_it(self, tokenizer):
        prepared = prepare(PLAIN, tokenizer)

        assert ids_of(prepared) == [expected_of_text(tokenizer, row) for row in PLAIN]
        assert tokenizer.decode(prepared[0]["prompt_ids"]) == PLAIN[0]["prompt"]
        assert tokenizer.decode(prepared[0]["chosen_ids"]) == PLAIN[0]["chosen"] + EOS

    def test_implicit_prompt_is_the_common_start(self, tokenizer, warnings):
        """Up to the first character that differs; a space before it opens the chains."""
        rows = [
            {"chosen": "Q: 2 + 2?\nA: It is 4.", "rejected": "Q: 2 + 2?\nA: It is 5."},
            {"chosen": "So: False", "rejected": "So:\nTrue or"},
        ]
        explicit = [
            {"prompt": "Q: 2 + 2?\nA: It is", "chosen": " 4.", "rejected": " 5."},
            {"prompt": "So:", "chosen": " False", "rejected": "\nTrue or"},
        ]

        prepared = prepare(rows, tokenizer)

        assert ids_of(prepared) == [expected_of_text(tokenizer, row) for row in explicit]
        (message,) = warnings()
        assert "has no `prompt` column and its chains are plain text" in message
        assert "Add a `prompt` column" in message

    def test_explicit_prompt_does_not_warn(self, tokenizer, warnings):
        prepare(PLAIN, tokenizer)
        assert warnings() == []

    def test_end_of_sequence_is_added_where_it_is_missing(self, tokenizer):
        row = {"prompt": "Q:", "chosen": f" It is 4.{EOS}", "rejected": " It is 5."}
        eos = tokenizer.eos_token_id

        (prepared,) = prepare([row], tokenizer)

        for column in ("chosen_ids", "rejected_ids"):
            assert prepared[column].count(eos) == 1 and prepared[column][-1] == eos

    def test_no_end_of_sequence_is_added_without_one(self, tokenizer):
        (prepared,) = prepare(PLAIN[:1], tokenizer, eos_token=None)
        assert tokenizer.decode(prepared["chosen_ids"]) == PLAIN[0]["chosen"]

    def test_any_end_of_sequence_is_used(self, tokenizer):
        (prepared,) = prepare(PLAIN[:1], tokenizer, eos_token="<|endoftext|>")
        assert prepared["rejected_ids"][-1] == tokenizer.convert_tokens_to_ids("<|endoftext|>")
        assert tokenizer.eos_token_id not in prepared["rejected_ids"]


class TestConversations:
    def test_explicit_prompt_is_rendered_by_the_template(self, tokenizer):
        prepared = prepare(CONVERSATIONS, tokenizer)

        assert ids_of(prepared) == [expected_of_messages(tokenizer, row) for row in CONVERSATIONS]
        assert tokenizer.decode(prepared[0]["chosen_ids"]) == "It is 4.<|im_end|>\n"

    def test_implicit_prompt_is_the_common_messages(self, tokenizer, warnings):
        prepared = prepare([without_prompt_column(row) for row in CONVERSATIONS], tokenizer)

        assert ids_of(prepared) == [expected_of_messages(tokenizer, row) for row in CONVERSATIONS]
        assert warnings() == []

    def test_from_and_value_are_role_and_content(self, tokenizer):
        def convert(messages):
            return [{"from": message["role"], "value": message["content"]} for message in messages]

        rows = [{column: convert(messages) for column, messages in row.items()} for row in CONVERSATIONS]
        implicit = [
            {side: convert(messages) for side, messages in without_prompt_column(row).items()} for row in CONVERSATIONS
        ]
        for dataset in (Dataset.from_list(rows), Dataset.from_list(implicit)):
            before = list(dataset)

            prepared = prepare(dataset, tokenizer)

            assert ids_of(prepared) == [expected_of_messages(tokenizer, row) for row in CONVERSATIONS]
            assert list(dataset) == before
            assert list(prepared.select_columns(dataset.column_names)) == before

    @pytest.mark.parametrize("convert", [json.dumps, list], ids=["string", "list"])
    def test_tools_reach_the_template(self, convert, tokenizer):
        rows = [{**row, "tools": convert(TOOLS)} for row in CONVERSATIONS]

        prepared = prepare(rows, tokenizer)

        start = "<|im_start|>tools\n2<|im_end|>\n"
        assert ids_of(prepared) == [expected_of_messages(tokenizer, row, start) for row in CONVERSATIONS]

    def test_rows_may_go_without_tools(self, tokenizer):
        rows = [{**CONVERSATIONS[0], "tools": json.dumps(TOOLS[:1])}, {**CONVERSATIONS[1], "tools": None}]

        prepared = prepare(rows, tokenizer)

        assert ids_of(prepared) == [
            expected_of_messages(tokenizer, CONVERSATIONS[0], "<|im_start|>tools\n1<|im_end|>\n"),
            expected_of_messages(tokenizer, CONVERSATIONS[1]),
        ]

    def test_template_arguments_reach_the_template(self, tokenizer):
        rows = [
            {**CONVERSATIONS[0], "chat_template_kwargs": {"shout": True}},
            {**CONVERSATIONS[1], "chat_template_kwargs": {"shout": False}},
            {**CONVERSATIONS[0], "chat_template_kwargs": None},
        ]

        prepared = prepare(rows, tokenizer)

        assert ids_of(prepared) == [
            expected_of_messages(tokenizer, CONVERSATIONS[0], "LOUD "),
            expected_of_messages(tokenizer, CONVERSATIONS[1]),
            expected_of_messages(tokenizer, CONVERSATIONS[0]),
        ]


class TestSameTokensAsTRL:
    @pytest.mark.parametrize(
        "rows",
        [
            PLAIN,
            [without_prompt_column(row) for row in PLAIN],
            CONVERSATIONS,
            [without_prompt_column(row) for row in CONVERSATIONS],
            [{**row, "tools": json.dumps(TOOLS), "chat_template_kwargs": {"shout": True}} for row in CONVERSATIONS],
            [SPLIT, OTHER_SPLIT, {**SPLIT, "rejected": " is 5."}],
            [{**PLAIN[0], "prompt": ""}, {**PLAIN[0], "prompt": " "}],
        ],
        ids=[
            "plain",
            "plain implicit",
            "conversations",
            "conversations implicit",
            "template arguments",
            "merging",
            "no prompt",
        ],
    )
    def test_dpo_trainer_prepares_the_same_tokens(self, rows, tokenizer):
        dataset = Dataset.from_list(rows)
        args = SimpleNamespace(dataset_num_proc=None, max_length=None, truncation_mode="keep_start")

        expected = DPOTrainer._prepare_dataset(
            SimpleNamespace(_tokenizer=tokenizer), dataset, tokenizer, args, "train"
        )

        assert ids_of(prepare(dataset, tokenizer)) == ids_of(expected)

    def test_dpo_trainer_prepares_the_same_tokens_of_longer_texts(self, pairs, tokenizer):
        args = SimpleNamespace(dataset_num_proc=None, max_length=None, truncation_mode="keep_start")
        dataset = Dataset.from_list(pairs)

        expected = DPOTrainer._prepare_dataset(
            SimpleNamespace(_tokenizer=tokenizer), dataset, tokenizer, args, "train"
        )

        assert ids_of(prepare(dataset, tokenizer)) == ids_of(expected)


class TestTokenizedData:
    def test_token_ids_are_used_as_they_are(self, tokenizer):
        rows = [{**row, "note": "ignored", "chosen": None, "rejected": None} for row in TOKENIZED]

        prepared = prepare(rows, tokenizer, max_length=3)

        assert list(prepared) == rows

    def test_weights_are_kept(self, tokenizer):
        """Chains of equal tokens are worth keeping when their weights differ."""
        rows = [
            {**TOKENIZED[0], "chosen_weights": [0.5, -0.5, 0.0], "rejected_weights": [0.0, -1.0]},
            {
                "prompt_ids": [5],
                "chosen_ids": [7],
                "rejected_ids": [7],
                "chosen_weights": [1.0],
                "rejected_weights": [0.0],
            },
        ]
        assert list(prepare(rows, tokenizer)) == rows

    @pytest.mark.parametrize("column", ["chosen_ids", "rejected_ids"])
    @pytest.mark.parametrize("empty", [[], None])
    def test_pair_without_completion_tokens_is_dropped(self, column, empty, tokenizer, warnings):
        prepared = prepare([{**TOKENIZED[0], column: empty}, TOKENIZED[1]], tokenizer)

        assert ids_of(prepared) == [TOKENIZED[1]]
        assert warnings() == [f"Dropped 1 of 2 rows of the train dataset: 1 where {MISSING}."]

    def test_empty_prompt_is_kept(self, tokenizer):
        row = {**TOKENIZED[0], "prompt_ids": []}
        assert ids_of(prepare([row, TOKENIZED[1]], tokenizer)) == [row, TOKENIZED[1]]


class TestColumns:
    def test_other_columns_are_kept_and_no_helper_column_is_left(self, tokenizer):
        rows = [{**row, "task": "sums", "id": i} for i, row in enumerate(PLAIN)]

        prepared = prepare(rows, tokenizer)

        assert set(prepared.column_names) == {"prompt", "chosen", "rejected", "task", "id", *IDS}
        assert list(prepared.select_columns(["prompt", "chosen", "rejected", "task", "id"])) == rows

    def test_text_is_never_truncated(self, tokenizer):
        for mode in ("keep_start", "keep_end"):
            prepared = prepare(PLAIN, tokenizer, max_length=24, truncation_mode=mode)
            assert ids_of(prepared) == [expected_of_text(tokenizer, row) for row in PLAIN]


class TestDroppedPairs:
    @pytest.mark.parametrize(
        ("column", "empty"),
        [("prompt", None), *((side, empty) for side in ("chosen", "rejected") for empty in (None, "", "  \n\t"))],
    )
    def test_missing_or_blank_text_is_dropped(self, column, empty, tokenizer, warnings):
        prepared = prepare([{**PLAIN[0], column: empty}, PLAIN[1]], tokenizer)

        assert ids_of(prepared) == [expected_of_text(tokenizer, PLAIN[1])]
        assert warnings() == [f"Dropped 1 of 2 rows of the train dataset: 1 where {MISSING}."]

    @pytest.mark.parametrize("column", ["prompt", "chosen", "rejected"])
    @pytest.mark.parametrize(
        "empty", [None, [], [assistant("")], [assistant(None)], [user("2 + 2?"), assistant(" \n")]]
    )
    def test_missing_or_blank_message_is_dropped(self, column, empty, tokenizer, warnings):
        prepared = prepare([{**CONVERSATIONS[0], column: empty}, CONVERSATIONS[1]], tokenizer)

        assert ids_of(prepared) == [expected_of_messages(tokenizer, CONVERSATIONS[1])]
        assert warnings() == [f"Dropped 1 of 2 rows of the train dataset: 1 where {MISSING}."]

    def test_blank_value_of_a_message_is_dropped(self, tokenizer, warnings):
        def row(answer):
            return {
                "prompt": [{"from": "user", "value": "2 + 2?"}],
                "chosen": [{"from": "assistant", "value": answer}],
                "rejected": [{"from": "assistant", "value": "5"}],
            }

        assert len(prepare([row(""), row("4"), row(None)], tokenizer)) == 1
        assert warnings() == [f"Dropped 2 of 3 rows of the train dataset: 2 where {MISSING}."]

    def test_missing_side_of_implicit_prompts_is_dropped(self, tokenizer):
        rows = [
            {"chosen": None, "rejected": "b"},
            {"chosen": "Q: a", "rejected": ""},
            {"chosen": "Q: a", "rejected": "Q: b"},
        ]
        assert len(prepare(rows, tokenizer)) == 1

    def test_turn_of_tool_calls_alone_is_not_missing(self, own_tokenizer):
        own_tokenizer.chat_template = CHAT_TEMPLATE.replace("<|im_end|>", "{{ message.tool_calls }}<|im_end|>")
        call = {"type": "function", "function": {"name": "add", "arguments": {"a": 2}}}
        row = {
            "prompt": [user("2 + 2?")],
            "chosen": [{"role": "assistant", "content": "", "tool_calls": [call]}],
            "rejected": [{"role": "assistant", "content": "5", "tool_calls": None}],
        }
        assert len(prepare([row], own_tokenizer)) == 1

    def test_equal_chains_are_dropped(self, tokenizer, warnings):
        """The second pair differs in the text alone: both sides end with the same end of sequence."""
        rows = [
            {"prompt": "Q:", "chosen": " 4", "rejected": " 4"},
            {"prompt": "Q:", "chosen": " 4", "rejected": f" 4{EOS}"},
            {"prompt": "Q:", "chosen": " 4", "rejected": " 5"},
        ]
        assert len(prepare(rows, tokenizer)) == 1
        assert warnings() == [f"Dropped 2 of 3 rows of the train dataset: 2 where {EQUAL}."]

    def test_identical_chains_with_implicit_prompt_are_dropped(self, tokenizer):
        rows = [{"chosen": "Q: 4", "rejected": "Q: 4"}, {"chosen": "Q: 4", "rejected": "Q: 5"}]
        assert len(prepare(rows, tokenizer)) == 1

    @pytest.mark.parametrize(("prompt_length", "is_kept"), [(3, True), (4, False), (5, False)])
    def test_prompt_that_fills_the_length_is_dropped(self, prompt_length, is_kept, tokenizer):
        rows = [{**TOKENIZED[0], "prompt_ids": [5] * prompt_length}, TOKENIZED[1]]
        assert len(prepare(rows, tokenizer, max_length=4)) == 1 + is_kept
        assert len(prepare(rows, tokenizer, max_length=4, truncation_mode="keep_end")) == 2
        assert len(prepare(rows, tokenizer)) == 2

    def test_one_warning_counts_every_reason(self, tokenizer, warnings):
        long = {**PLAIN[0], "prompt": PLAIN[0]["prompt"] * 20}
        equal = {**PLAIN[0], "rejected": PLAIN[0]["chosen"]}
        rows = [PLAIN[0], long, equal, {**PLAIN[0], "chosen": ""}, long, PLAIN[1], equal, long]

        prepared = prepare(rows, tokenizer, max_length=60, dataset_name="dev")

        assert ids_of(prepared) == [expected_of_text(tokenizer, row) for row in PLAIN]
        (message,) = warnings()
        assert message.startswith("Dropped 6 of 8 rows of the dev dataset: ")
        for part in (f"1 where {MISSING}", f"2 where {EQUAL}", f"3 where {NO_ROOM}"):
            assert part in message

    def test_first_batch_may_be_dropped_as_a_whole(self, tokenizer):
        """`datasets` writes a thousand rows at a time and would take the columns' types from the first ones."""
        rows = [{"prompt": "Q:", "chosen": None, "rejected": None}] * 1001 + PLAIN

        prepared = prepare(rows, tokenizer)

        assert ids_of(prepared) == [expected_of_text(tokenizer, row) for row in PLAIN]

    def test_nothing_left_is_an_error(self, tokenizer):
        rows = [{**PLAIN[0], "chosen": ""}, {**PLAIN[0], "rejected": PLAIN[0]["chosen"]}]
        with pytest.raises(
            ValueError, match="The train dataset must have at least one pair.*none of its 2 is left"
        ) as error:
            prepare(rows, tokenizer)
        assert f"1 where {EQUAL}; 1 where {MISSING}" in str(error.value)

    def test_too_small_max_length_is_named_when_nothing_is_left(self, tokenizer):
        with pytest.raises(ValueError, match=r"2 where the prompt leaves no room.*`max_length` \(1\)"):
            prepare(TOKENIZED, tokenizer, max_length=1)

    @pytest.mark.parametrize("columns", [("prompt", "chosen", "rejected"), ("chosen", "rejected"), IDS])
    def test_empty_dataset_is_an_error(self, columns, tokenizer):
        with pytest.raises(ValueError, match="must have at least one pair"):
            prepare(Dataset.from_dict({column: [] for column in columns}), tokenizer)

    def test_processes_give_the_same_and_one_warning(self, tokenizer, warnings):
        rows = [*PLAIN, {**PLAIN[0], "chosen": None}] * 4
        expected = ids_of(prepare(PLAIN * 4, tokenizer))

        prepared = prepare(rows, tokenizer, num_proc=2)

        assert ids_of(prepared) == expected
        assert warnings() == [f"Dropped 4 of 12 rows of the train dataset: 4 where {MISSING}."]


class TestLazyData:
    @pytest.mark.parametrize("rows", [PLAIN, CONVERSATIONS, TOKENIZED], ids=["plain", "conversations", "tokenized"])
    def test_lazy_rows_are_those_of_a_dataset(self, rows, tokenizer):
        rows = [{**row, "task": "sums"} for row in rows]
        expected = list(prepare(rows, tokenizer, max_length=30))

        for dataset in (
            Dataset.from_list(rows).to_iterable_dataset(),
            IterableDataset.from_generator(lambda: iter(rows)),
        ):
            prepared = prepare(dataset, tokenizer, max_length=30)

            assert isinstance(prepared, IterableDataset)
            assert list(prepared) == expected
            assert list(prepared) == expected  # a second epoch

    def test_implicit_prompt_warns(self, tokenizer, warnings):
        dataset = Dataset.from_list([without_prompt_column(row) for row in PLAIN]).to_iterable_dataset()
        assert len(list(prepare(dataset, tokenizer))) == 2
        assert sum("has no `prompt` column" in message for message in warnings()) == 1

    def test_endless_data_is_prepared_as_it_comes(self, tokenizer):
        def numbers():
            for number in itertools.count():
                yield {"prompt": "Q:", "chosen": f" {number}", "rejected": f" {number + 1}"}

        prepared = prepare(IterableDataset.from_generator(numbers), tokenizer)

        first = [tokenizer.decode(row["chosen_ids"]) for row in itertools.islice(prepared, 3)]
        assert first == [f" {number}{EOS}" for number in range(3)]

    def test_drops_are_reported_at_the_first_tenth_and_hundredth(self, tokenizer, warnings):
        """Every third pair is good, so that the n-th bad one is row n + (n - 1) // 2 of the data."""
        bad = {**PLAIN[0], "chosen": None}
        dataset = Dataset.from_list([bad, bad, PLAIN[1]] * 60).to_iterable_dataset()

        prepared = prepare(dataset, tokenizer)
        assert warnings() == []

        assert len(list(prepared)) == 60
        assert warnings() == [
            f"Dropped {n} of {n + (n - 1) // 2} rows of the train dataset: {n} where {MISSING}." for n in (1, 10, 100)
        ]

    def test_every_reason_drops(self, tokenizer):
        rows = [
            {**TOKENIZED[0], "chosen_ids": []},
            TOKENIZED[0],
            {**TOKENIZED[0], "rejected_ids": TOKENIZED[0]["chosen_ids"]},
            {**TOKENIZED[0], "prompt_ids": [5] * 9},
        ]
        prepared = prepare(Dataset.from_list(rows).to_iterable_dataset(), tokenizer, max_length=9)
        assert ids_of(prepared) == [TOKENIZED[0]]


class TestSplitPrompt:
    def test_completions_start_where_the_tokens_diverge(self, tokenizer):
        (prepared,) = prepare([SPLIT], tokenizer)

        assert prepared["prompt_ids"] == tokenizer("The")["input_ids"]
        assert tokenizer.decode(prepared["chosen_ids"]) == f" answer is 4.{EOS}"
        assert ids_of([prepared]) == [expected_of_text(tokenizer, SPLIT)]

    def test_first_chain_to_diverge_ends_the_prompt_of_both(self, tokenizer):
        """ " ans" and "wer" merge in the right chain alone; the wrong chain takes " ans" over as well."""
        row = {**SPLIT, "rejected": " is 5."}
        for pair in (row, {**row, "chosen": row["rejected"], "rejected": row["chosen"]}):
            (prepared,) = prepare([pair], tokenizer)

            assert ids_of([prepared]) == [expected_of_text(tokenizer, pair)]
            assert prepared["prompt_ids"] == tokenizer("The")["input_ids"]

    def test_it_is_reported_once_with_its_text_and_count(self, tokenizer, warnings):
        prepare([PLAIN[0], SPLIT, OTHER_SPLIT], tokenizer)

        (message,) = warnings()
        assert message.startswith("2 of 3 pairs of the train dataset: the tokenized prompt is not a prefix")
        assert "left out of the training sequence: ' ans'" in message

    def test_processes_report_it_once(self, tokenizer, warnings):
        prepare([PLAIN[0], SPLIT] * 4, tokenizer, num_proc=2)
        (message,) = warnings()
        assert message.startswith("4 of 8 pairs of the train dataset")

    def test_lazy_data_reports_it_once(self, tokenizer, warnings):
        """Whatever text is left out, and however many pairs it is left out of."""
        dataset = Dataset.from_list([PLAIN[0], SPLIT, OTHER_SPLIT, SPLIT]).to_iterable_dataset()

        prepared = prepare(dataset, tokenizer)
        assert warnings() == []

        assert len(list(prepared)) == 4
        (message,) = warnings()
        assert message.startswith("At least one pair of the train dataset: the tokenized prompt is not a prefix")

    def test_template_that_renders_the_prompt_alone_otherwise_is_reported(self, tokenizer, warnings):
        template = tokenizer.chat_template.replace("<|im_start|>assistant\n", "<|im_start|>assistant\nSo ")
        rows = [{**row, "chat_template_kwargs": {"chat_template": template}} for row in CONVERSATIONS[:1]]

        (prepared,) = prepare(rows, tokenizer)

        assert ids_of([prepared]) == [expected_of_messages(tokenizer, CONVERSATIONS[0])]
        (message,) = warnings()
        assert message.startswith("1 of 1 pairs of the train dataset") and "'So '" in message


class TestBadRows:
    def test_weights_are_checked_before_training(self, tokenizer):
        row = {"prompt_ids": [5], "chosen_ids": [6, 7], "rejected_ids": [8]}
        for weights, message in (
            ({"chosen_weights": [1.0], "rejected_weights": [0.0]}, "one float per token of `chosen_ids`, expected 2"),
            ({"chosen_weights": [1.0, float("nan")], "rejected_weights": [0.0]}, "must be finite numbers"),
            ({"chosen_weights": [1.0, 0.0]}, "`rejected_weights` is missing"),
        ):
            with pytest.raises(ValueError, match=message):
                prepare_dual_cots(Dataset.from_list([{**row, **weights}]), tokenizer, eos_token=tokenizer.eos_token)

    def test_other_types_are_named(self, tokenizer):
        numbers = Dataset.from_list([{"prompt": "Q", "chosen": 1, "rejected": 2}])
        with pytest.raises(
            PairError, match="Row 0 of the train dataset: `chosen` must be text or a list of messages, "
        ):
            prepare_dual_cots(numbers, tokenizer, eos_token=None)
        mixed = Dataset.from_list([{"prompt": [{"role": "user", "content": "Q"}], "chosen": "a", "rejected": "b"}])
        with pytest.raises(PairError, match="must all be text or all be lists of messages"):
            prepare_dual_cots(mixed, tokenizer, eos_token=None)

    def test_the_format_of_a_dataset_does_not_matter(self, tokenizer):
        rows = [{"prompt_ids": [5, 6], "chosen_ids": [7, 8], "rejected_ids": [7, 9]}] * 2
        plain = Dataset.from_list(rows)
        for kind in ("torch", "numpy"):
            prepared = prepare_dual_cots(plain.with_format(kind), tokenizer, eos_token=None)
            assert prepared[0]["chosen_ids"] == [7, 8]
