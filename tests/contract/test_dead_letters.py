"""Dead letters: listed, shown, requeued, dropped, on every ledger."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from pipeline import Pipeline
from pipeline.dead_letters import BATCH, DeadLetters
from pipeline.errors import (
    EventTooLarge,
    InvalidAgent,
    InvalidEvent,
    InvalidPattern,
    InvalidSelection,
    LedgerOff,
    LedgerUnavailable,
    UnknownEvent,
)
from pipeline.ledger import due
from pipeline.ledger.rows import SECOND
from pipeline.ledger.tables import outbox
from tests import records
from tests.records import AWAY, Order, die, logged, make_app, messages, order, rows, succeed

HOUR = 3600 * SECOND


@pytest.fixture
def app(ledger_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Pipeline]:
    for name in [name for name in os.environ if name.startswith("PIPELINE_")]:
        monkeypatch.delenv(name)
    app = make_app(ledger_url, tmp_path)
    yield app
    app.close()


@pytest.fixture
def letters(app: Pipeline) -> DeadLetters:
    return DeadLetters(app)


def died(app: Pipeline, number: int, **options: Any) -> list[str]:
    """Let an agent give up so many orders, one hour after the other; return the deliveries, the newest first."""
    ids = [die(app, app.publish(order(n)), **options) for n in range(number)]
    for hours, id in enumerate(reversed(ids)):
        records.backdate(app, id, hours * HOUR)
    return ids[::-1]


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


def test_pages_go_on_where_many_letters_died_at_the_same_time(app: Pipeline, letters: DeadLetters) -> None:
    ids = {die(app, event) for event in app.publish_many([order(n) for n in range(BATCH + 5)])}
    with app.ledger.store.transaction() as connection:
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
    with app.ledger.store.transaction() as connection:
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


def test_without_a_ledger_there_is_nothing_to_look_at(tmp_path: Path) -> None:
    app = Pipeline("t", ledger_url="", directory=tmp_path)
    with pytest.raises(LedgerOff):
        DeadLetters(app)


# -- requeue


def test_a_requeued_letter_is_in_its_agents_queue_only_and_starts_anew(app: Pipeline, letters: DeadLetters) -> None:
    id, other = died(app, 2)
    event = letters.get(id).event
    assert letters.requeue(id, by="ann") == (1, 0, True)
    assert messages(app, "stock") == []
    ((bus, body),) = messages(app, "billing")
    assert body == json.loads(event.encode())
    assert bus == {"attempt": 1, "ledger": app.ledger.id, "direct": True}
    (row,) = rows(app, id=id)
    assert (row["outcome"], row["attempts"], row["error"], row["traceback"], row["ended"]) == (
        "waiting",
        0,
        *[None] * 3,
    )
    assert row["due"] > 0, "it is on its way, and the sweeper gives it time"
    assert app.ledger.claim(id, event, "billing", worker="w", expected=1).attempt == 1
    assert [letter.id for letter in letters.list()] == [other]


def test_a_requeue_is_audited_in_the_chain_of_the_event(app: Pipeline, letters: DeadLetters) -> None:
    (id,) = died(app, 1)
    event = letters.get(id).event
    letters.requeue(id, by="ann")
    (audit,) = logged(app, "delivery.requeued")
    assert audit.data == {
        "delivery_id": id, "event_id": event.id, "original_type": "order.placed", "agent": "billing",
        "by": "ann", "edited": False, "before": None, "after": None,
    }  # fmt: skip
    assert (audit.causation_id, audit.correlation_id) == (event.id, event.correlation_id)
    assert rows(app, outbox) == [], "the broker has it"


def test_an_edited_payload_reaches_the_agent_and_the_audit(app: Pipeline, letters: DeadLetters) -> None:
    (id,) = died(app, 1)
    event = letters.get(id).event
    assert letters.requeue(id[:10], data={"order_id": "A0", "total": 5}, by="ann").number == 1
    ((_, body),) = messages(app, "billing")
    assert body["data"] == {"order_id": "A0", "total": 5}
    assert (body["id"], body["time"]) == (event.id, event.model_dump(mode="json")["time"])
    (audit,) = logged(app, "delivery.requeued")
    assert (audit.data["edited"], audit.data["before"], audit.data["after"]) == (True, event.data, body["data"])
    assert logged(app, "order.placed")[0].data == event.data, "what was published stays as it is"

    app.ledger.claim(id, event, "billing", worker="w")
    app.ledger.die(id, 1, [], error="again", traceback="", due=0)
    assert letters.get(id).edited
    assert letters.get(id).event.data == body["data"]
    letters.requeue(id)
    assert messages(app, "billing")[0][1]["data"] == body["data"], "an edited letter stays edited"


def test_a_payload_object_may_be_given(app: Pipeline, letters: DeadLetters) -> None:
    (id,) = died(app, 1)
    letters.requeue(id, data=Order(order_id="B", total=1.5))
    assert messages(app, "billing")[0][1]["data"] == {"order_id": "B", "total": 1.5}


def unchanged(app: Pipeline, act: Callable[[], Any], error: type[Exception], match: str) -> None:
    """Check that something fails, and changes and sends nothing."""
    before = records.everything(app)
    with pytest.raises(error, match=match):
        act()
    assert records.everything(app) == before
    assert messages(app, "billing") == []


@pytest.mark.parametrize(
    ("data", "error", "match"),
    [
        ({"order_id": "A0", "total": "much"}, InvalidEvent, "total"),
        ({"order_id": "A0", "total": 1, "tip": 1}, InvalidEvent, "tip"),
        (None, InvalidEvent, "order.placed"),
        ({"order_id": "A0", "total": {1}}, InvalidEvent, "data"),
        ({"order_id": "\ud800", "total": 1}, InvalidEvent, "data"),
        ({"order_id": "A" * 300_000, "total": 1}, EventTooLarge, "262,144"),
    ],
)
def test_an_edited_payload_that_the_agent_would_not_take_changes_nothing(
    app: Pipeline, letters: DeadLetters, data: Any, error: type[Exception], match: str
) -> None:
    (id,) = died(app, 1)
    unchanged(app, lambda: letters.requeue(id, data=data), error, match)


def test_an_edited_payload_is_for_one_known_dead_letter_and_a_declared_agent(
    app: Pipeline, letters: DeadLetters, ledger_url: str, tmp_path: Path
) -> None:
    id, other = died(app, 2)
    good = {"order_id": "A0", "total": 5}
    unchanged(app, lambda: letters.requeue([id, other], data=good), InvalidSelection, "2 ids")
    unchanged(app, lambda: letters.requeue(all=True, data=good), InvalidSelection, "its id")
    unchanged(app, lambda: letters.requeue("0" * 36, data=good), UnknownEvent, "no dead letter")
    stranger = make_app(ledger_url, tmp_path, agents=False)
    unchanged(app, lambda: DeadLetters(stranger).requeue(id, data=good), InvalidAgent, "'billing' is not declared")
    assert DeadLetters(stranger).requeue(id).number == 1, "without other data nothing has to be checked"
    stranger.close()


def test_versions_too_large_for_one_event_are_left_out_of_the_audit(app: Pipeline, letters: DeadLetters) -> None:
    large, small = {"order_id": "A" * 200_000, "total": 1}, {"order_id": "A0", "total": 2}
    first = die(app, app.publish("order.placed", large))
    letters.requeue(first, data={**large, "total": 3})
    second = die(app, app.publish("order.placed", large))
    letters.requeue(second, data=small)
    audits = {audit.data["delivery_id"]: audit.data for audit in logged(app, "delivery.requeued")}
    assert audits[first]["edited"]
    assert (audits[first]["before"], audits[first]["after"]) == (None, {**large, "total": 3})
    assert (audits[second]["before"], audits[second]["after"]) == (large, small)


def test_many_are_requeued_oldest_first_by_a_filter(app: Pipeline, letters: DeadLetters) -> None:
    ids = died(app, 3)
    die(app, app.publish(order()), "stock")
    done: list[int] = []
    assert letters.requeue(agent="billing", progress=done.append) == (3, 0, True)
    assert done == [3]
    expected = [row["event_id"] for id in reversed(ids) for row in rows(app, id=id)]
    assert [body["id"] for _, body in messages(app, "billing")] == expected
    assert list(letters.count()) == ["stock"]
    assert letters.requeue(agent="billing") == (0, 0, True)


def test_everything_is_requeued_in_several_transactions_only_when_that_is_said(
    app: Pipeline, letters: DeadLetters
) -> None:
    for event in app.publish_many([order(n) for n in range(BATCH + 1)]):
        die(app, event)
    unchanged(app, letters.requeue, InvalidSelection, "all=True")
    unchanged(app, letters.drop, InvalidSelection, "all=True")
    unchanged(app, lambda: letters.requeue("x" * 10, agent="billing"), InvalidSelection, "ids, or a filter")
    unchanged(app, lambda: letters.drop(agent="billing", all=True), InvalidSelection, "ids, or a filter")
    unchanged(app, lambda: letters.requeue(event_type="a b"), InvalidPattern, "a b")
    assert letters.requeue([]).number == 0, "no ids are none, not all"
    done: list[int] = []
    assert letters.requeue(all=True, progress=done.append).number == BATCH + 1
    assert done == [BATCH, BATCH + 1]
    assert len(messages(app, "billing")) == len(logged(app, "delivery.requeued")) == BATCH + 1


def test_one_unknown_id_among_many_changes_nothing(app: Pipeline, letters: DeadLetters) -> None:
    id, other = died(app, 2)
    unchanged(app, lambda: letters.requeue([id, "00000000", other]), UnknownEvent, "00000000")
    unchanged(app, lambda: letters.drop([id, "abc"]), UnknownEvent, "too short")


def test_what_somebody_else_requeued_before_is_skipped(app: Pipeline, letters: DeadLetters) -> None:
    id, other = died(app, 2)
    letters.requeue(id)
    messages(app, "billing")
    assert letters.requeue([id, other, other[:12]]) == (1, 1, True)
    assert letters.drop([id, other]) == (0, 2, True)
    assert len(messages(app, "billing")) == 1
    assert [row["outcome"] for row in rows(app, agent="billing")] == ["waiting", "waiting"]


def test_two_operators_at_once_requeue_each_letter_once(app: Pipeline, ledger_url: str, tmp_path: Path) -> None:
    died(app, 30)
    apps = [make_app(ledger_url, tmp_path) for _ in range(4)]
    start, numbers = threading.Barrier(len(apps)), []

    def operate(own: Pipeline) -> None:
        start.wait(timeout=20)
        numbers.append(DeadLetters(own).requeue(all=True).number)

    threads = [threading.Thread(target=operate, args=(own,)) for own in apps]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert len(numbers) == 4
    assert sum(numbers) == len(messages(app, "billing")) == len(logged(app, "delivery.requeued")) == 30
    for own in apps:
        own.close()


def test_a_replayed_delivery_stays_one(app: Pipeline, letters: DeadLetters) -> None:
    id = die(app, app.publish(order()), replay="r-1")
    assert letters.get(id).replay == "r-1"
    letters.requeue(id)
    ((bus, _),) = messages(app, "billing")
    assert (bus["replay"], bus["broadcast"]) == ("r-1", False)


def test_without_a_broker_the_sweeper_is_asked_and_the_caller_told(
    app: Pipeline, ledger_url: str, tmp_path: Path
) -> None:
    (id,) = died(app, 1)
    alone = make_app(ledger_url, tmp_path, broker_url=AWAY, publish_timeout=0.3)
    good = {"order_id": "A0", "total": 5}
    assert DeadLetters(alone).requeue(id, data=good) == (1, 0, False)
    alone.close()
    (row,) = rows(app, id=id)
    assert (row["outcome"], row["due"]) == ("waiting", 0)
    assert len(rows(app, outbox)) == 1, "the relay has the audit event"
    (sent,) = due.at_once(app.ledger)
    assert (sent.agent, sent.event.data) == ("billing", good)


def test_a_crash_after_the_transaction_loses_nothing(
    app: Pipeline, letters: DeadLetters, monkeypatch: pytest.MonkeyPatch
) -> None:
    (id,) = died(app, 1)

    def crash(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(app.publisher, "deliver", crash)
    with pytest.raises(KeyboardInterrupt):
        letters.requeue(id)
    assert due.lost(app.ledger, "billing", 3600) == [], "it may be on its way"
    (lost,) = due.lost(app.ledger, "billing", -3600)
    assert lost.id == id


def test_a_ledger_that_does_not_answer_changes_nothing(app: Pipeline, ledger_url: str, tmp_path: Path) -> None:
    (id,) = died(app, 1)
    busy = make_app(ledger_url, tmp_path, ledger_timeout=0.3)
    DeadLetters(busy).count()
    with app.ledger.store.transaction() as connection:
        connection.execute(records.deliveries.update().values(attempts=1))
        with pytest.raises(LedgerUnavailable, match="locked"):
            DeadLetters(busy).requeue(id)
    busy.close()
    assert DeadLetters(app).get(id).id == id
    assert messages(app, "billing") == []


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
