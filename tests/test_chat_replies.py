"""
Tests of replies in the formats of services: contents in parts, fields of thinking, refusals, ends and characters.
"""

import json

import pytest
from chat_helpers import ask_one, quick_backoff  # noqa: F401
from teacher import (
    Response,
    Teacher,
    client_for,
    completion,
    time_limit,  # noqa: F401
)

from edit_trl.chat import ChatReply
from edit_trl.chat.replies import FINISH_REASONS, finish_reason_of, plain_text, read_reply


pytest.importorskip("openai")


def reply_of(message, finish_reason="stop", usage=None, leave_out=()):
    """What is read from a message, and how often it was asked for."""
    body = completion(None, finish_reason)
    body["choices"][0]["message"] = {"role": "assistant", **message}
    for name in leave_out:
        del body["choices"][0][name]
    if usage is not None:
        body["usage"] = usage
    with Teacher(lambda *_: body) as teacher:
        reply = ask_one(client_for(teacher, max_retries=5))
    assert len(teacher.requests) == 1
    return reply


class TestContents:
    @pytest.mark.parametrize(
        ("content", "text", "thinking"),
        [
            ([{"type": "text", "text": "5"}], "5", ""),
            ([{"type": "text", "text": "2 + 3 "}, {"type": "text", "text": "= 5"}], "2 + 3 = 5", ""),
            # Mistral
            (
                [
                    {"type": "thinking", "thinking": [{"type": "text", "text": "2 + 3"}], "closed": True},
                    {"type": "text", "text": "5"},
                ],
                "5",
                "2 + 3",
            ),
            (
                [
                    {"type": "text", "text": "5 "},
                    {"type": "reference", "reference_ids": [1]},
                    {"type": "text", "text": "."},
                ],
                "5 .",
                "",
            ),
            # Anthropic
            (
                [{"type": "thinking", "thinking": "2 + 3", "signature": "x"}, {"type": "text", "text": "5"}],
                "5",
                "2 + 3",
            ),
            ([{"type": "redacted_thinking", "data": "x"}, {"type": "text", "text": "5"}], "5", ""),
            # OpenAI's other interface
            ([{"type": "output_text", "text": "5", "annotations": []}], "5", ""),
            ([{"type": "text", "text": {"value": "5", "annotations": []}}], "5", ""),
            (["2 + 3", " = 5"], "2 + 3 = 5", ""),
            ({"type": "text", "text": "5"}, "5", ""),
            ([{"text": "5"}], "5", ""),
            ([{"type": "text", "text": "<think>2 + 3</think>5"}], "5", "2 + 3"),
        ],
        ids=lambda value: None,
    )
    def test_parts_are_read_as_what_they_are(self, content, text, thinking):
        assert reply_of({"content": content}) == ChatReply(text, thinking, "stop", 20, 10)

    @pytest.mark.parametrize(
        ("fields", "thinking"),
        [
            ({"reasoning_content": "2 + 3"}, "2 + 3"),
            ({"reasoning": "2 + 3"}, "2 + 3"),
            ({"thinking": "2 + 3"}, "2 + 3"),
            ({"reasoning_text": "2 + 3"}, "2 + 3"),
            ({"reasoning_details": [{"type": "reasoning.text", "text": "2 + 3", "index": 0}]}, "2 + 3"),
            ({"reasoning_details": [{"type": "reasoning.summary", "summary": "Adds."}]}, "Adds."),
            ({"reasoning_details": [{"type": "reasoning.encrypted", "data": "x"}]}, ""),
            ({"reasoning": None, "reasoning_details": [{"type": "reasoning.text", "text": "2 + 3"}]}, "2 + 3"),
            # Services repeat it in a second field.
            ({"reasoning": "2 + 3", "reasoning_details": [{"type": "reasoning.text", "text": "2 + 3"}]}, "2 + 3"),
            ({"reasoning_content": "2 + 3", "reasoning": "2 + 3"}, "2 + 3"),
            ({"thinking_blocks": [{"type": "thinking", "thinking": "2 + 3", "signature": "x"}]}, "2 + 3"),
            ({"reasoning": {"content": [{"type": "text", "text": "2 + 3"}]}}, "2 + 3"),
            ({"reasoning_content": "", "reasoning": []}, ""),
        ],
        ids=lambda value: None,
    )
    def test_fields_of_thinking_are_kept_apart(self, fields, thinking):
        assert reply_of({"content": "5", **fields}) == ChatReply("5", thinking, "stop", 20, 10)

    @pytest.mark.parametrize(
        ("message", "finish_reason", "expected"),
        [
            ({"content": None, "refusal": "I cannot help."}, "stop", ("I cannot help.", "refusal")),
            ({"content": [{"type": "refusal", "refusal": "I cannot."}]}, "stop", ("I cannot.", "stop")),
            ({"content": "", "refusal": "I cannot help."}, "content_filter", ("I cannot help.", "refusal")),
            ({"content": "5", "refusal": None}, "stop", ("5", "stop")),
            ({"content": None, "tool_calls": [{"id": "1"}]}, "tool_calls", ("", "tool_calls")),
            ({"content": None, "tool_calls": [{"id": "1"}]}, "stop", ("", "tool_calls")),
            ({"content": [{"type": "tool_use", "name": "add"}]}, "tool_use", ("", "tool_calls")),
            ({"content": "", "function_call": {"name": "add"}}, "function_call", ("", "tool_calls")),
            ({"content": "I add. ", "tool_calls": [{"id": "1"}]}, "tool_calls", ("I add.", "tool_calls")),
            ({"content": "5", "tool_calls": []}, "stop", ("5", "stop")),
            ({"content": None}, "stop", ("", "stop")),
            ({"content": ""}, "stop", ("", "stop")),
            ({"content": " \n"}, "stop", ("", "stop")),
            ({"content": []}, "stop", ("", "stop")),
            ({}, "stop", ("", "stop")),
            ({}, "content_filter: PROHIBITED_CONTENT", ("", "content_filter")),  # Gemini
        ],
        ids=lambda value: None,
    )
    def test_reply_without_a_text_is_a_reply_and_is_paid_once(self, message, finish_reason, expected):
        reply = reply_of(message, finish_reason)

        assert (reply.text, reply.finish_reason) == expected
        assert (reply.prompt_tokens, reply.completion_tokens) == (20, 10)

    @pytest.mark.parametrize(
        ("usage", "expected"),
        [
            ({"prompt_tokens": 20, "completion_tokens": 10, "total_tokens": 30}, (20, 10)),
            # xAI and Gemini count the thinking in the total alone, and charge it.
            ({"prompt_tokens": 20, "completion_tokens": 10, "total_tokens": 230}, (20, 210)),
            ({"prompt_tokens": 20, "completion_tokens": 10, "total_tokens": 0}, (20, 10)),
            ({"prompt_tokens": 20, "completion_tokens": 10, "total_tokens": None}, (20, 10)),
        ],
    )
    def test_thinking_is_counted(self, usage, expected):
        reply = reply_of({"content": "5"}, usage=usage)

        assert (reply.prompt_tokens, reply.completion_tokens) == expected

    @pytest.mark.parametrize("name", ["prompt_tokens", "completion_tokens", "total_tokens"])
    @pytest.mark.parametrize("count", [float("inf"), float("nan"), 10**25, -5, "many", [], {}, None, 0])
    def test_what_is_no_count_is_estimated(self, name, count):
        """32 characters of a question and its message are 9 tokens; a reply of 8 characters is 2."""
        usage = {"prompt_tokens": 20, "completion_tokens": 10, "total_tokens": 30, name: count}
        reply = read_reply(json.dumps({**completion("12345678"), "usage": usage}), 9)

        expected = {"prompt_tokens": (9, 10), "completion_tokens": (20, 10), "total_tokens": (20, 10)}
        assert (reply.prompt_tokens, reply.completion_tokens) == expected[name]

    @pytest.mark.parametrize("usage", [[], "none", 5, None, {}])
    def test_usage_may_be_anything(self, usage):
        reply = read_reply(json.dumps({**completion("12345678"), "usage": usage}), 9)

        assert (reply.text, reply.prompt_tokens, reply.completion_tokens) == ("12345678", 9, 2)


