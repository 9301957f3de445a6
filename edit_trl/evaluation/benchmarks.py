r"""
The benchmarks of the paper: BIG-Bench Hard, AGIEval (English multiple choice), ARC-Easy, ARC-Challenge and GSM8K.

The datasets are loaded from the Hub with `datasets`, or from copies in a folder. Questions are asked and judged as in
`evaluate`: a zero-shot prompt `Q: ...\nA:`, with `Options:` and a line `(A) ...` for each option; `extract_answer`
reads the answer. [`harness_tasks`] gives the same questions as tasks of lm-evaluation-harness, for its models and for
comparison with its own tasks.

Notes:

- The numbers cannot be compared with the harness's own tasks of the same benchmarks, because these use other prompts
  and read answers in another way. So the tasks made here have other names: `edit_gsm8k`, not `gsm8k`.
- The paper trained on four fifths of BIG-Bench Hard and tested on the rest. Pass the training questions of the student
  as `leave_out`; nothing is left out by default.
- The reference of an option contains its text, so that both "(B)" and "Paris" are right if option (B) is Paris.

Papers: BIG-Bench Hard, https://huggingface.co/papers/2210.09261; AGIEval, https://huggingface.co/papers/2304.06364;
ARC, https://huggingface.co/papers/1803.05457; GSM8K, https://huggingface.co/papers/2110.14168
"""

import re
import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ..install_hint import install_hint
from ..questions import read_questions, student_prompt
from .evaluator import EvaluationConfig, ask, run_settings, score_generations
from .runs import Run, majority_verdict
from .students import STOP, Student
from .verdicts import judge_reply


_DEDUCTION = "A logical deduction task which requires deducing the order of a sequence of objects."
_SHUFFLING = (
    "A task requiring determining the final positions of a set of objects given their initial positions and a "
    "description of a sequence of swaps."
)
# Descriptions of the tasks of BIG-Bench Hard, by the name of their configurations.
_BBH = {
    "boolean_expressions": "Evaluate the result of a random Boolean expression.",
    "causal_judgement": "Answer questions about causal attribution.",
    "date_understanding": "Infer the date from context.",
    "disambiguation_qa": "Clarify the meaning of sentences with ambiguous pronouns.",
    "dyck_languages": "Correctly close a Dyck-n word.",
    "formal_fallacies": "Distinguish deductively valid arguments from formal fallacies.",
    "geometric_shapes": "Name geometric shapes from their SVG paths.",
    "hyperbaton": "Order adjectives correctly in English sentences.",
    "logical_deduction_five_objects": _DEDUCTION,
    "logical_deduction_seven_objects": _DEDUCTION,
    "logical_deduction_three_objects": _DEDUCTION,
    "movie_recommendation": "Recommend movies similar to the given list of movies.",
    "multistep_arithmetic_two": "Solve multi-step arithmetic problems.",
    "navigate": "Given a series of navigation instructions, determine whether one would end up back at the starting "
    "point.",
    "object_counting": "Questions that involve enumerating objects and asking the model to count them.",
    "penguins_in_a_table": "Answer questions about a table of penguins and their attributes.",
    "reasoning_about_colored_objects": "Answer extremely simple questions about the colors of objects on a surface.",
    "ruin_names": "Select the humorous edit that 'ruins' the input movie or musical artist name.",
    "salient_translation_error_detection": "Detect the type of error in an English translation of a German source "
    "sentence.",
    "snarks": "Determine which of two sentences is sarcastic.\n\nAccording to Cambridge University Dictionary, "
    'sarcasm is "the use of remarks that clearly mean the opposite of what they say, made in order to hurt '
    "someone's feelings or to criticize something in a humorous way.\" Sarcastic sentences often contain satirical or "
    "ironic utterances, hyperboles, ambivalent or witty remarks.",
    "sports_understanding": "Determine whether an artificially constructed sentence relating to sports is plausible "
    "or not.",
    "temporal_sequences": "Answer questions about which times certain events could have occurred.",
    "tracking_shuffled_objects_five_objects": _SHUFFLING,
    "tracking_shuffled_objects_seven_objects": _SHUFFLING,
    "tracking_shuffled_objects_three_objects": _SHUFFLING,
    "web_of_lies": "Evaluate a random boolean function expressed as a word problem.",
    "word_sorting": "Sort a list of words.",
}
# The English multiple-choice sets. The English exam of Gaokao is one of the Chinese sets; MATH has no options.
_AGIEVAL = ("aqua-rat", "logiqa-en", "lsat-ar", "lsat-lr", "lsat-rc", "sat-en", "sat-en-without-passage", "sat-math")


