"""Events per second that one process publishes, with 1, 5 and 20 subscribers whose queues are bound.

Each contender publishes a burst over a connection that is open and warm, and all contenders take turns. Timed is the
span until the last call returns ("called"), and until every copy is in its queue ("arrived": what a broker takes in
without confirms is in nobody's queue yet when the call returns). The CPU time is the publishing process's own.
This bus publishes without a ledger, and once more with each kind of it.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from . import agents, bare
from .contenders import ApplyAsync, Contender, contenders
from .databases import Database
from .progress import say
from .queues import Queues, of_agents, of_tasks
from .samples import median, timed
from .servers import Broker

WARM_UP = 100


@dataclass(frozen=True)
class Burst:
    """Events per second until the calls returned and until all copies arrived; microseconds of CPU per event."""

    called: float
    arrived: float
    cpu_us: float


@dataclass(frozen=True)
class Published:
    """The bursts of one contender."""

    broker: str
    subscribers: int
    contender: str
    confirmed: bool
    events: int
    bursts: list[Burst]

    @property
    def called(self) -> list[float]:
        """Return the rates until the calls returned."""
        return [burst.called for burst in self.bursts]

    def as_json(self) -> dict[str, Any]:
        """Return everything that was measured."""
        return asdict(self)


def measure(
    broker: Broker, subscribers: int, repeats: int, scale: float, databases: Sequence[Database]
) -> list[Published]:
    """Let all contenders publish in turns.

    Arguments:
        databases: for the ledgers of those that have one.
        scale: the part of the usual number of events.

    """
    app, celery = agents.build(broker.url, subscribers), bare.build(broker.url, subscribers)
    to_agents, to_tasks = of_agents(app), of_tasks(celery, subscribers)
    found: list[tuple[Contender, Queues, Published]] = []
    for contender in contenders(broker, subscribers, databases):
        count = max(int(contender.burst * scale), WARM_UP)
        queues = to_tasks if isinstance(contender, ApplyAsync) else to_agents
        found.append(
            (contender, queues, Published(broker.name, subscribers, contender.name, contender.confirmed, count, []))
        )
        contender.publish(WARM_UP)
        queues.wait(WARM_UP * subscribers)
        queues.purge()
    for _ in range(repeats):
        for contender, queues, published in found:
            published.bursts.append(_burst(contender, queues, published.events, subscribers))
    for contender, _, published in found:
        contender.close()
        say(f"publish {broker.name} {subscribers}: {contender.name}: {median(published.called):,.0f}/s")
    for queues in (to_agents, to_tasks):
        queues.close()
    return [published for _, _, published in found]


def _burst(contender: Contender, queues: Queues, count: int, subscribers: int) -> Burst:
    took = timed(lambda: contender.publish(count))
    started = time.perf_counter() - took.wall
    queues.wait(count * subscribers)
    arrived = time.perf_counter() - started
    queues.purge()
    return Burst(count / took.wall, count / arrived, took.cpu / count * 1e6)
