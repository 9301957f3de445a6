"""
Tests of layouts: loss, gradients and metrics are the same in each, and models that need two rows per pair get them.

The layout with one padded row per chain is the reference: `test_model_families.py` and `test_edit_trainer.py` compare
it, and the loss, with plain computations on the model's full logits.
"""

import copy
import os
import subprocess
import sys
from functools import partial
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from conftest import build_model, build_tokenizer
from datasets import Dataset
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from packaging.version import Version
from peft import LoraConfig
from test_model_families import FAMILIES, build_family, gradients
from transformers import (
    AttentionInterface,
    AttentionMaskInterface,
    AutoModelForCausalLM,
    LlamaForCausalLM,
    MoshiConfig,
    TrainerCallback,
)

from edit_trl import DataCollatorForDualCoT, EDITConfig, EDITTrainer, edit_trainer, layouts


pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("error:::edit_trl"),
    # TRL sets `gradient_checkpointing`, which transformers 5.23 deprecates; that warning is between the two.
    pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.* is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:The `'keep_end'` truncation mode is deprecated:FutureWarning"),
]

# Rows of 11 to 24 tokens: longer than the window of 8 that models with one get here.
EXAMPLES = [
    {"prompt_ids": [40, 41, 42], "chosen_ids": [*range(50, 70), 2], "rejected_ids": [*range(50, 60), 99, 61, 98, 2]},
    {"prompt_ids": [43], "chosen_ids": [44, 45, 46, 47, 48, 49, 50, 51, 52, 2], "rejected_ids": [60, 45, 46, 2]},
    # One chain is the start of the other: no key token on its side.
    {"prompt_ids": [40, 44], "chosen_ids": [*range(70, 80)], "rejected_ids": [*range(70, 90), 2]},
    # They part at the last token.
    {"prompt_ids": [41, 42], "chosen_ids": [*range(90, 105), 2], "rejected_ids": [*range(90, 105), 3]},
]
WEIGHTED = {
    "prompt_ids": [40],
    "chosen_ids": [50, 51, 52, 53],
    "rejected_ids": [50, 51, 62, 63, 64],
    "chosen_weights": [0.5, 1.0, 0.0, -0.25],
    # The shared tokens are weighted on this side too.
    "rejected_weights": [-0.5, 0.25, 0.0, -1.0, 1.0],
}
REASONS = {
    "bloom": "takes no `position_ids`",
    "mamba": "takes no `position_ids`",
    "falcon_h1": "it has recurrent layers",
    "gpt_neo": "`window_size`",
    "lfm2": "it has convolution layers",
    "mixtral": "its router's load-balancing loss",
}
WINDOWS = {"sliding_window": 8}
SPEED = ("runtime", "per_second", "preparation_time")
MODELS = {
    **dict.fromkeys(FAMILIES, {}),
    **dict.fromkeys(("mistral", "gemma2", "gemma3_text", "phi3"), WINDOWS),
    **dict.fromkeys(("qwen2", "qwen3"), {**WINDOWS, "use_sliding_window": True, "max_window_layers": 1}),
}


def make_trainer(output_dir, model, examples=EXAMPLES, peft_config=None, **options) -> EDITTrainer:
    return EDITTrainer(
        model=model,
        args=EDITConfig(
            output_dir=str(output_dir),
            **{
                "report_to": "none",
                "use_cpu": True,
                "bf16": False,
                "gradient_checkpointing": False,
                "per_device_train_batch_size": len(examples),
                "per_device_eval_batch_size": 3,
                "max_steps": 1,
                "max_grad_norm": 0,
                **options,
            },
        ),
        train_dataset=Dataset.from_list(examples),
        processing_class=build_tokenizer(),
        peft_config=peft_config,
    )


@pytest.fixture
def build(tmp_path):
    return partial(make_trainer, tmp_path / "student")


@pytest.fixture
def warnings(monkeypatch) -> list[str]:
    """What the trainer warns of."""
    messages: list[str] = []
    monkeypatch.setattr(edit_trainer.logger, "warning", lambda message, *args, **kwargs: messages.append(message))
    return messages


