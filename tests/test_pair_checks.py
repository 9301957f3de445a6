"""Every kind of bad row is told its column, what it holds and what to do; training and inspection know it alike."""

import json
import re

import numpy as np
import pytest
from conftest import CHAT_TEMPLATE
from datasets import Dataset, IterableDataset

from edit_trl import EDITConfig, EDITTrainer
from edit_trl.data_utils import prepare_dual_cots
from edit_trl.inspection import read_pairs
from edit_trl.pair_checks import PairError, check_pair


TEXT = {"prompt": "Q: 2 + 3?\nA:", "chosen": " 2 + 3 = 5. So 5.", "rejected": " 2 + 3 = 6. So 6."}
USER, GOOD, BAD = (
    [{"role": role, "content": text}] for role, text in (("user", "Q"), ("assistant", "5"), ("assistant", "6"))
)
CHAT = {"prompt": USER, "chosen": GOOD, "rejected": BAD}
IDS = {"prompt_ids": [40, 41], "chosen_ids": [42, 43, 2], "rejected_ids": [42, 44, 2]}
IMAGE = [{"type": "image"}, {"type": "text", "text": "5"}]

BAD_ROWS = {
    "number": ({**TEXT, "chosen": 5}, "`chosen` must be text or a list of messages, got int: 5. Convert the column"),
    "list of texts": ({**TEXT, "chosen": ["a", "b"]}, "`chosen` .* got a list of texts: .* Make a row of each"),
    "token IDs": ({**TEXT, "rejected": [5, 2]}, "`rejected` .* got token IDs: .* to `prompt_ids`, `chosen_ids` and"),
    "nested list": ({**CHAT, "chosen": [GOOD]}, "`chosen` .* got a list with list: .* A message is a dictionary"),
    "no role": ({**CHAT, "chosen": [{"content": "5"}]}, "Each message of `chosen` must have a `role`, got dict"),
    "image": ({**CHAT, "chosen": [{"role": "assistant", "content": IMAGE}]}, "got parts of type 'image'. Key tokens"),
    "number in a message": ({**CHAT, "chosen": [{"role": "assistant", "content": 5}]}, "`chosen` must be text, got"),
    "mixed": ({**CHAT, "chosen": "5"}, "must all be text or all be lists of messages, got `prompt`: list, "),
    "half a character": ({**TEXT, "chosen": "a\ud800b"}, "`chosen` must be text, got half of a char.* at index 1"),
    "half a character of a message": ({**CHAT, "chosen": [{"role": "assistant", "content": "\udfff"}]}, "half of a"),
    "half a character of a part": (
        {**CHAT, "chosen": [{"role": "assistant", "content": [{"type": "text", "text": "5\ud800"}]}]},
        "`chosen` must be text, got half of a character, .* at index 1",
    ),
    "half a character of reasoning": (
        {**CHAT, "rejected": [{"role": "assistant", "content": "5", "thinking": "\ud800"}]},
        "`rejected` must be text, got half of a character",
    ),
    "half a character of a call": (
        {**CHAT, "chosen": [{"role": "assistant", "content": "5", "tool_calls": [{"function": {"name": "\ud800"}}]}]},
        "`chosen` must be text, got half of a character",
    ),
    "half a character of a tool": ({**CHAT, "tools": [{"name": "\ud800"}]}, "`tools` must be text, got half of a"),
    "half a character for the template": (
        {**CHAT, "chat_template_kwargs": {"name": "\ud800"}},
        "`chat_template_kwargs` must be text, got half of a",
    ),
    "reasoning that is a list": (
        {**CHAT, "chosen": [{"role": "assistant", "content": "5", "reasoning": ["a"]}]},
        "`reasoning` of the messages of `chosen` must be text, got list",
    ),
    "part of reasoning": (
        {**CHAT, "chosen": [{"role": "assistant", "content": [{"type": "thinking", "thinking": "2 + 3"}]}]},
        "got parts of type 'thinking'. .* write the reasoning as text before the answer",
    ),
    "part without a text": (
        {**CHAT, "chosen": [{"role": "assistant", "content": [{"type": "text"}]}]},
        "A part of type 'text' in `chosen` must have a `text`, got dict",
    ),
    "argument of the library": (
        {**CHAT, "chat_template_kwargs": {"tokenize": False}},
        "`chat_template_kwargs` must hold arguments of the chat template, got `tokenize`",
    ),
    "IDs of another text": ({**IDS, "chosen": " 2 + 3 = 5."}, "`chosen_ids` must be the tokens of `chosen`, but they"),
    "tools that are no JSON": ({**CHAT, "tools": "[{"}, "`tools` must be a list of tools or JSON of one, .* not JSON"),
    "tools that are a number": ({**CHAT, "tools": "5"}, "`tools` must be a list of tools or JSON of one, got int: 5"),
    "template arguments as text": ({**CHAT, "chat_template_kwargs": "{}"}, "`chat_template_kwargs` must be a dict"),
    "negative ID": ({**IDS, "chosen_ids": [42, -1]}, "`chosen_ids` must be token IDs, .* from 0, got int: -1"),
    "ID with a fraction": ({**IDS, "chosen_ids": [42.0, 3.5]}, "`chosen_ids` must be token IDs, .* got float: 42.0"),
    "number for IDs": ({**IDS, "chosen_ids": 5}, "`chosen_ids` must be a list of token IDs, got int: 5. Take it from"),
    "text for IDs": ({**IDS, "prompt_ids": "40 41"}, "`prompt_ids` must be a list of token IDs, got str: '40 41'"),
    "pair and completion": ({**TEXT, "completion": " 5"}, "A row must be a pair, .* or a completion, .* got both"),
    "number for weights": (
        {**IDS, "chosen_weights": 1.0, "rejected_weights": [0.0] * 3},
        "`chosen_weights` must hold one float per token of `chosen_ids`, expected 3, got float: 1.0",
    ),
    "too few weights": (
        {**IDS, "chosen_weights": [1.0], "rejected_weights": [0.0] * 3},
        "`chosen_weights` must hold one float per token of `chosen_ids`, expected 3, got 1",
    ),
    "weight of NaN": (
        {**IDS, "chosen_weights": [1.0, float("nan"), 0.0], "rejected_weights": [0.0] * 3},
        "`chosen_weights` must be finite numbers, got nan at token 1",
    ),
}  # fmt: skip


