"""Budgets on real workers: what is spent is bounded, and what failed or died is spent, too."""

from __future__ import annotations

from typing import Any

import pytest

from pipeline import Event, Pipeline
from pipeline.core.ids import delivery_id
from tests.harness import Broker, StartWorker
from tests.records import rows
from tests.servers import wait_for

#: More than any test spends of what it is not about.
PLENTY = 10_000


@pytest.fixture
def spending(bus: Pipeline, worker: StartWorker) -> Pipeline:
    """An app whose worker runs, with plenty of each of its budgets."""
    worker(app="trees_app", pool="prefork")
    bus.budget("tenant", tokens=1)
    bus.budget("reviews", tokens=1)
    bus.budget("drafts", tokens=1)
    for name in ("tenant", "reviews", "drafts"):
        raised(bus, name, PLENTY)
    return bus


def raised(bus: Pipeline, name: str, tokens: int, key: str = "") -> int:
    from pipeline.ledger.bounding.budget import Amounts

    return bus.budgets.set(name, Amounts(tokens=tokens), key)


def used(bus: Pipeline, name: str) -> int | None:
    return sum(account.used.tokens or 0 for account in bus.budgets.list(name))


def wanted(bus: Pipeline, tokens: int, type: str = "text.wanted", **more: Any) -> Event:
    return bus.publish(type, {"tokens": tokens, **more}, metadata={"tenant": "acme"})


def test_a_delivery_that_wants_more_than_there_is_is_dead_and_goes_on_when_it_is_raised_and_requeued(
    spending: Pipeline, broker: Broker
) -> None:
    bus = spending
    raised(bus, "tenant", 100, "acme")
    first = wanted(bus, 60, spent=50)
    bus.settle(first, timeout=30)
    much = wanted(bus, 51)
    wait_for(bus.dead_letters.list, "the dead letter")
    (letter,) = bus.dead_letters.list()
    assert letter.attempts == 1
    assert "51 more tokens are wanted, and 50 of 100 are used" in letter.error
    assert "`pipeline budget set tenant --key acme --tokens N`" in letter.error
    (told,) = (one.event for one in bus.get_events(type="budget.exceeded"))
    assert (told.data["budget"], told.data["key"], told.data["wanted"]) == ("tenant", "acme", 51)
    raised(bus, "tenant", 101, "acme")
    bus.dead_letters.requeue(letter.id)
    lines = broker.journal.wait(2, agent="writer")
    assert [line["id"] for line in lines] == [first.id, much.id]
    assert [line["left"] for line in lines] == [40, 0]


def test_what_failed_and_killed_attempts_have_reserved_is_spent(spending: Pipeline, broker: Broker) -> None:
    bus = spending
    event = wanted(bus, 10, fails=2, spent=1)
    broker.journal.wait(1, agent="writer", id=event.id)
    bus.settle(event, timeout=30)
    assert used(bus, "tenant") == 21
    dies = wanted(bus, 10, dies=True)
    broker.journal.wait(1, agent="writer", id=dies.id)
    bus.settle(dies, timeout=30)
    assert used(bus, "tenant") == 41


@pytest.mark.parametrize("type", ["text.wanted", "text.awaited"])
def test_a_delivery_asks_for_more_and_goes_on_when_somebody_gives_it(
    spending: Pipeline, broker: Broker, type: str
) -> None:
    bus = spending
    agent = "writer" if type == "text.wanted" else "asynchronous_writer"
    raised(bus, "reviews", 5)
    event = wanted(bus, 6, type)
    id = delivery_id(event.id, agent)
    wait_for(lambda: rows(bus, id=id, outcome="parked"), "it to wait")
    assert "waits for a higher limit: budget 'reviews'" in str(bus.trace(event))
    assert raised(bus, "reviews", 6) == 1
    broker.journal.wait(1, agent=agent, id=event.id)
    bus.settle(event, timeout=30)
    assert [row["attempts"] for row in rows(bus, id=id)] == [1]
    assert (used(bus, "reviews"), used(bus, "tenant")) == (6, 6)


def test_a_handler_does_with_less_where_it_is_told_that_nothing_is_left(spending: Pipeline, broker: Broker) -> None:
    bus = spending
    raised(bus, "drafts", 5)
    event = wanted(bus, 6)
    (line,) = broker.journal.wait(1, agent="writer", id=event.id)
    assert (line["granted"], line["left"]) == (False, 5)
    bus.settle(event, timeout=30)
    assert used(bus, "drafts") == 0


def test_a_tree_spends_what_it_was_published_with(spending: Pipeline, broker: Broker) -> None:
    bus = spending
    first = bus.publish("text.wanted", {"tokens": 8}, budget={"tokens": 10})
    broker.journal.wait(1, agent="writer", id=first.id)
    second = bus.publish("text.wanted", {"tokens": 3}, correlation_id=first.correlation_id)
    wait_for(bus.dead_letters.list, "the dead letter")
    (letter,) = bus.dead_letters.list()
    assert letter.event.id == second.id
    assert f"budget 'tree' of '{first.id}': 3 more tokens are wanted, and 8 of 10 are used" in letter.error
