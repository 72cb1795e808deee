"""One bad row, wherever it stands: the rest of its batch goes on, it is reported once, and a second run is quiet."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import orjson
import pytest
from sqlalchemy import text, update

from pipeline import Event, Pipeline
from pipeline.core.errors import LedgerError
from pipeline.core.ids import delivery_id
from pipeline.core.times import SECOND, now
from pipeline.history.projections import catch_up
from pipeline.ledger.database.rows import timer_row
from pipeline.ledger.database.tables import agents as agents_table
from pipeline.ledger.database.tables import deliveries, events, outbox, timers
from pipeline.ledger.timers import PUBLISH
from pipeline.operations.keeping.restore import restore
from pipeline.operations.keeping.retention import prune
from pipeline.workers.chores import Chores
from tests.ledgers import AFTER, DAYS, ON_SQLITE, append, long_settled, move, new_order, old, reconcile, retrying, sweep
from tests.records import logged, messages, rows

pytestmark = pytest.mark.usefixtures("agents")

NUMBER = 5
PLACES = pytest.mark.parametrize("place", [0, NUMBER // 2, NUMBER - 1], ids=["first", "middle", "last"])
DEEP: dict[str, Any] = {}
for _ in range(250):
    DEEP = {"child": DEEP}


def bodies_of(event: Event) -> dict[str, str]:
    """What an event's body may have become."""
    attributes = orjson.loads(event.encode())
    return {
        "no JSON": event.encode().decode()[:-1],
        "nothing": "",
        "too deep": orjson.dumps({**attributes, "data": DEEP}).decode(),
        "another event": json.dumps({**attributes, "id": "other"}),
        "no type": json.dumps({**attributes, "type": None}),
    }


DAMAGES = pytest.mark.parametrize("damage", list(bodies_of(new_order())))


def spoil(app: Pipeline, event: Event, damage: str = "no JSON") -> str:
    """Damage an event in the log; return its id."""
    with app.ledger.database.transaction() as connection:
        body = bodies_of(event)[damage]
        connection.execute(update(events).where(events.c.id == event.id).values(body=body))
    return event.id


@pytest.fixture
def billing(app: Pipeline) -> Callable[[], list[str]]:
    """Take what has arrived in billing's queue, as ids of events."""
    with app.celery.connection_for_write() as connection:
        app.bus.names.agent_queue("billing", ("order.#",)).declare(channel=connection.default_channel)
    return lambda: [body["id"] for _, body in messages(app, "billing")]


@contextmanager
def reported_once(app: Pipeline, caplog: pytest.LogCaptureFixture, bad: str) -> Iterator[None]:
    """What is done in here reports one bad thing in the log, once, and so does all that follows."""
    with caplog.at_level(logging.WARNING):
        yield
        sweep(app)
    lines = [one.getMessage() for one in caplog.records if bad in one.getMessage()]
    assert len(lines) == 1, lines


def set_aside(app: Pipeline) -> list[tuple[str, str]]:
    return [(one.place, one.id) for one in app.ledger.aside.list()]


def others(found: Sequence[Event], place: int) -> list[str]:
    return [event.id for number, event in enumerate(found) if number != place]


def do(app: Pipeline, chore: Callable[[Chores], int]) -> int:
    with closing(Chores(app.bus)) as chores:
        return chore(chores)


# -- in the order in which an event meets them


@PLACES
@DAMAGES
def test_the_relay_goes_on(
    app: Pipeline, billing: Callable[[], list[str]], caplog: pytest.LogCaptureFixture, place: int, damage: str
) -> None:
    found = append(app.ledger, NUMBER)
    bad = spoil(app, found[place], damage)
    with reported_once(app, caplog, bad):
        assert do(app, Chores.relay) == NUMBER - 1
        assert do(app, Chores.relay) == 0
    assert billing() == others(found, place)
    assert (rows(app, outbox), set_aside(app)) == ([], [("outbox", bad)])


