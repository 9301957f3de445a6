"""
Tests of TRL's fused head: many scored tokens go through it in chunks, with the same loss and gradients.
"""

import copy

import pytest
import torch
from layout_cases import (
    EXAMPLES,
    MODELS,
    WEIGHTED,
    any_cost,  # noqa: F401
    assert_same,
    build,  # noqa: F401
    step,
)
from peft import LoraConfig
from test_model_families import build_family, gradients

from edit_trl import edit_trainer, layouts


pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("error:::edit_trl"),
    # TRL sets `gradient_checkpointing`, which transformers 5.23 deprecates; that warning is between the two.
    pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.* is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:The `'keep_end'` truncation mode is deprecated:FutureWarning"),
]

SPEED = ("runtime", "per_second", "preparation_time")


@pytest.fixture
def in_chunks(monkeypatch) -> None:
    """Makes every batch too large for logits of its own."""
    monkeypatch.setattr(edit_trainer, "_MAX_LOGITS", 0)


@pytest.mark.usefixtures("any_cost")
class TestChunks:
    """Many scored tokens go through TRL's fused head, which never holds all of their logits."""

    @pytest.mark.parametrize(
        ("family", "layout"),
        [
            (family, layout)
            for family in ("llama", "gpt2", "opt-projected", "gemma2", "gemma3_text", "cohere", "granite", "mixtral")
            for layout in layouts.LAYOUTS
            # Gemma 2 has eager attention. OPT needs FlashAttention to go without padding.
            if (family, layout) not in (("gemma2", "packed"), ("opt-projected", "padding_free"))
        ],
    )
    def test_loss_and_gradients_are_the_same(self, family, layout, build, in_chunks, monkeypatch):
        options = {"chosen_other_weight": 0.3, "router_aux_loss_coef": 0.0 if family == "mixtral" else None}
        examples = [*EXAMPLES, {name: ids for name, ids in WEIGHTED.items() if name.endswith("_ids")}]
        model = build_family(family, **MODELS[family])
        trainer = build(model, **options)
        heads = []
        hook = model.get_output_embeddings().register_forward_hook(lambda *args: heads.append(1))
        found = step(trainer, examples, layout)
        assert len(heads) == 1  # a comparison on a few tokens
        hook.remove()
        monkeypatch.undo()
        expected = step(build(model, shared_prefix=False, **options), examples)
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
