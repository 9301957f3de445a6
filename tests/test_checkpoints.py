"""
Tests of checkpoints after a crash: processes that are really killed, files that are cut off, and limits on files.
"""

import json
import logging
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from safetensors.torch import load_file
from torn_run import PAIRS, make_trainer
from transformers import Trainer

from edit_trl.checkpoints import incomplete_reason, newest_checkpoint
from edit_trl.hub import PublicPushes


ROOT = Path(__file__).parents[1]
SCRIPT = str(ROOT / "tests" / "torn_run.py")
FILES = ["model.safetensors", "training_args.bin", "optimizer.pt", "scheduler.pt", "rng_state.pth"]
FILES += ["trainer_state.json"]

pytestmark = pytest.mark.filterwarnings("ignore:`gradient_checkpointing` is deprecated:FutureWarning")


def start(folder, *options) -> subprocess.Popen:
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}", "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, SCRIPT, str(folder), *options],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def parameters(trainer) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in trainer.model.named_parameters()}


def assert_same(expected, found) -> None:
    assert expected.keys() == found.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=0, atol=0)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """Folder and parameters of a run of six steps, with a checkpoint after each two."""
    folder = tmp_path_factory.mktemp("undisturbed")
    trainer = make_trainer(str(folder))
    trainer.train()
    return folder, parameters(trainer)


@pytest.fixture
def checkpoints(undisturbed, tmp_path) -> Path:
    shutil.copytree(undisturbed[0], tmp_path, dirs_exist_ok=True)
    return tmp_path


class TestComplete:
    def test_checkpoints_of_a_run_are_complete(self, checkpoints):
        assert sorted(path.name for path in checkpoints.glob("*")) == [
            "README.md",
            "checkpoint-2",
            "checkpoint-4",
            "checkpoint-6",
            "training.json",
        ]
        assert [incomplete_reason(path) for path in sorted(checkpoints.glob("checkpoint-*"))] == [None] * 3
        assert newest_checkpoint(checkpoints) == str(checkpoints / "checkpoint-6")

    @pytest.mark.parametrize("share", [0, 0.5, 0.99])
    @pytest.mark.parametrize("file", [*FILES, "config.json", "tokenizer.json"])
    def test_a_file_that_is_cut_off_is_named(self, checkpoints, file, share, caplog):
        path = checkpoints / "checkpoint-6" / file
        os.truncate(path, int(share * path.stat().st_size))
        assert incomplete_reason(path.parent) == f"{file} is cut off"
        with caplog.at_level(logging.WARNING):
            assert newest_checkpoint(checkpoints) == str(checkpoints / "checkpoint-4")
        assert f"checkpoint-6 is skipped, because it is no complete checkpoint: {file} is cut off." in caplog.text

    @pytest.mark.parametrize(
        ("file", "reason"),
        [("trainer_state.json", "trainer_state.json is missing"), ("model.safetensors", "it has no weights")],
    )
    def test_a_file_that_is_missing_is_named(self, checkpoints, file, reason):
        (checkpoints / "checkpoint-6" / file).unlink()
        assert incomplete_reason(checkpoints / "checkpoint-6") == reason

    def test_missing_shards_are_named(self, checkpoints):
        folder = checkpoints / "checkpoint-6"
        index = {"weight_map": {"a": "model-1-of-2.safetensors", "b": "model-2-of-2.safetensors"}}
        (folder / "model.safetensors").rename(folder / "model-1-of-2.safetensors")
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
        assert incomplete_reason(folder) == "model-2-of-2.safetensors is missing"

    def test_other_files_and_folders_are_no_checkpoints(self, tmp_path):
        (tmp_path / "checkpoint-9").touch()
        (tmp_path / "checkpoint-best").mkdir()
        assert newest_checkpoint(tmp_path) is None
        assert newest_checkpoint(tmp_path / "missing") is None

    def test_old_format_of_torch_is_read(self, checkpoints):
        torch.save({}, checkpoints / "checkpoint-6" / "scheduler.pt", _use_new_zipfile_serialization=False)
        assert incomplete_reason(checkpoints / "checkpoint-6") is None

    def test_only_the_model_is_saved(self, tmp_path):
        trainer = make_trainer(str(tmp_path), save_only_model=True, max_steps=2)
        trainer.train()
        assert incomplete_reason(tmp_path / "checkpoint-2") is None


