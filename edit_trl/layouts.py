"""
Layouts of a batch that compute the common start of the two chains of a pair only once.

A shared row holds one pair: the common start of both chains, then the rest of the right chain, then the rest of the
wrong chain. These two rests are the branches. Positions restart at the beginning of each branch, and an attention mask
lets a token see only its own branch and the common start. So every token gets the same hidden state as in a row of its
own chain. FlashAttention takes no such mask. With it, all chains are in one row without padding, as in TRL's
padding-free batches.

The last token of the common start predicts the first token of both branches, so one label per position is not enough.
A batch therefore lists the tokens that it scores and the position that predicts each of them.

A wrong mask would train a wrong model without any error. So [`choose_layout`] refuses, with a reason, every model that
is known to combine tokens in other ways than attention with a mask. And before `EDITTrainer` trains, it compares both
layouts on a real pair, the [`telling_pair`] of its first batch, with [`layout_difference`].
"""

import inspect
import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from transformers import PreTrainedModel
from trl.data_utils import common_prefix_length


LAYOUTS = ("padded", "shared_prefix", "padding_free")

# Numbers of the branches of a row in `branch_ids`.
SHARED, CHOSEN, REJECTED = 0, 1, 2

# Names of transformers' FlashAttention arguments in padding-free batches.
FLASH_ATTENTION_KEYS = ("cu_seq_lens_q", "cu_seq_lens_k", "max_length_q", "max_length_k")

# About how many tokens after the first difference of the chains are scored to compare two layouts.
_NUM_COMPARED = 256

# Largest value that the comparison of layouts gives to adapter parameters that are zero. LoRA then changes
# log-probabilities by 0.1 nats and more.
_EFFECT = 0.05

# Config options of attention windows that a model applies itself, by the position of a token in the row.
_OTHER_WINDOWS = (
    "window_size",
    "attention_window_size",
    "attention_chunk_size",
    "local_attention",
    "keep_window_size",
)


def share_prefix(chosen: list[int], rejected: list[int]) -> tuple[list[int], list[int], list[int]]:
    """
    Put two chains into one row that has their common start once.

    Args:
        chosen (`list[int]`):
            Token IDs of the right chain, prompt included.
        rejected (`list[int]`):
            Token IDs of the wrong chain, prompt included.

    Returns:
        `tuple[list[int], list[int], list[int]]`: Token IDs of the row; position of each token in its own chain; branch
        of each token: 0 for the common start, 1 for the rest of the right chain, 2 for the rest of the wrong chain.
        Token t of the right chain is token t of the row.

    Examples:

    ```python
    >>> input_ids, position_ids, branch_ids = share_prefix([5, 6, 7, 8], [5, 6, 9])
    >>> input_ids
    [5, 6, 7, 8, 9]
    >>> position_ids
    [0, 1, 2, 3, 2]
    >>> branch_ids
    [0, 0, 1, 1, 2]

    ```
    """
    shared = common_prefix_length(chosen, rejected)
    return (
        chosen + rejected[shared:],
        [*range(len(chosen)), *range(shared, len(rejected))],
        [SHARED] * shared + [CHOSEN] * (len(chosen) - shared) + [REJECTED] * (len(rejected) - shared),
    )


def attention_masks(
    branch_ids: torch.Tensor, position_ids: torch.Tensor, config: Any, dtype: torch.dtype
) -> torch.Tensor | dict[str, torch.Tensor]:
    """
    Make the attention masks of shared rows, in a form that transformers passes to the layers unchanged.

    A token sees the tokens before it in its own branch and in the common start. Padding is marked as common start;
    this has no effect, because padding is at the end of a row and no real token comes after it.

    Args:
        branch_ids (`torch.Tensor` of shape `(B, length)`):
            Branch of each token, as [`share_prefix`] gives it.
        position_ids (`torch.Tensor` of shape `(B, length)`):
            Position of each token in its own chain. A sliding window counts these.
        config ([`~transformers.PreTrainedConfig`]):
            Config of the (text) model: its attention implementation, layer types and sliding window.
        dtype (`torch.dtype`):
            Type of the hidden states. Eager attention adds its mask to the scores, so the mask needs this type.

    Returns:
        `torch.Tensor` of shape `(B, 1, length, length)`, or a `dict` of such tensors by layer type if the model has
        several types: booleans for sdpa, 0 and the minimum of `dtype` for eager attention.
    """
    length = branch_ids.size(1)
    causal = torch.ones(length, length, dtype=torch.bool, device=branch_ids.device).tril()
    keys, queries = branch_ids[:, None, :], branch_ids[:, :, None]
    full = causal & ((keys == SHARED) | (keys == queries))
    masks = {"full_attention": full}
    sliding_window = getattr(config, "sliding_window", None)
    if sliding_window is not None:
        distance = position_ids[:, :, None] - position_ids[:, None, :]
        masks["sliding_attention"] = full & (distance < sliding_window)
    # In models without layer types, such as Mistral, a window applies to all layers.
    layer_types = set(getattr(config, "layer_types", None) or list(masks)[-1:])
    masks = {name: masks[name][:, None] for name in layer_types}
    if config._attn_implementation == "eager":
        lowest = torch.finfo(dtype).min
        masks = {name: torch.zeros_like(mask, dtype=dtype).masked_fill(~mask, lowest) for name, mask in masks.items()}
    return masks if len(masks) > 1 else masks[layer_types.pop()]


