"""
Tests of the client against a scripted endpoint on loopback, which sees what is really sent, and when.

Waits that the client chooses itself are cut to a hundredth; those that an endpoint asks for are waited. Of time, only
lower bounds are tested.
"""

import asyncio
import gc
import json
import logging
import math
import os
import random
import re
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
import traceback
from contextlib import closing
from email.utils import formatdate
from pathlib import Path

import pytest
from teacher import Response, Teacher, completion

from edit_trl.chat import BudgetReached, ChatClient, ChatReply, EndpointError, Usage, estimate_tokens


pytest.importorskip("openai")

KILLED_CLIENT = Path(__file__).with_name("killed_client.py")


@pytest.fixture(autouse=True)
def time_limit(request):
    """Nothing here waits for ever, whatever is wrong."""
    if not hasattr(signal, "SIGALRM"):
        yield
        return

    def stop(*_):
        raise TimeoutError("the test took too long")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(300 if request.node.get_closest_marker("slow") else 60)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture(autouse=True)
def quick_backoff(monkeypatch):
    scale_backoff(monkeypatch, 0.01)


def scale_backoff(monkeypatch, factor):
    """Backoff is what it would be at its shortest, times a factor."""
    monkeypatch.setattr("edit_trl.chat.run.random.uniform", lambda low, high: low * factor)


def client_for(teacher, **options):
    return ChatClient("teacher", teacher.url, **{"api_key_env": None, **options})


def messages_of(question):
    return [{"role": "user", "content": question}]


def question_of(request):
    return request["messages"][-1]["content"]


def questions(number):
    return [f"Question {i:04}" for i in range(number)]


def answer(request, number):
    return f"{question_of(request)}: answered"


def answers(number):
    return [f"{question}: answered" for question in questions(number)]


def ask(client, asked, sample=0):
    async def work(question):
        return (await client.chat(messages_of(question), sample)).text

    return client.for_each(asked, work)


def ask_one(client, question="Question 0000", sample=0):
    async def work(question):
        return await client.chat(messages_of(question), sample)

    return client.for_each([question], work)[0]


def refusal(status, message="no", **fields):
    return Response({"error": {"message": message, **fields}}, status)


def kinds_of(results):
    return [type(result) for result in results]


class TestReplies:
    def test_request_holds_the_options_that_were_given_and_never_n(self):
        with Teacher(answer) as teacher:
            client = client_for(
                teacher,
                temperature=0.7,
                top_p=0.9,
                max_tokens=64,
                seed=40,
                extra_body={"chat_template_kwargs": {"enable_thinking": False}},
            )
            ask_one(client, "What is 2 + 3?", sample=2)

        assert teacher.requests == [
            {
                "model": "teacher",
                "messages": [{"role": "user", "content": "What is 2 + 3?"}],
                "temperature": 0.7,
                "top_p": 0.9,
                "max_tokens": 64,
                "seed": 42,
                "chat_template_kwargs": {"enable_thinking": False},
            }
        ]

    def test_options_that_are_none_are_left_to_the_endpoint(self):
        with Teacher(answer) as teacher:
            ask_one(client_for(teacher, temperature=None, max_tokens=None))

        assert teacher.requests == [{"model": "teacher", "messages": messages_of("Question 0000")}]

    def test_defaults_are_those_of_the_paper(self):
        with Teacher(answer) as teacher:
            ask_one(client_for(teacher))

        assert teacher.requests[0]["temperature"] == 0.2
        assert teacher.requests[0]["max_tokens"] == 2048

    def test_key_goes_to_the_endpoint(self, monkeypatch):
        monkeypatch.setenv("TEACHER_KEY", "sk-of-the-teacher")
        with Teacher(answer) as teacher:
            ask_one(client_for(teacher, api_key_env="TEACHER_KEY"))

        assert teacher.headers[0]["authorization"] == "Bearer sk-of-the-teacher"

    def test_replies_and_usage_are_counted(self):
        """The endpoint counts 20 tokens for each request and 10 for each reply."""
        with Teacher(answer) as teacher:
            client = client_for(teacher)
            replies = [ask_one(client, question) for question in questions(3)]

        assert replies == [ChatReply(text, "", "stop", 20, 10) for text in answers(3)]
        assert client.usage == Usage(requests=3, replies=3, prompt_tokens=60, completion_tokens=30)

    @pytest.mark.parametrize(
        "usage", [None, {}, {"prompt_tokens": None, "completion_tokens": None}], ids=["none", "empty", "nulls"]
    )
    def test_tokens_that_the_endpoint_does_not_count_are_estimated(self, usage):
        """
        16 bytes of the question: 4 + 16 / 4 = 8. 20 bytes of reply and 12 of thinking: 32 / 4 = 8.
        """
        reply = {**completion("a" * 20, reasoning_content="b" * 12), "usage": usage}
        with Teacher(lambda *_: reply) as teacher:
            client = client_for(teacher)
            ask_one(client, "c" * 16)

        assert client.usage == Usage(requests=1, replies=1, prompt_tokens=8, completion_tokens=8)

    @pytest.mark.parametrize(
        ("message", "text", "thinking"),
        [
            ({"content": "5"}, "5", ""),
            ({"content": " 5\n"}, "5", ""),
            ({"content": "5", "reasoning_content": "2 + 3\n"}, "5", "2 + 3"),
            ({"content": "5", "reasoning": "2 + 3"}, "5", "2 + 3"),
            ({"content": "5", "reasoning_content": None, "reasoning": None}, "5", ""),
            ({"content": "<think>\n2 + 3\n</think>\n\n5"}, "5", "2 + 3"),
            ({"content": "<thinking>2 + 3</thinking>5"}, "5", "2 + 3"),
            ({"content": "2 + 3\n</think>\n\n5"}, "5", "2 + 3"),  # the template opened it
            ({"content": "<think>\n\n</think>\n\n5"}, "5", ""),  # switched off
            ({"content": "<think>2 +</think> 5. <think>So 5.</think>"}, "5.", "2 +\nSo 5."),
            ({"content": "<think>2 + 3 <b>is</b> 5, or"}, "", "2 + 3 <b>is</b> 5, or"),  # cut
            ({"content": "<think>c</think>5", "reasoning_content": "2 + 3"}, "5", "2 + 3\nc"),
            ({"content": "1 < 2, I think> so"}, "1 < 2, I think> so", ""),
            ({"content": None, "reasoning_content": "2 + 3"}, "", "2 + 3"),
            ({"content": "", "reasoning": "2 + 3"}, "", "2 + 3"),
        ],
    )
    def test_thinking_is_told_from_the_answer(self, message, text, thinking):
        with Teacher(lambda *_: completion(message["content"], **message)) as teacher:
            reply = ask_one(client_for(teacher))

        assert (reply.text, reply.thinking) == (text, thinking)

    @pytest.mark.parametrize("content", [None, ""])
    @pytest.mark.parametrize("finish_reason", ["length", "content_filter"])
    def test_reply_that_was_cut_before_its_first_word_is_empty_and_not_asked_again(self, content, finish_reason):
        with Teacher(lambda *_: completion(content, finish_reason)) as teacher:
            reply = ask_one(client_for(teacher))

        assert reply == ChatReply("", "", finish_reason, 20, 10)
        assert len(teacher.requests) == 1

    def test_reply_with_half_a_character_is_kept(self):
        """A cut reply can end within a character that JSON writes as two."""
        body = json.dumps(completion("5 \\ud83d")).replace("\\\\ud83d", "\\ud83d").encode()
        with Teacher(lambda *_: Response(body)) as teacher:
            client = client_for(teacher)
            first, second = ask_one(client), ask_one(client)

        assert first == second
        assert first.text.startswith("5")
        assert len(teacher.requests) == 1


