"""
Tests of the store: which requests it answers, who may open it, and what it has after a run was killed.
"""

import asyncio
import json
import math
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from chat_helpers import (
    answer,
    answers,
    ask,
    ask_one,
    kinds_of,
    messages_of,
    question_of,
    questions,
    quick_backoff,  # noqa: F401
)
from teacher import (
    Response,
    Teacher,
    client_for,
    completion,
    time_limit,  # noqa: F401
)

from edit_trl.chat import ChatClient, ChatReply, EndpointError, Usage


pytest.importorskip("openai")

KILLED_CLIENT = Path(__file__).with_name("killed_client.py")


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
            with ChatClient(**settings) as client:
                ask_one(client)

            with pytest.raises(
                ValueError, match=f"made with other settings: {message}. They cannot be mixed; pass another"
            ):
                ChatClient(**{**settings, **option})

            ChatClient(**settings).close()  # not locked by the one that was refused

    @pytest.mark.parametrize(
        "wrong", [{"model": "other"}, {"base_url": "http://127.0.0.1:1/v1"}, {"temperature": 0.7}, {"seed": 3}]
    )
    def test_store_without_a_reply_has_no_settings(self, wrong, tmp_path):
        """The first run may have had a wrong URL or no key."""
        store = str(tmp_path / "replies.sqlite")
        with Teacher(lambda *_: Response({}, 404)) as teacher:
            settings = {"model": "teacher", "base_url": teacher.url, "api_key_env": None, "store": store}
            with ChatClient(**{**settings, **wrong}) as client, pytest.raises(EndpointError):
                ask(client, questions(3))
            teacher.script = answer
            with ChatClient(**settings) as client:
                assert ask(client, questions(3)) == answers(3)
            with pytest.raises(ValueError, match="made with other settings"):
                ChatClient(**{**settings, **wrong})

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


class TestDamage:
    def test_torn_end_of_the_log_loses_the_last_replies_alone(self, tmp_path):
        """What a crash of the machine leaves: the log ends within a record. No reply is joined to another."""
        store = tmp_path / "replies.sqlite"
        with Teacher(answer) as teacher:
            with closing(client_for(teacher, store=str(store), max_concurrency=1)) as client:
                ask(client, questions(20))
                for path in list(tmp_path.iterdir()):
                    shutil.copy(path, tmp_path / f"copy-{path.name}")
            log = tmp_path / "copy-replies.sqlite-wal"
            whole = log.read_bytes()
            for length in (0, 40, len(whole) // 3, len(whole) // 2, len(whole) - 100, len(whole) - 1):
                for path in tmp_path.glob("torn*"):
                    path.unlink()
                shutil.copy(tmp_path / "copy-replies.sqlite", tmp_path / "torn.sqlite")
                (tmp_path / "torn.sqlite-wal").write_bytes(whole[:length])
                num_sent = len(teacher.requests)
                with closing(client_for(teacher, store=str(tmp_path / "torn.sqlite"))) as client:
                    num_kept = client.usage.replies
                    assert ask(client, questions(20)) == answers(20)
                assert len(teacher.requests) - num_sent == 20 - num_kept
            assert num_kept >= 19

    def test_damaged_file_and_full_disk_are_named(self, tmp_path):
        store = tmp_path / "replies.sqlite"
        with Teacher(answer) as teacher:
            with closing(client_for(teacher, store=str(store))) as client:
                ask(client, questions(20))
            with closing(client_for(teacher, store=str(store))) as client:
                (num_pages,) = client._store._db.execute("PRAGMA page_count").fetchone()
                client._store._db.execute(f"PRAGMA max_page_count = {num_pages}")
                with pytest.raises(OSError, match="with room on its disk, but: database or disk is full"):
                    ask(client, [f"{number}" * 9000 for number in range(9)])
            content = store.read_bytes()
            store.write_bytes(content[:2048] + b"x" * (len(content) - 2048))
            with pytest.raises((OSError, ValueError), match="replies.sqlite"):
                with closing(client_for(teacher, store=str(store))) as client:
                    ask(client, questions(20))


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
