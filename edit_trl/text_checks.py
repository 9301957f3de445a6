"""
Check that the tokens of a row have all of its texts.

A chat template may leave out a part of a message. Templates of reasoning models drop the reasoning in `<think>` tags,
or a field such as `reasoning_content`. Then only the answers of both chains would be trained. And a row with token IDs
may also have texts, of which the IDs are not the tokens.

Templates strip whitespace, escape characters and write other tags, and a tokenizer may change characters. So texts are
compared by their words, without tags and case.
"""

import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from .pair_checks import REASONING_KEYS, PairError, content_text, is_completion, texts_in


_TAG = re.compile(r"<\|[^|<>]{1,40}\|>|<[/|｜]?[\w:｜▁-]{1,40}>|\[/?[A-Z_]{2,40}\]|◁/?\w{1,40}▷")
_WORD = re.compile(r"\w+")


def find_text(text: str, rendered: str, start: int = 0) -> tuple[int, str]:
    """
    Look for a text in a rendered text.

    Args:
        text (`str`):
            Text to look for.
        rendered (`str`):
            Text in which it should be, after [`fold`].
        start (`int`, *optional*, defaults to `0`):
            Where to begin in `rendered`.

    Returns:
        `tuple[int, str]`: The place in `rendered` after the text, and nothing. If words of the text are missing there,
        `start`, and the text from the first of them.

    Examples:

    ```python
    >>> find_text("<think>2 + 3 = 5</think>\\n\\nIt is 5.", fold("[THINK]2 + 3 = 5[/THINK]It is 5.</s>"))
    (31, '')
    >>> find_text("<think>2 + 3 = 5</think>\\n\\nIt is 5.", fold("It is 5.</s>"))
    (0, '2 + 3 = 5</think>\\n\\nIt is 5.')

    ```
    """
    whole = fold(text.strip())
    place = rendered.find(whole, start)
    if place >= 0:
        return place + len(whole), ""
    # Slower, and rarely needed. If the words are there in this order, the first place of each is one that fits.
    place = start
    for word in _WORD.finditer(_TAG.sub(lambda tag: " " * len(tag[0]), text)):
        folded = fold(word[0])
        place = rendered.find(folded, place)
        if place < 0:
            return start, text[word.start() :]
        place += len(folded)
    return place, ""


def fold(text: str) -> str:
    """
    Return a text without differences of case and of compatible characters.

    Args:
        text (`str`):
            Any text.

    Returns:
        `str`: The text in Unicode's form NFKC and without case.

    Examples:

    ```python
    >>> fold("Ａns: ①")
    'ans: 1'

    ```
    """
    return unicodedata.normalize("NFKC", text).casefold()


def check_rendered(column: str, messages: Sequence[Mapping[str, Any]], rendered: str, template: str) -> None:
    """
    Refuse messages of which the chat template leaves out a part.

    Args:
        column (`str`):
            Name of their column, for the error message.
        messages (`Sequence[Mapping[str, Any]]`):
            Messages with `role` and `content`.
        rendered (`str`):
            What the chat template makes of them.
        template (`str`):
            Name of the template's tokenizer, for the error message.

    Raises:
        PairError: If a text is not in `rendered`.

    Examples:

    ```python
    >>> messages = [{"role": "assistant", "content": "<think>2 + 3 = 5</think>It is 5."}]
    >>> check_rendered("chosen", messages, "<|assistant|>2 + 3 = 5. It is 5.", "R1")
    >>> try:
    ...     check_rendered("chosen", messages, "<|assistant|>It is 5.", "R1")
    ... except PairError as error:
    ...     print(str(error)[:79])
    The chat template of 'R1' must render all of `chosen`, but it leaves out '2 + 3

    ```
    """
    rendered = fold(rendered)
    place = 0
    for number, message in enumerate(messages):
        if message.get("role") in ("system", "developer"):  # templates move them elsewhere
            continue
        parts = list(_parts(message))
        stop, key, lost = _find_all(parts, rendered, place)
        if lost:  # nearly all templates render reasoning, content and calls in this order
            stop, _, lost_too = _find_all(parts[::-1], rendered, place)
            if lost_too:
                where = f" of message {number}" if len(messages) > 1 else ""
                raise PairError(
                    f"The chat template of {template!r} must render all of `{column}`, but it leaves out "
                    f"{_shown(lost)} in its `{key}`{where}. {_remedy(key, message)}"
                )
        place = stop


