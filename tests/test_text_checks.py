"""
Tests of the checks that the tokens of a row have all of its texts.

The templates of `chat_templates.py` do what those of known models do. Each row below says what is left out, or that
nothing is.
"""

import chat_templates as templates
import pytest
from conftest import build_tokenizer
from datasets import Dataset, IterableDataset
from hypothesis import given, settings
from hypothesis import strategies as st

from edit_trl.data_utils import prepare_dual_cots
from edit_trl.inspection import Statistics, read_pairs
from edit_trl.pair_checks import PairError
from edit_trl.text_checks import find_text, fold


USER = {"role": "user", "content": "What is 12 + 30 - 5?"}
STEPS = "First, 12 + 30 = 42. Then 42 - 5 = {}."
ANSWER = "Therefore, the answer is {}."


def answer(content, **fields):
    return {"role": "assistant", "content": content, **fields}


def pair(message, wrong=None):
    """A pair whose right chain is this message, and whose wrong chain is `wrong` or a short answer."""
    wrong = wrong or answer([{"type": "text", "text": ""}] if isinstance(message["content"], list) else "It is 38.")
    return {"prompt": [USER], "chosen": [message], "rejected": [wrong]}


THOUGHT = answer(f"<think>\n{STEPS.format(37)}\n</think>\n\n{ANSWER.format(37)}")
PLAIN = answer(f"{STEPS.format(37)} {ANSWER.format(37)}")
CALL = {"type": "function", "function": {"name": "subtract", "arguments": {"minuend": "forty-two", "b": 5}}}


def reasoning(key):
    return answer(ANSWER.format(37), **{key: STEPS.format(37)})


# Template, message, and the beginning of what is left out (`None` if nothing is).
ROWS = {
    "R1 drops <think>": ("R1", THOUGHT, "First, 12 + 30 = 42."),
    "R1 drops what has no opening tag": ("R1", answer("So 12 + 30 = 42.</think>37"), "So 12 + 30 = 42."),
    "R1 drops one step": ("R1", answer("<think>42</think>37"), "42</think>37"),
    "R1 drops the same word": ("R1", answer("<think>37</think>37"), "37"),
    "R1 drops Chinese": ("R1", answer("<think>12加30等于42。</think>答案是37。"), "12加30等于42"),
    "R1 drops reasoning_content": ("R1", reasoning("reasoning_content"), "First, 12"),
    "R1 keeps plain text": ("R1", PLAIN, None),
    "QwQ drops <think>": ("QWQ", THOUGHT, "First, 12"),
    "QwQ keeps plain text": ("QWQ", PLAIN, None),
    "Qwen3 keeps <think>": ("QWEN3", THOUGHT, None),
    "Qwen3 keeps reasoning_content": ("QWEN3", reasoning("reasoning_content"), None),
    "Qwen3 drops what precedes <think>": ("QWEN3", answer("Well. <think>1 + 1</think>2"), "Well. <think>"),
    "Qwen3 keeps plain text": ("QWEN3", PLAIN, None),
    "Qwen3 keeps calls, arguments in any order": (
        "QWEN3",
        answer(
            "Let me.", tool_calls=[{**CALL, "function": {**CALL["function"], "arguments": {"z": "one", "a": "two"}}}]
        ),
        None,
    ),
    "Qwen3 keeps calls": ("QWEN3", answer("Let me.", tool_calls=[CALL]), None),
    "the same text in two fields": (
        "QWEN3",
        answer("37.", reasoning_content=STEPS.format(37), reasoning=STEPS.format(37)),
        None,
    ),
    "gpt-oss keeps thinking": ("GPT_OSS", reasoning("thinking"), None),
    "gpt-oss keeps plain text": ("GPT_OSS", PLAIN, None),
    "Magistral renames <think>": ("MAGISTRAL", THOUGHT, None),
    "SmolLM3 keeps <think>": ("SMOLLM3", THOUGHT, None),
    "SmolLM3 drops reasoning_content": ("SMOLLM3", reasoning("reasoning_content"), "First, 12"),
    "SmolLM3 gets parts as text": ("SMOLLM3", answer([{"type": "text", "text": "It is 37."}]), None),
    "Gemma trims": ("GEMMA", answer(f"\n\n {THOUGHT['content']}  \n"), None),
    "Llama drops the text beside a call": (
        "LLAMA3",
        answer("Let me subtract.", tool_calls=[CALL]),
        "Let me subtract.",
    ),
    "Llama keeps a call": ("LLAMA3", answer("", tool_calls=[CALL]), None),
    "R1 drops a call": ("R1", answer("37.", tool_calls=[CALL]), "subtract"),
    "JSON escapes": ("JSON", answer('"2 < 3"\n & so\t5 > 4 \\ "é" 你好。'), None),
    "HTML escapes": ("HTML", answer('2 < 3 & "so"\n don\'t <b>x</b> straße'), None),
    "prompt begins the answer": ("PREFIX", answer(f"Let's think step by step. {STEPS.format(37)}"), None),
    "answer is cut": ("SHORT", PLAIN, "Then 42 - 5"),
    "answer is one sign": ("JSON", answer("?"), None),
}