def good_row(row: dict) -> dict:
    """A row of the same shape that is fine."""
    good = IDS if "chosen_ids" in row else CHAT if isinstance(row["prompt"], list) else TEXT
    return (
        {**dict.fromkeys(row), **good}
        if "chosen_weights" not in row
        else {**row, **{"chosen_weights": [0.0] * 3, "rejected_weights": [0.0] * 3}}
    )


@pytest.mark.parametrize(("row", "message"), BAD_ROWS.values(), ids=BAD_ROWS)
class TestBadRows:
    def test_training_stops_with_row_column_and_remedy(self, row, message, tokenizer):
        """Lazy data holds what Arrow could not."""
        dataset = IterableDataset.from_generator(lambda: iter([good_row(row), row]))
        prepared = prepare_dual_cots(dataset, tokenizer, eos_token=tokenizer.eos_token, dataset_name="eval")
        with pytest.raises(PairError, match=f"(?s)^Row 1 of the eval dataset: .*{message}"):
            list(prepared)

    def test_inspection_goes_on_and_counts_it(self, row, message, tokenizer):
        rows = [good_row(row), row, good_row(row)]
        first, bad, last = read_pairs(rows, tokenizer)
        assert bad.problems == ["unreadable"] and not bad.chosen
        assert re.search(message, bad.error)
        assert first.chosen and last.chosen and "unreadable" not in first.problems + last.problems

    def test_inspection_without_a_tokenizer_finds_it_too(self, row, message):
        if "chosen_ids" in row:
            pytest.skip("tokens cannot be read without a tokenizer")
        first, bad = read_pairs([good_row(row), row])
        assert first.chosen and bad.problems == ["unreadable"] and re.search(message, bad.error)


class TestGoodRows:
    @pytest.mark.parametrize(
        "row",
        [
            TEXT,
            CHAT,
            IDS,
            {**TEXT, "prompt": ""},
            {**TEXT, "prompt": None},
            {**TEXT, "chosen": "👩 \N{REPLACEMENT CHARACTER}"},
            {**TEXT, "chosen": "\0 5\0"},
            {"chosen": "a b", "rejected": "a c"},
            {**CHAT, "tools": json.dumps([{"type": "function"}]), "chat_template_kwargs": {"shout": True}},
            {**CHAT, "tools": None, "chat_template_kwargs": None},
            {**CHAT, "chosen": [{"from": "gpt", "value": "5"}]},
            {**CHAT, "chosen": [{"role": "assistant", "content": None, "tool_calls": [{"type": "function"}]}]},
            {**CHAT, "chosen": [{"role": "assistant", "content": [{"type": "text", "text": "5"}]}]},
            {name: np.array(ids) for name, ids in IDS.items()},
        ],
        ids=repr,
    )
    def test_nothing_is_raised(self, row):
        assert check_pair(row) is None


