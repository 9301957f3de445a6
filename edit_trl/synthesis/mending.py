"""
Turn a student's own mistakes into dual chains-of-thought.

A student that was trained in stage 1 is asked questions with known answers, several times each. `edit_trl.evaluation`
writes such replies to `generations.jsonl`, and they are taken from there as they are. Each wrong reply is mended with
the least change: it is copied up to its first mistake, the mistake is put right, and the rest continues in the same
words. The mended chain and the reply are a pair, whose mistake is one that this student makes.

A teacher mends with the prompt `mend.txt`. If a program can solve the questions, it can mend too: any function of the
question, the wrong chain and the answer. Both chains are checked as in [`synthesize`], and the dataset has the same
form. [`mix_with_replay`] puts chains of stage 1 beside the pairs, so that the student keeps what it learned from them.
"""

import hashlib
import itertools
import json
import random
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ..answers import answers_match, extract_answer
from ..chat import (
    BudgetReached,
    ChatClient,
    EndpointError,
    Usage,
    estimate_tokens,
    has_half_character,
    plain_text,
)
from ..option_help import help_from_docstring
from ..token_texts import load_tokenizer
from ..words import words
from .checks import chain_reject_reason, clean, pair_reject_reason, plain_question
from .config import Progress, SynthesisConfig
from .mistakes import classify_mistakes
from .prompts import Prompts, load_examples, pick_examples, shipped_examples
from .results import Chain, Record, SynthesisResult, make_report, pairs_dataset, rejected_dataset, sft_dataset
from .shards import Shards, synthesis_settings


if TYPE_CHECKING:
    from datasets import Dataset

# Mends a wrong chain: takes the question, the chain and the right answer, and returns a right chain, or `None`.
Mender = Callable[[str, str, str], str | None]

# Reasons that only mending has, and what one of `REJECT_REASONS` means here.
MENDING_REASONS = {
    "never_right": "the student answered the question right in none of its replies (`sometimes_right`)",
    "not_mended": "the function that mends gave no chain",
    "still_wrong": "the chain was mended, but its answer is still wrong",
}

# Where a student goes on with the next question.
_NEXT_QUESTION = re.compile(r"\n\s*Q:")


@help_from_docstring
@dataclass
class MendingConfig(SynthesisConfig):
    """
    Options of [`mend_mistakes`] and of the command `edit-trl mend`.

    Those that are not described here are options of [`SynthesisConfig`]: `num_examples`, `max_attempts`,
    `min_similarity`, `max_similarity`, `max_length`, `tokenizer`, `examples`, `task_description`, `template_dir`,
    `classify_mistakes`, `file_format`, `push_to_hub`, `hub_dataset_id` and `hub_private_repo`. Its `num_samples` and
    `examples_seed` have no use here and cannot be set: the samples are the student's replies.

    Args:
        output_dir (`str`, *optional*, defaults to `"own_mistakes"`):
            Folder for the dataset, its card, and the records of rejected chains.
        sometimes_right (`bool`, *optional*, defaults to `False`):
            Whether to use only questions that the student answered right at least once.
        replay_share (`float`, *optional*, defaults to `0.5`):
            Share of the rows of the mix that repeat chains of stage 1.
        replay_seed (`int`, *optional*, defaults to `0`):
            Seed of the draw and the order of the rows of the mix.

    Raises:
        ValueError: If an option has a value that cannot work.
    """

    output_dir: str = "own_mistakes"
    sometimes_right: bool = False
    replay_share: float = 0.5
    replay_seed: int = 0
    # Without a use here: the student's replies are the samples, and the examples of the prompt are not drawn.
    num_samples: int = field(default=1, init=False)
    examples_seed: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.replay_share < 1:
            raise ValueError(
                f"`replay_share` must lie between 0 and 1, got {self.replay_share}. It is the share of rows that "
                "repeat chains of stage 1; pass 0.5 for as many of them as pairs."
            )


@dataclass
class _Replies:
    """The replies of a student, sorted: wrong ones as chains to mend, and counts of all."""

    chains: list[Chain]
    counts: Counter[str]
    right_shares: dict[str, float]


@dataclass(frozen=True)
class _Program:
    """What the report needs to know of a function that mends, under the names that a client has."""

    model: str
    base_url: None = None
    cost: None = None

    @property
    def sampling(self) -> dict[str, Any]:
        return dict.fromkeys(("temperature", "top_p", "max_tokens", "seed"))

    @property
    def refused(self) -> list[str]:
        return []

    @property
    def usage(self) -> Usage:
        return Usage()