class TestEndpointThatAsksToWait:
    @pytest.mark.parametrize(
        ("status", "headers", "seconds"),
        [
            (429, {"retry-after": "1"}, 1.0),
            (429, {"retry-after": "0.3"}, 0.3),
            (429, {"retry-after-ms": "300"}, 0.3),
            (429, {"retry-after-ms": "300", "retry-after": "60"}, 0.3),
            (429, {"retry-after": "a date"}, None),
            (503, {"retry-after": "0.3"}, 0.3),
            (503, {"retry-after": "a date"}, None),
            (529, {"retry-after-ms": "300"}, 0.3),
        ],
        ids=lambda value: " ".join(value) if isinstance(value, dict) else None,
    )
    def test_all_requests_wait_and_no_attempt_is_burnt(self, status, headers, seconds):
        """Of four workers, one is asked to wait. Only the three requests beside it may come before the time."""
        until = []

        def script(request, number):
            if number:
                return answer(request, number)
            if seconds is not None:
                until.append(time.monotonic() + seconds)
                return Response({"error": {"message": "slow down"}}, status, headers)
            now, date = time.time(), int(time.time()) + 2
            until.append(time.monotonic() + date - now)
            return Response({}, status, {"retry-after": formatdate(date, usegmt=True)})

        with Teacher(script) as teacher:
            client = client_for(teacher, max_concurrency=4, max_retries=0)
            results = ask(client, questions(12))

        assert results == answers(12)
        assert min(teacher.times[4:]) >= until[0] - 0.002
        assert client.usage.requests == len(teacher.requests) == 13
        assert client.usage.replies == 12

    def test_waiting_again_and_again_burns_no_attempt(self):
        def script(request, number):
            return answer(request, number) if number >= 9 else Response({}, 429, {"retry-after-ms": "20"})

        with Teacher(script) as teacher:
            results = ask(client_for(teacher, max_retries=0, max_concurrency=1), questions(2))

        assert results == answers(2)
        assert len(teacher.requests) == 11

    @pytest.mark.parametrize("retry_after", [None, "0", "soon", "nan", "-5", "Mon, 01 Jan 2001 00:00:00 GMT"])
    def test_without_a_time_the_waits_double(self, retry_after, monkeypatch):
        """At a hundredth: at least 2 * 0.5 / 100 = 0.01 seconds, then 0.02, 0.04, 0.08 and 0.16."""
        scale_backoff(monkeypatch, 0.01)
        headers = {} if retry_after is None else {"retry-after": retry_after}

        def script(request, number):
            return answer(request, number) if number == 5 else Response({}, 429, headers)

        with Teacher(script) as teacher:
            assert ask(client_for(teacher, max_retries=0), questions(1)) == answers(1)

        waits = [after - before for before, after in zip(teacher.times, teacher.times[1:], strict=False)]
        assert len(waits) == 5
        for wait, shortest in zip(waits, (0.01, 0.02, 0.04, 0.08, 0.16), strict=True):
            assert wait >= 0.9 * shortest

    def test_time_longer_than_max_wait_ends_the_run_at_once(self):
        with Teacher(lambda *_: Response({}, 429, {"retry-after": "1000"})) as teacher:
            client = client_for(teacher, max_concurrency=1)
            with pytest.raises(EndpointError, match=r"asked to wait for 1000 seconds .* `max_wait=900`") as caught:
                ask(client, questions(5))

        assert (caught.value.status_code, caught.value.url, caught.value.is_fatal) == (429, teacher.url, True)
        assert len(teacher.requests) == 1

    def test_many_short_waits_add_up_to_max_wait(self):
        """Waits of 0.05 seconds: the fifth would end after more than 0.2."""
        with Teacher(lambda *_: Response({}, 429, {"retry-after-ms": "50"})) as teacher:
            client = client_for(teacher, max_concurrency=1, max_wait=0.2)
            with pytest.raises(EndpointError, match="`max_wait=0.2`"):
                ask(client, questions(5))

        assert 2 <= len(teacher.requests) <= 4

    def test_each_reply_starts_max_wait_anew(self):
        """Ten waits of 0.05 seconds are more than 0.2, but there is a reply after each."""

        def script(request, number):
            return answer(request, number) if number % 2 else Response({}, 429, {"retry-after-ms": "50"})

        with Teacher(script) as teacher:
            results = ask(client_for(teacher, max_concurrency=1, max_wait=0.2), questions(10))

        assert results == answers(10)

    @pytest.mark.parametrize(
        "fields",
        [
            {"code": "insufficient_quota", "type": "insufficient_quota"},
            {"type": "insufficient_quota"},
            {"code": "billing_not_active"},
        ],
    )
    def test_account_without_credit_ends_the_run_at_once(self, fields):
        message = "You exceeded your current quota, please check your plan and billing details."
        with Teacher(lambda *_: refusal(429, message, **fields)) as teacher:
            client = client_for(teacher, max_concurrency=1)
            with pytest.raises(EndpointError, match="has no credit left: You exceeded your current quota"):
                ask(client, questions(20))

        assert len(teacher.requests) == 1

    def test_rate_limit_that_advertises_a_paid_plan_is_waited_for(self):
        message = (
            "Rate limit reached for requests. Limit: 3 / min. Please try again in 20s. Visit "
            "https://platform.openai.com/account/billing to add a payment method."
        )

        def script(request, number):
            return answer(request, number) if number else refusal(429, message, code="rate_limit_exceeded")

        with Teacher(script) as teacher:
            assert ask(client_for(teacher), questions(1)) == answers(1)


FAILURES = {
    "500": (lambda: refusal(500, "out of memory"), "status 500, out of memory"),
    "502 with a page": (lambda: Response(b"<html>", 502, content_type="text/html"), "status 502"),
    "503": (lambda: refusal(503, "starting"), "status 503, starting"),
    "408": (lambda: refusal(408), "status 408"),
    "closed connection": (ConnectionResetError, "the connection failed"),
    "cut reply": (lambda: Response(completion("cut"), cut=True), "the connection failed"),
    "malformed JSON": (lambda: Response(b'{"choices": [{'), "an unreadable reply"),
    "empty body": (lambda: Response(b""), "an unreadable reply"),
    "null": (lambda: Response(b"null"), "an unreadable reply"),
    "page": (
        lambda: Response(b"<html>busy</html>", content_type="text/html"),
        r"an unreadable reply \(<html>busy</html>\)",
    ),
    "no choices": (lambda: {**completion("x"), "choices": []}, "an unreadable reply"),
    "no message": (lambda: {"choices": [{"index": 0}]}, "an unreadable reply"),
    "content that is no text": (lambda: completion([{"type": "text"}]), "an unreadable reply"),
    "finish reason that is no text": (lambda: completion("x", {"type": "stop"}), "an unreadable reply"),
    "content null": (lambda: completion(None), "an empty reply"),
    "content empty": (lambda: completion(""), "an empty reply"),
}


def fail(failure):
    """What a script returns or raises."""
    response = FAILURES[failure][0]()
    if isinstance(response, Exception):
        raise response
    return response


