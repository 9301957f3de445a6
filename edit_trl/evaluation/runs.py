"""
Read, write and compare the runs of an evaluation on disk.

A run is a folder with three files. `settings.json` says what the replies depend on: the student, known by its weights
and not by its name, and its settings. A run of another student or with other settings is refused. `generations.jsonl`
has one reply per line and is written batch by batch, so an interrupted run continues and generates only the missing
replies. A reply is used again only for the same prompt. `results.json` has the scores. Only the replies that these
scores count have a verdict in `generations.jsonl`, and only they are compared. Files are replaced as a whole: an
interruption leaves the old file or the new file, and never a part of a file.
"""

import json
import time
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from ..files import check_folder, written_aside
from .identity import differences
from .metrics import compare_students, majority_vote
from .students import Student


# Identifies a reply: the hash of its prompt, and the number of the sample.
Key = tuple[str, int]

# Verdict on a question, by its text, its right answer, and the number of its repetition.
Verdicts = dict[tuple[str, str, int], bool | None]

# Number of prompts in one call of a student that makes batches itself.
_PROMPTS_AT_A_TIME = 256
# The files of a run.
FILES = ("settings.json", "generations.jsonl", "results.json")
# Version of the files. Those of release 0.1 have none; they do not say which weights made the replies.
_FORMAT = 2


