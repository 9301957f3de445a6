"""Make dual chains-of-thought with a teacher model, and sort their mistakes."""

from .dataset_files import push_to_hub, save
from .dual_cot import SynthesisConfig, SynthesisResult, estimate, synthesize
from .mistakes import classify_mistakes, keep_mistakes


__all__ = [
    "SynthesisConfig",
    "SynthesisResult",
    "classify_mistakes",
    "estimate",
    "keep_mistakes",
    "push_to_hub",
    "save",
    "synthesize",
]
