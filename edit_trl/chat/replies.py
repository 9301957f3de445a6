"""
Read the reply from the body of a response.

Services agree on the place of a reply and on little else. The content is a text, a list of parts or missing; thinking
is in one of several fields or in the content; and the same end of a reply has a different name in each family.
"""

import json
import math
import re
from typing import Any

from ..thinking import split_thinking
from .store import ChatReply


# Bytes of text per token, to estimate the tokens of a request before the endpoint counts them.
BYTES_PER_TOKEN = 4

# A reply of more tokens is a mistake of the endpoint. The sums of such numbers would fit no file.
_MAX_COUNT = 10**9

# Why a reply ended: our word for it, and the words of services, in small letters.
FINISH_REASONS = {
    "stop": (
        *("stop", "eos", "eos_token", "end", "end_turn", "end_of_turn", "end_of_text", "endoftext", "complete"),
        *(
            "completed",
            "finish",
            "finished",
            "finish_reason_stop",
            "stop_sequence",
            "stop_token",
            "done",
            "normal",
            "",
        ),
    ),
    "length": (
        *("length", "max_tokens", "max_length", "max_new_tokens", "max_output_tokens", "max_completion_tokens"),
        *("model_length", "model_context_window_exceeded", "context_length_exceeded", "context_length", "truncated"),
        *("finish_reason_max_tokens", "token_limit", "token_limit_reached", "incomplete"),
    ),
    "content_filter": (
        *("content_filter", "content_filtered", "safety", "recitation", "blocklist", "prohibited_content", "spii"),
        *("image_safety", "language", "guardrail_intervened", "error_toxic", "sensitive", "moderation", "flagged"),
        *("finish_reason_safety", "finish_reason_recitation", "blocked"),
    ),
    "refusal": ("refusal", "refused"),
    "tool_calls": ("tool_calls", "tool_call", "tool_use", "function_call", "function_calls"),
    # The endpoint broke down within the reply.
    "error": ("error", "abort", "aborted", "insufficient_system_resource", "network_error", "internal_error"),
}
_FINISH_REASONS = {name: ours for ours, names in FINISH_REASONS.items() for name in names}

# Fields of a message with the thinking. The first that is there counts: others repeat it.
_THINKING_FIELDS = (
    *("reasoning_content", "reasoning", "thinking", "reasoning_text", "reasoning_details", "thinking_blocks"),
)
_THINKING_PARTS = ("thinking", "reasoning", "thought", "redacted_thinking")
_TOOL_PARTS = ("tool_use", "tool_call", "function_call", "server_tool_use")

_ESCAPE_SEQUENCE = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\))")
_LINE_BREAK = re.compile(r"\r\n|[\r\v\f\x85]")
# Controls, and characters without width that no script needs.
_INVISIBLE = re.compile(r"[\x00-\x08\x0e-\x1f\x7f-\x9f\u00ad\u200b\u2060-\u2064\ufeff\ufff9-\ufffb]")
# Joiners are letters of some scripts and parts of emoji, and nothing beside a plain character.
_STRAY_JOINER = re.compile(
    r"[\u200c\u200d]+(?=[\x00-\x7f\u3000-\u9fff\uac00-\ud7af\uff00-\uffef]|\Z)|(?<![^\x00-\x7f])[\u200c\u200d]+"
)
# Marks of the end of a turn, which some servers leave in the text.
_END_MARKS = re.compile(
    r"(?:\s*(?:<\|(?:im_end|eot_id|eom_id|end|return|endoftext|end_of_text|end_of_turn)\|>|</s>|<end_of_turn>))+\s*\Z"
)


_HALF_CHARACTER = r"[\ud800-\udfff]"


class UnreadableReply(Exception):
    """The body of a response has no reply, or the endpoint broke down within it. Another attempt may succeed."""


def plain_text(text: str) -> str:
    """
    Bring a text into plain characters: no controls, no characters without width, and line breaks of one kind.

    An answer "5" with such a character after it looks right and is another answer.

    Args:
        text (`str`):
            Text of a model or of a user.

    Returns:
        `str`: The text. What was no character, such as half of one that JSON writes as two, becomes U+FFFD; at the end
        of the text, where it was cut, it is left out.

    Examples:

    ```python
    >>> plain_text("The answer is \\ufeff5\\0.\\r\\n")
    'The answer is 5.\\n'

    ```
    """
    if text.isascii() and text.isprintable():
        return text
    if re.search(_HALF_CHARACTER, text):
        # Joins the halves of a character, and replaces a half without its other half.
        text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    text = _LINE_BREAK.sub("\n", _ESCAPE_SEQUENCE.sub("", text))
    text = _STRAY_JOINER.sub("", _INVISIBLE.sub("", text))
    return re.sub(r"\ufffd{1,3}(?=\s*\Z)", "", text)


def has_half_character(text: str) -> bool:
    """
    Tell whether a text holds half of a character that JSON writes as two. It cannot be written in UTF-8.

    Args:
        text (`str`):
            Any text.

    Returns:
        `bool`: Whether it does. Two halves that belong together are a character.

    Examples:

    ```python
    >>> has_half_character("\\ud83d"), has_half_character("\\ud83d\\ude00")
    (True, False)

    ```
    """
    if re.search(_HALF_CHARACTER, text) is None:
        return False
    joined = text.encode("utf-16", "surrogatepass").decode("utf-16", "surrogatepass")
    return re.search(_HALF_CHARACTER, joined) is not None


