"""
Learn from an endpoint's own refusals which fields of a request it does not take.

OpenAI's reasoning models want `max_completion_tokens` in place of `max_tokens`, and no `temperature`. Mistral has no
`seed`, Gemma no messages of the system, some models of Anthropic not `temperature` and `top_p` together. No list of
models stays complete, and an endpoint names the field that it refuses. So the first request is sent as it was asked
for, the refusal is read, and all further requests leave the field out or give it another name. The client says so
once.

Only fields of sampling are left out. If another field of `extra_body` is refused, the user decides.
"""

import json
import re
from typing import Any


# Fields of a request that are options of the client.
OPTION_FIELDS = ("temperature", "top_p", "max_tokens", "seed")

# Fields that are left out if the endpoint refuses them.
SAMPLING_FIELDS = (
    *("temperature", "top_p", "top_k", "min_p", "seed", "stop", "presence_penalty", "frequency_penalty"),
    *("repetition_penalty", "logit_bias", "logprobs", "top_logprobs"),
)
# Fields with the maximum length of a reply. If the endpoint refuses one, the other is sent: without any, a reply has
# no limit, and no known price.
LENGTH_FIELDS = ("max_tokens", "max_completion_tokens")

# The name of a field where an endpoint refuses it. `{}` is the name.
_REFUSED = (
    r"(?:un|not |n't )support(?:ed|s)?\b[^.]{{0,60}}?\W{}\b",
    r"(?:unrecogni[sz]ed|unknown|unexpected|disallowed|unsupported|forbidden)\b[^.]{{0,60}}?\W{}\b",
    r"(?:extra[ _](?:inputs?|fields?|parameters?|forbidden)|extra_forbidden)\b[^.]{{0,80}}?\W{}\b",
    r"\b{}\W[^.]{{0,80}}?(?:not (?:supported|allowed|permitted|enabled|available|accepted)|unsupported|deprecated"
    r"|(?:does not|doesn't|do not) support|cannot (?:both )?be|can only be|may only be|extra (?:inputs|fields)"
    r"|cannot find field|extra_forbidden)",
    r"\b{}\W[^.]{{0,60}}?(?:\bonly (?:the default|\S+ is allowed)|\bonly supports\b"
    r"|must be (?:set to )?1(?:\.0)?(?=\W*(?:$|[,.;\"'}}]| for| when| with)))",
)
# A value out of its range is the user's to change: the message says so, and the field is not refused.
_RANGE = re.compile(
    r"too (?:large|long|high|big|small|low|many)|at (?:most|least)|maximum|minimum|\brange\b|less than|greater than"
    r"|exceed|[<>]=?\s*\d|context (?:length|window)|non-negative|between",
    re.IGNORECASE,
)
_REFUSED_CODES = ("unsupported_parameter", "unsupported_value", "unknown_parameter")

_NO_SYSTEM = re.compile(
    r"messages\W{0,4}\d+\W{0,4}role\W[^.]{0,40}(?:not support|unsupported)[^.]{0,10}(?:system|developer)"
    r"|\b(?:system|developer)\b[^.]{0,30}\b(?:role|messages?|instructions?|prompts?)\b[^.]{0,30}"
    r"(?:not (?:supported|enabled|allowed)|unsupported|n[o']t support)"
    r"|(?:not|n't) support[^.]{0,20}\b(?:system|developer)\b[^.]{0,10}\b(?:role|message|instruction|prompt)"
    r"|(?:unsupported|invalid|unexpected|unknown)[^.]{0,20}\brole\b[^.]{0,10}\b(?:system|developer)\b"
    r"|roles must alternate user/assistant",
    re.IGNORECASE,
)


def request_fields(settings: dict[str, Any]) -> dict[str, Any]:
    """
    Return the fields of a request besides `model` and `messages`. A field of `extra_body` wins over an option.

    Args:
        settings (`dict[str, Any]`):
            Options that change the replies: `temperature`, `top_p`, `max_tokens`, `seed` and `extra_body`.

    Returns:
        `dict[str, Any]`: The fields. Options that are `None` are left out.

    Examples:

    ```python
    >>> settings = {"temperature": 0.2, "top_p": None, "max_tokens": 64, "seed": None}
    >>> request_fields({**settings, "extra_body": {"max_completion_tokens": 4096, "temperature": 1}})
    {'temperature': 1, 'max_completion_tokens': 4096}

    ```
    """
    extra_body = settings["extra_body"] or {}
    fields = {name: settings[name] for name in OPTION_FIELDS}
    if extra_body.get("max_completion_tokens") is not None:
        del fields["max_tokens"]  # endpoints refuse both together
    fields.update(extra_body)
    return {name: value for name, value in fields.items() if value is not None or name not in OPTION_FIELDS}


