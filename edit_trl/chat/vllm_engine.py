"""
Answer requests with a model that vLLM runs in this process, without a server.

vLLM makes its own batches and is fast if it gets many requests at once. So [`VLLMRun`] stands in for [`Run`]: it lets
all items run until each of them waits for a reply, answers all these requests in one call, stores the replies, and
goes on. The model is loaded when the first reply is missing.
"""

import asyncio
import json
from typing import Any, NamedTuple

from ..install_hint import install_hint
from .dialect import LENGTH_FIELDS, request_fields
from .endpoint import EndpointError, estimate_tokens, on_one_line
from .replies import UnreadableReply, read_reply
from .run import MAX_FAILURES, Budget, Workers
from .store import ChatReply, ReplyStore


# The `base_url` of a client that asks vLLM.
VLLM = "vllm"

# Requests in one call of vLLM. Their replies are lost together if the run is killed.
REQUESTS_PER_CALL = 1024

# Fields of `extra_body` that are arguments of `LLM.chat`. All others are sampling parameters.
_CHAT_FIELDS = ("chat_template", "chat_template_kwargs")


def import_vllm(name: str) -> Any:
    """
    Import the `vllm` package.

    Args:
        name (`str`):
            What needs it, for the error.

    Returns:
        `Any`: The package.

    Raises:
        ImportError: If it is not installed.
    """
    try:
        import vllm
    except ImportError:
        raise ImportError(
            f"{name} needs the `vllm` package, which runs on GPUs. Install it with `{install_hint('vllm')}`, or "
            "go without it."
        ) from None
    return vllm


class VLLMEngine:
    """
    A model and its sampling, loaded when it is asked for the first time.

    Args:
        settings (`dict[str, Any]`):
            Options that change the replies: `model`, `temperature`, `top_p`, `max_tokens`, `seed` and `extra_body`.
        options (`dict[str, Any]`):
            More arguments of `vllm.LLM`.
    """

    def __init__(self, settings: dict[str, Any], options: dict[str, Any]) -> None:
        self.settings = settings
        self.options = options
        self._llm: Any = None
        self._make_params: Any = None
        fields = request_fields(settings)
        self._chat_fields = {name: fields.pop(name) for name in _CHAT_FIELDS if name in fields}
        # Without a limit of its own, vLLM would stop after 16 tokens.
        limits = [fields.pop(name) for name in LENGTH_FIELDS if name in fields]
        self._sampling = {**fields, "max_tokens": limits[-1] if limits else None}

    def load(self) -> None:
        """
        Load the model, unless it is loaded.

        Raises:
            ImportError: If `vllm` is not installed.
            ValueError: If the model cannot be loaded, or vLLM does not know a sampling parameter.
        """
        if self._llm is not None:
            return
        vllm = import_vllm('`ChatClient` with `base_url="vllm"`')
        self._make_params = vllm.SamplingParams
        self._sampling_params(0)
        seed = {} if self.settings["seed"] is None else {"seed": self.settings["seed"]}
        try:
            self._llm = vllm.LLM(**{"model": self.settings["model"], **seed, **self.options})
        except Exception as error:  # of vLLM, torch and transformers
            raise ValueError(
                f"vLLM must be able to load the model {self.settings['model']!r}, but: {error}. Check `model` and "
                "`vllm_options`."
            ) from error

    def ask(self, requests: list[tuple[list[dict[str, str]], int]]) -> list[ChatReply | UnreadableReply]:
        """
        Answer some requests in one call of the loaded model.

        Args:
            requests (`list[tuple]`):
                Messages and number of the sample of each.

        Returns:
            `list[ChatReply or UnreadableReply]`: Replies in order. An `UnreadableReply` stands for one that vLLM broke
            off.

        Raises:
            ValueError: If vLLM refuses one of the requests.
        """
        messages = [messages for messages, _ in requests]
        sampling = [self._sampling_params(sample) for _, sample in requests]
        outputs = self._llm.chat(messages, sampling, use_tqdm=False, **self._chat_fields)
        # After a call that failed, older versions also return what they had accepted of it, in the order of requests.
        return [self._read(*pair) for pair in zip(outputs[-len(requests) :], messages, strict=True)]

    def _sampling_params(self, sample: int) -> Any:
        fields = dict(self._sampling)
        if fields.get("seed") is not None:
            fields["seed"] += sample
        try:
            return self._make_params(**fields)
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"`extra_body` and the sampling options must be what `vllm.SamplingParams` takes, or one of "
                f"{', '.join(f'`{name}`' for name in _CHAT_FIELDS)}, but: {error}. Leave the field out."
            ) from None

    @staticmethod
    def _read(output: Any, messages: list[dict[str, str]]) -> ChatReply | UnreadableReply:
        reply = output.outputs[0]
        num_prompt = len(output.prompt_token_ids or ()) or estimate_tokens(messages)
        usage = {"prompt_tokens": num_prompt, "completion_tokens": len(reply.token_ids)}
        choice = {"message": {"content": reply.text}, "finish_reason": reply.finish_reason}
        try:
            return read_reply(json.dumps({"choices": [choice], "usage": usage}), num_prompt)
        except UnreadableReply as failure:
            return failure


