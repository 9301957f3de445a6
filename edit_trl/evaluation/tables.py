"""Print the results of an evaluation as a table, in the terminal."""

from collections.abc import Sequence
from typing import Any


def print_results(results: dict[str, Any], comparison: dict[str, Any] | None = None) -> None:
    """
    Print results as a table.

    Args:
        results (`dict[str, Any]`):
            Results of [`evaluate`] or [`evaluate_benchmarks`], or the content of a `results.json`.
        comparison (`dict[str, Any]`, *optional*):
            Output of [`compare_runs`].
    """
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    title = Text(str(results["settings"].get("model", "")))
    table = Table("", "questions", "accuracy", "95% interval", "unparsed", "cut", title=title)
    table.columns[0].no_wrap = True
    for column in table.columns[1:]:
        column.justify = "right"
    tasks = list(results["tasks"])
    for name, scores in {**results["tasks"], "all": results}.items():
        # In results of version 0.1 the name is `cut_rate`.
        truncated = scores["truncated_rate"] if "truncated_rate" in scores else scores["cut_rate"]
        table.add_row(
            Text(name),
            f"{scores['num_questions']:,}",
            f"{scores['accuracy']:.1%}",
            _interval(scores["interval"]),
            f"{scores['unparsed_rate']:.1%}",
            "-" if truncated is None else f"{truncated:.1%}",
            end_section=name in tasks[-1:],
        )
    if len(tasks) > 1:
        table.add_row(
            "mean of the tasks", "", f"{results['macro_accuracy']:.1%}", _interval(results["macro_interval"])
        )
    if "num_paths" in results:
        interval = _interval(results["single_path_interval"])
        table.add_row("a single path", "", f"{results['single_path_accuracy']:.1%}", interval)
    Console().print(table)
    if "num_paths" in results:
        rates = ", ".join(f"{k}: {share:.1%}" for k, share in results["pass_at_k"].items())
        print(f"Majority of {results['num_paths']} paths. pass@k, {rates}")
    if results.get("num_problems"):
        print(f"{results['num_problems']:,} replies could not be read because of an error; see their `problem`.")
    if "questions" in results:
        print(f"Read as {results['questions']['reader']}.", *results["questions"]["notes"])
    if results.get("replies"):
        print(f"Replies: {results['replies']['reused']:,} used again, {results['replies']['generated']:,} generated.")
    if "tokens_per_second" in results:
        print(f"{results['tokens_per_second']:,} tokens generated a second")
    if comparison is not None:
        low, high = comparison["interval"]
        print(
            f"Difference to the other student: {comparison['difference']:+.1%} ({low:+.1%} to {high:+.1%}), McNemar's "
            f"p {comparison['p_value']:.3g}, on {comparison['num_questions']:,} questions; right alone: "
            f"{comparison['num_right_alone']:,} and {comparison['num_other_right_alone']:,}."
        )
        if comparison["num_left_out"]:
            print(f"{comparison['num_left_out']:,} questions that only one of them was asked are left out.")


def _interval(ends: Sequence[float]) -> str:
    low, high = ends
    return f"{100 * low:.1f} - {high:.1%}"
