"""
Check the columns of dual-CoT datasets and turn every shape of TRL preference data into token IDs.

A dual-CoT dataset is a TRL preference dataset: `prompt`, `chosen` (the right chain) and `rejected` (the wrong chain),
as plain text or as messages. The prompt has its own column or is the common start of both chains. Tokenization
follows TRL's `DPOTrainer`, so a dataset gives the same tokens in both trainers. Truncation happens in
`data_collator.py`, because the full chains must be aligned first.

A row may also be a completion: a right chain without a rejected one, with `prompt` and `completion` as in TRL's
prompt-completion data.

Preparation drops the rows from which nothing can be learned. It counts them by reason and shows the counts.
"""

import difflib
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from copy import deepcopy
from importlib.metadata import version
from typing import Any

import jinja2
from accelerate import PartialState
from accelerate.logging import get_logger
from datasets import Dataset, Features, IterableDataset, Value
from transformers import PreTrainedTokenizerBase, ProcessorMixin
from trl.data_utils import (
    _tokenize,
    common_prefix_length,
    extract_prompt,
    get_dataset_column_names,
    is_conversational,
    maybe_convert_to_chatml,
    prepare_multimodal_messages,
)

from .deprecation import renamed
from .pair_checks import (
    CONTENT_KEYS,
    PairError,
    check_pair,
    is_completion,
    is_tokenized_row,
    plain_messages,
    read_tools,
)
from .text_checks import check_ids_of_texts, check_rendered
from .weighting import WEIGHT_COLUMNS, has_weight_columns, read_weights


logger = get_logger(__name__)

TEXT_COLUMNS = ("prompt", "chosen", "rejected")
# Columns of tokenized data. The columns of weights, named in `weighting.py`, are optional.
ID_COLUMNS = ("prompt_ids", "chosen_ids", "rejected_ids")
# Columns of completions, which have no rejected chain: text, and token IDs.
COMPLETION_COLUMNS = ("completion", "completion_ids")

REASONS = {
    "missing": "`prompt` is None or has no message, or `chosen`, `rejected` or `completion` is None or empty",
    "equal": "the tokens of both chains are equal",
    "no_room": "the prompt leaves no room for a completion under `max_length`",
}

# Roles of messages with what a tool returned, which may be nothing.
_TOOL_ROLES = ("tool", "function", "ipython")


__getattr__ = renamed(
    __name__,
    {
        "check_columns": "is_tokenized",
        "check_weights": "edit_trl.weighting.read_weights",
        "decode_part": "edit_trl.token_texts.decode_part",
        "decode_pieces": "edit_trl.token_texts.decode_pieces",
        "split_words": "edit_trl.token_texts.split_words",
    },
)