def mend_mistakes(
    replies: Iterable[Mapping[str, Any]],
    mender: ChatClient | Mender,
    config: MendingConfig | None = None,
    on_progress: Progress | None = None,
    shards: Shards | None = None,
) -> SynthesisResult:
    """
    Make dual chains-of-thought from the wrong replies of a student.

    Whether a reply is wrong is read from it again. A wrong reply that the student gave several times is used once.

    Args:
        replies ([`~datasets.Dataset`] or `Iterable[dict]`):
            Replies with `question`, `answer` and `text`; optionally `task`, `task_description` and `finish_reason`.
            These are the rows of `generations.jsonl` of [`~evaluation.evaluate`]. The right replies count too: with
            `sometimes_right`, they say which questions are used.
        mender ([`~chat.ChatClient`] or `Callable`):
            The teacher; or a function that gets the question, the wrong chain and the answer, and returns the mended
            chain, or `None` if it cannot mend it.
        config ([`MendingConfig`], *optional*):
            Options.
        on_progress (`Callable`, *optional*):
            Called after each chain with `"mend"`, counts by outcome (`"kept"` or a reject reason), the number of
            chains done and the number of chains.
        shards ([`Shards`], *optional*):
            Where several workers share the questions, as for [`synthesize`]. The mender must be a client.

    Returns:
        [`SynthesisResult`]: The pairs, with the origin `"student"` and `right_share`, the share of the student's
        replies to the question that were right; the mended chains for SFT; the chains that were not used; and a report
        with counts, `"student"` among them. [`~dataset_files.save_dual_cots`] writes them to files. If the client's
        budget was reached, `report["stopped"]` has the reason, and the same call with a larger budget continues.

    Raises:
        EndpointError: If the endpoint fails for all requests. The replies so far are in the store.
        TypeError: If the replies are not rows, or a function returns something else than text.
        ValueError: If a reply lacks a text, there is none, a question has two answers, a function should classify
            mistakes or has shards, or the shards do not fit together.

    Examples:

    ```python
    >>> from edit_trl.synthesis import mend_mistakes

    >>> def add_again(question, wrong_chain, answer):
    ...     return wrong_chain.replace("6", answer)

    >>> reply = {"question": "What is 2 + 3?", "answer": "5", "text": " 2 + 3 = 6. Therefore, the answer is 6."}
    >>> pair = mend_mistakes([reply], add_again).pairs[0]
    >>> pair["chosen"], pair["rejected"]
    (' 2 + 3 = 5. Therefore, the answer is 5.', ' 2 + 3 = 6. Therefore, the answer is 6.')

    ```
    """
    return _Mending(config or MendingConfig()).run(replies, mender, on_progress, shards)


def estimate_mending(
    replies: Iterable[Mapping[str, Any]], client: ChatClient, config: MendingConfig
) -> dict[str, dict[str, Any]]:
    """
    Estimate the requests of [`mend_mistakes`] without sending them. It assumes four bytes per token and replies as
    long as the student's, and also counts replies that are already in the store.

    Args:
        replies, client, config:
            As for [`mend_mistakes`].

    Returns:
        `dict[str, dict]`: `requests`, `prompt_tokens`, `completion_tokens` and `cost` (`None` without prices): of one
        attempt for each wrong reply (`"least"`), and if all attempts are needed (`"limit"`).
    """
    mending = _Mending(config)
    chains = mending.sort(replies, Record([])).chains
    totals = [
        len(chains),
        sum(estimate_tokens(mending.messages(chain)) for chain in chains),
        sum(estimate_tokens([{"content": chain.first}]) for chain in chains),
    ]
    names = ("requests", "prompt_tokens", "completion_tokens")
    estimates = {}
    for name, factor in (("least", 1), ("limit", client.num_attempts(config.max_attempts))):
        numbers = [factor * total for total in totals]
        estimates[name] = {**dict(zip(names, numbers, strict=True)), "cost": client.price(*numbers[1:])}
    return estimates


