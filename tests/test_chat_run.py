"""
Tests of a run: when requests are sent, retried and given up because of waits, failures, limits and the budget.
"""

import asyncio
import re
import sqlite3
import time
from contextlib import closing
from email.utils import formatdate

import pytest
from chat_helpers import (
    answer,
    answers,
    ask,
    kinds_of,
    messages_of,
    question_of,
    questions,
    quick_backoff,  # noqa: F401
    refusal,
    scale_backoff,
)
from teacher import (
    Response,
    Teacher,
    client_for,
    completion,
    time_limit,  # noqa: F401
)

from edit_trl.chat import BudgetReached, EndpointError, Usage
from edit_trl.chat.run import Cooldown


pytestmark = pytest.mark.slow


pytest.importorskip("openai")


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


class TestCooldown:
    def test_waits_add_up_from_the_first_one(self):
        cooldown = Cooldown(max_wait=900.0)

        assert cooldown.start(2.0) == pytest.approx(2.0, abs=0.1)
        assert cooldown.start(3.0) == pytest.approx(3.0, abs=0.1)

    def test_wait_above_the_limit_is_no_wait(self):
        cooldown = Cooldown(max_wait=1.0)

        assert cooldown.start(1000.0) > cooldown.max_wait
        asyncio.run(asyncio.wait_for(cooldown.wait(), timeout=0.5))


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
    "reply that broke off": (lambda: completion("2 +", "error"), "a reply that broke off, finish reason 'error'"),
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
        """A context that is too long, for example. It may be the first request and the first reply of the run."""

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
        and reply are counted with 20 + 10: one question after another, the 4th is sent 3 * 0.3 seconds after the
        first.
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
        32 * 0.001 + 100 * 0.002 = 0.232. It costs 0.04. After 7 replies, 0.28 + 0.232 is less than 0.55; after 8
        replies, 0.32 + 0.232 is more.
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
        40 bytes are an estimated 10 tokens: 8 * 0.001 + 10 * 0.002 = 0.028 per reply. After 9 replies, 0.252 + 0.232
        is less than 0.5; after 10 replies, 0.28 + 0.232 is more.
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