def is_tokenized(column_names: list[str], dataset_name: str = "train") -> bool:
    """
    Check that a dataset has the columns of a dual-CoT dataset.

    Args:
        column_names (`list[str]`):
            Columns of the dataset.
        dataset_name (`str`, *optional*, defaults to `"train"`):
            Name of the dataset in error messages.

    Returns:
        `bool`: Whether the dataset is already tokenized (`prompt_ids`, with `chosen_ids` and `rejected_ids` or with
        `completion_ids`).

    Raises:
        ValueError: If columns are missing or misspelt, or if a column holds images.

    Examples:

    ```python
    >>> is_tokenized(["prompt", "chosen", "rejected", "task"])
    False

    ```
    """
    images = {"image", "images"} & set(column_names)
    if images:
        raise ValueError(
            f"The {dataset_name} dataset must hold text alone, got the column `{min(images)}`. Key tokens are found "
            f"in text; train on the text of the pairs with `dataset.remove_columns({min(images)!r})`."
        )
    tokenized = any(column in column_names for column in (*ID_COLUMNS, "completion_ids"))
    # Columns of pairs with misspelt names count, so that they are errors and not ignored beside completions.
    has_pairs = any(
        difflib.get_close_matches(column, column_names, n=1, cutoff=0.75)
        for column in (*TEXT_COLUMNS[1:], *ID_COLUMNS[1:])
    )
    if tokenized:
        required: tuple[str, ...] = ID_COLUMNS
        if not has_pairs and "completion_ids" in column_names:
            required = ("prompt_ids",)
        elif any(column in column_names for column in WEIGHT_COLUMNS):
            required += WEIGHT_COLUMNS
    else:
        required = ("chosen", "rejected")  # the prompt of a pair may be implicit
        if "completion" in column_names:
            required = ("prompt", *required) if has_pairs else ("prompt",)
        weights = [column for column in WEIGHT_COLUMNS if column in column_names]
        if weights:
            raise ValueError(
                f"The {dataset_name} dataset has `{weights[0]}` but is not tokenized. Weights count tokens, so they "
                "need the tokens that they belong to: add the columns `prompt_ids`, `chosen_ids` and `rejected_ids`."
            )
    missing = [column for column in required if column not in column_names]
    # `prompt_id` is another thing than a prompt.
    others = [name for name in column_names if tokenized or not name.endswith(("_id", "_ids"))]
    if not tokenized and "prompt" not in column_names and not missing:
        # A prompt may be implicit, but a column with a misspelt name is an error.
        misspelt = difflib.get_close_matches(
            "prompt", [name for name in others if not name.startswith("prompt_")], n=1, cutoff=0.75
        )
        missing = ["prompt"] if misspelt else []
    if missing:
        hints = []
        for column in missing:
            nearest = difflib.get_close_matches(
                column, [name for name in others if name not in required], n=1, cutoff=0.6
            )
            if nearest:
                hints.append(f"rename `{nearest[0]}` to `{column}` with `dataset.rename_column()`")
        raise ValueError(
            f"The {dataset_name} dataset must have the columns {', '.join(f'`{c}`' for c in TEXT_COLUMNS)} (or, "
            f"tokenized, {', '.join(f'`{c}`' for c in ID_COLUMNS)}), but {', '.join(f'`{c}`' for c in missing)} is "
            f"missing from {sorted(column_names)}. `chosen` is the chain of thought with the right answer, `rejected` "
            f"the one with the wrong answer: {', '.join(hints) or 'add the missing columns'}."
        )
    return tokenized


def get_column_names(dataset: Dataset | IterableDataset, dataset_name: str = "train") -> list[str]:
    """
    Return the column names of a dataset that has at least one pair.

    Args:
        dataset ([`~datasets.Dataset`] or [`~datasets.IterableDataset`]):
            Dataset. If an `IterableDataset` does not know its columns, they are read from its first example.
        dataset_name (`str`, *optional*, defaults to `"train"`):
            Name of the dataset in error messages.

    Returns:
        `list[str]`: The column names.

    Raises:
        ValueError: If the dataset is empty.
    """
    with suppress(StopIteration):
        if not isinstance(dataset, Dataset):
            next(iter(dataset))  # a stream may know its columns and have no row
        if not isinstance(dataset, Dataset) or len(dataset) > 0:
            has_transform = isinstance(dataset, Dataset) and dataset.format["type"] == "custom"
            return list(dataset[0]) if has_transform else get_dataset_column_names(dataset)
    raise ValueError(
        f"The {dataset_name} dataset must have at least one pair, got none. Look at how it was loaded or filtered."
    )


