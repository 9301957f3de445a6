r"""
Run a student on the benchmarks of the paper, through lm-evaluation-harness.

The harness loads the datasets from the Hub, asks and keeps count; prompts and the reading of answers are this project's: a
zero-shot `Q: ...\nA:`, with `Options:` and a line `(A) ...` for each option, and `extract_answer`. Students are those of
`evaluator.py`, so LoRA adapters, chat templates, vLLM and endpoints work as there, and an interrupted run goes on.

What would surprise:

- Numbers are not comparable with those of the harness's own tasks of the same benchmarks, which ask and read differently. The
  tasks are named apart: `edit_gsm8k`, not `gsm8k`.
- The paper trained on four fifths of BIG-Bench Hard and tested on the rest, and so it is with whatever a student was trained
  on: pass it as `leave_out`. Nothing is left out by default.
- The reference of an option has its text, so that both "(B)" and "Paris" are right where option (B) is Paris.

Papers: BIG-Bench Hard, https://huggingface.co/papers/2210.09261; AGIEval, https://huggingface.co/papers/2304.06364; ARC,
https://huggingface.co/papers/1803.05457; GSM8K, https://huggingface.co/papers/2110.14168
"""

import json
import re
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from ..answers import answers_match, extract_answer
from ..questions import student_prompt
from .evaluator import (
    STOP,
    EvaluationConfig,
    Student,
    _check_paths,
    _check_settings,
    _judge,
    _load_generations,
    _replace,
    generate_missing,
    score,
)
from .metrics import majority_vote


_DEDUCTION = "A logical deduction task which requires deducing the order of a sequence of objects."
_SHUFFLING = (
    "A task requiring determining the final positions of a set of objects given their initial positions and a description "
    "of a sequence of swaps."
)
# What BIG-Bench Hard says of its tasks, by the name of their configurations.
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
    "navigate": "Given a series of navigation instructions, determine whether one would end up back at the starting point.",
    "object_counting": "Questions that involve enumerating objects and asking the model to count them.",
    "penguins_in_a_table": "Answer questions about a table of penguins and their attributes.",
    "reasoning_about_colored_objects": "Answer extremely simple questions about the colors of objects on a surface.",
    "ruin_names": "Select the humorous edit that 'ruins' the input movie or musical artist name.",
    "salient_translation_error_detection": "Detect the type of error in an English translation of a German source "
    "sentence.",
    "snarks": "Determine which of two sentences is sarcastic.\n\nAccording to Cambridge University Dictionary, sarcasm is "
    "\"the use of remarks that clearly mean the opposite of what they say, made in order to hurt someone's feelings or to "
    'criticize something in a humorous way." Sarcastic sentences often contain satirical or ironic utterances, hyperboles, '
    "ambivalent or witty remarks.",
    "sports_understanding": "Determine whether an artificially constructed sentence relating to sports is plausible or "
    "not.",
    "temporal_sequences": "Answer questions about which times certain events could have occurred.",
    "tracking_shuffled_objects_five_objects": _SHUFFLING,
    "tracking_shuffled_objects_seven_objects": _SHUFFLING,
    "tracking_shuffled_objects_three_objects": _SHUFFLING,
    "web_of_lies": "Evaluate a random boolean function expressed as a word problem.",
    "word_sorting": "Sort a list of words.",
}
# The English multiple choice sets. Gaokao's English exam is left to the Chinese ones; MATH is no multiple choice.
_AGIEVAL = ("aqua-rat", "logiqa-en", "lsat-ar", "lsat-lr", "lsat-rc", "sat-en", "sat-en-without-passage", "sat-math")


class _Task(NamedTuple):
    """A dataset, and how to read its rows."""

    path: str
    config: str | None
    read: Callable[[dict[str, Any]], tuple[str, str]]  # row to question and answer
    description: str = ""


def _read_bbh(row: dict[str, Any]) -> tuple[str, str]:
    """`input`, with any options; `target`, such as "(A)", "True", "valid", "24" or "] }"."""
    question, answer = row["input"].strip(), row["target"].strip()
    options = re.findall(rf"^{re.escape(answer)}[ \t]+\S.*$", question, re.MULTILINE) if answer[:1] == "(" else []
    return question, _reference(options[-1].strip()) if options else answer


