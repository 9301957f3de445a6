"""
Accuracy of raw replies as a metric of the `evaluate` library. It needs nothing from the Hub.

`metrics.py` computes the numbers. The metric is in a module of its own because the `evaluate` library takes seconds to
import. The class is at the top level of the module because it is pickled by name for other processes.
"""

from collections.abc import Sequence
from typing import Any

import evaluate
from datasets import Features, Value

from ..deprecation import warn_of_old_name
from .metrics import accuracy
from .verdicts import judge_reply


_DESCRIPTION = "Accuracy of the final answers of chains of thought, by task, with confidence intervals."
_INPUTS = """
Args:
    predictions (list of str): replies of the student.
    references (list of str): right answers.
    tasks (list of str or None, optional): task of each question.
    confidence_level (float, optional, defaults to 0.95): confidence level of the intervals.

Returns:
    dict: accuracy, interval, unparsed_rate, num_questions, num_right, macro_accuracy, macro_interval, tasks.
"""
_CITATION = """\
@inproceedings{dai2025edit,
    title = {Capture the Key in Reasoning to Enhance CoT Distillation Generalization},
    author = {Dai, Chengwei and Li, Kun and Zhou, Wei and Hu, Songlin},
    booktitle = {Proceedings of the 63rd Annual Meeting of the Association for Computational Linguistics},
    year = {2025}
}
"""


class AnswerAccuracy(evaluate.Metric):
    """
    Accuracy of raw replies: reads the answer of each reply and compares it with the right answer.

    `compute` takes replies as `predictions`, right answers as `references` and, optionally, `tasks` and the
    `confidence_level` of the intervals. It returns the same dictionary as [`~edit_trl.evaluation.metrics.accuracy`].
    Batches can be added before with `add_batch`. With several processes, each process passes `num_process`, its
    `process_id` and the same `experiment_id`, and adds at least one reply. The process with `process_id=0` gets the
    numbers, the other processes get `None`.

    Args:
        **options:
            Options of [`~evaluate.Metric`].

    Examples:

    ```python
    >>> metric = AnswerAccuracy(keep_in_memory=True)
    >>> replies = ["2 + 3 = 5. Therefore, the answer is 5.", "I do not know."]
    >>> scores = metric.compute(predictions=replies, references=["5", "4"])
    >>> scores["accuracy"], scores["unparsed_rate"]
    (0.5, 0.5)

    ```
    """

    def _info(self) -> Any:
        text = Value("string")
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_INPUTS,
            features=Features({"predictions": text, "references": text, "tasks": text}),
        )

    def compute(
        self,
        *,
        predictions: Sequence[str] | None = None,
        references: Sequence[str] | None = None,
        tasks: Sequence[str | None] | None = None,
        confidence_level: float = 0.95,
        level: float | None = None,
    ) -> dict[str, Any] | None:
        """
        Compute the accuracy of the replies given here and of all replies added before.

        Args:
            predictions (`Sequence[str]`, *optional*):
                Replies.
            references (`Sequence[str]`, *optional*):
                Right answers.
            tasks (`Sequence[str | None]`, *optional*):
                Task of each question.
            confidence_level (`float`, *optional*, defaults to `0.95`):
                Confidence level of the intervals.
            level (`float`, *optional*):
                Old name of `confidence_level`.

        Returns:
            `dict[str, Any]` or `None`: The numbers; `None` in processes other than the first.
        """
        # `renamed_argument` cannot be used: `evaluate` copies the code of this method, and the copy of a decorated
        # method has no docstring.
        if level is not None:
            warn_of_old_name("compute(level=...)", "compute(confidence_level=...)")
            confidence_level = level
        return super().compute(
            predictions=predictions, references=references, tasks=tasks, confidence_level=confidence_level
        )

    def add_batch(
        self,
        *,
        predictions: Sequence[str],
        references: Sequence[str],
        tasks: Sequence[str | None] | None = None,
    ) -> None:
        """
        Add replies.

        Args:
            predictions (`Sequence[str]`):
                Replies.
            references (`Sequence[str]`):
                Right answers.
            tasks (`Sequence[str | None]`, *optional*):
                Task of each question.

        Raises:
            ValueError: If the lists have different lengths, or an element is not text.
        """
        # The table of the metric always has a column of tasks, which holds text and no `None`.
        names = [""] * len(predictions) if tasks is None else ["" if task is None else task for task in tasks]
        super().add_batch(predictions=predictions, references=references, tasks=names)

    def add(self, *, prediction: str, reference: str, task: str | None = None) -> None:
        """
        Add a reply.

        Args:
            prediction (`str`):
                Reply.
            reference (`str`):
                Right answer.
            task (`str`, *optional*):
                Task of the question.

        Raises:
            ValueError: If an argument is not text.
        """
        self.add_batch(predictions=[prediction], references=[reference], tasks=[task])

    def _compute(
        self, *, predictions: list[str], references: list[str], tasks: list[str], confidence_level: float
    ) -> dict[str, Any]:
        verdicts: list[bool | None] = []
        for reply, reference in zip(predictions, references, strict=True):
            verdict = judge_reply(reply, reference)
            verdicts.append(None if verdict["extracted"] is None else verdict["is_right"])
        return accuracy(verdicts, [task or None for task in tasks] if any(tasks) else None, confidence_level)
