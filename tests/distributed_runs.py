"""
Runs of `test_distributed.py`: in the process of the test, and as a script in two processes, which saves the results.
"""

import gc
import sys
from pathlib import Path

import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from conftest import build_model, build_tokenizer
from datasets import Dataset, IterableDataset
from peft import LoraConfig
from test_edit_trainer import config, parameters

from edit_trl import EDITTrainer


def pair(number: int) -> dict[str, list[int]]:
    """A pair with key tokens; of each four the last two have them beyond `max_length`, so one process has none."""
    start = [5 + number % 7, 20 + number, *range(40, 44)]
    end = [60 + number % 5, 61] if number % 4 < 2 else [*range(70, 90), 60 + number % 5]
    other = [62, 60 + number % 5, 63] if number % 4 < 2 else [*range(70, 90), 65]
    return {"prompt_ids": [3, 4, 300 + number], "chosen_ids": [*start, *end], "rejected_ids": [*start, *other]}


PAIRS = [pair(number) for number in range(23)]

# Name, and the options: with an adapter or in full, in packed or padded rows, with batches accumulated or not.
TRAININGS = {
    f"{kind} {'packed' if shared else 'padded'} {steps}": (kind, shared, steps)
    for kind in ("full", "adapter")
    for shared in (True, False)
    for steps in (1, 3)
}


def make_trainer(folder: Path, rows, kind: str = "full", **options) -> EDITTrainer:
    adapter = LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False)
    return EDITTrainer(
        model=build_model(),
        args=config(folder, max_length=20, train_sampling_strategy="sequential", **options),
        train_dataset=rows if isinstance(rows, IterableDataset) else Dataset.from_list(rows),
        processing_class=build_tokenizer(),
        peft_config=adapter if kind == "adapter" else None,
    )


def train(folder: Path, rows: list, kind: str, shared: bool, steps: int, **options) -> dict[str, torch.Tensor]:
    """Parameters after an epoch of plain gradient descent."""
    options = {"gradient_accumulation_steps": steps, "learning_rate": 0.1, **options}
    torch.manual_seed(0)  # of the adapter
    trainer = make_trainer(folder, rows, kind, shared_prefix=shared, **options)
    trainer.train()
    assert trainer._layout == ("packed" if shared else "padded")
    return parameters(trainer.model)


def evaluate(folder: Path, rows: list, **options) -> dict[str, float]:
    trainer = make_trainer(folder, rows, per_device_eval_batch_size=3, **options)
    rows = Dataset.from_list(rows)
    metrics = {**trainer.evaluate(rows), **trainer.predict(rows).metrics}
    return {name: value for name, value in metrics.items() if "loss" in name or "key" in name}


def rows_of_a_stream(folder: Path, num_shards: int, num_workers: int) -> list[int]:
    """Numbers of the rows that all processes get from a stream of 20 rows in shards, in an epoch."""
    dataset = Dataset.from_list(PAIRS[:20]).to_iterable_dataset(num_shards=num_shards)
    options = {"per_device_train_batch_size": 1, "dataloader_num_workers": num_workers, "max_steps": 100}
    trainer = make_trainer(folder, dataset, **options)
    found = []
    for batch in trainer.get_train_dataloader():
        ids = batch["input_ids"]
        found += (ids[ids >= 300] - 300).tolist()
    return sorted(gather_object(found))


def files_written(folder: Path) -> list[list[str]]:
    """Names of the files that each process writes in a run with checkpoints, each in a folder of its own."""
    own = folder / f"of-{PartialState().process_index}"
    trainer = make_trainer(own, PAIRS[:16], save_strategy="steps", save_steps=2, per_device_train_batch_size=2)
    trainer.train()
    trainer.save_model()
    trainer.create_model_card()
    trainer.save_state()
    PartialState().wait_for_everyone()
    return gather_object([sorted({path.name for path in own.rglob("*") if path.is_file()})])


def main() -> None:
    folder = Path(sys.argv[1])
    results: dict = {}
    for name, options in TRAININGS.items():
        results[name] = train(folder, PAIRS[:22], *options, per_device_train_batch_size=2)
    uneven = {"accelerator_config": {"even_batches": False}, "per_device_train_batch_size": 2}
    results["drop_last"] = train(folder, PAIRS, "full", True, 1, dataloader_drop_last=True, **uneven)
    try:
        train(folder, PAIRS, "full", True, 1, **uneven)
    except ValueError as error:
        results["uneven"] = str(error)
    results["evaluation"] = evaluate(folder, PAIRS)
    for num_shards, num_workers in ((1, 0), (2, 0), (4, 0), (4, 2)):
        results["stream", num_shards, num_workers] = rows_of_a_stream(folder, num_shards, num_workers)
    results["written"] = files_written(folder)
    results["num_processes"] = PartialState().num_processes
    if PartialState().is_main_process:
        torch.save(results, folder / "results.pt")


if __name__ == "__main__":
    main()
    gc.collect()
    PartialState().wait_for_everyone()
    PartialState().destroy_process_group()
