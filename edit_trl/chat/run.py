"""
Run all requests of one call of `ChatClient.for_each`: when to send, when to wait, when to retry and when to stop.

A request is sent when the budget allows it, when fewer than `max_concurrency` requests are in flight, when the limits
per minute allow it, and when the endpoint does not ask to wait. [`Budget`], [`Pace`] and [`Cooldown`] check one of
these each. [`Run`] asks them in turn, retries failed attempts, and ends when no request can succeed any more.

If the endpoint asks to wait, all requests wait; this does not count as a failed attempt. Neither does a refusal of a
field that further requests leave out. Some errors concern one
request (for example, its context is too long), and the other requests continue. Some errors concern all requests (a
wrong key, an unknown model, an endpoint that is down) and end the run.
"""

import asyncio
import os
import random
import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, TypeVar

from .endpoint import AskedToWait, AttemptFailed, Endpoint, EndpointError, Relearned, estimate_tokens
from .replies import BYTES_PER_TOKEN, reread
from .store import ChatReply, ReplyStore, Usage


_T = TypeVar("_T")
_R = TypeVar("_R")

# If this many requests in a row fail, each after all its attempts, the endpoint counts as down.
MAX_FAILURES = 10

# Start of the name under which the store has a request of a batch file.
WAITING = "batch/"

# Longest wait that the client chooses itself, in seconds.
_MAX_BACKOFF = 60.0


class BudgetReached(Exception):
    """A request was not sent, because `max_cost` or `max_requests` would be exceeded."""


def waits(record: dict[str, Any] | None) -> bool:
    """
    Tell whether a request waits for the result of a batch.

    Args:
        record (`dict[str, Any]` or `None`):
            What the store has about the request.

    Returns:
        `bool`: Whether it is in a batch file that is still there, and no result of any kind was read.
    """
    return record is not None and record["file"] is not None and os.path.exists(record["file"])


def refuse_waiting(store: ReplyStore) -> None:
    """
    Refuse a run that sends requests while others of its store wait for the result of a batch. It is refused before
    anything is sent: later, the requests in flight would be lost.

    Args:
        store ([`ReplyStore`]):
            The store with the requests that wait.

    Raises:
        ValueError: If there are any.
    """
    files = Counter(record["file"] for record in store.notes(WAITING).values() if waits(record))
    if files:
        names = ", ".join(f"{num} of {os.path.relpath(file)!r}" for file, num in sorted(files.items()))
        raise ValueError(
            f"Requests wait for the results of a batch ({names}), and would be paid for twice. Read the results of "
            "that file first (`read_batch`, or `--batch_results`), or delete it if it was never submitted."
        )


class Budget:
    """
    Keeps the number and the cost of requests within the limits, including the requests in flight.

    A request in flight counts with the highest cost that it may have: one token per byte, and the longest reply.

    Args:
        usage (`Usage`):
            Usage so far. The budget counts its `requests`, the run counts its tokens.
        price (`Callable[[int, int], float | None]`):
            Function that computes the price of tokens of requests and tokens of replies; `None` without prices.
        longest_reply (`int` or `None`):
            Maximum number of tokens of a reply.
        max_requests (`int` or `None`):
            Maximum number of requests.
        max_cost (`float` or `None`):
            Maximum cost.
    """

    def __init__(
        self,
        usage: Usage,
        price: Callable[[int, int], float | None],
        longest_reply: int | None,
        max_requests: int | None,
        max_cost: float | None,
    ) -> None:
        self.usage = usage
        self.price = price
        self.longest_reply = longest_reply
        self.max_requests = max_requests
        self.max_cost = max_cost
        self._num_in_flight = 0
        self._reserved = 0.0  # highest possible cost of the requests in flight
        self._released = asyncio.Event()

    async def reserve(self, prompt_tokens: int) -> float:
        """
        Count a request before it is sent.

        If the cost would be exceeded, waits for the requests in flight: they may cost less than their highest cost.

        Args:
            prompt_tokens (`int`):
                Estimated tokens of the request.

        Returns:
            `float`: Reserved cost of the request. Pass it to `release` when the request has ended.

        Raises:
            BudgetReached: If the request would exceed a limit.
        """
        cost = self.price(prompt_tokens * BYTES_PER_TOKEN, self.longest_reply or 0) or 0.0
        while True:
            if self.max_requests is not None and self.usage.requests >= self.max_requests:
                raise BudgetReached(f"`max_requests={self.max_requests}` is reached")
            spent = self.price(self.usage.prompt_tokens, self.usage.completion_tokens) or 0.0
            if self.max_cost is None or spent + self._reserved + cost <= self.max_cost:
                self.usage.requests += 1
                self._reserved += cost
                self._num_in_flight += 1
                return cost
            if not self._num_in_flight:
                raise BudgetReached(f"`max_cost={self.max_cost:g}` is reached: {spent:.4g} spent")
            self._released.clear()
            await self._released.wait()

    def release(self, cost: float, was_sent: bool) -> None:
        """Free the reserved `cost` of a request that has ended. It does not count if it never `was_sent`."""
        if not was_sent:
            self.usage.requests -= 1
        self._reserved -= cost
        self._num_in_flight -= 1
        self._released.set()


