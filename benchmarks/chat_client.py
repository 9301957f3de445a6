"""
Measure replies per second of `ChatClient`, and the ratio to a bare client on the same endpoint.

The endpoint is a script in a process of its own, which answers every request after a fixed delay. The bare client is
the `openai` package with a semaphore: no store, no retries, no limits, no counting. Both clients ask the same
questions in turns; the table has the median of the turns.

    python benchmarks/chat_client.py --requests 3000 --concurrency 64 --delay 0.2
"""

import argparse
import asyncio
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from edit_trl.chat import ChatClient


REPLY = {
    "id": "1",
    "object": "chat.completion",
    "created": 1,
    "model": "scripted",
    "choices": [
        {
            "index": 0,
            "finish_reason": "stop",
            "message": {"role": "assistant", "content": "2 + 3 = 5. " * 20 + "Therefore, the answer is 5."},
        }
    ],
    "usage": {"prompt_tokens": 500, "completion_tokens": 130, "total_tokens": 630},
}


async def serve(delay: float) -> None:
    """Answer every request on a free port, which is printed."""
    body = json.dumps(REPLY).encode()
    head = f"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n".encode()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                lines = (await reader.readuntil(b"\r\n\r\n")).decode().lower().split("\r\n")
                length = next((int(line.split(":")[1]) for line in lines if line.startswith("content-length:")), 0)
                await reader.readexactly(length)
                await asyncio.sleep(delay)
                writer.write(head + body)
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0, backlog=1000)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


def ask_bare(url: str, questions: list[list[dict[str, str]]], concurrency: int) -> None:
    """Ask with the `openai` package and a semaphore."""
    import openai

    async def run() -> None:
        slots = asyncio.Semaphore(concurrency)
        async with openai.AsyncOpenAI(api_key="none", base_url=url, max_retries=0) as client:

            async def ask(messages: list[dict[str, str]]) -> None:
                async with slots:
                    await client.chat.completions.create(model="scripted", messages=messages, max_tokens=2048)

            await asyncio.gather(*map(ask, questions))

    asyncio.run(run())


def ask_stored(url: str, questions: list[list[dict[str, str]]], concurrency: int) -> None:
    """Ask with `ChatClient` and a store on disk."""
    with tempfile.TemporaryDirectory() as folder:
        client = ChatClient(
            "scripted", url, api_key_env=None, store=str(Path(folder, "replies.sqlite")), max_concurrency=concurrency
        )
        replies = client.for_each(questions, client.chat)
        assert all(reply.text for reply in replies)  # type: ignore[union-attr]
        client.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.strip().splitlines()[0])
    parser.add_argument("--requests", type=int, default=3000, help="per turn (default: %(default)s)")
    parser.add_argument("--concurrency", type=int, default=64, help="requests in flight (default: %(default)s)")
    parser.add_argument("--delay", type=float, default=0.2, help="seconds to a reply (default: %(default)s)")
    parser.add_argument("--turns", type=int, default=3, help="turns of each client (default: %(default)s)")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        asyncio.run(serve(args.delay))
        return
    command = [sys.executable, __file__, "--serve", "--delay", str(args.delay)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            url = f"http://127.0.0.1:{int(server.stdout.readline())}/v1"
            questions = [
                [{"role": "user", "content": f"What is {number} + 3? " + "Think step by step. " * 100}]
                for number in range(args.requests)
            ]
            rates: dict[str, list[float]] = {"bare": [], "ChatClient": []}
            for turn in range(-1, args.turns):  # the first one warms up
                for name, ask in (("bare", ask_bare), ("ChatClient", ask_stored)):
                    start = time.perf_counter()
                    ask(url, questions if turn >= 0 else questions[: 2 * args.concurrency], args.concurrency)
                    if turn >= 0:
                        rates[name].append(args.requests / (time.perf_counter() - start))
        finally:
            server.kill()
    bare = statistics.median(rates["bare"])
    print(f"{args.requests} requests, {args.concurrency} in flight, {args.delay:g} s each; replies per second:")
    if args.delay:
        print(f"  what the delay allows  {args.concurrency / args.delay:8.0f}")
    for name, values in rates.items():
        spread = ", ".join(f"{value:.0f}" for value in values)
        print(f"  {name:22} {statistics.median(values):8.0f}  {statistics.median(values) / bare:.2f}  ({spread})")


if __name__ == "__main__":
    main()
