"""
Turn questions and answers into dual chains-of-thought with a teacher model.

This is the recipe of the EDIT paper, in three prompts (`templates/`). The teacher answers each question. If its answer
is wrong, it answers again with the right answer as a hint. This gives a rectified pair, whose mistake is real. If its
answer is right, it writes a wrong response that is close to the right one, with rectified pairs of this run as
examples. This gives a corrupted pair, whose mistake is made up.

`checks.py` checks the replies, `results.py` makes the datasets, and `dataset_files.py` writes them to files.
`edit_trl.chat` sends the requests and stores the replies.

The examples of each contrastive prompt are drawn once, after the rectifying step has ended, and are stored in the
client's store. So no prompt depends on the order in which replies arrive, and an interrupted run continues without
paying for a reply twice.

Paper: https://huggingface.co/papers/2405.19737
"""

import hashlib
import json
import random
import statistics
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

from ..answers import answers_match, extract_answer
from ..chat import BudgetReached, ChatClient, EndpointError, estimate_tokens
from ..questions import normalize_questions
from ..token_texts import load_tokenizer
from ..words import words
from .checks import chain_reject_reason, clean, pair_reject_reason, plain_question
from .config import Progress, SynthesisConfig
from .mistakes import classify_mistakes
from .prompts import Prompts, load_examples, pick_examples, shipped_examples
from .results import (
    STEPS,
    Chain,
    Record,
    SynthesisResult,
    make_report,
    pairs_dataset,
    rejected_dataset,
    sft_dataset,
)
from .shards import Shards, synthesis_settings


_TEMPLATES = {"extract": "cot", "rectify": "answer_hint", "corrupt": "contrastive_cot"}


def synthesize(
    questions: Iterable[dict[str, Any]],
    client: ChatClient,
    config: SynthesisConfig | None = None,
    on_progress: Progress | None = None,
    shards: Shards | None = None,
) -> SynthesisResult:
    """
    Make dual chains-of-thought for some questions. [`~dataset_files.save_dual_cots`] writes them to files.

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
        shards ([`Shards`], *optional*):
            Where several workers share the questions: the shard of this call, whose store must be the client's; or the
            run that merges them.

    Returns:
        [`SynthesisResult`]: The datasets and a report. A shard's are of its part alone. If the client's budget was
        reached, they contain the pairs made so far, and `report["stopped"]` has the reason. The same call with a
        larger budget continues.

    Raises:
        EndpointError: If the endpoint fails for all requests. The replies so far are in the store.
        TypeError: If the questions are not rows.
        ValueError: If a question, an example or a prompt is incomplete, or the shards do not fit together.

    Examples:

    ```python
    from edit_trl.chat import ChatClient
    from edit_trl.synthesis import synthesize

    teacher = ChatClient("Qwen/Qwen3-8B", "http://localhost:8000/v1", api_key_env=None, store="replies.sqlite")
    result = synthesize([{"question": "What is 17 + 25?", "answer": "42"}], teacher)
    ```
    """
    return _Recipe(questions, client, config or SynthesisConfig(), on_progress, shards).run()


def estimate_requests(
    questions: Iterable[dict[str, Any]], client: ChatClient, config: SynthesisConfig
) -> dict[str, dict]:
    """
    Estimate the requests of [`synthesize`] without sending them: each step once for each chain that could reach it.

    Each chain goes through the first step, one of the two other steps, and optionally the classification. The estimate
    assumes four bytes per token and replies as long as the worked examples. It also counts replies that are already in
    the store.

    Args:
        questions, client, config:
            As for [`synthesize`].

    Returns:
        `dict[str, dict]`: For each step `requests`, `prompt_tokens`, `completion_tokens` and `cost` (`None` without
        prices). `"least"` and `"most"` have the same numbers for a whole run in which every first reply passes the
        checks: for `"least"` every chain takes the cheaper second step, for `"most"` the more expensive one. `"limit"`
        has the numbers of a run in which all attempts are needed.
    """
    recipe = _Recipe(questions, client, config)
    chains = recipe.chains
    texts = [example["chosen"] for chain in chains for example in chain.examples or ()] or ["x" * 400]
    reply = max(texts, key=len)
    reply_tokens = round(statistics.mean(estimate_tokens([{"content": text}]) for text in texts))
    with_wrong = [example for example in recipe.examples if example.get("rejected")][: config.num_examples]
    prompts = {}
    for step in STEPS:
        for chain in chains:
            chain.first = reply
            if step == "corrupt":
                chain.examples = with_wrong
        prompts[step] = [recipe.messages(step, chain) for chain in chains]
    if config.classify_mistakes:
        prompts["classify"] = [
            recipe.prompts.render("mistake", prompt=chain.prompt, chosen=reply, rejected=reply) for chain in chains
        ]
    totals = {
        step: [len(chains), sum(map(estimate_tokens, asked)), len(chains) * reply_tokens]
        for step, asked in prompts.items()
    }
    every = [total for step, total in totals.items() if step in ("extract", "classify")]
    second = sorted(
        [totals["rectify"], totals["corrupt"]], key=lambda total: client.price(total[1], total[2]) or total[1]
    )
    totals["least"], totals["most"] = ([sum(x) for x in zip(*every, other, strict=True)] for other in second)
    totals["limit"] = [recipe.num_attempts * x for x in totals["most"]]
    return {
        name: {
            "requests": total[0],
            "prompt_tokens": total[1],
            "completion_tokens": total[2],
            "cost": client.price(total[1], total[2]),
        }
        for name, total in totals.items()
    }


