"""
Compare EDIT with the baselines that its paper owes: one command trains every arm and makes the tables.

`reproduce_plan.md` says what is compared and how, and was written before the runs. `reproduce_arms.py` lists the arms.
For each seed, one student is trained in stage 1 and shared by all arms; its replies to the new questions are sampled
once. Each arm is trained at every rate of a grid, and the rate with the most right answers to the validation questions
is tested.

    python benchmarks/reproduce.py --preset small --output benchmarks/reproduce_small.jsonl --seeds 0 1 2 3
    python benchmarks/reproduce.py --preset small --output benchmarks/reproduce_small.jsonl --report

Each line of `--output` is one arm of one seed: its settings, steps, tokens, seconds, the validation of each rate, and
whether each test question was answered right, as hexadecimal digits. Arms that are there already are skipped, so an
interrupted run continues. `--arms` and `--seeds` choose what to run; `--deciding` runs the arms of the comparisons
that decide. `--report` prints the tables of what is there; with `--docs`, it writes them between the markers of that
page.
"""

import argparse
import hashlib
import json
import logging
import random
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import datasets
import torch
import transformers
from reporting import describe_machine
from reproduce_arms import ARMS, Own, SeedData, completion, first_of_each_task, schedule
from reproduce_report import write_docs, write_report
from reproduce_sources import SOURCES
from reproduce_students import (
    build_student,
    count_tokens,
    measure_samples,
    measure_tokens,
    pack,
    sample,
    scored_in,
    set_weights,
    train,
    trained_weights,
    verdicts,
    weights_kept,
)
from reproduce_tasks import Problem

from edit_trl.answers import answers_match, extract_answer


@dataclass(frozen=True)
class Preset:
    """
    Sizes of an experiment. Numbers of questions are for each task.

    Args:
        hidden_size, num_layers (`int`):
            Size of the student.
        num_stage_1, num_new, num_validation, num_test, num_longer, num_other (`int`):
            Questions of stage 1, new questions, and questions to validate and test on.
        sft_steps, steps, batch_size (`int`):
            Steps of stage 1 and of each arm, and right chains a step.
        sft_learning_rate (`float`):
            Rate of stage 1.
        learning_rates (`tuple[float, ...]`):
            Grid from which each arm takes its rate.
        num_samples (`int`):
            Replies of the student to each new question.
        num_paths, num_voted (`int`):
            Paths for pass@k and self-consistency, and questions that they are measured on; of the arms that decide.
        source (`str`):
            One of `SOURCES`.
        model (`str`, *optional*):
            Name or folder of the student. `None` is a Llama with random weights.
        lora (`bool`):
            Whether the model is trained with an adapter (r 16, all linear layers) or in full.
        bf16 (`bool`):
            Whether a CPU computes in bfloat16, with weights in float32. An accelerator trains in it in any case.
        data (`str`, *optional*):
            Folder of the data of a source that is not in the repository. Not part of the settings.
    """

    hidden_size: int
    num_layers: int
    num_stage_1: int
    num_new: int
    num_validation: int
    num_test: int
    num_longer: int
    num_other: int
    sft_steps: int
    steps: int
    batch_size: int
    sft_learning_rate: float
    learning_rates: tuple[float, ...]
    num_samples: int = 8
    num_paths: int = 8
    num_voted: int = 100
    source: str = "words"
    model: str | None = None
    lora: bool = False
    bf16: bool = False
    data: str | None = None

    @property
    def settings(self) -> dict[str, Any]:
        """`dict[str, Any]`: All sizes. Of the last four, which came later, those that are set."""
        later = {name: getattr(self, name) for name in ("source", "model", "lora", "bf16")}
        first = {name: value for name, value in asdict(self).items() if name not in (*later, "data")}
        if self.model is not None and Path(self.model).is_dir():
            later["model"] = Path(self.model).name  # records are published without folders of a machine
        set_later = {name: value for name, value in later.items() if value != getattr(Preset, name)}
        return {**first, **set_later}


