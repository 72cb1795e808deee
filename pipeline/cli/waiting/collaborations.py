"""The commands about agents that work together: collaborations start, list, show."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from ...agents.loading import import_agents
from ..group import CommandSet, app_of, examples
from ..options import AsJson, Limit, read_data
from ..output import clock, indented, print_json, print_table, printable, report, say

commands = CommandSet(
    no_args_is_help=True, help="Agents that are chosen now, and work together in a pattern.", rich_markup_mode=None
)

Id = Annotated[str, typer.Argument(metavar="ID", help="The collaboration's id.")]


@commands.command(
    epilog=examples(
        'pipeline collaborations start request-response search fact-check --data \'{"about": "tea"}\'',
        'pipeline collaborations start saga \'{"agent": "reserve", "undo": "release"}\' pay --data @order.json',
    )
)
def start(
    ctx: typer.Context,
    pattern: Annotated[
        str,
        typer.Argument(metavar="PATTERN", help="request-response, publish-subscribe, choreography, saga or workflow."),
    ],
    participants: Annotated[
        list[str], typer.Argument(metavar="AGENT...", help="Names; in a saga or workflow also JSON, as in the example.")
    ],
    data: Annotated[
        str, typer.Option(help="What each gets: JSON; @FILE reads a file, - reads standard input.")
    ] = "null",
    deadline: Annotated[str | None, typer.Option(metavar="TIME", help="When it ends in any case, such as 1h.")] = None,
    as_json: AsJson = False,
) -> None:
    """Let agents work together, and print the collaboration's id."""
    app = app_of(ctx)
    import_agents(app.celery)
    named: list[Any] = [read_data(one) if one.lstrip().startswith("{") else one for one in participants]
    id = app.collaborate(pattern, named, read_data(data), deadline=deadline)
    report({"id": id}, id, as_json=as_json)


@commands.command("list", epilog=examples("pipeline collaborations list", "pipeline collaborations list --json"))
def list_(ctx: typer.Context, limit: Limit = 100, as_json: AsJson = False) -> None:
    """List collaborations, the newest first."""
    found = app_of(ctx).collaborations.list(limit=limit)
    if as_json:
        print_json([one.as_data() for one in found])
    elif found:
        rows = [
            (one.id, one.pattern, one.status, clock(one.start), clock(one.end), ", ".join(one.participants))
            for one in found
        ]
        print_table(("id", "pattern", "status", "started", "ended", "participants"), rows)
    else:
        say("no collaborations")


@commands.command(epilog=examples("pipeline collaborations show 01980c5e-7d1c-7a52-9f0e-6a4e8f7f0d11"))
def show(ctx: typer.Context, id: Id, as_json: AsJson = False) -> None:
    """Show one: who takes part, what each has come to, and why some have failed."""
    one = app_of(ctx).collaborations.get(id)
    if as_json:
        print_json(one.as_data())
        return
    until = f" to {clock(one.end)}" if one.end else ""
    typer.echo(f"{one.pattern} {one.id}: {one.status}, from {clock(one.start)}{until}")
    for name in one.participants:
        said = f"failed: {one.errors[name]}" if name in one.errors else "is not done"
        if name in one.results:
            said = indented(one.results[name])
        typer.echo(printable(f"{name}: {said}", keep="\n"))
    if "collaboration" in one.errors:
        typer.echo(printable(f"it failed: {one.errors['collaboration']}"))
