"""
Attention of a row that has the common start of several chains only once.

The row holds whole pairs one after the other, without padding. A pair is the common start of its chains, the rest of
the right chain and the rest of the wrong chain. No mask is needed: the attention of a pair is that of two segments.
The queries of the first segment are the whole right chain, and so are its keys. The queries of the second segment are
the rest of the wrong chain, and its keys are the common start and this rest. In both, a query sees the keys up to its
own: causal, aligned to the lower right.

[`segment_inputs`] gives the inputs of a model for such a row, and [`register_segment_attention`] makes an attention
implementation of transformers take them. The model's code stays as it is. The `attention_mask` of such a row is not a
mask: it says which token of the row each key is. transformers passes any tensor of four dimensions to the layers
unchanged. A model that then attends in another way raises an exception, and does not train on wrong chains: SDPA takes
no mask of integers, and where a start is shared, the size of this one fits no scores.

How the segments are computed:

- FlashAttention 2 and 3, and kernels of the Hub: one call of the kernel for sequences of different lengths.
- SDPA on a CPU: blocks of queries with the keys that they see, so little is computed in vain.
- SDPA on a GPU in half precision: one call of PyTorch's kernel for sequences of different lengths, if it has one.
- SDPA otherwise: one call for each segment.
"""

import functools
import inspect
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from transformers import AttentionInterface
from transformers.integrations.flash_attention import flash_attention_forward


try:
    from torch.nn.attention.varlen import varlen_attn
except ImportError:  # PyTorch before 2.10
    varlen_attn = None  # type: ignore[assignment]

# Queries of a block on a CPU, measured. More are computed in vain with longer blocks, and shorter ones have more
# overhead: each adds the gradients of all its keys, and in half precision the kernel reorders its keys first.
_BLOCK, _HALF_PRECISION_BLOCK = 64, 256
# A chain of more queries is one block, for which the kernel skips most of what is above the diagonal.
_LONG_CHAIN = 2048

# Masks for CPUs are kept for the next call, with a number of keys that is a multiple of this.
_MASK_STEP = 1024

# Since PyTorch 2.9, the attention kernel for CPUs takes fewer heads of keys than of queries.
_CPU_TAKES_GROUPS = torch.__version__ >= "2.9"  # compares versions

# Arguments of attention functions that change the scores or the softmax, and what they are.
_REFUSED = {"softcap": "a soft cap of the scores", "s_aux": "attention sinks", "position_bias": "a position bias"}


def segment_inputs(lengths: Sequence[tuple[int, int, int]]) -> dict[str, Any]:
    """
    Make the model inputs that say how the tokens of a row attend.

    Args:
        lengths (`Sequence[tuple[int, int, int]]`):
            For each pair of the row, the number of tokens of the common start, of the rest of the right chain, and of
            the rest of the wrong chain. A single chain of n tokens, such as padding at the end of the row, is
            `(0, n, 0)`.

    Returns:
        `dict[str, Any]`: Inputs of the model.

        - `"attention_mask"` (`torch.Tensor` of shape `(1, 1, 1, num_keys)`, int64): token of the row that each key is.
          Keys are listed segment by segment, so tokens of a common start are listed twice.
        - `"cu_seq_lens_q"`, `"cu_seq_lens_k"` (`torch.Tensor` of shape `(num_segments + 1,)`, int32): where the
          queries of each segment begin in the row, and where its keys begin in this list. Segments without queries
          are left out.
        - `"max_length_q"`, `"max_length_k"` (`int`): queries and keys of the longest segments.

    Raises:
        ValueError: If a number of tokens is negative.

    Examples:

    ```python
    >>> from edit_trl.shared_attention import segment_inputs

    >>> inputs = segment_inputs([(2, 1, 2)])
    >>> inputs["attention_mask"][0, 0, 0]
    tensor([0, 1, 2, 0, 1, 3, 4])
    >>> inputs["cu_seq_lens_q"], inputs["cu_seq_lens_k"]
    (tensor([0, 3, 5], dtype=torch.int32), tensor([0, 3, 7], dtype=torch.int32))
    >>> inputs["max_length_q"], inputs["max_length_k"]
    (3, 4)

    ```
    """
    if any(number < 0 for pair in lengths for number in pair):
        raise ValueError(
            f"`lengths` must be three numbers of tokens for each pair, from 0, got {lengths}. "
            "Pass the lengths of the common start, the rest of the right chain and the rest of the wrong chain."
        )
    keys, num_queries, num_keys, begin = [torch.arange(0)], [], [], 0
    for shared, chosen, rejected in lengths:
        middle, end = begin + shared + chosen, begin + shared + chosen + rejected
        if middle > begin:
            keys.append(torch.arange(begin, middle))
            num_queries.append(middle - begin)
            num_keys.append(middle - begin)
        if end > middle:
            keys += [torch.arange(begin, begin + shared), torch.arange(middle, end)]
            num_queries.append(rejected)
            num_keys.append(shared + rejected)
        begin = end
    return {
        "attention_mask": torch.cat(keys)[None, None, None],
        "cu_seq_lens_q": torch.tensor([0, *num_queries]).cumsum(0).int(),
        "cu_seq_lens_k": torch.tensor([0, *num_keys]).cumsum(0).int(),
        "max_length_q": max(num_queries, default=0),
        "max_length_k": max(num_keys, default=0),
    }


