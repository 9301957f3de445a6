"""
Check the arguments of `EDITTrainer` before a model is loaded.

Arguments that `SFTTrainer` or `DPOTrainer` take and `EDITTrainer` does not are refused with an error that says what to
use instead.
"""

import dataclasses
import difflib
from collections.abc import Callable
from contextlib import suppress
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.logging import get_logger
from accelerate.utils import DistributedType
from datasets import Dataset, IterableDataset
from peft import PeftConfig
from transformers import (
    AutoConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    ProcessorMixin,
    TrainerCallback,
    TrainingArguments,
)
from trl import SFTConfig
from trl.trainer.base_config import _BaseConfig
from trl.trainer.utils import get_config_model_id

from .data_utils import ID_COLUMNS, get_column_names, is_tokenized
from .edit_config import EDITConfig
from .weighting import completion_weight


logger = get_logger(__name__)

# Arguments of other trainers, and what to use instead.
REPLACEMENTS = {
    "ref_model": "EDIT has no reference model: leave it out. To keep the student near its start, set "
    "`chosen_other_weight` in `EDITConfig`",
    "beta": "EDIT's β is the strength of the push away from mistakes: set `rejected_key_weight` in `EDITConfig`",
    "tokenizer": "pass it as `processing_class`",
    "compute_loss_func": "the loss is that of key reasoning steps learning: subclass `EDITTrainer` and override "
    "`compute_loss`",
    "compute_metrics": "logits exist for scored tokens only: read the metrics under `eval_edit/`, or score "
    "generations after training",
    "preprocess_logits_for_metrics": "logits exist for scored tokens only: read the metrics under `eval_edit/`",
    "formatting_func": "a pair is not one text: give the columns `prompt`, `chosen` and `rejected` with "
    "`dataset.map()`",
}

# Types of adapters that cannot work, by PEFT's name, and why.
_REFUSED_ADAPTERS = {
    "LILY": "its router averages over all tokens of a batch, so that a chain would depend on the chains beside it",
    "POLY": "its layers ask for the `task_ids` of a row, and pairs have none",
    "XLORA": "it runs the model twice for one forward pass, and logits of the scored tokens can be chosen in one only",
}
# Types of adapters that add a loss to the loss of the model, and the option that is its strength.
_LOSSES_OF_ADAPTERS = {"ADALORA": "orth_reg_weight", "SHADOW": "auxiliary_loss_weight"}


def _is_optimizers(value: Any) -> bool:
    return isinstance(value, tuple) and len(value) == 2


def _is_optimizer_class(value: Any) -> bool:
    return isinstance(value, tuple) and len(value) == 2 and isinstance(value[0], type) and isinstance(value[1], dict)


def _is_callbacks(value: Any) -> bool:
    kinds = (TrainerCallback, type)
    return isinstance(value, (list, tuple)) and all(isinstance(callback, kinds) for callback in value)


# Arguments of the trainer: what tells whether a value is of their kind, and the kind in words.
_KINDS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "model": (lambda value: isinstance(value, (str, torch.nn.Module)), "the name of a model or a model"),
    "data_collator": (callable, "a data collator, a function of a list of examples"),
    "processing_class": (
        lambda value: isinstance(value, (PreTrainedTokenizerBase, ProcessorMixin)),
        "a tokenizer or a processor",
    ),
    "callbacks": (_is_callbacks, "a list of callbacks"),
    "optimizers": (_is_optimizers, "a tuple of an optimizer and a learning-rate scheduler, either may be `None`"),
    "optimizer_cls_and_kwargs": (_is_optimizer_class, "a tuple of an optimizer class and a dictionary"),
    "peft_config": (lambda value: isinstance(value, PeftConfig), "a `PeftConfig` such as `LoraConfig`"),
}


