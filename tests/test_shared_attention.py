"""
Tests of the attention of rows of segments against a slow implementation of its definition: a token sees the tokens
before it in its own chain.
"""

import copy
import functools
import json
from itertools import pairwise

import pytest
import torch
import transformers.modeling_flash_attention_utils as flash_utils
from conftest import build_model
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from test_model_families import FAMILIES, build_family
from torch._dynamo.utils import counters
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from edit_trl import shared_attention
from edit_trl.shared_attention import register_segment_attention, segment_inputs, takes_segments


# One pair, several pairs, pairs without a common start or one of the rests, pairs longer than a block of queries.
LENGTHS = [
    [(3, 2, 4)],
    [(0, 3, 2), (4, 0, 3), (2, 5, 0), (0, 0, 1), (0, 0, 0), (1, 1, 1)],
    [(0, 7, 0)],
    [(90, 150, 260), (200, 0, 65)],
    [(300, 1, 1), (0, 64, 128)],
]
lengths_of_pairs = st.lists(st.tuples(*[st.integers(0, 6)] * 3), min_size=1, max_size=4)
windows = st.one_of(st.none(), st.integers(1, 8))


def chains(lengths) -> list[list[int]]:
    """For each chain of a row, the tokens of the row that it consists of."""
    found, begin = [], 0
    for shared, chosen, rejected in lengths:
        row = list(range(begin, begin + shared + chosen + rejected))
        found += [row[: shared + chosen], row[:shared] + row[shared + chosen :]]
        begin += len(row)
    return found


def position_ids(lengths) -> list[int]:
    places = {token: place for chain in chains(lengths) for place, token in enumerate(chain)}
    return [places[token] for token in sorted(places)]


def dense_mask(lengths, window=None) -> torch.Tensor:
    """Which token of a row (second dimension) each token (first dimension) sees."""
    length = sum(map(sum, lengths))
    mask = torch.zeros(length, length, dtype=torch.bool)
    for chain in chains(lengths):
        for place, token in enumerate(chain):
            first = 0 if window is None else max(0, place - window + 1)
            mask[token, chain[first : place + 1]] = True
    return mask


def slow_attention(query, key, value, mask, scale, softcap=None):
    """Softmax over the seen keys, in fp64. Returns (rows, length, heads, size), as attention functions do."""
    groups = query.size(1) // key.size(1)
    key, value = key.double().repeat_interleave(groups, 1), value.double().repeat_interleave(groups, 1)
    scores = scale * query.double() @ key.transpose(2, 3)
    if softcap:
        scores = softcap * torch.tanh(scores / softcap)
    weights = scores.masked_fill(~mask, -torch.inf).softmax(dim=-1)
    return (weights @ value).transpose(1, 2)


def reference_varlen(q, k, v, cu_q, cu_k, max_q, max_k, scale, window=(-1, -1), softcap=None):
    """The documented result of FlashAttention's kernel for sequences of different lengths, slowly."""
    assert cu_q.dtype == cu_k.dtype == torch.int32 and isinstance(max_q, int) and isinstance(max_k, int)
    assert q.size(0) == cu_q[-1] and k.size(0) == v.size(0) == cu_k[-1]
    assert (max_q, max_k) == (cu_q.diff().max(), cu_k.diff().max())
    assert cu_q.diff().min() > 0  # a sequence without queries would be a waste
    outputs = []
    for i in range(len(cu_q) - 1):
        query, keys = q[cu_q[i] : cu_q[i + 1]], slice(cu_k[i], cu_k[i + 1])
        # "If causal=True, the causal mask is aligned to the bottom right corner of the attention matrix."
        distance = (torch.arange(len(query)) + (keys.stop - keys.start) - len(query))[:, None] - torch.arange(
            keys.stop - keys.start
        )
        mask = (distance >= 0) & ((distance <= window[0]) | (window[0] < 0))
        states = (states.transpose(0, 1)[None] for states in (query, k[keys], v[keys]))
        outputs.append(slow_attention(*states, mask, scale, softcap)[0].to(q.dtype))
    return torch.cat(outputs)


def flash_2(
    q,
    k,
    v,
    cu_seqlens_q,
    cu_seqlens_k,
    max_seqlen_q,
    max_seqlen_k,
    dropout_p=0.0,
    softmax_scale=None,
    causal=False,
    window_size=(-1, -1),
    softcap=0.0,
    alibi_slopes=None,
    deterministic=False,
    return_attn_probs=False,
    block_table=None,
):
    """The signature of `flash_attn.flash_attn_varlen_func`."""
    assert causal and dropout_p == 0.0
    scale = q.size(-1) ** -0.5 if softmax_scale is None else softmax_scale
    return reference_varlen(
        q, k, v, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k, scale, window_size, softcap
    )


