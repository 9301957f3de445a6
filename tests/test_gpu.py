"""
Tests that need a GPU: FlashAttention, Triton's fused head, half precision. Run `pytest -m gpu`; skipped without a GPU.

The reference is the layout with one padded row per chain and sdpa. For half precision, the tolerance is its noise.
"""

import pytest
import torch
from conftest import build_model
from test_edit_trainer_layouts import EXAMPLES, assert_same, make_trainer, step

from edit_trl import edit_trainer


pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
    pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.* is deprecated:FutureWarning"),
]

# A head of 32 dimensions, which the FlashAttention kernels take.
SIZES = {"hidden_size": 128, "intermediate_size": 256, "initializer_range": 0.05}


def run(tmp_path, dtype=torch.float32, attention="sdpa", **options):
    model = build_model(attn_implementation=attention, **SIZES).to("cuda", dtype)
    trainer = make_trainer(tmp_path, model, use_cpu=False, **options)
    result = step(trainer, EXAMPLES * 2)
    return trainer._layout, result


def assert_close_in_half_precision(found, expected) -> None:
    torch.testing.assert_close(found[0], expected[0], rtol=2e-2, atol=2e-2)
    for name, gradient in found[1].items():
        difference = (gradient - expected[1][name]).float().norm() / expected[1][name].float().norm()
        assert difference < 0.05, name


@pytest.mark.parametrize("gamma", [0.0, 0.3])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_one_row_per_pair(tmp_path, attention, gamma):
    layout, found = run(tmp_path, attention=attention, chosen_other_weight=gamma)
    assert layout == "shared_prefix"
    assert_same(found, run(tmp_path, shared_prefix=False, chosen_other_weight=gamma)[1], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("options", [{"bf16": True}, {"dtype": torch.bfloat16}], ids=["autocast", "weights"])
def test_one_row_per_pair_in_bf16(tmp_path, options):
    layout, found = run(tmp_path, **options)
    assert layout == "shared_prefix"
    assert_close_in_half_precision(found, run(tmp_path, shared_prefix=False, **options)[1])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_flash_attention(tmp_path, dtype):
    pytest.importorskip("flash_attn")
    layout, found = run(tmp_path, dtype, "flash_attention_2")
    assert layout == "padding_free"
    assert_close_in_half_precision(found, run(tmp_path, dtype, shared_prefix=False)[1])


@pytest.mark.parametrize("layout", ["padded", "shared_prefix"])
def test_head_of_triton(tmp_path, layout, monkeypatch):
    options = {"shared_prefix": layout == "shared_prefix", "chosen_other_weight": 0.3}
    expected = run(tmp_path, **options)[1]
    monkeypatch.setattr(edit_trainer, "_MAX_LOGITS", 0)
    assert_same(run(tmp_path, **options)[1], expected, rtol=1e-3, atol=1e-4)
