"""
Measure what a student has learned: ask it, read its answers, compare them with the right ones, and say how sure that is.
"""

from typing import TYPE_CHECKING, Any

from ..answers import answers_match, extract_answer, reasoning
from .evaluator import (
    EndpointStudent,
    EvaluationConfig,
    Generation,
    LocalStudent,
    VLLMStudent,
    compare,
    evaluate,
    print_results,
    score,
)
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


if TYPE_CHECKING:
    from .answer_accuracy import AnswerAccuracy


__all__ = [
    "AnswerAccuracy",
    "EndpointStudent",
    "EvaluationConfig",
    "Generation",
    "LocalStudent",
    "VLLMStudent",
    "accuracy",
    "answers_match",
    "bootstrap_interval",
    "compare",
    "compare_students",
    "evaluate",
    "extract_answer",
    "judge_chains",
    "majority_vote",
    "mcnemar_p_value",
    "pass_at_k",
    "print_results",
    "reasoning",
    "score",
    "wilson_interval",
]


def __getattr__(name: str) -> Any:
    """`AnswerAccuracy` on first use: the `evaluate` library takes seconds to import."""
    if name != "AnswerAccuracy":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from .answer_accuracy import AnswerAccuracy

    return AnswerAccuracy
