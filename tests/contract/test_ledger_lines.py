"""Lines in the ledger: what has no use of a turn any more keeps nobody back."""

from __future__ import annotations

import random
from collections import defaultdict
from typing import Any

import pytest
from sqlalchemy import select, update

from pipeline import Limit, Pipeline
from pipeline.core.ids import delivery_id
from pipeline.core.outcome import Outcome
from pipeline.ledger.database.tables import deliveries
from pipeline.ledger.database.waiting import lines, turns
from pipeline.ledger.ledger import Ledger
from pipeline.ledger.limits import calling
from pipeline.workers.chores import Chores
from tests.contract.test_ledger_limits import AGENT, Hands, of, work_off
from tests.ledgers import ON_POSTGRESQL, append, move
from tests.threads import in_threads

pytestmark = [pytest.mark.usefixtures("living_worker"), pytest.mark.pooled]


@pytest.mark.parametrize("raised", [{"rate": "60/m"}, None])
def test_a_slow_rate_no_longer_holds_back_when_there_is_a_faster_one(
    ledger: Ledger, raised: dict[str, Any] | None
) -> None:
    hands = Hands(ledger, Limit(rate="100/s"))
    first, second, third = append(ledger, 3)
    ledger.limits.rules.declare({AGENT: Limit(rate="100/s").rule})
    ledger.limits.rules.change(AGENT, {"rate": "1/d"})
    assert hands.begin(first)
    assert hands.begin(second) is False
    ledger.limits.rules.change(AGENT, raised)
    ledger.limits.calling.call_due()
    move(ledger, lines, 10)
    move(ledger, lines, 10, "tat")
    ledger.limits.calling.call_due()
    assert hands.called() == [second.id]
    assert hands.begin(second)
    move(ledger, lines, 10, "tat")
    assert hands.begin(third)


@pytest.mark.parametrize("end", ["ends", "comes again", "leaves"])
def test_what_is_late_has_its_turn_until_its_handler_ends(ledger: Ledger, end: str) -> None:
    hands = Hands(ledger, Limit(concurrent=1))
    first, second = append(ledger, 2)
    assert [hands.begin(event) for event in (first, second)] == [True, False]
    late = hands.delivery(first)
    with ledger.database.transaction() as connection:
        ledger.deliveries.cancel(connection, [late.id], "its time was over", Outcome.LATE)
    move(ledger, turns, 10, "since")
    assert ledger.limits.calling.mend() == 0
    ledger.limits.lines.come_back(late.id, late.turns, None)
    assert hands.called() == []
    match end:
        case "ends":
            ledger.limits.lines.give_back(late.id, late.turns)
        case "comes again":
            ledger.limits.lines.come_back(late.id, late.turns, late.message)
        case "leaves":
            ledger.workers.leave("w1")
            assert ledger.limits.calling.mend() == 1
    assert hands.called() == [second.id]
    assert hands.states() == {"called": 1}


def test_a_slot_of_what_was_called_and_does_not_come_is_given_to_the_next(ledger: Ledger) -> None:
    ledger.workers.heartbeat("w1", {AGENT: []})
    hands = Hands(ledger, Limit(concurrent=1))
    first, second, third = append(ledger, 3)
    for event in (first, second, third):
        hands.begin(event)
    hands.succeed(first)
    assert hands.called() == [second.id]
    move(ledger, turns, 30, "since")
    assert ledger.limits.calling.mend() == 0
    move(ledger, turns, 31, "since")
    assert ledger.limits.calling.mend() == 1
    assert hands.called() == [third.id]
    assert hands.begin(third)
    assert hands.begin(second) is False  # it asks anew
    hands.succeed(third)
    assert hands.called() == [second.id]


