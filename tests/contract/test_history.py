"""Reading the log, on every ledger."""

from __future__ import annotations

import itertools
import re
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import event as sqlalchemy_event
from sqlalchemy import text

from pipeline.core.errors import InvalidPattern, InvalidSelection, UnknownEvent
from pipeline.core.event import Payload
from pipeline.core.times import micros
from pipeline.core.topics import matches
from pipeline.history.events import EventQuery, get_event, get_events
from pipeline.ledger.database.rows import timer_row
from pipeline.ledger.ledger import Ledger
from pipeline.ledger.log import COMPARED, MANY_TYPES
from tests.logs import START, numbered, numbers, put, succeed


class OrderCreated(Payload, type="order.created"):
    number: int


def test_events_come_in_the_order_of_the_log_with_all_that_they_said(ledger: Ledger) -> None:
    written = [numbered(n, at=100 - n, subject="cart", priority=3) for n in range(5)]
    put(ledger, *written)

    found = list(get_events(ledger, EventQuery()))

    assert [each.event for each in found] == written
    assert [each.seq for each in found] == [1, 2, 3, 4, 5]
    assert [each.position for each in found] == sorted(each.position for each in found)
    assert found[0].recorded.tzinfo is UTC
    assert abs(found[0].recorded - datetime.now(UTC)) < timedelta(hours=1)


@pytest.mark.parametrize("batch", [1, 2, 3, 7, 1000])
def test_pages_neither_lose_nor_repeat_an_event(ledger: Ledger, batch: int) -> None:
    put(ledger, *(numbered(n, f"order.t{n % 3}") for n in range(14)))

    assert numbers(get_events(ledger, EventQuery(batch=batch))) == list(range(14))
    assert numbers(get_events(ledger, EventQuery(type="order.*", batch=batch))) == list(range(14))
    assert numbers(get_events(ledger, EventQuery(type="order.t1", batch=batch))) == [1, 4, 7, 10, 13]


def test_nothing_is_held_open_while_the_caller_works(ledger: Ledger) -> None:
    put(ledger, *(numbered(n) for n in range(10)))
    reading = get_events(ledger, EventQuery(batch=2))
    next(reading)

    assert ledger.database.engine.pool.checkedout() == 0  # type: ignore[attr-defined]
    put(ledger, numbered(10))

    assert numbers(reading) == list(range(1, 10)), "what was appended later is not read"


def test_a_history_is_that_of_the_agent_that_emitted_else_of_the_subject(ledger: Ledger) -> None:
    put(ledger, numbered(0, agent="billing"), numbered(1, subject="billing"), numbered(2, agent="mailer"), numbered(3))
    put(ledger, numbered(4, agent="mailer", subject="billing"))

    assert numbers(get_events(ledger, EventQuery(agent_id="billing"))) == [0, 1]
    assert numbers(get_events(ledger, EventQuery(agent_id="nobody"))) == []


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
    assert numbers(get_events(ledger, EventQuery(type=pattern))) == wanted
    assert numbers(get_events(ledger, EventQuery(type=pattern, since=5))) == [n for n in wanted if n >= 4]


def test_more_types_than_are_read_side_by_side(ledger: Ledger) -> None:
    count = MANY_TYPES + 5
    put(ledger, *(numbered(n, f"task.assigned.{n}") for n in range(count)), numbered(count, "task.done"))

    assert numbers(get_events(ledger, EventQuery(type="task.assigned.*"))) == list(range(count))
    assert numbers(get_events(ledger, EventQuery(type="task.*"))) == [count]


def test_more_types_than_are_compared(ledger: Ledger) -> None:
    put(ledger, *(numbered(n, f"a.{n}.x") for n in range(COMPARED)), numbered(COMPARED, "z.y"))

    assert numbers(get_events(ledger, EventQuery(type="#.y"))) == [COMPARED]


def test_a_payload_class_stands_for_its_type(ledger: Ledger) -> None:
    put(ledger, numbered(0, "order.created"), numbered(1, "order.paid"))

    assert numbers(get_events(ledger, EventQuery(type=OrderCreated))) == [0]


def test_a_correlation_is_read_with_other_filters(ledger: Ledger) -> None:
    put(ledger, numbered(0, correlation_id="c1", agent="a"), numbered(1, correlation_id="c2", agent="a"))
    put(ledger, numbered(2, "order.paid", correlation_id="c1", agent="a"), numbered(3, correlation_id="c1", agent="b"))

    assert numbers(get_events(ledger, EventQuery(correlation="c1"))) == [0, 2, 3]
    assert numbers(get_events(ledger, EventQuery(correlation="c1", agent_id="a"))) == [0, 2]
    assert numbers(get_events(ledger, EventQuery(correlation="c1", agent_id="a", type="*.paid"))) == [2]


