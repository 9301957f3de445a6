"""Make dual chains-of-thought with a teacher model, and classify their mistakes."""

from ..deprecation import renamed
from .config import SynthesisConfig
from .dataset_files import push_to_hub, save_dual_cots
from .dual_cot import estimate_requests, synthesize
from .mistakes import classify_mistakes, filter_mistakes
from .results import SynthesisResult


__all__ = [
    "SynthesisConfig",
    "SynthesisResult",
    "classify_mistakes",
    "estimate_requests",
    "filter_mistakes",
    "push_to_hub",
    "save_dual_cots",
    "synthesize",
]

__getattr__ = renamed(
    __name__, {"estimate": "estimate_requests", "keep_mistakes": "filter_mistakes", "save": "save_dual_cots"}
)
