"""
Turn dual chains-of-thought into batches.

The collator puts the chains into rows and lists the tokens to be scored. `weighting.py` decides which tokens of a pair
are key tokens, their weights, and what truncation keeps. Tokenization happens in `data_utils.py`; the loss is in
`loss.py`.

A batch has no `labels`. It lists the tokens that are scored, which are the key tokens and the tokens with a weight.
For each of them it has the row and the position of the hidden state that predicts it. So the trainer computes logits
for these tokens only, and the same list works for every layout: two rows per pair, one row per pair that has the
common start once, or one row for all pairs (`layouts.py`).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate, chain, compress
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase
from transformers.data.data_collator import DataCollatorMixin
from trl.data_utils import common_prefix_length
from trl.trainer.utils import pad

from .alignment import CHOSEN_KEY_WEIGHT, CHOSEN_OTHER_WEIGHT, REJECTED_KEY_WEIGHT
from .data_utils import ID_COLUMNS
from .layouts import CHOSEN, LAYOUTS, REJECTED, SHARED, join_chains
from .pair_checks import check_pair, is_completion
from .shared_attention import segment_inputs
from .weighting import check_options, check_tokenizer, kept_range, weigh_pair


# What the trainer reads of a batch in any layout.
_BATCH_KEYS = (
    *("input_ids", "position_ids", "scored_rows", "scored_positions", "scored_ids", "scored_weights", "scored_key"),
    *("scored_chains", "is_completion", "num_completion_tokens", "num_key_tokens", "num_tokens", "layout"),
)


def check_batch(batch: Any) -> None:
    """
    Refuse a batch that another collator made.

    Args:
        batch (`dict[str, Any]`):
            What a data collator returned.

    Raises:
        ValueError: If it lacks keys that the trainer reads.
    """
    missing = [name for name in _BATCH_KEYS if name not in batch]
    if missing:
        raise ValueError(
            "`data_collator` must return the keys of `DataCollatorForDualCoT`, got "
            f"{sorted(batch)}: {', '.join(f'`{name}`' for name in missing)} {'is' if len(missing) == 1 else 'are'} "
            "missing. They say which tokens are trained; leave `data_collator` out, or derive yours from "
            "`DataCollatorForDualCoT`."
        )


@dataclass
class DataCollatorForDualCoT(DataCollatorMixin):
    """
    Data collator for dual chains-of-thought: aligns the two completions of each pair and weights their key tokens.

    Expects examples with `"prompt_ids"`, `"chosen_ids"` and `"rejected_ids"`, each a list of token IDs, not truncated.
    `"chosen_weights"` and `"rejected_weights"`, one signed float per completion token, replace the alignment; a token
    is then a key token if its weight is not zero. An example may also be a completion, with `"prompt_ids"` and
    `"completion_ids"` and no rejected chain. Other columns are ignored. No example is dropped: a pair without weighted
    tokens adds zero to the loss.

    Returns a dictionary of tensors for B examples. Chain b is the right chain (or the completion) of example b, chain
    B + b is its wrong chain, which has no tokens if the example is a completion. Each other chain begins with the
    prompt. The layout says how chains become rows; padding is on the right:

    - `"padded"`: one row for each chain that has tokens, in the order of the chains.
    - `"shared_prefix"`: row b is pair b, with the common start of its chains once, see [`~layouts.join_chains`].
    - `"packed"`: one row with all pairs, each with the common start of its chains once, without padding.
    - `"padding_free"`: one row with all chains in full, pair by pair, without padding.

    The dictionary has these keys:

    - `"input_ids"`, `"position_ids"` of shape (number of chains with tokens, length), (B, length) or (1, length).
    - `"attention_mask"` of the same shape, 1 for tokens and 0 for padding; not with `"padding_free"`.
    - `"pair_lengths"` of shape (B, 3), not with `"padded"`: tokens of the common start, of the rest of the right chain
      and of the rest of the wrong chain. With `"padding_free"` nothing is common.
    - `"branch_ids"` of shape (B, length), only with `"shared_prefix"`: 0 for tokens that both chains share, 1 for the
      rest of the right chain, 2 for the rest of the wrong chain.
    - `"segment_keys"` of shape (1, 1, 1, num_keys), only with `"packed"`: the mask of
      [`~shared_attention.segment_inputs`], which the model gets instead of `"attention_mask"`.
    - `"cu_seq_lens_q"`, `"cu_seq_lens_k"`, `"max_length_q"`, `"max_length_k"`, only with `"packed"` and
      `"padding_free"`: borders and lengths of the segments, see [`~shared_attention.segment_inputs`].
    - `"scored_rows"`, `"scored_positions"` of shape (num_scored,): row and position of the hidden state that predicts
      each scored token, one position before the token itself.
    - `"scored_ids"`, `"scored_weights"`, `"scored_key"`, `"scored_chains"` of shape (num_scored,): token ID, signed
      weight, whether it is a key token, and its chain: b for the right and B + b for the wrong chain of example b.
    - `"is_completion"` of shape (B,): whether the example is a completion, without a wrong chain.
    - `"num_completion_tokens"` of shape (2B,): completion tokens of each chain after truncation.
    - `"num_key_tokens"` of shape (2B,): key tokens of each chain before truncation.
    - `"num_tokens"` of shape (): tokens that go through the model, without padding.
    - `"layout"` (`str`): name of the layout.

    The first token of a chain has no hidden state before it, so it cannot be scored. It is a completion token if the
    prompt is empty or if `truncation_mode="keep_end"` removes the whole prompt.

    Args:
        pad_token_id (`int`):
            Token ID to use for padding.
        chosen_key_weight (`float`, *optional*, defaults to `1.0`):
            Weight of the key tokens of the right chain, α in the paper.
        rejected_key_weight (`float`, *optional*, defaults to `0.025`):
            Strength with which the key tokens of the wrong chain are pushed away, β in the paper.
        chosen_other_weight (`float`, *optional*, defaults to `0.0`):
            Weight of the other tokens of the right chain, γ in the authors' code.
        completion_weight (`float`, *optional*):
            Weight of the tokens of completions. Defaults to `chosen_other_weight`.
        alignment_level (`str`, *optional*, defaults to `"token"`):
            Unit that the edit script deletes, inserts and replaces: `"token"`, or `"word"` for runs of tokens from
            one whitespace to the next; in scripts without spaces, words are single characters, and numbers. Words are
            compared by their exact text, and all tokens of a key word are key tokens.
        tie_break (`str`, *optional*, defaults to `"symmetric"`):
            Which minimum edit script is used if there are several, see [`align`].
        tokenizer ([`~transformers.PreTrainedTokenizerBase`], *optional*):
            Tokenizer that made the token IDs. Needed only for `alignment_level="word"`, to read the text of the
            tokens.
        max_length (`int`, *optional*):
            Maximum length of prompt and completion together, in tokens, for each chain. `None` keeps all tokens.
        truncation_mode (`str`, *optional*, defaults to `"keep_start"`):
            Which end of a chain longer than `max_length` to keep: `"keep_start"` or `"keep_end"`.
        pad_to_multiple_of (`int`, *optional*):
            If set, the rows are padded to a multiple of this value.
        layout (`str`, *optional*, defaults to `"padded"`):
            How chains become rows: `"padded"`, `"shared_prefix"`, `"packed"` or `"padding_free"`. [`EDITTrainer`]
            passes the fastest layout that works with the model.
        return_tensors (`str`, *optional*, defaults to `"pt"`):
            Type of tensor to return. Only `"pt"` is supported.

    Raises:
        ValueError: If a column is missing, if the number of weights differs from the number of tokens or a weight is
            not finite, if there are completions and no weight for them, or if the value of an option is unknown.

    Examples:

    ```python
    >>> from edit_trl import DataCollatorForDualCoT

    >>> collator = DataCollatorForDualCoT(pad_token_id=0)
    >>> batch = collator([{"prompt_ids": [1, 2], "chosen_ids": [3, 4, 9], "rejected_ids": [3, 5, 9]}])
    >>> batch["input_ids"]
    tensor([[1, 2, 3, 4, 9],
            [1, 2, 3, 5, 9]])
    >>> batch["scored_rows"], batch["scored_positions"], batch["scored_ids"]
    (tensor([0, 1]), tensor([2, 2]), tensor([4, 5]))
    >>> batch["scored_weights"], batch["num_completion_tokens"]
    (tensor([ 1.0000, -0.0250]), tensor([3, 3]))

    ```
    """

    pad_token_id: int
    chosen_key_weight: float = CHOSEN_KEY_WEIGHT
    rejected_key_weight: float = REJECTED_KEY_WEIGHT
    chosen_other_weight: float = CHOSEN_OTHER_WEIGHT
    completion_weight: float | None = None
    alignment_level: str = "token"
    tie_break: str = "symmetric"
    tokenizer: PreTrainedTokenizerBase | None = None
    max_length: int | None = None
    truncation_mode: str = "keep_start"
    pad_to_multiple_of: int | None = None
    layout: str = "padded"
    return_tensors: str = "pt"
    _token_texts: dict[int, str] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        check_options(self)
        if self.layout not in LAYOUTS:
            raise ValueError(
                f"`layout` must be one of {', '.join(map(repr, LAYOUTS))}, got {self.layout!r}. It is how chains "
                'become rows; pass `layout="padded"`, which every model takes.'
            )
        check_tokenizer(self, self.tokenizer)

    def torch_call(self, examples: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        incomplete = [
            example
            for example in examples
            if any(example.get(column) is None for column in ID_COLUMNS[: 1 if is_completion(example) else 3])
        ]
        if incomplete:
            given = sorted(name for name, value in incomplete[0].items() if value is not None)
            raise ValueError(
                f"Each example must have the columns {', '.join(f'`{column}`' for column in ID_COLUMNS)}, got "
                f"{given}. The collator aligns token IDs: let `EDITTrainer` prepare the dataset (do "
                "not set `skip_prepare_dataset`), or tokenize it first."
            )
        for example in examples:
            lists = [example.get(name) for name in (*ID_COLUMNS, "completion_ids")]
            if not all({int}.issuperset(map(type, ids)) for ids in lists if isinstance(ids, list)):
                check_pair(example)  # a float would be rounded
        pairs = [weigh_pair(example, self, self.tokenizer, self._token_texts) for example in examples]
        chains = [pair.chosen for pair in pairs] + [pair.rejected for pair in pairs]
        scored: list[tuple[int, int, int, float, bool]] = []
        for number, weighted in enumerate(chains):
            for place in weighted.completion:
                token = place - weighted.prompt_length
                weight, is_key = weighted.weights[token], weighted.is_key[token]
                # The first token of a chain has no hidden state before it.
                if (is_key or weight) and place > weighted.start:
                    scored.append((number, place - 1 - weighted.start, weighted.ids[place], weight, is_key))

        are_completions = [pair.is_completion for pair in pairs]
        output, rows, columns = self._lay_out([weighted.kept_ids for weighted in chains], are_completions)
        scored_chains, positions, *values = zip(*scored, strict=True) if scored else [()] * 5
        places = [columns[number][t] for number, t in zip(scored_chains, positions, strict=True)]
        output["scored_rows"] = torch.tensor([rows[number] for number in scored_chains], dtype=torch.long)
        output["scored_positions"] = torch.tensor(places, dtype=torch.long)
        output["scored_chains"] = torch.tensor(scored_chains, dtype=torch.long)
        dtypes = {"scored_ids": torch.long, "scored_weights": torch.float, "scored_key": torch.bool}
        for (name, dtype), column_values in zip(dtypes.items(), values, strict=True):
            output[name] = torch.tensor(column_values, dtype=dtype)
        output["layout"] = self.layout
        output["is_completion"] = torch.tensor(are_completions)
        output["num_completion_tokens"] = torch.tensor([len(weighted.completion) for weighted in chains])
        output["num_key_tokens"] = torch.tensor([sum(weighted.is_key) for weighted in chains])
        return output

    def row_length(self, example: dict[str, Any]) -> int:
        """
        Return the number of tokens that an example takes, for samplers that group examples by length.

        The example is not aligned for this.

        Args:
            example (`dict[str, Any]`):
                Tokenized pair.

        Returns:
            `int`: Number of tokens of the longer of its two rows (`"padded"`), of both chains with their common start
            once (`"shared_prefix"`, `"packed"`), or of both chains in full (`"padding_free"`).
        """
        names = ("completion_ids",) if is_completion(example) else ("chosen_ids", "rejected_ids")
        rows = [[*example["prompt_ids"], *example[name]] for name in names]
        chains = [row[slice(*kept_range(len(row), self))] for row in rows]
        if self.layout == "padded":
            return max(map(len, chains))
        is_shared = self.layout != "padding_free" and len(chains) == 2
        return sum(map(len, chains)) - (common_prefix_length(*chains) if is_shared else 0)

    def _lay_out(
        self, chains: list[list[int]], are_completions: list[bool]
    ) -> tuple[dict[str, Any], Sequence[int], list[Sequence[int]]]:
        """Return the model inputs, the row of each chain, and the position in its row of each token of each chain."""
        num_pairs = len(are_completions)
        if self.layout == "padded":
            # A completion has no wrong chain, and a row of padding alone would give NaN.
            has_row = [True] * num_pairs + [not is_alone for is_alone in are_completions]
            columns: list[Sequence[int]] = [range(len(chain)) for chain in chains]
            input_ids, position_ids = (list(compress(values, has_row)) for values in (chains, columns))
            return (
                self._padded_inputs(input_ids, position_ids),
                [number - 1 for number in accumulate(has_row)],
                columns,
            )

        joined = [
            join_chains(*pair, share=self.layout != "padding_free")
            for pair in zip(chains[:num_pairs], chains[num_pairs:], strict=True)
        ]
        input_ids, position_ids, lengths = (list(column) for column in zip(*joined, strict=True))
        if self.layout == "shared_prefix":
            begins, rows = [0] * num_pairs, [*range(num_pairs)] * 2
            output = self._padded_inputs(input_ids, position_ids)
            branches = [[SHARED] * s + [CHOSEN] * c + [REJECTED] * r for s, c, r in lengths]
            output["branch_ids"] = self._pad(branches, SHARED)
        else:
            *begins, total = accumulate(map(sum, lengths), initial=0)
            rows = [0] * (2 * num_pairs)
            # Padding is a chain of its own, which no other chain sees.
            padding = -total % (self.pad_to_multiple_of or 1)
            output = {"num_tokens": torch.tensor(total), **segment_inputs([*lengths, (0, padding, 0)])}
            row, positions = chain.from_iterable(input_ids), chain.from_iterable(position_ids)
            output["input_ids"] = torch.tensor([[*row, *[self.pad_token_id] * padding]], dtype=torch.long)
            output["position_ids"] = torch.tensor([[*positions, *range(padding)]], dtype=torch.long)
            segment_keys = output.pop("attention_mask")
            if self.layout == "packed":
                # `Trainer` counts tokens with the mask. FlashAttention ignores the borders of whole chains with one.
                output["attention_mask"] = torch.tensor([[1] * total + [0] * padding], dtype=torch.long)
                output["segment_keys"] = segment_keys
        output["pair_lengths"] = torch.tensor(lengths)
        places = list(zip(begins, lengths, strict=True))
        columns = [range(begin, begin + s + c) for begin, (s, c, _) in places]
        columns += [
            [*range(begin, begin + s), *range(begin + s + c, begin + s + c + r)] for begin, (s, c, r) in places
        ]
        return output, rows, columns

    def _padded_inputs(self, input_ids: list[Any], position_ids: list[Any]) -> dict[str, Any]:
        return {
            "input_ids": self._pad(input_ids, self.pad_token_id),
            "attention_mask": self._pad([[1] * len(row) for row in input_ids], 0),
            "position_ids": self._pad(position_ids, 0),
            "num_tokens": torch.tensor(sum(map(len, input_ids))),
        }

    def _pad(self, rows: list[Any], padding_value: int) -> torch.Tensor:
        return pad(
            [torch.tensor(row, dtype=torch.long) for row in rows],
            padding_value=padding_value,
            padding_side="right",
            pad_to_multiple_of=self.pad_to_multiple_of,
        )
