"""Reading the log, and folding it into states, on every ledger."""

from __future__ import annotations

import contextlib
import itertools
import re
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, PrivateAttr
from sqlalchemy import event as sqlalchemy_event
from sqlalchemy import select, text, update

from pipeline.errors import InvalidPattern, InvalidSelection, UnknownEvent
from pipeline.event import Event, Payload
from pipeline.history import get_event, get_events, reconstruct
from pipeline.ledger import Ledger
from pipeline.ledger.log import COMPARED, MANY_TYPES
from pipeline.ledger.rows import micros, timer_row
from pipeline.ledger.tables import events, snapshots
from pipeline.topics import matches
from tests.logs import START, made, opened, put, succeed


class OrderCreated(Payload, type="order.created"):
    number: int


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


@pytest.fixture
def ledger(ledger_url: str) -> Iterator[Ledger]:
    with opened(ledger_url) as ledger:
        yield ledger


def numbered(number: int, type: str = "order.created", **options: Any) -> Event:
    return made(type, {"n": number}, **{"at": number, **options})


def numbers(found: Iterator[Any]) -> list[int]:
    return [each.event.data["n"] for each in found]


def snapshots_of(ledger: Ledger) -> list[tuple[str, int, int]]:
    with ledger.store.reading() as connection:
        rows = connection.execute(select(snapshots).order_by(snapshots.c.tx, snapshots.c.seq))
        return [(row.stream, row.max_seq, row.max_time) for row in rows]


# -- reading


def test_events_come_in_the_order_of_the_log_with_all_that_they_said(ledger: Ledger) -> None:
    written = [numbered(n, at=100 - n, subject="cart", priority=3) for n in range(5)]
    put(ledger, *written)

    found = list(get_events(ledger))

    assert [each.event for each in found] == written
    assert [each.seq for each in found] == [1, 2, 3, 4, 5]
    assert [each.position for each in found] == sorted(each.position for each in found)
    assert found[0].recorded.tzinfo is UTC
    assert abs(found[0].recorded - datetime.now(UTC)) < timedelta(hours=1)


@pytest.mark.parametrize("batch", [1, 2, 3, 7, 1000])
def test_pages_neither_lose_nor_repeat_an_event(ledger: Ledger, batch: int) -> None:
    put(ledger, *(numbered(n, f"order.t{n % 3}") for n in range(14)))

    assert numbers(get_events(ledger, batch=batch)) == list(range(14))
    assert numbers(get_events(ledger, type="order.*", batch=batch)) == list(range(14))
    assert numbers(get_events(ledger, type="order.t1", batch=batch)) == [1, 4, 7, 10, 13]


def test_nothing_is_held_open_while_the_caller_works(ledger: Ledger) -> None:
    put(ledger, *(numbered(n) for n in range(10)))
    reading = get_events(ledger, batch=2)
    next(reading)

    assert ledger.store.engine.pool.checkedout() == 0  # type: ignore[attr-defined]
    put(ledger, numbered(10))

    assert numbers(reading) == list(range(1, 10)), "what was appended later is not read"


def test_a_history_is_that_of_the_agent_that_emitted_else_of_the_subject(ledger: Ledger) -> None:
    put(ledger, numbered(0, agent="billing"), numbered(1, subject="billing"), numbered(2, agent="mailer"), numbered(3))
    put(ledger, numbered(4, agent="mailer", subject="billing"))

    assert numbers(get_events(ledger, agent_id="billing")) == [0, 1]
    assert numbers(get_events(ledger, agent_id="nobody")) == []


@pytest.mark.parametrize(
    "pattern",
    [
        "order.created",
        "order.*",
        "order.#",
        "*.created",
        "#.created",
        "#",
        "order",
        "*",
        "order.*.late",
        "no.such",
        "#.#",
    ],
)
def test_types_are_chosen_by_topic_patterns(ledger: Ledger, pattern: str) -> None:
    types = [
        "order.created",
        "order",
        "order-book.created",
        "order_x",
        "orders",
        "order.item.late",
        "user.created",
        "Z",
    ]
    put(ledger, *(numbered(n, type) for n, type in enumerate(types * 2)))

    wanted = [n for n, type in enumerate(types * 2) if matches(pattern, type)]
    assert numbers(get_events(ledger, type=pattern)) == wanted
    assert numbers(get_events(ledger, type=pattern, since=5)) == [n for n in wanted if n >= 4]


