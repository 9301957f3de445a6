"""
Tests of thinking: each format is told from the answer, and what only looks like thinking is left alone.
"""

import re

import pytest

from edit_trl.answers import extract_answer
from edit_trl.thinking import FORMATS, split_thinking


# For each format, its marks as models write them.
MARKS = {
    "think": ("<think>", "</think>"),
    "thought": ("<thought>", "</thought>"),
    "reasoning": ("<reasoning>", "</reasoning>"),
    "scratchpad": ("<scratchpad>", "</scratchpad>"),
    "seed:think": ("<seed:think>", "</seed:think>"),
    "longcat_think": ("<longcat_think>", "</longcat_think>"),
    "[THINK]": ("[THINK]", "[/THINK]"),
    "◁think▷": ("◁think▷", "◁/think▷"),
    "<|think|>": ("<|think|>", "<|/think|>"),
    "begin_of_thought": ("<|begin_of_thought|>", "<|end_of_thought|>"),
    "START_THINKING": ("<|START_THINKING|>", "<|END_THINKING|>"),
    "inner_prefix": ("<|inner_prefix|>", "<|inner_suffix|>"),
    "unused94": ("<unused94>thought\n", "<unused95>"),
    "channel>thought": ("<|channel>thought\n", "<channel|>"),
    "Here is my thought process": ("Here is my thought process:", "\nHere is my response:"),
    "gpt-oss": (
        "<|channel|>analysis<|message|>",
        "<|end|><|start|>assistant<|channel|>final<|message|>",
    ),
    "gpt-oss, without marks": ("analysis", "assistantfinal"),
    # In other letters and with spaces.
    "<thinking>": ("<thinking>", "</thinking>"),
    "<Think>": ("<Think>", "</THINK>"),
    "< think >": ("< think >", "</ think >"),
    "<thoughts>": ("<thoughts>", "</thoughts>"),
}
THINKING = "We add.\n2 + 3 <b>is</b> 5, so the answer is 6? No."
ANSWER = "2 + 3 = 5. Therefore, the answer is 5."