class Dialect:
    """
    What an endpoint has refused, and how its requests are written since.

    Args:
        learned (`dict[str, Any]`, *optional*):
            What was learned before, as [`Dialect.learned`] returns it.
    """

    def __init__(self, learned: dict[str, Any] | None = None) -> None:
        learned = learned or {}
        self._left_out: list[str] = list(learned.get("left_out", ()))
        self._renamed: dict[str, str] = dict(learned.get("renamed", {}))
        self._has_system = bool(learned.get("has_system", True))

    @property
    def learned(self) -> dict[str, Any]:
        """`dict[str, Any]`: What was learned so far. JSON can hold it."""
        return {"left_out": self._left_out, "renamed": self._renamed, "has_system": self._has_system}

    @property
    def notes(self) -> list[str]:
        """`list[str]`: A sentence for each refusal that was learned."""
        notes = [f"The endpoint refuses `{name}`; requests leave it out." for name in self._left_out]
        notes += [
            f"The endpoint refuses `{name}`; requests have `{other}` in its place."
            for name, other in self._renamed.items()
        ]
        if not self._has_system:
            notes.append(
                "The endpoint refuses messages of the system; their text is at the start of the first message of the "
                "user."
            )
        return notes

    def fields(self, fields: dict[str, Any]) -> dict[str, Any]:
        """
        Write the fields of a request.

        Args:
            fields (`dict[str, Any]`):
                Fields by [`request_fields`].

        Returns:
            `dict[str, Any]`: Fields that the endpoint takes.
        """
        kept = {name: value for name, value in fields.items() if name not in self._left_out}
        return {self._renamed.get(name, name): value for name, value in kept.items()}

    def messages(self, messages: list[dict[str, str]]) -> list[dict[str, str]]:
        """
        Write the messages of a request.

        Args:
            messages (`list[dict[str, str]]`):
                Messages with `role` and `content`.

        Returns:
            `list[dict[str, str]]`: Messages that the endpoint takes.
        """
        if self._has_system:
            return messages
        written: list[dict[str, str]] = []
        instructions: list[str] = []
        for message in messages:
            if message["role"] in ("system", "developer"):
                instructions.append(message["content"])
            elif message["role"] == "user" and instructions:
                written.append({**message, "content": "\n\n".join([*instructions, message["content"]])})
                instructions = []
            else:
                written.append(message)
        if instructions:
            written.append({"role": "user", "content": "\n\n".join(instructions)})
        return written

    def learn(self, error: Any, sent: dict[str, Any], messages: list[dict[str, str]]) -> bool:
        """
        Read a refusal.

        Args:
            error (`Any`):
                The body of the error, from JSON, or its text.
            sent (`dict[str, Any]`):
                Fields of the request that was refused.
            messages (`list[dict[str, str]]`):
                Messages of this request, as [`Dialect.messages`] wrote them.

        Returns:
            `bool`: Whether another request, written by what was learned, can succeed. Each request can be refused so
            only as often as it has fields.
        """
        if any(message["role"] in ("system", "developer") for message in messages) and _NO_SYSTEM.search(_flat(error)):
            self._has_system = False
            return True
        name = refused_field(error, list(sent))
        if name in SAMPLING_FIELDS:
            if name not in self._left_out:
                self._left_out.append(name)
            return True
        if name in LENGTH_FIELDS:
            other = LENGTH_FIELDS[1 - LENGTH_FIELDS.index(name)]
            if other in sent or name in self._renamed.values():
                return False  # the endpoint takes neither, or the user has given both
            self._renamed[name] = other
            return True
        return False


def refused_field(error: Any, names: list[str]) -> str | None:
    """
    Return the field of a request that an endpoint does not take, by the endpoint's own words.

    Args:
        error (`Any`):
            The body of the error, from JSON, or its text.
        names (`list[str]`):
            Fields of the request.

    Returns:
        `str` or `None`: The field; `None` if the request was refused for another reason, such as a value out of its
        range.

    Examples:

    ```python
    >>> refused_field("Unsupported parameter: 'max_tokens' is not supported with this model.", ["max_tokens"])
    'max_tokens'
    >>> refused_field("max_tokens is too large: 50000.", ["max_tokens"]) is None
    True

    ```
    """
    text = _flat(error)
    own = error[0] if isinstance(error, list) and error else error
    own = own.get("error", own) if isinstance(own, dict) else {}
    if isinstance(own, dict) and own.get("param") in names and str(own.get("code")) in _REFUSED_CODES:
        return str(own["param"])
    if _RANGE.search(text) and "only the default" not in text.lower():
        return None
    found = {}
    for name in names:
        if name in (*SAMPLING_FIELDS, *LENGTH_FIELDS):
            # Some messages have the name as their code writes it: MaxTokens.
            written = f"(?:{name}|{name.replace('_', '')}|{name.replace('_', '-')})"
            starts = [
                match.start("name")
                for pattern in _REFUSED
                if (match := re.search(pattern.format(f"(?P<name>{written})"), text, re.IGNORECASE))
            ]
            if starts:
                found[name] = min(starts)
    if not found:
        return None
    if "top_p" in found and "temperature" in found and re.search(r"\bboth\b|at the same time|together", text):
        return "top_p"
    return min(found, key=lambda name: found[name])


def _flat(error: Any) -> str:
    """Return an error as text on one line."""
    text = error if isinstance(error, str) else json.dumps(error, ensure_ascii=False)
    return " ".join(text.replace("\\n", " ").replace('\\"', '"').split())[:20_000]
