"""Folding the log into states, with snapshots, on every ledger."""

from __future__ import annotations

import contextlib
import itertools
import threading
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any, ClassVar

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, PrivateAttr
from sqlalchemy import func, select, text, update

from pipeline.core.errors import InvalidEvent, InvalidSelection
from pipeline.core.event import Event
from pipeline.core.times import micros
from pipeline.history.events import EventQuery, get_events
from pipeline.history.state import reconstruct
from pipeline.ledger.database.tables import events, snapshots
from pipeline.ledger.ledger import Ledger
from tests.logs import START, numbered, numbers, put


class Seen(BaseModel):
    """A state that remembers the order in which it was told."""

    numbers: list[int] = []

    def apply(self, event: Event) -> None:
        self.numbers.append(event.data["n"])


class PlainSeen:
    """The same, of a class that has no snapshots and returns the next state."""

    def __init__(self, numbers: tuple[int, ...] = ()) -> None:
        self.numbers = numbers

    def apply(self, event: Event) -> PlainSeen:
        return PlainSeen((*self.numbers, event.data["n"]))


def snapshots_of(ledger: Ledger) -> list[tuple[str, int, int]]:
    with ledger.database.reading() as connection:
        rows = connection.execute(select(snapshots).order_by(snapshots.c.tx, snapshots.c.seq))
        return [(row.stream, row.max_seq, row.max_time) for row in rows]


@pytest.mark.parametrize("state", [Seen, PlainSeen])
def test_a_state_is_folded_from_its_events_at_any_time(ledger: Ledger, state: type[Any]) -> None:
    put(ledger, *(numbered(n, subject="s") for n in range(8)), numbered(99, subject="other"))
    put(ledger, numbered(100, subject="s"), replay="r")

    for every in (1, 3, 500):
        assert list(reconstruct(ledger, "s", state, snapshot_every=every).numbers) == list(range(8))
        assert list(reconstruct(ledger, "s", state, up_to=3, snapshot_every=every).numbers) == [0, 1, 2]
        at = START + timedelta(seconds=3)
        assert list(reconstruct(ledger, "s", state, up_to=at, snapshot_every=every).numbers) == [0, 1, 2, 3]
        assert list(reconstruct(ledger, "nobody", state, snapshot_every=every).numbers) == []


def test_the_next_reconstruction_starts_at_the_snapshot(ledger: Ledger) -> None:
    put(ledger, *(numbered(n, subject="s") for n in range(10)))
    assert reconstruct(ledger, "s", Seen, snapshot_every=10).numbers == list(range(10))
    assert snapshots_of(ledger) == [("s", 10, micros(START + timedelta(seconds=9)))]
    with ledger.database.transaction() as connection:  # seen only by those who read them again
        connection.execute(update(events).values(body=func.replace(events.c.body, '"n":', '"n":-')))

    put(ledger, numbered(10, subject="s"))

    assert reconstruct(ledger, "s", Seen).numbers == list(range(11))
    assert reconstruct(ledger, "s", Seen, up_to=9).numbers == [-n for n in range(9)], (
        "a snapshot does not cover more than up_to"
    )


@pytest.mark.parametrize("body", ["{", "", "[]"])
def test_a_damaged_event_is_named_and_states_before_it_can_be_had(ledger: Ledger, body: str) -> None:
    found = [numbered(n, subject="s") for n in range(4)]
    put(ledger, *found)
    with ledger.database.transaction() as connection:
        connection.execute(update(events).where(events.c.id == found[2].id).values(body=body))

    with pytest.raises(InvalidEvent, match=rf"event {found[2].id} \(order.created, number 3\): .* cannot be read"):
        reconstruct(ledger, "s", Seen)
    assert reconstruct(ledger, "s", Seen, up_to=2).numbers == [0, 1]


def test_few_events_make_no_snapshot(ledger: Ledger) -> None:
    put(ledger, *(numbered(n, subject="s") for n in range(10)))
    reconstruct(ledger, "s", Seen, snapshot_every=11)

    assert snapshots_of(ledger) == []


def test_a_state_of_the_past_leaves_a_snapshot_that_covers_no_more(ledger: Ledger) -> None:
    put(ledger, *(numbered(n, subject="s") for n in range(10)))
    at = START + timedelta(seconds=5)
    assert reconstruct(ledger, "s", Seen, up_to=at, snapshot_every=2).numbers == list(range(6))

    assert snapshots_of(ledger) == [("s", 6, micros(at))]


