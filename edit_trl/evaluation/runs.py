"""
Runs on disk: what a student was asked under which settings, what it replied, and how it scored.

A run is a folder with three files. `settings.json` holds what the replies depend on; a run with other settings is
refused. `generations.jsonl` holds one reply per line, written batch by batch, so that an interrupted run goes on from
there and generates nothing twice. `results.json` holds the scores. A file that is replaced is replaced as a whole, so
that an interruption leaves the old file or the new one, not a part of it.
"""

import json
import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from ..answers import answers_match
from ..files import written_aside
from .metrics import compare_students, majority_vote
from .students import Student


# What one reply is known by: a text that identifies the question, and the number of the sample.
Key = tuple[str, int]

# Prompts that are given at a time to a student that makes batches by itself.
_PROMPTS_AT_A_TIME = 256


class Run:
    """
    The folder of a run, and the replies that are in it.

    Args:
        output_dir (`str`):
            The folder. It is made if it does not exist.
        settings (`dict[str, Any]`):
            What the replies depend on.

    Raises:
        ValueError: If the folder holds generations of other settings, or a file in it cannot be read.
    """

    def __init__(self, output_dir: str, settings: dict[str, Any]) -> None:
        self.folder = Path(output_dir)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.settings = settings
        self._check_settings()
        self.path = self.folder / "generations.jsonl"
        self.generations, length = _read_generations(self.path)
        if self.path.exists():
            os.truncate(self.path, length)  # what is appended begins a line of its own
        self.num_tokens = 0
        self.seconds = 0.0

    def generate(
        self,
        student: Student,
        prompts: dict[Key, Any],
        batch_size: int,
        on_progress: Callable[[int, int], None] | None = None,
    ) -> None:
        """
        Generate the replies that are not there yet, and write each batch to the file before the next one begins.

        Args:
            student (`Callable`):
                As for [`evaluate`].
            prompts (`dict`):
                Prompt, as text or as messages, by question and number of the sample.
            batch_size (`int`):
                Replies that are generated together.
            on_progress (`Callable`, *optional*):
                As for [`evaluate`].
        """
        # Sorted by length there is little padding. With the longest first, memory runs out at once or not at all.
        keys = sorted(prompts, key=lambda key: -len(key[0]))
        size = _PROMPTS_AT_A_TIME if getattr(student, "batches_itself", False) else batch_size
        num_done = sum(key in self.generations for key in keys)
        started = time.monotonic()
        for start in range(0, len(keys), size):
            batch = [key for key in keys[start : start + size] if key not in self.generations]
            if not batch:
                continue
            replies = student([prompts[key] for key in batch], [sample for _, sample in batch])
            self.num_tokens += sum(reply.num_tokens for reply in replies)
            records = [
                {"question": question, "sample": sample, **reply._asdict()}
                for (question, sample), reply in zip(batch, replies, strict=True)
            ]
            self.generations.update(zip(batch, records, strict=True))
            with open(self.path, "a", encoding="utf-8") as file:
                file.write(_as_lines(records))  # in one call, so that an interruption tears at most the last line
            num_done += len(batch)
            if on_progress is not None:
                on_progress(num_done, len(keys))
        self.seconds += time.monotonic() - started

    def save(self, results: dict[str, Any]) -> dict[str, Any]:
        """
        Write the generations, as they are now, and the results.

        Args:
            results (`dict[str, Any]`):
                Scores of the run.

        Returns:
            `dict[str, Any]`: The results, with `tokens_per_second` if anything was generated.
        """
        if self.num_tokens:
            results["tokens_per_second"] = round(self.num_tokens / self.seconds, 1)
        _replace(self.path, _as_lines(self.generations.values()))
        _replace(self.folder / "results.json", json.dumps(results, indent=2, ensure_ascii=False) + "\n")
        return results

    def _check_settings(self) -> None:
        path = self.folder / "settings.json"
        settings = json.loads(json.dumps(self.settings))
        if not path.exists():
            _replace(path, json.dumps(settings, indent=2) + "\n")
            return
        made_with = json.loads(path.read_text(encoding="utf-8"))
        changed = [name for name in {**made_with, **settings} if made_with.get(name) != settings.get(name)]
        if changed:
            values = ", ".join(f"`{name}={made_with.get(name)!r}`, now {settings.get(name)!r}" for name in changed)
            raise ValueError(
                f"`output_dir` holds generations that were made with other settings: {values}. They cannot be mixed; "
                f"pass another folder than {str(self.folder)!r}, or the settings that it was made with."
            )


