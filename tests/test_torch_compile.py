"""
Tests that a compiled student is compiled a few times, and not again for each batch, and that it trains as without it.

The backends run the traced graphs without a compiler of C++. The number of graphs does not depend on the backend.
"""

import random

import pytest
import torch
from conftest import build_model
from test_edit_trainer import make_trainer
from torch._dynamo.utils import counters


pytestmark = [
    pytest.mark.slow,
    # TRL sets `gradient_checkpointing`, which transformers 5.23 deprecates; that warning is between the two.
    pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.* is deprecated:FutureWarning"),
]


def random_pairs(number: int) -> list[dict]:
    """Pairs of different lengths, with a common start of a few tokens."""
    generator = random.Random(0)

    def tokens(least: int, most: int) -> list[int]:
        return [generator.randint(10, 390) for _ in range(generator.randint(least, most))]

    return [
        {"prompt_ids": tokens(3, 30), "chosen_ids": [9, *tokens(2, 40)], "rejected_ids": [9, *tokens(2, 40)]}
        for _ in range(number)
    ]


@pytest.mark.parametrize("layout", ["packed", "shared_prefix", "padded"])
@pytest.mark.parametrize("options", [{}, {"chosen_other_weight": 0.3}], ids=["key tokens", "gamma"])
def test_batches_of_all_lengths_share_a_few_graphs(tmp_path, layout, options):
    """50 batches of two pairs. Before, each had a graph, until PyTorch gave up after eight."""
    losses = {}
    for is_compiled in (True, False):
        torch._dynamo.reset()
        counters.clear()
        trainer = make_trainer(
            tmp_path,
            random_pairs(100),
            build_model(attn_implementation="eager" if layout == "shared_prefix" else "sdpa"),
            shared_prefix=layout != "padded",
            per_device_train_batch_size=2,
            learning_rate=0.01,
            torch_compile=is_compiled,
            torch_compile_backend="eager" if is_compiled else None,
            **options,
        )
        trainer.train()
        assert trainer._layout == layout and trainer.state.global_step == 50
        losses[is_compiled] = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
        if is_compiled:
            assert 0 < counters["stats"]["unique_graphs"] <= 4
            assert not counters["graph_break"]
    assert losses[True] == pytest.approx(losses[False], abs=1e-4)
    assert losses[True][-1] != pytest.approx(losses[True][0], abs=1e-2)