def takes_segments(implementation: str) -> bool:
    """
    Tell whether [`register_segment_attention`] can extend an attention implementation.

    Args:
        implementation (`str`):
            Name of the implementation, as in `config._attn_implementation`.

    Returns:
        `bool`: Whether it is SDPA, or calls a FlashAttention kernel through transformers.
    """
    attention = AttentionInterface().get(implementation)
    return implementation == "sdpa" or inspect.unwrap(getattr(attention, "func", attention)) is flash_attention_forward


def register_segment_attention(implementation: str) -> None:
    """
    Make an attention implementation of transformers take the rows of [`segment_inputs`] too.

    The function is registered with transformers' `AttentionInterface` under the name that the implementation has. So
    configs, masks of ordinary batches, the loading of kernels and saved models stay as they are. It calls the former
    function for all other inputs. A second call has no effect.

    Args:
        implementation (`str`):
            Name of the implementation, as in `config._attn_implementation`.

    Raises:
        ValueError: If the implementation cannot take such rows, see [`takes_segments`].

    Examples:

    ```python
    >>> import torch
    >>> from transformers import LlamaConfig, LlamaForCausalLM

    >>> from edit_trl.shared_attention import register_segment_attention, segment_inputs

    >>> register_segment_attention("sdpa")
    >>> sizes = {"hidden_size": 8, "intermediate_size": 8, "num_attention_heads": 2, "num_hidden_layers": 2}
    >>> model = LlamaForCausalLM(LlamaConfig(vocab_size=10, **sizes)).eval()
    >>> # Chains 5, 6, 7 and 5, 6, 8, 9.
    >>> row, positions = torch.tensor([[5, 6, 7, 8, 9]]), torch.tensor([[0, 1, 2, 2, 3]])
    >>> shared = model(row, position_ids=positions, use_cache=False, **segment_inputs([(2, 1, 2)]))
    >>> alone = model(torch.tensor([[5, 6, 8, 9]]))
    >>> torch.testing.assert_close(shared.logits[:, [0, 1, 3, 4]], alone.logits)

    ```
    """
    if not takes_segments(implementation):
        raise ValueError(
            "`implementation` must be 'sdpa' or a FlashAttention of transformers, got "
            f"{implementation!r}. Load the model with `attn_implementation='sdpa'`, or use two padded rows per pair."
        )
    attention = AttentionInterface()[implementation]
    if not getattr(attention, "takes_segments", False):
        AttentionInterface.register(implementation, _extend(attention, is_flash=implementation != "sdpa"))


