"""
`EDITConfig`: the options of EDIT, in addition to the options of TRL's `SFTConfig`.

Where the paper or its reference code states a value, this value is the default. Options of `SFTConfig` that cannot
work with dual chains-of-thought are refused here. The error gives the reason and what to set instead.
"""

import difflib
import os
import warnings
from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from typing import Any

import torch
from accelerate.logging import get_logger
from trl import SFTConfig

from .alignment import CHOSEN_KEY_WEIGHT, CHOSEN_OTHER_WEIGHT, REJECTED_KEY_WEIGHT, TIE_BREAKS
from .loss import REJECTED_LOSSES
from .option_help import help_from_docstring
from .weighting import ALIGNMENT_LEVELS, TRUNCATION_MODES, check_max_length, check_options


logger = get_logger(__name__)

# Options of `DPOConfig`, of today and of earlier releases, and what does their work here.
_DPO_OPTIONS = {
    "beta": "EDIT has no reference model to stay close to. The strength of the push away from mistakes, β in its "
    "paper, is `rejected_key_weight`; `chosen_other_weight` anchors the right chain",
    "loss_weights": "the loss is that of key reasoning steps learning. Its parts are weighted by `chosen_key_weight`, "
    "`rejected_key_weight` and `chosen_other_weight`",
    "rpo_alpha": "the right chain is anchored by `chosen_other_weight`",
    "label_smoothing": "the loss has none. Leave it out",
    "disable_dropout": "dropout is that of the student and of its adapter, as in `SFTTrainer`. To turn off what DPO "
    "turns off, call `trl.trainer.utils.disable_dropout_in_model(trainer.model)` before `trainer.train()`. Models "
    "such as Llama have one more, which is 0 by default: with a student given by its name, pass "
    '`model_init_kwargs={"attention_dropout": 0.0}`',
    "max_prompt_length": "`max_length` is that of prompt and completion together, and `truncation_mode` says which "
    "end is cut. Filter longer prompts out of the dataset",
    "max_completion_length": "`max_length` is that of prompt and completion together",
    **dict.fromkeys(
        ("precompute_ref_log_probs", "precompute_ref_batch_size", "reference_free", "ref_model_init_kwargs")
        + ("sync_ref_model", "ref_model_mixup_alpha", "ref_model_sync_steps", "force_use_ref_model"),
        "EDIT has no reference model. Leave it out",
    ),
    **dict.fromkeys(
        ("f_divergence_type", "f_alpha_divergence_coef", "ld_alpha", "discopop_tau", "use_weighting"),
        "it belongs to a loss of DPO. Leave it out",
    ),
}

# Whether more is better of the metrics that are logged, by the last part of their names. Of the others transformers
# decides: those that end in "loss" are better low.
_GREATER_IS_BETTER = {
    "loss_chosen": False,
    "loss_rejected": False,
    "loss_completion": False,
    "logps_key_chosen": True,
    "logps_key_rejected": False,
    "logps_completion": True,
    "key_margin": True,
    "key_token_accuracy": True,
    "key_token_ratio_chosen": False,
    "key_token_ratio_rejected": False,
    "rejected_gated_ratio": False,
    "truncated_key_ratio": False,
    "pairs_without_key_tokens": False,
}