PRESETS = {
    "small": Preset(
        hidden_size=64,
        num_layers=2,
        num_stage_1=180,
        num_new=100,
        num_validation=100,
        num_test=1000,
        num_longer=250,
        num_other=300,
        sft_steps=600,
        steps=80,
        batch_size=32,
        sft_learning_rate=4e-3,
        learning_rates=(1e-4, 3e-4, 1e-3, 3e-3, 1e-2),
    ),
    # A pretrained student with an adapter, for two cores and some hours a seed, or a GPU.
    "smollm2": Preset(
        hidden_size=0,
        num_layers=0,
        num_stage_1=60,
        num_new=30,
        num_validation=25,
        num_test=100,
        num_longer=20,
        num_other=40,
        sft_steps=90,
        steps=30,
        batch_size=8,
        sft_learning_rate=5e-4,
        learning_rates=(3e-5, 1e-4, 3e-4),
        num_samples=4,
        num_paths=4,
        num_voted=10,
        source="tasks",
        model="HuggingFaceTB/SmolLM2-135M-Instruct",
        lora=True,
        bf16=True,
    ),
    # Word problems with worked answers, for a GPU and a student of 135M parameters or more, trained in full.
    "gsm_symbolic": Preset(
        hidden_size=0,
        num_layers=0,
        num_stage_1=2000,
        num_new=500,
        num_validation=300,
        num_test=1000,
        num_longer=500,
        num_other=100,
        sft_steps=375,
        steps=120,
        batch_size=16,
        sft_learning_rate=1e-4,
        learning_rates=(3e-6, 1e-5, 3e-5, 1e-4),
        source="gsm_symbolic",
        model="HuggingFaceTB/SmolLM2-135M-Instruct",
    ),
    # For the tests: everything runs, nothing is learned.
    "smoke": Preset(
        hidden_size=16,
        num_layers=1,
        num_stage_1=12,
        num_new=6,
        num_validation=4,
        num_test=10,
        num_longer=4,
        num_other=4,
        sft_steps=4,
        steps=2,
        batch_size=4,
        sft_learning_rate=3e-3,
        learning_rates=(1e-3, 3e-3),
        num_samples=2,
        num_paths=2,
        num_voted=2,
    ),
}
# A student from scratch of eight times as many parameters, 0.9M. Larger students need smaller rates.
PRESETS["medium"] = replace(
    PRESETS["small"],
    hidden_size=128,
    num_layers=4,
    sft_learning_rate=2e-3,
    learning_rates=(5e-5, 1.5e-4, 5e-4, 1.5e-3, 5e-3),
)
# The pretrained student without an adapter. Its rates have the same ratios as those of the adapter.
PRESETS["smollm2_full"] = replace(
    PRESETS["smollm2"], lora=False, sft_learning_rate=1e-4, learning_rates=(6e-6, 2e-5, 6e-5)
)
# The pretrained student with pairs of real models, from which the numbers of pairs follow. Their chains are twice as
# long, so a step has half as many.
PRESETS["real"] = replace(
    PRESETS["smollm2"],
    source="real",
    num_stage_1=0,
    num_new=0,
    num_validation=20,
    num_test=75,
    num_longer=0,
    batch_size=4,
)


# Seeds


def start_seed(preset: Preset, seed: int, cache: Path) -> tuple[Any, Any, SeedData, dict[str, Any]]:
    """
    Return the student after stage 1, its tokenizer, the data with its own replies, and what stage 1 took. The student
    and its replies are kept in `cache`.
    """
    data = SOURCES[preset.source].draw(preset, seed)
    model, tokenizer = build(preset, seed)
    digest = hashlib.sha256(json.dumps(preset.settings).encode()).hexdigest()[:8]
    path = cache / f"{digest}-{seed}.pt"
    if path.exists():
        kept = torch.load(path, weights_only=True)
        set_weights(model, kept["weights"])
        replies, took = kept["replies"], kept["took"]
    else:
        rows = [completion(problem, problem.chosen) for problem in data.stage_1 + data.other]
        took = train_rows(preset, "sft", model, tokenizer, rows, seed)
        with scored_in(model, preset.bf16):
            replies = sample(model, tokenizer, data.new, preset.num_samples, seed, temperature=1.0)
        cache.mkdir(parents=True, exist_ok=True)
        torch.save({"weights": trained_weights(model), "replies": replies, "took": took}, path)
    data.own = own_replies(data.new, replies, SOURCES[preset.source].mend)
    return model, tokenizer, data, took


def build(preset: Preset, seed: int) -> tuple[Any, Any]:
    """Make the student before stage 1, and its tokenizer."""
    return build_student(preset.hidden_size, preset.num_layers, seed, preset.model, preset.lora)


def first_weights(preset: Preset, seed: int) -> dict[str, torch.Tensor]:
    """The weights of the student before stage 1."""
    return trained_weights(build(preset, seed)[0])


