"""
Tests of layouts: loss, gradients and metrics are the same in each, and models that need two rows per pair get them.
"""

import copy
import functools

import pytest
import torch
import transformers.modeling_flash_attention_utils as flash_utils
from conftest import build_model
from datasets import Dataset
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from layout_cases import (
    COMPACT,
    EXAMPLES,
    MODELS,
    REASONS,
    WEIGHTED,
    any_cost,  # noqa: F401
    assert_close_in_half_precision,
    assert_same,
    build,  # noqa: F401
    set_layout,
    step,
    warnings,  # noqa: F401
)
from peft import LoraConfig
from test_model_families import build_family
from test_shared_attention import flash_2, slow_attention
from transformers import AttentionInterface, TrainerCallback

from edit_trl import EDITTrainer, layouts


pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("error:::edit_trl"),
    # TRL sets `gradient_checkpointing`, which transformers 5.23 deprecates; that warning is between the two.
    pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.* is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:The `'keep_end'` truncation mode is deprecated:FutureWarning"),
]

SPEED = ("runtime", "per_second", "preparation_time")


class TestModels:
    @pytest.mark.parametrize("attention", ["sdpa", "eager"])
    @pytest.mark.parametrize("family", [family for family in MODELS if family not in REASONS])
    def test_layout_of_the_trainer_gives_the_same_gradients(self, family, attention, build, warnings):
        if (family, attention) == ("gemma2", "sdpa"):
            pytest.skip("Gemma 2 has soft-capped attention, which sdpa does not")
        model = build_family(family, attn_implementation=attention, **MODELS[family])
        trainer = build(model)
        found = step(trainer)
        reference = build(model, shared_prefix=False)

        assert warnings == []
        assert (
            trainer._layout == trainer.data_collator.layout == {"sdpa": "packed", "eager": "shared_prefix"}[attention]
        )
        assert trainer._layout_is_checked
        assert reference.data_collator.layout == "padded"
        assert_same(found, step(reference), rtol=1e-4)

    @pytest.mark.parametrize("family", REASONS)
    def test_others_train_on_two_rows_and_say_why(self, family, build, warnings):
        trainer = build(build_family(family))
        assert len(warnings) == 1
        assert REASONS[family] in warnings[0] and "`shared_prefix=False`" in warnings[0]
        assert trainer.data_collator.layout == "padded"
        trainer.train()
        assert build(build_family(family), shared_prefix=False)._layout == "padded"
        assert len(warnings) == 1

    def test_mixture_of_experts_without_router_loss(self, build, warnings):
        model = build_family("mixtral")
        trainer = build(model, router_aux_loss_coef=0.0)
        found = step(trainer)
        assert trainer._layout == "packed" and warnings == []
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

    @pytest.mark.parametrize(
        ("layout", "attention"), [("shared_prefix", "sdpa"), ("padding_free", "sdpa"), ("padding_free", "eager")]
    )
    @pytest.mark.parametrize("family", ["llama", "mistral", "gemma3_text", "qwen3", "gpt2", "mixtral"])
    def test_layouts_that_are_not_the_first_choice(self, family, layout, attention, build, any_cost):
        """
        One row per pair is the second choice for sdpa. Whole chains without padding are for FlashAttention; other
        implementations build the borders between chains from positions that restart, so they are right for them too.
        """
        options = {"router_aux_loss_coef": 0.0} if (family, layout) == ("mixtral", "shared_prefix") else {}
        model = build_family(family, attn_implementation=attention, **MODELS[family])
        found = step(build(model, **options), layout=layout)
        assert_same(found, step(build(model, shared_prefix=False, **options)), rtol=1e-4)

    def test_other_batches_of_the_model_attend_as_before(self, model, build):
        """The attention that takes packed rows is registered for all models of the process."""
        rows, mask = torch.arange(40, 60).view(2, 10), torch.tensor([[1] * 10, [1] * 6 + [0] * 4])
        expected = model.eval()(rows, attention_mask=mask).logits
        step(build(model))
        assert torch.equal(model(rows, attention_mask=mask).logits, expected)


