"""
Script that `test_checkpoints.py` starts: a run that is killed while a file is written, that meets a limit on files, or
that is one of several processes of DeepSpeed.

    python torn_run.py FOLDER [--tear FILE STEP] [--limit BYTES] [--deepspeed STAGE] [--resume]
"""

import argparse
import os
import resource
import signal
import sys
from pathlib import Path


sys.path.insert(0, str(Path(__file__).parent))

import torch  # noqa: E402
import transformers.modeling_utils  # noqa: E402
from conftest import build_model, build_tokenizer  # noqa: E402
from datasets import Dataset  # noqa: E402
from transformers import TrainerCallback, TrainerState  # noqa: E402

from edit_trl import EDITConfig, EDITTrainer  # noqa: E402


PAIRS = [{"prompt_ids": [3, 4], "chosen_ids": [5, 6, 7], "rejected_ids": [5, 8 + i % 9, 7]} for i in range(12)]


def tear(file: str, folder: str) -> None:
    """Kill this process when half of a file is written in a folder of this name."""

    def torn(write):
        def write_half(*args, **kwargs):
            write(*args, **kwargs)
            path = next(Path(value) for value in (*args, *kwargs.values()) if isinstance(value, (str, Path)))
            if path.name == file and path.parent.name == folder:
                os.truncate(path, path.stat().st_size // 2)
                os.kill(os.getpid(), signal.SIGKILL)

        return write_half

    torch.save = torn(torch.save)
    transformers.modeling_utils.safe_save_file = torn(transformers.modeling_utils.safe_save_file)
    TrainerState.save_to_json = torn(TrainerState.save_to_json)


class Limit(TrainerCallback):
    """A limit on the size of files, from the first checkpoint on."""

    def __init__(self, num_bytes: int) -> None:
        self.num_bytes = num_bytes

    def on_save(self, *args, **kwargs) -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (self.num_bytes, self.num_bytes))


def make_trainer(
    folder: str, seed: int = 0, callbacks: list | None = None, eval_dataset=None, **options
) -> EDITTrainer:
    values = {
        "per_device_train_batch_size": 2,
        "num_train_epochs": 1,
        "learning_rate": 1e-2,
        "optim": "adamw_torch",
        "save_strategy": "steps",
        "save_steps": 2,
        "use_cpu": True,
        "bf16": False,
        "gradient_checkpointing": False,
        "report_to": "none",
        "disable_tqdm": True,
        **options,
    }
    return EDITTrainer(
        build_model(seed),
        EDITConfig(output_dir=folder, **values),
        train_dataset=Dataset.from_list(PAIRS),
        eval_dataset=eval_dataset,
        processing_class=build_tokenizer(),
        callbacks=callbacks,
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("folder")
    parser.add_argument("--tear", nargs=2)
    parser.add_argument("--limit", type=int)
    parser.add_argument("--deepspeed", type=int)
    parser.add_argument("--resume", action="store_true")
    args = parser.parse_args()
    if args.tear:
        tear(args.tear[0], f"checkpoint-{args.tear[1]}")
    options = {}
    if args.deepspeed:
        batch = ("train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps")
        zero = {"stage": args.deepspeed, "stage3_gather_16bit_weights_on_model_save": True}
        engine = {**dict.fromkeys((*batch, "gradient_clipping"), "auto"), "zero_optimization": zero}
        options = {"deepspeed": engine, "use_cpu": False}
    trainer = make_trainer(args.folder, callbacks=[Limit(args.limit)] if args.limit else None, **options)
    print("begins", flush=True)
    trainer.train(resume_from_checkpoint=args.resume or None)
    if args.deepspeed:
        trainer.save_model()