def prepare_dual_cots(
    dataset: Dataset | IterableDataset,
    processing_class: PreTrainedTokenizerBase | ProcessorMixin,
    *,
    eos_token: str | None,
    max_length: int | None = None,
    truncation_mode: str = "keep_start",
    num_proc: int | None = None,
    dataset_name: str = "train",
    num_embeddings: int | None = None,
) -> Dataset | IterableDataset:
    """
    Tokenize a dual-CoT dataset and drop the rows from which nothing can be learned.

    Adds the columns `prompt_ids`, `chosen_ids` and `rejected_ids` (full length, never truncated) and keeps all other
    columns. The prompt ends where TRL's `DPOTrainer` ends it. Plain text gets an end-of-sequence token if it has none;
    conversations are rendered with the chat template. Tokenized data is used as it is. If at least one row is a
    completion, there is also the column `completion_ids`; for these rows `chosen_ids` and `rejected_ids` are empty.

    A row is dropped if the prompt is None, if a chain is None or empty, if the tokens of both chains are equal, or,
    with `"keep_start"`, if the prompt fills `max_length`. A warning gives the number of dropped rows by reason. An
    `IterableDataset` drops rows lazily and warns after 1, 10, 100, ... dropped rows. It is read here until its first
    row that is kept.

    Args:
        dataset ([`~datasets.Dataset`] or [`~datasets.IterableDataset`]):
            Preference dataset, in any of TRL's shapes.
        processing_class ([`~transformers.PreTrainedTokenizerBase`] or [`~transformers.ProcessorMixin`]):
            Tokenizer, with a chat template if the data is conversational.
        eos_token (`str` or `None`):
            Token that ends a plain-text completion.
        max_length (`int`, *optional*):
            Maximum length of prompt and completion together, in tokens.
        truncation_mode (`str`, *optional*, defaults to `"keep_start"`):
            Which end of a row longer than `max_length` the collator will keep.
        num_proc (`int`, *optional*):
            Number of processes. Ignored for an `IterableDataset`.
        dataset_name (`str`, *optional*, defaults to `"train"`):
            Name of the dataset in progress bars, warnings and errors.
        num_embeddings (`int`, *optional*):
            Number of tokens that the model knows, to refuse others.

    Returns:
        [`~datasets.Dataset`] or [`~datasets.IterableDataset`]: The prepared dataset.

    Raises:
        PairError: If a column of a row holds something else than its name says, the chat template leaves out a part
            of a chain, or the model does not know a token; the row is named.
        ValueError: If columns are missing or no pair is left.
    """
    PartialState()  # the logger needs it to find the main process
    if not isinstance(dataset, Dataset) or dataset.format["type"] != "custom":
        dataset = dataset.with_format(None)  # columns are read as lists, whatever the format was
    is_iterable = isinstance(dataset, IterableDataset)
    column_names = get_column_names(dataset, dataset_name)
    tokenized = is_tokenized(column_names, dataset_name)
    if not tokenized and "prompt" not in column_names:
        _warn_of_implicit_text_prompt(next(iter(dataset)), dataset_name)

    columns: tuple[str, ...] = ID_COLUMNS
    if any(column in column_names for column in COMPLETION_COLUMNS):
        columns = (*ID_COLUMNS, "completion_ids")
    map_kwargs: dict[str, Any] = {}
    if not is_iterable:
        map_kwargs = {"num_proc": num_proc, "desc": f"Tokenizing {dataset_name} dataset"}
        # `datasets` cannot infer the types: the first batch may have only dropped pairs, which have empty lists.
        features = dict(dataset.features)
        new_columns = [column for column in columns if not tokenized or column not in column_names]
        features.update({column: [Value("int32")] for column in new_columns})
        added = {"_drop_reason": Value("string"), "_split_prompt": Value("string")}
        map_kwargs["features"] = Features({**features, **added})
    prepared = dataset.map(
        _tokenize_example,
        with_indices=True,
        fn_kwargs={
            "processing_class": processing_class,
            "eos_token": eos_token,
            "max_length": max_length,
            "truncation_mode": truncation_mode,
            "dataset_name": dataset_name,
            "num_embeddings": num_embeddings,
            "columns": columns,
            # The version is part of the cache fingerprint: tokens cached by another version are not used.
            "code_version": version("edit-trl"),
        },
        **map_kwargs,
    )
    counter = _DropCounter(dataset_name)
    if is_iterable:
        _check_any_is_kept(prepared, dataset_name, max_length)
        return prepared.filter(counter.keep).remove_columns(["_drop_reason", "_split_prompt"])

    split_prompts = [text for text in prepared["_split_prompt"] if text]
    if split_prompts and counter.is_main_process:
        _warn_of_split_prompt(split_prompts[0], f"{len(split_prompts)} of {len(prepared)} pairs of the {dataset_name}")
    reasons = prepared["_drop_reason"]
    kept = [i for i, reason in enumerate(reasons) if reason is None]
    if len(kept) < len(reasons):
        counter.counts.update(reason for reason in reasons if reason is not None)
        counter.warn(len(reasons))
        prepared = prepared.select(kept)
    if not kept:
        raise counter.nothing_left(len(reasons), max_length)
    unused = ["_drop_reason", "_split_prompt"]
    if "completion_ids" in columns and not any(len(ids) for ids in prepared["completion_ids"]):
        unused.append("completion_ids")
    return prepared.remove_columns(unused)


