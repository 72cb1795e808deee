"""Dead letters that are requeued: once each, with other data or as they were, on every ledger."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline import Pipeline
from pipeline.core.errors import (
    EventTooLarge,
    InvalidAgent,
    InvalidEvent,
    InvalidPattern,
    InvalidSelection,
    LedgerUnavailable,
    QueueConflict,
    UnknownEvent,
)
from pipeline.ledger.database.tables import outbox
from pipeline.ledger.facts import Delivery
from pipeline.operations.dead_letters import BATCH, DeadLetters
from tests import records
from tests.records import AWAY, Order, die, died, logged, make_app, messages, order, rows
from tests.threads import in_threads

pytestmark = pytest.mark.usefixtures("agents")


def test_a_requeued_letter_is_in_its_agents_queue_only_and_starts_anew(app: Pipeline, letters: DeadLetters) -> None:
    id, other = died(app, 2)
    event = letters.get(id).event
    assert letters.requeue(id, by="ann") == (1, 0, True)
    assert messages(app, "stock") == []
    ((bus, body),) = messages(app, "billing")
    assert body == json.loads(event.encode())
    assert bus.pop("signature")
    assert bus.pop("message"), "another message than the event's own one"
    assert bus == {"attempt": 1, "ledger": app.ledger.id, "requeued": 1, "direct": True}
    (row,) = rows(app, id=id)
    assert (row["outcome"], row["attempts"], row["error"], row["traceback"], row["ended"]) == (
        "queued",
        0,
        *[None] * 3,
    )
    assert row["due"] > 0, "it is on its way, and the sweeper gives it time"
    assert app.ledger.claim(Delivery(id, event, "billing", expected=1), worker="w").attempt == 1
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

    app.ledger.claim(Delivery(id, event, "billing"), worker="w")
    app.ledger.die(id, 1, [], error="again", traceback="", due_in=0)
    assert letters.get(id).edited
    assert letters.get(id).event.data == body["data"]
    letters.requeue(id)
    assert messages(app, "billing")[0][1]["data"] == body["data"], "an edited letter stays edited"


def test_a_payload_object_may_be_given(app: Pipeline, letters: DeadLetters) -> None:
    (id,) = died(app, 1)
    letters.requeue(id, data=Order(order_id="B", total=1.5))
    assert messages(app, "billing")[0][1]["data"] == {"order_id": "B", "total": 1.5}


def test_a_payload_object_of_another_version_is_delivered_as_that(app: Pipeline, letters: DeadLetters) -> None:
    class Noted(Order, version="1.1.0"):
        note: str

    (id,) = died(app, 1)
    letters.requeue(id, data=Noted(order_id="B", total=1.5, note="late"))
    ((_, body),) = messages(app, "billing")
    assert (body["schemaversion"], body["data"]["note"]) == ("1.1.0", "late")


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
    unchanged(app, lambda: stranger.dead_letters.requeue(id, data=good), InvalidAgent, "'billing' is not declared")
    assert stranger.dead_letters.requeue(id).number == 1, "without other data nothing has to be checked"
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
    assert [row["outcome"] for row in rows(app, agent="billing")] == ["queued", "queued"]


def test_two_operators_at_once_requeue_each_letter_once(app: Pipeline, ledger_url: str, tmp_path: Path) -> None:
    died(app, 30)
    apps = [make_app(ledger_url, tmp_path) for _ in range(4)]
    numbers = in_threads(len(apps), lambda n: apps[n].dead_letters.requeue(all=True).number)
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
    assert alone.dead_letters.requeue(id, data=good) == (1, 0, False)
    alone.close()
    (row,) = rows(app, id=id)
    assert (row["outcome"], row["due"]) == ("queued", 0)
    assert len(rows(app, outbox)) == 1, "the relay has the audit event"
    (sent,) = app.ledger.due.at_once()
    assert (sent.encoded.agent, sent.encoded.event.data) == ("billing", good)


def test_a_queue_with_other_arguments_leaves_the_whole_selection_to_the_sweeper(
    app: Pipeline, letters: DeadLetters, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.operations.changes.BATCH", 2)
    ids = died(app, 5)

    def conflict(*_: object) -> None:
        raise QueueConflict("the queue has other arguments")

    monkeypatch.setattr(app.bus.publisher, "deliver", conflict)
    assert letters.requeue(all=True) == (5, 0, False)
    assert {message.id for message in app.ledger.due.at_once()} == {*ids}


def test_a_crash_after_the_transaction_loses_nothing(
    app: Pipeline, letters: DeadLetters, monkeypatch: pytest.MonkeyPatch
) -> None:
    (id,) = died(app, 1)

    def crash(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(app.bus.publisher, "deliver", crash)
    with pytest.raises(KeyboardInterrupt):
        letters.requeue(id)
    assert app.ledger.due.lost("billing", 3600) == [], "it may be on its way"
    (lost,) = app.ledger.due.lost("billing", -3600)
    assert lost.id == id


def test_a_ledger_that_does_not_answer_changes_nothing(app: Pipeline, ledger_url: str, tmp_path: Path) -> None:
    (id,) = died(app, 1)
    busy = make_app(ledger_url, tmp_path, ledger_timeout=2)
    busy.dead_letters.count()
    with app.ledger.database.transaction() as connection:
        connection.execute(records.deliveries.update().values(attempts=1))
        with pytest.raises(LedgerUnavailable, match="locked"):
            busy.dead_letters.requeue(id)
    busy.close()
    assert app.dead_letters.get(id).id == id
    assert messages(app, "billing") == []