def test_more_types_than_are_read_side_by_side(ledger: Ledger) -> None:
    count = MANY_TYPES + 5
    put(ledger, *(numbered(n, f"task.assigned.{n}") for n in range(count)), numbered(count, "task.done"))

    assert numbers(get_events(ledger, type="task.assigned.*")) == list(range(count))
    assert numbers(get_events(ledger, type="task.*")) == [count]


def test_more_types_than_are_compared(ledger: Ledger) -> None:
    put(ledger, *(numbered(n, f"a.{n}.x") for n in range(COMPARED)), numbered(COMPARED, "z.y"))

    assert numbers(get_events(ledger, type="#.y")) == [COMPARED]


def test_a_payload_class_stands_for_its_type(ledger: Ledger) -> None:
    put(ledger, numbered(0, "order.created"), numbered(1, "order.paid"))

    assert numbers(get_events(ledger, type=OrderCreated)) == [0]


def test_a_correlation_is_read_with_other_filters(ledger: Ledger) -> None:
    put(ledger, numbered(0, correlation_id="c1", agent="a"), numbered(1, correlation_id="c2", agent="a"))
    put(ledger, numbered(2, "order.paid", correlation_id="c1", agent="a"), numbered(3, correlation_id="c1", agent="b"))

    assert numbers(get_events(ledger, correlation="c1")) == [0, 2, 3]
    assert numbers(get_events(ledger, correlation="c1", agent_id="a")) == [0, 2]
    assert numbers(get_events(ledger, correlation="c1", agent_id="a", type="*.paid")) == [2]


def test_both_ends_are_included(ledger: Ledger) -> None:
    put(ledger, *(numbered(n, subject="s") for n in range(10)))

    for narrow in ({}, {"agent_id": "s"}, {"type": "order.created"}, {"type": "order.*"}, {"type": "#"}):
        assert numbers(get_events(ledger, since=3, up_to=5, **narrow)) == [2, 3, 4]
        at = START + timedelta(seconds=3)
        assert numbers(get_events(ledger, since=at, up_to=at + timedelta(seconds=2), **narrow)) == [3, 4, 5]
        assert numbers(get_events(ledger, since=at, up_to=5, **narrow)) == [3, 4]
        assert numbers(get_events(ledger, since=at - timedelta(microseconds=1), up_to=at, **narrow)) == [3]
        assert numbers(get_events(ledger, since=9, up_to=2, **narrow)) == []
        assert numbers(get_events(ledger, since=START + timedelta(days=1), **narrow)) == []
        assert numbers(get_events(ledger, since=-(2**70), up_to=2**70, **narrow)) == list(range(10))


def test_times_are_the_events_own_in_any_time_zone_and_order(ledger: Ledger) -> None:
    put(ledger, numbered(0, at=50), numbered(1, at=-10), numbered(2, at=20), numbered(3, at=10**6), numbered(4, at=21))

    east = START.astimezone(datetime.fromisoformat("2026-01-01T00:00:00+05:30").tzinfo)
    assert numbers(get_events(ledger, since=east, up_to=east + timedelta(seconds=30))) == [2, 4]
    assert numbers(get_events(ledger, up_to=east)) == [1]
    first, last = (extreme.replace(tzinfo=UTC) for extreme in (datetime.min, datetime.max))
    assert numbers(get_events(ledger, since=first, up_to=last)) == [0, 1, 2, 3, 4]


def test_replayed_events_are_left_out_unless_they_are_asked_for(ledger: Ledger) -> None:
    put(ledger, numbered(0))
    put(ledger, numbered(1), replay="r1")

    assert numbers(get_events(ledger)) == [0]
    assert [(each.event.data["n"], each.replay) for each in get_events(ledger, replayed=True)] == [(0, None), (1, "r1")]


def test_an_empty_log_has_no_events(ledger: Ledger) -> None:
    assert list(get_events(ledger)) == list(get_events(ledger, type="order.*", since=START)) == []


