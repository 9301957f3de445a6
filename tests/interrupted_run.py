"""
Script that `test_interrupts.py` starts: six steps with dropout and gradient accumulation, in one or two processes.

    python interrupted_run.py FOLDER [--resume] [--undisturbed FOLDER] [--alone FOLDER]

After the first run there can be an undisturbed one, and one in which the last process alone gets SIGTERM. Each process
prints the code that it ends with: a launcher may kill the last one before it has ended.
"""

import argparse
import gc
import os
import signal
import sys
from pathlib import Path

import torch
from accelerate import PartialState
from torn_run import make_trainer

from edit_trl import InterruptCallback
from edit_trl.callbacks import Interrupted


def tell_the_last(args, state, control, **kwargs) -> None:
    if state.global_step == 2 and args.process_index == args.world_size - 1:
        os.kill(os.getpid(), signal.SIGTERM)


def train(folder: str, resume: bool = False, alone: bool = False) -> None:
    """Train, and save the parameters in `parameters.pt`."""
    callback = InterruptCallback()
    if alone:
        callback.on_step_begin = tell_the_last
    trainer = make_trainer(
        folder,
        seed=int(resume),  # other weights, so that only the checkpoint has the right ones
        callbacks=[callback],
        save_steps=100,
        per_device_train_batch_size=2 // int(os.environ.get("WORLD_SIZE", "1")),
        gradient_accumulation_steps=2,
        num_train_epochs=2,
    )
    for module in trainer.model.modules():
        if hasattr(module, "attention_dropout"):
            module.attention_dropout = 0.2
    trainer.train(resume_from_checkpoint=resume or None)
    if trainer.accelerator.is_main_process:
        torch.save(trainer.model.state_dict(), Path(folder, "parameters.pt"))


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("folder")
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--undisturbed")
    parser.add_argument("--alone")
    args = parser.parse_args()
    code = 0
    try:
        train(args.folder, args.resume)
        if args.undisturbed:
            train(args.undisturbed)
        if args.alone:
            train(args.alone, alone=True)
    except Interrupted as interrupted:
        code = interrupted.code
    gc.collect()
    PartialState().wait_for_everyone()
    PartialState().destroy_process_group()
    print(f"a process ends with {code}\n", end="", flush=True)
    sys.exit(code)
