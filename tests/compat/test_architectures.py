"""Tests that the log-probabilities of many architectures are the model's own, in the layout that is chosen."""

import pytest
import torch
from architectures import OPTIONS, PACKED, PADDED, SHARED, build_architecture
from layout_cases import EXAMPLES, any_cost, build, make_trainer, warnings  # noqa: F401
from transformers import CONFIG_MAPPING

from edit_trl import edit_trainer
from edit_trl.layouts import to_padded


pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("error:::edit_trl")]

LAYOUTS = dict.fromkeys(PACKED, "packed") | dict.fromkeys(SHARED, "shared_prefix")
REASONS = {name: reason for reason, names in PADDED.items() for name in names}


@torch.no_grad()
def own_log_probs(model, batch: dict) -> torch.Tensor:
    """One chain at a time, with nothing but its token IDs."""
    batch = batch if batch["layout"] == "padded" else to_padded(batch)
    log_probs = torch.zeros(len(batch["scored_ids"]))
    for row, length in enumerate(batch["attention_mask"].sum(dim=1).tolist()):
        is_here = batch["scored_rows"] == row
        logits = model(input_ids=batch["input_ids"][row : row + 1, :length], use_cache=False).logits[0].float()
        positions, ids = batch["scored_positions"][is_here], batch["scored_ids"][is_here]
        log_probs[is_here] = logits.log_softmax(dim=-1)[positions, ids]
    return log_probs


@pytest.mark.parametrize("name", [*LAYOUTS, *REASONS])
def test_log_probs_are_those_of_the_model_alone(name, build, warnings, any_cost, monkeypatch):
    if name not in CONFIG_MAPPING:
        pytest.skip("this release of transformers does not have it")
    model = build_architecture(name).eval()
    try:
        trainer = build(model, router_aux_loss_coef=0.0)
    except ValueError as error:
        assert "`router_aux_loss_coef` is set" in str(error)
        trainer = build(model)
    model.eval()
    batch = trainer.data_collator(EXAMPLES)
    expected = own_log_probs(model, batch)
    with torch.no_grad():
        # The first batch may find that the layout is wrong, and the second one is in the right layout.
        for _ in range(2):
            batch = trainer._in_right_layout(model, trainer.data_collator(EXAMPLES))
            found = trainer._score(model, batch)[0]
            torch.testing.assert_close(found, expected, rtol=1e-5, atol=2e-5)
    assert batch["layout"] == trainer._layout == LAYOUTS.get(name, "padded")
    assert len(warnings) == (name in REASONS)
    if name in REASONS:
        assert REASONS[name] in warnings[0]
    # Many scored tokens: TRL's fused head, or the model's own logits where it gives others.
    monkeypatch.setattr(edit_trainer, "_MAX_LOGITS", 0)
    with torch.no_grad():
        torch.testing.assert_close(trainer._score(model, batch)[0], expected, rtol=1e-4, atol=1e-4)
    if name in ("bert", "modernbert-decoder", "rembert"):
        assert trainer._fused_head_is_right is False and "without TRL's fused head" in warnings[-1]
    # The tokens before a branch matter, so that a wrong mask or position would be seen.
    with torch.no_grad():
        alone = model(input_ids=torch.tensor([EXAMPLES[0]["chosen_ids"][-8:]]), use_cache=False).logits[0, -1]
        full = model(input_ids=batch["input_ids"].new_tensor([EXAMPLES[0]["chosen_ids"]]), use_cache=False).logits[
            0, -1
        ]
    assert (alone - full).abs().max() > 1e-3


DENSE = {"num_local_experts": 0, "layer_types": ["full_attention"] * 2}


class TestRouterLoss:
    """A config may have a coefficient of a loss that the model does not return."""

    @pytest.mark.parametrize(("name", "options"), [("granitemoehybrid", DENSE), ("doge", {}), ("llama4_text", {})])
    def test_is_left_out_if_the_model_has_none(self, name, options, build, monkeypatch, recwarn):
        monkeypatch.setitem(OPTIONS, name, {**OPTIONS.get(name, {}), **options})
        model = build_architecture(name)
        trainer = build(model)
        loss = trainer.compute_loss(model, trainer.data_collator(EXAMPLES))
        plain = build(model, router_aux_loss_coef=0.0)
        torch.testing.assert_close(
            loss, plain.compute_loss(model, plain.data_collator(EXAMPLES)), rtol=1e-4, atol=1e-6
        )

    def test_is_an_error_if_it_was_asked_for(self, build):
        model = build_architecture("deepseek_v2")
        trainer = build(model, router_aux_loss_coef=0.001)
        with pytest.raises(ValueError, match=r"must be 0\.0 for DeepseekV2ForCausalLM, which returns no"):
            trainer.compute_loss(model, trainer.data_collator(EXAMPLES))


def test_no_name_is_listed_twice():
    names = [*PACKED, *SHARED, *(name for names in PADDED.values() for name in names)]
    assert len(names) == len(set(names)) > 150