def to_padded(batch: dict[str, Any]) -> dict[str, Any]:
    """
    Give each chain of a shared or padding-free batch its own padded row.

    Args:
        batch (`dict[str, Any]`):
            Batch of [`DataCollatorForDualCoT`] with `layout="shared_prefix"` or `layout="padding_free"`.

    Returns:
        `dict[str, Any]`: The same examples with `layout="padded"`. Rows are padded with zeros to the longest chain.
        The collator's `pad_token_id` and `pad_to_multiple_of` are not used.
    """
    chains = _chains_with_rows(batch)
    num_pairs = len(batch["is_completion"])
    input_ids = batch["input_ids"]
    # For each row to make, the row that it comes from, and which tokens of that row belong to it.
    if batch["layout"] == "shared_prefix":
        sources = chains % num_pairs
        branch_ids, sides = batch["branch_ids"][sources], torch.where(chains < num_pairs, CHOSEN, REJECTED)[:, None]
        belongs = batch["attention_mask"].bool()[sources] & ((branch_ids == SHARED) | (branch_ids == sides))
    else:
        starts, ends = (borders[chains, None] for borders in (batch["cu_seq_lens_q"][:-1], batch["cu_seq_lens_q"][1:]))
        places = torch.arange(input_ids.size(1), device=input_ids.device)
        sources = torch.zeros_like(chains)
        belongs = (starts <= places) & (places < ends)
    rows, columns = belongs.nonzero(as_tuple=True)
    positions = belongs.cumsum(dim=1) - 1  # position of each token in its chain
    shape = (len(chains), int(belongs.sum(dim=1).max()))
    row_of = chains.new_zeros(2 * num_pairs).index_copy_(0, chains, torch.arange(len(chains), device=chains.device))
    scored_rows = row_of[batch["scored_chains"]]

    padded: dict[str, torch.Tensor] = {}
    values = {
        "input_ids": input_ids[sources[rows], columns],
        "attention_mask": torch.ones_like(rows),
        "position_ids": positions[rows, columns],
    }
    for name, value in values.items():
        padded[name] = input_ids.new_zeros(shape)
        padded[name][rows, positions[rows, columns]] = value
    return {
        **{name: value for name, value in batch.items() if name not in ("branch_ids", *FLASH_ATTENTION_KEYS)},
        **padded,
        "layout": "padded",
        "scored_rows": scored_rows,
        "scored_positions": positions[scored_rows, batch["scored_positions"]],
        "num_tokens": torch.ones_like(rows).sum(),
    }


def _chains_with_rows(batch: dict[str, Any]) -> torch.Tensor:
    """Return the numbers of the chains that have a row in a padded batch: all but the wrong chains of completions."""
    has_rejected = ~batch["is_completion"]
    return torch.cat([torch.ones_like(has_rejected), has_rejected]).nonzero()[:, 0]


def takes_position_ids(model: PreTrainedModel) -> bool:
    """
    Tell whether a model can be given the positions of its tokens, counted from 0.

    Models of the RoBERTa kind cannot. They count positions from the number of their padding token, and take other
    numbers as they come.

    Args:
        model ([`~transformers.PreTrainedModel`]):
            Causal language model, not wrapped.

    Returns:
        `bool`: Whether its forward has `position_ids` that count from 0.
    """
    return "position_ids" in inspect.signature(model.forward).parameters and not _counts_from_padding(model)


