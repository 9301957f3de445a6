"""
Measure where the time of a training step goes: the model, and everything around it.

`EDITTrainer` trains for some steps on generated or real pairs, as `training_step.py` makes them, and the methods that
make a step are timed. Times are of the processor on a CPU and wall time on a GPU. On a GPU a call returns before the
device is done, so the time of the model is in the part that waits for it; use PyTorch's profiler there as well.

Examples:

    python benchmarks/step_profile.py --model SmolLM2-135M-Instruct --data bbh_dual_cots.jsonl --steps 6

All options but `--steps` are those of `training_step.py`.
"""

import argparse
import functools
import os
import tempfile
import time
from collections import Counter
from typing import Any

import reporting
import torch
import training_step
import transformers
from datasets import Dataset

from edit_trl import DataCollatorForDualCoT, EDITConfig, EDITTrainer, edit_trainer


# Each part with the object that has it, its name, and how deep it is within the training step.
PARTS = [
    ("batch from the collator", DataCollatorForDualCoT, "torch_call", 0),
    ("training step", EDITTrainer, "training_step", 0),
    ("loss and metrics", EDITTrainer, "compute_loss", 1),
    ("choice and comparison of layouts", EDITTrainer, "_in_right_layout", 2),
    ("forward pass of the model", edit_trainer, "forward_scored", 2),
    ("softmax and entropy of scored tokens", edit_trainer, "selective_log_softmax_and_entropy", 2),
    ("loss of scored tokens", edit_trainer, "krsl_loss", 2),
    ("sums for the metrics", edit_trainer, "pair_sums", 2),
    ("gathering and adding them", EDITTrainer, "_count", 2),
    ("number of pairs of the step", EDITTrainer, "_get_num_items_in_batch", 0),
    ("log", EDITTrainer, "log", 0),
]


class Clock:
    """Seconds and calls of named parts, from the second training step on."""

    def __init__(self, is_gpu: bool) -> None:
        self.seconds: Counter[str] = Counter()
        self.calls: Counter[str] = Counter()
        self._now = time.perf_counter if is_gpu else time.process_time

    def wrap(self, part: str, function: Any) -> Any:
        @functools.wraps(function)
        def timed(*args: Any, **kwargs: Any) -> Any:
            begin = self._now()
            try:
                return function(*args, **kwargs)
            finally:
                self.seconds[part] += self._now() - begin
                self.calls[part] += 1

        return timed

    def clear(self) -> None:
        self.seconds.clear()
        self.calls.clear()


class ForgetFirstStep(transformers.TrainerCallback):
    """Forget the first step, which compares the layouts and warms up."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock

    def on_step_end(self, args: Any, state: transformers.TrainerState, *unused: Any, **kwargs: Any) -> None:
        if state.global_step == 1:
            self.clock.clear()


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__.split("Examples:\n")[0],
        epilog="All other options are those of `training_step.py`.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--steps", type=int, default=10, metavar="N", help="Training steps, from 2. Default: %(default)s."
    )
    own, others = parser.parse_known_args(argv)
    if own.steps < 2:
        parser.error("`--steps` must be at least 2, because the first one is not counted")
    args = training_step.parse_args(others)
    if args.threads is not None:
        torch.set_num_threads(args.threads)
    os.environ["TQDM_DISABLE"] = "1"
    model, tokenizer = training_step.load_model(args)
    pairs = training_step.load_pairs(model, tokenizer, args)
    clock = Clock(args.device == "cuda")
    originals = [(owner, name, getattr(owner, name)) for _, owner, name, _ in PARTS]
    try:
        for part, owner, name, _ in PARTS:
            setattr(owner, name, clock.wrap(part, getattr(owner, name)))
        with tempfile.TemporaryDirectory() as folder:
            config = EDITConfig(
                output_dir=folder,
                max_steps=own.steps,
                per_device_train_batch_size=args.pairs,
                use_cpu=args.device == "cpu",
                bf16=args.autocast,
                gradient_checkpointing=args.gradient_checkpointing,
                chosen_other_weight=args.chosen_other_weight,
                logging_steps=1,
                save_strategy="no",
                report_to="none",
            )
            dataset = Dataset.from_list([pairs[i % len(pairs)] for i in range(max(len(pairs), args.pairs))])
            callbacks = [ForgetFirstStep(clock)]
            EDITTrainer(model, config, train_dataset=dataset, processing_class=tokenizer, callbacks=callbacks).train()
    finally:
        for owner, name, function in originals:
            setattr(owner, name, function)
    step = clock.seconds["training step"] / clock.calls["training step"]
    rows = []
    for part, _, _, level in PARTS:
        seconds = clock.seconds[part] / clock.calls["training step"]
        rows.append(["· " * level + part, f"{1000 * seconds:,.2f}", f"{seconds / step:.2%}"])
    print(reporting.markdown_table(["part", "ms per step", "of the training step"], rows))


if __name__ == "__main__":
    main()