def _check_any_is_kept(prepared: IterableDataset, dataset_name: str, max_length: int | None) -> None:
    """Read lazy data until its first pair that is kept. Without one, a trainer would end at once, after no step."""
    counter = _DropCounter(dataset_name)
    num_seen = 0
    for num_seen, example in enumerate(prepared, 1):
        if example["_drop_reason"] is None:
            return
        counter.counts[example["_drop_reason"]] += 1
        if num_seen in (1_000, 10_000) or num_seen % 100_000 == 0:  # data without an end would never be refused
            counter.warn(num_seen)
    raise counter.nothing_left(num_seen, max_length)


class _DropCounter:
    """Counts dropped pairs by reason. For lazy data it warns after 1, 10, 100, ... dropped pairs."""

    def __init__(self, dataset_name: str) -> None:
        self.dataset_name = dataset_name
        self.counts: Counter[str] = Counter()
        self.has_warned_of_split_prompt = False
        # Read here and not in `keep`: data loader workers filter lazy data, and they are not training processes.
        self.is_main_process = PartialState().is_main_process
        self.num_seen = 0

    def keep(self, example: dict[str, Any]) -> bool:
        self.num_seen += 1
        if example["_split_prompt"] and self.is_main_process and not self.has_warned_of_split_prompt:
            self.has_warned_of_split_prompt = True
            _warn_of_split_prompt(example["_split_prompt"], f"At least one pair of the {self.dataset_name}")
        reason = example["_drop_reason"]
        if reason is not None:
            self.counts[reason] += 1
            num_dropped = sum(self.counts.values())
            if num_dropped == 10 ** (len(str(num_dropped)) - 1):
                self.warn(self.num_seen)
        return reason is None

    def warn(self, num_seen: int) -> None:
        if self.is_main_process:
            logger.logger.warning(
                f"Dropped {sum(self.counts.values())} of {num_seen} rows of the {self.dataset_name} dataset: "
                f"{self.summary()}."
            )

    def nothing_left(self, num_seen: int, max_length: int | None) -> ValueError:
        return ValueError(
            f"The {self.dataset_name} dataset must have at least one pair to learn from, but none of its {num_seen} "
            f"is left: {self.summary()}. Check its first rows and the value of `max_length` "
            f"({max_length})."
        )

    def summary(self) -> str:
        return "; ".join(f"{count} where {REASONS[reason]}" for reason, count in sorted(self.counts.items()))


