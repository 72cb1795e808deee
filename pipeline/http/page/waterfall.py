"""A trace as lines with bars: what began when, and how long it took, beside each other on one scale."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime

from ...core.outcome import Outcome
from ...core.times import utc_now
from ...history.tree import DeliveryNode, EventNode, StepNode, Trace
from ...ledger.bounding.budget import Amounts

#: The narrowest bar, in percent.
NARROWEST = 0.4
#: Lines that are shown; who wants more reads the trace itself.
MOST_LINES = 2000


@dataclass(frozen=True)
class Line:
    """An event, a delivery or a step of it.

    Attributes:
        kind: event, delivery or step.
        outcome: of a delivery.
        x, width: of the bar, in percent of the whole.
        note: how long it took, what it cost, or what it waits for.

    """

    kind: str
    id: str
    label: str
    depth: int
    x: float
    width: float
    note: str
    outcome: str = ""

    @property
    def said(self) -> str:
        """The bar in words."""
        return f"{self.label} {self.outcome} {self.note}".strip()


def lines_of(trace: Trace, now: datetime | None = None, spent: Mapping[str, Amounts] | None = None) -> list[Line]:
    """Return the lines of a trace, each after its cause.

    Arguments:
        now: until when the bars of what goes on reach.
        spent: what its deliveries have spent of budgets, by their ids.

    """
    now = now or utc_now()
    start, end = span_of(trace, now)
    whole = max((end - start).total_seconds(), 0.001)

    def bar(begins: datetime, ends: datetime) -> tuple[float, float]:
        x = min(max((begins - start).total_seconds() / whole * 100, 0.0), 100.0 - NARROWEST)
        width = max((ends - begins).total_seconds() / whole * 100, NARROWEST)
        return round(x, 2), round(min(width, 100.0 - x), 2)

    def made() -> Iterator[Line]:
        for depth, node in trace.walk():
            if isinstance(node, EventNode):
                yield Line(
                    "event", node.id, node.type, depth, *bar(node.recorded, node.recorded), f"from {node.source}"
                )
                continue
            begins = node.started or node.due or start
            ends = node.ended or (now if node.started else begins)
            label = node.agent or "no agent listens to it"
            yield Line(
                "delivery", node.id, label, depth, *bar(begins, ends), _note(node, spent or {}), node.outcome.value
            )
            for step in node.steps:
                if step.name:
                    yield Line("step", node.id, _step(step), depth + 1, *bar(step.started, step.ended), _took(step))

    found = []
    for line in made():
        found.append(line)
        if len(found) == MOST_LINES:
            break
    return found


def span_of(trace: Trace, now: datetime) -> tuple[datetime, datetime]:
    """Return when a trace began, and when the last thing in it has ended, or now while something goes on."""
    times = [node.recorded for node in trace]
    for event in trace:
        for one in event.deliveries:
            times += [time for time in (one.started, one.ended) if time is not None]
            if one.outcome is Outcome.RUNNING:
                times.append(now)
    return min(times, default=now), max(times, default=now)


def seconds(value: float) -> str:
    """Return a time in words: 12 ms, 3.4 s, 5 min."""
    if value < 1:
        return f"{value * 1000:.0f} ms"
    return f"{value:.1f} s" if value < 120 else f"{value / 60:.0f} min"


def _step(step: StepNode) -> str:
    return f"{step.name} ({step.number + 1})" if step.number > 0 else step.name


def _took(step: StepNode) -> str:
    return seconds((step.ended - step.started).total_seconds())


def _note(node: DeliveryNode, spent: Mapping[str, Amounts]) -> str:
    parts = []
    if node.started and node.ended:
        parts.append(seconds((node.ended - node.started).total_seconds()))
    if node.id in spent:
        parts.append(str(spent[node.id]))
    if node.attempts > 1:
        parts.append(f"{node.attempts} attempts")
    if node.outcome in (Outcome.QUEUED, Outcome.RETRYING, Outcome.PARKED) and node.due:
        parts.append(f"due {node.due:%H:%M:%S}")
    if node.error and node.outcome is not Outcome.SUCCEEDED:
        parts.append(node.error.splitlines()[0][:120])
    return ", ".join(parts)
