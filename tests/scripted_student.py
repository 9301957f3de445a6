"""A student that gives the replies of a test, questions for it, and a reader of the files that it writes."""

import json
import math
from pathlib import Path

from edit_trl.evaluation import EvaluationConfig, Generation


QUESTIONS = [
    {"question": "What is 2 + 3?", "answer": "5", "task": "sum"},
    {"question": "What is 4 + 4, all in all?", "answer": "8", "task": "sum"},
    {"question": "Is 7 odd?", "answer": "yes", "task": "odd"},
]
RIGHT = {"What is 2 + 3?": "5", "What is 4 + 4, all in all?": "8", "Is 7 odd?": "yes"}


class Scripted:
    """A student that gives the replies of a test, and remembers the prompts that it got."""

    def __init__(
        self, reply=lambda question, sample: f"Therefore, the answer is {RIGHT[question]}.", fail_after=math.inf
    ):
        self.reply, self.fail_after = reply, fail_after
        self.asked = []

    def __call__(self, prompts, samples):
        if len(self.asked) + len(prompts) > self.fail_after:
            raise KeyboardInterrupt
        generations = []
        for prompt, sample in zip(prompts, samples, strict=True):
            text = prompt if isinstance(prompt, str) else prompt[-1]["content"]
            question = text.split("Q: ")[1].removesuffix("\nA:")
            self.asked.append((question, sample))
            reply = self.reply(question, sample)
            generations.append(reply if isinstance(reply, Generation) else Generation(reply, "stop", 7))
        return generations


def lines(folder):
    return [json.loads(line) for line in Path(folder, "generations.jsonl").read_text(encoding="utf-8").splitlines()]


def config(tmp_path, **options):
    return EvaluationConfig(output_dir=str(tmp_path / "scores"), **options)