def flash_3(
    q,
    k,
    v,
    cu_seqlens_q,
    cu_seqlens_k,
    max_seqlen_q,
    max_seqlen_k,
    seqused_q=None,
    seqused_k=None,
    softmax_scale=None,
    causal=False,
    qv=None,
    window_size=(-1, -1),
    softcap=0.0,
    num_splits=1,
    deterministic=False,
):
    """The signature of `flash_attn_interface.flash_attn_varlen_func`, which also returns the log-sum-exp."""
    output = flash_2(
        q,
        k,
        v,
        cu_seqlens_q,
        cu_seqlens_k,
        max_seqlen_q,
        max_seqlen_k,
        softmax_scale=softmax_scale,
        causal=causal,
        window_size=window_size,
        softcap=softcap,
    )
    return output, None


def torch_varlen(q, k, v, cu_q, cu_k, max_q, max_k, *, scale=None, window_size=(-1, -1), enable_gqa=False):
    """The signature of `torch.nn.attention.varlen.varlen_attn`."""
    assert window_size[1] == 0 and enable_gqa == (q.size(1) != k.size(1))
    return reference_varlen(q, k, v, cu_q, cu_k, max_q, max_k, scale, window_size)


@pytest.fixture(autouse=True)
def interface(monkeypatch):
    """Every test begins with transformers' own functions."""
    monkeypatch.setattr(AttentionInterface, "_global_mapping", dict(AttentionInterface._global_mapping))
    register_segment_attention("sdpa")


@pytest.fixture
def use_kernel(monkeypatch):
    """Make transformers load a kernel of ours for FlashAttention."""

    def use_kernel(kernel, name="flash_attention_2"):
        monkeypatch.setattr(flash_utils, "_lazy_imports", lambda *args, **kwargs: (None, kernel, None, None, None))
        loaded = ("_loaded_implementation", "_flash_fn", "_flash_varlen_fn", "_flash_with_kvcache_fn", "_pad_fn")
        for attribute in (*loaded, "_unpad_fn", "_process_flash_kwargs_fn", "_process_with_kvcache_kwargs_fn"):
            monkeypatch.setattr(flash_utils, attribute, None)
        register_segment_attention(name)

    return use_kernel


