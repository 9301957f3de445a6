"""
Turn questions and answers into dual chains-of-thought with a teacher model.

The recipe of the EDIT paper, in three prompts (`templates/`). The teacher answers each question. Where it is wrong, it
answers again with the right answer as a hint: a rectified pair, whose mistake is real. Where it is right, it writes a
wrong response close to the right one, after the example of this run's rectified pairs: a corrupted pair, whose mistake
is made up. Both ends of a pair are read by the code that scores students, and what fails a check becomes a record with
a reject reason: nothing disappears.

How requests are sent, stored and paid for is `chat/`'s concern; files are `dataset_files.py`'s. Which examples
a contrastive prompt shows is drawn once, when the rectifying step has ended, and remembered in the client's store: no
prompt depends on the order in which replies came, so an interrupted run goes on without paying for anything twice.

What would surprise: the prompts of the dataset are not the teacher's. The student gets the question alone, and its
chains are the teacher's words without "Let's think step by step".

Paper: https://huggingface.co/papers/2405.19737
"""

import hashlib
import json
import random
import statistics
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import Any

from ..alignment import align, similarity
from ..answers import answers_match, extract_answer, reasoning
from ..chat import BudgetReached, ChatClient, EndpointError, estimate_tokens
from ..option_help import help_from_docstring
from ..questions import normalize_questions, student_prompt
from .prompts import Prompts, clean, leaks_prompt, load_examples, pick_examples, shipped_examples


# What a reply, or the lack of one, can be rejected for.
REJECT_REASONS = {
    "cut": "the reply was cut at the limit of tokens",
    "not_finished": "the reply ended for another reason than its end",
    "unparsed": "no answer can be read from the reply",
    "no_reasoning": "the reply gives an answer and no steps",
    "still_wrong": "rectified, and the answer is still wrong",
    "still_right": "corrupted, and the answer is still right",
    "leaks_prompt": "the reply speaks of the hint, or of being wrong",
    "only_answer_differs": "the steps of both chains are the same",
    "too_different": "the chains share less than `min_similarity`",
    "too_similar": "the chains share more than `max_similarity`",
    "too_long": "prompt and chain are longer than `max_length`",
    "duplicate": "the same pair was made before",
    "endpoint_error": "the endpoint gave no usable reply",
    "not_asked": "the budget was reached",
}

STEPS = {"extract": "answer the question", "rectify": "mend a wrong chain", "corrupt": "spoil a right chain"}

# Words before the conclusion that count as reasoning.
_MIN_WORDS = 3


