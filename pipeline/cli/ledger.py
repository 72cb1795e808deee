"""The commands that read the ledger and keep it in order: events, event, trace, settle, timers, cancel, ledger."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import orjson
import typer

from ..core.errors import InvalidAgent, UnknownEvent, nearest
from .group import (
    AsJson,
    Correlation,
    Interrupted,
    Limit,
    OlderThan,
    Pattern,
    Since,
    Stream,
    UpTo,
    Yes,
    app_of,
    as_json_time,
    clock,
    confirm,
    event_data,
    examples,
    print_event,
    print_json,
    print_table,
    printable,
    say,
    working,
)

commands = typer.Typer()
ledger = typer.Typer(no_args_is_help=True, help="Keep the ledger in order.", rich_markup_mode=None)

EventId = Annotated[str, typer.Argument(metavar="ID", help="An event's id.")]


# -- looking at events


@commands.command(
    epilog=examples(
        "pipeline events --since 2h",
        "pipeline events --type 'order.#' --since 2026-03-01T09:00 --up-to 2026-03-01T10:00",
        "pipeline events --agent-id billing --all --json > billing.jsonl",
    )
)
def events(
    ctx: typer.Context,
    agent_id: Stream = None,
    type: Pattern = None,
    correlation: Correlation = None,
    since: Since = None,
    up_to: UpTo = None,
    replayed: Annotated[bool, typer.Option("--replayed", help="Also what replays emitted, sent to nobody.")] = False,
    limit: Limit = 100,
    all: Annotated[bool, typer.Option("--all", help="Without a limit.")] = False,
    as_json: AsJson = False,
) -> None:
    """List events of the log, the oldest first: number, time, type, id, whose history, source."""
    found = app_of(ctx).get_events(
        agent_id=agent_id, type=type, correlation=correlation, since=since, up_to=up_to, replayed=replayed
    )
    number = 0
    try:
        for one in found if all else islice(found, limit):
            print_event(one, as_json=as_json)
            number += 1
        more = not all and next(found, None) is not None
    except KeyboardInterrupt:
        raise Interrupted(f"stopped after {number:,} events") from None
    if more:
        say(f"there are more than {limit:,} events; see them with --all or --limit, or begin later with --since")


@commands.command(epilog=examples("pipeline event 01980c5e-7d1c-7a52-9f0e-6a4e8f7f0d11"))
def event(ctx: typer.Context, id: EventId, as_json: AsJson = False) -> None:
    """Show one event with its data and its deliveries."""
    from ..history.inspection import deliveries_of

    app = app_of(ctx)
    found, delivered = app.get_event(id), deliveries_of(app.ledger, id)
    rows = [one._asdict() for one in delivered]
    if as_json:
        times = ("started", "ended", "due")
        plain = [{k: as_json_time(v) if k in times else v for k, v in row.items()} for row in rows]
        print_json({**event_data(found), "recorded": as_json_time(found.recorded), "deliveries": plain})
        return
    about = {**event_data(found), "time": clock(found.event.time), "recorded": clock(found.recorded)}
    data = about.pop("data")
    for name, value in about.items():
        typer.echo(f"{name:<16}{printable(str(value))}")
    typer.echo("data")
    typer.echo(printable(orjson.dumps(data, option=orjson.OPT_INDENT_2).decode(), keep="\n"))
    if not rows:
        say("it has no deliveries")
        return
    typer.echo()
    names = ("agent", "outcome", "attempts", "emitted", "started", "ended", "due", "id", "error")
    for row in rows:
        row.update({name: clock(row[name]) for name in ("started", "ended", "due")})
    print_table(names, [["" if row[name] is None else str(row[name]) for name in names] for row in rows])


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
        found = app_of(ctx).settle(id, timeout)
    _print_trace(found, as_json=as_json)


def _print_trace(found: Any, *, as_json: bool) -> None:
    if as_json:
        print_json(found.as_data())
    else:
        typer.echo(printable(found.render(), keep="\n"))


# -- what is due later


@commands.command(epilog=examples("pipeline timers", "pipeline timers --json"))
def timers(ctx: typer.Context, limit: Limit = 100, as_json: AsJson = False) -> None:
    """List what is due later, the next first: delayed events, and deliveries that are tried again."""
    from ..history.inspection import upcoming

    found = upcoming(app_of(ctx).ledger, limit=limit + 1)
    shown = found[:limit]
    if as_json:
        print_json([{**one._asdict(), "due": as_json_time(one.due)} for one in shown])
    elif shown:
        rows = [[one.kind, clock(one.due), one.id, one.type, one.agent or ""] for one in shown]
        print_table(("kind", "due", "id", "type", "agent"), rows)
    else:
        say("nothing is due later")
    if len(found) > limit:
        say(f"there are more than {limit:,}; see them with --limit")


@commands.command(epilog=examples("pipeline cancel 01980c5e-7d1c-7a52-9f0e-6a4e8f7f0d11"))
def cancel(ctx: typer.Context, id: EventId, as_json: AsJson = False) -> None:
    """Take back an event that is published later."""
    if not app_of(ctx).cancel(id):
        raise UnknownEvent(f"no event {id!r} is due later: it was published or cancelled, or never there")
    _report({"id": id, "cancelled": True}, f"cancelled {id}", as_json=as_json)


# -- the ledger itself


@ledger.command(epilog=examples("pipeline ledger upgrade"))
def upgrade(ctx: typer.Context, as_json: AsJson = False) -> None:
    """Create the ledger's tables, or bring them up to date; nothing is lost."""
    from ..ledger.database.migrate import upgrade

    database = app_of(ctx).ledger.database
    if database.is_sqlite and database.url.database:
        with database.errors():
            Path(database.url.database).parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    before, after = upgrade(database)
    said = f"is up to date, with schema {after}" if before == after else f"has gone from schema {before} to {after}"
    if before is None:
        said = f"was created, with schema {after}"
    _report(
        {"ledger": str(database), "before": before, "after": after}, f"the ledger {database} {said}", as_json=as_json
    )


