"""
A service that answers batch files, for tests: it takes the files of requests and returns the lines of its results, in
another order, as OpenAI's Batch API writes them.
"""

import json
import random
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from teacher import completion


def requests_of(*files: str) -> list[dict[str, Any]]:
    """The requests in some files, each checked for the fields that the service wants."""
    requests = []
    for file in files:
        for line in Path(file).read_text(encoding="utf-8").split("\n")[:-1]:
            request = json.loads(line)
            assert sorted(request) == ["body", "custom_id", "method", "url"]
            assert (request["method"], request["url"]) == ("POST", "/v1/chat/completions")
            assert len(request["custom_id"]) <= 64
            requests.append(request)
    assert len({request["custom_id"] for request in requests}) == len(requests)
    return requests


def result(request: dict[str, Any], body: Any, status: int = 200) -> dict[str, Any]:
    """The result of a request that got a response."""
    response = {"status_code": status, "request_id": "req_1", "body": body}
    return {"id": f"batch_req_{request['custom_id'][:8]}", "custom_id": request["custom_id"], "response": response,
            "error": None}  # fmt: skip


def failure(request: dict[str, Any], code: str, message: str) -> dict[str, Any]:
    """The result of a request that the service did not send."""
    error = {"code": code, "message": message}
    return {"id": "batch_req_1", "custom_id": request["custom_id"], "response": None, "error": error}


def answer(script: Callable[[dict[str, Any], int], Any], *files: str) -> list[dict[str, Any]]:
    """
    The results of the requests in some files, by the script of a `teacher.Teacher`, in another order. What the script
    returns is a text, a body, or a pair of status and body.
    """
    results = []
    for number, request in enumerate(requests_of(*files)):
        reply = script(request["body"], number)
        if isinstance(reply, str):
            reply = completion(reply)
        status, body = reply if isinstance(reply, tuple) else (200, reply)
        results.append(result(request, body, status))
    random.Random(0).shuffle(results)
    return results


def write(lines: Iterable[dict[str, Any]], path: str) -> str:
    Path(path).write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path
