"""
Tasks of `reproduce.py` for students that start from random weights: questions, dual chains, and the mending of chains.

A question has a start and some operations. A chain writes the state after each operation, with three words in front of
each step that carry no information (four choices each), and then the answer:

    Q : totals 7 + 3 - 2 ? A : so we get 7 + 3 = 10 . then I see 10 - 2 = 8 . Therefore, the answer is 8 .

The words are drawn at random, so that most of what supervised fine-tuning has to fit in a chain is wording, as in the
chains of a real teacher. The wrong chain of a pair has the same words. One of its steps leads to a wrong state, and it
continues from there to a wrong answer.

Texts are words with spaces between them: each word is a token.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast


SLOTS = (("so", "now", "then", "next"), ("we", "I", "you", "they"), ("get", "see", "find", "have"))
CONCLUSION = "Therefore, the answer is"
MAX_TOTAL = 19
TOWNS = (
    "Ash",
    "Bay",
    "Cove",
    "Dale",
    "Elm",
    "Fort",
    "Glen",
    "Hill",
    "Isle",
    "Kirk",
    "Lake",
    "Mill",
    "Nook",
    "Oak",
) + (
    "Pond",
    "Rock",
)
ROADS = ("red", "blue", "green", "black", "white", "brown", "pink", "grey")
LETTERS = tuple("abcdefghijkl")
# Lengths of the questions to train on, and of the longer questions.
LENGTHS, LONGER = (2, 3), (4,)


class Task(NamedTuple):
    """A task: how to draw the start and an operation, what an operation does, and how both are written."""

    start: Callable[[random.Random], Any]
    operation: Callable[[random.Random, Any], Any]
    apply: Callable[[Any, Any], Any]
    wrong: Callable[[Any, Any], list[Any]]  # wrong states after an operation
    write_operation: Callable[[Any], str]
    write_state: Callable[[Any], str]
    is_valid: Callable[[Any], bool]
    equals: str


@dataclass(frozen=True)
class Problem:
    """
    A question with its right chain and a wrong one.

    Args:
        task (`str`):
            Name of the task.
        prompt (`str`):
            The student's prompt.
        chosen, rejected (`str`):
            The right chain and the wrong one. Both start with a space.
        answer (`str`):
            The right answer.
        states (`tuple`):
            The start, and the state after each operation.
        operations (`tuple`):
            The operations.
    """

    task: str
    prompt: str
    chosen: str
    rejected: str
    answer: str
    states: tuple
    operations: tuple


def _total_operation(rng: random.Random, total: int) -> tuple[str, int]:
    choices = [("+", n) for n in range(1, 10) if total + n <= MAX_TOTAL]
    return rng.choice(choices + [("-", n) for n in range(1, 10) if total - n >= 0])


# Where each road of each town leads. A student can only know it from chains that it has seen.
_ROADS = {
    (town, road): target
    for road in ROADS
    for town, target in zip(TOWNS, random.Random(f"roads/{road}").sample(TOWNS, len(TOWNS)), strict=True)
}

TASKS = {
    # A running total, from 0 to 19.
    "totals": Task(
        lambda rng: rng.randint(0, MAX_TOTAL),
        _total_operation,
        lambda total, operation: total + operation[1] * (1 if operation[0] == "+" else -1),
        lambda total, _: [total + change for change in (-2, -1, 1, 2)],
        lambda operation: f"{operation[0]} {operation[1]}",
        str,
        lambda total: 0 <= total <= MAX_TOTAL,
        "=",
    ),
    # A walk on a map: 16 towns with eight roads each, 128 facts to know.
    "routes": Task(
        lambda rng: rng.choice(TOWNS),
        lambda rng, _: rng.choice(ROADS),
        lambda town, road: _ROADS[town, road],
        lambda town, _: [other for other in TOWNS if other != town],
        str,
        str,
        lambda _: True,
        ":",
    ),
    # A position on a ring of twelve letters. Taught in stage 1 only, to measure what is forgotten.
    "ring": Task(
        lambda rng: rng.randrange(len(LETTERS)),
        lambda rng, _: (rng.choice(("forward", "back")), rng.randint(1, 5)),
        lambda place, move: (place + move[1] * (1 if move[0] == "forward" else -1)) % len(LETTERS),
        lambda place, _: [(place + change) % len(LETTERS) for change in (-2, -1, 1, 2)],
        lambda move: f"{move[0]} {move[1]}",
        LETTERS.__getitem__,
        lambda _: True,
        ":",
    ),
}
MAIN_TASKS = ("totals", "routes")


def _write_chain(name: str, problem_words: Sequence[Sequence[str]], states: Sequence, operations: Sequence) -> str:
    """Write the steps of a chain."""
    task = TASKS[name]
    steps = []
    for number, (words, operation) in enumerate(zip(problem_words, operations, strict=True)):
        before, after = map(task.write_state, states[number : number + 2])
        steps.append(f"{' '.join(words)} {before} {task.write_operation(operation)} {task.equals} {after} .")
    return " ".join(steps)


def _conclude(steps: str, answer: str) -> str:
    return f" {steps} {CONCLUSION} {answer} ."


def _wrong_states(name: str, states: Sequence, operations: Sequence, rng: random.Random) -> list | None:
    """Make one wrong state, and continue from it to another answer."""
    task = TASKS[name]
    places = [(i, wrong) for i, after in enumerate(states[1:]) for wrong in task.wrong(after, operations[i])]
    for place, wrong in rng.sample(places, len(places)):
        changed = [*states[: place + 1], wrong]
        for operation in operations[place + 1 :]:
            changed.append(task.apply(changed[-1], operation))
        is_valid = all(map(task.is_valid, changed))
        if is_valid and changed[-1] != states[-1]:
            return changed
    return None


def draw_problem(name: str, length: int, rng: random.Random) -> Problem | None:
    """Draw a problem with `length` operations, or `None` if no mistake changes its answer."""
    task = TASKS[name]
    states, operations = [task.start(rng)], []
    for _ in range(length):
        operations.append(task.operation(rng, states[-1]))
        states.append(task.apply(states[-1], operations[-1]))
    words = draw_words(length, rng)
    wrong = _wrong_states(name, states, operations, rng)
    if wrong is None:
        return None
    listing = " ".join(map(task.write_operation, operations))
    question = f"{name} {task.write_state(states[0])} {listing} ?"
    chains = [
        _conclude(_write_chain(name, words, found, operations), task.write_state(found[-1]))
        for found in (states, wrong)
    ]
    answer = task.write_state(states[-1])
    return Problem(name, f"Q : {question} A :", *chains, answer, tuple(states), tuple(operations))


def draw_problems(name: str, number: int, lengths: Sequence[int], seed: str, seen: set[str]) -> list[Problem]:
    """Draw problems whose questions are not in `seen`, with all lengths in turn. Adds them to `seen`."""
    rng = random.Random(seed)
    problems: list[Problem] = []
    while len(problems) < number:
        problem = draw_problem(name, lengths[len(problems) % len(lengths)], rng)
        if problem is not None and problem.prompt not in seen:
            seen.add(problem.prompt)
            problems.append(problem)
    return problems


def draw_words(length: int, rng: random.Random) -> list[tuple[str, ...]]:
    """Draw the words in front of each step."""
    return [tuple(map(rng.choice, SLOTS)) for _ in range(length)]


def reword(problem: Problem, rng: random.Random) -> str:
    """
    Write the right chain of a problem in other words, as if the teacher had been asked once more. Chains of other
    sources have one wording.
    """
    if not problem.operations:
        return problem.chosen
    words = draw_words(len(problem.operations), rng)
    return _conclude(_write_chain(problem.task, words, problem.states, problem.operations), problem.answer)


def mend(problem: Problem, chain: str) -> str:
    """
    Write the right chain of a problem in the words of a student's chain.

    Steps before the student's first mistake are copied, the mistake is put right, and the rest continues from there.
    Where the student's chain has no words of the task's, those of the teacher's chain stay.
    """
    teachers = [step.split()[: len(SLOTS)] for step in problem.chosen.split(" .")]
    students = [step.split()[: len(SLOTS)] for step in chain.split(" .")]
    words = []
    for number in range(len(problem.operations)):
        own = students[number] if number < len(students) else []
        fits = len(own) == len(SLOTS) and all(word in slot for word, slot in zip(own, SLOTS, strict=True))
        words.append(own if fits else teachers[number])
    return _conclude(_write_chain(problem.task, words, problem.states, problem.operations), problem.answer)


def misread(problem: Problem, rng: random.Random) -> str | None:
    """
    Write a wrong chain of a problem whose mistake is one of reasoning: one step applies another operation than the
    question has, and applies it as it should be. `None` if 50 tries find none that changes the answer.
    """
    task = TASKS[problem.task]
    words = [step.split()[: len(SLOTS)] for step in problem.chosen.split(" .")[: len(problem.operations)]]
    for place in rng.choices(range(len(problem.operations)), k=50):
        operations, states = list(problem.operations), list(problem.states[:1])
        operations[place] = task.operation(rng, problem.states[place])
        for operation in operations:
            states.append(task.apply(states[-1], operation))
        if all(map(task.is_valid, states)) and states[-1] != problem.states[-1]:
            return _conclude(_write_chain(problem.task, words, states, operations), task.write_state(states[-1]))
    return None


def build_tokenizer() -> PreTrainedTokenizerFast:
    """Make the tokenizer: one token for each word of the tasks."""
    words = [word for slot in SLOTS for word in slot] + CONCLUSION.split()
    words += [
        *map(str, range(MAX_TOTAL + 1)),
        *TOWNS,
        *ROADS,
        *LETTERS,
        *TASKS,
        "Q",
        "A",
        ":",
        "?",
        ".",
        "+",
        "-",
        "=",
    ]
    words += ["forward", "back", "mistaken"]
    vocabulary = {word: number for number, word in enumerate(dict.fromkeys(["<pad>", "<eos>", *words]))}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<pad>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<eos>", pad_token="<pad>")