def flash(
    query,
    key,
    value,
    dropout_p=0.0,
    softmax_scale=None,
    causal=False,
    window_size=(-1, -1),
    softcap=0.0,
    deterministic=False,
):
    """The signature of `flash_attn.flash_attn_func`."""
    assert causal and dropout_p == 0.0
    length = query.size(1)
    mask = torch.ones(length, length, dtype=torch.bool).tril()
    if window_size[0] >= 0:
        mask = mask.triu(-window_size[0])
    states = (part.transpose(1, 2) for part in (query, key, value))
    return slow_attention(*states, mask, softmax_scale, softcap).to(query.dtype)


@pytest.fixture
def flash_attention(monkeypatch) -> None:
    """Slow kernels in place of those of FlashAttention 2, which need a GPU. All else is the code of transformers."""

    @functools.wraps(flash_2)
    def varlen(*args, max_seqlen_q, max_seqlen_k, **kwargs):
        # transformers passes tensors if it finds the borders itself.
        return flash_2(*args, max_seqlen_q=int(max_seqlen_q), max_seqlen_k=int(max_seqlen_k), **kwargs)

    kernels = (flash, varlen, None, flash_utils._pad_input, flash_utils._unpad_input)
    monkeypatch.setattr(flash_utils, "_lazy_imports", lambda *args, **kwargs: kernels)
    for name in ("_loaded_implementation", "_flash_fn", "_flash_varlen_fn", "_flash_with_kvcache_fn", "_pad_fn"):
        monkeypatch.setattr(flash_utils, name, None)
    for name in ("_unpad_fn", "_process_flash_kwargs_fn", "_process_with_kvcache_kwargs_fn"):
        monkeypatch.setattr(flash_utils, name, None)
    monkeypatch.setattr(AttentionInterface, "_global_mapping", dict(AttentionInterface._global_mapping))


class TestFlashAttention:
    @pytest.mark.parametrize("family", ["llama", "mistral", "qwen3", "gpt_neox", "phi3", "gemma2", "gemma3_text"])
    def test_takes_packed_rows(self, family, build, warnings, flash_attention):
        options = {**MODELS[family], **({"attn_logit_softcapping": 1.0} if family == "gemma2" else {})}
        model = build_family(family, attn_implementation="eager", **options)
        expected = step(build(model, shared_prefix=False))
        model.config._attn_implementation = "flash_attention_2"
        trainer = build(model)
        found = step(trainer)
        assert trainer._layout == "packed" and trainer._layout_is_checked and warnings == []
        assert_same(found, expected, rtol=1e-4)

    def test_load_balancing_loss_counts_whole_chains(self, build, warnings, flash_attention):
        model = build_family("mixtral", attn_implementation="eager")
        expected = step(build(model, shared_prefix=False))
        model.config._attn_implementation = "flash_attention_2"
        trainer = build(model)
        found = step(trainer)
        assert trainer._layout == "padding_free" and warnings == []
        assert_same(found, expected, rtol=1e-4)

    @pytest.mark.parametrize("restarts", [True, False])
    def test_model_that_passes_on_no_borders(self, restarts, build, model, warnings, flash_attention):
        """
        A packed row fails without borders. For whole chains, transformers finds them in positions that restart, if the
        attention gets these.
        """
        expected = step(build(model, shared_prefix=False))
        model.config._attn_implementation = "flash_attention_2"
        names = ["cu_seq_lens_q", "cu_seq_lens_k", "max_length_q", "max_length_k"] + ["position_ids"] * (not restarts)
        for layer in model.model.layers:
            layer.self_attn.register_forward_pre_hook(
                lambda module, args, kwargs: (args, {k: v for k, v in kwargs.items() if k not in names}),
                with_kwargs=True,
            )
        trainer = build(model)
        found = step(trainer)
        assert trainer._layout == trainer.data_collator.layout == ("padding_free" if restarts else "padded")
        assert len(warnings) == (not restarts) and all("log-probabilities differ" in text for text in warnings)
        assert_same(found, expected, rtol=1e-4)


