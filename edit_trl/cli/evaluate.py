"""The command `edit-trl evaluate`: score the answers of a student."""

import argparse
import contextlib
import functools
from pathlib import Path
from typing import Any

from ..evaluation import (
    EndpointStudent,
    EvaluationConfig,
    GenerationSettings,
    LocalStudent,
    VLLMStudent,
    compare_runs,
    evaluate,
    evaluate_benchmarks,
    print_results,
)
from ..evaluation.identity import name_of_weights
from ..evaluation.runs import FILES, check_output_dir, read_verdicts
from ..evaluation.students import DeferredStudent, check_chat_template, check_dtype, check_vllm, load_tokenizer
from ..files import check_outputs
from ..questions import QuestionTable
from .flags import add_command, add_fields, add_flag, add_questions, field_values
from .progress import Progress
from .rows import inputs, read_questions, read_rows


def add_parser(commands: Any) -> None:
    """Add the parser of this command to the `commands`."""
    parser = add_command(
        commands,
        "evaluate",
        help="score the answers of a student",
        description="Ask a student questions, read its answers, and score them with confidence intervals. After an "
        "interruption, run the same command to continue. Replies that exist are not generated again.",
        usage="edit-trl evaluate MODEL --dataset DATA [--num_paths 8 --temperature 0.7 --top_p 0.95] [...]",
    )
    parser.set_defaults(run=run)
    parser.add_argument(
        "data", metavar="MODEL", help="Folder or name on the Hub of a model or an adapter, or name of a served model"
    )
    limit = "Use only the first N questions; with '--harness', the first N of each task"
    add_questions(parser, "dataset", split="test", limit=limit)
    group = parser.add_argument_group("benchmarks of the paper, instead of questions")
    for name, text in (
        (
            "harness",
            "'all', or names with commas between: bbh, agieval, arc_easy, arc_challenge, gsm8k, or names of tasks",
        ),
        ("data_dir", "Folder with copies of the benchmarks' datasets; by default they are loaded from the Hub"),
        (
            "leave_out",
            "Dataset of pairs or questions, such as the training dataset, whose questions are not asked",
        ),
    ):
        add_flag(group, name, str, text)
    add_flag(
        group,
        "task_descriptions",
        bool,
        "Put the description of the task before each question of BIG-Bench Hard, as the authors do",
    )
    add_fields(parser.add_argument_group("evaluation"), EvaluationConfig)
    group = parser.add_argument_group("comparison")
    text = "'output_dir' of another student's run on the same questions, to compare this run with"
    add_flag(group, "compare", str, text, metavar="FOLDER")
    group = parser.add_argument_group("student")
    add_fields(group, GenerationSettings)
    add_flag(group, "dtype", str, "Type of the weights of a local model", default="auto")
    text = "Library that runs a local model, 'transformers' or 'vllm'"
    add_flag(group, "backend", str, text, default="transformers")
    add_flag(group, "base_url", str, "OpenAI-compatible endpoint that serves the student, up to and with '/v1'")
    text = "Name of the environment variable that holds the key of the endpoint; by default no key is sent"
    add_flag(group, "api_key_env", str, text)


