"""
EDIT: mistake-driven key reasoning step distillation on Hugging Face TRL.

Public names are imported on first use, so that `import edit_trl` loads neither torch nor transformers.
"""

import importlib
from typing import TYPE_CHECKING, Any


if TYPE_CHECKING:
    from .alignment import Alignment, align, similarity, token_weights
    from .callbacks import CollapseAlarmCallback, InterruptCallback, KeyStepAccuracyCallback
    from .data_collator import DataCollatorForDualCoT
    from .edit_config import EDITConfig
    from .edit_trainer import EDITTrainer
    from .loss import krsl_loss

_MODULES = {
    "Alignment": "alignment",
    "align": "alignment",
    "similarity": "alignment",
    "token_weights": "alignment",
    "CollapseAlarmCallback": "callbacks",
    "DataCollatorForDualCoT": "data_collator",
    "EDITConfig": "edit_config",
    "EDITTrainer": "edit_trainer",
    "InterruptCallback": "callbacks",
    "KeyStepAccuracyCallback": "callbacks",
    "krsl_loss": "loss",
}

__all__ = [
    "Alignment",
    "CollapseAlarmCallback",
    "DataCollatorForDualCoT",
    "EDITConfig",
    "EDITTrainer",
    "InterruptCallback",
    "KeyStepAccuracyCallback",
    "align",
    "krsl_loss",
    "similarity",
    "token_weights",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("edit-trl")
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_MODULES[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
