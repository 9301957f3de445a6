"""
Share the questions of a synthesis among several workers, and put their replies together.

A worker has a part of the questions and a store of its own, beside the store of the whole run. What it asks depends on
the other workers in one place: the examples of the contrastive prompts are drawn from the rectified pairs of the whole
run. So a worker that has ended its first two steps writes its rectified pairs to a file, and asks for corrupted chains
only when the files of all workers are there. A run without a shard copies the replies of all workers into its store
and goes through the whole recipe. It finds each reply there, so its files are those of a run that was never shared.

Nothing here waits: workers may run at the same time or one after the other, on one machine or on several that see the
same folder. The store of a worker is locked while it is in use, so the same shard cannot run twice at once.
"""

import hashlib
import json
import re
import shutil
from collections.abc import Callable, Hashable, Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

from ..chat import ChatClient
from ..files import written_aside
from .config import SynthesisConfig


_T = TypeVar("_T")

_STATE_FILE = re.compile(r"(\d+)-of-(\d+)\.json")


class Shards:
    """
    The shards of a run: one of them, or all of them if none is named.

    Args:
        store (`str` or `Path`):
            The store of the whole run. The shards have theirs in a folder beside it.
        shard (`str`, *optional*):
            `"2/4"` for the second of four shards. `None` for a run that merges them, if there are any.

    Raises:
        ValueError: If `shard` is not of this form.

    Examples:

    ```python
    >>> shards = Shards("out/replies.sqlite", "2/4")
    >>> Path(shards.store).name
    '2-of-4.sqlite'
    >>> shards.part("abcdefg", str)
    ['b', 'f']

    ```
    """

    def __init__(self, store: str | Path, shard: str | None = None) -> None:
        self.main_store = Path(store)
        self.folder = self.main_store.with_suffix(".shards")
        self.number = self.total = 0
        self.waits_for: list[int] = []
        if shard is None:
            return
        match = re.fullmatch(r"([1-9]\d*)/([1-9]\d*)", shard)
        if match is None or int(match[1]) > int(match[2]):
            raise ValueError(
                f"`shard` must be a number and how many shards there are, from '1/4' to '4/4', got {shard!r}. Shards "
                "are counted from 1."
            )
        self.number, self.total = int(match[1]), int(match[2])

    @property
    def is_worker(self) -> bool:
        """`bool`: Whether this is one of the shards, and not the run that merges them."""
        return bool(self.number)

    @property
    def store(self) -> str:
        """`str`: The store of this run."""
        return str(self.folder / f"{self.number}-of-{self.total}.sqlite" if self.is_worker else self.main_store)

    def part(self, items: Iterable[_T], key: Callable[[_T], Hashable]) -> list[_T]:
        """
        Return the items of this shard: of the different keys, in order, every `total`-th. Without a shard, all.

        Args:
            items (`Iterable`):
                All items.
            key (`Callable`):
                Function that returns the question of an item. Items with the same question are in the same shard.

        Returns:
            `list`: Items of this shard, in order.
        """
        numbers: dict[Hashable, int] = {}
        places = [(numbers.setdefault(key(item), len(numbers)), item) for item in items]
        return [item for place, item in places if not self.is_worker or place % self.total == self.number - 1]

    def begin(self, client: ChatClient, made_with: dict[str, Any]) -> list[str]:
        """
        Begin a run. A shard is refused if others were made with other settings. The run that merges them copies all
        their replies into its store, and removes their folder.

        Args:
            client ([`~chat.ChatClient`]):
                The teacher, with the store of this run.
            made_with (`dict[str, Any]`):
                Questions and settings on which the requests depend, by names for an error. The same in all shards.

        Returns:
            `list[str]`: A note if two stores have replies to the same requests that differ. Empty otherwise.

        Raises:
            ValueError: If shards are missing, not finished, in use, or were made with other settings.
        """
        self._made_with = json.loads(json.dumps(made_with))
        states = self._states()
        totals = sorted({total for _, total in states} | ({self.total} if self.is_worker else set()))
        if len(totals) > 1:
            raise ValueError(
                f"All shards of {str(self.folder)!r} must be of the same number, got shards of "
                f"{' and of '.join(map(str, totals))}. Finish and merge those that are there, or move the folder away."
            )
        for (number, total), state in states.items():
            if number != self.number:
                self._compare(f"{number}/{total}", state["made_with"])
        if self.is_worker:
            own = states.get((self.number, self.total))
            if own is None or own["made_with"] != self._made_with:
                self._write(examples=None, is_finished=False)
            # An earlier run without shards may have replies to some questions.
            return _note(client.absorb(str(self.main_store))) if self.main_store.exists() else []
        if not totals:
            return []
        (self.total,) = totals
        self._refuse_unfinished(states)
        num_other = sum(
            client.absorb(str(self.folder / f"{number}-of-{self.total}.sqlite")) for number in range(1, self.total + 1)
        )
        # Renamed first: a folder that is removed in part would look like one of missing shards.
        merged = self.folder.with_suffix(".merged")
        shutil.rmtree(merged, ignore_errors=True)
        self.folder.rename(merged)
        shutil.rmtree(merged)
        return _note(num_other)

    def share(self, examples: list[dict[str, Any]]) -> list[dict[str, Any]] | None:
        """
        Give the rectified pairs of this shard to the others. What was given once is not changed any more, so that all
        shards draw from the same pairs.

        Args:
            examples (`list[dict[str, Any]]`):
                Worked examples of this shard, with `question`.

        Returns:
            `list[dict[str, Any]]` or `None`: Those of all shards, in the order of their questions; `None` if some
            shards have not given theirs. Their numbers are in `waits_for`.
        """
        states = self._states()
        own = states[self.number, self.total]
        if own["examples"] is None:
            self._write(examples, is_finished=False)
            states = self._states()
        given = {number: state["examples"] for (number, _), state in states.items() if state["examples"] is not None}
        self.waits_for = [number for number in range(1, self.total + 1) if number not in given]
        if self.waits_for:
            return None
        return sorted((example for part in given.values() for example in part), key=lambda row: row["question"])

    def finish(self) -> None:
        """Record that this shard has asked all it has to ask."""
        self._write(self._states()[self.number, self.total]["examples"], is_finished=True)

    @property
    def unfinished(self) -> list[str]:
        """`list[str]`: The shards that have not asked all they have to ask, such as `"2/4"`."""
        done = {number for (number, _), state in self._states().items() if state["is_finished"]}
        return [f"{number}/{self.total}" for number in range(1, self.total + 1) if number not in done]

    def _refuse_unfinished(self, states: dict[tuple[int, int], dict[str, Any]]) -> None:
        numbers = range(1, self.total + 1)
        absent = [number for number in numbers if (number, self.total) not in states]
        others = [number for number in numbers if number not in absent]
        unfinished = [number for number in others if not states[number, self.total]["is_finished"]]
        for found, what in ((absent, "missing"), (unfinished, "not finished")):
            if found:
                names = ", ".join(f"{number}/{self.total}" for number in found)
                raise ValueError(
                    "All shards must be finished before they are merged, but of those in "
                    f"{str(self.folder)!r} these are {what}: {names}. Run this command with "
                    f"`--shard {found[0]}/{self.total}`{' and the others' if len(found) > 1 else ''}, then again "
                    "without. To go on without the replies of the shards, move that folder away."
                )

    def _compare(self, name: str, made_with: dict[str, Any]) -> None:
        """Refuse to go on beside a shard that was made with other settings."""
        changed = [key for key in self._made_with if made_with.get(key) != self._made_with[key]]
        if changed:
            values = ", ".join(f"`{key}` {made_with.get(key)!r}, here {self._made_with[key]!r}" for key in changed)
            raise ValueError(
                f"All shards must have the same questions and settings, but shard {name} has {values}. Pass the same; "
                f"or, to begin anew with the replies that are there, delete the JSON files in {str(self.folder)!r}."
            )

    def _states(self) -> dict[tuple[int, int], dict[str, Any]]:
        """The files of the shards, by the number of the shard and the number of shards."""
        states = {}
        for path in sorted(self.folder.glob("*.json")) if self.folder.is_dir() else ():
            if match := _STATE_FILE.fullmatch(path.name):
                states[int(match[1]), int(match[2])] = json.loads(path.read_text(encoding="utf-8"))
        return states

    def _write(self, examples: list[dict[str, Any]] | None, is_finished: bool) -> None:
        state = {"made_with": self._made_with, "is_finished": is_finished, "examples": examples}
        with written_aside(Path(self.store).with_suffix(".json")) as (path,):
            path.write_text(json.dumps(state, ensure_ascii=False, indent=1), encoding="utf-8")