def _counts_from_padding(model: PreTrainedModel) -> bool:
    embeddings = (module for name, module in model.named_modules() if name.endswith("position_embeddings"))
    return any(getattr(module, "padding_idx", None) is not None for module in embeddings)


def choose_layout(
    model: PreTrainedModel, aux_loss_enabled: bool = False, adapters: Iterable[Any] = ()
) -> tuple[str, str | None]:
    """
    Choose the fastest layout that works with a model.

    Shared rows need attention that takes a mask (sdpa or eager) and a forward that takes positions. Tokens must not
    influence each other in any other way: no recurrence, no convolution, and no attention window except one that is
    part of the mask. Padding-free rows are used with FlashAttention.

    Args:
        model ([`~transformers.PreTrainedModel`]):
            Causal language model, not wrapped.
        aux_loss_enabled (`bool`, *optional*, defaults to `False`):
            Whether the load-balancing loss of a mixture of experts is part of the loss. It counts the tokens of the
            batch, so a shared token would count once instead of twice.
        adapters (`Iterable` of [`~peft.PeftConfig`], *optional*, defaults to `()`):
            Configurations of the adapters on the model.

    Returns:
        `tuple[str, str | None]`: The layout, and the reason if it is `"padded"`, otherwise `None`.
    """
    config = model.config.get_text_config()
    attention = str(config._attn_implementation)
    layer_types = set(getattr(config, "layer_types", None) or [])
    other_types = sorted(layer_types - {"full_attention", "sliding_attention"})
    windows = [name for name in _OTHER_WINDOWS if getattr(config, name, None)]
    if "position_ids" not in inspect.signature(model.forward).parameters:
        return "padded", "its forward takes no `position_ids`"
    if _counts_from_padding(model):
        return "padded", "it counts positions from the number of its padding token"
    if any(getattr(config, "alora_invocation_tokens", None) for config in adapters):
        return "padded", "its adapter (aLoRA) begins at the last `alora_invocation_tokens` of a row"
    if getattr(model, "is_loaded_in_4bit", False) and model.device.type == "cpu":
        # The comparison of layouts makes such a forward pass.
        return "padded", "on a CPU, 4-bit weights lose their gradient after a forward pass without gradients"
    if getattr(model, "_is_stateful", False):
        return "padded", "it has recurrent layers"
    if any(isinstance(module, torch.nn.Conv1d) for module in model.modules()):
        return "padded", "it has convolution layers"
    if other_types:
        return "padded", f"it has layers of type {', '.join(map(repr, other_types))}"
    if "sliding_attention" in layer_types and getattr(config, "sliding_window", None) is None:
        return "padded", "it has layers of type 'sliding_attention', but no `sliding_window`"
    if getattr(config, "alibi", False):
        return "padded", "its positions are distances within the row (ALiBi)"
    if windows:
        return "padded", f"its config has `{windows[0]}`, an attention window that no mask makes"
    if "flash" in attention:
        return "padding_free", None
    if attention not in ("sdpa", "eager"):
        return "padded", f"its attention is {attention!r}, which takes no mask of ours"
    if aux_loss_enabled:
        return "padded", (
            "its router's load-balancing loss counts tokens, and would count shared ones once (pass "
            "`router_aux_loss_coef=0.0` to train without it)"
        )
    return "shared_prefix", None


