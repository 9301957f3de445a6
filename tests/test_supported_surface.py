"""
Tests that every option of `SFTConfig` and every argument of `SFTTrainer` works, is refused, or does not matter.

A new release of TRL may have new options. Each must be classified here before the tests pass, because an option that
is silently ignored is worse than an option that is refused. Arguments of other trainers are tested in
`test_trainer_arguments.py`.
"""

import copy
import dataclasses
import inspect
import json
import re
import sys
from pathlib import Path

import pytest
import torch
import transformers
from accelerate.parallelism_config import ParallelismConfig
from datasets import Dataset, IterableDataset
from peft import LoraConfig, PeftModel, TaskType, get_peft_model
from transformers import (
    MixtralConfig,
    MixtralForCausalLM,
    ProcessorMixin,
    TrainerCallback,
    TrainingArguments,
)
from transformers.trainer_pt_utils import LengthGroupedSampler
from trl import SFTConfig, SFTTrainer
from trl.trainer.base_config import _BaseConfig

from edit_trl import DataCollatorForDualCoT, EDITConfig, EDITTrainer
from edit_trl.layouts import to_padded


pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("error:::edit_trl"),
    # TRL sets `gradient_checkpointing`, which transformers 5.23 deprecates; that warning is between the two.
    pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.* is deprecated:FutureWarning"),
]

# Name of an option or argument, and of the test below that uses it.
WORKS = {
    # SFTConfig
    "bf16": "test_bf16",
    "chat_template_path": "test_chat_template_path",
    "dataset_kwargs": "test_skip_prepare_dataset",
    "dataset_num_proc": "test_dataset_num_proc",
    "eos_token": "test_eos_token",
    "gradient_checkpointing": "test_gradient_checkpointing",
    "learning_rate": "test_learning_rate",
    "logging_steps": "test_logging_steps",
    "lr_scheduler_kwargs": "test_lr_scheduler_kwargs",
    "max_length": "test_max_length",
    "model_init_kwargs": "test_model_init_kwargs",
    "pad_to_multiple_of": "test_pad_to_multiple_of",
    "pad_token": "test_pad_token",
    "router_aux_loss_coef": "test_router_aux_loss_coef",
    "shuffle_dataset": "test_shuffle_dataset",
    "torch_empty_cache_steps": "test_torch_empty_cache_steps",
    "truncation_mode": "test_truncation_mode",
    "trust_remote_code": "test_trust_remote_code",
    # SFTTrainer
    "args": "test_values_stay",
    "callbacks": "test_callbacks",
    "data_collator": "test_data_collator",
    "eval_dataset": "test_eval_dataset",
    "model": "test_model_by_name",
    "optimizer_cls_and_kwargs": "test_optimizer_cls_and_kwargs",
    "optimizers": "test_optimizers",
    "peft_config": "test_peft_config",
    "processing_class": "test_processing_class",
    "quantization_config": "test_quantization_config",
    "train_dataset": "test_iterable_train_dataset",
}

# Name, values that are refused, and what the message says to do instead.
REFUSED = {
    # SFTConfig
    "assistant_only_loss": (True, "the alignment decides which tokens are trained. Set `assistant_only_loss=False`"),
    "completion_only_loss": (False, "no key tokens. Set `completion_only_loss=None`"),
    "eval_packing": (True, "part the chains of a pair. Set `eval_packing=None`"),
    "loss_type": ("dft", 'Set `loss_type="nll"` instead'),
    "packing": (True, "part the chains of a pair. Set `packing=False`"),
    "padding_free": (True, "Set `padding_free=False`"),
    # SFTTrainer
    "compute_loss_func": (len, "subclass `EDITTrainer` and override `compute_loss`"),
    "compute_metrics": (len, "read the metrics under `eval_edit/`"),
    "formatting_func": (len, "give the columns `prompt`, `chosen` and `rejected`"),
    "preprocess_logits_for_metrics": (len, "read the metrics under `eval_edit/`"),
}

