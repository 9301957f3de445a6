"""
Layouts of a batch that compute the common start of the two chains of a pair only once.

In a packed batch, the pairs follow one another in one row, without padding. A pair is the common start of both chains,
then the rest of the right chain, then the rest of the wrong chain. These two rests are the branches. Positions restart
at the beginning of each branch. `shared_attention.py` computes the attention of each chain in segments of this row, so
every token gets the same hidden state as in a row of its own chain, and a batch costs what its tokens cost.

Attention that takes masks only (eager) gets one row per pair, and a mask lets a token see only its own branch and the
common start. The mask has a value for each pair of tokens, so long rows are computed as padded rows if this is
cheaper, see [`sharing_is_cheaper`].

The last token of the common start predicts the first token of both branches, so one label per position is not enough.
A batch therefore lists the tokens that it scores and the position that predicts each of them.

A wrong layout would train a wrong model without any error. So [`choose_layouts`] refuses, with a reason, every model
that is known to combine tokens in other ways than attention. And before `EDITTrainer` trains, it compares the layout
with padded rows on a real pair, the [`telling_pair`] of its first batch, with [`layout_difference`].
"""

import inspect
import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from transformers import PreTrainedModel
from trl.data_utils import common_prefix_length

from .shared_attention import takes_segments


LAYOUTS = ("padded", "shared_prefix", "packed", "padding_free")

# Numbers of the branches of a row in `branch_ids`.
SHARED, CHOSEN, REJECTED = 0, 1, 2

# Names of transformers' FlashAttention arguments, in batches with one row for all chains.
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