class _Request(NamedTuple):
    key: str
    messages: list[dict[str, str]]
    sample: int
    reply: "asyncio.Future[ChatReply]"


class VLLMRun(Workers):
    """
    Runs all requests of one call of `ChatClient.for_each`, in calls of many requests.

    Args:
        engine ([`VLLMEngine`]):
            The model.
        store ([`ReplyStore`]):
            The replies.
        budget ([`Budget`]):
            Limits.
    """

    def __init__(self, engine: VLLMEngine, store: ReplyStore, budget: Budget) -> None:
        super().__init__(store, REQUESTS_PER_CALL)
        self.engine = engine
        self.budget = budget
        self._queue: list[_Request] = []

    async def _attend(self, workers: list["asyncio.Task[None]"]) -> None:
        # `work` may start several requests and return before they have ended.
        while self._pending or not all(task.done() for task in workers):
            await self._settle()
            self._answer()
            for task in workers:
                if task.done():
                    task.result()  # raises what `work` has raised

    async def _ask(self, key: str, messages: list[dict[str, str]], sample: int) -> ChatReply:
        cost = await self.budget.reserve(estimate_tokens(messages))
        try:
            request = _Request(key, messages, sample, asyncio.get_running_loop().create_future())
            self._queue.append(request)
            return await request.reply
        finally:
            self.budget.release(cost, was_sent=True)

    async def _settle(self) -> None:
        """Let the workers run until no more requests come."""
        num_same = 0
        while num_same < 3:
            num_before = len(self._queue)
            # If `work` waits for something else, there is nothing to do meanwhile.
            await asyncio.sleep(0 if self._queue else 0.001)
            num_same = num_same + 1 if len(self._queue) == num_before else 0

    def _answer(self) -> None:
        """Answer the requests of the queue."""
        while self._queue:
            requests, self._queue = self._queue[:REQUESTS_PER_CALL], self._queue[REQUESTS_PER_CALL:]
            self._ask_all(requests)

    def _ask_all(self, requests: list[_Request]) -> None:
        """Ask vLLM. One request that it refuses makes the whole call fail, so the halves are tried again."""
        self.engine.load()
        try:
            if self._stop is not None:
                raise self._stop
            replies = self.engine.ask([(request.messages, request.sample) for request in requests])
        except EndpointError as error:
            for request in requests:
                _end(request.reply, error)
        except ValueError as error:
            if len(requests) == 1:
                self._fail(requests[0], f"vLLM refused the request: {on_one_line(str(error))}")
                return
            middle = len(requests) // 2
            self._ask_all(requests[:middle])
            self._ask_all(requests[middle:])
        else:
            for request, reply in zip(requests, replies, strict=True):
                if isinstance(reply, UnreadableReply):
                    self._fail(request, on_one_line(str(reply)))
                else:
                    self._keep(request, reply)

    def _keep(self, request: _Request, reply: ChatReply) -> None:
        self.store.put(request.key, reply, 1)
        usage = self.budget.usage
        usage.replies += 1
        usage.prompt_tokens += reply.prompt_tokens
        usage.completion_tokens += reply.completion_tokens
        self._num_failures = 0
        _end(request.reply, reply)

    def _fail(self, request: _Request, reason: str) -> None:
        """Let a request fail. Many in a row end the run."""
        self._num_failures += 1
        error = EndpointError(f"{reason.rstrip('.')}.", VLLM, is_fatal=self._num_failures >= MAX_FAILURES)
        if error.is_fatal:
            self._stop = error
        _end(request.reply, error)


def _end(future: "asyncio.Future[ChatReply]", outcome: ChatReply | EndpointError) -> None:
    """Give a request its reply or error, unless nobody waits for it any more."""
    if future.done():
        return
    if isinstance(outcome, EndpointError):
        future.set_exception(outcome)
    else:
        future.set_result(outcome)
