"""Agents that ask before they act: the answer finds them on every broker, whatever has become of their workers."""

from __future__ import annotations

from typing import Any

import pytest

from pipeline import AlreadyDecided, NotAllowed, Pipeline
from pipeline.core.ids import delivery_id
from tests.harness import Broker, StartWorker, backlog, dead_letters
from tests.records import rows
from tests.servers import wait_for

pytestmark = pytest.mark.usefixtures("nothing_disappears")


@pytest.fixture
def asking(worker: StartWorker) -> StartWorker:
    def start(pool: str = "prefork", **how: Any) -> Any:
        return worker(app="approvals_app", pool=pool, **how)

    return start


def asked(bus: Pipeline, number: int = 1) -> list[str]:
    """Wait until so many approvals are asked for, and return their ids."""
    wait_for(lambda: len(bus.approvals.list()) == number, f"{number} approvals to be asked for")
    wait_for(lambda: len(rows(bus, outcome="parked")) == number, "those who ask to be parked")
    return [each.id for each in bus.approvals.list()]


def test_what_is_approved_with_other_arguments_is_done_once_by_another_worker(
    bus: Pipeline, broker: Broker, asking: StartWorker
) -> None:
    one = asking()
    wanted = bus.publish("refund.wanted", {"order": "A1", "amount": 50, "fails": True})
    (id,) = asked(bus)
    assert backlog(bus, "agent.support") == 0
    assert "waits for approval of refund until" in str(bus.trace(wanted))
    wait_for(lambda: rows(bus, agent="audit", outcome="succeeded"), "the witness of the proposal to end")
    one.kill()
    found = bus.approvals.approve(id, by="ada", reason="half of it", edit={"order": "A1", "amount": 25})
    assert found.status == "approved"
    with pytest.raises(AlreadyDecided, match="was approved by ada"):
        bus.approvals.veto(id, by="bob")
    asking(name="two")
    (line,) = broker.journal.wait(1, agent="support")
    assert (line["amount"], line["by"], line["reason"], line["attempt"]) == (25, "ada", "half of it", 2)
    bus.settle(wanted, timeout=30)
    assert [line["amount"] for line in broker.journal.lines(agent="paid")] == [25]
    assert len(broker.journal.lines(agent="begun")) == 3  # before the decision, after it, and after the failure
    for type in ("action.proposed", "action.approved"):
        (line,) = broker.journal.wait(1, agent=type)
        assert line["action_id"] == id
    (proposed,) = bus.get_events(type="action.proposed")
    assert proposed.event.data["message"] == "Pay 50.0?"
    assert proposed.event.data["response_schema"]["properties"]["amount"]["maximum"] == 100
    assert [each.event.data["by"] for each in bus.get_events(type="refund.paid")] == ["ada"]
    assert list(bus.unrouted()) == [next(iter(bus.get_events(type="refund.paid")))]


def test_a_veto_is_an_error_that_the_handler_may_catch_and_otherwise_a_dead_letter(
    bus: Pipeline, broker: Broker, asking: StartWorker
) -> None:
    asking("threads")
    bus.publish("refund.wanted", {"order": "A1", "amount": 50})
    purge = bus.publish("purge.wanted", {})
    for id in asked(bus, 2):
        bus.approvals.veto(id, by="ada", reason="never")
    (line,) = broker.journal.wait(1, agent="vetoed")
    assert line["said"] == "refund is vetoed by ada: never"
    wait_for(lambda: len(dead_letters(bus, "purger")) == 1, "the dead letter")
    (row,) = rows(bus, id=delivery_id(purge.id, "purger"))
    assert (row["error"], row["attempts"]) == ("Vetoed: purge is vetoed by ada: never", 1)


