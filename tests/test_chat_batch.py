"""Tests of batch files: what is written, what is read of the results, and what waits."""

import json
import os
from contextlib import closing
from pathlib import Path

import pytest
from batch_service import answer, failure, requests_of, result, write
from chat_helpers import answer as reply_to
from chat_helpers import answers, ask, kinds_of, messages_of, questions
from teacher import (
    Teacher,
    client_for,
    completion,
    time_limit,  # noqa: F401
)

from edit_trl.chat import BudgetReached, ChatClient, EndpointError


pytest.importorskip("openai")


@pytest.fixture(autouse=True)
def own_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def client():
    with closing(ChatClient("teacher", "http://localhost:1/v1", api_key_env=None, seed=5)) as client:
        yield client


def collected(client, num=3, file="batch.jsonl", sample=0):
    """Write the requests of some questions. Returns the files."""
    batch = client.collect_batch()
    assert set(kinds_of(ask(client, questions(num), sample))) <= {BudgetReached, str}
    return batch.write(file)


def error(message, **fields):
    return {"error": {"message": message, **fields}}


class TestRequests:
    def test_body_is_what_the_endpoint_gets(self):
        options = {"seed": 3, "top_p": 0.9, "extra_body": {"stop": ["Q:"]}}
        with Teacher(reply_to) as teacher, closing(client_for(teacher, **options)) as client:
            ask(client, questions(2), sample=4)
            sent = teacher.requests
        with closing(ChatClient("teacher", teacher.url, api_key_env=None, **options)) as other:
            (file,) = collected(other, 2, sample=4)

        key = lambda body: body["messages"][0]["content"]  # noqa: E731
        assert [request["body"] for request in requests_of(file)] == sorted(sent, key=key)

    def test_same_request_is_written_once_and_what_is_stored_never(self, client):
        batch = client.collect_batch()
        assert kinds_of(ask(client, ["a", "b", "a"])) == [BudgetReached] * 3
        client.read_batch([write(answer(lambda *_: "yes", *batch.write("1.jsonl")), "results.jsonl")])

        batch = client.collect_batch()
        assert ask(client, ["a", "b"]) == ["yes", "yes"]
        assert kinds_of(ask(client, ["c"])) == [BudgetReached]
        assert [request["body"]["messages"] for request in requests_of(*batch.write("2.jsonl"))] == [messages_of("c")]

    def test_large_files_are_split(self, client, monkeypatch):
        monkeypatch.setattr("edit_trl.chat.batch.MAX_REQUESTS", 3)
        files = collected(client, 7)

        assert files == [f"batch-0000{number}-of-00003.jsonl" for number in (1, 2, 3)]
        assert [len(requests_of(file)) for file in files] == [3, 3, 1]
        assert [request["body"]["messages"][0]["content"] for request in requests_of(*files)] == questions(7)

    def test_no_file_has_too_many_bytes(self, client, monkeypatch):
        size = os.path.getsize(collected(client, 1, "one.jsonl")[0])
        monkeypatch.setattr("edit_trl.chat.batch.MAX_BYTES", 2 * size)
        os.remove("one.jsonl")
        files = collected(client, 5)

        assert [os.path.getsize(file) for file in files] == [2 * size, 2 * size, size]

    def test_file_that_exists_is_not_replaced(self, client):
        Path("batch.jsonl").write_text("mine")
        with pytest.raises(FileExistsError, match="delete it if it was never submitted"):
            collected(client)
        assert Path("batch.jsonl").read_text() == "mine"

    def test_limits_hold_for_what_is_collected_and_for_what_waits(self):
        """A request has 4 + 13 / 4 = 8 tokens, at most 32, and its reply at most 10: 42 in all."""
        prices = {"prompt_price": 1e6, "completion_price": 1e6, "max_tokens": 10}
        for limits, num in (({"max_requests": 5}, 5), ({"max_cost": 42 * 4 + 41, **prices}, 4)):
            with closing(ChatClient("teacher", "http://localhost:1/v1", api_key_env=None, **limits)) as client:
                batch = client.collect_batch()
                ask(client, questions(3))
                batch.write(f"first-{num}.jsonl")
                batch = client.collect_batch()
                ask(client, questions(9))

                assert len(batch.waiting) == 3
                assert len(batch.requests) == num - 3
                assert batch.stopped.startswith(f"`{list(limits)[0]}=")