def step(trainer: EDITTrainer, examples=EXAMPLES, layout=None) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Loss and gradients of one batch, without dropout; `layout` replaces the one that the trainer has chosen."""
    trainer.model.eval()
    if layout is not None:
        trainer.data_collator.layout = trainer._layout = layout
    batch = trainer._prepare_inputs(trainer.data_collator(examples))
    with trainer.accelerator.autocast():
        loss = trainer.compute_loss(trainer.model, batch)
    return loss.detach(), gradients(trainer.model, loss)


def assert_same(found, expected, rtol=1e-5, atol=1e-5) -> None:
    torch.testing.assert_close(found[0], expected[0], rtol=rtol, atol=atol)
    assert found[1].keys() == expected[1].keys()
    assert any(gradient.abs().max() > 1e-4 for gradient in expected[1].values())
    for name, gradient in found[1].items():
        torch.testing.assert_close(
            gradient, expected[1][name], rtol=rtol, atol=atol, msg=lambda m, n=name: f"{n}: {m}"
        )


class TestModels:
    @pytest.mark.parametrize("attention", ["sdpa", "eager"])
    @pytest.mark.parametrize("family", [family for family in MODELS if family not in REASONS])
    def test_one_row_per_pair_gives_the_same_gradients(self, family, attention, build, warnings):
        if (family, attention) == ("gemma2", "sdpa"):
            pytest.skip("Gemma 2 has soft-capped attention, which sdpa does not")
        model = build_family(family, attn_implementation=attention, **MODELS[family])
        found = step(build(model))
        trainer = build(model, shared_prefix=False)

        assert warnings == []
        assert "branch_ids" not in trainer.data_collator(EXAMPLES)
        assert_same(found, step(trainer), rtol=1e-4)

    @pytest.mark.parametrize("family", REASONS)
    def test_others_train_on_two_rows_and_say_why(self, family, build, warnings):
        trainer = build(build_family(family))
        assert len(warnings) == 1
        assert REASONS[family] in warnings[0] and "`shared_prefix=False`" in warnings[0]
        assert "branch_ids" not in trainer.data_collator(EXAMPLES)
        trainer.train()
        assert build(build_family(family), shared_prefix=False)._layout == "padded"
        assert len(warnings) == 1

    def test_mixture_of_experts_without_router_loss(self, build, warnings):
        model = build_family("mixtral")
        found = step(build(model, router_aux_loss_coef=0.0))
        assert warnings == []
        assert_same(found, step(build(model, router_aux_loss_coef=0.0, shared_prefix=False)), rtol=1e-4)

    @pytest.mark.parametrize("family", ["mistral", "gemma3_text", "phi3", "qwen3"])
    def test_window_matters_here(self, family):
        """Without this the comparison above would prove nothing about windows."""
        input_ids = torch.arange(40, 60)[None]
        with torch.no_grad():
            logits = [
                build_family(family, **{**MODELS[family], "sliding_window": window}).eval()(input_ids).logits
                for window in (8, 100)
            ]
        assert (logits[0] - logits[1]).abs().max() > 1e-2

    @pytest.mark.parametrize("attention", ["sdpa", "eager"])
    @pytest.mark.parametrize("family", ["llama", "mistral", "gemma3_text", "qwen3", "gpt2", "mixtral"])
    def test_without_padding(self, family, attention, build):
        """
        The layout for FlashAttention. Other implementations build the borders between chains from positions that
        restart, so it is right for them too.
        """
        model = build_family(family, attn_implementation=attention, **MODELS[family])
        found = step(build(model), layout="padding_free")
        assert_same(found, step(build(model, shared_prefix=False)), rtol=1e-4)


def varlen_attention(module, query, key, value, attention_mask, scaling=None, cu_seq_lens_q=None, **kwargs):
    """FlashAttention's contract on the CPU: no mask, causal attention between the borders that it is given, if any."""
    assert attention_mask is None
    if cu_seq_lens_q is None:  # padded on the right
        length = query.size(2)
        cu_seq_lens_q = kwargs["cu_seq_lens_k"] = torch.tensor([0, length], dtype=torch.int32)
        kwargs["max_length_q"] = kwargs["max_length_k"] = length
    assert torch.equal(cu_seq_lens_q, kwargs["cu_seq_lens_k"]) and cu_seq_lens_q.dtype == torch.int32
    assert kwargs["max_length_q"] == kwargs["max_length_k"] == int(cu_seq_lens_q.diff().max())
    groups = query.size(1) // key.size(1)
    key, value = key.repeat_interleave(groups, dim=1), value.repeat_interleave(groups, dim=1)
    borders = cu_seq_lens_q.tolist()
    assert borders[-1] == query.size(2)
    parts = [
        torch.nn.functional.scaled_dot_product_attention(
            query[:, :, i:j], key[:, :, i:j], value[:, :, i:j], is_causal=True, scale=scaling
        )
        for i, j in pairwise(borders)
    ]
    return torch.cat(parts, dim=2).transpose(1, 2), None