@PLACES
@pytest.mark.parametrize("damage", [*bodies_of(new_order()), "refused", "no kind"])
def test_timers_go_on(
    app: Pipeline, billing: Callable[[], list[str]], caplog: pytest.LogCaptureFixture, place: int, damage: str
) -> None:
    found = [new_order() for _ in range(NUMBER)]
    bad = found[place].id
    with app.ledger.database.transaction() as connection:
        for number, event in enumerate(found):
            row = timer_row(event.id, PUBLISH, now() + number - SECOND, event.correlation_id, event.encode())
            if number == place:
                row |= {"kind": "odd"} if damage == "no kind" else {}
                row |= {"body": bodies_of(event)[damage]} if damage in bodies_of(event) else {}
            connection.execute(timers.insert(), row)
    if damage == "refused":
        refuse(app, bad)
    with reported_once(app, caplog, bad):
        assert do(app, Chores.fire) == NUMBER - 1
        assert do(app, Chores.fire) == 0
    assert sorted(billing()) == sorted(others(found, place))
    assert rows(app, timers) == []
    (one,) = app.ledger.aside.list()
    assert (one.place, one.id) == ("timers", bad)
    assert (one.body or "") in (bodies_of(found[place]).get(damage), found[place].encode().decode())


def refuse(app: Pipeline, id: str) -> None:
    """Let the database refuse an event."""
    with app.ledger.database.transaction() as connection:
        if app.ledger.database.is_sqlite:
            connection.execute(
                text(
                    f"CREATE TRIGGER refuse BEFORE INSERT ON pipeline_events WHEN NEW.id = '{id}' "
                    "BEGIN SELECT RAISE(ABORT, 'not this one'); END"
                )
            )
        else:
            connection.execute(text(f"ALTER TABLE pipeline_events ADD CONSTRAINT refuse CHECK (id <> '{id}')"))


@PLACES
def test_retries_go_on(
    app: Pipeline, billing: Callable[[], list[str]], caplog: pytest.LogCaptureFixture, place: int
) -> None:
    ids = retrying(app.ledger, NUMBER)
    found = {row["id"]: Event.decode(row["body"]) for row in rows(app, events)}
    of = {row["id"]: found[row["event_id"]] for row in rows(app)}
    do(app, Chores.relay)
    billing()
    spoil(app, of[ids[place]])
    move(app.ledger, timers, 60)
    with reported_once(app, caplog, ids[place]):
        assert do(app, Chores.fire) == NUMBER - 1
    assert sorted(billing()) == sorted(of[id].id for id in ids if id != ids[place])
    assert rows(app, timers) == []
    assert [letter.id for letter in app.dead_letters.list()] == [ids[place]]


@PLACES
@DAMAGES
def test_deliveries_that_somebody_asked_for_go_on(
    app: Pipeline, billing: Callable[[], list[str]], caplog: pytest.LogCaptureFixture, place: int, damage: str
) -> None:
    found = append(app.ledger, NUMBER)
    do(app, Chores.relay)
    billing()
    dead = delivery_id(found[place].id, "billing")
    spoil(app, found[place], damage)
    with app.ledger.database.transaction() as connection:
        app.ledger.deliveries.add_queued(connection, [(event.id, "billing", 0) for event in found])
    with reported_once(app, caplog, dead):
        assert do(app, Chores.send_at_once) == NUMBER - 1
        assert do(app, Chores.send_at_once) == 0
    assert sorted(billing()) == sorted(others(found, place))
    (letter,) = app.dead_letters.list()
    assert (letter.id, letter.readable, letter.event.id, letter.event.type) == (
        dead,
        False,
        found[place].id,
        "order.placed",
    )
    assert "cannot be read" in letter.error
    (announced,) = logged(app, "delivery.dead")
    assert (announced.data["delivery_id"], announced.data["agent"]) == (dead, "billing")
    assert app.dead_letters.requeue(all=True).skipped == 1, "there is nothing to send"
    mended = {"order_id": "A1", "total": 1}
    assert app.dead_letters.requeue(dead, data=mended).number == 1
    assert billing() == [found[place].id]


@PLACES
def test_reconciliation_goes_on(
    app: Pipeline, billing: Callable[[], list[str]], caplog: pytest.LogCaptureFixture, place: int
) -> None:
    move(app.ledger, agents_table, 3600, "registered")
    found = old(app, NUMBER, "order.changed")  # which only billing listens to
    do(app, Chores.relay)
    billing()
    spoil(app, found[place])
    dead = delivery_id(found[place].id, "billing")
    reconcile(app.ledger)
    move(app.ledger, deliveries, AFTER + 100)
    with reported_once(app, caplog, dead), closing(Chores(app.bus)) as chores:
        chores._after = AFTER
        chores.reconcile()
    assert sorted(billing()) == sorted(others(found, place))
    assert [letter.id for letter in app.dead_letters.list()] == [dead]


