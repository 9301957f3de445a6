"""
The EDIT trainer: TRL's `SFTTrainer` with the data, the loss and the metrics of dual chains-of-thought.

All knowledge of TRL's and transformers' internals lives here; `tests/test_internals.py` names each of them. What is
trained is decided elsewhere: columns in `data_utils.py`, weights in `data_collator.py`, the objective in `loss.py`.

Two things would surprise. The language-model head sees the scored tokens alone: a hook on it picks their hidden states,
so the model's own forward, with its own scaling and soft-capping, gives logits for those and no others. And the loss is
divided by the pairs of the whole optimiser step, over accumulation steps and processes alike, whatever
`average_tokens_across_devices` says.

Paper: https://huggingface.co/papers/2405.19737
"""

import dataclasses
import difflib
import inspect
import math
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from accelerate.logging import get_logger
from accelerate.utils import is_peft_model
from datasets import Dataset, DatasetDict, IterableDataset, IterableDatasetDict
from transformers import (
    AutoConfig,
    DataCollator,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    ProcessorMixin,
    TrainerCallback,
    TrainingArguments,
)
from transformers.trainer_utils import EvalLoopOutput, PredictionOutput
from trl import SFTConfig, SFTTrainer
from trl.data_utils import common_prefix_length
from trl.trainer.base_config import _BaseConfig
from trl.trainer.utils import get_config_model_id, global_then_local_main_first, selective_log_softmax_and_entropy

from .data_collator import DataCollatorForDualCoT
from .data_utils import ID_COLUMNS, get_column_names, is_tokenized, prepare_dual_cots
from .edit_config import EDITConfig
from .layouts import attention_masks, choose_layout, to_padded
from .loss import is_gated, krsl_loss, weighted_token_losses
from .weighting import WEIGHT_COLUMNS


logger = get_logger(__name__)

# Root mean square difference, in nats, that the log-probabilities of the same tokens may have in two layouts, by whether
# the model computes in fp32. Rounding gives up to 4e-6 in fp32 and 6e-2 in bf16 (SmolLM2-135M); a mask that lets branches
# see each other 0.9 and more, and 5e-4 in a model with random weights; positions that do not restart 0.3 and 1e-4.
_LAYOUT_TOLERANCE = {True: 5e-5, False: 0.15}

# Logits of the scored tokens that are held at once, over tokens and vocabulary: 512 MiB in fp32, a few times that with
# what is computed from them. More go through TRL's fused head. Tokens of the key kind alone stay far below.
_MAX_LOGITS = 2**27

_CITATION = """\
@inproceedings{dai2025capture,
    title        = {{Capture the Key in Reasoning to Enhance CoT Distillation Generalization}},
    author       = {Dai, Chengwei and Li, Kun and Zhou, Wei and Hu, Songlin},
    year         = 2025,
    booktitle    = {Proceedings of the 63rd Annual Meeting of the Association for Computational Linguistics},
    url          = {https://aclanthology.org/2025.acl-long.21},
}

@misc{dai2024beyond,
    title        = {{Beyond Imitation: Learning Key Reasoning Steps from Dual Chain-of-Thoughts in Reasoning Distillation}},
    author       = {Dai, Chengwei and Li, Kun and Zhou, Wei and Hu, Songlin},
    year         = 2024,
    eprint       = {2405.19737},
    archivePrefix= {arXiv},
}"""

# Arguments of other trainers, and what does their work here.
_REPLACEMENTS = {
    "ref_model": "EDIT has no reference model: leave it out. To keep the student near its start, set "
    "`chosen_other_weight` in `EDITConfig`",
    "beta": "EDIT's β is the strength of the push away from mistakes: set `rejected_key_weight` in `EDITConfig`",
    "tokenizer": "pass it as `processing_class`",
    "compute_loss_func": "the loss is that of key reasoning steps learning: subclass `EDITTrainer` and override "
    "`compute_loss`",
    "compute_metrics": "logits exist for scored tokens only: read the metrics under `eval_edit/`, or score generations "
    "after training",
    "preprocess_logits_for_metrics": "logits exist for scored tokens only: read the metrics under `eval_edit/`",
    "formatting_func": "a pair is not one text: give the columns `prompt`, `chosen` and `rejected` with `dataset.map()`",
}

# Sums over scored tokens that each chain contributes to the metrics.
_SUMS = (
    "chains",
    "loss",
    "scored",
    "entropy",
    "top1",
    "key",
    "key_log_probs",
    "key_top1",
    "pushed_away",
    "gated",
    "completion_tokens",
    "key_before_truncation",
    "in_pair_without_key",
)


