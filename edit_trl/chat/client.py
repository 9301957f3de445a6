"""
Ask an OpenAI-compatible endpoint many questions, pay for each reply once, and stop at a budget.

Serves vLLM, llama.cpp, TGI and commercial services alike, through the official `openai` package. What is asked, and
what a reply is worth, is for others: `synthesis/dual_cot.py` asks for chains-of-thought.

Every reply is in an SQLite file before anyone sees it, under a key made of endpoint, model, messages, sampling and
sample number. Killed at any moment and started again, a run sends again at most the requests that were in flight. One
process at a time: the file is locked while it is in use.

What would surprise: several samples of one question are as many requests, since servers ignore `n`. An endpoint that
asks to wait makes all requests wait, and that is no failed attempt. Some failures concern one request (its context is
too long, say) and leave the others alone; some concern all (a wrong key, an unknown model, an endpoint that does not
come back) and end the run. Both are an `EndpointError`; `for_each` tells them apart.
"""

import asyncio
import hashlib
import json
import math
import os
import random
import re
import sqlite3
import threading
import time
from collections.abc import Awaitable, Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any, NamedTuple, TypeVar
from urllib.parse import urlsplit

from ..option_help import help_from_docstring


_T = TypeVar("_T")
_R = TypeVar("_R")

# Requests in a row that may fail, each after all its attempts, before the endpoint counts as gone.
_MAX_FAILURES = 10

# Bytes of text per token, to estimate what a request will take before its usage is known.
_BYTES_PER_TOKEN = 4

# Statuses that no other request would escape: wrong key, no credit, no right, no such model or path.
_FATAL_STATUSES = (401, 402, 403, 404, 405)

# Fields of a request that the client sets itself.
_OWN_FIELDS = ("model", "messages", "n", "stream", "seed", "temperature", "top_p", "max_tokens")

_THINKING = re.compile(r"(?:<think(?:ing)?>|\A(?=(?:(?!<think).)*?</think))(.*?)(?:</think(?:ing)?>|\Z)", re.DOTALL)


class EndpointError(Exception):
    """
    The endpoint did not give a usable reply.

    Args:
        message (`str`):
            What happened, and what to do. Never holds the key.
        url (`str`):
            Base URL of the endpoint.
        status_code (`int`, *optional*):
            HTTP status, if there was a response.
        is_fatal (`bool`, *optional*, defaults to `False`):
            Whether other requests would fail as well.
    """

    def __init__(self, message: str, url: str, status_code: int | None = None, is_fatal: bool = False) -> None:
        super().__init__(message)
        self.url = url
        self.status_code = status_code
        self.is_fatal = is_fatal


class BudgetReached(Exception):
    """A request was not sent, because `max_cost` or `max_requests` would be exceeded."""


class ChatReply(NamedTuple):
    """
    One reply of a model.

    Args:
        text (`str`):
            What the model answered, without its thinking. Empty if it never got to an answer.
        thinking (`str`):
            What a reasoning model thought before: the field `reasoning_content` or `reasoning`, or what stood between
            `<think>` and `</think>`.
        finish_reason (`str` or `None`):
            `"stop"`, `"length"` for a reply cut at the limit, `"content_filter"`, or what else the endpoint says.
        prompt_tokens (`int`):
            Tokens of the request, as the endpoint counts them; estimated if it does not.
        completion_tokens (`int`):
            Tokens of the reply, thinking included; estimated likewise.
    """

    text: str
    thinking: str
    finish_reason: str | None
    prompt_tokens: int
    completion_tokens: int


@dataclass
class Usage:
    """
    What an endpoint was asked for.

    Args:
        requests (`int`):
            Requests sent, failed attempts included.
        replies (`int`):
            Replies received.
        prompt_tokens (`int`):
            Tokens of their requests.
        completion_tokens (`int`):
            Tokens of the replies.
    """

    requests: int = 0
    replies: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0


