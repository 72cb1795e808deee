"""A worker on the embedded broker that has nothing to do sleeps until somebody rings, and nobody rings in vain."""

from __future__ import annotations

import errno
import os
import signal
import sqlite3
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from kombu import Connection, Consumer, Queue
from kombu.asynchronous import Hub

from pipeline.brokers import kinds
from pipeline.brokers.embedded import transport
from pipeline.brokers.embedded.store import Store
from tests.stores import message, run_and_kill

#: Seconds in which a sleeper does not look by itself.
LONG = 600.0


class Sleeper:
    """A consumer of the queue `q` in an event loop, which turns while something is waited for."""

    def __init__(self, path: Path) -> None:
        self.hub = Hub()
        self.connection = Connection(f"sqlite:///{path}")
        self.messages: list[Any] = []
        with self.connection.channel() as channel:
            for name in ("q", "dead"):
                arguments = {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": "q"} if name == "dead" else {}
                channel.queue_declare(name, arguments=arguments)
        self.transport = self.connection.connection
        Consumer(self.connection.channel(), [Queue("q")], callbacks=[self._take]).consume()
        self.transport.register_with_event_loop(self.transport, self.hub)

    def _take(self, _: object, message: Any) -> None:
        self.messages.append(message)
        message.ack()

    def turn_until(self, is_so: Callable[[], object]) -> None:
        """Turn the loop until something is so, which is given a minute."""
        until = time.monotonic() + 60
        self.hub.call_repeatedly(0.005, lambda: None)  # a turn waits for nothing longer
        while not is_so():
            assert time.monotonic() < until
            self.hub.run_once()

    @property
    def is_asleep(self) -> bool:
        """Whether it waits for a ring, and has nothing to look at before."""
        return self.transport._doorbell._pipe is not None and not self.transport._bell._ringing

    def fall_asleep(self) -> None:
        self.turn_until(lambda: self.is_asleep)

    def close(self) -> None:
        self.connection.release()
        self.hub.close()


@pytest.fixture
def sleeper(file: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Sleeper]:
    kinds.register()
    for interval in ("SLEEP_INTERVAL", "REAP_INTERVAL"):
        monkeypatch.setattr(transport, interval, LONG)
    one = Sleeper(file)
    yield one
    one.close()


def somebody_listens(sleeper: Sleeper) -> bool:
    try:
        os.close(os.open(sleeper.transport.store.doorbell, os.O_WRONLY | os.O_NONBLOCK))
    except OSError as exc:
        return exc.errno != errno.ENXIO
    return True


def publish(file: Path, queue: str = "q") -> None:
    with Connection(f"sqlite:///{file}") as connection:
        connection.Producer().publish({"n": 1}, routing_key=queue)


def test_whoever_publishes_wakes_it(sleeper: Sleeper, file: Path) -> None:
    for n in range(3):
        sleeper.fall_asleep()
        publish(file)
        sleeper.turn_until(lambda: len(sleeper.messages) > n)  # noqa: B023 - called at once


def test_it_looks_at_nothing_while_it_sleeps(sleeper: Sleeper, monkeypatch: pytest.MonkeyPatch) -> None:
    sleeper.fall_asleep()
    looks: list[int] = []
    monkeypatch.setattr(Store, "changed", lambda _: looks.append(1))
    turns: list[int] = []
    sleeper.turn_until(lambda: turns.append(1) or len(turns) > 20)
    assert looks == []


@pytest.mark.parametrize("end", ["requeue", "reject"])
def test_what_somebody_gives_back_wakes_it(sleeper: Sleeper, file: Path, end: str) -> None:
    other = Store(file)
    queue = {"requeue": "q", "reject": "dead"}[end]
    publish(file, queue)
    (held,) = other.claim([queue], 1)
    sleeper.fall_asleep()
    getattr(other, end)(held.id)
    sleeper.turn_until(lambda: sleeper.messages)
    other.close()


def test_what_a_process_held_that_ended_wakes_it(sleeper: Sleeper, file: Path) -> None:
    other = Store(file)
    publish(file)
    assert other.claim(["q"], 1)
    sleeper.fall_asleep()
    other.close()
    sleeper.turn_until(lambda: sleeper.messages)


def test_what_was_published_by_one_who_died_before_it_could_ring_is_found(
    sleeper: Sleeper, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transport, "SLEEP_INTERVAL", 0.2)
    publish(file, "dead")
    sleeper.fall_asleep()
    with sqlite3.connect(file) as database:
        database.execute("UPDATE messages SET queue = 'q'")
    database.close()
    sleeper.turn_until(lambda: sleeper.messages)


def test_many_rings_at_once_are_not_heard_each(sleeper: Sleeper, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "POLL_INTERVAL", LONG)  # all of this happens within one
    for n in range(transport.BURST):
        sleeper.fall_asleep()
        publish(file)
        sleeper.turn_until(lambda: len(sleeper.messages) > n)  # noqa: B023 - called at once
    sleeper.hub.run_once()
    assert not sleeper.is_asleep


def test_a_ring_is_answered_once_although_who_has_rung_still_holds_the_pipe(sleeper: Sleeper) -> None:
    sleeper.fall_asleep()
    pipe = os.open(sleeper.transport.store.doorbell, os.O_WRONLY | os.O_NONBLOCK)
    os.write(pipe, b"\0")
    turns: list[int] = []
    sleeper.turn_until(lambda: turns.append(1) or len(turns) > 20)  # type: ignore[func-returns-value]
    os.close(pipe)
    assert sum(1 for at in sleeper.transport._rings if at) == 1


@pytest.mark.parametrize("lost", ["pipe", "row"])
def test_a_sleeper_whom_nobody_can_ring_for_is_rung_for_again(
    sleeper: Sleeper, file: Path, monkeypatch: pytest.MonkeyPatch, lost: str
) -> None:
    monkeypatch.setattr(transport, "SLEEP_INTERVAL", 0.2)
    sleeper.fall_asleep()
    before = sleeper.transport.store.doorbell
    if lost == "pipe":
        os.unlink(before)
    else:
        with sqlite3.connect(file) as database:
            database.execute("DELETE FROM owners")
            database.execute("UPDATE topology SET version = version + 1")
        database.close()
    publish(file)
    sleeper.turn_until(lambda: len(sleeper.messages) == 1)
    sleeper.fall_asleep()
    assert (sleeper.transport.store.doorbell == before) is (lost == "pipe")
    monkeypatch.setattr(transport, "SLEEP_INTERVAL", LONG)
    sleeper.transport._look()
    sleeper.fall_asleep()
    publish(file)
    sleeper.turn_until(lambda: len(sleeper.messages) == 2)


def test_what_is_no_pipe_is_left_alone(file: Path, store: Store) -> None:
    Path(store.doorbell).write_text("somebody's")
    store.publish([message("q")])
    assert Path(store.doorbell).read_text() == "somebody's"


def test_where_no_pipe_can_be_it_looks_often(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(errno.EPERM, "no pipes on this file system")

    kinds.register()
    monkeypatch.setattr(transport, "SLEEP_INTERVAL", LONG)
    monkeypatch.setattr(os, "mkfifo", refuse)
    sleeper = Sleeper(file)
    sleeper.turn_until(lambda: not sleeper.transport._bell._ringing)
    publish(file)
    sleeper.turn_until(lambda: sleeper.messages)
    sleeper.close()


def test_a_process_that_was_forked_meanwhile_does_not_listen(sleeper: Sleeper) -> None:
    sleeper.fall_asleep()
    child = os.fork()
    if not child:
        time.sleep(60)  # or until it is killed
        os._exit(0)
    try:
        sleeper.transport._doorbell.close()
        until = time.monotonic() + 60
        while somebody_listens(sleeper):  # the child may not have begun
            assert time.monotonic() < until
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def test_nothing_is_left_of_those_who_are_gone(sleeper: Sleeper, file: Path) -> None:
    run_and_kill(file, "os.mkfifo(s.doorbell)")
    assert len(list(file.parent.glob("*bell*"))) == 1
    sleeper.fall_asleep()
    sleeper.transport.store.reap()
    sleeper.connection.release()
    assert list(file.parent.glob("*bell*")) == []