def _read_agieval(row: dict[str, Any]) -> tuple[str, str]:
    """`query`, AGIEval's own prompt around passage and question; `choices`, with letters; `gold`, indices of the right one."""
    match = re.fullmatch(
        r"(.*?)Q: (.*)\sAnswer Choices:.*\nA: Among A through [A-Z], the answer is\s*", row["query"], re.DOTALL
    )
    if match is None or len(row["gold"]) != 1:
        raise ValueError(
            "A row must have a `query` of AGIEval, '...Q: ... Answer Choices: ...' and 'A: Among A through E, the answer is', "
            f"and one right answer, got {row['query'][-300:]!r} with `gold={row['gold']}`. The dataset has changed; it could be "
            "neither asked nor judged."
        )
    passage, question = (part.strip() for part in match.groups())
    options = [re.sub(r"^\(?[A-Z]\)\s*", "", choice.strip()) for choice in row["choices"]]
    return _with_options(f"{passage}\n{question}".strip(), options, row["gold"][0])


def _read_arc(row: dict[str, Any]) -> tuple[str, str]:
    """`question`, `choices` with `text` and `label`, `answerKey`. Labels are letters or numbers."""
    choices = row["choices"]
    return _with_options(row["question"].strip(), choices["text"], choices["label"].index(row["answerKey"]))


def _read_gsm8k(row: dict[str, Any]) -> tuple[str, str]:
    """`question`; `answer`, a solution with the number behind "####"."""
    return row["question"].strip(), row["answer"].rpartition("####")[2].strip()


def _with_options(question: str, options: Sequence[str], gold: int) -> tuple[str, str]:
    lines = [f"({chr(ord('A') + number)}) {option.strip()}" for number, option in enumerate(options)]
    return "\n".join([question, "Options:", *lines]), _reference(lines[gold])


def _reference(option: str) -> str:
    """An option with its text, or the letter alone where the text, such as "(A) and (C) only", hides it."""
    return option if answers_match(option[:3], option) else option[:3]


BENCHMARKS: dict[str, dict[str, _Task]] = {
    "bbh": {
        f"bbh_{name}": _Task("SaylorTwift/bbh", name, _read_bbh, description) for name, description in _BBH.items()
    },
    "agieval": {
        f"agieval_{name.replace('-', '_')}": _Task(f"hails/agieval-{name}", None, _read_agieval) for name in _AGIEVAL
    },
    "arc_easy": {"arc_easy": _Task("allenai/ai2_arc", "ARC-Easy", _read_arc)},
    "arc_challenge": {"arc_challenge": _Task("allenai/ai2_arc", "ARC-Challenge", _read_arc)},
    "gsm8k": {"gsm8k": _Task("openai/gsm8k", "main", _read_gsm8k)},
}
"""Tasks of each benchmark."""


def harness_tasks(
    benchmarks: Sequence[str] | None = None,
    num_paths: int = 1,
    data_dir: str | None = None,
    leave_out: Iterable[str] = (),
    task_description: str = "",
    task_descriptions: bool = False,
) -> dict[str, Any]:
    """
    The benchmarks as tasks of lm-evaluation-harness, for its own models and commands.

    Their metrics are `acc` and `unparsed`, the share of questions without an answer that could be read. Generation is
    greedy, of up to 1024 tokens, as in the paper, unless the harness is told otherwise.

    Args:
        benchmarks (`Sequence[str]`, *optional*):
            Names of benchmarks, the keys of `BENCHMARKS`, or of tasks of theirs, such as `"bbh_navigate"`. Defaults to all
            benchmarks.
        num_paths (`int`, *optional*, defaults to `1`):
            Replies to each question, whose majority vote is the answer.
        data_dir (`str`, *optional*):
            Folder with copies of the datasets, each under its name on the Hub: `data_dir/openai/gsm8k`, say. Defaults to
            the Hub, or what the cache has of it.
        leave_out (`Iterable[str]`, *optional*):
            Questions, or prompts of training, that are not to be asked.
        task_description (`str`, *optional*, defaults to `""`):
            Head of the prompts.
        task_descriptions (`bool`, *optional*, defaults to `False`):
            Whether a question of BIG-Bench Hard has the description of its task as its head, as in the paper.

    Returns:
        `dict[str, lm_eval.api.task.Task]`: The tasks by name, which is `"edit_"` and the name of the task.

    Raises:
        ImportError: If `lm-eval` is not installed.
        ValueError: If there is no such benchmark, its dataset cannot be loaded, or no question is left.

    Examples:

    ```python
    import lm_eval
    from lm_eval.models.huggingface import HFLM

    tasks = harness_tasks(["gsm8k"])
    results = lm_eval.evaluate(HFLM("student", batch_size=16), tasks, limit=100)
    ```
    """
    _import_lm_eval()
    from lm_eval.api.task import ConfigurableTask

    left_out = frozenset(map(_question_of, leave_out))
    tasks = {}
    for name, task in _selected(benchmarks).items():
        head = task.description if task_descriptions and task.description else task_description
        config = {
            "task": f"edit_{name}",
            "dataset_path": task.path if data_dir is None else str(Path(data_dir, task.path)),
            "dataset_name": task.config,
            # What `datasets` has cached of another folder with a dataset of that name it would take for this one.
            "dataset_kwargs": None if data_dir is None else {"download_mode": "reuse_cache_if_exists"},
            "test_split": "test",
            "process_docs": partial(_remaining, read=task.read, left_out=left_out),
            "doc_to_text": partial(_prompt, read=task.read, head=head),
            "doc_to_target": partial(_answer, read=task.read),
            "process_results": partial(_verdict, read=task.read),
            "num_fewshot": 0,
            "repeats": num_paths,
            "filter_list": [{"name": "replies", "filter": [{"function": "take_first_k", "k": num_paths}]}],
            "generation_kwargs": {"until": [STOP], "do_sample": False, "max_gen_toks": 1024},
            "metric_list": [
                {"metric": "acc", "aggregation": "mean", "higher_is_better": True},
                {"metric": "unparsed", "aggregation": "mean", "higher_is_better": False},
            ],
            "metadata": {"version": 1.0},
        }
        try:
            tasks[f"edit_{name}"] = ConfigurableTask(config=config)
        except Exception as error:  # whatever `datasets`, the Hub's client and their HTTP library raise
            raise ValueError(
                f"The task {name!r} needs the dataset {config['dataset_path']!r}, configuration {task.config!r}, split 'test', "
                f"which could not be used: {' '.join(str(error).split())[:300]} ({type(error).__name__}). Without a network pass "
                "`data_dir`, a folder with copies of the datasets."
            ) from error
    return tasks


