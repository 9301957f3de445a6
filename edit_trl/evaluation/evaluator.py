"""
Ask a student questions, read its answers and score them.

A student is anything that can be called with a batch of prompts: a transformers model (`LocalStudent`), vLLM
(`VLLMStudent`), or an OpenAI-compatible endpoint (`EndpointStudent`), so that served and local models share one path.
Every generation is in `generations.jsonl`, with what was read from it and its verdict, before the next batch begins: an
interrupted run goes on from there and generates nothing twice. Answers are read again from the replies whenever a run is
scored, so an old file can be scored with newer reading.

What would surprise: samples of one question are drawn with seeds that belong to the batch, not to the run, so that an
interruption does not change them. A reply ends where it begins to ask the next question itself.
"""

import contextlib
import hashlib
import json
import os
import statistics
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from ..answers import answers_match, extract_answer
from ..option_help import help_from_docstring
from ..questions import normalize_questions, student_prompt
from .metrics import accuracy, bootstrap_interval, compare_students, majority_vote, pass_at_k


# A student that was trained on such prompts goes on with the next one.
STOP = "\nQ:"

# Prompts sorted by length are taken from this many at a time to a student that batches by itself.
_ENDPOINT_BATCH = 256


class Generation(NamedTuple):
    """
    One reply of a student.

    Args:
        text (`str`):
            What it wrote.
        finish_reason (`str` or `None`):
            `"stop"`, or `"length"` for a reply cut at the limit.
        num_tokens (`int`):
            Tokens that were generated.
    """

    text: str
    finish_reason: str | None
    num_tokens: int


# What `evaluate` asks: prompts, as text or as messages, and the number of the sample of each.
Student = Callable[[list[Any], list[int]], list[Generation]]


