"""
Tell the thinking of a reasoning model from its answer.

Many models write their thinking into the reply, each family with marks of its own. All marks are in `FORMATS`; a new
family is a new row there. Replies of teachers and judges, and replies whose answer is scored, are read with this file.

The thinking may be unclosed, because the reply was cut; the rest of the reply is thinking then. It may be closed and
never opened, because the chat template opened it; the start of the reply is thinking then.
"""

import re
from typing import NamedTuple


# Name of a format, and the patterns of its opening and its closing mark.
FORMATS: dict[str, tuple[str, str]] = {
    # DeepSeek-R1, Qwen3, QwQ, GLM, MiniMax, Nemotron; prompts of Claude
    "think": (r"<\s*think(?:ing)?\s*>", r"<\s*/\s*think(?:ing)?\s*>"),
    # EXAONE
    "thought": (r"<\s*thoughts?\s*>", r"<\s*/\s*thoughts?\s*>"),
    # R1-like trainings, such as TRL's and Unsloth's
    "reasoning": (r"<\s*reason(?:ing)?\s*>", r"<\s*/\s*reason(?:ing)?\s*>"),
    "scratchpad": (r"<\s*scratch_?pad\s*>", r"<\s*/\s*scratch_?pad\s*>"),
    # Seed-OSS
    "seed:think": (r"<seed:think>", r"</seed:think>"),
    # LongCat
    "longcat_think": (r"<longcat_think>", r"</longcat_think>"),
    # Magistral
    "[THINK]": (r"(?-i:\[THINK\])", r"(?-i:\[/THINK\])"),
    # Kimi-VL
    "◁think▷": (r"◁think▷", r"◁/think▷"),
    "<|think|>": (r"<\|think(?:ing)?\|>", r"<\|/think(?:ing)?\|>"),
    # OpenThinker, Sky-T1
    "begin_of_thought": (r"<\|begin_of_thought\|>", r"<\|end_of_thought\|>"),
    # Command A Reasoning
    "START_THINKING": (r"<\|START_THINKING\|>", r"<\|END_THINKING\|>"),
    # Apertus
    "inner_prefix": (r"<\|inner_prefix\|>", r"<\|inner_suffix\|>"),
    # MedGemma
    "unused94": (r"<unused94>(?:thought)?", r"<unused95>"),
    # Gemma 4
    "channel>thought": (r"<\|channel>thought", r"<channel\|>"),
    # Granite 3.2
    "Here is my thought process": (
        r"\A\s*Here(?: is|['’]s) my thought process:",
        r"^[ \t]*Here(?: is|['’]s) my response:",
    ),
}

# Closing marks in plain words close only what is open.
_WORDED = {str(list(FORMATS).index("Here is my thought process"))}

# A reply without any of these words has no thinking. Plain replies are by far the most, and this is quick.
# A reply with a special token, such as the end of a chain, is also searched for `_WORDS_BESIDE_TOKENS`.
_WORDS = (
    *("think", "thought", "reason", "scratch", "inner_", "unused9", "assistantfinal", "analysis"),
    *("<|message|>", "channel|>", "_of_solution|>", "_response|>", "_text|>"),
)
_WORDS_BESIDE_TOKENS = ("assistant", "commentary")
_MARKS = re.compile(
    "|".join(f"(?P<o{i}>{opening})|(?P<c{i}>{closing})" for i, (opening, closing) in enumerate(FORMATS.values())),
    re.IGNORECASE | re.MULTILINE,
)
# Marks around the answer of models that mark their thinking.
_ANSWER_MARKS = re.compile(r"<\|(?:(?:begin|end)_of_solution|(?:START|END)_(?:RESPONSE|TEXT))\|>")

# The channels of gpt-oss ("harmony"): all but the channel `final` are thinking.
_CHANNEL_MARKS = re.compile(r"<\|(start|channel|message|end|return|call|constrain)\|>")
# The same reply after a server has left out the marks, which are special tokens.
_BARE_ANALYSIS = re.compile(r"\A\s*(?:analysis|commentary)(?=[A-Z0-9\"'(]|.*assistantfinal)", re.DOTALL)
_BARE_FINAL = re.compile(r"assistant\s?final(?:message)?")