def run_harness(
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
    Run a student on benchmarks.

    Every generation is in `generations.jsonl`, with what was read from it and its verdict, before the next batch begins.
    The file can be compared with another student's, see [`compare`].

    Args:
        student (`Callable`):
            As for [`evaluate`].
        benchmarks (`Sequence[str]`, *optional*):
            As for [`harness_tasks`].
        config ([`EvaluationConfig`], *optional*):
            Options.
        limit (`int`, *optional*):
            Ask the first so many questions of each task only.
        data_dir (`str`, *optional*):
            As for [`harness_tasks`].
        leave_out (`Iterable[str]`, *optional*):
            As for [`harness_tasks`].
        task_descriptions (`bool`, *optional*, defaults to `False`):
            As for [`harness_tasks`].
        on_progress (`Callable`, *optional*):
            Called after each batch with the number of replies there are, and of those there will be.

    Returns:
        `dict[str, Any]`: What [`score`] returns, with the benchmarks as the `tasks`: `macro_accuracy` is the mean of the
        benchmarks, the average of the paper's table. Each of the `tasks` has `tasks` of its own, and `macro_accuracy`, their
        mean. With `settings`, `num_left_out` (questions of `leave_out`) and `lm_eval_version`. Also in `results.json`.

    Raises:
        ImportError: If `lm-eval` is not installed.
        ValueError: If there is no such benchmark, its dataset cannot be loaded, no question is left, an option cannot work, or
            the folder holds generations of other settings.

    Examples:

    ```python
    from edit_trl.evaluation import EvaluationConfig, LocalStudent, print_results

    student = LocalStudent.from_pretrained("student", max_new_tokens=1024)
    print_results(run_harness(student, ["arc_easy", "arc_challenge"], EvaluationConfig(output_dir="scores")))
    ```
    """
    lm_eval = _import_lm_eval()
    config = config or EvaluationConfig()
    settings = {
        **getattr(student, "settings", {}),
        **{name: getattr(config, name) for name in ("chat", "task_description")},
        "task_descriptions": task_descriptions,
    }
    if limit is not None and limit < 1:
        raise ValueError(f"`limit` must be at least 1, got {limit}. Leave it out for all questions.")
    _check_paths(config.num_paths, settings)
    tasks = harness_tasks(
        benchmarks, config.num_paths, data_dir, leave_out, config.task_description, task_descriptions
    )
    folder = Path(config.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    _check_settings(folder / "settings.json", settings)
    model = _harness_model(student, config, on_progress)
    started = time.monotonic()
    samples = lm_eval.evaluate(model, tasks, limit=limit, bootstrap_iters=0)["samples"]
    seconds = time.monotonic() - started

    records: dict[str, list[dict[str, Any]]] = {}
    known = model.known
    for benchmark, members in BENCHMARKS.items():
        for name in members:
            for sample in samples.get(f"edit_{name}", ()):
                prompt = sample["arguments"][0][0]
                for number in range(config.num_paths):
                    row = {"question": prompt, "answer": sample["target"], "task": name}
                    record = _judge(row, known[prompt, number])
                    known[prompt, number] = record
                    # Benchmarks ask some questions twice; each counts.
                    records.setdefault(benchmark, []).append({**record, "question": f"{name} {sample['doc_id']}"})
    results = score([{**record, "task": benchmark} for benchmark, rows in records.items() for record in rows])
    for benchmark, rows in records.items():
        scores = score(rows)
        results["tasks"][benchmark].update(
            {name: scores[name] for name in ("tasks", "macro_accuracy", "macro_interval")}
        )
    results["settings"] = {**settings, "num_paths": config.num_paths, "limit": limit}
    results["num_left_out"] = sum(len(task.dataset["test"]) - len(task.eval_docs) for task in tasks.values())
    results["lm_eval_version"] = lm_eval.__version__
    if model.num_tokens:
        results["tokens_per_second"] = round(model.num_tokens / seconds, 1)
    _replace(
        folder / "generations.jsonl",
        "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in known.values()),
    )
    _replace(folder / "results.json", json.dumps(results, indent=2, ensure_ascii=False) + "\n")
    return results


def _harness_model(student: Student, config: EvaluationConfig, on_progress: Callable[[int, int], None] | None) -> Any:
    """A student as a model of the harness."""
    from lm_eval.api.model import LM

    class Model(LM):
        def __init__(self) -> None:
            super().__init__()
            self.path = Path(config.output_dir, "generations.jsonl")
            self.known = _load_generations(self.path)
            self.num_tokens = 0

        def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
            # The harness repeats a request for each path. A prompt that is there twice shares its replies.
            keys: list[tuple[str, int]] = []
            counts: dict[int, int] = {}
            for request in requests:
                number = counts.get(id(request), 0)
                counts[id(request)] = number + 1
                keys.append((request.args[0], number))
            items: list[tuple[str, Any, int]] = [
                (text, [{"role": "user", "content": text}] if config.chat else text, number)
                for text, number in dict.fromkeys(keys)
            ]
            self.num_tokens += generate_missing(student, items, self.known, self.path, config.batch_size, on_progress)
            return [self.known[key]["text"] for key in keys]

        def loglikelihood(self, requests: list[Any]) -> Any:
            raise NotImplementedError("A student generates; it is not asked for likelihoods.")

        loglikelihood_rolling = loglikelihood

    return Model()


# What the harness calls. Functions of the module, which it can copy and write down.


def _prompt(row: dict[str, Any], read: Callable[[dict[str, Any]], tuple[str, str]], head: str) -> str:
    return student_prompt(read(row)[0], head)


def _answer(row: dict[str, Any], read: Callable[[dict[str, Any]], tuple[str, str]]) -> str:
    return read(row)[1]


def _verdict(
    row: dict[str, Any], results: list[list[str]], read: Callable[[dict[str, Any]], tuple[str, str]]
) -> dict[str, float]:
    answer = majority_vote(extract_answer(reply.split(STOP)[0]) for reply in results[0])
    return {"acc": float(answers_match(answer, read(row)[1])), "unparsed": float(answer is None)}


def _remaining(rows: Any, read: Callable[[dict[str, Any]], tuple[str, str]], left_out: frozenset[str]) -> Any:
    if not left_out:
        return rows
    kept = [number for number, row in enumerate(rows) if read(row)[0] not in left_out]
    if not kept:
        raise ValueError(f"`leave_out` must leave a question, but it holds all {len(rows)}")
    return rows.select(kept)


def _question_of(text: str) -> str:
    """The question of a prompt of training, or of itself."""
    return re.split(r"^Q: ", text, maxsplit=1, flags=re.MULTILINE)[-1].strip().removesuffix("\nA:").strip()


def _selected(names: Sequence[str] | None) -> dict[str, _Task]:
    tasks = {name: task for members in BENCHMARKS.values() for name, task in members.items()}
    chosen: dict[str, _Task] = {}
    for name in BENCHMARKS if names is None else [names] if isinstance(names, str) else names:
        if name not in BENCHMARKS and name not in tasks:
            raise ValueError(
                f"`benchmarks` must be among {', '.join(BENCHMARKS)}, or tasks of theirs such as 'bbh_navigate', got {name!r}."
            )
        chosen.update(BENCHMARKS.get(name) or {name: tasks[name]})
    if not chosen:
        raise ValueError(
            f"`benchmarks` must name at least one of {', '.join(BENCHMARKS)}. Leave it out for all of them."
        )
    return chosen


def _import_lm_eval() -> Any:
    try:
        import lm_eval
    except ImportError:
        raise ImportError(
            "Benchmarks need the `lm-eval` package, lm-evaluation-harness. Install it with `pip install 'edit-trl[harness]'`."
        ) from None
    return lm_eval
