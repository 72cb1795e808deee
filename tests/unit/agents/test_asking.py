"""What `ctx.ask` promises a handler: it asks once, and what it is told is kept, and still right when it acts."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import orjson
import pytest
from pydantic import BaseModel, Field
from sqlalchemy import delete, select, update

from pipeline import Approval, Context, Pipeline, Vetoed
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


# -- several at once


def side_by_side(ledger: Ledger, amounts: Sequence[float], emitted: int = 0) -> tuple[dict[float, Any], Context]:
    """Ask about several amounts in one run, as tasks and threads do; return answers and errors, and the context."""
    here = context(ledger, emitted)
    found: dict[float, Any] = {}
    for amount in amounts:
        try:
            found[amount] = here.ask("refund", Refund(amount=amount)).args
        except (Parked, InvalidStep) as exc:
            found[amount] = exc
    for event in here.published:
        ledger.append([Encoded(event, event.encode())], due_in=None)
    return found, here


def by_amount(ledger: Ledger) -> dict[float, str]:
    return {one.args["amount"]: one.id for one in ledger.waiting.approvals.find()}


def test_what_is_asked_side_by_side_gets_its_own_answer_in_whatever_order_it_comes_again(ledger: Ledger) -> None:
    side_by_side(ledger, (5, 7, 9))
    ids = by_amount(ledger)
    approve(ledger, ids[7])
    found, here = side_by_side(ledger, (9, 7, 5), emitted=3)
    assert (found[7], here.published) == (Refund(amount=7), ())
    assert (found[9].wait.key, found[5].wait.key) == (ids[9], ids[5])
    approve(ledger, ids[5], {"amount": 4})
    approve(ledger, ids[9])
    answers = {5: Refund(amount=4), 7: Refund(amount=7), 9: Refund(amount=9)}
    assert side_by_side(ledger, (9, 5, 7), emitted=3)[0] == answers
    with ledger.database.transaction() as connection:
        connection.execute(delete(approvals))
    assert side_by_side(ledger, (5, 9, 7), emitted=3)[0] == answers, "they are kept"


def test_what_is_equal_is_asked_as_often_as_it_is_wanted(ledger: Ledger) -> None:
    first = context(ledger, emitted=0)
    for _ in range(2):
        with pytest.raises(Parked):
            first.ask("refund", Refund(amount=5))
    one, two = (event.data["action_id"] for event in first.published)
    for event in first.published:
        ledger.append([Encoded(event, event.encode())], due_in=None)
    approve(ledger, one)
    approve(ledger, two)
    again = context(ledger, emitted=2)
    assert [again.ask("refund", Refund(amount=5)).id for _ in range(2)] == [one, two]


def test_another_question_never_gets_the_answer_of_the_one_in_whose_place_it_comes(ledger: Ledger) -> None:
    approve(ledger, ask(ledger))
    found, here = side_by_side(ledger, (7, 5), emitted=1)
    assert isinstance(found[7], InvalidStep)
    assert "asked for it with other arguments, and they have to be the same each time" in str(found[7])
    assert (found[5], here.published) == (Refund(amount=5), ())
    found, here = side_by_side(ledger, (5, 7), emitted=1)
    assert isinstance(found[7], Parked)
    assert [event.data["params"] for event in here.published] == [{"amount": 7}]


def test_an_answer_that_was_kept_without_its_question_goes_by_its_place(ledger: Ledger) -> None:
    approve(ledger, ask(ledger))
    context(ledger).ask("refund", Refund(amount=5))
    with ledger.database.transaction() as connection:
        (text,) = connection.execute(select(steps.c.result)).scalars()
        kept = {name: value for name, value in orjson.loads(text).items() if name != "about"}
        connection.execute(update(steps).values(result=orjson.dumps(kept).decode()))
    assert context(ledger).ask("refund", Refund(amount=6)).args == Refund(amount=5)


@pytest.mark.parametrize("kind", ["tasks", "threads"])
def test_tasks_and_threads_of_a_handler_get_their_own_answers(tmp_path: Path, no_settings: None, kind: str) -> None:
    app = Pipeline("shop", directory=tmp_path)
    runs: list[dict[int, Any]] = []

    def refund(ctx: Context, amount: int) -> Any:
        return ctx.ask("refund", {"amount": amount}).payload

    async def one(ctx: Context, amount: int) -> Any:
        return refund(ctx, amount)

    @app.agent(on="refunds.wanted", name="tasks")
    async def in_tasks(data: Any, ctx: Context) -> None:
        amounts = order()
        runs.append(dict(zip(amounts, await asyncio.gather(*(one(ctx, amount) for amount in amounts)), strict=True)))

    @app.agent(on="refunds.wanted", name="threads")
    def in_threads(data: Any, ctx: Context) -> None:
        with ThreadPoolExecutor(1) as pool:
            futures = {amount: pool.submit(refund, ctx, amount) for amount in order()}
        runs.append({amount: future.result() for amount, future in futures.items()})

    def order() -> list[int]:
        begun.append([[1, 2, 3], [3, 1, 2], [2, 3, 1]][len(begun)])
        return begun[-1]

    begun: list[list[int]] = []
    with app.testing() as bus:
        app.publish("refunds.wanted", {}, targets=(kind,))
        bus.settle()
        waiting = {one.args["amount"]: one.id for one in app.approvals.list()}
        assert sorted(waiting) == [1, 2, 3]
        for amount in (3, 1, 2):
            app.approvals.approve(waiting[amount], by="ada", edit={"amount": amount * 10})
            bus.settle()
    assert len(begun) == 3
    assert runs == [{1: {"amount": 10}, 2: {"amount": 20}, 3: {"amount": 30}}]
    app.close()
