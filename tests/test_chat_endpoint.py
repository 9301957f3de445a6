"""
Tests of one request: the body that is sent, the reply that is read, the meaning of errors, and that the key is hidden.
"""

import json
import logging
import socket
import sys
import traceback
from pathlib import Path

import pytest
from chat_helpers import (
    answer,
    answers,
    ask,
    ask_one,
    messages_of,
    question_of,
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

from edit_trl.chat import ChatClient, ChatReply, EndpointError, Usage, estimate_tokens


pytest.importorskip("openai")


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


def variables_of(error):
    """The variables of the frames of the package in a traceback, as text."""
    shown = traceback.TracebackException.from_exception(error, capture_locals=True)
    frames = [frame for frame in shown.stack if "edit_trl" in Path(frame.filename).parts[-3:]]
    assert frames
    return "".join(f"{frame.locals}" for frame in frames)


class TestSecrets:
    def test_key_in_a_reply_is_removed(self, tmp_path, monkeypatch):
        """An endpoint that repeats the headers of a request as its answer."""
        secret = "AbC/dEf+12gh34=="
        monkeypatch.setenv("TEACHER_KEY", secret)
        store = tmp_path / "replies.sqlite"
        reply = completion(f"You sent {secret}.", f"odd {secret}", reasoning_content=f"Bearer {secret}")
        with Teacher(lambda *_: reply) as teacher:
            with client_for(teacher, api_key_env="TEACHER_KEY", store=str(store)) as client:
                found = ask_one(client)
            assert teacher.headers[0]["authorization"] == f"Bearer {secret}"

        assert (found.text, found.thinking, found.finish_reason) == ("You sent ***.", "Bearer ***", "odd ***")
        assert not any(secret.encode() in path.read_bytes() for path in tmp_path.iterdir())

    @pytest.mark.parametrize("written", ["AbC%2FdEf%2B12gh34%3D%3D", "AbC\\/dEf+12gh34=="])
    def test_key_is_removed_as_urls_and_pages_write_it(self, written, monkeypatch):
        monkeypatch.setenv("TEACHER_KEY", "AbC/dEf+12gh34==")
        page = f"no reply for ?key={written}".encode()
        with Teacher(lambda *_: Response(page, content_type="text/html")) as teacher:
            (error,) = ask(client_for(teacher, api_key_env="TEACHER_KEY", max_retries=0), questions(1))

        assert "an unreadable reply (no reply for ?key=***)" in str(error)

    @pytest.mark.parametrize("status", [200, 400, 401, 404, 429, 500])
    def test_key_is_in_no_variable_of_a_traceback(self, status, monkeypatch):
        """Some tools show the variables of all frames of an error."""
        secret = "sk-4f9a8b7c6d5e4f3a"
        monkeypatch.setenv("TEACHER_KEY", secret)
        headers = {"retry-after": "1000"} if status == 429 else {}
        body = {"error": {"message": f"no {secret}"}}
        with Teacher(lambda *_: Response(body, status, headers), models=["a", secret]) as teacher:
            client = client_for(teacher, api_key_env="TEACHER_KEY", max_retries=0, max_concurrency=1)
            try:
                error = ask(client, questions(1))[0]
            except EndpointError as raised:
                error = raised
        assert isinstance(error, EndpointError)
        assert secret not in variables_of(error)
        assert secret not in repr(vars(error))

    def test_key_that_cannot_be_sent_is_in_no_variable_either(self, monkeypatch):
        monkeypatch.setenv("TEACHER_KEY", "sk-4f9a8b7c 6d5e4f3a")
        with Teacher(answer) as teacher, pytest.raises(ValueError, match="cannot be sent") as caught:
            ask(client_for(teacher, api_key_env="TEACHER_KEY"), questions(1))

        assert "4f9a8b7c" not in variables_of(caught.value)


class TestRedirects:
    """Neither the prompts nor the key go to another server than that of `base_url`."""

    @pytest.mark.parametrize("is_list", [True, False], ids=["list", "chat"])
    @pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
    def test_another_server_gets_nothing(self, status, is_list, monkeypatch):
        monkeypatch.setenv("TEACHER_KEY", "sk-4f9a8b7c6d5e4f3a")
        with Teacher(answer, models=["a"]) as other:
            away = Response({}, status, {"location": f"{other.url}/{'models' if is_list else 'chat/completions'}"})
            with Teacher(lambda *_: away, models=away if is_list else 404) as teacher:
                client = client_for(teacher, api_key_env="TEACHER_KEY", max_concurrency=1)
                with pytest.raises(EndpointError) as caught:
                    ask(client, questions(20))

        assert (other.requests, other.headers, other.num_listings) == ([], [], 0)
        assert len(teacher.requests) == (0 if is_list else 1)
        assert f"redirects to {other.url}. The key and the prompts" in str(caught.value)
        assert "If it is the right place, pass it as `base_url`" in str(caught.value)
        assert caught.value.is_fatal

    @pytest.mark.parametrize(
        ("location", "named"),
        [
            ("https://127.0.0.1:{port}/v1/chat/completions", "https://127.0.0.1:{port}/v1"),  # another scheme
            ("http://localhost:{port}/v1/chat/completions", "http://localhost:{port}/v1"),  # another name
            ("//example.invalid/v1/chat/completions", "http://example.invalid/v1"),
            ("http://me:secret@example.invalid/v1/chat/completions?token=secret", "http://example.invalid/v1"),
            ("file:///etc/passwd", "file:///etc/passwd"),
        ],
    )
    def test_other_places_are_named_and_not_visited(self, location, named):
        with Teacher(answer) as teacher:
            port = teacher.url.rpartition(":")[2].removesuffix("/v1")
            teacher.script = lambda *_: Response({}, 307, {"location": location.format(port=port)})
            with pytest.raises(EndpointError) as caught:
                ask(client_for(teacher, max_concurrency=1), questions(3))

        assert f"redirects to {named.format(port=port)}. " in str(caught.value)
        assert "secret" not in str(caught.value)
        assert len(teacher.requests) == 1

    @pytest.mark.parametrize("status", [302, 307])
    @pytest.mark.parametrize("location", ["http://127.0.0.1:port/v1", "http://127.0.0.1:99999/v1", "http://[::1/v1"])
    def test_place_that_is_no_url_is_not_visited(self, location, status):
        away = Response({}, status, {"location": location})
        with Teacher(lambda *_: away) as teacher:
            for teacher.models in (404, away):
                with pytest.raises(EndpointError, match="redirects to something that is no URL"):
                    ask(client_for(teacher, max_concurrency=1), questions(3))

        assert len(teacher.requests) == 1

    @pytest.mark.parametrize("status", [307, 308])
    @pytest.mark.parametrize("location", ["/v2/chat/completions", "{url}/v2/chat/completions", "completions/"])
    def test_same_server_is_followed_with_the_whole_request(self, status, location, monkeypatch):
        monkeypatch.setenv("TEACHER_KEY", "sk-4f9a8b7c6d5e4f3a")

        def script(request, number):
            if number:
                return answer(request, number)
            return Response({}, status, {"location": location.format(url=teacher.url.removesuffix("/v1"))})

        with Teacher(script) as teacher:
            assert ask(client_for(teacher, api_key_env="TEACHER_KEY"), questions(1)) == answers(1)

        assert teacher.requests[0] == teacher.requests[1]
        assert teacher.headers[1]["authorization"] == "Bearer sk-4f9a8b7c6d5e4f3a"

    @pytest.mark.parametrize("status", [301, 302, 303])
    def test_redirect_that_would_lose_the_request_is_named(self, status):
        """Clients make a request without a body of it."""
        with Teacher(lambda *_: Response({}, status, {"location": "/v2/chat/completions"})) as teacher:
            with pytest.raises(
                EndpointError, match=r"redirects to http://127.0.0.1:\d+/v2\. .* pass it as `base_url`"
            ):
                ask(client_for(teacher, max_concurrency=1), questions(3))

        assert len(teacher.requests) == 1

    def test_redirects_in_a_circle_end(self):
        with Teacher(lambda *_: Response({}, 307, {"location": "/v1/chat/completions"})) as teacher:
            (error,) = ask(client_for(teacher, max_retries=0), questions(1))

        assert "the connection failed" in str(error)
        assert len(teacher.requests) < 30


class TestOddResponses:
    """What an endpoint, or a proxy before it, may send instead of a reply. None of it ends the run."""

    NESTED = b"[" * 100_000
    HALF = b'{"error": {"message": "half \\ud83d", "code": "\\udc00"}}'

    @pytest.mark.parametrize(
        ("response", "expected"),
        [
            (Response(NESTED), "an unreadable reply"),
            (Response(b'{"choices": ' + b'{"a": ' * 5000), "an unreadable reply"),
            (Response(NESTED, 500), "status 500"),
            (Response(NESTED + b"]" * 100_000, 400), "refused the request"),
            (Response(b"[" * 400 + b"]" * 400, 400), "refused the request"),
            (Response(HALF, 400), "half"),
            (Response(HALF, 500), "half"),
            (Response(b"\xff\xfe\x00", 400), "refused the request"),
            (Response({}, 503, {"retry-after": "Mon, 01 Jan 99999999999 00:00:00 GMT"}), "status 503"),
            (Response({}, 503, {"retry-after": "9" * 400}), "status 503"),
            (Response({}, 503, {"retry-after": "nan"}), "status 503"),
            (Response({}, 503, {"retry-after-ms": "-5"}), "status 503"),
        ],
        ids=lambda value: str(value.headers) if isinstance(value, Response) else None,
    )
    def test_is_an_error_of_its_request(self, response, expected):
        def script(request, number):
            return response if question_of(request) == questions(3)[1] else answer(request, number)

        with Teacher(script) as teacher:
            first, error, third = ask(client_for(teacher, max_retries=1), questions(3))

        assert [first, third] == [answers(3)[0], answers(3)[2]]
        assert isinstance(error, EndpointError) and not error.is_fatal
        assert expected in str(error)
        str(error).encode()  # can be printed

    @pytest.mark.parametrize("charset", ["rot13", "zlib", "hex", "idna", "no-such-charset", "utf-16", "latin-1", '""'])
    @pytest.mark.parametrize("status", [200, 400])
    def test_json_is_utf8_whatever_the_header_says(self, charset, status):
        text = "f\u00fcnf"
        body = completion(text) if status == 200 else {"error": {"message": text}}
        response = Response(
            json.dumps(body, ensure_ascii=False).encode(), status, content_type=f"application/json; charset={charset}"
        )
        with Teacher(lambda *_: response, models=response) as teacher:
            (reply,) = ask(client_for(teacher, max_retries=0), questions(1))

        assert text in str(reply)

    def test_mark_at_the_start_is_left_out(self):
        body = json.dumps(completion("5")).encode("utf-8-sig")
        with Teacher(lambda *_: Response(body), models=Response(body)) as teacher:
            assert ask(client_for(teacher, max_retries=0), questions(1)) == ["5"]

    def test_list_of_models_may_be_anything(self):
        for content in (self.NESTED, self.HALF, b"\xff", b"[]", b'{"data": [5]}', b'{"data": {"id": "\\ud83d"}}'):
            with Teacher(answer, models=Response(content)) as teacher:
                assert ask(client_for(teacher), questions(1)) == answers(1)

    def test_half_a_character_in_a_finish_reason_is_replaced(self, tmp_path):
        body = json.dumps(completion("5", "\ud83d!")).encode()
        with Teacher(lambda *_: Response(body)) as teacher:
            reply = ask_one(client_for(teacher, store=tmp_path / "store"))

        assert reply.finish_reason == "\ufffd!"


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
