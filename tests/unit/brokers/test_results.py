"""Celery's results in one SQLite file: chords end once, whatever is delivered twice."""

from __future__ import annotations

import gc
import pickle
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from celery import Celery, states
from celery.exceptions import ChordError

from pipeline import ConfigError
from pipeline.brokers.embedded.results import ResultBackend
from pipeline.brokers.embedded.store import Store
from pipeline.core.errors import EmbeddedBrokerError


@pytest.fixture
def backend(tmp_path: Path) -> Iterator[ResultBackend]:
    app = Celery("test", broker="memory://", set_as_current=False)
    one = ResultBackend(app, url=f"sqlite:///{tmp_path / 'results.db'}")
    yield one
    one.database.close()


def test_a_backend_that_is_dropped_closes_its_file(tmp_path: Path) -> None:
    app = Celery("test", broker="memory://", set_as_current=False)
    one = ResultBackend(app, url=f"sqlite:///{tmp_path / 'results.db'}")
    connection = one.database._connection()
    del one
    gc.collect()
    with pytest.raises(sqlite3.ProgrammingError, match="closed"):
        connection.execute("SELECT 1")


class Chord:
    """A chord of members `0..size-1`, with what its body and its errbacks were called with."""

    def __init__(self, backend: ResultBackend, size: int, monkeypatch: pytest.MonkeyPatch, id: str) -> None:
        self.backend, self.id = backend, id
        self.bodies: list[Any] = []
        self.errors: list[BaseException] = []
        body = SimpleNamespace(delay=self.bodies.append)
        monkeypatch.setattr("pipeline.brokers.embedded.results.maybe_signature", lambda *_, **__: body)
        monkeypatch.setattr(backend, "chord_error_from_stack", lambda _, exc, **__: self.errors.append(exc))
        backend.set_chord_size(id, size)

    def member(self, number: int, result: Any = None, state: str = states.SUCCESS) -> None:
        request = SimpleNamespace(id=f"task-{number}", group=self.id, group_index=number, chord={})
        result = number * 10 if result is None else result
        self.backend.on_chord_part_return(request, state, result)


@pytest.fixture
def start(backend: ResultBackend, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Chord]:
    """Start chords of so many members."""
    return lambda size, id="chord-1": Chord(backend, size, monkeypatch, id)


# -- results


def test_a_value_is_kept_until_it_is_deleted(backend: ResultBackend) -> None:
    backend.set("key", b"value")
    backend.set("text", "text")
    assert backend.mget([b"text", "key", "missing"]) == [b"text", b"value", None]
    backend.delete("key")
    assert backend.get("key") is None


def test_a_value_expires(backend: ResultBackend) -> None:
    backend.set("key", b"value")
    backend.expire("key", -1)
    assert backend.get("key") is None


