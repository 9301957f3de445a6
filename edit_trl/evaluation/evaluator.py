"""
Ask a student questions, read its answers and score them.

[`evaluate`] asks questions with known answers; `benchmarks.py` asks the questions of the paper's benchmarks in the
same way. The students are in `students.py`, the files of a run in `runs.py`. Answers are read again from the replies
each time a run is scored, so an old run can be scored with a newer version of `extract_answer`.
"""

import logging
import statistics
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from ..deprecation import RenamedKeys
from ..option_help import help_from_docstring
from ..questions import QuestionTable, read_questions, student_prompt
from .identity import hash_of_prompt
from .metrics import accuracy, bootstrap_interval, pass_at_k
from .runs import Run, group_by_question, majority_verdict
from .students import STOP, Student
from .verdicts import judge_reply


_logger = logging.getLogger(__name__)

# Old names of keys of the results, and their new ones.
_OLD_KEYS = {"cut_rate": "truncated_rate"}


@help_from_docstring
@dataclass
class EvaluationConfig:
    """
    Options of [`evaluate`], [`evaluate_benchmarks`] and the command `edit-trl evaluate`.

    Args:
        output_dir (`str`, *optional*, defaults to `"evaluation"`):
            Folder for generations and results.
        num_paths (`int`, *optional*, defaults to `1`):
            Number of replies to each question. If there are several, the answer is their majority vote
            (self-consistency). Several replies need a temperature above zero.
        batch_size (`int`, *optional*, defaults to `16`):
            Number of replies that are generated together.
        chat (`bool`, *optional*, defaults to `False`):
            Whether to use the student's chat template. By default the student gets the same plain-text prompt as in
            training.
        task_description (`str`, *optional*, defaults to `""`):
            Text at the start of the prompt, for questions without a `task_description` of their own.

    Raises:
        ValueError: If an option has a value that cannot work.
    """

    output_dir: str = "evaluation"
    num_paths: int = 1
    batch_size: int = 16
    chat: bool = False
    task_description: str = ""

    def __post_init__(self) -> None:
        for name in ("num_paths", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(
                    f"`{name}` must be at least 1, got {getattr(self, name)}. Leave it out for the default."
                )


def evaluate(
    questions: Iterable[dict[str, Any]] | QuestionTable,
    student: Student,
    config: EvaluationConfig | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """
    Ask a student questions and score its answers.

    Every reply is written to `generations.jsonl`, with the answer that was read from it and its verdict. After an
    interruption, the same call continues and generates only the missing replies. Replies in the folder are used again
    only if they are those of the same student, known by its weights, with the same settings and the same prompt. What
    is used again is logged as a warning.

    Args:
        questions ([`~datasets.Dataset`], `Iterable[dict]` or [`~questions.QuestionTable`]):
            Questions with `question` and `answer`, optionally `task` and `task_description`; or rows of a benchmark as
            it was released, see [`~questions.read_questions`]. A question that is there twice counts twice.
        student (`Callable`):
            [`LocalStudent`], [`VLLMStudent`], [`EndpointStudent`], or any other callable that takes prompts and sample
            numbers and returns a [`Generation`] for each.
        config ([`EvaluationConfig`], *optional*):
            Options.
        on_progress (`Callable`, *optional*):
            Called after each batch with the number of replies that exist and the total number of replies.

    Returns:
        `dict[str, Any]`: The results, see [`score_generations`], with the `settings` and, if a reply was generated,
        `tokens_per_second`. They are also written to `results.json`.

    Raises:
        TypeError: If the questions are not rows.
        ValueError: If a question or answer is missing, or the folder has replies of another student or made with other
            settings.

    Examples:

    ```python
    from edit_trl.evaluation import EvaluationConfig, LocalStudent, evaluate

    student = LocalStudent.from_pretrained("HuggingFaceTB/SmolLM2-135M-Instruct", max_new_tokens=64)
    questions = [{"question": "What is 17 + 25?", "answer": "42"}]
    results = evaluate(questions, student, EvaluationConfig(output_dir="scores"))
    ```
    """
    config = config or EvaluationConfig()
    table = questions if isinstance(questions, QuestionTable) else read_questions(questions)
    rows = [
        {**row, "prompt": student_prompt(row["question"], row["task_description"] or config.task_description)}
        for row in table.rows
    ]
    run = Run(config.output_dir, run_settings(student, config))
    records = ask(rows, student, run, config, on_progress)
    results = score_generations(records)
    results["settings"] = {**run.settings, "num_paths": config.num_paths}
    results["questions"] = {"reader": table.reader, "notes": table.notes, "hash": hash_of_questions(rows)}
    return run.save(records, results)


def run_settings(student: Student, config: EvaluationConfig) -> dict[str, Any]:
    """
    Return the settings that change the replies of a run.

    Args:
        student (`Callable`):
            As for [`evaluate`].
        config ([`EvaluationConfig`]):
            Options.

    Returns:
        `dict[str, Any]`: The settings of the student, the `weights` that identify it, and the options that change its
        prompts.

    Raises:
        ValueError: If `num_paths` is above 1 and the temperature is zero.
    """
    settings = {
        **getattr(student, "settings", {}),
        **({"weights": weights} if (weights := getattr(student, "weights", None)) else {}),
        "chat": config.chat,
        "task_description": config.task_description,
    }
    if config.num_paths > 1 and settings.get("temperature", 1.0) == 0:
        raise ValueError(
            f"`num_paths={config.num_paths}` needs a temperature above zero, got {settings['temperature']}. Greedy "
            "paths are all the same; the paper samples 8 with `temperature=0.7, top_p=0.95`."
        )
    return settings


def ask(
    rows: list[dict[str, Any]],
    student: Student,
    run: Run,
    config: EvaluationConfig,
    on_progress: Callable[[int, int], None] | None = None,
) -> list[dict[str, Any]]:
    """
    Generate the replies that a run does not have yet, and judge all its replies.

    Args:
        rows (`list[dict]`):
            Questions to ask, with `question`, `prompt`, `answer` and `task`. Rows with the same prompt share their
            replies.
        student (`Callable`):
            As for [`evaluate`].
        run ([`Run`]):
            The run.
        config ([`EvaluationConfig`]):
            Options.
        on_progress (`Callable`, *optional*):
            As for [`evaluate`].

    Returns:
        `list[dict[str, Any]]`: Judged generations, see [`score_generations`]: `num_paths` for each row, in order.
    """
    asked = [[{"role": "user", "content": row["prompt"]}] if config.chat else row["prompt"] for row in rows]
    hashes = list(map(hash_of_prompt, asked))
    prompts = dict(zip(hashes, asked, strict=True))
    questions = {name: row["question"] for name, row in zip(hashes, rows, strict=True)}
    keys = [(name, sample) for name in hashes for sample in range(config.num_paths)]
    wanted = {key: prompts[key[0]] for key in keys}
    if reused := run.say_what_is_reused(wanted, questions):
        _logger.warning(reused)
    run.generate(student, wanted, questions, config.batch_size, on_progress)
    records = []
    for number, key in enumerate(keys):
        row = rows[number // config.num_paths]
        reply = run.generations[key]
        records.append(
            {
                "row": number // config.num_paths,
                **{name: row[name] for name in ("question", "answer", "task")},
                **({"task_description": row["task_description"]} if row.get("task_description") else {}),
                **{name: reply[name] for name in ("prompt", "sample", "text", "finish_reason", "num_tokens")},
                **judge_reply(reply["text"].split(STOP)[0], row["answer"]),
            }
        )
    return records


def hash_of_questions(rows: list[dict[str, Any]]) -> str:
    """Return a short hash of the content of `rows`: their questions, answers, tasks and prompts."""
    return hash_of_prompt([{name: row[name] for name in ("question", "answer", "task", "prompt")} for row in rows])


def score_generations(records: list[dict[str, Any]]) -> dict[str, Any]:
    """
    Compute the scores of generations that have verdicts, such as the rows of `generations.jsonl`.

    Args:
        records (`list[dict]`):
            Rows with `question`, `answer`, `task`, `sample`, `finish_reason`, `extracted` and `is_right`. Rows without
            a verdict, which an earlier run left, do not count.

    Returns:
        `dict[str, Any]`: The dictionary of [`~metrics.accuracy`], computed on the majority answers if there are
        several paths; `truncated_rate`, the share of replies that were truncated at the limit; and `num_problems`, the
        number of replies that could not be read or compared because of an error. With several paths
        also `num_paths`, `single_path_accuracy`, `single_path_interval`, and `pass_at_k`, a dictionary by k.

    Raises:
        ValueError: If there are no records, or questions have different numbers of records.
    """
    by_question = group_by_question(records)
    num_paths = {len(paths) for paths in by_question}
    if len(num_paths) != 1:
        raise ValueError(
            f"Each question must have the same number of replies, got {sorted(num_paths)}. Finish the run before you "
            "score it."
        )
    tasks = [paths[0]["task"] or None for paths in by_question]
    has_tasks = any(task is not None for task in tasks)
    results = accuracy([majority_verdict(paths) for paths in by_question], tasks if has_tasks else None)
    truncated = [statistics.fmean(path["finish_reason"] == "length" for path in paths) for paths in by_question]
    results["truncated_rate"] = statistics.fmean(truncated)
    results["num_problems"] = sum("problem" in path for paths in by_question for path in paths)
    for name, scores in results["tasks"].items():
        scores["truncated_rate"] = statistics.fmean(
            share for share, task in zip(truncated, tasks, strict=True) if (task or "no task") == name
        )
    results["tasks"] = {name: RenamedKeys(scores, **_OLD_KEYS) for name, scores in results["tasks"].items()}
    (paths_each,) = num_paths
    if paths_each > 1:
        right = [sum(path["is_right"] for path in paths) for paths in by_question]
        single = [num / paths_each for num in right]
        results["num_paths"] = paths_each
        results["single_path_accuracy"] = statistics.fmean(single)
        results["single_path_interval"] = list(bootstrap_interval(single))
        results["pass_at_k"] = {
            str(k): statistics.fmean(pass_at_k(paths_each, num, k) for num in right)
            for k in sorted({2**i for i in range(paths_each.bit_length())} | {paths_each})
        }
    return RenamedKeys(results, **_OLD_KEYS)