@ledger.command(epilog=examples("pipeline ledger status", "pipeline ledger status --json"))
def status(ctx: typer.Context, as_json: AsJson = False) -> None:
    """Say what lies in the ledger, in numbers."""
    from ..ledger.status import status

    found = app_of(ctx).ledger
    counted = status(found)
    if as_json:
        print_json({"ledger": str(found), **counted._asdict()})
        return
    numbers = {"ledger": str(found), **counted._asdict()}
    outcomes = {f"deliveries {name}": number for name, number in numbers.pop("outcomes").items()}
    for name, value in {**numbers, **outcomes}.items():
        typer.echo(f"{name:<20}{value if isinstance(value, str) else f'{value:,}'}")


@ledger.command(
    epilog=examples(
        "pipeline ledger prune --older-than 30d --archive 2026-03.jsonl.gz",
        "pipeline ledger prune --older-than 30d --keep 100000 --yes",
    )
)
def prune(
    ctx: typer.Context,
    older_than: OlderThan = None,
    keep: Annotated[int | None, typer.Option(min=0, help="The newest events that stay in any case.")] = None,
    archive: Annotated[
        Path | None, typer.Option(metavar="FILE", help="A new file to write them to before; .gz compresses it.")
    ] = None,
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Delete old events of which everything is done; exit 1 when that is not wanted after all."""
    if older_than is None and keep is None:
        raise typer.BadParameter("say what may go, with one of them or both", param_hint="--older-than and --keep")
    app = app_of(ctx)
    old = "" if older_than is None else f"older than {str(older_than).removesuffix(', 0:00:00')}"
    rest = "" if keep is None else f"not among the newest {keep:,}"
    where = f"They are kept in {archive}." if archive else "Without --archive they cannot come back."
    which = " and ".join(filter(None, (old, rest)))
    confirm(f"{where} Delete the finished events of {app.ledger} that are {which}?", yes=yes)
    with working("pruning", "events", "what is left is pruned the next time, to an archive of another name") as show:
        found = app.prune(older_than=older_than, keep=keep, archive=archive, progress=show)
    counts = {"events": found.events, "deliveries": found.deliveries, "dead": found.dead}
    data = {**counts, "unfinished": found.unfinished, "archive": found.archive and str(found.archive)}
    said = f"{found.events:,} events and {found.deliveries:,} deliveries have left the ledger"
    if found.archive:
        said += f" for {found.archive}"
    if found.dead:
        said += f"; {found.dead:,} stay with dead letters"
    if found.unfinished:
        said += f"; {found.unfinished:,} stay because they are not done"
    _report(data, said, as_json=as_json)


@ledger.command(epilog=examples("pipeline ledger restore 2026-03.jsonl.gz"))
def restore(
    ctx: typer.Context,
    file: Annotated[Path, typer.Argument(metavar="FILE", exists=True, dir_okay=False, help="What prune wrote.")],
    as_json: AsJson = False,
) -> None:
    """Bring back the events of an archive; nobody receives them again."""
    with working("restoring", "events", "restore it again to go on, what is there stays as it is") as show:
        found = app_of(ctx).restore(file, progress=show)
    said = f"{found.events:,} events and {found.deliveries:,} deliveries are back"
    if found.known:
        said += f"; {found.known:,} events were there already"
    data = {"events": found.events, "deliveries": found.deliveries, "known": found.known}
    _report(data, said, as_json=as_json)


@ledger.command(epilog=examples("pipeline --app shop.bus:app ledger rebuild revenue"))
def rebuild(
    ctx: typer.Context,
    projection: Annotated[str, typer.Argument(help="The name of a projection of your app.")],
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Empty a read model and fill it again from the log; it is incomplete meanwhile."""
    from ..operations.doctor import import_agents

    app = app_of(ctx)
    import_agents(app)
    name = app.projections[projection].name  # a wrong name is said before anything is asked
    confirm(f"Empty the read model of {name!r} and fill it again from {app.ledger}?", yes=yes)
    with working("rebuilding", "events", "the workers go on from there") as show:
        number = app.rebuild(name, show)
    _report({"projection": projection, "events": number}, f"{projection}: {number:,} events passed", as_json=as_json)


@ledger.command(epilog=examples("pipeline ledger forget billing"))
def forget(
    ctx: typer.Context,
    agent: Annotated[str, typer.Argument(help="The name of an agent that will never run again.")],
    as_json: AsJson = False,
) -> None:
    """Forget an agent: events are no longer kept for it."""
    from ..ledger.ledger import read_agents
    from ..ledger.reconcile import forget

    found = app_of(ctx).ledger
    if not forget(found, agent):
        with found.database.reading() as connection:
            raise InvalidAgent(f"no agent is called {agent!r}; {nearest(agent, read_agents(connection))}")
    _report({"agent": agent, "forgotten": True}, f"forgot {agent}", as_json=as_json)


def _report(data: dict[str, Any], said: str, *, as_json: bool) -> None:
    """Print what was done."""
    if as_json:
        print_json(data)
    else:
        typer.echo(said)