class Pace:
    """
    Spaces requests or their tokens evenly, so that no minute has more than the limit.

    Args:
        per_minute (`float` or `None`):
            The limit; `None` for no limit.
    """

    def __init__(self, per_minute: float | None) -> None:
        self._seconds_each = 60.0 / per_minute if per_minute else 0.0
        self._next_time = 0.0

    async def take(self, amount: float) -> None:
        """Wait until the next free moment, and reserve the time for an `amount`."""
        if self._seconds_each:
            start = max(self._next_time, time.monotonic())
            self._next_time = start + amount * self._seconds_each
            await asyncio.sleep(start - time.monotonic())

    def charge(self, amount: float) -> None:
        """Add an `amount` afterwards, which delays later calls of `take`. It may be negative."""
        self._next_time += amount * self._seconds_each


class Cooldown:
    """
    Holds all requests back while the endpoint asks to wait.

    Args:
        max_wait (`float`):
            Seconds that the endpoint may ask for without any reply in between.
    """

    def __init__(self, max_wait: float) -> None:
        self.max_wait = max_wait
        self._until = 0.0  # nothing is sent before this time
        self._since: float | None = None
        self._num_waits = 0  # since the last reply

    def start(self, seconds: float | None) -> float:
        """
        Begin a wait, unless it is too long.

        Args:
            seconds (`float` or `None`):
                Seconds that the endpoint asks for. `None` doubles the wait each time, from about 2 seconds to 60.

        Returns:
            `float`: Seconds from the start of the first wait since the last reply to the end of this wait. If the
            value is more than `max_wait`, the wait does not begin.
        """
        now = time.monotonic()
        if now >= self._until:  # requests that were in flight during a wait do not count as another wait
            self._num_waits += 1
        if self._since is None:
            self._since = now
        if seconds is None:
            seconds = min(_MAX_BACKOFF, 2.0**self._num_waits) * random.uniform(0.5, 1.0)
        total = now + seconds - self._since
        if total <= self.max_wait:
            self._until = max(self._until, now + seconds)
        return total

    def reset(self) -> None:
        """Forget the waits so far, after a reply."""
        self._since, self._num_waits = None, 0

    async def wait(self) -> None:
        """Wait until the endpoint may be asked."""
        while (seconds := self._until - time.monotonic()) > 0:
            # The requests wake up at different times. All at once, they would reach the same limit again.
            await asyncio.sleep(seconds + random.uniform(0.0, min(seconds, 1.0)))


class Workers(ABC):
    """
    The workers of one run, however their requests are answered: [`Run`] sends them, `VLLMRun` gathers them.

    Args:
        store ([`ReplyStore`]):
            Store of the replies.
        num_workers (`int`):
            Number of items that are worked on at once.
    """

    def __init__(self, store: ReplyStore, num_workers: int) -> None:
        self.store = store
        self._num_workers = num_workers
        self._pending: dict[str, asyncio.Event] = {}  # requests that a worker has begun, by key
        self._stop: EndpointError | None = None  # the error that ends the run
        self._num_failures = 0  # failed requests in a row

    async def for_each(self, items: Iterable[_T], work: Callable[[_T], Awaitable[_R]]) -> list[_R | Exception]:
        """Call `work` on all `items`, as `ChatClient.for_each` describes."""
        results: dict[int, _R | Exception] = {}
        numbered = enumerate(items)

        async def worker() -> None:
            for index, item in numbered:
                try:
                    results[index] = await work(item)
                except (BudgetReached, EndpointError) as error:
                    results[index] = error
                if self._stop is not None:
                    break

        workers = [asyncio.create_task(worker()) for _ in range(self._num_workers)]
        try:
            await self._attend(workers)
        finally:
            for task in workers:
                task.cancel()
            await asyncio.gather(*workers, return_exceptions=True)
            await self._close()
        if self._stop is not None:
            raise self._stop
        return [results[index] for index in range(len(results))]

    async def chat(self, messages: list[dict[str, str]], sample: int) -> ChatReply:
        """Return the reply to `messages` with the number of a `sample`, as `ChatClient.chat` describes."""
        key = self.store.key(messages, sample)
        while key in self._pending:  # another worker has begun the same request
            await self._pending[key].wait()
        reply = self.store.get(key)
        if reply is not None:
            return reread(reply)
        self._pending[key] = asyncio.Event()
        try:
            return await self._ask(key, messages, sample)
        finally:
            self._pending.pop(key).set()

    @abstractmethod
    async def _attend(self, workers: list["asyncio.Task[None]"]) -> None:
        """Wait for the workers, and for the requests that `work` has started and not waited for."""

    @abstractmethod
    async def _ask(self, key: str, messages: list[dict[str, str]], sample: int) -> ChatReply:
        """Get the reply to a request that is not in the store, and put it there."""

    async def _close(self) -> None:  # noqa: B027, a run may have opened nothing
        """Give back what the run has opened."""


