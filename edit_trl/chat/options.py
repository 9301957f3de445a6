"""
Check the options of a `ChatClient` before anything is sent or opened.
"""

import ipaddress
import json
import re
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from .dialect import LENGTH_FIELDS, OPTION_FIELDS, request_fields
from .endpoint import OWN_FIELDS
from .vllm_engine import VLLM


if TYPE_CHECKING:
    from .client import ChatClient


def check_options(client: "ChatClient") -> None:
    """
    Refuse options of a client that cannot work.

    Args:
        client ([`ChatClient`]):
            The client.

    Raises:
        ValueError: If an option has a value that cannot work.
    """
    # What is no URL may be a key, or hold a password.
    shown = repr(client.base_url) if re.fullmatch(r"(?!sk-|hf_)[\w.:/-]{0,60}", client.base_url) else "something else"
    fault = None if client.base_url == VLLM else _fault_of_url(client.base_url)
    if fault is not None:
        raise ValueError(
            f"`base_url` must be a URL that starts with http:// or https://, got {shown}: {fault}. Pass "
            f'`base_url="http://localhost:8000/v1"`, for example, or "{VLLM}" to run the model in this process.'
        )
    url = urlsplit(client.base_url)
    if "@" in url.netloc or url.query or url.fragment:
        raise ValueError(
            "`base_url` must not hold a user name, a password, a query or a fragment. It is written to logs and "
            "files; put the key into an environment variable and pass its name as `api_key_env`."
        )
    if client.api_key_env is not None and re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", client.api_key_env) is None:
        raise ValueError(
            "`api_key_env` must be the name of an environment variable, got something else, maybe the key itself. "
            'Names are written to files, keys are not; pass `api_key_env="OPENAI_API_KEY"`.'
        )
    if client.vllm_options is not None and client.base_url != VLLM:
        raise ValueError(
            f'`vllm_options` need `base_url="{VLLM}"`, got {shown}. They are for a model that runs in this process; '
            "leave them out, or start the server with them."
        )
    _check_extra_body(client.extra_body or {})
    limits = ("max_concurrency", "max_tokens", "requests_per_minute", "tokens_per_minute")
    for name in (*limits, "connect_timeout", "timeout"):
        value = getattr(client, name)
        if value is not None and not value > 0:
            raise ValueError(f"`{name}` must be positive, got {value}. Leave it out for the default.")
    budget = ("prompt_price", "completion_price", "max_cost", "max_requests")
    for name in (*budget, "max_retries", "max_wait", "temperature", "top_p"):
        value = getattr(client, name)
        if value is not None and not value >= 0:
            raise ValueError(f"`{name}` must be positive or zero, got {value}. Leave it out for the default.")
    if client.max_cost is not None and (
        client.prompt_price is None or client.completion_price is None or longest_reply(client.settings) is None
    ):
        raise ValueError(
            "`max_cost` needs `prompt_price`, `completion_price` and `max_tokens`, got "
            f"{client.prompt_price}, {client.completion_price} and {client.max_tokens}. The cost of a request is "
            "known only after it; pass the endpoint's prices per million tokens."
        )


def _fault_of_url(text: str) -> str | None:
    """Return why a text is no URL that requests can be sent to; `None` if it is one."""
    if " " in text or not text.isprintable():
        return "it holds a space or a character that cannot be seen"
    if not re.match("(?i)https?://", text):
        return "it starts with something else"
    try:
        url = urlsplit(text)
        host = url.hostname or ""
    except ValueError:
        return "its host is not written as one"
    try:
        port = 80 if url.port is None else url.port
    except ValueError:
        port = 0
    if not 0 < port < 2**16:
        return "its port is no number from 1 to 65535"
    if ":" in host or re.fullmatch(r"[\d.]+", host):
        return None if _is_address(host) else "its host is no IP address"
    if re.fullmatch(r"(?:[a-z\d_-]{1,63}\.)*[a-z\d_-]{1,63}\.?", host) is None:
        return "its host is no name; a name with other letters is written in ASCII, with 'xn--'"
    return None


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _check_extra_body(extra_body: dict[str, Any]) -> None:
    keys = [name for name in extra_body if re.fullmatch(r"(?i)(?:x-)?api[_-]?key|authorization|extra_headers", name)]
    if keys:
        raise ValueError(
            f"`extra_body` must not hold `{keys[0]}`. Its content is written to files; put the key into an "
            "environment variable and pass its name as `api_key_env`."
        )
    taken = [f"`{name}`" for name in OWN_FIELDS if name in extra_body]
    if taken:
        raise ValueError(
            f"`extra_body` must not hold {', '.join(taken)}. The client sets these fields itself: each sample is "
            "a request of its own, and a reply is read as a whole. Use the client's options of the same name, and "
            "leave out the fields that have no option."
        )
    for name in (*OPTION_FIELDS, *LENGTH_FIELDS):
        value = extra_body.get(name)
        if value is not None and (isinstance(value, bool) or not isinstance(value, (int, float)) or value < 0):
            raise ValueError(
                f"`extra_body` must hold a number that is not negative as `{name}`, got {value!r}. Leave it out "
                "for the client's option."
            )
    try:
        json.dumps(extra_body)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"`extra_body` must be what JSON can hold, but it is not ({error}). It is sent and stored as JSON; "
            "pass lists, dictionaries, text and numbers."
        ) from None


def longest_reply(settings: dict[str, Any]) -> int | None:
    """
    Return the maximum number of tokens of a reply.

    Args:
        settings (`dict[str, Any]`):
            The settings of a client.

    Returns:
        `int` or `None`: The number; `None` if it is left to the endpoint.
    """
    fields = request_fields(settings)
    return fields.get("max_completion_tokens", fields.get("max_tokens"))