class TestFailedAttempts:
    @pytest.mark.parametrize("failure", FAILURES)
    def test_item_that_always_fails_is_retried_and_leaves_the_others_alone(self, failure):
        """Six questions, one of which fails, with two further attempts: 5 + 3 requests."""

        def script(request, number):
            return fail(failure) if question_of(request) == "Question 0002" else answer(request, number)

        with Teacher(script) as teacher:
            client = client_for(teacher, max_retries=2, max_concurrency=3)
            results = ask(client, questions(6))

        error = results.pop(2)
        assert isinstance(error, EndpointError)
        assert re.search(f"No usable reply after 3 attempts; the last one: {FAILURES[failure][1]}", str(error))
        assert not error.is_fatal
        assert results == answers(2) + answers(6)[3:]
        assert [question_of(request) for request in teacher.requests].count("Question 0002") == 3
        assert client.usage.requests == len(teacher.requests) == 8
        assert client.usage.replies == 5

    @pytest.mark.parametrize("slow", [{"delay": 50.0}, {"drip": 0.1}], ids=["hang", "slow drip"])
    def test_reply_that_takes_too_long_as_a_whole_is_a_failed_attempt(self, slow):
        """A drip of a byte each tenth of a second never lets the connection rest, and would take half a minute."""

        def script(request, number):
            return Response(completion("late"), **slow) if "0002" in question_of(request) else answer(request, number)

        with Teacher(script) as teacher:
            client = client_for(teacher, timeout=2.0, max_retries=1)
            results = ask(client, questions(4))

        error = results.pop(2)
        assert isinstance(error, EndpointError)
        assert "after 2 attempts; the last one: no whole reply within 2 seconds" in str(error)
        assert results == answers(2) + answers(4)[3:]
        assert client.usage.requests == len(teacher.requests) == 5

    @pytest.mark.parametrize("failure", FAILURES)
    def test_attempt_that_succeeds_makes_up_for_the_failed_ones(self, failure, tmp_path):
        def script(request, number):
            return answer(request, number) if number == 2 else fail(failure)

        store = str(tmp_path / "replies.sqlite")
        with Teacher(script) as teacher:
            client = client_for(teacher, store=store, max_retries=2)
            results = ask(client, questions(1))
            client.close()
            with closing(sqlite3.connect(store)) as db:
                (num_requests,) = db.execute("SELECT requests FROM replies").fetchone()

        assert results == answers(1)
        assert num_requests == len(teacher.requests) == 3
        assert client.usage == Usage(requests=3, replies=1, prompt_tokens=20, completion_tokens=10)

    def test_waits_between_attempts_double(self, monkeypatch):
        """At a tenth: at least 0.5 * 0.5 / 10 = 0.025 seconds, then 0.05, 0.1 and 0.2."""
        scale_backoff(monkeypatch, 0.1)
        with Teacher(lambda *_: refusal(500)) as teacher:
            ask(client_for(teacher, max_retries=4), questions(1))

        waits = [after - before for before, after in zip(teacher.times, teacher.times[1:], strict=False)]
        for wait, shortest in zip(waits, (0.025, 0.05, 0.1, 0.2), strict=True):
            assert wait >= 0.9 * shortest

    @pytest.mark.parametrize("max_concurrency", [1, 8])
    @pytest.mark.parametrize("refused", ["Question 0000", "Question 0011"])
    @pytest.mark.parametrize("status", [400, 413, 422])
    def test_refusal_of_one_item_is_not_retried_and_fails_that_item_alone(self, max_concurrency, refused, status):
        """A context that is too long, say. It may be the first that is asked, and the first answer of all."""

        def script(request, number):
            if question_of(request) == refused:
                return refusal(status, "The context is too long.")
            return Response(completion(answer(request, number)), delay=0.01)

        with Teacher(script) as teacher:
            results = ask(client_for(teacher, max_concurrency=max_concurrency), questions(12))

        error = results[questions(12).index(refused)]
        assert isinstance(error, EndpointError)
        assert (
            str(error)
            == f"{teacher.url}: The endpoint refused the request: The context is too long. [status {status}]"
        )
        assert error.status_code == status
        assert [r for r in results if isinstance(r, str)] == [r for r in answers(12) if refused not in r]
        assert len(teacher.requests) == 12

    def test_items_that_are_always_refused_do_not_end_a_later_run(self, tmp_path):
        """Of 40 questions, 20 are too long. Started again, the client asks those 20 alone."""

        def script(request, number):
            if int(question_of(request)[-1]) % 2:
                return refusal(400, "The context is too long.")
            return answer(request, number)

        store = str(tmp_path / "replies.sqlite")
        with Teacher(script) as teacher:
            kinds = []
            for _ in range(2):
                with closing(client_for(teacher, store=store, max_concurrency=4)) as client:
                    kinds.append(kinds_of(ask(client, questions(40))))

        assert kinds == [[str, EndpointError] * 20] * 2
        assert len(teacher.requests) == 40 + 20

    @pytest.mark.parametrize("status", [400, 500])
    def test_ten_failures_in_a_row_end_the_run(self, status):
        with Teacher(lambda *_: refusal(status)) as teacher:
            client = client_for(teacher, max_retries=0, max_concurrency=1)
            with pytest.raises(EndpointError, match="no") as caught:
                ask(client, questions(100))

        assert (caught.value.status_code, caught.value.is_fatal) == (status, True)
        assert len(teacher.requests) == 10

    @pytest.mark.parametrize("status", [400, 500])
    def test_many_workers_notice_as_well_that_all_fails(self, status):
        with Teacher(lambda *_: refusal(status)) as teacher:
            with pytest.raises(EndpointError):
                ask(client_for(teacher, max_retries=0, max_concurrency=16), questions(1000))

        assert len(teacher.requests) < 10 + 16

    def test_ten_failures_in_a_row_end_the_run_after_replies_as_well(self):
        with Teacher(lambda request, number: answer(request, number) if number < 5 else refusal(500)) as teacher:
            client = client_for(teacher, max_retries=0, max_concurrency=1)
            with pytest.raises(EndpointError, match="status 500"):
                ask(client, questions(100))

        assert len(teacher.requests) == 5 + 10
        assert client.usage.replies == 5

    def test_nine_failures_in_a_row_do_not_end_the_run(self):
        with Teacher(lambda request, number: refusal(500) if number % 10 else answer(request, number)) as teacher:
            results = ask(client_for(teacher, max_retries=0, max_concurrency=1), questions(40))

        assert kinds_of(results) == [str, *[EndpointError] * 9] * 4

    def test_replies_before_the_end_are_in_the_store(self, tmp_path):
        store = str(tmp_path / "replies.sqlite")
        with Teacher(lambda request, number: answer(request, number) if number < 20 else refusal(401)) as teacher:
            with closing(client_for(teacher, store=store)) as client, pytest.raises(EndpointError):
                ask(client, questions(100))
            teacher.script = answer
            num_sent = len(teacher.requests)
            with closing(client_for(teacher, store=store)) as client:
                results = ask(client, questions(100))

        assert results == answers(100)
        assert len(teacher.requests) == num_sent + 80


@pytest.fixture(params=["sk-proj-4f9a8b7c6d5e", "AbC/dEf+12gh34==", "key", "0123456789abcdef"])
def secret(request, monkeypatch):
    """A key of the endpoint, in the environment."""
    monkeypatch.setenv("TEACHER_KEY", request.param)
    return request.param