def states(lengths, num_heads=4, num_key_heads=2, size=8, value_size=None, seed=0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    length = sum(map(sum, lengths))
    shapes = [(num_heads, size), (num_key_heads, size), (num_key_heads, value_size or size)]
    # As a model makes them: (1, length, heads, size), transposed.
    return [
        torch.randn(1, length, *shape, generator=generator, dtype=dtype).transpose(1, 2).requires_grad_()
        for shape in shapes
    ]


@functools.cache
def attention_module():
    return build_model().model.layers[0].self_attn


def attend(query, key, value, lengths, name="sdpa", **options):
    module = attention_module()
    module.config._attn_implementation = name
    options = {"scaling": 0.3, **segment_inputs(lengths), **options}
    output, _ = ALL_ATTENTION_FUNCTIONS[name](module, query, key, value, **options)
    return output


def check(lengths, window=None, options=None, tolerance=1e-5, **shape):
    """Outputs and gradients are those of the dense mask."""
    inputs = states(lengths, **shape)
    found = attend(*inputs, lengths, sliding_window=window, **(options or {}))
    expected = slow_attention(*inputs, dense_mask(lengths, window), 0.3).to(found.dtype)
    assert found.is_contiguous()
    torch.testing.assert_close(found, expected, rtol=0, atol=tolerance)
    direction = torch.randn(found.shape, generator=torch.Generator().manual_seed(1), dtype=found.dtype)
    for gradient, slow in zip(
        torch.autograd.grad(found, inputs, direction), torch.autograd.grad(expected, inputs, direction), strict=True
    ):
        torch.testing.assert_close(gradient, slow, rtol=0, atol=10 * tolerance if tolerance > 1e-5 else tolerance)


class TestSegmentInputs:
    @settings(max_examples=200, deadline=None)
    @example([(2, 1, 2)], None)
    @given(lengths_of_pairs, windows)
    def test_lower_right_aligned_segments_are_the_dense_mask(self, lengths, window):
        assume(any(map(any, lengths)))
        inputs = segment_inputs(lengths)
        found = torch.zeros_like(dense_mask(lengths))
        keys = inputs["attention_mask"].flatten().tolist()
        cu_q, cu_k = inputs["cu_seq_lens_q"].tolist(), inputs["cu_seq_lens_k"].tolist()
        for (begin, end), (first, last) in zip(pairwise(cu_q), pairwise(cu_k), strict=True):
            assert begin < end
            for query in range(begin, end):
                stop = last - (end - 1 - query)
                found[query, keys[first if window is None else max(first, stop - window) : stop]] = True
        assert torch.equal(found, dense_mask(lengths, window))
        assert inputs["max_length_q"] == max(b - a for a, b in pairwise(cu_q))
        assert inputs["max_length_k"] == max(b - a for a, b in pairwise(cu_k))

    def test_refuses_negative_numbers(self):
        with pytest.raises(ValueError, match="`lengths` must be three numbers of tokens .* Pass the lengths"):
            segment_inputs([(1, -1, 2)])

    @pytest.mark.parametrize("lengths", [[], [(0, 0, 0)]])
    def test_row_without_tokens_has_no_segments(self, lengths):
        inputs = segment_inputs(lengths)
        assert inputs["attention_mask"].shape == (1, 1, 1, 0) and inputs["attention_mask"].dtype == torch.int64
        assert inputs["cu_seq_lens_q"].tolist() == inputs["cu_seq_lens_k"].tolist() == [0]
        assert inputs["max_length_q"] == inputs["max_length_k"] == 0


class TestSDPA:
    @settings(max_examples=150, deadline=None)
    @given(lengths_of_pairs, windows, st.sampled_from([(1, 1), (4, 4), (4, 2), (6, 2), (3, 1)]), st.integers(0, 99))
    def test_is_that_of_the_dense_mask(self, lengths, window, heads, seed):
        assume(any(map(any, lengths)))
        check(lengths, window, num_heads=heads[0], num_key_heads=heads[1], seed=seed)

    @pytest.mark.parametrize("window", [None, 1, 30, 63, 64, 65, 300])
    @pytest.mark.parametrize("lengths", LENGTHS)
    def test_rows_of_several_blocks(self, lengths, window):
        check(lengths, window)

    @pytest.mark.parametrize(("window", "expected"), [(None, 2049), (5000, 64)])
    def test_a_long_chain_is_one_block(self, window, expected, monkeypatch):
        longest = []
        blocks_of = shared_attention._blocks

        def spy(*args, **kwargs):
            for queries, keys in blocks_of(*args, **kwargs):
                longest.append(queries.stop - queries.start)
                yield queries, keys

        monkeypatch.setattr(shared_attention, "_blocks", spy)
        check([(1900, 148, 60)], window)
        assert max(longest) == 64
        check([(1900, 149, 60), (3, 20, 30)], window)
        assert max(longest) == expected

    @pytest.mark.parametrize("window", [None, 30])
    @pytest.mark.parametrize("lengths", LENGTHS)
    def test_rows_of_long_and_short_chains(self, lengths, window, monkeypatch):
        monkeypatch.setattr(shared_attention, "_LONG_CHAIN", 100)
        check(lengths, window)
        check(lengths, window, value_size=12)

    @pytest.mark.parametrize("window", [None, 5, 200])
    @pytest.mark.parametrize("lengths", LENGTHS)
    def test_values_of_another_size(self, lengths, window):
        """The kernel for CPUs does not take them, so PyTorch's function is called."""
        check(lengths, window, value_size=12)

    @pytest.mark.parametrize("window", [None, 5, 200])
    @pytest.mark.parametrize("lengths", LENGTHS)
    def test_kernel_of_torch_for_different_lengths(self, lengths, window, monkeypatch):
        monkeypatch.setattr(shared_attention, "_varlen_kernel", lambda query: torch_varlen)
        check(lengths, window)

    def test_kernel_of_torch_has_this_signature(self):
        varlen_attn = pytest.importorskip("torch.nn.attention.varlen").varlen_attn
        query = torch.empty(1, 1, 1, 1, dtype=torch.bfloat16)
        assert shared_attention._varlen_kernel(query) is None  # not on a CPU
        shapes = [torch.empty(5, heads, 8, device="meta", dtype=torch.bfloat16) for heads in (4, 2, 2)]
        borders = torch.empty(3, device="meta", dtype=torch.int32)
        output = varlen_attn(*shapes, borders, borders, 3, 3, scale=1.0, window_size=(4, 0), enable_gqa=True)
        assert output.shape == (5, 4, 8)

    def test_old_torch_gets_as_many_heads_of_keys(self, monkeypatch):
        monkeypatch.setattr(shared_attention, "_CPU_TAKES_GROUPS", False)
        num_heads = []
        attention = shared_attention._cpu_attention
        monkeypatch.setattr(
            shared_attention, "_cpu_attention", lambda *args: num_heads.append(args[1].size(1)) or attention(*args)
        )
        check([(3, 2, 4), (0, 2, 1)])
        assert num_heads == [4]

    @pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.bfloat16, 3e-2)])
    @pytest.mark.parametrize("window", [None, 100])
    def test_other_types(self, dtype, tolerance, window):
        check([(3, 2, 4), (90, 250, 300), (0, 0, 270)], window, tolerance=tolerance, dtype=dtype)

    def test_default_scale(self):
        lengths = [(3, 2, 4)]
        inputs = states(lengths)
        found = attend(*inputs, lengths, scaling=None)
        expected = slow_attention(*inputs, dense_mask(lengths), 8**-0.5).float()
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)

    def test_autocast_casts_as_it_does_for_sdpa(self):
        lengths = [(3, 2, 4), (90, 150, 260)]
        inputs = states(lengths)
        with torch.autocast("cpu", torch.bfloat16):
            found = attend(*inputs, lengths)
            again = attend(*(state.bfloat16() for state in inputs), lengths)
        assert found.dtype == torch.bfloat16
        assert torch.equal(found, again)
        found.float().sum().backward()
        assert inputs[0].grad.dtype == torch.float32

    def test_dropout(self):
        """A weight is either dropped or scaled up, and keys that are not seen stay unseen."""
        lengths, rate, times = [(3, 2, 4)], 0.25, 300
        query, key, _ = states(lengths, 2, 2)
        value = torch.eye(9).expand(1, 2, 9, 9)  # so that the outputs are the weights
        weights = attend(query, key, value, lengths).detach()
        share, count = 0, 0
        torch.manual_seed(0)
        for _ in range(times):
            dropped = attend(query, key, value, lengths, dropout=rate).detach()
            is_kept = dropped != 0
            torch.testing.assert_close(dropped[is_kept], weights[is_kept] / (1 - rate), rtol=1e-5, atol=1e-6)
            share, count = share + (is_kept & (weights > 0)).sum(), count + (weights > 0).sum()
        assert torch.equal(weights[0, :, 0] > 0, dense_mask(lengths))
        assert abs(share / count - (1 - rate)) < 5 * (rate * (1 - rate) / count) ** 0.5

    @pytest.mark.parametrize(
        ("option", "name"),
        [
            ({"softcap": 50.0}, "`softcap`, a soft cap of the scores"),
            ({"s_aux": torch.zeros(4)}, "`s_aux`, attention sinks"),
            ({"position_bias": torch.zeros(1)}, "`position_bias`"),
            ({"is_causal": False}, "attention that is not causal"),
        ],
    )
    def test_refuses_what_it_does_not_compute(self, option, name):
        with pytest.raises(ValueError, match=f"LlamaAttention passes {name}.* Load the model with"):
            attend(*states([(3, 2, 4)]), [(3, 2, 4)], **option)

    def test_refuses_a_model_that_passes_on_only_the_mask(self):
        with pytest.raises(ValueError, match=r"must come alone.*no \['cu_seq_lens_q', 'cu_seq_lens_k'\].* Pass all"):
            attend(*states([(3, 2, 4)]), [(3, 2, 4)], cu_seq_lens_q=None, cu_seq_lens_k=None)

    def test_refuses_several_rows(self):
        inputs = [state.expand(2, -1, -1, -1) for state in states([(3, 2, 4)])]
        with pytest.raises(ValueError, match="must come alone.*got 2 rows"):
            attend(*inputs, [(3, 2, 4)])