def group_by_question(records: Iterable[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """
    Generations by question.

    Args:
        records (`Iterable[dict]`):
            Rows of `generations.jsonl`.

    Returns:
        `dict[str, list[dict]]`: The rows of each question, in order.
    """
    by_question: dict[str, list[dict[str, Any]]] = {}
    for record in records:
        by_question.setdefault(record["question"], []).append(record)
    return by_question


def majority_verdict(paths: list[dict[str, Any]]) -> bool | None:
    """
    Verdict on the answer to one question: that of the only path, or the majority's.

    Args:
        paths (`list[dict]`):
            Generations for the question, with `sample`, `extracted` and `answer`.

    Returns:
        `bool` or `None`: Whether the answer is right; `None` if no path has one that could be read.
    """
    answer = majority_vote(path["extracted"] for path in sorted(paths, key=lambda path: path["sample"]))
    return None if answer is None else answers_match(answer, paths[0]["answer"])


def compare_runs(output_dir: str, other_dir: str) -> dict[str, Any]:
    """
    Compare two runs of [`evaluate`], or of [`evaluate_benchmarks`], on the same questions.

    Args:
        output_dir (`str`):
            Folder of the one.
        other_dir (`str`):
            Folder of the other.

    Returns:
        `dict[str, Any]`: What [`~metrics.compare_students`] returns, of the questions that both were asked; and
        `num_left_out`, the number of the others.

    Raises:
        ValueError: If a folder holds no run that was scored, or the runs have no question in common.
    """
    one, other = (
        {
            question: majority_verdict(paths)
            for question, paths in group_by_question(
                record
                for record in _read_generations(Path(folder, "generations.jsonl"))[0].values()
                if "is_right" in record
            ).items()
        }
        for folder in (output_dir, other_dir)
    )
    common = [question for question in one if question in other]
    if not common:
        raise ValueError(
            f"Both runs must have been asked the same questions, but {output_dir!r} and {other_dir!r} have none in "
            "common. Evaluate both students on one dataset; each needs its own `output_dir`."
        )
    comparison = compare_students([one[question] for question in common], [other[question] for question in common])
    return {**comparison, "num_left_out": len(one) + len(other) - 2 * len(common)}


def _read_generations(path: Path) -> tuple[dict[Key, dict[str, Any]], int]:
    """The generations of a file, and the length in bytes of its whole lines: an interruption tears the last one."""
    generations: dict[Key, dict[str, Any]] = {}
    length = 0
    if not path.exists():
        return generations, length
    with open(path, "rb") as file:
        for line in file:
            try:
                record = json.loads(line)
            except ValueError:
                if line.endswith(b"\n"):
                    raise ValueError(
                        f"{str(path)!r} must hold a generation per line, but one cannot be read: {line[:100]!r}. Take "
                        "it out; what is missing is generated again."
                    ) from None
                break
            generations[record["question"], record["sample"]] = record
            if line.endswith(b"\n"):
                length += len(line)
    return generations, length


def _as_lines(records: Iterable[dict[str, Any]]) -> str:
    return "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)


def _replace(path: Path, text: str) -> None:
    with written_aside(path) as (unfinished,):
        unfinished.write_text(text, encoding="utf-8")
