"""Tests of streams from which nothing can be learned, with the trainer: it would end at once, after no step."""

import re

import pytest
from datasets import Dataset, IterableDataset

from edit_trl import EDITConfig, EDITTrainer
from edit_trl.data_utils import prepare_dual_cots


GOOD = {"prompt": "Q: What is 2 + 2?\nA:", "chosen": " It is 4.", "rejected": " It is 5."}
MISSING = "`prompt` is None or has no message, or `chosen`, `rejected` or `completion` is None or empty"
DROPPED = {
    "missing": ([{**GOOD, "chosen": None}] * 3, f"none of its 3 is left: 3 where {MISSING}"),
    "equal": (
        [{**GOOD, "rejected": GOOD["chosen"]}, {**GOOD, "rejected": ""}],
        f"none of its 2 is left: 1 where the tokens of both chains are equal; 1 where {MISSING}",
    ),
    "no room": ([{**GOOD, "prompt": "So " * 40}] * 2, "2 where the prompt leaves no room for a completion under"),
    "empty": ([], "got none. Look at how it was loaded"),
}


def stream(rows):
    """A stream that knows its columns, so that it may be empty."""
    features = Dataset.from_list([GOOD]).features
    return IterableDataset.from_generator(lambda: iter(rows), features=features)


class TestStreamsWithoutPairs:
    @pytest.mark.parametrize(("rows", "why"), DROPPED.values(), ids=DROPPED)
    @pytest.mark.parametrize("argument", ["train", "eval"])
    def test_trainer_says_what_was_dropped_and_why(self, rows, why, argument, model, tokenizer, tmp_path):
        args = EDITConfig(
            output_dir=str(tmp_path), report_to="none", use_cpu=True, bf16=False, max_length=32, max_steps=1
        )
        datasets = {
            "train_dataset": stream([GOOD]),
            "eval_dataset": stream([GOOD]),
            f"{argument}_dataset": stream(rows),
        }
        with pytest.raises(ValueError, match=f"^The {argument} dataset must have at least one .*{re.escape(why)}"):
            EDITTrainer(model, args, processing_class=tokenizer, **datasets)

    def test_pairs_after_dropped_ones_are_trained(self, model, tokenizer, tmp_path):
        """The search for the first pair takes nothing from the training: both pairs are seen in two steps of one."""
        bad = {**GOOD, "chosen": None}
        args = EDITConfig(
            output_dir=str(tmp_path),
            report_to="none",
            use_cpu=True,
            bf16=False,
            max_steps=2,
            per_device_train_batch_size=1,
            save_strategy="no",
        )
        rows = [bad, bad, GOOD, bad, {**GOOD, "rejected": " It is 6."}]
        trainer = EDITTrainer(model, args, processing_class=tokenizer, train_dataset=stream(rows))
        seen = []
        collate = trainer.data_collator
        trainer.data_collator = lambda batch: (seen.extend(row["rejected_ids"] for row in batch), collate(batch))[1]
        trainer.train()
        assert trainer.state.global_step == 2
        assert [tokenizer.decode(ids[:-1]) for ids in seen[:2]] == [" It is 5.", " It is 6."]


class TestSearch:
    def test_long_search_for_the_first_pair_is_reported(self, tokenizer, caplog):
        rows = [{**GOOD, "chosen": None}] * 1_200 + [GOOD]
        with caplog.at_level("WARNING", logger="edit_trl.data_utils"):
            prepared = prepare_dual_cots(stream(rows), tokenizer, eos_token=None)
        (message,) = caplog.messages
        assert message.endswith(f"Dropped 1000 of 1000 rows of the train dataset: 1000 where {MISSING}.")
        assert [row["prompt"] for row in prepared] == [GOOD["prompt"]]