# Options of transformers alone that cannot work either, in the same form.
REFUSED_OF_TRANSFORMERS = {
    "accelerator_config": (
        {"dispatch_batches": True},
        'Set `accelerator_config={"dispatch_batches": False}`',
    ),
    "enable_jit_checkpoint": (True, "pass `callbacks=[InterruptCallback()]`"),
    "label_smoothing_factor": (0.1, "Set `label_smoothing_factor=0.0`"),
    "liger_kernel_config": (
        {"fused_linear_cross_entropy": True},
        'Set `liger_kernel_config={"fused_linear_cross_entropy": False}`',
    ),
    "parallelism_config (context)": (ParallelismConfig(cp_size=2), "Set `sp_size=1 and cp_size=1`"),
    "parallelism_config (sequence)": (ParallelismConfig(sp_size=2), "Set `sp_size=1 and cp_size=1`"),
}

IRRELEVANT = {
    "activation_offloading": "TRL's own context around the training step, which needs an accelerator",
    "dataset_text_field": "pairs have the columns `prompt`, `chosen` and `rejected`",
    "packing_strategy": "says how to pack, and packing is refused",
    "use_liger_kernel": "deprecated in TRL, which keeps Liger from the head and needs its package and an accelerator",
}


def fields_of_trl() -> set[str]:
    """Options that TRL adds to those of transformers, or gives another default or type."""
    added = {field.name for field in dataclasses.fields(SFTConfig)}
    added -= {field.name for field in dataclasses.fields(TrainingArguments)}
    overridden = {
        name
        for config in (_BaseConfig, SFTConfig)
        for name in vars(config)["__annotations__"]
        if not name.startswith("_")
    }
    return added | overridden


def arguments_of_trl() -> set[str]:
    return set(inspect.signature(SFTTrainer.__init__).parameters) - {"self"}


def defines_test(name: str) -> bool:
    """In this file or in the one about what people bring along from other trainers."""
    sources = (Path(__file__), Path(__file__).with_name("test_trainer_arguments.py"))
    return any(re.search(rf"^    def {name}\(", path.read_text(), re.MULTILINE) for path in sources)


class TestClassification:
    @pytest.mark.parametrize("name", sorted(fields_of_trl() | arguments_of_trl()))
    def test_is_classified_once(self, name):
        tables = [title for title in ("WORKS", "REFUSED", "IRRELEVANT") if name in globals()[title]]
        assert len(tables) == 1, f"`{name}` must be in one of WORKS, REFUSED and IRRELEVANT, found in {tables}"

    @pytest.mark.parametrize("name", [*WORKS, *REFUSED, *IRRELEVANT])
    def test_still_exists(self, name):
        assert name in fields_of_trl() | arguments_of_trl(), f"`{name}` is gone from TRL: remove it here"

    @pytest.mark.parametrize(("name", "test"), WORKS.items())
    def test_what_works_has_a_test(self, name, test):
        assert defines_test(test), f"`{name}`: there is no `{test}`"

    @pytest.mark.parametrize(("name", "reason"), IRRELEVANT.items())
    def test_what_does_not_matter_has_a_reason(self, name, reason):
        assert len(reason.split()) >= 5

    def test_trainer_has_the_arguments_of_trl_in_their_order(self):
        ours, theirs = (list(inspect.signature(t.__init__).parameters) for t in (EDITTrainer, SFTTrainer))
        assert ours == [*theirs, "kwargs"]


@pytest.fixture
def options(tmp_path) -> dict:
    """Arguments of a config for one step on the CPU."""
    return {
        "output_dir": str(tmp_path / "output"),
        "report_to": "none",
        "use_cpu": True,
        "bf16": False,
        "max_steps": 1,
        "per_device_train_batch_size": 2,
        "gradient_checkpointing": False,
        "save_strategy": "no",
        "disable_tqdm": True,
        "logging_steps": 1,
    }


@pytest.fixture
def dataset(pairs) -> Dataset:
    return Dataset.from_list(pairs)


@pytest.fixture
def build(options, model, own_tokenizer, dataset):
    """An `EDITTrainer` from arguments of the trainer and, in `config`, options that differ from `options`."""

    def build(config: dict | None = None, **arguments) -> EDITTrainer:
        return EDITTrainer(
            **{
                "model": model,
                "args": EDITConfig(**{**options, **(config or {})}),
                "train_dataset": dataset,
                "processing_class": own_tokenizer,
                **arguments,
            }
        )

    return build


def first_batch(trainer: EDITTrainer) -> dict[str, torch.Tensor]:
    return next(iter(trainer.get_train_dataloader()))


