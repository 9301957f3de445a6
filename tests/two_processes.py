"""Script that trains on the pairs of a folder and saves the results, for `test_edit_trainer.py` in two processes."""

import gc
import json
import sys
from pathlib import Path

import torch
from accelerate import PartialState
from conftest import build_model, build_tokenizer
from datasets import Dataset
from test_edit_trainer import config, parameters

from edit_trl import EDITTrainer


def main() -> None:
    folder = Path(sys.argv[1])
    pairs = json.loads((folder / "pairs.json").read_text())
    for average in (True, False):
        model = build_model()
        trainer = EDITTrainer(
            model=model,
            args=config(
                folder / f"average-{average}",
                per_device_train_batch_size=2,
                per_device_eval_batch_size=2,
                gradient_accumulation_steps=2,
                average_tokens_across_devices=average,
            ),
            train_dataset=Dataset.from_list(pairs),
            processing_class=build_tokenizer(),
        )
        num_processes = trainer.accelerator.num_processes
        trainer.train()
        log = [entry for entry in trainer.state.log_history if "loss" in entry]
        # Five pairs for two processes of two: the last batch is filled up with repeated pairs, which must not count.
        fresh = EDITTrainer(
            model=build_model(),
            args=config(folder / "fresh", per_device_eval_batch_size=2),
            train_dataset=Dataset.from_list(pairs),
            processing_class=build_tokenizer(),
        )
        metrics = fresh.evaluate(Dataset.from_list(pairs[:5]))
        if trainer.accelerator.is_main_process:
            output = {"num_processes": num_processes, "parameters": parameters(model), "log": log, "eval": metrics}
            torch.save(output, folder / f"parameters-{average}.pt")


if __name__ == "__main__":
    main()
    # What holds the process group, DDP's buffers among it, has to go before the group does.
    gc.collect()
    PartialState().wait_for_everyone()
    PartialState().destroy_process_group()