def train_rows(preset: Preset, trainer: str, model: Any, tokenizer: Any, rows: list, seed: int) -> dict[str, Any]:
    """Train stage 1 on rows in a new order each epoch."""
    rng = random.Random(f"{seed}/stage 1")
    order: list[dict[str, str]] = []
    number = preset.sft_steps * preset.batch_size
    while len(order) < number:
        order += rng.sample(rows, len(rows))
    with tempfile.TemporaryDirectory() as folder:
        return train(
            trainer,
            model,
            tokenizer,
            order[:number],
            steps=preset.sft_steps,
            batch_size=preset.batch_size,
            learning_rate=preset.sft_learning_rate,
            seed=seed,
            folder=folder,
            bf16=preset.bf16,
        )


def own_replies(
    problems: Sequence[Problem], replies: Sequence[Sequence[str]], mend: Callable[[Problem, str], str | None]
) -> list[Own]:
    """
    Sort the student's replies: right ones are kept as they are, wrong ones are mended. Repeated replies count once,
    and a reply without an answer, or that cannot be mended, is left out.
    """
    found = []
    for problem, samples in zip(problems, replies, strict=True):
        for reply in dict.fromkeys(samples):
            answer = extract_answer(reply)
            if answer is None:
                continue
            is_right = answers_match(answer, problem.answer)
            mended = None if is_right else mend(problem, reply)
            if is_right or mended is not None:
                found.append(Own(problem, reply, mended))
    return found


# Arms


def run_arm(name: str, preset: Preset, seed: int, model: Any, tokenizer: Any, data: SeedData) -> dict[str, Any]:
    """Train an arm at each rate, and measure it at the rate that is best on the validation questions."""
    arm = ARMS[name]
    start = time.process_time()
    steps = preset.steps * arm.factor + (preset.sft_steps if arm.group == "scratch" else 0)
    rows = schedule(arm, data, tokenizer, steps, preset.batch_size, seed)
    trials, best = [], (-1, {})
    for learning_rate in preset.learning_rates:
        with weights_kept(model), tempfile.TemporaryDirectory() as folder:
            if arm.group == "scratch":
                set_weights(model, first_weights(preset, seed))
            took = train(
                arm.trainer,
                model,
                tokenizer,
                rows,
                steps=steps,
                batch_size=preset.batch_size,
                learning_rate=learning_rate,
                seed=seed,
                folder=folder,
                trainer_class=arm.trainer_class,
                bf16=preset.bf16,
                **arm.options,
            )
            with scored_in(model, preset.bf16):
                num_right = sum(verdicts(model, tokenizer, data.validation)[0])
            trials.append({"learning_rate": learning_rate, "num_right": num_right, "seconds": took.pop("seconds")})
            # The lower rate wins if two are equal.
            if num_right > best[0]:
                best = (num_right, trained_weights(model))
    with weights_kept(model), scored_in(model, preset.bf16):
        set_weights(model, best[1])
        scores = measure(model, tokenizer, data, preset, seed, arm.decides)
    chosen = next(trial["learning_rate"] for trial in trials if trial["num_right"] == best[0])
    took = {**took, **count_tokens(tokenizer, rows), "seconds": round(time.process_time() - start, 1)}
    return {"learning_rate": chosen, "trials": trials, **took, **scores}


def measure(
    model: Any, tokenizer: Any, data: SeedData, preset: Preset, seed: int, with_samples: bool
) -> dict[str, Any]:
    """Measure a student: verdicts on each test question, and numbers about tokens."""
    scores: dict[str, Any] = {}
    unread = 0
    for name, problems in data.tests.items():
        marks, replies = verdicts(model, tokenizer, problems)
        scores[name] = pack(marks)
        if name == "in_domain":
            unread = sum(extract_answer(reply) is None for reply in replies)
    scores["unparsed"] = unread
    tests = data.tests["in_domain"]
    tasks = list(dict.fromkeys(problem.task for problem in tests))
    scores |= measure_tokens(model, tokenizer, data.held_back)
    scores["nll_other"] = measure_tokens(model, tokenizer, data.tests["other"][:150])["nll"]
    if with_samples:
        asked = first_of_each_task(tests, preset.num_voted)
        scores |= measure_samples(model, tokenizer, asked, preset.num_paths, seed)
    if len(tasks) != 2:  # how many questions there are follows from the settings otherwise
        sizes = {name: len(problems) for name, problems in data.tests.items()}
        num_voted = preset.num_voted * len(tasks)
        scores["num_questions"] = {**sizes, "pass": num_voted, "self_consistency": num_voted}
    return scores


# Runs


