"""
Make the datasets and the report of a synthesis.

The prompts in the datasets are prompts for the student and not for the teacher: the description of the task, if there
is one, and the question. Every chain ends as a pair or as a record with a reject reason.
"""

import os
import statistics
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from ..alignment import align, similarity
from ..chat import ChatClient
from ..questions import student_prompt


if TYPE_CHECKING:
    from datasets import Dataset


# Names that no public server has.
_PRIVATE_DOMAINS = (".local", ".localdomain", ".internal", ".intranet", ".lan", ".home", ".corp", ".private", ".test")

# The steps of the recipe, with their names in the report and the card.
STEPS = {
    "extract": "answer the question",
    "rectify": "answer again after a wrong chain, with the right answer as a hint",
    "corrupt": "write a wrong response close to a right chain",
}

# The steps of [`mend_mistakes`].
MENDING_STEPS = {
    "select": "take the wrong replies of the student",
    "mend": "copy a wrong reply up to its first mistake, put it right, and go on in the same words",
}

_PAIR_COLUMNS = {
    **dict.fromkeys(("prompt", "chosen", "rejected", "answer", "task", "origin"), "string"),
    **dict.fromkeys(("similarity", "key_token_ratio"), "float64"),
    **dict.fromkeys(("teacher", "prompt_version"), "string"),
}
_SFT_COLUMNS = dict.fromkeys(("prompt", "completion", "answer", "task", "origin"), "string")
_REJECTED_COLUMNS = dict.fromkeys(
    ("question", "answer", "task", "step", "reject_reason", "chain", "reply", "detail"), "string"
)


@dataclass
class SynthesisResult:
    """
    Result of [`synthesize`].

    Args:
        pairs ([`~datasets.Dataset`]):
            Preference dataset: `prompt`, `chosen`, `rejected`, `answer`, `task`, `origin` (`"rectified"` or
            `"corrupted"`), `similarity`, `key_token_ratio`, `teacher`, `prompt_version`, and, if mistakes are
            classified, `mistake_kinds`.
        sft ([`~datasets.Dataset`]):
            Prompt-completion dataset for stage 1: the right chains of the first step, and the rectified chains.
        rejected ([`~datasets.Dataset`]):
            Chains that were not used: `question`, `answer`, `task`, `step`, `reject_reason`, `chain` (of the first
            step), `reply` and `detail`.
        report (`dict`):
            Counts by step, origin, reason and task; means, usage and cost.
    """

    pairs: "Dataset"
    sft: "Dataset"
    rejected: "Dataset"
    report: dict[str, Any]


@dataclass
class Chain:
    """
    A sample of a question, and the chains that the teacher wrote for it.

    Args:
        question (`str`):
            The question.
        answer (`str`):
            Its right answer.
        task (`str` or `None`):
            Task of the question.
        task_description (`str`):
            Text at the start of the prompts.
        sample (`int`):
            Number of the sample. Each sample of a question is a `Chain` of its own.
        examples (`list[dict[str, Any]]` or `None`):
            Worked examples to show; `None` if the budget was reached before they could be drawn.
        first (`str`, *optional*, defaults to `""`):
            The chain of the first step.
        is_right (`bool`, *optional*, defaults to `False`):
            Whether the first chain has the right answer.
        second (`str`, *optional*, defaults to `""`):
            The chain of the second step: rectified or corrupted.
    """

    question: str
    answer: str
    task: str | None
    task_description: str
    sample: int
    examples: list[dict[str, Any]] | None
    first: str = ""
    is_right: bool = False
    second: str = ""

    @property
    def prompt(self) -> str:
        """`str`: The student's prompt."""
        return student_prompt(self.question, self.task_description)

    @property
    def sides(self) -> tuple[str, str]:
        """`tuple[str, str]`: The right chain and the wrong chain."""
        return (self.first, self.second) if self.is_right else (self.second, self.first)


@dataclass
class Record:
    """
    State of a synthesis: its chains, pairs and rejected chains.

    Args:
        chains (`list[Chain]`):
            All chains.
        pairs (`list[Chain]`):
            Chains that became pairs.
        rejected (`list[dict[str, Any]]`):
            One row for each rejected chain.
        num_asked (`dict[str, int]`):
            Number of chains that reached each step.
        notes (`list[str]`):
            Notes for the users of the datasets.
        stopped (`str`, *optional*):
            The limit of the budget that was reached; `None` if no limit was reached.
    """

    chains: list[Chain]
    pairs: list[Chain] = field(default_factory=list)
    rejected: list[dict[str, Any]] = field(default_factory=list)
    num_asked: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    stopped: str | None = None

    def reject(self, chain: Chain, step: str, reason: str, reply: str = "", detail: str = "") -> None:
        """Record that a `chain` was rejected at a `step` for a `reason`, with the last `reply` and a `detail`."""
        self.rejected.append(
            {
                "question": chain.question,
                "answer": chain.answer,
                "task": chain.task,
                "step": step,
                "reject_reason": reason,
                "chain": chain.first,
                "reply": reply,
                "detail": detail,
            }
        )


