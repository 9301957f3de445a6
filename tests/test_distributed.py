"""
Tests of what must be the same in two processes as in one, on CPUs, in one launch of two processes.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import build_model
from distributed_runs import PAIRS, TRAININGS, evaluate, make_trainer, train
from test_edit_trainer import assert_same_parameters, parameters


ROOT = Path(__file__).parents[1]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:`gradient_checkpointing` is deprecated:FutureWarning"),
]


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """Results of two processes."""
    folder = tmp_path_factory.mktemp("both")
    completed = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2",
         str(ROOT / "tests" / "distributed_runs.py"), str(folder)],
        env={
            **os.environ,
            "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}",
            "OMP_NUM_THREADS": "1",
            "CUDA_VISIBLE_DEVICES": "",
            "ACCELERATE_USE_CPU": "true",
        },
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert completed.returncode == 0, completed.stderr[-4000:]
    results = torch.load(folder / "results.pt")
    assert results["num_processes"] == 2
    return results


@pytest.mark.parametrize("name", TRAININGS)
def test_parameters_are_those_of_one_process(name, both, tmp_path):
    """
    Of 22 pairs, two processes of two take 4 a batch. The last batch is filled with the first two pairs, so it is an
    epoch of 24. Of each four pairs, those of the second process have no key tokens.
    """
    one = train(tmp_path, [*PAIRS[:22], *PAIRS[:2]], *TRAININGS[name], per_device_train_batch_size=4)
    assert_same_parameters(one, both[name], atol=1e-6)
    before = parameters(build_model())
    moved = [key for key, value in before.items() if key in one and not torch.equal(one[key], value)]
    assert bool(moved) == name.startswith("full")


def test_without_even_batches_the_last_ones_must_be_left_out(both, tmp_path):
    """Otherwise one process would have no batch when the other has its last."""
    one = train(tmp_path, PAIRS[:20], "full", True, 1, per_device_train_batch_size=4)
    assert_same_parameters(one, both["drop_last"], atol=1e-6)
    assert "needs `dataloader_drop_last=True`" in both["uneven"]


def test_evaluation_and_prediction_count_every_row_once(both, tmp_path):
    """23 rows in batches of three: the last one is filled with repeated rows."""
    one = evaluate(tmp_path, PAIRS)
    assert {"eval_loss", "test_loss", "eval_edit/key_margin"} <= one.keys()
    assert both["evaluation"] == pytest.approx(one, abs=1e-6)
    alone = [evaluate(tmp_path, [row])["eval_loss"] for row in PAIRS]
    assert one["eval_loss"] == pytest.approx(sum(alone) / 23, abs=1e-6)


def test_only_the_first_process_writes(both):
    """But for the state of its random numbers, which each process has in a checkpoint."""
    first, second = both["written"]
    assert {"model.safetensors", "optimizer.pt", "trainer_state.json", "README.md", "rng_state_0.pth"} <= set(first)
    assert second == ["rng_state_1.pth"]


@pytest.mark.parametrize(("num_shards", "num_workers"), [(1, 0), (2, 0), (4, 0), (4, 2)])
def test_a_stream_gives_every_row_to_one_process(num_shards, num_workers, both):
    assert both["stream", num_shards, num_workers] == list(range(20))


def test_one_process_may_have_uneven_batches(tmp_path):
    make_trainer(tmp_path, PAIRS[:3], accelerator_config={"even_batches": False})
