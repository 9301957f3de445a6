"""
Where the questions of `reproduce.py` come from, and how a student's wrong reply to them is mended.

- `words`: the tasks of `reproduce_tasks.py`, for students from random weights.
- `tasks`: the tasks of `edit_trl.tasks`. Their wording depends on the question alone, so the right chain of a question
  is also its mended chain.
- `gsm_symbolic`: word problems with worked answers from templates, of the package `reasoning-gym`. A fifth of the
  templates are held back. The made-up wrong chains have a wrong last result. The mended chain is the worked answer, if
  the student's reply follows it (it shares at least half of its words).
"""

import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from reproduce_arms import SeedData
from reproduce_tasks import LENGTHS, LONGER, MAIN_TASKS, TASKS, Problem, draw_problems, mend

from edit_trl import similarity
from edit_trl.answers import answers_match, extract_answer
from edit_trl.questions import student_prompt
from edit_trl.tasks import OUT_OF_DOMAIN_TASKS, generate_dual_cots


MIN_SIMILARITY = 0.5
# The tasks with the shortest chains, as in the demo.
SHORT_TASKS = ("multistep_arithmetic", "object_counting", "boolean_expressions")


@dataclass(frozen=True)
class Source:
    """
    A source of questions.

    Args:
        draw (`Callable`):
            Function of the preset and a seed that returns the data of the seed. No question is there twice.
        mend (`Callable`):
            Function of a problem and a wrong reply that returns the mended chain, or `None`.
        what_longer (`str`):
            What the questions of the test `longer` are.
    """

    draw: Callable[[Any, int], SeedData]
    mend: Callable[[Problem, str], str | None]
    what_longer: str


def draw_words(preset: Any, seed: int) -> SeedData:
    """Draw questions of the tasks for students from random weights."""
    seen: set[str] = set()

    def draw(part: str, number: int, names: Sequence[str], lengths: Sequence[int] = LENGTHS) -> list[Problem]:
        return [p for name in names for p in draw_problems(name, number, lengths, f"{seed}/{part}/{name}", seen)]

    stage_1, new = draw("stage 1", preset.num_stage_1, MAIN_TASKS), draw("new", preset.num_new, MAIN_TASKS)
    others = tuple(name for name in TASKS if name not in MAIN_TASKS)
    return SeedData(
        stage_1=stage_1,
        other=draw("stage 1", preset.num_stage_1, others),
        new=new,
        validation=draw("validation", preset.num_validation, MAIN_TASKS),
        tests={
            "in_domain": draw("test", preset.num_test, MAIN_TASKS),
            "longer": draw("longer", preset.num_longer, MAIN_TASKS, LONGER),
            "other": draw("other", preset.num_other, others),
        },
    )


def draw_tasks(preset: Any, seed: int) -> SeedData:
    """Draw questions of `edit_trl.tasks`: level 1, level 2, and the tasks that are held back."""

    def draw(number: int, tasks: Sequence[str], level: int = 1) -> list[Problem]:
        examples = generate_dual_cots(number * len(tasks), tasks=tasks, level=level, seed=seed)
        pairs = [(example, example.to_pair()) for example in examples]
        return [
            Problem(e.task, pair["prompt"], pair["chosen"], pair["rejected"], e.answer, (), ()) for e, pair in pairs
        ]

    sizes = [preset.num_stage_1, preset.num_new, preset.num_validation, preset.num_test]
    by_task = {task: iter([p for p in draw(sum(sizes), SHORT_TASKS) if p.task == task]) for task in SHORT_TASKS}
    parts = [[next(problems) for problems in by_task.values() for _ in range(size)] for size in sizes]
    return SeedData(
        stage_1=parts[0],
        other=[],
        new=parts[1],
        validation=parts[2],
        tests={
            "in_domain": parts[3],
            "longer": draw(preset.num_longer, SHORT_TASKS, level=2),
            "other": draw(preset.num_other, OUT_OF_DOMAIN_TASKS),
        },
    )