class TestCost:
    """Rows with a mask are computed as padded rows where these compute less."""

    @staticmethod
    def pairs(start: int, rest: int) -> list[dict]:
        generator = torch.Generator().manual_seed(0)
        start, *rests = (torch.randint(5, 400, (n,), generator=generator).tolist() for n in (start, rest, rest))
        return [{"prompt_ids": start, "chosen_ids": rests[0], "rejected_ids": rests[1]}]

    @pytest.mark.parametrize(("start", "rest", "layout"), [(10, 230, "padded"), (200, 20, "shared_prefix")])
    @pytest.mark.parametrize("attention", ["eager", "sdpa"])
    def test_loss_is_the_same(self, attention, start, rest, layout, build, warnings):
        """
        The row of all tokens has 10 + 2 * 230 = 470 instead of 2 * 240 = 480, but 470 ** 2 = 220,900 scores instead of
        2 * 240 ** 2 = 115,200. Or 240 instead of 440 tokens, and 57,600 instead of 96,800 scores.
        """
        examples = self.pairs(start, rest)
        model = build_model(attn_implementation=attention)
        trainer = build(model, examples)
        set_layout(trainer, "shared_prefix")
        batch = trainer.data_collator(examples)
        assert trainer._in_right_layout(model, batch)["layout"] == layout
        # The layout was checked, and the collator keeps it for the next batch.
        assert trainer._layout == trainer.data_collator.layout == batch["layout"] == "shared_prefix"
        assert trainer._layout_is_checked and warnings == []
        assert_same(step(trainer, examples), step(build(model, examples, shared_prefix=False), examples))

    def test_is_that_of_each_batch(self, build):
        model = build_model(attn_implementation="eager")
        trainer = build(model)
        for examples, layout in ((self.pairs(10, 230), "padded"), (self.pairs(200, 20), "shared_prefix")) * 2:
            assert trainer._in_right_layout(model, trainer.data_collator(examples))["layout"] == layout

    def test_packed_rows_stay(self, build, model):
        """Their attention costs what that of padded rows costs, or less."""
        trainer = build(model)
        batch = trainer.data_collator(self.pairs(10, 230))
        assert trainer._in_right_layout(model, batch) is batch and batch["layout"] == "packed"


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


@pytest.mark.usefixtures("any_cost")
class TestOptions:
    @pytest.mark.parametrize("layout", COMPACT)
    @pytest.mark.parametrize("name", OPTIONS)
    def test_options_of_the_config_give_the_same_in_every_layout(self, name, layout, build, model):
        found = step(build(model, **OPTIONS[name]), layout=layout)
        assert_same(found, step(build(model, **OPTIONS[name], shared_prefix=False)))

    @pytest.mark.parametrize("layout", COMPACT)
    def test_weights_from_columns(self, layout, build, model):
        """A shared token may be weighted on both sides, and at the border of the two branches too."""
        examples = [WEIGHTED, {**WEIGHTED, "prompt_ids": []}]
        found = step(build(model, examples), examples, layout)
        assert_same(found, step(build(model, examples, shared_prefix=False), examples))

    @pytest.mark.parametrize("layout", COMPACT)
    @pytest.mark.parametrize("options", [{}, {"chosen_other_weight": 0.3}], ids=["key tokens", "gamma"])
    def test_lora_gives_the_same_in_every_layout(self, options, layout, build, model):
        config = LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM", init_lora_weights=False)
        runs = []
        for name in (layout, "padded"):
            torch.manual_seed(0)
            trainer = build(copy.deepcopy(model), peft_config=config, **options)
            runs.append(step(trainer, layout=name))
        assert all("lora" in name for name in runs[0][1])
        assert_same(*runs)

    @pytest.mark.parametrize("layout", COMPACT)
    @pytest.mark.parametrize("use_reentrant", [False, True])
    def test_gradient_checkpointing(self, use_reentrant, layout, build, model):
        runs = []
        for name, options in (
            (
                layout,
                {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"use_reentrant": use_reentrant}},
            ),
            ("padded", {}),
        ):
            found = {}

            class Keep(TrainerCallback):
                def on_pre_optimizer_step(self, args, state, control, model=None, found=found, **kwargs):
                    found.update({name: p.grad.clone() for name, p in model.named_parameters()})

            trainer = build(copy.deepcopy(model), **options)
            set_layout(trainer, name)
            trainer.add_callback(Keep())
            trainer.train()
            assert trainer._layout == name
            runs.append((torch.tensor(trainer.state.log_history[-1]["train_loss"]), found))
        assert_same(*runs)

    @pytest.mark.parametrize(
        ("attention", "layout"), [("sdpa", "packed"), ("sdpa", "shared_prefix"), ("eager", "shared_prefix")]
    )
    @pytest.mark.parametrize("how", ["autocast", "weights"])
    def test_bf16_gives_the_same_in_every_layout(self, how, attention, layout, build, warnings):
        """The layout is checked with the tolerance of bf16."""
        runs = []
        for name in (layout, "padded"):
            model = build_model(attn_implementation=attention)
            model = model.bfloat16() if how == "weights" else model
            trainer = build(model, bf16=how == "autocast")
            runs.append(step(trainer, layout=name))
            assert trainer._layout == name
        assert warnings == []
        assert_close_in_half_precision(*runs)

    @settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(data=st.data())
    def test_random_rows_give_the_same_in_every_layout(self, data, trainers):
        """
        Pairs and completions. Short chains over few tokens: empty starts and prompts, equal chains, one the start of
        the other.
        """
        tokens = st.integers(5, 8)
        examples = []
        for _ in range(data.draw(st.integers(1, 3))):
            prompt, start = (data.draw(st.lists(tokens, max_size=size)) for size in (3, 4))
            rests = data.draw(st.lists(st.lists(tokens, min_size=1, max_size=5), min_size=1, max_size=2))
            if len(rests) == 1:
                examples.append({"prompt_ids": prompt, "completion_ids": start + rests[0]})
                continue
            example = {"prompt_ids": prompt}
            for side, rest in zip(("chosen", "rejected"), rests, strict=True):
                example[f"{side}_ids"] = start + rest
                weights = st.sampled_from([-1.0, 0.0, 0.5])
                length = len(start + rest)
                example[f"{side}_weights"] = data.draw(st.lists(weights, min_size=length, max_size=length))
            examples.append(example)
        expected = step(trainers["padded"], examples)
        for layout in COMPACT:
            loss, found = step(trainers[layout], examples, layout)
            torch.testing.assert_close(loss, expected[0], rtol=1e-5, atol=1e-5)
            for name, gradient in found.items():
                torch.testing.assert_close(gradient, expected[1][name], rtol=1e-5, atol=1e-5)

    @pytest.fixture
    def trainers(self, build, model) -> dict[str, EDITTrainer]:
        trainers = {layout: build(model, completion_weight=0.3) for layout in layouts.LAYOUTS}
        set_layout(trainers["padded"], "padded")
        return trainers