def join_chains(
    chosen: list[int], rejected: list[int], share: bool = True
) -> tuple[list[int], list[int], tuple[int, int, int]]:
    """
    Put two chains one after the other, with their common start once.

    Args:
        chosen (`list[int]`):
            Token IDs of the right chain, prompt included.
        rejected (`list[int]`):
            Token IDs of the wrong chain, prompt included.
        share (`bool`, *optional*, defaults to `True`):
            Whether the common start is there once. Otherwise both chains are there in full.

    Returns:
        `tuple[list[int], list[int], tuple[int, int, int]]`: Token IDs; position of each token in its own chain;
        numbers of tokens of the common start, of the rest of the right chain and of the rest of the wrong chain.

    Examples:

    ```python
    >>> input_ids, position_ids, lengths = join_chains([5, 6, 7, 8], [5, 6, 9])
    >>> input_ids
    [5, 6, 7, 8, 9]
    >>> position_ids
    [0, 1, 2, 3, 2]
    >>> lengths
    (2, 2, 1)

    ```
    """
    shared = common_prefix_length(chosen, rejected) if share else 0
    return (
        chosen + rejected[shared:],
        [*range(len(chosen)), *range(shared, len(rejected))],
        (shared, len(chosen) - shared, len(rejected) - shared),
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
            Branch of each token: 0 for the common start, 1 for the rest of the right chain, 2 for the rest of the
            wrong chain.
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
    Give each chain of a batch its own padded row.

    Args:
        batch (`dict[str, Any]`):
            Batch of [`DataCollatorForDualCoT`] with another layout than `"padded"`.

    Returns:
        `dict[str, Any]`: The same examples with `layout="padded"`. Rows are padded with zeros to the longest chain.
        The collator's `pad_token_id` and `pad_to_multiple_of` are not used.
    """
    chains = _chains_with_rows(batch)
    input_ids, lengths = batch["input_ids"], batch["pair_lengths"]
    num_pairs = len(lengths)
    pairs, is_chosen = chains % num_pairs, chains[:, None] < num_pairs
    # For each row to make, the row that it comes from, and the place in it where the pair begins.
    sources, begins = pairs, torch.zeros_like(pairs)
    if batch["layout"] != "shared_prefix":
        sources, begins = torch.zeros_like(pairs), (lengths.sum(dim=1).cumsum(dim=0) - lengths.sum(dim=1))[pairs]
    places = torch.arange(input_ids.size(1), device=input_ids.device) - begins[:, None]
    shared, chosen, end = lengths.cumsum(dim=1)[pairs].unbind(dim=1)
    is_shared = (places >= 0) & (places < shared[:, None])
    is_own = torch.where(is_chosen, places < chosen[:, None], places >= chosen[:, None])
    belongs = is_shared | ((places >= shared[:, None]) & is_own & (places < end[:, None]))
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
    unused = ("branch_ids", "pair_lengths", "segment_keys", *FLASH_ATTENTION_KEYS)
    return {
        **{name: value for name, value in batch.items() if name not in unused},
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


def choose_layouts(
    model: PreTrainedModel, aux_loss_enabled: bool = False, adapters: Iterable[Any] = (), neftune: bool = False
) -> tuple[tuple[str, ...], str | None]:
    """
    Choose the layouts that may work with a model, the fastest first.

    Tokens must not influence each other in any other way than by attention: no recurrence, no convolution, and no
    attention window except one that is part of the mask or an argument of the attention function. And the forward must
    take positions. SDPA and FlashAttention take packed batches, eager attention takes one row per pair with a mask.

    Args:
        model ([`~transformers.PreTrainedModel`]):
            Causal language model, not wrapped.
        aux_loss_enabled (`bool`, *optional*, defaults to `False`):
            Whether the load-balancing loss of a mixture of experts is part of the loss. It counts the tokens of the
            batch, so a shared token would count once instead of twice.
        adapters (`Iterable` of [`~peft.PeftConfig`], *optional*, defaults to `()`):
            Configurations of the adapters on the model.
        neftune (`bool`, *optional*, defaults to `False`):
            Whether NEFTune adds noise to the embeddings. The noise is weaker in longer rows.

    Returns:
        `tuple[tuple[str, ...], str | None]`: Layouts other than `"padded"`, and the reason if there is none.
    """
    config = model.config.get_text_config()
    attention = str(config._attn_implementation)
    layer_types = set(getattr(config, "layer_types", None) or [])
    other_types = sorted(layer_types - {"full_attention", "sliding_attention"})
    windows = [name for name in _OTHER_WINDOWS if getattr(config, name, None)]
    reasons = {
        "its forward takes no `position_ids`": "position_ids" not in inspect.signature(model.forward).parameters,
        "it counts positions from the number of its padding token": _counts_from_padding(model),
        "its adapter (aLoRA) begins at the last `alora_invocation_tokens` of a row": any(
            getattr(config, "alora_invocation_tokens", None) for config in adapters
        ),
        # The comparison of layouts makes such a forward pass.
        "on a CPU, 4-bit weights lose their gradient after a forward pass without gradients": getattr(
            model, "is_loaded_in_4bit", False
        )
        and model.device.type == "cpu",
        "the noise of NEFTune depends on the number of tokens of a row": neftune,
        "it has recurrent layers": getattr(model, "_is_stateful", False),
        "it has convolution layers": any(isinstance(module, torch.nn.Conv1d) for module in model.modules()),
        f"it has layers of type {', '.join(map(repr, other_types))}": other_types,
        "it has layers of type 'sliding_attention', but no `sliding_window`": "sliding_attention" in layer_types
        and getattr(config, "sliding_window", None) is None,
        "its positions are distances within the row (ALiBi)": getattr(config, "alibi", False),
        f"its config has `{windows[0] if windows else ''}`, an attention window that no mask makes": windows,
        f"its attention is {attention!r}, which takes no mask of ours": attention != "eager"
        and not takes_segments(attention),
        "its router's load-balancing loss counts tokens, and would count shared ones once (pass "
        "`router_aux_loss_coef=0.0` to train without it)": aux_loss_enabled and "flash" not in attention,
    }
    reason = next((text for text, applies in reasons.items() if applies), None)
    if reason is not None:
        return (), reason
    if "flash" in attention:
        return ("padding_free",) if aux_loss_enabled else ("packed", "padding_free"), None
    return ("shared_prefix",) if attention == "eager" else ("packed", "shared_prefix"), None


def sharing_is_cheaper(batch: dict[str, Any], num_parameters: int, config: Any) -> bool:
    """
    Tell whether one row per pair with a mask computes less than two padded rows per pair.

    A token costs two operations for each parameter. Attention costs four operations for each value of its scores, for
    each layer and each number of a head. Scores are square, so long rows cost more than two shorter ones. SDPA
    computes only the lower half of the scores of padded rows.

    Args:
        batch (`dict[str, Any]`):
            Batch of [`DataCollatorForDualCoT`] with `layout="shared_prefix"`.
        num_parameters (`int`):
            Number of parameters of the model without embeddings.
        config ([`~transformers.PreTrainedConfig`]):
            Config of the (text) model.

    Returns:
        `bool`: Whether it computes less.
    """
    lengths = batch["pair_lengths"]
    shared, chosen, rejected = lengths.unbind(dim=1)
    head_size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    score_cost = 4 * config.num_hidden_layers * config.num_attention_heads * head_size

    def cost(num_rows: int, width: int, share_of_scores: float) -> float:
        return num_rows * width * (2 * num_parameters + share_of_scores * score_cost * width)

    longest_row = int(lengths.sum(dim=1).max())
    longest_chain = int(shared.add(torch.maximum(chosen, rejected)).max())
    num_chains = 2 * len(lengths) - int(batch["is_completion"].sum())
    half = 1.0 if config._attn_implementation == "eager" else 0.5
    return cost(len(lengths), longest_row, 1.0) < cost(num_chains, longest_chain, half)


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
    score: Callable[[str], torch.Tensor], layout: str, model: Any, longest: int
) -> tuple[float, str | None]:
    """
    Measure how much the log-probabilities of the same tokens differ between a layout and two padded rows.

    Args:
        score (`Callable[[str], torch.Tensor]`):
            Function that takes the name of a layout and returns the log-probabilities, in nats, of the scored tokens
            of a [`telling_pair`] in this layout.
        layout (`str`):
            The layout to check.
        model ([`~transformers.PreTrainedModel`] or [`~peft.PeftModel`]):
            The model. Its sliding window is made narrower during the check, because an error in the window has an
            effect only in chains longer than the window.
        longest (`int`):
            Number of tokens of the longer chain of the pair.

    Returns:
        `tuple[float, str | None]`: Root mean square of the differences, in nats, and `None`. If the model raises an
        exception with the layout, infinity and a description of the exception.
    """
    config = model.config.get_text_config()
    window = getattr(config, "sliding_window", None)
    # Masks are made from the window of the config; layers pass their own to attention functions.
    holders = [config, *(m for m in model.modules() if getattr(m, "sliding_window", None) == window)]
    holders = [] if window is None else holders
    for holder in holders:
        holder.sliding_window = min(window or longest, longest // 2 + 1)
    try:
        expected = score("padded").float()
        try:
            found = score(layout).float()
        except torch.OutOfMemoryError:
            raise
        except Exception as exception:  # a model that cannot use the mask may raise any exception
            return math.inf, f"it fails on one with `{type(exception).__name__}: {exception}`"
    finally:
        for holder in holders:
            holder.sliding_window = window
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