def mix_with_replay(
    pairs: "Dataset", completions: Iterable[Mapping[str, Any]], replay_share: float = 0.5, seed: int = 0
) -> "Dataset":
    """
    Put chains of stage 1 beside pairs, as rows without a rejected chain, in random order.

    [`EDITTrainer`] trains such a mix in one run, with `completion_weight=1.0`.

    Args:
        pairs ([`~datasets.Dataset`]):
            Pairs with `prompt`, `chosen` and `rejected`.
        completions ([`~datasets.Dataset`] or `Iterable[dict]`):
            Chains with `prompt` and `completion`.
        replay_share (`float`, *optional*, defaults to `0.5`):
            Share of the rows of the mix that are completions. Each is there about equally often, and more than once if
            there are too few.
        seed (`int`, *optional*, defaults to `0`):
            Seed of the draw and of the order.

    Returns:
        [`~datasets.Dataset`]: All pairs, and completions, with the columns of the pairs and `completion`.

    Raises:
        ValueError: If there are no completions, one lacks a text, or `replay_share` is not between 0 and 1.

    Examples:

    ```python
    >>> from datasets import Dataset
    >>> from edit_trl.synthesis import mix_with_replay

    >>> pairs = Dataset.from_list([{"prompt": "Q: 2 + 3?", "chosen": " 5", "rejected": " 6"}])
    >>> mix = mix_with_replay(pairs, [{"prompt": "Q: 1 + 1?", "completion": " 2"}])
    >>> sorted(mix["prompt"])
    ['Q: 1 + 1?', 'Q: 2 + 3?']

    ```
    """
    from datasets import Dataset, Features, Value

    if not 0 < replay_share < 1:
        raise ValueError(
            f"`replay_share` must lie between 0 and 1, got {replay_share}. It is the share of rows that repeat chains "
            "of stage 1; pass 0.5 for as many of them as pairs."
        )
    chains = [{"prompt": row.get("prompt"), "completion": row.get("completion")} for row in completions]
    bad = next((number for number, row in enumerate(chains) if not all(map(_is_text, row.values()))), None)
    if bad is not None or not chains:
        found = "none" if bad is None else f"row {bad} without one of them, or with half a character in one"
        raise ValueError(
            f"`completions` must have the texts `prompt` and `completion`, got {found}. Pass the data of stage 1, "
            "such as `sft.parquet` of a synthesis."
        )
    rng = random.Random(seed)
    rounds = (rng.sample(chains, len(chains)) for _ in itertools.count())
    number = round(len(pairs) * replay_share / (1 - replay_share))
    replayed = list(itertools.islice(itertools.chain.from_iterable(rounds), number))
    features = Features({**pairs.features, "completion": Value("string")})
    empty = dict.fromkeys(features)
    rows = [{**empty, **row} for row in [*pairs.to_list(), *replayed]]
    rng.shuffle(rows)
    if not rows:
        return Dataset.from_dict({name: [] for name in features}, features)
    return Dataset.from_list(rows, features=features)


