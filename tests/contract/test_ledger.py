"""What every ledger promises: the log, the outbox, and who may run a delivery."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import update

from pipeline import Event, Pipeline
from pipeline.core.errors import LedgerUnavailable
from pipeline.core.ids import delivery_id
from pipeline.core.outcome import Outcome
from pipeline.core.times import SECOND
from pipeline.delivery.delivery import message_number
from pipeline.ledger.database.fast import Fast
from pipeline.ledger.database.rows import DEAD_AFTER
from pipeline.ledger.database.tables import deliveries, events, outbox, workers
from pipeline.ledger.facts import Delivery, Success
from pipeline.ledger.ledger import Claim, Ledger
from tests.ledgers import again, append, claim, delivery, die, new_order, record, running
from tests.records import rows
from tests.threads import in_threads

pytestmark = [pytest.mark.usefixtures("living_worker"), pytest.mark.pooled]

CONTENDERS = 4
CLAIMS = 25


# -- the log and the outbox


def test_an_event_that_is_appended_twice_is_there_once(app: Pipeline, ledger: Ledger) -> None:
    one = record(new_order())
    ledger.append([one], due_in=0)
    ledger.append([one, record(new_order())], due_in=0)
    assert len(rows(app, events)) == len(rows(app, outbox)) == 2
    assert len(rows(app, outcome="unrouted")) == 2, "no agent is known"


def test_events_are_numbered_in_the_order_in_which_they_come(app: Pipeline, ledger: Ledger) -> None:
    batches = [[record(new_order()) for _ in range(size)] for size in (1, 5, 1, 600)]
    for batch in batches:
        ledger.append(batch, due_in=0)
        ledger.append(batch, due_in=0)
    found = rows(app, events)  # by seq
    assert [row["id"] for row in found] == [each.event.id for batch in batches for each in batch]
    assert len({row["seq"] for row in found}) == 607


def test_a_number_is_not_given_again_when_its_event_is_deleted(app: Pipeline, ledger: Ledger) -> None:
    ledger.append([record(new_order())], due_in=None)
    (first,) = rows(app, events)
    with ledger.database.transaction() as connection:
        connection.execute(events.delete())
    ledger.append([record(new_order())], due_in=None)
    assert rows(app, events)[0]["seq"] > first["seq"]


def test_an_event_is_in_the_outbox_until_it_is_marked_sent(app: Pipeline, ledger: Ledger) -> None:
    batch = [record(new_order()) for _ in range(4)]
    ledger.append(batch, due_in=0)
    ids = [each.event.id for each in batch]
    ledger.mark_sent([])
    ledger.mark_sent(ids[:1])
    assert {row["event_id"] for row in rows(app, outbox)} == set(ids[1:])
    assert {event.id for event in ledger.events.unsent(ids)} == set(ids[1:])
    ledger.mark_sent(ids[:3])
    assert [row["event_id"] for row in rows(app, outbox)] == ids[3:]
    assert len(rows(app, events)) == 4


def test_without_a_due_time_the_outbox_is_left_alone(app: Pipeline, ledger: Ledger) -> None:
    ledger.append([record(new_order())], due_in=None)
    assert rows(app, outbox) == []


def test_what_is_appended_in_a_foreign_transaction_shares_its_fate(app: Pipeline, ledger: Ledger) -> None:
    kept, gone = record(new_order()), record(new_order())
    with ledger.database.session() as session:
        ledger.append([gone], due_in=0, connection=session.connection())
        session.rollback()
    with ledger.database.session() as session:
        ledger.append([kept], due_in=0, connection=session.connection())
        session.commit()
    assert [row["id"] for row in rows(app, events)] == [kept.event.id]
    assert [row["event_id"] for row in rows(app, outbox)] == [kept.event.id]


# -- claims


def test_the_first_claim_is_the_first_attempt(app: Pipeline, ledger: Ledger) -> None:
    event, id = running(ledger)
    row = delivery(app)
    assert (row["id"], row["event_id"], row["outcome"], row["attempts"]) == (id, event.id, "running", 1)
    assert ledger.deliveries.state(id) == (Outcome.RUNNING, 1)
    assert ledger.deliveries.state("never-claimed") == (None, 0)


def test_a_copy_of_what_a_living_worker_runs_is_not_run(app: Pipeline, ledger: Ledger) -> None:
    event, _ = running(ledger)
    assert claim(ledger, event, "w2") == Claim(0, Outcome.RUNNING)
    assert claim(ledger, event, "w2", expected=2) == Claim(0, Outcome.RUNNING)
    assert (delivery(app)["attempts"], delivery(app)["worker"]) == (1, "w1")


def test_what_a_dead_process_of_the_same_worker_ran_is_run_again(ledger: Ledger) -> None:
    event = new_order()
    claimed, leave = os.pipe(), os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(leave[1])
        os.write(claimed[1], b"%d" % claim(ledger, event).attempt)
        os.read(leave[0], 1)
        os._exit(0)
    os.close(leave[0])
    assert os.read(claimed[0], 1) == b"1"
    assert claim(ledger, event) == Claim(0, Outcome.RUNNING), "it lives"
    os.close(leave[1])
    os.waitpid(pid, 0)
    assert claim(ledger, event, "w2") == Claim(0, Outcome.RUNNING), "another worker cannot know"
    assert claim(ledger, event) == Claim(2, Outcome.RUNNING)
    assert claim(ledger, event) == Claim(0, Outcome.RUNNING)
    for end in claimed:
        os.close(end)


def test_what_the_broker_delivers_again_is_run_again(app: Pipeline, ledger: Ledger) -> None:
    event, _ = running(ledger)
    assert claim(ledger, event, "w2", redelivered=True) == Claim(2, Outcome.RUNNING)
    assert (delivery(app)["attempts"], delivery(app)["worker"]) == (2, "w2")


@pytest.mark.parametrize("message", [0, 7])
def test_an_old_message_that_comes_again_leaves_alone_what_a_later_one_has_begun(ledger: Ledger, message: int) -> None:
    """Its worker had parked it, or recorded that it failed, and died before it could ack it."""
    event, _ = running(ledger)
    assert again(ledger, event, 1)
    assert claim(ledger, event, expected=2, message=8) == Claim(2, Outcome.RUNNING)
    assert claim(ledger, event, "w2", redelivered=True, message=message) == Claim(0, Outcome.RUNNING)
    assert claim(ledger, event, "w2", redelivered=True, message=8) == Claim(3, Outcome.RUNNING)


def test_each_message_that_the_ledger_makes_of_a_delivery_is_another_one(ledger: Ledger) -> None:
    (event,) = append(ledger)
    assert claim(ledger, event).attempt == 1
    id = delivery_id(event.id, "billing")
    numbers = [0]
    for _ in range(3):
        with ledger.database.transaction() as connection:
            connection.execute(update(deliveries).where(deliveries.c.id == id).values(outcome="queued", due=0))
        (message,) = (one for one in ledger.due.at_once() if one.id == id)
        numbers.append(message_number(message.encoded.bus or {}, 0))
    assert len(set(numbers)) == 4


def test_what_a_worker_ran_that_has_left_is_run_again(ledger: Ledger) -> None:
    event, _ = running(ledger)
    ledger.workers.heartbeat("w2")
    assert claim(ledger, new_order(), "w2").attempt == 1, "that others live and work is nothing to this one"
    ledger.workers.leave("w1")
    assert claim(ledger, event, "w2").attempt == 2
    assert claim(ledger, event, "w3").attempt == 0, "now w2 runs it, which lives"


@pytest.mark.parametrize(("silence", "attempt"), [(DEAD_AFTER - 15, 0), (DEAD_AFTER + 1, 2)])
def test_a_worker_without_heartbeats_counts_as_dead_after_a_while(ledger: Ledger, silence: float, attempt: int) -> None:
    event, _ = running(ledger)
    with ledger.database.transaction() as connection:
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
        ledger.succeed(Success(id, [record(new_order())], [], due_in=None, result='"done"'))
    elif outcome == "dead":
        assert die(ledger, event, 1)
    else:
        with ledger.database.transaction() as connection:
            connection.execute(update(deliveries).values(outcome=outcome))
    ledger.workers.leave("w1")
    before = delivery(app)
    for options in ({}, {"redelivered": True}, {"expected": 2}):
        found = claim(ledger, event, "w2", **options)
        assert (found.attempt, found.outcome) == (0, Outcome(outcome))
        assert (found.result, found.emitted) == (('"done"', 1) if outcome == "succeeded" else (None, 0))
    assert delivery(app) == before


def test_the_event_of_another_program_is_logged_with_its_first_claim(app: Pipeline, ledger: Ledger) -> None:
    event = new_order()
    for _ in range(2):
        claim(ledger, event, logged=False)
    (row,) = rows(app, events)
    assert Event.decode(row["body"]) == event
    assert rows(app, outbox) == [], "the broker has it"


@pytest.fixture
def lost_answer(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let the next transaction be committed, but its client not hear of it."""
    lost: list[str] = []

    def losing(self: Fast, *args: Any) -> Any:
        result = transact(self, *args)
        if not lost:
            lost.append("the answer")
            raise LedgerUnavailable("server closed the connection unexpectedly")
        return result

    transact = Fast._transact
    monkeypatch.setattr(Fast, "_transact", losing)
    yield
    assert lost