@help_from_docstring
@dataclass
class EvaluationConfig:
    """
    Options of [`evaluate`] and of the command `edit-trl evaluate`.

    Args:
        output_dir (`str`, *optional*, defaults to `"evaluation"`):
            Folder for generations and results.
        num_paths (`int`, *optional*, defaults to `1`):
            Replies to each question. With several the answer is their majority vote (self-consistency); they need a
            temperature above zero.
        batch_size (`int`, *optional*, defaults to `16`):
            Replies that are generated together.
        chat (`bool`, *optional*, defaults to `False`):
            Whether to ask through the student's chat template. By default it sees the prompt that it was trained on, as
            plain text.
        task_description (`str`, *optional*, defaults to `""`):
            Head of the prompt, for questions without a `task_description` of their own.

    Raises:
        ValueError: If an option cannot work.
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


@dataclass
class LocalStudent:
    """
    A transformers model as a student: batches, padded on the left.

    Args:
        model ([`~transformers.PreTrainedModel`] or [`~peft.PeftModel`]):
            Causal language model, used on its device.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]):
            Its tokenizer.
        max_new_tokens (`int`, *optional*, defaults to `512`):
            Longest reply.
        temperature (`float`, *optional*, defaults to `0.0`):
            Sampling temperature; zero is greedy.
        top_p (`float`, *optional*, defaults to `1.0`):
            Nucleus sampling.
        seed (`int`, *optional*, defaults to `42`):
            Seed of the sampling.
        name (`str`, *optional*):
            What to call the student in files. Defaults to the name that its model was loaded with.

    Raises:
        ValueError: When called: if messages are asked of a tokenizer without chat template, or the model's logits are not
            numbers.
    """

    model: Any
    tokenizer: Any
    max_new_tokens: int = 512
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 42
    name: str = ""

    @classmethod
    def from_pretrained(cls, name: str, dtype: str = "auto", **options: Any) -> "LocalStudent":
        """
        Load a student from a folder or the Hub, on the GPU if there is one. A LoRA adapter is merged into its base model.

        Args:
            name (`str`):
                Model or adapter.
            dtype (`str`, *optional*, defaults to `"auto"`):
                Type of the weights.
            **options:
                Options of [`LocalStudent`].

        Returns:
            [`LocalStudent`]: The student.

        Raises:
            ValueError: If there is no such model.
        """
        import torch
        from peft import AutoPeftModelForCausalLM, PeftConfig
        from transformers import AutoModelForCausalLM, AutoTokenizer

        adapter = None
        with contextlib.suppress(ValueError):  # none there
            adapter = PeftConfig.from_pretrained(name)
        try:
            if adapter is None:
                model = AutoModelForCausalLM.from_pretrained(name, dtype=dtype)
                tokenizer = AutoTokenizer.from_pretrained(name)
            else:
                model = AutoPeftModelForCausalLM.from_pretrained(name, dtype=dtype).merge_and_unload()
                try:
                    tokenizer = AutoTokenizer.from_pretrained(name)
                except (OSError, ValueError):  # saved without one
                    tokenizer = AutoTokenizer.from_pretrained(adapter.base_model_name_or_path)
        except (OSError, ValueError) as error:
            raise ValueError(
                f"The student must be a model or adapter in a folder or on the Hub, got {name!r} ({error}). Check the name; "
                "for one that is served pass its `base_url`."
            ) from error
        device = "cuda" if torch.cuda.is_available() else "cpu"
        return cls(model.to(device), tokenizer, name=name, **options)

    @property
    def settings(self) -> dict[str, Any]:
        """`dict[str, Any]`: What its replies depend on."""
        names = ("max_new_tokens", "temperature", "top_p", "seed")
        return {"model": self.name or self.model.name_or_path, **{name: getattr(self, name) for name in names}}

    def __call__(self, prompts: list[Any], samples: list[int]) -> list[Generation]:
        """
        Reply to some prompts.

        Args:
            prompts (`list`):
                Texts, or lists of messages.
            samples (`list[int]`):
                Number of the sample of each.

        Returns:
            `list[Generation]`: Replies in order.
        """
        import torch
        from transformers import GenerationConfig, LogitsProcessorList

        tokenizer = self.tokenizer
        is_chat = not isinstance(prompts[0], str)
        texts = [self._render(prompt) for prompt in prompts] if is_chat else prompts
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token
        inputs = tokenizer(
            texts, return_tensors="pt", padding=True, padding_side="left", add_special_tokens=not is_chat
        ).to(self.model.device)
        sampling = {"temperature": self.temperature, "top_p": self.top_p, "top_k": 0} if self.temperature else {}
        ends = self._end_ids()
        config = GenerationConfig(
            max_new_tokens=self.max_new_tokens,
            do_sample=self.temperature > 0,
            pad_token_id=tokenizer.pad_token_id,
            eos_token_id=ends,
            stop_strings=None if is_chat else [STOP],
            **sampling,
        )
        self.model.eval()
        devices = [self.model.device] if self.model.device.type == "cuda" else []
        with torch.inference_mode(), torch.random.fork_rng(devices):
            torch.manual_seed(_seed(self.seed, texts, samples))
            tokens = self.model.generate(
                input_ids=inputs["input_ids"],
                attention_mask=inputs["attention_mask"],
                generation_config=config,
                tokenizer=tokenizer,
                logits_processor=LogitsProcessorList([_refuse_nan]),
            )[:, inputs["input_ids"].shape[1] :]
        generations = []
        for row in tokens.tolist():
            end = next((place for place, token in enumerate(row) if token in ends), None)
            ids = row if end is None else row[:end]
            while end is None and ids and ids[-1] == tokenizer.pad_token_id:  # stopped by a text
                ids.pop()
            text = tokenizer.decode(ids, skip_special_tokens=True)
            is_cut = end is None and STOP not in text and len(ids) >= self.max_new_tokens
            generations.append(Generation(text, "length" if is_cut else "stop", len(ids) + (end is not None)))
        return generations

    def _render(self, messages: list[dict[str, str]]) -> str:
        if not self.tokenizer.chat_template:
            raise ValueError(
                "`chat` needs a tokenizer with a chat template, and that of the student has none. Leave `chat` out to ask in "
                "the plain prompts that `EDITTrainer` trains on."
            )
        return str(self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))

    def _end_ids(self) -> list[int]:
        """Tokens that end a reply: those of the tokenizer and of the model, which may be others or several."""
        own = self.model.generation_config.eos_token_id
        ids = {self.tokenizer.eos_token_id, *(own if isinstance(own, list) else [own])}
        return sorted(token for token in ids if token is not None)


def _refuse_nan(input_ids: Any, scores: Any) -> Any:
    if scores.isnan().any():
        row = int(scores.isnan().any(dim=-1).nonzero()[0])
        raise ValueError(
            f"The student's logits must be numbers, but those of step {input_ids.shape[1]} (tokens of prompt and reply so far) "
            f"of reply {row} of the batch are NaN. Was it trained to infinity, or loaded in float16? Try another dtype or an "
            "earlier checkpoint."
        )
    return scores


@dataclass
class VLLMStudent:
    """
    A model run by vLLM, which batches by itself. Needs the `vllm` package.

    Args:
        model (`str`):
            Folder or name on the Hub.
        max_new_tokens, temperature, top_p, seed:
            As for [`LocalStudent`].
        options (`dict`, *optional*):
            More arguments of `vllm.LLM`.

    Raises:
        ImportError: If `vllm` is not installed.
    """

    model: str
    max_new_tokens: int = 512
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 42
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        try:
            import vllm
        except ImportError:
            raise ImportError(
                "`VLLMStudent` needs the `vllm` package, which runs on GPUs. Install it with `pip install 'edit-trl[vllm]'`, or use the "
                "student without it."
            ) from None
        self._vllm = vllm
        self._llm = vllm.LLM(model=self.model, seed=self.seed, **self.options)

    @property
    def settings(self) -> dict[str, Any]:
        """`dict[str, Any]`: What its replies depend on."""
        names = ("model", "max_new_tokens", "temperature", "top_p", "seed")
        return {"backend": "vllm", **{name: getattr(self, name) for name in names}}

    def __call__(self, prompts: list[Any], samples: list[int]) -> list[Generation]:
        """
        Reply to some prompts.

        Args:
            prompts (`list`):
                Texts, or lists of messages.
            samples (`list[int]`):
                Number of the sample of each.

        Returns:
            `list[Generation]`: Replies in order.
        """
        is_chat = not isinstance(prompts[0], str)
        sampling = [
            self._vllm.SamplingParams(
                max_tokens=self.max_new_tokens,
                temperature=self.temperature,
                top_p=self.top_p,
                seed=self.seed + sample,
                stop=None if is_chat else [STOP],
            )
            for sample in samples
        ]
        ask = self._llm.chat if is_chat else self._llm.generate
        replies = [output.outputs[0] for output in ask(prompts, sampling, use_tqdm=False)]
        return [Generation(reply.text, reply.finish_reason, len(reply.token_ids)) for reply in replies]


@dataclass
class EndpointStudent:
    """
    A model behind an OpenAI-compatible endpoint. It is asked by messages; how it samples is the client's to say.

    Args:
        client ([`~chat.ChatClient`]):
            The endpoint.

    Raises:
        EndpointError: When called, if the endpoint gives no usable reply.
        BudgetReached: When called, if the client's budget is.
    """

    client: Any

    @property
    def settings(self) -> dict[str, Any]:
        """`dict[str, Any]`: What its replies depend on."""
        names = ("base_url", "model", "temperature", "top_p", "max_tokens", "seed", "extra_body")
        return {name: getattr(self.client, name) for name in names}

    def __call__(self, prompts: list[Any], samples: list[int]) -> list[Generation]:
        """
        Reply to some prompts.

        Args:
            prompts (`list`):
                Texts, or lists of messages.
            samples (`list[int]`):
                Number of the sample of each.

        Returns:
            `list[Generation]`: Replies in order.
        """

        async def ask(item: tuple[Any, int]) -> Any:
            prompt, sample = item
            messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
            return await self.client.chat(messages, sample)

        replies = self.client.for_each(list(zip(prompts, samples, strict=True)), ask)
        for reply in replies:
            if isinstance(reply, Exception):
                raise reply
        return [Generation(reply.text, reply.finish_reason, reply.completion_tokens) for reply in replies]


def evaluate(
    questions: Iterable[dict[str, Any]],
    student: Student,
    config: EvaluationConfig | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """
    Ask a student questions and score its answers.

    Args:
        questions ([`~datasets.Dataset`] or `Iterable[dict]`):
            Questions with `question` and `answer`, both text; optionally `task` and `task_description`.
        student (`Callable`):
            [`LocalStudent`], [`VLLMStudent`], [`EndpointStudent`], or anything else that takes prompts and sample numbers and
            returns a [`Generation`] for each.
        config ([`EvaluationConfig`], *optional*):
            Options.
        on_progress (`Callable`, *optional*):
            Called after each batch with the number of replies there are, and of those there will be.

    Returns:
        `dict[str, Any]`: The results, see [`score`], with the `settings`. Also in `results.json`.

    Raises:
        TypeError: If the questions are not rows.
        ValueError: If questions lack something or are repeated, or the folder holds generations of other settings.

    Examples:

    ```python
    from edit_trl.evaluation import EvaluationConfig, LocalStudent, evaluate

    student = LocalStudent.from_pretrained("HuggingFaceTB/SmolLM2-135M-Instruct", max_new_tokens=64)
    results = evaluate([{"question": "What is 17 + 25?", "answer": "42"}], student, EvaluationConfig(output_dir="scores"))
    ```
    """
    config = config or EvaluationConfig()
    rows = normalize_questions(questions)
    settings = {
        **getattr(student, "settings", {}),
        **{name: getattr(config, name) for name in ("chat", "task_description")},
    }
    _check_paths(config.num_paths, settings)
    folder = Path(config.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    _check_settings(folder / "settings.json", settings)
    path = folder / "generations.jsonl"
    known = _load_generations(path)
    items: list[tuple[str, Any, int]] = []
    for row in rows:
        prompt: Any = student_prompt(row["question"], row["task_description"] or config.task_description)
        if config.chat:
            prompt = [{"role": "user", "content": prompt}]
        items += [(row["question"], prompt, sample) for sample in range(config.num_paths)]
    started = time.monotonic()
    num_tokens = generate_missing(student, items, known, path, config.batch_size, on_progress)
    seconds = time.monotonic() - started
    verdicts = [_judge(row, known[_key(row, sample)]) for row in rows for sample in range(config.num_paths)]
    known.update((_key(verdict, verdict["sample"]), verdict) for verdict in verdicts)
    results = {**score(verdicts), "settings": {**settings, "num_paths": config.num_paths}}
    if num_tokens:
        results["tokens_per_second"] = round(num_tokens / seconds, 1)
    _replace(path, "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in known.values()))
    _replace(folder / "results.json", json.dumps(results, indent=2, ensure_ascii=False) + "\n")
    return results


def generate_missing(
    student: Student,
    items: list[tuple[str, Any, int]],
    known: dict[tuple[str, int], dict[str, Any]],
    path: Path,
    batch_size: int,
    on_progress: Callable[[int, int], None] | None = None,
) -> int:
    """
    Generate the replies that there are not yet, and write each batch to a file before the next one begins.

    Args:
        student (`Callable`):
            As for [`evaluate`].
        items (`list[tuple[str, Any, int]]`):
            What identifies the question, its prompt, and the number of the sample.
        known (`dict`):
            Records by question and sample, to which the new ones are added.
        path (`Path`):
            File that they are appended to.
        batch_size (`int`):
            Replies that are generated together.
        on_progress (`Callable`, *optional*):
            As for [`evaluate`].

    Returns:
        `int`: Number of tokens generated.
    """
    # Alike in length, so that little is padding; the longest first, so that memory runs out at once or not at all.
    items = sorted(items, key=lambda item: -len(item[0]))
    size = _ENDPOINT_BATCH if isinstance(student, (EndpointStudent, VLLMStudent)) else batch_size
    num_done = sum((name, sample) in known for name, _, sample in items)
    num_tokens = 0
    with open(path, "a", encoding="utf-8") as file:
        for start in range(0, len(items), size):
            batch = [item for item in items[start : start + size] if (item[0], item[2]) not in known]
            if not batch:
                continue
            replies = student([prompt for _, prompt, _ in batch], [sample for *_, sample in batch])
            num_tokens += sum(reply.num_tokens for reply in replies)
            records = [
                {"question": name, "sample": sample, **reply._asdict()}
                for (name, _, sample), reply in zip(batch, replies, strict=True)
            ]
            known.update((_key(record, record["sample"]), record) for record in records)
            # In one piece, so that little is torn by an interruption.
            file.write("".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records))
            file.flush()
            num_done += len(batch)
            if on_progress is not None:
                on_progress(num_done, len(items))
    return num_tokens


def score(records: list[dict[str, Any]]) -> dict[str, Any]:
    """
    Score generations with their verdicts, those of `generations.jsonl`.

    Args:
        records (`list[dict]`):
            Rows with `question`, `answer`, `task`, `sample`, `finish_reason`, `extracted` and `is_right`.

    Returns:
        `dict[str, Any]`: What [`~metrics.accuracy`] returns, of the majority's answers if there are several paths; and
        `cut_rate`, the share of replies that were cut at the limit. With several paths also `num_paths`,
        `single_path_accuracy` with its `single_path_interval`, and `pass_at_k` by k.

    Raises:
        ValueError: If there are no records, or not equally many of each question.
    """
    by_question: dict[str, list[dict[str, Any]]] = {}
    for record in records:
        by_question.setdefault(record["question"], []).append(record)
    num_paths = {len(paths) for paths in by_question.values()}
    if len(num_paths) != 1:
        raise ValueError(
            f"There must be equally many replies to each question, got {sorted(num_paths)}. Finish the run before it is scored."
        )
    verdicts = [_verdict(paths) for paths in by_question.values()]
    tasks = [paths[0]["task"] for paths in by_question.values()]
    has_tasks = any(task is not None for task in tasks)
    results = accuracy(verdicts, tasks if has_tasks else None)
    cut = [sum(path["finish_reason"] == "length" for path in paths) / len(paths) for paths in by_question.values()]
    results["cut_rate"] = statistics.fmean(cut)
    for name, scores in results["tasks"].items():
        scores["cut_rate"] = statistics.fmean(
            share for share, task in zip(cut, tasks, strict=True) if (task or "no task") == name
        )
    (paths_each,) = num_paths
    if paths_each > 1:
        right = [sum(path["is_right"] for path in paths) for paths in by_question.values()]
        single = [num / paths_each for num in right]
        results["num_paths"] = paths_each
        results["single_path_accuracy"] = statistics.fmean(single)
        results["single_path_interval"] = list(bootstrap_interval(single))
        results["pass_at_k"] = {
            str(k): statistics.fmean(pass_at_k(paths_each, num, k) for num in right)
            for k in sorted({2**i for i in range(paths_each.bit_length())} | {paths_each})
            if k <= paths_each
        }
    return results


def _verdict(paths: list[dict[str, Any]]) -> bool | None:
    """Verdict on the answer to a question: of the one path, or of the majority."""
    answer = majority_vote(path["extracted"] for path in sorted(paths, key=lambda path: path["sample"]))
    return None if answer is None else answers_match(answer, paths[0]["answer"])


def compare(output_dir: str, other_dir: str) -> dict[str, Any]:
    """
    Compare two runs of [`evaluate`] on the same questions.

    Args:
        output_dir (`str`):
            `output_dir` of the one.
        other_dir (`str`):
            That of the other.

    Returns:
        `dict[str, Any]`: What [`~metrics.compare_students`] returns, of the questions that both were asked; and
        `num_left_out`, the others.

    Raises:
        ValueError: If a folder holds no run that was scored, or the runs have no question in common.
    """
    verdicts = []
    for folder in (output_dir, other_dir):
        by_question: dict[str, list[dict[str, Any]]] = {}
        for record in _load_generations(Path(folder, "generations.jsonl")).values():
            if "is_right" in record:
                by_question.setdefault(record["question"], []).append(record)
        verdicts.append({question: _verdict(paths) for question, paths in by_question.items()})
    one, other = verdicts
    common = [question for question in one if question in other]
    if not common:
        raise ValueError(
            f"Both runs must have been asked the same questions, but {output_dir!r} and {other_dir!r} have none in common. "
            "Evaluate both students on one dataset; each needs its own `output_dir`."
        )
    comparison = compare_students([one[question] for question in common], [other[question] for question in common])
    return {**comparison, "num_left_out": len(one) + len(other) - 2 * len(common)}


def print_results(results: dict[str, Any], comparison: dict[str, Any] | None = None) -> None:
    """
    Print results as a table.

    Args:
        results (`dict[str, Any]`):
            Of [`evaluate`].
        comparison (`dict[str, Any]`, *optional*):
            Of [`compare`].
    """
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console()
    table = Table(
        "",
        "questions",
        "accuracy",
        "95% interval",
        "unparsed",
        "cut",
        title=Text(str(results["settings"].get("model", ""))),
    )
    table.columns[0].no_wrap = True
    for column in table.columns[1:]:
        column.justify = "right"
    rows = {**results["tasks"], "all": results}
    for name, scores in rows.items():
        low, high = scores["interval"]
        shares = (f"{scores[key]:.1%}" for key in ("unparsed_rate", "cut_rate"))
        table.add_row(
            Text(name),
            f"{scores['num_questions']:,}",
            f"{scores['accuracy']:.1%}",
            f"{100 * low:.1f} - {high:.1%}",
            *shares,
            end_section=name == list(rows)[-2] if len(rows) > 1 else False,
        )
    if len(results["tasks"]) > 1:
        low, high = results["macro_interval"]
        table.add_row(
            "mean of the tasks", "", f"{results['macro_accuracy']:.1%}", f"{100 * low:.1f} - {high:.1%}", "", ""
        )
    if "num_paths" in results:
        low, high = results["single_path_interval"]
        table.add_row(
            "a single path", "", f"{results['single_path_accuracy']:.1%}", f"{100 * low:.1f} - {high:.1%}", "", ""
        )
    console.print(table)
    if "num_paths" in results:
        rates = ", ".join(f"{k}: {share:.1%}" for k, share in results["pass_at_k"].items())
        print(f"Majority of {results['num_paths']} paths. pass@k, {rates}")
    if "tokens_per_second" in results:
        print(f"{results['tokens_per_second']:,} tokens generated a second")
    if comparison is not None:
        low, high = comparison["interval"]
        print(
            f"Difference to the other student: {comparison['difference']:+.1%} ({low:+.1%} to {high:+.1%}), McNemar's p "
            f"{comparison['p_value']:.3g}, on {comparison['num_questions']:,} questions; right alone: "
            f"{comparison['num_right_alone']:,} and {comparison['num_other_right_alone']:,}."
        )
        if comparison["num_left_out"]:
            print(f"{comparison['num_left_out']:,} questions that only one of them was asked are left out.")


def _judge(row: dict[str, Any], record: dict[str, Any]) -> dict[str, Any]:
    """A generation with what is read from it and its verdict."""
    text = record["text"].split(STOP)[0]
    extracted = extract_answer(text)
    return {
        **{name: row[name] for name in ("question", "answer", "task")},
        **{name: record[name] for name in ("sample", "text", "finish_reason", "num_tokens")},
        "extracted": extracted,
        "is_right": answers_match(extracted, row["answer"]),
    }


def _key(row: dict[str, Any], sample: int) -> tuple[str, int]:
    return row["question"], sample


def _seed(seed: int, texts: list[str], samples: list[int]) -> int:
    digest = hashlib.sha256(json.dumps([seed, texts, samples]).encode()).digest()
    return int.from_bytes(digest[:7], "big")


def _check_paths(num_paths: int, settings: dict[str, Any]) -> None:
    if num_paths > 1 and settings.get("temperature", 1.0) == 0:
        raise ValueError(
            f"`num_paths={num_paths}` needs a temperature above zero, got {settings['temperature']}. Greedy paths are all the "
            "same; the paper samples 8 with `temperature=0.7, top_p=0.95`."
        )


def _check_settings(path: Path, settings: dict[str, Any]) -> None:
    settings = json.loads(json.dumps(settings))
    if not path.exists():
        _replace(path, json.dumps(settings, indent=2) + "\n")
        return
    made_with = json.loads(path.read_text(encoding="utf-8"))
    changed = [name for name in {**made_with, **settings} if made_with.get(name) != settings.get(name)]
    if changed:
        values = ", ".join(f"`{name}={made_with.get(name)!r}`, now {settings.get(name)!r}" for name in changed)
        raise ValueError(
            f"`output_dir` holds generations that were made with other settings: {values}. They cannot be mixed; pass another "
            f"folder than {str(path.parent)!r}, or the settings that it was made with."
        )


def _load_generations(path: Path) -> dict[tuple[str, int], dict[str, Any]]:
    """What was generated before. A last line that was torn by an interruption is taken off the file."""
    known: dict[tuple[str, int], dict[str, Any]] = {}
    if not path.exists():
        return known
    with open(path, "r+b") as file:
        end = 0
        for line in file:
            try:
                record = json.loads(line)
            except ValueError:
                if line.endswith(b"\n"):
                    raise ValueError(
                        f"{str(path)!r} must hold a generation per line, but one cannot be read: {line[:100]!r}. Take it out; "
                        "what is missing is generated again."
                    ) from None
                break
            known[_key(record, record["sample"])] = record
            end += len(line)
        file.truncate(end)
    return known


def _replace(path: Path, text: str) -> None:
    unfinished = path.with_name(f".{path.name}.unfinished")
    unfinished.write_text(text, encoding="utf-8")
    os.replace(unfinished, path)
