"""Small charts: numbers over time as bars, and what waits for each agent, each with what it says in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from ...history.traffic import Counts
from ...operations.standing import Standing

#: The size of a chart, and the least height of a bar for what is there (pixels).
WIDTH, HEIGHT, LEAST = 300, 60, 2
#: Agents whose backlog is shown: those with the most.
MOST_AGENTS = 8


class Bar(NamedTuple):
    """A bar of a chart (pixels); `kind` is how the page colours it."""

    kind: str
    x: float
    y: float
    width: float
    height: float


@dataclass(frozen=True)
class Chart:
    """A chart.

    Attributes:
        title: what it shows.
        said: the numbers in words.

    """

    title: str
    said: str
    bars: Sequence[Bar]
    width: int = WIDTH
    height: int = HEIGHT


class Backlog(NamedTuple):
    """What an agent has before it: a bar for each kind of it, beside each other on one scale (percent)."""

    agent: str
    said: str
    bars: Sequence[Bar]


def chart_of(title: str, series: Mapping[str, tuple[str, Counts]]) -> Chart:
    """Return a chart of numbers over time, one above the other.

    Arguments:
        series: by the kind that colours it what is counted, in words, and the numbers; all of the same time.

    """
    counts = [one for _, one in series.values()]
    most = max(map(sum, zip(*(one.numbers for one in counts), strict=True)), default=0)
    step = WIDTH / max(len(counts[0].numbers), 1)
    bars = []
    for part in range(len(counts[0].numbers)):
        y = float(HEIGHT)
        for kind, (_, one) in series.items():
            if number := one.numbers[part]:
                height = max(number / most * (HEIGHT - LEAST * len(series)), LEAST)
                y -= height
                bars.append(Bar(kind, round(part * step, 2), round(y, 2), round(step * 0.8, 2), round(height, 2)))
    told = ", ".join(f"{sum(one.numbers):,} {what}" for what, one in series.values())
    return Chart(title, f"{told}; at most {most:,} in {counts[0].each.total_seconds():g} s", bars)


def backlog_of(stands: Mapping[str, Standing]) -> list[Backlog]:
    """Return what waits and runs of those agents that have the most before them, the one with the most first."""
    kinds = {
        agent: {
            "queued": one.waiting or 0,
            "running": one.running,
            "retrying": one.retrying,
            "parked": sum(one.parked.values()),
        }
        for agent, one in stands.items()
    }
    busy = sorted(
        (agent for agent in kinds if any(kinds[agent].values())), key=lambda agent: -sum(kinds[agent].values())
    )
    most = max((sum(kinds[agent].values()) for agent in busy), default=0)
    found = []
    for agent in busy[:MOST_AGENTS]:
        bars, x = [], 0.0
        for kind, number in kinds[agent].items():
            width = number / most * 100
            bars += [Bar(kind, round(x, 2), 0, round(width, 2), HEIGHT)] if number else []
            x += width
        said = ", ".join(f"{number:,} {kind}" for kind, number in kinds[agent].items() if number)
        found.append(Backlog(agent, said, bars))
    return found