@help_from_docstring
@dataclass
class ChatClient:
    """
    Chat calls to an OpenAI-compatible endpoint: stored, limited, retried, counted.

    Needs `pip install 'edit-trl[openai]'`.

    Args:
        model (`str`):
            Name of the model, as the endpoint knows it.
        base_url (`str`, *optional*, defaults to `"https://api.openai.com/v1"`):
            URL of the endpoint, up to and with `/v1`.
        api_key_env (`str`, *optional*, defaults to `"OPENAI_API_KEY"`):
            Name of the environment variable that holds the key. `None` for an endpoint without keys.
        store (`str`, *optional*):
            SQLite file for the replies; made if it does not exist. `None` keeps them in memory.
        temperature (`float`, *optional*, defaults to `0.2`):
            Sampling temperature, the paper's by default. `None` leaves it to the endpoint.
        top_p (`float`, *optional*):
            Nucleus sampling. `None` leaves it to the endpoint.
        max_tokens (`int`, *optional*, defaults to `2048`):
            Longest reply, in tokens, the paper's by default. `None` leaves it to the endpoint.
        seed (`int`, *optional*):
            Seed of the sampling; the number of the sample is added to it. `None` sends none.
        extra_body (`dict`, *optional*):
            More fields of the request, such as `{"max_completion_tokens": 4096}`, or `{"chat_template_kwargs":
            {"enable_thinking": false}}` for vLLM.
        max_concurrency (`int`, *optional*, defaults to `16`):
            Requests in flight at a time.
        requests_per_minute (`float`, *optional*):
            Most requests per minute, evenly spaced.
        tokens_per_minute (`float`, *optional*):
            Most tokens per minute, of requests and replies.
        max_retries (`int`, *optional*, defaults to `5`):
            Further attempts after a server error, a cut connection, a timeout or an unreadable reply.
        max_wait (`float`, *optional*, defaults to `900.0`):
            Seconds that the endpoint may ask to wait, without any reply in between, before the run ends.
        connect_timeout (`float`, *optional*, defaults to `10.0`):
            Seconds to connect.
        timeout (`float`, *optional*, defaults to `300.0`):
            Seconds for a whole reply.
        prompt_price (`float`, *optional*):
            Price of a million tokens of requests, in any currency.
        completion_price (`float`, *optional*):
            Price of a million tokens of replies.
        max_cost (`float`, *optional*):
            Stop before the replies in the store, old and new, cost more than this.
        max_requests (`int`, *optional*):
            Stop before more requests than this were sent for the replies in the store.

    Raises:
        ImportError: When the first request is sent, if `openai` is missing.
        ValueError: If an option cannot work, the key is missing, or the store cannot be used.

    Examples:

    ```python
    client = ChatClient("Qwen/Qwen3-8B", "http://localhost:8000/v1", api_key_env=None, store="replies.sqlite")


    async def ask(question):
        return (await client.chat([{"role": "user", "content": question}])).text


    answers = client.for_each(["What is 2 + 3?", "What is 7 * 6?"], ask)
    ```
    """

    model: str
    base_url: str = "https://api.openai.com/v1"
    api_key_env: str | None = "OPENAI_API_KEY"
    store: str | None = None
    temperature: float | None = 0.2
    top_p: float | None = None
    max_tokens: int | None = 2048
    seed: int | None = None
    extra_body: dict[str, Any] | None = None
    max_concurrency: int = 16
    requests_per_minute: float | None = None
    tokens_per_minute: float | None = None
    max_retries: int = 5
    max_wait: float = 900.0
    connect_timeout: float = 10.0
    timeout: float = 300.0
    prompt_price: float | None = None
    completion_price: float | None = None
    max_cost: float | None = None
    max_requests: int | None = None

    def __post_init__(self) -> None:
        self._check()
        self._store = _ReplyStore(self.store, self._identity())
        self.usage = self._store.usage()
        self._run: _Run | None = None

    def _check(self) -> None:
        url = urlsplit(self.base_url)
        if url.scheme not in ("http", "https") or not url.hostname:
            raise ValueError(
                f"`base_url` must be a URL that starts with http:// or https://, got {self.base_url!r}. Pass "
                '`base_url="http://localhost:8000/v1"`, say.'
            )
        if url.username or url.password or url.query:
            raise ValueError(
                "`base_url` must not hold a user name, a password or a query. It is written to logs and files; put the "
                "key into an environment variable and pass its name as `api_key_env`."
            )
        if self.api_key_env is not None and re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", self.api_key_env) is None:
            raise ValueError(
                "`api_key_env` must be the name of an environment variable, got something else, maybe the key itself. "
                'Names are written to files, keys are not; pass `api_key_env="OPENAI_API_KEY"`.'
            )
        limits = ("max_concurrency", "max_tokens", "requests_per_minute", "tokens_per_minute")
        for name in (*limits, "connect_timeout", "timeout"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise ValueError(f"`{name}` must be positive, got {value}. Leave it out for the default.")
        budget = ("prompt_price", "completion_price", "max_cost", "max_requests")
        for name in (*budget, "max_retries", "max_wait", "temperature", "top_p"):
            value = getattr(self, name)
            if value is not None and value < 0:
                raise ValueError(f"`{name}` must be positive or zero, got {value}. Leave it out for the default.")
        if self.max_cost is not None and (
            self.prompt_price is None or self.completion_price is None or self._longest_reply is None
        ):
            raise ValueError(
                "`max_cost` needs `prompt_price`, `completion_price` and `max_tokens`, got "
                f"{self.prompt_price}, {self.completion_price} and {self.max_tokens}. The cost of a request is known only "
                "after it; pass the endpoint's prices per million tokens."
            )
        taken = [f"`{name}`" for name in _OWN_FIELDS if name in (self.extra_body or {})]
        if taken:
            raise ValueError(
                f"`extra_body` must not hold {', '.join(taken)}. The client sets these itself: each sample is a request "
                "of its own, and a reply is read as a whole. Use the client's options, and leave out what has none."
            )
        try:
            json.dumps(self.extra_body)
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"`extra_body` must be what JSON can hold, got something else ({error}). It is sent and stored as "
                "JSON; pass lists, dictionaries, text and numbers."
            ) from None

    # What is asked

    def _identity(self) -> dict[str, Any]:
        """What a store belongs to: replies of one model, sampled in one way."""
        names = ("base_url", "model", "temperature", "top_p", "max_tokens", "seed", "extra_body")
        return {name: getattr(self, name) for name in names}

    @property
    def _longest_reply(self) -> int | None:
        return (self.extra_body or {}).get("max_completion_tokens", self.max_tokens)

    def _key(self, messages: list[dict[str, str]], sample: int) -> str:
        asked = [self._store.identity, messages, sample]
        return hashlib.sha256(json.dumps(asked, sort_keys=True, ensure_ascii=False).encode()).hexdigest()

    # Asking

    async def chat(self, messages: list[dict[str, str]], sample: int = 0) -> ChatReply:
        """
        The reply to some messages, from the store or from the endpoint. To be called inside [`~ChatClient.for_each`].

        Args:
            messages (`list[dict[str, str]]`):
                Messages with `role` and `content`.
            sample (`int`, *optional*, defaults to `0`):
                Number of the sample. The same messages with another number are asked again.

        Returns:
            [`ChatReply`]: The reply.

        Raises:
            BudgetReached: If the reply is not in the store, and to ask for it would exceed the budget.
            EndpointError: If there is no usable reply after all attempts, or the endpoint refuses.
            RuntimeError: If it is called elsewhere.
        """
        run = self._run
        if run is None:
            raise RuntimeError("`chat` must be called inside `ChatClient.for_each`, which opens the connection.")
        key = self._key(messages, sample)
        while key in run.pending:  # asked by another worker at this moment
            await run.pending[key].wait()
        reply = self._store.get(key)
        if reply is not None:
            return reply
        run.pending[key] = asyncio.Event()
        try:
            return await run.ask(key, messages, sample)
        finally:
            run.pending.pop(key).set()

    def price(self, prompt_tokens: int, completion_tokens: int) -> float | None:
        """
        Price of some tokens.

        Args:
            prompt_tokens (`int`):
                Tokens of requests.
            completion_tokens (`int`):
                Tokens of replies.

        Returns:
            `float` or `None`: The price, in the currency of the prices given; `None` without prices.
        """
        if self.prompt_price is None or self.completion_price is None:
            return None
        return (prompt_tokens * self.prompt_price + completion_tokens * self.completion_price) / 1e6

    @property
    def cost(self) -> float | None:
        """`float` or `None`: What the replies in the store cost, old and new; `None` without prices."""
        return self.price(self.usage.prompt_tokens, self.usage.completion_tokens)

    # Running

    def for_each(self, items: Iterable[_T], work: Callable[[_T], Awaitable[_R]]) -> "list[_R | Exception]":
        """
        Do some work for each item, `max_concurrency` at a time.

        Work may call [`~ChatClient.chat`] any number of times. Where an item's requests fail, or are not sent because
        the budget is reached, its place holds the exception; the others go on, as far as the store has their replies.

        Args:
            items (`Iterable`):
                What to work on.
            work (`Callable`):
                Coroutine function of one item.

        Returns:
            `list`: For each item, in order, what `work` returned, or its [`EndpointError`] or [`BudgetReached`].

        Raises:
            EndpointError: If the endpoint fails for all requests. Replies so far are in the store.
            ImportError: If `openai` is missing, and not all replies are in the store.
            ValueError: Likewise, if the key is missing.
        """

        tasks: list[Any] = []

        async def run() -> "list[_R | Exception]":
            tasks.append(asyncio.current_task())
            return await self._for_each(items, work)

        try:
            asyncio.get_running_loop()
        except RuntimeError:
            return asyncio.run(run())
        # A notebook has a loop of its own. An interrupt comes to the notebook's thread, which passes it on.
        with ThreadPoolExecutor(1) as executor:
            future = executor.submit(lambda: asyncio.run(run()))
            try:
                return future.result()
            finally:
                if tasks and not future.done():
                    tasks[0].get_loop().call_soon_threadsafe(tasks[0].cancel)

    async def _for_each(self, items: Iterable[_T], work: Callable[[_T], Awaitable[_R]]) -> "list[_R | Exception]":
        self._run = run = _Run(self)
        results: dict[int, _R | Exception] = {}
        numbered = enumerate(items)

        async def worker() -> None:
            for index, item in numbered:
                try:
                    results[index] = await work(item)
                except (BudgetReached, EndpointError) as error:
                    results[index] = error
                if run.stop is not None:
                    break

        workers = [asyncio.create_task(worker()) for _ in range(self.max_concurrency)]
        try:
            await asyncio.gather(*workers)
            # Work that sends several requests at a time may have ended before they have.
            while run.pending:
                await asyncio.gather(*(event.wait() for event in run.pending.values()))
        finally:
            for task in workers:
                task.cancel()
            await asyncio.gather(*workers, return_exceptions=True)
            if run.connection is not None:
                await run.connection.close()
            self._run = None
        if run.stop is not None:
            raise run.stop
        return [results[index] for index in range(len(results))]

    def remember(self, name: str, value: Any = None) -> Any:
        """
        What the store holds under a name; if nothing yet, the given value, which it then holds unless it is `None`.

        For choices that later requests are made of, so that they are made once.

        Args:
            name (`str`):
                Any name.
            value (`Any`, *optional*):
                Anything that JSON can hold.

        Returns:
            `Any`: What is stored; `None` if nothing is.
        """
        return self._store.remember(name, value)

    def close(self) -> None:
        """Close the store, so that another process may use it. `with ChatClient(...) as client:` does it at the end."""
        self._store.close()

    def __enter__(self) -> "ChatClient":
        return self

    def __exit__(self, *exception: Any) -> None:
        self.close()


