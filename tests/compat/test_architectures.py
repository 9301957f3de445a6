"""Tests that the log-probabilities of many architectures are the model's own, in the layout that is chosen."""

import pytest
import torch
from architectures import PACKED, PADDED, SHARED, build_architecture
from layout_cases import EXAMPLES, any_cost, build, make_trainer, warnings  # noqa: F401
from transformers import CONFIG_MAPPING

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
def test_log_probs_are_those_of_the_model_alone(name, build, warnings, any_cost):
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
    # The tokens before a branch matter, so that a wrong mask or position would be seen.
    with torch.no_grad():
        alone = model(input_ids=torch.tensor([EXAMPLES[0]["chosen_ids"][-8:]]), use_cache=False).logits[0, -1]
        full = model(input_ids=batch["input_ids"].new_tensor([EXAMPLES[0]["chosen_ids"]]), use_cache=False).logits[
            0, -1
        ]
    assert (alone - full).abs().max() > 1e-3


def test_no_name_is_listed_twice():
    names = [*PACKED, *SHARED, *(name for names in PADDED.values() for name in names)]
    assert len(names) == len(set(names)) > 150
