"""What `ctx.ask` promises a handler: it asks once, and what it is told is kept, and still right when it acts."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, Field
from sqlalchemy import delete, select, update

from pipeline import Approval, Context, Vetoed
from pipeline.agents.waiting import Parked
from pipeline.core.errors import InvalidStep, LedgerOff
from pipeline.core.event import Encoded, new_event
from pipeline.core.ids import delivery_id
from pipeline.core.times import SECOND
from pipeline.ledger.database.waiting import approvals, steps
from pipeline.ledger.ledger import Ledger
from pipeline.ledger.waiting.approval import UNSET, Decision

CAUSE = new_event("refund.wanted", {}, source="/test", metadata={"user": "eve"})
DELIVERY = delivery_id(CAUSE.id, "support")


class Refund(BaseModel):
    amount: float


class Small(BaseModel):
    amount: float = Field(le=10)


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    one = Ledger(f"sqlite:///{tmp_path / 'ledger.db'}", timeout=0.3)
    yield one
    one.close()


def context(ledger: Ledger | None, emitted: int = 1) -> Context:
    """Return the context of a run; before the second one an event is out."""
    return Context(CAUSE, "support", DELIVERY, 1, "/t/agent/support", None, ledger=ledger, emitted=emitted)


def ask(ledger: Ledger, **how: Any) -> str:
    """Ask for the first time, and let what is proposed go out; return the approval's id."""
    first = context(ledger, emitted=0)
    with pytest.raises(Parked):
        first.ask("refund", Refund(amount=5), **how)
    assert first.begun_wait is not None
    assert first.begun_wait.reason.startswith("waits for approval of refund until ")
    (event,) = first.published
    ledger.append([Encoded(event, event.encode())], due_in=None)
    id: str = event.data["action_id"]
    assert first.begun_wait.key == id
    return id


def approve(ledger: Ledger, id: str, args: Any = UNSET) -> None:
    ledger.waiting.approvals.decide(id, Decision(True, "ada", args=args))


def test_who_asks_waits_until_somebody_has_decided_and_then_gets_the_same_answer_each_time(ledger: Ledger) -> None:
    id = ask(ledger)
    again = context(ledger)
    with pytest.raises(Parked):
        again.ask("refund", Refund(amount=5))
    assert again.published == ()
    assert again.begun_wait is not None
    assert again.begun_wait.reason == "waits for approval of refund"
    approve(ledger, id, {"amount": 4})
    goes_on = context(ledger)
    answer = goes_on.ask("refund", Refund(amount=5))
    assert answer == Approval(id, "approved", {"amount": 4}, Refund(amount=4), "ada", None, answer.at)
    assert answer
    assert answer.as_data() == {"id": id, "status": "approved", "payload": {"amount": 4}}
    assert goes_on.published == ()
    with ledger.database.transaction() as connection:
        connection.execute(delete(approvals))
    assert context(ledger).ask("refund", Refund(amount=5)) == answer


def test_each_use_of_an_action_is_asked_for_by_itself(ledger: Ledger) -> None:
    approve(ledger, ask(ledger))
    second = context(ledger)
    assert second.ask("refund", Refund(amount=5)).args == Refund(amount=5)
    with pytest.raises(Parked):
        second.ask("refund", Refund(amount=5))
    (event,) = second.published
    assert second.begun_wait is not None
    assert event.data["action_id"] == second.begun_wait.key


def test_what_was_approved_is_checked_against_the_schema_that_there_is_when_it_is_done(ledger: Ledger) -> None:
    approve(ledger, ask(ledger), {"amount": 50})
    with pytest.raises(
        InvalidStep, match="what was approved of refund does not validate: amount: Input should be less"
    ):
        context(ledger).ask("refund", Refund(amount=5), schema=Small)


def test_what_was_approved_and_not_begun_in_time_is_not_done(ledger: Ledger) -> None:
    id = ask(ledger)
    approve(ledger, id)
    with ledger.database.transaction() as connection:
        connection.execute(update(approvals).values(expires=approvals.c.expires - 90_000 * SECOND))
    with pytest.raises(Vetoed, match="refund is expired: it was approved by ada, and nobody had begun with it when it"):
        context(ledger).ask("refund", Refund(amount=5))
    assert context(ledger).ask("refund", Refund(amount=5), veto="return").status == "expired"


def test_what_has_begun_in_time_goes_on_later(ledger: Ledger) -> None:
    approve(ledger, ask(ledger))
    answer = context(ledger).ask("refund", Refund(amount=5))
    with ledger.database.transaction() as connection:
        connection.execute(update(approvals).values(expires=approvals.c.expires - 90_000 * SECOND))
    assert context(ledger).ask("refund", Refund(amount=5)) == answer


def test_an_approval_that_is_gone_is_not_waited_for(ledger: Ledger) -> None:
    id = ask(ledger)
    with ledger.database.transaction() as connection:
        connection.execute(delete(approvals))
    with pytest.raises(InvalidStep, match=f"the approval {id} of refund is gone from the ledger"):
        context(ledger).ask("refund", Refund(amount=5))


def test_what_was_stopped_is_not_done(ledger: Ledger) -> None:
    ask(ledger)
    with ledger.database.transaction() as connection:
        proposals = connection.execute(select(approvals.c.event_id)).scalars().all()
        assert ledger.waiting.approvals.cancel(connection, proposals, "ada") == 1
    with pytest.raises(Vetoed, match="refund is cancelled by ada"):
        context(ledger).ask("refund", Refund(amount=5))


def test_an_answer_is_a_step_of_its_delivery(ledger: Ledger) -> None:
    approve(ledger, ask(ledger))
    context(ledger).ask("refund", Refund(amount=5))
    (step,) = ledger.waiting.steps.of(DELIVERY)
    assert (step.name, step.number) == ("ask refund", 0)
    with ledger.database.transaction() as connection:
        connection.execute(delete(steps))
    assert context(ledger).ask("refund", Refund(amount=5)).by == "ada"  # nobody is asked again


def test_asking_needs_a_ledger() -> None:
    with pytest.raises(LedgerOff, match=r"^ctx.ask\(\) needs a ledger"):
        context(None, emitted=0).ask("refund")
    with pytest.raises(InvalidStep, match="a context made by hand does not park: this handler waits for approval of"):
        Context.for_test(CAUSE).ask("refund")
