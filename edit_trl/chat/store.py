"""
Store replies in an SQLite file, so that no reply is paid twice.

A reply is stored before it is returned. Its key is made of the settings that change replies (endpoint, model,
sampling), the messages and the number of the sample. Only one process can use the file at a time: it is locked.
"""

import hashlib
import json
import sqlite3
import threading
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple


_COLUMNS = ("key", "text", "thinking", "finish_reason", "prompt_tokens", "completion_tokens", "requests")


class ChatReply(NamedTuple):
    """
    One reply of a model.

    Args:
        text (`str`):
            Text of the reply without the model's thinking. Empty if the reply ended before the thinking did.
        thinking (`str`):
            Thinking of a reasoning model: a field such as `reasoning_content`, or the text between marks such as
            `<think>` and `</think>`.
        finish_reason (`str` or `None`):
            `"stop"`, `"length"` for a reply that was cut at the limit, `"content_filter"`, `"refusal"` if the model
            refused, `"tool_calls"`, or another value of the endpoint. Words of services for the same, such as
            `"MAX_TOKENS"`, are replaced by these.
        prompt_tokens (`int`):
            Number of tokens of the request, as the endpoint counts them; an estimate if it does not count them.
        completion_tokens (`int`):
            Number of tokens of the reply, including its thinking; an estimate if the endpoint does not count them.
    """

    text: str
    thinking: str
    finish_reason: str | None
    prompt_tokens: int
    completion_tokens: int


@dataclass
class Usage:
    """
    Number of requests, replies and tokens.

    Args:
        requests (`int`):
            Requests sent, including failed attempts.
        replies (`int`):
            Replies received.
        prompt_tokens (`int`):
            Tokens of the requests that got a reply.
        completion_tokens (`int`):
            Tokens of the replies.
    """

    requests: int = 0
    replies: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0