@pytest.mark.parametrize(
    ("wrong", "error", "says"),
    [
        ({"since": datetime(2026, 1, 1)}, InvalidSelection, "since: 2026-01-01T00:00:00 has no time zone"),
        ({"up_to": datetime(2026, 1, 1)}, InvalidSelection, "up_to: .* has no time zone"),
        ({"since": "yesterday"}, InvalidSelection, "since: 'yesterday' is neither"),
        ({"up_to": 1.5}, InvalidSelection, "up_to: 1.5 is neither"),
        ({"up_to": True}, InvalidSelection, "up_to: True is neither"),
        ({"type": "order..x"}, InvalidPattern, "'order..x' is not a topic pattern"),
        ({"type": 5}, InvalidSelection, "type: 5 is neither"),
        ({"type": Payload}, InvalidSelection, "type: .*Payload.* is neither"),
        ({"batch": 0}, InvalidSelection, "batch: 0"),
        ({"batch": "10"}, InvalidSelection, "batch: '10'"),
    ],
)
def test_a_wrong_question_is_refused_at_once(
    ledger: Ledger, wrong: dict[str, Any], error: type[Exception], says: str
) -> None:
    with pytest.raises(error, match=says):
        get_events(ledger, **wrong)


def test_one_event_is_found_by_its_id(ledger: Ledger) -> None:
    event = numbered(7, correlation_id="c")
    put(ledger, numbered(0), event)

    found = get_event(ledger, event.id)

    assert (found.event, found.seq) == (event, 2)


def test_an_unknown_id_is_explained(ledger: Ledger) -> None:
    event = numbered(0)
    put(ledger, event)
    delivery = succeed(ledger, event, "billing")
    with ledger.store.transaction() as connection:
        ledger.add_timers(connection, [timer_row("later", "publish", micros(START), "later", b"{}")])

    with pytest.raises(UnknownEvent, match="no event 'nope' is in the ledger"):
        get_event(ledger, "nope")
    with pytest.raises(UnknownEvent, match=f"is a delivery of the event '{event.id}'"):
        get_event(ledger, delivery)
    with pytest.raises(UnknownEvent, match="not published yet; it is due at 2026-01-01"):
        get_event(ledger, "later")


def test_a_page_reads_what_it_returns_and_little_else(ledger: Ledger) -> None:
    """So its time does not depend on the size of the log."""
    fill(ledger, 3000)
    middle = START + timedelta(seconds=1500)
    questions: list[dict[str, Any]] = [
        {}, {"since": 2700}, {"since": middle}, {"agent_id": "s1"}, {"agent_id": "s1", "since": 2000},
        {"type": "order.t1"}, {"type": "order.t1", "since": 2000}, {"type": "order.t1", "since": middle},
        {"type": "order.*"}, {"type": "order.rare"}, {"type": "*.rare"}, {"correlation": "c7"},
    ]  # fmt: skip
    for question in questions:
        for plan in plans(ledger, question, batch=100):
            if ledger.store.is_sqlite:
                ((*_, text),) = plan
                assert re.search(r"^SEARCH .*((tx=. AND seq)|\(rowid)>\?", text), (question, plan)
            else:
                assert rows_read(plan[0][0][0]["Plan"]) <= 310, (question, plan)


def rows_read(plan: dict[str, Any]) -> int:
    """Return how many rows PostgreSQL looked at."""
    below = plan.get("Plans", [])
    own = plan["Actual Rows"] if not below else 0
    return int(own + plan.get("Rows Removed by Filter", 0) + sum(rows_read(each) for each in below))


def fill(ledger: Ledger, count: int) -> None:
    written = [
        numbered(n, f"order.t{n % 3}" if n % 1000 else "order.rare", subject=f"s{n % 2}", correlation_id=f"c{n // 10}")
        for n in range(count)
    ]
    for start in range(0, count, 100):
        put(ledger, *written[start : start + 100])
    with ledger.store.transaction() as connection:
        connection.execute(text("ANALYZE"))


