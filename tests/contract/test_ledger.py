"""What every ledger promises: the log, the outbox, and who may run a delivery."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, update

from pipeline import Event, Pipeline
from pipeline.errors import LedgerError, LedgerUnavailable
from pipeline.event import new_event
from pipeline.ids import delivery_id
from pipeline.ledger import Claim, Ledger, Outcome, due
from pipeline.ledger.rows import DEAD_AFTER, SECOND, Record, join_row, now, timer_row
from pipeline.ledger.sql import AlreadyRecordedError
from pipeline.ledger.tables import deliveries, events, joins, outbox, timers, workers
from tests.records import make_app, rows

CONTENDERS = 4
CLAIMS = 25


@pytest.fixture
def app(ledger_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Pipeline]:
    for name in [name for name in os.environ if name.startswith("PIPELINE_")]:
        monkeypatch.delenv(name)
    app = make_app(ledger_url, tmp_path, agents=False)
    due.heartbeat(app.ledger, "w1")
    yield app
    app.close()


@pytest.fixture
def ledger(app: Pipeline) -> Ledger:
    return app.ledger


def order(type: str = "order.placed", **options: Any) -> Event:
    return new_event(type, {"n": 1}, source="/test", **options)


def record(event: Event, **options: Any) -> Record:
    return Record(event, event.encode(), **options)


def claim(ledger: Ledger, event: Event, worker: str = "w1", **options: Any) -> Claim:
    return ledger.claim(delivery_id(event.id, "billing"), event, "billing", worker=worker, **options)


def running(ledger: Ledger) -> tuple[Event, str]:
    """Return an event whose delivery runs, and the delivery's id."""
    event = order()
    assert claim(ledger, event) == Claim(1, Outcome.RUNNING)
    return event, delivery_id(event.id, "billing")


def again(ledger: Ledger, event: Event, attempt: int) -> bool:
    id = delivery_id(event.id, "billing")
    return ledger.again(id, event, attempt, delay=60, error="boom", timer=True)


def die(ledger: Ledger, event: Event, attempt: int | None, *announced: Record) -> bool:
    id = delivery_id(event.id, "billing")
    return ledger.die(id, attempt, announced, error="boom", traceback="Traceback", due=now())


def delivery(app: Pipeline) -> dict[str, Any]:
    (row,) = rows(app, agent="billing")
    return row


# -- the log and the outbox


def test_an_event_that_is_appended_twice_is_there_once(app: Pipeline, ledger: Ledger) -> None:
    one = record(order())
    ledger.append([one], due=now())
    ledger.append([one, record(order())], due=now())
    assert len(rows(app, events)) == len(rows(app, outbox)) == 2
    assert len(rows(app, outcome="unrouted")) == 2, "no agent is known"


def test_events_are_numbered_in_the_order_in_which_they_come(app: Pipeline, ledger: Ledger) -> None:
    batches = [[record(order()) for _ in range(size)] for size in (1, 5, 1, 600)]
    for batch in batches:
        ledger.append(batch, due=now())
        ledger.append(batch, due=now())
    found = rows(app, events)  # by seq
    assert [row["id"] for row in found] == [each.event.id for batch in batches for each in batch]
    assert len({row["seq"] for row in found}) == 607


def test_a_number_is_not_given_again_when_its_event_is_deleted(app: Pipeline, ledger: Ledger) -> None:
    ledger.append([record(order())], due=None)
    (first,) = rows(app, events)
    with ledger.store.transaction() as connection:
        connection.execute(events.delete())
    ledger.append([record(order())], due=None)
    assert rows(app, events)[0]["seq"] > first["seq"]


def test_an_event_is_in_the_outbox_until_it_is_marked_sent(app: Pipeline, ledger: Ledger) -> None:
    batch = [record(order()) for _ in range(4)]
    ledger.append(batch, due=now())
    ids = [each.event.id for each in batch]
    ledger.mark_sent([])
    ledger.mark_sent(ids[:1])
    assert {row["event_id"] for row in rows(app, outbox)} == set(ids[1:])
    assert {event.id for event in ledger.unsent(ids)} == set(ids[1:])
    ledger.mark_sent(ids[:3])
    assert [row["event_id"] for row in rows(app, outbox)] == ids[3:]
    assert len(rows(app, events)) == 4


def test_without_a_due_time_the_outbox_is_left_alone(app: Pipeline, ledger: Ledger) -> None:
    ledger.append([record(order())], due=None)
    assert rows(app, outbox) == []