def test_both_ends_are_included(ledger: Ledger) -> None:
    put(ledger, *(numbered(n, subject="s") for n in range(10)))

    for narrow in ({}, {"agent_id": "s"}, {"type": "order.created"}, {"type": "order.*"}, {"type": "#"}):
        assert numbers(get_events(ledger, EventQuery(since=3, up_to=5, **narrow))) == [2, 3, 4]
        at = START + timedelta(seconds=3)
        assert numbers(get_events(ledger, EventQuery(since=at, up_to=at + timedelta(seconds=2), **narrow))) == [3, 4, 5]
        assert numbers(get_events(ledger, EventQuery(since=at, up_to=5, **narrow))) == [3, 4]
        assert numbers(get_events(ledger, EventQuery(since=at - timedelta(microseconds=1), up_to=at, **narrow))) == [3]
        assert numbers(get_events(ledger, EventQuery(since=9, up_to=2, **narrow))) == []
        assert numbers(get_events(ledger, EventQuery(since=START + timedelta(days=1), **narrow))) == []
        assert numbers(get_events(ledger, EventQuery(since=-(2**70), up_to=2**70, **narrow))) == list(range(10))


def test_times_are_the_events_own_in_any_time_zone_and_order(ledger: Ledger) -> None:
    put(ledger, numbered(0, at=50), numbered(1, at=-10), numbered(2, at=20), numbered(3, at=10**6), numbered(4, at=21))

    east = START.astimezone(datetime.fromisoformat("2026-01-01T00:00:00+05:30").tzinfo)
    assert numbers(get_events(ledger, EventQuery(since=east, up_to=east + timedelta(seconds=30)))) == [2, 4]
    assert numbers(get_events(ledger, EventQuery(up_to=east))) == [1]
    first, last = (extreme.replace(tzinfo=UTC) for extreme in (datetime.min, datetime.max))
    assert numbers(get_events(ledger, EventQuery(since=first, up_to=last))) == [0, 1, 2, 3, 4]


def test_replayed_events_are_left_out_unless_they_are_asked_for(ledger: Ledger) -> None:
    put(ledger, numbered(0))
    put(ledger, numbered(1), replay="r1")

    assert numbers(get_events(ledger, EventQuery())) == [0]
    everything = get_events(ledger, EventQuery(replayed=True))
    assert [(each.event.data["n"], each.replay) for each in everything] == [(0, None), (1, "r1")]


def test_an_empty_log_has_no_events(ledger: Ledger) -> None:
    for query in (EventQuery(), EventQuery(type="order.*", since=START)):
        assert list(get_events(ledger, query)) == []


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
        get_events(ledger, EventQuery(**wrong))


def test_one_event_is_found_by_its_id(ledger: Ledger) -> None:
    event = numbered(7, correlation_id="c")
    put(ledger, numbered(0), event)

    found = get_event(ledger, event.id)

    assert (found.event, found.seq) == (event, 2)


def test_an_unknown_id_is_explained(ledger: Ledger) -> None:
    event = numbered(0)
    put(ledger, event)
    delivery = succeed(ledger, event, "billing")
    with ledger.database.transaction() as connection:
        ledger.timers.add([timer_row("later", "publish", micros(START), "later", b"{}")], connection)

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
            if ledger.database.is_sqlite:
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
    with ledger.database.transaction() as connection:
        connection.execute(text("ANALYZE"))


def plans(ledger: Ledger, question: dict[str, Any], batch: int) -> list[Any]:
    """Return how the database went about each page of get_events()."""
    found: list[Any] = []
    prefix = "EXPLAIN QUERY PLAN " if ledger.database.is_sqlite else "EXPLAIN (ANALYZE, FORMAT JSON) "

    def explain(_: Any, cursor: Any, statement: str, parameters: Any, *__: Any) -> None:
        if "pipeline_events.body" in statement:
            cursor.execute(prefix + statement, parameters)
            found.append(cursor.fetchall())

    sqlalchemy_event.listen(ledger.database.engine, "before_cursor_execute", explain)
    try:
        assert list(itertools.islice(get_events(ledger, EventQuery(batch=batch, **question)), 3))
    finally:
        sqlalchemy_event.remove(ledger.database.engine, "before_cursor_execute", explain)
    assert found
    return found
