"""
The data of stage 1: the right chains of dual chains-of-thought, and rows that have no rejected chain.

Rows are checked as stage 2 checks them, so that a bad row is found before stage 1 and not after it.
"""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from typing import Any

from accelerate import PartialState
from datasets import Dataset, Features, Value
from transformers import PreTrainedTokenizerBase
from trl import maybe_extract_prompt
from trl.data_utils import maybe_convert_to_chatml

from ..data_utils import is_missing, prepare_dual_cots, tokenize_pair
from ..edit_config import EDITConfig
from ..pair_checks import PairError, check_pair, is_tokenized_row, plain_messages


# How many rows are rendered with the chat template before stage 1.
_NUM_RENDERED = 100


def right_chains(dataset: Dataset) -> Dataset:
    """
    Make the prompt-completion dataset of stage 1: the right chains of the pairs, and the completions.

    Args:
        dataset ([`~datasets.Dataset`]):
            Pairs and completions, with texts or messages.

    Returns:
        [`~datasets.Dataset`]: Rows with `prompt` and `completion`. Rows with empty texts are left out, and counted.

    Raises:
        PairError: If a row is neither a pair nor a completion; the row is named.
        ValueError: If the dataset has no texts.
    """
    names = [name for name in ("chosen", "completion") if name in dataset.column_names]
    if not names:
        raise ValueError(
            f"Stage 1 needs the texts `prompt` and `chosen`, got the columns {dataset.column_names}. It trains on "
            "right chains of thought; pass `--stages 2` to start with stage 2."
        )

    def to_completion(row: dict[str, Any], number: int) -> dict[str, Any]:
        try:
            check_pair(row)
        except PairError as error:
            raise PairError(f"Row {number} of the train dataset: {error}") from None
        # Copied, because the conversion renames keys of the messages in place.
        row = maybe_convert_to_chatml(deepcopy(row))
        # Without a column `prompt`, the prompt is the common start of both chains, so both are needed.
        if "prompt" not in row:
            row = maybe_extract_prompt(row) if row["chosen"] and row["rejected"] else {**row, "prompt": None}
        completion = next((row[name] for name in names if row[name]), None)
        return {"prompt": plain_messages(row["prompt"]), "completion": plain_messages(completion)}

    def is_complete(row: dict[str, Any]) -> bool:
        texts = (row["prompt"], row["completion"])
        return all(text.strip() if isinstance(text, str) else text for text in texts)

    # Given, because types cannot be inferred from rows without texts.
    types = dataset.features
    kept = {name: types[name] for name in ("tools", "chat_template_kwargs") if name in types}
    prompt = _type_of([types.get("prompt", types[names[0]])])
    features = Features({"prompt": prompt, "completion": _type_of([types[name] for name in names]), **kept})
    num_rows = len(dataset)
    with PartialState().local_main_process_first():
        unused = [name for name in dataset.column_names if name not in kept]
        dataset = dataset.map(to_completion, with_indices=True, remove_columns=unused, features=features)
        dataset = dataset.filter(is_complete)
    if len(dataset) < num_rows:
        PartialState().print(f"Stage 1 leaves out {num_rows - len(dataset)} of {num_rows} rows with empty texts.")
    return dataset


def _type_of(types: Sequence[Any]) -> Any:
    """Return the type that holds texts, or messages with the keys of all columns, of these `types`."""
    chat_names = {"from": "role", "value": "content"}
    keys: dict[str, Any] = {}
    for kind in types:
        message = getattr(kind, "feature", kind[0] if isinstance(kind, list) else None)
        for key, value in message.items() if isinstance(message, dict) else ():
            name = chat_names.get(key) or key
            keys.setdefault(name, Value("string") if name == "content" else value)
    known = [kind for kind in types if not (isinstance(kind, Value) and kind.dtype == "null")]
    return [keys] if keys else (known or types)[0]


def check_rows(
    dataset: Dataset, tokenizer: PreTrainedTokenizerBase, args: EDITConfig, stages: Sequence[int] = (1, 2)
) -> None:
    """
    Find out before stage 1 what the tokenizer, its chat template and stage 2 do to the rows.

    If both stages run, all rows are prepared for stage 2, as it will do it. Of stage 1 alone, the first conversations
    are rendered.

    Args:
        dataset ([`~datasets.Dataset`]):
            Pairs and completions.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]):
            Tokenizer with its chat template.
        args ([`EDITConfig`]):
            Options of stage 2.
        stages (`Sequence[int]`, *optional*, defaults to `(1, 2)`):
            Stages that run.

    Raises:
        PairError: If the template refuses a row, or leaves out a part of a chain; the row is named.
        ValueError: If there is no template for conversations, or no row is left to learn from.
    """
    if 1 not in stages:
        return  # the trainer of stage 2 will do it at once
    if 2 in stages:
        with PartialState().local_main_process_first(), _quiet():
            prepare_dual_cots(
                dataset,
                tokenizer,
                eos_token=tokenizer.eos_token,
                max_length=args.max_length,
                truncation_mode=args.truncation_mode,
                num_proc=args.dataset_num_proc,
            )
        return
    for number, row in enumerate(dataset.select(range(min(_NUM_RENDERED, len(dataset))))):
        chains = (row.get("chosen"), row.get("completion"))
        if not any(isinstance(chain, list) for chain in chains) or is_tokenized_row(row) or is_missing(row):
            continue
        try:
            tokenize_pair(row, tokenizer, tokenizer.eos_token)
        except PairError as error:
            raise PairError(f"Row {number} of the train dataset: {error}") from None


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the warnings of the preparation: stage 2 will say them."""
    logger = logging.getLogger(prepare_dual_cots.__module__)
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