class TestResume:
    def test_torn_checkpoint_that_is_named_is_refused(self, checkpoints):
        (checkpoints / "checkpoint-6" / "trainer_state.json").unlink()
        with pytest.raises(ValueError, match=r"missing\. Pass '.*checkpoint-4', which is complete\.$"):
            make_trainer(str(checkpoints)).train(resume_from_checkpoint=str(checkpoints / "checkpoint-6"))

    def test_no_checkpoint(self, tmp_path):
        with pytest.raises(ValueError, match="got none in .* Leave it out to begin from the start"):
            make_trainer(str(tmp_path)).train(resume_from_checkpoint=True)

    def test_checkpoint_of_an_earlier_run_is_replaced(self, checkpoints, undisturbed):
        old = checkpoints / "checkpoint-6" / "old.txt"
        old.touch()
        trainer = make_trainer(str(checkpoints), seed=1)
        trainer.train(resume_from_checkpoint=str(checkpoints / "checkpoint-4"))
        assert_same(undisturbed[1], parameters(trainer))
        assert not old.exists() and incomplete_reason(old.parent) is None
        assert not (checkpoints / "_incomplete").exists()


@pytest.mark.slow
class TestKilled:
    @pytest.mark.parametrize("file", FILES)
    def test_while_a_file_is_written(self, tmp_path, undisturbed, file, caplog):
        process = start(tmp_path, "--tear", file, "4")
        output = process.communicate(timeout=200)[0]
        assert process.returncode == -signal.SIGKILL, output[-2000:]
        assert [path.name for path in tmp_path.glob("checkpoint-*")] == ["checkpoint-2"]
        assert (tmp_path / "_incomplete" / "checkpoint-4" / file).exists()
        trainer = make_trainer(str(tmp_path), seed=1)  # other weights, so that only the checkpoint has the right ones
        with caplog.at_level(logging.WARNING):
            trainer.train(resume_from_checkpoint=True)
        assert f"Removing what an interrupted run left half written in {tmp_path}: checkpoint-4." in caplog.text
        assert_same(undisturbed[1], parameters(trainer))
        assert not (tmp_path / "_incomplete").exists()
        assert [incomplete_reason(path) for path in tmp_path.glob("checkpoint-*")] == [None] * 3

    def test_at_random_moments(self, tmp_path, undisturbed):
        """All that has the name of a checkpoint is complete after each kill, and the run ends as if undisturbed."""
        rng, num_killed = random.Random(0), 0
        for attempt in range(10):
            process = start(tmp_path, *(["--resume"] if newest_checkpoint(tmp_path) else []))
            while process.stdout.readline() not in ("begins\n", ""):
                pass
            time.sleep(rng.uniform(0, 0.06 * attempt))
            process.kill()
            process.communicate()
            num_killed += process.returncode == -signal.SIGKILL
            assert {incomplete_reason(path) for path in tmp_path.glob("checkpoint-*")} <= {None}
        assert num_killed
        newest = newest_checkpoint(tmp_path)
        trainer = make_trainer(str(tmp_path), seed=0 if newest is None else 1)
        trainer.train(resume_from_checkpoint=newest)
        assert_same(undisturbed[1], parameters(trainer))


@pytest.mark.slow
class TestFullDisk:
    def test_a_file_above_the_limit(self, tmp_path, undisturbed):
        """The limit is above the weights and below the optimizer's state."""
        sizes = {path.name: path.stat().st_size for path in (undisturbed[0] / "checkpoint-2").iterdir()}
        assert sizes["optimizer.pt"] > 1.5 * sizes["model.safetensors"]
        process = start(tmp_path, "--limit", str(int(1.2 * sizes["model.safetensors"])))
        output = process.communicate(timeout=200)[0]
        assert process.returncode == 1
        assert (
            f"OSError: [Errno 28] The checkpoint {tmp_path}/checkpoint-4 could not be written: the disk is full"
            in output
        )
        assert f"`resume_from_checkpoint=True` then continues from {tmp_path}/checkpoint-2." in output
        assert sorted(path.name for path in tmp_path.glob("*check*")) == ["checkpoint-2"]
        assert not list(tmp_path.glob("_incomplete/*"))

    def test_weights_above_the_limit(self, tmp_path):
        process = start(tmp_path, "--limit", "20000")
        output = process.communicate(timeout=200)[0]
        assert process.returncode == 1
        assert "could not be written: the disk is full" in output