def estimate_tokens(messages: list[dict[str, str]]) -> int:
    """
    About how many tokens some messages take: a token per four bytes, and a few per message.

    Args:
        messages (`list[dict[str, str]]`):
            Messages with `role` and `content`.

    Returns:
        `int`: Number of tokens.

    Examples:

    ```python
    >>> estimate_tokens([{"role": "user", "content": "What is 2 + 3?"}])
    8

    ```
    """
    return sum(4 + math.ceil(len(message["content"].encode()) / _BYTES_PER_TOKEN) for message in messages)


class _Cooling(Exception):
    """The endpoint asks to wait."""

    def __init__(self, seconds: float | None, status_code: int) -> None:
        self.seconds = seconds
        self.status_code = status_code


class _Failure(Exception):
    """An attempt failed; another one may not."""

    def __init__(self, message: str, status_code: int | None = None) -> None:
        super().__init__(message)
        self.status_code = status_code


class _Run:
    """Requests on their way to the endpoint: their turn, budget, attempts, and what is known meanwhile."""

    def __init__(self, client: ChatClient) -> None:
        self.client = client
        self.connection: Any = None  # none before a request is needed that the store does not answer
        self.slots = asyncio.Semaphore(client.max_concurrency)  # for requests in flight
        self.request_pace = _Pace(client.requests_per_minute)
        self.token_pace = _Pace(client.tokens_per_minute)
        self.pending: dict[str, asyncio.Event] = {}  # requests that a worker has begun, by key
        self.opening = asyncio.Lock()
        self.settled = asyncio.Event()  # set when a request has ended
        self.stop: EndpointError | None = None  # why nothing more is sent
        self.is_reachable = False
        self.models: list[str] = []
        self.in_flight = 0
        self.reserved = 0.0  # cost of the requests in flight, at worst
        self.failures = 0  # requests in a row
        self.cool_until = 0.0  # before which nothing is sent
        self.cooling_since: float | None = None
        self.num_coolings = 0  # without a reply in between

    async def ask(self, key: str, messages: list[dict[str, str]], sample: int) -> ChatReply:
        body = self._body(messages, sample)
        prompt_tokens = estimate_tokens(messages)
        # At worst: a token per byte, and the longest reply.
        cost = self.client.price(prompt_tokens * _BYTES_PER_TOKEN, self.client._longest_reply or 0) or 0.0
        num_sent = num_failed = 0
        while True:
            await self._reserve(cost)
            is_sent = False
            try:
                async with self.slots:
                    await self._wait_for_turn(prompt_tokens)
                    is_sent = True
                    num_sent += 1
                    reply = await self._send(body, prompt_tokens)
                self._count(key, reply, num_sent, prompt_tokens)
                return reply
            except _Cooling as cooling:
                self._cool_down(cooling)
            except _Failure as failure:
                num_failed += 1
                if num_failed > self.client.max_retries:
                    raise self._give_up(
                        self._error(
                            f"No usable reply after {num_failed} attempts; the last one: {self._redact(str(failure))}.",
                            failure.status_code,
                        )
                    ) from None
                await asyncio.sleep(min(60.0, 0.5 * 2 ** (num_failed - 1)) * random.uniform(0.5, 1.5))
            except EndpointError as error:
                # Once these settings have had replies, a refusal is about the request.
                raise self._give_up(error, counts=not self.client.usage.replies) from None
            finally:
                if not is_sent:
                    self.client.usage.requests -= 1
                self.reserved -= cost
                self.in_flight -= 1
                self.settled.set()

    async def _reserve(self, cost: float) -> None:
        """Count a request before it is sent, so that those in flight together keep to the budget."""
        while self.stop is None:
            if self.client.max_requests is not None and self.client.usage.requests >= self.client.max_requests:
                raise BudgetReached(f"`max_requests={self.client.max_requests}` is reached")
            spent = self.client.cost or 0.0
            if self.client.max_cost is None or spent + self.reserved + cost <= self.client.max_cost:
                self.client.usage.requests += 1
                self.reserved += cost
                self.in_flight += 1
                return
            if not self.in_flight:
                raise BudgetReached(f"`max_cost={self.client.max_cost:g}` is reached: {spent:.4g} spent")
            # What is in flight may turn out cheaper than at worst.
            self.settled.clear()
            await self.settled.wait()
        raise self.stop

    async def _wait_for_turn(self, prompt_tokens: int) -> None:
        """Wait until the endpoint may be asked."""
        await self.request_pace.take(1)
        await self.token_pace.take(prompt_tokens)
        while (seconds := self.cool_until - time.monotonic()) > 0:
            # Not all at once: they would meet the same limit again.
            await asyncio.sleep(seconds + random.uniform(0.0, min(seconds, 1.0)))
        async with self.opening:
            if not self.is_reachable and self.stop is None:
                await self._reach()
        if self.stop is not None:
            raise self.stop

    def _count(self, key: str, reply: ChatReply, num_sent: int, estimate: int) -> None:
        self.client._store.put(key, reply, num_sent)
        self.client.usage.replies += 1
        self.client.usage.prompt_tokens += reply.prompt_tokens
        self.client.usage.completion_tokens += reply.completion_tokens
        self.token_pace.charge(reply.prompt_tokens + reply.completion_tokens - estimate)
        self.failures = 0
        self.cooling_since, self.num_coolings = None, 0

    def _give_up(self, error: EndpointError, counts: bool = True) -> EndpointError:
        """The error of a request that failed for good. Where many do so in a row, it is fatal."""
        self.failures += counts
        error.is_fatal = error.is_fatal or self.failures >= _MAX_FAILURES
        if error.is_fatal and self.stop is None:
            self.stop = error
        return error

    def _connect(self) -> Any:
        try:
            import openai
        except ImportError:
            raise ImportError(
                "`ChatClient` needs the `openai` package. Install it with `pip install 'edit-trl[openai]'`."
            ) from None
        client = self.client
        key = self._api_key() if client.api_key_env else "none"
        if re.fullmatch(r"[!-~]+", key) is None:
            raise ValueError(
                f"The environment variable `{client.api_key_env}` must hold the key of {client.base_url}, and "
                f"{'holds characters that cannot be sent' if key else 'is not set'}. Set it, name another one with "
                "`api_key_env`, or pass `api_key_env=None` for an endpoint without keys."
            )
        return openai.AsyncOpenAI(
            api_key=key,
            base_url=client.base_url,
            max_retries=0,  # ours know of the store and of the other requests
            timeout=openai.Timeout(client.timeout, connect=client.connect_timeout),
        )

    async def _reach(self) -> None:
        """Connect, and ask for the list of models: a wrong address or key shows before anything else is sent."""
        self.connection = self._connect()
        import openai

        try:
            models = await asyncio.wait_for(self.connection.models.list(), self.client.connect_timeout + 20)
            self.models = [str(model.id) for model in models.data or []]
        except openai.APIStatusError as error:
            if error.status_code in (401, 403):  # others: an endpoint without such a list
                raise self._fail(error) from None
        except openai.APIConnectionError as error:
            # One that is too busy to list its models did connect.
            if not isinstance(error, openai.APITimeoutError) or "Connect" in type(error.__cause__).__name__:
                raise self._error(
                    f"Cannot reach the endpoint ({self._reason(error)}). Check `base_url`, and that the server runs.",
                    is_fatal=True,
                ) from None
        except (TimeoutError, asyncio.TimeoutError, ValueError, TypeError, AttributeError, openai.OpenAIError):
            pass  # no list that we can read
        self.is_reachable = True

    async def _send(self, body: dict[str, Any], prompt_tokens: int) -> ChatReply:
        """One attempt. Raises `_Cooling`, `_Failure` or an `EndpointError`."""
        import openai

        try:
            response = await asyncio.wait_for(
                self.connection.chat.completions.with_raw_response.create(**body, extra_body=self.client.extra_body),
                self.client.timeout,
            )
            return _read_reply(response.text, prompt_tokens)
        except (openai.APITimeoutError, TimeoutError, asyncio.TimeoutError):
            raise _Failure(f"no whole reply within {self.client.timeout:g} seconds") from None
        except openai.APIConnectionError as error:
            raise _Failure(f"the connection failed ({self._reason(error)})") from None
        except openai.APIStatusError as error:
            raise self._fail(error) from None

    def _fail(self, error: Any) -> Exception:
        """What an HTTP status means: wait, try again, give up on this request, or on all."""
        status = error.status_code
        detail = self._redact(_detail(error))
        if status in (429, 503, 529):
            # Without credit no waiting helps. The message is no guide: rate limits advertise the paid plan.
            if re.search("insufficient_quota|billing", f"{error.code} {error.type}"):
                return self._error(f"The account has no credit left: {detail}.", status, is_fatal=True)
            seconds = _retry_after(error.response.headers)
            if status != 503 or seconds is not None:
                return _Cooling(seconds, status)
        if status >= 500 or status in (408, 409, 425):
            return _Failure(f"status {status}, {detail}", status)
        if status in (401, 403):
            key = (
                f"the key in `{self.client.api_key_env}`"
                if self.client.api_key_env
                else "no key, since `api_key_env` is not set"
            )
            return self._error(f"The endpoint refused {key}: {detail}.", status, is_fatal=True)
        if status == 404:
            models = f" It lists {', '.join(map(repr, self.models[:8]))}." if self.models else ""
            return self._error(
                f"The endpoint knows no model {self.client.model!r}, or no chat at this path: {detail}.{models} Check `model` "
                "and `base_url`, which ends with '/v1' for most.",
                status,
                is_fatal=True,
            )
        return self._error(f"The endpoint refused the request: {detail}.", status, is_fatal=status in _FATAL_STATUSES)

    def _cool_down(self, cooling: "_Cooling") -> None:
        now = time.monotonic()
        if now >= self.cool_until:  # the first to hear of it, not one that was in flight already
            self.num_coolings += 1
        if self.cooling_since is None:
            self.cooling_since = now
        seconds = cooling.seconds
        if seconds is None:
            seconds = min(60.0, 2.0**self.num_coolings) * random.uniform(0.5, 1.0)
        if now + seconds - self.cooling_since > self.client.max_wait:
            error = self._error(
                f"The endpoint has asked to wait for {now + seconds - self.cooling_since:.0f} seconds without a reply in "
                f"between, more than `max_wait={self.client.max_wait:g}`. Lower `requests_per_minute`, `tokens_per_minute` or "
                "`max_concurrency`, or start again later.",
                cooling.status_code,
                is_fatal=True,
            )
            raise self._give_up(error) from None
        self.cool_until = max(self.cool_until, now + seconds)

    def _body(self, messages: list[dict[str, str]], sample: int) -> dict[str, Any]:
        body: dict[str, Any] = {"model": self.client.model, "messages": messages}
        for name in ("temperature", "top_p", "max_tokens"):
            if getattr(self.client, name) is not None:
                body[name] = getattr(self.client, name)
        if self.client.seed is not None:
            body["seed"] = self.client.seed + sample
        return body

    def _error(self, message: str, status_code: int | None = None, is_fatal: bool = False) -> EndpointError:
        status = f" [status {status_code}]" if status_code else ""
        return EndpointError(f"{self.client.base_url}: {message}{status}", self.client.base_url, status_code, is_fatal)

    def _reason(self, error: Any) -> str:
        """Why there was no connection."""
        return self._redact(str(error.__cause__ or error) or type(error.__cause__).__name__)

    def _redact(self, text: str) -> str:
        """A text from outside, without the key, on one line."""
        key = self._api_key()
        if key:
            text = text.replace(key, "***")
        # Services quote a wrong key in part.
        return " ".join(re.sub(r"\b(sk[-_]|hf_|Bearer )[\w*.-]{6,}", r"\1***", text).split())[:500]

    def _api_key(self) -> str:
        return os.environ.get(self.client.api_key_env, "").strip() if self.client.api_key_env else ""