class TestVocabulary:
    """A model of 400 tokens, 0 to 399."""

    ROWS = {  # noqa: RUF012
        "pair": {**IDS, "rejected_ids": [42, 400, 2]},
        "prompt": {**IDS, "prompt_ids": [1000]},
        "completion": {"prompt_ids": [40], "completion_ids": [400]},
    }

    @pytest.mark.parametrize("row", ROWS.values(), ids=ROWS)
    @pytest.mark.parametrize("by_name", [True, False], ids=["name", "model"])
    def test_token_that_the_model_does_not_know_is_named(self, row, by_name, model, model_folder, tokenizer, tmp_path):
        args = EDITConfig(output_dir=str(tmp_path), report_to="none", use_cpu=True, bf16=False, completion_weight=1.0)
        good = {"prompt_ids": [40], "completion_ids": [399]} if "completion_ids" in row else IDS
        with pytest.raises(
            PairError, match=r"^Row 1 of the train dataset: `\w+` must be tokens of the model, which has"
        ):
            EDITTrainer(
                model_folder if by_name else model,
                args,
                train_dataset=Dataset.from_list([good, row]),
                processing_class=tokenizer,
            )

    def test_stream_is_checked_as_it_is_read(self, tokenizer):
        stream = IterableDataset.from_generator(lambda: iter([IDS, self.ROWS["pair"]]))
        prepared = iter(prepare_dual_cots(stream, tokenizer, eos_token=None, num_embeddings=400))
        next(prepared)
        with pytest.raises(PairError, match="Row 1 of the train dataset: `rejected_ids` .* has 400, got 400"):
            next(prepared)

    def test_text_of_a_larger_tokenizer_is_named(self, tokenizer):
        """The tokens of texts are checked as well: the tokenizer may be that of another model."""
        with pytest.raises(PairError, match="Row 0 .* pass the model's own as `processing_class`"):
            prepare_dual_cots(Dataset.from_list([TEXT]), tokenizer, eos_token=None, num_embeddings=50)


class TestWhatCountsAsMissing:
    def test_message_of_reasoning_alone_is_kept(self, own_tokenizer):
        for name in ("reasoning_content", "reasoning", "thinking"):
            thoughts = f"{{{{ message.{name} }}}}"
            own_tokenizer.chat_template = CHAT_TEMPLATE.replace("<|im_end|>", f"{thoughts}<|im_end|>")
            row = {**CHAT, "chosen": [{"role": "assistant", "content": "", name: "2 + 3 = 5"}]}
            assert len(prepare_dual_cots(Dataset.from_list([row]), own_tokenizer, eos_token=None)) == 1

    @pytest.mark.parametrize("prompt", ["", "  "])
    def test_prompt_may_be_empty(self, prompt, tokenizer):
        """As for `DPOTrainer`. Without a tokenizer too."""
        row = {**TEXT, "prompt": prompt}
        (prepared,) = prepare_dual_cots(Dataset.from_list([row]), tokenizer, eos_token=tokenizer.eos_token)
        assert tokenizer.decode(prepared["chosen_ids"]) == f"{row['chosen']}{tokenizer.eos_token}"
        for pair in (*read_pairs([row], tokenizer), *read_pairs([row])):
            assert "missing" not in pair.problems and pair.chosen

    def test_template_that_fails_names_the_row(self, own_tokenizer):
        """Adding a number to a text is an error of Python and not of the template."""
        own_tokenizer.chat_template = "{% for m in messages %}{{ m.role + 5 }}{% endfor %}"
        row = CHAT
        with pytest.raises(
            PairError, match="Row 0 of the train dataset: The chat template .*can only concatenate str"
        ):
            prepare_dual_cots(Dataset.from_list([row]), own_tokenizer, eos_token=None)
        (pair,) = read_pairs([row], own_tokenizer)
        assert pair.problems == ["unreadable"]

    def test_nul_is_a_character_like_others(self, tokenizer):
        row = {**TEXT, "chosen": " 2\0 + 3 = 5."}
        (prepared,) = prepare_dual_cots(Dataset.from_list([row]), tokenizer, eos_token=None)
        assert tokenizer.decode(prepared["chosen_ids"]) == row["chosen"]
        for pair in (*read_pairs([row], tokenizer), *read_pairs([row])):
            assert "\0" in "".join(piece.text for piece in pair.chosen if piece.is_key)

    def test_template_that_refuses_names_the_row(self, tokenizer):
        class Strict(type(tokenizer)):
            pass

        other = Strict(tokenizer_object=tokenizer.backend_tokenizer, eos_token=tokenizer.eos_token)
        other.chat_template = "{{ raise_exception('roles must alternate') }}"
        with pytest.raises(PairError, match="Row 0 of the train dataset: The chat template .*roles must alternate"):
            prepare_dual_cots(Dataset.from_list([CHAT]), other, eos_token=None)


def test_message_is_one_line():
    with pytest.raises(PairError) as error:
        check_pair({**TEXT, "chosen": ["a\nb"] * 1000})
    assert len(str(error.value)) < 400 and re.search("Make a row of each", str(error.value))