def test_nobody_in_time_is_a_veto(bus: Pipeline, broker: Broker, asking: StartWorker) -> None:
    asking("solo")
    bus.publish("refund.wanted", {"order": "A1", "amount": 50, "expires": 1})
    (line,) = broker.journal.wait(1, agent="vetoed")
    assert line["said"] == "refund is expired: nobody has decided"
    for type in ("action.escalated", "action.vetoed"):
        assert len(broker.journal.wait(1, agent=type)) == 1


def test_an_async_handler_asks_two_people_and_sees_a_veto_as_an_answer(
    bus: Pipeline, broker: Broker, asking: StartWorker
) -> None:
    asking()
    bus.publish("letter.wanted", {"to": "eve"})
    (id,) = asked(bus)
    with pytest.raises(NotAllowed, match="carl may not decide this"):
        bus.approvals.approve(id, by="carl")
    assert bus.approvals.approve(id, by="ada").status == "pending"
    assert bus.approvals.approve(id, by="bob").status == "approved"
    (line,) = broker.journal.wait(1, agent="writer")
    assert (line["status"], line["args"], line["by"]) == ("approved", {"to": "eve"}, "bob")
    bus.publish("letter.wanted", {"to": "zoe"})
    (id,) = asked(bus)
    bus.approvals.veto(id, by="bob")
    assert broker.journal.wait(2, agent="writer")[1]["status"] == "vetoed"


def test_a_rule_answers_at_once(bus: Pipeline, broker: Broker, asking: StartWorker) -> None:
    asking()
    rule = bus.approvals.rules.add("refund", agent="support", where="amount < 10")
    for amount in (5, 50):
        bus.publish("refund.wanted", {"order": "A1", "amount": amount})
    (line,) = broker.journal.wait(1, agent="support")
    assert (line["amount"], line["by"]) == (5, f"rule {rule.id}")
    asked(bus, 1)


def test_an_answer_outlives_the_requeue_of_its_delivery(bus: Pipeline, broker: Broker, asking: StartWorker) -> None:
    asking()
    purge = bus.publish("purge.wanted", {})
    (id,) = asked(bus)
    bus.approvals.veto(id, by="ada")
    wait_for(lambda: len(dead_letters(bus, "purger")) == 1, "the dead letter")
    bus.dead_letters.requeue(delivery_id(purge.id, "purger"))
    wait_for(lambda: rows(bus, agent="purger")[0]["requeued"] == 1, "the requeue")
    wait_for(lambda: rows(bus, agent="purger")[0]["outcome"] == "dead", "the same answer")
    assert [each.id for each in bus.approvals.list(status=None)] == [id]


MISTAKES = [
    ({"action": ""}, "ask: '' is no action"),
    ({"action": "x", "n_of": 0}, "n_of=0: how many have to approve, 1 or more"),
    ({"action": "x", "veto": "ignore"}, 'it is "raise" or "return"'),
    ({"action": "x", "expires": 0}, "expires=0: nothing is done in no time"),
    ({"action": "x", "expires": "soon"}, "expires: 'soon' is no duration"),
    ({"action": "x", "args": [1]}, "arguments are a model or a mapping, not a list"),
    ({"action": "x", "schema": {"type": "nonsense"}}, "its schema is no JSON Schema that can be used"),
    ({"action": "x", "args": {"a": 1}, "schema": {"maxProperties": 0}}, "what is proposed does not validate"),
]


def test_mistakes_are_dead_letters_that_name_them(bus: Pipeline, broker: Broker, asking: StartWorker) -> None:
    if broker.name != "embedded":
        pytest.skip("what is wrong with them is no matter of brokers")
    asking("solo")
    made = bus.publish_many([("mistake.made", how) for how, _ in MISTAKES])
    wait_for(lambda: len(dead_letters(bus, "mistaken")) == len(MISTAKES), "the dead letters")
    for event, (_, words) in zip(made, MISTAKES, strict=True):
        (row,) = rows(bus, id=delivery_id(event.id, "mistaken"))
        assert words in row["error"]
        assert row["attempts"] == 1
    assert bus.approvals.list(status=None) == []
