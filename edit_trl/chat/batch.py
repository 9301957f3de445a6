"""
Ask through batch files: write the requests without a reply to files that a service takes, and read its results.

The files have the format of OpenAI's Batch API, which other services and `vllm run-batch` read as well: a line of JSON
for each request, with an ID that the result repeats. The ID is the key of the reply in the store, so a result finds
its request whatever its order or file.

A request in a file without a result yet *waits*: it is neither written nor sent again as long as the file is there.
If a batch was never submitted or is lost, deleting its file makes its requests free again. Errors are those of an
endpoint: a refused field is learned and left out, a refused request is an error of this request, and what failed by
the service (no time, no credit, a server error) is written again.
"""

import hashlib
import json
import os
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from ..files import check_outputs, written_aside
from .dialect import Dialect, request_fields
from .endpoint import EndpointError, error_detail, estimate_tokens, is_filtered, on_one_line
from .replies import BYTES_PER_TOKEN, UnreadableReply, plain_text, read_reply, reread
from .run import WAITING, Budget, BudgetReached, waits
from .store import ChatReply, ReplyStore


_T = TypeVar("_T")
_R = TypeVar("_R")

# The limits of OpenAI, of one file.
MAX_REQUESTS, MAX_BYTES = 50_000, 200_000_000

# Statuses of a failure that has its reason in the service or the account, and not in the request.
_NOT_ABOUT_THE_REQUEST = (401, 402, 403, 404, 405, 408, 409, 425, 429)


@dataclass
class BatchResults:
    """
    What was read from the result files of a batch.

    Args:
        replies (`int`):
            Replies that are new in the store.
        repeated (`int`):
            Results that had been read before, or are there twice.
        refused (`Counter[str]`):
            Requests that the service refused, by its reason. They will not be asked again through batch files.
        failed (`Counter[str]`):
            Requests without a reply that are written again, by the reason.
        unknown (`list[str]`):
            IDs of results to no request of the store.
        torn (`list[str]`):
            Lines that cannot be read, as file and number of the line.
    """

    replies: int = 0
    repeated: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    failed: Counter[str] = field(default_factory=Counter)
    unknown: list[str] = field(default_factory=list)
    torn: list[str] = field(default_factory=list)