class TestFlashAttention:
    @pytest.mark.parametrize("kernel", [flash_2, flash_3])
    @settings(max_examples=40, deadline=None)
    @given(lengths=lengths_of_pairs, window=windows, heads=st.sampled_from([(1, 1), (4, 2), (3, 1)]))
    def test_is_that_of_the_dense_mask(self, kernel, lengths, window, heads):
        assume(any(map(any, lengths)))
        with pytest.MonkeyPatch.context() as monkeypatch:
            TestFlashAttention.load(kernel, monkeypatch)
            check(lengths, window, {"name": "flash_attention_2"}, num_heads=heads[0], num_key_heads=heads[1])

    @staticmethod
    def load(kernel, monkeypatch):
        monkeypatch.setattr(flash_utils, "_lazy_imports", lambda *args, **kwargs: (None, kernel, None, None, None))
        monkeypatch.setattr(flash_utils, "_loaded_implementation", None)
        register_segment_attention("flash_attention_2")

    def test_soft_cap(self, use_kernel):
        use_kernel(flash_2)
        lengths = [(3, 2, 4), (0, 2, 2)]
        inputs = states(lengths)
        found = attend(*inputs, lengths, "flash_attention_2", softcap=0.5)
        expected = slow_attention(*inputs, dense_mask(lengths), 0.3, softcap=0.5).float()
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
        assert not torch.allclose(found, attend(*inputs, lengths, "flash_attention_2"), atol=1e-3)

    def test_kernel_of_the_hub(self, use_kernel):
        """transformers registers it under the name of its repository."""
        name = "kernels-community/flash-attn3"
        AttentionInterface.register(name, ALL_ATTENTION_FUNCTIONS["flash_attention_3"])
        use_kernel(flash_3, name)
        check([(3, 2, 4), (0, 2, 2)], options={"name": name})

    @pytest.mark.parametrize("family", ["llama", "mistral", "gemma2"])
    def test_model_gives_what_chains_alone_give(self, family, use_kernel):
        options = {"sliding_window": 4} if family != "llama" else {}
        check_model(family, use_kernel=use_kernel, attn_logit_softcapping=1.0, **options)