def plans(ledger: Ledger, question: dict[str, Any], batch: int) -> list[Any]:
    """Return how the database went about each page of get_events()."""
    found: list[Any] = []
    prefix = "EXPLAIN QUERY PLAN " if ledger.store.is_sqlite else "EXPLAIN (ANALYZE, FORMAT JSON) "

    def explain(_: Any, cursor: Any, statement: str, parameters: Any, *__: Any) -> None:
        if "pipeline_events.body" in statement:
            cursor.execute(prefix + statement, parameters)
            found.append(cursor.fetchall())

    sqlalchemy_event.listen(ledger.store.engine, "before_cursor_execute", explain)
    try:
        assert list(itertools.islice(get_events(ledger, batch=batch, **question), 3))
    finally:
        sqlalchemy_event.remove(ledger.store.engine, "before_cursor_execute", explain)
    assert found
    return found


# -- state


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
    with ledger.store.transaction() as connection:  # seen only by those who read them again
        connection.execute(update(events).values(body=numbered(-1).encode().decode()))

    put(ledger, numbered(10, subject="s"))

    assert reconstruct(ledger, "s", Seen).numbers == list(range(11))
    assert reconstruct(ledger, "s", Seen, up_to=9).numbers == [-1] * 9, "a snapshot does not cover more than up_to"


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
    with ledger.store.transaction() as connection:
        connection.execute(update(snapshots).values(body="{"))

    assert reconstruct(ledger, "s", Seen, snapshot_every=1).numbers == [0, 1, 2, 3]
    with ledger.store.reading() as connection:
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
    with ledger.store.transaction() as connection:
        connection.execute(snapshots.delete())
        connection.execute(events.delete())
        connection.execute(text(FIRST_AGAIN[ledger.store.is_sqlite]))
    counter = itertools.count()
    with contextlib.ExitStack() as slow:
        late = None if ledger.store.is_sqlite else slow.enter_context(ledger.store.transaction())
        for (size, at, replayed, is_late), looks in steps:
            written = [numbered(next(counter), at=at, subject="s") for _ in range(size)]
            put(ledger, *written, replay="r" if replayed else None, connection=late if is_late else None)
            compare(ledger, looks)
        slow.close()
        compare(ledger, [look for _, looks in steps for look in looks])


def compare(ledger: Ledger, looks: list[Any]) -> None:
    for up_to, every in looks:
        found = reconstruct(ledger, "s", Seen, up_to=up_to, snapshot_every=every).numbers
        assert found == numbers(get_events(ledger, agent_id="s", up_to=up_to))


#: By whether it is SQLite.
FIRST_AGAIN = {
    True: "DELETE FROM sqlite_sequence",
    False: "ALTER SEQUENCE pipeline_events_seq_seq RESTART",
}


def test_a_snapshot_covers_nothing_before_which_an_event_can_still_appear(ledger: Ledger) -> None:
    """On PostgreSQL the transaction that began first may commit last."""
    if ledger.store.is_sqlite:
        pytest.skip("SQLite has one writer at a time")
    put(ledger, numbered(0, subject="s"))
    with ledger.store.transaction() as slow:
        put(ledger, numbered(1, subject="s"), connection=slow)
        put(ledger, numbered(2, subject="s"))
        assert reconstruct(ledger, "s", Seen, snapshot_every=1).numbers == [0, 2]
        assert [seq for _, seq, _ in snapshots_of(ledger)] == [1]

    assert reconstruct(ledger, "s", Seen, snapshot_every=1).numbers == [0, 1, 2]


def test_a_snapshot_and_the_order_go_by_the_transaction(ledger: Ledger) -> None:
    if ledger.store.is_sqlite:
        pytest.skip("SQLite has one writer at a time")
    with ledger.store.transaction() as slow:
        put(ledger, numbered(0, subject="s"), connection=slow)
        put(ledger, numbered(1, subject="s"))
        put(ledger, numbered(2, subject="s"), connection=slow)
    # The slow transaction's events have the numbers 1 and 3, and come first.
    assert [each.seq for each in get_events(ledger, batch=1)] == [1, 3, 2]
    assert [each.seq for each in get_events(ledger, agent_id="s", up_to=2, batch=1)] == [1, 2]

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
    assert reconstruct(ledger, "s", Seen, snapshot_every=3).numbers == numbers(get_events(ledger, agent_id="s"))
    assert sorted(numbers(get_events(ledger, agent_id="s"))) == [*range(40), *range(100, 140)]
