"""
One request to an OpenAI-compatible endpoint: what is sent, what comes back, and what an error means.

A request ends in a reply or in one of three exceptions: the endpoint asks to wait ([`AskedToWait`]), this attempt
failed and another one may not ([`AttemptFailed`]), or there is no point in asking again ([`EndpointError`]). When to
send, and how often to try, is decided in `run.py`.

The key is read from the environment when the connection is opened. Where a message quotes the endpoint, the key is
taken out.
"""

import asyncio
import json
import math
import os
import re
import time
from email.utils import parsedate_to_datetime
from typing import Any

from .store import ChatReply


# Fields of a request that the client sets itself.
OWN_FIELDS = ("model", "messages", "n", "stream", "seed", "temperature", "top_p", "max_tokens")

# Bytes of text per token, to estimate what a request will take before its usage is known.
BYTES_PER_TOKEN = 4

# Statuses that any other request would meet as well: wrong key, no credit, no right, no such model or path.
_FATAL_STATUSES = (401, 402, 403, 404, 405)

# What stands between the tags. Without an opening tag, all that stands before the closing one; without a closing tag,
# all that follows.
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


class AskedToWait(Exception):
    """
    The endpoint asks to wait before the next request.

    Args:
        seconds (`float` or `None`):
            For how long, if it says so.
        status_code (`int`):
            HTTP status.
    """

    def __init__(self, seconds: float | None, status_code: int) -> None:
        super().__init__(f"asked to wait, status {status_code}")
        self.seconds = seconds
        self.status_code = status_code


class AttemptFailed(Exception):
    """
    An attempt failed; another one may not.

    Args:
        message (`str`):
            What happened, without the key.
        status_code (`int`, *optional*):
            HTTP status, if there was a response.
    """

    def __init__(self, message: str, status_code: int | None = None) -> None:
        super().__init__(message)
        self.status_code = status_code


class Endpoint:
    """
    An endpoint, and the connection to it.

    Args:
        settings (`dict[str, Any]`):
            What the replies depend on: `base_url`, `model`, `temperature`, `top_p`, `max_tokens`, `seed` and
            `extra_body`.
        api_key_env (`str` or `None`):
            Name of the environment variable that holds the key; `None` for an endpoint without keys.
        connect_timeout (`float`):
            Seconds to connect.
        timeout (`float`):
            Seconds for a whole reply.
    """

    def __init__(
        self, settings: dict[str, Any], api_key_env: str | None, connect_timeout: float, timeout: float
    ) -> None:
        self.settings = settings
        self.url: str = settings["base_url"]
        self.api_key_env = api_key_env
        self.connect_timeout = connect_timeout
        self.timeout = timeout
        self.is_open = False
        self._connection: Any = None
        self._models: list[str] = []

    async def open(self) -> None:
        """Connect, and ask for the list of models: a wrong address or key shows before anything else is sent."""
        self._connection = self._connect()
        import openai

        try:
            models = await asyncio.wait_for(self._connection.models.list(), self.connect_timeout + 20)
            self._models = [str(model.id) for model in models.data or []]
        except openai.APIStatusError as error:
            if error.status_code in (401, 403):  # with other statuses, an endpoint without such a list
                raise self._read_status(error) from None
        except openai.APIConnectionError as error:
            # One that is too busy to list its models did connect.
            if not isinstance(error, openai.APITimeoutError) or "Connect" in type(error.__cause__).__name__:
                raise self.error(
                    f"Cannot reach the endpoint ({self._reason(error)}). Check `base_url`, and that the server runs.",
                    is_fatal=True,
                ) from None
        except (TimeoutError, ValueError, TypeError, AttributeError, openai.OpenAIError):
            pass  # no list that we can read
        self.is_open = True

    async def ask(self, messages: list[dict[str, str]], sample: int) -> ChatReply:
        """
        Send one request.

        Args:
            messages (`list[dict[str, str]]`):
                Messages with `role` and `content`.
            sample (`int`):
                Number of the sample, which is added to the seed.

        Returns:
            [`ChatReply`]: The reply.

        Raises:
            AskedToWait: If the endpoint asks to wait.
            AttemptFailed: If there was no reply, or none that can be read.
            EndpointError: If the endpoint refuses.
        """
        import openai

        body, extra_body = request_body(self.settings, messages, sample), self.settings["extra_body"]
        try:
            response = await asyncio.wait_for(
                self._connection.chat.completions.with_raw_response.create(**body, extra_body=extra_body), self.timeout
            )
            return read_reply(response.text, estimate_tokens(messages))
        except AttemptFailed as failure:
            raise AttemptFailed(self._redact(str(failure))) from None
        except (openai.APITimeoutError, TimeoutError):
            raise AttemptFailed(f"no whole reply within {self.timeout:g} seconds") from None
        except openai.APIConnectionError as error:
            raise AttemptFailed(f"the connection failed ({self._reason(error)})") from None
        except openai.APIStatusError as error:
            raise self._read_status(error) from None

    async def close(self) -> None:
        """Close the connection, if there is one."""
        if self._connection is not None:
            await self._connection.close()

    def error(self, message: str, status_code: int | None = None, is_fatal: bool = False) -> EndpointError:
        """
        An error of this endpoint, which begins with its URL.

        Args:
            message, status_code, is_fatal:
                As for [`EndpointError`].

        Returns:
            [`EndpointError`]: The error.
        """
        status = f" [status {status_code}]" if status_code else ""
        return EndpointError(f"{self.url}: {message}{status}", self.url, status_code, is_fatal)

    def _connect(self) -> Any:
        try:
            import openai
        except ImportError:
            raise ImportError(
                "`ChatClient` needs the `openai` package. Install it with `pip install 'edit-trl[openai]'`."
            ) from None
        key = self._key() if self.api_key_env else "none"
        if re.fullmatch(r"[!-~]+", key) is None:
            raise ValueError(
                f"The environment variable `{self.api_key_env}` must hold the key of {self.url}, and "
                f"{'holds characters that cannot be sent' if key else 'is not set'}. Set it, name another one with "
                "`api_key_env`, or pass `api_key_env=None` for an endpoint without keys."
            )
        return openai.AsyncOpenAI(
            api_key=key,
            base_url=self.url,
            max_retries=0,  # retries are `run.py`'s, which knows of the store and of the other requests
            timeout=openai.Timeout(self.timeout, connect=self.connect_timeout),
        )

    def _read_status(self, error: Any) -> Exception:
        """What an HTTP status means: wait, try again, give up on this request, or on all."""
        status = error.status_code
        detail = self._redact(_error_detail(error))
        if status in (429, 503, 529):
            # Without credit no waiting helps. The message does not tell: rate limits advertise the paid plan.
            if re.search("insufficient_quota|billing", f"{error.code} {error.type}"):
                return self.error(f"The account has no credit left: {detail}.", status, is_fatal=True)
            seconds = _retry_after(error.response.headers)
            if status != 503 or seconds is not None:
                return AskedToWait(seconds, status)
        if status >= 500 or status in (408, 409, 425):
            return AttemptFailed(f"status {status}, {detail}", status)
        if status in (401, 403):
            key = f"the key in `{self.api_key_env}`" if self.api_key_env else "no key, since `api_key_env` is not set"
            return self.error(f"The endpoint refused {key}: {detail}.", status, is_fatal=True)
        if status == 404:
            models = f" It lists {', '.join(map(repr, self._models[:8]))}." if self._models else ""
            return self.error(
                f"The endpoint knows no model {self.settings['model']!r}, or no chat at this path: {detail}.{models} "
                "Check `model` and `base_url`, which ends with '/v1' for most.",
                status,
                is_fatal=True,
            )
        return self.error(f"The endpoint refused the request: {detail}.", status, is_fatal=status in _FATAL_STATUSES)

    def _reason(self, error: Any) -> str:
        """Why there was no connection."""
        return self._redact(str(error.__cause__ or error) or type(error.__cause__).__name__)

    def _redact(self, text: str) -> str:
        """A text from outside, without the key, on one line."""
        key = self._key()
        if key:
            text = text.replace(key, "***")
        # Services quote a wrong key in part.
        return " ".join(re.sub(r"\b(sk[-_]|hf_|Bearer )[\w*.-]{6,}", r"\1***", text).split())[:500]

    def _key(self) -> str:
        return os.environ.get(self.api_key_env, "").strip() if self.api_key_env else ""


