"""
Pairs, models and helpers for the tests of layouts.

The layout with one padded row per chain is the reference: `test_model_families.py` and `test_edit_trainer.py` compare
it, and the loss, with plain computations on the model's full logits.
"""

from functools import partial

import pytest
import torch
from conftest import build_tokenizer
from datasets import Dataset
from test_model_families import FAMILIES, gradients

from edit_trl import EDITConfig, EDITTrainer, edit_trainer


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
# Layouts other than the reference.
COMPACT = ("shared_prefix", "packed", "padding_free")
# Why some families train on padded rows.
REASONS = {
    "bloom": "takes no `position_ids`",
    "mamba": "takes no `position_ids`",
    "falcon_h1": "it has recurrent layers",
    "gpt_neo": "`window_size`",
    "lfm2": "it has convolution layers",
    "mixtral": "its router's load-balancing loss",
}
WINDOWS = {"sliding_window": 8}
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


@pytest.fixture
def any_cost(monkeypatch) -> None:
    """Rows with a mask are not computed as padded rows, whatever they cost."""
    monkeypatch.setattr(edit_trainer, "sharing_is_cheaper", lambda *args: True)


def set_layout(trainer: EDITTrainer, layout: str) -> None:
    """Replace the layout that the trainer has chosen."""
    trainer.data_collator.layout = trainer._layout = layout
    trainer._layouts = (layout,)


def step(trainer: EDITTrainer, examples=EXAMPLES, layout=None) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """
    Loss and gradients of one batch, without dropout.

    `layout` replaces the one that the trainer has chosen. The batch must be computed in it, and not as padded rows.
    """
    trainer.model.eval()
    if layout is not None:
        set_layout(trainer, layout)
    batch = trainer._prepare_inputs(trainer.data_collator(examples))
    computed = []
    score = trainer._score
    trainer._score = lambda model, inputs: computed.append(inputs["layout"]) or score(model, inputs)
    try:
        with trainer.accelerator.autocast():
            loss = trainer.compute_loss(trainer.model, batch)
    finally:
        del trainer._score
    assert layout is None or computed[-1] == layout
    return loss.detach(), gradients(trainer.model, loss)


def assert_same(found, expected, rtol=1e-5, atol=1e-5) -> None:
    torch.testing.assert_close(found[0], expected[0], rtol=rtol, atol=atol)
    assert found[1].keys() == expected[1].keys()
    assert any(gradient.abs().max() > 1e-4 for gradient in expected[1].values())
    for name, gradient in found[1].items():
        torch.testing.assert_close(
            gradient, expected[1][name], rtol=rtol, atol=atol, msg=lambda m, n=name: f"{n}: {m}"
        )


def assert_close_in_half_precision(found, expected) -> None:
    """To bf16's noise: about 8 bits."""
    torch.testing.assert_close(found[0], expected[0], rtol=2e-2, atol=2e-2)
    assert found[1].keys() == expected[1].keys()
    for name, gradient in found[1].items():
        difference = (gradient - expected[1][name]).float().norm() / expected[1][name].float().norm()
        assert difference < 0.05, name