class TestFinishReasons:
    @pytest.mark.parametrize(
        ("reason", "expected"),
        [
            *[
                (reason, "stop")
                for reason in ("stop", "eos", "end_turn", "STOP", "COMPLETE", "stop_sequence", "eos_token")
            ],
            *[(reason, "stop") for reason in ("COMPLETED", "Stop", "FINISH_REASON_STOP", "end-turn", "")],
            *[(reason, "length") for reason in ("length", "max_tokens", "MAX_TOKENS", "model_length", "max_length")],
            *[(reason, "content_filter") for reason in ("content_filter", "SAFETY", "RECITATION", "content_filtered")],
            ("refusal", "refusal"),
            *[(reason, "tool_calls") for reason in ("tool_calls", "tool_use", "function_call", "TOOL_CALL")],
            ("something new", "something new"),
            (None, None),
        ],
    )
    def test_words_of_services_are_ours(self, reason, expected):
        assert finish_reason_of(reason) == expected
        if reason != "":
            assert reply_of({"content": "5"}, reason).finish_reason == expected

    def test_missing_reason_is_none(self):
        assert reply_of({"content": "5"}, leave_out=["finish_reason"]).finish_reason is None

    def test_each_word_has_one_meaning(self):
        words = [word for words in FINISH_REASONS.values() for word in words]
        assert len(words) == len(set(words))
        assert all(word == word.lower() for word in words)

    @pytest.mark.parametrize("reason", ["error", "insufficient_system_resource"])
    def test_reply_that_broke_off_is_asked_for_again(self, reason):
        def script(request, number):
            return completion("5") if number else completion("2 +", reason)

        with Teacher(script) as teacher:
            reply = ask_one(client_for(teacher))

        assert reply.text == "5"
        assert len(teacher.requests) == 2

    def test_reply_of_an_older_store_is_read_as_today(self, tmp_path):
        store = str(tmp_path / "replies.sqlite")
        with Teacher(lambda *_: "5") as teacher:
            with client_for(teacher, store=store) as client:
                ask_one(client)
                client._store._db.execute(
                    "UPDATE replies SET text = '[THINK]2 + 3[/THINK]5' || char(0), finish_reason = 'MAX_TOKENS'"
                )
            with client_for(teacher, store=store) as client:
                reply = ask_one(client)

        assert reply == ChatReply("5", "2 + 3", "length", 20, 10)