def draw_gsm_symbolic(preset: Any, seed: int) -> SeedData:
    """Draw word problems. `other` are questions of `edit_trl.tasks`, which no chain of this source is like."""
    try:
        import reasoning_gym
        from reasoning_gym.arithmetic.gsm_symbolic.gsm_symbolic import tasks_ok
    except ImportError as error:
        raise ImportError(
            "The preset `gsm_symbolic` needs the package `reasoning-gym`. Install it with `pip install reasoning-gym`."
        ) from error
    generators = reasoning_gym.create_dataset("gsm_symbolic", size=1, seed=0).generators
    held_back = set(random.Random("templates").sample(tasks_ok, len(tasks_ok) // 5))
    seen: set[str] = set()

    def draw(part: str, number: int, templates: Sequence[int]) -> list[Problem]:
        rng = random.Random(f"{seed}/{part}")
        problems: list[Problem] = []
        while len(problems) < number:
            example = generators[rng.choice(templates)](rng, 1.0)
            problem = word_problem(example["question"], example["answer"], example["metadata"]["answer_cot"], rng)
            if problem is not None and problem.prompt not in seen:
                seen.add(problem.prompt)
                problems.append(problem)
        return problems

    known = [number for number in tasks_ok if number not in held_back]
    stage_1 = draw("stage 1", preset.num_stage_1, known)
    return SeedData(
        stage_1=stage_1,
        other=[],
        new=draw("new", preset.num_new, known),
        validation=draw("validation", preset.num_validation, known),
        tests={
            "in_domain": draw("test", preset.num_test, known),
            "longer": draw("held back", preset.num_longer, sorted(held_back)),
            "other": draw_tasks_of_other(preset.num_other, seed),
        },
    )


def draw_tasks_of_other(number: int, seed: int) -> list[Problem]:
    """Draw questions of `edit_trl.tasks` for a student that learned something else."""
    pairs = [(example, example.to_pair()) for example in generate_dual_cots(number, tasks=SHORT_TASKS, seed=seed)]
    return [Problem(e.task, pair["prompt"], pair["chosen"], pair["rejected"], e.answer, (), ()) for e, pair in pairs]


def word_problem(question: str, answer: str, worked: str, rng: random.Random) -> Problem | None:
    """
    Make a problem of a question with its worked answer. `None` if the worked answer does not end in the answer (some
    templates have faults), or has no number that could be its last result.
    """
    steps = re.sub(r"\s*####.*", "", worked, flags=re.DOTALL).strip()
    conclusion = "\nTherefore, the answer is {}."
    places = [match.span() for match in re.finditer(rf"(?<![\d.]){re.escape(answer)}(?![\d]|\.\d)", steps)]
    if not places or not re.fullmatch(r"-?\d+", answer):
        return None
    wrong = str(int(answer) + rng.choice([-10, -2, -1, 1, 2, 10]))
    start, end = places[-1]
    chosen = f" {steps}{conclusion.format(answer)}"
    rejected = f" {steps[:start]}{wrong}{steps[end:]}{conclusion.format(wrong)}"
    if not answers_match(extract_answer(chosen), answer) or answers_match(extract_answer(rejected), answer):
        return None
    return Problem("gsm_symbolic", student_prompt(question), chosen, rejected, answer, (), ())


def mend_by_right_chain(problem: Problem, reply: str) -> str | None:
    """Take the right chain of a question for the mended one, if the reply shares enough of its words."""
    return problem.chosen if similarity(reply.split(), problem.chosen.split()) >= MIN_SIMILARITY else None


SOURCES = {
    "words": Source(draw_words, mend, "four operations"),
    "tasks": Source(draw_tasks, mend_by_right_chain, "level 2"),
    "gsm_symbolic": Source(draw_gsm_symbolic, mend_by_right_chain, "templates that were held back"),
}