def _extend(attention: Callable, is_flash: bool) -> Callable:
    """Return an attention function that computes rows of segments, and calls `attention` for all other rows."""

    @functools.wraps(attention)
    def forward(
        module: torch.nn.Module,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attention_mask: torch.Tensor | None,
        *args: Any,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        if attention_mask is None or attention_mask.dtype != torch.int64 or attention_mask.ndim != 4:
            return attention(module, query, key, value, attention_mask, *args, **kwargs)
        missing = [name for name in ("cu_seq_lens_q", "cu_seq_lens_k") if kwargs.get(name) is None]
        if missing or query.size(0) != 1 or query.size(2) != key.size(2):
            raise ValueError(
                "A row of segments must come alone, without a cache and with its `cu_seq_lens_q` and `cu_seq_lens_k`, "
                f"got {query.size(0)} rows, {query.size(2)} queries, {key.size(2)} keys and no {missing}. Pass all of "
                "`segment_inputs()` to a model that passes keyword arguments to its attention, or two padded rows."
            )
        key_index = attention_mask[0, 0, 0].to(key.device)
        if len(key_index) != key.size(2):  # otherwise no start is shared, and the keys are those of the row
            key, value = key.index_select(2, key_index), value.index_select(2, key_index)
        if is_flash:
            return attention(module, query, key, value, None, *args, **kwargs)
        return _sdpa(module, query, key, value, *args, **kwargs), None

    forward.takes_segments = True  # type: ignore[attr-defined]
    return forward


def _sdpa(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    dropout: float = 0.0,
    scaling: float | None = None,
    is_causal: bool | None = None,
    sliding_window: int | None = None,
    *,
    cu_seq_lens_q: torch.Tensor,
    cu_seq_lens_k: torch.Tensor,
    max_length_q: int | None = None,
    max_length_k: int | None = None,
    **kwargs: Any,
) -> torch.Tensor:
    """Attend in segments, with the arguments of transformers' SDPA function. Returns (1, length, heads, size)."""
    refused = [f"`{name}`, {what}" for name, what in _REFUSED.items() if kwargs.get(name) is not None]
    if is_causal is False or getattr(module, "is_causal", True) is False:
        refused.append("attention that is not causal")
    if refused:
        raise ValueError(
            f"SDPA in segments computes a plain causal softmax, but {type(module).__name__} passes "
            f"{' and '.join(refused)}. Load the model with `attn_implementation='flash_attention_2'`, whose kernel "
            "may support it, or use two padded rows per pair."
        )
    device = query.device.type
    if torch.is_autocast_enabled(device):  # as autocast does for SDPA; it does not know the functions below
        query, key, value = (states.to(torch.get_autocast_dtype(device)) for states in (query, key, value))
    scale = query.size(-1) ** -0.5 if scaling is None else scaling
    is_plain = not dropout and query.size(-1) == value.size(-1)
    kernel = _varlen_kernel(query) if is_plain else None
    if kernel is not None:
        output = kernel(
            *(states[0].transpose(0, 1) for states in (query, key, value)),
            cu_seq_lens_q,
            cu_seq_lens_k,
            query.size(2) if max_length_q is None else max_length_q,
            key.size(2) if max_length_k is None else max_length_k,
            scale=scale,
            window_size=(-1 if sliding_window is None else sliding_window - 1, 0),
            enable_gqa=query.size(1) != key.size(1),
        )
        return output[None]
    if is_plain and device == "cpu":
        if not _CPU_TAKES_GROUPS:
            key, value = _repeat_heads(query, key), _repeat_heads(query, value)
        return _cpu_attention(query, key, value, cu_seq_lens_q, cu_seq_lens_k, scale, sliding_window)[0]
    return _attend_with_sdpa(query, key, value, cu_seq_lens_q, cu_seq_lens_k, scale, sliding_window, dropout)


def _repeat_heads(query: torch.Tensor, states: torch.Tensor) -> torch.Tensor:
    """Repeat the heads of keys or values for each query head."""
    return states.repeat_interleave(query.size(1) // states.size(1), dim=1)


def _varlen_kernel(query: torch.Tensor) -> Callable | None:
    """Return PyTorch's kernel for sequences of different lengths, if there is one for these queries."""
    if not query.is_cuda or query.dtype == torch.float32 or varlen_attn is None:
        return None
    return varlen_attn if "window_size" in inspect.signature(varlen_attn).parameters else None


def _blocks(
    cu_seq_lens_q: torch.Tensor, cu_seq_lens_k: torch.Tensor, size: int, window: int | None, long_chain: int
) -> Iterator[tuple[slice, slice]]:
    """
    Yield the queries of each block of at most `size`, and the keys from the first to the last that they see.

    Without a window, a segment with as many queries as keys is one block if it has more than `long_chain`.
    """
    ends = zip(cu_seq_lens_q.tolist(), cu_seq_lens_k.tolist(), strict=True)
    first_query, _ = next(ends)
    first_key = 0
    for end, end_key in ends:
        num_queries = end - first_query
        is_chain = window is None and num_queries == end_key - first_key
        step = num_queries if is_chain and num_queries > long_chain else size
        for begin in range(first_query, end, step):
            stop = min(begin + step, end)
            stop_key = end_key - (end - stop)
            begin_key = first_key if window is None else max(first_key, stop_key - (stop - begin) - window + 1)
            yield slice(begin, stop), slice(begin_key, stop_key)
        first_query, first_key = end, end_key


def _lower_right_mask(queries: int, keys: int, window: int | None, device: torch.device | str = "cpu") -> torch.Tensor:
    """
    Return the causal mask of the last queries of a chain, `True` for keys that a query sees.

    The lower right corner of the mask is the mask of fewer queries and keys.
    """
    mask = torch.ones(queries, keys, dtype=torch.bool, device=device).tril(keys - queries)
    return mask if window is None else mask.triu(keys - queries - window + 1)


@torch.compiler.disable  # otherwise, it is compiled again for all lengths
def _attend_with_sdpa(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    cu_seq_lens_q: torch.Tensor,
    cu_seq_lens_k: torch.Tensor,
    scale: float,
    window: int | None,
    dropout: float,
) -> torch.Tensor:
    """Attend with PyTorch's SDPA, on any device and with dropout."""
    # With a mask, only some kernels take fewer heads of keys.
    key, value = _repeat_heads(query, key), _repeat_heads(query, value)
    size = _BLOCK if query.device.type == "cpu" else query.size(2)
    parts = []
    for queries, keys in _blocks(cu_seq_lens_q, cu_seq_lens_k, size, window, _LONG_CHAIN):
        num_queries, num_keys = queries.stop - queries.start, keys.stop - keys.start
        is_square = num_queries == num_keys and window is None
        mask = None if is_square else _lower_right_mask(num_queries, num_keys, window, query.device)
        part = F.scaled_dot_product_attention(
            query[:, :, queries],
            key[:, :, keys],
            value[:, :, keys],
            attn_mask=mask,
            dropout_p=dropout,
            is_causal=is_square,
            scale=scale,
        )
        parts.append(part.transpose(1, 2))
    return torch.cat(parts, dim=1)


# The kernels for CPUs that SDPA calls. They return the log-sum-exp, so a custom operator can have a backward pass.
# As an operator it is one node in a compiled graph, for all lengths.


@torch.library.custom_op("edit_trl::segment_attention", mutates_args=())
def _cpu_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    cu_seq_lens_q: torch.Tensor,
    cu_seq_lens_k: torch.Tensor,
    scale: float,
    window: int | None,
) -> tuple[torch.Tensor, torch.Tensor]:
    output, log_sums = _empty_outputs(query, key, value, cu_seq_lens_q, cu_seq_lens_k, scale, window)
    for queries, keys, mask in _masked_blocks(query, cu_seq_lens_q, cu_seq_lens_k, window):
        part, log_sum = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
            query[:, :, queries],
            key[:, :, keys],
            value[:, :, keys],
            is_causal=mask is None,
            attn_mask=mask,
            scale=scale,
        )
        output[:, queries] = part.transpose(1, 2)
        log_sums[:, :, queries] = log_sum
    return output, log_sums