def train(trainer: EDITTrainer) -> dict[str, float]:
    """Train, and return what the first step logged. The student must have moved."""
    before = {name: p.detach().clone() for name, p in trainer.model.named_parameters() if p.requires_grad}
    trainer.train()
    after = dict(trainer.model.named_parameters())
    assert any(not torch.equal(before[name], after[name]) for name in before)
    assert all(torch.isfinite(after[name]).all() for name in before)
    return trainer.state.log_history[0]


TOKENIZED = [
    {"prompt_ids": [40, 41], "chosen_ids": [42, 50 + i, 2], "rejected_ids": [42, 60 + i, 2]} for i in range(8)
]


class TestRefused:
    @pytest.mark.parametrize("name", [name for name in REFUSED if name in fields_of_trl()])
    def test_option(self, options, name):
        value, instead = REFUSED[name]
        with pytest.raises(ValueError, match=rf"^`EDITConfig` does not support `{name}=.*{re.escape(instead)}"):
            EDITConfig(**{**options, name: value})

    @pytest.mark.parametrize("name", REFUSED_OF_TRANSFORMERS)
    def test_option_of_transformers(self, options, name):
        value, instead = REFUSED_OF_TRANSFORMERS[name]
        name = name.split()[0]
        with pytest.raises(ValueError, match=rf"^`EDITConfig` does not support `{name}.*{re.escape(instead)}"):
            EDITConfig(**{**options, name: value})

    @pytest.mark.parametrize("name", [name for name in REFUSED if name in arguments_of_trl()])
    def test_argument(self, build, name):
        value, instead = REFUSED[name]
        with pytest.raises(ValueError, match=rf"^`EDITTrainer` does not take `{name}`: .*{re.escape(instead)}"):
            build(**{name: value})

    @pytest.mark.parametrize("name", [name for name in REFUSED if name in fields_of_trl()])
    def test_option_of_a_config_of_trl(self, build, options, name):
        """An `SFTConfig` is converted, and must not get around the check."""
        value, instead = REFUSED[name]
        with pytest.raises(ValueError, match=re.escape(instead)):
            build(args=SFTConfig(**{**options, name: value}))

    @pytest.mark.parametrize("name", REFUSED_OF_TRANSFORMERS)
    def test_option_of_transformers_in_a_config_of_trl(self, build, options, name):
        value, instead = REFUSED_OF_TRANSFORMERS[name]
        with pytest.raises(ValueError, match=re.escape(instead)):
            build(args=SFTConfig(**{**options, name.split()[0]: value}))

    @pytest.mark.parametrize("name", [name for name in REFUSED if name in arguments_of_trl()])
    def test_none_is_the_default_and_fine(self, build, name):
        build(**{name: None})

    @pytest.mark.parametrize("values", [{"completion_only_loss": True}, {"eval_packing": False}], ids=str)
    def test_value_that_says_what_happens_anyway_is_fine(self, options, values):
        EDITConfig(**options, **values)


