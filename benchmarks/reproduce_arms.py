"""
Arms of `reproduce.py`: which rows each of them is trained on, with which trainer and which loss.

All arms of a seed start from the same student and take the same number of steps with the same number of right chains a
step. There are two groups:

- `paper`: the paper's second stage, on the pairs of stage 1's questions.
- `mix`: half of each batch repeats chains of stage 1, the same ones in every arm. The other half is about new
  questions: the teacher's chains, and, in most arms, chains made from the student's own replies.
- `scratch`: both stages in one, from the student before stage 1, for the steps of stage 1 and of an arm together.

What `EDITTrainer` has no option for is done here, by weights that come with the data or by a small subclass, so that
it can be judged before it enters the library.
"""

import copy
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from reproduce_tasks import Problem, misread, reword

from edit_trl import EDITTrainer, align
from edit_trl.layouts import to_padded


Row = dict[str, Any]


@dataclass(frozen=True)
class Own:
    """A reply of the student to a new question, and what became of it: the mended chain if it was wrong."""

    problem: Problem
    reply: str
    mended: str | None


@dataclass
class SeedData:
    """
    Everything that the arms of one seed are trained and measured on. All questions are different. `held_back` are the
    pairs for key-step accuracy and NLL, by default those of the first test, up to 150 of each task.
    """

    stage_1: list[Problem]
    other: list[Problem]
    new: list[Problem]
    own: list[Own] = field(default_factory=list)
    validation: list[Problem] = field(default_factory=list)
    tests: dict[str, list[Problem]] = field(default_factory=dict)
    held_back: list[Problem] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.held_back = self.held_back or first_of_each_task(self.tests.get("in_domain", []), 150)

    @property
    def mended(self) -> list[Own]:
        """`list[Own]`: The wrong replies."""
        return [own for own in self.own if own.mended is not None]


@dataclass(frozen=True)
class Arm:
    """
    One arm.

    Args:
        group (`str`):
            `"paper"`, `"mix"` or `"scratch"`.
        what (`str`):
            What it is, for the tables.
        trainer (`str`):
            `"sft"`, `"edit"` or `"dpo"`.
        new_rows (`Callable`):
            Function that makes the rows: of stage 1's pairs (`paper`), or about the new questions (`mix`).
        options (`dict[str, Any]`):
            Options of the trainer's config.
        decides (`bool`):
            Whether it is in one of the comparisons of the plan that decide.
        factor (`int`):
            Number of steps, as a multiple of that of all other arms.
        trainer_class (`type`, *optional*):
            Trainer to use instead.
    """

    group: str
    what: str
    trainer: str
    new_rows: Callable[[SeedData, Any, random.Random], list[Row]]
    options: dict[str, Any] = field(default_factory=dict)
    decides: bool = False
    factor: int = 1
    trainer_class: type | None = None


def first_of_each_task(problems: Sequence[Problem], number: int) -> list[Problem]:
    """The first problems of each task, `number` of each, one task after the other."""
    tasks = dict.fromkeys(problem.task for problem in problems)
    return [p for task in tasks for p in [q for q in problems if q.task == task][:number]]


# Rows


def completion(problem: Problem, chain: str) -> Row:
    """A chain for supervised fine-tuning."""
    return {"prompt": problem.prompt, "completion": chain}


def pair(problem: Problem, chosen: str, rejected: str) -> Row:
    """A right chain and a wrong one."""
    return {"prompt": problem.prompt, "chosen": chosen, "rejected": rejected}


def weighted_pair(tokenizer: Any, row: Row, weight: float, choose: Callable[[list[int], int], Sequence[int]]) -> Row:
    """
    Tokenize a pair and give a weight to some tokens of its right chain, and 1 to the others.

    `choose` gets the places of the key tokens and the number of tokens, and returns the places that get the weight.
    """
    chains = [tokenizer(row[name] + tokenizer.eos_token)["input_ids"] for name in ("chosen", "rejected")]
    keys = [place for place, is_key in enumerate(align(*chains).chosen_key) if is_key]
    chosen = set(choose(keys, len(chains[0])))
    return {
        "prompt_ids": tokenizer(row["prompt"])["input_ids"],
        "chosen_ids": chains[0],
        "rejected_ids": chains[1],
        "chosen_weights": [weight if place in chosen else 1.0 for place in range(len(chains[0]))],
        "rejected_weights": [0.0] * len(chains[1]),
    }


