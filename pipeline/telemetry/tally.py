"""What a worker, or a bridge, has counted, in its main process: those of a pool tell it, and may die at any time."""

from __future__ import annotations

import logging
import os
import threading
from bisect import bisect_left
from collections import deque
from collections.abc import Iterable, Sequence
from contextlib import suppress
from itertools import islice
from typing import NamedTuple

import orjson

from ..core import forks
from ..core.observe import Fact, Log, bounded

logger = Log(logging.getLogger(__name__))

#: Bytes that are written to a pipe whole or not at all, whoever writes meanwhile.
PIECE = 4096
#: Facts that a process keeps while the main process does not read.
MOST_KEPT = 10_000
_RUN = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0)
_QUEUE = (0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0, 7200.0)


class Metric(NamedTuple):
    """Something that is counted.

    Attributes:
        labels: the names of its labels; the first one's values are bounded in number.
        bounds: of a histogram's buckets, in seconds; none for a plain count.

    """

    name: str
    text: str
    labels: tuple[str, ...]
    bounds: tuple[float, ...] = ()


METRICS = {
    "published": Metric(
        "pipeline_worker_published", "Events that this worker has handed to the broker, by type.", ("type",)
    ),
    "ended": Metric(
        "pipeline_worker_deliveries", "How attempts have ended in this worker, by agent.", ("agent", "outcome")
    ),
    "ran": Metric("pipeline_worker_run_seconds", "How long attempts took in this worker.", ("agent",), _RUN),
    "waited": Metric(
        "pipeline_worker_queue_seconds", "From an event's time until an agent had it first.", ("agent",), _QUEUE
    ),
    "aside": Metric("pipeline_bridge_aside", "Messages that a bridge has put aside in this process.", ("bridge",)),
}


class Series:
    """One metric with one set of labels.

    Attributes:
        total: how often it has happened, or the sum of the seconds.
        buckets: how many values are in each bucket of a histogram; the last one has no bound.

    """

    def __init__(self, buckets: int) -> None:
        self.total = 0.0
        self.buckets = [0] * buckets


class Tally:
    """Counts in this process, and takes from its children what they have counted.

    Arguments:
        most: values of each first label that are told apart.

    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._lock = threading.Lock()
        self._series: dict[str, dict[tuple[str, ...], Series]] = {what: {} for what in METRICS}
        self._known: dict[str, set[str]] = {}
        self._waiting: deque[bytes] = deque(maxlen=MOST_KEPT)
        self._is_child = self._is_closed = False
        self._read, self._write = os.pipe()
        os.set_blocking(self._write, False)
        self._thread = threading.Thread(target=self._listen, name="pipeline-metrics", daemon=True)
        forks.watch(self)

    def start(self) -> None:
        """Take from now on what the children say, in a thread of its own."""
        self._thread.start()

    def close(self) -> None:
        """Let that thread end, when it has read all there is."""
        self._is_closed = True
        os.close(self._write)
        if self._thread.ident is not None:
            self._thread.join(5)
        os.close(self._read)

    def count(self, facts: Iterable[Fact]) -> None:
        """Count something; in a child, let the main process do so. Whatever is wrong with that, deliveries go on."""
        try:
            with self._lock:
                if not self._is_child:
                    self._add(facts)
                    return
                has_to_go = False
                for fact in facts:
                    self._waiting.append(orjson.dumps(tuple(fact)) + b"\n")
                    has_to_go = has_to_go or not fact.can_wait
                if has_to_go:
                    self._tell()
        except Exception as exc:
            logger.warning("something could not be counted: %s", exc)

    def flush(self) -> None:
        """Let the main process have, at the end of a child, what could wait so far."""
        if self._is_child:
            with self._lock:
                self._tell()

    def series(self, what: str) -> list[tuple[tuple[str, ...], float, Sequence[int]]]:
        """Return what has been counted of something: labels, total and buckets."""
        with self._lock:
            return [(labels, one.total, tuple(one.buckets)) for labels, one in sorted(self._series[what].items())]

    def _add(self, facts: Iterable[Fact]) -> None:
        for what, labels, value, _ in facts:
            metric = METRICS[what]
            place = (bounded(labels[0], self._known.setdefault(metric.labels[0], set()), self._most), *labels[1:])
            series = self._series[what].get(place)
            if series is None:
                series = self._series[what][place] = Series(len(metric.bounds) + 1 if metric.bounds else 0)
            series.total += value
            if metric.bounds:
                series.buckets[bisect_left(metric.bounds, value)] += 1

    # -- children

    def _tell(self) -> None:
        """Write what is to be told in pieces that arrive whole; what the pipe has no room for is told the next time."""
        with suppress(OSError):  # it is full, or the worker has ended
            while self._waiting:
                number, size = 0, 0
                for line in self._waiting:
                    if number and size + len(line) > PIECE:
                        break
                    number, size = number + 1, size + len(line)
                os.write(self._write, b"".join(islice(self._waiting, number)))
                for _ in range(number):
                    self._waiting.popleft()

    def _listen(self) -> None:
        rest = b""
        while data := os.read(self._read, 64 * 1024):
            *lines, rest = (rest + data).split(b"\n")
            self.count(Fact(what, tuple(labels), *more) for what, labels, *more in map(orjson.loads, lines))

    def before_fork(self) -> None:
        """Do nothing: what was counted stays here."""

    def after_fork(self, *, child: bool) -> None:
        """Begin anew in a child."""
        if child and not (self._is_child or self._is_closed):
            self._is_child = True
            self._waiting.clear()
            self._lock = threading.Lock()
            os.close(self._read)
