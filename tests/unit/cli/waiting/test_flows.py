"""The commands for flows: what they print, where, and with which exit code."""

from __future__ import annotations

import pytest

from pipeline import step
from pipeline.coordination.flows.verbs import Verbs
from pipeline.core.ids import delivery_id, member_id
from pipeline.ledger.facts import Delivery, Success
from pipeline.ledger.flows.rows import Member, Start
from tests.commands import Shop
from tests.logs import end_join, made, put, succeed

DEFINITION = b'{"name":"checks","emits":"order.checked","fails":"order.failed","source":"/shop"}'


@pytest.fixture
def flows(shop: Shop) -> list[str]:
    """A join that has ended, and one of which one of two members is done."""
    found = []
    for number, seconds in enumerate((1, 2)):
        order = made("order.placed", {"n": number}, at=seconds)
        put(shop.app.ledger, order)
        id = delivery_id(order.key, "checks")
        about = ("checks", "join", order.key, order.correlation_id, DEFINITION)
        start = Start(id, *about, [Member("stock"), Member("credit")])
        succeed(shop.app.ledger, order, "checks", joins=start.rows())
        found.append(id)
        stock = member_id(id, 0)
        assert shop.app.ledger.claim(Delivery(stock, order, "stock"), worker="w").attempt
        shop.app.ledger.succeed(Success(stock, result='{"available":true}', due_in=None))
    end_join(shop.app.ledger, found[0], made("order.checked"))
    return found


def test_flows_are_listed(shop: Shop, flows: list[str]) -> None:
    heading, *lines = shop.out("flows", "list").splitlines()
    assert heading.split() == ["id", "kind", "name", "status", "done", "started", "why"]
    assert [line.split()[:5] for line in lines] == [
        [flows[1][:8], "join", "checks", "active", "0/2"],
        [flows[0][:8], "join", "checks", "completed", "0/2"],
    ]
    assert [each["id"] for each in shop.json("flows", "list", "--status", "active")] == [flows[1]]
    assert shop.json("flows", "list", "--name", "other") == []
    assert shop("flows", "list", "--limit", "1").stderr.startswith("pipeline: there are more than 1")
    shop.fails(1, "status: no flow is 'activ'; did you mean 'active'?", "flows", "list", "--status", "activ")


def test_one_is_shown_with_its_steps_and_as_a_picture(shop: Shop, flows: list[str]) -> None:
    lines = shop.out("flows", "show", flows[1][:8]).splitlines()
    assert lines[0] == f"join checks {flows[1]}: active"
    assert [line.split() for line in lines[2:]] == [
        ["step", "agent", "outcome", "result"],
        ["0", "stock", "succeeded", '{"available":true}'],
        ["1", "credit", "queued", "-"],
    ]
    shown = shop.json("flows", "show", flows[1])
    assert [(step["agent"], step["result"]) for step in shown["steps"]] == [
        ("stock", {"available": True}),
        ("credit", None),
    ]
    assert shown["definition"]["emits"] == "order.checked"
    picture = shop.out("flows", "show", flows[1], "--mermaid")
    assert picture.startswith("flowchart LR\n")
    assert 's0["stock: succeeded"]' in picture
    assert 'end_(["order.checked: active"])' in picture
    shop.fails(1, "the ledger has no flow '00000000'; `pipeline flows list` shows", "flows", "show", "00000000")


def test_a_saga_is_given_up_and_a_join_is_not(shop: Shop, flows: list[str]) -> None:
    shop.fails(1, f"{flows[1]} is a join, which has nothing to undo", "flows", "abort", flows[1])
    order = made("order.placed", {"n": 7})
    put(shop.app.ledger, order)
    definition = (
        b'{"kind":"saga","name":"order","emits":"order.done","fails":"order.failed","source":"/shop",'
        b'"nodes":[{"name":"pay","agent":"pay","undo":"refund"},{"name":"ship","agent":"ship","after":["pay"],"undo":null}]}'
    )
    id = delivery_id(order.key, "order")
    start = Start(id, "order", "saga", order.key, order.correlation_id, definition, [Member("pay")], number=2)
    succeed(shop.app.ledger, order, "order", joins=start.rows())
    assert shop("flows", "abort", id[:8], "--reason", "no money").stderr == "pipeline: it is failed: no money\n"
    picture = shop.out("flows", "show", id, "--mermaid")
    assert "    s0 --> s1\n" in picture
    assert 'end_(["order.failed: no money"])' in picture
    shown = shop.json("flows", "show", id)
    assert (shown["status"], shown["reason"], shown["steps"][0]["outcome"]) == ("failed", "no money", "late")
    assert "it had ended before" in shop("flows", "abort", id).stderr


ORDER = (
    b'{"kind":"saga","name":"order","emits":"order.done","fails":"order.failed","source":"/shop","nodes":['
    b'{"name":"pay","agent":"billing","final":true,"undo":null},'
    b'{"name":"ship","agent":"stock","after":["pay"],"undo":null}]}'
)


@pytest.fixture
def saga(shop: Shop) -> str:
    """A saga after its point of no return, whose next step is dead."""
    ledger, order = shop.app.ledger, made("order.placed", {"n": 7})
    put(ledger, order)
    id = delivery_id(order.key, "order")
    about = ("order", "saga", order.key, order.correlation_id, ORDER)
    succeed(ledger, order, "order", joins=Start(id, *about, [Member("billing"), Member("stock")]).rows())
    for pos, agent in ((0, "billing"), (1, "stock")):
        assert ledger.claim(Delivery(member_id(id, pos), order, agent), worker="w").attempt
    ledger.succeed(Success(member_id(id, 0), result="1", due_in=None))
    ledger.die(member_id(id, 1), 1, (), error="E: no", traceback="", due_in=0)
    Verbs(shop.app.bus).look_again(id)
    return id


