"""Tests of the data of stage 1: what it takes from each row, and what it finds out before training."""

import copy

import pytest
from conftest import build_tokenizer
from datasets import Dataset

from edit_trl import EDITConfig
from edit_trl.pair_checks import PairError
from edit_trl.scripts.right_chains import check_rows, right_chains


def said(role, text, **more):
    return {"role": role, "content": text, **more}


PAIR = {"prompt": "Q: 2 + 3?\nA:", "chosen": " It is 5.", "rejected": " It is 6."}
CHAT = {
    "prompt": [said("user", "2 + 3?")],
    "chosen": [said("assistant", "It is 5.")],
    "rejected": [said("assistant", "It is 6.")],
}


def with_keys(row, **names):
    """The row with other names of the keys of its messages."""
    return {
        column: [{names.get(key, key): value for key, value in message.items()} for message in messages]
        for column, messages in row.items()
    }


def in_parts(row):
    return {
        column: [{**message, "content": [{"type": "text", "text": message["content"]}]} for message in messages]
        for column, messages in row.items()
    }


class TestRightChains:
    @pytest.mark.parametrize(
        ("row", "expected"),
        [
            (PAIR, ("Q: 2 + 3?\nA:", " It is 5.")),
            (CHAT, (CHAT["prompt"], CHAT["chosen"])),
            (with_keys(CHAT, role="from", content="value"), (CHAT["prompt"], CHAT["chosen"])),
            (in_parts(CHAT), (CHAT["prompt"], CHAT["chosen"])),
            ({name: CHAT["prompt"] + CHAT[name] for name in ("chosen", "rejected")}, (CHAT["prompt"], CHAT["chosen"])),
            ({name: PAIR["prompt"] + PAIR[name] for name in ("chosen", "rejected")}, ("Q: 2 + 3?\nA: It is", " 5.")),
        ],
        ids=["text", "messages", "from and value", "parts", "implicit messages", "implicit text"],
    )
    def test_each_shape_becomes_prompt_and_completion(self, row, expected):
        (made,) = right_chains(Dataset.from_list([row]))

        assert (made["prompt"], made["completion"]) == expected

    def test_completions_may_have_more_keys_than_pairs(self):
        thought = {"prompt": CHAT["prompt"], "completion": [said("assistant", "5", reasoning_content="2 + 3 = 5")]}
        columns = dict.fromkeys([*CHAT, "completion"])
        rows = right_chains(Dataset.from_list([{**columns, **CHAT}, {**columns, **thought}])).to_list()

        (message,) = rows[0]["completion"]
        assert (message["content"], message.get("reasoning_content")) == ("It is 5.", None)
        assert rows[1]["completion"] == thought["completion"]

    def test_rows_without_texts_are_counted(self, capsys):
        empty = [{**PAIR, "chosen": " "}, {**PAIR, "prompt": None}, {**PAIR, "chosen": None}]
        assert len(right_chains(Dataset.from_list([*empty, PAIR]))) == 1
        assert "Stage 1 leaves out 3 of 4 rows with empty texts." in capsys.readouterr().out

    @pytest.mark.parametrize(
        ("row", "message"),
        [
            ({**PAIR, "rejected": [" It is 6."]}, "Row 1 .*`rejected` must be text or a list of messages, got a list"),
            ({**PAIR, "chosen": [" It is 5."]}, "Row 0 .*`chosen` must be text or a list of messages, got a list"),
            ({**PAIR, "rejected": {"role": "assistant", "content": "6"}}, r"Row 1 .*pair: \{'rejected': \[pair\['rej"),
            ({**PAIR, "rejected": b" It is 6."}, r"Row 1 .*pair\['rejected'\]\.decode\(\)"),
        ],
    )
    def test_bad_row_is_named_before_stage_1(self, row, message):
        """Also one that stage 2 alone would read."""
        with pytest.raises(PairError, match=message):
            right_chains(Dataset.from_list([{**row, "rejected": None}, row]))


class TestRows:
    """What is found out before stage 1."""

    @pytest.fixture
    def check(self, tmp_path):
        tokenizer = copy.deepcopy(build_tokenizer())

        def run(rows, template=tokenizer.chat_template, stages=(1, 2), **options):
            tokenizer.chat_template = template
            args = EDITConfig(output_dir=str(tmp_path), use_cpu=True, bf16=False, **options)
            check_rows(Dataset.from_list(rows), tokenizer, args, stages)

        run.template = tokenizer.chat_template
        return run

    @pytest.mark.parametrize("stages", [(1, 2), (1,)])
    def test_template_that_drops_thoughts_is_named(self, stages, check):
        template = check.template.replace("{{ message['content'] }}", "{{ message['content'].split('</think>')[-1] }}")
        chains = {
            name: [said("assistant", f"<think>It is {n}.</think>{n}")] for name, n in (("chosen", 5), ("rejected", 6))
        }
        check([CHAT], template, stages)
        with pytest.raises(PairError, match="Row 1 of the train dataset: The chat template of .* leaves out 'It is 5"):
            check([CHAT, {**CHAT, **chains}], template, stages)

    @pytest.mark.parametrize("stages", [(1, 2), (1,)])
    def test_missing_template_is_an_error_for_messages_alone(self, stages, check):
        check([PAIR, {**PAIR, "chosen": None}], None, stages)
        with pytest.raises(ValueError, match="chat_template"):
            check([CHAT], None, stages)

    @pytest.mark.parametrize(
        ("row", "options", "message"),
        [
            (
                {**PAIR, "rejected": PAIR["chosen"]},
                {},
                "none of its 1 is left: 1 where the tokens of both",
            ),
            (PAIR, {"max_length": 3}, "none of its 1 is left: 1 where the prompt leaves no room"),
        ],
    )
    def test_data_without_a_pair_for_stage_2_is_refused_quietly(self, row, options, message, check, caplog):
        with pytest.raises(ValueError, match=message):
            check([row], **options)
        check([row], stages=(1,), **options)
        check([row], stages=(2,), **options)
        check([PAIR, {**PAIR, "rejected": PAIR["chosen"]}])
        assert caplog.records == []