def tokenized_completion(tokenizer: Any, row: Row) -> Row:
    """Tokenize a completion, to stand beside tokenized pairs."""
    return {
        "prompt_ids": tokenizer(row["prompt"])["input_ids"],
        "completion_ids": tokenizer(row["completion"] + tokenizer.eos_token)["input_ids"],
    }


def teachers(data: SeedData, tokenizer: Any, rng: random.Random) -> list[Row]:
    """The teacher's chains for the new questions."""
    return [completion(problem, problem.chosen) for problem in data.new]


def mended(data: SeedData, tokenizer: Any, rng: random.Random) -> list[Row]:
    """The teacher's chains and the student's wrong replies, mended."""
    return teachers(data, tokenizer, rng) + [completion(own.problem, str(own.mended)) for own in data.mended]


def mended_pairs(data: SeedData, tokenizer: Any, rng: random.Random) -> list[Row]:
    """The same chains as `mended`, each mended one as a pair with the student's reply."""
    pairs = [pair(own.problem, str(own.mended), own.reply) for own in data.mended]
    return teachers(data, tokenizer, rng) + pairs


def weighted(choice: str) -> Callable[[SeedData, Any, random.Random], list[Row]]:
    """Like `mended_pairs`, but the weight of 5 is on the `first` key token alone, or on as many `random` tokens."""

    def rows(data: SeedData, tokenizer: Any, rng: random.Random) -> list[Row]:
        def choose(keys: list[int], length: int) -> Sequence[int]:
            return keys[:1] if choice == "first" else rng.sample(range(length), len(keys))

        return [
            weighted_pair(tokenizer, row, 5.0, choose) if "chosen" in row else row
            for row in mended_pairs(data, tokenizer, rng)
        ]

    return rows


def hard(data: SeedData, tokenizer: Any, rng: random.Random) -> list[Row]:
    """The teacher's chains, each as often again as the student's replies to its question were wrong."""
    return teachers(data, tokenizer, rng) + [completion(own.problem, own.problem.chosen) for own in data.mended]


def reworded(data: SeedData, tokenizer: Any, rng: random.Random) -> list[Row]:
    """Like `hard`, but the teacher writes each of these chains anew."""
    return teachers(data, tokenizer, rng) + [completion(own.problem, reword(own.problem, rng)) for own in data.mended]


def own_right(data: SeedData, tokenizer: Any, rng: random.Random) -> list[Row]:
    """The teacher's chains, and the student's own replies that are right (rejection sampling)."""
    right = {(own.problem.prompt, own.reply): own for own in data.own if own.mended is None}
    return teachers(data, tokenizer, rng) + [completion(own.problem, own.reply) for own in right.values()]


def made_up(data: SeedData, tokenizer: Any, rng: random.Random) -> list[Row]:
    """The teacher's chains for the new questions, with the mistakes that the teacher made up."""
    return [pair(problem, problem.chosen, problem.rejected) for problem in data.new]


def stage_1_pairs(data: SeedData, tokenizer: Any, rng: random.Random) -> list[Row]:
    """The pairs of stage 1's questions."""
    return [pair(problem, problem.chosen, problem.rejected) for problem in data.stage_1]


def misread_pairs(data: SeedData, tokenizer: Any, rng: random.Random) -> list[Row]:
    """The pairs of stage 1's questions, with mistakes of reasoning instead of calculation and of knowledge."""
    found = [(problem, misread(problem, rng) or problem.rejected) for problem in data.stage_1]
    return [pair(problem, problem.chosen, rejected) for problem, rejected in found]


def stage_1_chains(data: SeedData, tokenizer: Any, rng: random.Random) -> list[Row]:
    """The right chains of stage 1."""
    return [completion(problem, problem.chosen) for problem in data.stage_1]


def all_pairs(data: SeedData, tokenizer: Any, rng: random.Random) -> list[Row]:
    """The pairs of all questions of stage 1, those of the other task included."""
    return [pair(problem, problem.chosen, problem.rejected) for problem in data.stage_1 + data.other]


def all_chains(data: SeedData, tokenizer: Any, rng: random.Random) -> list[Row]:
    """The right chains of all questions of stage 1."""
    return [completion(problem, problem.chosen) for problem in data.stage_1 + data.other]


