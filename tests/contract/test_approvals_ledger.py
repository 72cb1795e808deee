"""Approvals in the ledger: one decision, with its event, for whoever waits; rules, half time, and expiry."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text, update

from pipeline import AlreadyDecided, InvalidEvent, InvalidSelection, NotAllowed, Pipeline, UnknownEvent
from pipeline.core.event import new_event
from pipeline.core.ids import delivery_id
from pipeline.core.outcome import Outcome
from pipeline.core.times import SECOND
from pipeline.families import ActionProposed
from pipeline.ledger.database.tables import deliveries
from pipeline.ledger.database.waiting import approvals, steps, waits
from pipeline.ledger.facts import Delivery
from pipeline.ledger.ledger import Ledger
from pipeline.ledger.waiting.wait import APPROVAL, Parking, Wait
from pipeline.ledger.waiting.waits import Waits
from pipeline.operations.keeping.erasure import erase
from pipeline.workers.chores import meets
from tests.ledgers import move, new_order, plans
from tests.records import logged, make_app, rows

SCHEMA = {"type": "object", "properties": {"amount": {"type": "number", "maximum": 100}}, "required": ["amount"]}


def propose(app: Pipeline, id: str = "a1", *, metadata: dict[str, Any] | None = None, **more: Any) -> None:
    wanted = {"agent_id": "support", "action": "refund", "params": {"amount": 5}, "response_schema": SCHEMA, **more}
    app.publish(ActionProposed(action_id=id, **wanted), metadata=metadata)


def in_an_hour() -> datetime:
    return datetime.now(UTC) + timedelta(hours=1)


def park(ledger: Ledger, approval: str = "a1", agent: str = "support") -> str:
    """Let a delivery wait for an approval, as ctx.ask does; return its id."""
    event = new_order()
    id = delivery_id(event.id, agent)
    delivery = Delivery(id, event, agent, logged=False)
    assert ledger.claim(delivery, worker="w1").attempt == 1
    parking = Parking(delivery, 1, Wait(APPROVAL, "waits for approval of refund", key=approval))
    assert ledger.waiting.waits.park(parking)
    return id


def look(app: Pipeline) -> int:
    return app.ledger.waiting.approvals.look(meets)


def expire(app: Pipeline, seconds: float) -> None:
    """Let time pass for all approvals."""
    for column in ("asked", "expires"):
        move(app.ledger, approvals, seconds, column)
    with app.ledger.database.transaction() as connection:
        late = update(approvals).where(approvals.c.due > 0)
        connection.execute(late.values(due=approvals.c.due - round(seconds * SECOND)))


def status(app: Pipeline, id: str = "a1") -> str:
    return app.approvals.show(id).status


# -- one decision


def test_an_approval_is_an_event_and_lets_go_on_what_waits_for_it(app: Pipeline, ledger: Ledger) -> None:
    propose(app)
    id = park(ledger)
    assert rows(app, id=id)[0]["outcome"] == "parked"
    found = app.approvals.approve("a1", by="ada", reason="fine")
    assert (found.status, found.by, found.args) == ("approved", "ada", {"amount": 5})
    assert (rows(app, id=id)[0]["outcome"], rows(app, id=id)[0]["due"]) == ("queued", 0)
    assert rows(app, waits) == []
    (event,) = logged(app, "action.approved")
    (proposed,) = logged(app, "action.proposed")
    about = {"action_id": "a1", "agent_id": "support", "action": "refund", "by": "ada", "reason": "fine"}
    assert event.data == {**about, "params": {"amount": 5}}
    assert (event.causation_id, event.correlation_id) == (proposed.id, proposed.correlation_id)


def test_a_veto_is_an_event_too(app: Pipeline, ledger: Ledger) -> None:
    propose(app)
    id = park(ledger)
    assert app.approvals.veto("a1", by="ada", reason="too much").status == "vetoed"
    assert rows(app, id=id)[0]["outcome"] == "queued"
    (event,) = logged(app, "action.vetoed")
    about = {"action_id": "a1", "agent_id": "support", "action": "refund", "by": "ada", "reason": "too much"}
    assert event.data == {**about, "expired": False}


def test_a_second_decision_is_told_who_has_decided(app: Pipeline) -> None:
    propose(app)
    app.approvals.veto("a1", by="ada", reason="too much")
    with pytest.raises(AlreadyDecided, match=r"^refund \(a1\) was vetoed by ada at .*: too much; the first decision"):
        app.approvals.approve("a1", by="bob")
    assert status(app) == "vetoed"
    assert logged(app, "action.approved") == []


def test_of_many_who_decide_at_once_one_does(app: Pipeline, ledger: Ledger) -> None:
    propose(app)
    id = park(ledger)

    def decide(number: int) -> str:
        verb = app.approvals.approve if number % 2 else app.approvals.veto
        try:
            return verb("a1", by=f"p{number}").by
        except AlreadyDecided as exc:
            return str(exc)

    with ThreadPoolExecutor(8) as pool:
        said = list(pool.map(decide, range(8)))
    (first,) = [each for each in said if each.startswith("p")]
    assert all(f" by {first} at " in each for each in said if each != first)
    assert app.approvals.show("a1").by == first
    assert len(logged(app, "action.approved")) + len(logged(app, "action.vetoed")) == 1
    assert rows(app, id=id)[0]["outcome"] == "queued"


def test_of_those_who_park_while_somebody_decides_none_waits_for_ever(app: Pipeline, ledger: Ledger) -> None:
    for number in range(10):
        propose(app, f"a{number}")
    with ThreadPoolExecutor(4) as pool:
        parked = [pool.submit(park, ledger, f"a{number}") for number in range(10)]
        decided = [pool.submit(partial(app.approvals.approve, by="ada"), f"a{number}") for number in range(10)]
        ids = [each.result() for each in parked]
        assert [each.result().status for each in decided] == ["approved"] * 10
    ledger.waiting.waits.release_due()
    assert {row["id"]: row["outcome"] for row in rows(app) if row["agent"]} == dict.fromkeys(ids, "queued")


def test_a_decision_that_cannot_be_written_in_full_is_none(
    app: Pipeline, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    propose(app)
    id = park(ledger)

    def crash(*_: Any) -> list[str]:
        raise RuntimeError("killed")

    monkeypatch.setattr(Waits, "release", crash)
    with pytest.raises(RuntimeError, match="killed"):
        app.approvals.approve("a1", by="ada")
    monkeypatch.undo()
    assert status(app) == "pending"
    assert logged(app, "action.approved") == []
    assert rows(app, id=id)[0]["outcome"] == "parked"
    assert app.approvals.veto("a1", by="bob").by == "bob"


def test_what_is_proposed_twice_is_one(app: Pipeline) -> None:
    propose(app)
    propose(app, params={"amount": 99})
    assert [each.args for each in app.approvals.list()] == [{"amount": 5}]


def test_a_proposal_that_says_nothing_to_decide_is_refused_or_an_event_as_any_other(
    app: Pipeline, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(InvalidEvent, match="agent_id: Field required"):
        app.publish("action.proposed", {"action_id": "a1"})
    app.publish(new_event("action.proposed", {"action_id": "a1"}, source="/elsewhere"))
    app.publish("action.proposed", {"action_id": "x" * 300, "agent_id": "a", "action": "refund"})
    assert app.approvals.list(status=None) == []
    assert len(logged(app, "action.proposed")) == 2
    assert "approved: InvalidEvent: action.proposed does not validate: agent_id: Field required" in caplog.text
    assert "action_id: a text of 1 to 255 characters" in caplog.text


# -- who, and what


def test_arguments_may_be_edited_and_have_to_match_the_schema(app: Pipeline) -> None:
    propose(app)
    for edit, words in (
        ({"amount": 500}, "amount: 500 is greater than the maximum of 100"),
        ({}, '"amount" is a required property'),
        ([5], "arguments are a model or a mapping, not a list"),
        ({"amount": float("nan")}, 'amount: null is not of type "number"'),
    ):
        with pytest.raises(InvalidEvent, match=words):
            app.approvals.approve("a1", by="ada", edit=edit)
    assert status(app) == "pending"
    assert app.approvals.approve("a1", by="ada", edit={"amount": 4}).args == {"amount": 4}
    assert logged(app, "action.approved")[0].data["params"] == {"amount": 4}
    shown = app.approvals.show("a1").as_data(whole=True)["metadata"]
    assert (shown["args"], shown["proposed"]) == ({"amount": 4}, {"amount": 5})


def test_a_schema_fetches_nothing_and_one_that_is_none_is_named(app: Pipeline) -> None:
    for number, schema in enumerate(({"$ref": "http://127.0.0.1:9/x"}, {"type": "nonsense"})):
        propose(app, f"a{number}", response_schema=schema)
        with pytest.raises(InvalidEvent, match="its schema is no JSON Schema that can be used"):
            app.approvals.approve(f"a{number}", edit={"amount": 4})
        assert app.approvals.approve(f"a{number}").status == "approved"  # as it was proposed


def test_nobody_approves_what_they_have_asked_for_themselves(app: Pipeline) -> None:
    propose(app, metadata={"user": "eve"})
    for by in ("eve", "support"):
        with pytest.raises(NotAllowed, match=f"{by} has asked for it"):
            app.approvals.approve("a1", by=by)
    assert app.approvals.veto("a1", by="eve").status == "vetoed"


def test_only_those_may_decide_who_are_named_or_in_a_group(app: Pipeline) -> None:
    propose(app, "a1", who=("ada", "finance"))
    propose(app, "a2", who=("ada", "finance"))
    with pytest.raises(NotAllowed, match="say who you are"):
        app.approvals.approve("a1")
    with pytest.raises(NotAllowed, match="bob may not decide this; it is for ada, finance"):
        app.approvals.veto("a1", by="bob", groups=("sales",))
    assert app.approvals.approve("a1", by="ada").status == "approved"
    assert app.approvals.approve("a2", by="bob", groups=("sales", "finance")).status == "approved"


def test_so_many_different_people_have_to_approve_of_the_same_arguments(app: Pipeline, ledger: Ledger) -> None:
    propose(app, n_of=2)
    id = park(ledger)
    with pytest.raises(NotAllowed, match="say who you are"):
        app.approvals.approve("a1")
    assert app.approvals.approve("a1", by="ada").status == "pending"
    with pytest.raises(AlreadyDecided, match=r"ada has approved refund \(a1\) at .*; it takes 2 different people"):
        app.approvals.approve("a1", by="ada")
    assert app.approvals.approve("a1", by="bob", edit={"amount": 4}).status == "pending"
    assert rows(app, id=id)[0]["outcome"] == "parked"
    assert [vote.by for vote in app.approvals.show("a1").votes] == ["bob"]
    found = app.approvals.approve("a1", by="ada")
    assert (found.status, found.args, [vote.by for vote in found.votes]) == ("approved", {"amount": 4}, ["bob", "ada"])
    assert rows(app, id=id)[0]["outcome"] == "queued"


# -- time


def test_half_of_the_time_is_an_event_and_its_end_a_veto(app: Pipeline, ledger: Ledger) -> None:
    propose(app, deadline=in_an_hour())
    id = park(ledger)
    assert look(app) == 1  # there is no rule
    assert look(app) == 0
    expire(app, 1801)
    assert look(app) == 1
    assert look(app) == 0
    (event,) = logged(app, "action.escalated")
    assert (event.data["action_id"], event.data["agent_id"], event.data["action"]) == ("a1", "support", "refund")
    assert status(app) == "pending"
    expire(app, 1800)
    with pytest.raises(AlreadyDecided, match=r"refund \(a1\) has expired at"):
        app.approvals.approve("a1", by="ada")
    assert look(app) == 1
    assert look(app) == 0
    assert status(app) == "expired"
    (event,) = logged(app, "action.vetoed")
    assert [event.data[name] for name in ("action_id", "by", "reason", "expired")] == [
        "a1",
        "",
        "nobody has decided",
        True,
    ]
    assert len(logged(app, "action.escalated")) == 1
    assert rows(app, id=id)[0]["outcome"] == "queued"


def test_what_is_decided_is_looked_at_no_more(app: Pipeline) -> None:
    propose(app, deadline=in_an_hour())
    look(app)
    app.approvals.approve("a1", by="ada")
    expire(app, 4000)
    assert look(app) == 0
    assert app.ledger.due.look().approvals is False
    assert logged(app, "action.escalated") == []


# -- rules


def test_a_rule_approves_what_it_matches_and_leaves_the_rest_to_people(app: Pipeline, ledger: Ledger) -> None:
    rule = app.approvals.rules.add("refund", agent="support", where="amount < 10", until=in_an_hour(), by="ada")
    propose(app, "small")
    propose(app, "large", params={"amount": 50})
    propose(app, "others", agent_id="sales")
    propose(app, "deed", action="cancel")
    propose(app, "own", metadata={"by": "ada"})
    id = park(ledger, "small")
    assert look(app) == 5
    assert {each.id for each in app.approvals.list()} == {"large", "others", "deed", "own"}
    (small,) = app.approvals.list(status="approved")
    assert (small.id, small.by, small.reason) == ("small", f"rule {rule.id}", "a rule of ada")
    assert rows(app, id=id)[0]["outcome"] == "queued"
    assert app.approvals.rules.list() == [rule]
    app.approvals.rules.remove(rule.id[:8])
    propose(app, "later")
    look(app)
    assert status(app, "later") == "pending"
    with pytest.raises(UnknownEvent, match="there is no rule"):
        app.approvals.rules.remove(rule.id)


def test_a_new_rule_holds_for_what_waits_already_and_an_old_one_ends(app: Pipeline) -> None:
    propose(app, deadline=in_an_hour())
    look(app)
    rule = app.approvals.rules.add("refund", until=in_an_hour())
    assert look(app) == 1
    assert app.approvals.show("a1").by == f"rule {rule.id}"
    with pytest.raises(InvalidSelection, match="is over; the rule would never hold"):
        app.approvals.rules.add("refund", until=datetime.now(UTC) - timedelta(seconds=1))


# -- what becomes of them


def test_what_was_decided_while_nobody_waited_lets_go_on_who_waits_then(app: Pipeline, ledger: Ledger) -> None:
    propose(app)
    app.approvals.approve("a1", by="ada")
    id = park(ledger)
    assert ledger.waiting.waits.release_due() == 1
    assert rows(app, id=id)[0]["outcome"] == Outcome.QUEUED.value
    assert rows(app, steps) == []


def test_a_tree_that_is_stopped_takes_its_approvals_with_it(app: Pipeline) -> None:
    propose(app)
    (found,) = app.approvals.list()
    app.cancel(found.event, tree=True, by="ada", reason="stopped")
    with pytest.raises(AlreadyDecided, match="was cancelled by ada"):
        app.approvals.approve("a1", by="bob")


def test_approvals_go_with_their_events_and_people_are_forgotten(app: Pipeline) -> None:
    propose(app, "kept")
    propose(app, "gone")
    app.approvals.approve("gone", by="ada")
    app.bus.outbox.flush()
    erase(app.bus, correlation=app.approvals.show("gone").correlation)
    assert (app.approvals.show("gone").args, app.approvals.show("gone").status) == ({}, "approved")
    app.prune(keep=0)
    assert [each.id for each in app.approvals.list(status=None)] == ["kept"]


def test_those_of_one_correlation_are_found_by_its_index(app: Pipeline, ledger: Ledger) -> None:
    for n in range(300):
        app.publish(ActionProposed(action_id=f"a{n}", agent_id="support", action="refund"), correlation_id=f"c{n // 2}")
    app.approvals.veto("a6", by="ada")
    with ledger.database.transaction() as connection:
        connection.execute(text("ANALYZE"))
    with plans(ledger, "pipeline_approvals.proposal") as found:
        assert [each.id for each in app.approvals.list(correlation="c3")] == ["a7"]
        assert [each.id for each in app.approvals.list(correlation="c3", status=None, limit=1)] == ["a6"]
        assert app.approvals.list(correlation="c3", agent="sales") == []
    assert len(found) == 3
    assert all("pipeline_approvals_correlation" in plan and "SCAN pipeline_" not in plan for plan in found), found


def test_an_approval_is_found_by_the_beginning_of_its_id(app: Pipeline) -> None:
    propose(app, "12345678-a")
    propose(app, "12345678-b")
    assert app.approvals.show("12345678-a").id == "12345678-a"
    with pytest.raises(UnknownEvent, match="several approvals begin"):
        app.approvals.show("12345678")
    with pytest.raises(UnknownEvent, match=r"there is no approval '1234567'; `pipeline approvals list`"):
        app.approvals.veto("1234567")
    with pytest.raises(InvalidSelection, match="did you mean 'vetoed'"):
        app.approvals.list(status="vetod")


def test_another_process_decides_as_well(app: Pipeline, ledger_url: str, tmp_path: Path) -> None:
    propose(app)
    with closing(make_app(ledger_url, tmp_path, agents=False)) as other:
        assert other.approvals.approve("a1", by="ada").status == "approved"
    assert rows(app, deliveries) == []
    assert status(app) == "approved"