def request_body(settings: dict[str, Any], messages: list[dict[str, str]], sample: int) -> dict[str, Any]:
    """
    Body of a request, `extra_body` aside.

    Args:
        settings (`dict[str, Any]`):
            As for [`Endpoint`]. Those that are `None` are left out.
        messages (`list[dict[str, str]]`):
            Messages with `role` and `content`.
        sample (`int`):
            Number of the sample, which is added to the seed.

    Returns:
        `dict[str, Any]`: The body.

    Examples:

    ```python
    >>> settings = {"model": "qwen", "temperature": 0.2, "top_p": None, "max_tokens": 64, "seed": 40}
    >>> request_body(settings, [{"role": "user", "content": "Why?"}], sample=2)["seed"]
    42

    ```
    """
    body = {"model": settings["model"], "messages": messages}
    names = ("temperature", "top_p", "max_tokens", "seed")
    body.update((name, settings[name]) for name in names if settings[name] is not None)
    if "seed" in body:
        body["seed"] += sample
    return body


def read_reply(text: str, prompt_tokens: int) -> ChatReply:
    """
    The reply in the body of a response.

    Args:
        text (`str`):
            The body.
        prompt_tokens (`int`):
            Estimated tokens of the request, for an endpoint that does not count them.

    Returns:
        [`ChatReply`]: The reply, its thinking apart.

    Raises:
        AttemptFailed: If there is none.
    """
    unreadable = AttemptFailed(f"an unreadable reply ({text})")
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
            int(usage.get("completion_tokens") or math.ceil(len((content + thinking).encode()) / BYTES_PER_TOKEN)),
        ]
    except (ValueError, KeyError, IndexError, TypeError, AttributeError):
        raise unreadable from None
    if not isinstance(finish_reason, (str, type(None))):
        raise unreadable
    if not (content or thinking) and finish_reason not in ("length", "content_filter"):
        raise AttemptFailed("an empty reply")
    # Some endpoints leave the thinking in the content, some of them without the opening tag.
    parts = [thinking, *_THINKING.findall(content)]
    answer = _THINKING.sub("", content)
    return ChatReply(answer.strip(), "\n".join(part.strip() for part in parts if part), finish_reason, *tokens)


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
    return sum(4 + math.ceil(len(message["content"].encode()) / BYTES_PER_TOKEN) for message in messages)


def _error_detail(error: Any) -> str:
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
