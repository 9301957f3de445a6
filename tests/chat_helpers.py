"""
Helpers for the tests of the chat client: questions, answers of the endpoint, and calls of the client.

Waits that the client chooses itself are reduced to a hundredth; waits that an endpoint asks for are not reduced. The
tests check only lower bounds of times.
"""

import pytest
from teacher import Response


@pytest.fixture(autouse=True)
def quick_backoff(monkeypatch):
    scale_backoff(monkeypatch, 0.01)


def scale_backoff(monkeypatch, factor):
    """Backoff is what it would be at its shortest, times a factor."""
    monkeypatch.setattr("edit_trl.chat.run.random.uniform", lambda low, high: low * factor)


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
