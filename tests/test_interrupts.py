"""
Tests of runs that get SIGTERM: really sent, to one process, to a launcher, or to one of two processes.
"""

import os
import runpy
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torn_run import make_trainer

from edit_trl import EDITConfig, InterruptCallback
from edit_trl.callbacks import Interrupted
from edit_trl.checkpoints import incomplete_reason


ROOT = Path(__file__).parents[1]
TESTS = ROOT / "tests"
ENVIRONMENT = {
    "PYTHONPATH": f"{ROOT}{os.pathsep}{TESTS}",
    "OMP_NUM_THREADS": "1",
    "ACCELERATE_USE_CPU": "true",
    "CUDA_VISIBLE_DEVICES": "",
}
TWO = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
RUN = str(TESTS / "interrupted_run.py")

pytestmark = pytest.mark.filterwarnings("ignore:`gradient_checkpointing` is deprecated:FutureWarning")


def launch(folder: Path, *command: str, environment: dict[str, str] | None = None) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, *command],
        cwd=folder,
        env={**os.environ, **ENVIRONMENT, **(environment or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(process: subprocess.Popen) -> tuple[int, str]:
    """Exit code of a process and what it printed."""
    output = process.communicate(timeout=400)[0]
    return process.returncode, output


def interrupt(
    folder: Path,
    output_dir: str,
    step: int,
    *command: str,
    launcher: list[str] | None = None,
    ranks: str = "0",
    environment: dict[str, str] | None = None,
) -> tuple[int, str]:
    """
    Start a script, wait until the processes `ranks` are at a step of the run in `output_dir`, and send SIGTERM to what
    was started. Returns the exit code and what was printed.
    """
    script = [*(launcher or []), str(TESTS / "interrupted.py"), output_dir, str(step), ranks, *command]
    process = launch(folder, *script, environment=environment)
    files = [folder / f"waits-{rank}" for rank in ranks.split(",")]
    while process.poll() is None and not all(file.exists() for file in files):
        time.sleep(0.02)
    process.terminate()
    code, output = finish(process)
    for file in files:
        assert file.exists(), output[-4000:]
        file.unlink()
    return code, output


def checkpoints(folder: Path) -> list[str]:
    found = sorted(folder.glob("checkpoint-*"))
    assert [incomplete_reason(path) for path in found] == [None] * len(found)
    return [path.name for path in found]


def assert_same_files(folder: Path) -> None:
    """The run in `student` ended with the parameters of the one in `undisturbed`."""
    found, expected = (torch.load(folder / name / "parameters.pt") for name in ("student", "undisturbed"))
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=0, atol=0)


class TestInterruptCallback:
    def test_a_run_without_the_signal_is_as_without_the_callback(self, tmp_path):
        before = signal.getsignal(signal.SIGTERM)
        plain, watched = make_trainer(str(tmp_path / "a")), make_trainer(str(tmp_path / "b"))
        watched.add_callback(InterruptCallback())
        plain.train()
        watched.train()
        for mine, theirs in zip(plain.model.parameters(), watched.model.parameters(), strict=True):
            assert torch.equal(mine, theirs)
        assert signal.getsignal(signal.SIGTERM) == before

    def test_the_checkpoint_comes_after_the_step_and_an_evaluation_that_is_due_is_left_out(self, tmp_path):
        """Also in the last step, from which a resumed run has nothing left to do but to end."""
        callback = InterruptCallback()
        pairs = make_trainer(str(tmp_path)).train_dataset
        options = {"save_strategy": "no", "eval_strategy": "steps", "eval_steps": 2, "max_steps": 4}
        trainer = make_trainer(str(tmp_path), callbacks=[callback], eval_dataset=pairs, **options)
        callback.on_step_begin = lambda args, state, control, **kwargs: (
            os.kill(os.getpid(), signal.SIGTERM) if state.global_step == 3 else None
        )
        before = signal.getsignal(signal.SIGTERM)
        try:
            with pytest.raises(Interrupted) as caught:
                trainer.train()
        finally:
            signal.signal(signal.SIGTERM, before)
        assert caught.value.code == 143
        assert isinstance(caught.value, SystemExit)
        assert checkpoints(tmp_path) == ["checkpoint-4"]
        assert [entry["step"] for entry in trainer.state.log_history if "eval_loss" in entry] == [2]
        resumed = make_trainer(str(tmp_path), seed=1, eval_dataset=pairs, **options)
        assert resumed.train(resume_from_checkpoint=True).global_step == 4
        for mine, theirs in zip(resumed.model.parameters(), trainer.model.parameters(), strict=True):
            assert torch.equal(mine, theirs)

    def test_checkpoints_without_the_optimizer_are_warned_of(self, tmp_path, caplog):
        make_trainer(str(tmp_path), callbacks=[InterruptCallback()], save_only_model=True, max_steps=1).train()
        assert "has no state of the optimizer" in caplog.text

    def test_the_option_of_transformers_is_refused(self, tmp_path):
        with pytest.raises(ValueError, match=r"not agree on the step.*pass `callbacks=\[InterruptCallback\(\)\]`"):
            EDITConfig(output_dir=str(tmp_path), enable_jit_checkpoint=True)


@pytest.mark.slow
class TestSigterm:
    def test_one_process(self, tmp_path):
        code, output = interrupt(tmp_path, "student", 3, RUN, "student")
        assert code == 143
        assert "a checkpoint of step 4 of 6 is saved in student" in output
        assert checkpoints(tmp_path / "student") == ["checkpoint-4"]
        code, output = finish(launch(tmp_path, RUN, "student", "--resume", "--undisturbed", "undisturbed"))
        assert code == 0, output[-4000:]
        assert_same_files(tmp_path)

    def test_two_processes(self, tmp_path):
        """The launcher gets the signal and passes it to both; then one of them alone gets it."""
        code, output = interrupt(tmp_path, "student", 3, RUN, "student", launcher=TWO, ranks="0,1")
        assert code != 0
        assert output.count("a checkpoint of step 4 of 6 is saved") == 1, output[-4000:]
        assert checkpoints(tmp_path / "student") == ["checkpoint-4"]
        options = ["--resume", "--undisturbed", "undisturbed", "--alone", "alone"]
        code, output = finish(launch(tmp_path, *TWO, RUN, "student", *options))
        assert code != 0
        assert output.count("a process ends with 143") == 2, output[-4000:]
        assert_same_files(tmp_path)
        assert output.count("a checkpoint of step 3 of 6 is saved") == 1
        assert checkpoints(tmp_path / "alone") == ["checkpoint-3"]
        assert not (tmp_path / "alone" / "parameters.pt").exists()

    def test_recipe(self, tmp_path, model_folder, loopback_hub, monkeypatch):
        """
        A stage that is interrupted is not finished, not followed by the next one, and not pushed. The first one is in
        its last step, after which nothing is left to train.
        """
        recipe = [str(ROOT / "examples" / "train.py"), "--output_dir", "student"]
        recipe += f"--model_name_or_path {model_folder} --sft_max_steps 2 --max_steps 2 --demo_num_examples 8".split()
        recipe += "--demo_num_questions 0 --per_device_train_batch_size 2 --lora_dropout 0.2".split()
        push = "--push_to_hub --hub_model_id somebody/student --hub_strategy end".split()
        resume = ["--resume_from_checkpoint", "true"]
        student, sft = tmp_path / "student", tmp_path / "student" / "sft"
        options = {"environment": loopback_hub.environment}

        code, output = interrupt(tmp_path, "student/sft", 1, *recipe, *push, **options)
        assert code == 143, output[-4000:]
        assert checkpoints(sft) == ["checkpoint-2"]
        assert not (sft / "adapter_model.safetensors").exists()
        assert "after stage 2" not in output

        code, output = interrupt(tmp_path, "student", 0, *recipe, *push, *resume, **options)
        assert code == 143, output[-4000:]
        assert checkpoints(sft) == []
        assert checkpoints(student) == ["checkpoint-1"]
        assert not (student / "adapter_model.safetensors").exists()
        assert "somebody/student" not in loopback_hub.files or not loopback_hub.files["somebody/student"]

        code, output = finish(launch(tmp_path, *recipe, *push, *resume, **options))
        assert code == 0, output[-4000:]
        assert "Stage 1 is finished" in output
        assert "adapter_model.safetensors" in loopback_hub.files["somebody/student"]

        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", [*recipe, "--output_dir", "undisturbed"])
        runpy.run_path(str(ROOT / "edit_trl" / "scripts" / "train.py"))["main"]()
        for folder in (".", "sft"):
            found, expected = (
                load_file(tmp_path / name / folder / "adapter_model.safetensors")
                for name in ("student", "undisturbed")
            )
            assert found.keys() == expected.keys()
            for name, value in expected.items():
                torch.testing.assert_close(found[name], value, rtol=0, atol=0)
