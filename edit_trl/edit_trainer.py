"""
`EDITTrainer`: TRL's `SFTTrainer` with the data, the loss and the metrics of dual chains-of-thought.

This file overrides methods that TRL and transformers call; `tests/test_internals.py` lists them. The parts are in
files of their own: columns in `data_utils.py`, weights in `weighting.py`, rows in `layouts.py`, the loss in `loss.py`,
the logged metrics in `pair_metrics.py`, the checks of arguments in `trainer_arguments.py`, how checkpoints are written
in `checkpoints.py`, and what goes to the Hub in `hub.py` and `model_card.py`.

The language-model head computes logits for the scored tokens only, with the hook of `scoring.py`. The loss is divided
by the number of pairs (and completions) in the whole optimizer step, over all accumulation steps and processes.
`average_tokens_across_devices` has no effect on this.

Paper: https://huggingface.co/papers/2405.19737
"""

import inspect
import math
from collections.abc import Callable
from typing import Any

import torch
from accelerate.logging import get_logger
from datasets import Dataset, DatasetDict, IterableDataset, IterableDatasetDict
from transformers import (
    DataCollator,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    ProcessorMixin,
    TrainerCallback,
    TrainingArguments,
)
from transformers.trainer_utils import EvalLoopOutput, PredictionOutput
from trl import SFTConfig, SFTTrainer
from trl.trainer.utils import global_then_local_main_first, selective_log_softmax_and_entropy

from .checkpoints import WholeCheckpoints
from .data_collator import DataCollatorForDualCoT, check_batch
from .data_utils import ID_COLUMNS, prepare_dual_cots
from .edit_config import EDITConfig
from .hub import PublicPushes
from .layouts import (
    FLASH_ATTENTION_KEYS,
    attention_masks,
    choose_layouts,
    layout_difference,
    layout_tolerance,
    sharing_is_cheaper,
    takes_position_ids,
    telling_pair,
    to_padded,
    visible_adapter,
)
from .loss import krsl_loss
from .pair_metrics import PairMetrics, pair_sums
from .scoring import check_causality, eval_mode, forward_scored, select_positions, without_adapter
from .shared_attention import register_segment_attention
from .trainer_arguments import (
    as_edit_config,
    check_adapter,
    check_datasets,
    check_engine,
    check_kinds,
    check_model,
    count_tokens,
    refuse_arguments,
)
from .weighting import WEIGHT_COLUMNS, completion_weight


logger = get_logger(__name__)

# Maximum number of logits (scored tokens times vocabulary) in memory at once: 512 MiB in fp32, and a few times that
# with the values computed from them. Larger batches use TRL's fused head. Key tokens alone stay far below the limit.
_MAX_LOGITS = 2**27