class _Recipe:
    """One run of the recipe."""

    def __init__(
        self,
        questions: Iterable[dict[str, Any]],
        client: ChatClient,
        config: SynthesisConfig,
        on_progress: Progress | None = None,
        shards: Shards | None = None,
    ) -> None:
        self.client = client
        self.config = config
        self.on_progress = on_progress
        self.prompts = Prompts(config.template_dir)
        self.examples = load_examples(config.examples) if config.examples else shipped_examples()
        self.tokenize: Callable[[str], list] = words
        if config.tokenizer is not None:
            tokenizer = load_tokenizer("tokenizer", config.tokenizer)
            self.tokenize = lambda text: tokenizer(text, add_special_tokens=False)["input_ids"]
        self.num_attempts = client.num_attempts(config.max_attempts)
        rows = [plain_question(row, number) for number, row in enumerate(normalize_questions(questions))]
        self.shards = shards
        notes: list[str] = []
        if shards is not None:
            made_with = synthesis_settings(client, config, self.prompts.version, self.examples)
            notes = shards.begin(client, {"questions": _digest(rows)[:8], **made_with})
            rows = shards.part(rows, lambda row: row["question"])
        self.chains = [
            Chain(
                row["question"],
                row["answer"],
                row["task"],
                row["task_description"] or config.task_description,
                sample,
                pick_examples(self.examples, row["question"], row["task"], config.num_examples),
            )
            for row in rows
            for sample in range(config.num_samples)
        ]
        self.record = Record(self.chains, notes=notes)

    def run(self) -> SynthesisResult:
        answered = self._ask("extract", self.chains)
        for chain in answered:
            chain.is_right = answers_match(extract_answer(chain.first), chain.answer)
        right = [chain for chain in answered if chain.is_right]
        rectified = self._ask("rectify", [chain for chain in answered if not chain.is_right])
        self._draw_examples(right, rectified)
        corrupted = self._ask("corrupt", right)
        self._keep_pairs(rectified + corrupted)
        return self._result()

    def messages(self, step: str, chain: Chain) -> list[dict[str, str]]:
        values: dict[str, Any] = {
            "task_description": chain.task_description,
            "examples": chain.examples,
            "question": chain.question,
        }
        if step != "extract":
            values.update(answer=chain.answer, response=chain.first)
        return self.prompts.render(_TEMPLATES[step], **values)

    def _ask(self, step: str, chains: list[Chain]) -> list[Chain]:
        """Ask about all chains. Returns the chains with a reply that passes the checks, and records all others."""
        outcomes: Counter[str] = Counter()
        self.record.num_asked[step] = len(chains)

        async def work(chain: Chain) -> tuple[str, str, str]:
            outcome = text = detail = ""
            try:
                if chain.examples is None:
                    raise BudgetReached(self.record.stopped)
                messages = self.messages(step, chain)
                for attempt in range(self.num_attempts):
                    reply = await self.client.chat(messages, chain.sample + attempt * self.config.num_samples)
                    text, detail = clean(reply.text), f"finish reason: {reply.finish_reason}"
                    outcome = self._check(step, chain, text, reply.finish_reason) or "kept"
                    if outcome == "kept":
                        break
            except BudgetReached as error:
                outcome, detail = "not_asked", str(error)
                self.record.stopped = detail
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
                self.record.reject(chain, step, outcome, text, detail)
                continue
            if step == "extract":
                chain.first = text
            else:
                chain.second = text
            kept.append(chain)
        return kept

    def _check(self, step: str, chain: Chain, text: str, finish_reason: str | None) -> str | None:
        """Return why a reply is not good enough, or `None` if it is."""
        num_tokens = len(self.tokenize(f"{chain.prompt} {text}"))
        reason = chain_reject_reason(text, finish_reason, num_tokens, self.config.max_length)
        if reason is not None or step == "extract":
            return reason
        limits = (self.config.min_similarity, self.config.max_similarity)
        return pair_reject_reason(text, chain.first, chain.question, chain.answer, step == "rectify", *limits)

    def _draw_examples(self, right: list[Chain], rectified: list[Chain]) -> None:
        """Draw the examples of the contrastive prompts, from this run's rectified pairs if there are enough."""
        number = self.config.num_examples
        own = _as_examples(rectified)
        given = [example for example in self.examples if example.get("rejected")]
        has_enough = len(own) > number
        if self.shards is not None and self.shards.is_worker and number and self.record.stopped is None:
            everyone = self.shards.share(own)
            if everyone is None:
                waits_for = ", ".join(f"{other}/{self.shards.total}" for other in self.shards.waits_for)
                self.record.stopped = f"the first two steps of other shards are not finished: {waits_for}"
            own = everyone or []
        # If the budget was reached, some rectified pairs are missing, and a later run would draw other examples.
        is_complete = self.record.stopped is None
        # One more than `number` is needed, because a question is never its own example.
        has_enough = len(own) > number
        if right and number and is_complete and not has_enough:
            self.record.notes.append(
                f"{len(own)} rectified questions are too few to draw {number} examples for the contrastive prompt "
                f"from; the examples {'of `examples`' if self.config.examples else 'that come with the package'} were "
                "used."
            )
            if len(given) <= number:
                raise ValueError(
                    f"The contrastive prompt needs more than {number} examples with `rejected`, got {len(given)}, and "
                    f"this run has only {len(own)} rectified questions of its own. Add wrong chains to the file of "
                    "`examples`, or lower `num_examples`. The replies so far are in the store."
                )
        own_questions = {example["question"] for example in own}
        source = _digest([self.config.examples_seed, number, self.prompts.version, self.examples])
        for chain in right:
            # The examples of a question are stored and never drawn again, even if later runs make more pairs.
            name = f"examples/{_digest([chain.question, chain.sample, source])}"
            keys = self.client.remember(name)
            if keys is None and is_complete:
                if has_enough:
                    rng = random.Random(f"{self.config.examples_seed}/{chain.sample}/{chain.question}")
                    others = own
                    if chain.question in own_questions:  # by another sample of the question
                        others = [example for example in own if example["question"] != chain.question]
                    drawn = rng.sample(others, number)
                else:
                    drawn = pick_examples(given, chain.question, chain.task, number)
                keys = [f"example/{_digest(example)}" for example in drawn]
                for key, example in zip(keys, drawn, strict=True):
                    self.client.remember(key, example)
                self.client.remember(name, keys)
            chain.examples = None if keys is None else [self.client.remember(key) for key in keys]

    def _keep_pairs(self, chains: list[Chain]) -> None:
        """Keep the pairs, and reject repeated ones."""
        seen = set()
        for chain in chains:
            pair = (chain.prompt, *chain.sides)
            if pair in seen:
                self.record.reject(chain, "corrupt" if chain.is_right else "rectify", "duplicate", chain.second)
            else:
                self.record.pairs.append(chain)
            seen.add(pair)

    def _result(self) -> SynthesisResult:
        record, config, version = self.record, self.config, self.prompts.version
        pairs = pairs_dataset(record, self.tokenize, self.client.model, version)
        if config.classify_mistakes and len(pairs):
            pairs = classify_mistakes(pairs, self.client, config.template_dir, config.max_attempts, self.on_progress)
            missing = sum(kinds is None for kinds in pairs["mistake_kinds"])
            if missing:
                record.notes.append(
                    f"{missing} of {len(pairs)} pairs have no `mistake_kinds`: no verdict could be read, or the "
                    "budget was reached."
                )
        counted_in = "tokens" if config.tokenizer else "words"
        report = make_report(record, pairs, self.client, counted_in, version)
        if self.shards is not None and self.shards.is_worker and record.stopped is None:
            self.shards.finish()
        return SynthesisResult(pairs, sft_dataset(record), rejected_dataset(record), report)


def _as_examples(rectified: list[Chain]) -> list[dict[str, Any]]:
    """Make worked examples of rectified pairs. Only one for each question, because its samples are often alike."""
    by_question: dict[str, dict[str, Any]] = {}
    for chain in sorted(rectified, key=lambda chain: (chain.question, chain.sample)):
        example = {"answer": chain.answer, "chosen": chain.second, "rejected": chain.first}
        by_question.setdefault(chain.question, {"question": chain.question, **example})
    return list(by_question.values())


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
