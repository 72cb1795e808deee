"""What Prometheus scrapes: how the ledger and the queues stand when it asks; nothing is counted beside them.

Names are as https://prometheus.io/docs/practices/naming/ wants them, labels only what there is few of: agents, what
deliveries wait for, scopes; of agents `metrics_labels` are told apart. How deliveries end is counted by the workers,
each at its `metrics_port`: to count that here would be to read the whole ledger every time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING

from fastapi import APIRouter, Request
from fastapi.responses import Response
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from ...core.observe import bounded
from ...core.times import utc_now
from ...ledger.status import status
from ...operations.standing import standing
from ..access import READS, App
from ..measured import measured

if TYPE_CHECKING:
    from ...app.app import Pipeline

router = APIRouter(tags=["health"], include_in_schema=False)


@router.get("/metrics", dependencies=[READS])
def metrics(app: App, request: Request) -> Response:
    """Return how the ledger and the queues stand, for Prometheus."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Standing(app))
    encode, media_type = choose_encoder(request.headers.get("accept", ""))
    return Response(encode(registry), headers={"Content-Type": media_type})


class _Standing(Collector):
    """Reads how things stand."""

    def __init__(self, app: Pipeline) -> None:
        self._app = app

    def collect(self) -> Iterator[Metric]:
        """Yield each metric."""
        yield from self._of_ledger()
        yield from self._of_agents()
        yield from self._of_pauses()

    def _of_pauses(self) -> Iterator[Metric]:
        paused = GaugeMetricFamily("pipeline_paused", "Agents and scopes that are held back.", labels=("name", "kind"))
        left = GaugeMetricFamily(
            "pipeline_pause_left_seconds", "Until a scope that its provider has paused goes on.", labels=("name",)
        )
        pauses, now = self._app.pauses.list(), utc_now()
        for labels, number in self._bounded([((one.name, one.kind), 1.0) for one in pauses], sum).items():
            paused.add_metric(labels, number)
        until = [((one.name,), max(0.0, (one.until - now).total_seconds())) for one in pauses if one.until is not None]
        for labels, longest in self._bounded(until, max).items():
            left.add_metric(labels, longest)
        yield from (paused, left)

    def _of_ledger(self) -> Iterator[Metric]:
        now, more = status(self._app.ledger.database), measured(self._app.ledger.database)
        yield CounterMetricFamily(
            "pipeline_events", "Events in the log, by the last sequence number.", value=now.events
        )
        for name, text, value in (
            ("outbox_unsent", "Events that the broker has not got yet.", now.unsent),
            ("outbox_oldest_seconds", "The age of the oldest of these.", more.unsent_age),
            ("timers_pending", "Retries and delayed events that are to come.", now.timers),
            ("timers_due", "Those among them whose time has come.", more.timers_due),
            ("approvals_open", "Actions that wait for somebody's approval.", more.approvals),
            ("workers_alive", "Workers that live.", now.workers),
            ("set_aside", "Things that could not be used: `pipeline ledger aside` shows them.", now.aside),
        ):
            yield GaugeMetricFamily(f"pipeline_{name}", text, value=value)
        flows = GaugeMetricFamily("pipeline_flows", "Flows that have not ended.", labels=("flow", "status"))
        for (flow, state), number in self._bounded(more.flows, sum).items():
            flows.add_metric((flow, state), number)
        spent = GaugeMetricFamily(
            "pipeline_budget_spent",
            "What was spent of a budget: today's, where it is a day's.",
            labels=("budget", "unit"),
        )
        for (budget, unit), number in self._bounded(more.spent, sum).items():
            spent.add_metric((budget, unit), number)
        yield from (flows, spent)

    def _bounded(
        self, values: Iterable[tuple[tuple[str, ...], float]], together: Callable[[list[float]], float]
    ) -> dict[tuple[str, ...], float]:
        """Return values by their labels, of whose first ones so many are told apart as the setting says."""
        known: set[str] = set()
        found: dict[tuple[str, ...], list[float]] = {}
        for (first, *rest), value in sorted(values):
            place = (bounded(first, known, self._app.settings.metrics_labels), *rest)
            found.setdefault(place, []).append(value)
        return {labels: together(some) for labels, some in found.items()}

    def _of_agents(self) -> Iterator[Metric]:
        now = utc_now()
        all = standing(self._app.bus, self._app.ledger.subscribers.all()).items()
        letters = self._app.dead_letters.count().items()
        for name, text, more, together, values in (
            # The broker may not say how long a queue is.
            ("queue_messages", "Messages in an agent's queue.", (), sum,
             [((agent,), one.waiting) for agent, one in all if one.waiting is not None]),
            ("deliveries_running", "Deliveries whose handler runs.", (), sum,
             [((agent,), one.running) for agent, one in all]),
            ("deliveries_retrying", "Deliveries to be tried again.", (), sum,
             [((agent,), one.retrying) for agent, one in all]),
            ("deliveries_parked", "Deliveries that wait.", ("waits_for",), sum,
             [((agent, what), number) for agent, one in all for what, number in one.parked.items()]),
            ("oldest_seconds", "The age of the oldest event that has begun, and not ended.", (), max,
             [((agent,), max(0.0, (now - one.oldest).total_seconds())) for agent, one in all if one.oldest]),
            ("dead_letters", "Deliveries that an agent gave up.", (), sum,
             [((agent,), count.number) for agent, count in letters]),
        ):  # fmt: skip
            family = GaugeMetricFamily(f"pipeline_{name}", text, labels=("agent", *more))
            for labels, value in self._bounded(values, together).items():
                family.add_metric(labels, value)
            yield family
