"""
Tests of `examples/accelerate_configs`: what `accelerate launch` makes of each file, and both stages with FSDP2.
"""

import json
import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import two_recipes
from accelerate.commands import launch
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.utils import DeepSpeedPlugin, FullyShardedDataParallelPlugin, patch_environment
from safetensors.torch import load_file

from edit_trl.checkpoints import incomplete_reason


ROOT = Path(__file__).parents[1]
FILES = sorted((ROOT / "examples" / "accelerate_configs").glob("*.yaml"))
RECIPE = str(ROOT / "edit_trl" / "scripts" / "train.py")

# What `accelerate launch` starts for each file, the kind of training, and the number of processes.
LAUNCHERS = {
    "cpu": ("simple_launcher", "NO", 1),
    "fsdp2": ("multi_gpu_launcher", "FSDP", 8),
    "multi_gpu": ("multi_gpu_launcher", "MULTI_GPU", 4),
    "single_gpu": ("simple_launcher", "NO", 1),
    "zero2": ("deepspeed_launcher", "DEEPSPEED", 8),
    "zero3": ("deepspeed_launcher", "DEEPSPEED", 8),
}


def launched(name: str, monkeypatch):
    """Launcher that `accelerate launch` takes for a file, its arguments, and the environment of the processes."""
    calls = []
    for launcher in ("simple_launcher", "multi_gpu_launcher", "deepspeed_launcher"):
        monkeypatch.setattr(launch, launcher, lambda args, launcher=launcher: calls.append((launcher, args)))
    # DeepSpeed itself is not needed to read its options.
    monkeypatch.setattr(launch, "is_deepspeed_available", lambda: True)
    path = ROOT / "examples" / "accelerate_configs" / f"{name}.yaml"
    launch.launch_command(launch.launch_command_parser().parse_args(["--config_file", str(path), "train.py"]))
    (launcher, args), *others = calls
    assert not others
    if launcher == "simple_launcher":
        environment = launch.prepare_simple_launcher_cmd_env(args)[1]
    elif launcher == "deepspeed_launcher":
        environment = launch.prepare_deepspeed_cmd_env(args)[1]
    else:
        environment = launch.prepare_multi_gpu_env(args)
    return launcher, args, {key: value for key, value in environment.items() if key.startswith(("ACCEL", "FSDP"))}


def test_every_file_is_in_the_table():
    assert [path.stem for path in FILES] == sorted(LAUNCHERS)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_accelerate_launches_what_the_file_says(path, monkeypatch):
    config = load_config_from_file(str(path))
    launcher, kind, num_processes = LAUNCHERS[path.stem]
    assert (config.distributed_type.value, config.num_processes) == (kind, num_processes)
    found, args, environment = launched(path.stem, monkeypatch)
    assert found == launcher
    assert args.num_machines == 1
    assert environment["ACCELERATE_MIXED_PRECISION"] == ("no" if path.stem == "cpu" else "bf16")


def test_fsdp2_splits_weights_and_gathers_them_again_in_checkpoints(monkeypatch):
    environment = launched("fsdp2", monkeypatch)[2]
    with patch_environment(**environment):
        plugin = FullyShardedDataParallelPlugin()
    assert plugin.fsdp_version == 2
    assert plugin.reshard_after_forward is True
    assert plugin.state_dict_type.name == "FULL_STATE_DICT"
    assert plugin.transformer_cls_names_to_wrap is None  # the student's own `_no_split_modules`
    assert plugin.cpu_offload.__class__.__name__ == "OffloadPolicy"
    assert plugin.activation_checkpointing is False


