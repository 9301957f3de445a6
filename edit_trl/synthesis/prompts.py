"""
Load the prompts to the teacher and their worked examples.

The prompts are files in `templates/`, in Jinja's syntax. You can replace them with your own files. A line `[system]`,
`[user]` or `[assistant]` begins a message. The EDIT paper puts its worked examples into one message; here they are
turns of a chat, because small teachers otherwise tend to answer at once without steps.

Paper: https://huggingface.co/papers/2405.19737
"""

import hashlib
import itertools
import json
from pathlib import Path
from typing import Any

from ..chat import PromptTemplate, has_half_character
from ..tasks import IN_DOMAIN_TASKS, OUT_OF_DOMAIN_TASKS, generate_dual_cots


TEMPLATES = ("cot", "answer_hint", "contrastive_cot", "mistake", "mend")


class Prompts:
    """
    The prompts of the package, or your own prompts.

    Args:
        template_dir (`str`, *optional*):
            Folder whose files replace the files of the package with the same name.

    Raises:
        ValueError: If the folder has no template, or a template is not in Jinja's syntax.

    Examples:

    ```python
    >>> prompts = Prompts()
    >>> messages = prompts.render("cot", task_description="", examples=[], question="What is 2 + 3?")
    >>> messages[-1]["role"], messages[-1]["content"][-17:]
    ('user', 'Q: What is 2 + 3?')

    ```
    """

    def __init__(self, template_dir: str | None = None) -> None:
        folders = [Path(__file__).parent / "templates"]
        if template_dir is not None:
            if not any(Path(template_dir, f"{name}.txt").is_file() for name in TEMPLATES):
                raise ValueError(
                    f"`template_dir` must hold at least one of {', '.join(f'{name}.txt' for name in TEMPLATES)}, and "
                    f"{template_dir!r} has none. Copy the ones to change from {folders[0]}."
                )
            folders.insert(0, Path(template_dir))
        self._templates = {}
        for name in TEMPLATES:
            path = next(folder / f"{name}.txt" for folder in folders if (folder / f"{name}.txt").is_file())
            self._templates[name] = PromptTemplate(path)
        # The version has only the first three prompts. The fourth classifies mistakes and does not change the pairs.
        self.version = self._digest(*TEMPLATES[:3])
        self.mend_version = self._digest("mend")

    def _digest(self, *names: str) -> str:
        sources = "\0".join(self._templates[name].source for name in names)
        return hashlib.sha256(sources.encode()).hexdigest()[:8]

    def render(self, name: str, **values: Any) -> list[dict[str, str]]:
        """
        Fill in the variables of a prompt.

        Args:
            name (`str`):
                Name of the prompt, one of `TEMPLATES`.
            **values:
                Values of the variables, by name.

        Returns:
            `list[dict[str, str]]`: Messages with `role` and `content`. A template without roles is one message of the
            user.

        Raises:
            ValueError: If the template uses a variable that is not in `values`.
        """
        return self._templates[name].render(**values)


def shipped_examples() -> list[dict[str, Any]]:
    """
    Make worked examples from the tasks of `edit_trl.tasks`, four of each task. The first example of every task comes
    first, then the second of every task, and so on.

    Returns:
        `list[dict[str, Any]]`: `question`, `answer`, `chosen`, `rejected`, `task`.
    """
    tasks = (*IN_DOMAIN_TASKS, *OUT_OF_DOMAIN_TASKS)
    by_task: dict[str, list[dict[str, Any]]] = {task: [] for task in tasks}
    # The seed is the number of the paper on arXiv. It is unlikely that a user generates questions with the same seed,
    # so no question of a user is also an example.
    for example in generate_dual_cots(4 * len(tasks), tasks=tasks, seed=2405_19737):
        names = ("question", "answer", "chosen", "rejected", "task")
        by_task[example.task].append({name: getattr(example, name) for name in names})
    return list(itertools.chain(*zip(*by_task.values(), strict=True)))


def load_examples(path: str) -> list[dict[str, Any]]:
    """
    Read worked examples from a file.

    Args:
        path (`str`):
            JSON Lines file with `question`, `answer`, `chosen` and, optionally, `rejected` and `task`.

    Returns:
        `list[dict[str, Any]]`: The examples.

    Raises:
        ValueError: If the file cannot be read, or an example is incomplete.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8-sig").split("\n")
        examples = [json.loads(line) for line in lines if line.strip()]
    except (OSError, ValueError) as error:
        raise ValueError(
            f"`examples` must be a JSON Lines file, got {path!r} ({error}). Write one example per line, with "
            "`question`, `answer`, `chosen` and, optionally, `rejected` and `task`."
        ) from None
    for number, example in enumerate(examples, 1):
        texts = (
            [example.get(name) for name in ("question", "answer", "chosen")] if isinstance(example, dict) else [None]
        )
        if not all(isinstance(text, str) and text.strip() for text in texts):
            raise ValueError(
                f"Each of the `examples` must have texts `question`, `answer` and `chosen`, but number {number} of "
                f"{path!r} does not. Teachers follow the examples; complete this example, or delete it."
            )
        if any(has_half_character(str(text)) for text in example.values()):
            raise ValueError(
                f"Each of the `examples` must be text, but number {number} of {path!r} holds half a character (a "
                "surrogate), which no request can carry. Write the whole character."
            )
    return examples


def pick_examples(
    examples: list[dict[str, Any]], question: str, task: str | None, number: int
) -> list[dict[str, Any]]:
    """
    Pick the examples for a question: examples of the same task first, and never the question itself.

    Args:
        examples (`list[dict[str, Any]]`):
            Worked examples.
        question (`str`):
            The question.
        task (`str` or `None`):
            Task of the question.
        number (`int`):
            Maximum number of examples.

    Returns:
        `list[dict[str, Any]]`: At most `number` examples.
    """
    others = [example for example in examples if example["question"] != question]
    return sorted(others, key=lambda example: task is None or example.get("task") != task)[:number]