def test_what_is_appended_in_a_foreign_transaction_shares_its_fate(app: Pipeline, ledger: Ledger) -> None:
    kept, gone = record(order()), record(order())
    with ledger.store.session() as session:
        ledger.append([gone], due=now(), connection=session.connection())
        session.rollback()
    with ledger.store.session() as session:
        ledger.append([kept], due=now(), connection=session.connection())
        session.commit()
    assert [row["id"] for row in rows(app, events)] == [kept.event.id]
    assert [row["event_id"] for row in rows(app, outbox)] == [kept.event.id]


# -- claims


def test_the_first_claim_is_the_first_attempt(app: Pipeline, ledger: Ledger) -> None:
    event, id = running(ledger)
    row = delivery(app)
    assert (row["id"], row["event_id"], row["outcome"], row["attempts"]) == (id, event.id, "running", 1)
    assert ledger.state(id) == (Outcome.RUNNING, 1)
    assert ledger.state("never-claimed") == (None, 0)


def test_a_copy_of_what_a_living_worker_runs_is_not_run(app: Pipeline, ledger: Ledger) -> None:
    event, _ = running(ledger)
    assert claim(ledger, event, "w2") == Claim(0, Outcome.RUNNING)
    assert claim(ledger, event, "w2", expected=2) == Claim(0, Outcome.RUNNING)
    assert (delivery(app)["attempts"], delivery(app)["worker"]) == (1, "w1")


def test_what_the_broker_delivers_again_is_run_again(app: Pipeline, ledger: Ledger) -> None:
    event, _ = running(ledger)
    assert claim(ledger, event, "w2", redelivered=True) == Claim(2, Outcome.RUNNING)
    assert (delivery(app)["attempts"], delivery(app)["worker"]) == (2, "w2")


def test_what_a_worker_ran_that_has_left_is_run_again(ledger: Ledger) -> None:
    event, _ = running(ledger)
    due.heartbeat(ledger, "w2")
    assert claim(ledger, order(), "w2").attempt == 1, "that others live and work is nothing to this one"
    due.leave(ledger, "w1")
    assert claim(ledger, event, "w2").attempt == 2
    assert claim(ledger, event, "w3").attempt == 0, "now w2 runs it, which lives"


@pytest.mark.parametrize(("silence", "attempt"), [(DEAD_AFTER - 15, 0), (DEAD_AFTER + 1, 2)])
def test_a_worker_without_heartbeats_counts_as_dead_after_a_while(ledger: Ledger, silence: float, attempt: int) -> None:
    event, _ = running(ledger)
    with ledger.store.transaction() as connection:
        connection.execute(update(workers).values(seen=workers.c.seen - round(silence * SECOND)))
    assert claim(ledger, event, "w2").attempt == attempt


def test_a_retry_is_run_only_for_the_attempt_that_is_expected(ledger: Ledger) -> None:
    event, _ = running(ledger)
    assert again(ledger, event, 1)
    for expected in (None, 1, 3):
        assert claim(ledger, event, expected=expected, redelivered=True) == Claim(0, Outcome.RETRYING)
    assert claim(ledger, event, expected=2) == Claim(2, Outcome.RUNNING)
    assert claim(ledger, event, expected=2) == Claim(0, Outcome.RUNNING), "a second copy of the retry's message"


@pytest.mark.parametrize("outcome", ["succeeded", "dead", "dropped", "filtered"])
def test_what_has_ended_is_never_run_again(app: Pipeline, ledger: Ledger, outcome: str) -> None:
    event, id = running(ledger)
    if outcome == "succeeded":
        ledger.succeed(id, [record(order())], [], due=None, result='"done"')
    elif outcome == "dead":
        assert die(ledger, event, 1)
    else:
        with ledger.store.transaction() as connection:
            connection.execute(update(deliveries).values(outcome=outcome))
    due.leave(ledger, "w1")
    before = delivery(app)
    for options in ({}, {"redelivered": True}, {"expected": 2}):
        found = claim(ledger, event, "w2", **options)
        assert (found.attempt, found.outcome) == (0, Outcome(outcome))
        assert (found.result, found.emitted) == (('"done"', 1) if outcome == "succeeded" else (None, 0))
    assert delivery(app) == before


def test_the_event_of_another_program_is_logged_with_its_first_claim(app: Pipeline, ledger: Ledger) -> None:
    event = order()
    for _ in range(2):
        claim(ledger, event, body=event.encode())
    (row,) = rows(app, events)
    assert Event.decode(row["body"]) == event
    assert rows(app, outbox) == [], "the broker has it"


