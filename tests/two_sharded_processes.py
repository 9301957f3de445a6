"""
Script that `test_layout_check.py` starts in two processes: one of them gets wrong layouts, and FSDP2 shards the
weights. Saves the results.
"""

import gc
import sys
from pathlib import Path

import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from conftest import build_model
from layout_cases import make_trainer, step
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from edit_trl import data_collator, edit_trainer, layouts


def main() -> None:
    folder = Path(sys.argv[1])
    outcome = {}

    edit_trainer.sharing_is_cheaper = lambda *args: True

    masks, segments = edit_trainer.attention_masks, data_collator.segment_inputs
    for name in ("segments are wrong", "masks are wrong too"):
        trainer = make_trainer(folder, build_model())
        if trainer.accelerator.process_index == 1:
            data_collator.segment_inputs = lambda lengths: segments([(0, sum(pair), 0) for pair in lengths])
            if name == "masks are wrong too":
                edit_trainer.attention_masks = lambda branch_ids, *args: masks(torch.zeros_like(branch_ids), *args)
        step(trainer)
        outcome[name] = gather_object([trainer._layout])
    edit_trainer.attention_masks, data_collator.segment_inputs = masks, segments

    mesh = init_device_mesh("cpu", (2,))
    for gamma in (0.0, 0.3):
        for head, limit in (("whole", 2**27), ("chunks", 0)):
            edit_trainer._MAX_LOGITS = limit
            for layout in layouts.LAYOUTS:
                model = build_model()
                trainer = make_trainer(folder, model, chosen_other_weight=gamma)
                for layer in model.model.layers:
                    fully_shard(layer, mesh=mesh)
                fully_shard(model, mesh=mesh)
                loss, gradients = step(trainer, layout=layout)
                assert trainer._layout == layout
                outcome["is_sharded"] = all(isinstance(gradient, DTensor) for gradient in gradients.values())
                # Both processes have the same batch, so that the mean of their gradients is that of one.
                full = {name: gradient.full_tensor() for name, gradient in gradients.items()}
                outcome[gamma, head, layout] = (loss, full)
    if trainer.accelerator.is_main_process:
        torch.save(outcome, folder / "outcome.pt")


if __name__ == "__main__":
    main()
    # What holds the process group has to go before the group does.
    gc.collect()
    PartialState().wait_for_everyone()
    PartialState().destroy_process_group()
