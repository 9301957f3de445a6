"""Tests of features of `Trainer` and `SFTTrainer` that no other test trains with: checkpoints, memory, optimizers."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import build_model
from datasets import Dataset
from peft import LoraConfig
from test_edit_trainer import assert_same_parameters, make_trainer, parameters
from test_supported_surface import build, dataset, options, train  # noqa: F401
from transformers import EarlyStoppingCallback, TrainerCallback
from transformers.trainer_utils import get_last_checkpoint
from trl import BEMACallback, RichProgressCallback

from edit_trl import EDITTrainer


pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("error:::edit_trl")]


def evaluations(trainer: EDITTrainer) -> list[dict[str, float]]:
    return [entry for entry in trainer.state.log_history if "eval_loss" in entry]


def swapped(pairs: list[dict[str, str]]) -> Dataset:
    return Dataset.from_list([{**pair, "chosen": pair["rejected"], "rejected": pair["chosen"]} for pair in pairs])


class TestEvaluationAndCheckpoints:
    @pytest.mark.parametrize(
        ("strategy", "expected"),
        [
            ({"eval_strategy": "no"}, []),
            ({"eval_strategy": "steps", "eval_steps": 2}, [2, 4]),
            ({"eval_strategy": "epoch"}, [2, 4]),
            ({"eval_strategy": "epoch", "eval_on_start": True}, [0, 2, 4]),
            ({"eval_strategy": "epoch", "eval_delay": 2}, [4]),
        ],
        ids=str,
    )
    def test_eval_strategy(self, tmp_path, pairs, strategy, expected):
        """Eight pairs in batches of four: two steps per epoch."""
        trainer = make_trainer(
            tmp_path, pairs, eval_dataset=Dataset.from_list(pairs[:2]), per_device_train_batch_size=4,
            num_train_epochs=2, learning_rate=1e-3, **strategy,
        )  # fmt: skip
        trainer.train()
        assert [entry["step"] for entry in evaluations(trainer)] == expected
        assert all("eval_edit/key_margin" in entry for entry in evaluations(trainer))

    @pytest.mark.parametrize(
        ("strategy", "expected"),
        [
            ({"save_strategy": "no"}, []),
            ({"save_strategy": "steps", "save_steps": 2}, [2, 4]),
            ({"save_strategy": "epoch"}, [2, 4]),
            ({"save_strategy": "steps", "save_steps": 1, "save_total_limit": 1}, [4]),
            ({"save_strategy": "epoch", "save_only_model": True}, [2, 4]),
        ],
        ids=str,
    )
    def test_save_strategy(self, tmp_path, pairs, strategy, expected):
        trainer = make_trainer(
            tmp_path, pairs, per_device_train_batch_size=4, num_train_epochs=2, learning_rate=1e-3, **strategy
        )
        trainer.train()
        folders = sorted(Path(trainer.args.output_dir).glob("checkpoint-*"))
        assert [int(folder.name.split("-")[1]) for folder in folders] == expected
        assert all((folder / "model.safetensors").exists() for folder in folders)
        has_optimizer = [(folder / "optimizer.pt").exists() for folder in folders]
        assert all(has_optimizer) != strategy.get("save_only_model", False) or not folders

    @pytest.mark.parametrize("metric", ["loss", "edit/key_margin", "edit/loss_chosen"])
    @pytest.mark.parametrize("save_strategy", ["steps", "best"])
    def test_load_best_model_at_end(self, tmp_path, pairs, metric, save_strategy):
        """What training does to these pairs makes others, whose chains are swapped, worse from step to step."""
        trainer = make_trainer(
            tmp_path, pairs, eval_dataset=swapped(pairs), per_device_train_batch_size=2, max_steps=3,
            learning_rate=0.1, eval_strategy="steps", eval_steps=1, save_strategy=save_strategy, save_steps=1,
            load_best_model_at_end=True, metric_for_best_model=metric, rejected_key_weight=0.5,
        )  # fmt: skip
        trainer.train()
        values = [entry[f"eval_{metric}"] for entry in evaluations(trainer)]
        best = max(values) if metric == "edit/key_margin" else min(values)
        assert len(set(values)) == 3 and best == values[0]
        assert trainer.state.best_metric == best
        assert trainer.evaluate()[f"eval_{metric}"] == pytest.approx(best, rel=1e-5)

    def test_early_stopping(self, tmp_path, pairs):
        """A rate of zero does not improve the metric, so two evaluations without improvement follow the first."""
        trainer = make_trainer(
            tmp_path, pairs, eval_dataset=Dataset.from_list(pairs[4:]), max_steps=9, learning_rate=0.0,
            eval_strategy="steps", eval_steps=1, metric_for_best_model="edit/key_margin",
            callbacks=[EarlyStoppingCallback(early_stopping_patience=2)],
        )  # fmt: skip
        trainer.train()
        assert trainer.state.global_step == 3

    def test_reduce_lr_on_plateau(self, tmp_path, pairs):
        trainer = make_trainer(
            tmp_path, pairs, eval_dataset=swapped(pairs), max_steps=4, learning_rate=0.1, rejected_key_weight=0.5,
            eval_strategy="steps", eval_steps=1, metric_for_best_model="edit/loss_chosen",
            lr_scheduler_type="reduce_lr_on_plateau", lr_scheduler_kwargs={"patience": 0, "factor": 0.5},
        )  # fmt: skip
        trainer.train()
        rates = [entry["learning_rate"] for entry in trainer.state.log_history if "loss" in entry]
        assert rates[0] == 0.1 and rates[-1] <= 0.05

    def test_resume_with_an_adapter(self, tmp_path, pairs):
        """The other model has another adapter, so that only the checkpoint can bring the right one."""

        def build(seed: int) -> EDITTrainer:
            torch.manual_seed(seed)
            return make_trainer(
                tmp_path, pairs, peft_config=LoraConfig(r=4, target_modules=["q_proj"]), learning_rate=1e-2,
                per_device_train_batch_size=2, optim="adamw_torch", save_strategy="steps", save_steps=2,
            )  # fmt: skip

        first = build(0)
        first.train()
        second = build(1)
        second.train(resume_from_checkpoint=str(tmp_path / "student" / "checkpoint-2"))
        assert second.state.global_step == 4
        assert_same_parameters(parameters(first.model), parameters(second.model))


HUB_STRATEGIES = {
    "end": {"model.safetensors"},
    "every_save": {"model.safetensors"},
    "checkpoint": {"model.safetensors", "last-checkpoint/model.safetensors", "last-checkpoint/trainer_state.json"},
    "all_checkpoints": {f"checkpoint-{step}/model.safetensors" for step in (1, 2)},
}


class TestHub:
    @pytest.mark.parametrize("num_processes", [1, 2])
    def test_hub_strategy(self, tmp_path, loopback_hub, num_processes):
        """See `push_to_the_hub.py`. Of two processes, one pushes."""
        launch = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"] if num_processes == 2 else []
        result = subprocess.run(
            [sys.executable, *launch, str(Path(__file__).with_name("push_to_the_hub.py")), *HUB_STRATEGIES],
            cwd=tmp_path, capture_output=True, text=True, timeout=300,
            env={**os.environ, **loopback_hub.environment, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"},
        )  # fmt: skip
        assert result.returncode == 0, result.stderr[-3000:]
        loopback_hub.assert_nothing_private(tmp_path)
        for strategy, expected in HUB_STRATEGIES.items():
            files = loopback_hub.files[f"somebody/{strategy}"]
            commits = loopback_hub.commits[f"somebody/{strategy}"]
            assert len(commits) == len(set(commits)) >= 1, commits
            assert expected <= files.keys(), strategy
            has_checkpoints = any("checkpoint" in path for path in files)
            assert has_checkpoints == ("checkpoint" in strategy), strategy
            header = files["README.md"].decode().split("---")[1]
            assert "- trl" in header and "- edit" in header
            config = json.loads(files["config.json"])
            assert config["model_type"] == "llama"


class TestMemoryAndSpeed:
    def test_auto_find_batch_size(self, tmp_path, pairs, monkeypatch):
        """A batch of eight does not fit; the next try, of a smaller size, trains."""
        trainer = make_trainer(tmp_path, pairs, auto_find_batch_size=True, learning_rate=1e-3)
        sizes: list[int] = []
        compute_loss = trainer.compute_loss

        def compute(model, inputs, **kwargs):
            sizes.append(len(inputs["num_completion_tokens"]) // 2)
            if sizes[-1] > 7:
                raise RuntimeError("CUDA out of memory.")
            return compute_loss(model, inputs, **kwargs)

        monkeypatch.setattr(trainer, "compute_loss", compute)
        trainer.train()
        assert sizes[0] == 8 and max(sizes[1:]) <= 7
        assert trainer.state.global_step >= 2

    def test_torch_compile(self, tmp_path, pairs):
        """Without a compiler of the machine: the graph is captured and run as it is."""
        runs = []
        for compile in (False, True):
            model = build_model()
            trainer = make_trainer(
                tmp_path, pairs, model, max_steps=1, torch_compile=compile,
                torch_compile_backend="eager" if compile else None,
            )  # fmt: skip
            trainer.train()
            runs.append(parameters(model))
        assert_same_parameters(*runs, atol=1e-5)

    def test_neftune(self, tmp_path, pairs):
        """Noise while training, none in an evaluation, and none left behind."""
        model = build_model()
        trainer = make_trainer(
            tmp_path, pairs, model, eval_dataset=Dataset.from_list(pairs), neftune_noise_alpha=5.0, learning_rate=0.0
        )
        assert trainer._layout == "padded"  # the noise of a longer row would be weaker
        expected = trainer.evaluate()["eval_loss"]
        trainer.train()
        losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
        assert abs(losses[0] - expected) > 1e-3
        assert trainer.evaluate()["eval_loss"] == pytest.approx(expected)
        assert not model.get_input_embeddings()._forward_hooks

    @pytest.mark.parametrize("optim", ["adamw_torch_fused", "adafactor", "rmsprop", "adagrad", "sgd"])
    def test_optim(self, build, optim):
        train(build({"optim": optim, "learning_rate": 1e-3}))

    @pytest.mark.parametrize(
        ("optim", "package"), [("galore_adamw", "galore_torch"), ("apollo_adamw", "apollo_torch")]
    )
    def test_optim_of_low_rank(self, build, optim, package):
        pytest.importorskip(package)
        arguments = {"optim_args": "rank=4, update_proj_gap=1", "optim_target_modules": ["self_attn", "mlp"]}
        train(build({"optim": optim, "learning_rate": 1e-3, **arguments}))

    def test_parameters_may_be_frozen(self, build, model):
        for name, parameter in model.named_parameters():
            parameter.requires_grad = "layers.1" in name
        before = {name: p.clone() for name, p in model.named_parameters()}
        train(build())
        moved = {name for name, p in model.named_parameters() if not torch.equal(before[name], p)}
        assert moved and all("layers.1" in name for name in moved)

    @pytest.mark.parametrize("which", ["all", "non_padding"])
    @pytest.mark.parametrize("shared_prefix", [True, False])
    def test_include_num_input_tokens_seen(self, build, which, shared_prefix):
        options = {"per_device_train_batch_size": 2, "max_steps": 2}
        trainer = build({"include_num_input_tokens_seen": which, "shared_prefix": shared_prefix, **options})
        batches = []
        collate = trainer.data_collator
        trainer.data_collator = lambda examples: batches.append(collate(examples)) or batches[-1]
        trainer.train()
        sizes = [batch["input_ids"].numel() if which == "all" else int(batch["num_tokens"]) for batch in batches[:2]]
        assert trainer.state.num_input_tokens_seen == sum(sizes) > 0


class TestCallbacks:
    def test_bema(self, tmp_path, pairs):
        """TRL's average of the weights over a run."""
        trainer = make_trainer(tmp_path, pairs, max_steps=3, callbacks=[BEMACallback(update_freq=1)])
        trainer.train()
        folder = Path(trainer.args.output_dir) / "bema"
        assert (folder / "model.safetensors").exists()

    def test_rich_progress(self, build, capsys):
        trainer = build({"disable_tqdm": False})
        trainer.add_callback(RichProgressCallback)
        train(trainer)
        assert "edit/key_margin" in capsys.readouterr().out

    def test_report_to_tensorboard(self, build, tmp_path, monkeypatch):
        pytest.importorskip("tensorboard")
        monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "runs"))
        train(build({"report_to": ["tensorboard"]}))
        (events,) = (tmp_path / "runs").rglob("events.out.tfevents.*")
        assert b"train/edit/key_margin" in events.read_bytes()

    def test_callback_may_stop_a_run_and_change_the_metrics(self, build):
        class Stop(TrainerCallback):
            def on_step_end(self, args, state, control, **kwargs):
                control.should_training_stop = True

        trainer = build({"max_steps": 5}, callbacks=[Stop])
        train(trainer)
        assert trainer.state.global_step == 1


def test_last_checkpoint_is_found(tmp_path, pairs):
    """`resume_from_checkpoint=True` goes on from it."""
    trainer = make_trainer(tmp_path, pairs, save_strategy="steps", save_steps=1, max_steps=2, learning_rate=1e-3)
    trainer.train()
    assert Path(get_last_checkpoint(trainer.args.output_dir)).name == "checkpoint-2"
    longer = make_trainer(tmp_path, pairs, max_steps=3, learning_rate=1e-3)
    longer.train(resume_from_checkpoint=True)
    steps = [entry["step"] for entry in longer.state.log_history if "loss" in entry]
    assert steps == [1, 2, 3]
    assert longer.state.global_step == 3