class Run(Workers):
    """
    One run: the workers that process the items, and their requests.

    Args:
        endpoint ([`Endpoint`]):
            Endpoint that gets the requests.
        store ([`ReplyStore`]):
            Store of the replies.
        budget ([`Budget`]):
            Limits on requests and cost.
        request_pace, token_pace ([`Pace`]):
            Limits on requests and tokens per minute.
        cooldown ([`Cooldown`]):
            Waits that the endpoint asks for.
        max_concurrency (`int`):
            Number of workers, and maximum number of requests in flight.
        max_retries (`int`):
            Number of further attempts after a failed one.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        store: ReplyStore,
        budget: Budget,
        request_pace: Pace,
        token_pace: Pace,
        cooldown: Cooldown,
        max_concurrency: int,
        max_retries: int,
    ) -> None:
        super().__init__(store, max_concurrency)
        self.endpoint = endpoint
        self.budget = budget
        self.usage = budget.usage
        self.request_pace = request_pace
        self.token_pace = token_pace
        self.cooldown = cooldown
        self.max_retries = max_retries
        self._slots = asyncio.Semaphore(max_concurrency)  # for requests in flight
        self._opening = asyncio.Lock()

    async def _attend(self, workers: list["asyncio.Task[None]"]) -> None:
        await asyncio.gather(*workers)
        # `work` may start several requests and return before they have ended.
        while self._pending:
            await asyncio.gather(*(event.wait() for event in self._pending.values()))

    async def _close(self) -> None:
        await self.endpoint.close()

    async def _ask(self, key: str, messages: list[dict[str, str]], sample: int) -> ChatReply:
        prompt_tokens = estimate_tokens(messages)
        num_sent = num_failed = 0
        while self._stop is None:
            cost = await self.budget.reserve(prompt_tokens)
            is_sent = False
            try:
                async with self._slots:
                    await self._wait_for_turn(prompt_tokens)
                    is_sent = True
                    num_sent += 1
                    reply = await self.endpoint.ask(messages, sample)
                self._keep(key, reply, num_sent, prompt_tokens)
                return reply
            except AskedToWait as wait:
                self._cool_down(wait)
            except Relearned:
                # The refusal is no failed attempt: the next one is another request.
                self.store.note("dialect", self.endpoint.dialect.learned)
            except AttemptFailed as failure:
                num_failed += 1
                if num_failed > self.max_retries:
                    message = f"No usable reply after {num_failed} attempts; the last one: {failure}."
                    raise self._give_up(self.endpoint.error(message, failure.status_code)) from None
                await asyncio.sleep(min(_MAX_BACKOFF, 0.5 * 2 ** (num_failed - 1)) * random.uniform(0.5, 1.5))
            except EndpointError as error:
                # If the store has a reply with these settings, the refusal is due to this request.
                raise self._give_up(error, counts=not self.usage.replies) from None
            finally:
                self.budget.release(cost, is_sent)
        raise self._stop

    async def _wait_for_turn(self, prompt_tokens: int) -> None:
        """Wait until the request may be sent. The first request opens the connection."""
        if self._stop is None:
            await self.request_pace.take(1)
            await self.token_pace.take(prompt_tokens)
            await self.cooldown.wait()
        async with self._opening:
            if not self.endpoint.is_open and self._stop is None:
                await self.endpoint.open()
        if self._stop is not None:
            raise self._stop

    def _keep(self, key: str, reply: ChatReply, num_sent: int, estimate: int) -> None:
        """Store a reply, count its tokens, and forget earlier waits and failures."""
        self.store.put(key, reply, num_sent)
        self.usage.replies += 1
        self.usage.prompt_tokens += reply.prompt_tokens
        self.usage.completion_tokens += reply.completion_tokens
        self.token_pace.charge(reply.prompt_tokens + reply.completion_tokens - estimate)
        self.cooldown.reset()
        self._num_failures = 0

    def _cool_down(self, wait: AskedToWait) -> None:
        seconds = self.cooldown.start(wait.seconds)
        if seconds > self.cooldown.max_wait:
            error = self.endpoint.error(
                f"The endpoint has asked to wait for {seconds:.0f} seconds without a reply in between, more than "
                f"`max_wait={self.cooldown.max_wait:g}`. Lower `requests_per_minute`, `tokens_per_minute` or "
                "`max_concurrency`, or start again later.",
                wait.status_code,
                is_fatal=True,
            )
            raise self._give_up(error) from None

    def _give_up(self, error: EndpointError, counts: bool = True) -> EndpointError:
        """Record and return the `error` of a request that will not be retried. Many in a row end the run."""
        self._num_failures += counts
        error.is_fatal = error.is_fatal or self._num_failures >= MAX_FAILURES
        if error.is_fatal and self._stop is None:
            self._stop = error
        return error