def check_model(family, use_kernel=None, tolerance=1e-5, autocast=None, prepare=lambda model: None, **options):
    """Logits and gradients of a row of pairs are those of each chain in a row of its own."""
    lengths = [(6, 5, 7), (0, 4, 3), (9, 3, 0)]
    model = build_family(family, attn_implementation="eager", **options).eval()
    shared = copy.deepcopy(model)
    if use_kernel is None:
        shared.set_attn_implementation("sdpa")
    else:
        use_kernel(flash_2)
        shared.config._attn_implementation = "flash_attention_2"
    prepare(shared)
    row = torch.randint(4, 400, (sum(map(sum, lengths)),), generator=torch.Generator().manual_seed(0))
    context = torch.autocast("cpu", torch.bfloat16, enabled=bool(autocast))
    with context:
        inputs = {"position_ids": torch.tensor([position_ids(lengths)]), **segment_inputs(lengths)}
        found = shared(row[None], use_cache=False, **inputs).logits[0]
        loss = alone_loss = 0.0
        for number, chain in enumerate(chains(lengths)):
            logits = model(row[chain][None], use_cache=False).logits[0]
            torch.testing.assert_close(found[chain], logits, rtol=0, atol=tolerance * logits.abs().max().item())
            weights = torch.randn(logits.shape, generator=torch.Generator().manual_seed(number))
            loss = loss + (found[chain] * weights).sum()
            alone_loss = alone_loss + (logits * weights).sum()
    loss.backward()
    alone_loss.backward()
    for (name, parameter), other in zip(model.named_parameters(), shared.parameters(), strict=True):
        scale = max(parameter.grad.abs().max().item(), 1.0)
        assert (parameter.grad - other.grad).abs().max().item() <= tolerance * scale, name


