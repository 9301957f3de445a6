"""Script that asks an endpoint many questions until it is killed. `test_chat_store.py` starts it again and again."""

import json
import sys
from pathlib import Path

from edit_trl.chat import ChatClient


def main() -> None:
    url, store, num_questions, output = sys.argv[1:]
    client = ChatClient("teacher", url, api_key_env=None, store=store, max_concurrency=16)

    async def work(number: int) -> str:
        return (await client.chat([{"role": "user", "content": f"Question {number}"}])).text

    results = client.for_each(range(int(num_questions)), work)
    Path(output).write_text(json.dumps(results))


if __name__ == "__main__":
    main()
