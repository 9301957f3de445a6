"""
The report of the demo: its held-back questions with a right and a wrong chain each, and what the student replies to
them before training and after each stage.
"""

import math
import os
from dataclasses import replace
from typing import Any

from edit_trl.inspection import InspectionConfig, Statistics, add_log_probs, read_pairs, show_pair, write_html
from edit_trl.inspection.log_probs import key_log_prob
from edit_trl.tasks import IN_DOMAIN_TASKS, DualCoT


class DemoReport:
    """
    Gathers the replies of the student and, for one question of each trained task, the log-probabilities of key tokens.

    Args:
        questions (`list[DualCoT]`):
            The held-back questions.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]):
            Tokenizer of the student.
        training_args ([`EDITConfig`]):
            Options of stage 2, which decide the weights of the tokens.
    """

    def __init__(self, questions: list[DualCoT], tokenizer: Any, training_args: Any) -> None:
        config = InspectionConfig.of_training(training_args)
        self.pairs = list(read_pairs([question.to_pair() for question in questions], tokenizer, config))
        self.statistics = Statistics(config)
        for pair in self.pairs:
            self.statistics.add(pair)
        # All of them would take half a minute on two cores.
        firsts = {pair.task: pair.row for pair in reversed(self.pairs) if pair.task in IN_DOMAIN_TASKS}
        self.measured = sorted(firsts.values())

    def add(self, name: str, model: Any, replies: dict[str, tuple[str, bool]]) -> None:
        """
        Add a student. To be called on all processes, because its model may be sharded.

        Args:
            name (`str`):
                Name of the student.
            model ([`~transformers.PreTrainedModel`] or [`~peft.PeftModel`]):
                Its model.
            replies (`dict[str, tuple[str, bool]]`):
                By prompt, its reply and whether the answer in it is right.
        """
        for pair in add_log_probs([self.pairs[row] for row in self.measured], model):
            self.pairs[pair.row] = pair
        for row, pair in enumerate(self.pairs):
            reply, is_right = replies[pair.example["prompt"]]
            heading = f"{name}: {'right' if is_right else 'wrong'}"
            right, wrong = (key_log_prob(pair, side) for side in ("chosen", "rejected"))
            if right is not None and wrong is not None:
                heading += f" · key tokens of the right chain {math.exp(right):.0%} likely, of the wrong chain "
                heading += f"{math.exp(wrong):.0%}"
            self.pairs[row] = replace(pair, replies={**(pair.replies or {}), heading: reply})

    def write(self, path: str | os.PathLike, provenance: dict[str, str]) -> None:
        """
        Write the report and print its first pair. Without a student, as in a resumed run that had nothing left to do,
        it does nothing.

        Args:
            path (`str` or `os.PathLike`):
                File of the report.
            provenance (`dict[str, str]`):
                What the report says of its origin.
        """
        if not self.pairs[0].replies:
            return
        last = next(reversed(self.pairs[0].replies)).partition(":")[0]
        provenance = {**provenance, "Log-probabilities": f"of the first pair of each trained task, {last}"}
        write_html(self.pairs, self.statistics, path, "Held-back questions of the demo", provenance=provenance)
        print()
        show_pair(self.pairs[0])
        print(f"Report of all {len(self.pairs)} held-back questions: {path}")