def pairs_dataset(record: Record, tokenize: Callable[[str], list], teacher: str, prompt_version: str) -> "Dataset":
    """
    Make the preference dataset of the pairs.

    Args:
        record ([`Record`]):
            State of the synthesis.
        tokenize (`Callable[[str], list]`):
            Function that splits a text into tokens or words.
        teacher (`str`):
            Name of the teacher.
        prompt_version (`str`):
            Version of the prompts.

    Returns:
        [`~datasets.Dataset`]: One row for each pair.
    """
    rows = []
    for chain in record.pairs:
        chosen, rejected = (f" {text}" for text in chain.sides)
        tokens = (tokenize(chosen), tokenize(rejected))
        alignment = align(*tokens)
        num_key = sum(alignment.chosen_key) + sum(alignment.rejected_key)
        rows.append(
            {
                "prompt": chain.prompt,
                "chosen": chosen,
                "rejected": rejected,
                "answer": chain.answer,
                "task": chain.task,
                "origin": "corrupted" if chain.is_right else "rectified",
                "similarity": round(similarity(*tokens), 4),
                "key_token_ratio": round(num_key / sum(map(len, tokens)), 4),
                "teacher": public_name(teacher),
                "prompt_version": prompt_version,
            }
        )
    return _to_dataset(rows, _PAIR_COLUMNS)


def public_name(model: str) -> str:
    """
    Return the name of a model without the folder that it is in, since the files of a synthesis may be published.

    Args:
        model (`str`):
            Name or folder of a model.

    Returns:
        `str`: The last part of a folder that exists, any other name as it is.
    """
    return Path(model).resolve().name if os.path.isdir(model) else model


def public_url(url: str | None) -> str | None:
    """
    Return the address of an endpoint if anyone could reach it, since the files of a synthesis may be published.

    Args:
        url (`str`, *optional*):
            Base URL of the endpoint.

    Returns:
        `str` or `None`: `"private"` for addresses of this machine or of a network of one's own: IP addresses, names
            without a dot, and names under `.local`, `.internal`, `.lan` and the like. Any other URL as it is.

    Examples:

    ```python
    >>> public_url("https://api.openai.com/v1"), public_url("http://gpu-7:8000/v1")
    ('https://api.openai.com/v1', 'private')

    ```
    """
    host = urlsplit(url or "").hostname
    if not host:
        return url
    is_private = "." not in host or ":" in host or host.replace(".", "").isdigit()
    return "private" if is_private or host.endswith(_PRIVATE_DOMAINS) else url


def sft_dataset(record: Record) -> "Dataset":
    """
    Make the dataset for stage 1: the right chains of the first step and the rectified chains, without repetitions.

    Args:
        record ([`Record`]):
            State of the synthesis.

    Returns:
        [`~datasets.Dataset`]: Prompt-completion dataset.
    """
    right = [(chain, chain.first, "right") for chain in record.chains if chain.is_right]
    rectified = [(chain, chain.second, "rectified") for chain in record.pairs if not chain.is_right]
    rows = {
        (chain.prompt, text): {
            "prompt": chain.prompt,
            "completion": f" {text}",
            "answer": chain.answer,
            "task": chain.task,
            "origin": origin,
        }
        for chain, text, origin in right + rectified
    }
    return _to_dataset(list(rows.values()), _SFT_COLUMNS)


def rejected_dataset(record: Record) -> "Dataset":
    """
    Make the dataset of rejected chains.

    Args:
        record ([`Record`]):
            State of the synthesis.

    Returns:
        [`~datasets.Dataset`]: One row for each chain that did not become a pair.
    """
    return _to_dataset(record.rejected, _REJECTED_COLUMNS)


def make_report(
    record: Record, pairs: "Dataset", client: ChatClient, counted_in: str, prompt_version: str
) -> dict[str, Any]:
    """
    Make the report: counts by step, origin, reason and task; means, usage and cost.

    Args:
        record ([`Record`]):
            State of the synthesis.
        pairs ([`~datasets.Dataset`]):
            The pairs.
        client ([`~chat.ChatClient`]):
            The teacher.
        counted_in (`str`):
            `"tokens"` or `"words"`.
        prompt_version (`str`):
            Version of the prompts.

    Returns:
        `dict[str, Any]`: The report. JSON can hold all its values.
    """
    steps = {}
    for step, num in record.num_asked.items():
        reasons = Counter(row["reject_reason"] for row in record.rejected if row["step"] == step)
        steps[step] = {"chains": num, "kept": num - reasons.total(), "rejected": dict(reasons.most_common())}
    tasks: dict[str, Counter[str]] = {}
    for chain in record.chains:
        tasks.setdefault(chain.task or "", Counter())["chains"] += 1
    for task, origin in zip(pairs["task"], pairs["origin"], strict=True):
        tasks[task or ""][origin] += 1
    means = {
        name: round(statistics.mean(pairs[name]), 4) if len(pairs) else None
        for name in ("similarity", "key_token_ratio")
    }
    return {
        "pairs": len(pairs),
        "origin": dict(Counter(pairs["origin"])),
        "steps": steps,
        "tasks": {task: dict(counts) for task, counts in tasks.items()},
        **means,
        "counted_in": counted_in,
        "teacher": public_name(client.model),
        "base_url": public_url(client.base_url),
        "sampling": client.sampling,
        "refused_fields": client.refused,
        "prompt_version": prompt_version,
        "usage": asdict(client.usage),
        "cost": client.cost,
        "notes": record.notes,
        "stopped": record.stopped,
    }


def _to_dataset(rows: list[dict[str, Any]], columns: dict[str, str]) -> "Dataset":
    """Make a dataset that has all columns with their types, even if there are no rows."""
    from datasets import Dataset, Features, Value

    features = Features({name: Value(dtype) for name, dtype in columns.items()})
    if rows:
        return Dataset.from_list(rows, features=features)
    return Dataset.from_dict({name: [] for name in columns}, features)
