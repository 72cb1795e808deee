"""Groups of claims and of successes: one transaction, and nothing else than if each had come alone."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from pipeline import Event, Pipeline
from pipeline.core.errors import IdTaken, LedgerError, LedgerRefused, LedgerUnavailable
from pipeline.core.ids import delivery_id
from pipeline.core.outcome import Outcome
from pipeline.core.times import now
from pipeline.ledger.database import fast
from pipeline.ledger.database.rows import timer_row
from pipeline.ledger.database.tables import events, flows, outbox, timers
from pipeline.ledger.facts import AlreadyRecordedError, Claim, Delivery, Success
from pipeline.ledger.ledger import Ledger
from tests.ledgers import again, claim, die, locked, new_order, record
from tests.logs import started_join
from tests.records import rows, run_agents
from tests.servers import AT_MOST
from tests.threads import in_threads

pytestmark = [pytest.mark.usefixtures("living_worker"), pytest.mark.pooled]

ARBITRARY = settings(
    max_examples=15, phases=[Phase.generate], database=None, deadline=None, suppress_health_check=list(HealthCheck)
)
CONTENDERS = 4


def delivery(event: Event, **options: Any) -> Delivery:
    return Delivery(delivery_id(event.id, "billing"), event, "billing", **options)


def claimed(ledger: Ledger, number: int) -> list[Delivery]:
    """Return deliveries that run."""
    found = [delivery(new_order()) for _ in range(number)]
    assert ledger.claim_all(found, worker="w1") == [Claim(1, Outcome.RUNNING)] * number
    return found


def answer(call: Callable[[], Any]) -> Any:
    """Return what a call returns, or the kind of what it raises."""
    try:
        return call()
    except Exception as exc:
        return type(exc)


def kinds(found: Sequence[Any]) -> list[Any]:
    return [type(one) if isinstance(one, Exception) else one for one in found]


# -- a group does what its members do one by one


class Copy(NamedTuple):
    """A message about a delivery."""

    which: int
    redelivered: bool
    expected: int | None
    logged: bool


def in_state(ledger: Ledger, state: str) -> Event:
    """Return an event whose delivery to billing is in a state."""
    event = new_order()
    id = delivery_id(event.id, "billing")
    match state:
        case "new":
            return event
        case "taken":
            append_other = event.evolve(data={"n": "another"})
            ledger.append([record(append_other)], due_in=None)
            return event
        case "queued":
            with ledger.database.transaction() as connection:
                ledger.deliveries.add_queued(connection, [(event.id, "billing", 0)])
            return event
    worker = {"elsewhere": "w2", "left": "w3"}.get(state, "w1")
    assert claim(ledger, event, worker).attempt == 1
    match state:
        case "retrying" | "second":
            assert again(ledger, event, 1)
            if state == "second":
                assert claim(ledger, event, expected=2).attempt == 2
        case "succeeded":
            ledger.succeed(Success(id, [record(new_order())], result="7", due_in=None))
        case "dead":
            assert die(ledger, event, 1)
    return event


STATES = ("new", "new", "running", "elsewhere", "left", "retrying", "queued", "succeeded", "dead", "taken")
COPIES = st.builds(Copy, st.integers(0, 4), st.booleans(), st.sampled_from([None, None, 2]), st.booleans())


def test_a_group_of_claims_does_what_its_members_do_one_by_one(app: Pipeline, ledger: Ledger) -> None:
    ledger.workers.heartbeat("w2")

    @given(st.lists(st.sampled_from(STATES), min_size=5, max_size=5), st.lists(COPIES, min_size=2, max_size=10))
    @ARBITRARY
    def check(states: list[str], copies: list[Copy]) -> None:
        answers, left = [], []
        for together in (False, True):
            pool = [in_state(ledger, state) for state in states]
            group = [
                delivery(pool[copy.which], **dict(zip(copy._fields[1:], copy[1:], strict=True))) for copy in copies
            ]
            if together:
                answers.append(kinds(ledger.claim_all(group, worker="w1")))
            else:
                answers.append([answer(lambda one=one: ledger.claim(one, worker="w1")) for one in group])  # type: ignore[misc]
            left.append([state_of(app, event) for event in pool])
        assert answers[0] == answers[1]
        assert left[0] == left[1]

    check()


def state_of(app: Pipeline, event: Event) -> list[Any]:
    """Return what the ledger has about a delivery to billing, without ids and times."""
    own = delivery_id(event.id, "billing")
    of_time = {"id", "event_id", "started", "ended", "due"}
    found = [{name: row[name] for name in row if name not in of_time} for row in rows(app, id=own)]
    return [found, len(rows(app, events, id=event.id)), len(rows(app, timers, id=own))]


class Run(NamedTuple):
    """A run of a delivery that has ended well, and how much it leaves behind."""

    which: int
    heard: int
    unheard: int
    later: int
    joined: bool
    due_in: float | None
    first: bool


RUNS = st.builds(
    Run, st.integers(0, 4), st.integers(0, 2), st.integers(0, 1), st.integers(0, 2), st.booleans(),
    st.sampled_from([None, 0.0, 10.0]), st.booleans(),
)  # fmt: skip


def success(event: Event, run: Run) -> Success:
    id = delivery_id(event.id, "billing")
    types = ["order.paid"] * run.heard + ["nobody.hears"] * run.unheard
    emitted = [record(new_order(type, cause=event), delivery=id) for type in types]
    later = [timer_row(new_order().id, "publish", now(), event.correlation_id, b"{}") for _ in range(run.later)]
    joined = started_join(event, id) if run.joined else []
    return Success(id, emitted, later, joined, run.due_in, str(run.which), run.first)


def left_behind(app: Pipeline, event: Event) -> list[Any]:
    """Return what the ledger has of the successes of a delivery to billing, in their order, without ids and times."""
    own = delivery_id(event.id, "billing")
    emitted = sorted(rows(app, events, delivery=own), key=lambda row: row["seq"])
    sent = [(row["type"], len(rows(app, outbox, event_id=row["id"]))) for row in emitted]
    unheard = [len(rows(app, event_id=row["id"], outcome="unrouted")) for row in emitted]
    kept = [row["kind"] for row in rows(app, timers, correlation=event.correlation_id)]
    return [state_of(app, event), sent, unheard, sorted(kept), len(rows(app, flows, id=own))]


def test_a_group_of_successes_does_what_its_members_do_one_by_one(app: Pipeline, ledger: Ledger) -> None:
    run_agents(app, {"billing": "order.#"})
    states = st.sampled_from(["running", "running", "second", "retrying", "succeeded", "dead", "new"])

    @given(st.lists(states, min_size=5, max_size=5), st.lists(RUNS, min_size=2, max_size=8))
    @ARBITRARY
    def check(states: list[str], runs: list[Run]) -> None:
        answers, left = [], []
        for together in (False, True):
            pool = [in_state(ledger, state) for state in states]
            group = [success(pool[run.which], run) for run in runs]
            if together:
                answers.append(kinds(ledger.succeed_all(group)))
            else:
                answers.append([answer(lambda one=one: ledger.succeed(one)) for one in group])  # type: ignore[misc]
            left.append([left_behind(app, event) for event in pool])
        assert answers[0] == answers[1]
        assert left[0] == left[1]

    check()


def test_nothing_is_a_group_too(ledger: Ledger) -> None:
    assert ledger.claim_all([], worker="w1") == []
    assert ledger.succeed_all([]) == []


# -- what is wrong with one


def test_what_is_wrong_with_one_claim_is_at_its_place_and_the_others_run(app: Pipeline, ledger: Ledger) -> None:
    taken = in_state(ledger, "taken")
    group = [delivery(new_order()) for _ in range(4)]
    group[1] = delivery(new_order(), replay="\ud800")
    group[2] = delivery(taken, logged=False)
    found = ledger.claim_all(group, worker="w1")
    assert kinds(found) == [Claim(1, Outcome.RUNNING), LedgerRefused, IdTaken, Claim(1, Outcome.RUNNING)]
    assert {row["id"] for row in rows(app, outcome="running")} == {group[0].id, group[3].id}


def test_what_is_wrong_with_one_success_is_at_its_place_and_the_others_are_recorded(
    app: Pipeline, ledger: Ledger
) -> None:
    running = claimed(ledger, 5)
    ledger.succeed(Success(running[3].id, first=True))
    group = [Success(one.id, [record(new_order(), delivery=one.id)], due_in=0.0, first=True) for one in running]
    group[1] = group[1]._replace(result="\ud800")
    lost = delivery_id(new_order().id, "billing")
    group[2] = group[2]._replace(delivery=lost)
    found = ledger.succeed_all(group)
    assert kinds(found) == [None, LedgerRefused, LedgerError, AlreadyRecordedError, None]
    assert "has lost the claim" in str(found[2])
    outcomes = {row["id"]: row["outcome"] for row in rows(app, agent="billing")}
    assert [outcomes[one.id] for one in running] == ["succeeded", "running", "running", "succeeded", "succeeded"]
    assert {row["delivery"] for row in rows(app, events)} == {running[0].id, running[4].id}


@pytest.mark.parametrize("redelivered", [False, True])
def test_a_ledger_that_is_away_is_waited_for_once_and_nothing_is_written(
    app: Pipeline, make: Callable[..., Pipeline], ledger_url: str, redelivered: bool
) -> None:
    ledger = make(ledger_timeout=1).ledger
    running = claimed(ledger, 3)
    before = rows(app)
    group = [delivery(new_order(), redelivered=redelivered) for _ in range(20)]
    started = time.monotonic()
    with locked(ledger_url):
        if redelivered:
            assert kinds(ledger.claim_all(group, worker="w1")) == [LedgerUnavailable] * 20
        else:
            with pytest.raises(LedgerUnavailable):
                ledger.claim_all(group, worker="w1")
            with pytest.raises(LedgerUnavailable):
                ledger.succeed_all([Success(one.id, first=True) for one in running])
    assert time.monotonic() - started < AT_MOST
    assert rows(app) == before
    assert ledger.claim_all(group, worker="w1") == [Claim(1, Outcome.RUNNING)] * 20
    assert ledger.succeed_all([Success(one.id, first=True) for one in running]) == [None] * 3


# -- several at once, and crashes


def ids_of(group: list[Delivery]) -> list[str]:
    return [one.id for one in group]


def turned(group: list[Delivery], number: int) -> list[Delivery]:
    """Return a group in another order for each of several contenders."""
    found = group[number * 7 :] + group[: number * 7]
    return found[::-1] if number % 2 else found


def test_of_threads_that_claim_and_record_one_group_in_other_orders_one_gets_each(
    app: Pipeline, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fast, "RETRY_INTERVAL", 3600)  # two that wait for each other would be told
    group = [delivery(new_order()) for _ in range(50)]

    def claims(number: int) -> list[int]:
        mine = turned(group, number)
        found = dict(zip(ids_of(mine), ledger.claim_all(mine, worker="w1"), strict=True))
        return [getattr(found[id], "attempt", -1) for id in ids_of(group)]

    def successes(number: int) -> list[Any]:
        mine = turned(group, number)
        ended = [Success(one.id, [record(new_order(), delivery=one.id)], due_in=0.0, first=True) for one in mine]
        found = dict(zip(ids_of(mine), kinds(ledger.succeed_all(ended)), strict=True))
        return [found[id] for id in ids_of(group)]

    def reconciles(number: int) -> None:
        with ledger.database.transaction() as connection:
            missing = [(one.event.id, "billing", now()) for one in turned(group, number)]
            ledger.deliveries.add_queued(connection, missing)

    *found, _ = in_threads(CONTENDERS + 1, lambda n: claims(n) if n < CONTENDERS else reconciles(n))
    assert [sorted(attempts) for attempts in zip(*found, strict=True)] == [[0] * (CONTENDERS - 1) + [1]] * len(group)
    ended = in_threads(CONTENDERS, successes)
    for each in zip(*ended, strict=True):
        assert sorted(each, key=str) == [AlreadyRecordedError] * (CONTENDERS - 1) + [None]
    assert sorted(row["delivery"] for row in rows(app, events)) == sorted(ids_of(group))


#: Claims and records a group, and dies in the transaction in the middle of which it is told to.
DYING = """
import os, signal, sys
from pipeline import Event
from pipeline.core.event import Encoded
from pipeline.core.ids import delivery_id
from pipeline.ledger.database.fast import Hot
from pipeline.ledger.facts import Delivery, Success
from pipeline.ledger.ledger import Ledger