class BenchmarkTask(NamedTuple):
    """
    A dataset. `question_formats.py` reads its rows.

    Args:
        path (`str`):
            Name of the dataset on the Hub.
        config (`str` or `None`):
            Name of its configuration.
        description (`str`, *optional*, defaults to `""`):
            Description of the task in the benchmark.
    """

    path: str
    config: str | None
    description: str = ""


BENCHMARKS: dict[str, dict[str, BenchmarkTask]] = {
    "bbh": {f"bbh_{name}": BenchmarkTask("SaylorTwift/bbh", name, description) for name, description in _BBH.items()},
    "agieval": {
        f"agieval_{name.replace('-', '_')}": BenchmarkTask(f"hails/agieval-{name}", None) for name in _AGIEVAL
    },
    "arc_easy": {"arc_easy": BenchmarkTask("allenai/ai2_arc", "ARC-Easy")},
    "arc_challenge": {"arc_challenge": BenchmarkTask("allenai/ai2_arc", "ARC-Challenge")},
    "gsm8k": {"gsm8k": BenchmarkTask("openai/gsm8k", "main")},
}
"""Tasks of each benchmark."""


def evaluate_benchmarks(
    student: Student,
    benchmarks: Sequence[str] | None = None,
    config: EvaluationConfig | None = None,
    limit: int | None = None,
    data_dir: str | None = None,
    leave_out: Iterable[str] = (),
    task_descriptions: bool = False,
    on_progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """
    Ask a student the questions of benchmarks and score its answers.

    Writes the same files as [`evaluate`]. An interrupted run continues in the same way. In `generations.jsonl` the
    `question` is the whole prompt. Two runs can be compared, see [`compare_runs`].

    Args:
        student (`Callable`):
            As for [`evaluate`].
        benchmarks (`Sequence[str]`, *optional*):
            Names of benchmarks (the keys of `BENCHMARKS`), or names of their tasks, such as `"bbh_navigate"`. Defaults
            to all benchmarks.
        config ([`EvaluationConfig`], *optional*):
            Options.
        limit (`int`, *optional*):
            Maximum number of questions of each task. The first ones are asked.
        data_dir (`str`, *optional*):
            Folder with copies of the datasets, each under its name on the Hub, for example `data_dir/openai/gsm8k`.
            Defaults to the Hub or its local cache.
        leave_out (`Iterable[str]`, *optional*):
            Questions, or training prompts with these questions, that are not asked.
        task_descriptions (`bool`, *optional*, defaults to `False`):
            Whether to put the description of its task before each question of BIG-Bench Hard, as in the paper. It
            replaces the `task_description` of the config.
        on_progress (`Callable`, *optional*):
            Called after each batch with the number of replies that exist and the total number of replies.

    Returns:
        `dict[str, Any]`: The dictionary of [`score_generations`], with the benchmarks as its `tasks`. `macro_accuracy`
        is the mean over the benchmarks, the average of the paper's table. Each benchmark has `tasks` of its own, and
        their mean as `macro_accuracy` with its `macro_interval`. Also has `settings` and `num_left_out`, the number of
        questions left out because of `leave_out`. The results are also written to `results.json`.

    Raises:
        ValueError: If a benchmark is unknown, its dataset cannot be loaded, no question is left, an option has a value
            that cannot work, or the folder has generations made with other settings.

    Examples:

    ```python
    from edit_trl.evaluation import EvaluationConfig, LocalStudent, evaluate_benchmarks, print_results

    student = LocalStudent.from_pretrained("student", max_new_tokens=1024)
    print_results(evaluate_benchmarks(student, ["arc_easy", "arc_challenge"], EvaluationConfig(output_dir="scores")))
    ```
    """
    config = config or EvaluationConfig()
    if limit is not None and limit < 1:
        raise ValueError(f"`limit` must be at least 1, got {limit}. Leave it out for all questions.")
    settings = {**run_settings(student, config), "task_descriptions": task_descriptions}
    tasks, num_left_out = _load_tasks(benchmarks, data_dir, leave_out, config.task_description, task_descriptions)
    rows = [row for questions in tasks.values() for row in questions[:limit]]
    run = Run(config.output_dir, settings)
    records = ask(rows, student, run, config, on_progress)
    results = _score_by_benchmark(records, config.num_paths)
    results["settings"] = {**settings, "num_paths": config.num_paths, "limit": limit}
    results["num_left_out"] = num_left_out
    return run.save(records, results)


def _score_by_benchmark(records: list[dict[str, Any]], num_paths: int) -> dict[str, Any]:
    """Compute scores with the benchmarks as tasks. Each benchmark has tasks of its own."""
    benchmark_of = {name: benchmark for benchmark, tasks in BENCHMARKS.items() for name in tasks}
    # Grouped by number and not by text, because benchmarks contain some questions twice, and each of them counts.
    records = [{**record, "row": number // num_paths} for number, record in enumerate(records)]
    results = score_generations([{**record, "task": benchmark_of[record["task"]]} for record in records])
    for benchmark, scores in results["tasks"].items():
        own = score_generations([record for record in records if benchmark_of[record["task"]] == benchmark])
        scores.update({name: own[name] for name in ("tasks", "macro_accuracy", "macro_interval")})
    return results


def harness_tasks(
    benchmarks: Sequence[str] | None = None,
    num_paths: int = 1,
    data_dir: str | None = None,
    leave_out: Iterable[str] = (),
    task_description: str = "",
    task_descriptions: bool = False,
) -> dict[str, Any]:
    """
    Make tasks of lm-evaluation-harness from the benchmarks, for its own models and commands.

    The metrics are `acc` and `unparsed`, the share of questions without an answer that can be read. Generation is
    greedy with up to 1024 tokens, as in the paper, unless the options of the harness change it.

    Args:
        benchmarks (`Sequence[str]`, *optional*):
            As for [`evaluate_benchmarks`].
        num_paths (`int`, *optional*, defaults to `1`):
            Number of replies to each question. Their majority vote is the answer.
        data_dir (`str`, *optional*):
            As for [`evaluate_benchmarks`].
        leave_out (`Iterable[str]`, *optional*):
            As for [`evaluate_benchmarks`].
        task_description (`str`, *optional*, defaults to `""`):
            Text at the start of the prompts.
        task_descriptions (`bool`, *optional*, defaults to `False`):
            As for [`evaluate_benchmarks`].

    Returns:
        `dict[str, lm_eval.api.task.Task]`: The tasks by name. A name is `"edit_"` followed by the name of the task.

    Raises:
        ImportError: If `lm-eval` is not installed.
        ValueError: If a benchmark is unknown, its dataset cannot be loaded, or no question is left.

    Examples:

    ```python
    import lm_eval
    from lm_eval.models.huggingface import HFLM

    tasks = harness_tasks(["gsm8k"])
    results = lm_eval.evaluate(HFLM("student", batch_size=16), tasks, limit=100)
    ```
    """
    try:
        from lm_eval.api.task import ConfigurableTask
    except ImportError:
        raise ImportError(
            "`harness_tasks` needs the `lm-eval` package, lm-evaluation-harness. Install it with "
            f"`{install_hint('harness')}`."
        ) from None
    from datasets import Dataset

    class HarnessTask(ConfigurableTask):
        def __init__(self, rows: list[dict[str, Any]], config: dict[str, Any]) -> None:
            self.rows = rows
            super().__init__(config=config)

        def download(self, *args: Any, **kwargs: Any) -> None:
            self.dataset = {"test": Dataset.from_list(self.rows)}

    loaded, _ = _load_tasks(benchmarks, data_dir, leave_out, task_description, task_descriptions)
    return {
        f"edit_{name}": HarnessTask(
            rows,
            {
                "task": f"edit_{name}",
                "test_split": "test",
                "doc_to_text": "prompt",
                "doc_to_target": "answer",
                "process_results": _harness_verdict,
                "num_fewshot": 0,
                "repeats": num_paths,
                "filter_list": [{"name": "replies", "filter": [{"function": "take_first_k", "k": num_paths}]}],
                "generation_kwargs": {"until": [STOP], "do_sample": False, "max_gen_toks": 1024},
                "metric_list": [
                    {"metric": "acc", "aggregation": "mean", "higher_is_better": True},
                    {"metric": "unparsed", "aggregation": "mean", "higher_is_better": False},
                ],
                "metadata": {"version": 1.0},
            },
        )
        for name, rows in loaded.items()
    }


def _harness_verdict(row: dict[str, Any], results: list[list[str]]) -> dict[str, float]:
    paths = [{"sample": i, **judge_reply(reply.split(STOP)[0], row["answer"])} for i, reply in enumerate(results[0])]
    verdict = majority_verdict(paths)
    return {"acc": float(bool(verdict)), "unparsed": float(verdict is None)}


def _load_tasks(
    benchmarks: Sequence[str] | None,
    data_dir: str | None,
    leave_out: Iterable[str],
    task_description: str,
    task_descriptions: bool,
) -> tuple[dict[str, list[dict[str, Any]]], int]:
    """Return the rows of each task, in the form that `ask` takes, and the number of questions left out."""
    left_out = set(map(_question_of, leave_out))
    loaded: dict[str, list[dict[str, Any]]] = {}
    num_left_out = 0
    for name, task in _selected(benchmarks).items():
        head = task.description if task_descriptions and task.description else task_description
        questions = _load_questions(name, task, data_dir)
        kept = [(question, answer) for question, answer in questions if question not in left_out]
        if not kept:
            raise ValueError(
                f"The task {name!r} has no question left: `leave_out` must leave a question, but it holds all "
                f"{len(questions)}. Leave the task out."
            )
        num_left_out += len(questions) - len(kept)
        prompts = [student_prompt(question, head) for question, _ in kept]
        loaded[name] = [
            {"question": prompt, "prompt": prompt, "answer": answer, "task": name}
            for prompt, (_, answer) in zip(prompts, kept, strict=True)
        ]
    return loaded, num_left_out


def _load_questions(name: str, task: BenchmarkTask, data_dir: str | None) -> list[tuple[str, str]]:
    """Load the questions and answers of a task from the Hub or from a copy of its dataset."""
    path = task.path if data_dir is None else str(Path(data_dir, task.path))
    try:
        from datasets import load_dataset

        if data_dir is None:
            return _questions(load_dataset(path, task.config, split="test"))
        if not Path(path).is_dir():
            raise FileNotFoundError("there is no such folder")
        # In its usual cache, `datasets` would confuse this folder with another folder of the same name.
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as cache:
            return _questions(load_dataset(path, task.config, split="test", cache_dir=cache))
    except Exception as error:  # `datasets`, the Hub's client and their HTTP library raise many types
        raise ValueError(
            f"The task {name!r} needs the dataset {path!r}, configuration {task.config!r}, split 'test', which could "
            f"not be used: {' '.join(str(error).split())[:300]} ({type(error).__name__}). Without a network pass "
            "`data_dir`, a folder with copies of the datasets."
        ) from error


def _questions(rows: Iterable[dict[str, Any]]) -> list[tuple[str, Any]]:
    return [(row["question"], row["answer"]) for row in read_questions(rows).rows]


def _question_of(text: str) -> str:
    """Return the question of a training prompt. A text that is not such a prompt is the question itself."""
    return re.split(r"^Q: ", text, maxsplit=1, flags=re.MULTILINE)[-1].strip().removesuffix("\nA:").strip()


def _selected(names: Sequence[str] | None) -> dict[str, BenchmarkTask]:
    """Return the selected tasks by name."""
    tasks = {name: task for members in BENCHMARKS.values() for name, task in members.items()}
    chosen: dict[str, BenchmarkTask] = {}
    for name in BENCHMARKS if names is None else [names] if isinstance(names, str) else names:
        if name not in BENCHMARKS and name not in tasks:
            raise ValueError(
                f"`benchmarks` must be among {', '.join(BENCHMARKS)}, or names of their tasks such as 'bbh_navigate', "
                f"got {name!r}."
            )
        chosen.update(BENCHMARKS.get(name) or {name: tasks[name]})
    if not chosen:
        raise ValueError(
            f"`benchmarks` must name at least one of {', '.join(BENCHMARKS)}. Leave it out for all of them."
        )
    return chosen