def refuse_arguments(refused: dict[str, Any], unknown: dict[str, Any], parameters: list[str]) -> None:
    """
    Refuse arguments that other trainers take and `EDITTrainer` does not.

    Args:
        refused (`dict[str, Any]`):
            Values of the parameters that are in the signature only to be refused with a helpful error.
        unknown (`dict[str, Any]`):
            Keyword arguments that are not in the signature.
        parameters (`list[str]`):
            Names of the parameters in the signature.

    Raises:
        ValueError: If an argument of another trainer is set. The error says what to use instead.
        TypeError: If an argument is unknown.
    """
    for name, value in {**refused, **unknown}.items():
        if name in REPLACEMENTS and (value is not None or name in unknown):
            raise ValueError(f"`EDITTrainer` does not take `{name}`: {REPLACEMENTS[name]}.")
        if name in unknown:
            nearest = difflib.get_close_matches(name, parameters, n=1)
            raise TypeError(
                f"`EDITTrainer` has no argument `{name}`. "
                + (f"Did you mean `{nearest[0]}`?" if nearest else f"It takes {', '.join(parameters)}.")
            )


def as_edit_config(args: Any, model: Any) -> EDITConfig:
    """
    Convert the `args` of a trainer to an `EDITConfig`.

    Args:
        args ([`EDITConfig`], [`~trl.SFTConfig`], [`~transformers.TrainingArguments`] or `None`):
            Configuration. `None` gives a default configuration, with an output folder named after the model.
        model (`str` or [`~transformers.PreTrainedModel`]):
            The student.

    Returns:
        [`EDITConfig`]: `args` itself if it is an `EDITConfig`. Otherwise an `EDITConfig` with the values of `args`,
        with a warning.

    Raises:
        TypeError: If `args` has another type, or has fields that an `EDITConfig` does not have.
    """
    if isinstance(args, EDITConfig):
        return args
    if args is None:
        name = model if isinstance(model, str) else get_config_model_id(model.config) or type(model).__name__
        return EDITConfig(output_dir=f"{Path(name).name}-EDIT")
    if not isinstance(args, TrainingArguments):
        hint = ""
        if isinstance(args, torch.nn.Module):
            hint = " `DPOTrainer` takes its `ref_model` second; EDIT has no reference model, leave it out."
        raise TypeError(
            f"`args` must be an `EDITConfig`, got `{type(args).__name__}`.{hint} Pass "
            "`args=EDITConfig(output_dir=...)`."
        )
    if isinstance(args, _BaseConfig) and not isinstance(args, SFTConfig):
        raise TypeError(
            f"`args` must be an `EDITConfig`, got a `{type(args).__name__}`. Its loss has other parameters (DPO's "
            "`beta` is not EDIT's β), so it is not converted: pass `args=EDITConfig(output_dir=...)`, with "
            "`rejected_key_weight` as the strength of the push away from mistakes."
        )
    # `to_dict` cannot be used: it hides tokens (also `eos_token`), loses `parallelism_config` and changes nested
    # dictionaries.
    values = {f.name: deepcopy(getattr(args, f.name)) for f in dataclasses.fields(args) if f.init}
    extra = sorted(values.keys() - {f.name for f in dataclasses.fields(EDITConfig)})
    if extra:
        raise TypeError(
            f"`args` must be an `EDITConfig`, got a `{type(args).__name__}` with fields of its own: "
            f"{', '.join(f'`{name}`' for name in extra)}. These fields would be lost; derive the class from "
            "`EDITConfig`."
        )
    metric = values["metric_for_best_model"] or ""
    if "edit/" in metric and values["greater_is_better"] is not metric.endswith("loss"):
        values["greater_is_better"] = None  # transformers has derived it from the name, and `EDITConfig` knows it
    logger.warning(
        f"`args` is a `{type(args).__name__}` and was converted to an `EDITConfig` with the same values, including "
        f"its learning rate of {args.learning_rate:g}; EDIT's own default is 5e-6. Pass an `EDITConfig` to silence "
        "this."
    )
    return EDITConfig(**values)