class ReplyStore:
    """
    The store of a client.

    Args:
        path (`str` or `None`):
            SQLite file. It is created if it does not exist. `None` keeps the replies in memory.
        settings (`dict[str, Any]`):
            Settings that change the replies. All replies of a file have the same settings.

    Raises:
        ValueError: If the file cannot be used, is in use, or holds replies that were made with other settings.
    """

    def __init__(self, path: str | None, settings: dict[str, Any]) -> None:
        self._lock = threading.Lock()  # in a notebook, a run has a thread of its own
        self._path = path
        try:
            self._db = sqlite3.connect(path or ":memory:", timeout=0.0, isolation_level=None, check_same_thread=False)
            # Set before the first write in WAL mode, so the lock is held until the file is closed. It is also released
            # if the process is killed.
            self._db.execute("PRAGMA locking_mode = EXCLUSIVE")
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute("PRAGMA synchronous = NORMAL")
            self._db.execute(
                "CREATE TABLE IF NOT EXISTS replies (key TEXT PRIMARY KEY, text TEXT, thinking TEXT, "
                "finish_reason TEXT, prompt_tokens INTEGER, completion_tokens INTEGER, requests INTEGER) WITHOUT ROWID"
            )
            self._db.execute("CREATE TABLE IF NOT EXISTS notes (name TEXT PRIMARY KEY, value TEXT) WITHOUT ROWID")
            self._db.execute("BEGIN IMMEDIATE")
            self._db.execute("COMMIT")
        except sqlite3.Error as error:
            if "locked" in str(error):
                raise ValueError(
                    f"`store` must not be in use, but another run works with {path!r}. Both would pay for the same "
                    "replies; wait for it, or pass another file."
                ) from None
            raise ValueError(
                f"`store` must be an SQLite file in a folder that can be written to, got {path!r} ({error}). Make the "
                "folder, or pass another file."
            ) from None
        settings = json.loads(json.dumps(settings))
        in_batches = self.notes("batch/")
        if not self.usage().replies and not any(record["file"] for record in in_batches.values()):
            # Without a reply, there is nothing that other settings could not be mixed with. The first run may have had
            # a wrong URL.
            if self.remember("identity") not in (None, settings):
                self.note("dialect", None)
                for name in in_batches:
                    self.forget(name)
            self.note("identity", settings)
        self._made_with = self.remember("identity", settings)
        changed = [name for name in settings if self._made_with.get(name) != settings[name]]
        if changed:
            num_replies = self.usage().replies
            self.close()
            values = ", ".join(f"`{name}={self._made_with.get(name)!r}`, now {settings[name]!r}" for name in changed)
            what = "holds replies" if num_replies else "waits for replies to batch files"
            raise ValueError(
                f"`store` {what} that were made with other settings: {values}. They cannot be mixed; pass "
                f"another file than {path!r} (`--store FILE`), or the settings that it was made with."
            )

    def key(self, messages: list[dict[str, str]], sample: int) -> str:
        """Return the key of the reply to `messages` with the number of the `sample`."""
        asked = json.dumps([self._made_with, messages, sample], sort_keys=True, ensure_ascii=False)
        return hashlib.sha256(asked.encode()).hexdigest()

    def get(self, key: str) -> ChatReply | None:
        """Return the reply stored under a `key`; `None` if there is none."""
        with self._cursor() as cursor:
            row = cursor.execute(
                "SELECT text, thinking, finish_reason, prompt_tokens, completion_tokens FROM replies WHERE key = ?",
                (key,),
            ).fetchone()
        return ChatReply(*row) if row else None

    def put(self, key: str, reply: ChatReply, num_requests: int) -> None:
        """Store a `reply` under its `key`, and `num_requests`, the number of requests that were sent for it."""
        with self._cursor() as cursor:
            cursor.execute("INSERT OR REPLACE INTO replies VALUES (?, ?, ?, ?, ?, ?, ?)", (key, *reply, num_requests))

    def absorb(self, path: str) -> int:
        """
        Copy the replies and the notes of another store. What is here already stays as it is.

        Args:
            path (`str`):
                SQLite file of the other store, which is left as it is.

        Returns:
            `int`: Number of requests to which both stores have a reply, and not the same one.

        Raises:
            ValueError: If the file is in use or no store, or its replies were made with other settings.
        """
        try:
            with closing(sqlite3.connect(path, timeout=1.0)) as other:
                notes = dict(other.execute("SELECT name, value FROM notes"))
                replies = other.execute(f"SELECT {', '.join(_COLUMNS)} FROM replies").fetchall()
        except sqlite3.Error as error:
            raise ValueError(
                f"{path!r} must be a store of replies that no run has open, but: {error}. Wait for the run that works "
                "with it, or move the file away."
            ) from None
        made_with = json.loads(notes.pop("identity", "null")) or self._made_with
        changed = [name for name in self._made_with if made_with.get(name) != self._made_with[name]]
        if changed and replies:
            values = ", ".join(f"`{name}={made_with.get(name)!r}`, here {self._made_with[name]!r}" for name in changed)
            raise ValueError(
                f"{path!r} holds replies that were made with other settings: {values}. They cannot be mixed; pass the "
                "same settings to all runs."
            )
        with self._cursor() as cursor:
            cursor.execute("BEGIN IMMEDIATE")
            try:
                num_other = 0
                for row in replies:
                    cursor.execute("INSERT OR IGNORE INTO replies VALUES (?, ?, ?, ?, ?, ?, ?)", row)
                    if not cursor.rowcount:
                        found = cursor.execute("SELECT text, thinking FROM replies WHERE key = ?", row[:1]).fetchone()
                        num_other += found != row[1:3]
                cursor.executemany("INSERT OR IGNORE INTO notes VALUES (?, ?)", notes.items())
            except BaseException:
                cursor.execute("ROLLBACK")
                raise
            cursor.execute("COMMIT")
            cursor.execute("PRAGMA wal_checkpoint(TRUNCATE)")  # on the disk, whatever happens to the other file
        return num_other

    def usage(self) -> Usage:
        """Return the requests, replies and tokens of the whole store."""
        with self._cursor() as cursor:
            sums = "SUM(requests), COUNT(*), SUM(prompt_tokens), SUM(completion_tokens)"
            return Usage(*(value or 0 for value in cursor.execute(f"SELECT {sums} FROM replies").fetchone()))

    def remember(self, name: str, value: Any = None) -> Any:
        """Return the value stored under a `name`. If there is none, store `value` first, unless it is `None`."""
        with self._cursor() as cursor:
            if value is not None:
                cursor.execute("INSERT OR IGNORE INTO notes VALUES (?, ?)", (name, json.dumps(value)))
            row = cursor.execute("SELECT value FROM notes WHERE name = ?", (name,)).fetchone()
        return json.loads(row[0]) if row else None

    def note(self, name: str, value: Any) -> None:
        """Store a `value` under a `name`, in place of an earlier one."""
        with self._cursor() as cursor:
            cursor.execute("INSERT OR REPLACE INTO notes VALUES (?, ?)", (name, json.dumps(value)))

    def note_all(self, values: Mapping[str, Any]) -> None:
        """Store all `values` under their names, or none of them, in place of earlier ones."""
        with self._cursor() as cursor:
            cursor.execute("BEGIN IMMEDIATE")
            rows = [(name, json.dumps(value)) for name, value in values.items()]
            cursor.executemany("INSERT OR REPLACE INTO notes VALUES (?, ?)", rows)
            cursor.execute("COMMIT")

    def notes(self, start: str) -> dict[str, Any]:
        """Return the values whose names have this `start`, by name."""
        with self._cursor() as cursor:
            end = start + chr(0x10FFFF)
            rows = cursor.execute("SELECT name, value FROM notes WHERE name >= ? AND name < ?", (start, end))
            return {name: json.loads(value) for name, value in rows}

    def forget(self, name: str) -> None:
        """Remove the value stored under a `name`, if there is one."""
        with self._cursor() as cursor:
            cursor.execute("DELETE FROM notes WHERE name = ?", (name,))

    @contextmanager
    def _cursor(self) -> Iterator[sqlite3.Cursor]:
        """A cursor for one thread at a time. What the file or the disk refuses is an `OSError`."""
        with self._lock:
            try:
                with closing(self._db.cursor()) as cursor:
                    yield cursor
            except sqlite3.ProgrammingError:
                raise  # a closed store, a mistake of the caller
            except sqlite3.Error as error:
                raise OSError(
                    f"The store {self._path!r} must be a whole SQLite file with room on its disk, but: {error}. The "
                    "replies that were stored before are kept. Make room, or if the file is damaged, move it away; "
                    "then start again."
                ) from None

    def close(self) -> None:
        """Close the file, so that another process may use it."""
        self._db.close()