@pytest.fixture(scope="module")
def tokenizer_with():
    """Makes the tokenizer with a template; the name of the template is that of the model."""
    tokenizer = build_tokenizer()

    def make(name):
        tokenizer.chat_template = getattr(templates, name)
        tokenizer.name_or_path = f"models/{name}"
        return tokenizer

    return make


class TestTemplates:
    @pytest.mark.parametrize(("name", "message", "lost"), ROWS.values(), ids=ROWS)
    def test_training_refuses_what_the_template_leaves_out(self, name, message, lost, tokenizer_with):
        tokenizer = tokenizer_with(name)
        rows = [pair(answer("It is 37.")), pair(message)]
        if isinstance(message["content"], list):
            rows = rows[1:]  # a column has contents of one type
        if lost is None:
            assert len(prepare_dual_cots(Dataset.from_list(rows), tokenizer, eos_token=None)) == len(rows)
            return
        with pytest.raises(PairError) as error:
            prepare_dual_cots(Dataset.from_list(rows), tokenizer, eos_token=None)
        number = len(rows) - 1
        expected = (
            f"Row {number} of the train dataset: The chat template of 'models/{name}' must render all of `chosen`"
        )
        assert str(error.value).startswith(f"{expected}, but it leaves out {lost!r}"[:-1])

    @pytest.mark.parametrize(("name", "message", "lost"), ROWS.values(), ids=ROWS)
    def test_inspection_counts_it_as_unreadable(self, name, message, lost, tokenizer_with):
        (found,) = read_pairs([pair(message)], tokenizer_with(name))
        assert ("unreadable" in found.problems) == (lost is not None)
        if lost is not None:
            assert f"'models/{name}' must render all of `chosen`, but it leaves out" in found.error
        statistics = Statistics()
        statistics.add(found)
        assert bool(statistics.problems["unreadable"]) == (lost is not None)

    def test_streams_refuse_it_too(self, tokenizer_with):
        rows = IterableDataset.from_generator(lambda: iter([pair(PLAIN), pair(THOUGHT)]))
        with pytest.raises(
            PairError, match="Row 1 of the train dataset: The chat template of 'models/R1' must render"
        ):
            list(prepare_dual_cots(rows, tokenizer_with("R1"), eos_token=None))

    def test_wrong_chain_and_completion_are_checked(self, tokenizer_with):
        tokenizer = tokenizer_with("R1")
        with pytest.raises(PairError, match="must render all of `rejected`, but it leaves out"):
            prepare_dual_cots(Dataset.from_list([pair(PLAIN, THOUGHT)]), tokenizer, eos_token=None)
        with pytest.raises(PairError, match="must render all of `completion`, but it leaves out"):
            row = {"prompt": [USER], "completion": [THOUGHT]}
            prepare_dual_cots(Dataset.from_list([row]), tokenizer, eos_token=None)

    def test_earlier_turns_of_a_chain_are_checked_and_those_of_the_prompt_are_not(self, tokenizer_with):
        """Qwen3 drops the thoughts before the last question, which belong to no chain if they are in the prompt."""
        more = {"role": "user", "content": "Are you sure?"}
        row = pair(PLAIN)
        tokenizer = tokenizer_with("QWEN3")
        before = {**row, "prompt": [USER, THOUGHT, more]}
        assert len(prepare_dual_cots(Dataset.from_list([before]), tokenizer, eos_token=None)) == 1
        within = {**row, "chosen": [THOUGHT, more, answer("Yes, 37.")]}
        with pytest.raises(PairError, match="'First, 12 .* in its `content` of message 0"):
            prepare_dual_cots(Dataset.from_list([within]), tokenizer, eos_token=None)

    def test_question_that_is_not_rendered_is_refused(self, tokenizer_with):
        """The student would not see the question."""
        tokenizer = tokenizer_with("SMOLLM3")
        tokenizer.chat_template = "{% for m in messages if m.role != 'user' %}{{ m.content }}{% endfor %}"
        row = {**pair(PLAIN), "prompt": [{"role": "user", "content": "What is 2 + 2?"}]}
        with pytest.raises(PairError, match="must render all of `prompt`, but it leaves out 'What is 2"):
            prepare_dual_cots(Dataset.from_list([row]), tokenizer, eos_token=None)

    @pytest.mark.parametrize("name", ["GEMMA", "QWEN3", "SMOLLM3"])
    def test_system_prompts_may_be_merged(self, name, tokenizer_with):
        row = {**pair(PLAIN), "prompt": [{"role": "system", "content": "Be brief."}, USER]}
        assert len(prepare_dual_cots(Dataset.from_list([row]), tokenizer_with(name), eos_token=None)) == 1

    def test_message_says_what_to_do(self, tokenizer_with):
        (tags,) = read_pairs([pair(THOUGHT)], tokenizer_with("R1"))
        assert "Take the tags such as `<think>` out of the text" in tags.error and "`chat_template_path`" in tags.error
        (field,) = read_pairs([pair(reasoning("thinking"))], tokenizer_with("R1"))
        assert "Write the text of `thinking` into `content`" in field.error

    def test_what_the_message_says_works(self, tokenizer_with):
        text = THOUGHT["content"].replace("<think>", "").replace("</think>", "")
        assert (
            len(prepare_dual_cots(Dataset.from_list([pair(answer(text))]), tokenizer_with("R1"), eos_token=None)) == 1
        )