@_cpu_attention.register_fake
def _empty_outputs(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *args: Any
) -> tuple[torch.Tensor, torch.Tensor]:
    num_rows, num_heads, length, size = query.shape
    return query.new_empty(num_rows, length, num_heads, size), query.new_empty(
        num_rows, num_heads, length, dtype=torch.float64 if query.dtype == torch.float64 else torch.float32
    )


@torch.library.custom_op("edit_trl::segment_attention_backward", mutates_args=())
def _cpu_attention_backward(
    gradient: torch.Tensor,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    output: torch.Tensor,
    log_sums: torch.Tensor,
    cu_seq_lens_q: torch.Tensor,
    cu_seq_lens_k: torch.Tensor,
    scale: float,
    window: int | None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    gradient, output = gradient.transpose(1, 2), output.transpose(1, 2)
    # A key is in many blocks. Their gradients are added up in fp32 at least.
    dtype = torch.promote_types(key.dtype, torch.float32)
    key_grad, value_grad = torch.zeros_like(key, dtype=dtype), torch.zeros_like(value, dtype=dtype)
    query_grad = torch.empty_like(query)
    for queries, keys, mask in _masked_blocks(query, cu_seq_lens_q, cu_seq_lens_k, window):
        parts = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward(
            gradient[:, :, queries],
            query[:, :, queries],
            key[:, :, keys],
            value[:, :, keys],
            output[:, :, queries],
            log_sums[:, :, queries],
            0.0,
            mask is None,
            attn_mask=mask,
            scale=scale,
        )
        query_grad[:, :, queries] = parts[0]
        key_grad[:, :, keys].add_(parts[1])
        value_grad[:, :, keys].add_(parts[2])
    return query_grad, key_grad.to(key.dtype), value_grad.to(value.dtype)


@_cpu_attention_backward.register_fake
def _empty_gradients(
    gradient: torch.Tensor, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *args: Any
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    return torch.empty_like(query), torch.empty_like(key), torch.empty_like(value)


def _save_for_backward(ctx: Any, inputs: tuple, output: tuple[torch.Tensor, torch.Tensor]) -> None:
    query, key, value, cu_seq_lens_q, cu_seq_lens_k, ctx.scale, ctx.window = inputs
    ctx.save_for_backward(query, key, value, *output, cu_seq_lens_q, cu_seq_lens_k)


def _backward(ctx: Any, gradient: torch.Tensor, _: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
    gradients = _cpu_attention_backward(gradient, *ctx.saved_tensors, ctx.scale, ctx.window)
    return *gradients, None, None, None, None


_cpu_attention.register_autograd(_backward, setup_context=_save_for_backward)


def _masked_blocks(
    query: torch.Tensor, cu_seq_lens_q: torch.Tensor, cu_seq_lens_k: torch.Tensor, window: int | None
) -> Iterator[tuple[slice, slice, torch.Tensor | None]]:
    """
    Yield the blocks with the mask that is added to their scores, a corner of one mask for all blocks.

    The mask is `None` for blocks with as many queries as keys and no window, which the kernel computes as causal.
    """
    is_half = query.dtype in (torch.float16, torch.bfloat16)
    size, long_chain = (_HALF_PRECISION_BLOCK, 0) if is_half else (_BLOCK, _LONG_CHAIN)
    blocks = list(_blocks(cu_seq_lens_q, cu_seq_lens_k, size, window, long_chain))
    longest = max(keys.stop - keys.start for _, keys in blocks)
    mask = _added_mask(size, -(-longest // _MASK_STEP) * _MASK_STEP, window, query.dtype)
    for queries, keys in blocks:
        num_queries, num_keys = queries.stop - queries.start, keys.stop - keys.start
        is_causal = window is None and num_queries == num_keys
        yield queries, keys, None if is_causal else mask[-num_queries:, -num_keys:]


@functools.lru_cache(maxsize=8)  # every layer has the same, forward and backward
def _added_mask(queries: int, keys: int, window: int | None, dtype: torch.dtype) -> torch.Tensor:
    """Return a mask that is added to the scores: 0 for keys that a query sees, minus infinity for the others."""
    seen = _lower_right_mask(queries, keys, window)
    return torch.zeros(seen.shape, dtype=dtype).masked_fill(~seen, float("-inf"))