class TestFlashAttention:
    @pytest.mark.parametrize("family", ["llama", "qwen3", "gpt_neox", "phi3"])
    def test_gets_the_borders_between_chains(self, family, build, warnings, monkeypatch):
        monkeypatch.setattr(edit_trainer, "choose_layout", lambda *args: ("padding_free", None))
        AttentionInterface.register("varlen", varlen_attention)
        AttentionMaskInterface.register("varlen", lambda *args, **kwargs: None)
        model = build_family(family)
        expected = step(build(model, shared_prefix=False))
        model.set_attn_implementation("varlen")
        trainer = build(model)
        found = step(trainer)
        assert trainer._layout == "padding_free" and warnings == []
        assert_same(found, expected, rtol=1e-4)

    def test_whose_model_ignores_the_borders_is_seen(self, build, model, warnings, monkeypatch):
        monkeypatch.setattr(edit_trainer, "choose_layout", lambda *args: ("padding_free", None))

        def without_borders(module, query, key, value, attention_mask, **kwargs):
            borders = torch.tensor([0, query.size(2)], dtype=torch.int32)
            kwargs.update(cu_seq_lens_q=borders, cu_seq_lens_k=borders, max_length_q=query.size(2))
            return varlen_attention(module, query, key, value, None, **{**kwargs, "max_length_k": query.size(2)})

        AttentionInterface.register("without_borders", without_borders)
        AttentionMaskInterface.register("without_borders", lambda *args, **kwargs: None)
        model.set_attn_implementation("without_borders")
        trainer = build(model)
        step(trainer)
        assert trainer._layout == "padded"
        assert len(warnings) == 1 and "log-probabilities differ" in warnings[0]


OPTIONS = {
    "default": {},
    "word": {"alignment_level": "word"},
    "reference": {"tie_break": "reference"},
    "weights": {"chosen_key_weight": 0.5, "rejected_key_weight": 1.0},
    "gamma": {"chosen_other_weight": 0.3},
    "unlikelihood": {"rejected_loss": "unlikelihood", "rejected_key_weight": 1.0},
    "threshold": {"rejected_nll_threshold": 6.0, "rejected_key_weight": 1.0},
    "no threshold": {"rejected_nll_threshold": None},
    "short": {"max_length": 14},
    "short, no answer": {"max_length": 4, "chosen_other_weight": 0.1},
    "end": {"max_length": 14, "truncation_mode": "keep_end", "chosen_other_weight": 0.1},
    "multiple": {"pad_to_multiple_of": 16},
    "accumulation": {"gradient_accumulation_steps": 2},
    "no loss on one side": {"rejected_key_weight": 0.0},
}


