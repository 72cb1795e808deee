"""Budgets in the ledger: never more is reserved than a limit, whoever asks at once, and each use counts once."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, NoReturn

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import delete

from pipeline import Event, InvalidBudget, Pipeline, UnknownBudget
from pipeline.agents.filters.paths import text_at
from pipeline.core.errors import OverBudget
from pipeline.core.ids import delivery_id
from pipeline.core.outcome import Outcome
from pipeline.ledger.bounding import budget as module
from pipeline.ledger.bounding.budget import (
    TREE,
    UNITS,
    Amounts,
    Budget,
    Refused,
    Reservation,
    Scope,
    Spending,
    Use,
    tree_of,
)
from pipeline.ledger.database.waiting import budgets, reservations
from pipeline.ledger.facts import Delivery
from pipeline.ledger.waiting.wait import Parking, Wait
from tests.ledgers import append, claim, die, new_order
from tests.records import logged, rows

pytestmark = pytest.mark.pooled


def tokens(number: int) -> Amounts:
    return Amounts(tokens=number)


def scope(limit: int, name: str = "tenant", **more: Any) -> Scope:
    return Scope(name, "acme", limit=tokens(limit), **more)


def reserve(app: Pipeline, scopes: list[Scope], number: int, use: Use | None = None, event: Event | None = None) -> Any:
    where = use or Use(new_order().id, 1, 0)
    return app.budgets.reserve(where, scopes, tokens(number), event or new_order(), "writer")


def _no(refused: Refused) -> NoReturn:
    raise OverBudget(str(refused))


def used(app: Pipeline, name: str = "tenant") -> int:
    return sum(row["tokens"] for row in rows(app, budgets, name=name))


def test_what_is_reserved_counts_at_once_and_what_was_really_spent_when_it_is_settled(app: Pipeline) -> None:
    use, one = Use("d1", 1, 0), scope(100)
    assert reserve(app, [one], 60, use) is None
    assert app.budgets.left([one]) == tokens(40)
    refused = reserve(app, [one], 41)
    assert str(refused) == "budget 'tenant' of 'acme': 41 more tokens are wanted, and 60 of 100 are used"
    app.budgets.settle(use, tokens(10))
    app.budgets.settle(use, tokens(90)), "which changes nothing any more"
    assert used(app) == 10
    assert reserve(app, [one], 90) is None
    assert app.budgets.left([one]) == tokens(0)


def test_a_tree_without_a_budget_has_nothing_to_settle(app: Pipeline) -> None:
    use = Use("d1", 1, 0)
    assert reserve(app, [Scope(*tree_of("no tree of ours").place)], 60, use) is None
    app.budgets.settle(use, tokens(10))  # warnings are errors here, and an empty list of places is one to SQLAlchemy
    assert app.budgets.spent_by(["d1"]) == {"d1": Amounts(10, 0, 0)}
    assert rows(app, budgets) == []


def test_the_same_use_counts_once_and_that_of_another_attempt_again(app: Pipeline) -> None:
    one = scope(100)
    assert reserve(app, [one], 30, Use("d1", 1, 0)) is None
    assert reserve(app, [one], 30, Use("d1", 1, 0)) is None, "it was parked, and came here again"
    assert used(app) == 30
    assert reserve(app, [one], 30, Use("d1", 2, 0)) is None, "what a killed attempt had reserved is spent"
    assert reserve(app, [one], 30, Use("d1", 2, 1)) is None
    assert used(app) == 90
    assert reserve(app, [one], 30, Use("d1", 2, 2)) is not None
    assert reserve(app, [one], 30, Use("d1", 2, 1)) is None, "it has what it had"


def test_what_deliveries_have_spent_is_said_over_all_of_their_attempts(app: Pipeline) -> None:
    one = scope(1000)
    for use in (Use("d1", 1, 0), Use("d1", 2, 0), Use("d1", 2, 1), Use("d2", 1, 0)):
        assert reserve(app, [one], 30, use) is None
    app.budgets.settle(Use("d1", 2, 1), Amounts(tokens=10, cost=2_500_000))
    many = [f"none{number}" for number in range(1200)]
    found = app.budgets.spent_by(["d1", *many, "d2"])
    assert found == {"d1": Amounts(70, 2_500_000, 0), "d2": Amounts(30, 0, 0)}
    assert [str(found["d1"]), str(found["d2"])] == ["70 tokens, cost 2.5", "30 tokens"]
    assert app.budgets.spent_by([]) == {}


def test_of_several_budgets_all_are_taken_from_or_none(app: Pipeline) -> None:
    wide, narrow = scope(100, "wide"), scope(10, "narrow")
    assert reserve(app, [wide, narrow], 11).scope == narrow
    assert (used(app, "wide"), used(app, "narrow")) == (0, 0)
    assert reserve(app, [wide, narrow], 10) is None
    assert (used(app, "wide"), used(app, "narrow")) == (10, 10)
    assert app.budgets.left([wide, narrow]) == tokens(0)


def test_those_who_ask_at_the_same_time_never_get_more_than_there_is(app: Pipeline) -> None:
    scopes = [scope(100, "a"), scope(70, "b")]

    def ask(number: int) -> bool:
        mine = scopes if number % 2 else scopes[::-1]
        use = Use(f"d{number}", 1, 0)
        granted = reserve(app, mine, 3, use) is None
        if granted and number % 5 == 0:
            app.budgets.settle(use, tokens(1))
        return granted

    with ThreadPoolExecutor(8) as pool:
        granted = list(pool.map(ask, range(80)))
    spent = sum(3 if number % 5 else 1 for number, was in enumerate(granted) if was)
    assert used(app, "a") == used(app, "b") == spent <= 70
    assert spent > 66, "what is left is less than anybody wants"


def test_that_a_budget_has_no_room_is_told_once_until_somebody_changes_it(app: Pipeline) -> None:
    one, event = scope(10), new_order()
    for _ in range(3):
        assert reserve(app, [one], 11, event=event) is not None
    (told,) = logged(app, "budget.exceeded")
    assert told.data.pop("delivery_id")
    assert told.data == {
        "budget": "tenant", "key": "acme", "unit": "tokens", "limit": 10, "used": 0, "wanted": 11, "agent": "writer",
    }  # fmt: skip
    assert told.correlation_id == event.correlation_id
    app.budgets.set("tenant", tokens(20), "acme")
    assert reserve(app, [one], 20) is None
    for _ in range(3):
        assert reserve(app, [one], 1) is not None
    assert len(logged(app, "budget.exceeded")) == 2


def test_a_limit_that_is_set_at_run_time_wins_over_the_declared_one_of_a_key_over_that_of_all(app: Pipeline) -> None:
    app.budget("tenant", tokens=10, cost=5, per="day", key="metadata.tenant")
    acme, other = Scope("tenant", "acme", "2026-01-01", tokens(10)), Scope("tenant", "bulk", "2026-01-01", tokens(10))
    app.budgets.set("tenant", tokens(50))
    assert app.budgets.left([acme]) == app.budgets.left([other]) == tokens(50)
    app.budgets.set("tenant", tokens(5), "acme")
    assert (app.budgets.left([acme]), app.budgets.left([other])) == (tokens(5), tokens(50))
    with pytest.raises(UnknownBudget, match=r"no budget 'tenants'"):
        app.budgets.set("tenants", tokens(1))


def test_what_is_declared_anew_holds_for_units_that_nobody_has_set(app: Pipeline) -> None:
    first, then = Amounts(tokens=10, cost=10), Amounts(tokens=20, cost=1000)
    assert app.budgets.reserve(Use("d1", 1, 0), [Scope("t", limit=first)], Amounts(1, 1), new_order(), "x") is None
    assert app.budgets.reserve(Use("d1", 1, 1), [Scope("t", limit=then)], Amounts(15), new_order(), "x") is None
    assert [account.limit for account in app.budgets.list("t")] == [then]
    app.budgets.set("t", tokens(30))
    assert app.budgets.reserve(Use("d1", 1, 2), [Scope("t", limit=then)], Amounts(14, 500), new_order(), "x") is None
    assert app.budgets.left([Scope("t", limit=then)]) == Amounts(0, 499)
    app.budget("t", tokens=20, cost=2000)
    assert [account.limit for account in app.budgets.list("t")] == [Amounts(30, 2000)]


def test_a_tree_has_the_budget_that_it_was_published_with_and_others_have_none(app: Pipeline) -> None:
    event = app.publish("order.placed", {"n": 1}, budget={"tokens": 100, "cost": 7})
    app.publish("order.placed", {"n": 2}, budget={"tokens": 5}, correlation_id=event.correlation_id)
    mine, other = Scope(TREE, event.correlation_id), Scope(TREE, "other")
    assert app.budgets.left([mine]) == Amounts(tokens=100, cost=7)
    assert reserve(app, [mine], 101) is not None
    assert reserve(app, [mine], 100) is None
    assert reserve(app, [other], 10**9) is None
    account = app.budgets.of_tree(event.id)
    assert account is not None
    assert (account.used.tokens, account.left) == (100, Amounts(tokens=0, cost=7))
    app.budgets.set(TREE, tokens(150), event.correlation_id)
    assert app.budgets.left([mine]) == Amounts(tokens=50, cost=7)
    with pytest.raises(UnknownBudget):
        app.budgets.set(TREE, tokens(1), "no-such-tree")
    with app.ledger.database.session() as session:
        late = app.publish("order.placed", {"n": 3}, budget={"events": 3}, session=session)
        session.rollback()
    assert app.budgets.of_tree(late.correlation_id) is None


@pytest.mark.parametrize("length", [150, 151, 200, 255])
def test_the_budget_of_a_tree_holds_however_long_its_correlation_is(app: Pipeline, length: int) -> None:
    correlation = "c" * length
    event = app.publish("order.placed", {"n": 1}, budget={"tokens": 100}, correlation_id=correlation)
    other = app.publish("order.placed", {"n": 1}, correlation_id=("c" * (length - 1)) + "d")

    def spend(event: Event, number: int) -> Reservation:
        return Spending(
            app.budgets, event, "writer", event.id, 1, aside=lambda call: call(), ask=_no, over=_no
        ).reserve(tokens=number)

    assert spend(event, 100)
    assert spend(other, 1000)
    with pytest.raises(OverBudget):
        spend(event.evolve(id=new_order().id), 1)
    account = app.budgets.of_tree(event.id)
    assert account is not None
    assert account.used == Amounts(100, 0, 0)
    app.budgets.set(TREE, tokens(150), correlation)
    assert app.budgets.left([tree_of(correlation)]) == tokens(50)
    (account,) = app.budgets.list(TREE, correlation)
    app.budgets.set(TREE, tokens(160), account.key)
    assert app.budgets.left([tree_of(correlation)]) == tokens(60)


def test_whoever_waits_for_a_higher_budget_goes_on_when_it_is_raised(app: Pipeline) -> None:
    ledger = app.ledger
    found = append(ledger, 2)
    for event, key in zip(found, ("acme", "bulk"), strict=True):
        assert claim(ledger, event).attempt == 1
        place = Scope("tenant", key)
        delivery = Delivery(delivery_id(event.id, "billing"), event, "billing")
        wait = Wait("budget", "waits for a higher limit", due=2**50, key=place.waits_as)
        assert ledger.waiting.waits.park(Parking(delivery, 1, wait))
    assert reserve(app, [scope(1)], 2) is not None
    assert app.budgets.set("tenant", tokens(2), "acme") == 1
    assert [row["outcome"] for row in rows(app, event_id=found[0].id, agent="billing")] == [Outcome.QUEUED.value]
    assert app.budgets.set("tenant", tokens(2)) == 1
    assert rows(app, outcome=Outcome.PARKED.value) == []


@pytest.mark.parametrize("how", ["requeued", "released"])
def test_an_attempt_that_has_the_number_of_an_earlier_one_reserves_for_itself(app: Pipeline, how: str) -> None:
    (event,) = append(app.ledger)
    id, one = delivery_id(event.id, "billing"), scope(100)
    for spent in (60, 120):
        use = Use(id, claim(app.ledger, event, worker=app.bus.worker_id).attempt, 0)
        assert use.attempt == 1
        refused = reserve(app, [one], 60, use)
        assert (refused is None) == (spent <= 100)
        assert used(app) == 60
        if how == "released":
            app.ledger.deliveries.release(app.bus.worker_id, os.getpid())
        else:
            die(app.ledger, event, 1)
            with app.ledger.database.transaction() as connection:
                app.ledger.deliveries.requeue(connection, [id])


def test_what_is_kept_of_a_use_goes_with_its_delivery(app: Pipeline) -> None:
    reserve(app, [scope(10)], 1, Use("d1", 1, 0))
    with app.ledger.database.transaction() as connection:
        app.ledger.deliveries.prune(connection, ["d1"])
    assert rows(app, reservations) == []


AMOUNT = st.integers(0, 12)
STEP = st.tuples(st.sampled_from(["reserve", "settle", "again", "raise"]), st.integers(0, 5), AMOUNT, AMOUNT)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(limits=st.tuples(AMOUNT, AMOUNT), steps=st.lists(STEP, max_size=25))
def test_what_is_used_is_what_was_granted_and_never_above_the_limit_by_reserving(
    app: Pipeline, limits: tuple[int, int], steps: list[tuple[str, int, int, int]]
) -> None:
    with app.ledger.database.transaction() as connection:
        connection.execute(delete(budgets))
        connection.execute(delete(reservations))
    bound = [*limits]
    held: dict[int, tuple[int, int]] = {}
    settled: set[int] = set()
    one = Scope("tenant", "acme", limit=Amounts(*limits))
    for verb, number, a, b in steps:
        use, wanted = Use("d1", 1, number), Amounts(a, b)
        sums = [sum(each[place] for each in held.values()) for place in (0, 1)]
        if verb in ("reserve", "again"):
            fits = all(not more or used + more <= most for used, more, most in zip(sums, (a, b), bound, strict=True))
            granted = app.budgets.reserve(use, [one], wanted, new_order(), "writer") is None
            assert granted == (number in held or fits)
            if granted:
                held.setdefault(number, (a, b))
        elif verb == "settle":
            app.budgets.settle(use, wanted)
            if number in held and number not in settled:
                held[number] = (a, b)
                settled.add(number)
        elif held:
            bound = [a, b]
            app.budgets.set("tenant", wanted, "acme")
    row = next(iter(rows(app, budgets)), None)
    real = [row[unit] for unit in UNITS[:2]] if row else [0, 0]
    assert real == [sum(each[place] for each in held.values()) for place in (0, 1)]


@pytest.mark.parametrize(
    ("declare", "words"),
    [
        (lambda app: app.budget("tenant"), "it has no unit; give at least one of tokens=, cost=, events="),
        (lambda app: app.budget("tenant", tokens=1.5), "tokens=1.5: need a whole number of 0 or more"),
        (lambda app: app.budget("tenant", cost=-1), r"\(a cost in millionths: 1.50 is 1_500_000\)"),
        (lambda app: app.budget("tenant", tokens=1, per="week"), "per='week': write 'day'"),
        (lambda app: app.budget("tenant", tokens=1, at_limit="die"), "at_limit='die'; known: ask, dead, degrade"),
        (lambda app: app.budget("tenant", tokens=1, key="tenant"), "key='tenant': write 'metadata.NAME'"),
        (lambda app: app.budget("tenant", tokens=1, key="data.a..b"), "budget 'tenant': key: "),
        (lambda app: app.budget("tree", tokens=1), "a name is a text of 1 to 60 characters"),
        (lambda app: app.budget("tenant", tokens=1, missing="no"), "write 'shared' or 'error'"),
        (lambda app: app.publish("a.b", {}, budget={}), "budget=: it has no unit"),
        (lambda app: app.publish("a.b", {}, budget={"token": 1}), "'token' is no unit; did you mean 'tokens'"),
    ],
)
def test_a_budget_that_is_written_wrongly_is_refused_with_what_to_write(
    app: Pipeline, declare: Callable[[Pipeline], Any], words: str
) -> None:
    with pytest.raises(InvalidBudget, match=words):
        declare(app)
    assert rows(app, budgets) == []
    assert [*app.get_events()] == []


def test_the_key_of_a_budget_is_found_in_the_event(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "now", lambda: 1_700_000_000_000_000)
    event = new_order(metadata={"tenant": "acme"})
    budget = partial(Budget, "t", tokens(1), text_at=text_at)
    assert budget("day", "metadata.tenant").scope(event, "writer").place == ("t", "acme", "2023-11-14")
    assert budget(key="data.n").scope(event, "writer").key == "1"
    odd = event.evolve(data={"a b": {"c": True}})
    assert budget(key="data.`a b`.c").scope(odd, "writer").key == "true", "as for a limit"
    assert budget(key="agent").scope(event, "writer").key == "writer"
    assert budget(key="correlation").scope(event, "writer").key == event.correlation_id
    assert budget(key="metadata.user").scope(event, "writer").key == ""
    with pytest.raises(InvalidBudget, match=r"has no metadata.user"):
        budget(key="metadata.user", missing="error").scope(event, "writer")
