"""The ready payload families: complete, as documented, and ready for the wire."""

from __future__ import annotations

import inspect
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from pipeline import Event, Payload, families
from pipeline.core.event import new_event

PAGE = Path(__file__).parents[2] / "docs" / "families.md"

NAMED = [
    *(f"task.{name}" for name in ("created", "assigned", "received", "acknowledged", "completed", "failed")),
    *(f"agent.{name}" for name in ("initialized", "started", "paused", "online", "offline", "heartbeat")),
    *("agent.suspected_failure", "agent.recovered", "agent.backpressure", "agent.response", "agent.error"),
    *("memory.updated", "document.processed", "embedding.generated", "tool.invoked"),
    *("action.proposed", "action.approved", "action.vetoed", "action.escalated", "score.updated", "violation.detected"),
    *("collaboration.request", "collaboration.complete", "choreography.start", "saga.step", "saga.compensate"),
    *("delivery.dead", "delivery.requeued", "delivery.dropped", "delivery.erased", "system.shutdown"),
    *("tree.cancelled", "budget.exceeded"),
]
#: What other parts of the bus, and other programs, read in them.
FIELDS = {
    "agent.initialized": {"model", "capabilities"},
    "agent.online": {"capabilities", "capacity", "specializations"},
    "agent.heartbeat": {"status", "load", "memory_usage"},
    "agent.suspected_failure": {"agent_id", "last_seen"},
    "agent.backpressure": {"queue_size", "dropped"},
    "agent.response": {
        "response_id", "original_event_id", "agent_id", "status", "result", "time", "processing_time_ms",
    },
    "memory.updated": {"key", "value"},
    "tool.invoked": {"tool", "params"},
    "task.completed": {"task_id", "result"},
    "task.failed": {"task_id", "error"},
    "collaboration.complete": {"pattern", "participants", "status", "start", "end", "results", "errors"},
}  # fmt: skip
CLASSES = {
    cls.event_type: cls
    for _, cls in inspect.getmembers(families, inspect.isclass)
    if issubclass(cls, Payload) and cls.event_type
}


def test_every_family_has_a_payload_with_its_own_type() -> None:
    found = [
        cls.event_type
        for _, cls in inspect.getmembers(families, inspect.isclass)
        if issubclass(cls, Payload) and cls.event_type
    ]
    assert sorted(found) == sorted(NAMED)


@pytest.mark.parametrize("type", FIELDS)
def test_payloads_have_the_fields_that_others_read(type: str) -> None:
    assert FIELDS[type] <= CLASSES[type].model_fields.keys()


def test_the_page_has_every_class_with_its_version_and_fields() -> None:
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table()]
    assert rows == [row_of(cls) for cls in in_order_of_the_module()]


def table() -> list[str]:
    return [line for line in PAGE.read_text().splitlines() if re.match(r"\| `[a-z]+\.", line)]


def in_order_of_the_module() -> list[type[Payload]]:
    own = [cls for cls in vars(families).values() if cls in CLASSES.values()]
    return sorted(own, key=lambda cls: cls.__module__ != families.__name__)  # the bus's own come last


def row_of(cls: type[Payload]) -> list[str]:
    fields = [f"`{name}`" if field.is_required() else f"`{name}?`" for name, field in cls.model_fields.items()]
    assert cls.__doc__
    meaning = cls.__doc__.splitlines()[0]
    return [f"`{cls.event_type}`", f"`{cls.__name__}`", cls.schema_version, ", ".join(fields), meaning]


@given(data=st.data())
@settings(max_examples=150, deadline=None)
def test_what_is_published_is_what_arrives(data: st.DataObject) -> None:
    cls = data.draw(st.sampled_from(sorted(CLASSES.values(), key=lambda cls: cls.event_type)))
    given = {name: data.draw(VALUES[str(field.annotation)], name) for name, field in cls.model_fields.items()}
    payload = cls(**given)
    event = Event.decode(new_event(payload, source="/test").encode())
    assert (event.type, event.schema_version) == (cls.event_type, cls.schema_version)
    assert cls.model_validate(event.data) == payload


TEXT = st.text(st.characters(codec="ascii", exclude_categories=["C"]), max_size=5)
NUMBERS = st.floats(0, 1e6)
JSON: st.SearchStrategy[Any] = st.recursive(st.none() | TEXT | st.booleans(), lambda inner: st.lists(inner, max_size=2))
TIMES = st.datetimes(datetime(2000, 1, 1), timezones=st.just(UTC))  # the zone comes beside it
METRICS = st.builds(families.Metrics, duration_ms=NUMBERS, tokens_used=st.none() | st.integers(0, 9))
#: What a field of each annotation may hold.
STRATEGIES: dict[Any, st.SearchStrategy[Any]] = {
    str: TEXT, str | None: TEXT | st.none(), int: st.integers(0, 9), int | None: st.none() | st.integers(0, 9),
    bool: st.booleans(), float: NUMBERS, Any: JSON, tuple[str, ...]: st.lists(TEXT, max_size=2).map(tuple),
    dict[str, Any]: st.dictionaries(TEXT, JSON, max_size=2), dict[str, str]: st.dictionaries(TEXT, TEXT, max_size=2),
    families.TaskResult: st.builds(
        families.TaskResult, status=st.sampled_from(["success", "partial"]), output=JSON, metrics=st.none() | METRICS
    ),
}  # fmt: skip
VALUES = {str(annotation): strategy for annotation, strategy in STRATEGIES.items()}
for model, name, strategy in (
    (families.AgentSuspectedFailure, "last_seen", TIMES),
    (families.ActionProposed, "deadline", TIMES | st.none()),
    (families.ActionEscalated, "deadline", TIMES),
    (families.AgentResponse, "status", st.sampled_from(["success", "failure", "partial"])),
    (families.CollaborationComplete, "status", st.sampled_from(["completed", "failed", "compensated"])),
):
    VALUES[str(model.model_fields[name].annotation)] = strategy


def test_a_completed_task_travels_with_its_metrics() -> None:
    result = families.TaskResult(status="success", output={"n": 1}, metrics=families.Metrics(duration_ms=12.5))
    event = Event.decode(new_event(families.TaskCompleted(task_id="t", result=result), source="/test").encode())
    assert event.schema_version == "2.0.0"
    assert families.TaskCompleted.model_validate(event.data).result.metrics == families.Metrics(duration_ms=12.5)


def test_times_have_a_zone() -> None:
    with pytest.raises(ValidationError, match="timezone"):
        families.AgentSuspectedFailure(agent_id="a", last_seen=datetime(2026, 1, 1))