def finish_reason_of(reason: str | None) -> str | None:
    """
    Return why a reply ended, in our words.

    Args:
        reason (`str` or `None`):
            The word of the service.

    Returns:
        `str` or `None`: One of `FINISH_REASONS`, or the word of the service in its own letters if it is unknown.

    Examples:

    ```python
    >>> finish_reason_of("MAX_TOKENS"), finish_reason_of("eos"), finish_reason_of("content_filter: SAFETY")
    ('length', 'stop', 'content_filter')

    ```
    """
    if reason is None:
        return None
    word = re.sub(r"[\s-]+", "_", reason.partition(":")[0].strip().lower())
    return _FINISH_REASONS.get(word, plain_text(reason))


def read_reply(text: str, prompt_tokens: int) -> ChatReply:
    """
    Read the reply from the body of a response.

    Args:
        text (`str`):
            The body.
        prompt_tokens (`int`):
            Estimated number of tokens of the request, used if the endpoint does not count them.

    Returns:
        [`ChatReply`]: The reply, with its thinking in a field of its own. A reply without text is a reply too: it was
        paid for.

    Raises:
        UnreadableReply: If the body has no reply that can be read.
    """
    try:
        body = json.loads(text)
        choice = body["choices"][0]
        message = choice["message"]
        content, thinking, calls_tool = _read_content(message.get("content"))
        field = next((message[name] for name in _THINKING_FIELDS if message.get(name)), None)
        thinking = _flat_text(field) or thinking
        refusal = message.get("refusal")
        reason = choice.get("finish_reason")
        are_texts = all(value is None or isinstance(value, str) for value in (reason, refusal))
        tokens = _count_tokens(body.get("usage"), prompt_tokens, content + thinking)
    except (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError):
        are_texts = False
    if not are_texts:
        raise UnreadableReply(f"an unreadable reply ({text})")
    finish_reason = finish_reason_of(reason)
    if finish_reason == "error":
        raise UnreadableReply(f"a reply that broke off, finish reason {reason!r} ({text})")
    parts = split_thinking(plain_text(content))
    answer = _END_MARKS.sub("", parts.answer).strip()
    thoughts = [part.strip() for part in (plain_text(thinking), parts.thinking) if part.strip()]
    if refusal and not answer:
        answer, finish_reason = plain_text(refusal).strip(), "refusal"
    elif not answer and (calls_tool or message.get("tool_calls") or message.get("function_call")):
        finish_reason = "tool_calls"
    return ChatReply(answer, "\n".join(thoughts), finish_reason, *tokens)


def reread(reply: ChatReply) -> ChatReply:
    """
    Read a reply of the store again: it may be from a version that knew fewer formats.

    Args:
        reply ([`ChatReply`]):
            A reply.

    Returns:
        [`ChatReply`]: The reply, as [`read_reply`] would return it now.
    """
    if reply.finish_reason == "refusal":
        return reply
    text, thinking, _ = split_thinking(plain_text(reply.text))
    thoughts = "\n".join(filter(None, [reply.thinking, thinking]))
    text = _END_MARKS.sub("", text).strip()
    return reply._replace(text=text, thinking=thoughts, finish_reason=finish_reason_of(reply.finish_reason))


def _read_content(content: Any) -> tuple[str, str, bool]:
    """Return the text and the thinking of a content, and whether it calls a tool. The content may be in parts."""
    if content is None or isinstance(content, str):
        return content or "", "", False
    texts: list[str] = []
    thoughts: list[str] = []
    calls_tool = False
    for part in [content] if isinstance(content, dict) else content:
        if isinstance(part, str):
            texts.append(part)
            continue
        kind = part.get("type")
        if kind in _THINKING_PARTS:
            thoughts.append(_flat_text(part))
        elif kind in _TOOL_PARTS:
            calls_tool = True
        elif kind in ("text", "output_text", "refusal", None):
            text = part["refusal" if kind == "refusal" else "text"]
            texts.append(text["value"] if isinstance(text, dict) else text)
    return "".join(texts), "\n".join(thoughts), calls_tool


def _flat_text(value: Any) -> str:
    """Return all text of a thinking, which may be in parts of parts."""
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        return "\n".join(filter(None, map(_flat_text, value)))
    if isinstance(value, dict):
        names = ("text", "thinking", "reasoning", "summary", "content")
        return _flat_text(next((value[name] for name in names if value.get(name)), ""))
    return ""


def _count_tokens(usage: Any, prompt_tokens: int, text: str) -> tuple[int, int]:
    """Return the tokens of request and reply, as the endpoint counts them, or estimates."""
    usage = usage if isinstance(usage, dict) else {}
    counted_prompt, counted_reply, total = (
        _as_count(usage.get(name)) for name in ("prompt_tokens", "completion_tokens", "total_tokens")
    )
    num_prompt = counted_prompt or prompt_tokens
    num_reply = counted_reply or math.ceil(len(text.encode(errors="replace")) / BYTES_PER_TOKEN)
    # Some services count the thinking in the total alone, and charge it.
    return num_prompt, max(num_reply, total - num_prompt) if counted_prompt else num_reply


def _as_count(value: Any) -> int:
    """Return a number of tokens of an endpoint. 0 for what is none or cannot be one."""
    try:
        return int(value) if 0 < int(value) <= _MAX_COUNT else 0
    except (TypeError, ValueError, OverflowError):
        return 0