class Run:
    """
    The folder of a run and the replies in it. The folder and the settings are written with the first reply.

    Args:
        output_dir (`str`):
            The folder. It is created if it does not exist.
        settings (`dict[str, Any]`):
            What the replies depend on: settings, and as `weights` the identity of the student.

    Raises:
        ValueError: If the folder has replies of another student or made with other settings, has files that are not of
            an evaluation, or a file in it cannot be read or written.
    """

    def __init__(self, output_dir: str, settings: dict[str, Any]) -> None:
        self.folder = Path(output_dir)
        self.settings = settings
        self.path = self.folder / "generations.jsonl"
        self._settings_path, self._results_path = self.folder / "settings.json", self.folder / "results.json"
        check_output_dir(output_dir)
        self._length: int | None
        records, self._length = _read_records(self.path)
        if records:
            self._check_settings()
        self.generations = {(record["prompt"], record["sample"]): record for record in records if "prompt" in record}
        self.num_reused = self.num_generated = self.num_tokens = 0
        self.seconds = 0.0

    def generate(
        self,
        student: Student,
        prompts: dict[Key, Any],
        questions: dict[str, str],
        batch_size: int,
        on_progress: Callable[[int, int], None] | None = None,
    ) -> None:
        """
        Generate the missing replies, and write each batch to the file before the next batch begins.

        Args:
            student (`Callable`):
                As for [`evaluate`].
            prompts (`dict`):
                Prompt, as text or as messages, by its hash and the number of the sample.
            questions (`dict[str, str]`):
                Question by the hash of its prompt.
            batch_size (`int`):
                Number of replies that are generated together.
            on_progress (`Callable`, *optional*):
                As for [`evaluate`].
        """
        # Sorted by length, batches have little padding. With the longest first, missing memory is found at once.
        keys = sorted(prompts, key=lambda key: -len(questions[key[0]]))
        size = _PROMPTS_AT_A_TIME if getattr(student, "batches_itself", False) else batch_size
        self.num_reused = num_done = sum(key in self.generations for key in keys)
        started = time.monotonic()
        for start in range(0, len(keys), size):
            batch = [key for key in keys[start : start + size] if key not in self.generations]
            if not batch:
                continue
            if not self.num_generated:
                self._prepare()
            replies = student([prompts[key] for key in batch], [sample for _, sample in batch])
            self.num_tokens += sum(reply.num_tokens for reply in replies)
            records = [
                {"question": questions[prompt], "prompt": prompt, "sample": sample, **reply._asdict()}
                for (prompt, sample), reply in zip(batch, replies, strict=True)
            ]
            self.generations.update(zip(batch, records, strict=True))
            with open(self.path, "a", encoding="utf-8") as file:
                file.write(_as_lines(records))  # in one call, so an interruption leaves at most one incomplete line
            self.num_generated += len(batch)
            num_done += len(batch)
            if on_progress is not None:
                on_progress(num_done, len(keys))
        self.seconds += time.monotonic() - started

    def say_what_is_reused(self, prompts: dict[Key, Any], questions: dict[str, str]) -> str:
        """
        Say which replies of the folder are used again, which are not, and why.

        Args:
            prompts (`dict`):
                As for `generate`.
            questions (`dict[str, str]`):
                As for `generate`.

        Returns:
            `str`: A sentence or two; empty if the folder has no replies.
        """
        if not self.generations:
            return ""
        num_used = sum(key in prompts for key in self.generations)
        asked = set(questions.values())
        paths, rewritten, others = "more paths than now", "other prompts of these questions", "questions not asked now"
        reasons: Counter[str] = Counter()
        for (prompt, sample), record in self.generations.items():
            if (prompt, sample) not in prompts:
                reasons[paths if prompt in questions else rewritten if record["question"] in asked else others] += 1
        who = "the same weights" if "weights" in self.settings else "the same settings"
        told = f"{num_used:,} of {len(prompts):,} replies are in {self.path} ({who} and prompts) and are used again"
        unused = ", ".join(f"{num:,} to {reason}" for reason, num in reasons.items())
        return f"{told}." + (f" Kept there and not used: {unused}." if unused else "")

    def save(self, records: list[dict[str, Any]], results: dict[str, Any]) -> dict[str, Any]:
        """
        Write the judged replies and the results. Other replies of the folder stay, without a verdict.

        Args:
            records (`list[dict]`):
                The judged replies, which the results count.
            results (`dict[str, Any]`):
                Scores of the run.

        Returns:
            `dict[str, Any]`: The results, with the numbers of `replies` that were used again and generated, and
            `tokens_per_second` if a reply was generated.
        """
        results["replies"] = {"reused": self.num_reused, "generated": self.num_generated}
        if self.num_tokens:
            results["tokens_per_second"] = round(self.num_tokens / self.seconds, 1)
        counted = {(record["prompt"], record["sample"]) for record in records}
        names = ("question", "prompt", "sample", "text", "finish_reason", "num_tokens")
        others = [
            {name: record[name] for name in names} for key, record in self.generations.items() if key not in counted
        ]
        self._prepare()
        with written_aside(self.path, self._results_path) as (generations, scores):
            generations.write_text(_as_lines([*records, *others]), encoding="utf-8")
            scores.write_text(_as_json(results, indent=2) + "\n", encoding="utf-8")
        return results

    def _prepare(self) -> None:
        """Make the folder, write the settings, and end the last line or remove it, so that what is added is a line."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with written_aside(self._settings_path) as (path,):
            path.write_text(json.dumps({"format": _FORMAT, **self.settings}, indent=2) + "\n", encoding="utf-8")
        if self._length is not None and self.path.exists():
            with open(self.path, "rb+") as file:
                file.truncate(self._length)
                file.seek(max(self._length - 1, 0))
                if file.read(1) not in (b"", b"\n"):
                    file.write(b"\n")
            self._length = None

    def _check_settings(self) -> None:
        made_with = _read_json(self._settings_path)
        settings = json.loads(json.dumps({"format": _FORMAT, **self.settings}))
        folder = str(self.folder)
        again = f"Pass another `output_dir` than {folder!r}; `edit-trl score {self.path}` scores these replies."
        if "format" not in made_with:
            raise ValueError(
                f"`output_dir` must have replies that say which weights made them, but those in {folder!r} are of "
                f"release 0.1 and do not. The student may have been trained since. {again}"
            )
        if "weights" in made_with and "weights" in settings:
            if ("tensors" in made_with["weights"]) != ("tensors" in settings["weights"]):
                raise ValueError(
                    "`output_dir` must have replies of a student that is known in the same way, but those in "
                    f"{folder!r} are of one known by its files (the command line) and this one is known by its "
                    f"tensors in memory (Python), or the other way round. {again}"
                )
            if parts := differences(made_with["weights"], settings["weights"]):
                shown = ", ".join(parts[:4]) + (f" and {len(parts) - 4} more" if len(parts) > 4 else "")
                raise ValueError(
                    f"`output_dir` must have replies of this student, but {folder!r} has those of other weights: "
                    f"{shown} changed. {again}"
                )
            made_with["model"] = settings["model"]  # the same weights by another name
        changed = [name for name in {**made_with, **settings} if made_with.get(name) != settings.get(name)]
        if changed:
            values = ", ".join(f"`{name}={made_with.get(name)!r}`, now {settings.get(name)!r}" for name in changed)
            raise ValueError(
                f"`output_dir` holds generations that were made with other settings: {values}. They cannot be mixed; "
                f"pass another folder than {folder!r}, or the settings that it was made with."
            )


def check_output_dir(output_dir: str) -> None:
    """
    Refuse a folder that cannot be written to, or in which a run would replace files of others. Writes nothing.

    Args:
        output_dir (`str`):
            The folder.

    Raises:
        ValueError: If the folder is refused.
    """
    folder = Path(output_dir)
    check_folder("`output_dir`", folder)
    own = _read_json(folder / "settings.json")
    is_own = isinstance(own, dict) and {"chat", "task_description"} <= set(own)
    for name in FILES:
        path = folder / name
        if path.exists() and not (is_own and path.is_file()):
            raise ValueError(
                f"`output_dir` must be a new folder or that of an evaluation, but {str(path)!r} is not of one. It "
                "would be replaced; pass another folder."
            )


def check_scores_dir(output_dir: str) -> None:
    """Raise `ValueError` if [`save_scores`] would replace replies of a student or files of others in `output_dir`."""
    check_output_dir(output_dir)
    settings = _read_json(Path(output_dir, "settings.json"))
    if settings is not None and "replies" not in settings:
        raise ValueError(
            f"`output_dir` must be a new folder or that of scored replies, but {output_dir!r} has the replies of a "
            "student. Pass another folder."
        )


def save_scores(output_dir: str, records: list[dict[str, Any]], results: dict[str, Any]) -> None:
    """
    Write judged replies of another tool and their scores, in the files of a run, so that runs can be compared with it.

    Args:
        output_dir (`str`):
            A new folder, or one that this function wrote.
        records (`list[dict]`):
            The judged replies.
        results (`dict[str, Any]`):
            Their scores.

    Raises:
        ValueError: If the folder has other files, such as the replies of a student.
    """
    check_scores_dir(output_dir)
    folder = Path(output_dir)
    paths = [folder / name for name in FILES]
    settings = {"format": _FORMAT, "replies": results["settings"]["replies"], "chat": None, "task_description": None}
    folder.mkdir(parents=True, exist_ok=True)
    with written_aside(*paths) as (settings_path, generations, scores):
        settings_path.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
        generations.write_text(_as_lines(records), encoding="utf-8")
        scores.write_text(_as_json({**results, "replies": {}}, indent=2) + "\n", encoding="utf-8")


def group_by_question(records: Iterable[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """
    Group judged generations by question. A question that the dataset has twice is two groups.

    Args:
        records (`Iterable[dict]`):
            Rows of `generations.jsonl`. Those without a verdict are left out.

    Returns:
        `list[list[dict]]`: The rows of each question, in order.
    """
    groups: dict[Any, list[dict[str, Any]]] = {}
    for record in records:
        if "is_right" in record:
            groups.setdefault((record.get("row"), record["question"]), []).append(record)
    return list(groups.values())


def majority_verdict(paths: list[dict[str, Any]]) -> bool | None:
    """
    Judge the answer to one question: the answer of the only path, or the majority vote of several paths.

    Args:
        paths (`list[dict]`):
            Judged generations for the question, with `sample`, `extracted` and `is_right`.

    Returns:
        `bool` or `None`: Whether the answer is right; `None` if no answer could be read from any path.
    """
    paths = sorted(paths, key=lambda path: path["sample"])
    answer = majority_vote(path["extracted"] for path in paths)
    return None if answer is None else next(path["is_right"] for path in paths if path["extracted"] == answer)


def compare_runs(output_dir: str, other_dir: str) -> dict[str, Any]:
    """
    Compare two runs of [`evaluate`], or of [`evaluate_benchmarks`], on the same questions.

    What the tables of the two runs count is compared: the verdicts of their last scores.

    Args:
        output_dir (`str`):
            Folder of the first run.
        other_dir (`str`):
            Folder of the other run.

    Returns:
        `dict[str, Any]`: The dictionary of [`~metrics.compare_students`] for the questions of both runs; and
        `num_left_out`, the number of questions that are only in one run or have another right answer in the other.

    Raises:
        ValueError: If a folder has no run that was scored, or the runs have no question in common.
    """
    return compare_verdicts(read_verdicts(output_dir), read_verdicts(other_dir))


def compare_verdicts(one: Verdicts, other: Verdicts) -> dict[str, Any]:
    """
    Compare the verdicts of two runs, as [`compare_runs`] does.

    Args:
        one (`dict`):
            Verdicts of the first run, from [`read_verdicts`] or [`verdicts_of`].
        other (`dict`):
            Verdicts of the other run.

    Returns:
        `dict[str, Any]`: The dictionary of [`compare_runs`].

    Raises:
        ValueError: If the runs have no question in common.
    """
    common = [question for question in one if question in other]
    if not common:
        raise ValueError(
            "Both runs must have been asked the same questions, but they have none in common with the same right "
            "answer. Evaluate both students on one dataset; each needs its own `output_dir`."
        )
    comparison = compare_students([one[question] for question in common], [other[question] for question in common])
    return {**comparison, "num_left_out": len(one) + len(other) - 2 * len(common)}


def read_verdicts(output_dir: str) -> Verdicts:
    """
    Read the verdicts that the scores of a run count.

    Args:
        output_dir (`str`):
            Folder of the run.

    Returns:
        `dict`: The verdicts, see [`verdicts_of`].

    Raises:
        ValueError: If the folder has no run that was scored, or its scores count other replies.
    """
    folder = Path(output_dir)
    results = _read_json(folder / "results.json")
    groups = group_by_question(_read_records(folder / "generations.jsonl")[0])
    if not groups or not isinstance(results, dict):
        raise ValueError(
            f"A run to compare must be the `output_dir` of one that was scored, and {output_dir!r} is not. It must "
            "have `generations.jsonl` with verdicts, and `results.json`; evaluate the student to its end first."
        )
    num_paths = results.get("num_paths", 1)
    # Of release 0.1, there may be verdicts that the scores do not count.
    groups = [[path for path in paths if path["sample"] < num_paths] for paths in groups]
    num_questions = len(groups)
    is_old = "replies" not in results
    if num_questions > results["num_questions"] or (num_questions < results["num_questions"] and not is_old):
        raise ValueError(
            f"The scores of a run to compare must be those of its replies, but {output_dir!r} has verdicts on "
            f"{num_questions} questions, and its results count {results['num_questions']}. Score it again: run its "
            "command once more."
        )
    return verdicts_of(path for paths in groups for path in paths)


def verdicts_of(records: Iterable[dict[str, Any]]) -> Verdicts:
    """
    Return the verdict on each question.

    Args:
        records (`Iterable[dict]`):
            Judged generations.

    Returns:
        `dict`: Verdict, see [`majority_verdict`], by question, right answer, and number of its repetition.
    """
    seen: Counter[tuple[str, str]] = Counter()
    verdicts: Verdicts = {}
    for paths in group_by_question(records):
        name = (paths[0]["question"], json.dumps(paths[0]["answer"]))
        verdicts[*name, seen[name]] = majority_verdict(paths)
        seen[name] += 1
    return verdicts


def _read_records(path: Path) -> tuple[list[dict[str, Any]], int]:
    """Return the generations of a file and the length of its complete lines in bytes. The last line may be torn."""
    records: list[dict[str, Any]] = []
    length = 0
    if not path.exists():
        return records, length
    with open(path, "rb") as file:
        for line in file:
            try:
                record = json.loads(line)
                if not {"question", "sample", "text"} <= set(record):
                    raise ValueError
            except (TypeError, ValueError):
                if line.endswith(b"\n"):
                    raise ValueError(
                        f"{str(path)!r} must hold a generation per line, but a line cannot be read: {line[:100]!r}. "
                        "Delete this line; its reply will be generated again."
                    ) from None
                break
            records.append(record)
            length += len(line)
    return records, length


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _as_lines(records: Iterable[dict[str, Any]]) -> str:
    return "".join(_as_json(record) + "\n" for record in records)


def _as_json(value: Any, indent: int | None = None) -> str:
    text = json.dumps(value, indent=indent, ensure_ascii=False)
    # A half of a surrogate pair, which an endpoint may send, cannot be written in UTF-8; as an escape it can.
    return text if _is_unicode(text) else json.dumps(value, indent=indent)


def _is_unicode(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
