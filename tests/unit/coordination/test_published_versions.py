"""What chords and schedules publish without a class is of the newest version that the app knows."""

from __future__ import annotations

import pytest

from pipeline import Event, Payload, Pipeline
from pipeline.brokers.topology import EMIT_TASK
from pipeline.coordination.schedule import SCHEDULED


class Done(Payload, type="both.done", version="3.0.0"):
    results: list[int]


class Due(Payload, type="digest.due", version="1.4.0"): ...


@pytest.fixture
def app(app: Pipeline) -> Pipeline:
    app.types.add(Done, Due)
    app.celery.finalize()
    return app


def test_a_chord_ends_in_an_event_of_the_newest_version(app: Pipeline, sent: list[Event]) -> None:
    for id, type in (("t1", "both.done"), ("t2", "others.done")):
        app.celery.tasks[EMIT_TASK].publish(type, {"results": [1, 2]}, None, id)
    assert [(event.type, event.schema_version) for event in sent] == [("both.done", "3.0.0"), ("others.done", "1.0.0")]


def test_a_schedule_publishes_data_of_the_newest_version(app: Pipeline, sent: list[Event]) -> None:
    app.schedule("digest", 60, "digest.due", {})
    app.celery.tasks[SCHEDULED].run("digest")
    assert [(event.type, event.schema_version) for event in sent] == [("digest.due", "1.4.0")]
