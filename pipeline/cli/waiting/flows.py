"""The commands for flows: flows list, show."""

from __future__ import annotations

from typing import Annotated

import typer

from ..group import CommandSet, app_of, examples
from ..options import AsJson, Limit
from ..output import clock, print_json, print_table, printable, say

commands = CommandSet(no_args_is_help=True, help="See joins, and how far they have come.", rich_markup_mode=None)

Id = Annotated[str, typer.Argument(metavar="ID", help="A flow's id, or its first 8 characters.")]


@commands.command("list", epilog=examples("pipeline flows list", "pipeline flows list --status failed --json"))
def list_(
    ctx: typer.Context,
    name: Annotated[str | None, typer.Option(help="Only those of this join.")] = None,
    status: Annotated[str | None, typer.Option(help="Only active, completed, failed or cancelled ones.")] = None,
    limit: Limit = 100,
    as_json: AsJson = False,
) -> None:
    """List flows, the newest first."""
    found = app_of(ctx).flows.list(name=name, status=status, limit=limit + 1)
    if as_json:
        print_json([flow.as_data() for flow in found[:limit]])
    elif found:
        rows = [
            (f.id[:8], f.kind, f.name, f.status, f"{f.done}/{f.members}", clock(f.started), f.reason or "")
            for f in found[:limit]
        ]
        print_table(("id", "kind", "name", "status", "done", "started", "why"), rows)
    else:
        say("no flows")
    if len(found) > limit:
        say(f"there are more than {limit:,}; see them with --limit")


@commands.command(epilog=examples("pipeline flows show 01980c5e", "pipeline flows show 01980c5e --mermaid"))
def show(
    ctx: typer.Context,
    id: Id,
    mermaid: Annotated[bool, typer.Option("--mermaid", help="Print its picture, as a text for Mermaid.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show one: its steps, what has become of them, and what follows."""
    flow = app_of(ctx).flows.show(id)
    if mermaid:
        typer.echo(printable(flow.mermaid, keep="\n"))
    elif as_json:
        print_json(flow.as_data())
    else:
        until = f", until {clock(flow.due)}" if flow.due and not flow.ended else ""
        why = f" ({flow.reason})" if flow.reason else ""
        typer.echo(printable(f"{flow.kind} {flow.name} {flow.id}: {flow.status}{why}{until}"))
        typer.echo(printable(f"event {flow.event_id}, since {clock(flow.started)}"))
        rows = [(str(s.pos), s.agent, s.outcome.value, s.error or s.result or "") for s in flow.steps]
        print_table(("step", "agent", "outcome", "result"), rows)