class _Pace:
    """Spaces what is taken evenly, so that no minute sees more than the limit."""

    def __init__(self, per_minute: float | None) -> None:
        self.seconds_each = 60.0 / per_minute if per_minute else 0.0
        self.next_time = 0.0

    async def take(self, amount: float) -> None:
        if self.seconds_each:
            start = max(self.next_time, time.monotonic())
            self.next_time = start + amount * self.seconds_each
            await asyncio.sleep(start - time.monotonic())

    def charge(self, amount: float) -> None:
        self.next_time += amount * self.seconds_each


class _ReplyStore:
    """Replies in an SQLite file, for one process at a time."""

    def __init__(self, path: str | None, identity: dict[str, Any]) -> None:
        self.path = path
        self.lock = threading.Lock()  # a notebook's run has a thread of its own
        try:
            self.db = sqlite3.connect(path or ":memory:", timeout=0.0, isolation_level=None, check_same_thread=False)
            # Exclusive before the first write in WAL mode: held until closed, and let go of when the process is killed.
            self.db.execute("PRAGMA locking_mode = EXCLUSIVE")
            self.db.execute("PRAGMA journal_mode = WAL")
            self.db.execute("PRAGMA synchronous = NORMAL")
            self.db.execute(
                "CREATE TABLE IF NOT EXISTS replies (key TEXT PRIMARY KEY, text TEXT, thinking TEXT, finish_reason TEXT, "
                "prompt_tokens INTEGER, completion_tokens INTEGER, requests INTEGER) WITHOUT ROWID"
            )
            self.db.execute("CREATE TABLE IF NOT EXISTS notes (name TEXT PRIMARY KEY, value TEXT) WITHOUT ROWID")
            self.db.execute("BEGIN IMMEDIATE")
            self.db.execute("COMMIT")
        except sqlite3.Error as error:
            if "locked" in str(error):
                raise ValueError(
                    f"`store` must not be in use, but another run works with {path!r}. Both would pay for the same "
                    "replies; wait for it, or pass another file."
                ) from None
            raise ValueError(
                f"`store` must be an SQLite file in a folder that can be written to, got {path!r} ({error}). Make the "
                "folder, or pass another file."
            ) from None
        identity = json.loads(json.dumps(identity))
        self.identity = made_with = self.remember("identity", identity)
        changed = [name for name in identity if made_with.get(name) != identity[name]]
        if changed:
            self.close()
            values = ", ".join(f"`{name}={made_with.get(name)!r}`, now {identity[name]!r}" for name in changed)
            raise ValueError(
                f"`store` holds replies that were made with other settings: {values}. They cannot be mixed; pass another "
                f"file than {path!r}, or the settings that it was made with."
            )

    def get(self, key: str) -> ChatReply | None:
        with self.lock, closing(self.db.cursor()) as cursor:
            row = cursor.execute(
                "SELECT text, thinking, finish_reason, prompt_tokens, completion_tokens FROM replies WHERE key = ?",
                (key,),
            ).fetchone()
        return ChatReply(*row) if row else None

    def put(self, key: str, reply: ChatReply, requests: int) -> None:
        with self.lock:
            self.db.execute("INSERT OR REPLACE INTO replies VALUES (?, ?, ?, ?, ?, ?, ?)", (key, *reply, requests))

    def usage(self) -> Usage:
        with self.lock, closing(self.db.cursor()) as cursor:
            sums = "SUM(requests), COUNT(*), SUM(prompt_tokens), SUM(completion_tokens)"
            return Usage(*(value or 0 for value in cursor.execute(f"SELECT {sums} FROM replies").fetchone()))

    def remember(self, name: str, value: Any) -> Any:
        with self.lock, closing(self.db.cursor()) as cursor:
            if value is not None:
                cursor.execute("INSERT OR IGNORE INTO notes VALUES (?, ?)", (name, json.dumps(value)))
            row = cursor.execute("SELECT value FROM notes WHERE name = ?", (name,)).fetchone()
        return json.loads(row[0]) if row else None

    def close(self) -> None:
        self.db.close()