def check_kinds(arguments: dict[str, Any]) -> None:
    """
    Refuse arguments of the wrong kind, such as those that stand in the place of another.

    Args:
        arguments (`dict[str, Any]`):
            Arguments by name. `None` is always fine.

    Raises:
        TypeError: If one is of another kind than its name says.
    """
    for name, value in arguments.items():
        is_right, expected = _KINDS[name]
        if value is None or is_right(value):
            continue
        hint = ""
        if isinstance(value, TrainingArguments):
            hint = (
                " A configuration is the second argument, also for who comes from `DPOTrainer`, whose second argument "
                "is its `ref_model`; EDIT has none."
            )
        raise TypeError(
            f"`{name}` must be {expected}, got `{type(value).__name__}`.{hint} Pass arguments by name: "
            f"`EDITTrainer(model, args=..., train_dataset=...)`."
        )


def check_model(model: Any, args: EDITConfig) -> None:
    """
    Refuse a model that is not a causal language model, before it is loaded.

    Args:
        model (`str` or [`~transformers.PreTrainedModel`]):
            The student.
        args ([`EDITConfig`]):
            Configuration. Its `model_init_kwargs` and `trust_remote_code` are used to load the model's config.

    Raises:
        ValueError: If the model is an encoder-decoder or has no language-model head.
    """
    config = _config(model, args)
    if config is not None and getattr(config, "is_encoder_decoder", False):
        raise ValueError(
            f"`model` must be a causal (decoder-only) language model, got the encoder-decoder `{config.model_type}`. "
            "Its decoder does not see prompt and completion as one text; pass a decoder-only student."
        )
    if isinstance(model, PreTrainedModel) and model.get_output_embeddings() is None:
        raise ValueError(
            f"`model` must be a causal language model, got `{type(model).__name__}`, which has no language-model "
            "head. Load it with `AutoModelForCausalLM.from_pretrained(...)`, or pass its name."
        )


def count_tokens(model: Any, args: EDITConfig) -> int | None:
    """
    Return the number of tokens that a model knows, before it is loaded.

    Args:
        model (`str` or [`~transformers.PreTrainedModel`]):
            The student.
        args ([`EDITConfig`]):
            Configuration, as for [`check_model`].

    Returns:
        `int` or `None`: The size of its vocabulary. `None` if its config cannot be loaded or does not say.
    """
    config = _config(model, args)
    text_config = config.get_text_config() if hasattr(config, "get_text_config") else config
    return getattr(text_config, "vocab_size", None)


def _config(model: Any, args: EDITConfig) -> Any:
    if not isinstance(model, str):
        return getattr(model, "config", None)
    options = {key: value for key, value in (args.model_init_kwargs or {}).items() if key in ("revision", "token")}
    with suppress(OSError, ValueError):  # if it cannot be loaded, `SFTTrainer` raises the error
        return AutoConfig.from_pretrained(model, trust_remote_code=args.trust_remote_code, **options)
    return None


def check_adapter(peft_config: Any, model: Any) -> None:
    """
    Refuse adapters whose chains would not be independent, or whose training needs more than the loss of EDIT.

    Args:
        peft_config ([`~peft.PeftConfig`] or `None`):
            Configuration of a new adapter.
        model (`str`, [`~transformers.PreTrainedModel`] or [`~peft.PeftModel`]):
            The student, with or without adapters.

    Raises:
        ValueError: If an adapter uses prompt learning, is of a kind that cannot work, or adds a loss of its own.
    """
    configs = [peft_config, *(getattr(model, "peft_config", None) or {}).values()]
    for config in configs:
        if getattr(config, "is_prompt_learning", False):
            raise ValueError(
                f"`EDITTrainer` does not support prompt learning, got `{type(config).__name__}`. Its virtual tokens "
                "shift the positions of the scored tokens; pass a `LoraConfig` as `peft_config`."
            )
        kind = getattr(getattr(config, "peft_type", None), "value", None)
        if kind in _REFUSED_ADAPTERS:
            raise ValueError(
                f"`EDITTrainer` does not support `{type(config).__name__}`: {_REFUSED_ADAPTERS[kind]}. Pass a "
                "`LoraConfig` as `peft_config`."
            )
        option = _LOSSES_OF_ADAPTERS.get(str(kind))
        if option and getattr(config, option, 0) != 0:
            raise ValueError(
                f"`EDITTrainer` does not support `{type(config).__name__}({option}={getattr(config, option)})`. This "
                "loss is added to the loss that a model computes from labels, and EDIT computes its own loss. Set "
                f"`{option}=0.0`, or pass a `LoraConfig` as `peft_config`."
            )


