"""The ready payload families."""

from __future__ import annotations

import inspect

from pipeline import Event, Payload, families
from pipeline.core.event import new_event

NAMED = [
    *(f"task.{name}" for name in ("created", "assigned", "acknowledged", "completed", "failed")),
    *(f"agent.{name}" for name in ("started", "paused", "online", "offline", "heartbeat")),
    *("agent.suspected_failure", "agent.backpressure", "memory.updated", "document.processed", "embedding.generated"),
    *("action.proposed", "action.approved", "action.vetoed", "score.updated", "violation.detected", "tool.invoked"),
    *("delivery.dead", "delivery.requeued", "delivery.dropped", "delivery.erased", "system.shutdown"),
]


def test_every_family_has_a_payload_with_its_own_type() -> None:
    found = [
        cls.event_type
        for _, cls in inspect.getmembers(families, inspect.isclass)
        if issubclass(cls, Payload) and cls.event_type
    ]
    assert sorted(found) == sorted(NAMED)


def test_a_completed_task_travels_with_its_metrics() -> None:
    result = families.TaskResult(status="success", output={"n": 1}, metrics=families.Metrics(duration_ms=12.5))
    event = Event.decode(new_event(families.TaskCompleted(task_id="t", result=result), source="/test").encode())
    assert event.schema_version == "2.0.0"
    assert families.TaskCompleted.model_validate(event.data).result.metrics == families.Metrics(duration_ms=12.5)