class TestFatalErrors:
    def test_closed_port_fails_before_anything_is_sent(self):
        with socket.socket() as unused:
            unused.bind(("127.0.0.1", 0))
            url = f"http://127.0.0.1:{unused.getsockname()[1]}/v1"
        client = ChatClient("teacher", url, api_key_env=None)

        with pytest.raises(EndpointError, match="Cannot reach the endpoint .*refused|Cannot reach.*failed") as caught:
            ask(client, questions(20))

        assert (caught.value.url, caught.value.status_code, caught.value.is_fatal) == (url, None, True)
        assert "Check `base_url`" in str(caught.value)
        assert client.usage == Usage()

    @pytest.mark.skipif(sys.platform != "linux", reason="needs a queue of connections that fills up as on Linux")
    def test_address_that_does_not_respond_fails_before_anything_is_sent(self):
        with socket.socket() as silent:
            silent.bind(("127.0.0.1", 0))
            silent.listen(0)
            waiting = [socket.socket() for _ in range(4)]
            for connection in waiting:
                connection.setblocking(False)
                connection.connect_ex(silent.getsockname())
            url = f"http://127.0.0.1:{silent.getsockname()[1]}/v1"
            client = ChatClient("teacher", url, api_key_env=None, connect_timeout=0.3)

            with pytest.raises(EndpointError, match="Cannot reach the endpoint"):
                ask(client, questions(20))

            for connection in waiting:
                connection.close()
        assert client.usage == Usage()

    @pytest.mark.parametrize("status", [401, 403])
    def test_wrong_key_shows_before_anything_is_sent(self, status, monkeypatch):
        monkeypatch.setenv("TEACHER_KEY", "sk-wrong")
        with Teacher(answer, models=status) as teacher:
            client = client_for(teacher, api_key_env="TEACHER_KEY")
            with pytest.raises(EndpointError, match=f"refused the key in `TEACHER_KEY`: .*{status}") as caught:
                ask(client, questions(100))

        assert caught.value.status_code == status
        assert teacher.requests == []
        assert teacher.num_listings == 1
        assert client.usage == Usage()

    @pytest.mark.parametrize("status", [401, 403])
    def test_missing_key_is_named_where_the_endpoint_wants_one(self, status):
        with Teacher(lambda *_: refusal(status)) as teacher:
            with pytest.raises(EndpointError, match="refused no key, since `api_key_env` is not set"):
                ask(client_for(teacher, max_concurrency=1), questions(5))

        assert len(teacher.requests) == 1

    @pytest.mark.parametrize("models", [401, 404], ids=["when listing", "when asking"])
    def test_key_shows_nowhere(self, models, secret, tmp_path, caplog, capfd):
        """The endpoint quotes it in full, as a header, and in part."""
        caplog.set_level(logging.DEBUG)
        message = f"Incorrect API key provided: {secret}, Bearer {secret}, sk-proj-4f9a8***5e. Check it."
        if models == 401:
            models = refusal(401, message)
        store = tmp_path / "replies.sqlite"

        def script(request, number):
            return answer(request, number) if number < 3 else refusal(401, message)

        with Teacher(script, models) as teacher:
            client = client_for(teacher, api_key_env="TEACHER_KEY", store=str(store), max_concurrency=1)
            with pytest.raises(EndpointError) as caught:
                ask(client, questions(5))

        shown = [
            str(caught.value),
            repr(caught.value),
            *traceback.format_exception(caught.value),
            repr(client),
            str(client),
            json.dumps(client.settings),
            *capfd.readouterr(),
            *(f"{record.getMessage()} {record.exc_text}" for record in caplog.records),
        ]
        files = b"".join(path.read_bytes() for path in tmp_path.iterdir())
        client.close()
        if secret != "key":  # a key that is a word cannot be told from the word
            assert secret not in "".join(shown)
            assert secret.encode() not in files
        assert "sk-proj-4f9a8***5e" not in "".join(shown[:2])
        assert secret not in str(caught.value).partition("Incorrect")[2]
        assert teacher.headers == [] or teacher.headers[0]["authorization"] == f"Bearer {secret}"

    @pytest.mark.parametrize("padding", [0, 60, 70, 480])
    def test_key_does_not_show_in_part_where_a_long_reply_is_cut(self, padding, monkeypatch):
        secret = "0123456789abcdefghijklmnopqrstuv"
        monkeypatch.setenv("TEACHER_KEY", secret)
        page = f"{'-' * padding} {secret} was refused. {'-' * 1000}".encode()
        with Teacher(lambda *_: Response(page, content_type="text/html")) as teacher:
            client = client_for(teacher, api_key_env="TEACHER_KEY", max_retries=0)
            (error,) = ask(client, questions(1))

        assert "an unreadable reply (-" in str(error) or "an unreadable reply ( ***" in str(error)
        assert secret[:4] not in str(error)
        assert len(str(error)) < 700

    @pytest.mark.parametrize("secret", ["sk-4f9a8b7c\nsk-6d5e4f3a", "sk-4f9a8b7c 6d5e4f3a", "sk-4f9a8b7c/6d5e\u00e4"])
    def test_key_that_cannot_be_sent_is_refused_and_not_shown(self, secret, monkeypatch):
        monkeypatch.setenv("TEACHER_KEY", secret)
        with Teacher(answer) as teacher:
            with pytest.raises(ValueError, match="`TEACHER_KEY` must hold the key") as caught:
                ask(client_for(teacher, api_key_env="TEACHER_KEY"), questions(1))

        assert not any(part in str(caught.value) for part in secret.split())
        assert teacher.num_listings == 0

    def test_blank_space_around_the_key_is_not_sent(self, monkeypatch):
        monkeypatch.setenv("TEACHER_KEY", " sk-4f9a8b7c\r\n")
        with Teacher(answer) as teacher:
            ask(client_for(teacher, api_key_env="TEACHER_KEY"), questions(1))

        assert teacher.headers[0]["authorization"] == "Bearer sk-4f9a8b7c"

    @pytest.mark.parametrize("value", [None, "", " "], ids=["unset", "empty", "blank"])
    def test_missing_key_is_named_before_anything_is_sent(self, value, monkeypatch):
        if value is None:
            monkeypatch.delenv("TEACHER_KEY", raising=False)
        else:
            monkeypatch.setenv("TEACHER_KEY", value)
        with Teacher(answer) as teacher:
            with pytest.raises(
                ValueError, match="variable `TEACHER_KEY` must hold the key .* pass `api_key_env=None`"
            ):
                ask(client_for(teacher, api_key_env="TEACHER_KEY"), questions(1))

        assert teacher.requests == []
        assert teacher.num_listings == 0

    def test_unknown_model_is_named_with_those_that_are_known(self):
        with Teacher(lambda *_: refusal(404, "no such model"), models=["qwen", "llama"]) as teacher:
            client = ChatClient("gwen", teacher.url, api_key_env=None, max_concurrency=1)
            with pytest.raises(EndpointError) as caught:
                ask(client, questions(50))

        assert "knows no model 'gwen'" in str(caught.value)
        assert "It lists 'qwen', 'llama'. Check `model` and `base_url`" in str(caught.value)
        assert caught.value.status_code == 404
        assert len(teacher.requests) == 1

    @pytest.mark.parametrize("status", [401, 402, 403, 404, 405])
    def test_status_that_no_request_would_escape_ends_the_run_at_once(self, status):
        with Teacher(lambda *_: refusal(status)) as teacher:
            with pytest.raises(EndpointError, match=rf"\[status {status}\]"):
                ask(client_for(teacher, max_concurrency=1), questions(50))

        assert len(teacher.requests) == 1

    @pytest.mark.parametrize(
        "models",
        [404, 500, Response(b"<html>", content_type="text/html"), Response({"data": None}), Response([])],
        ids=["404", "500", "page", "null", "list"],
    )
    def test_endpoint_without_a_list_of_models_is_asked_all_the_same(self, models):
        with Teacher(answer, models) as teacher:
            assert ask(client_for(teacher), questions(3)) == answers(3)

    def test_error_that_work_catches_ends_the_run_all_the_same(self):
        with Teacher(lambda *_: refusal(401)) as teacher:
            client = client_for(teacher, max_concurrency=2)

            async def work(question):
                try:
                    return await client.chat(messages_of(question))
                except EndpointError:
                    return None

            with pytest.raises(EndpointError, match="refused no key"):
                client.for_each(questions(100), work)

        assert len(teacher.requests) <= 2

    def test_traceback_does_not_grow_with_the_number_of_items(self):
        with Teacher(answer, models=401) as teacher:
            with pytest.raises(EndpointError) as caught:
                ask(client_for(teacher, max_concurrency=4), questions(1000))

        assert len(traceback.extract_tb(caught.value.__traceback__)) < 100