@pytest.mark.usefixtures("lost_answer")
def test_a_claim_whose_answer_is_lost_is_the_one_that_runs(ledger: Ledger) -> None:
    event = new_order()
    assert claim(ledger, event) == Claim(1, Outcome.RUNNING), "else nobody runs it while this worker lives"
    assert claim(ledger, event).attempt == 0, "a later copy is not"


@pytest.mark.usefixtures("lost_answer")
def test_claims_of_a_group_whose_answer_is_lost_are_the_ones_that_run(ledger: Ledger) -> None:
    group = [Delivery(delivery_id(event.id, "billing"), event, "billing") for event in (new_order(), new_order())]
    assert ledger.claim_all(group, worker="w1") == [Claim(1, Outcome.RUNNING)] * 2
    assert ledger.claim_all(group, worker="w1") == [Claim(0, Outcome.RUNNING)] * 2


@pytest.mark.usefixtures("lost_answer")
def test_events_whose_answer_is_lost_are_appended_once(app: Pipeline, ledger: Ledger) -> None:
    ledger.append([record(new_order()), record(new_order())], due_in=0)
    assert len(rows(app, events)) == len(rows(app, outbox)) == 2


def test_of_threads_that_claim_at_once_one_gets_the_first_attempt(ledger: Ledger) -> None:
    wanted = [new_order() for _ in range(CLAIMS)]
    found = in_threads(CONTENDERS, lambda n: [claim(ledger, event).attempt for event in wanted])
    assert [sorted(attempts) for attempts in zip(*found, strict=True)] == [[0] * (CONTENDERS - 1) + [1]] * CLAIMS


CLAIMER = """
import json, sys
from pipeline import Event
from pipeline.core.ids import delivery_id
from pipeline.ledger.facts import Delivery
from pipeline.ledger.ledger import Ledger
ledger = Ledger(sys.argv[1])
ledger.workers.heartbeat(sys.argv[2])
print("ready", flush=True)
found = []
for line in sys.stdin:
    event = Event.decode(line)
    id = delivery_id(event.id, "billing")
    found.append(ledger.claim(Delivery(id, event, "billing"), worker=sys.argv[2]).attempt)
ledger.close()
print(json.dumps(found))
"""


def test_of_processes_that_claim_at_once_one_gets_the_first_attempt(ledger: Ledger, ledger_url: str) -> None:
    wanted = b"".join(new_order().encode() + b"\n" for _ in range(CLAIMS))
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
