"""What the doctor finds where an event meets silence: nobody listens, nobody ever ran, or they use another ledger."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from ..core.outcome import Outcome
from ..core.routing import receivers
from ..ledger.status import Status, counted, status, unrouted_by_type
from .checks import Check, ok, warn

if TYPE_CHECKING:
    from ..bus import Bus

#: Event types that a line names.
MOST_NAMED = 5


def listeners(bus: Bus, app: str, running: Mapping[str, str]) -> Iterator[Check]:
    """Say who gets events, as the ledger knows it, and what nobody got.

    Arguments:
        app: what names the app to commands.
        running: the workers that answer on the broker.

    """
    numbers = status(bus.ledger.database)
    known = bus.ledger.subscribers.all()
    yield _who_listens(bus, app, numbers, known)
    if running and not numbers.workers:
        yield warn(
            "workers",
            f"{len(running)} answer on the broker, but none of them uses the ledger {bus.ledger}",
            "give publishers and workers the same PIPELINE_LEDGER_URL, or the same PIPELINE_DIRECTORY",
        )
    yield from _unrouted(bus, app, known)
    if dead := numbers.outcomes.get(Outcome.DEAD.value, 0):
        yield warn(
            "dead letters",
            f"{dead:,}: agents have given up these deliveries",
            f"see why: pipeline -A {app} dead list; when that is mended: pipeline -A {app} dead requeue --all",
        )


def _who_listens(bus: Bus, app: str, numbers: Status, known: Mapping[str, tuple[str, ...]]) -> Check:
    if not known:
        return warn(
            "listeners",
            f"no agent has ever run on the ledger {bus.ledger}: nobody gets what is published",
            f"start a worker with the same PIPELINE_DIRECTORY and PIPELINE_LEDGER_URL: celery -A {app} worker",
        )
    new = [agent.name for agent in bus.agents if agent.name not in known and agent.patterns]
    if new:
        mend = f"start the workers again, so that they have it: celery -A {app} worker"
        return warn("listeners", f"no worker has run {', '.join(new)} yet: nothing is kept for it", mend)
    return ok("listeners", f"{len(known)} agents have run: {', '.join(sorted(known))}")


def _unrouted(bus: Bus, app: str, known: Mapping[str, tuple[str, ...]]) -> Iterator[Check]:
    missed = unrouted_by_type(bus.ledger.database)
    everyone = {**{agent.name: agent.patterns for agent in bus.agents}, **known}
    wanted = [some for some in missed if receivers(everyone, some.type, some.targets)]
    lost = [some for some in missed if some not in wanted]
    for found, says, mend in (
        (
            wanted,
            "came before there was a worker with the agents that listen",
            f"when it runs, deliver them: pipeline -A {app} unrouted --replay",
        ),
        (
            lost,
            "went to nobody, and nobody listens now either",
            f"correct the type where it is published, or the agent's on=: pipeline -A {app} agents",
        ),
    ):
        if found:
            number = counted(sum(some.number for some in found))
            types = list(dict.fromkeys(some.type for some in found))
            named = ", ".join(types[:MOST_NAMED]) + (" ..." if len(types) > MOST_NAMED else "")
            yield warn("unrouted", f"{number} {says}: {named}", mend)