@help_from_docstring
@dataclass
class EDITConfig(SFTConfig):
    r"""
    Configuration class for the [`EDITTrainer`].

    This class includes only the parameters that are specific to EDIT. For the others see [`~trl.SFTConfig`] and
    [`~transformers.TrainingArguments`].

    Parameters:
        > Parameters whose default values are overridden from SFTConfig

        learning_rate (`float`, *optional*, defaults to `5e-6`):
            Initial learning rate of AdamW. The default is the paper's rate of the second stage, not `2e-5`.

        > Parameters of SFTConfig that EDIT keeps when TRL drops them

        truncation_mode (`str`, *optional*, defaults to `"keep_start"`):
            Which end of a row longer than `max_length` is kept, `"keep_start"` or `"keep_end"`. Chains are aligned
            before they are cut.

        > Parameters that control the alignment

        alignment_level (`str`, *optional*, defaults to `"token"`):
            Unit that the edit script between the two chains deletes, inserts and replaces: `"token"` as in the paper,
            or `"word"` for runs of tokens from one whitespace to the next, so that key steps are whole words. In
            scripts without spaces, such as Chinese, Japanese and Thai, words are single characters, and numbers.
        tie_break (`str`, *optional*, defaults to `"symmetric"`):
            Which minimum edit script marks the key tokens if there are several: `"symmetric"` uses one script for both
            chains, `"reference"` follows the authors' code, which computes one script for each direction.

        > Parameters that control the loss

        chosen_key_weight (`float`, *optional*, defaults to `1.0`):
            Weight of the key tokens of the chosen (right) chain (α in the paper). The default is the paper's.
        rejected_key_weight (`float`, *optional*, defaults to `0.025`):
            Strength with which the key tokens of the rejected (wrong) chain are pushed away (β in the paper). The
            default is the paper's. Set to `0.0` to learn from the chosen chain alone.
        chosen_other_weight (`float`, *optional*, defaults to `0.0`):
            Weight of the other tokens of the chosen chain (γ in the authors' code, 0 there). A value above zero
            trains these tokens too, so that their probabilities do not drift.
        completion_weight (`float`, *optional*):
            Weight of the tokens of rows that have a `completion` and no rejected chain, such as chains of the first
            stage that are trained again beside the pairs. If `None`, it is `chosen_other_weight`, which must then be
            above zero.
        rejected_loss (`str`, *optional*, defaults to `"nll"`):
            Loss that pushes the key tokens of the rejected chain away: `"nll"`, minus their negative log-likelihood,
            as in the paper, without a lower bound; or `"unlikelihood"`, -log(1 - p), which is never below zero.
        rejected_nll_threshold (`float`, *optional*, defaults to `20.0`):
            Key tokens of the rejected chain whose negative log-likelihood, in nats, is above this value are not
            trained. The default is the value in the authors' code. `None` pushes away without limit.

        > Parameters that control the speed

        shared_prefix (`bool`, *optional*, defaults to `True`):
            Whether to compute what both chains of a pair share only once, if the model supports it: with all pairs of
            a batch in one row without padding or, with eager attention, one row per pair. Loss and gradients are the
            same as with two padded rows per pair. `False` always uses two padded rows.

    > [!NOTE]
    > On a machine without an accelerator, `use_cpu` is `True`, and `bf16` is `False` unless it is set.

    Raises:
        ValueError: If a value is out of range, or an option of `SFTConfig` cannot work with dual chains-of-thought.

    Examples:

    ```python
    >>> from edit_trl import EDITConfig

    >>> EDITConfig(output_dir="student", rejected_key_weight=0.05).chosen_key_weight
    1.0

    ```
    """

    # Parameters whose default values are overridden from SFTConfig
    learning_rate: float = 5e-6

    # Parameters of SFTConfig that EDIT keeps when TRL drops them
    truncation_mode: str = field(default="keep_start", metadata={"choices": list(TRUNCATION_MODES)})

    # Parameters that control the alignment
    alignment_level: str = field(default="token", metadata={"choices": list(ALIGNMENT_LEVELS)})
    tie_break: str = field(default="symmetric", metadata={"choices": list(TIE_BREAKS)})

    # Parameters that control the loss
    chosen_key_weight: float = CHOSEN_KEY_WEIGHT
    rejected_key_weight: float = REJECTED_KEY_WEIGHT
    chosen_other_weight: float = CHOSEN_OTHER_WEIGHT
    completion_weight: float | None = None
    rejected_loss: str = field(default="nll", metadata={"choices": list(REJECTED_LOSSES)})
    # A text too, since a command line says "none"; a number or `None` once it is read.
    rejected_nll_threshold: float | str | None = 20.0

    # Parameters that control the speed
    shared_prefix: bool = True

    def __new__(cls, *args: Any, **options: Any) -> "EDITConfig":
        refuse_options(options, cls)
        return super().__new__(cls)

    def __post_init__(self) -> None:
        self._choose_cpu()
        if self.greater_is_better is None:  # type: ignore[has-type]
            _, is_ours, name = (self.metric_for_best_model or "").rpartition("edit/")
            self.greater_is_better = _GREATER_IS_BETTER.get(name) if is_ours else None
        with warnings.catch_warnings():
            # Nothing that a user of EDIT could change: TRL sets `gradient_checkpointing`, which transformers
            # deprecates, and deprecates `keep_end`, which EDIT keeps.
            for option in ("gradient_checkpointing", "keep_end"):
                warnings.filterwarnings("ignore", message=f".*{option}.* is deprecated", category=FutureWarning)
            super().__post_init__()
        self._check_ranges()
        self._check_supported()
        # Dispatching slices batches by rows and would separate the chains of a pair. Each process collates its pairs.
        self.accelerator_config.dispatch_batches = False

    def _choose_cpu(self) -> None:
        # TRL turns bf16 on, and transformers refuses bf16 on a machine without an accelerator.
        if torch.accelerator.is_available():
            return
        chosen = []
        if not self.use_cpu:  # type: ignore[has-type]
            self.use_cpu = True
            chosen.append("`use_cpu=True`")
        if self.bf16 is None and not self.fp16:  # type: ignore[has-type]
            self.bf16 = False
            chosen.append("`bf16=False`")
        if chosen:
            _say_once(
                f"No accelerator found: training on the CPU with {' and '.join(chosen)}. Set "
                f"{'both' if len(chosen) > 1 else 'it'} in `EDITConfig` to silence this."
                + ("" if self.bf16 else " `bf16=True` is faster on CPUs with bf16 instructions.")
            )

    def _check_ranges(self) -> None:
        if isinstance(self.rejected_nll_threshold, str):  # a command line or YAML file may give "none"
            self.rejected_nll_threshold = _read_threshold(self.rejected_nll_threshold)
        for name in ("chosen_key_weight", "rejected_key_weight", "chosen_other_weight", "completion_weight"):
            value = getattr(self, name)
            if isinstance(value, str):
                raise TypeError(
                    f"`{name}` must be a number, got the text {value!r}. Pass it without quotes; a YAML file needs a "
                    "point before an exponent: `2.5e-2`, not `25e-3`."
                )
        check_options(self)
        check_max_length(self.max_length)
        if self.rejected_nll_threshold is not None and not self.rejected_nll_threshold > 0:
            raise ValueError(
                f"`rejected_nll_threshold` must be positive or `None`, got {self.rejected_nll_threshold}. It is the "
                "negative log-likelihood, in nats, above which a mistaken token is not trained, so no token would be "
                "pushed away. Pass `rejected_key_weight=0.0` if you want that, or `rejected_nll_threshold=20.0`."
            )
        if self.rejected_loss not in REJECTED_LOSSES:
            raise ValueError(
                f"`rejected_loss` must be one of {', '.join(map(repr, REJECTED_LOSSES))}, got {self.rejected_loss!r}. "
                "Pass `rejected_loss='nll'`, the loss of the paper, if in doubt."
            )

    def _check_supported(self) -> None:
        refusals = [
            (self.packing, "packing=True", "a packed row would part the chains of a pair", "packing=False"),
            (
                self.eval_packing,
                "eval_packing=True",
                "a packed row would part the chains of a pair",
                "eval_packing=None",
            ),
            (
                self.padding_free,
                "padding_free=True",
                "its flattened rows carry labels, and dual chains-of-thought carry weights",
                "padding_free=False",
            ),
            (
                self.assistant_only_loss,
                "assistant_only_loss=True",
                "the alignment decides which tokens are trained",
                "assistant_only_loss=False",
            ),
            (
                self.completion_only_loss is False,
                "completion_only_loss=False",
                "the prompt is the same for both chains and has no key tokens",
                "completion_only_loss=None",
            ),
            (
                self.loss_type != "nll",
                f"loss_type={self.loss_type!r}",
                "the loss is that of key reasoning steps learning",
                'loss_type="nll"',
            ),
            (
                self.label_smoothing_factor != 0,
                f"label_smoothing_factor={self.label_smoothing_factor}",
                "smoothing would spread a push away over the right tokens",
                "label_smoothing_factor=0.0",
            ),
            (
                self.parallelism_config is not None
                and (self.parallelism_config.sp_enabled or self.parallelism_config.cp_enabled),
                "parallelism_config with sequence or context parallelism",
                "scored tokens name positions of whole rows",
                "sp_size=1 and cp_size=1",
            ),
            (
                bool(self.accelerator_config.dispatch_batches),
                'accelerator_config={"dispatch_batches": True}',
                "slicing a batch by rows would part the chains of a pair",
                'accelerator_config={"dispatch_batches": False}',
            ),
            (
                (self.liger_kernel_config or {}).get("fused_linear_cross_entropy", False),
                'liger_kernel_config={"fused_linear_cross_entropy": True}',
                "it replaces the LM head that the scored tokens go through",
                'liger_kernel_config={"fused_linear_cross_entropy": False}',
            ),
            (
                self.enable_jit_checkpoint,
                "enable_jit_checkpoint=True",
                "it saves in the middle of a step, and several processes do not agree on the step",
                "enable_jit_checkpoint=False` and pass `callbacks=[InterruptCallback()]",
            ),
        ]
        for is_set, setting, reason, instead in refusals:
            if is_set:
                raise ValueError(f"`EDITConfig` does not support `{setting}`: {reason}. Set `{instead}` instead.")