def marked_chains(data: SeedData, tokenizer: Any, rng: random.Random) -> list[Row]:
    """The right chains of stage 1, or, one time in two, the wrong chain with a mark in the prompt."""
    rows = stage_1_chains(data, tokenizer, rng)
    for number, problem in enumerate(data.stage_1):
        if number % 2:
            prompt = problem.prompt.replace("Q :", "Q : mistaken", 1)
            rows[number] = {"prompt": prompt, "completion": problem.rejected}
    return rows


def stage_1_weighted(choice: str) -> Callable[[SeedData, Any, random.Random], list[Row]]:
    """The pairs of stage 1 with the weight 1 on other tokens than the key tokens and 0 elsewhere, as the paper's."""

    def rows(data: SeedData, tokenizer: Any, rng: random.Random) -> list[Row]:
        def choose(keys: list[int], length: int) -> Sequence[int]:
            return keys[:1] if choice == "first" else rng.sample(range(length), len(keys))

        found = [weighted_pair(tokenizer, row, 2.0, choose) for row in stage_1_pairs(data, tokenizer, rng)]
        for row in found:
            row["chosen_weights"] = [weight - 1 for weight in row["chosen_weights"]]
        return found

    return rows


def _cycle(rows: Sequence[Row], rng: random.Random) -> Iterator[Row]:
    """Repeat rows without end, in a new order each time."""
    while True:
        yield from rng.sample(rows, len(rows))


def schedule(arm: Arm, data: SeedData, tokenizer: Any, steps: int, batch_size: int, seed: int) -> list[Row]:
    """
    Return the rows of an arm in the order in which they are trained.

    In the group `mix`, every second row repeats a chain of stage 1. These are the same rows in all arms.
    """
    rows = arm.new_rows(data, tokenizer, random.Random(f"{seed}/rows"))
    number = steps * batch_size
    order = _cycle(rows, random.Random(f"{seed}/order"))
    if arm.group != "mix":
        return [next(order) for _ in range(number)]
    replay = _cycle(stage_1_chains(data, tokenizer, random.Random()), random.Random(f"{seed}/replay"))
    mixed = [next(order) if place % 2 else next(replay) for place in range(number)]
    if any("chosen_ids" in row for row in mixed):
        mixed = [row if "chosen_ids" in row else tokenized_completion(tokenizer, row) for row in mixed]
    return mixed


# Trainers


class AnchoredEDITTrainer(EDITTrainer):
    """
    `EDITTrainer` that keeps the student close to where it started: it adds the KL divergence from the starting student
    to the student, in nats per token, on the tokens of right chains that are not key (the prompt's included).
    """

    strength = 1.0

    def __init__(self, model: Any, **kwargs: Any) -> None:
        self.start = copy.deepcopy(model).eval().requires_grad_(False)
        super().__init__(model, **kwargs)

    def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, **kwargs: Any) -> Any:
        loss = super().compute_loss(model, inputs, **kwargs)
        rows = to_padded(inputs)
        num_pairs = len(rows["is_completion"])
        texts = {name: rows[name][:num_pairs] for name in ("input_ids", "attention_mask", "position_ids")}
        is_kept = texts["attention_mask"].bool()
        is_key = rows["scored_key"] & (rows["scored_rows"] < num_pairs)
        is_kept[rows["scored_rows"][is_key], rows["scored_positions"][is_key]] = False
        log_probs = model(**texts, use_cache=False).logits.log_softmax(dim=-1)
        with torch.no_grad():
            targets = self.start(**texts, use_cache=False).logits.log_softmax(dim=-1)
        divergence = (targets.exp() * (targets - log_probs)).sum(dim=-1)
        return loss + self.strength * divergence[is_kept].mean()


# The arms, in the order of the tables.

_KEY = {"chosen_key_weight": 5.0, "chosen_other_weight": 1.0, "rejected_key_weight": 0.0, "completion_weight": 1.0}
_FLAT = {**_KEY, "chosen_key_weight": 1.0}

