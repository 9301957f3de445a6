"""Tests of a client that runs its model with vLLM in this process, by a stand-in of that package."""

import asyncio
import json
import os
import re
import sys
from contextlib import closing
from pathlib import Path

import pytest
from chat_helpers import answer, answers, ask, ask_one, messages_of, question_of, questions
from cli_fixtures import command, own_folder_fixture, read_only_line, write_questions  # noqa: F401
from dual_cot_teacher import (  # noqa: F401
    RIGHT_COTS,
    WRONG_COTS,
    one_ssl_context,
    teach,
    teach_but,
    time_limit,
)
from dual_cot_teacher import questions as rows_of_questions
from fake_vllm import FakeVLLM
from teacher import Teacher

from edit_trl.chat import BudgetReached, ChatClient, EndpointError
from edit_trl.cli import main
from edit_trl.install_hint import install_hint


RUN = [*WRONG_COTS[:4], *RIGHT_COTS[:2]]


@pytest.fixture
def vllm(monkeypatch):
    return FakeVLLM(answer).install(monkeypatch)


def client_for(**options):
    return closing(ChatClient("teacher", "vllm", **options))


class TestClient:
    def test_all_requests_of_a_step_are_one_call(self, vllm):
        with client_for() as client:
            assert ask(client, questions(300)) == answers(300)
            assert ask(client, questions(2), sample=1) == answers(2)

        assert [len(call["messages"]) for call in vllm.calls] == [300, 2]
        assert vllm.loads == [{"model": "teacher", "seed": None}]
        assert (client.usage.requests, client.usage.replies) == (302, 302)
        assert (client.usage.prompt_tokens, client.usage.completion_tokens) == (302 * 20, 302 * 10)

    def test_large_steps_are_several_calls(self, vllm, monkeypatch):
        monkeypatch.setattr("edit_trl.chat.vllm_engine.REQUESTS_PER_CALL", 64)
        with client_for() as client:
            assert ask(client, questions(150)) == answers(150)
        assert [len(call["messages"]) for call in vllm.calls] == [64, 64, 22]

    def test_items_that_ask_several_times_are_answered_together(self, vllm):
        async def work(question):
            first = await client.chat(messages_of(question))
            if question == "Question 0001":
                await asyncio.sleep(0.02)
            both = [asyncio.create_task(client.chat(messages_of(first.text), i)) for i in (0, 1)]
            return [reply.text for reply in await asyncio.gather(*both)]

        with client_for() as client:
            assert client.for_each(questions(3), work) == [[f"{text}: answered"] * 2 for text in answers(3)]
        assert [len(call["messages"]) for call in vllm.calls] == [3, 4, 2]

    def test_same_request_is_asked_once(self, vllm):
        with client_for() as client:
            assert ask(client, ["a", "a", "b"]) == ["a: answered", "a: answered", "b: answered"]
        assert len(vllm.bodies) == 2

    def test_sampling_options_reach_vllm(self, vllm):
        extra = {"top_k": 20, "stop": ["Q:"], "chat_template_kwargs": {"enable_thinking": False}}
        options = {"tensor_parallel_size": 2, "seed": 1}
        with client_for(temperature=0.7, top_p=0.9, seed=3, extra_body=extra, vllm_options=options) as client:
            ask(client, questions(1), sample=4)
        (body,) = vllm.bodies
        sent = ("temperature", "top_p", "top_k", "stop", "max_tokens", "seed", "n")
        assert [body[name] for name in sent] == [0.7, 0.9, 20, ["Q:"], 2048, 7, 1]
        assert vllm.calls[0]["chat_template_kwargs"] == {"enable_thinking": False}
        assert vllm.loads == [{"model": "teacher", "seed": 1, "tensor_parallel_size": 2}]

    @pytest.mark.parametrize(
        ("options", "limit"),
        [({"max_tokens": None}, None), ({"extra_body": {"max_completion_tokens": 9}}, 9), ({"max_tokens": 5}, 5)],
    )
    def test_length_of_replies_is_not_that_of_vllm(self, vllm, options, limit):
        """Its default is 16 tokens."""
        with client_for(**options) as client:
            ask(client, questions(1))
        assert vllm.bodies[0]["max_tokens"] == limit

    def test_replies_are_read_as_those_of_an_endpoint(self, vllm):
        vllm.script = lambda body, number: ("<think>2 + 3</think>The ans", "length")
        with client_for() as client:
            reply = ask_one(client)
        assert (reply.text, reply.thinking, reply.finish_reason) == ("The ans", "2 + 3", "length")

    def test_stored_replies_need_no_vllm(self, vllm, tmp_path, monkeypatch):
        store = str(tmp_path / "replies.sqlite")
        with client_for(store=store) as client:
            ask(client, questions(3))
        monkeypatch.setitem(sys.modules, "vllm", None)
        with client_for(store=store) as client:
            assert ask(client, questions(3)) == answers(3)
            with pytest.raises(ImportError, match=rf"needs the `vllm` package.*{re.escape(install_hint('vllm'))}"):
                ask(client, questions(4))

    def test_budget_holds(self, vllm):
        with client_for(max_requests=3) as client:
            replies = ask(client, questions(5))
        assert replies[:3] == answers(3) and [type(reply) for reply in replies[3:]] == [BudgetReached] * 2
        assert len(vllm.bodies) == 3