class TestFormats:
    def test_each_format_has_a_row(self):
        assert set(MARKS) >= set(FORMATS)
        for name, patterns in FORMATS.items():
            for mark, pattern in zip(MARKS[name], patterns, strict=True):
                assert re.search(pattern, mark, re.MULTILINE | re.IGNORECASE), name

    @pytest.mark.parametrize("name", MARKS)
    def test_thinking_is_told_from_the_answer(self, name):
        opening, closing = MARKS[name]
        parts = split_thinking(f"{opening}{THINKING}{closing}{ANSWER}")

        assert (parts.answer.strip(), parts.thinking, parts.is_open) == (ANSWER, THINKING, False)
        assert extract_answer(f"{opening}{THINKING}{closing}{ANSWER}") == "5"

    @pytest.mark.parametrize("name", MARKS)
    def test_thinking_that_is_not_closed_goes_to_the_end(self, name):
        parts = split_thinking(f"{MARKS[name][0]}{THINKING} {ANSWER}")

        assert (parts.answer, parts.thinking, parts.is_open) == ("", f"{THINKING} {ANSWER}", True)
        assert extract_answer(f"{MARKS[name][0]}{THINKING} {ANSWER}") is None

    @pytest.mark.parametrize("name", sorted(MARKS.keys() - {"Here is my thought process"}))
    def test_thinking_that_the_template_has_opened_begins_with_the_reply(self, name):
        parts = split_thinking(f"{THINKING}{MARKS[name][1]}{ANSWER}")

        assert (parts.answer.strip(), parts.thinking, parts.is_open) == (ANSWER, THINKING, False)

    @pytest.mark.parametrize("name", MARKS)
    def test_empty_thinking_is_none(self, name):
        opening, closing = MARKS[name]
        if name == "gpt-oss, without marks":
            opening = "analysis."  # a word alone is no channel
        parts = split_thinking(f"{opening}{closing}{ANSWER}")

        assert (parts.answer.strip(), parts.is_open) == (ANSWER, False)

    @pytest.mark.parametrize("name", FORMATS)
    def test_marks_within_the_thinking_belong_to_it(self, name):
        opening, closing = MARKS[name]
        other = "[THINK] or [/THINK]" if name != "[THINK]" else "<think> or </think>"
        parts = split_thinking(f"{opening}Not {other}.{closing}{ANSWER}")

        assert (parts.answer.strip(), parts.thinking) == (ANSWER, f"Not {other}.")

    @pytest.mark.parametrize(
        ("reply", "answer", "thinking"),
        [
            ("<think>2 +</think> 5. <think>So 5.</think>", " 5. ", "2 +\nSo 5."),
            ("<think>a</think>b</think>c", "c", "a\nb"),  # closed twice
            ("Sure. <think>2 + 3", "Sure. ", "2 + 3"),
            ("<seed:think>a<seed:cot_budget_reflect>b</seed:cot_budget_reflect></seed:think>5", "5", None),
            ("<|START_THINKING|>a<|END_THINKING|><|START_RESPONSE|>5<|END_RESPONSE|>", "5", "a"),
            (
                "<|begin_of_thought|>a<|end_of_thought|><|begin_of_solution|>5<|end_of_solution|>",
                "5",
                "a",
            ),
            # gpt-oss
            ("<|channel|>final<|message|>5<|return|>", "5", ""),
            ("<|channel|>analysis<|message|>a<|end|>", "", "a"),
            (
                "<|channel|>analysis<|message|>a<|end|><|start|>assistant<|channel|>commentary to=functions.f "
                "<|constrain|>json<|message|>{}<|call|>",
                "",
                "a\n{}",
            ),
            (
                "<|channel|>commentary<|message|>a<|end|><|start|>assistant<|channel|>final<|message|>5",
                "5",
                "a",
            ),
            ("analysis<|message|>a<|end|><|start|>assistant<|channel|>final<|message|>5", "5", "a"),
            ("final<|message|>5", "5", ""),
            ("analysisWe add.assistantanalysisAgain.assistantfinal5", "5", "We add.\nAgain."),
            ("analysis\nWe add. assistantfinal5", "5", "We add."),
        ],
    )
    def test_several_parts(self, reply, answer, thinking):
        parts = split_thinking(reply)

        assert parts.answer == answer
        assert thinking is None or parts.thinking == thinking

    @pytest.mark.parametrize(
        "reply",
        [
            "",
            ANSWER,
            "1 < 2, I think> so. The answer is 5.",
            "I think [think] is a word. The answer is 5.",
            "2 + 3 = 5.\nHere is my response: the answer is 5.",
            "Here is my thought: 2 + 3 = 5. The answer is 5.",
            "The analysis is done, so the assistant is final. The answer is 5.",
            "analysis of the text: it has 5 words. The answer is 5.",
            "Analysis: 2 + 3 = 5. The answer is 5.",
            "The reasoning is <b>sound</b>. The answer is 5.",
            "It is a channel|> of thought. The answer is 5.",
            "Within the inner_circle, the answer is 5.",
        ],
    )
    def test_what_is_no_mark_stays(self, reply):
        assert split_thinking(reply) == (reply, "", False)


@pytest.mark.parametrize("end", ["<|endoftext|>", "<|im_end|>", "<|eot_id|>"])
def test_end_of_a_chain_is_no_thinking(end):
    assert split_thinking(f"2 + 3 = 5.{end}") == (f"2 + 3 = 5.{end}", "", False)


def test_words_beside_special_tokens():
    assert split_thinking("analysisX.assistant\nfinal5<|end|>").answer == "5<|end|>"
    assert split_thinking("x<channel|>5") == ("5", "x", False)
    assert split_thinking("<|START_RESPONSE|>5<|END_RESPONSE|>").answer == "5"