class TestOptions:
    @pytest.mark.parametrize("layout", ["shared_prefix", "padding_free"])
    @pytest.mark.parametrize("name", OPTIONS)
    def test_options_of_the_config_give_the_same_in_every_layout(self, name, layout, build, model):
        found = step(build(model, **OPTIONS[name]), layout=layout)
        assert_same(found, step(build(model, **OPTIONS[name], shared_prefix=False)))

    @pytest.mark.parametrize("layout", ["shared_prefix", "padding_free"])
    def test_weights_from_columns(self, layout, build, model):
        """A shared token may be weighted on both sides, and at the border of the two branches too."""
        examples = [WEIGHTED, {**WEIGHTED, "prompt_ids": []}]
        found = step(build(model, examples), examples, layout)
        assert_same(found, step(build(model, examples, shared_prefix=False), examples))

    @pytest.mark.parametrize("options", [{}, {"chosen_other_weight": 0.3}], ids=["key tokens", "gamma"])
    def test_lora_gives_the_same_in_shared_rows(self, options, build, model):
        config = LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM", init_lora_weights=False)
        runs = []
        for shared in (True, False):
            torch.manual_seed(0)
            trainer = build(copy.deepcopy(model), peft_config=config, shared_prefix=shared, **options)
            runs.append(step(trainer))
        assert all("lora" in name for name in runs[0][1])
        assert_same(*runs)

    @pytest.mark.parametrize("use_reentrant", [False, True])
    def test_gradient_checkpointing(self, use_reentrant, build, model):
        runs = []
        for options in (
            {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"use_reentrant": use_reentrant}},
            {"shared_prefix": False},
        ):
            found = {}

            class Keep(TrainerCallback):
                def on_pre_optimizer_step(self, args, state, control, model=None, found=found, **kwargs):
                    found.update({name: p.grad.clone() for name, p in model.named_parameters()})

            trainer = build(copy.deepcopy(model), **options)
            trainer.add_callback(Keep())
            trainer.train()
            runs.append((torch.tensor(trainer.state.log_history[-1]["train_loss"]), found))
        assert_same(*runs)

    @pytest.mark.parametrize("attention", ["sdpa", "eager"])
    @pytest.mark.parametrize("how", ["autocast", "weights"])
    def test_bf16_gives_the_same_in_shared_rows(self, how, attention, build):
        """To bf16's noise: about 8 bits."""
        options = {"bf16": True} if how == "autocast" else {}
        runs = []
        for shared in (True, False):
            model = build_model(attn_implementation=attention)
            model = model.bfloat16() if how == "weights" else model
            trainer = build(model, shared_prefix=shared, **options)
            runs.append(step(trainer))
            assert trainer._layout == ("shared_prefix" if shared else "padded")
        (loss, found), (expected_loss, expected) = runs
        torch.testing.assert_close(loss, expected_loss, rtol=2e-2, atol=2e-2)
        for name, gradient in found.items():
            difference = (gradient - expected[name]).float().norm() / expected[name].float().norm()
            assert difference < 0.05, name

    @settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(data=st.data())
    def test_random_pairs_give_the_same_in_every_layout(self, data, random_trainers):
        """Short chains over few tokens: empty starts and prompts, equal chains, one the start of the other."""
        tokens = st.integers(5, 8)
        examples = []
        for _ in range(data.draw(st.integers(1, 3))):
            start = data.draw(st.lists(tokens, max_size=4))
            example = {
                "prompt_ids": data.draw(st.lists(tokens, max_size=3)),
                "chosen_ids": start + data.draw(st.lists(tokens, min_size=1, max_size=5)),
                "rejected_ids": start + data.draw(st.lists(tokens, min_size=1, max_size=5)),
            }
            for side in ("chosen", "rejected"):
                length = len(example[f"{side}_ids"])
                weights = st.lists(st.sampled_from([-1.0, 0.0, 0.5]), min_size=length, max_size=length)
                example[f"{side}_weights"] = data.draw(weights)
            examples.append(example)
        padded, *others = random_trainers
        expected = step(padded, examples)
        for trainer in others:
            loss, found = step(trainer, examples)
            torch.testing.assert_close(loss, expected[0], rtol=1e-5, atol=1e-5)
            for name, gradient in found.items():
                torch.testing.assert_close(gradient, expected[1][name], rtol=1e-5, atol=1e-5)

    @pytest.fixture
    def random_trainers(self, build, model) -> list[EDITTrainer]:
        trainers = []
        for layout in layouts.LAYOUTS:
            trainer = build(model)
            trainer.data_collator.layout = trainer._layout = layout
            trainers.append(trainer)
        return trainers


