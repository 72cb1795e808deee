"""What is due later, on every ledger: from each table that knows of something, in one order, page by page."""

from __future__ import annotations

import pytest
from sqlalchemy import insert

from pipeline import Event, InvalidSelection, Pipeline
from pipeline.core.ids import delivery_id
from pipeline.core.times import SECOND, now
from pipeline.history.inspection import upcoming
from pipeline.ledger.database.tables import flows
from pipeline.ledger.database.waiting import approvals
from pipeline.ledger.facts import Delivery
from pipeline.ledger.waiting.wait import TIME, Parking, Wait
from tests.records import order

pytestmark = pytest.mark.usefixtures("agents")


def begin(app: Pipeline, agent: str) -> tuple[Event, Delivery]:
    event = app.publish(order())
    delivery = Delivery(delivery_id(event.id, agent), event, agent)
    assert app.ledger.claim(delivery, worker="w").attempt == 1
    return event, delivery


def test_everything_that_is_due_later_is_listed_the_next_first(app: Pipeline) -> None:
    at = now()
    delayed = app.publish("later.on", delay=500)
    event, retried = begin(app, "billing")
    assert app.ledger.again(retried.id, event, 1, delay=100, error="busy", timer=True)
    _, asleep = begin(app, "stock")
    wait = Wait(TIME, "sleeps", name="rest", due=at + 200 * SECOND)
    assert app.ledger.waiting.waits.park(Parking(asleep, 1, wait))
    asked = {"id": "a1", "event_id": event.id, "agent": "billing", "action": "refund", "correlation": "c"}
    told = {"proposal": "{}", "metadata": "{}", "asked": at, "expires": at + 300 * SECOND, "due": at}
    flow = {"id": "f1", "name": "parcel", "kind": "saga", "status": "running", "event_id": event.id, "correlation": "c"}
    more = {"definition": "d", "members": 1, "started": at, "due": at + 400 * SECOND}
    with app.ledger.database.transaction() as connection:
        connection.execute(insert(approvals), [{**asked, **told, "status": "pending"}])
        connection.execute(insert(approvals), [{**asked, **told, "id": "a2", "status": "approved"}])
        connection.execute(insert(flows), [{**flow, **more, "ended": None}, {**flow, **more, "id": "f2", "ended": at}])
    found = upcoming(app.ledger)
    assert [(one.kind, one.id, one.type, one.agent, one.name) for one in found] == [
        ("retry", retried.id, "order.placed", "billing", None),
        ("time", asleep.id, "order.placed", "stock", "rest"),
        ("expires", "a1", "order.placed", "billing", "refund"),
        ("flow", "f1", "order.placed", None, "parcel"),
        ("publish", delayed.id, "later.on", None, None),
    ]
    pages, after = [], None
    while page := upcoming(app.ledger, limit=2, after=after):
        pages.append(page)
        after = page[-1].cursor
    assert [len(page) for page in pages] == [2, 2, 1]
    assert [one for page in pages for one in page] == found


def test_what_is_no_cursor_is_refused(app: Pipeline) -> None:
    with pytest.raises(InvalidSelection, match="after: 'x/y' is not the cursor"):
        upcoming(app.ledger, after="x/y")