def check_engine(accelerator: Accelerator, args: EDITConfig) -> None:
    """
    Refuse what accelerate turns on and EDIT cannot use, and what is asked for and accelerate does not turn on.

    Args:
        accelerator ([`~accelerate.Accelerator`]):
            Accelerator of the trainer.
        args ([`EDITConfig`]):
            Configuration.

    Raises:
        ValueError: If it shards sequences, if `fsdp` or `deepspeed` would have no effect, or if processes would get
            different numbers of batches.
    """
    parallelism = accelerator.parallelism_config  # may come from an accelerate config and not from `args`
    if parallelism is not None and (parallelism.sp_enabled or parallelism.cp_enabled):
        raise ValueError(
            "`EDITTrainer` does not support sequence or context parallelism, but the accelerate configuration turns "
            "it on. Scored tokens are positions in whole rows; set `sp_size=1` and `cp_size=1`."
        )
    if accelerator.num_processes > 1 and not accelerator.even_batches and not args.dataloader_drop_last:
        raise ValueError(
            'With several processes, `accelerator_config={"even_batches": False}` needs `dataloader_drop_last=True`, '
            "got `False`. A process with fewer rows would end first, and the others would fail. Set it, or "
            "leave `even_batches` out: repeated rows do not count in an evaluation."
        )
    engines = {"fsdp": DistributedType.FSDP, "deepspeed": DistributedType.DEEPSPEED}
    for option, engine in engines.items():
        if getattr(args, option) and accelerator.distributed_type != engine:
            raise ValueError(
                f"`{option}` is set, but accelerate runs {accelerator.distributed_type.value} and would ignore it: "
                f"every process would hold the whole student. Train on a machine with a GPU for each process, or "
                f"leave `{option}` out."
            )


def check_datasets(train_dataset: Any, eval_dataset: Any, args: EDITConfig) -> None:
    """
    Check the types and the columns of the datasets, before a model is loaded.

    Args:
        train_dataset ([`~datasets.Dataset`] or [`~datasets.IterableDataset`]):
            Dataset to train on.
        eval_dataset ([`~datasets.Dataset`], [`~datasets.IterableDataset`], `dict` of them or `None`):
            Datasets to evaluate on.
        args ([`EDITConfig`]):
            Configuration, with `dataset_kwargs`.

    Raises:
        TypeError: If a dataset has another type.
        ValueError: If columns are missing, if a dataset has completions and there is no weight for them, or if
            `skip_prepare_dataset` is set and a dataset is not tokenized.
    """
    is_prepared = (args.dataset_kwargs or {}).get("skip_prepare_dataset", False)
    named = {"train": train_dataset}
    named.update(eval_dataset if isinstance(eval_dataset, dict) else {"eval": eval_dataset})
    for name, dataset in named.items():
        if dataset is None and eval_dataset is None and name != "train":
            continue
        if not isinstance(dataset, (Dataset, IterableDataset)):
            raise TypeError(
                f"`{name if name == 'train' else 'eval'}_dataset` must be a `datasets.Dataset` or `IterableDataset`, "
                f"got `{type(dataset).__name__}`. Load one with `datasets.load_dataset(..., split='train')`."
            )
        column_names = get_column_names(dataset, name)
        if is_prepared and isinstance(dataset, Dataset) and dataset.format["type"] == "custom":
            continue  # the transform of the dataset makes the columns
        tokenized = is_tokenized(column_names, name)
        if not {"chosen", "chosen_ids"} & set(column_names):
            completion_weight(args)  # without pairs, all rows are completions
        if is_prepared and not tokenized:
            raise ValueError(
                f"The {name} dataset must be tokenized, since `skip_prepare_dataset` is set, got the columns "
                f"{sorted(column_names)}. Leave `skip_prepare_dataset` out, or add the columns "
                f"{', '.join(f'`{column}`' for column in ID_COLUMNS)}."
            )