def run(args: argparse.Namespace) -> None:
    """Run this command with the values of its flags, `args`."""
    if (args.dataset is None) == (args.harness is None):
        raise ValueError(
            "`--dataset` or `--harness` is needed, on the command line or in the file of `--config`, and not both."
        )
    for name in ("data_dir", "leave_out", "task_descriptions"):
        if args.harness is None and getattr(args, name):
            raise ValueError(
                f"`--{name}` is about the benchmarks of the paper. Pass `--harness` too, or leave it out."
            )
    settings = GenerationSettings(**field_values(args, GenerationSettings))
    if args.backend not in ("transformers", "vllm"):
        raise ValueError(f"`--backend` must be 'transformers' or 'vllm', got {args.backend!r}.")
    if args.base_url == "vllm":
        raise ValueError(
            "`--base_url` must be the URL of an endpoint, got 'vllm'. Pass `--backend vllm` to run the student."
        )
    config = EvaluationConfig(**field_values(args, EvaluationConfig))
    # All that can be wrong is checked before a model is loaded.
    table = None
    if args.dataset is not None:
        table = read_questions("--dataset", args.dataset, args.split, args.limit)
    left_out = [] if args.leave_out is None else list(read_rows("--leave_out", args.leave_out, "train"))
    _check_files(args, config, table)
    with contextlib.ExitStack() as stack:
        student = _student(args, config, settings.generation_settings, stack)
        num_stored = student.client.usage.replies if isinstance(student, EndpointStudent) else 0
        on_progress = functools.partial(stack.enter_context(Progress()).show, "replies")
        if table is not None:
            results = evaluate(table, student, config, on_progress=on_progress)
        else:
            names = None if args.harness == "all" else [name.strip() for name in args.harness.split(",")]
            results = evaluate_benchmarks(
                student,
                names,
                config,
                limit=args.limit,
                data_dir=args.data_dir,
                leave_out=[_question_of(row) for row in left_out],
                task_descriptions=args.task_descriptions,
                on_progress=on_progress,
            )
        if isinstance(student, EndpointStudent):
            num_sent = student.client.usage.replies - num_stored
            num_stored = results["replies"]["generated"] - num_sent
    print_results(results, compare_runs(config.output_dir, args.compare) if args.compare is not None else None)
    if num_stored > 0:
        print(f"{num_stored:,} of the generated replies were in replies.sqlite; no request was sent for them.")
    for name in ("generations.jsonl", "results.json"):
        print(Path(config.output_dir, name))


def _check_files(args: argparse.Namespace, config: EvaluationConfig, table: QuestionTable | None) -> None:
    """Refuse to replace what is read, and a `--compare` that cannot be compared with."""
    check_output_dir(config.output_dir)
    folder = Path(config.output_dir)
    files = {f"{name!r} in `--output_dir`": folder / name for name in FILES if folder.is_dir()}
    check_outputs(files, inputs(args.dataset, args.leave_out, args.config), overwrite=True)
    if args.compare is None:
        return
    if folder.exists() and Path(args.compare).exists() and folder.samefile(args.compare):
        raise ValueError("`--compare` must be the folder of another run, got that of `--output_dir`. Pass another.")
    verdicts = read_verdicts(args.compare)
    asked = {row["question"] for row in table.rows} if table is not None else set()
    if table is not None and asked.isdisjoint(question for question, _, _ in verdicts):
        raise ValueError(
            f"`--compare` must be a run on the same questions, but {args.compare!r} was asked none of those in "
            f"{args.dataset!r}. Pass the folder of another run, or evaluate the other student on these questions."
        )


def _student(
    args: argparse.Namespace, config: EvaluationConfig, settings: dict[str, Any], stack: contextlib.ExitStack
) -> Any:
    """Make the student that the flags name. The `stack` closes its client at the end."""
    if args.base_url is None:
        return _local_student(args, config, settings)
    folder = Path(config.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    student = EndpointStudent.from_url(
        args.data,
        args.base_url,
        api_key_env=args.api_key_env,
        store=str(folder / "replies.sqlite"),
        max_concurrency=config.batch_size,
        **settings,
    )
    stack.enter_context(student.client)
    return student


def _local_student(args: argparse.Namespace, config: EvaluationConfig, settings: dict[str, Any]) -> Any:
    """Check what can be checked of a local model without loading it, and make a student that loads it when asked."""
    settings_of_run: dict[str, Any] = {"model": args.data, **settings}
    if args.backend == "vllm":
        check_vllm()
        load: Any = functools.partial(VLLMStudent, args.data, **settings)
        return DeferredStudent(load, {"backend": "vllm", **settings_of_run}, name_of_weights(args.data), True)
    check_dtype(args.dtype)
    weights = name_of_weights(args.data)
    if config.chat:
        check_chat_template(load_tokenizer(args.data))
    load = functools.partial(LocalStudent.from_pretrained, args.data, args.dtype, **settings)
    return DeferredStudent(load, {**settings_of_run, "dtype": args.dtype}, weights)


def _question_of(row: dict[str, Any]) -> str:
    """Return the question of a row: its `question`, its `prompt`, or the last message of its `prompt`."""
    prompt = row.get("question") or row.get("prompt") or ""
    return str(prompt[-1].get("content") or "") if isinstance(prompt, list) else str(prompt)
