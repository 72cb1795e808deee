"""What every ledger promises about agents with filters: what no version wants is neither lost nor waited for."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from pipeline import Event, Pipeline
from pipeline.agents.filters import parse
from pipeline.agents.wanting import Wanting
from pipeline.core.ids import delivery_id, is_sampled
from pipeline.history.settle import settled
from pipeline.ledger.database import migrate
from pipeline.ledger.database.rows import DEAD_AFTER
from pipeline.ledger.database.tables import agents, deliveries, timers, workers
from pipeline.ledger.ledger import Ledger
from pipeline.operations.keeping.retention import prune
from pipeline.operations.unrouted import unrouted, unwanted
from tests.ledgers import AFTER, append, claim, die, move, old, reconcile
from tests.records import lose_outbox, rows, succeed

#: The orders of these tests are numbered from 0.
FEW = "n < 2"
MIGRATIONS = Path(migrate.__file__).parent / "migrations"


def listen(
    ledger: Ledger,
    where: str | None,
    recorded: float = 0.0,
    *,
    worker: str = "w1",
    agent: str = "billing",
    reads: dict[str, str] | None = None,
) -> None:
    """Let a worker live whose version of the agent has this filter."""
    filters = {agent: Wanting(parse(where), reads or {}).as_data(recorded)} if where else {}
    ledger.subscribers.register({agent: (("order.#",), None)}, worker, filters)


def outcomes(app: Pipeline, found: list[Event], agent: str = "billing") -> list[str | None]:
    """Return what became of the deliveries of some events."""
    by_event = {row["event_id"]: row["outcome"] for row in rows(app, agent=agent)}
    return [by_event.get(event.id) for event in found]


def open_of(ledger: Ledger, found: list[Event]) -> list[int]:
    """Return the numbers of the events that an agent is still to get."""
    return [n for n, event in enumerate(found) if settled(ledger, event.id).undelivered]


def test_what_is_kept_back_and_not_recorded_is_not_missing(app: Pipeline, ledger: Ledger) -> None:
    listen(ledger, FEW)
    found = old(app, 4)
    reconcile(ledger)
    assert outcomes(app, found) == ["queued", "queued", None, None]
    assert rows(app, outcome="unrouted") == []


def test_what_is_kept_back_and_recorded_ends_as_filtered_without_being_sent(app: Pipeline, ledger: Ledger) -> None:
    listen(ledger, FEW, 1.0)
    found = old(app, 4)
    reconcile(ledger)
    assert outcomes(app, found) == ["queued"] * 4
    sent = [one.encoded.event.id for one in ledger.due.at_once()]
    assert sorted(sent) == sorted(event.id for event in found[:2])
    assert outcomes(app, found) == ["queued", "queued", "filtered", "filtered"]
    assert {row["error"] for row in rows(app, outcome="filtered")} == {"its filter does not match"}
    assert ledger.due.agents_with_lost(AFTER) == []


def test_of_a_sample_the_same_events_are_recorded_by_everybody(app: Pipeline, ledger: Ledger) -> None:
    listen(ledger, "n < 0", 0.5)
    found = old(app, 40)
    reconcile(ledger)
    chosen = [is_sampled(event.id, 0.5) for event in found]
    assert outcomes(app, found) == ["queued" if one else None for one in chosen]
    assert {*chosen} == {True, False}


def test_settling_waits_for_what_is_wanted_or_recorded_alone(app: Pipeline, ledger: Ledger) -> None:
    listen(ledger, FEW)
    found = append(ledger, 4)
    lose_outbox(app)
    assert open_of(ledger, found) == [0, 1]
    listen(ledger, FEW, 1.0)
    assert open_of(ledger, found) == [0, 1, 2, 3]


def test_retention_lets_go_what_is_kept_back_and_not_recorded(app: Pipeline, ledger: Ledger) -> None:
    listen(ledger, FEW)
    old(app, 4)
    lose_outbox(app)
    done = prune(ledger, older_than=timedelta(seconds=1))
    assert (done.events, done.unfinished) == (2, 2)


def test_what_every_filter_keeps_back_is_listed_whether_recorded_or_not(app: Pipeline, ledger: Ledger) -> None:
    listen(ledger, FEW)
    listen(ledger, "n = 3", agent="stock", worker="w2")
    found = append(ledger, 4)
    assert [record.event.id for record in unwanted(ledger)] == [found[2].id]
    assert unrouted(ledger) == []
    succeed(app, found[2], "stock")
    assert unwanted(ledger) == []


def test_an_agent_wants_what_any_version_of_it_wants_that_runs(app: Pipeline, ledger: Ledger) -> None:
    listen(ledger, FEW, worker="old")
    listen(ledger, "n = 3", worker="new")
    found = append(ledger, 5)
    lose_outbox(app)
    assert open_of(ledger, found) == [0, 1, 3]
    listen(ledger, None, worker="all")
    assert open_of(ledger, found) == [0, 1, 2, 3, 4]
    ledger.workers.leave("all")
    listen(ledger, "n = 3", worker="new")
    assert open_of(ledger, found) == [0, 1, 3]
    move(ledger, workers, DEAD_AFTER, "seen")
    listen(ledger, "n = 3", worker="new")
    assert open_of(ledger, found) == [3]


def test_data_that_only_its_reader_can_judge_counts_as_wanted(app: Pipeline, ledger: Ledger) -> None:
    listen(ledger, "n < 0", reads={"order.placed": "2.0.0"})
    found = append(ledger, 2)
    lose_outbox(app)
    assert open_of(ledger, found) == [0, 1]
    listen(ledger, "type = order.paid", reads={"order.placed": "2.0.0"})
    assert open_of(ledger, found) == []


@pytest.mark.parametrize("damage", ["[{]", '[{"where": {"payload.n": {"$newer": 1}}, "reads": {}}]', "[7]"])
def test_a_filter_that_is_not_understood_wants_everything(app: Pipeline, ledger: Ledger, damage: str) -> None:
    listen(ledger, "n < 0")
    found = old(app, 2)
    with ledger.database.transaction() as connection:
        connection.execute(agents.update().values(filters=damage))
    reconcile(ledger)
    assert outcomes(app, found) == ["queued", "queued"]


def test_a_new_agents_past_is_filtered_before_it_is_sent(app: Pipeline, ledger: Ledger) -> None:
    found = append(ledger, 4)
    said = {"billing": Wanting(parse(FEW), {}).as_data(1.0)}
    ledger.subscribers.register({"billing": (("order.#",), 0)}, "w1", said)
    reconcile(ledger)
    assert sorted(one.encoded.event.id for one in ledger.due.at_once()) == sorted(event.id for event in found[:2])
    assert outcomes(app, found) == ["queued", "queued", "filtered", "filtered"]


def test_what_names_an_agent_or_was_given_back_to_it_is_sent_whatever_its_filter(app: Pipeline, ledger: Ledger) -> None:
    listen(ledger, "n < 0")
    (named,) = old(app, targets=("billing",))
    (dead,) = append(ledger)
    claim(ledger, dead)
    die(ledger, dead, 1)
    with ledger.database.transaction() as connection:
        ledger.deliveries.requeue(connection, [delivery_id(dead.id, "billing")])
    reconcile(ledger)
    move(ledger, deliveries, AFTER + 1)
    sent = {one.encoded.event.id for one in (*ledger.due.at_once(), *ledger.due.lost("billing", AFTER))}
    assert sent == {named.id, dead.id}


def test_what_is_handed_over_comes_again_once_unless_somebody_has_it(app: Pipeline, ledger: Ledger) -> None:
    new, begun, waits = found = append(ledger, 3)
    claim(ledger, begun)

    def row(event: Event) -> dict[str, Any]:
        id = delivery_id(event.id, "billing")
        return {"id": id, "event_id": event.id, "agent": "billing", "replay": None, "broadcast": True, "error": "why"}

    with ledger.database.transaction() as connection:
        ledger.deliveries.add_queued(connection, [(waits.id, "billing", 1)])
        handed = ledger.deliveries.hand_over(connection, [row(event) for event in found], 7)
        again = ledger.deliveries.hand_over(connection, [row(event) for event in found], 8)
    assert handed == {delivery_id(event.id, "billing") for event in (new, waits)}
    assert again == set()
    assert outcomes(app, found) == ["retrying", "running", "retrying"]
    assert claim(ledger, new, expected=1).attempt == 1


def test_what_waits_is_ended_and_what_runs_is_not(app: Pipeline, ledger: Ledger) -> None:
    begun, waits = found = append(ledger, 2)
    claim(ledger, begun)
    with ledger.database.transaction() as connection:
        ledger.deliveries.add_queued(connection, [(waits.id, "billing", 1)])
        ledger.deliveries.pass_queued(connection, [delivery_id(event.id, "billing") for event in found], "why")
    assert outcomes(app, found) == ["running", "filtered"]
    assert rows(app, timers) == []