def test_a_saga_that_is_stuck_is_helped_on(shop: Shop, saga: str) -> None:
    assert shop.json("flows", "list")[0]["status"] == "stuck"
    shop.fails(1, "step 'pay' does not hold saga order", "flows", "retry-step", saga[:8], "pay")
    for verb in ("retry-step", "skip"):
        shop.fails(1, f"saga order {saga} has no step 'shop'; did you mean 'ship'?", "flows", verb, saga[:8], "shop")
        shop.fails(1, "the ledger has no flow '00000000'", "flows", verb, "00000000", "ship")
    lines = [line.split() for line in shop.out("flows", "show", saga).splitlines()[2:]]
    assert [line[:3] for line in lines[1:]] == [["pay", "billing", "succeeded"], ["ship", "stock", "dead"]]
    assert "done again: ship; it is active" in shop("flows", "retry-step", saga[:8], "ship", "--by", "ann").stderr
    assert shop.json("flows", "show", saga)["steps"][1]["outcome"] == "queued"
    assert "nothing is dead in it; it was looked at again; it is active" in shop("flows", "resume", saga).stderr


def test_a_join_has_no_steps_to_be_helped(shop: Shop, flows: list[str]) -> None:
    told = f"join checks {flows[1]} has no steps that hold it: requeue, or drop, the dead letters of its members"
    for verb in ("retry-step", "skip"):
        shop.fails(1, told, "flows", verb, flows[1], "stock")


@pytest.mark.parametrize("verb", ["retry-step", "skip", "resume", "cancel", "abort"])
def test_verbs_show_what_a_flow_is_then(shop: Shop, saga: str, verb: str) -> None:
    more = ["ship"] if verb in ("retry-step", "skip") else []
    found = shop.json("flows", verb, saga, *more)
    statuses = {"retry-step": "active", "skip": "completed", "resume": "active", "cancel": "cancelled"}
    assert (found["id"], found["status"]) == (saga, statuses.get(verb, "stuck"))
    assert f"pipeline flows {verb} 01980c5e" in shop.out("flows", verb, "--help")


def test_a_saga_goes_on_without_a_step(shop: Shop, saga: str) -> None:
    picture = shop.out("flows", "show", saga, "--mermaid").splitlines()
    for line in (
        '    s0["pay: succeeded"]',
        "    start --> s0",
        "    style s0 stroke:#2e7d32,stroke-width:2px",
        "    s0 --> s1",
        "    style s1 stroke:#c62828,stroke-width:2px",
        "    s1 --> end_",
    ):
        assert line in picture
    assert shop("flows", "skip", saga, "ship").stderr == "pipeline: left out: ship; it is completed: all\n"
    shop.fails(1, "has ended (completed); nothing was changed", "flows", "skip", saga, "ship")


def test_flows_are_stopped_as_they_stand(shop: Shop, saga: str, flows: list[str]) -> None:
    assert shop("flows", "cancel", saga).stderr == "pipeline: it is cancelled: somebody has cancelled it\n"
    assert "it had ended before; it is cancelled" in shop("flows", "cancel", saga).stderr
    assert shop.json("flows", "cancel", flows[1], "--reason", "a test")["reason"] == "a test"


def test_flows_are_checked_before_a_new_version_is_deployed(shop: Shop, flows: list[str]) -> None:
    found = shop("flows", "check")
    assert (found.exit_code, found.stdout) == (1, f"join checks {flows[1]}: no agent credit\n")
    shop.app.agent(name="credit")(lambda data: None)
    assert "all flows that go on find their agents" in shop("flows", "check").stderr


def test_functions_that_are_gone_are_seen_before_a_deploy(shop: Shop) -> None:
    shop.app.agent(name="pay")(lambda data: None)
    order = made("order.placed", {"n": 8})
    put(shop.app.ledger, order)
    definition = (
        b'{"kind":"saga","name":"order","emits":"order.done","fails":"order.failed","source":"/shop",'
        b'"nodes":[{"name":"first","agent":"pay","undo":null},{"name":"last","agent":"pay","undo":null,"computed":true}]}'
    )
    id = delivery_id(order.key, "order")
    start = Start(id, "order", "saga", order.key, order.correlation_id, definition, [Member("pay")], number=2)
    succeed(shop.app.ledger, order, "order", joins=start.rows())
    assert shop("flows", "check").stdout == f"saga order {id}: no input of last\n"
    pay = shop.app.bus.agents["pay"]
    steps = [step(pay, name="first"), step(pay, name="last", input=lambda event, results: event.data)]
    shop.app.saga("order", on="order.placed", steps=steps)
    assert shop("flows", "check").exit_code == 0


def test_flows_that_nobody_moves_on_are_found_some_at_a_time(
    shop: Shop, flows: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.ledger.flows.flows.LOOKED_AT", 1)
    order = made("order.placed", {"n": 9})
    put(shop.app.ledger, order)
    other = delivery_id(order.key, "checks")
    start = Start(other, "checks", "join", order.key, order.correlation_id, DEFINITION, [Member("stock")])
    succeed(shop.app.ledger, order, "checks", joins=start.rows())
    for id, pos in ((flows[1], 1), (other, 0)):
        step = member_id(id, pos)
        assert shop.app.ledger.claim(Delivery(step, order, "any"), worker="w").attempt
        shop.app.ledger.succeed(Success(step, result="1", due_in=None))
    found = [shop.app.ledger.waiting.flows.stuck() for _ in range(4)]
    assert [len(some) for some in found] in ([1, 1, 0, 1], [1, 1, 1, 1])
    assert {id for some in found for id in some} == {flows[1], other}
