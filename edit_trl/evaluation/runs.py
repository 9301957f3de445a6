"""
Read, write and compare the runs of an evaluation on disk.

A run is a folder with three files. `settings.json` has the settings that change the replies; a run with other settings
is refused. `generations.jsonl` has one reply per line and is written batch by batch, so an interrupted run continues
and generates only the missing replies. `results.json` has the scores. Files are replaced as a whole: an interruption
leaves the old file or the new file, and never a part of a file.
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


# Identifies a reply: a text that identifies the question, and the number of the sample.
Key = tuple[str, int]

# Number of prompts in one call of a student that makes batches itself.
_PROMPTS_AT_A_TIME = 256


class Run:
    """
    The folder of a run and the replies in it.

    Args:
        output_dir (`str`):
            The folder. It is created if it does not exist.
        settings (`dict[str, Any]`):
            Settings that change the replies.

    Raises:
        ValueError: If the folder has generations made with other settings, or a file in it cannot be read.
    """

    def __init__(self, output_dir: str, settings: dict[str, Any]) -> None:
        self.folder = Path(output_dir)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.settings = settings
        self._check_settings()
        self.path = self.folder / "generations.jsonl"
        self.generations, length = _read_generations(self.path)
        if self.path.exists():
            os.truncate(self.path, length)  # removes an incomplete last line, so that new lines start at a line start
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
        Generate the missing replies, and write each batch to the file before the next batch begins.

        Args:
            student (`Callable`):
                As for [`evaluate`].
            prompts (`dict`):
                Prompt, as text or as messages, by question and number of the sample.
            batch_size (`int`):
                Number of replies that are generated together.
            on_progress (`Callable`, *optional*):
                As for [`evaluate`].
        """
        # Sorted by length, batches have little padding. With the longest first, missing memory is found at once.
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
                file.write(_as_lines(records))  # in one call, so an interruption leaves at most one incomplete line
            num_done += len(batch)
            if on_progress is not None:
                on_progress(num_done, len(keys))
        self.seconds += time.monotonic() - started

    def save(self, results: dict[str, Any]) -> dict[str, Any]:
        """
        Write the current generations and the results.

        Args:
            results (`dict[str, Any]`):
                Scores of the run.

        Returns:
            `dict[str, Any]`: The results, with `tokens_per_second` if a reply was generated.
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
    Group generations by question.

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
    Judge the answer to one question: the answer of the only path, or the majority vote of several paths.

    Args:
        paths (`list[dict]`):
            Generations for the question, with `sample`, `extracted` and `answer`.

    Returns:
        `bool` or `None`: Whether the answer is right; `None` if no answer could be read from any path.
    """
    answer = majority_vote(path["extracted"] for path in sorted(paths, key=lambda path: path["sample"]))
    return None if answer is None else answers_match(answer, paths[0]["answer"])


def compare_runs(output_dir: str, other_dir: str) -> dict[str, Any]:
    """
    Compare two runs of [`evaluate`], or of [`evaluate_benchmarks`], on the same questions.

    Args:
        output_dir (`str`):
            Folder of the first run.
        other_dir (`str`):
            Folder of the other run.

    Returns:
        `dict[str, Any]`: The dictionary of [`~metrics.compare_students`] for the questions of both runs; and
        `num_left_out`, the number of questions that are only in one run.

    Raises:
        ValueError: If a folder has no run that was scored, or the runs have no question in common.
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
    """Return the generations of a file and the length of its complete lines in bytes. The last line may be torn."""
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
                        f"{str(path)!r} must hold a generation per line, but a line cannot be read: {line[:100]!r}. "
                        "Delete this line; its reply will be generated again."
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