def _tokenize_example(
    example: dict[str, Any],
    row: int,
    processing_class: PreTrainedTokenizerBase | ProcessorMixin,
    eos_token: str | None,
    max_length: int | None,
    truncation_mode: str,
    dataset_name: str,
    num_embeddings: int | None,
    columns: tuple[str, ...],
    code_version: str,
) -> dict[str, Any]:
    """Return the token IDs of one row, or empty lists and the reason to drop the row."""
    try:
        output = _tokenize_row(example, processing_class, eos_token, max_length, truncation_mode, columns)
        if num_embeddings is not None:
            for column in columns:
                _check_vocabulary(column, output[column], num_embeddings)
        return output
    except PairError as error:
        raise PairError(f"Row {row} of the {dataset_name} dataset: {error}") from None


def _tokenize_row(
    example: dict[str, Any],
    processing_class: PreTrainedTokenizerBase | ProcessorMixin,
    eos_token: str | None,
    max_length: int | None,
    truncation_mode: str,
    columns: tuple[str, ...],
) -> dict[str, Any]:
    check_pair(example)
    output: dict[str, Any] = {column: [] for column in columns}
    reason, split_prompt = None, None
    if is_tokenized_row(example) and example.get("prompt_ids") is None:
        reason = "missing"
    elif is_tokenized_row(example):
        check_ids_of_texts(example, getattr(processing_class, "tokenizer", processing_class))
        given = {column: example.get(column) for column in columns}  # lists, or arrays
        output.update({column: getattr(ids, "tolist", lambda ids=ids: ids or [])() for column, ids in given.items()})
    elif is_missing(example):
        reason = "missing"
    else:
        ids, split_prompt = tokenize_pair(example, processing_class, eos_token)
        output.update(ids)

    is_pair = bool(output["chosen_ids"] and output["rejected_ids"])
    has_weights = has_weight_columns(example)
    if has_weights and output.get("completion_ids"):
        raise PairError(
            "`chosen_weights` and `rejected_weights` must be None for a row with `completion_ids`, got some. All "
            "tokens of a completion have the weight `completion_weight`; make a pair of it to give each its own."
        )
    if reason is None and not is_pair and not output.get("completion_ids"):
        reason = "missing"
    elif is_pair and has_weights:
        for side in ("chosen", "rejected"):
            read_weights(example, side)
    elif is_pair and output["chosen_ids"] == output["rejected_ids"]:
        reason = "equal"
    is_full = max_length is not None and len(output["prompt_ids"]) >= max_length
    if reason is None and is_full and truncation_mode == "keep_start":
        reason = "no_room"
    return {**output, "_drop_reason": reason, "_split_prompt": split_prompt}


def _check_vocabulary(column: str, ids: Sequence[int], num_embeddings: int) -> None:
    largest = max(ids, default=0)
    if largest >= num_embeddings:
        raise PairError(
            f"`{column}` must be tokens of the model, which has {num_embeddings}, got {largest}. The tokens are those "
            "of another tokenizer: pass the model's own as `processing_class`, or tokenize the data with it."
        )


def tokenize_texts(
    examples: Iterable[Mapping[str, Any]], tokenizer: PreTrainedTokenizerBase, eos_token: str | None
) -> dict[str, list[int]]:
    """
    Tokenize the texts of several rows at once, which is quicker than row by row.

    Args:
        examples (`Iterable[Mapping[str, Any]]`):
            Pairs and completions, after [`~pair_checks.check_pair`]. Rows whose columns are not all plain texts are
            left out.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]):
            Tokenizer.
        eos_token (`str` or `None`):
            Token that ends a plain-text completion.

    Returns:
        `dict[str, list[int]]`: Token IDs by text, for [`tokenize_pair`].
    """
    texts: dict[str, None] = {}
    for example in examples:
        values = [example.get(name) for name in ("prompt", *_chain_names(example))]
        prompt, *chains = [value for value in values if isinstance(value, str)] or [""]
        if len(chains) + 1 == len(values):
            texts.update(dict.fromkeys([prompt, *(prompt + _ended(chain, eos_token) for chain in chains)]))
    if not texts:
        return {}
    return dict(zip(texts, tokenizer(text=list(texts), return_attention_mask=False)["input_ids"], strict=True))