class TestTraining:
    def test_runs_are_the_same(self, build, pairs):
        """Parameters after four optimiser steps, and everything that is logged but for tokens and speed."""
        runs = []
        for shared in (True, False):
            model = build_model()
            trainer = build(
                model, pairs, shared_prefix=shared, per_device_train_batch_size=2, gradient_accumulation_steps=2,
                max_steps=4, learning_rate=0.1, optim="sgd", lr_scheduler_type="constant", logging_steps=1,
                chosen_other_weight=0.1,
            )  # fmt: skip
            trainer.train()
            metrics = trainer.evaluate(Dataset.from_list(pairs[:5]))
            logs = [
                {
                    name: value
                    for name, value in entry.items()
                    if not any(word in name for word in (*SPEED, "num_tokens", "total_flos"))
                }
                for entry in (*trainer.state.log_history, metrics)
            ]
            runs.append((dict(model.named_parameters()), logs, metrics["eval_num_tokens"]))
        (found, logs, num_tokens), (expected, expected_logs, num_padded_tokens) = runs
        for name, parameter in found.items():
            torch.testing.assert_close(parameter, expected[name], rtol=1e-5, atol=1e-6)
        assert not torch.equal(found["lm_head.weight"], build_model().lm_head.weight)
        assert len(logs) == len(expected_logs) > 5
        for entry, expected_entry in zip(logs, expected_logs, strict=True):
            assert entry == pytest.approx(expected_entry, rel=1e-4, abs=1e-5)
        assert 0 < num_tokens < num_padded_tokens

    @pytest.mark.parametrize("layout", ["padded", "shared_prefix", "padding_free"])
    def test_sampler_groups_by_the_length_that_a_row_has(self, layout, build, model):
        trainer = build(model, shared_prefix=layout != "padded", train_sampling_strategy="group_by_length")
        trainer._layout = layout
        trainer.data_collator.layout = layout
        lengths = [int(trainer.data_collator([example])["num_tokens"]) for example in EXAMPLES]
        if layout == "padded":
            lengths = [trainer.data_collator([example])["input_ids"].size(1) for example in EXAMPLES]
        assert trainer._get_train_sampler().lengths == lengths
        assert trainer._get_eval_sampler(trainer.train_dataset).lengths == lengths

    def test_sampler_takes_the_lengths_that_the_data_has(self, build, model):
        examples = [{**example, "tokens": 5 + i} for i, example in enumerate(EXAMPLES)]
        trainer = build(model, examples, train_sampling_strategy="group_by_length", length_column_name="tokens")
        assert list(trainer._get_train_sampler().lengths) == [5, 6, 7, 8]


class IgnoresPositions(LlamaForCausalLM):
    """Counts positions along the row, whatever it is given."""

    def forward(self, input_ids=None, attention_mask=None, position_ids=None, **kwargs):
        return super().forward(input_ids=input_ids, attention_mask=attention_mask, **kwargs)


class TakesNoOtherMask(LlamaForCausalLM):
    """Reads its mask as one of padding."""

    def forward(self, input_ids=None, attention_mask=None, position_ids=None, **kwargs):
        batch, length = attention_mask.shape
        return super().forward(input_ids=input_ids, attention_mask=attention_mask, position_ids=position_ids, **kwargs)


class LooksBack(LlamaForCausalLM):
    """Adds the embedding of the token before, as a short convolution does."""

    def forward(self, input_ids=None, attention_mask=None, position_ids=None, **kwargs):
        embeddings = self.get_input_embeddings()(input_ids)
        embeddings = embeddings + torch.nn.functional.pad(embeddings, (0, 0, 1, 0))[:, :-1]
        return super().forward(
            inputs_embeds=embeddings, attention_mask=attention_mask, position_ids=position_ids, **kwargs
        )


class Fails(LlamaForCausalLM):
    def forward(self, input_ids=None, attention_mask=None, position_ids=None, **kwargs):
        raise RuntimeError("no weights")


