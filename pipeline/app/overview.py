"""What goes on in an app, for those who watch it: its agents, and what is wrong."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..core.times import as_json_time

if TYPE_CHECKING:
    from ..contracts.capability import Capability
    from ..ledger.status import Status
    from .app import Pipeline


def agent_rows(app: Pipeline, only: str | None = None) -> list[dict[str, Any]]:
    """Return every agent that ever ran, with how it stands, as JSON data.

    Arguments:
        only: this one alone, if it did.

    """
    from ..ledger.waiting.pauses import AGENT
    from ..operations.standing import standing

    found = [one for one in app.presence.agents() if only in (None, one.agent)]
    stands, patterns = standing(app.bus, [one.agent for one in found]), app.ledger.subscribers.all()
    paused = {pause.name: pause for pause in app.pauses.list() if pause.kind == AGENT}
    rows = []
    for one in found:
        pause = paused.get(one.agent)
        said = None if pause is None else {"since": as_json_time(pause.since), "reason": pause.reason}
        listens = list(patterns.get(one.agent, ()))
        rows.append({**one.as_data(), "event_types": listens, **stands[one.agent].as_data(), "paused": said})
    return rows


def capabilities_of(app: Pipeline) -> dict[str, Capability]:
    """Return what agents can do, by id: those that are declared here, and those that run elsewhere."""
    from ..history.presence import State

    said = [one for agent in app.agents for one in agent.capabilities]
    if app.has_ledger:
        there = (agent for agent in app.presence.agents() if agent.state is not State.OFFLINE)
        said += [one for agent in there for one in agent.capabilities]
    found: dict[str, Capability] = {}
    for one in said:
        found.setdefault(one.id, one)
    return dict(sorted(found.items()))


def what_is_wrong(app: Pipeline, numbers: Status) -> list[tuple[str, str]]:
    """Return what is wrong, each with the view of the page that shows it.

    Arguments:
        numbers: what lies in the ledger.

    """
    from ..ledger.status import several

    wrong = []
    if dead := numbers.outcomes.get("dead", 0):
        wrong.append((several(dead, "dead letter"), "dead"))
    if suspected := [one.agent for one in app.presence.agents() if one.state == "suspected"]:
        wrong.append((f"{', '.join(suspected[:3])}: not heard of", "agents"))
    if numbers.agents and not numbers.workers:
        wrong.append(("no worker runs", "agents"))
    if paused := app.pauses.list():
        wrong.append((f"paused: {', '.join(one.name for one in paused[:3])}", "agents"))
    if stuck := app.flows.list(status="stuck", limit=100):
        wrong.append((f"{several(len(stuck), 'flow')} to be helped on", "flows"))
    if waiting := app.approvals.list(limit=100):
        wrong.append((f"{several(len(waiting), 'approval')} to decide", "approvals"))
    return wrong