class EDITTrainer(SFTTrainer):
    """
    Trainer for key reasoning steps learning (KRSL), the second stage of EDIT.

    Fine-tunes a student on dual chains-of-thought: for one prompt a right chain (`chosen`) and a wrong one (`rejected`)
    that share most of their reasoning. The tokens where they part are pulled to the right chain and pushed away from
    the wrong one. This class is a [`~trl.SFTTrainer`] and takes the preference data of a [`~trl.DPOTrainer`].

    Examples:

    ```python
    from datasets import load_dataset
    from edit_trl import EDITTrainer

    trainer = EDITTrainer(
        model="HuggingFaceTB/SmolLM2-135M-Instruct",
        train_dataset=load_dataset("json", data_files="dual_cots.jsonl", split="train"),
    )
    trainer.train()
    ```

    Args:
        model (`str` or [`~transformers.PreTrainedModel`] or [`~peft.PeftModel`]):
            Student to be trained, as for [`~trl.SFTTrainer`]: a causal language model. A `PeftModel` whose adapter is
            trainable goes on training it.
        args ([`EDITConfig`], *optional*):
            Configuration. If `None`, a default configuration is used; an [`~trl.SFTConfig`] or
            [`~transformers.TrainingArguments`] becomes an `EDITConfig` with the same values.
        data_collator ([`~transformers.DataCollator`], *optional*):
            Defaults to a [`DataCollatorForDualCoT`] with the options of `args`. Another one must return the same keys.
        train_dataset ([`~datasets.Dataset`] or [`~datasets.IterableDataset`]):
            Preference dataset with `prompt`, `chosen` and `rejected`, as text or messages; or tokenized, with
            `prompt_ids`, `chosen_ids`, `rejected_ids` and, optionally, `chosen_weights` and `rejected_weights`.
        eval_dataset ([`~datasets.Dataset`], [`~datasets.IterableDataset`] or `dict` of them, *optional*):
            Dataset, or several by name, to use for evaluation, in the same shapes.
        processing_class ([`~transformers.PreTrainedTokenizerBase`] or [`~transformers.ProcessorMixin`], *optional*):
            Tokenizer. Loaded from the model's name if `None`.
        compute_loss_func, compute_metrics, preprocess_logits_for_metrics, formatting_func:
            Refused, with what to use instead. They stand here so that a script for `SFTTrainer` gets that answer.
        callbacks (`list` of [`~transformers.TrainerCallback`], *optional*):
            Callbacks, for instance [`CollapseAlarmCallback`].
        optimizers (`tuple`, *optional*, defaults to `(None, None)`):
            Optimizer and learning-rate scheduler, as for [`~trl.SFTTrainer`].
        optimizer_cls_and_kwargs (`tuple`, *optional*):
            Optimizer class and keyword arguments, as for [`~trl.SFTTrainer`].
        quantization_config ([`~transformers.BitsAndBytesConfig`], *optional*):
            Quantization for a model given by name, as for [`~trl.SFTTrainer`].
        peft_config ([`~peft.PeftConfig`], *optional*):
            Adapter to train instead of the full model. Prompt learning and adapters on `lm_head` are refused.

    Raises:
        ValueError: If the dataset lacks columns or has no pair to learn from, or if the model, the adapter or an argument
            cannot work with dual chains-of-thought.
        TypeError: If an argument has the wrong type or is unknown.
        FloatingPointError: While training or evaluating, if the loss is not finite.

    Paper: [Capture the Key in Reasoning to Enhance CoT Distillation
    Generalization](https://huggingface.co/papers/2405.19737).
    """

    _tag_names = ["trl", "edit"]
    _name = "EDIT"
    _paper = {
        "title": "Capture the Key in Reasoning to Enhance CoT Distillation Generalization",
        "id": "2405.19737",
        "citation": _CITATION,
    }
    # `compute_loss` divides by the pairs of all accumulation steps, so `Trainer` must not divide again.
    loss_is_scaled_for_ga = True

    def __init__(
        self,
        model: "str | PreTrainedModel | Any",
        args: SFTConfig | TrainingArguments | None = None,
        data_collator: DataCollator | None = None,
        train_dataset: Dataset | IterableDataset | None = None,
        eval_dataset: Dataset
        | IterableDataset
        | DatasetDict
        | IterableDatasetDict
        | dict[str, Dataset | IterableDataset]
        | None = None,
        processing_class: PreTrainedTokenizerBase | ProcessorMixin | None = None,
        compute_loss_func: Callable | None = None,
        compute_metrics: Callable | None = None,
        callbacks: list[TrainerCallback] | None = None,
        optimizers: tuple[torch.optim.Optimizer | None, torch.optim.lr_scheduler.LambdaLR | None] = (None, None),
        optimizer_cls_and_kwargs: tuple[type[torch.optim.Optimizer], dict[str, Any]] | None = None,
        preprocess_logits_for_metrics: Callable | None = None,
        quantization_config: Any = None,
        peft_config: Any = None,
        formatting_func: Callable | None = None,
        **kwargs: Any,
    ) -> None:
        _refuse_arguments(
            {
                "compute_loss_func": compute_loss_func,
                "compute_metrics": compute_metrics,
                "preprocess_logits_for_metrics": preprocess_logits_for_metrics,
                "formatting_func": formatting_func,
            },
            kwargs,
        )
        args = _as_edit_config(args, model)
        _check_model(model, args)
        _check_adapter(peft_config, model)
        _check_datasets(train_dataset, eval_dataset, args)

        super().__init__(
            model=model,
            args=args,
            # `None`, so that `SFTTrainer` settles the pad token
            data_collator=None,
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            processing_class=processing_class,
            callbacks=callbacks,
            optimizers=optimizers,
            optimizer_cls_and_kwargs=optimizer_cls_and_kwargs,
            quantization_config=quantization_config,
            peft_config=peft_config,
        )
        parallelism = self.accelerator.parallelism_config  # may come from an accelerate config rather than from `args`
        if parallelism is not None and (parallelism.sp_enabled or parallelism.cp_enabled):
            raise ValueError(
                "`EDITTrainer` does not support sequence or context parallelism, but the accelerate configuration turns "
                "it on. Scored tokens name positions of whole rows; set `sp_size=1` and `cp_size=1`."
            )
        if not any(parameter.requires_grad for parameter in self.model.parameters()):
            raise ValueError(
                "At least one parameter of `model` must require gradients, got none. Nothing would be trained; load a "
                "trained adapter with `PeftModel.from_pretrained(model, path, is_trainable=True)`, or pass `peft_config`."
            )
        base_model = _without_adapter(self.model)
        self._takes_position_ids = "position_ids" in inspect.signature(base_model.forward).parameters
        self._layout = "padded"
        self._layout_is_checked = False
        if args.shared_prefix:
            self._layout, reason = choose_layout(base_model, self.aux_loss_enabled)
            if reason is not None:
                self._warn_of_padding(reason)
        self.data_collator = data_collator if data_collator is not None else self._make_data_collator()
        self._sums: dict[str, torch.Tensor] = {}

    def _make_data_collator(self) -> DataCollatorForDualCoT:
        args = self.args
        return DataCollatorForDualCoT(
            pad_token_id=self._tokenizer.pad_token_id,
            chosen_key_weight=args.chosen_key_weight,
            rejected_key_weight=args.rejected_key_weight,
            chosen_other_weight=args.chosen_other_weight,
            alignment_level=args.alignment_level,
            tie_break=args.tie_break,
            tokenizer=self._tokenizer,
            max_length=args.max_length,
            truncation_mode=args.truncation_mode,
            pad_to_multiple_of=args.pad_to_multiple_of,
            layout=self._layout,
        )

    # Data

    def _prepare_dataset(
        self,
        dataset: Dataset | IterableDataset,
        processing_class: PreTrainedTokenizerBase | ProcessorMixin,
        args: EDITConfig,
        packing: bool,
        formatting_func: Callable | None,
        dataset_name: str,
    ) -> Dataset | IterableDataset:
        if isinstance(dataset, Dataset) and dataset.format["type"] == "custom":
            raise ValueError(
                f"The {dataset_name} dataset must not use `Dataset.with_transform()`. Preparation would bake the "
                "transform into the tokens; apply it with `Dataset.map()` first, or make it return tokenized pairs and pass "
                "`dataset_kwargs={'skip_prepare_dataset': True}` and `remove_unused_columns=False`."
            )
        with global_then_local_main_first():
            dataset = prepare_dual_cots(
                dataset,
                processing_class,
                eos_token=self._tokenizer.eos_token,
                max_length=args.max_length,
                truncation_mode=args.truncation_mode,
                num_proc=args.dataset_num_proc,
                dataset_name=dataset_name,
            )
        return dataset.shuffle(seed=args.seed) if args.shuffle_dataset else dataset

    def _set_signature_columns_if_needed(self) -> None:
        # `Trainer` removes all other columns before the collator sees them, and the sampler reads the length.
        if self._signature_columns is None:  # type: ignore[has-type]
            self._signature_columns = [*ID_COLUMNS, *WEIGHT_COLUMNS, self.args.length_column_name]

    def _get_train_sampler(self, train_dataset: Dataset | None = None) -> torch.utils.data.Sampler | None:
        return super()._get_train_sampler(
            self._with_lengths(self.train_dataset if train_dataset is None else train_dataset)
        )

    def _get_eval_sampler(self, eval_dataset: Dataset) -> torch.utils.data.Sampler | None:
        return super()._get_eval_sampler(self._with_lengths(eval_dataset))

    def _with_lengths(self, dataset: Any) -> Any:
        """The dataset, with the tokens that each pair takes in a batch if the sampler is to group pairs by them."""
        column = self.args.length_column_name
        is_grouped = self.args.train_sampling_strategy in ("group_by_length", "batch_rebalance")
        if not is_grouped or not isinstance(dataset, Dataset) or column in dataset.column_names:
            return dataset
        row_length = self._make_data_collator().row_length
        with global_then_local_main_first():
            return dataset.map(
                lambda example: {column: row_length(example)},
                num_proc=self.args.dataset_num_proc,
                desc="Measuring pairs",
            )

    def _get_num_items_in_batch(self, batch_samples: list, device: torch.device) -> torch.Tensor | None:
        """Number of pairs of the whole optimiser step, over accumulation steps and processes."""
        if not batch_samples:
            return None
        num_pairs = sum(len(batch["num_completion_tokens"]) // 2 for batch in batch_samples)
        # Tensor-parallel ranks hold the same pairs.
        return self.accelerator.gather(torch.tensor([num_pairs], device=device)).sum() // self._tp_size

    # Loss

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, torch.Tensor],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:
        """
        KRSL loss of a batch of the collator.

        Args:
            model ([`~torch.nn.Module`]):
                Student, wrapped for training or not.
            inputs (`dict[str, torch.Tensor]`):
                Output of [`DataCollatorForDualCoT`].
            return_outputs (`bool`, *optional*, defaults to `False`):
                Whether to return the model's outputs too. Their logits have the shape (1, num_scored, vocabulary).
            num_items_in_batch (`torch.Tensor` or `int`, *optional*):
                Pairs of the whole optimiser step. Defaults to the pairs of this batch.

        Returns:
            `torch.Tensor` or `tuple`: The loss, in nats, or the loss and the outputs.

        Raises:
            FloatingPointError: If the loss is not finite, on any process.
            ValueError: If the model does not call its output embeddings, exactly once.
        """
        chains, weights = inputs["scored_chains"], inputs["scored_weights"]
        num_completion_tokens = inputs["num_completion_tokens"]
        num_pairs = len(num_completion_tokens) // 2
        options = {
            "rejected_loss": self.args.rejected_loss,
            "rejected_nll_threshold": self.args.rejected_nll_threshold,
        }

        inputs = self._in_right_layout(model, inputs)
        log_probs, entropy, is_top1, outputs = self._score(model, inputs)
        # One row per token: a flat list of any layout has the shape that the loss takes.
        loss = krsl_loss(
            log_probs[:, None],
            weights[:, None],
            num_completion_tokens[chains],
            num_pairs if num_items_in_batch is None else num_items_in_batch,
            **options,
        )
        # Gradients are averaged over data-parallel processes, and the number of pairs is already that of all of them.
        if num_items_in_batch is not None:
            loss = loss * (self.accelerator.num_processes / self._tp_size)
        if self.aux_loss_enabled:
            steps = 1 if num_items_in_batch is None else self.current_gradient_accumulation_steps
            loss = loss + self.router_aux_loss_coef * outputs.aux_loss / steps

        with torch.no_grad():
            key = inputs["scored_key"].float()
            token_losses = weighted_token_losses(log_probs, weights, **options)
            per_token = torch.stack(
                [
                    token_losses / num_completion_tokens[chains].clamp(min=1),
                    torch.ones_like(key),
                    entropy.float(),
                    is_top1.float(),
                    key,
                    # `where`, not a product: an unscored infinity must not make the sum NaN
                    torch.where(inputs["scored_key"], log_probs, 0.0),
                    key * is_top1,
                    (weights < 0).float(),
                    is_gated(log_probs, weights, self.args.rejected_nll_threshold).float(),
                ],
                dim=1,
            )
            self._count(inputs, per_token, "train" if self.model.training else "eval")
        if self.aux_loss_enabled and self.model.training:
            aux_loss = self.accelerator.gather(outputs.aux_loss.detach().reshape(1)).mean().item()
            self._metrics["train"]["aux_loss"].append(aux_loss)
        return (loss, outputs) if return_outputs else loss

    def _in_right_layout(self, model: torch.nn.Module, inputs: dict[str, Any]) -> dict[str, Any]:
        """The batch as it is, if this model gives the tokens of its layout what they have in rows of their own."""
        layout = (
            "shared_prefix" if "branch_ids" in inputs else "padding_free" if "cu_seq_lens_q" in inputs else "padded"
        )
        if layout == self._layout != "padded" and not self._layout_is_checked:
            self._check_layout(model, inputs)
        return inputs if layout in ("padded", self._layout) else to_padded(inputs)

    def _check_layout(self, model: torch.nn.Module, inputs: dict[str, Any]) -> None:
        """
        Compare the layout with two rows per pair, on one pair of a batch, and go back to these on a difference.
        """
        padded = to_padded(inputs)
        lengths = padded["attention_mask"].sum(dim=1).tolist()
        chains = [ids[:length] for ids, length in zip(padded["input_ids"].tolist(), lengths, strict=True)]
        pairs = zip(chains[: len(chains) // 2], chains[len(chains) // 2 :], strict=True)
        # A wrong mask, or positions that go on, change what follows the first token of the second branch, if there are
        # tokens of the first one that it should not see.
        num_telling, parting, chosen, rejected = max(
            (min(len(chosen) - parting, len(rejected) - parting - 1), parting, chosen, rejected)
            for chosen, rejected in pairs
            for parting in [common_prefix_length(chosen, rejected)]
        )
        pair: dict[str, list] = {"prompt_ids": [], "chosen_ids": chosen, "rejected_ids": rejected}
        # What comes before the chains part is computed alike. Of the rest, some 256 tokens are enough.
        stride = 1 + (len(chosen) + len(rejected) - 2 * parting) // 256
        for side, chain in (("chosen", chosen), ("rejected", rejected)):
            is_scored = [t >= parting and (len(chain) - 1 - t) % stride == 0 for t in range(len(chain))]
            pair[f"{side}_weights"] = list(map(float, is_scored))
        config = self.model.config.get_text_config()
        window = getattr(config, "sliding_window", None)
        log_probs, error = [], None
        was_training = model.training
        model.eval()
        try:
            if window is not None:
                # A window that the masks do not make shows only in chains that are longer.
                config.sliding_window = min(window, max(len(chosen), len(rejected)) // 2 + 1)
            with torch.no_grad():
                for layout in ("padded", self._layout):
                    batch = DataCollatorForDualCoT(self._tokenizer.pad_token_id, layout=layout)([pair])
                    log_probs.append(self._score(model, self._prepare_inputs(batch))[0].float())
        except torch.OutOfMemoryError:
            raise
        except Exception as exception:  # a mask that a model cannot read may fail in any way
            if not log_probs:
                raise  # it is not the mask
            error = f"it fails on one with `{type(exception).__name__}: {exception}`"
        finally:
            model.train(was_training)
            if window is not None:
                config.sliding_window = window

        difference = padded["input_ids"].new_tensor(math.inf, dtype=torch.float)
        if error is None:
            squares = (log_probs[0] - log_probs[1]).square().nan_to_num(nan=math.inf)
            difference = (squares.sum() / max(len(squares), 1)).sqrt()
        # The same verdict on every process. Without a pair that tells, the next batch is asked.
        is_telling = torch.tensor(float(num_telling > 0), device=difference.device)
        found = self.accelerator.gather(torch.stack([difference, is_telling])[None]).amax(dim=0)
        difference, self._layout_is_checked = found[0].item(), bool(found[1])
        tolerance = _LAYOUT_TOLERANCE[self._is_exact()]
        if difference > tolerance:
            self._layout = "padded"
            self._warn_of_padding(
                error
                or f"in a pair of the first batch, log-probabilities differ by {difference:.2g} nats (root mean square) "
                f"from those in rows of their own, and rounding explains {tolerance:g}"
            )

    def _is_exact(self) -> bool:
        """Whether the model computes in fp32, without autocast or quantized weights."""
        is_float = self.model.get_input_embeddings().weight.dtype == torch.float32
        is_quantized = getattr(self.model, "is_quantized", False)
        return is_float and not (self.args.bf16 or self.args.fp16 or self.args.tf32 or is_quantized)

    def _warn_of_padding(self, reason: str) -> None:
        logger.warning(
            f"Training {type(self.model).__name__} on two padded rows per pair instead of one shared row: {reason}. The loss "
            "is the same, a step takes longer. Set `shared_prefix=False` to silence this."
        )

    def _score(
        self, model: torch.nn.Module, inputs: dict[str, Any]
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, Any]:
        """
        Log-probability, entropy and whether it is the first choice of each scored token, all of shape (num_scored,), and
        the model's outputs.
        """
        num_scored = len(inputs["scored_ids"])
        if self.accelerator.num_processes > 1:
            # All processes take the same path, since both gather a sharded head, in ways of their own.
            local = torch.tensor([num_scored], device=inputs["scored_ids"].device)
            num_scored = int(self.accelerator.gather(local).max())
        if num_scored * self.model.config.get_text_config().vocab_size > _MAX_LOGITS:
            return self._score_in_chunks(model, inputs)
        outputs = self._forward_scored(model, inputs)
        logits = outputs.logits.float()
        log_probs, entropy = selective_log_softmax_and_entropy(
            logits, inputs["scored_ids"][None], entropy_requires_grad=False
        )
        return log_probs[0], entropy[0], logits[0].argmax(dim=-1) == inputs["scored_ids"], outputs

    def _score_in_chunks(
        self, model: torch.nn.Module, inputs: dict[str, Any]
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, Any]:
        """The same by TRL's fused head, in tiles. A hook hands it the hidden states of the scored tokens alone."""
        rows, positions = inputs["scored_rows"], inputs["scored_positions"]

        def select(module: torch.nn.Module, args: tuple, outputs: Any) -> Any:
            # Off Triton devices that head would project all positions that it gets.
            outputs.last_hidden_state = _select(outputs.last_hidden_state, rows, positions)
            return outputs

        backbone = _without_adapter(self.accelerator.unwrap_model(model)).base_model
        handle = backbone.register_forward_hook(select)
        try:
            outputs = model(**self._model_inputs(inputs), shift_labels=inputs["scored_ids"][None], fused_lm_head=True)
        finally:
            handle.remove()
        return outputs.log_probs[0], outputs.entropy[0], outputs.is_top1[0], outputs

    def _forward_scored(self, model: torch.nn.Module, inputs: dict[str, Any]) -> Any:
        """Forward pass whose logits are those of the scored tokens, of shape (1, num_scored, vocabulary)."""
        head = self.accelerator.unwrap_model(model).get_output_embeddings()
        with scored_positions_only(head, inputs["scored_rows"], inputs["scored_positions"]) as num_calls:
            outputs = model(**self._model_inputs(inputs))
        if len(num_calls) != 1:
            raise ValueError(
                f"{type(self.model).__name__} must call its output embeddings once per forward pass, got "
                f"{len(num_calls)} calls. The logits of the scored tokens are taken there; pass a causal language model "
                "whose `get_output_embeddings()` is the module that computes its logits."
            )
        return outputs

    def _model_inputs(self, inputs: dict[str, Any]) -> dict[str, Any]:
        names = ("input_ids", "attention_mask", "cu_seq_lens_q", "cu_seq_lens_k", "max_length_q", "max_length_k")
        model_inputs = {name: inputs[name] for name in names if name in inputs}
        # The default of the model config may warn, since a cache cannot be checkpointed.
        model_inputs["use_cache"] = False
        if self._takes_position_ids:
            model_inputs["position_ids"] = inputs["position_ids"]
        if self.aux_loss_enabled:
            model_inputs["output_router_logits"] = True
        if "branch_ids" in inputs:
            model_inputs["attention_mask"] = attention_masks(
                inputs["branch_ids"],
                inputs["position_ids"],
                self.model.config.get_text_config(),
                self.model.get_input_embeddings().weight.dtype,
            )
        return model_inputs

    def predict(
        self, test_dataset: Any, ignore_keys: list[str] | None = None, metric_key_prefix: str = "test"
    ) -> PredictionOutput:
        """
        Loss and metrics of a test set. There are no predictions: logits exist for the scored tokens alone.

        Args:
            test_dataset ([`~datasets.Dataset`] or [`~datasets.IterableDataset`]):
                Dual-CoT dataset, in any shape that the trainer takes.
            ignore_keys (`list[str]`, *optional*):
                As for [`~transformers.Trainer.predict`], without effect.
            metric_key_prefix (`str`, *optional*, defaults to `"test"`):
                Prefix of the metrics' names.

        Returns:
            [`~transformers.trainer_utils.PredictionOutput`]: `predictions` and `label_ids` are `None`.
        """
        if not self._skip_prepare_dataset:
            test_dataset = self._prepare_dataset(
                test_dataset, self.processing_class, self.args, False, None, metric_key_prefix
            )
        return super().predict(test_dataset, ignore_keys=ignore_keys, metric_key_prefix=metric_key_prefix)

    def prediction_step(
        self,
        model: torch.nn.Module,
        inputs: dict[str, torch.Tensor],
        prediction_loss_only: bool,
        ignore_keys: list[str] | None = None,
    ) -> tuple[torch.Tensor, None, None]:
        """Loss of an evaluation batch. There are no predictions: logits exist for the scored tokens alone."""
        inputs = self._prepare_inputs(inputs)
        with torch.no_grad(), self.compute_loss_context_manager():
            return self.compute_loss(model, inputs).detach(), None, None

    # Metrics

    def _count(self, inputs: dict[str, torch.Tensor], per_token: torch.Tensor, mode: str) -> None:
        """Add this batch, on all processes, to the sums that the metrics are made of."""
        num_completion_tokens = inputs["num_completion_tokens"]
        num_chains = len(num_completion_tokens)
        per_chain = per_token.new_zeros(num_chains, per_token.size(1))
        per_chain.index_add_(0, inputs["scored_chains"], per_token)
        num_key = per_chain[:, _SUMS.index("key") - 1].view(2, -1).sum(dim=0)
        per_chain = torch.cat(
            [
                per_chain.new_ones(num_chains, 1),
                per_chain,
                num_completion_tokens[:, None],
                inputs["num_key_tokens"][:, None],
                (num_key == 0).repeat(2)[:, None],
            ],
            dim=1,
        )
        per_pair = per_chain.view(2, num_chains // 2, -1).transpose(0, 1).reshape(num_chains // 2, -1)
        if mode == "train":
            local = torch.cat([per_pair.sum(dim=0), inputs["num_tokens"].reshape(1).to(per_pair.dtype)])
            *sums, num_tokens = self.accelerator.gather(local[None]).double().sum(dim=0).tolist()
            self._total_train_tokens += int(num_tokens) // self._tp_size
        else:
            # By pair, so that the samples that pad the last batch are left out.
            sums = self.accelerator.gather_for_metrics(per_pair).double().sum(dim=0).tolist()
        batch_sums = torch.tensor(sums, dtype=torch.float64).view(2, -1)
        if not math.isfinite(batch_sums[:, _SUMS.index("loss")].sum()):
            raise FloatingPointError(
                f"The loss must be finite, got {batch_sums[:, _SUMS.index('loss')].sum().item()} at step "
                f"{self.state.global_step} ({mode}). The student would be lost; lower `learning_rate` or "
                '`rejected_key_weight`, bound the push with `rejected_loss="unlikelihood"`, clip with `max_grad_norm`, or '
                "train in bf16 instead of fp16."
            )
        self._sums[mode] = self._sums[mode] + batch_sums if mode in self._sums else batch_sums

    def _pop_metrics(self, mode: str) -> dict[str, float]:
        """Metrics of everything counted since the last call, by name."""
        sums = self._sums.pop(mode, None)
        if sums is None:
            return {}
        chosen, rejected = (dict(zip(_SUMS, side, strict=True)) for side in sums.tolist())
        both = {name: chosen[name] + rejected[name] for name in _SUMS}
        num_pairs = chosen["chains"]
        fractions = {
            "entropy": (both["entropy"], both["scored"]),
            "mean_token_accuracy": (both["top1"], both["scored"]),
            "edit/loss_chosen": (chosen["loss"], num_pairs),
            "edit/loss_rejected": (rejected["loss"], num_pairs),
            "edit/key_token_ratio_chosen": (chosen["key"], chosen["completion_tokens"]),
            "edit/key_token_ratio_rejected": (rejected["key"], rejected["completion_tokens"]),
            "edit/logps_key_chosen": (chosen["key_log_probs"], chosen["key"]),
            "edit/logps_key_rejected": (rejected["key_log_probs"], rejected["key"]),
            "edit/key_token_accuracy": (chosen["key_top1"], chosen["key"]),
            "edit/rejected_gated_ratio": (both["gated"], both["pushed_away"]),
            "edit/truncated_key_ratio": (
                both["key_before_truncation"] - both["key"],
                both["key_before_truncation"],
            ),
            "edit/pairs_without_key_tokens": (chosen["in_pair_without_key"], num_pairs),
        }
        # A mean over nothing is left out rather than logged as zero.
        metrics = {name: above / below for name, (above, below) in fractions.items() if below}
        if "edit/logps_key_chosen" in metrics and "edit/logps_key_rejected" in metrics:
            metrics["edit/key_margin"] = metrics["edit/logps_key_chosen"] - metrics["edit/logps_key_rejected"]
        metrics["num_tokens"] = self._total_train_tokens
        return metrics

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if self.model.training:
            for name, value in self._pop_metrics("train").items():
                self._metrics["train"][name] = [value]
        super().log(logs, start_time)

    def evaluation_loop(self, dataloader: Any, description: str, *args: Any, **kwargs: Any) -> EvalLoopOutput:
        prefix = kwargs.get("metric_key_prefix", args[2] if len(args) > 2 else "eval")
        self._sums.pop("eval", None)
        output = super().evaluation_loop(dataloader, description, *args, **kwargs)
        num_pairs = int(self._sums["eval"][0, _SUMS.index("chains")]) if "eval" in self._sums else 0
        metrics = self._pop_metrics("eval")
        if metrics:
            # `Trainer` averages over batches, the last of which may be short.
            metrics["loss"] = metrics["edit/loss_chosen"] + metrics["edit/loss_rejected"]
        output.metrics.update({f"{prefix}_{name}": value for name, value in metrics.items()})
        return output._replace(num_samples=num_pairs)

    # Model card

    def create_model_card(
        self,
        model_name: str | None = None,
        dataset_name: str | None = None,
        tags: str | list[str] | None = None,
    ) -> None:
        """
        Write the model card, as TRL does, and put names where it would write "None".

        Args:
            model_name (`str`, *optional*):
                Name of the student. Defaults to that of `output_dir`.
            dataset_name (`str`, *optional*):
                Name of the dataset on the Hub.
            tags (`str` or `list[str]`, *optional*):
                Tags to add to those of the trainer.
        """
        model_name = model_name or Path(self.args.output_dir).name
        super().create_model_card(model_name=model_name, dataset_name=dataset_name, tags=tags)
        if not self.is_world_process_zero():
            return
        card = Path(self.args.output_dir) / "README.md"
        text = card.read_text(encoding="utf-8")
        base_model = get_config_model_id(self.model.config)
        if not base_model or os.path.isdir(base_model):
            name = f"`{Path(base_model).name}`" if base_model else "a model without a name"
            text = text.replace("[None](https://huggingface.co/None)", name)
        if self.hub_model_id is None:
            text = text.replace('model="None"', f'model="{self.args.output_dir}"')
        card.write_text(text, encoding="utf-8")


@contextmanager
def scored_positions_only(
    head: torch.nn.Module, rows: torch.Tensor, positions: torch.Tensor
) -> Iterator[list[torch.Size]]:
    """
    Let the language-model head see the hidden states at `(rows, positions)` alone, as one row.

    About one token in twenty has a weight, and projecting those alone keeps the (tokens, vocabulary) logits small on
    every device. A hook keeps what the model does around its head: scaling, soft-capping, casting, sharding.
    """
    calls: list[torch.Size] = []

    def select(module: torch.nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
        if not args:  # called by keyword: the first parameter of `forward` is the hidden states
            name, *_ = inspect.signature(module.forward).parameters
            args = (kwargs.pop(name),)
        hidden_states, *rest = args
        calls.append(hidden_states.shape)
        return (_select(hidden_states, rows, positions), *rest), kwargs

    handle = head.register_forward_pre_hook(select, with_kwargs=True)
    try:
        yield calls
    finally:
        handle.remove()


def _select(hidden_states: torch.Tensor, rows: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    """The hidden states at `(rows, positions)`, as one row. With `device_map` they may be on another device."""
    device = hidden_states.device
    return hidden_states[rows.to(device), positions.to(device)][None]


def _without_adapter(model: Any) -> Any:
    return model.get_base_model() if is_peft_model(model) else model


def _refuse_arguments(refused: dict[str, Any], unknown: dict[str, Any]) -> None:
    for name, value in {**refused, **unknown}.items():
        if name in _REPLACEMENTS and (value is not None or name in unknown):
            raise ValueError(f"`EDITTrainer` does not take `{name}`: {_REPLACEMENTS[name]}.")
        if name in unknown:
            parameters = [p for p in inspect.signature(EDITTrainer.__init__).parameters if p not in ("self", "kwargs")]
            nearest = difflib.get_close_matches(name, parameters, n=1)
            raise TypeError(
                f"`EDITTrainer` has no argument `{name}`. "
                + (f"Did you mean `{nearest[0]}`?" if nearest else f"It takes {', '.join(parameters)}.")
            )


def _as_edit_config(args: Any, model: Any) -> EDITConfig:
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
            f"`args` must be an `EDITConfig`, got a `{type(args).__name__}`. Its loss has other parameters (DPO's `beta` "
            "is not EDIT's β), so it is not converted: pass `args=EDITConfig(output_dir=...)`, with "
            "`rejected_key_weight` as the strength of the push away from mistakes."
        )
    # Not `to_dict`, which hides tokens (`eos_token` too), loses `parallelism_config` and changes nested dictionaries.
    values = {f.name: deepcopy(getattr(args, f.name)) for f in dataclasses.fields(args) if f.init}
    extra = sorted(values.keys() - {f.name for f in dataclasses.fields(EDITConfig)})
    if extra:
        raise TypeError(
            f"`args` must be an `EDITConfig`, got a `{type(args).__name__}` with fields of its own: "
            f"{', '.join(f'`{name}`' for name in extra)}. They would be lost; derive the class from `EDITConfig`."
        )
    logger.warning(
        f"`args` is a `{type(args).__name__}` and became an `EDITConfig` with the same values, its learning rate of "
        f"{args.learning_rate:g} included; EDIT's own default is 5e-6. Pass an `EDITConfig` to silence this."
    )
    return EDITConfig(**values)


def _check_model(model: Any, args: EDITConfig) -> None:
    config = getattr(model, "config", None)
    if isinstance(model, str):
        options = {key: value for key, value in (args.model_init_kwargs or {}).items() if key in ("revision", "token")}
        with suppress(OSError, ValueError):  # what cannot be loaded is for `SFTTrainer` to say
            config = AutoConfig.from_pretrained(model, trust_remote_code=args.trust_remote_code, **options)
    if config is not None and getattr(config, "is_encoder_decoder", False):
        raise ValueError(
            f"`model` must be a causal (decoder-only) language model, got the encoder-decoder `{config.model_type}`. "
            "Its decoder does not see prompt and completion as one text; pass a decoder-only student."
        )
    if isinstance(model, PreTrainedModel) and model.get_output_embeddings() is None:
        raise ValueError(
            f"`model` must be a causal language model, got `{type(model).__name__}`, which has no language-model head. "
            "Load it with `AutoModelForCausalLM.from_pretrained(...)`, or pass its name."
        )


def _check_adapter(peft_config: Any, model: Any) -> None:
    configs = [peft_config, *(getattr(model, "peft_config", None) or {}).values()]
    for config in configs:
        if getattr(config, "is_prompt_learning", False):
            raise ValueError(
                f"`EDITTrainer` does not support prompt learning, got `{type(config).__name__}`. Its virtual tokens shift "
                "the positions of the scored tokens; pass a `LoraConfig` as `peft_config`."
            )


def _check_datasets(train_dataset: Any, eval_dataset: Any, args: EDITConfig) -> None:
    """Check columns before a model is loaded for nothing."""
    is_prepared = (args.dataset_kwargs or {}).get("skip_prepare_dataset", False)
    named = {"train": train_dataset}
    named.update(eval_dataset if isinstance(eval_dataset, dict) else {"eval": eval_dataset})
    for name, dataset in named.items():
        if dataset is None and name != "train":
            continue
        if not isinstance(dataset, (Dataset, IterableDataset)):
            raise TypeError(
                f"`{name if name == 'train' else 'eval'}_dataset` must be a `datasets.Dataset` or `IterableDataset`, "
                f"got `{type(dataset).__name__}`. Load one with `datasets.load_dataset(..., split='train')`."
            )
        column_names = get_column_names(dataset, name)
        if is_prepared and isinstance(dataset, Dataset) and dataset.format["type"] == "custom":
            continue  # its transform makes the columns
        if not is_tokenized(column_names, name) and is_prepared:
            raise ValueError(
                f"The {name} dataset must be tokenized, since `skip_prepare_dataset` is set, got the columns "
                f"{sorted(column_names)}. Leave `skip_prepare_dataset` out, or add the columns "
                f"{', '.join(f'`{column}`' for column in ID_COLUMNS)}."
            )