class TestLimits:
    @pytest.mark.parametrize("max_concurrency", [1, 5, 16])
    def test_never_more_than_max_concurrency_are_open_and_as_many_are(self, max_concurrency):
        """The first replies come when as many requests are open as there may be; the later ones after a while."""

        def script(request, number):
            return Response(completion("5"), delay=0.02, until=lambda: teacher.most_open >= max_concurrency)

        with Teacher(script) as teacher:
            ask(client_for(teacher, max_concurrency=max_concurrency), questions(5 * max_concurrency))

        assert teacher.most_open == max_concurrency
        assert len(teacher.requests) == 5 * max_concurrency

    def test_items_with_several_requests_at_a_time_keep_to_max_concurrency(self):
        def script(request, number):
            return Response(completion("5"), delay=0.02, until=lambda: teacher.most_open >= 3)

        with Teacher(script) as teacher:
            client = client_for(teacher, max_concurrency=3)

            async def work(question):
                return await asyncio.gather(*(client.chat(messages_of(question), sample) for sample in range(4)))

            results = client.for_each(questions(6), work)

        assert [len(replies) for replies in results] == [4] * 6
        assert len(teacher.requests) == 24
        assert teacher.most_open == 3

    def test_requests_per_minute_are_spaced(self):
        """1200 per minute are one each 0.05 seconds: the 11th is sent 0.5 seconds after the first."""
        with Teacher(answer) as teacher:
            client = client_for(teacher, requests_per_minute=1200)
            start = time.monotonic()
            ask(client, questions(11))

        assert time.monotonic() - start >= 0.49
        assert len(teacher.requests) == 11

    def test_requests_per_minute_hold_for_failed_attempts_as_well(self):
        """Four questions of three attempts: the 12th is sent 0.55 seconds after the first."""
        with Teacher(lambda *_: refusal(500)) as teacher:
            client = client_for(teacher, requests_per_minute=1200, max_retries=2)
            start = time.monotonic()
            ask(client, questions(4))

        assert time.monotonic() - start >= 0.54
        assert len(teacher.requests) == 12

    def test_tokens_per_minute_are_those_that_the_endpoint_counts(self):
        """
        6000 per minute are one each 0.01 seconds. A question of 13 bytes is estimated at 4 + 4 = 8 tokens, but request
        and reply are counted with 20 + 10: one question after another, the 4th is sent 3 * 0.3 seconds after the first.
        """
        with Teacher(answer) as teacher:
            client = client_for(teacher, tokens_per_minute=6000, max_concurrency=1)
            start = time.monotonic()
            ask(client, questions(4))

        assert time.monotonic() - start >= 0.89

    def test_tokens_per_minute_are_estimated_until_they_are_counted(self):
        """Eight questions at a time of an estimated 8 tokens: the last is sent 7 * 0.08 seconds after the first."""
        with Teacher(answer) as teacher:
            client = client_for(teacher, tokens_per_minute=6000, max_concurrency=8)
            start = time.monotonic()
            ask(client, questions(8))

        assert time.monotonic() - start >= 0.55


class TestBudget:
    # Per request and reply of 20 and 10 tokens: 20 * 0.001 + 10 * 0.002 = 0.04.
    PRICES = {"prompt_price": 1000.0, "completion_price": 2000.0, "max_tokens": 100}

    @pytest.mark.parametrize("max_concurrency", [1, 8, 40])
    def test_max_requests_is_kept_and_a_later_run_asks_what_is_missing(self, max_concurrency, tmp_path):
        options = {"store": str(tmp_path / "replies.sqlite"), "max_concurrency": max_concurrency}
        with Teacher(lambda r, n: Response(completion(answer(r, n)), delay=0.01)) as teacher:
            with closing(client_for(teacher, max_requests=10, **options)) as client:
                first = ask(client, questions(25))
                assert client.usage.requests == 10
            num_first = len(teacher.requests)
            with closing(client_for(teacher, max_requests=25, **options)) as client:
                second = ask(client, questions(25))
                assert client.usage.requests == 25

        assert num_first == 10
        assert [result for result in first if isinstance(result, str)] == [
            text for text, result in zip(answers(25), first, strict=True) if isinstance(result, str)
        ]
        assert kinds_of(first).count(str) == 10
        assert kinds_of(first).count(BudgetReached) == 15
        assert second == answers(25)
        assert sorted(map(question_of, teacher.requests)) == questions(25)

    def test_message_names_the_limit(self):
        with Teacher(answer) as teacher:
            results = ask(client_for(teacher, max_requests=1, max_concurrency=1), questions(2))

        assert str(results[1]) == "`max_requests=1` is reached"

    def test_failed_attempts_count_as_requests(self):
        with Teacher(lambda *_: refusal(500)) as teacher:
            client = client_for(teacher, max_requests=7, max_retries=1, max_concurrency=4)
            results = ask(client, questions(9))

        assert client.usage.requests == len(teacher.requests) == 7
        assert set(kinds_of(results)) == {BudgetReached, EndpointError}

    @pytest.mark.parametrize("max_concurrency", [1, 8])
    def test_max_cost_is_kept_and_a_later_run_asks_what_is_missing(self, max_concurrency, tmp_path):
        """
        A question of 13 bytes is estimated at 8 tokens, of 4 bytes each; with a token per byte, it may cost
        32 * 0.001 + 100 * 0.002 = 0.232. It costs 0.04. After 7 replies, 0.28 + 0.232 is less than 0.55; after 8 replies,
        0.32 + 0.232 is more.
        """
        options = {"store": str(tmp_path / "replies.sqlite"), "max_concurrency": max_concurrency, **self.PRICES}
        with Teacher(lambda r, n: Response(completion(answer(r, n)), delay=0.01)) as teacher:
            with closing(client_for(teacher, max_cost=0.55, **options)) as client:
                first = ask(client, questions(25))
                assert client.cost == pytest.approx(0.32)
            num_first = len(teacher.requests)
            with closing(client_for(teacher, max_cost=50.0, **options)) as client:
                assert client.cost == pytest.approx(0.32)
                second = ask(client, questions(25))
                assert client.cost == pytest.approx(25 * 0.04)

        assert num_first == 8
        assert kinds_of(first).count(str) == 8
        assert kinds_of(first).count(BudgetReached) == 17
        stopped = next(result for result in first if isinstance(result, BudgetReached))
        assert str(stopped) == "`max_cost=0.55` is reached: 0.32 spent"
        assert second == answers(25)
        assert sorted(map(question_of, teacher.requests)) == questions(25)

    def test_max_cost_is_kept_in_flight_as_well(self):
        """Tokens as many as there may be: 32 * 0.001 + 100 * 0.002 = 0.232. Two cost 0.464; a third exceeds 0.6."""
        reply = {**completion("5"), "usage": {"prompt_tokens": 32, "completion_tokens": 100}}
        with Teacher(lambda *_: Response(reply, delay=0.05)) as teacher:
            client = client_for(teacher, max_cost=0.6, max_concurrency=8, **self.PRICES)
            results = ask(client, questions(8))

        assert kinds_of(results).count(str) == len(teacher.requests) == 2
        assert client.cost == pytest.approx(0.464)

    def test_max_cost_is_kept_where_the_endpoint_counts_no_tokens(self):
        """
        40 bytes are an estimated 10 tokens: 8 * 0.001 + 10 * 0.002 = 0.028 per reply. After 9 replies, 0.252 + 0.232 is
        less than 0.5; after 10 replies, 0.28 + 0.232 is more.
        """
        reply = {**completion("a" * 40), "usage": None}
        with Teacher(lambda *_: reply) as teacher:
            client = client_for(teacher, max_cost=0.5, **self.PRICES)
            ask(client, questions(30))

        assert len(teacher.requests) == 10
        assert client.cost == pytest.approx(0.28)

    def test_longest_reply_may_be_given_as_services_with_reasoning_models_want_it(self):
        """Such services want no `max_tokens`. 32 * 0.001 + 200 * 0.002 = 0.432; with 0.04 spent, it exceeds 0.47."""
        options = {**self.PRICES, "max_tokens": None, "extra_body": {"max_completion_tokens": 200}}
        with Teacher(answer) as teacher:
            client = client_for(teacher, max_cost=0.47, max_concurrency=1, **options)
            results = ask(client, questions(3))

        assert kinds_of(results) == [str, BudgetReached, BudgetReached]
        assert teacher.requests[0]["max_completion_tokens"] == 200
        assert "max_tokens" not in teacher.requests[0]

    @pytest.mark.parametrize("limit", [{"max_requests": 0}, {"max_cost": 0.0, **PRICES}], ids=["requests", "cost"])
    def test_what_is_in_the_store_is_answered_though_the_budget_is_reached(self, limit, tmp_path):
        options = {"store": str(tmp_path / "replies.sqlite"), "max_tokens": 100}
        with Teacher(answer) as teacher:
            with closing(client_for(teacher, **options)) as client:
                ask(client, questions(3))
            with closing(client_for(teacher, **{**options, **limit})) as client:
                results = ask(client, ["new", *questions(3), "newer"])

        assert kinds_of(results) == [BudgetReached, str, str, str, BudgetReached]
        assert results[1:4] == answers(3)
        assert len(teacher.requests) == 3

    def test_replies_in_flight_are_kept_when_another_request_of_their_item_exceeds_the_budget(self):
        """Of four requests at a time, the budget lets two through; their item ends before they are answered."""
        with Teacher(lambda *_: Response(completion("5"), delay=0.2)) as teacher:
            client = client_for(teacher, max_requests=2)

            async def work(question):
                return await asyncio.gather(*(client.chat(messages_of(question), sample) for sample in range(4)))

            results = client.for_each(questions(1), work)

        assert kinds_of(results) == [BudgetReached]
        assert len(teacher.requests) == 2
        assert client.usage == Usage(requests=2, replies=2, prompt_tokens=40, completion_tokens=20)

    def test_price_is_per_million_tokens(self):
        """2,000,000 tokens at 3 and 500,000 at 8: 2 * 3 + 0.5 * 8 = 10."""
        client = ChatClient("teacher", prompt_price=3.0, completion_price=8.0)
        assert client.price(2_000_000, 500_000) == 10.0
        assert client.cost == 0.0

    def test_there_is_no_cost_without_prices(self):
        assert ChatClient("teacher", prompt_price=3.0).price(1, 1) is None
        assert ChatClient("teacher").cost is None