class TestTraining:
    @pytest.mark.parametrize("layout", COMPACT)
    def test_runs_are_the_same(self, layout, build, pairs, any_cost):
        """Parameters after four optimiser steps, and everything that is logged but for tokens and speed."""
        runs = []
        for name in (layout, "padded"):
            model = build_model()
            trainer = build(
                model, pairs, per_device_train_batch_size=2, gradient_accumulation_steps=2,
                max_steps=4, learning_rate=0.1, optim="sgd", lr_scheduler_type="constant", logging_steps=1,
                chosen_other_weight=0.1,
            )  # fmt: skip
            set_layout(trainer, name)
            trainer.train()
            assert trainer._layout == trainer.data_collator.layout == name
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
        # Padding does not count.
        assert 0 < num_tokens <= num_padded_tokens and (num_tokens == num_padded_tokens) == (layout == "padding_free")

    @pytest.mark.parametrize("layout", layouts.LAYOUTS)
    def test_sampler_groups_by_the_length_that_a_row_has(self, layout, build, model):
        trainer = build(model, train_sampling_strategy="group_by_length")
        set_layout(trainer, layout)
        lengths = [int(trainer.data_collator([example])["num_tokens"]) for example in EXAMPLES]
        if layout == "padded":
            lengths = [trainer.data_collator([example])["input_ids"].size(1) for example in EXAMPLES]
        assert trainer._get_train_sampler().lengths == lengths
        assert trainer._get_eval_sampler(trainer.train_dataset).lengths == lengths

    def test_sampler_takes_the_lengths_that_the_data_has(self, build, model):
        examples = [{**example, "tokens": 5 + i} for i, example in enumerate(EXAMPLES)]
        trainer = build(model, examples, train_sampling_strategy="group_by_length", length_column_name="tokens")
        assert list(trainer._get_train_sampler().lengths) == [5, 6, 7, 8]