def test_an_agent_whose_row_is_damaged_stops_nobody_and_is_back_when_it_starts(
    app: Pipeline, caplog: pytest.LogCaptureFixture
) -> None:
    move(app.ledger, agents_table, 3600, "registered")
    with app.ledger.database.transaction() as connection:
        connection.execute(update(agents_table).where(agents_table.c.name == "stock").values(patterns="{"))
    (event,) = old(app)
    with reported_once(app, caplog, "stock"):
        reconcile(app.ledger)
        reconcile(app.ledger)
    assert [row["agent"] for row in rows(app)] == ["billing"]
    assert set_aside(app) == [("agents", "stock")]
    app.ledger.subscribers.register({"stock": (("order.placed",), None)})
    reconcile(app.ledger)
    assert sorted(row["agent"] for row in rows(app)) == ["billing", "stock"]
    assert {row["event_id"] for row in rows(app)} == {event.id}


@PLACES
@DAMAGES
def test_projections_go_on(app: Pipeline, caplog: pytest.LogCaptureFixture, place: int, damage: str) -> None:
    seen: list[str] = []

    @app.projection(on="order.#")
    def model(event: Event, session: Any) -> None:
        seen.append(event.id)

    @model.reset
    def clear(session: Any) -> None:
        seen.clear()

    found = append(app.ledger, NUMBER)
    do(app, Chores.relay)
    bad = spoil(app, found[place], damage)
    with reported_once(app, caplog, bad):
        while catch_up(app.ledger, model):
            pass
        assert seen == others(found, place)
        app.rebuild("model")
    assert seen == others(found, place)
    assert set_aside(app) == [("projection model", bad)]


@PLACES
@DAMAGES
def test_replay_goes_on(
    app: Pipeline, billing: Callable[[], list[str]], caplog: pytest.LogCaptureFixture, place: int, damage: str
) -> None:
    found = append(app.ledger, NUMBER)
    do(app, Chores.relay)
    billing()
    bad = spoil(app, found[place], damage)
    seen: list[Event] = []
    with reported_once(app, caplog, bad):
        replayed = app.replay(to="billing", type="order.#")
        assert (replayed.number, replayed.aside) == (NUMBER - 1, 1)
        assert billing() == others(found, place)
        replayed = app.replay(to=seen.append, ids=[event.id for event in found])
    assert [event.id for event in seen] == others(found, place)
    assert (replayed.number, replayed.aside) == (NUMBER - 1, 1)
    assert set_aside(app) == [("replay", bad)]


def test_an_event_beyond_the_limits_of_today_does_not_stop_a_replay(
    app: Pipeline, make: Callable[..., Pipeline]
) -> None:
    small, large = append(app.ledger)[0], new_order()
    large = large.evolve(data={"text": "x" * 2000})
    app.bus.outbox.publish([large])
    strict = make(max_event_bytes=1024)
    replayed = strict.replay(to="billing", all=True)
    assert (replayed.number, replayed.aside) == (1, 1)
    assert [one.id for one in strict.ledger.aside.list()] == [large.id]
    assert [body["id"] for _, body in messages(app, "billing")] == [small.id]


@PLACES
@DAMAGES
def test_an_archive_goes_on(
    app: Pipeline, caplog: pytest.LogCaptureFixture, tmp_path: Path, place: int, damage: str
) -> None:
    found = long_settled(app, NUMBER)
    bad = spoil(app, found[place], damage)
    with reported_once(app, caplog, bad):
        pruned = prune(app.ledger, older_than=DAYS, archive=tmp_path / "a.jsonl")
        assert (pruned.events, pruned.unreadable) == (NUMBER - 1, 1)
        assert [row["id"] for row in rows(app, events)] == [bad]
        again = prune(app.ledger, older_than=DAYS, archive=tmp_path / "b.jsonl")
        assert (again.events, again.unreadable, again.archive) == (0, 1, None)
        assert restore(app.ledger, tmp_path / "a.jsonl").events == NUMBER - 1
    assert set_aside(app) == [("archive", bad)]
    assert prune(app.ledger, older_than=DAYS).events == NUMBER, "without an archive nothing is to be read again"


