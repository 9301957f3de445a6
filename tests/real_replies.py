"""
Real chains of thought of models and people, from the folder of shared data. None of their writers had a hint, and none
was asked for a wrong response.
"""

import json
from collections.abc import Iterator
from pathlib import Path


SHARED_DATA = Path(__file__).parents[2] / "shared" / "data"
OWN_DATA = Path(__file__).parents[1] / "examples" / "data" / "qwen_dual_cots" / "dual_cots.jsonl"


def real_replies() -> Iterator[tuple[str, str, str]]:
    """The source, the question and the reply of each."""
    for row in _rows(SHARED_DATA / "bbh_dual_cots.jsonl"):
        yield from (("gpt-3.5-turbo, BBH", row["prompt"], row[side]) for side in ("chosen", "rejected"))
    for path in sorted((SHARED_DATA / "bbh" / "codex").glob("*.json")):
        for output in json.loads(path.read_text())["outputs"]:
            question = output["input"].rpartition("\nQ: ")[2].rpartition("\nA:")[0]
            yield "Codex, BBH", question, output["prediction"]
    for row in _rows(SHARED_DATA / "gsm8k" / "model_solutions.jsonl"):
        solutions = [value["solution"] for value in row.values() if isinstance(value, dict)]
        yield from (("GPT-3, GSM8K", row["question"], solution) for solution in solutions)
    for name in ("train", "test"):
        for row in _rows(SHARED_DATA / "gsm8k" / f"{name}.jsonl"):
            yield "people, GSM8K", row["question"], row["answer"]
    for path in sorted((SHARED_DATA / "big_bench_mistake").glob("*.jsonl")):
        for row in _rows(path):
            yield "PaLM 2, BIG-Bench Mistake", row["input"], "\n".join(row["steps"])
    for row in _rows(OWN_DATA):
        yield from (("Qwen2.5-Coder-0.5B", row["prompt"], row[side]) for side in ("chosen", "rejected"))


def _rows(path: Path) -> Iterator[dict]:
    with path.open(encoding="utf-8") as lines:
        yield from map(json.loads, lines)
