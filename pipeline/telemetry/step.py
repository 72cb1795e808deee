"""The step of a worker's start that lets Prometheus read what it has counted."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from typing import Any

from celery.bootsteps import StartStopStep
from celery.signals import worker_process_shutdown

from ..core import forks
from ..core.errors import ConfigError, to_install
from ..core.observe import Log, ended
from .counted import Durations
from .tally import METRICS, Metric, Tally

logger = Log(logging.getLogger(__name__))


class MetricsStep(StartStopStep):  # type: ignore[misc]  # celery's classes are untyped
    """Counts in each worker's main process, and serves that on a port of its own."""

    requires = ("celery.worker.components:Pool",)

    def __init__(self, worker: Any, **options: Any) -> None:
        super().__init__(worker, **options)
        self._bus = worker.app.pipeline.bus
        self._server: Any = None
        if not self._bus.settings.metrics_port:  # in app.local() and app.testing() there is none
            return
        # Now: the processes of the pool, which is started next, inherit it.
        self._tally = Tally(self._bus.settings.metrics_labels)
        self._bus.spans.count = self._tally.count
        self._leave = self._bus.spans.listen(Durations(self._bus.spans))
        worker_process_shutdown.connect(self._end_of_process)

    def include_if(self, worker: Any) -> bool:
        """Say whether the worker counts at all."""
        return bool(self._bus.settings.metrics_port)

    def _end_of_process(self, **_: Any) -> None:
        self._tally.flush()

    def start(self, worker: Any) -> None:
        """Open the port; raise SystemExit where that cannot be, or where the library is missing."""
        if worker.pool.is_green:  # all of its threads would wait with the one that reads
            raise ended(logger, "metrics_port is not for the pools gevent and eventlet: take prefork, threads or solo")
        self._tally.start()
        settings = self._bus.settings
        try:
            self._server = served(self._tally, settings.metrics_port, settings.metrics_host)
        except ConfigError as exc:
            raise ended(logger, exc) from exc
        forks.watch(self)
        logger.info("metrics are at http://%s:%d/metrics", settings.metrics_host, settings.metrics_port)

    def before_fork(self) -> None:
        """Do nothing: the server stays here."""

    def after_fork(self, *, child: bool) -> None:
        """Let a child, which may outlive the worker, not hold the port."""
        if child and self._server is not None:
            os.close(self._server.socket.detach())
            self._server = None

    def stop(self, worker: Any) -> None:
        """Go on: Celery stops this step before the pool, and what its processes end with is counted, too."""

    terminate = stop


def served(tally: Tally, port: int, host: str) -> Any:
    """Serve what is counted here; return the server. Raise ConfigError without the library, or a port that is free."""
    try:
        from prometheus_client import CollectorRegistry, start_http_server
    except ImportError:
        raise ConfigError(f"metrics_port needs the package prometheus-client; {to_install('metrics')}") from None
    registry = CollectorRegistry(auto_describe=False)
    registry.register(Told(tally))
    try:
        server, _ = start_http_server(port, host, registry)
    except OSError as exc:
        where = f"metrics_port = {port} on metrics_host = {host!r}"
        raise ConfigError(f"{where}: {exc}; each worker on a machine needs a port of its own, and each bridge") from exc
    return server


class Told:
    """What a worker, or a bridge, has counted, as prometheus_client collects it."""

    def __init__(self, tally: Tally) -> None:
        self._tally = tally

    def collect(self) -> Iterator[Any]:
        """Yield each metric."""
        for what, metric in METRICS.items():
            yield self._histogram(what, metric) if metric.bounds else self._counter(what, metric)

    def _counter(self, what: str, metric: Metric) -> Any:
        from prometheus_client.metrics_core import CounterMetricFamily

        family = CounterMetricFamily(metric.name, metric.text, labels=metric.labels)
        for labels, total, _ in self._tally.series(what):
            family.add_metric(labels, total)
        return family

    def _histogram(self, what: str, metric: Metric) -> Any:
        from prometheus_client.metrics_core import HistogramMetricFamily

        family = HistogramMetricFamily(metric.name, metric.text, labels=metric.labels)
        for labels, total, counts in self._tally.series(what):
            buckets, number = [], 0
            for bound, more in zip((*metric.bounds, float("inf")), counts, strict=True):
                number += more
                buckets.append(("+Inf" if bound == float("inf") else str(bound), number))
            family.add_metric(labels, buckets, sum_value=total)
        return family
