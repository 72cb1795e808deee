"""Celery's result backend in one SQLite file, `sqlite:///FILE`: chords end at once, a repeated member counts once."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from celery import states
from celery.app.task import Context
from celery.backends.base import KeyValueStoreBackend
from celery.canvas import maybe_signature
from celery.exceptions import ChordError
from celery.result import GroupResult
from celery.utils.log import get_logger

from ...core.observe import Log
from ...core.times import seconds
from ..urls import parse_url
from .file import File

logger = Log(get_logger(__name__))

FORMAT = 1
#: Expired rows are deleted once in so many writes.
CLEAN_EVERY = 500
#: The position of a member that was given none.
LAST = 2**62

_SCHEMA = """
CREATE TABLE IF NOT EXISTS results (key TEXT PRIMARY KEY, value BLOB NOT NULL, expires REAL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS chords (id TEXT PRIMARY KEY, size INTEGER, done INTEGER NOT NULL DEFAULT 0, expires REAL)
    WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS members (
    chord TEXT, position INTEGER, task TEXT, state TEXT NOT NULL, result BLOB NOT NULL,
    PRIMARY KEY (chord, position, task))
    WITHOUT ROWID;
"""


class ResultBackend(KeyValueStoreBackend):  # type: ignore[misc]  # celery's classes are untyped
    """Results and chords of one machine."""

    persistent = True
    supports_autoexpire = True
    supports_native_join = True

    @staticmethod
    def key_t(key: Any) -> str:
        """Return a key as text."""
        return key.decode() if isinstance(key, bytes) else str(key)

    def __init__(self, app: Any, url: str = "", **kwargs: Any) -> None:
        super().__init__(app, url=url, **kwargs)
        self.url = url
        self._path, _ = parse_url(url)
        self._database: File | None = None
        self._writes = 0

    def __reduce__(self, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None) -> Any:
        """Let Celery send the backend to another process: by its address."""
        return super().__reduce__(args, {**(kwargs or {}), "url": self.url})

    def as_uri(self, include_password: bool = True) -> str:
        """Return the address; it holds no secrets."""
        return self.url

    @property
    def database(self) -> File:
        """The file, opened on first use in each process."""
        if self._database is None:
            self._database = File(self._path, _SCHEMA, FORMAT)
        return self._database

    # -- results

    def get(self, key: str) -> bytes | None:
        """Return the value, or None when it is missing or expired."""
        return self.mget([key])[0]

    def mget(self, keys: Iterable[str]) -> list[bytes | None]:
        """Return the values in the order of `keys`."""
        query = "SELECT value FROM results WHERE key=? AND (expires IS NULL OR expires>?)"
        answers = [self.database.read(query, (self.key_t(key), seconds())) for key in keys]
        return [rows[0][0] if rows else None for rows in answers]

    def set(self, key: str, value: Any) -> None:
        """Keep a value for `result_expires` seconds."""
        value = value.encode() if isinstance(value, str) else value
        with self.database.transaction() as db:
            db.execute("INSERT OR REPLACE INTO results VALUES (?, ?, ?)", (self.key_t(key), value, self._deadline()))
            self._clean_now_and_then(db)

    def delete(self, key: str) -> None:
        """Forget a value."""
        with self.database.transaction() as db:
            db.execute("DELETE FROM results WHERE key=?", (self.key_t(key),))

    def expire(self, key: str, value: float) -> None:
        """Let a value expire in `value` seconds."""
        with self.database.transaction() as db:
            db.execute(
                "UPDATE results SET expires=? WHERE key=?", (seconds() + value if value else None, self.key_t(key))
            )

    def _deadline(self) -> float | None:
        return seconds() + self.expires if self.expires else None

    def _clean_now_and_then(self, db: Any) -> None:
        self._writes += 1
        if self._writes % CLEAN_EVERY == 1:
            db.execute("DELETE FROM results WHERE expires<?", (seconds(),))
            db.execute("DELETE FROM chords WHERE expires<?", (seconds(),))
            db.execute("DELETE FROM members WHERE chord NOT IN (SELECT id FROM chords)")

    # -- chords

    def set_chord_size(self, group_id: str, chord_size: int) -> None:
        """Note how many members a chord waits for; sending the same chord again changes nothing."""
        with self.database.transaction() as db:
            self._begin(db, group_id)
            db.execute("UPDATE chords SET size=?-size WHERE id=? AND size<=0", (chord_size, group_id))

    def add_to_chord(self, chord_id: str, result: Any) -> None:
        """Let a chord wait for one member more."""
        with self.database.transaction() as db:
            self._begin(db, chord_id)
            db.execute("UPDATE chords SET size=size+(CASE WHEN size>0 THEN 1 ELSE -1 END) WHERE id=?", (chord_id,))

    def _begin(self, db: Any, chord: str) -> None:
        """Have a row of a chord whose size is not known: it says how many members have been added, below 0.

        Celery says how large a chord is before it sends its last member: others may have ended by then.
        """
        db.execute("INSERT OR IGNORE INTO chords VALUES (?, 0, 0, ?)", (chord, self._deadline()))

    def apply_chord(self, header_result_args: tuple[Any, ...], body: Any, **kwargs: Any) -> None:
        """Start a chord: its members report by themselves; of groups within it the structure is kept."""
        id, members = header_result_args[:2]
        if type(members) is not list:
            return  # what reads a generator is not to be read ahead
        header = self.app.GroupResult(id, members)
        if any(isinstance(result, GroupResult) for result in header.results):
            self.save_group(header.id, header)

    def on_chord_part_return(self, request: Any, state: str, result: Any, **kwargs: Any) -> None:
        """Count a finished member; the last one starts the chord's body, or its errbacks when a member failed."""
        if not request.group or not request.id:
            return
        encoded = self.encode(self.encode_result(result, state))
        if self._is_last(request, state, encoded):
            self._finish(request.group, maybe_signature(request.chord, app=self.app))
            # Marked after the body was sent: a crash between the two lets the redelivered member send it again.
            with self.database.transaction() as db:
                db.execute("UPDATE chords SET done=1 WHERE id=?", (request.group,))

    def _is_last(self, request: Any, state: str, encoded: Any) -> bool:
        """Keep the member's result and say whether it completes the chord; the file's write lock decides races."""
        encoded = encoded.encode() if isinstance(encoded, str) else encoded
        group = request.group
        with self.database.transaction() as db:
            self._begin(db, group)
            db.execute(
                # The first result stays: whoever repeats a member, or revokes it afterwards, changes nothing.
                "INSERT OR IGNORE INTO members VALUES (?, ?, ?, ?, ?)",
                (group, LAST if request.group_index is None else request.group_index, request.id, state, encoded),
            )
            size, done = db.execute("SELECT size, done FROM chords WHERE id=?", (group,)).fetchone()
            if size <= 0:
                size = request.chord.get("chord_size") and request.chord["chord_size"] - size
            count = db.execute("SELECT count(*) FROM members WHERE chord=?", (group,)).fetchone()[0]
        return not done and bool(size) and count >= size

    def _finish(self, group: str, body: Any) -> None:
        """Send the body; whatever is in the way goes to the chord's errbacks."""
        # Inside `except`, both times: Celery reads the error from there, and ends the process when there is none.
        try:
            body.delay(self._results(group))
        except ChordError as exc:
            logger.error("chord %s: %s", group, exc)
            self.chord_error_from_stack(body, exc)
        except Exception as exc:
            logger.exception("chord %s: its body could not be sent", group)
            self.chord_error_from_stack(body, ChordError(f"Callback error: {exc!r}"))

    def chord_error_from_stack(self, callback: Any, exc: BaseException | None = None) -> Any:
        """Fail a chord, and the chord that it is a member of; Celery itself leaves that one waiting."""
        failed = super().chord_error_from_stack(callback, exc)
        outer = callback.options
        if outer.get("chord"):
            place = {"group": outer.get("group_id"), "group_index": outer.get("group_index"), "chord": outer["chord"]}
            self.on_chord_part_return(Context(id=callback.id, **place), states.FAILURE, exc)
        return failed

    def _results(self, group: str) -> list[Any]:
        """Return the members' results as the chord was written; raise ChordError for the first one that failed."""
        query = "SELECT task, state, result FROM members WHERE chord=? ORDER BY position"
        results = []
        for task, state, encoded in self.database.read(query, (group,)):
            result = self.decode(encoded)
            if state in states.PROPAGATE_STATES:
                error = self.exception_to_python(result)
                raise ChordError(f"Dependency {task} raised {error!r}") from error
            results.append((task, result))
        header = self.restore_group(group, cache=False)
        return [result for _, result in results] if header is None else _shaped(header, dict(results))


def _shaped(header: GroupResult, results: dict[str, Any]) -> list[Any]:
    return [_shaped(one, results) if isinstance(one, GroupResult) else results[one.id] for one in header.results]
