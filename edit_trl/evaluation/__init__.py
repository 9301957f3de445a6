"""
Evaluate a student: ask it questions, compare its answers with the right answers, and give confidence intervals.
"""

from typing import TYPE_CHECKING, Any

from ..answers import answers_match, extract_answer, reasoning
from ..deprecation import renamed
from .benchmarks import evaluate_benchmarks
from .evaluator import EvaluationConfig, evaluate, score_generations
from .judge import judge_chains
from .metrics import (
    accuracy,
    bootstrap_interval,
    compare_students,
    majority_vote,
    mcnemar_p_value,
    pass_at_k,
    wilson_interval,
)
from .replies import score_replies
from .runs import compare_runs
from .students import EndpointStudent, Generation, GenerationSettings, LocalStudent, VLLMStudent
from .tables import print_results


if TYPE_CHECKING:
    from .answer_accuracy import AnswerAccuracy


__all__ = [
    "AnswerAccuracy",
    "EndpointStudent",
    "EvaluationConfig",
    "Generation",
    "GenerationSettings",
    "LocalStudent",
    "VLLMStudent",
    "accuracy",
    "answers_match",
    "bootstrap_interval",
    "compare_runs",
    "compare_students",
    "evaluate",
    "evaluate_benchmarks",
    "extract_answer",
    "judge_chains",
    "majority_vote",
    "mcnemar_p_value",
    "pass_at_k",
    "print_results",
    "reasoning",
    "score_generations",
    "score_replies",
    "wilson_interval",
]

_old_name = renamed(__name__, {"compare": "compare_runs", "score": "score_generations"}, stacklevel=4)


def __getattr__(name: str) -> Any:
    """Import `AnswerAccuracy` on first use, because the `evaluate` library is slow to import; resolve old names."""
    if name != "AnswerAccuracy":
        return _old_name(name)
    from .answer_accuracy import AnswerAccuracy

    return AnswerAccuracy