@PLACES
@pytest.mark.parametrize("damage", ["no JSON", "number", "long", "refused", "twice"])
def test_restoring_goes_on(
    app: Pipeline,
    caplog: pytest.LogCaptureFixture,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    place: int,
    damage: str,
) -> None:
    found = long_settled(app, NUMBER)
    path = tmp_path / "a.jsonl"
    prune(app.ledger, older_than=DAYS, archive=path)
    lines = path.read_bytes().splitlines(keepends=True)
    at = place * 4  # an event's row, the event, and two deliveries
    row = orjson.loads(lines[at])
    if damage == "no JSON":
        lines[at + 1] = lines[at + 1][:-3] + b"\n"
    elif damage == "long":
        monkeypatch.setattr("pipeline.operations.keeping.archive.LONGEST_LINE", 5000)
        lines[at + 1] = lines[at + 1].replace(b'"data":{', b'"data":{"x":"' + b"y" * 20_000 + b'",')
    elif damage == "refused":
        refuse(app, found[place].id)
    else:
        other = orjson.loads(lines[4 * ((place + NUMBER - 1) % NUMBER)])["data"]["seq"]
        row["data"]["seq"] = 2**63 - 1 if damage == "number" else other
        lines[at] = orjson.dumps(row) + b"\n"
    path.write_bytes(b"".join(lines))
    bad = "line" if damage in ("no JSON", "long", "number") else found[place].id
    if damage == "twice" and place == 0:  # its number is the last one's, which comes later
        bad = found[-1].id
    with reported_once(app, caplog, bad):
        restored = restore(app.ledger, path)
        assert (restored.events, restored.deliveries, restored.aside) == (NUMBER - 1, 2 * (NUMBER - 1), 1)
        again = restore(app.ledger, path)
    assert (again.events, again.known, again.aside) == (0, NUMBER - 1, 1)
    assert [where for where, _ in set_aside(app)] == ["archive a.jsonl"]
    assert append(app.ledger), "new events still get a number"


@contextmanager
def without(app: Pipeline, table: str) -> Iterator[None]:
    """The database lacks a table in here, which its operator has to mend."""
    with app.ledger.database.transaction() as connection:
        connection.execute(text(f"ALTER TABLE {table} RENAME TO elsewhere"))
    yield
    with app.ledger.database.transaction() as connection:
        connection.execute(text(f"ALTER TABLE elsewhere RENAME TO {table}"))


def test_a_ledger_in_trouble_is_no_reason_to_set_events_aside(app: Pipeline, tmp_path: Path) -> None:
    event = new_order()
    app.ledger.timers.add([timer_row(event.id, PUBLISH, now() - SECOND, event.correlation_id, event.encode())])
    with without(app, "pipeline_outbox"), pytest.raises(LedgerError, match="has no tables"):
        app.ledger.timers.take(0)
    assert ([row["id"] for row in rows(app, timers)], set_aside(app)) == ([event.id], [])
    assert do(app, Chores.fire) == 1

    long_settled(app, NUMBER)
    prune(app.ledger, older_than=DAYS, archive=tmp_path / "a.jsonl")
    with without(app, "pipeline_deliveries"), pytest.raises(LedgerError, match="has no tables"):
        restore(app.ledger, tmp_path / "a.jsonl")
    assert set_aside(app) == []
    assert restore(app.ledger, tmp_path / "a.jsonl").events == NUMBER


@ON_SQLITE
def test_text_that_is_none_is_found_where_it_is_decoded(app: Pipeline, billing: Callable[[], list[str]]) -> None:
    found = append(app.ledger, NUMBER)
    with app.ledger.database.transaction() as connection:
        spoiled = text("UPDATE pipeline_events SET body = CAST(x'7bff7d' AS TEXT) WHERE id = :id")
        connection.execute(spoiled, {"id": found[1].id})
    assert do(app, Chores.relay) == NUMBER - 1
    assert billing() == others(found, 1)
    assert [record.event.id for record in app.get_events()] == others(found, 1)


def test_what_operators_look_at_shows_the_rest(app: Pipeline, caplog: pytest.LogCaptureFixture) -> None:
    found = append(app.ledger, NUMBER, "nobody.wants")
    bad = spoil(app, found[1])
    assert [record.event.id for record in app.get_events()] == others(found, 1)
    assert sorted(record.event.id for record in app.unrouted()) == sorted(others(found, 1))
    assert bad in caplog.text
    app.ledger.timers.add([timer_row("t1", PUBLISH, now() + 60 * SECOND, "c", b"{")])
    from pipeline.history.inspection import upcoming

    assert [timer.id for timer in upcoming(app.ledger)] == ["t1"]
