"""What a worker says of itself with each heartbeat: where it runs, its size, and what its agents can do."""

from __future__ import annotations

import os
import resource
import socket
from collections.abc import Container, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..core.times import SECOND
from ..ledger.database.rows import DEAD_AFTER

if TYPE_CHECKING:
    from ..agents.agent import Agent
    from ..bus import Bus
    from ..ledger.workers import Roll


def about(bus: Bus, names: Container[str]) -> dict[str, Any]:
    """Return what a worker is, and what the agents that it runs can do, as JSON data.

    Arguments:
        names: those of the code's agents that it runs.

    """
    subscribes = bus.subscribed is not None and bus.subscribed.is_on
    mine = (agent for agent in bus.agents if agent.name in names or (agent.in_ledger and subscribes))
    agents = {agent.name: _about(bus, agent) for agent in mine}
    return {"host": socket.gethostname(), "pid": os.getpid(), "memory": memory(), "agents": agents}


def _about(bus: Bus, agent: Agent) -> Mapping[str, Any]:
    said: dict[str, Any] = {"capacity": _capacity(bus, agent)}
    said["max_waiting"] = None if agent.bound is None else agent.bound.max_waiting
    limits = [limit.concurrent for limit in agent.limits if limit.concurrent is not None and not limit.key]
    if limits:
        said["limit"] = min(limits)
    if agent.capabilities:
        said["capabilities"] = [one.as_data() for one in agent.capabilities]
    return said


def _capacity(bus: Bus, agent: Agent) -> int | None:
    if agent.is_async:
        return agent.max_concurrent or bus.settings.async_concurrency
    return min(filter(None, (agent.max_concurrent, bus.slots)), default=None)


def lets_more(agent: str, bound: int, roll: Roll) -> bool:
    """Say whether a version of an agent runs that lets more wait; one that says nothing of it is from before it did.

    Arguments:
        bound: how many events may wait by one's own version.

    """
    alive = (one for one in roll.workers if one.ended is None and roll.at - one.seen < DEAD_AFTER * SECOND)
    said = (one.about.get("agents", {}).get(agent) or {} for one in alive)
    return any(most is None or most > bound for most in (one.get("max_waiting", 0) for one in said))


def memory() -> int:
    """Return how many bytes this process and those that it has started have in memory."""
    with suppress(OSError, ValueError):
        return sum(_resident(pid) for pid in (os.getpid(), *_children()))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # where the system does not tell: the most so far


def _children() -> Sequence[int]:
    with suppress(OSError, ValueError):
        return [int(pid) for pid in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()]
    return ()


def _resident(pid: int) -> int:
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except (OSError, IndexError):
        if pid == os.getpid():
            raise
        return 0  # it has ended meanwhile
    return pages * os.sysconf("SC_PAGE_SIZE")
