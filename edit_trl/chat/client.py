"""
`ChatClient`: send many chat requests to an OpenAI-compatible endpoint, store each reply, and stop at a budget.

Works with vLLM, llama.cpp, TGI and commercial services, through the official `openai` package. The modules that use
the client make the messages and judge the replies: `synthesis/dual_cot.py` asks for chains-of-thought, for example.

The client has the options and the store. If a run is killed and started again, only the requests that were in flight
are sent again. Each sample of a question is a request of its own, because many servers ignore `n`.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

from ..option_help import help_from_docstring
from .batch import BatchResults, Collector, read_results
from .dialect import LENGTH_FIELDS, Dialect, request_fields
from .endpoint import Endpoint
from .options import check_options, longest_reply
from .run import Budget, Cooldown, Pace, Run, refuse_waiting
from .store import ChatReply, ReplyStore
from .vllm_engine import VLLM, VLLMEngine, VLLMRun


_T = TypeVar("_T")
_R = TypeVar("_R")


@help_from_docstring
@dataclass
class ChatClient:
    """
    Client for chat requests to an OpenAI-compatible endpoint. It stores replies, limits the rate, retries and counts.

    Needs the extra `openai`, or the extra `vllm` for the base URL `"vllm"`.

    Args:
        model (`str`):
            Name of the model at the endpoint.
        base_url (`str`, *optional*, defaults to `"https://api.openai.com/v1"`):
            URL of the endpoint, including `/v1`; or `"vllm"` to run the model in this process with the `vllm` package.
        api_key_env (`str`, *optional*, defaults to `"OPENAI_API_KEY"`):
            Name of the environment variable that holds the key. `None` for an endpoint without keys.
        store (`str`, *optional*):
            SQLite file for the replies. It is created if it does not exist. `None` keeps the replies in memory.
        temperature (`float`, *optional*, defaults to `0.2`):
            Sampling temperature. The default is the paper's. `None` uses the default of the endpoint.
        top_p (`float`, *optional*):
            Nucleus sampling. `None` uses the default of the endpoint.
        max_tokens (`int`, *optional*, defaults to `2048`):
            Maximum length of a reply, in tokens. The default is the paper's. `None` uses the default of the endpoint.
        seed (`int`, *optional*):
            Seed of the sampling. The number of the sample is added to it. `None` sends no seed.
        extra_body (`dict`, *optional*):
            More fields of the request, such as `{"stop": ["Q:"]}`, or `{"chat_template_kwargs": {"enable_thinking":
            false}}` for vLLM. A field that is also an option wins over it, and `max_completion_tokens` wins over
            `max_tokens`.
        vllm_options (`dict`, *optional*):
            More arguments of `vllm.LLM` for the base URL `"vllm"`, such as `{"tensor_parallel_size": 2}`.
        max_concurrency (`int`, *optional*, defaults to `16`):
            Maximum number of requests in flight at the same time. vLLM in this process gets many at once.
        requests_per_minute (`float`, *optional*):
            Maximum number of requests per minute. They are evenly spaced.
        tokens_per_minute (`float`, *optional*):
            Maximum number of tokens per minute, in requests and replies together.
        max_retries (`int`, *optional*, defaults to `5`):
            Number of further attempts after a server error, a lost connection, a timeout or an unreadable reply.
        max_wait (`float`, *optional*, defaults to `900.0`):
            Seconds that the endpoint may ask to wait, without any reply in between, before the run ends.
        connect_timeout (`float`, *optional*, defaults to `10.0`):
            Maximum time to connect, in seconds.
        timeout (`float`, *optional*, defaults to `300.0`):
            Maximum time for a whole reply, in seconds.
        prompt_price (`float`, *optional*):
            Price of a million tokens of requests, in any currency.
        completion_price (`float`, *optional*):
            Price of a million tokens of replies, in the same currency.
        max_cost (`float`, *optional*):
            Maximum cost of all replies in the store, old and new. The run stops before the cost is exceeded.
        max_requests (`int`, *optional*):
            Maximum number of requests for the replies in the store, old and new. The run stops before it is exceeded.

    Raises:
        ImportError: When the first request is sent, if `openai` (or `vllm`) is not installed.
        ValueError: If an option has a value that cannot work, the key is missing, or the store cannot be used.

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
    vllm_options: dict[str, Any] | None = None
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
        check_options(self)
        self._store = ReplyStore(self.store, self.settings)
        self._dialect = Dialect(self._store.remember("dialect"))
        self.usage = self._store.usage()
        self._run: Run | Collector | VLLMRun | None = None
        self._collector: Collector | None = None
        self._engine = VLLMEngine(self.settings, self.vllm_options or {})

    @property
    def settings(self) -> dict[str, Any]:
        """`dict[str, Any]`: The options that change the replies. They are the same for all replies of a store."""
        names = ("base_url", "model", "temperature", "top_p", "max_tokens", "seed", "extra_body")
        return {name: getattr(self, name) for name in names}

    @property
    def sampling(self) -> dict[str, Any]:
        """
        `dict[str, Any]`: What requests say about sampling: `temperature`, `top_p`, `seed` and `max_tokens` or
        `max_completion_tokens`. `None` if it is left to the endpoint, also because the endpoint refuses it.
        """
        fields = self._dialect.fields(request_fields(self.settings))
        length = next((name for name in LENGTH_FIELDS if name in fields), "max_tokens")
        return {name: fields.get(name) for name in ("temperature", "top_p", length, "seed")}

    @property
    def refused(self) -> list[str]:
        """`list[str]`: What the endpoint has refused to take, and how requests are written since: a sentence each."""
        return self._dialect.notes

    async def chat(self, messages: list[dict[str, str]], sample: int = 0) -> ChatReply:
        """
        Return the reply to some messages, from the store or from the endpoint. Call it inside
        [`~ChatClient.for_each`].

        Args:
            messages (`list[dict[str, str]]`):
                Messages with `role` and `content`.
            sample (`int`, *optional*, defaults to `0`):
                Number of the sample. The same messages with another number are sent as a new request.

        Returns:
            [`ChatReply`]: The reply.

        Raises:
            BudgetReached: If the reply is not in the store, and the request would exceed the budget.
            EndpointError: If there is no usable reply after all attempts, or the endpoint refuses the request.
            RuntimeError: If it is called outside [`~ChatClient.for_each`].
        """
        if self._run is None:
            raise RuntimeError("`chat` must be called inside `ChatClient.for_each`, which opens the connection.")
        return await self._run.chat(messages, sample)

    def num_attempts(self, max_attempts: int) -> int:
        """
        Return how many samples to ask for until one is good enough.

        Args:
            max_attempts (`int`):
                Maximum number of samples.

        Returns:
            `int`: `max_attempts`, or 1 at temperature zero, where every sample would be the same reply.
        """
        return 1 if request_fields(self.settings).get("temperature") == 0 else max_attempts

    def price(self, prompt_tokens: int, completion_tokens: int) -> float | None:
        """
        Compute the price of a number of tokens.

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
        """`float` or `None`: Cost of all replies in the store, old and new; `None` without prices."""
        return self.price(self.usage.prompt_tokens, self.usage.completion_tokens)

    def for_each(self, items: Iterable[_T], work: Callable[[_T], Awaitable[_R]]) -> list[_R | Exception]:
        """
        Call a coroutine function on each item, `max_concurrency` items at a time.

        `work` may call [`~ChatClient.chat`] any number of times. If a request of an item fails, or is not sent because
        the budget is reached, the exception is the result of this item. The other items are still processed: after
        the budget is reached, they get the replies that are already in the store.

        Args:
            items (`Iterable`):
                Items to process.
            work (`Callable`):
                Coroutine function that takes one item.

        Returns:
            `list`: For each item, in order, the result of `work`, or the [`EndpointError`] or [`BudgetReached`] that
            it raised.

        Raises:
            EndpointError: If the endpoint fails for all requests. The replies so far are in the store.
            ImportError: If a reply is not in the store and `openai` is not installed.
            ValueError: If a reply is not in the store and the key is missing, or if requests wait for a batch.
        """
        tasks: list[Any] = []

        async def run() -> list[_R | Exception]:
            tasks.append(asyncio.current_task())
            self._run = self._collector or self._new_run()
            try:
                return await self._run.for_each(items, work)
            finally:
                self._run = None

        try:
            asyncio.get_running_loop()
        except RuntimeError:
            return asyncio.run(run())
        # A notebook already runs a loop, so this run gets another thread. An interrupt reaches the thread of the
        # notebook, which cancels the run.
        with ThreadPoolExecutor(1) as executor:
            future = executor.submit(lambda: asyncio.run(run()))
            try:
                return future.result()
            finally:
                if tasks and not future.done():
                    tasks[0].get_loop().call_soon_threadsafe(tasks[0].cancel)

    def _budget(self) -> Budget:
        return Budget(self.usage, self.price, longest_reply(self.settings), self.max_requests, self.max_cost)

    def _new_run(self) -> Run | VLLMRun:
        refuse_waiting(self._store)
        if self.base_url == VLLM:
            return VLLMRun(self._engine, self._store, self._budget())
        return Run(
            Endpoint(self.settings, self.api_key_env, self.connect_timeout, self.timeout, self._dialect),
            self._store,
            self._budget(),
            request_pace=Pace(self.requests_per_minute),
            token_pace=Pace(self.tokens_per_minute),
            cooldown=Cooldown(self.max_wait),
            max_concurrency=self.max_concurrency,
            max_retries=self.max_retries,
        )

    def read_batch(self, paths: Iterable[str]) -> BatchResults:
        """
        Read the results of batch files into the store.

        Args:
            paths (`Iterable[str]`):
                Result files and error files of a service, as JSON Lines. They may be read again, and in any order.

        Returns:
            [`~batch.BatchResults`]: Counts, and what could not be used.

        Raises:
            ValueError: If a file cannot be read.
        """
        results = read_results(paths, self._store, self._dialect, self.max_retries)
        self.usage = self._store.usage()
        return results

    def collect_batch(self) -> Collector:
        """
        Send nothing from now on. Instead, collect the requests without a reply, and let those that ask for them end
        with [`BudgetReached`].

        Returns:
            [`~batch.Collector`]: Its `requests` are those collected, its `waiting` those that are in a batch file
            already, and its `write()` writes a file.
        """
        self._collector = Collector(self._store, self.settings, self._dialect, self._budget())
        return self._collector

    def remember(self, name: str, value: Any = None) -> Any:
        """
        Return the value stored under a name. If there is none and `value` is not `None`, store `value` first.

        Use it for choices on which later requests depend, so that a continued run makes the same choices.

        Args:
            name (`str`):
                Name of the value.
            value (`Any`, *optional*):
                Any value that JSON can hold.

        Returns:
            `Any`: The stored value; `None` if there is none.
        """
        return self._store.remember(name, value)

    def absorb(self, store: str) -> int:
        """
        Copy the replies of another store into this client's store. Those that are here already stay as they are.

        Args:
            store (`str`):
                SQLite file of a client with the same settings, which is left as it is.

        Returns:
            `int`: Number of requests to which both stores have a reply, and not the same one.

        Raises:
            ValueError: If the file is in use or no store, or its replies were made with other settings.
        """
        num_other = self._store.absorb(store)
        self.usage = self._store.usage()
        self._dialect = Dialect(self._store.remember("dialect"))
        return num_other

    def close(self) -> None:
        """Close the store, so that another process may use it. A `with` statement does this at its end."""
        self._store.close()

    def __enter__(self) -> "ChatClient":
        return self

    def __exit__(self, *exception: Any) -> None:
        self.close()