class TestModelOptions:
    def test_model_by_name(self, build, model_folder):
        trainer = build(model=model_folder, processing_class=None)
        train(trainer)
        assert type(trainer.model).__name__ == "LlamaForCausalLM"

    def test_model_init_kwargs(self, build, model_folder):
        kwargs = {"attn_implementation": "eager", "dtype": "bfloat16"}
        trainer = build({"model_init_kwargs": kwargs}, model=model_folder, processing_class=None)
        assert trainer.model.config._attn_implementation == "eager"
        assert trainer.model.dtype == torch.bfloat16
        train(trainer)

    def test_quantization_config(self, build, monkeypatch, model, model_folder):
        """Quantized weights need an accelerator: here, that the argument reaches `from_pretrained`."""
        received = {}

        def load(name, **kwargs):
            received.update(kwargs)
            return model

        monkeypatch.setattr("trl.trainer.sft_trainer.create_model_from_path", load)
        quantization_config = transformers.BitsAndBytesConfig(load_in_8bit=True)
        build(model=model_folder, quantization_config=quantization_config)
        assert received["quantization_config"] is quantization_config

    def test_trust_remote_code(self, build, model, tokenizer, tmp_path, monkeypatch):
        """A model whose code lies beside its weights. Unless allowed, it is transformers that refuses to run it."""
        monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
        monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path / "modules")])
        folder = tmp_path / "custom"
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        config = json.loads((folder / "config.json").read_text())
        config["model_type"] = "edit_custom"
        config["architectures"] = ["CustomForCausalLM"]
        config["auto_map"] = {
            "AutoConfig": "modeling_custom.CustomConfig",
            "AutoModelForCausalLM": "modeling_custom.CustomForCausalLM",
        }
        (folder / "config.json").write_text(json.dumps(config))
        (folder / "modeling_custom.py").write_text(
            "from transformers import LlamaConfig, LlamaForCausalLM\n\n\n"
            "class CustomConfig(LlamaConfig):\n    model_type = 'edit_custom'\n\n\n"
            "class CustomForCausalLM(LlamaForCausalLM):\n    config_class = CustomConfig\n"
        )
        trainer = build({"trust_remote_code": True}, model=str(folder))
        assert type(trainer.model).__name__ == "CustomForCausalLM"
        train(trainer)
        with pytest.raises(ValueError, match="trust_remote_code=True"):
            build(model=str(folder))

    def test_router_aux_loss_coef(self, build, tokenizer, dataset):
        """The router's loss is logged apart, and added to the loss with its coefficient."""
        logs = {}
        for coef in (0.0, 0.5):
            torch.manual_seed(0)
            config = MixtralConfig(
                vocab_size=400,
                hidden_size=32,
                intermediate_size=64,
                num_hidden_layers=2,
                num_attention_heads=4,
                num_key_value_heads=2,
                num_local_experts=4,
                num_experts_per_tok=2,
                max_position_embeddings=512,
            )
            logs[coef] = train(build({"router_aux_loss_coef": coef}, model=MixtralForCausalLM(config)))
        assert "aux_loss" not in logs[0.0]
        assert logs[0.5]["aux_loss"] > 0.1
        assert logs[0.5]["loss"] - logs[0.0]["loss"] == pytest.approx(0.5 * logs[0.5]["aux_loss"], abs=2e-3)

    @pytest.mark.parametrize("batch_size", [3, 8])
    def test_router_loss_is_part_of_the_evaluation_loss(self, build, tokenizer, dataset, batch_size):
        """As in TRL: on the same pairs, training and evaluation have the same loss."""
        config = MixtralConfig(
            vocab_size=len(tokenizer), hidden_size=32, intermediate_size=32, num_hidden_layers=2,
            num_attention_heads=4, num_key_value_heads=2, num_local_experts=4, num_experts_per_tok=2,
        )  # fmt: skip
        torch.manual_seed(0)
        model = MixtralForCausalLM(config)
        options = {
            "router_aux_loss_coef": 0.5, "per_device_train_batch_size": len(dataset), "learning_rate": 0.0,
            "per_device_eval_batch_size": batch_size,
        }  # fmt: skip
        trainer = build(options, model=model, eval_dataset=dataset)
        evaluated = trainer.evaluate()
        terms = evaluated["eval_edit/loss_chosen"] + evaluated["eval_edit/loss_rejected"]
        assert evaluated["eval_loss"] == pytest.approx(terms + 0.5 * evaluated["eval_aux_loss"])
        trainer.train()
        logs = next(entry for entry in trainer.state.log_history if "loss" in entry)
        if batch_size == len(dataset):
            assert evaluated["eval_loss"] == pytest.approx(logs["loss"], abs=2e-3)
            assert evaluated["eval_aux_loss"] == pytest.approx(logs["aux_loss"], abs=2e-3)

    def test_router_aux_loss_coef_of_a_dense_model(self, build):
        with pytest.raises(ValueError, match="`router_aux_loss_coef` is set to 0.1 but LlamaForCausalLM is not"):
            build({"router_aux_loss_coef": 0.1})

    @pytest.mark.parametrize("gradient_checkpointing", [True, False])
    def test_gradient_checkpointing(self, build, gradient_checkpointing):
        train(build({"gradient_checkpointing": gradient_checkpointing}))

    def test_bf16(self, build):
        trainer = build({"bf16": True})
        train(trainer)
        assert trainer.model.dtype == torch.float32

    def test_peft_config(self, build):
        trainer = build(peft_config=LoraConfig(r=4, target_modules=["q_proj"], task_type=TaskType.CAUSAL_LM))
        assert isinstance(trainer.model, PeftModel)
        before = trainer.model.get_base_model().lm_head.weight.clone()
        train(trainer)
        torch.testing.assert_close(trainer.model.get_base_model().lm_head.weight, before)

    def test_peft_model_goes_on_training(self, build, model, tmp_path):
        wrapped = get_peft_model(model, LoraConfig(r=4, target_modules=["q_proj"], task_type=TaskType.CAUSAL_LM))
        wrapped.save_pretrained(tmp_path / "adapter")
        base = wrapped.unload()
        train(build(model=PeftModel.from_pretrained(base, tmp_path / "adapter", is_trainable=True)))