@contextmanager
def lost_answer(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let the next transaction be committed, but its client not hear of it."""
    whole: Callable[[], Any] = ledger.store.transaction
    lost: list[str] = []

    @contextmanager
    def transaction() -> Iterator[Connection]:
        with whole() as connection:
            yield connection
        if not lost:
            lost.append("the answer")
            raise LedgerUnavailable("server closed the connection unexpectedly")

    with monkeypatch.context() as patch:
        patch.setattr(ledger.store, "transaction", transaction)
        yield
    assert lost


def test_a_claim_whose_answer_is_lost_is_the_one_that_runs(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    event = order()
    with lost_answer(ledger, monkeypatch):
        assert claim(ledger, event) == Claim(1, Outcome.RUNNING), "else nobody runs it while this worker lives"
    assert claim(ledger, event).attempt == 0, "a later copy is not"


def test_events_whose_answer_is_lost_are_appended_once(
    app: Pipeline, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    with lost_answer(ledger, monkeypatch):
        ledger.append([record(order()), record(order())], due=now())
    assert len(rows(app, events)) == len(rows(app, outbox)) == 2


def in_threads(number: int, work: Callable[[int], Any]) -> list[Any]:
    """Run `work(0)`, `work(1)`, ... all at once and return what they return."""
    barrier, found, errors = threading.Barrier(number), [], []

    def run(n: int) -> None:
        barrier.wait()
        try:
            found.append(work(n))
        except Exception as exc:
            errors.append(exc)

    threads = [threading.Thread(target=run, args=(n,)) for n in range(number)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    return found


def test_of_threads_that_claim_at_once_one_gets_the_first_attempt(ledger: Ledger) -> None:
    wanted = [order() for _ in range(CLAIMS)]
    found = in_threads(CONTENDERS, lambda n: [claim(ledger, event).attempt for event in wanted])
    assert [sorted(attempts) for attempts in zip(*found, strict=True)] == [[0] * (CONTENDERS - 1) + [1]] * CLAIMS


CLAIMER = """
import json, sys
from pipeline import Event
from pipeline.ids import delivery_id
from pipeline.ledger import Ledger, due
ledger = Ledger(sys.argv[1])
due.heartbeat(ledger, sys.argv[2])
print("ready", flush=True)
found = []
for line in sys.stdin:
    event = Event.decode(line)
    id = delivery_id(event.id, "billing")
    found.append(ledger.claim(id, event, "billing", worker=sys.argv[2]).attempt)
ledger.close()
print(json.dumps(found))
"""


def test_of_processes_that_claim_at_once_one_gets_the_first_attempt(ledger: Ledger, ledger_url: str) -> None:
    wanted = b"".join(order().encode() + b"\n" for _ in range(CLAIMS))
    command = [sys.executable, "-c", CLAIMER, ledger_url]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    processes = [subprocess.Popen([*command, f"p{n}"], **pipes) for n in range(CONTENDERS)]
    for process in processes:
        assert process.stdout.readline() == b"ready\n"
    for process in processes:
        process.stdin.write(wanted)
        process.stdin.flush()
    found = [json.loads(process.communicate(timeout=60)[0]) for process in processes]
    assert [sorted(attempts) for attempts in zip(*found, strict=True)] == [[0] * (CONTENDERS - 1) + [1]] * CLAIMS


# -- outcomes


def test_a_success_is_recorded_with_everything_that_it_emitted(app: Pipeline, ledger: Ledger) -> None:
    event, id = running(ledger)
    emitted = record(order(), delivery=id)
    later = timer_row("later", "publish", now(), event.correlation_id, order().encode())
    join = join_row(id, "briefing", event.id, event.correlation_id)
    ledger.succeed(id, [emitted], [later], started_joins=[join], due=now(), result="1")
    row = delivery(app)
    assert (row["outcome"], row["emitted"], row["result"]) == ("succeeded", 1, "1")
    assert row["ended"] >= row["started"]
    assert [row["delivery"] for row in rows(app, events, id=emitted.event.id)] == [id]
    assert [row["event_id"] for row in rows(app, outbox)] == [emitted.event.id]
    assert [row["id"] for row in rows(app, timers)] == ["later"]
    assert [row["id"] for row in rows(app, joins)] == [id]


def test_the_second_success_of_a_delivery_writes_nothing(app: Pipeline, ledger: Ledger) -> None:
    event, id = running(ledger)
    ledger.succeed(id, [record(order())], [], due=now())
    before = {table.name: rows(app, table) for table in (deliveries, events, outbox, timers, joins)}
    late = timer_row("late", "publish", now(), event.correlation_id, order().encode())
    join = join_row(id, "briefing", event.id, event.correlation_id)
    with pytest.raises(AlreadyRecordedError):
        ledger.succeed(id, [record(order())], [late], started_joins=[join], due=now())
    assert {table.name: rows(app, table) for table in (deliveries, events, outbox, timers, joins)} == before


def test_of_two_runs_that_succeed_at_once_one_takes_effect(app: Pipeline, ledger: Ledger) -> None:
    def succeed(_: int) -> int:
        try:
            ledger.succeed(id, [record(order())], [], due=now())
        except AlreadyRecordedError:
            return 0
        return 1

    _, id = running(ledger)
    assert sum(in_threads(CONTENDERS, succeed)) == 1
    assert len(rows(app, events)) == 1


def test_a_success_in_the_handlers_own_transaction_shares_its_fate(app: Pipeline, ledger: Ledger) -> None:
    _, id = running(ledger)
    with ledger.store.session() as session:
        ledger.succeed(id, [record(order())], [], due=now(), connection=session.connection())
    assert (delivery(app)["outcome"], rows(app, events)) == ("running", [])
    with ledger.store.session() as session:
        ledger.succeed(id, [record(order())], [], due=now(), connection=session.connection())
        session.commit()
    assert (delivery(app)["outcome"], len(rows(app, events))) == ("succeeded", 1)


def test_a_success_clears_away_the_retrys_timer(app: Pipeline, ledger: Ledger) -> None:
    event, id = running(ledger)
    assert again(ledger, event, 1)
    assert [row["id"] for row in rows(app, timers)] == [id]
    assert claim(ledger, event, expected=2).attempt == 2
    ledger.succeed(id, [], [], due=None)
    assert rows(app, timers) == []
    assert (delivery(app)["outcome"], delivery(app)["error"]) == ("succeeded", None)


def test_only_the_running_attempt_can_ask_for_another_one(app: Pipeline, ledger: Ledger) -> None:
    event, id = running(ledger)
    assert not again(ledger, event, 2)
    assert rows(app, timers) == []
    assert again(ledger, event, 1)
    assert not again(ledger, event, 1), "it no longer runs"
    assert claim(ledger, event, expected=2).attempt == 2
    assert not again(ledger, event, 1), "a late word of the first attempt"
    ledger.succeed(id, [], [], due=None)
    assert not again(ledger, event, 2)
    assert ledger.state(id) == (Outcome.SUCCEEDED, 2)


def test_only_the_running_attempt_can_end_a_delivery_as_dead(app: Pipeline, ledger: Ledger) -> None:
    event, _ = running(ledger)
    announced = record(order("pipeline.delivery.dead"))
    assert not die(ledger, event, 2, announced)
    assert rows(app, events) == []
    assert die(ledger, event, 1, announced)
    assert not die(ledger, event, 1, record(order("pipeline.delivery.dead")))
    assert not die(ledger, event, None, record(order("pipeline.delivery.dead")))
    assert [row["id"] for row in rows(app, events)] == [announced.event.id]
    row = delivery(app)
    assert (row["outcome"], row["error"], row["traceback"]) == ("dead", "boom", "Traceback")


def test_nothing_is_recorded_of_an_attempt_whose_claim_a_crash_has_undone(app: Pipeline, ledger: Ledger) -> None:
    event, id = running(ledger)
    with ledger.store.transaction() as connection:
        connection.execute(deliveries.delete())
    for record_it in (
        lambda: ledger.succeed(id, [record(order())], [], due=now()),
        lambda: again(ledger, event, 1),
        lambda: die(ledger, event, 1, record(order())),
    ):
        with pytest.raises(LedgerError, match="has lost the claim"):
            record_it()
    assert (rows(app, events), rows(app, timers)) == ([], [])


def test_a_join_has_ended_whichever_is_written_first(app: Pipeline, ledger: Ledger) -> None:
    for first in ("start", "end"):
        event = order()
        assert claim(ledger, event).attempt == 1
        id = delivery_id(event.id, "billing")
        completed = record(order("briefing.complete", cause=event))
        steps = [
            lambda id=id, event=event: ledger.succeed(
                id, [], [], started_joins=[join_row(id, "briefing", event.id, event.correlation_id)], due=None
            ),
            lambda id=id, completed=completed: ledger.end_join(id, [completed], now()),
        ]
        for step in steps if first == "start" else reversed(steps):
            step()
        (row,) = rows(app, joins, id=id)
        assert row["ended"] is not None, first
        assert (row["event_id"], row["correlation"]) == (event.id, event.correlation_id)
        assert [row["event_id"] for row in rows(app, outbox)] == [completed.event.id]
        ledger.mark_sent([completed.event.id])
        assert rows(app, events, id=completed.event.id)