@help_from_docstring
@dataclass
class SynthesisConfig:
    """
    Options of [`synthesize`] and of the command `edit-trl synthesize`.

    Args:
        output_dir (`str`, *optional*, defaults to `"dual_cots"`):
            Folder for the dataset, its card, and the records of what was rejected.
        num_samples (`int`, *optional*, defaults to `1`):
            Chains to sample for each question. Each becomes a pair of its own.
        num_examples (`int`, *optional*, defaults to `3`):
            Worked examples in a prompt, as many as in the paper.
        max_attempts (`int`, *optional*, defaults to `3`):
            Replies to ask for, at each step, until one passes the checks. One, if the temperature is zero.
        min_similarity (`float`, *optional*, defaults to `0.5`):
            Least share of the longer chain of a pair, in words, that needs no edit. Below it the chains are two
            explanations rather than dual.
        max_similarity (`float`, *optional*, defaults to `0.98`):
            Largest such share.
        max_length (`int`, *optional*, defaults to `1024`):
            Most tokens of prompt and chain, the paper's training length by default; words without `tokenizer`.
        tokenizer (`str`, *optional*):
            Name or folder of the student's tokenizer, to count key tokens and lengths with. Words without it.
        examples (`str`, *optional*):
            JSON Lines file of worked examples with `question`, `answer`, `chosen` and, for the contrastive prompt,
            `rejected`; those with the `task` of a question come first. By default from `edit_trl.tasks`.
        examples_seed (`int`, *optional*, defaults to `0`):
            Seed for drawing the examples of the contrastive prompt.
        task_description (`str`, *optional*, defaults to `""`):
            Head of every prompt, the student's included, for questions without a `task_description` of their own.
        template_dir (`str`, *optional*):
            Folder with prompts of your own, any of `cot.txt`, `answer_hint.txt`, `contrastive_cot.txt`, `mistake.txt`.
        classify_mistakes (`bool`, *optional*, defaults to `False`):
            Whether to ask the teacher for the kind of each pair's mistake too, see [`classify_mistakes`].
        file_format (`str`, *optional*, defaults to `"parquet"`):
            `"parquet"` or `"jsonl"`. JSON Lines are read with the eyes, but `load_dataset` guesses their types: answers
            that are all dates, such as 2030-01-02, are no text to it.
        push_to_hub (`bool`, *optional*, defaults to `False`):
            Whether to push the folder to the Hub as a dataset.
        hub_dataset_id (`str`, *optional*):
            Name of that dataset. Defaults to the name of `output_dir`.
        hub_private_repo (`bool`, *optional*, defaults to `False`):
            Whether that dataset is private.

    Raises:
        ValueError: If an option cannot work.
    """

    output_dir: str = "dual_cots"
    num_samples: int = 1
    num_examples: int = 3
    max_attempts: int = 3
    min_similarity: float = 0.5
    max_similarity: float = 0.98
    max_length: int = 1024
    tokenizer: str | None = None
    examples: str | None = None
    examples_seed: int = 0
    task_description: str = ""
    template_dir: str | None = None
    classify_mistakes: bool = False
    file_format: str = "parquet"
    push_to_hub: bool = False
    hub_dataset_id: str | None = None
    hub_private_repo: bool = False

    def __post_init__(self) -> None:
        for name, least in (("num_samples", 1), ("num_examples", 0), ("max_attempts", 1), ("max_length", 1)):
            if getattr(self, name) < least:
                raise ValueError(
                    f"`{name}` must be at least {least}, got {getattr(self, name)}. Leave it out for the default."
                )
        if not 0 <= self.min_similarity < self.max_similarity <= 1:
            raise ValueError(
                "`min_similarity` and `max_similarity` must lie between 0 and 1, in this order, got "
                f"{self.min_similarity} and {self.max_similarity}. They are shares of the longer chain; pass 0 and 1 to "
                "keep pairs of any likeness."
            )
        if self.file_format not in ("parquet", "jsonl"):
            raise ValueError(
                f"`file_format` must be 'parquet' or 'jsonl', got {self.file_format!r}. Pass one of them."
            )


@dataclass
class SynthesisResult:
    """
    What [`synthesize`] made.

    Args:
        pairs ([`~datasets.Dataset`]):
            Preference dataset: `prompt`, `chosen`, `rejected`, `answer`, `task`, `origin` (`"rectified"` or
            `"corrupted"`), `similarity`, `key_token_ratio`, `teacher`, `prompt_version`, and `mistake_kinds` if asked for.
        sft ([`~datasets.Dataset`]):
            Prompt-completion dataset for stage 1: the right chains of the first step, and the rectified ones.
        rejected ([`~datasets.Dataset`]):
            What was not used: `question`, `answer`, `task`, `step`, `reject_reason`, `chain` (the first step's),
            `reply` and `detail`.
        report (`dict`):
            Counts by step, origin, reason and task, means, usage and cost.
    """

    pairs: Any
    sft: Any
    rejected: Any
    report: dict[str, Any]


@dataclass
class _Chain:
    """A question on its way through the steps, and what the teacher made of it."""

    question: str
    answer: str
    task: str | None
    task_description: str
    sample: int
    examples: list[dict[str, Any]] | None  # to show; none before the budget allows to draw them
    text: str = ""  # of the first step
    is_right: bool = False
    other: str = ""  # of the second step: rectified or corrupted

    @property
    def prompt(self) -> str:
        """The student's."""
        return student_prompt(self.question, self.task_description)

    @property
    def sides(self) -> tuple[str, str]:
        """The right chain and the wrong one."""
        return (self.text, self.other) if self.is_right else (self.other, self.text)


# Called with the name of a step, counts by outcome, and how many of how many chains are done.
Progress = Callable[[str, "Counter[str]", int, int], None]