class TestStore:
    def test_same_messages_are_asked_once_by_items_at_the_same_time(self):
        with Teacher(lambda r, n: Response(completion(f"{question_of(r)}/{n}"), delay=0.05)) as teacher:
            client = client_for(teacher, max_concurrency=8)
            results = ask(client, ["A"] * 6 + ["B"] * 6)

        assert len(set(results[:6])) == len(set(results[6:])) == 1
        assert sorted(map(question_of, teacher.requests)) == ["A", "B"]
        assert client.usage.replies == 2

    def test_same_messages_are_asked_again_if_the_first_to_ask_failed(self):
        with Teacher(lambda r, n: answer(r, n) if n else Response({}, 500, delay=0.1)) as teacher:
            results = ask(client_for(teacher, max_retries=0), ["A", "A", "A"])

        assert kinds_of(results) == [EndpointError, str, str]
        assert len(teacher.requests) == 2

    def test_same_messages_are_asked_once_by_all_clients_of_a_store(self, tmp_path):
        store = str(tmp_path / "replies.sqlite")
        message = completion("<think>2 + 3</think>5", "length")
        with Teacher(lambda *_: message) as teacher:
            replies, usages = [], []
            for _ in range(3):
                with closing(client_for(teacher, store=store)) as client:
                    replies += [ask_one(client), ask_one(client)]
                    usages.append(client.usage)

        assert replies == [ChatReply("5", "2 + 3", "length", 20, 10)] * 6
        assert usages == [Usage(1, 1, 20, 10)] * 3
        assert len(teacher.requests) == 1

    def test_replies_are_kept_in_memory_without_a_store(self):
        with Teacher(answer) as teacher:
            client = client_for(teacher)
            assert ask(client, questions(3)) == ask(client, questions(3)) == answers(3)

        assert len(teacher.requests) == 3

    def test_each_sample_is_asked_for_with_a_seed_of_its_own(self):
        with Teacher(lambda request, number: str(number)) as teacher:
            client = client_for(teacher, seed=7)
            texts = [ask_one(client, sample=sample).text for sample in (0, 1, 2, 1, 0)]

        assert texts == ["0", "1", "2", "1", "0"]
        assert [request["seed"] for request in teacher.requests] == [7, 8, 9]

    def test_samples_without_a_seed_are_the_same_request(self):
        with Teacher(lambda request, number: str(number)) as teacher:
            client = client_for(teacher)
            texts = [ask_one(client, sample=sample).text for sample in (0, 1)]

        assert texts == ["0", "1"]
        assert teacher.requests[0] == teacher.requests[1]
        assert "seed" not in teacher.requests[0]

    @pytest.mark.parametrize(
        "other",
        [
            [{"role": "user", "content": "a "}],
            [{"role": "system", "content": "a"}],
            [{"role": "user", "content": "a"}, {"role": "user", "content": "a"}],
            [{"role": "user", "content": "\u00e4"}],
        ],
        ids=["content", "role", "number", "letter"],
    )
    def test_other_messages_are_asked_anew(self, other):
        with Teacher(lambda request, number: str(number)) as teacher:
            client = client_for(teacher, max_concurrency=1)
            replies = client.for_each([messages_of("a"), other], client.chat)

        assert [reply.text for reply in replies] == ["0", "1"]
        assert [request["messages"] for request in teacher.requests] == [messages_of("a"), other]

    @pytest.mark.parametrize(
        ("made_with", "option", "message"),
        [
            ({}, {"model": "other"}, "`model='teacher'`, now 'other'"),
            ({}, {"base_url": "http://other/v1"}, "`base_url='http://127.*`, now 'http://other/v1'"),
            ({}, {"temperature": 0.7}, "`temperature=0.2`, now 0.7"),
            ({"temperature": 0.7}, {"temperature": None}, "`temperature=0.7`, now None"),
            ({}, {"top_p": 0.5}, "`top_p=None`, now 0.5"),
            ({}, {"max_tokens": 10}, "`max_tokens=2048`, now 10"),
            ({"seed": 1}, {"seed": 2}, "`seed=1`, now 2"),
            ({"extra_body": {"a": 1}}, {"extra_body": {"a": 2}}, "`extra_body={'a': 1}`, now {'a': 2}"),
            ({}, {"temperature": 0.7, "seed": 2}, "`temperature=0.2`, now 0.7, `seed=None`, now 2"),
        ],
    )
    def test_replies_of_other_settings_are_not_mixed(self, made_with, option, message, tmp_path):
        store = str(tmp_path / "replies.sqlite")
        with Teacher(answer) as teacher:
            settings = {"model": "teacher", "base_url": teacher.url, "api_key_env": None, "store": store, **made_with}
            ChatClient(**settings).close()

            with pytest.raises(
                ValueError, match=f"made with other settings: {message}. They cannot be mixed; pass another"
            ):
                ChatClient(**{**settings, **option})

            ChatClient(**settings).close()  # not locked by the one that was refused

    def test_settings_that_leave_the_replies_alone_may_change(self, tmp_path):
        store = str(tmp_path / "replies.sqlite")
        with Teacher(answer) as teacher:
            with closing(client_for(teacher, store=store)) as client:
                ask(client, questions(2))
            with closing(client_for(teacher, store=store, max_concurrency=3, timeout=9.0, max_retries=1)) as client:
                assert ask(client, questions(2)) == answers(2)

        assert len(teacher.requests) == 2

    @pytest.mark.parametrize(
        ("first", "second"),
        [
            ({"temperature": 0}, {"temperature": 0.0}),
            ({"extra_body": {"stop": ("a", "b")}}, {"extra_body": {"stop": ["a", "b"]}}),
            ({"extra_body": {"logit_bias": {5: -1}}}, {"extra_body": {"logit_bias": {"5": -1}}}),
            ({"extra_body": {"a": 1, "b": 2}}, {"extra_body": {"b": 2, "a": 1}}),
        ],
        ids=["zero", "tuple", "number as a name", "order"],
    )
    def test_same_settings_in_other_words_ask_nothing_anew(self, first, second, tmp_path):
        store = str(tmp_path / "replies.sqlite")
        with Teacher(answer) as teacher:
            for options in (first, second, first):
                with closing(client_for(teacher, store=store, **options)) as client:
                    assert ask(client, questions(2)) == answers(2)

        assert len(teacher.requests) == 2

    def test_store_that_is_open_is_refused_until_it_is_closed(self, tmp_path):
        store = str(tmp_path / "replies.sqlite")
        first = ChatClient("teacher", store=store)

        with pytest.raises(
            ValueError, match="`store` must not be in use, but another run works with '.*replies.sqlite'"
        ):
            ChatClient("teacher", store=store)

        first.close()
        ChatClient("teacher", store=store).close()

    def test_store_that_another_process_has_open_is_refused(self, tmp_path):
        store = str(tmp_path / "replies.sqlite")
        code = (
            f"from edit_trl.chat import ChatClient; client = ChatClient('teacher', store={store!r}); "
            "print('open', flush=True); input()"
        )
        with subprocess.Popen(
            [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as process:
            assert process.stdout.readline() == "open\n"
            with pytest.raises(ValueError, match="must not be in use"):
                ChatClient("teacher", store=store)
            process.kill()
            process.wait()
            ChatClient("teacher", store=store).close()

    def test_store_in_a_missing_folder_is_refused(self, tmp_path):
        with pytest.raises(ValueError, match="in a folder that can be written to, got .* Make the folder"):
            ChatClient("teacher", store=str(tmp_path / "missing" / "replies.sqlite"))

    def test_store_that_is_a_folder_is_refused(self, tmp_path):
        with pytest.raises(ValueError, match="`store` must be an SQLite file"):
            ChatClient("teacher", store=str(tmp_path))

    @pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="nothing is unwritable to root")
    def test_store_in_an_unwritable_folder_is_refused(self, tmp_path):
        tmp_path.chmod(0o500)
        with pytest.raises(ValueError, match="in a folder that can be written to, got"):
            ChatClient("teacher", store=str(tmp_path / "replies.sqlite"))

    @pytest.mark.parametrize("content", [b"question,answer\n" * 100, b"no"])
    def test_file_of_another_kind_is_refused_and_left_as_it_is(self, content, tmp_path):
        path = tmp_path / "questions.csv"
        path.write_bytes(content)

        with pytest.raises(ValueError, match="`store` must be an SQLite file .* not a database"):
            ChatClient("teacher", store=str(path))

        assert path.read_bytes() == content

    def test_first_value_of_a_name_is_remembered(self, tmp_path):
        store = str(tmp_path / "replies.sqlite")
        with closing(ChatClient("teacher", store=store)) as client:
            assert client.remember("examples", [3, 1, {"a": None}]) == [3, 1, {"a": None}]
            assert client.remember("examples", [2]) == [3, 1, {"a": None}]
            assert client.remember("others", "x") == "x"
        with closing(ChatClient("teacher", store=store)) as client:
            assert client.remember("examples") == [3, 1, {"a": None}]
            assert client.remember("nothing yet") is None
            assert client.remember("nothing yet", 3) == 3

    def test_it_is_free_again_after_with(self, tmp_path):
        store = str(tmp_path / "replies.sqlite")
        with pytest.raises(KeyError), ChatClient("teacher", store=store) as client:
            client.remember("x", 1)
            raise KeyError
        with ChatClient("teacher", store=store) as client:
            assert client.remember("x") == 1

    def test_replies_of_the_store_need_neither_endpoint_nor_key_nor_openai(self, tmp_path, monkeypatch):
        options = {"store": str(tmp_path / "replies.sqlite"), "api_key_env": "TEACHER_KEY"}
        monkeypatch.setenv("TEACHER_KEY", "sesame")
        with Teacher(answer) as teacher, client_for(teacher, **options) as client:
            assert ask(client, questions(3)) == answers(3)
            url = teacher.url
        monkeypatch.delenv("TEACHER_KEY")
        monkeypatch.setitem(sys.modules, "openai", None)

        with ChatClient("teacher", url, **options) as client:
            assert ask(client, questions(3)) == answers(3)
            with pytest.raises(ImportError, match="needs the `openai` package"):
                ask(client, questions(4))


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
class TestKilled:
    @pytest.mark.slow
    def test_ten_kills_lose_no_reply_and_send_again_what_was_in_flight(self, tmp_path):
        """
        The endpoint kills the client when a random number of further requests has come, and a few milliseconds have
        passed. Whatever the client has stored stays; what it sends twice was in flight, 16 requests at most.
        """
        num_questions, num_kills, concurrency = 300, 10, 16
        rng = random.Random(0)
        store, output = tmp_path / "replies.sqlite", tmp_path / "results.json"
        kill_at, process = math.inf, None

        def script(request, number):
            if number == kill_at:
                asyncio.get_running_loop().call_later(0.01 * rng.random(), os.kill, process.pid, signal.SIGKILL)
            return Response(completion(answer(request, number)), delay=0.003 + 0.004 * rng.random())

        def stored():
            """What the store holds, read from a copy: to open it would tidy it up."""
            copy = tmp_path / "copy"
            shutil.rmtree(copy, ignore_errors=True)
            copy.mkdir()
            for path in tmp_path.glob("replies.sqlite*"):
                shutil.copy(path, copy)
            with closing(sqlite3.connect(copy / store.name)) as db:
                assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
                return set(db.execute("SELECT key, text FROM replies"))

        with Teacher(script) as teacher:
            command = [sys.executable, str(KILLED_CLIENT), teacher.url, str(store), str(num_questions), str(output)]
            before = set()
            for kills in range(1, num_kills + 1):
                kill_at = len(teacher.requests) + rng.randint(1, 40)
                process = subprocess.Popen(command)
                assert process.wait() == -signal.SIGKILL
                after = stored()
                assert after >= before
                assert len(teacher.requests) - len(after) <= kills * concurrency
                before = after
            kill_at = math.inf
            num_killed = len(teacher.requests)
            subprocess.run(command, check=True)
            num_sent = len(teacher.requests)

            uninterrupted = ask(client_for(teacher), [f"Question {number}" for number in range(num_questions)])

        assert stored() >= before
        assert num_sent - num_killed == num_questions - len(before)
        assert num_sent <= num_questions + num_kills * concurrency
        assert json.loads(output.read_text()) == uninterrupted


class TestForEach:
    def test_results_are_in_the_order_of_the_items(self):
        with Teacher(lambda r, n: Response(completion(answer(r, n)), delay=0.02 * (n % 3))) as teacher:
            results = ask(client_for(teacher, max_concurrency=4), iter(questions(12)))

        assert results == answers(12)

    def test_nothing_to_do_asks_nothing(self):
        with Teacher(answer) as teacher:
            assert ask(client_for(teacher), []) == []

        assert teacher.num_listings == 0

    @pytest.mark.slow
    def test_ten_thousand_questions_are_as_many_requests(self):
        with Teacher(answer) as teacher:
            client = client_for(teacher, max_concurrency=64)
            results = ask(client, questions(10_000))

        assert results == answers(10_000)
        assert client.usage.requests == len(teacher.requests) == 10_000
        assert teacher.most_open <= 64

    def test_works_inside_a_running_loop(self):
        """As in a notebook."""
        with Teacher(answer) as teacher:
            client = client_for(teacher)

            async def cell():
                return ask(client, questions(3)), ask(client, questions(4))

            assert asyncio.run(cell()) == (answers(3), answers(4))

        assert len(teacher.requests) == 4

    def test_errors_come_out_of_a_running_loop(self):
        with Teacher(lambda *_: refusal(401)) as teacher:
            client = client_for(teacher)

            async def cell():
                return ask(client, questions(3))

            with pytest.raises(EndpointError, match="refused no key"):
                asyncio.run(cell())

    @pytest.fixture
    def interruptible(self):
        """A process that a shell started in the background ignores the signal."""
        handler = signal.signal(signal.SIGINT, signal.default_int_handler)
        yield
        signal.signal(signal.SIGINT, handler)

    def test_interrupt_inside_a_running_loop_ends_the_requests(self, interruptible):
        """In a notebook, it is the notebook's thread that is interrupted, which only waits."""
        main_thread = threading.get_ident()

        def script(request, number):
            if number == 10:
                signal.pthread_kill(main_thread, signal.SIGINT)
            return Response(completion("5"), delay=0.02)

        with Teacher(script) as teacher:
            client = client_for(teacher, max_concurrency=2)

            async def cell():
                return ask(client, questions(500))

            loop = asyncio.new_event_loop()
            with pytest.raises(KeyboardInterrupt):
                loop.run_until_complete(cell())
            loop.close()
            num_sent = len(teacher.requests)
            time.sleep(0.2)

            assert len(teacher.requests) == num_sent < 500
            teacher.script = answer
            assert kinds_of(ask(client, questions(20))) == [str] * 20

    @pytest.mark.parametrize("is_signal", [True, False], ids=["signal", "exception"])
    def test_interrupted_work_leaves_the_store_usable(self, is_signal, tmp_path, interruptible):
        store = str(tmp_path / "replies.sqlite")
        with Teacher(answer) as teacher:
            client = client_for(teacher, store=store, max_concurrency=2)

            async def work(question):
                if question == "Question 0007":
                    if not is_signal:
                        raise KeyboardInterrupt
                    signal.raise_signal(signal.SIGINT)
                return (await client.chat(messages_of(question))).text

            with pytest.raises(KeyboardInterrupt):
                client.for_each(questions(20), work)
            gc.collect()  # asyncio complains of the task here, rather than in the middle of another test
            num_replies = client.usage.replies
            num_sent = len(teacher.requests)
            again = ask(client, questions(20))
            client.close()
            with closing(client_for(teacher, store=store)) as client:
                later = ask(client, questions(20))

        assert again == later == answers(20)
        assert num_replies >= 6
        assert num_sent <= num_replies + 2
        assert len(teacher.requests) - num_sent == 20 - num_replies

    def test_exception_of_work_itself_comes_out(self):
        with Teacher(answer) as teacher:
            client = client_for(teacher)

            async def work(question):
                reply = await client.chat(messages_of(question))
                return int(reply.text)

            with pytest.raises(ValueError, match="invalid literal for int"):
                client.for_each(questions(3), work)
            assert ask(client, questions(3)) == answers(3)

    def test_exception_of_the_items_comes_out(self):
        def items():
            yield "Question 0000"
            raise KeyError("question")

        with Teacher(answer) as teacher, pytest.raises(KeyError, match="question"):
            ask(client_for(teacher), items())

    def test_chat_outside_for_each_is_refused(self):
        client = ChatClient("teacher")
        with pytest.raises(RuntimeError, match="`chat` must be called inside `ChatClient.for_each`"):
            asyncio.run(client.chat(messages_of("a")))


class TestOptions:
    @pytest.mark.parametrize(
        ("option", "message"),
        [
            ({"base_url": "localhost:8000/v1"}, 'must be a URL .* Pass `base_url="http://localhost:8000/v1"`'),
            ({"base_url": "ftp://host/v1"}, "must be a URL that starts with http:// or https://, got 'ftp://host/v1'"),
            ({"base_url": "http://"}, "must be a URL"),
            ({"base_url": "https://me:secret@host/v1"}, "must not hold .* pass its name as `api_key_env`"),
            ({"base_url": "https://host/v1?key=secret"}, "must not hold a user name, a password or a query"),
            ({"api_key_env": "sk-secret"}, 'must be the name of .* pass `api_key_env="OPENAI_API_KEY"`'),
            ({"api_key_env": ""}, "must be the name of an environment variable"),
            ({"max_concurrency": 0}, "must be positive, got 0. Leave it out for the default."),
            ({"max_tokens": 0}, "must be positive, got 0. Leave it out"),
            ({"requests_per_minute": 0.0}, "must be positive, got 0.0. Leave it out"),
            ({"tokens_per_minute": -1.0}, "must be positive, got -1.0. Leave it out"),
            ({"timeout": 0.0}, "must be positive, got 0.0. Leave it out"),
            ({"connect_timeout": 0.0}, "must be positive, got 0.0. Leave it out"),
            ({"max_wait": -1.0}, "must be positive or zero, got -1.0. Leave it out"),
            ({"max_retries": -1}, "must be positive or zero, got -1. Leave it out"),
            ({"prompt_price": -1.0}, "must be positive or zero, got -1.0. Leave it out"),
            ({"completion_price": -1.0}, "must be positive or zero, got -1.0. Leave it out"),
            ({"max_requests": -1}, "must be positive or zero, got -1. Leave it out"),
            ({"temperature": -0.1}, "must be positive or zero, got -0.1. Leave it out"),
            ({"top_p": -0.1}, "must be positive or zero, got -0.1. Leave it out"),
            ({"max_cost": -1.0}, "must be positive or zero, got -1.0. Leave it out"),
            ({"max_cost": 1.0}, "needs `prompt_price`, `completion_price` and `max_tokens`, got None, None and 2048"),
            ({"max_cost": 1.0, "prompt_price": 1.0}, "needs .*, got 1.0, None and 2048"),
            (
                {"max_cost": 1.0, "prompt_price": 1.0, "completion_price": 1.0, "max_tokens": None},
                "needs .*, got 1.0, 1.0 and None. .* pass the endpoint's prices",
            ),
            ({"extra_body": {"n": 4}}, "must not hold `n`"),
            ({"extra_body": {"stream": True}}, "must not hold `stream`"),
            ({"extra_body": {"seed": 1, "top_k": 5}}, "must not hold `seed`"),
            ({"extra_body": {"stop": {"a"}}}, "must be what JSON can hold"),
        ],
        ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
    )
    def test_bad_option_is_refused_at_once(self, option, message, tmp_path):
        with pytest.raises(ValueError, match=f"`{next(iter(option))}` {message}") as caught:
            ChatClient("teacher", store=str(tmp_path / "replies.sqlite"), **option)

        assert "secret" not in str(caught.value)
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize(
        "option", [{"temperature": 0.0}, {"max_retries": 0}, {"max_requests": 0}, {"max_wait": 0}]
    )
    def test_zero_is_a_value(self, option):
        ChatClient("teacher", **option)


class TestImports:
    def test_missing_openai_names_the_extra(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "openai", None)
        with pytest.raises(ImportError, match=r"`ChatClient` needs .* `pip install 'edit-trl\[openai\]'`"):
            ask(ChatClient("teacher", api_key_env=None), questions(1))

    def test_importing_the_module_does_not_import_openai(self):
        code = "import sys, edit_trl.chat as module; module.ChatClient('teacher'); print(*sys.modules)"
        loaded = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        ).stdout.split()
        assert "edit_trl.chat" in loaded
        assert not {"openai", "torch", "transformers"} & set(loaded)


class TestEstimateTokens:
    @pytest.mark.parametrize(
        ("contents", "expected"),
        [
            ([], 0),
            ([""], 4),
            (["abcd"], 4 + 1),
            (["abcde"], 4 + 2),
            (["\u00e4\u00e4"], 4 + 1),  # two bytes each
            (["\u4e94\u4e94\u4e94\u4e94"], 4 + 3),  # three bytes each
            (["abcd", "abcdefgh"], (4 + 1) + (4 + 2)),
        ],
    )
    def test_four_bytes_are_a_token_and_each_message_is_four_more(self, contents, expected):
        assert estimate_tokens([{"role": "user", "content": content} for content in contents]) == expected