class _Mending:
    """One run of the recipe."""

    def __init__(self, config: MendingConfig) -> None:
        self.config = config
        self.prompts = Prompts(config.template_dir)
        examples = load_examples(config.examples) if config.examples else shipped_examples()
        self.examples = [example for example in examples if example.get("rejected")]
        self.tokenize: Callable[[str], list] = words
        if config.tokenizer is not None:
            tokenizer = load_tokenizer("tokenizer", config.tokenizer)
            self.tokenize = lambda text: tokenizer(text, add_special_tokens=False)["input_ids"]

    def run(
        self,
        replies: Iterable[Mapping[str, Any]],
        mender: ChatClient | Mender,
        on_progress: Progress | None,
        shards: Shards | None,
    ) -> SynthesisResult:
        record = Record([])
        sorted_replies = self.sort(replies, record)
        record.chains = sorted_replies.chains
        if shards is not None:
            record.notes = _begin(self, shards, mender, record.chains)
            own = set(shards.part(sorted_replies.right_shares, str))
            record.chains = [chain for chain in record.chains if chain.question in own]
        record.num_asked["mend"] = len(record.chains)
        if isinstance(mender, ChatClient):
            self._ask(mender, record, on_progress)
            pairs = self._pairs(record, sorted_replies, mender.model, self.prompts.mend_version)
            if self.config.classify_mistakes and len(pairs):
                options = (self.config.template_dir, self.config.max_attempts, on_progress)
                pairs = classify_mistakes(pairs, mender, *options)
            if shards is not None and shards.is_worker and record.stopped is None:
                shards.finish()
            return self._result(record, sorted_replies, pairs, mender, self.prompts.mend_version)
        if self.config.classify_mistakes:
            raise ValueError(
                "`classify_mistakes` needs a teacher, got a function that mends. Call "
                "`classify_mistakes(result.pairs, client)` afterwards."
            )
        program = _Program(getattr(mender, "__name__", type(mender).__name__))
        self._call(mender, record, on_progress)
        pairs = self._pairs(record, sorted_replies, program.model, "")
        return self._result(record, sorted_replies, pairs, program, "")

    def sort(self, replies: Iterable[Mapping[str, Any]], record: Record) -> _Replies:
        """Sort the replies into right ones, wrong ones to mend, and others, which the `record` gets."""
        counts: Counter[str] = Counter()
        chains: list[Chain] = []
        num_replies: Counter[str] = Counter()
        num_right: Counter[str] = Counter()
        answers: dict[str, str] = {}
        seen: set[tuple[str, str]] = set()
        for number, row in enumerate(replies):
            chain, finish_reason = _read(number, row, self.config, self.examples)
            question = chain.question
            if answers.setdefault(question, chain.answer) != chain.answer:
                raise ValueError(
                    f"Each question must have one answer, but row {number} has {chain.answer!r} and an earlier one "
                    f"{answers[question]!r} for {question[:60]!r}. One of the two would be mended to a wrong chain; "
                    "correct the answers."
                )
            num_replies[question] += 1
            if answers_match(extract_answer(chain.first), chain.answer):
                num_right[question] += 1
                counts["right"] += 1
            elif (question, chain.first) in seen:
                counts["repeated"] += 1
            else:
                seen.add((question, chain.first))
                num_tokens = len(self.tokenize(f"{chain.prompt} {chain.first}"))
                reason = chain_reject_reason(chain.first, finish_reason, num_tokens, self.config.max_length)
                counts["wrong" if reason is None else "unusable"] += 1
                if reason is None:
                    chains.append(chain)
                else:
                    record.reject(chain, "select", reason)
        if not answers:
            raise ValueError(
                "`replies` must hold at least one reply of the student, got none. Make them with `evaluate`, or "
                "`edit-trl evaluate --num_paths 8 --temperature 1`."
            )
        if self.config.sometimes_right:
            for chain in chains:
                if not num_right[chain.question]:
                    record.reject(chain, "select", "never_right")
            chains = [chain for chain in chains if num_right[chain.question]]
        record.num_asked["select"] = counts["wrong"] + counts["unusable"]
        counts["questions"], counts["replies"] = len(answers), num_replies.total()
        shares = {question: num_right[question] / number for question, number in num_replies.items()}
        return _Replies(chains, counts, shares)

    def messages(self, chain: Chain) -> list[dict[str, str]]:
        return self.prompts.render(
            "mend",
            task_description=chain.task_description,
            examples=chain.examples,
            question=chain.question,
            answer=chain.answer,
            response=chain.first,
        )

    def _check(self, chain: Chain, text: str, finish_reason: str | None) -> str | None:
        """Return why a mended chain is not good enough, or `None` if it is."""
        num_tokens = len(self.tokenize(f"{chain.prompt} {text}"))
        reason = chain_reject_reason(text, finish_reason, num_tokens, self.config.max_length)
        limits = (self.config.min_similarity, self.config.max_similarity)
        return reason or pair_reject_reason(text, chain.first, chain.question, chain.answer, True, *limits)

    def _ask(self, client: ChatClient, record: Record, on_progress: Progress | None) -> None:
        """Let the teacher mend all chains."""
        outcomes: Counter[str] = Counter()

        async def work(chain: Chain) -> tuple[str, str, str]:
            outcome = text = detail = ""
            try:
                for attempt in range(client.num_attempts(self.config.max_attempts)):
                    reply = await client.chat(self.messages(chain), attempt)
                    text, detail = clean(reply.text), f"finish reason: {reply.finish_reason}"
                    outcome = self._check(chain, text, reply.finish_reason) or "kept"
                    if outcome == "kept":
                        break
            except BudgetReached as error:
                outcome, detail = "not_asked", str(error)
                record.stopped = detail
            except EndpointError as error:
                if error.is_fatal:
                    raise
                outcome, detail = "endpoint_error", str(error)
            outcomes[outcome] += 1
            if on_progress is not None:
                on_progress("mend", outcomes, outcomes.total(), len(record.chains))
            return outcome, text, detail

        results: list[Any] = client.for_each(record.chains, work) if record.chains else []
        for chain, (outcome, text, detail) in zip(record.chains, results, strict=True):
            self._keep(record, chain, outcome, text, detail)

    def _call(self, mend: Mender, record: Record, on_progress: Progress | None) -> None:
        """Let a function mend all chains."""
        outcomes: Counter[str] = Counter()
        for chain in record.chains:
            text = mend(chain.question, chain.first, chain.answer)
            if text is not None and not isinstance(text, str):
                raise TypeError(
                    f"`mender` must return the mended chain as text, or `None`, got {type(text).__name__}. Return "
                    "`None` for a chain that it cannot mend."
                )
            text = plain_text(text or "").strip()
            outcome = (self._check(chain, text, None) or "kept") if text else "not_mended"
            outcomes[outcome] += 1
            if on_progress is not None:
                on_progress("mend", outcomes, outcomes.total(), len(record.chains))
            self._keep(record, chain, outcome, text, "")

    @staticmethod
    def _keep(record: Record, chain: Chain, outcome: str, text: str, detail: str) -> None:
        if outcome == "kept":
            chain.second = text
            record.pairs.append(chain)
        else:
            record.reject(chain, "mend", outcome, text, detail)

    def _pairs(self, record: Record, replies: _Replies, teacher: str, version: str) -> "Dataset":
        from datasets import Value

        pairs = pairs_dataset(record, self.tokenize, teacher, version)
        shares = [replies.right_shares[chain.question] for chain in record.pairs]
        return _with_origin(pairs).add_column("right_share", shares, feature=Value("float64"))

    def _result(
        self, record: Record, replies: _Replies, pairs: "Dataset", teacher: Any, version: str
    ) -> SynthesisResult:
        report = make_report(record, pairs, teacher, "tokens" if self.config.tokenizer else "words", version)
        names = ("questions", "replies", "right", "wrong", "repeated", "unusable")
        report["student"] = {name: replies.counts[name] for name in names}
        # In the order in which they happen.
        report["steps"] = {name: report["steps"][name] for name in ("select", "mend")}
        return SynthesisResult(pairs, _with_origin(sft_dataset(record)), rejected_dataset(record), report)