class TestPlainText:
    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("5\0", "5"),
            ("\ufeff5", "5"),
            ("the answer is \u200b5\u200b.", "the answer is 5."),
            ("4\u00ad2", "42"),
            ("\u20605\u2064", "5"),
            ("5\u200d", "5"),
            ("\x1b[1m5\x1b[0m", "5"),
            ("5\x07\x08\x7f\x9b", "5"),
            ("\x1b]0;title\x075", "5"),
            ("a\rb\r\nc\x0bd\x0ce\x85f", "a\nb\nc\nd\ne\nf"),
            ("a\tb\nc\u2028d", "a\tb\nc\u2028d"),
            # Joiners in Persian and in emoji, directions, accents and wide characters are text.
            ("\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645", "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645"),
            ("\U0001f468\u200d\U0001f469", "\U0001f468\u200d\U0001f469"),
            ("\u200f\u05d0 5", "\u200f\u05d0 5"),
            ("e\u0301 \u00e9 \uff15 \u00a0", "e\u0301 \u00e9 \uff15 \u00a0"),
            # Halves of characters.
            ("5 \ud83d", "5 "),
            ("5 \ud83d\n", "5 \n"),
            ("\ud83d\ude00", "\U0001f600"),
            ("a \ud83d b", "a \ufffd b"),
            ("\ude00 b", "\ufffd b"),
            ("5 \ufffd\ufffd", "5 "),
        ],
    )
    def test_text_is_plain(self, text, expected):
        assert plain_text(text) == expected
        assert plain_text(expected) == expected

    @pytest.mark.parametrize("text", ["5\0", "\ufeff5", "5\u200b", "\x1b[1m5\x1b[0m", "5\r"])
    def test_reply_is_plain(self, text):
        assert reply_of({"content": text}).text == "5"

    def test_halves_of_a_character_in_two_parts_are_one(self):
        body = json.dumps(completion([{"type": "text", "text": "HIGH"}, {"type": "text", "text": "LOW"}]))
        body = body.replace("HIGH", "5 \\ud83d").replace("LOW", "\\ude00 5").encode()
        with Teacher(lambda *_: Response(body)) as teacher:
            assert ask_one(client_for(teacher)).text == "5 \U0001f600 5"

    @pytest.mark.parametrize("mark", ["<|im_end|>", "</s>", "<|eot_id|>", "<|return|>", "<|im_end|>\n<|endoftext|>"])
    def test_mark_of_the_end_is_left_out(self, mark):
        assert reply_of({"content": f"5{mark}"}).text == "5"

    def test_body_is_read_without_a_server(self):
        assert read_reply(json.dumps(completion("5")), 4) == ChatReply("5", "", "stop", 20, 10)