class TestDataOptions:
    def test_max_length(self, build):
        assert first_batch(build())["input_ids"].size(1) > 40
        trainer = build({"max_length": 40})
        assert first_batch(trainer)["position_ids"].max() == 39
        train(trainer)

    def test_max_length_none(self, build):
        assert first_batch(build({"max_length": None}))["input_ids"].size(1) > 40

    @pytest.mark.parametrize("truncation_mode", ["keep_start", "keep_end"])
    def test_truncation_mode(self, build, truncation_mode):
        config = {"truncation_mode": truncation_mode, "max_length": 30}
        trainer = build(config, train_dataset=Dataset.from_list(LONG))
        batch = to_padded(trainer.data_collator([trainer.train_dataset[0]]))
        row = batch["input_ids"][0].tolist()
        full = LONG[0]["prompt_ids"] + LONG[0]["chosen_ids"]
        assert row == (full[:30] if truncation_mode == "keep_start" else full[-30:])
        train(trainer)

    def test_shuffle_dataset(self, build):
        in_order, shuffled, again = (
            build({"shuffle_dataset": shuffle, "seed": 3}).train_dataset["prompt"] for shuffle in (False, True, True)
        )
        assert sorted(shuffled) == sorted(in_order)
        assert list(shuffled) != list(in_order)
        assert list(shuffled) == list(again)

    @pytest.mark.parametrize("multiple", [16, "32"])
    def test_pad_to_multiple_of(self, build, multiple):
        trainer = build({"pad_to_multiple_of": multiple})
        assert first_batch(trainer)["input_ids"].size(1) % int(multiple) == 0
        train(trainer)

    @pytest.mark.parametrize("num_proc", [None, 2])
    def test_dataset_num_proc(self, build, num_proc):
        expected = build().train_dataset
        assert build({"dataset_num_proc": num_proc}).train_dataset.to_list() == expected.to_list()

    def test_eos_token(self, build, model, own_tokenizer):
        trainer = build({"eos_token": "<|endoftext|>"})
        eos_token_id = own_tokenizer.convert_tokens_to_ids("<|endoftext|>")
        for column in ("chosen_ids", "rejected_ids"):
            assert all(ids[-1] == eos_token_id for ids in trainer.train_dataset[column])
        assert model.config.eos_token_id == eos_token_id
        train(trainer)

    def test_pad_token(self, build, own_tokenizer):
        with pytest.warns(FutureWarning, match="`pad_token` is deprecated"):
            trainer = build({"pad_token": "<|endoftext|>", "shared_prefix": False})
        batch = first_batch(trainer)
        padding = batch["input_ids"][batch["attention_mask"] == 0].tolist()
        assert set(padding) == {own_tokenizer.convert_tokens_to_ids("<|endoftext|>")}
        train(trainer)

    @pytest.mark.parametrize("kind", ["jinja", "tokenizer"])
    def test_chat_template_path(self, build, pairs, tokenizer, own_tokenizer, tmp_path, kind):
        template = (
            "{% for message in messages %}[{{ message['role'] }}] {{ message['content'] }}\n{% endfor %}"
            "{% if add_generation_prompt %}[assistant] {% endif %}"
        )
        path = tmp_path / "template.jinja"
        path.write_text(template)
        if kind == "tokenizer":
            path = tmp_path / "tokenizer"
            other = copy.deepcopy(tokenizer)
            other.chat_template = template
            other.save_pretrained(path)
        roles = {"prompt": "user", "chosen": "assistant", "rejected": "assistant"}
        messages = [{name: [{"role": role, "content": pair[name]}] for name, role in roles.items()} for pair in pairs]

        trainer = build({"chat_template_path": str(path)}, train_dataset=Dataset.from_list(messages))

        example = trainer.train_dataset[0]
        assert own_tokenizer.decode(example["prompt_ids"]).rstrip() == f"[user] {pairs[0]['prompt']}\n[assistant]"
        assert own_tokenizer.decode(example["chosen_ids"]).strip() == pairs[0]["chosen"].strip()
        train(trainer)

    def test_skip_prepare_dataset(self, build):
        dataset = Dataset.from_list(TOKENIZED)
        trainer = build({"dataset_kwargs": {"skip_prepare_dataset": True}}, train_dataset=dataset)
        assert trainer.train_dataset.column_names == dataset.column_names
        train(trainer)

    def test_skip_prepare_dataset_with_weights(self, build):
        """The weights reach the loss: if all are zero, nothing is learned."""
        dataset = Dataset.from_list(
            [{**row, "chosen_weights": [0.0, 0.5, 0.0], "rejected_weights": [0.0, 0.0, -2.0]} for row in TOKENIZED]
        )
        trainer = build({"dataset_kwargs": {"skip_prepare_dataset": True}}, train_dataset=dataset)
        assert sorted(set(first_batch(trainer)["scored_weights"].tolist())) == [-2.0, 0.5]
        train(trainer)

    def test_skip_prepare_dataset_needs_tokenized_data(self, build):
        """Left to `Trainer`, this fails on the first batch with a message about the model's forward."""
        with pytest.raises(ValueError, match="prompt_ids"):
            build({"dataset_kwargs": {"skip_prepare_dataset": True}})

    def test_group_by_length(self, build):
        """
        64 examples of two lengths, in 32 batches. The sampler sorts 4 stretches of 16 examples each, so at most one
        batch of each stretch mixes the lengths; by chance it would be about 16 of 32.
        """
        dataset = Dataset.from_list([*TOKENIZED, *LONG] * 4)
        trainer = build({"train_sampling_strategy": "group_by_length"}, train_dataset=dataset)
        sampler = trainer._get_train_sampler()
        assert isinstance(sampler, LengthGroupedSampler)
        # A pair of `TOKENIZED` shares 3 of its 5 + 5 tokens, one of `LONG` its prompt of 3.
        assert sampler.lengths == ([5 + 5 - 3] * 8 + [63 + 63 - 3] * 8) * 4
        lengths = [set(batch["attention_mask"].sum(dim=1).tolist()) for batch in trainer.get_train_dataloader()]
        assert len(lengths) == 32
        assert sum(len(batch) > 1 for batch in lengths) <= 4
        train(trainer)


