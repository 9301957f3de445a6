"""
Script that `test_trainer_features.py` starts with `HF_ENDPOINT` on a loopback port: trains once for each
`hub_strategy` that is named on the command line, and pushes.
"""

import os
import sys
from pathlib import Path


sys.path.insert(0, str(Path(__file__).parents[1]))

from accelerate import PartialState  # noqa: E402
from conftest import build_model, build_tokenizer  # noqa: E402
from datasets import Dataset  # noqa: E402

from edit_trl import EDITConfig, EDITTrainer  # noqa: E402


def main() -> None:
    PartialState()
    pairs = [{"prompt": "1 + 1 =", "chosen": f" {i + 2}", "rejected": f" {i + 3}"} for i in range(4)]
    for strategy in sys.argv[1:]:
        args = EDITConfig(
            output_dir=os.path.abspath(strategy),
            use_cpu=True,
            bf16=False,
            report_to="none",
            per_device_train_batch_size=2,
            max_steps=2,
            save_strategy="steps",
            save_steps=1,
            push_to_hub=True,
            hub_model_id=f"somebody/{strategy}",
            hub_strategy=strategy,
            hub_always_push=True,  # wait for the push before, so that each one happens
        )
        trainer = EDITTrainer(
            model=build_model(),
            args=args,
            train_dataset=Dataset.from_list(pairs),
            processing_class=build_tokenizer(),
        )
        trainer.train()
        trainer.push_to_hub()


if __name__ == "__main__":
    main()
