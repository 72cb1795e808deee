"""Whatever event is accepted can be read, stored, sent and shown by everybody; what cannot is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from sqlalchemy import create_engine
from sqlalchemy.orm import Session

from pipeline import Event, InvalidEvent, Pipeline
from pipeline.core.event import MAX_LENGTH
from pipeline.core.ids import new_id
from pipeline.ledger.database.tables import outbox, timers
from pipeline.workers.sweeper import Sweeper
from tests.harness import Broker, StartWorker
from tests.records import rows

#: Everything that Python calls a text or a number, what nobody can carry included.
TEXT = st.text(st.characters(), max_size=30) | st.sampled_from(
    ["\0", "\ud800", "null", "NaN", "\\u0000", "{[", "9" * 30]
)
LONG = st.integers(1, 300).map(lambda length: "ä" * length)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXT,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(TEXT, inner, max_size=4)
        | st.tuples(inner, st.integers(1, 260)).map(lambda deep: nested(*deep))
    ),
    max_leaves=12,
)
ATTRIBUTES = st.fixed_dictionaries(
    {},
    optional={
        "id": (TEXT | LONG).map(lambda text: text and text + new_id()[: MAX_LENGTH - len(text)]),
        "source": TEXT | LONG,
        "subject": st.none() | TEXT | LONG,
        "correlation_id": TEXT | LONG,
        "causation_id": st.none() | TEXT | LONG,
        "priority": st.integers(0, 11),
        "hops": st.integers(-1, 2**33),
        "time": st.datetimes(timezones=st.timezones()),
        "traceparent": st.none() | TEXT | LONG,
        "tracestate": st.none() | TEXT | LONG,
    },
)
MANY = settings(max_examples=80, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))


def nested(value: Any, levels: int) -> Any:
    for _ in range(levels):
        value = [value]
    return value


def accepted(publish: Callable[[Event], Event], type: str) -> list[Event]:
    """Publish arbitrary events; return those that were accepted, and check that the others were refused readably."""
    taken: dict[str, Event] = {}
    refused: list[str] = []

    @MANY
    @given(ATTRIBUTES, VALUES)
    def try_one(attributes: dict[str, Any], data: Any) -> None:
        try:
            event = Event(**{"id": new_id(), "source": "/test", **attributes, "type": type, "data": data})
        except ValidationError as exc:
            refused.append(str(exc))
            return
        if event.id in taken:
            return
        try:
            taken[event.id] = publish(event)
        except InvalidEvent as exc:
            refused.append(str(exc))

    try_one()
    assert all(len(line) < 2000 for line in refused)
    assert len(taken) > 15
    assert len(refused) > 15
    return list(taken.values())


def shown(event: Event) -> Any:
    return json.loads(event.encode())


@pytest.mark.usefixtures("nothing_disappears")
def test_whatever_is_accepted_arrives_at_every_agent_as_it_was_sent(
    bus: Pipeline, broker: Broker, worker: StartWorker
) -> None:
    one = worker(app="mirror_app", pool="threads", environment={"PIPELINE_MAX_HOPS": "9999999999"})
    events = accepted(bus.publish, "mirror.first")
    arrived = broker.journal.wait(len(events), agent="mirror", seconds=120)
    assert {line["id"]: json.loads(line["data"]) for line in arrived} == {event.id: shown(event) for event in events}
    data = {
        line["causation"]: json.loads(line["data"])["data"] for line in broker.journal.wait(len(events), agent="again")
    }
    assert data == {event.id: shown(event)["data"] for event in events}
    assert bus.dead_letters.list() == []
    assert one.is_running()


def test_whatever_is_accepted_can_be_read_in_every_ledger(app: Pipeline) -> None:
    events = accepted(app.publish, "mirror.first")
    wanted = {event.id: shown(event) for event in events}
    assert {recorded.event.id: shown(recorded.event) for recorded in app.get_events()} == wanted
    assert all(app.trace(event.correlation_id) for event in events)


def test_whatever_is_accepted_for_later_or_in_a_transaction_is_sent(app: Pipeline) -> None:
    later = accepted(lambda event: app.publish(event, delay=timedelta(microseconds=1)), "mirror.first")
    engine = create_engine(app.settings.effective_ledger_url)

    def in_transaction(event: Event) -> Event:
        with Session(engine) as session, session.begin():
            return app.publish(event, session=session)

    relayed = accepted(in_transaction, "mirror.second")
    engine.dispose()
    sweeper = Sweeper(app.bus)
    while sweeper.sweep():
        pass
    assert {recorded.event.id for recorded in app.get_events()} == {event.id for event in [*later, *relayed]}
    assert rows(app, outbox) == rows(app, timers) == []


@pytest.mark.parametrize("attribute", ["id", "source", "subject", "correlation_id", "causation_id"])
def test_texts_have_one_length_on_every_database(app: Pipeline, attribute: str) -> None:
    base = {"id": "1", "type": "a.b", "source": "/test"}
    widest = Event(**{**base, attribute: "\U0001f600" * MAX_LENGTH})
    app.publish(widest)
    app.publish(widest.evolve(id="2"), delay=0.001)
    with pytest.raises(ValidationError, match="at most 255 characters"):
        Event(**{**base, attribute: "x" * (MAX_LENGTH + 1)})


def test_the_earliest_and_the_latest_time_can_be_stored_and_read(app: Pipeline) -> None:
    times = (datetime(2, 1, 1, tzinfo=UTC), datetime(9998, 12, 31, tzinfo=UTC))
    for time in times:
        app.publish(Event(id=str(time.year), type="a.b", source="/test", time=time))
    assert tuple(recorded.event.time for recorded in app.get_events()) == times
