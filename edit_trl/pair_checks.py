"""
Check the types in a row of a dual-CoT dataset.

A row is a pair, or a completion: a right chain without a rejected one, in the columns of TRL's prompt-completion data.
A bad row raises [`PairError`], which names the column, its value and what to do. Training adds the number of the row
and stops. The inspection counts the row as unreadable.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sized
from numbers import Integral
from typing import Any


# Fields of a message with the reasoning before its content.
REASONING_KEYS = ("reasoning_content", "reasoning", "thinking")
# Parts of a message that are enough for it not to be empty.
CONTENT_KEYS = ("content", "value", *REASONING_KEYS, "tool_calls")

_TEXT_COLUMNS = ("prompt", "chosen", "rejected", "completion")
# Arguments of `apply_chat_template` that are not the template's.
_OWN_ARGUMENTS = {
    *("add_generation_prompt", "continue_final_message", "conversation", "max_length", "padding", "return_dict"),
    *("return_assistant_tokens_mask", "return_tensors", "tokenize", "tokenizer_kwargs", "tools", "truncation"),
}
# Types of parts with which some data marks reasoning.
_THOUGHTS = {"thinking", "reasoning", "redacted_thinking"}
_ID_COLUMNS = ("prompt_ids", "chosen_ids", "rejected_ids", "completion_ids")


class PairError(ValueError):
    """A row that is neither a pair nor a completion. The message names the column, its value and what to do."""


def is_completion(example: Mapping[str, Any]) -> bool:
    """
    Tell whether a row is a completion: a right chain without a rejected one.

    Args:
        example (`Mapping[str, Any]`):
            Row of a dual-CoT dataset, with texts or tokens.

    Returns:
        `bool`: Whether it has a `completion` (or `completion_ids`) and neither `chosen` nor `rejected`.

    Examples:

    ```python
    >>> is_completion({"prompt": "Q: 2 + 3?", "completion": " 5", "chosen": None, "rejected": None})
    True
    >>> is_completion({"prompt": "Q: 2 + 3?", "chosen": " 5", "rejected": None})  # a pair that misses a chain
    False

    ```
    """
    suffix = "_ids" if is_tokenized_row(example) else ""
    chosen, rejected, completion = (_has(example, f"{name}{suffix}") for name in ("chosen", "rejected", "completion"))
    return completion and not (chosen or rejected)


def is_tokenized_row(example: Mapping[str, Any]) -> bool:
    """
    Tell whether a row has token IDs, which are then used instead of texts.

    Args:
        example (`Mapping[str, Any]`):
            Row of a dual-CoT dataset.

    Returns:
        `bool`: Whether it has `chosen_ids` or `completion_ids`.
    """
    return example.get("chosen_ids") is not None or example.get("completion_ids") is not None


def _kind_remedy(kinds: Mapping[str, Any]) -> str:
    """Say how columns of texts and of messages become columns of one kind."""
    if not isinstance(kinds.get("prompt"), str):
        return 'Wrap the text in a message: `[{"role": "assistant", "content": text}]`.'
    chains = [value for column, value in kinds.items() if column != "prompt"]
    if all(isinstance(chain, list) and chain and chain[0].get("role") in ("system", "user") for chain in chains):
        return "The chains are whole conversations, with their prompt: call `dataset.remove_columns('prompt')`."
    return 'Wrap the prompt in a message: `[{"role": "user", "content": prompt}]`.'


def _has(example: Mapping[str, Any], column: str) -> bool:
    value = example.get(column)
    return value is not None and (not isinstance(value, Sized) or len(value) > 0)


def check_pair(example: Mapping[str, Any]) -> None:
    """
    Check the columns of one row, texts or token IDs. Missing texts are no error: such rows are dropped and counted.

    Args:
        example (`Mapping[str, Any]`):
            Row of a dual-CoT dataset.

    Raises:
        PairError: If a column has a value of another type, such as a list of texts in `chosen`, or if the row is a
            pair and a completion at once.

    Examples:

    ```python
    >>> check_pair({"prompt": "Q: 2 + 3?", "chosen": " 5", "rejected": " 6"})
    >>> try:
    ...     check_pair({"prompt": "Q: 2 + 3?", "chosen": [5, 2], "rejected": [6, 2]})
    ... except PairError as error:
    ...     print(str(error)[:73])
    `chosen` must be text or a list of messages, got token IDs: [5, 2]. Renam

    ```
    """
    is_tokenized = is_tokenized_row(example)
    _, *chains, completion = _ID_COLUMNS if is_tokenized else _TEXT_COLUMNS
    if _has(example, completion) and any(_has(example, column) for column in chains):
        raise PairError(
            f"A row must be a pair, with `{chains[0]}` and `{chains[1]}`, or a completion, with `{completion}`, got "
            f"both. Make two rows of it, or drop the column with `dataset.remove_columns({completion!r})`."
        )
    if is_tokenized:
        for column in _ID_COLUMNS:
            _check_ids(column, example.get(column))
        return
    for column in _TEXT_COLUMNS:
        _check_text(column, example.get(column))
    kinds = {column: example[column] for column in _TEXT_COLUMNS if example.get(column) is not None}
    if len({isinstance(value, list) for value in kinds.values()}) > 1:
        shown = ", ".join(f"`{column}`: {type(value).__name__}" for column, value in kinds.items())
        names = ", ".join(f"`{column}`" for column in kinds)
        raise PairError(f"{names} must all be text or all be lists of messages, got {shown}. {_kind_remedy(kinds)}")
    _check_tools(example.get("tools"))
    options = example.get("chat_template_kwargs")
    if options is not None and not isinstance(options, Mapping):
        raise PairError(
            f"`chat_template_kwargs` must be a dictionary, got {_shown(options)}. It holds arguments of the chat "
            'template, such as `{"enable_thinking": False}`.'
        )
    taken = sorted(_OWN_ARGUMENTS & set(options or ()))
    if taken:
        raise PairError(
            f"`chat_template_kwargs` must hold arguments of the chat template, got `{taken[0]}`, which preparation "
            "sets. Take it out; tools have a column of their own, `tools`."
        )
    for column in ("tools", "chat_template_kwargs"):
        for text in texts_in(example.get(column)):
            _check_characters(column, text)


def read_tools(tools: Any) -> list[Any] | None:
    """
    Read the tools of a conversation, which may be JSON.

    Args:
        tools (`list`, `str` or `None`):
            Value of the column `tools`, after [`check_pair`].

    Returns:
        `list` or `None`: The tools.
    """
    return json.loads(tools) if isinstance(tools, str) else tools


def content_text(message: Mapping[str, Any]) -> str:
    """
    Return the text of the content of a message.

    Args:
        message (`Mapping[str, Any]`):
            Message, with `content` (or `value`) as text or as a list of parts.

    Returns:
        `str`: The text. Nothing for other contents.

    Examples:

    ```python
    >>> content_text({"role": "user", "content": [{"type": "text", "text": "2 + 3?"}]})
    '2 + 3?'

    ```
    """
    content = message.get("content", message.get("value"))
    if isinstance(content, list):
        texts = [part.get("text") for part in content if isinstance(part, Mapping)]
        return "\n".join(text for text in texts if isinstance(text, str))
    return content if isinstance(content, str) else ""


def plain_messages(messages: Any) -> Any:
    """
    Write contents in parts of text as text. Chat templates of language models print a list as Python does, with its
    brackets.

    Args:
        messages (`Any`):
            A list of messages, after [`check_pair`], or plain text, which stays.

    Returns:
        `Any`: The messages.

    Examples:

    ```python
    >>> plain_messages([{"role": "user", "content": [{"type": "text", "text": "2 + 3?"}]}])
    [{'role': 'user', 'content': '2 + 3?'}]

    ```
    """
    if not isinstance(messages, list):
        return messages
    return [
        {**message, "content": "".join(part["text"] for part in message["content"])}
        if isinstance(message.get("content"), list)
        else message
        for message in messages
    ]


def texts_in(value: Any) -> Iterator[str]:
    """
    Yield the texts in a value of lists and dictionaries.

    Args:
        value (`Any`):
            Calls of tools, for example.

    Yields:
        `str`: Each text, in order. Keys are not among them.

    Examples:

    ```python
    >>> list(texts_in([{"name": "add", "arguments": {"a": 2, "b": "3"}}]))
    ['add', '3']

    ```
    """
    if isinstance(value, str):
        yield value
    elif isinstance(value, (Mapping, list)):
        for item in value.values() if isinstance(value, Mapping) else value:
            yield from texts_in(item)


def _check_characters(column: str, text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise PairError(
            f"`{column}` must be text, got half of a character, {text[error.start]!r}, at index {error.start}. "
            "Tokenizers cannot encode it; replace it with `text.encode(errors='replace').decode()`."
        ) from None


def _check_text(column: str, value: Any) -> None:
    if value is None:
        return
    if isinstance(value, str):
        _check_characters(column, value)
        return
    if not isinstance(value, list):
        convert = f"str(pair[{column!r}])"
        if isinstance(value, Mapping):
            convert = f"[pair[{column!r}]]" if {"role", "from"} & set(value) else f"pair[{column!r}][name]"
        elif isinstance(value, (bytes, bytearray)):
            convert = f"pair[{column!r}].decode()"
        raise PairError(
            f"`{column}` must be text or a list of messages, got {_shown(value)}. Convert the column with "
            f"`dataset.map(lambda pair: {{{column!r}: {convert}}})`."
        )
    if value and all(isinstance(item, Integral) for item in value):
        raise PairError(
            f"`{column}` must be text or a list of messages, got token IDs: {value[:8]}. Rename the columns of token "
            "IDs to `prompt_ids`, `chosen_ids` and `rejected_ids` (or `completion_ids`)."
        )
    if value and all(isinstance(item, str) for item in value):
        raise PairError(
            f"`{column}` must be text or a list of messages, got a list of texts: {_shown(value)}. Make a row of "
            f"each, or join the steps of one chain with `'\\n'.join(pair[{column!r}])`."
        )
    for message in value:
        _check_message(column, message)


def _check_message(column: str, message: Any) -> None:
    if not isinstance(message, Mapping):
        raise PairError(
            f"`{column}` must be text or a list of messages, got a list with {_shown(message)}. A message is a "
            'dictionary: `{"role": "assistant", "content": text}`.'
        )
    if not isinstance(message.get("role", message.get("from")), str):
        raise PairError(
            f'Each message of `{column}` must have a `role`, got {_shown(dict(message))}. Add "system", "user", '
            '"assistant" or "tool".'
        )
    content = message.get("content", message.get("value"))
    if isinstance(content, list):
        kinds = [block.get("type") if isinstance(block, Mapping) else type(block).__name__ for block in content]
        others = sorted({str(kind) for kind in kinds if kind != "text"})
        if others:
            where = "remove the other parts"
            if set(others) <= _THOUGHTS:
                where = "write the reasoning as text before the answer"
            raise PairError(
                f"The content of the messages of `{column}` must be text, got parts of type "
                f"{', '.join(map(repr, others))}. Key tokens are found in text only; {where}."
            )
        for block in content:
            if not isinstance(block.get("text"), str):
                raise PairError(f"A part of type 'text' in `{column}` must have a `text`, got {_shown(dict(block))}.")
    elif content is not None and not isinstance(content, str):
        raise PairError(f"The content of the messages of `{column}` must be text, got {_shown(content)}.")
    _check_characters(column, content_text(message))
    for key in REASONING_KEYS:
        thoughts = message.get(key)
        if thoughts is not None and not isinstance(thoughts, str):
            raise PairError(f"`{key}` of the messages of `{column}` must be text, got {_shown(thoughts)}.")
        _check_characters(column, thoughts or "")
    for text in texts_in(message.get("tool_calls")):
        _check_characters(column, text)


def _check_tools(tools: Any) -> None:
    if isinstance(tools, str):
        try:
            tools = json.loads(tools)
        except ValueError as error:
            raise PairError(
                f"`tools` must be a list of tools or JSON of one, got {_shown(tools)}, which is not JSON ({error}). "
                "Write it with `json.dumps(tools)`."
            ) from None
    if tools is not None and not (isinstance(tools, list) and all(isinstance(tool, Mapping) for tool in tools)):
        raise PairError(
            f"`tools` must be a list of tools or JSON of one, got {_shown(tools)}. A tool is a JSON schema of a "
            "function; pass `None` for a row without tools."
        )


def _check_ids(column: str, ids: Any) -> None:
    if ids is None:
        return
    if not isinstance(ids, Iterable) or isinstance(ids, (str, Mapping)):
        raise PairError(
            f"`{column}` must be a list of token IDs, got {_shown(ids)}. Take it from the tokenizer: "
            "`tokenizer(text)['input_ids']`."
        )
    bad = next(
        (token for token in ids if not isinstance(token, Integral) or isinstance(token, bool) or token < 0), None
    )
    if bad is not None:
        raise PairError(
            f"`{column}` must be token IDs, whole numbers from 0, got {_shown(bad)}. Take them from the tokenizer as "
            "they are: `tokenizer(text)['input_ids']`."
        )


def _shown(value: Any) -> str:
    return f"{type(value).__name__}: {value!r:.120}"