@pytest.mark.parametrize("fair_by", [None, "metadata.tenant"])
def test_those_of_a_paused_agent_are_not_called_before_it_goes_on(ledger: Ledger, fair_by: str | None) -> None:
    ledger.workers.heartbeat("w1", {AGENT: [], "research": []})
    limit = Limit(concurrent=1, fair_by=fair_by, name="shared")
    hands, others = Hands(ledger, limit), Hands(ledger, limit, agent="research")
    running, *mine = of(ledger, "acme", 4)
    (other,) = of(ledger, "bulk", 1)
    for event in (running, *mine):
        hands.begin(event)
    assert others.begin(other) is False
    ledger.waiting.pauses.pause(AGENT, "maintenance")
    hands.succeed(running)
    assert hands.called() == [other.id]
    assert others.begin(other)
    others.succeed(other)
    assert hands.called() == []
    ledger.waiting.pauses.end("agent", AGENT)
    move(ledger, lines, 10)
    assert ledger.limits.calling.call_due() == 1
    assert hands.called() == [mine[0].id]


@pytest.mark.parametrize("leaves", ["before", "stops", "after"])
def test_those_of_an_agent_that_nobody_runs_keep_no_slots_from_others(ledger: Ledger, leaves: str) -> None:
    limit = Limit(concurrent=1, name="shared")
    hands, others = Hands(ledger, limit), Hands(ledger, limit, agent="research")
    ledger.workers.heartbeat("w1", {"research": []})
    ledger.workers.heartbeat("w2", {AGENT: []})
    running, *mine, other = append(ledger, 4)
    for event in (running, *mine):
        hands.begin(event)
    assert others.begin(other) is False
    match leaves:
        case "before":
            ledger.workers.leave("w2")
        case "stops":
            ledger.workers.drain("w2")
    hands.succeed(running)
    if leaves == "after":
        assert hands.called() == [mine[0].id]
        ledger.workers.leave("w2")
        move(ledger, turns, 6, "since")
        assert ledger.limits.calling.mend() == 1
    assert hands.called() == [other.id]
    assert others.begin(other)
    others.succeed(other)
    assert hands.called() == []
    ledger.subscribers.register({}, "w3", about={"agents": {AGENT: {"capacity": 1}}})  # as those of the ledger are said
    move(ledger, lines, 10)
    assert ledger.limits.calling.call_due() == 1
    assert hands.called() == [mine[leaves == "after"].id]


def test_a_member_of_a_canvas_stands_in_line_as_all_others_do(ledger: Ledger) -> None:
    hands = Hands(ledger, Limit(concurrent=1))
    running, before, member, *after = append(ledger, 5)
    for event in (running, before):
        hands.begin(event)
    delivery = hands.delivery(member)

    def asks() -> bool:
        ledger.claim(delivery._replace(expected=1), worker="w1")
        _, line = ledger.limits.lines.take(delivery.id, delivery.turns)
        if line is not None:
            run = hands.run(member, line=line)
            assert ledger.pause(delivery.id, member, 1, delay=1, timer=False, reason="waits", run=run)
        return line is None

    assert not asks()
    for event in after:
        hands.begin(event)
    hands.succeed(running)
    assert hands.called() == [before.id]
    assert not asks()
    assert hands.begin(before)
    hands.succeed(before)
    assert hands.called() == []  # Celery asks again by itself
    assert asks()
    hands.succeed(member)
    assert hands.called() == [after[0].id]
    assert hands.begin(after[0])
    hands.succeed(after[0])
    assert hands.begin(after[1])
    hands.succeed(after[1])
    assert hands.states() == {}


def test_dead_letters_that_hold_their_keys_do_not_keep_lost_slots_from_being_found(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calling, "MOST", 2)
    ledger.subscribers.register({AGENT: (("order.placed",), None)})
    ordered, hands = Hands(ledger, order=True), Hands(ledger, Limit(concurrent=1, name="x", key="metadata.tenant"))
    for key in "abc":
        (event,) = of(ledger, key, 1)
        assert ordered.begin(event)
        ordered.die(event)
    (lost,) = of(ledger, "a#order:b", 1)
    assert hands.begin(lost)
    with ledger.database.transaction() as connection:
        mine = deliveries.c.id == delivery_id(lost.id, AGENT)
        connection.execute(update(deliveries).where(mine).values(outcome=Outcome.CANCELLED.value, process=None))
    move(ledger, turns, 10, "since")
    assert ledger.limits.calling.mend() == 1