@pytest.mark.slow
class TestDeepSpeed:
    @pytest.mark.parametrize("stage", [2, 3])
    def test_two_processes_are_one_batch(self, tmp_path, stage):
        """On CPUs. A run that begins with the checkpoint after two of its three steps ends with the same student."""
        pytest.importorskip("deepspeed")
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu"}
        environment.pop("ACCELERATE_USE_CPU", None)
        launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", SCRIPT]
        command = [*launch, str(tmp_path / "both"), "--deepspeed", str(stage)]
        subprocess.run(command, check=True, env=environment, timeout=600)
        both = load_file(tmp_path / "both" / "model.safetensors")
        one = make_trainer(str(tmp_path / "one"), per_device_train_batch_size=4)
        one.train()
        for name, value in one.model.named_parameters():
            torch.testing.assert_close(both[name], value, rtol=0, atol=1e-5)
        for path in (tmp_path / "both").glob("checkpoint-*"):
            assert incomplete_reason(path) is None
        shutil.rmtree(tmp_path / "both" / "checkpoint-3")
        subprocess.run([*command, "--resume"], check=True, env=environment, timeout=600)
        assert_same(both, load_file(tmp_path / "both" / "model.safetensors"))


class TestOtherFeatures:
    def test_the_best_checkpoint_has_its_place(self, tmp_path):
        options = {"eval_strategy": "steps", "eval_steps": 2, "load_best_model_at_end": True, "save_total_limit": 1}
        pairs = Dataset.from_list(PAIRS[:4])
        # Training raises the loss of rejected tokens, so with this metric the first checkpoint is the best.
        trainer = make_trainer(
            str(tmp_path),
            eval_dataset=pairs,
            metric_for_best_model="edit/key_margin",
            greater_is_better=False,
            **options,
        )
        trainer.train()
        best = tmp_path / f"checkpoint-{trainer.state.best_global_step}"
        assert trainer.state.best_global_step == 2
        assert trainer.state.best_model_checkpoint == str(best)
        assert [path.name for path in tmp_path.glob("checkpoint-*")] == [best.name]
        state = json.loads((best / "trainer_state.json").read_text())
        assert state["best_model_checkpoint"] == str(best)

    def test_old_checkpoints_are_removed(self, tmp_path):
        make_trainer(str(tmp_path), save_total_limit=2).train()
        assert sorted(path.name for path in tmp_path.glob("checkpoint-*")) == ["checkpoint-4", "checkpoint-6"]

    def test_a_checkpoint_is_pushed_from_its_place(self, tmp_path, monkeypatch):
        pushed = []

        def push(self, folder):
            assert incomplete_reason(folder) is None
            pushed.append(folder)

        monkeypatch.setattr(PublicPushes, "_push_from_checkpoint", push)
        trainer = make_trainer(str(tmp_path))
        trainer.args.push_to_hub = True
        monkeypatch.setattr(trainer, "_finish_current_push", lambda: None)
        trainer.train()
        assert pushed == [str(tmp_path / f"checkpoint-{step}") for step in (2, 4, 6)]

    def test_errors_that_are_not_of_the_disk_stay_as_they_are(self, tmp_path, monkeypatch):
        def fail(*args):
            raise RuntimeError("something else")

        monkeypatch.setattr(Trainer, "_save_rng_state", fail)
        with pytest.raises(RuntimeError, match="^something else$"):
            make_trainer(str(tmp_path)).train()
        assert not list(tmp_path.glob("*/checkpoint-*"))