class EDITTrainer(WholeCheckpoints, PublicPushes, SFTTrainer):
    """
    Trainer for key reasoning steps learning (KRSL), the second stage of EDIT.

    Fine-tunes a student on dual chains-of-thought: each prompt has a right chain (`chosen`) and a wrong chain
    (`rejected`) that share most of their reasoning. Where the two chains differ, the tokens of the right chain become
    more likely and the tokens of the wrong chain less likely. This class is a [`~trl.SFTTrainer`] and takes the
    preference data of a [`~trl.DPOTrainer`].

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
            Student to train, as for [`~trl.SFTTrainer`]: a causal language model. If it is a `PeftModel` with a
            trainable adapter, this adapter is trained further.
        args ([`EDITConfig`], *optional*):
            Configuration. If `None`, a default configuration is used; an [`~trl.SFTConfig`] or
            [`~transformers.TrainingArguments`] becomes an `EDITConfig` with the same values.
        data_collator ([`~transformers.DataCollator`], *optional*):
            Defaults to a [`DataCollatorForDualCoT`] with the options of `args`. Another collator must return the same
            keys.
        train_dataset ([`~datasets.Dataset`] or [`~datasets.IterableDataset`]):
            Preference dataset with `prompt`, `chosen` and `rejected`, as text or messages; or tokenized, with
            `prompt_ids`, `chosen_ids`, `rejected_ids` and, optionally, `chosen_weights` and `rejected_weights`. Rows
            may also be completions, with `prompt` and `completion` and no rejected chain, see `completion_weight` in
            [`EDITConfig`].
        eval_dataset ([`~datasets.Dataset`], [`~datasets.IterableDataset`] or `dict` of them, *optional*):
            Dataset, or several by name, to use for evaluation, in the same shapes.
        processing_class ([`~transformers.PreTrainedTokenizerBase`] or [`~transformers.ProcessorMixin`], *optional*):
            Tokenizer. Loaded from the model's name if `None`.
        compute_loss_func, compute_metrics, preprocess_logits_for_metrics, formatting_func:
            Refused with an error that says what to use instead. They are in the signature so that a script written
            for `SFTTrainer` gets this error.
        callbacks (`list` of [`~transformers.TrainerCallback`], *optional*):
            Callbacks, for instance [`CollapseAlarmCallback`].
        optimizers (`tuple`, *optional*, defaults to `(None, None)`):
            Optimizer and learning-rate scheduler, as for [`~trl.SFTTrainer`].
        optimizer_cls_and_kwargs (`tuple`, *optional*):
            Optimizer class and keyword arguments, as for [`~trl.SFTTrainer`].
        quantization_config ([`~transformers.BitsAndBytesConfig`], *optional*):
            Quantization for a model given by name, as for [`~trl.SFTTrainer`].
        peft_config ([`~peft.PeftConfig`], *optional*):
            Adapter to train instead of the full model. Prompt learning, adapters on `lm_head` and those in whose
            layers rows depend on each other are refused.

    Raises:
        ValueError: If the dataset lacks columns or has no pair to learn from, or if the model, the adapter or an
            argument cannot work with dual chains-of-thought.
        TypeError: If an argument has the wrong type or is unknown.
        FloatingPointError: While training or evaluating, if the loss is not finite.

    Paper: [Capture the Key in Reasoning to Enhance CoT Distillation
    Generalization](https://huggingface.co/papers/2405.19737).
    """

    _tag_names = ["trl", "edit"]
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
        refused = {
            "compute_loss_func": compute_loss_func,
            "compute_metrics": compute_metrics,
            "preprocess_logits_for_metrics": preprocess_logits_for_metrics,
            "formatting_func": formatting_func,
        }
        refuse_arguments(
            refused, kwargs, [name for name in inspect.signature(EDITTrainer).parameters if name != "kwargs"]
        )
        check_kinds(
            {
                "model": model,
                "data_collator": data_collator,
                "processing_class": processing_class,
                "callbacks": callbacks,
                "optimizers": optimizers,
                "optimizer_cls_and_kwargs": optimizer_cls_and_kwargs,
                "peft_config": peft_config,
            }
        )
        args = as_edit_config(args, model)
        check_model(model, args)
        check_adapter(peft_config, model)
        check_datasets(train_dataset, eval_dataset, args)
        # With the tokenizer of another chat template, TRL adds tokens to the model.
        self._num_embeddings = None if args.chat_template_path else count_tokens(model, args)

        super().__init__(
            model=model,
            args=args,
            # `SFTTrainer` sets the pad token only if it gets no collator
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
        check_engine(self.accelerator, args)
        if not any(parameter.requires_grad for parameter in self.model.parameters()):
            raise ValueError(
                "At least one parameter of `model` must require gradients, got none. Nothing would be trained; load a "
                "trained adapter with `PeftModel.from_pretrained(model, path, is_trainable=True)`, or pass "
                "`peft_config`."
            )
        check_causality(self.model)
        base_model = without_adapter(self.model)
        self._takes_position_ids = takes_position_ids(base_model)
        self._layouts: tuple[str, ...] = ()
        self._layout_is_checked = False
        self._fused_head_is_right: bool | None = None
        text_config = base_model.config.get_text_config()
        if getattr(text_config, "num_local_experts", None) == 0 and args.router_aux_loss_coef is None:
            # A dense Granite has a coefficient too, and fails if it must return a loss of its routers.
            self.aux_loss_enabled = text_config.output_router_logits = False
        if args.shared_prefix:
            adapters = (getattr(self.model, "peft_config", None) or {}).values()
            self._layouts, reason = choose_layouts(
                base_model, self.aux_loss_enabled, adapters, neftune=args.neftune_noise_alpha is not None
            )
            if reason is not None:
                self._warn_of_padding(reason)
        own = getattr(data_collator, "layout", None)
        self._layouts = (own,) if own in self._layouts else self._layouts
        self._layout = self._layouts[0] if self._layouts else "padded"
        if self._layout == "packed":
            register_segment_attention(base_model.config.get_text_config()._attn_implementation)
        self._num_parameters = base_model.num_parameters(exclude_embeddings=True)
        self.data_collator = data_collator if data_collator is not None else self._make_data_collator()
        self.pair_metrics = {"train": PairMetrics(), "eval": PairMetrics()}

    def _make_data_collator(self) -> DataCollatorForDualCoT:
        args = self.args
        return DataCollatorForDualCoT(
            pad_token_id=self._tokenizer.pad_token_id,
            chosen_key_weight=args.chosen_key_weight,
            rejected_key_weight=args.rejected_key_weight,
            chosen_other_weight=args.chosen_other_weight,
            completion_weight=args.completion_weight,
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
                f"The {dataset_name} dataset must not use `Dataset.with_transform()`. Preparation would apply the "
                "transform once and store the result; apply it with `Dataset.map()` first, or make it return "
                "tokenized pairs and pass `dataset_kwargs={'skip_prepare_dataset': True}` and "
                "`remove_unused_columns=False`."
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
                num_embeddings=self._num_embeddings,
            )
        if isinstance(dataset, Dataset) and "completion_ids" in dataset.column_names:
            completion_weight(args)  # of a stream, the collator finds out
        return dataset.shuffle(seed=args.seed) if args.shuffle_dataset else dataset

    def _set_signature_columns_if_needed(self) -> None:
        # `Trainer` removes all other columns before the collator is called. The sampler reads the length column.
        if self._signature_columns is None:  # type: ignore[has-type]
            others = ("completion_ids", *WEIGHT_COLUMNS, self.args.length_column_name)
            self._signature_columns = [*ID_COLUMNS, *others]

    def _get_train_sampler(self, train_dataset: Dataset | None = None) -> torch.utils.data.Sampler | None:
        return super()._get_train_sampler(
            self._with_lengths(self.train_dataset if train_dataset is None else train_dataset)
        )

    def _get_eval_sampler(self, eval_dataset: Dataset) -> torch.utils.data.Sampler | None:
        return super()._get_eval_sampler(self._with_lengths(eval_dataset))

    def _with_lengths(self, dataset: Any) -> Any:
        """Add the number of tokens that each pair takes in a batch, if the sampler groups pairs by length."""
        column = self.args.length_column_name
        is_grouped = self.args.train_sampling_strategy in ("group_by_length", "batch_rebalance")
        if not is_grouped or not isinstance(dataset, Dataset):
            return dataset
        row_length = self._make_data_collator().row_length
        if dataset.format["type"] == "custom":  # its transform would hide the new column; the sampler reads no other
            return Dataset.from_dict({column: [row_length(example) for example in dataset]})
        if column in dataset.column_names:
            return dataset
        with global_then_local_main_first():
            return dataset.map(
                lambda example: {column: row_length(example)},
                num_proc=self.args.dataset_num_proc,
                desc="Measuring pairs",
            )

    def _get_num_items_in_batch(self, batch_samples: list, device: torch.device) -> torch.Tensor | None:
        """Return the number of pairs in the whole optimizer step, over accumulation steps and processes."""
        if not batch_samples:
            return None
        for batch in batch_samples:
            check_batch(batch)
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
        Compute the KRSL loss of a batch from the collator.

        Args:
            model ([`~torch.nn.Module`]):
                Student, with or without the wrappers of distributed training.
            inputs (`dict[str, torch.Tensor]`):
                Output of [`DataCollatorForDualCoT`].
            return_outputs (`bool`, *optional*, defaults to `False`):
                Whether to return the model's outputs too. Their logits have the shape (1, num_scored, vocabulary).
            num_items_in_batch (`torch.Tensor` or `int`, *optional*):
                Number of pairs and completions in the whole optimizer step. Defaults to their number in this batch.

        Returns:
            `torch.Tensor` or `tuple`: The loss, in nats, or the loss and the outputs.

        Raises:
            FloatingPointError: If the loss is not finite on at least one process.
            ValueError: If the model does not call its output embeddings exactly once.
        """
        check_batch(inputs)
        chains, weights = inputs["scored_chains"], inputs["scored_weights"]
        num_completion_tokens = inputs["num_completion_tokens"]
        num_pairs = len(num_completion_tokens) // 2
        options = {
            "rejected_loss": self.args.rejected_loss,
            "rejected_nll_threshold": self.args.rejected_nll_threshold,
        }

        inputs = self._in_right_layout(model, inputs)
        log_probs, entropy, is_top1, outputs = self._score(model, inputs)
        # The scored tokens are a flat list in every layout. The loss takes rows, so each token is a row of its own.
        loss = krsl_loss(
            log_probs[:, None],
            weights[:, None],
            num_completion_tokens[chains],
            num_pairs if num_items_in_batch is None else num_items_in_batch,
            **options,
        )
        # Gradients are averaged over data-parallel processes, but `num_items_in_batch` already counts the pairs of
        # all processes. The factor cancels the average.
        if num_items_in_batch is not None:
            loss = loss * (self.accelerator.num_processes / self._tp_size)
        aux_loss = getattr(outputs, "aux_loss", None) if self.aux_loss_enabled else None
        if self.aux_loss_enabled and aux_loss is None:
            self._without_router_loss()
        if aux_loss is not None:
            steps = 1 if num_items_in_batch is None else self.current_gradient_accumulation_steps
            loss = loss + self.router_aux_loss_coef * aux_loss / steps
        sums = pair_sums(inputs, log_probs, entropy, is_top1, **options, aux_loss=aux_loss)
        self._count(sums, inputs["num_tokens"], "train" if self.model.training else "eval")
        return (loss, outputs) if return_outputs else loss

    def _without_router_loss(self) -> None:
        """Turn off the load-balancing loss of a model that has none, though its config has a coefficient for it."""
        name = type(self.model).__name__
        if self.args.router_aux_loss_coef is not None:
            raise ValueError(
                f"`router_aux_loss_coef` must be 0.0 for {name}, which returns no load-balancing loss, got "
                f"{self.args.router_aux_loss_coef:g}. Pass `router_aux_loss_coef=0.0`."
            )
        logger.warning(f"Training {name} without a load-balancing loss: its config has one, but it returns none.")
        self.aux_loss_enabled = False

    def _in_right_layout(self, model: torch.nn.Module, inputs: dict[str, Any]) -> dict[str, Any]:
        """Return the batch in a layout that gives the right log-probabilities with this model, at the least cost."""
        layout = inputs["layout"]
        if layout == self._layout != "padded" and not self._layout_is_checked:
            self._check_layouts(model, inputs)
        config = self.model.config.get_text_config()
        is_costly = layout == "shared_prefix" and not sharing_is_cheaper(inputs, self._num_parameters, config)
        return to_padded(inputs) if is_costly or layout not in ("padded", self._layout) else inputs

    def _check_layouts(self, model: torch.nn.Module, inputs: dict[str, Any]) -> None:
        """
        Compare the layouts that may work with two padded rows, on one pair of a batch, and take the first that gives
        the same. If there is none, train on padded rows.
        """
        pair, is_telling = telling_pair(to_padded(inputs))
        longest = max(len(pair["chosen_ids"]), len(pair["rejected_ids"]))
        tolerance = layout_tolerance(self._is_exact())

        def score(layout: str) -> torch.Tensor:
            # Two pairs, because those of a row must not see each other.
            batch = DataCollatorForDualCoT(self._tokenizer.pad_token_id, layout=layout)([pair, pair])
            return self._score(model, self._prepare_inputs(batch))[0]

        for layout in self._layouts:
            with eval_mode(model), torch.no_grad(), visible_adapter(self.model):
                difference, error = layout_difference(score, layout, self.model, longest)
            # All processes must agree. If this pair cannot show a difference, a pair of the next batch is checked.
            verdict = torch.tensor([[difference, float(is_telling)]], device=inputs["input_ids"].device)
            difference, is_checked = self.accelerator.gather(verdict).amax(dim=0).tolist()
            if difference <= tolerance:
                self._layout_is_checked = bool(is_checked)
                break
        else:
            layout = "padded"
            self._warn_of_padding(
                error
                or f"in a pair of the first batch, log-probabilities differ by {difference:.2g} nats (root mean "
                f"square) from those in rows of their own, and rounding explains {tolerance:g}"
            )
        if layout != self._layout and isinstance(self.data_collator, DataCollatorForDualCoT):
            self.data_collator.layout = layout  # batches of data loader workers keep the layout that they have
        self._layout = layout

    def _is_exact(self) -> bool:
        """Tell whether the model computes in fp32, without autocast or quantized weights."""
        is_float = self.model.get_input_embeddings().weight.dtype == torch.float32
        is_quantized = getattr(self.model, "is_quantized", False)
        return is_float and not (self.args.bf16 or self.args.fp16 or self.args.tf32 or is_quantized)

    def _warn_of_padding(self, reason: str) -> None:
        logger.warning(
            f"Training {type(self.model).__name__} on two padded rows per pair instead of one shared row: {reason}. "
            "The loss is the same, but a step takes longer. Set `shared_prefix=False` to silence this."
        )

    def _score(
        self, model: torch.nn.Module, inputs: dict[str, Any]
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, Any]:
        """
        Score the scored tokens of a batch.

        Returns, for each scored token, its log-probability, the entropy, and whether it is the most likely token, all
        of shape (num_scored,); and the model's outputs.
        """
        num_scored = len(inputs["scored_ids"])
        if self.accelerator.num_processes > 1:
            # Both ways of scoring gather a sharded head, each at different points, so all processes must take the
            # same one.
            local = torch.tensor([num_scored], device=inputs["scored_ids"].device)
            num_scored = int(self.accelerator.gather(local).max())
        if num_scored * self.model.config.get_text_config().vocab_size > _MAX_LOGITS and self._has_fused_head(
            model, inputs
        ):
            return self._score_in_chunks(model, inputs)
        return self._score_at_once(model, inputs)

    def _score_at_once(
        self, model: torch.nn.Module, inputs: dict[str, Any]
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, Any]:
        """As `_score`, with the logits of all scored tokens at once."""
        head = self.accelerator.unwrap_model(model).get_output_embeddings()
        rows, positions = inputs["scored_rows"], inputs["scored_positions"]
        outputs = forward_scored(model, rows, positions, head, **self._model_inputs(inputs))
        logits = outputs.logits.float()
        log_probs, entropy = selective_log_softmax_and_entropy(
            logits, inputs["scored_ids"][None], entropy_requires_grad=False
        )
        return log_probs[0], entropy[0], logits[0].argmax(dim=-1) == inputs["scored_ids"], outputs

    def _has_fused_head(self, model: torch.nn.Module, inputs: dict[str, Any]) -> bool:
        """
        Tell whether TRL's fused head gives the log-probabilities of the model. It is compared once, on a few tokens:
        it does not know layers between the backbone and the head.
        """
        if self._fused_head_is_right is None:
            few = {**inputs, **{name: inputs[name][:16] for name in ("scored_rows", "scored_positions", "scored_ids")}}
            difference, reason = 0.0, ""
            with eval_mode(model), torch.no_grad(), visible_adapter(self.model):
                own = self._score_at_once(model, few)[0]
                try:
                    differences = self._score_in_chunks(model, few)[0] - own
                    difference = differences.square().mean().sqrt().item() if len(own) else 0.0
                    reason = f"its log-probabilities differ by {difference:.2g} nats (root mean square)"
                except Exception as error:  # TRL's code for a model that it does not know may raise anything
                    difference, reason = math.inf, f"it fails ({type(error).__name__}: {error})"
            # All processes must agree.
            local = torch.tensor([difference], device=own.device)
            worst = self.accelerator.gather(local).nan_to_num(math.inf).max().item()
            self._fused_head_is_right = worst <= layout_tolerance(self._is_exact())
            if not self._fused_head_is_right:
                logger.warning(
                    f"{type(self.model).__name__} is trained without TRL's fused head, because {reason}. The loss is "
                    "right, but the logits of all scored tokens are in memory at once. If memory is short, lower "
                    "`per_device_train_batch_size` and raise `gradient_accumulation_steps`."
                )
        return self._fused_head_is_right

    def _score_in_chunks(
        self, model: torch.nn.Module, inputs: dict[str, Any]
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, Any]:
        """
        As `_score`, with TRL's fused head, which computes logits in chunks. A hook gives it the scored tokens only.
        """
        rows, positions = inputs["scored_rows"], inputs["scored_positions"]

        def select(module: torch.nn.Module, args: tuple, outputs: Any) -> Any:
            # On devices without Triton, the fused head projects all positions that it gets.
            outputs.last_hidden_state = select_positions(outputs.last_hidden_state, rows, positions)
            return outputs

        backbone = without_adapter(self.accelerator.unwrap_model(model)).base_model
        handle = backbone.register_forward_hook(select)
        try:
            outputs = model(**self._model_inputs(inputs), shift_labels=inputs["scored_ids"][None], fused_lm_head=True)
        finally:
            handle.remove()
        return outputs.log_probs[0], outputs.entropy[0], outputs.is_top1[0], outputs

    def _model_inputs(self, inputs: dict[str, Any]) -> dict[str, Any]:
        names = ("input_ids", "attention_mask", *FLASH_ATTENTION_KEYS)
        model_inputs = {name: inputs[name] for name in names if name in inputs}
        # With the default of the model config, gradient checkpointing may warn that it turns the cache off.
        model_inputs["use_cache"] = False
        if self._takes_position_ids:
            model_inputs["position_ids"] = inputs["position_ids"]
        if self.aux_loss_enabled:
            model_inputs["output_router_logits"] = True
        if inputs["layout"] == "packed":
            model_inputs["attention_mask"] = inputs["segment_keys"]
        if inputs["layout"] == "shared_prefix":
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
        Compute loss and metrics on a test set. There are no predictions, since logits exist for scored tokens only.

        Args:
            test_dataset ([`~datasets.Dataset`] or [`~datasets.IterableDataset`]):
                Dual-CoT dataset, in any shape that the trainer takes.
            ignore_keys (`list[str]`, *optional*):
                In the signature as for [`~transformers.Trainer.predict`], but without effect.
            metric_key_prefix (`str`, *optional*, defaults to `"test"`):
                Prefix of the metrics' names.

        Returns:
            [`~transformers.trainer_utils.PredictionOutput`]: `predictions` and `label_ids` are `None`.

        Raises:
            TypeError: If `test_dataset` is no dataset.
        """
        if not isinstance(test_dataset, (Dataset, IterableDataset)):
            raise TypeError(
                "`test_dataset` must be a `datasets.Dataset` or `IterableDataset`, got "
                f"`{type(test_dataset).__name__}`. Of several datasets, predict one after the other."
            )
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
        """Compute the loss of a batch. There are no predictions, since logits exist for scored tokens only."""
        inputs = self._prepare_inputs(inputs)
        with torch.no_grad(), self.compute_loss_context_manager():
            return self.compute_loss(model, inputs).detach(), None, None

    # Metrics

    def _count(self, sums: torch.Tensor, num_tokens: torch.Tensor, mode: str) -> None:
        """Add the examples of this batch, on all processes, to the metrics."""
        if mode == "train":
            local = torch.cat([sums.sum(dim=0).flatten(), num_tokens.reshape(1).to(sums.dtype)])
            # copied to the CPU once, since this waits for the device
            *values, num_tokens = self.accelerator.gather(local[None]).cpu().double().sum(dim=0)
            total = torch.stack(values).view(sums.shape[1:])
            self._total_train_tokens += int(num_tokens) // self._tp_size
        else:
            # By example, because `gather_for_metrics` drops the repeated samples that fill the last batch.
            gathered = self.accelerator.gather_for_metrics(sums.flatten(start_dim=1))
            total = gathered.cpu().double().sum(dim=0).view(sums.shape[1:])
        self.pair_metrics[mode].add(total, where=f"at step {self.state.global_step} ({mode})")

    def _pop_metrics(self, mode: str) -> dict[str, float]:
        """Return the metrics of everything counted since the last call, by name."""
        metrics = self.pair_metrics[mode].pop()
        return {**metrics, "num_tokens": self._total_train_tokens} if metrics else {}

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if self.model.training:
            for name, value in self._pop_metrics("train").items():
                self._metrics["train"][name] = [value]
        super().log(logs, start_time)

    def evaluation_loop(self, dataloader: Any, description: str, *args: Any, **kwargs: Any) -> EvalLoopOutput:
        prefix = kwargs.get("metric_key_prefix", args[2] if len(args) > 2 else "eval")
        self.pair_metrics["eval"].pop()
        output = super().evaluation_loop(dataloader, description, *args, **kwargs)
        num_examples = self.pair_metrics["eval"].num_examples
        if num_examples:
            # `Trainer` averages over batches, but the last batch may be smaller. This is the average over examples.
            loss = self.pair_metrics["eval"].mean_loss
            metrics = {**self._pop_metrics("eval"), "loss": loss}
            metrics["loss"] += self.router_aux_loss_coef * metrics.get("aux_loss", 0.0)
            output.metrics.update({f"{prefix}_{name}": value for name, value in metrics.items()})
        return output._replace(num_samples=num_examples)