def synthesis_settings(
    client: ChatClient, config: SynthesisConfig, version: str, examples: list[dict[str, Any]]
) -> dict[str, Any]:
    """
    Return the settings on which the requests of a synthesis depend.

    Args:
        client ([`~chat.ChatClient`]):
            The teacher.
        config ([`SynthesisConfig`]):
            Options. Those that say where the files go are left out.
        version (`str`):
            Version of the prompts.
        examples (`list[dict[str, Any]]`):
            Worked examples.

    Returns:
        `dict[str, Any]`: Values by names for an error. JSON can hold them.
    """
    others = ("output_dir", "file_format", "push_to_hub", "hub_dataset_id", "hub_private_repo", "template_dir")
    more = ("replay_share", "replay_seed")
    options = {name: value for name, value in asdict(config).items() if name not in (*others, *more)}
    digest = hashlib.sha256(json.dumps(examples, sort_keys=True).encode()).hexdigest()[:8]
    return {**client.settings, **options, "prompts": version, "examples": digest}


def _note(num_other: int) -> list[str]:
    """What users must know if stores had other replies to the same requests."""
    if not num_other:
        return []
    return [
        f"{num_other} requests were sent by more than one run, with another reply each. The first reply counts; the "
        "requests and tokens of the others are not in the sums."
    ]
