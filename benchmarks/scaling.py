"""What 10, 1,000 and 100,000 events a second would need: a model of queues, whose service times were measured.

    python -m benchmarks.scaling
    python -m benchmarks.scaling --rate 5000 --agents 3 --handler 20 --cells 4 --publishers 4 --slots 80

Nothing is started: it takes a few seconds on any machine. Events come at random times (a Poisson process), pass five
stations, and wait at each for a server that is free: publishing, the append to the ledger, the broker's copies, the
handlers' slots, the claim and the record in the ledger. A server takes all that waits, up to a group, as the bus does.
How long groups take is from docs/benchmarks.md, and interpolated between them. Cells, each with a broker and a ledger,
share the keys evenly, so one of them is simulated.
"""

from __future__ import annotations

import argparse
import heapq
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

from .samples import percentile
from .tables import table

#: Microseconds for a group of so many, from docs/benchmarks.md (2 cores, which the broker and the database share).
Times = Mapping[int, float]
#: RabbitMQ and PostgreSQL, every commit on disk: publish() and publish_many() without the append; append(); a copy, by
#: what arrives with 5 agents; the rest of a delivery; claiming and recording 1, 10 and 100 at once.
SERVERS: Mapping[str, Times] = {
    "publish": {1: 1061, 500: 500 * 91},
    "append": {1: 728, 1000: 1000 * 50.5},
    "copies": {1: 46},
    "handlers": {1: 249},
    "records": {1: 632, 10: 10 * 198, 100: 100 * 66},
}
#: The embedded broker and a ledger in SQLite, whose copies are part of publishing.
EMBEDDED: Mapping[str, Times] = {
    "publish": {1: 118, 500: 500 * 32},
    "append": {1: 136, 1000: 1000 * 28.4},
    "copies": {1: 10},
    "handlers": {1: 127},
    "records": {1: 111, 10: 10 * 51, 100: 100 * 41},
}


@dataclass(frozen=True)
class Layout:
    """What runs, and what it has to do.

    Attributes:
        rate: events a second, over all cells.
        agents: that each event has a copy for.
        handler: milliseconds that a handler takes.
        cells: brokers with a ledger each.
        publishers: processes that publish, in each cell.
        slots: handlers that run at once in each cell, over all its workers.
        queues: that each agent's copies are spread over, and that the broker of each cell serves side by side.
        writers: connections that append and that record at the same time, in each cell, without being slower for it.
        embedded: whether it is the embedded broker and SQLite, instead of RabbitMQ and PostgreSQL.

    """

    name: str
    rate: float
    agents: int = 5
    handler: float = 2.0
    cells: int = 1
    publishers: int = 1
    slots: int = 2
    queues: int = 1
    writers: int = 1
    embedded: bool = False

    def times(self, station: str) -> Times:
        """Return how long a station takes for an event, or for the copy for one agent."""
        measured = (EMBEDDED if self.embedded else SERVERS)[station]
        many = self.agents if station == "copies" else 1
        more = self.handler * 1000 if station == "handlers" else 0.0
        return {size: many * took + more for size, took in measured.items()}

    def servers(self, station: str) -> int:
        """Return how many groups a station of one cell serves at once."""
        return {"publish": self.publishers, "handlers": self.slots, "copies": self.queues}.get(station, self.writers)

    def busy(self, station: str) -> float:
        """Return how much of what a station can do, in its largest groups, it has to do: more than 1 is too much."""
        copies = self.agents if station in ("handlers", "records") else 1
        times = self.times(station)
        return self.rate / self.cells * copies * times[max(times)] / max(times) / 1e6 / self.servers(station)


@dataclass(frozen=True)
class Simulated:
    """What came of a layout: how busy each station is (more than 1 is too much), and milliseconds until all is done."""

    layout: Layout
    busy: Mapping[str, float]
    p50: float
    p99: float

    @property
    def keeps_up(self) -> bool:
        """Whether no station gets more than it can do; where one does, the times only say how long was simulated."""
        return max(self.busy.values()) < 1