class TestErrors:
    @pytest.mark.parametrize("keeps_accepted", [False, True])
    def test_refused_request_is_an_error_of_its_item(self, vllm, keeps_accepted):
        """Also where vLLM keeps what it had accepted before."""
        vllm.keeps_accepted = keeps_accepted
        asked = questions(8)
        asked[5] = "too long"
        with client_for() as client:
            replies = ask(client, asked)

        assert isinstance(replies[5], EndpointError) and not replies[5].is_fatal
        assert "vLLM refused the request: The decoder prompt (length 9000) is longer" in str(replies[5])
        others = [number for number in range(8) if number != 5]
        assert [replies[number] for number in others] == [answers(8)[number] for number in others]
        assert client.usage.replies == 7

    def test_many_refused_requests_end_the_run(self, vllm):
        with client_for() as client, pytest.raises(EndpointError, match="vLLM refused the request"):
            ask(client, [f"too long {i}" for i in range(40)])
        assert len(vllm.calls) < 40

    def test_reply_that_broke_off_is_an_error(self, vllm):
        vllm.script = lambda body, number: ("half", "abort" if question_of(body) == "Question 0001" else "stop")
        with client_for() as client:
            first, second = ask(client, questions(2))
        assert first == "half" and "broke off" in str(second)

    def test_model_that_cannot_be_loaded_is_named(self, vllm):
        with closing(ChatClient("missing", "vllm")) as client:
            with pytest.raises(ValueError, match="load the model 'missing', but: Engine core initialization failed"):
                ask(client, questions(2))

    def test_field_that_vllm_does_not_know_is_named(self, vllm):
        with client_for(extra_body={"reasoning_effort": "low"}) as client:
            with pytest.raises(ValueError, match=r"what `vllm.SamplingParams` takes.*reasoning_effort"):
                ask(client, questions(2))
        assert vllm.loads == []

    def test_error_of_the_caller_ends_the_run(self, vllm):
        async def work(question):
            await client.chat(messages_of(question))
            raise KeyError("mine")

        with client_for() as client, pytest.raises(KeyError, match="mine"):
            client.for_each(questions(20), work)

    def test_options_of_vllm_need_it(self):
        with pytest.raises(ValueError, match='`vllm_options` need `base_url="vllm"`, got'):
            ChatClient("teacher", "http://localhost:1/v1", vllm_options={"dtype": "auto"})


class TestSynthesize:
    def test_files_are_those_of_an_endpoint(self, monkeypatch):
        """But for the URL and the dates. Four calls: extract, what is left of it and rectify, rectify, corrupt."""
        pytest.importorskip("openai")
        replies = {("rectify", RUN[3].question): [RUN[3].rejected] * 3}
        write_questions(rows_of_questions(RUN))
        with Teacher(teach_but(replies)) as teacher:
            assert main([*command(teacher, "--file_format", "jsonl"), "--output_dir", "whole"]) == 0
        fake = FakeVLLM(teach_but(replies)).install(monkeypatch)
        monkeypatch.setitem(sys.modules, "openai", None)
        flags = [
            "--questions",
            "questions.jsonl",
            "--model",
            "teacher",
            "--base_url",
            "vllm",
            "--file_format",
            "jsonl",
        ]
        options = ["--vllm_options", '{"dtype": "bfloat16"}', "--output_dir", "out"]

        assert main(["synthesize", *flags, *options]) == 0

        assert [len(call["messages"]) for call in fake.calls] == [6, 4, 1, 1, 2]
        assert fake.loads == [{"model": "teacher", "seed": None, "dtype": "bfloat16"}]
        for name in ("dual_cots.jsonl", "sft.jsonl", "rejected.jsonl"):
            assert Path("out", name).read_bytes() == Path("whole", name).read_bytes() != b""
        reports = [json.loads(Path(folder, "report.json").read_text()) for folder in ("out", "whole")]
        assert reports[0].pop("base_url") == "vllm" and reports[1].pop("base_url") == "private"
        assert reports[0] == reports[1]

    def test_shards_are_merged_without_vllm(self, monkeypatch):
        write_questions(rows_of_questions(RUN))
        fake = FakeVLLM(teach).install(monkeypatch)
        flags = ["--questions", "questions.jsonl", "--model", "teacher", "--base_url", "vllm", "--output_dir", "out"]
        for _ in range(2):
            for shard in ("1/2", "2/2"):
                assert main(["synthesize", *flags, "--shard", shard]) == 0
        monkeypatch.setitem(sys.modules, "vllm", None)
        assert main(["synthesize", *flags]) == 0

        assert len(fake.bodies) == 12
        assert json.loads(Path("out/report.json").read_text())["pairs"] == 6

    def test_missing_package_is_one_line(self, capsys, monkeypatch):
        monkeypatch.setitem(sys.modules, "vllm", None)
        flags = ["--questions", "questions.jsonl", "--model", "teacher", "--base_url", "vllm", "--output_dir", "out"]
        assert main(["synthesize", *flags]) == 1
        assert "needs the `vllm` package, which runs on GPUs. Install it with" in read_only_line(capsys)
        assert os.listdir("out") == ["replies.sqlite"]