@pytest.mark.parametrize("stage", [2, 3])
def test_zero_has_its_stage_and_saves_whole_weights(stage, monkeypatch):
    pytest.importorskip("deepspeed")
    environment = launched(f"zero{stage}", monkeypatch)[2]
    with patch_environment(**environment):
        plugin = DeepSpeedPlugin()
    assert plugin.zero_stage == stage
    config = plugin.deepspeed_config["zero_optimization"]
    assert config["stage"] == stage
    assert config["offload_optimizer"]["device"] == config["offload_param"]["device"] == "none"
    assert config["stage3_gather_16bit_weights_on_model_save"] is (stage == 3)
    # The trainer fills in what is `auto`. DeepSpeed checks all names and values.
    from deepspeed.runtime.config import DeepSpeedConfig

    filled = {**plugin.deepspeed_config, "gradient_accumulation_steps": 1, "gradient_clipping": 1.0}
    filled["train_micro_batch_size_per_gpu"] = filled["train_batch_size"] = 1
    assert DeepSpeedConfig(filled).zero_optimization_stage == stage


def engine(name: str, folder: Path, monkeypatch) -> tuple[dict[str, str], list[str]]:
    """Environment and flags for the engine of a file on CPUs, in fp32, so that results can be compared exactly."""
    environment = launched(name, monkeypatch)[2]
    environment["ACCELERATE_MIXED_PRECISION"] = "no"
    if name == "fsdp2":
        return {**environment, "ACCELERATE_USE_CPU": "true"}, []
    with patch_environment(**environment):
        config = DeepSpeedPlugin().deepspeed_config
    config.pop("bf16", None)
    batch = ("train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps", "gradient_clipping")
    (folder / "engine.json").write_text(json.dumps({**config, **dict.fromkeys(batch, "auto")}))
    return {"DS_ACCELERATOR": "cpu"}, ["--deepspeed", "engine.json"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["fsdp2", "zero2", "zero3"])
def test_both_stages_are_those_of_one_process(name, tmp_path, model_folder, monkeypatch):
    """Stage 2 begins with the folder of stage 1, and a run that is continued ends with the same student."""
    if name != "fsdp2":
        pytest.importorskip("deepspeed")
    environment, flags = engine(name, tmp_path, monkeypatch)
    model = ["--model_name_or_path", model_folder]
    completed = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2",
         str(ROOT / "tests" / "two_recipes.py"), RECIPE, *model, *flags, "--per_device_train_batch_size", "2"],
        cwd=tmp_path, env={**os.environ, "OMP_NUM_THREADS": "1", **environment}, timeout=600, capture_output=True,
        text=True,
    )  # fmt: skip
    assert completed.returncode == 0, completed.stderr[-4000:]
    assert completed.stdout.count("Stage 1 is finished") == 2

    monkeypatch.chdir(tmp_path)
    recipe = runpy.run_path(RECIPE)["main"]
    for run, (_, own) in two_recipes.RUNS.items():
        monkeypatch.setattr(
            sys,
            "argv",
            [RECIPE, *two_recipes.FLAGS.split(), *model, *own, "--output_dir", f"{run}-one"]
            + ["--per_device_train_batch_size", "4"],
        )
        recipe()
        file = "model.safetensors" if run == "full" else "adapter_model.safetensors"
        one, both, resumed = (load_file(tmp_path / folder / file) for folder in (f"{run}-one", run, f"{run}-resumed"))
        assert one.keys() == both.keys() == resumed.keys()
        for key, value in one.items():
            torch.testing.assert_close(both[key], value, rtol=0, atol=1e-6)
            torch.testing.assert_close(resumed[key], both[key], rtol=0, atol=0)
        assert any(not torch.equal(value, load_file(tmp_path / run / "sft" / file)[key]) for key, value in one.items())
        checkpoint = tmp_path / run / "checkpoint-2"
        assert incomplete_reason(checkpoint) is None
        # What only this engine writes.
        shards = "pytorch_model_fsdp.bin" if run == "full" else "pytorch_model_fsdp_0/__1_0.distcp"
        assert next(checkpoint.glob(shards if name == "fsdp2" else "global_step2/*_mp_rank_00_optim_states.pt"))
