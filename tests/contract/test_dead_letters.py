"""Dead letters: listed, shown and dropped, on every ledger."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import update

from pipeline import Pipeline
from pipeline.core.errors import InvalidPattern, InvalidSelection, UnknownEvent
from pipeline.ledger.database.tables import events
from pipeline.operations.dead_letters import BATCH, DeadLetters
from tests import records
from tests.records import HOUR, die, died, logged, messages, order, rows, succeed

pytestmark = pytest.mark.usefixtures("agents")


# -- looking at them


def test_a_dead_letter_says_what_failed_where_why_and_when(app: Pipeline, letters: DeadLetters) -> None:
    event = app.publish(order(7), priority=2)
    before = datetime.now(UTC)
    id = die(app, event, error="ValueError: no such account")
    succeed(app, event, "stock")
    (found,) = letters.list()
    assert found == letters.get(id)
    assert (found.id, found.agent, found.attempts, found.event) == (id, "billing", 1, event)
    assert found.event.data == {"order_id": "A7", "total": 7.0}
    assert found.error == "ValueError: no such account"
    assert found.traceback == "Traceback of ValueError: no such account"
    assert found.started is not None
    assert before <= found.started <= found.ended <= datetime.now(UTC)
    assert timedelta(0) <= found.age < timedelta(hours=1)
    assert (found.replay, found.edited) == (None, False)


def test_dead_letters_are_listed_newest_first_page_by_page(app: Pipeline, letters: DeadLetters) -> None:
    ids = died(app, 5)
    first = letters.list(limit=2)
    second = letters.list(limit=2, after=first[-1].cursor)
    third = letters.list(limit=2, after=second[-1].cursor)
    assert [letter.id for letter in [*first, *second, *third]] == ids
    assert letters.list(after=third[-1].cursor) == []
    letters.drop(first[-1].id)
    assert letters.list(limit=2, after=first[-1].cursor) == second, "the page's last one is gone, its place is not"


def test_dead_letters_are_grouped_by_agent_and_error_and_a_group_is_chosen_by_its_whole_error(
    app: Pipeline, letters: DeadLetters
) -> None:
    died(app, 3, error="ValueError: no account")
    longer = died(app, 2, error="ValueError: no account at all")
    other = die(app, app.publish(order()), "stock", error="")
    groups = letters.groups()
    assert [(one.agent, one.error, one.number) for one in groups] == [
        ("billing", "ValueError: no account", 3),
        ("billing", "ValueError: no account at all", 2),
        ("stock", "", 1),
    ]
    assert groups[0].newest - groups[0].oldest >= timedelta(hours=2)
    assert (groups[1].id in longer, groups[2].id) == (True, other)
    assert letters.groups(limit=1) == groups[:1]
    assert letters.drop(agent="billing", same_error="ValueError: no account").number == 3
    assert letters.groups() == groups[1:]


def test_pages_go_on_where_many_letters_died_at_the_same_time(app: Pipeline, letters: DeadLetters) -> None:
    ids = {die(app, event) for event in app.publish_many([order(n) for n in range(BATCH + 5)])}
    with app.ledger.database.transaction() as connection:
        connection.execute(records.deliveries.update().values(ended=1_700_000_000_000_000))
    first = letters.list(limit=BATCH + 2)
    assert len(first) == BATCH + 2
    rest = letters.list(limit=BATCH, after=first[-1].cursor)
    assert {letter.id for letter in [*first, *rest]} == ids
    assert len(rest) == 3


@pytest.mark.parametrize(
    ("filters", "numbers"),
    [
        ({}, [0, 1, 2, 3]),
        ({"agent": "billing"}, [0, 1, 3]),
        ({"agent": "nobody"}, []),
        ({"error": "TIMEOUT"}, [1, 2]),
        ({"error": "100%"}, [0]),
        ({"error": "1_0"}, []),
        ({"event_type": "order.*"}, [0, 1, 2]),
        ({"event_type": "order.#"}, [0, 1, 2, 3]),
        ({"event_type": "order.paid.late"}, [3]),
        ({"older_than": timedelta(minutes=90)}, [2, 3]),
        ({"agent": "billing", "error": "timeout", "event_type": "#"}, [1]),
    ],
)
def test_dead_letters_are_found_by_agent_error_type_and_age(
    app: Pipeline, letters: DeadLetters, filters: dict[str, Any], numbers: list[int]
) -> None:
    ids = [
        die(app, app.publish(order()), error="disk at 100% of 5"),
        die(app, app.publish(order()), error="Timeout: bank"),
        die(app, app.publish(order()), "stock", error="timeout"),
        die(app, app.publish("order.paid.late", {}), error="no"),
    ]
    for hours, id in enumerate(ids):
        records.backdate(app, id, hours * HOUR)
    assert [letter.id for letter in letters.list(**filters)] == [ids[n] for n in numbers]


def test_a_type_that_is_rare_is_found_behind_many_others(app: Pipeline, letters: DeadLetters) -> None:
    rare = die(app, app.publish("order.rare", {}))
    records.backdate(app, rare, HOUR)
    for event in app.publish_many([order(n) for n in range(BATCH + 1)]):
        die(app, event)
    assert [letter.id for letter in letters.list(event_type="order.rare", limit=1)] == [rare]


def test_dead_letters_are_counted_by_agent_with_the_oldest(app: Pipeline, letters: DeadLetters) -> None:
    assert letters.count() == {}
    ids = died(app, 3)
    die(app, app.publish(order()), "stock")
    succeed(app, app.publish(order()), "stock")
    found = letters.count()
    assert {agent: count.number for agent, count in found.items()} == {"billing": 3, "stock": 1}
    assert found["billing"].oldest == letters.get(ids[-1]).ended


def test_the_beginning_of_an_id_is_enough(app: Pipeline, letters: DeadLetters) -> None:
    id, other = died(app, 2)
    assert letters.get(id[:8]).id == letters.get(id[:20].upper()).id == id
    with pytest.raises(UnknownEvent, match="too short"):
        letters.get(id[:7])
    with pytest.raises(UnknownEvent, match=r"no dead letter '________'"):
        letters.get("________")
    with app.ledger.database.transaction() as connection:
        connection.execute(records.deliveries.update().where(records.deliveries.c.id == other).values(id=id[:35] + "x"))
    with pytest.raises(UnknownEvent, match="several"):
        letters.get(id[:10])
    assert letters.get(id).id == id


def test_what_is_no_dead_letter_says_what_it_is(app: Pipeline, letters: DeadLetters) -> None:
    done = succeed(app, app.publish(order()), "stock")
    with pytest.raises(UnknownEvent, match=f"delivery {done} is succeeded, not dead"):
        letters.get(done)
    with pytest.raises(UnknownEvent, match="list them"):
        letters.get("00000000-0000-0000-0000-000000000000")


def test_wrong_questions_are_refused(letters: DeadLetters) -> None:
    with pytest.raises(InvalidPattern):
        letters.list(event_type="order..x")
    for cursor in ("x", "", "2020-13-01T00:00:00+00:00/1"):
        with pytest.raises(InvalidSelection, match="cursor"):
            letters.list(after=cursor)
    assert letters.list(limit=0) == []


@pytest.mark.parametrize("body", ["{", None], ids=["damaged", "old"])
@pytest.mark.parametrize(
    "was", [{"correlation": "a\x1b[31m"}, {"causation": "\x07" * 250}, {"targets": "a\nb," + "c" * 20_000}]
)
def test_an_event_from_before_the_limits_of_today_can_be_shown_mended_and_dropped(
    app: Pipeline, letters: DeadLetters, was: dict[str, str], body: str | None
) -> None:
    first, second, third = died(app, 3)
    for id in (second, third):
        (event,) = rows(app, events, id=letters.get(id).event.id)
        names = {"correlation": "correlationid", "causation": "causationid", "targets": "targets"}
        old = json.dumps({**json.loads(event["body"]), **{names[name]: value for name, value in was.items()}})
        with app.ledger.database.transaction() as connection:
            change = update(events).where(events.c.id == event["id"])
            connection.execute(change.values(body=old if body is None else body, **was))
    found = {letter.id: letter for letter in letters.list()}
    assert [found[id].readable for id in (first, second, third)] == [True, False, False]
    shown = json.dumps([letter.as_data(whole=True) for letter in found.values()], default=str)
    assert "\\u001b" not in shown
    assert letters.requeue(all=True) == (1, 2, True)
    assert letters.drop(second).number == 1
    assert len(logged(app, "delivery.dropped")) == 1
    if "targets" not in was:
        assert letters.requeue(third, data={"order_id": "A1", "total": 5}).number == 1


def test_a_letter_whose_chain_is_at_its_end_can_be_dropped(app: Pipeline, letters: DeadLetters) -> None:
    (id,) = died(app, 1)
    (event,) = rows(app, events)
    last = json.dumps({**json.loads(event["body"]), "hops": 2**31 - 1})
    with app.ledger.database.transaction() as connection:
        connection.execute(update(events).values(body=last))
    assert letters.get(id).readable
    assert letters.drop(id).number == 1
    (audit,) = logged(app, "delivery.dropped")
    assert (audit.causation_id, audit.data["event_id"]) == (None, event["id"])


# -- drop


def test_a_dropped_letter_is_gone_from_the_list_and_kept_with_its_error(app: Pipeline, letters: DeadLetters) -> None:
    id, other = died(app, 2)
    assert letters.drop(id, by="bob") == (1, 0, True)
    assert [letter.id for letter in letters.list()] == [other]
    (row,) = rows(app, id=id)
    assert (row["outcome"], row["error"]) == ("dropped", "boom")
    (audit,) = logged(app, "delivery.dropped")
    assert audit.data == {
        "delivery_id": id, "event_id": row["event_id"], "original_type": "order.placed", "agent": "billing",
        "by": "bob",
    }  # fmt: skip
    assert messages(app, "billing") == []
    assert letters.drop(error="boo").number == 1
    assert letters.count() == {}