def test_a_snapshot_is_of_no_use_before_its_latest_event(ledger: Ledger) -> None:
    put(ledger, numbered(0, at=9, subject="s"), numbered(1, at=1, subject="s"))
    assert reconstruct(ledger, "s", Seen, snapshot_every=1).numbers == [0, 1]

    assert reconstruct(ledger, "s", Seen, up_to=START + timedelta(seconds=8)).numbers == [1]
    assert reconstruct(ledger, "s", Seen, up_to=START + timedelta(seconds=9)).numbers == [0, 1]


def test_a_changed_class_does_not_see_old_snapshots(ledger: Ledger) -> None:
    put(ledger, *(numbered(n, subject="s") for n in range(4)))

    def versions() -> Iterator[type[BaseModel]]:
        class Sum(BaseModel):
            total: int = 0

            def apply(self, event: Event) -> None:
                self.total += event.data["n"]

        yield Sum

        class Sum(BaseModel):  # type: ignore[no-redef]
            total: int = 0
            count: int = 0

            def apply(self, event: Event) -> None:
                self.count += 1

        yield Sum

        class Sum(BaseModel):  # type: ignore[no-redef]
            snapshot_version: ClassVar[int] = 2
            total: int = 0
            count: int = 0

            def apply(self, event: Event) -> None:
                self.count += 10

        yield Sum

    found = [reconstruct(ledger, "s", version, snapshot_every=1) for version in versions()]

    assert [each.model_dump() for each in found] == [{"total": 6}, {"total": 0, "count": 4}, {"total": 0, "count": 40}]
    assert len(snapshots_of(ledger)) == 3


def test_a_state_that_json_would_change_is_not_kept(ledger: Ledger) -> None:
    class Secretive(BaseModel):
        anything: Any = None
        _count: int = PrivateAttr(0)

        def apply(self, event: Event) -> None:
            self._count += 1
            self.anything = (1, 2)

        @property
        def count(self) -> int:
            return self._count

    put(ledger, *(numbered(n, subject="s") for n in range(4)))

    for _ in range(2):
        assert reconstruct(ledger, "s", Secretive, snapshot_every=1).count == 4
    assert snapshots_of(ledger) == []


def test_a_damaged_snapshot_is_made_anew(ledger: Ledger) -> None:
    put(ledger, *(numbered(n, subject="s") for n in range(4)))
    reconstruct(ledger, "s", Seen, snapshot_every=1)
    with ledger.database.transaction() as connection:
        connection.execute(update(snapshots).values(body="{"))

    assert reconstruct(ledger, "s", Seen, snapshot_every=1).numbers == [0, 1, 2, 3]
    with ledger.database.reading() as connection:
        assert connection.execute(select(snapshots.c.body)).scalars().all() == ['{"numbers":[0,1,2,3]}']


def test_a_failing_apply_names_the_event(ledger: Ledger) -> None:
    class Picky(BaseModel):
        def apply(self, event: Event) -> None:
            raise RuntimeError("no")

    (id,) = put(ledger, numbered(0, subject="s"))

    with pytest.raises(RuntimeError, match="no") as caught:
        reconstruct(ledger, "s", Picky)
    assert caught.value.__notes__ == [f"while the event {id} (order.created, number 1) was applied"]


def test_a_wrong_reconstruction_is_refused(ledger: Ledger) -> None:
    with pytest.raises(InvalidSelection, match="needs a method apply"):
        reconstruct(ledger, "s", dict)
    with pytest.raises(InvalidSelection, match="snapshot_every: 0"):
        reconstruct(ledger, "s", Seen, snapshot_every=0)
    with pytest.raises(InvalidSelection, match="no time zone"):
        reconstruct(ledger, "s", Seen, up_to=datetime(2026, 1, 1))