# Prompt of 3 tokens, chains of 60 that differ at both ends.
LONG = [
    {
        "prompt_ids": [40, 41, 43],
        "chosen_ids": [50 + i, *range(100, 157), 70 + i, 2],
        "rejected_ids": [60 + i, *range(100, 157), 80 + i, 2],
    }
    for i in range(8)
]


class TestTrainingOptions:
    def test_learning_rate(self, build):
        logs = [train(build({"learning_rate": rate, "lr_scheduler_type": "constant"})) for rate in (1e-3, 2e-3)]
        assert [log["learning_rate"] for log in logs] == [1e-3, 2e-3]

    def test_logging_steps(self, build):
        trainer = build({"logging_steps": 2, "max_steps": 4})
        train(trainer)
        assert [log["step"] for log in trainer.state.log_history if "loss" in log] == [2, 4]

    def test_lr_scheduler_kwargs(self, build):
        """Two restarts in four steps: half way, the rate is back where it began."""
        config = {
            "lr_scheduler_type": "cosine_with_restarts",
            "lr_scheduler_kwargs": {"num_cycles": 2},
            "max_steps": 4,
        }
        trainer = build({**config, "learning_rate": 1e-3})
        train(trainer)
        rates = [log["learning_rate"] for log in trainer.state.log_history if "loss" in log]
        assert rates[2] == pytest.approx(1e-3) and rates[1] == pytest.approx(5e-4)

    def test_torch_empty_cache_steps(self, build, monkeypatch):
        calls = []
        monkeypatch.setattr("transformers.trainer.clear_device_cache", lambda: calls.append(1))
        train(build({"torch_empty_cache_steps": 1}))
        assert calls

    def test_callbacks(self, build):
        seen = []

        class Watch(TrainerCallback):
            def on_log(self, args, state, control, logs=None, **kwargs):
                seen.append(logs)

        train(build(callbacks=[Watch()]))
        assert "edit/key_margin" in seen[0]

    def test_optimizers(self, build, model):
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)
        trainer = build(optimizers=(optimizer, scheduler))
        log = train(trainer)
        assert getattr(trainer.optimizer, "optimizer", trainer.optimizer) is optimizer
        assert log["learning_rate"] == 0.1

    def test_optimizer_cls_and_kwargs(self, build):
        trainer = build(optimizer_cls_and_kwargs=(torch.optim.SGD, {"lr": 0.1, "momentum": 0.5}))
        train(trainer)
        optimizer = getattr(trainer.optimizer, "optimizer", trainer.optimizer)
        assert isinstance(optimizer, torch.optim.SGD)
        assert optimizer.param_groups[0]["momentum"] == 0.5

    def test_data_collator(self, build):
        """Options of the given collator count, not those of the config."""
        collator = DataCollatorForDualCoT(pad_token_id=3, chosen_key_weight=3.0, rejected_key_weight=0.5)
        trainer = build(data_collator=collator)
        assert trainer.data_collator is collator
        assert set(first_batch(trainer)["scored_weights"].tolist()) == {3.0, -0.5}
        train(trainer)

    @pytest.mark.parametrize("kind", ["dataset", "dict", "iterable", "tokenized"])
    def test_eval_dataset(self, build, dataset, pairs, kind):
        eval_dataset = {
            "dataset": dataset,
            "dict": {"easy": dataset.select(range(4)), "hard": dataset},
            "iterable": IterableDataset.from_generator(lambda: iter(pairs)),
            "tokenized": Dataset.from_list(TOKENIZED),
        }[kind]
        metrics = build(eval_dataset=eval_dataset).evaluate()
        prefixes = ["eval_easy", "eval_hard"] if kind == "dict" else ["eval"]
        for prefix in prefixes:
            terms = metrics[f"{prefix}_edit/loss_chosen"], metrics[f"{prefix}_edit/loss_rejected"]
            assert metrics[f"{prefix}_loss"] == pytest.approx(sum(terms))

    @pytest.mark.parametrize("batch_size", [2, 3])
    def test_evaluate_iterable(self, build, pairs, batch_size):
        """Eight pairs read lazily count as much as eight pairs at hand, a short last batch included."""
        trainer = build({"per_device_eval_batch_size": batch_size})
        expected = trainer.evaluate(Dataset.from_list(pairs))
        metrics = trainer.evaluate(IterableDataset.from_generator(lambda: iter(pairs)))
        names = [name for name in expected if "edit/" in name or name in ("eval_loss", "eval_entropy")]
        assert len(names) > 10
        assert {name: metrics[name] for name in names} == pytest.approx({name: expected[name] for name in names})

    @pytest.mark.parametrize("names", [True, False])
    def test_iterable_train_dataset(self, build, pairs, names):
        """With and without known column names."""
        dataset = IterableDataset.from_generator(lambda: iter(pairs))
        if names:
            dataset = Dataset.from_list(pairs).to_iterable_dataset()
            assert dataset.column_names
        train(build(train_dataset=dataset))

    def test_processing_class(self, build, model_folder, tokenizer):
        """By default the tokenizer that lies beside the model; a processor stands for its tokenizer."""
        from_name = build(model=model_folder, processing_class=None)
        assert from_name.processing_class.get_vocab() == tokenizer.get_vocab()
        processor = build(processing_class=BatchingProcessor(tokenizer))
        expected = build().train_dataset
        assert from_name.train_dataset.to_list() == processor.train_dataset.to_list() == expected.to_list()
        train(processor)


class BatchingProcessor(ProcessorMixin):
    """A processor that returns a batch even for one text, as those of vision-language models do."""

    attributes = ["tokenizer"]  # noqa: RUF012 - as transformers declares it
    tokenizer_class = "PreTrainedTokenizerFast"

    def __init__(self, tokenizer=None):
        super().__init__(tokenizer)

    def __call__(self, text=None, **kwargs):
        return self.tokenizer([text] if isinstance(text, str) else text, **kwargs)