def _chain_names(example: Mapping[str, Any]) -> tuple[str, ...]:
    return ("completion",) if is_completion(example) else ("chosen", "rejected")


def _ended(text: str, eos_token: str | None) -> str:
    return text if eos_token is None or text.endswith(eos_token) else text + eos_token


def tokenize_pair(
    example: dict[str, Any],
    processing_class: PreTrainedTokenizerBase | ProcessorMixin,
    eos_token: str | None,
    known_ids: Mapping[str, list[int]] | None = None,
) -> tuple[dict[str, list[int]], str | None]:
    """
    Tokenize one row as [`prepare_dual_cots`] does.

    Args:
        example (`dict[str, Any]`):
            Pair with `chosen`, `rejected` and `prompt`, after [`~pair_checks.check_pair`]. Without `prompt`, their
            common start is the prompt. Or a completion, with `prompt` and `completion`.
        processing_class ([`~transformers.PreTrainedTokenizerBase`] or [`~transformers.ProcessorMixin`]):
            Tokenizer, with a chat template if the row is conversational.
        eos_token (`str` or `None`):
            Token that ends a plain-text completion.
        known_ids (`Mapping[str, list[int]]`, *optional*):
            Token IDs of plain texts, from [`tokenize_texts`]. Texts that are not in it are tokenized.

    Returns:
        `tuple[dict[str, list[int]], str | None]`: The first item has `prompt_ids`, and `chosen_ids` and `rejected_ids`
        or `completion_ids`. The second item is `None`, or the end of the prompt's text that was left out because the
        tokens of prompt and completion together differ from the tokens of the prompt alone.

    Raises:
        PairError: If the chat template refuses the messages, or leaves out a part of a chain.
    """
    names = _chain_names(example)
    row = {name: example[name] for name in ("prompt", *names) if name in example}
    is_plain = all(isinstance(value, str) for value in row.values())
    if not is_plain:
        # The row is copied because the conversion renames keys of the messages in place.
        row = maybe_convert_to_chatml(deepcopy(row))
        if not isinstance(processing_class, ProcessorMixin):
            row = {name: plain_messages(value) for name, value in row.items()}
    if "prompt" not in row:
        row = extract_prompt(row)
        if not is_plain and not row["prompt"]:
            raise PairError(
                "`chosen` and `rejected` must begin with the same messages, their prompt, but already their first "
                "ones differ. Correct the row, or give the dataset a column `prompt`."
            )
    prompt, *chains = (row[column] for column in ("prompt", *names))
    template_kwargs: dict[str, Any] = {}
    if not is_plain and is_conversational(row):
        template_kwargs = {
            "tools": read_tools(example.get("tools")),
            **(example.get("chat_template_kwargs") or {}),
        }
        prompt_kwargs = {"add_generation_prompt": True, **template_kwargs}
    else:
        prompt_kwargs = {}
        chains = [_ended(text, eos_token) for text in chains]

    def tokenize(part: Any, **options: Any) -> list[int]:
        known = known_ids.get(part) if known_ids and is_plain else None
        return list(_tokenize(processing_class, part, **options)["input_ids"] if known is None else known)

    try:
        prompt_ids = tokenize(prompt, **prompt_kwargs)
        chain_ids = [tokenize(prompt + chain, **template_kwargs) for chain in chains]
        if not is_plain and is_conversational(row):
            for name, chain in zip(names, chains, strict=True):
                _check_rendering(name, prompt, chain, processing_class, template_kwargs)
    # A template that adds a text to something else, for example, raises errors of Python.
    except (jinja2.TemplateError, TypeError, AttributeError, LookupError) as error:
        if not is_conversational(row):
            raise
        raise PairError(
            f"The chat template of the tokenizer refuses the messages: {error}. Look at their roles, their order and "
            "their contents."
        ) from error
    # The prompt must be the same for both chains, so it ends at the first token where either chain differs from it.
    prompt_length = min(common_prefix_length(prompt_ids, ids) for ids in chain_ids)
    split_prompt = None
    if prompt_length < len(prompt_ids):
        split_prompt = processing_class.decode(prompt_ids[prompt_length:])
    completions = {f"{name}_ids": ids[prompt_length:] for name, ids in zip(names, chain_ids, strict=True)}
    return {"prompt_ids": prompt_ids[:prompt_length], **completions}, split_prompt


