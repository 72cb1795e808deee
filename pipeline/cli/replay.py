"""The commands that give events to agents once more: replay, unrouted."""

from __future__ import annotations

from typing import Annotated

import typer

from .group import app_of, examples, working
from .options import AsJson, Correlation, Limit, Pattern, Since, Stream, UpTo
from .output import print_event, print_json, say

commands = typer.Typer()


@commands.command(
    epilog=examples(
        "pipeline replay --to billing --type 'order.#' --since 2026-03-01 --dry-run",
        "pipeline replay --to search-index --all --rate 200",
    )
)
def replay(
    ctx: typer.Context,
    to: Annotated[str, typer.Option(metavar="AGENT", help="Who gets the events; nobody else does.")],
    type: Pattern = None,
    since: Since = None,
    up_to: UpTo = None,
    correlation: Correlation = None,
    agent_id: Stream = None,
    event: Annotated[list[str] | None, typer.Option(metavar="ID", help="This event instead; repeatable.")] = None,
    all: Annotated[bool, typer.Option("--all", help="Every event of the log.")] = False,
    rate: Annotated[float | None, typer.Option(metavar="N", min=0.001, help="Events per second.")] = None,
    broadcast: Annotated[
        bool, typer.Option("--broadcast", help="Send what the agent emits to everybody; else it is only recorded.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only count.")] = False,
    id: Annotated[str | None, typer.Option(help="Go on with this replay; nothing is done twice.")] = None,
    as_json: AsJson = False,
) -> None:
    """Give events of the past to one agent once more."""
    from ..agents.loading import import_agents

    filters = {"type": type, "since": since, "up_to": up_to, "correlation": correlation, "agent_id": agent_id}
    if bool(event) + any(value is not None for value in filters.values()) + all != 1:
        raise typer.BadParameter(
            "say which: --event, or filters (--type, --since, --up-to, --correlation, --agent-id), or --all",
            param_hint="events",
        )
    app = app_of(ctx)
    import_agents(app.celery)
    more = {"rate": rate, "broadcast": broadcast, "dry_run": dry_run, "id": id}
    with working("replaying", "events") as show:
        found = app.replay(to=to, ids=event or None, **filters, all=all, **more, progress=show)
    if as_json:
        print_json({**found._asdict(), "to": to, "dry_run": dry_run})
        return
    skipped = f"; {found.skipped:,} are not for it" if found.skipped else ""
    if dry_run:
        typer.echo(f"{found.number:,} events would be sent to {to}{skipped}")
    else:
        typer.echo(f"replay {found.id}: {found.number:,} events sent to {to} in {found.seconds:.1f} s{skipped}")


@commands.command(epilog=examples("pipeline unrouted", "pipeline unrouted --type 'order.#' --replay"))
def unrouted(
    ctx: typer.Context,
    type: Pattern = None,
    replay: Annotated[
        bool, typer.Option("--replay", help="Give them to the agents that listen to them by now.")
    ] = False,
    limit: Limit = 100,
    as_json: AsJson = False,
) -> None:
    """List events that no agent listened to, the newest first."""
    app = app_of(ctx)
    if replay:
        with working("routing", "events", "do it again for the others") as show:
            number = app.replay_unrouted(type=type, progress=show)
        if as_json:
            print_json({"replayed": number})
        else:
            typer.echo(f"{number:,} events have an agent now; the workers send them")
        return
    found = app.unrouted(type=type, limit=limit + 1)
    for one in found[:limit]:
        print_event(one, as_json=as_json)
    if not found and not as_json:
        say("no unrouted events")
    if len(found) > limit:
        say(f"there are more than {limit:,} unrouted events; see them with --limit")