#: How many events are appended, when they happened, by a replay or not, and by a transaction that stays open or not.
Step = st.tuples(st.integers(1, 4), st.integers(-5, 5), st.booleans(), st.booleans())
UpTo = st.none() | st.integers(0, 50) | st.integers(-6, 6).map(lambda seconds: START + timedelta(seconds=seconds))
Look = st.tuples(UpTo, st.integers(1, 5))


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=st.lists(st.tuples(Step, st.lists(Look, max_size=3)), min_size=1, max_size=12))
def test_a_reconstruction_equals_folding_from_scratch(ledger: Ledger, steps: list[Any]) -> None:
    with ledger.database.transaction() as connection:
        connection.execute(snapshots.delete())
        connection.execute(events.delete())
        connection.execute(text(FIRST_AGAIN[ledger.database.is_sqlite]))
    counter = itertools.count()
    with contextlib.ExitStack() as slow:
        late = None if ledger.database.is_sqlite else slow.enter_context(ledger.database.transaction())
        for (size, at, replayed, is_late), looks in steps:
            written = [numbered(next(counter), at=at, subject="s") for _ in range(size)]
            put(ledger, *written, replay="r" if replayed else None, connection=late if is_late else None)
            compare(ledger, looks)
        slow.close()
        compare(ledger, [look for _, looks in steps for look in looks])


def compare(ledger: Ledger, looks: list[Any]) -> None:
    for up_to, every in looks:
        found = reconstruct(ledger, "s", Seen, up_to=up_to, snapshot_every=every).numbers
        assert found == numbers(get_events(ledger, EventQuery(agent_id="s", up_to=up_to)))


#: By whether it is SQLite.
FIRST_AGAIN = {
    True: "DELETE FROM sqlite_sequence",
    False: "ALTER SEQUENCE pipeline_events_seq_seq RESTART",
}


def test_a_snapshot_covers_nothing_before_which_an_event_can_still_appear(ledger: Ledger) -> None:
    """On PostgreSQL the transaction that began first may commit last."""
    if ledger.database.is_sqlite:
        pytest.skip("SQLite has one writer at a time")
    put(ledger, numbered(0, subject="s"))
    with ledger.database.transaction() as slow:
        put(ledger, numbered(1, subject="s"), connection=slow)
        put(ledger, numbered(2, subject="s"))
        assert reconstruct(ledger, "s", Seen, snapshot_every=1).numbers == [0, 2]
        assert [seq for _, seq, _ in snapshots_of(ledger)] == [1]

    assert reconstruct(ledger, "s", Seen, snapshot_every=1).numbers == [0, 1, 2]


def test_a_snapshot_and_the_order_go_by_the_transaction(ledger: Ledger) -> None:
    if ledger.database.is_sqlite:
        pytest.skip("SQLite has one writer at a time")
    with ledger.database.transaction() as slow:
        put(ledger, numbered(0, subject="s"), connection=slow)
        put(ledger, numbered(1, subject="s"))
        put(ledger, numbered(2, subject="s"), connection=slow)
    # The slow transaction's events have the numbers 1 and 3, and come first.
    assert [each.seq for each in get_events(ledger, EventQuery(batch=1))] == [1, 3, 2]
    assert [each.seq for each in get_events(ledger, EventQuery(agent_id="s", up_to=2, batch=1))] == [1, 2]

    for every in (1, 1, 5):
        assert reconstruct(ledger, "s", Seen, up_to=2, snapshot_every=every).numbers == [0, 1]
        assert reconstruct(ledger, "s", Seen, snapshot_every=every).numbers == [0, 2, 1]


def test_many_threads_reconstruct_while_others_append(ledger: Ledger) -> None:
    done = threading.Event()
    wrong: list[Any] = []

    def watch() -> None:
        while not done.is_set():
            try:
                found = reconstruct(ledger, "s", Seen, snapshot_every=3).numbers
                if len(set(found)) != len(found):
                    wrong.append(found)
            except Exception as exc:
                wrong.append(exc)

    watchers = [threading.Thread(target=watch) for _ in range(3)]
    for watcher in watchers:
        watcher.start()

    def write(start: int) -> None:
        for n in range(start, start + 40):
            put(ledger, numbered(n, subject="s"))

    writers = [threading.Thread(target=write, args=(start,)) for start in (0, 100)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    done.set()
    for watcher in watchers:
        watcher.join()

    assert wrong == []
    in_the_log = numbers(get_events(ledger, EventQuery(agent_id="s")))
    assert reconstruct(ledger, "s", Seen, snapshot_every=3).numbers == in_the_log
    assert sorted(in_the_log) == [*range(40), *range(100, 140)]