def _read_reply(text: str, prompt_tokens: int) -> ChatReply:
    """The reply in the body of a response. Raises `_Failure` if there is none."""
    try:
        body = json.loads(text)
        choice = body["choices"][0]
        message = choice["message"]
        texts = message.get("content"), message.get("reasoning_content") or message.get("reasoning")
        # One that is cut may end in half a character, which cannot be stored.
        content, thinking = [(text or "").encode(errors="replace").decode() for text in texts]
        usage = body.get("usage") or {}
        finish_reason = choice.get("finish_reason")
        tokens = [
            int(usage.get("prompt_tokens") or prompt_tokens),
            int(usage.get("completion_tokens") or math.ceil(len((content + thinking).encode()) / _BYTES_PER_TOKEN)),
        ]
        if not isinstance(finish_reason, (str, type(None))):
            raise TypeError
    except (ValueError, KeyError, IndexError, TypeError, AttributeError):
        raise _Failure(f"an unreadable reply ({text})") from None
    if not (content or thinking) and finish_reason not in ("length", "content_filter"):
        raise _Failure("an empty reply")
    # Some endpoints leave it in the content, some of them without the opening tag.
    parts = [thinking, *_THINKING.findall(content)]
    answer = _THINKING.sub("", content)
    return ChatReply(answer.strip(), "\n".join(part.strip() for part in parts if part), finish_reason, *tokens)


def _detail(error: Any) -> str:
    """What a service says about an error."""
    body = error.body if isinstance(error.body, dict) else {}
    message = body.get("message") or body.get("error") or body.get("detail") or error.message
    code = body.get("code")
    return f"{message} ({code})" if code and str(code) not in str(message) else str(message).rstrip(".")


def _retry_after(headers: Any) -> float | None:
    """Seconds that a response asks to wait, given as seconds or as a date."""
    value = headers.get("retry-after")
    milliseconds = headers.get("retry-after-ms")
    try:
        seconds = float(milliseconds) / 1000 if milliseconds else float(value)
    except (TypeError, ValueError):
        try:
            seconds = parsedate_to_datetime(value).timestamp() - time.time()
        except (TypeError, ValueError):
            return None
    return seconds if 0 < seconds < math.inf else None
