"""The command that lists the agents: agents."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import typer

from ..agents.loading import import_agents
from .group import CommandSet, app_of, examples
from .options import AsJson
from .output import print_json, print_table

if TYPE_CHECKING:
    from ..app.app import Pipeline

commands = CommandSet()


@commands.command(epilog=examples("pipeline agents", "pipeline --app shop.bus:app agents --json"))
def agents(ctx: typer.Context, as_json: AsJson = False) -> None:
    """List the agents: what they subscribed to, and how they are run."""
    rows = agent_rows(app_of(ctx))
    if as_json:
        print_json(rows)
        return
    headings = ("agent", "patterns", "payload", "retries", "rate limit", "timeout", "queue")
    print_table(headings, [_agent_cells(row) for row in rows])


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
        }
        for agent in app.agents
    ]


def _agent_cells(row: dict[str, Any]) -> list[str]:
    patterns = " ".join(row["patterns"]) or "(called by joins)"
    seconds = f"{row['timeout']:g} s" if row["timeout"] else ""
    limit, payload = row["rate_limit"] or "", row["payload"] or ""
    return [row["name"], patterns, payload, str(row["retries"]), limit, seconds, row["queue"]]