def _find_all(parts: list[tuple[str, list[str]]], rendered: str, place: int) -> tuple[int, str, str]:
    """
    Return the place after all texts, or the key of the first text that is not there, and its missing part. The texts
    of a part may be there in any order.
    """
    for key, texts in parts:
        stops = [place]
        for text in texts:
            stop, lost = find_text(text, rendered, place)
            if lost:
                return stop, key, lost
            stops.append(stop)
        place = max(stops)
    return place, "", ""


def _parts(message: Mapping[str, Any]) -> Iterator[tuple[str, list[str]]]:
    """Yield the texts of a message, each with its key."""
    content = content_text(message)
    seen = [content]
    for key in REASONING_KEYS:
        text = message.get(key)
        if isinstance(text, str) and not any(text.strip() in other for other in seen):
            seen.append(text)  # some data has the same text in several fields
            yield key, [text]
    yield "content", [content]
    for call in message.get("tool_calls") or []:
        function = (call.get("function") or call) if isinstance(call, Mapping) else {}
        # The order of a call's parts means nothing: Arrow and templates may sort them.
        values = (function.get("name"), function.get("arguments"))
        yield "tool_calls", [text for value in values for text in texts_in(value)]


def _remedy(key: str, message: Mapping[str, Any]) -> str:
    own = "train with a template that renders it (`chat_template_path`)"
    if key in REASONING_KEYS:
        return (
            f"The student would not learn these steps. Write the text of `{key}` into `content`, before the answer "
            f"and without tags, or {own}."
        )
    if key == "content" and _TAG.search(content_text(message)):
        return (
            "The student would not learn these steps. Take the tags such as `<think>` out of the text, so that its "
            f"steps are plain text, or {own}."
        )
    return f"The student would not see it. Move it into the `content` of a message of its own, or {own}."


def check_ids_of_texts(example: Mapping[str, Any], tokenizer: Any) -> None:
    """
    Refuse a row whose token IDs are not those of its texts.

    Args:
        example (`Mapping[str, Any]`):
            Row with token IDs, after [`~pair_checks.check_pair`]. Texts beside them are optional.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`] or `None`):
            Tokenizer of the model. Without it, nothing is checked.

    Raises:
        PairError: If a text is not in the text of the IDs. IDs may have more, such as the text of a chat template, and
            the IDs of a plain text may be cut.
    """
    if tokenizer is None:
        return
    names = ("completion",) if is_completion(example) else ("chosen", "rejected")
    prompt_ids = [] if example.get("prompt_ids") is None else list(example["prompt_ids"])
    for name in names:
        ids, columns = example.get(f"{name}_ids"), [column for column in ("prompt", name) if example.get(column)]
        if ids is None or len(ids) == 0 or not columns:
            continue
        all_ids = [*prompt_ids, *ids]
        if getattr(tokenizer, "unk_token_id", None) in all_ids:  # a part of the text has no tokens
            continue
        text = tokenizer.decode(all_ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        decoded = fold(text)
        parts = [(column, [part]) for column in columns for part in _column_texts(column, example[column])]
        _, column, lost = _find_all(parts, decoded, 0)
        if lost:  # a tokenizer may write a text in another way, without accents or its own special tokens
            as_tokens = [(column, [_through(tokenizer, part)]) for column, (part,) in parts]
            _, column, lost = _find_all(as_tokens, decoded, 0)
        kept = "".join(_WORD.findall(decoded))
        if lost and not (kept and kept in fold("".join(_WORD.findall(" ".join(part for _, (part,) in parts))))):
            raise PairError(
                f"`{column}_ids` must be the tokens of `{column}`, but they lack {_shown(lost)}. Their text "
                f"is {_shown(text)}. "
                "Only the token IDs are trained: make them again from the text, or leave the text out with "
                f"`dataset.remove_columns({columns})`."
            )


def _through(tokenizer: Any, text: str) -> str:
    """Return a text as its own tokens say it."""
    ids = tokenizer(text=text, add_special_tokens=False)["input_ids"]
    return tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)


def _column_texts(column: str, value: Any) -> list[str]:
    """
    The texts of a column that must be among the tokens. Of a prompt of messages this is the last question, since
    templates may move a system message, and leave out earlier thinking.
    """
    if isinstance(value, str):
        return [value]
    if isinstance(value, list) and all(isinstance(message, Mapping) for message in value):
        asked = [message for message in value if message.get("role") == "user"]
        return [content_text(message) for message in (asked[-1:] if column == "prompt" else value)]
    return []


def _shown(text: str) -> str:
    return repr(text if len(text) <= 60 else f"{text[:59]}…")