def synthesize(
    questions: Iterable[dict[str, Any]],
    client: ChatClient,
    config: SynthesisConfig | None = None,
    on_progress: Progress | None = None,
) -> SynthesisResult:
    """
    Make dual chains-of-thought for some questions. Writes no files, see [`~dataset_files.save_dual_cots`].

    Args:
        questions ([`~datasets.Dataset`] or `Iterable[dict]`):
            Questions with `question` and `answer`, both text; optionally `task` and `task_description`.
        client ([`~chat.ChatClient`]):
            The teacher.
        config ([`SynthesisConfig`], *optional*):
            Options.
        on_progress (`Callable`, *optional*):
            Called after each chain of each step with the step's name (one of `STEPS`), counts by outcome (`"kept"` or
            a reject reason), the number of chains done and the number of chains.

    Returns:
        [`SynthesisResult`]: The datasets and a report. If the client's budget was reached, what there is so far, and
        the reason as `report["stopped"]`; the same call with a larger budget goes on.

    Raises:
        EndpointError: If the endpoint fails for all requests. Replies so far are in the store.
        TypeError: If the questions are not rows.
        ValueError: If questions, examples or prompts lack something.

    Examples:

    ```python
    from edit_trl.chat import ChatClient
    from edit_trl.synthesis import synthesize

    teacher = ChatClient("Qwen/Qwen3-8B", "http://localhost:8000/v1", api_key_env=None, store="replies.sqlite")
    result = synthesize([{"question": "What is 17 + 25?", "answer": "42"}], teacher)
    ```
    """
    run = _Synthesis(questions, client, config or SynthesisConfig(), on_progress)
    run.ask()
    return run.result()


def estimate_requests(
    questions: Iterable[dict[str, Any]], client: ChatClient, config: SynthesisConfig
) -> dict[str, dict]:
    """
    What [`synthesize`] would ask for, without asking: each step once for each chain that could come to it.

    Every chain goes through the first step and one of the others, and maybe the classification. A token is taken as four
    bytes, and a reply to be as long as the worked examples. Replies that the store holds already are counted as well.

    Args:
        questions, client, config:
            As for [`synthesize`].

    Returns:
        `dict[str, dict]`: For each step `requests`, `prompt_tokens`, `completion_tokens` and `cost` (`None` without
        prices); for `"least"` and `"most"` the same of a whole run in which every first reply passes and every second
        step is the cheaper or the dearer one; for `"limit"` that of a run in which all attempts are needed.
    """
    run = _Synthesis(questions, client, config, None)
    texts = [example["chosen"] for chain in run.chains for example in chain.examples or ()] or ["x" * 400]
    reply = max(texts, key=len)
    length = round(statistics.mean(estimate_tokens([{"content": text}]) for text in texts))
    wrong = [example for example in run.examples if example.get("rejected")][: config.num_examples]
    totals: dict[str, list[int]] = {}
    for step in STEPS:
        prompt_tokens = 0
        for chain in run.chains:
            chain.text = reply
            if step == "corrupt":
                chain.examples = wrong
            prompt_tokens += estimate_tokens(run.messages(step, chain))
        totals[step] = [len(run.chains), prompt_tokens, len(run.chains) * length]
    every = [totals["extract"]]
    if config.classify_mistakes:
        prompts = (
            run.prompts.render("mistake", prompt=chain.prompt, chosen=reply, rejected=reply) for chain in run.chains
        )
        totals["classify"] = [len(run.chains), sum(map(estimate_tokens, prompts)), len(run.chains) * length]
        every.append(totals["classify"])
    second = sorted(
        [totals["rectify"], totals["corrupt"]], key=lambda total: client.price(total[1], total[2]) or total[1]
    )
    totals["least"], totals["most"] = ([sum(x) for x in zip(*every, other, strict=True)] for other in second)
    totals["limit"] = [run.max_attempts * x for x in totals["most"]]
    return {
        name: {
            "requests": total[0],
            "prompt_tokens": total[1],
            "completion_tokens": total[2],
            "cost": client.price(total[1], total[2]),
        }
        for name, total in totals.items()
    }


