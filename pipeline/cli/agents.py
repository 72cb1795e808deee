"""The commands about agents: agents, agents pause, agents resume."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..agents.loading import import_agents
from ..core.errors import LedgerError, PipelineError
from ..core.times import as_json_time
from .group import CommandSet, app_of, examples
from .options import AsJson
from .output import clock, print_json, print_table, report, say

if TYPE_CHECKING:
    from ..agents.agent import Agent
    from ..app.app import Pipeline
    from ..history.presence import AgentPresence
    from ..ledger.waiting.pauses import Pause
    from ..operations.standing import Standing

#: The kind of pause that somebody has asked for.
AGENT = "agent"

commands = CommandSet(invoke_without_command=True, rich_markup_mode=None)

Named = Annotated[str, typer.Argument(metavar="AGENT", help="The agent's name or did.")]


@commands.callback(
    epilog=examples(
        "pipeline agents",
        "pipeline --app shop.bus:app agents --json",
        "pipeline agents --live",
        "pipeline agents pause research --reason 'the index is rebuilt'",
        "pipeline agents resume research",
    )
)
def agents(
    ctx: typer.Context,
    live: Annotated[bool, typer.Option("--live", help="Which of them are there now, and how busy they are.")] = False,
    as_json: AsJson = False,
) -> None:
    """List the agents: what they subscribed to, and how they are run. Or pause one, and let it go on."""
    if ctx.invoked_subcommand is not None:
        return
    app = app_of(ctx)
    if live:
        _print_live(app.presence.agents(), as_json=as_json)
        return
    rows = agent_rows(app)
    paused, stands = _paused(app), _standing(app, [row["name"] for row in rows])
    if as_json:
        print_json([{**row, **_more(row["name"], paused, stands)} for row in rows])
        return
    headings = ["agent", "patterns", "payload", "retries", "rate limit", "timeout", "queue"]
    cells = [_agent_cells(row) for row in rows]
    if any(row["did"] for row in rows):
        headings.append("did")
        cells = [[*line, row["did"] or ""] for line, row in zip(cells, rows, strict=True)]
    if stands:
        headings += ["waiting", "running", "retrying", "parked", "oldest"]
        cells = [[*line, *_standing_cells(stands[line[0]])] for line in cells]
    if paused:
        headings += ["paused since", "reason"]
        cells = [[*line, *_pause_cells(paused.get(line[0]))] for line in cells]
    print_table(headings, cells)


def _print_live(found: Sequence[AgentPresence], *, as_json: bool) -> None:
    if as_json:
        print_json([one.as_data() for one in found])
        return
    headings = ["agent", "state", "workers", "running", "capacity", "load", "last seen", "can"]
    print_table(headings, [_live_cells(one) for one in found])
    for agent in found:
        for worker in agent.workers:
            if worker.state == "suspected":
                where = f"{worker.host}:{worker.pid}" if worker.host else worker.id
                say(f"{agent.agent}: the worker {where} was last heard of at {clock(worker.last_seen)}")


def _live_cells(one: AgentPresence) -> list[str]:
    here = sum(worker.state == "online" for worker in one.workers)
    capacity = "" if one.capacity is None else f"{one.capacity:,}"
    can = ", ".join(able.id for able in one.capabilities)
    return [one.agent, one.state, str(here), f"{one.running:,}", capacity, f"{one.load:.0%}", clock(one.last_seen), can]


@commands.command(epilog=examples("pipeline agents pause research --reason 'the index is rebuilt'"))
def pause(
    ctx: typer.Context,
    agent: Named,
    reason: Annotated[str, typer.Option(metavar="TEXT", help="Why, for those who see it in the list.")] = "",
    as_json: AsJson = False,
) -> None:
    """Let all workers leave an agent's queue alone; its events wait there, whatever is restarted meanwhile."""
    app = _app_with_agents(ctx)
    is_new = app.pause(agent, reason=reason)
    said = f"paused {agent}" if is_new else f"{agent} was paused already"
    report({"agent": agent, "paused": True, "changed": is_new}, said, as_json=as_json)


