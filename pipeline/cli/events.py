"""The commands that look at events and at what is due later: events, event, trace, settle, timers."""

from __future__ import annotations

from contextlib import suppress
from itertools import islice
from typing import TYPE_CHECKING, Annotated

import orjson
import typer

from ..agents.loading import import_agents
from ..core.door.dids import is_did
from ..core.errors import ConfigError
from .group import CommandSet, Interrupted, app_of, examples, working
from .options import AsJson, Correlation, Limit, Metadata, Pattern, Since, Stream, UpTo, read_pairs
from .output import clock, print_event, print_json, print_table, printable, say

if TYPE_CHECKING:
    from ..history.inspection import Delivered
    from ..history.tree import Trace

commands = CommandSet()

#: What is shown of a delivery.
_HEADINGS = ("agent", "outcome", "attempts", "emitted", "started", "ended", "due", "id", "error")

EventId = Annotated[str, typer.Argument(metavar="ID", help="An event's id.")]


@commands.command(
    epilog=examples(
        "pipeline events --since 2h",
        "pipeline events --type 'order.#' --since 2026-03-01T09:00 --up-to 2026-03-01T10:00",
        "pipeline events --agent-id billing --all --json > billing.jsonl",
        "pipeline events --metadata session_id=s1",
    )
)
def events(
    ctx: typer.Context,
    agent_id: Stream = None,
    type: Pattern = None,
    correlation: Correlation = None,
    metadata: Metadata = None,
    since: Since = None,
    up_to: UpTo = None,
    replayed: Annotated[bool, typer.Option("--replayed", help="Also what replays emitted, sent to nobody.")] = False,
    limit: Limit = 100,
    all: Annotated[bool, typer.Option("--all", help="Without a limit.")] = False,
    as_json: AsJson = False,
) -> None:
    """List events of the log, the oldest first: number, time, type, id, whose history, source."""
    from ..history.events import EventQuery, get_events

    app = app_of(ctx)
    if agent_id and not is_did(agent_id):
        with suppress(ConfigError):  # who only reads may lack what the agents' modules need
            import_agents(app.celery)
        agent_id = app.agents.history_of(agent_id)
    query = EventQuery(agent_id, type, correlation, since, up_to, replayed, metadata=read_pairs(metadata))
    records = get_events(app.ledger, query)
    number = 0
    try:
        for record in records if all else islice(records, limit):
            print_event(record, as_json=as_json)
            number += 1
        more = not all and next(records, None) is not None
    except KeyboardInterrupt:
        raise Interrupted(f"stopped after {number:,} events") from None
    if more:
        say(f"there are more than {limit:,} events; see them with --all or --limit, or begin later with --since")


@commands.command(epilog=examples("pipeline event 01980c5e-7d1c-7a52-9f0e-6a4e8f7f0d11"))
def event(ctx: typer.Context, id: EventId, as_json: AsJson = False) -> None:
    """Show one event with its data and its deliveries."""
    from ..core.times import as_json_time
    from ..history.inspection import deliveries_of

    app = app_of(ctx)
    record, delivered = app.get_event(id), deliveries_of(app.ledger, id)
    if as_json:
        deliveries = [delivery.as_data() for delivery in delivered]
        print_json({**record.as_data(), "recorded": as_json_time(record.recorded), "deliveries": deliveries})
        return
    about = {**record.as_data(), "time": clock(record.event.time), "recorded": clock(record.recorded)}
    data = about.pop("data")
    for name, value in about.items():
        typer.echo(f"{name:<16}{printable(str(value))}")
    typer.echo("data")
    typer.echo(printable(orjson.dumps(data, option=orjson.OPT_INDENT_2).decode(), keep="\n"))
    if not delivered:
        say("it has no deliveries")
        return
    typer.echo()
    print_table(_HEADINGS, [_cells(delivery) for delivery in delivered])


def _cells(delivery: Delivered) -> list[str]:
    times = {name: clock(getattr(delivery, name)) for name in ("started", "ended", "due")}
    row = {**delivery._asdict(), **times}
    return ["" if row[name] is None else str(row[name]) for name in _HEADINGS]


@commands.command(epilog=examples("pipeline trace 01980c5e-7d1c-7a52-9f0e-6a4e8f7f0d11"))
def trace(
    ctx: typer.Context,
    id: Annotated[str, typer.Argument(metavar="ID", help="An event's id, or a correlation id.")],
    as_json: AsJson = False,
) -> None:
    """Show what an event has caused, as a tree: deliveries, what they emitted, how long it took."""
    _print_trace(app_of(ctx).trace(id), as_json=as_json)


@commands.command(epilog=examples("pipeline settle 01980c5e-7d1c-7a52-9f0e-6a4e8f7f0d11 --timeout 120"))
def settle(
    ctx: typer.Context,
    id: EventId,
    timeout: Annotated[float, typer.Option(metavar="SECONDS", min=0, help="How long to wait.")] = 30.0,
    as_json: AsJson = False,
) -> None:
    """Wait until all that an event has caused is done, and show it; exit 1 when it takes too long."""
    with working(f"waiting for {id}", advice=f"`pipeline trace {id}` shows what is done"):
        tree = app_of(ctx).settle(id, timeout)
    _print_trace(tree, as_json=as_json)


def _print_trace(tree: Trace, *, as_json: bool) -> None:
    if as_json:
        print_json(tree.as_data())
    else:
        typer.echo(printable(tree.render(), keep="\n"))


# -- what is due later


@commands.command(epilog=examples("pipeline timers", "pipeline timers --json"))
def timers(ctx: typer.Context, limit: Limit = 100, as_json: AsJson = False) -> None:
    """List what is due later, the next first: delayed events, retries, and what waits until then at most."""
    from ..history.inspection import upcoming

    due = upcoming(app_of(ctx).ledger, limit=limit + 1)
    shown = due[:limit]
    if as_json:
        print_json([timer.as_data() for timer in shown])
    elif shown:
        rows = [[timer.kind, clock(timer.due), timer.id, timer.type, timer.agent or ""] for timer in shown]
        print_table(("kind", "due", "id", "type", "agent"), rows)
    else:
        say("nothing is due later")
    if len(due) > limit:
        say(f"there are more than {limit:,}; see them with --limit")
