"""
Script that `test_accelerate_configs.py` starts in two processes: `examples/train.py` with a student that is split over
them, fine-tuned in full and with an adapter, undisturbed and continued from a checkpoint.

    python two_recipes.py RECIPE [FLAGS]

accelerate has FSDP for accelerators alone, though torch has it for CPUs too. Here it takes gloo for one of those.
"""

import os
import runpy
import shutil
import sys
from pathlib import Path

from accelerate import PartialState
from accelerate.utils import DistributedType


# In full with checkpoints in one file, and an adapter with checkpoints in shards, where the engine has both.
RUNS = {"full": ("FULL_STATE_DICT", ["--use_peft", "false"]), "adapter": ("SHARDED_STATE_DICT", ["--use_peft"])}
FLAGS = "--demo_num_examples 16 --demo_num_questions 0 --sft_max_steps 2 --max_steps 3 --save_strategy steps"
FLAGS += " --save_steps 2 --logging_steps 1"


def take_gloo_for_an_accelerator() -> None:
    init = PartialState.__init__

    def patched(self, *args, **kwargs) -> None:
        is_new = not self.initialized
        init(self, *args, **kwargs)
        if is_new and self.distributed_type == DistributedType.MULTI_CPU:
            self.distributed_type = DistributedType.MULTI_GPU

    PartialState.__init__ = patched


def run(*flags: str) -> None:
    """Run the recipe in this process."""
    sys.argv = [sys.argv[0], *FLAGS.split(), *flags]
    runpy.run_path(RECIPE)["main"]()


def main(flags: list[str]) -> None:
    for name, (kind, own) in RUNS.items():
        os.environ["FSDP_STATE_DICT_TYPE"] = kind
        run(*flags, *own, "--output_dir", name)
        state = PartialState()
        if state.is_main_process:
            shutil.copytree(name, f"{name}-resumed")
            shutil.rmtree(f"{name}-resumed/checkpoint-3")
            for file in Path(f"{name}-resumed").glob("*model.safetensors"):
                file.unlink()
        state.wait_for_everyone()
        run(*flags, *own, "--output_dir", f"{name}-resumed", "--resume_from_checkpoint", "true")


if __name__ == "__main__":
    RECIPE = sys.argv[1]
    if os.environ.get("ACCELERATE_USE_FSDP"):
        take_gloo_for_an_accelerator()
    else:
        from deepspeed import init_distributed

        init_distributed("gloo")  # with an accelerator, `TrainingArguments` does this
    main(sys.argv[2:])
    PartialState().wait_for_everyone()
    PartialState().destroy_process_group()