LAYOUTS = (
    Layout("one machine, embedded", 10, handler=20, embedded=True),
    Layout("servers, 1 worker of 2", 1000, publishers=2),
    Layout("servers, 4 workers of 4", 1000, publishers=2, slots=16),
    Layout("the same with 160 slots", 10_000, publishers=8, slots=160),
    Layout("4 queues, 8 writers", 10_000, publishers=8, slots=160, queues=4, writers=8),
    Layout("one broker, one ledger", 100_000, publishers=200, slots=1600),
    Layout("50 cells", 100_000, cells=50, publishers=4, slots=32),
    Layout("50 cells, 2 writers each", 100_000, cells=50, publishers=4, slots=32, writers=2),
)


def time_of(times: Times, number: int) -> float:
    """Return the seconds that a group of `number` takes, interpolated between the sizes that were measured."""
    sizes = sorted(times)
    above = next((size for size in sizes if size >= number), sizes[-1])
    below = max((size for size in sizes if size <= number), default=sizes[0])
    if above == below:
        return times[above] / 1e6
    return (times[below] + (times[above] - times[below]) * (number - below) / (above - below)) / 1e6


def serve(arrivals: Sequence[float], servers: int, times: Times) -> list[float]:
    """Let a station serve what comes, first come first served, and return when each one leaves.

    Arguments:
        arrivals: when each one comes, in seconds, in order.
        servers: how many groups are served at once.
        times: microseconds for groups; the largest of these is the largest group.

    """
    free = [0.0] * servers
    leaves: list[float] = []
    while (first := len(leaves)) < len(arrivals):
        begins = max(heapq.heappop(free), arrivals[first])
        end = first + 1
        while end < len(arrivals) and end - first < max(times) and arrivals[end] <= begins:
            end += 1
        ends = begins + time_of(times, end - first)
        heapq.heappush(free, ends)
        leaves += [ends] * (end - first)
    return leaves


def simulate(layout: Layout, *, events: int = 20_000, seed: int = 7) -> Simulated:
    """Send events through one cell of a layout; the first tenth of them is not counted."""
    chance = random.Random(seed)
    came = list(accumulate(chance.expovariate(layout.rate / layout.cells) for _ in range(events)))
    waiting = list(zip(came, range(events), strict=True))
    for station in SERVERS:
        if station == "handlers":  # each copy goes its own way
            waiting = [one for one in waiting for _ in range(layout.agents)]
        leaves = serve([at for at, _ in waiting], layout.servers(station), layout.times(station))
        waiting = sorted((at, number) for at, (_, number) in zip(leaves, waiting, strict=True))
    done = {number: at for at, number in waiting}  # the last one of each event
    took = [1000 * (done[number] - came[number]) for number in range(events // 10, events)]
    busy = {station: layout.busy(station) for station in SERVERS}
    return Simulated(layout, busy, percentile(took, 50), percentile(took, 99))


def shown(results: Sequence[Simulated]) -> str:
    """Return the results as a table."""
    stations = list(SERVERS)
    rows = []
    for one in results:
        busy = [f"{one.busy[station]:.2f}" for station in stations]
        took = [f"{one.p50:,.0f}", f"{one.p99:,.0f}"] if one.keeps_up else ["grows", "grows"]
        rows.append([f"{one.layout.rate:,.0f}", one.layout.name, *busy, *took])
    return table(["events/s", "layout", *stations, "p50 ms", "p99 ms"], rows)


def main() -> None:
    """Print what came of the layouts, or of the one that the options describe."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rate", type=float, help="events a second, over all cells")
    for name in ("agents", "cells", "publishers", "slots", "queues", "writers"):
        parser.add_argument(f"--{name}", type=int, default=getattr(Layout, name))
    parser.add_argument("--handler", type=float, default=Layout.handler, help="milliseconds")
    given = vars(parser.parse_args())
    if wrong := next((name for name, value in given.items() if value is not None and value <= 0), None):
        parser.error(f"--{wrong} has to be more than 0")
    layouts = LAYOUTS if given["rate"] is None else (Layout("yours", **given),)
    print(shown([simulate(layout) for layout in layouts]))


if __name__ == "__main__":
    main()
