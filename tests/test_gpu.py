"""
Tests that need a GPU: FlashAttention, Triton's fused head, half precision. Run `pytest -m gpu`; skipped without a GPU.

The reference is the layout with one padded row per chain and sdpa. For half precision, the tolerance is its noise.
"""

import pytest
import torch
from conftest import build_model
from layout_cases import (
    EXAMPLES,
    any_cost,  # noqa: F401
    assert_close_in_half_precision,
    assert_same,
    make_trainer,
    step,
)
from test_model_families import build_family

from edit_trl import edit_trainer


pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
    pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.* is deprecated:FutureWarning"),
]

# A head of 32 dimensions, which the FlashAttention kernels take.
SIZES = {"hidden_size": 128, "intermediate_size": 256, "initializer_range": 0.05}


def run(tmp_path, dtype=torch.float32, attention="sdpa", layout=None, **options):
    model = build_model(attn_implementation=attention, **SIZES).to("cuda", dtype)
    trainer = make_trainer(tmp_path, model, use_cpu=False, **options)
    result = step(trainer, EXAMPLES * 2, layout)
    return trainer._layout, result


@pytest.mark.parametrize("gamma", [0.0, 0.3])
@pytest.mark.parametrize(("attention", "expected"), [("sdpa", "packed"), ("eager", "shared_prefix")])
def test_layout_of_the_trainer(tmp_path, attention, expected, gamma):
    layout, found = run(tmp_path, attention=attention, chosen_other_weight=gamma)
    assert layout == expected
    assert_same(found, run(tmp_path, shared_prefix=False, chosen_other_weight=gamma)[1], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("layout", ["packed", "shared_prefix"])
@pytest.mark.parametrize(
    "options", [{"bf16": True}, {"dtype": torch.bfloat16}, {"dtype": torch.float16}], ids=["autocast", "bf16", "fp16"]
)
def test_half_precision(tmp_path, options, layout, any_cost):
    """PyTorch's kernel for sequences of different lengths, where there is one, and rows with a mask."""
    used, found = run(tmp_path, layout=layout, **options)
    assert used == layout
    assert_close_in_half_precision(found, run(tmp_path, shared_prefix=False, **options)[1])


@pytest.mark.parametrize("window", [None, 8])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_long_chains(tmp_path, dtype, window):
    """Packed rows of chains of several hundred tokens, with and without a window."""
    generator = torch.Generator().manual_seed(0)
    lengths = [(200, 150, 90), (3, 280, 301), (400, 0, 60)]
    examples = []
    for lengths_of_pair in lengths:
        start, chosen, rejected = (torch.randint(5, 400, (n,), generator=generator).tolist() for n in lengths_of_pair)
        examples.append({"prompt_ids": start, "chosen_ids": [*chosen, 2], "rejected_ids": [*rejected, 3]})
    runs = []
    for shared in (True, False):
        options = {} if window is None else {"sliding_window": window}
        model = build_family("llama" if window is None else "mistral", **SIZES, **options).to("cuda", dtype)
        trainer = make_trainer(tmp_path, model, examples, use_cpu=False, shared_prefix=shared)
        runs.append(step(trainer, examples))
        assert trainer._layout == ("packed" if shared else "padded")
    if dtype == torch.float32:
        assert_same(*runs, rtol=1e-3, atol=1e-4)
    else:
        assert_close_in_half_precision(*runs)


@pytest.mark.parametrize("layout", ["packed", "padding_free"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_flash_attention(tmp_path, dtype, layout):
    pytest.importorskip("flash_attn")
    assert run(tmp_path, dtype, "flash_attention_2")[0] == "packed"
    used, found = run(tmp_path, dtype, "flash_attention_2", layout)
    assert used == layout
    assert_close_in_half_precision(found, run(tmp_path, dtype, shared_prefix=False)[1])


@pytest.mark.parametrize("layout", ["padded", "shared_prefix", "packed"])
def test_head_of_triton(tmp_path, layout, monkeypatch, any_cost):
    options = {"layout": layout, "chosen_other_weight": 0.3}
    expected = run(tmp_path, **options)[1]
    monkeypatch.setattr(edit_trainer, "_MAX_LOGITS", 0)
    assert_same(run(tmp_path, **options)[1], expected, rtol=1e-3, atol=1e-4)
