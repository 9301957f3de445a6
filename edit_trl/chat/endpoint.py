"""
Send one request to an OpenAI-compatible endpoint, read the reply, and classify errors.

A request returns a reply or raises one of three exceptions: [`AskedToWait`] if the endpoint asks to wait,
[`AttemptFailed`] if another attempt may succeed, and [`EndpointError`] if another attempt cannot succeed. `run.py`
decides when to send a request and how often to try.

The key is read from the environment when the connection is opened. If an error message quotes the endpoint, the key
is removed from the quote.
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

# Bytes of text per token, to estimate the tokens of a request before the endpoint counts them.
BYTES_PER_TOKEN = 4

# Statuses with which every other request would fail too: wrong key, no credit, no permission, no such model or path.
_FATAL_STATUSES = (401, 402, 403, 404, 405)

# The text between the tags. Without an opening tag, the text before the closing tag; without a closing tag, all text
# after the opening tag.
_THINKING = re.compile(r"(?:<think(?:ing)?>|\A(?=(?:(?!<think).)*?</think))(.*?)(?:</think(?:ing)?>|\Z)", re.DOTALL)


class EndpointError(Exception):
    """
    The endpoint did not give a usable reply.

    Args:
        message (`str`):
            What happened and what to do. Never contains the key.
        url (`str`):
            Base URL of the endpoint.
        status_code (`int`, *optional*):
            HTTP status, if there was a response.
        is_fatal (`bool`, *optional*, defaults to `False`):
            Whether all other requests would fail too.
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
            How long to wait; `None` if the endpoint does not say.
        status_code (`int`):
            HTTP status.
    """

    def __init__(self, seconds: float | None, status_code: int) -> None:
        super().__init__(f"asked to wait, status {status_code}")
        self.seconds = seconds
        self.status_code = status_code


class AttemptFailed(Exception):
    """
    An attempt failed, but another attempt may succeed.

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
    An endpoint and the connection to it.

    Args:
        settings (`dict[str, Any]`):
            Options that change the replies: `base_url`, `model`, `temperature`, `top_p`, `max_tokens`, `seed` and
            `extra_body`.
        api_key_env (`str` or `None`):
            Name of the environment variable that holds the key; `None` for an endpoint without keys.
        connect_timeout (`float`):
            Maximum time to connect, in seconds.
        timeout (`float`):
            Maximum time for a whole reply, in seconds.
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
        """Connect and ask for the list of models, so that a wrong URL or key is found before any other request."""
        self._connection = self._connect()
        import openai

        try:
            models = await asyncio.wait_for(self._connection.models.list(), self.connect_timeout + 20)
            self._models = [str(model.id) for model in models.data or []]
        except openai.APIStatusError as error:
            if error.status_code in (401, 403):  # any other status may mean that the endpoint has no such list
                raise self._read_status(error) from None
        except openai.APIConnectionError as error:
            # If the connection was made and only the list is late, the endpoint is busy and not unreachable.
            if not isinstance(error, openai.APITimeoutError) or "Connect" in type(error.__cause__).__name__:
                raise self.error(
                    f"Cannot reach the endpoint ({self._reason(error)}). Check `base_url`, and that the server runs.",
                    is_fatal=True,
                ) from None
        except (TimeoutError, ValueError, TypeError, AttributeError, openai.OpenAIError):
            pass  # the list of models cannot be read; it is optional
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
            AttemptFailed: If there was no reply, or the reply cannot be read.
            EndpointError: If the endpoint refuses the request.
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
        Make an error whose message begins with the URL of the endpoint.

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
            max_retries=0,  # `run.py` retries, because it knows the budget and the other requests
            timeout=openai.Timeout(self.timeout, connect=self.connect_timeout),
        )

    def _read_status(self, error: Any) -> Exception:
        """Turn an HTTP status into an exception: wait, try again, give up this request, or give up all requests."""
        status = error.status_code
        detail = self._redact(_error_detail(error))
        if status in (429, 503, 529):
            # Waiting does not help without credit. Only code and type show this: messages of rate limits mention
            # the paid plan too.
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
        """Return the reason why there was no connection."""
        return self._redact(str(error.__cause__ or error) or type(error.__cause__).__name__)

    def _redact(self, text: str) -> str:
        """Remove the key from a text of the endpoint, and put the text on one line."""
        key = self._key()
        if key:
            text = text.replace(key, "***")
        # Services quote parts of a wrong key.
        return " ".join(re.sub(r"\b(sk[-_]|hf_|Bearer )[\w*.-]{6,}", r"\1***", text).split())[:500]

    def _key(self) -> str:
        return os.environ.get(self.api_key_env, "").strip() if self.api_key_env else ""


def request_body(settings: dict[str, Any], messages: list[dict[str, str]], sample: int) -> dict[str, Any]:
    """
    Make the body of a request, without `extra_body`.

    Args:
        settings (`dict[str, Any]`):
            As for [`Endpoint`]. Settings that are `None` are left out.
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
    Read the reply from the body of a response.

    Args:
        text (`str`):
            The body.
        prompt_tokens (`int`):
            Estimated number of tokens of the request, used if the endpoint does not count them.

    Returns:
        [`ChatReply`]: The reply, with its thinking in a field of its own.

    Raises:
        AttemptFailed: If the body has no reply that can be read.
    """
    unreadable = AttemptFailed(f"an unreadable reply ({text})")
    try:
        body = json.loads(text)
        choice = body["choices"][0]
        message = choice["message"]
        texts = message.get("content"), message.get("reasoning_content") or message.get("reasoning")
        # A reply that is cut at the limit may end in half a character, which cannot be stored.
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
    # Some endpoints leave the thinking in the content, sometimes without the opening tag.
    parts = [thinking, *_THINKING.findall(content)]
    answer = _THINKING.sub("", content)
    return ChatReply(answer.strip(), "\n".join(part.strip() for part in parts if part), finish_reason, *tokens)


def estimate_tokens(messages: list[dict[str, str]]) -> int:
    """
    Estimate the number of tokens of some messages: one token per four bytes, and four tokens per message.

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
    """Return the message of the endpoint about an error."""
    body = error.body if isinstance(error.body, dict) else {}
    message = body.get("message") or body.get("error") or body.get("detail") or error.message
    code = body.get("code")
    return f"{message} ({code})" if code and str(code) not in str(message) else str(message).rstrip(".")


def _retry_after(headers: Any) -> float | None:
    """Return the seconds that a response asks to wait. The header gives them as a number or as a date."""
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