class Reply(NamedTuple):
    """
    A reply in its two parts.

    Args:
        answer (`str`):
            The reply without its thinking.
        thinking (`str`):
            The thinking. Several parts are joined with line breaks.
        is_open (`bool`):
            Whether the reply ends within the thinking.
    """

    answer: str
    thinking: str
    is_open: bool


def split_thinking(reply: str) -> Reply:
    """
    Split a reply into its answer and its thinking, in any of `FORMATS` or in the channels of gpt-oss.

    Args:
        reply (`str`):
            Reply of a model.

    Returns:
        [`Reply`]: The parts, without spaces around the thinking.

    Examples:

    ```python
    >>> split_thinking("<think>2 + 3 is 5.</think>The answer is 5.")
    Reply(answer='The answer is 5.', thinking='2 + 3 is 5.', is_open=False)
    >>> split_thinking("[THINK]2 + 3 is")
    Reply(answer='', thinking='2 + 3 is', is_open=True)

    ```
    """
    lowered = reply.lower()
    has_tokens = "<|" in lowered or "|>" in lowered
    if not any(word in lowered for word in (*_WORDS, *(_WORDS_BESIDE_TOKENS if has_tokens else ()))):
        return Reply(reply, "", False)
    if "<|message|>" in reply or "<|channel|>" in reply:
        return _split_channels(reply)
    if _BARE_ANALYSIS.match(reply) or _BARE_FINAL.search(reply):
        return _split_bare_channels(reply)
    said: list[str] = []
    thoughts: list[str] = []
    start, opened = 0, ""
    for mark in _MARKS.finditer(reply):
        name = mark.lastgroup or ""
        number, is_closing = name[1:], name[0] == "c"
        if opened and (opened != number or not is_closing):
            continue  # a mark within the thinking
        if is_closing and not opened and number in _WORDED:
            continue
        part = reply[start : mark.start()]
        if is_closing and not opened:
            thoughts += [*said, part]  # the template has opened it
            said.clear()
        else:
            (thoughts if is_closing else said).append(part)
        start, opened = mark.end(), "" if is_closing else number
    (thoughts if opened else said).append(reply[start:])
    return Reply(_ANSWER_MARKS.sub("", "".join(said)), _joined(thoughts), bool(opened))


def _split_channels(reply: str) -> Reply:
    """Split a reply with the marks of gpt-oss."""
    start, *parts = _CHANNEL_MARKS.split(reply)
    said: list[str] = []
    thoughts: list[str] = []
    # The template may have opened the channel, so that the reply begins with its name or within its text.
    channel = "".join(start.split()[:1]) if parts[0] == "message" else "final"
    if parts[0] != "message":
        (said if parts[0] == "channel" else thoughts).append(start)
    is_open = False
    for mark, text in zip(parts[::2], parts[1::2], strict=True):
        if mark == "channel":
            channel = "".join(text.split()[:1])
        elif mark == "message":
            is_final = channel in ("", "final")
            (said if is_final else thoughts).append(text)
            is_open = not is_final
        elif mark != "constrain":
            is_open = False
            if mark == "start":
                channel = ""
            else:
                said.append(text)
    is_open = is_open or (parts[-2] == "channel" and channel != "final")
    return Reply("".join(said), _joined(thoughts), is_open)


def _split_bare_channels(reply: str) -> Reply:
    """Split a reply of gpt-oss whose marks were left out."""
    thinking, *finals = _BARE_FINAL.split(reply)
    thinking = re.sub(r"\A\s*(?:analysis|commentary)|assistant\s?(?:analysis|commentary)", "\n", thinking)
    return Reply("".join(finals), thinking.strip(), not finals)


def _joined(thoughts: list[str]) -> str:
    return "\n".join(thought.strip() for thought in thoughts if thought.strip())