def test_what_is_shed_lets_its_key_go_on_whether_or_not_it_was_in_its_line(ledger: Ledger) -> None:
    hands = Hands(ledger, order=True)
    ledger.subscribers.register({AGENT: (("order.placed",), None)})
    one, two, three = of(ledger, "a", 3)
    ledger.claim(hands.delivery(one), worker="w1")
    hands.die(one, "Shed: max_age: it is 90 s old")
    assert hands.begin(two) is False  # the first one enters its line only now
    assert hands.called() == [two.id]
    assert hands.begin(two)
    assert hands.begin(three) is False
    hands.die(two, "Shed: shed-oldest: more than 10 events wait")
    assert hands.called() == [three.id]


@pytest.mark.parametrize("was", [{"order": True}, {"limit": Limit(concurrent=1)}, {"limit": Limit(rate="1/h")}])
def test_what_waits_for_what_its_agent_has_no_more_goes_on_at_once(
    app: Pipeline, ledger: Ledger, was: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calling, "MOST", 2)
    ledger.subscribers.register({AGENT: (("order.placed",), None)})
    hands, other = Hands(ledger, **was), Hands(ledger, Limit(concurrent=1), agent="stock")
    first, *rest = append(ledger, 4)
    assert [hands.begin(event) for event in (first, *rest)] == [True, False, False, False]
    assert [other.begin(event) for event in (first, rest[0])] == [True, False]
    has = {AGENT: {turn.limit for turn in hands.turns(first)}}
    assert ledger.limits.calling.let_go(has) == 0
    assert ledger.limits.calling.let_go({"stock": {"stock"}}) == 0, "it is somebody else's"

    @app.agent(name=AGENT, on="order.placed")
    def billing(data: Any) -> None: ...

    chores = Chores(app.bus)
    assert (chores.let_go(), chores.let_go(), chores.let_go()) == (2, 1, 0)
    assert sorted(hands.called()) == sorted(event.id for event in rest)
    assert other.states()["waiting"] == 1
    hands.succeed(first)
    assert hands.called() == []


@ON_POSTGRESQL
@pytest.mark.parametrize("order", [False, True])
def test_who_hands_a_slot_on_waits_for_nobody_who_has_the_next_one_locked(ledger: Ledger, order: bool) -> None:
    hands = Hands(ledger, None if order else Limit(concurrent=1), order)
    ledger.subscribers.register({AGENT: (("order.placed",), None)})
    first, second = append(ledger, 2)
    assert [hands.begin(event) for event in (first, second)] == [True, False]
    mine = select(deliveries.c.id).where(deliveries.c.id == delivery_id(second.id, AGENT))
    with ledger.database.transaction() as somebody:
        somebody.execute(mine.with_for_update())
        in_threads(1, lambda _: hands.succeed(first))
        assert hands.called() == []
    assert hands.states() == {"waiting": 1}
    assert ledger.limits.calling.call_due() == 1
    assert hands.called() == [second.id]
    assert hands.begin(second)
    hands.succeed(second)
    assert hands.states() == {}


def test_with_several_workers_each_key_is_in_order_all_the_same(ledger: Ledger) -> None:
    hands = Hands(ledger, order=True)
    ledger.subscribers.register({AGENT: (("order.placed",), None)})
    chance = random.Random(13)
    sent = [event for _ in range(8) for key in "abc" for event in of(ledger, key, 1)]
    seen: dict[str, list[str]] = defaultdict(list)
    work_off(hands, chance.sample(sent, len(sent)), 4, lambda event: seen[event.metadata["tenant"]].append(event.id))
    assert seen == {key: [event.id for event in sent if event.metadata["tenant"] == key] for key in "abc"}