class _Synthesis:
    """One run of the recipe."""

    def __init__(self, questions: Any, client: ChatClient, config: SynthesisConfig, on_progress: Progress | None):
        self.client = client
        self.config = config
        self.on_progress = on_progress
        self.prompts = Prompts(config.template_dir)
        self.examples = load_examples(config.examples) if config.examples else shipped_examples()
        self.tokenize: Callable[[str], list] = str.split
        if config.tokenizer is not None:
            tokenizer = load_tokenizer("tokenizer", config.tokenizer)
            self.tokenize = lambda text: tokenizer(text, add_special_tokens=False)["input_ids"]
        # Without randomness the same reply would come again.
        self.max_attempts = 1 if client.temperature == 0 else config.max_attempts
        self.chains = [
            _Chain(
                row["question"],
                row["answer"],
                row["task"],
                row["task_description"] or config.task_description,
                sample,
                pick_examples(self.examples, row["question"], row["task"], config.num_examples),
            )
            for row in normalize_questions(questions)
            for sample in range(config.num_samples)
        ]
        self.answered: list[_Chain] = []
        self.pairs: list[_Chain] = []
        self.rejected: list[dict[str, Any]] = []
        self.num_asked: dict[str, int] = {}
        self.notes: list[str] = []
        self.stopped: str | None = None

    def ask(self) -> None:
        self.answered = self._step("extract", self.chains)
        for chain in self.answered:
            chain.is_right = answers_match(extract_answer(chain.text), chain.answer)
        right = [chain for chain in self.answered if chain.is_right]
        pairs = self._step("rectify", [chain for chain in self.answered if not chain.is_right])
        self._draw_examples(right, pairs)
        pairs += self._step("corrupt", right)
        seen = set()
        for chain in pairs:
            if (chain.prompt, *chain.sides) in seen:
                self._reject(chain, "corrupt" if chain.is_right else "rectify", "duplicate", reply=chain.other)
            else:
                self.pairs.append(chain)
            seen.add((chain.prompt, *chain.sides))

    def messages(self, step: str, chain: _Chain) -> list[dict[str, str]]:
        values: dict[str, Any] = {
            "task_description": chain.task_description,
            "examples": chain.examples,
            "question": chain.question,
        }
        if step == "extract":
            return self.prompts.render("cot", **values)
        name = "answer_hint" if step == "rectify" else "contrastive_cot"
        return self.prompts.render(name, **values, answer=chain.answer, response=chain.text)

    def _step(self, step: str, chains: list[_Chain]) -> list[_Chain]:
        """Ask about all chains. Returns those with a reply that passes the checks, and records the others."""
        outcomes: Counter[str] = Counter()
        self.num_asked[step] = len(chains)

        async def work(chain: _Chain) -> tuple[str, str, str]:
            outcome = text = detail = ""
            try:
                if chain.examples is None:
                    raise BudgetReached(self.stopped)
                messages = self.messages(step, chain)
                for attempt in range(self.max_attempts):
                    reply = await self.client.chat(messages, chain.sample + attempt * self.config.num_samples)
                    text, detail = clean(reply.text), f"finish reason: {reply.finish_reason}"
                    outcome = self._check(step, chain, text, reply.finish_reason) or "kept"
                    if outcome == "kept":
                        break
            except BudgetReached as error:
                outcome, detail = "not_asked", str(error)
                self.stopped = detail
            except EndpointError as error:
                if error.is_fatal:
                    raise
                outcome, detail = "endpoint_error", str(error)
            outcomes[outcome] += 1
            if self.on_progress is not None:
                self.on_progress(step, outcomes, outcomes.total(), len(chains))
            return outcome, text, detail

        results: list[Any] = self.client.for_each(chains, work) if chains else []
        kept = []
        for chain, (outcome, text, detail) in zip(chains, results, strict=True):
            if outcome != "kept":
                self._reject(chain, step, outcome, text, detail)
                continue
            if step == "extract":
                chain.text = text
            else:
                chain.other = text
            kept.append(chain)
        return kept

    def _check(self, step: str, chain: _Chain, text: str, finish_reason: str | None) -> str | None:
        """Why a reply is not good enough."""
        if finish_reason == "length":
            return "cut"
        if finish_reason not in ("stop", None):
            return "not_finished"
        answer = extract_answer(text)
        if answer is None:
            return "unparsed"
        if len(reasoning(text).split()) < _MIN_WORDS:
            return "no_reasoning"
        if len(self.tokenize(f"{chain.prompt} {text}")) > self.config.max_length:
            return "too_long"
        if step == "extract":
            return None
        is_right = answers_match(answer, chain.answer)
        if is_right != (step == "rectify"):
            return "still_right" if is_right else "still_wrong"
        if leaks_prompt(text, allowed=f"{chain.question} {chain.text}"):
            return "leaks_prompt"
        if reasoning(text).split() == reasoning(chain.text).split():
            return "only_answer_differs"
        share = similarity(chain.text.split(), text.split())
        if share < self.config.min_similarity:
            return "too_different"
        return "too_similar" if share > self.config.max_similarity else None

    def _draw_examples(self, right: list[_Chain], rectified: list[_Chain]) -> None:
        """Examples of the contrastive prompts: of this run's own rectified pairs, if there are enough."""
        number = self.config.num_examples
        by_question: dict[str, dict[str, Any]] = {}  # samples of one question are often alike
        for chain in sorted(rectified, key=lambda chain: (chain.question, chain.sample)):
            example = {"answer": chain.answer, "chosen": chain.other, "rejected": chain.text}
            by_question.setdefault(chain.question, {"question": chain.question, **example})
        own = list(by_question.values())
        # One more, since a question is no example for itself.
        is_own = len(own) > number
        given = [example for example in self.examples if example.get("rejected")]
        # Stopped before, the rectified pairs are not all there, and nothing can be drawn from them.
        is_complete = self.stopped is None
        if right and number and is_complete and not is_own:
            self.notes.append(
                f"{len(own)} rectified questions are too few to draw {number} examples for the contrastive prompt from; "
                f"{'those of `examples`' if self.config.examples else 'those that come with the package'} were used."
            )
            if len(given) <= number:
                raise ValueError(
                    f"The contrastive prompt needs more than {number} examples with `rejected`, got {len(given)}, and this "
                    f"run has only {len(own)} rectified questions of its own. Add wrong chains to the file of `examples`, or "
                    "lower `num_examples`. The replies so far are in the store."
                )
        source = _digest([self.config.examples_seed, number, self.prompts.version, self.examples])
        for chain in right:
            # Whatever pairs are made later, a question was asked about with the examples that were drawn first.
            name = f"examples/{_digest([chain.question, chain.sample, source])}"
            keys = self.client.remember(name)
            if keys is None and is_complete:
                if is_own:
                    rng = random.Random(f"{self.config.examples_seed}/{chain.sample}/{chain.question}")
                    drawn = rng.sample([example for example in own if example["question"] != chain.question], number)
                else:
                    drawn = pick_examples(given, chain.question, chain.task, number)
                keys = [f"example/{_digest(example)}" for example in drawn]
                for key, example in zip(keys, drawn, strict=True):
                    self.client.remember(key, example)
                self.client.remember(name, keys)
            chain.examples = None if keys is None else [self.client.remember(key) for key in keys]

    def _reject(self, chain: _Chain, step: str, reason: str, reply: str = "", detail: str = "") -> None:
        self.rejected.append(
            {
                "question": chain.question,
                "answer": chain.answer,
                "task": chain.task,
                "step": step,
                "reject_reason": reason,
                "chain": chain.text,
                "reply": reply,
                "detail": detail,
            }
        )

    # What comes out

    def result(self) -> SynthesisResult:
        pairs = _to_dataset(
            [self._pair(chain) for chain in self.pairs],
            {"similarity": "float64", "key_token_ratio": "float64"},
            ("prompt", "chosen", "rejected", "answer", "task", "origin", "similarity", "key_token_ratio")
            + ("teacher", "prompt_version"),
        )
        right = [(chain, chain.text, "right") for chain in self.answered if chain.is_right]
        rectified = [(chain, chain.other, "rectified") for chain in self.pairs if not chain.is_right]
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
        sft = _to_dataset(list(rows.values()), {}, ("prompt", "completion", "answer", "task", "origin"))
        columns = ("question", "answer", "task", "step", "reject_reason", "chain", "reply", "detail")
        rejected = _to_dataset(self.rejected, {}, columns)
        if self.config.classify_mistakes and len(pairs):
            from .mistakes import classify_mistakes

            pairs = classify_mistakes(
                pairs, self.client, self.config.template_dir, self.config.max_attempts, self.on_progress
            )
            missing = sum(kinds is None for kinds in pairs["mistake_kinds"])
            if missing:
                self.notes.append(
                    f"{missing} of {len(pairs)} pairs have no `mistake_kinds`: no verdict could be read, or the budget "
                    "was reached."
                )
        return SynthesisResult(pairs, sft, rejected, self._report(pairs))

    def _pair(self, chain: _Chain) -> dict[str, Any]:
        chosen, rejected = chain.sides
        tokens = [self.tokenize(f" {text}") for text in chain.sides]
        alignment = align(*tokens)
        return {
            "prompt": chain.prompt,
            "chosen": f" {chosen}",
            "rejected": f" {rejected}",
            "answer": chain.answer,
            "task": chain.task,
            "origin": "corrupted" if chain.is_right else "rectified",
            "similarity": round(similarity(*tokens), 4),
            "key_token_ratio": round(
                (sum(alignment.chosen_key) + sum(alignment.rejected_key)) / sum(map(len, tokens)), 4
            ),
            "teacher": self.client.model,
            "prompt_version": self.prompts.version,
        }

    def _report(self, pairs: Any) -> dict[str, Any]:
        steps = {}
        for step, num in self.num_asked.items():
            reasons = Counter(row["reject_reason"] for row in self.rejected if row["step"] == step)
            steps[step] = {"chains": num, "kept": num - sum(reasons.values()), "rejected": dict(reasons.most_common())}
        rows = pairs.remove_columns([name for name in pairs.column_names if name in ("chosen", "rejected")])
        by_task: dict[str, Counter[str]] = {chain.task or "": Counter() for chain in self.chains}
        for chain in self.chains:
            by_task[chain.task or ""]["chains"] += 1
        for row in rows:
            by_task[row["task"] or ""][row["origin"]] += 1
        means = {
            name: round(statistics.mean(rows[name]), 4) if len(rows) else None
            for name in ("similarity", "key_token_ratio")
        }
        return {
            "pairs": len(rows),
            "origin": dict(Counter(rows["origin"])),
            "steps": steps,
            "tasks": {task: dict(counts) for task, counts in by_task.items()},
            **means,
            "counted_in": "tokens" if self.config.tokenizer else "words",
            "teacher": self.client.model,
            "base_url": self.client.base_url,
            "sampling": {name: getattr(self.client, name) for name in ("temperature", "top_p", "max_tokens", "seed")},
            "prompt_version": self.prompts.version,
            "usage": asdict(self.client.usage),
            "cost": self.client.cost,
            "notes": self.notes,
            "stopped": self.stopped,
        }


def load_tokenizer(option: str, name: str) -> Any:
    """
    A tokenizer by name.

    Args:
        option (`str`):
            Option that the name was given with, for the error.
        name (`str`):
            Name or folder.

    Returns:
        [`~transformers.PreTrainedTokenizerBase`]: The tokenizer.

    Raises:
        ValueError: If there is none.
    """
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(name)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"`{option}` must be the name or folder of a tokenizer, got {name!r} ({error}). Pass the student's, or leave it "
            "out to count words."
        ) from error


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _to_dataset(rows: list[dict[str, Any]], dtypes: dict[str, str], columns: tuple[str, ...]) -> Any:
    """A dataset with the same columns and types however few rows there are."""
    from datasets import Dataset, Features, Value

    features = Features({name: Value(dtypes.get(name, "string")) for name in columns})
    return (
        Dataset.from_list(rows, features=features) if rows else Dataset.from_dict({c: [] for c in columns}, features)
    )