class Collector:
    """
    Stands in for [`Run`]: returns the replies that are in the store, and collects all other requests.

    Args:
        store ([`ReplyStore`]):
            Replies, and the requests that wait.
        settings (`dict[str, Any]`):
            Options that change the replies.
        dialect ([`Dialect`]):
            What the endpoint has refused so far.
        budget ([`Budget`]):
            Its limits hold for requests that are collected and for those that wait, too.
    """

    def __init__(self, store: ReplyStore, settings: dict[str, Any], dialect: Dialect, budget: Budget) -> None:
        self.store = store
        self.settings = settings
        self.dialect = dialect
        self.budget = budget
        self.requests: dict[str, tuple[list[dict[str, str]], int]] = {}
        self.stopped: str | None = None  # the limit of the budget that was reached
        self.waiting: dict[str, str] = {}  # requests that were needed and wait, with their files
        records = [record for record in store.notes(WAITING).values() if waits(record)]
        self._num_waiting = len(records)
        self._reserved = sum(self._highest_cost(record["prompt_tokens"]) for record in records)

    async def for_each(self, items: Iterable[_T], work: Callable[[_T], Awaitable[_R]]) -> list[_R | Exception]:
        """Call `work` on all `items` one after the other, so that requests are collected in their order."""
        results: list[_R | Exception] = []
        for item in items:
            try:
                results.append(await work(item))
            except (BudgetReached, EndpointError) as error:
                results.append(error)
        return results

    async def chat(self, messages: list[dict[str, str]], sample: int) -> ChatReply:
        """
        Return the stored reply to `messages` with the number of a `sample`. Raises `BudgetReached` if there is none
        yet, and `EndpointError` if the service refused the request.
        """
        key = self.store.key(messages, sample)
        reply = self.store.get(key)
        if reply is not None:
            return reread(reply)
        record = self.store.remember(WAITING + key)
        if record is not None and record["error"]:
            raise EndpointError(record["error"], self.settings["base_url"])
        if waits(record):
            self.waiting[key] = record["file"]
        elif key not in self.requests:
            self._reserve(estimate_tokens(messages))
            self.requests[key] = (messages, sample)
        raise BudgetReached("replies of a batch are missing")

    @property
    def files(self) -> list[str]:
        """`list[str]`: The files whose results are missing."""
        return sorted({os.path.relpath(file) for file in self.waiting.values()})

    @property
    def prompt_tokens(self) -> int:
        """`int`: Estimated tokens of the collected requests."""
        return sum(estimate_tokens(messages) for messages, _ in self.requests.values())

    def write(self, path: str | os.PathLike) -> list[str]:
        """
        Write the collected requests to a file, or to several that are numbered, if one would be too large.

        Args:
            path (`str` or `os.PathLike`):
                The file, such as `"batch.jsonl"`. Several are `"batch-00001-of-00002.jsonl"` and so on.

        Returns:
            `list[str]`: The files.

        Raises:
            FileExistsError: If a file exists.
        """
        parts = self._parts()
        path = Path(path).absolute()
        names = [path]
        if len(parts) > 1:
            numbers = [f"{number:05}-of-{len(parts):05}" for number in range(1, len(parts) + 1)]
            names = [path.with_name(f"{path.stem}-{number}{path.suffix}") for number in numbers]
        remedy = "delete it if it was never submitted"
        check_outputs({f"The batch file {name.name!r}": name for name in names}, remedy=remedy)
        with written_aside(*names) as unfinished:
            for place, lines in zip(unfinished, parts, strict=True):
                place.write_bytes(b"".join(line for _, line in lines))
            # Recorded before the files are in place: a file whose requests are unknown must never be submitted.
            for name, lines in zip(names, parts, strict=True):
                self.store.note_all({WAITING + key: self._record(key, str(name)) for key, _ in lines})
        return [os.path.relpath(name) for name in names]

    def _parts(self) -> list[list[tuple[str, bytes]]]:
        """Key and line of each request, for each file."""
        parts: list[list[tuple[str, bytes]]] = [[]]
        size = 0
        for key, (messages, sample) in self.requests.items():
            fields = self.dialect.fields(request_fields(self.settings))
            if "seed" in fields:
                fields["seed"] += sample
            body = {"model": self.settings["model"], "messages": self.dialect.messages(messages), **fields}
            request = {"custom_id": key, "method": "POST", "url": "/v1/chat/completions", "body": body}
            line = json.dumps(request, ensure_ascii=False).encode() + b"\n"
            if len(parts[-1]) == MAX_REQUESTS or (parts[-1] and size + len(line) > MAX_BYTES):
                parts.append([])
                size = 0
            parts[-1].append((key, line))
            size += len(line)
        return parts

    def _record(self, key: str, file: str) -> dict[str, Any]:
        messages, _ = self.requests[key]
        before = self.store.remember(WAITING + key) or {"num_failed": 0}
        return {
            "file": file,
            "prompt_tokens": estimate_tokens(messages),
            "has_system": any(
                message["role"] in ("system", "developer") for message in self.dialect.messages(messages)
            ),
            "fields": list(self.dialect.fields(request_fields(self.settings))),
            "num_failed": before["num_failed"],
            "error": None,
        }

    def _reserve(self, prompt_tokens: int) -> None:
        """Raise `BudgetReached` if a further request would exceed the budget."""
        budget, limit = self.budget, None
        spent = budget.price(budget.usage.prompt_tokens, budget.usage.completion_tokens) or 0.0
        cost = self._highest_cost(prompt_tokens)
        num = budget.usage.requests + self._num_waiting + len(self.requests)
        if budget.max_requests is not None and num >= budget.max_requests:
            limit = f"`max_requests={budget.max_requests}` is reached"
        elif budget.max_cost is not None and spent + self._reserved + cost > budget.max_cost:
            limit = f"`max_cost={budget.max_cost:g}` is reached: {spent:.4g} spent"
        if limit is not None:
            self.stopped = limit
            raise BudgetReached(limit)
        self._reserved += cost

    def _highest_cost(self, prompt_tokens: int) -> float:
        return self.budget.price(prompt_tokens * BYTES_PER_TOKEN, self.budget.longest_reply or 0) or 0.0