class TestResults:
    def test_replies_are_those_of_the_endpoint(self, client):
        """Thinking, refusals, cut and empty replies, and a filter."""
        bodies = [
            completion("<think>2 + 3</think>5"),
            completion(None, refusal="I will not."),
            completion("The answer", finish_reason="length"),
            completion("", finish_reason="content_filter"),
            (400, error("no", code="content_filter")),
        ]
        results = answer(lambda request, number: bodies[number], *collected(client, 5))
        read = client.read_batch([write(results, "results.jsonl")])
        client.collect_batch()
        replies = client.for_each(questions(5), lambda question: client.chat(messages_of(question)))

        assert (read.replies, read.refused.total(), read.failed.total()) == (5, 0, 0)
        assert [(reply.text, reply.thinking, reply.finish_reason) for reply in replies] == [
            ("5", "2 + 3", "stop"),
            ("I will not.", "", "refusal"),
            ("The answer", "", "length"),
            ("", "", "content_filter"),
            ("", "", "content_filter"),
        ]
        assert (client.usage.requests, client.usage.prompt_tokens, client.usage.completion_tokens) == (5, 80, 40)

    def test_ordinary_run_finds_every_reply(self, client):
        client.read_batch([write(answer(reply_to, *collected(client)), "results.jsonl")])
        with closing(ChatClient("teacher", "http://localhost:1/v1", api_key_env=None, seed=5)) as other:
            other._store = client._store
            assert ask(other, questions(3)) == answers(3)

    def test_results_may_be_in_several_files_and_be_read_again(self, client):
        results = answer(reply_to, *collected(client, 4))
        files = [write(results[:2], "1.jsonl"), write([*results[1:], results[3]], "2.jsonl")]

        read = client.read_batch(files)
        assert (read.replies, read.repeated) == (4, 2)
        again = client.read_batch(files)
        assert (again.replies, again.repeated) == (0, 6)

    def test_unknown_and_torn_lines_are_named_and_the_others_read(self, client):
        results = answer(reply_to, *collected(client))
        lines = [json.dumps(line) for line in results]
        other = json.dumps({**results[0], "custom_id": "request-1"})
        Path("results.jsonl").write_text("\n".join([lines[0], "", other, '{"custom_id": 1', "[]", lines[1][:-9]]))

        read = client.read_batch(["results.jsonl"])
        assert (read.replies, read.unknown) == (1, ["request-1"])
        assert read.torn == [f"results.jsonl, line {number}" for number in (4, 5, 6)]

    def test_results_of_other_settings_are_unknown(self, client):
        results = write(answer(reply_to, *collected(client)), "results.jsonl")
        with closing(ChatClient("teacher", "http://localhost:1/v1", api_key_env=None, seed=6)) as other:
            assert len(other.read_batch([results]).unknown) == 3

    def test_file_of_requests_is_refused(self, client):
        (file,) = collected(client)
        with pytest.raises(ValueError, match="what the service returned, and batch.jsonl, line 1 is a request"):
            client.read_batch([file])

    def test_missing_file_is_named(self, client):
        with pytest.raises(ValueError, match=r"got 'nowhere.jsonl' \(No such file"):
            client.read_batch(["nowhere.jsonl"])