def test_expired_rows_are_deleted_now_and_then(backend: ResultBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.brokers.embedded.results.CLEAN_EVERY", 2)
    for key in ("old", "new"):
        backend.set(key, b"value")
    backend.expire("old", -1)
    backend.set("third", b"value")
    assert {key for (key,) in backend.database.read("SELECT key FROM results")} == {"new", "third"}


def test_a_result_written_by_one_process_is_read_by_another(backend: ResultBackend) -> None:
    backend.store_result("task", {"n": 1}, states.SUCCESS)
    other = ResultBackend(backend.app, url=backend.url)
    assert (other.get_state("task"), other.get_result("task")) == (states.SUCCESS, {"n": 1})
    other.database.close()


def test_a_backend_travels_as_its_address(backend: ResultBackend) -> None:
    _, args, kwargs = backend.__reduce__()[:3] if len(backend.__reduce__()) > 2 else (*backend.__reduce__(), {})
    assert backend.url in pickle.dumps((args, kwargs)).decode("latin-1")
    assert backend.as_uri() == backend.url


# -- chords


def test_the_last_member_starts_the_body_with_all_results_in_their_order(start: Callable[..., Chord]) -> None:
    chord = start(3)
    for number in (2, 0):
        chord.member(number)
    assert chord.bodies == []
    chord.member(1)
    assert chord.bodies == [[0, 10, 20]]
    assert chord.errors == []


def test_a_member_that_is_delivered_twice_counts_once(start: Callable[..., Chord]) -> None:
    chord = start(2)
    chord.member(0)
    chord.member(0)
    assert chord.bodies == []
    chord.member(1)
    assert chord.bodies == [[0, 10]]


def test_a_member_that_comes_again_after_the_end_changes_nothing(start: Callable[..., Chord]) -> None:
    chord = start(2)
    for number in (0, 1, 1, 0):
        chord.member(number)
    assert len(chord.bodies) == 1


def test_a_chord_that_is_started_again_is_still_one_chord(backend: ResultBackend, start: Callable[..., Chord]) -> None:
    chord = start(2)
    chord.member(0)
    backend.set_chord_size(chord.id, 2)
    chord.member(1)
    backend.set_chord_size(chord.id, 2)
    chord.member(0)
    assert chord.bodies == [[0, 10]]


def test_a_crash_before_the_body_was_sent_lets_the_redelivered_member_send_it(
    backend: ResultBackend, start: Callable[..., Chord], monkeypatch: pytest.MonkeyPatch
) -> None:
    chord = start(2)
    chord.member(0)
    finish = backend._finish
    monkeypatch.setattr(backend, "_finish", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        chord.member(1)
    monkeypatch.setattr(backend, "_finish", finish)
    chord.member(1)
    assert chord.bodies == [[0, 10]]


def test_a_dead_member_is_reported_instead_of_the_body_when_all_are_there(start: Callable[..., Chord]) -> None:
    chord = start(2)
    chord.member(0, ValueError("wrong"), states.FAILURE)
    assert (chord.bodies, chord.errors) == ([], [])
    chord.member(1)
    (error,) = chord.errors
    assert isinstance(error, ChordError)
    assert "task-0" in str(error)
    assert "wrong" in str(error)
    assert chord.bodies == []


def test_a_body_that_cannot_be_sent_is_reported(start: Callable[..., Chord], monkeypatch: pytest.MonkeyPatch) -> None:
    chord = start(1)

    def fail(_: Any) -> None:
        raise ConnectionError("gone")

    monkeypatch.setattr(
        "pipeline.brokers.embedded.results.maybe_signature", lambda *_, **__: SimpleNamespace(delay=fail)
    )
    chord.member(0)
    assert "gone" in str(chord.errors[0])


def test_chords_do_not_count_each_others_members(start: Callable[..., Chord]) -> None:
    one = start(2, "one")
    two = start(2, "two")
    one.member(0)
    two.member(0)
    assert (one.bodies, two.bodies) == ([], [])


def test_a_task_that_is_in_no_chord_is_ignored(backend: ResultBackend) -> None:
    backend.on_chord_part_return(SimpleNamespace(id="task", group=None), states.SUCCESS, 1)
    assert backend.database.read("SELECT count(*) FROM members") == [(0,)]


# -- addresses


@pytest.mark.parametrize("url", ["sqlite://", "sqlite:///", "sqlite://host/x.db"])
def test_an_address_without_a_file_is_refused(url: str) -> None:
    with pytest.raises(ConfigError, match="names no file"):
        ResultBackend(Celery("test", set_as_current=False), url=url)


def test_the_brokers_own_file_is_refused(tmp_path: Path) -> None:
    Store(tmp_path / "broker.db").close()
    backend = ResultBackend(Celery("test", set_as_current=False), url=f"sqlite:///{tmp_path / 'broker.db'}")
    with pytest.raises(EmbeddedBrokerError, match="broker and results need a file each"):
        backend.set("key", b"value")


def test_members_that_end_before_the_chord_is_all_sent_are_counted(
    backend: ResultBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    chord = Chord(backend, 0, monkeypatch, "another")
    chord.id = "chord-1"
    chord.member(0)
    backend.set("key", b"value")  # the first result of a process cleans up
    chord.member(1)
    assert chord.bodies == []
    backend.set_chord_size("chord-1", 3)  # Celery says so before it sends the last member
    backend.set_chord_size("chord-1", 4)  # the same chord, sent again
    chord.member(2)
    assert chord.bodies == [[0, 10, 20]]


def test_a_member_that_is_added_before_celery_says_the_size_is_waited_for(
    backend: ResultBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    chord = Chord(backend, 0, monkeypatch, "another")
    chord.id = "chord-1"
    chord.member(0)
    backend.add_to_chord("chord-1", None)
    backend.set_chord_size("chord-1", 2)
    chord.member(1)
    assert chord.bodies == []
    backend.add_to_chord("chord-1", None)
    chord.member(2)
    assert chord.bodies == []
    chord.member(3)
    assert chord.bodies == [[0, 10, 20, 30]]