@commands.command(epilog=examples("pipeline agents resume research"))
def resume(ctx: typer.Context, agent: Named, as_json: AsJson = False) -> None:
    """Let all workers consume an agent's queue again."""
    was = _app_with_agents(ctx).resume(agent)
    said = f"resumed {agent}" if was else f"{agent} was not paused"
    report({"agent": agent, "paused": False, "changed": was}, said, as_json=as_json)


def _app_with_agents(ctx: typer.Context) -> Pipeline:
    app = app_of(ctx)
    import_agents(app.celery)
    return app


def agent_rows(app: Pipeline) -> list[dict[str, Any]]:
    """Import the agents' modules and return what each agent is, as JSON data; raise ConfigError when that fails."""
    import_agents(app.celery)
    return [
        {
            "name": agent.name,
            "patterns": list(agent.patterns),
            "payload": agent.payload.__name__ if agent.payload else "Event" if agent.wants_event else None,
            "retries": agent.retry.max,
            "rate_limit": agent.rate_limit,
            "timeout": agent.timeout,
            "priority": agent.priority,
            "queue": app.bus.names.queue_of(agent.name),
            "did": agent.did,
        }
        for agent in (*app.agents, *_subscribed(app))
    ]


def _subscribed(app: Pipeline) -> list[Agent]:
    """Return the agents that the ledger declares; none where it is off, away, or was never used."""
    if not _has_ledger(app):
        return []
    try:
        return app.subscriptions.agents()
    except PipelineError as exc:
        say(f"which subscriptions there are is not known: {exc}")
        return []


def _has_ledger(app: Pipeline) -> bool:
    """Say whether there is a ledger, which was used before."""
    if not app.bus.has_ledger:
        return False
    database = app.bus.ledger.database
    return not database.is_sqlite or database.path.exists()


def _standing(app: Pipeline, agents: list[str]) -> dict[str, Standing]:
    """Return how agents stand; nothing where that is not known, or where there is nothing to say."""
    if not _has_ledger(app):
        return {}
    from ..operations.standing import standing

    try:
        found = standing(app.bus, agents)
    except LedgerError as exc:
        say(f"what waits for agents is not known: {exc}")
        return {}
    return found if any(one.waiting or one.oldest for one in found.values()) else {}


def _standing_cells(one: Standing) -> list[str]:
    parked = ", ".join(f"{number:,} {kind}" for kind, number in sorted(one.parked.items()))
    waiting = "" if one.waiting is None else f"{one.waiting:,}"
    return [waiting, f"{one.running:,}", f"{one.retrying:,}", parked, clock(one.oldest)]


def _more(name: str, paused: dict[str, Pause], stands: dict[str, Standing]) -> dict[str, Any]:
    """Return what --json says of an agent beside how it is declared."""
    from ..operations.standing import Standing

    return {**stands.get(name, Standing()).as_data(), "paused": _pause_data(paused.get(name))}


def _paused(app: Pipeline) -> dict[str, Pause]:
    """Return the pauses of agents; none where the ledger is off, away, or was never used."""
    if not _has_ledger(app):
        return {}
    try:
        return {pause.name: pause for pause in app.pauses.list() if pause.kind == AGENT}
    except LedgerError as exc:
        say(f"which agents are paused is not known: {exc}")
        return {}


def _pause_data(pause: Pause | None) -> dict[str, Any] | None:
    return None if pause is None else {"since": as_json_time(pause.since), "reason": pause.reason}


def _pause_cells(pause: Pause | None) -> list[str]:
    return ["", ""] if pause is None else [clock(pause.since), pause.reason]


def _agent_cells(row: dict[str, Any]) -> list[str]:
    patterns = " ".join(row["patterns"]) or "(called by joins)"
    seconds = f"{row['timeout']:g} s" if row["timeout"] else ""
    limit, payload = row["rate_limit"] or "", row["payload"] or ""
    return [row["name"], patterns, payload, str(row["retries"]), limit, seconds, row["queue"]]