def _check_rendering(
    column: str,
    prompt: list[dict[str, Any]],
    chain: list[dict[str, Any]],
    processing_class: PreTrainedTokenizerBase | ProcessorMixin,
    template_kwargs: dict[str, Any],
) -> None:
    """Refuse a chain of which the chat template leaves out a part."""

    def render(messages: list[dict[str, Any]], **options: Any) -> str:
        if isinstance(processing_class, ProcessorMixin):
            messages = prepare_multimodal_messages(messages)  # as `_tokenize` does
        return processing_class.apply_chat_template(messages, tokenize=False, **options, **template_kwargs)

    tokenizer = getattr(processing_class, "tokenizer", processing_class)
    template = getattr(tokenizer, "name_or_path", "") or type(tokenizer).__name__
    rendered = render(prompt + chain)
    # Without the generation prompt, which may be the beginning of the answer.
    before = ""
    with suppress(jinja2.TemplateError):
        before = render(prompt) if prompt else ""
    check_rendered(column, chain, rendered[len(os.path.commonprefix([before, rendered])) :], template)
    questions = [message for message in prompt if message.get("role") == "user"]
    check_rendered("prompt", questions[-1:], rendered, template)


def is_missing(example: dict[str, Any]) -> bool:
    """
    Tell whether a text of a row is None, empty or blank. Only the prompt may be an empty text, or end in a tool that
    returned nothing; that of a pair may have no column.

    Args:
        example (`dict[str, Any]`):
            Pair or completion with texts or messages, after [`~pair_checks.check_pair`].

    Returns:
        `bool`: Whether at least one text is missing.
    """
    columns = ("prompt", "completion") if is_completion(example) else TEXT_COLUMNS
    for column in columns:
        if columns == TEXT_COLUMNS and column == "prompt" and column not in example:
            continue
        value = example.get(column)
        if isinstance(value, list):
            # Only the last message is checked. An assistant message may have tool calls or reasoning alone.
            last = value[-1] if value else {}
            if column == "prompt" and last.get("role", last.get("from")) in _TOOL_ROLES:
                continue
            parts = [last.get(key) for key in CONTENT_KEYS]
            if not any(part.strip() if isinstance(part, str) else part for part in parts):
                return True
        elif value is None or (column != "prompt" and not value.strip()):
            return True
    return False


def _warn_of_implicit_text_prompt(example: dict[str, Any], dataset_name: str) -> None:
    if isinstance(example.get("chosen"), str):
        logger.warning(
            f"The {dataset_name} dataset has no `prompt` column and its chains are plain text, so the longest common "
            "start of both chains is taken as the prompt, as TRL does. Dual chains-of-thought also share the start of "
            "their reasoning, which then counts as prompt and not as completion. Add a `prompt` column to separate "
            "them."
        )


def _warn_of_split_prompt(text: str, where: str) -> None:
    logger.logger.warning(
        f"{where} dataset: the tokenized prompt is not a prefix of the tokenized prompt+completion, usually because "
        "the chat template renders the prompt alone differently or because tokens merge across the boundary. The "
        "completions start where they diverge, and this end of the prompt is left out of the training sequence: "
        f"{text!r}. The model is trained on a context that differs from the one it sees at inference. To avoid it, "
        "use a chat template that renders the prompt the same way in both cases, or end the prompt on a token "
        "boundary."
    )
