"""
Tests of the client against a scripted endpoint on loopback: its options, and the calls for each item.
"""

import asyncio
import gc
import re
import signal
import subprocess
import sys
import threading
import time
from contextlib import closing

import pytest
from chat_helpers import (
    answer,
    answers,
    ask,
    kinds_of,
    messages_of,
    questions,
    quick_backoff,  # noqa: F401
    refusal,
)
from teacher import (
    Response,
    Teacher,
    client_for,
    completion,
    time_limit,  # noqa: F401
)

from edit_trl.chat import ChatClient, EndpointError
from edit_trl.install_hint import install_hint


pytest.importorskip("openai")


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


class TestPrice:
    def test_price_is_per_million_tokens(self):
        """2,000,000 tokens at 3 and 500,000 at 8: 2 * 3 + 0.5 * 8 = 10."""
        client = ChatClient("teacher", prompt_price=3.0, completion_price=8.0)
        assert client.price(2_000_000, 500_000) == 10.0
        assert client.cost == 0.0

    def test_there_is_no_cost_without_prices(self):
        assert ChatClient("teacher", prompt_price=3.0).price(1, 1) is None
        assert ChatClient("teacher").cost is None


class TestNumAttempts:
    @pytest.mark.parametrize(("temperature", "expected"), [(0.0, 1), (0, 1), (0.2, 3), (None, 3)])
    def test_same_reply_is_not_asked_for_again(self, temperature, expected):
        assert ChatClient("teacher", temperature=temperature).num_attempts(3) == expected


class TestOptions:
    @pytest.mark.parametrize(
        ("option", "message"),
        [
            ({"base_url": "localhost:8000/v1"}, 'must be a URL .* Pass `base_url="http://localhost:8000/v1"`'),
            ({"base_url": "ftp://host/v1"}, "must be a URL that starts with http:// or https://, got 'ftp://host/v1'"),
            ({"base_url": "http://"}, "must be a URL"),
            ({"base_url": "HTTP//host/v1"}, "must be .*: it starts with something else"),
            ({"base_url": "http://localhost:800O/v1"}, "must be .* got 'http://localhost:800O/v1': its port is no"),
            ({"base_url": "http://localhost:8000v1"}, "must be .*: its port is no number from 1 to 65535"),
            ({"base_url": "http://localhost:99999/v1"}, "must be .*: its port is no number from 1 to 65535"),
            ({"base_url": "http://localhost:0/v1"}, "must be .*: its port is no number from 1 to 65535"),
            ({"base_url": "http://localhost:-1/v1"}, "must be .*: its port is no number from 1 to 65535"),
            ({"base_url": "http://:8000/v1"}, "must be .*: its host is no name"),
            ({"base_url": "http://a..b/v1"}, "must be .*: its host is no name"),
            ({"base_url": "http://.api.openai.com/v1"}, "must be .*: its host is no name"),
            ({"base_url": "http://{HOST}/v1"}, "must be .*: its host is no name"),
            ({"base_url": "http://" + "a" * 64 + "/v1"}, "must be .*: its host is no name"),
            ({"base_url": "http://\u00df.de/v1"}, "must be .*: its host is no name; .* with 'xn--'"),
            ({"base_url": "http://127.0.0.256/v1"}, "must be .*: its host is no IP address"),
            ({"base_url": "http://[::1/v1"}, "must be .*: its host is not written as one"),
            ({"base_url": "http://[host]/v1"}, "must be .*: its host is not written as one"),
            ({"base_url": " http://host/v1"}, "must be .*: it holds a space or"),
            ({"base_url": "http://host/v1\n"}, "must be .*: it holds a space or a character that cannot be seen"),
            ({"base_url": "http://ho\u200bst/v1"}, "must be .*: it holds a space or a character that cannot be seen"),
            ({"base_url": "http://secret@host:x/v1"}, "must be .*, got something else: its port"),
            ({"base_url": "http://host/v1#secret"}, "must not hold a user name, a password, a query or a fragment"),
            ({"temperature": float("nan")}, "must be positive or zero, got nan"),
            ({"timeout": float("nan")}, "must be positive, got nan"),
            ({"base_url": "https://me:secret@host/v1"}, "must not hold .* pass its name as `api_key_env`"),
            ({"base_url": "https://host/v1?key=secret"}, "must not hold a user name, a password, a query"),
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
            ({"extra_body": {"model": "x"}}, "must not hold `model`"),
            ({"extra_body": {"temperature": "hot"}}, "must hold a number that is not negative as `temperature`"),
            ({"extra_body": {"max_tokens": -1}}, "must hold a number that is not negative as `max_tokens`, got -1"),
            ({"extra_body": {"api_key": "secret"}}, "must not hold `api_key`. Its content is written to files"),
            ({"base_url": "me:secret@host/v1"}, "must be a URL .*, got something else"),
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
        "url",
        [
            *("http://localhost:8000/v1", "http://gpu_7:65535/v1", "http://127.0.0.1/v1", "http://[fe80::1]:8000/v1"),
            *("https://api.openai.com/v1", "https://xn--exmple-cua.de./v1/", "http://host:/v1/@me", "HTTP://GPU-7/v1"),
        ],
    )
    def test_url_with_a_host_is_taken(self, url):
        assert ChatClient("teacher", url).base_url == url

    @pytest.mark.parametrize(
        "option", [{"temperature": 0.0}, {"max_retries": 0}, {"max_requests": 0}, {"max_wait": 0}]
    )
    def test_zero_is_a_value(self, option):
        ChatClient("teacher", **option)


class TestImports:
    def test_missing_openai_names_the_extra(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "openai", None)
        with pytest.raises(ImportError, match=rf"`ChatClient` needs .* `{re.escape(install_hint('openai'))}`"):
            ask(ChatClient("teacher", api_key_env=None), questions(1))

    def test_importing_the_module_does_not_import_openai(self):
        code = "import sys, edit_trl.chat as module; module.ChatClient('teacher'); print(*sys.modules)"
        loaded = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        ).stdout.split()
        assert "edit_trl.chat" in loaded
        assert not {"openai", "torch", "transformers"} & set(loaded)