def _begin(mending: _Mending, shards: Shards, mender: Any, chains: list[Chain]) -> list[str]:
    """Begin a run of several workers. Returns notes about it."""
    if not isinstance(mender, ChatClient):
        raise ValueError(f"`shards` need a teacher, got the function {mender!r}, which asks nobody. Leave them out.")
    texts = json.dumps([[chain.question, chain.answer, chain.task_description, chain.first] for chain in chains])
    settings = synthesis_settings(mender, mending.config, mending.prompts.mend_version, mending.examples)
    return shards.begin(mender, {"replies": hashlib.sha256(texts.encode()).hexdigest()[:8], **settings})


def _read(
    number: int, row: Mapping[str, Any], config: MendingConfig, examples: list[dict[str, Any]]
) -> tuple[Chain, str | None]:
    """Make a chain of a row."""
    if not isinstance(row, Mapping):
        raise TypeError(
            f"`replies` must be rows with `question`, `answer` and `text`, got {row!r:.80}. Pass the rows of "
            "`generations.jsonl`."
        )
    texts = {name: row.get(name) for name in ("question", "answer", "text")}
    missing = [name for name, text in texts.items() if not isinstance(text, str)]
    missing += [name for name in ("question", "answer") if name not in missing and not str(texts[name]).strip()]
    if missing:
        raise ValueError(
            f"Each reply must have the texts `question`, `answer` and `text`, but row {number} (from 0) has no "
            f"{', '.join(f'`{name}`' for name in missing)}, of the columns {sorted(row)}. Pass the rows of "
            "`generations.jsonl`, or rename the columns."
        )
    row = plain_question(row, number)
    question, answer = row["question"], row["answer"]
    task = None if row.get("task") in (None, "") else str(row["task"])
    chain = Chain(
        question,
        answer,
        task,
        row.get("task_description") or config.task_description,
        row.get("sample") or 0,
        pick_examples(examples, question, task, config.num_examples),
        first=_NEXT_QUESTION.split(plain_text(row["text"]).strip())[0].strip(),
    )
    return chain, row.get("finish_reason")


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and not has_half_character(value)


def _with_origin(dataset: "Dataset") -> "Dataset":
    """Say that the mistakes are the student's."""
    rows = [{**row, "origin": "student"} for row in dataset.to_list()]
    return type(dataset).from_list(rows, features=dataset.features) if rows else dataset
