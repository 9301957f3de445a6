"""
The options of EDIT, on top of those of TRL's `SFTConfig`.

Defaults are the paper's or those of its reference code where these state one. Whatever of `SFTConfig` cannot work with
dual chains-of-thought is refused here, with the reason and what to set instead.
"""

import os
from dataclasses import dataclass, field

import torch
from accelerate.logging import get_logger
from trl import SFTConfig

from .alignment import TIE_BREAKS
from .loss import REJECTED_LOSSES


logger = get_logger(__name__)

ALIGNMENT_LEVELS = ("token", "word")


@dataclass
class EDITConfig(SFTConfig):
    r"""
    Configuration class for the [`EDITTrainer`].

    This class includes only the parameters that are specific to EDIT. For the others see [`~trl.SFTConfig`] and
    [`~transformers.TrainingArguments`].

    Parameters:
        > Parameters that control the alignment

        alignment_level (`str`, *optional*, defaults to `"token"`):
            What the edit script between the two chains deletes, inserts and replaces: `"token"` as in the paper, or
            `"word"` for runs of tokens between whitespace borders, so that splits inside a word are not key steps.
        tie_break (`str`, *optional*, defaults to `"symmetric"`):
            Which of several minimum edit scripts marks the key tokens: `"symmetric"`, one script for both chains, or
            `"reference"`, the order of the authors' code, which runs once per direction.

        > Parameters that control the loss

        chosen_key_weight (`float`, *optional*, defaults to `1.0`):
            Weight of the key tokens of the chosen (right) chain (α in the paper). The default is the paper's.
        rejected_key_weight (`float`, *optional*, defaults to `0.025`):
            Strength with which the key tokens of the rejected (wrong) chain are pushed away (β in the paper). The
            default is the paper's. Set to `0.0` to learn from the chosen chain alone.
        chosen_other_weight (`float`, *optional*, defaults to `0.0`):
            Weight of the other tokens of the chosen chain (γ in the authors' code, 0 there). Above zero it anchors
            the chosen chain, against drift in what the key tokens do not train.
        rejected_loss (`str`, *optional*, defaults to `"nll"`):
            How key tokens of the rejected chain are pushed away: `"nll"`, minus their negative log-likelihood as in
            the paper, unbounded; or `"unlikelihood"`, -log(1 - p), bounded below.
        rejected_nll_threshold (`float`, *optional*, defaults to `20.0`):
            Key tokens of the rejected chain whose negative log-likelihood, in nats, is above this are left alone. The
            default is that of the authors' code. `None` pushes without limit.

        > Parameters that control the speed

        shared_prefix (`bool`, *optional*, defaults to `True`):
            Whether to compute what both chains of a pair share only once, wherever that is right for the model: one
            row per pair, or, under FlashAttention, rows without padding. Loss and gradients are those of two padded
            rows per pair, which `False` always uses.

    > [!NOTE]
    > These parameters have default values different from [`~trl.SFTConfig`]:
    > - `learning_rate`: Defaults to `5e-6`, the paper's rate of the second stage, instead of `2e-5`.
    > - `use_cpu` and `bf16`: On a machine without accelerator, `True` and `False` unless set.

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
    learning_rate: float = field(
        default=5e-6,
        metadata={"help": "The initial learning rate for AdamW. The default is the paper's rate of the second stage."},
    )

    # Parameters that control the alignment
    alignment_level: str = field(
        default="token",
        metadata={
            "help": "What the edit script between the two chains deletes, inserts and replaces: 'token' as in the "
            "paper, or 'word' for runs of tokens between whitespace borders.",
            "choices": list(ALIGNMENT_LEVELS),
        },
    )
    tie_break: str = field(
        default="symmetric",
        metadata={
            "help": "Which of several minimum edit scripts marks the key tokens: 'symmetric', one script for both "
            "chains, or 'reference', the order of the authors' code, which runs once per direction.",
            "choices": list(TIE_BREAKS),
        },
    )

    # Parameters that control the loss
    chosen_key_weight: float = field(
        default=1.0,
        metadata={"help": "Weight of the key tokens of the chosen (right) chain (α in the paper)."},
    )
    rejected_key_weight: float = field(
        default=0.025,
        metadata={
            "help": "Strength with which the key tokens of the rejected (wrong) chain are pushed away (β in the "
            "paper). Set to `0.0` to learn from the chosen chain alone."
        },
    )
    chosen_other_weight: float = field(
        default=0.0,
        metadata={
            "help": "Weight of the other tokens of the chosen chain (γ in the authors' code, 0 there). Above zero it "
            "anchors the chosen chain, against drift in what the key tokens do not train."
        },
    )
    rejected_loss: str = field(
        default="nll",
        metadata={
            "help": "How key tokens of the rejected chain are pushed away: 'nll', minus their negative log-likelihood "
            "as in the paper, unbounded; or 'unlikelihood', -log(1 - p), bounded below.",
            "choices": list(REJECTED_LOSSES),
        },
    )
    rejected_nll_threshold: float | None = field(
        default=20.0,
        metadata={
            "help": "Key tokens of the rejected chain whose negative log-likelihood, in nats, is above this are left "
            "alone. `None` pushes without limit."
        },
    )

    # Parameters that control the speed
    shared_prefix: bool = field(
        default=True,
        metadata={
            "help": "Whether to compute what both chains of a pair share only once, wherever that is right for the "
            "model: one row per pair, or, under FlashAttention, rows without padding. Loss and gradients are those of "
            "two padded rows per pair, which `False` always uses."
        },
    )

    def __post_init__(self) -> None:
        self._choose_cpu()
        super().__post_init__()
        self._check_ranges()
        self._check_supported()
        # Dispatching would slice batches by rows; each process collates its own pairs instead.
        self.accelerator_config.dispatch_batches = False

    def _choose_cpu(self) -> None:
        # TRL turns bf16 on, and transformers refuses bf16 on a machine without accelerator.
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
                f"No accelerator found: training on the CPU with {' and '.join(chosen)}. Set both in `EDITConfig` to "
                "silence this; `bf16=True` is faster on CPUs with bf16 instructions."
            )

    def _check_ranges(self) -> None:
        if isinstance(self.rejected_nll_threshold, str):  # a command line or YAML file says "none"
            self.rejected_nll_threshold = _parse_threshold(self.rejected_nll_threshold)
        if not self.rejected_key_weight >= 0:
            raise ValueError(
                f"`rejected_key_weight` must be positive or zero, got {self.rejected_key_weight}. It is the strength "
                "with which mistaken tokens are pushed away, so a negative value trains the student to repeat them. "
                f"Pass `rejected_key_weight={-self.rejected_key_weight}` to push away with the same strength."
            )
        for name, meaning in (
            ("chosen_key_weight", "key tokens"),
            ("chosen_other_weight", "other tokens"),
        ):
            value = getattr(self, name)
            if not value >= 0:
                raise ValueError(
                    f"`{name}` must be positive or zero, got {value}. It is the weight of the {meaning} of the right "
                    "chain, so a negative value pushes the student away from the right answer. Pass "
                    f"`{name}={-value}` to pull with the same strength."
                )
        if self.rejected_nll_threshold is not None and not self.rejected_nll_threshold > 0:
            raise ValueError(
                f"`rejected_nll_threshold` must be positive or `None`, got {self.rejected_nll_threshold}. It is the "
                "negative log-likelihood, in nats, above which a mistaken token is left alone, so no token would be "
                "pushed away. Pass `rejected_key_weight=0.0` for that, or `rejected_nll_threshold=20.0`."
            )
        for name, choices in (
            ("alignment_level", ALIGNMENT_LEVELS),
            ("tie_break", TIE_BREAKS),
            ("rejected_loss", REJECTED_LOSSES),
        ):
            value = getattr(self, name)
            if value not in choices:
                raise ValueError(
                    f"`{name}` must be one of {', '.join(map(repr, choices))}, got {value!r}. Pass "
                    f"`{name}={choices[0]!r}`, the default, if in doubt."
                )
        if self.max_length is not None and self.max_length < 2:
            raise ValueError(
                f"`max_length` must be at least 2 or `None`, got {self.max_length}. A prompt and a completion need a "
                "token each; pass `max_length=1024`, the default, if in doubt."
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
        ]
        for is_set, setting, reason, instead in refusals:
            if is_set:
                raise ValueError(f"`EDITConfig` does not support `{setting}`: {reason}. Set `{instead}` instead.")


def _parse_threshold(text: str) -> float | None:
    return None if text.lower() in ("none", "null") else float(text)


_said: set[str] = set()


def _say_once(message: str) -> None:
    # Before `TrainingArguments` is set up there is no process group to ask, only what the launcher said.
    if message not in _said and os.environ.get("LOCAL_RANK", "0") == "0":
        _said.add(message)
        logger.logger.warning(message)