class TestModels:
    @pytest.mark.parametrize(
        "family", sorted(set(FAMILIES) - {"bloom", "gemma2", "gpt_neo", "lfm2", "mamba", "falcon_h1"})
    )
    def test_row_gives_what_chains_alone_give(self, family):
        check_model(family)

    @pytest.mark.parametrize("family", ["mistral", "gemma3_text", "qwen2", "phi3"])
    def test_sliding_window_counts_positions_in_the_chain(self, family):
        options = {"layer_types": ["sliding_attention", "full_attention"], "use_sliding_window": True}
        check_model(family, sliding_window=4, **(options if family in ("gemma3_text", "qwen2") else {}))

    @pytest.mark.parametrize("use_reentrant", [True, False])
    def test_gradient_checkpointing(self, use_reentrant):
        def prepare(model):
            model.train().gradient_checkpointing_enable({"use_reentrant": use_reentrant})
            model.enable_input_require_grads()

        check_model("llama", prepare=prepare)

    def test_autocast(self):
        check_model("llama", tolerance=0.1, autocast=True)  # bf16 rounds in another order; wrong keys give 1

    @pytest.mark.parametrize(
        ("family", "message"),
        [
            ("stablelm", "must come alone.*Pass all of `segment_inputs"),  # passes on nothing but the mask
            ("falcon", "Expected attn_mask dtype to be bool or float"),  # calls PyTorch's SDPA itself
            ("gpt_neo", "size of tensor"),  # adds the mask itself
            ("gemma2", "size of tensor|a soft cap of the scores"),  # eager; SDPA with older releases
        ],
    )
    def test_model_that_attends_in_another_way_raises(self, family, message, monkeypatch):
        """None of them computes anything with keys of other chains."""
        monkeypatch.setitem(FAMILIES, family, FAMILIES.get(family, {}))
        model = build_family(family)
        lengths = [(6, 5, 7)]
        inputs = {"position_ids": torch.tensor([position_ids(lengths)]), **segment_inputs(lengths)}
        with pytest.raises((ValueError, RuntimeError), match=message):
            model(torch.arange(18)[None] + 10, use_cache=False, **inputs)

    @pytest.mark.slow
    @pytest.mark.parametrize("is_checkpointed", [False, True])
    def test_compiled_model_is_compiled_a_few_times(self, is_checkpointed):
        torch._dynamo.reset()
        counters.clear()
        model = build_model(num_hidden_layers=1).train()
        if is_checkpointed:
            model.gradient_checkpointing_enable()
        compiled = torch.compile(model, backend="aot_eager")
        generator = torch.Generator().manual_seed(0)
        for step in range(50):
            lengths = torch.randint(0, 40, (2, 3), generator=generator).tolist()
            row = torch.randint(4, 400, (1, sum(map(sum, lengths))), generator=generator)
            inputs = {"position_ids": torch.tensor([position_ids(lengths)]), **segment_inputs(lengths)}
            gradients = []
            for runner in (compiled, model) if step % 10 == 0 else (compiled,):
                model.zero_grad()
                runner(row, use_cache=False, **inputs).logits.square().mean().backward()
                gradients.append([parameter.grad.clone() for parameter in model.parameters()])
            for compiled_gradient, gradient in zip(gradients[0], gradients[-1], strict=True):
                torch.testing.assert_close(compiled_gradient, gradient, rtol=1e-5, atol=1e-6)
        assert 0 < counters["stats"]["unique_graphs"] <= 4
        assert not counters["graph_break"]


class TestRegister:
    def test_other_inputs_go_to_the_former_function(self, monkeypatch):
        calls = []

        def former(module, query, key, value, attention_mask, scaling=None, **kwargs):
            calls.append((attention_mask, scaling))
            return "output", None

        AttentionInterface.register("sdpa", former)
        register_segment_attention("sdpa")
        masks = [None, torch.ones(1, 1, 5, 5, dtype=torch.bool), torch.zeros(1, 1, 5, 5), torch.ones(1, 5).long()]
        for mask in masks:
            assert ALL_ATTENTION_FUNCTIONS["sdpa"](None, 1, 2, 3, mask, scaling=0.5) == ("output", None)
        assert all(mask is seen for mask, (seen, _) in zip(masks, calls, strict=True))
        assert {scaling for _, scaling in calls} == {0.5}

    def test_twice_is_once(self):
        function = ALL_ATTENTION_FUNCTIONS["sdpa"]
        register_segment_attention("sdpa")
        assert ALL_ATTENTION_FUNCTIONS["sdpa"] is function

    def test_generates_and_saves_as_before(self, tmp_path):
        row = torch.tensor([[5, 6, 7, 8]])
        options = {"max_new_tokens": 8, "do_sample": False, "eos_token_id": None}
        found = build_model().generate(row, **options)
        build_model().save_pretrained(tmp_path)
        config = json.loads((tmp_path / "config.json").read_text())
        AttentionInterface.register("sdpa", sdpa_attention_forward)
        assert torch.equal(found, build_model().generate(row, **options))
        assert not [name for name in config if "attn" in name]

    @pytest.mark.parametrize("name", ["sdpa", "flash_attention_2", "flash_attention_3"])
    def test_takes(self, name):
        assert takes_segments(name)
        register_segment_attention(name)
        assert takes_segments(name)

    @pytest.mark.parametrize("name", ["eager", "flex_attention", "unknown"])
    def test_refuses_other_implementations(self, name):
        assert not takes_segments(name)
        with pytest.raises(ValueError, match=f"must be 'sdpa' or a FlashAttention.*got '{name}'. Load the model"):
            register_segment_attention(name)