def read_results(
    paths: Iterable[str | os.PathLike], store: ReplyStore, dialect: Dialect, max_retries: int
) -> BatchResults:
    """
    Read the result files of a service into the store.

    Args:
        paths (`Iterable[str or os.PathLike]`):
            Files of results and of errors. They may be read again, and in any order.
        store ([`ReplyStore`]):
            Gets the replies.
        dialect ([`Dialect`]):
            Learns which fields the service refuses.
        max_retries (`int`):
            How often a request that failed by the service is written again.

    Returns:
        [`BatchResults`]: Counts, and what could not be used.

    Raises:
        ValueError: If a file cannot be read, or has requests.
    """
    reader = _Reader(store, dialect, max_retries)
    for path in paths:
        try:
            with open(path, "rb") as file:
                for number, line in enumerate(file, 1):
                    if line.strip():
                        reader.read(line.strip(), f"{path}, line {number}")
        except OSError as error:
            raise ValueError(
                f"The results of a batch must be a JSON Lines file, got {str(path)!r} ({error.strerror}). Download "
                "the output file and the error file of the batch, and pass their names."
            ) from None
    return reader.results


class _Reader:
    """Reads results one by one. Arguments are those of [`read_results`]."""

    def __init__(self, store: ReplyStore, dialect: Dialect, max_retries: int) -> None:
        self.store = store
        self.dialect = dialect
        self.max_retries = max_retries
        self.results = BatchResults()

    def read(self, line: bytes, place: str) -> None:
        """Read a `line`, whose `place` is its file and number."""
        results = self.results
        try:
            result = json.loads(line)
            key = str(result["custom_id"])
            response = result.get("response") or {}
            body, status = response.get("body"), response.get("status_code")
            body = json.loads(body) if isinstance(body, str) else body
            status = None if status is None else int(status)
            text = json.dumps(body)
        except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError):
            results.torn.append(place)
            return
        if "method" in result and "response" not in result:
            raise ValueError(
                f"The results of a batch must be what the service returned, and {place} is a request. Pass the output "
                "file and the error file of the batch."
            )
        record = self.store.remember(WAITING + key)
        if self.store.get(key) is not None:
            results.repeated += 1
            return
        if record is None:
            results.unknown.append(plain_text(key))
            return
        reply, failure = None, error_detail(result.get("error") or body)
        if body is not None and (status is None or 200 <= status < 300):
            try:
                reply = read_reply(text, record["prompt_tokens"])
            except UnreadableReply as error:
                failure = str(error)
        elif status in (400, 422) and is_filtered(body):
            reply = ChatReply("", "", "content_filter", 0, 0)
        if reply is not None:
            self.store.put(key, reply, 1)
            self.store.forget(WAITING + key)
            results.replies += 1
            return
        # The same error may be read again, when its request is in another file by then.
        seen = f"batch_error/{hashlib.sha256(line).hexdigest()}"
        if self.store.remember(seen):
            results.repeated += 1
            return
        self.store.note(seen, True)
        self._read_error(key, record, status, body, on_one_line(f"{failure} [status {status}]" if status else failure))

    def _read_error(self, key: str, record: dict[str, Any], status: int | None, body: Any, detail: str) -> None:
        """Decide whether a request that failed is written again."""
        record = {**record, "file": None}
        messages = [{"role": "system", "content": ""}] if record["has_system"] else []
        if status in (400, 422) and self.dialect.learn(body, dict.fromkeys(record["fields"]), messages):
            self.store.note("dialect", self.dialect.learned)
        elif status is None or not 400 <= status < 500 or status in _NOT_ABOUT_THE_REQUEST:
            record["num_failed"] += 1
            if record["num_failed"] > self.max_retries:
                record["error"] = f"No usable reply in {record['num_failed']} batches; the last time: {detail}."
        else:
            record["error"] = f"The service refused the request: {detail}."
        self.store.note(WAITING + key, record)
        (self.results.refused if record["error"] else self.results.failed)[detail] += 1