def telling_pair(batch: dict[str, Any]) -> tuple[dict[str, list], bool]:
    """
    Choose the pair of a batch that shows best whether a layout is right.

    A wrong mask or wrong positions change the predictions after the first token of the second branch, if the first
    branch has tokens that the second one must not see.

    Args:
        batch (`dict[str, Any]`):
            Batch of [`DataCollatorForDualCoT`] with `layout="padded"`.

    Returns:
        `tuple[dict[str, list], bool]`: The tokenized pair, and whether a wrong layout would change its scores. The
        pair has no prompt: the prompt is part of its chains. Its weights are 1 for the tokens to score, which come
        after the common start. In a batch of completions it is a pair of equal chains, which tells nothing.
    """
    lengths = batch["attention_mask"].sum(dim=1).tolist()
    rows = [ids[:length] for ids, length in zip(batch["input_ids"].tolist(), lengths, strict=True)]
    chains: dict[int, list[int]] = dict(zip(_chains_with_rows(batch).tolist(), rows, strict=True))
    num_pairs = len(batch["is_completion"])
    pairs = [(chains[number], chains.get(num_pairs + number) or chains[number]) for number in range(num_pairs)]
    num_telling, parting, chosen, rejected = max(
        (min(len(chosen) - parting, len(rejected) - parting - 1), parting, chosen, rejected)
        for chosen, rejected in pairs
        for parting in [common_prefix_length(chosen, rejected)]
    )
    pair: dict[str, list] = {"prompt_ids": [], "chosen_ids": chosen, "rejected_ids": rejected}
    stride = 1 + (len(chosen) + len(rejected) - 2 * parting) // _NUM_COMPARED
    for side, chain in (("chosen", chosen), ("rejected", rejected)):
        is_scored = [t >= parting and (len(chain) - 1 - t) % stride == 0 for t in range(len(chain))]
        pair[f"{side}_weights"] = list(map(float, is_scored))
    return pair, num_telling > 0


def layout_difference(
    score: Callable[[str], torch.Tensor], layout: str, config: Any, longest: int
) -> tuple[float, str | None]:
    """
    Measure how much the log-probabilities of the same tokens differ between a layout and two padded rows.

    Args:
        score (`Callable[[str], torch.Tensor]`):
            Function that takes the name of a layout and returns the log-probabilities, in nats, of the scored tokens
            of a [`telling_pair`] in this layout.
        layout (`str`):
            The layout to check.
        config ([`~transformers.PreTrainedConfig`]):
            Config of the (text) model. Its sliding window is made narrower during the check, because an error in the
            window has an effect only in chains longer than the window.
        longest (`int`):
            Number of tokens of the longer chain of the pair.

    Returns:
        `tuple[float, str | None]`: Root mean square of the differences, in nats, and `None`. If the model raises an
        exception with the layout, infinity and a description of the exception.
    """
    window = getattr(config, "sliding_window", None)
    if window is not None:
        config.sliding_window = min(window, longest // 2 + 1)
    try:
        expected = score("padded").float()
        try:
            found = score(layout).float()
        except torch.OutOfMemoryError:
            raise
        except Exception as exception:  # a model that cannot use the mask may raise any exception
            return math.inf, f"it fails on one with `{type(exception).__name__}: {exception}`"
    finally:
        if window is not None:
            config.sliding_window = window
    squares = (expected - found).square().nan_to_num(nan=math.inf)
    return (squares.sum() / max(len(squares), 1)).sqrt().item(), None


@contextmanager
def visible_adapter(model: Any) -> Iterator[None]:
    """
    Give an adapter an effect that starts without one, so that a comparison of layouts sees it.

    The second matrix of LoRA, for example, starts at zero. The adapter has no effect then, and neither has an error in
    how it treats a row. Here each trainable parameter that is zero gets small values, and is set to zero afterwards.

    Args:
        model ([`~transformers.PreTrainedModel`] or [`~peft.PeftModel`]):
            Model without the wrappers of distributed training. Parameters of a model without adapters stay as they
            are.

    Yields:
        `None`
    """
    is_adapted = bool(getattr(model, "peft_config", None))
    trainable = [parameter.detach() for parameter in model.parameters() if is_adapted and parameter.requires_grad]
    # Of a sharded parameter, the part that this process has.
    local = [values.to_local() if hasattr(values, "to_local") else values for values in trainable]
    zeros = [values for values in local if not values.any()]
    for values in zeros:
        # No random numbers, so that the random state of the training does not change.
        waves = torch.arange(values.numel(), device=values.device).cos()
        values.copy_(_EFFECT * waves.view(values.shape))
    try:
        yield
    finally:
        for values in zeros:
            values.zero_()


def layout_tolerance(is_exact: bool) -> float:
    """
    Return how much log-probabilities may differ between layouts because of rounding.

    Rounding gives up to 4e-6 in fp32 and 6e-2 in bf16 (SmolLM2-135M). A mask that lets branches see each other gives
    0.9 and more (5e-4 in a model with random weights). Positions that do not restart give 0.3 (1e-4 in a model with
    random weights).

    Args:
        is_exact (`bool`):
            Whether the model computes in fp32.

    Returns:
        `float`: Root mean square difference, in nats.
    """
    return 5e-5 if is_exact else 0.15