class TestFindText:
    @given(text=st.text(max_size=60), before=st.text(max_size=10), after=st.text(max_size=10))
    @settings(deadline=None)
    def test_text_is_in_itself(self, text, before, after):
        """Spaces at its ends, its case and other texts around it do not matter."""
        assert find_text(f" {text}\n", fold(f"{before} {text.strip()} {after}"))[1] == ""
        assert find_text(text, fold(" ".join(text.split()).upper()))[1] == ""

    @given(words=st.lists(st.sampled_from(["12", "is", "So", "答案", "é"]), min_size=1, max_size=8), data=st.data())
    @settings(deadline=None)
    def test_lost_word_is_noticed(self, words, data):
        """Words that are all different: without any one of them the text is not found."""
        words = [f"{word}{'xyzuvwts'[place]}" for place, word in enumerate(words)]
        place = data.draw(st.integers(0, len(words) - 1))
        rest = words[:place] + words[place + 1 :]
        assert find_text(" ".join(words), fold("; ".join(rest)))[1] == " ".join(words[place:])


class TestIdsOfTexts:
    def row(self, tokenizer, prompt="Q: What is 2 + 2?\nA:", chosen=" It is 4.", rejected=" It is 5.", **texts):
        ids = {
            f"{name}_ids": tokenizer.encode(text, add_special_tokens=False)
            for name, text in (("prompt", prompt), ("chosen", chosen), ("rejected", rejected))
        }
        return {**ids, "prompt": prompt, "chosen": chosen, "rejected": rejected, **texts}

    @pytest.mark.parametrize(
        "texts",
        [
            {},
            {"prompt": None},
            {"prompt": None, "chosen": None, "rejected": None},
            {"prompt": "What is 2 + 2?"},  # the IDs have a frame around it
            {"prompt": "q: what  is 2 + 2?"},
            {"chosen": " It is 4. That is all."},  # cut
            {"chosen": "it is\n4."},
            {"chosen": ["It", "is", "7"]},  # no text that the trainer would read
            {"chosen": [{"role": "assistant", "content": "It is 4."}]},
        ],
    )
    def test_ids_of_the_text_are_taken(self, texts, tokenizer):
        row = self.row(tokenizer, **{})
        row.update(texts)
        (prepared,) = prepare_dual_cots(Dataset.from_list([row]), tokenizer, eos_token=None)
        assert prepared["chosen_ids"] == row["chosen_ids"]
        assert "unreadable" not in next(read_pairs([row], tokenizer)).problems

    @pytest.mark.parametrize(
        ("column", "text", "lost"),
        [
            ("prompt", "Q: What is 2 + 3?\nA:", "'3"),
            ("chosen", " It is 7.", "'7"),
            ("chosen", " So it is 4.", "'So it"),
            ("rejected", " It is 4.", "'4"),
            ("rejected", [{"role": "assistant", "content": "No, 5."}], "'No, 5."),
        ],
    )
    def test_ids_of_another_text_are_refused(self, column, text, lost, tokenizer):
        row = self.row(tokenizer)
        row[column] = text
        for rows in (Dataset.from_list([row]), IterableDataset.from_generator(lambda: iter([row]))):
            with pytest.raises(PairError, match=f"Row 0 .*`{column}_ids` must be the tokens of `{column}`.*{lost}"):
                list(prepare_dual_cots(rows, tokenizer, eos_token=None))
        (found,) = read_pairs([row], tokenizer)
        assert found.problems == ["unreadable"] and f"`{column}_ids` must be" in found.error

    def test_completions_are_checked(self, tokenizer):
        row = {"prompt": "Q:", "completion": " It is 4.", "prompt_ids": tokenizer.encode("Q:")}
        good = {**row, "completion_ids": tokenizer.encode(" It is 4.")}
        assert len(prepare_dual_cots(Dataset.from_list([good]), tokenizer, eos_token=None)) == 1
        bad = {**row, "completion_ids": tokenizer.encode(" It is 5.")}
        with pytest.raises(PairError, match="`completion_ids` must be the tokens of `completion`"):
            prepare_dual_cots(Dataset.from_list([bad]), tokenizer, eos_token=None)

    @pytest.mark.parametrize("kind", ["text", "messages", "no prompt", "split prompt"])
    def test_what_preparation_makes_is_taken_again(self, kind, tokenizer):
        """Prepared data keeps its texts."""
        rows = {
            "text": {"prompt": "Q: 2 + 2?", "chosen": " It is 4.", "rejected": " 5 😀 5"},
            "messages": pair(PLAIN),
            "no prompt": {"chosen": "Q: It is 4.", "rejected": "Q: It is 5."},
            "split prompt": {"prompt": "The ans", "chosen": "wer is 4.", "rejected": "wer is 5."},
        }
        prepared = prepare_dual_cots(Dataset.from_list([rows[kind]]), tokenizer, eos_token="<|im_end|>")
        again = prepare_dual_cots(prepared, tokenizer, eos_token="<|im_end|>")
        assert list(again) == list(prepared)