class Records:
    """The finished arms of a file of JSON lines. A line that an interruption cut short is dropped."""

    def __init__(self, path: Path, preset_name: str, preset: Preset) -> None:
        self.path = path
        self.settings = json.loads(json.dumps({"preset": preset_name, **preset.settings}))
        self.records: list[dict[str, Any]] = []
        if path.exists():
            text = path.read_text(encoding="utf-8")
            whole = text[: text.rfind("\n") + 1]
            if whole != text:
                path.write_text(whole, encoding="utf-8")
            self.records = [json.loads(line) for line in whole.splitlines()]
        other = next((record for record in self.records if record["settings"] != self.settings), None)
        if other is not None:
            raise SystemExit(f"{path} has records of other settings: {other['settings']}. Pass another `--output`.")

    def find(self, arm: str, seed: int) -> dict[str, Any] | None:
        return next((r for r in self.records if (r["arm"], r["seed"]) == (arm, seed)), None)

    def add(self, record: dict[str, Any]) -> None:
        record = {**record, "settings": self.settings}
        self.records.append(record)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")


@contextmanager
def quiet() -> Iterator[None]:
    """Hide progress bars and the trainers' notes, until the end of the block."""
    library, ours = transformers.utils.logging, logging.getLogger("edit_trl")
    verbosity, level = library.get_verbosity(), ours.level
    datasets.disable_progress_bars()
    library.disable_progress_bar()
    library.set_verbosity_error()
    ours.setLevel(logging.ERROR)
    try:
        yield
    finally:
        datasets.enable_progress_bars()
        library.enable_progress_bar()
        library.set_verbosity(verbosity)
        ours.setLevel(level)


def run(preset: Preset, records: Records, seeds: Sequence[int], arms: Sequence[str], cache: Path) -> None:
    """Run the arms of each seed that are not finished."""
    for seed in seeds:
        missing = [name for name in ("stage_1", *arms) if records.find(name, seed) is None]
        if not missing:
            continue
        model, tokenizer, data, took = start_seed(preset, seed, cache)
        for name in missing:
            began = time.time()
            if name == "stage_1":
                counts = {"num_own": len(data.own), "num_mended": len(data.mended)}
                with scored_in(model, preset.bf16):
                    scores = {**took, **counts, **measure(model, tokenizer, data, preset, seed, with_samples=True)}
            else:
                scores = run_arm(name, preset, seed, model, tokenizer, data)
            records.add({"seed": seed, "arm": name, **scores})
            share = sum(map(int, f"{int(scores['in_domain'], 16):b}")) / len(data.tests["in_domain"])
            rate = scores.get("learning_rate", preset.sft_learning_rate)
            print(f"{seed} {name}: {share:.1%} at {rate:g}, {time.time() - began:.0f} s", flush=True)


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", choices=list(PRESETS), default="small", help="(default: %(default)s)")
    parser.add_argument("--output", type=Path, required=True, help="file of JSON lines, one for each finished arm")
    parser.add_argument("--seeds", type=int, nargs="*", default=[0], help="(default: 0)")
    parser.add_argument("--arms", nargs="+", choices=list(ARMS), default=list(ARMS), help="(default: all)")
    parser.add_argument("--deciding", action="store_true", help="only the arms of the comparisons that decide")
    parser.add_argument("--cache", type=Path, default=Path(tempfile.gettempdir(), "edit_trl_reproduce"),
                        help="folder for the students after stage 1 (default: %(default)s)")  # fmt: skip
    parser.add_argument("--model", help="name or folder of the student, of a preset with a pretrained one")
    parser.add_argument("--data", help="folder of BIG-Bench Mistake, for the preset `real`")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch (default: %(default)s)")
    parser.add_argument("--report", action="store_true", help="train nothing, print the tables")
    parser.add_argument("--docs", type=Path, help="page to write the tables to, with `--report`")
    parser.add_argument("--plot", type=Path, help="image to draw, with `--report`")
    args = parser.parse_args(argv)
    if args.deciding:
        args.arms = [name for name in args.arms if ARMS[name].decides]
    return args


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    preset = PRESETS[args.preset]
    if args.model is not None:
        preset = replace(preset, model=args.model)
    preset = replace(preset, data=args.data)
    records = Records(args.output, args.preset, preset)
    if args.report:
        report = write_report(records.records, args.plot)
        print(report)
        if args.docs:
            write_docs(args.docs, args.preset, report)
        return
    torch.set_num_threads(args.threads)
    machine = describe_machine("torch", "transformers", "trl")
    print(", ".join(f"{name} {value}" for name, value in machine.items()), flush=True)
    with quiet():
        run(preset, records, args.seeds, args.arms, args.cache)


if __name__ == "__main__":
    main()
