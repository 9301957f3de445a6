"""The old name of the module `edit_trl.evaluation.benchmarks`. It will be removed in 0.3.0."""

from ..deprecation import renamed


__all__ = ["BENCHMARKS", "harness_tasks", "run_harness"]  # noqa: F822

__getattr__ = renamed(
    __name__,
    {
        "BENCHMARKS": "edit_trl.evaluation.benchmarks.BENCHMARKS",
        "harness_tasks": "edit_trl.evaluation.benchmarks.harness_tasks",
        "run_harness": "edit_trl.evaluation.benchmarks.evaluate_benchmarks",
    },
)