def refuse_options(names: Iterable[str], cls: type) -> None:
    """
    Refuse options that a config does not have, with what does their work.

    Args:
        names (`Iterable[str]`):
            Names of options.
        cls (`type`):
            The config, a dataclass.

    Raises:
        TypeError: If one is unknown.
    """
    known = [option.name for option in fields(cls) if option.init]
    for name in names:
        if name in known:
            continue
        if name in _DPO_OPTIONS:
            raise TypeError(f"`{cls.__name__}` has no option `{name}`: {_DPO_OPTIONS[name]}.")
        nearest = difflib.get_close_matches(name, known, n=1)
        hint = f"Did you mean `{nearest[0]}`?" if nearest else "See the docstring of the class for those that it has."
        raise TypeError(f"`{cls.__name__}` has no option `{name}`. {hint}")


def _read_threshold(text: str) -> float | None:
    if text.lower() in ("none", "null"):
        return None
    try:
        return float(text)
    except ValueError:
        raise ValueError(
            f"`rejected_nll_threshold` must be a number or `none`, got {text!r}. It is the negative log-likelihood, "
            "in nats, above which a mistaken token is left alone; leave it out for 20."
        ) from None


_said: set[str] = set()


def _say_once(message: str) -> None:
    # There is no process group before `TrainingArguments` is set up, so the rank comes from the launcher's variable.
    if message not in _said and os.environ.get("LOCAL_RANK", "0") == "0":
        _said.add(message)
        logger.logger.warning(message)