class TestErrors:
    def test_refused_request_is_an_error_of_its_item(self, client):
        def script(request, number):
            return (400, error("the context is too long")) if number == 1 else reply_to(request, number)

        read = client.read_batch([write(answer(script, *collected(client)), "results.jsonl")])
        assert read.refused == {"the context is too long [status 400]": 1}
        batch = client.collect_batch()
        first, second, third = ask(client, questions(3))

        assert [first, third] == [answers(3)[0], answers(3)[2]]
        assert isinstance(second, EndpointError) and not second.is_fatal
        assert "The service refused the request: the context is too long [status 400]." in str(second)
        assert not batch.requests and not batch.waiting

    @pytest.mark.parametrize(
        "fail",
        [
            lambda request: failure(request, "batch_expired", "This request could not be executed in time."),
            lambda request: result(request, error("try later"), 500),
            lambda request: result(request, error("no credit", code="insufficient_quota"), 429),
            lambda request: result(request, error("wrong key sk-abcdefghijk"), 401),
            lambda request: result(request, {"choices": []}),
            lambda request: result(request, None),
        ],
    )
    def test_what_failed_by_the_service_is_written_again(self, client, fail):
        files = collected(client)
        first = requests_of(*files)
        results = write([*answer(reply_to, *files)[:0], *map(fail, first)], "errors.jsonl")

        read = client.read_batch([results])
        assert (read.failed.total(), read.replies, read.refused.total()) == (3, 0, 0)
        assert "sk-abc" not in str(read.failed)
        assert client.read_batch([results]).repeated == 3
        again = collected(client, 3, "again.jsonl")
        assert requests_of(*again) == first
        # The errors of the first file say nothing about the second.
        assert client.read_batch([results, write(answer(reply_to, *again), "results.jsonl")]).replies == 3

    def test_what_fails_too_often_is_refused(self, client):
        client.max_retries = 2
        for attempt in range(3):
            (request,) = requests_of(*collected(client, 1, f"{attempt}.jsonl"))
            results = [{**failure(request, "batch_expired", "too late"), "id": str(attempt)}]
            read = client.read_batch([write(results, "errors.jsonl")])
            assert (read.failed.total(), read.refused.total()) == ((1, 0) if attempt < 2 else (0, 1))

        client.collect_batch()
        assert "No usable reply in 3 batches; the last time: too late (batch_expired)." in str(
            ask(client, questions(1))
        )

    def test_refused_field_is_left_out_of_the_next_file(self, client):
        message = "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens'."

        def script(request, number):
            if "max_tokens" in request:
                return 400, error(message, param="max_tokens", code="unsupported_parameter")
            return reply_to(request, number)

        results = write(answer(script, *collected(client)), "errors.jsonl")
        assert client.read_batch([results]).failed.total() == 3
        assert client.read_batch([results]).repeated == 3
        assert client.refused == [
            "The endpoint refuses `max_tokens`; requests have `max_completion_tokens` in its place."
        ]
        again = collected(client, 3, "again.jsonl")

        assert {request["body"].get("max_completion_tokens") for request in requests_of(*again)} == {2048}
        client.read_batch([write(answer(script, *again), "results.jsonl")])
        assert ask(client, questions(3)) == answers(3)

    def test_service_that_refuses_every_role_is_not_asked_for_ever(self, client):
        messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Question"}]
        refused = (400, error("Conversation roles must alternate user/assistant/user/assistant/..."))
        for name, key in (("first", "failed"), ("second", "refused")):
            batch = client.collect_batch()
            client.for_each([messages], client.chat)
            files = batch.write(f"{name}.jsonl")
            (line,) = answer(lambda *_: refused, *files)
            read = client.read_batch([write([{**line, "id": name}], f"{name}_errors.jsonl")])
            assert getattr(read, key).total() == 1

        assert [message["role"] for message in requests_of(*files)[0]["body"]["messages"]] == ["user"]
        client.collect_batch()
        assert "roles must alternate" in str(client.for_each([messages], client.chat)[0])

    @pytest.mark.parametrize(
        "line",
        [
            '{"custom_id": "1", "response": {"body": ' + "[" * 5000 + "]" * 5000 + "}}",
            '{"custom_id": "1", "response": {"status_code": Infinity, "body": {}}}',
            '{"custom_id": "1", "response": {"status_code": [], "body": {}}}',
        ],
    )
    def test_odd_line_is_torn_and_the_others_are_read(self, client, line):
        results = write(answer(reply_to, *collected(client)), "results.jsonl")
        with open(results, "a", encoding="utf-8") as file:
            file.write(line + "\n")

        read = client.read_batch([results])
        assert (read.replies, read.torn) == (3, ["results.jsonl, line 4"])


class TestWaiting:
    def test_requests_of_a_file_are_not_written_again(self, client):
        (file,) = collected(client, 3)
        batch = client.collect_batch()
        ask(client, questions(5))
        assert [len(batch.waiting), len(batch.requests), batch.files] == [3, 2, [file]]

        os.remove(file)
        batch = client.collect_batch()
        ask(client, questions(5))
        assert [len(batch.waiting), len(batch.requests)] == [0, 5]

    def test_requests_of_a_file_are_not_sent(self, tmp_path):
        with Teacher(reply_to) as teacher:
            with closing(client_for(teacher, store="replies.sqlite")) as client:
                (file,) = collected(client, 3)
            with closing(client_for(teacher, store="replies.sqlite")) as client:
                with pytest.raises(ValueError, match=r"\(3 of 'batch.jsonl'\).*Read the results of that file first"):
                    ask(client, ["another question", *questions(3)])
                assert teacher.requests == []
                os.remove(file)
                assert ask(client, questions(3)) == answers(3)
        assert len(teacher.requests) == 3

    def test_settings_cannot_change_while_requests_wait(self):
        with closing(ChatClient("teacher", "http://localhost:1/v1", store="replies.sqlite")) as client:
            files = collected(client, 3)
        with pytest.raises(
            ValueError,
            match="waits for replies to batch files that were made with other settings: `model='teacher'`, now",
        ):
            ChatClient("x", "http://localhost:1/v1", store="replies.sqlite")
        with closing(ChatClient("teacher", "http://localhost:1/v1", store="replies.sqlite")) as client:
            results = [result(request, error("no such model"), 404) for request in requests_of(*files)]
            client.read_batch([write(results, "errors.jsonl")])
        with closing(ChatClient("x", "http://localhost:1/v1", store="replies.sqlite")) as client:
            assert len(requests_of(*collected(client, 3, "again.jsonl"))) == 3
