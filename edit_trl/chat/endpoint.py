"""
Send one request to an OpenAI-compatible endpoint, read the reply, and classify errors.

A request returns a reply or raises one of four exceptions: [`AskedToWait`] if the endpoint asks to wait,
[`Relearned`] if it refused a field of the request that can be left out, [`AttemptFailed`] if another attempt may
succeed, and [`EndpointError`] if another attempt cannot succeed. `run.py` decides when to send a request and how often
to try. `dialect.py` writes the fields of a request, `replies.py` reads the reply.

The key is read from the environment when the connection is opened. If the endpoint repeats it, in an error or in a
reply, it is removed there. Redirects to another host are not followed: the prompts and the key are for the host of
`base_url`.
"""

import asyncio
import html
import json
import logging
import math
import os
import re
import time
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import quote, quote_plus, urljoin, urlsplit

from ..install_hint import install_hint
from .dialect import Dialect, request_fields
from .replies import BYTES_PER_TOKEN, UnreadableReply, plain_text, read_reply
from .store import ChatReply


logger = logging.getLogger(__name__)

# Fields of a request that no option and no `extra_body` may set.
OWN_FIELDS = ("model", "messages", "n", "stream")

# Statuses with which every other request would fail too: wrong key, no credit, no permission, no such model or path.
_FATAL_STATUSES = (401, 402, 403, 404, 405)

# What services say if a filter refused the prompt. The request is answered then, in the only way it will be.
_FILTERED_CODES = r"content_filter|content_policy_violation|invalid_prompt|data_inspection_failed"
_FILTERED_WORDS = re.compile(r"content management policy|Content Exists Risk|data_inspection_failed")

# A key of fewer characters may be a word, which a reply may have by itself.
_MIN_SECRET = 12

# An error with more brackets is not read as JSON, whose reader and writer fail on what is nested too deeply.
_MAX_BRACKETS = 500


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


class Relearned(Exception):
    """The endpoint refused a field of the request, and the next request is written without it."""


class _Redirected(Exception):
    """The endpoint redirects to a place that the request must not go to."""


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
        dialect ([`Dialect`]):
            What the endpoint has refused so far. It learns from this endpoint.
    """

    def __init__(
        self,
        settings: dict[str, Any],
        api_key_env: str | None,
        connect_timeout: float,
        timeout: float,
        dialect: Dialect,
    ) -> None:
        self.settings = settings
        self.dialect = dialect
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
        except (openai.APIConnectionError, _Redirected) as error:
            self._raise_if_redirected(error)
            # If the connection was made and only the list is late, the endpoint is busy and not unreachable.
            if not isinstance(error, openai.APITimeoutError) or "Connect" in type(error.__cause__).__name__:
                raise self.error(
                    f"Cannot reach the endpoint ({self._reason(error)}). Check `base_url`, and that the server runs.",
                    is_fatal=True,
                ) from None
        except (TimeoutError, ValueError, TypeError, AttributeError, RecursionError, openai.OpenAIError):
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
            Relearned: If the endpoint refuses a field of the request, and the next request is written without it.
        """
        import openai

        fields = self.dialect.fields(request_fields(self.settings))
        if "seed" in fields:
            fields["seed"] += sample
        written = self.dialect.messages(messages)
        try:
            response = await asyncio.wait_for(
                self._connection.chat.completions.with_raw_response.create(
                    model=self.settings["model"], messages=written, extra_body=fields
                ),
                self.timeout,
            )
            return self._without_key(read_reply(response.text, estimate_tokens(messages)))
        except UnreadableReply as failure:
            raise AttemptFailed(self._redact(str(failure))) from None
        except (openai.APITimeoutError, TimeoutError):
            raise AttemptFailed(f"no whole reply within {self.timeout:g} seconds") from None
        except (openai.APIConnectionError, _Redirected) as error:
            self._raise_if_redirected(error)
            raise AttemptFailed(f"the connection failed ({self._reason(error)})") from None
        except openai.APIStatusError as error:
            if error.status_code in (400, 422):
                if is_filtered(_body(error)):
                    return ChatReply("", "", "content_filter", 0, 0)
                self._learn(error, fields, written)
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
                f"`ChatClient` needs the `openai` package. Install it with `{install_hint('openai')}`."
            ) from None
        # No variable holds the key here: a debugger shows the variables of an error's traceback.
        if self.api_key_env and re.fullmatch(r"[!-~]+", self._key()) is None:
            raise ValueError(
                f"The environment variable `{self.api_key_env}` must hold the key of {self.url}, and "
                f"{'holds characters that cannot be sent' if self._key() else 'is not set'}. Set it, name another one "
                "with `api_key_env`, or pass `api_key_env=None` (`--api_key_env none`) for an endpoint without keys."
            )
        timeout = openai.Timeout(self.timeout, connect=self.connect_timeout)
        return openai.AsyncOpenAI(
            api_key=self._key() if self.api_key_env else "none",
            base_url=self.url,
            max_retries=0,  # `run.py` retries, because it knows the budget and the other requests
            timeout=timeout,
            http_client=openai.DefaultAsyncHttpxClient(
                base_url=self.url, timeout=timeout, event_hooks={"response": [_check_response]}
            ),
        )

    def _learn(self, error: Any, fields: dict[str, Any], messages: list[dict[str, str]]) -> None:
        """Read from a refusal how to write requests. Raises `Relearned` if another request may succeed by this."""
        known = self.dialect.notes
        if self.dialect.learn(_body(error), fields, messages):
            for note in self.dialect.notes:
                if note not in known:
                    logger.warning(
                        "%s: %s It says: %s", self.url, note, self._redact(error_detail(_body(error), error.message))
                    )
            raise Relearned

    def _raise_if_redirected(self, error: Any) -> None:
        """Raise an [`EndpointError`] if the `error` is a redirect that was not followed."""
        # `openai` wraps the error in one of its own, depending on its version.
        cause = error if isinstance(error, _Redirected) else error.__cause__
        if isinstance(cause, _Redirected):
            target = self._redact(str(cause))
            raise self.error(
                f"The endpoint redirects to {target}. The key and the prompts are for the host of `base_url` alone, "
                "so this is not followed. If it is the right place, pass it as `base_url`.",
                is_fatal=True,
            ) from None

    def _read_status(self, error: Any) -> Exception:
        """Turn an HTTP status into an exception: wait, try again, give up this request, or give up all requests."""
        status = error.status_code
        detail = self._redact(error_detail(_body(error), error.message))
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
            listed = self._redact(", ".join(map(repr, self._models[:8])))
            models = f" It lists {listed}." if listed else ""
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
        return on_one_line(self._without_secrets(text))

    def _without_secrets(self, text: str) -> str:
        """Replace the key in a text, also as it is written in URLs, pages and JSON."""
        key = self._key()
        written = (key, quote(key, safe=""), quote_plus(key), html.escape(key), key.replace("/", "\\/"))
        for secret in sorted(filter(None, set(written)), key=len, reverse=True):
            text = text.replace(secret, "***")
        return text

    def _without_key(self, reply: ChatReply) -> ChatReply:
        """Remove the key from a reply, which goes to files."""
        if len(self._key()) < _MIN_SECRET:
            return reply
        reason = reply.finish_reason and self._redact(reply.finish_reason)
        text, thinking = map(self._without_secrets, (reply.text, reply.thinking))
        return reply._replace(text=text, thinking=thinking, finish_reason=reason)

    def _key(self) -> str:
        return os.environ.get(self.api_key_env, "").strip() if self.api_key_env else ""


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


