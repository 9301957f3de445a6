"""
Where the questions of `reproduce.py` come from, and how a student's wrong reply to them is mended.

- `words`: the tasks of `reproduce_tasks.py`, for students from random weights.
- `tasks`: the tasks of `edit_trl.tasks`. Their wording depends on the question alone, so the right chain of a question
  is also its mended chain.
- `gsm_symbolic`: word problems with worked answers from templates, of the package `reasoning-gym`. A fifth of the
  templates are held back. The made-up wrong chains have a wrong last result. The mended chain is the worked answer, if
  the student's reply follows it (it shares at least half of its words).
- `real`: pairs of real models. The shipped pairs of a small teacher (`examples/data/qwen_dual_cots`, four tasks), and
  wrong chains of PaLM 2 from BIG-Bench Mistake (tracking shuffled objects) with right ones that are computed. Half of
  the pairs of a task are for stage 1, a quarter are new questions, a quarter are held back.
"""

import json
import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from key_steps_solvers import read_rectified
from reproduce_arms import SeedData, first_of_each_task
from reproduce_tasks import LENGTHS, LONGER, MAIN_TASKS, TASKS, Problem, draw_problems, mend

from edit_trl import similarity
from edit_trl.answers import answers_match, extract_answer
from edit_trl.questions import student_prompt
from edit_trl.tasks import OUT_OF_DOMAIN_TASKS, generate_dual_cots


MIN_SIMILARITY = 0.5
SHIPPED_PAIRS = Path(__file__).parents[1] / "examples" / "data" / "qwen_dual_cots" / "dual_cots.jsonl"
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


def draw_generated(number: int, tasks: Sequence[str], level: int, seed: int) -> list[Problem]:
    """Draw questions of tasks of `edit_trl.tasks`, `number` of each task."""
    examples = generate_dual_cots(number * len(tasks), tasks=tasks, level=level, seed=seed)
    pairs = [(example, example.to_pair()) for example in examples]
    return [Problem(e.task, pair["prompt"], pair["chosen"], pair["rejected"], e.answer, (), ()) for e, pair in pairs]


def draw_tasks(preset: Any, seed: int) -> SeedData:
    """Draw questions of `edit_trl.tasks`: level 1, level 2, and the tasks that are held back."""

    sizes = [preset.num_stage_1, preset.num_new, preset.num_validation, preset.num_test]
    problems = draw_generated(sum(sizes), SHORT_TASKS, 1, seed)
    by_task = {task: iter([p for p in problems if p.task == task]) for task in SHORT_TASKS}
    parts = [[next(own) for own in by_task.values() for _ in range(size)] for size in sizes]
    return SeedData(
        stage_1=parts[0],
        other=[],
        new=parts[1],
        validation=parts[2],
        tests={
            "in_domain": parts[3],
            "longer": draw_generated(preset.num_longer, SHORT_TASKS, 2, seed),
            "other": draw_generated(preset.num_other, OUT_OF_DOMAIN_TASKS, 1, seed),
        },
        held_back=first_of_each_task(parts[3], 30),
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
            "other": draw_generated(-(-preset.num_other // 3), SHORT_TASKS, 1, seed)[: preset.num_other],
        },
    )


def draw_real(preset: Any, seed: int) -> SeedData:
    """
    Draw from real pairs. The tests `longer` are the held-back questions of BIG-Bench Mistake; those of the other tasks
    are generated, and not among the pairs.
    """
    if preset.data is None:
        raise ValueError(
            "The preset `real` needs the traces of BIG-Bench Mistake (github.com/WHGTyen/BIG-Bench-Mistake, all files "
            "in one folder). Pass the folder with `--data`."
        )
    by_task: dict[str, list[Problem]] = {}
    for line in SHIPPED_PAIRS.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        texts = (row[name] for name in ("prompt", "chosen", "rejected", "answer"))
        by_task.setdefault(row["task"], []).append(Problem(row["task"], *texts, (), ()))
    taught = tuple(by_task)
    by_task["tracking"] = [
        Problem(
            "tracking",
            student_prompt(record["input"]),
            *(" " + "\n".join(steps) for steps in (right, record["steps"])),
            record["target"],
            (),
            (),
        )
        for record, right in read_rectified(Path(preset.data))[0]["tracking_shuffled_objects"]
    ]
    stage_1, new, held_back = [], [], []
    for name, problems in by_task.items():
        order = random.Random(f"{seed}/{name}").sample(problems, len(problems))
        half, quarter = len(order) // 2, len(order) // 4
        stage_1 += order[:half]
        new += order[half : half + quarter]
        held_back += order[half + quarter :]
    known = {problem.prompt for problems in by_task.values() for problem in problems}
    number = preset.num_validation + preset.num_test
    drawn = [p for p in draw_generated(2 * number, taught, 1, seed) if p.prompt not in known]
    parts: dict[str, list[Problem]] = {"validation": [], "test": []}
    for name in taught:
        own = [problem for problem in drawn if problem.task == name]
        parts["validation"] += own[: preset.num_validation]
        parts["test"] += own[preset.num_validation : number]
    return SeedData(
        stage_1=stage_1,
        other=[],
        new=new,
        validation=parts["validation"],
        tests={
            "in_domain": parts["test"],
            "longer": [problem for problem in held_back if problem.task == "tracking"],
            "other": draw_generated(preset.num_other, OUT_OF_DOMAIN_TASKS, 1, seed),
        },
        held_back=held_back,
    )


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
    "real": Source(draw_real, mend_by_right_chain, "held-back questions of BIG-Bench Mistake"),
}
