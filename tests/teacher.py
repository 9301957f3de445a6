"""
A scripted OpenAI-compatible endpoint on loopback, and helpers for the tests that ask it. The script of a test decides
the response to each request.
"""

import asyncio
import json
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from edit_trl.chat import ChatClient


@dataclass
class Response:
    """
    What a request gets, after `delay` seconds and when `until` says so. `cut` closes the connection in the middle of
    the body.
    """

    body: Any = None
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    delay: float = 0.0
    content_type: str = "application/json"
    cut: bool = False
    drip: float = 0.0  # seconds between two bytes
    until: Callable[[], bool] = lambda: True


def completion(text: str | None, finish_reason: str = "stop", **message: Any) -> dict[str, Any]:
    """Body of a chat completion of ten tokens for twenty."""
    return {
        "id": "1",
        "object": "chat.completion",
        "created": 1,
        "model": "teacher",
        "choices": [
            {
                "index": 0,
                "finish_reason": finish_reason,
                "message": {"role": "assistant", "content": text, **message},
            }
        ],
        "usage": {"prompt_tokens": 20, "completion_tokens": 10, "total_tokens": 30},
    }


class Teacher:
    """
    Runs in a thread: `with Teacher(script) as teacher`. The script gets the request's body and the number of requests
    before it, and returns a text, a [`Response`] or a body; if it raises a `ConnectionError`, the connection is closed
    without a response. `models` are those that it lists, the status with which it refuses to, or a [`Response`].
    """

    def __init__(self, script: Callable[[dict[str, Any], int], Any], models: list[str] | int | Response = 404):
        self.script = script
        self.models = models
        self.requests: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.times: list[float] = []  # at which the requests came, by `time.monotonic()`
        self.num_listings = 0  # requests for the list of models
        self.num_open = self.most_open = 0
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever, daemon=True)

    def __enter__(self) -> "Teacher":
        self.thread.start()
        self.server = asyncio.run_coroutine_threadsafe(
            asyncio.start_server(self._serve, "127.0.0.1", 0, backlog=1000), self.loop
        ).result()
        self.url = f"http://127.0.0.1:{self.server.sockets[0].getsockname()[1]}/v1"
        return self

    def __exit__(self, *exception: Any) -> None:
        async def stop() -> None:
            self.server.close()
            tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

        asyncio.run_coroutine_threadsafe(stop(), self.loop).result()
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join()
        self.loop.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                first, *lines = head.decode().split("\r\n")
                headers = {
                    name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines if line)
                }
                body = await reader.readexactly(int(headers.get("content-length", 0)))
                if not await self._answer(writer, first.split()[1], headers, body):
                    break
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        finally:
            writer.close()

    async def _answer(self, writer: asyncio.StreamWriter, path: str, headers: dict[str, str], body: bytes) -> bool:
        if path.endswith("/models"):
            self.num_listings += 1
            if isinstance(self.models, Response):
                response = self.models
            elif isinstance(self.models, int):
                response = Response({"error": {"message": "no list"}}, self.models)
            else:
                response = Response(
                    {"object": "list", "data": [{"id": name, "object": "model"} for name in self.models]}
                )
            await asyncio.sleep(response.delay)
        else:
            request = json.loads(body)
            number = len(self.requests)
            self.requests.append(request)
            self.headers.append(headers)
            self.times.append(time.monotonic())
            self.num_open += 1
            self.most_open = max(self.most_open, self.num_open)
            try:
                response = self.script(request, number)
                if isinstance(response, str):
                    response = completion(response)
                if isinstance(response, dict):
                    response = Response(response)
                await asyncio.sleep(response.delay)
                while not response.until():
                    await asyncio.sleep(0.002)
            finally:
                self.num_open -= 1
        content = response.body if isinstance(response.body, bytes) else json.dumps(response.body).encode()
        fields = {"content-type": response.content_type, "content-length": str(len(content)), **response.headers}
        lines = [f"HTTP/1.1 {response.status} status", *(f"{name}: {value}" for name, value in fields.items())]
        head = ("\r\n".join(lines) + "\r\n\r\n").encode()
        if response.cut:
            writer.write(head + content[: len(content) // 2])
            await writer.drain()
            return False
        if response.drip:
            writer.write(head)
            for byte in content:
                writer.write(bytes([byte]))
                await writer.drain()
                await asyncio.sleep(response.drip)
        else:
            writer.write(head + content)
        await writer.drain()
        return True


def client_for(teacher, **options):
    return ChatClient("teacher", teacher.url, **{"api_key_env": None, **options})


@pytest.fixture(autouse=True)
def time_limit(request):
    """Nothing here waits for ever, whatever is wrong."""
    if not hasattr(signal, "SIGALRM"):
        yield
        return

    def stop(*_):
        raise TimeoutError("the test took too long")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(300 if request.node.get_closest_marker("slow") else 120)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)