async def _check_response(response: Any) -> None:
    """
    Allow only redirects on the same server that keep the request as it is, and read JSON as what it is.

    Another port is another server, and another scheme may be one without encryption. JSON is UTF-8, whatever a proxy
    writes into the header.
    """
    response.encoding = "utf-8-sig"
    location = response.headers.get("location")
    if not 300 <= response.status_code < 400 or not location:
        return
    sent = response.request
    try:
        target = urljoin(str(sent.url), location)
        is_same = _server(target) == _server(str(sent.url))
    except ValueError:
        raise _Redirected("something that is no URL") from None
    is_kept = response.status_code in (307, 308) or sent.method == "GET"
    if not is_same or not is_kept:
        parts = urlsplit(target)
        # A place may hold a secret in its query or before its host.
        path = parts.path.removesuffix("/chat/completions").removesuffix("/models")
        raise _Redirected(f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{path}")


def _server(url: str) -> tuple[str, str | None, int | None]:
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port or {"http": 80, "https": 443}.get(parts.scheme)


def on_one_line(text: str) -> str:
    """Put a `text` of a service on one line, without the parts of a wrong key that services quote."""
    return " ".join(re.sub(r"\b(sk[-_]|hf_|Bearer )[\w*.-]{6,}", r"\1***", plain_text(text)).split())[:500]


def is_filtered(body: Any) -> bool:
    """
    Tell whether a filter refused the prompt.

    Args:
        body (`Any`):
            The body of the error, from JSON, or its text.

    Returns:
        `bool`: Whether the service says so.
    """
    error = _own_error(body)
    text = body if isinstance(body, str) else json.dumps(body, ensure_ascii=False)
    return (
        re.search(_FILTERED_CODES, f"{error.get('code')} {error.get('type')}") is not None
        or _FILTERED_WORDS.search(text) is not None
    )


def error_detail(body: Any, default: str = "") -> str:
    """
    Return the message of a service about an error.

    Args:
        body (`Any`):
            The body of the error, from JSON, or its text.
        default (`str`, *optional*, defaults to `""`):
            The message if the body has none.

    Returns:
        `str`: The message, with the code of the error.
    """
    error = _own_error(body)
    message = error.get("message") or error.get("error") or error.get("detail") or default or "no reason is given"
    if not isinstance(message, str):
        message = json.dumps(message, ensure_ascii=False)
    code = error.get("code")
    return f"{message} ({code})" if code and str(code) not in str(message) else str(message).rstrip(".")


def _own_error(body: Any) -> dict[str, Any]:
    """Return the part of the body of an error that describes it."""
    body = body[0] if isinstance(body, list) and body else body  # Gemini
    error = body.get("error", body) if isinstance(body, dict) else {}
    return error if isinstance(error, dict) else body


def _body(error: Any) -> Any:
    """Return the body of an error of `openai`, from JSON, or its text. What is nested deeply stays text."""
    text = error.response.text
    if len(re.findall(r"[\[{]", text)) > _MAX_BRACKETS:
        return text
    try:
        return json.loads(text)
    except ValueError:
        return text


def _retry_after(headers: Any) -> float | None:
    """Return the seconds that a response asks to wait. The header gives them as a number or as a date."""
    value = headers.get("retry-after")
    milliseconds = headers.get("retry-after-ms")
    try:
        seconds = float(milliseconds) / 1000 if milliseconds else float(value)
    except (TypeError, ValueError):
        try:
            seconds = parsedate_to_datetime(value).timestamp() - time.time()
        except (TypeError, ValueError, OverflowError):
            return None
    return seconds if 0 < seconds < math.inf else None