ARMS: dict[str, Arm] = {
    "continued": Arm("paper", "stage 1 continued (SFT)", "sft", stage_1_chains, decides=True),
    "edit": Arm("paper", "EDIT as in the paper: α 1, β 0.025, γ 0", "edit", stage_1_pairs, decides=True),
    "mix_teacher": Arm("mix", "SFT: the teacher's chains", "sft", teachers, decides=True),
    "mix_mended": Arm("mix", "SFT: and the student's mistakes, mended", "sft", mended, decides=True),
    "mix_key": Arm("mix", "EDIT: the same as pairs, α 5, γ 1, β 0", "edit", mended_pairs, _KEY, decides=True),
    "mix_random": Arm("mix", "the same, random tokens × 5", "edit", weighted("random"), _KEY, decides=True),
    # The controls that say why the student's own mistakes help, if they do.
    "mix_flat": Arm("mix", "EDIT: α 1, γ 1, β 0 (SFT by `EDITTrainer`)", "edit", mended_pairs, _FLAT),
    "mix_hard": Arm("mix", "SFT: the teacher's chains, hard questions more often", "sft", hard),
    "mix_reworded": Arm("mix", "SFT: the same, each time in the teacher's new words", "sft", reworded),
    "mix_own_right": Arm("mix", "SFT: and the student's right replies", "sft", own_right),
    "mix_beta": Arm("mix", "EDIT: α 5, γ 1, β 0.025", "edit", mended_pairs, {**_KEY, "rejected_key_weight": 0.025}),
    "mix_beta_0.3": Arm("mix", "EDIT: α 1, γ 1, β 0.3", "edit", mended_pairs, {**_FLAT, "rejected_key_weight": 0.3}),
    "mix_key_only": Arm("mix", "EDIT: α 1, γ 0, β 0", "edit", mended_pairs, {**_FLAT, "chosen_other_weight": 0.0}),
    "mix_first": Arm("mix", "the same as pairs, first difference × 5", "edit", weighted("first"), _KEY),
    "mix_made_up": Arm("mix", "EDIT: the teacher's made-up mistakes, α 5, γ 1, β 0", "edit", made_up, _KEY),
    # The paper's ablations and baselines.
    "alpha_only": Arm("paper", "α 1, β 0", "edit", stage_1_pairs, {"rejected_key_weight": 0.0}),
    "beta_only": Arm("paper", "α 0, β 0.025", "edit", stage_1_pairs, {"chosen_key_weight": 0.0}),
    "beta_0.1": Arm("paper", "α 1, β 0.1", "edit", stage_1_pairs, {"rejected_key_weight": 0.1}),
    "beta_0.3": Arm("paper", "α 1, β 0.3", "edit", stage_1_pairs, {"rejected_key_weight": 0.3}),
    "gamma_0.3": Arm("paper", "α 1, β 0.025, γ 0.3", "edit", stage_1_pairs, {"chosen_other_weight": 0.3}),
    "gamma_1": Arm("paper", "α 1, β 0.025, γ 1", "edit", stage_1_pairs, {"chosen_other_weight": 1.0}),
    "unlikelihood": Arm(
        "paper",
        "α 1, β 0.3, unlikelihood",
        "edit",
        stage_1_pairs,
        {"rejected_loss": "unlikelihood", "rejected_key_weight": 0.3},
    ),
    "anchor": Arm(
        "paper", "EDIT with a KL anchor on the other tokens", "edit", stage_1_pairs, trainer_class=AnchoredEDITTrainer
    ),
    "first": Arm("paper", "α 1 on the first difference alone, β 0", "edit", stage_1_weighted("first")),
    "random": Arm("paper", "α 1 on random tokens, β 0", "edit", stage_1_weighted("random")),
    "reasoning": Arm("paper", "EDIT with mistakes of reasoning: α 1, β 0.025", "edit", misread_pairs),
    "alpha_reasoning": Arm("paper", "the same, β 0", "edit", misread_pairs, {"rejected_key_weight": 0.0}),
    "dpo": Arm("paper", "DPO, β 0.1", "dpo", stage_1_pairs, {"beta": 0.1}),
    "dpo_sft": Arm(
        "paper",
        "DPO, β 0.1, with its SFT term",
        "dpo",
        stage_1_pairs,
        {"beta": 0.1, "loss_type": ["sigmoid", "sft"], "loss_weights": [1.0, 1.0]},
    ),
    "dft": Arm("paper", "stage 1 continued with DFT", "sft", stage_1_chains, {"loss_type": "dft"}),
    "marked": Arm("paper", "SFT on both chains, wrong ones marked", "sft", marked_chains),
    "scratch_sft": Arm("scratch", "SFT in one run", "sft", all_chains),
    "scratch_edit": Arm(
        "scratch", "EDIT in one run: α 1, β 0.025, γ 1", "edit", all_pairs, {"chosen_other_weight": 1.0}
    ),
    "continued_twice": Arm("paper", "stage 1 continued, twice the steps", "sft", stage_1_chains, factor=2),
}
