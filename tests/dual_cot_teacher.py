"""
Replies of a teacher to the prompts of `edit_trl.synthesis`, for scripts of `teacher.Teacher`; and fixtures for tests
that ask this teacher.

The teacher has the dual chains-of-thought of `DUAL_COTS`. To a question it replies with the right chain, or with the
wrong chain if the question is in `WRONG`. With a hint it replies with the right chain, and if it is asked for a wrong
response, with the wrong chain.
"""

import functools
import json
import ssl
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from typing import Any

import pytest
from teacher import (
    Response,
    Teacher,
    client_for,
    time_limit,  # noqa: F401
)

from edit_trl.synthesis import SynthesisConfig, synthesize
from edit_trl.tasks import IN_DOMAIN_TASKS, OUT_OF_DOMAIN_TASKS, DualCoT, generate_dual_cots


# Two of each task; the teacher is wrong on one half, of different tasks.
DUAL_COTS = generate_dual_cots(16, tasks=(*IN_DOMAIN_TASKS, *OUT_OF_DOMAIN_TASKS), seed=7)
WRONG = {cot.question for cot in DUAL_COTS[::2]}
RIGHT_COTS = [cot for cot in DUAL_COTS if cot.question not in WRONG]
WRONG_COTS = [cot for cot in DUAL_COTS if cot.question in WRONG]
RIGHT, ERRING = RIGHT_COTS[0], WRONG_COTS[0]  # questions that the teacher gets right and wrong
# The fewest with which the contrastive prompts have examples of this run: 6 + 4 + 2 requests.
SIX_COTS = WRONG_COTS[:4] + RIGHT_COTS[:2]
BY_QUESTION = {cot.question: cot for cot in DUAL_COTS}

CHAIN = "2 + 3 = 5. Therefore, the answer is 5."
EXAMPLE = {"question": "What is 1 + 1?", "answer": "2", "chosen": "1 + 1 = 2.", "rejected": "1 + 1 = 3."}


def questions(cots: list[DualCoT] = DUAL_COTS) -> list[dict[str, str]]:
    return [{"question": cot.question, "answer": cot.answer, "task": cot.task} for cot in cots]


def asked(request: dict[str, Any]) -> tuple[str, DualCoT]:
    """Step that a request belongs to, and what it is about, both by its last message."""
    content = request["messages"][-1]["content"]
    if "Category:" in content:
        step = "classify"
    elif "\nH: " in content:
        step = "rectify"
    else:
        step = "corrupt" if "\nRight response: " in content else "extract"
    lines = {line.removeprefix("Question: ").removeprefix("Q: ") for line in content.splitlines()}
    (question,) = lines & BY_QUESTION.keys()
    return step, BY_QUESTION[question]


def reply_to(step: str, cot: DualCoT) -> str:
    if step == "classify":
        letter = {"logical": "a", "knowledge": "b", "calculation": "c"}[cot.mistake_kind]
        return f"It is as it was made.\nCategory: {letter}"
    is_right = step == "rectify" or (step == "extract" and cot.question not in WRONG)
    return cot.chosen if is_right else cot.rejected


def teach(request: dict[str, Any], number: int) -> str:
    return reply_to(*asked(request))


def teach_but(replies: dict[tuple[str, str], list[Any]]) -> Callable[[dict[str, Any], int], Any]:
    """A teacher whose first replies about some questions, by step and question, are given."""
    nums: Counter[tuple[str, str]] = Counter()

    def script(request: dict[str, Any], number: int) -> Any:
        step, cot = asked(request)
        given = replies.get((step, cot.question), [])
        attempt = nums[step, cot.question]
        nums[step, cot.question] += 1
        return given[attempt] if attempt < len(given) else reply_to(step, cot)

    return script


def refuse(message: str = "the context is too long") -> Response:
    """Refuses one request, after a delay: an endpoint that has not yet replied to any request would count as down."""
    return Response({"error": {"message": message}}, 400, delay=0.3)


def steps_of(requests: list[dict[str, Any]]) -> Counter[str]:
    """Number of requests of each step."""
    return Counter(asked(request)[0] for request in requests)


def shown(request: dict[str, Any]) -> list[tuple[str, str, str]]:
    """Question, right and wrong response of each worked example in a contrastive prompt."""
    contents = [message["content"] for message in request["messages"]]
    return [
        (*user.split("Question: ", 1)[1].split("\nRight response: "), assistant.removeprefix("Wrong response: "))
        for user, assistant in zip(contents[::2], contents[1::2], strict=False)
    ]


def as_sent(requests: list[dict[str, Any]]) -> list[str]:
    """The requests, comparable whatever order they came in."""
    return sorted(json.dumps(request, sort_keys=True) for request in requests)


def run(script=teach, cots=SIX_COTS, client=None, on_progress=None, **options):
    """What comes out, and the requests that were sent for it."""
    with Teacher(script) as teacher, closing(client_for(teacher, **client or {})) as chat:
        result = synthesize(questions(cots), chat, SynthesisConfig(**options), on_progress)
    return result, teacher.requests


def run_one(question, answer, wrong, right):
    """What becomes of a question that is answered wrong, and right with a hint."""
    with Teacher(lambda request, _: right if "\nH: " in request["messages"][-1]["content"] else wrong) as teacher:
        return synthesize([{"question": question, "answer": answer}], client_for(teacher))


def tables(result):
    return [dataset.to_list() for dataset in (result.pairs, result.sft, result.rejected)]


def prompt_of(cot):
    return f"Q: {cot.question}\nA:"


def examples_file(folder, num=3, num_wrong=3, stem="Question"):
    path = folder / f"{stem}.jsonl"
    lines = [
        {"question": f"{stem} {i}", "answer": str(i), "chosen": f"Right {i}", "rejected": f"Wrong {i}"}
        for i in range(num)
    ]
    for line in lines[num_wrong:]:
        del line["rejected"]
    path.write_text("\n".join(map(json.dumps, lines)))
    return str(path)


def user(content):
    return {"role": "user", "content": content}


def assistant(content):
    return {"role": "assistant", "content": content}


@pytest.fixture(autouse=True, scope="module")
def one_ssl_context():
    """To make one takes longer than all requests of a test, which need none."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ssl, "create_default_context", functools.cache(ssl.create_default_context))
        yield
