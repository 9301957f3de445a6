"""Make dual chains-of-thought with a teacher model, and classify their mistakes."""

from ..deprecation import renamed
from .config import SynthesisConfig
from .dataset_files import push_to_hub, save_dual_cots
from .dual_cot import estimate_requests, synthesize
from .mended_files import save_mended
from .mending import MendingConfig, estimate_mending, mend_mistakes, mix_with_replay
from .mistakes import classify_mistakes, filter_mistakes
from .results import SynthesisResult
from .shards import Shards


__all__ = [
    "MendingConfig",
    "Shards",
    "SynthesisConfig",
    "SynthesisResult",
    "classify_mistakes",
    "estimate_mending",
    "estimate_requests",
    "filter_mistakes",
    "mend_mistakes",
    "mix_with_replay",
    "push_to_hub",
    "save_dual_cots",
    "save_mended",
    "synthesize",
]

__getattr__ = renamed(
    __name__, {"estimate": "estimate_requests", "keep_mistakes": "filter_mistakes", "save": "save_dual_cots"}
)