def answers(self, statements):
    found = real(self, statements)
    deaths.append(None)
    if len(deaths) == int(sys.argv[2]):
        os.kill(os.getpid(), signal.SIGKILL)
    return found

real, Hot.answers, deaths = Hot.answers, answers, []
ledger = Ledger(sys.argv[1])
ledger.workers.heartbeat("w2")
found = [Event.decode(line) for line in sys.stdin.buffer]
group = [Delivery(delivery_id(event.id, "billing"), event, "billing") for event in found]
ledger.claim_all(group, worker="w2")
emitted = [Encoded(event, event.encode(), delivery=one.id) for event, one in zip(found, group)]
ledger.succeed_all([Success(one.id, [each], due_in=0.0, first=True) for one, each in zip(group, emitted)])
"""


@pytest.mark.parametrize(("step", "attempts"), [(1, []), (2, [1] * 5)], ids=["claims", "outcomes"])
def test_of_a_group_whose_process_is_killed_nothing_is_half_written(
    app: Pipeline, ledger: Ledger, ledger_url: str, step: int, attempts: list[int]
) -> None:
    found = [new_order() for _ in range(5)]
    lines = b"".join(event.encode() + b"\n" for event in found)
    command = [sys.executable, "-c", DYING, ledger_url, str(step)]
    died = subprocess.run(command, input=lines, capture_output=True, timeout=60, check=False)
    assert died.returncode == -signal.SIGKILL, died.stderr
    assert [row["attempts"] for row in rows(app, outcome="running")] == attempts
    assert rows(app, events) == []
    # The broker gives them to somebody else, who claims each alone.
    group = [delivery(event, redelivered=True) for event in found]
    assert ledger.claim_all(group, worker="w1") == [Claim(len(attempts) // 5 + 1, Outcome.RUNNING)] * 5
    assert ledger.succeed_all([Success(one.id, first=not attempts) for one in group]) == [None] * 5
    assert {row["outcome"] for row in rows(app)} == {"succeeded"}