class TestCheck:
    """Models whose errors in a layout only the check on a pair can find."""

    @pytest.mark.parametrize(
        ("model_class", "reason"),
        [
            (IgnoresPositions, "log-probabilities differ by"),
            (LooksBack, "log-probabilities differ by"),
            (TakesNoOtherMask, "it fails on one with `ValueError: too many values to unpack"),
        ],
    )
    @pytest.mark.parametrize("initializer_range", [0.02, 0.2])
    def test_falls_back(self, model_class, reason, initializer_range, build, warnings):
        model = build_model(initializer_range=initializer_range)
        other = model_class(model.config)
        other.load_state_dict(model.state_dict())
        trainer = build(other)
        assert trainer._layout == "shared_prefix"
        found = step(trainer)
        assert trainer._layout == "padded"
        assert len(warnings) == 1
        assert f"Training {model_class.__name__} on two padded rows" in warnings[0] and reason in warnings[0]
        assert_same(found, step(build(other, shared_prefix=False)))
        step(trainer)
        assert len(warnings) == 1

    @pytest.mark.parametrize("initializer_range", [0.02, 0.2])
    @pytest.mark.parametrize("family", ["llama", "gpt2", "gemma3_text"])
    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    def test_sees_branches_that_see_each_other(self, family, initializer_range, dtype, build, warnings, monkeypatch):
        if (initializer_range, dtype) == (0.02, torch.bfloat16):
            pytest.skip("a model of small random weights hardly attends: less than bf16's rounding in a trained one")
        masks = layouts.attention_masks
        monkeypatch.setattr(
            edit_trainer, "attention_masks", lambda branch_ids, *args: masks(torch.zeros_like(branch_ids), *args)
        )
        model = build_family(family, initializer_range=initializer_range, **MODELS[family]).to(dtype)
        trainer = build(model)
        found = step(trainer)
        assert trainer._layout == "padded"
        assert len(warnings) == 1
        assert_same(found, step(build(model, shared_prefix=False)))

    @pytest.mark.parametrize("family", ["mistral", "gemma3_text"])
    def test_sees_windows_that_vanish(self, family, build, warnings, monkeypatch):
        masks = layouts.attention_masks

        def without_window(branch_ids, position_ids, config, dtype):
            config = copy.copy(config)
            config.sliding_window = 10**6
            return masks(branch_ids, position_ids, config, dtype)

        monkeypatch.setattr(edit_trainer, "attention_masks", without_window)
        trainer = build(build_family(family, **MODELS[family]))
        step(trainer)
        assert trainer._layout == "padded" and len(warnings) == 1

    def test_sees_a_window_that_the_model_does_not_apply(self, build, warnings):
        """Moshi's text model has one in its config. It is shrunk for the check, so that short chains tell."""
        sizes = {"vocab_size": 400, "hidden_size": 32, "ffn_dim": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
        model = AutoModelForCausalLM.from_config(MoshiConfig(**sizes, sliding_window=3000))
        trainer = build(model)
        step(trainer)
        assert trainer._layout == "padded" and len(warnings) == 1
        assert model.config.sliding_window == 3000

    def test_happens_once_and_leaves_no_trace(self, build, model):
        trainer = build(model)
        batch = trainer.data_collator(EXAMPLES)
        calls = []
        model.register_forward_pre_hook(lambda module, args: calls.append((module.training, torch.is_grad_enabled())))
        model.train()
        for _ in range(2):
            trainer.compute_loss(model, batch)
        assert calls == [(False, False), (False, False), (True, True), (True, True)]
        assert trainer.pair_metrics["train"].num_examples == 2 * len(EXAMPLES)
        assert trainer.pair_metrics["eval"].num_examples == 0

    def test_error_of_the_model_is_no_verdict_on_the_mask(self, build, model):
        trainer = build(Fails(model.config))
        with pytest.raises(RuntimeError, match="no weights"):
            step(trainer)

    def test_waits_for_a_pair_that_tells(self, build, model, warnings):
        """
        A chain that begins like the other is seen in full by it. The first token of a branch is predicted by the
        common start, so a second branch of one token proves nothing.
        """
        other = IgnoresPositions(model.config)
        trainer = build(other)
        for examples, is_checked in ((EXAMPLES[2:], False), (EXAMPLES[1:], True)):
            expected = step(build(other, shared_prefix=False), examples)
            assert_same(step(trainer, examples), expected)
            assert trainer._layout_is_checked == (trainer._layout == "padded") == is_checked
        assert len(warnings) == 1

    def test_batches_of_workers_are_taken_apart(self, build, model, warnings):
        """Their copies of the collator do not hear of the verdict."""
        runs = []
        for shared in (True, False):
            other = IgnoresPositions(model.config)
            other.load_state_dict(model.state_dict())
            trainer = build(
                other, EXAMPLES * 2, per_device_train_batch_size=2, max_steps=4, dataloader_num_workers=2,
                shared_prefix=shared, optim="sgd", learning_rate=0.1,
            )  # fmt: skip
            trainer.train()
            runs.append(dict(other.named_parameters()))
        assert len(warnings) == 1
        for name, parameter in runs[0].items():
            torch.testing.assert_close(parameter, runs[1][name], rtol=1e-5, atol=1e-6)

    @pytest.mark.parametrize("layout", ["shared_prefix", "padding_free"])
    def test_collator_of_the_user_cannot_force_a_layout(self, layout, tmp_path, build, tokenizer, warnings):
        model = build_family("falcon_h1")
        trainer = build(model)
        trainer.data_collator = DataCollatorForDualCoT(pad_token_id=3, layout=layout)
        assert_same(step(trainer), step(build(model, shared_prefix=False)))


@pytest.fixture
def in_chunks(monkeypatch) -> None:
    """Makes every batch too large for logits of its own."""
    monkeypatch.setattr(edit_trainer, "_MAX_LOGITS", 0)


class TestChunks:
    """Many scored tokens go through TRL's fused head, which never holds all of their logits."""

    @pytest.mark.parametrize("layout", layouts.LAYOUTS)
    @pytest.mark.parametrize(
        "family", ["llama", "gpt2", "opt-projected", "gemma2", "gemma3_text", "cohere", "granite", "mixtral"]
    )
    def test_loss_and_gradients_are_the_same(self, family, layout, build, in_chunks, monkeypatch):
        options = {"chosen_other_weight": 0.3, "router_aux_loss_coef": 0.0 if family == "mixtral" else None}
        examples = [*EXAMPLES, {name: ids for name, ids in WEIGHTED.items() if name.endswith("_ids")}]
        model = build_family(family, **MODELS[family])
        heads = []
        model.get_output_embeddings().register_forward_hook(lambda *args: heads.append(1))
        found = step(build(model, **options), examples, layout)
        assert heads == []
        monkeypatch.undo()
        expected = step(build(model, shared_prefix=False, **options), examples)
        assert len(heads) == 1
        assert_same(found, expected, rtol=1e-4)

    def test_router_loss_is_the_same_in_chunks(self, build, in_chunks, monkeypatch):
        model = build_family("mixtral")
        found = step(build(model))
        monkeypatch.undo()
        assert_same(found, step(build(model, router_aux_loss_coef=0.1)), rtol=1e-4)

    @pytest.mark.parametrize("layout", layouts.LAYOUTS)
    def test_weights_from_columns(self, layout, build, model, in_chunks, monkeypatch):
        examples = [WEIGHTED, {**WEIGHTED, "prompt_ids": []}]
        found = step(build(model, examples), examples, layout)
        monkeypatch.undo()
        assert_same(found, step(build(model, examples, shared_prefix=False), examples))

    def test_metrics_are_the_same(self, build, model, pairs, in_chunks, monkeypatch):
        logs = []
        for _ in range(2):
            trainer = build(model, pairs, chosen_other_weight=0.3)
            metrics = trainer.evaluate(trainer.train_dataset)
            logs.append({name: value for name, value in metrics.items() if not any(word in name for word in SPEED)})
            monkeypatch.undo()
        assert logs[0] == pytest.approx(logs[1], rel=1e-4, abs=1e-5)

    def test_lora_and_gradient_checkpointing_give_the_same_in_chunks(self, build, model, monkeypatch):
        config = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM", init_lora_weights=False)
        runs = []
        for limit in (0, 2**27):
            monkeypatch.setattr(edit_trainer, "_MAX_LOGITS", limit)
            torch.manual_seed(0)
            trainer = build(
                copy.deepcopy(model), peft_config=config, gradient_checkpointing=True, chosen_other_weight=0.3
            )
            trainer.model.train()
            loss = trainer.compute_loss(trainer.model, trainer.data_collator(EXAMPLES))
            runs.append((loss.detach(), gradients(trainer.model, loss)))
        assert_same(*runs)

    def test_batch_without_scored_tokens_has_zero_loss(self, build, model, monkeypatch):
        monkeypatch.setattr(edit_trainer, "_MAX_LOGITS", -1)
        trainer = build(model)
        batch = trainer.data_collator([{"prompt_ids": [40, 41], "chosen_ids": [42, 43], "rejected_ids": [42, 43]}])
        loss = trainer.compute_loss(model, batch)
        assert loss.item() == 0
        loss.backward()
        assert all(p.grad is None or not p.grad.any() for p in model.parameters())


class TestProcesses:
    def test_verdict_is_the_same_everywhere_and_weights_may_be_sharded(self, tmp_path):
        """See `two_sharded_processes.py`."""
        result = subprocess.run(
            [
                sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2",
                str(Path(__file__).with_name("two_sharded_processes.py")), str(tmp_path),
            ],
            capture_output=True, text=True, timeout=600,
            env={**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        assert result.returncode == 0, result.stderr[-3000:]
        outcome = torch.load(tmp_path / "outcome.pt")
        assert outcome["layouts"] == ["padded", "padded"]
        assert outcome["is_sharded"]
        if Version(torch.__version__) < Version("2.9"):
            return  # on a CPU it adds sharded gradients up, where later ones average them
        for gamma in (0.0, 0.3):
            expected = step(make_trainer(tmp_path, build_model(), shared_prefix=False, chosen_other_weight=gamma))
            for head in ("whole", "chunks"):
                for layout in layouts.LAYOUTS:
                    assert_same(outcome[gamma, head, layout], expected, rtol=1e-4)
