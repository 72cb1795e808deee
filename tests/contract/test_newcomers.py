"""What waits for a worker that reads it: since when, and that one of all workers tells it."""

from __future__ import annotations

from collections.abc import Callable

from pipeline import Pipeline
from pipeline.contracts.newer import OVER
from pipeline.ledger.database.waiting import newcomers
from tests.ledgers import move, running
from tests.records import rows


def is_new(app: Pipeline, agent: str = "billing", type: str = "order.placed") -> bool:
    return app.ledger.waiting.newcomers.is_new(agent, type, OVER)


def test_of_all_workers_one_tells_that_an_agents_events_of_a_type_wait(
    fresh: Callable[..., Pipeline], ready: Pipeline, ledger_url: str
) -> None:
    one, other = fresh(ledger_url), fresh(ledger_url)
    assert [is_new(app) for app in (one, other, one)] == [True, False, False]
    assert is_new(other, agent="audit")
    assert is_new(other, type="order.paid")
    move(one.ledger, newcomers, OVER - 60, "seen")
    assert not is_new(other)
    move(one.ledger, newcomers, OVER - 60, "seen")
    assert not is_new(one), "looked at since"
    move(one.ledger, newcomers, OVER + 60, "seen")
    assert [is_new(app) for app in (other, one)] == [True, False]


def test_a_delivery_waits_from_when_it_was_first_put_off_until_it_is_tried_or_requeued(app: Pipeline) -> None:
    event, id = running(app.ledger)
    deliveries = app.ledger.deliveries

    def since() -> int | None:
        (row,) = rows(app, id=id)
        return row["waits"]

    assert since() is None
    assert deliveries.waited(id) == 0
    first = since()
    assert first is not None
    assert deliveries.waited(id) >= 0
    assert since() == first
    app.ledger.again(id, event, 1, delay=0, error="boom", timer=False)
    assert since() is None
    deliveries.waited(id)
    app.ledger.database.run(lambda connection: deliveries.requeue(connection, [id]))
    assert since() is None
