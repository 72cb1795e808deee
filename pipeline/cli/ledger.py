"""The commands that keep the ledger in order: ledger upgrade, status, prune, restore, erase, rebuild, forget."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..agents.loading import import_agents
from ..core.errors import InvalidAgent, nearest
from .group import CommandSet, app_of, confirm, examples, without_warnings, working
from .options import AsJson, By, Correlation, Limit, OlderThan, Yes, login_name
from .output import clock, print_json, print_table, report, say

commands = CommandSet(no_args_is_help=True, help="Keep the ledger in order.", rich_markup_mode=None)


@commands.command(epilog=examples("pipeline ledger upgrade"))
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
    report(
        {"ledger": str(database), "before": before, "after": after}, f"the ledger {database} {said}", as_json=as_json
    )


@commands.command(epilog=examples("pipeline ledger status", "pipeline ledger status --json"))
def status(ctx: typer.Context, as_json: AsJson = False) -> None:
    """Say what lies in the ledger, in numbers."""
    from ..ledger.status import status

    log = app_of(ctx).ledger
    numbers = {"ledger": str(log), **status(log.database)._asdict()}
    if as_json:
        print_json(numbers)
        return
    outcomes = {f"deliveries {name}": number for name, number in numbers.pop("outcomes").items()}
    for name, value in {**numbers, **outcomes}.items():
        typer.echo(f"{name:<20}{value if isinstance(value, str) else f'{value:,}'}")


@commands.command(
    epilog=examples("pipeline ledger aside", "pipeline ledger aside --json", "pipeline ledger aside --forget --yes")
)
def aside(
    ctx: typer.Context,
    ids: Annotated[list[str] | None, typer.Argument(metavar="ID", help="Only these, to forget.")] = None,
    forget: Annotated[bool, typer.Option("--forget", help="Forget them: they are mended, or not wanted.")] = False,
    limit: Limit = 100,
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """List what could not be used and was set aside, with the reason, the newest first."""
    ledger = app_of(ctx).ledger
    if forget:
        if not ids:
            confirm(f"Forget everything that {ledger} has set aside?", yes=yes)
        number = ledger.aside.forget(ids or None)
        report({"forgotten": number}, f"forgot {number:,}", as_json=as_json)
        return
    found = ledger.aside.list(limit + 1)
    if as_json:
        print_json([one.as_data() for one in found[:limit]])
    elif found:
        print_table(("where", "id", "when", "why"), [[o.place, o.id, clock(o.at), o.reason] for o in found[:limit]])
    else:
        say("nothing was set aside")
    if len(found) > limit:
        say(f"there is more than {limit:,}; see it with --limit")


# -- pruning and restoring


@commands.command(
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
        pruned = app.prune(older_than=older_than, keep=keep, archive=archive, progress=show)
    said = f"{pruned.events:,} events and {pruned.deliveries:,} deliveries have left the ledger"
    if pruned.archive:
        said += f" for {pruned.archive}"
    if pruned.blobs:
        said += f", and {pruned.blobs:,} blobs their store"
    if pruned.dead:
        said += f"; {pruned.dead:,} stay with dead letters"
    if pruned.unreadable:
        said += f"; {pruned.unreadable:,} stay because an archive could not give them back (`pipeline ledger aside`)"
    if pruned.unfinished:
        said += f"; {pruned.unfinished:,} stay because they are not done"
    report(pruned.as_data(), said, as_json=as_json)


@commands.command(epilog=examples("pipeline ledger restore 2026-03.jsonl.gz"))
def restore(
    ctx: typer.Context,
    file: Annotated[Path, typer.Argument(metavar="FILE", exists=True, dir_okay=False, help="What prune wrote.")],
    as_json: AsJson = False,
) -> None:
    """Bring back the events of an archive; nobody receives them again."""
    with working("restoring", "events", "restore it again to go on, what is there stays as it is") as show:
        restored = app_of(ctx).restore(file, progress=show)
    said = f"{restored.events:,} events and {restored.deliveries:,} deliveries are back"
    if restored.known:
        said += f"; {restored.known:,} events were there already"
    if restored.aside:
        said += f"; {restored.aside:,} are set aside (`pipeline ledger aside` says why)"
    report(restored.as_data(), said, as_json=as_json)


@commands.command(
    epilog=examples(
        "pipeline ledger erase --subject customer-7 --dry-run", "pipeline ledger erase --correlation 01980c5e-... --yes"
    )
)
def erase(
    ctx: typer.Context,
    subject: Annotated[str | None, typer.Option(metavar="NAME", help="Whose: what events were published with.")] = None,
    correlation: Correlation = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only count.")] = False,
    by: By = None,
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Blank the data of a subject's events and of all that followed; ids and history stay, and a record of it."""
    if (subject is None) == (correlation is None):
        raise typer.BadParameter("say whose data, with exactly one of them", param_hint="--subject or --correlation")
    app = app_of(ctx)
    whose = f"subject {subject}" if correlation is None else f"correlation {correlation}"
    if not dry_run:
        confirm(f"Blank the data of all finished events of {whose} in {app.ledger}, for good?", yes=yes)
    with without_warnings("pipeline.publishing.outbox"):
        erased = app.erase(subject=subject, correlation=correlation, by=login_name(by), dry_run=dry_run)
    said = f"{'would blank' if dry_run else 'blanked'} {erased.events:,} events and {erased.deliveries:,} deliveries"
    said += f", and {'would take' if dry_run else 'took'} back {erased.delayed:,} delayed events"
    if erased.unfinished:
        said += f"; {erased.unfinished:,} stay because agents are still at work on them: erase again later"
    report(erased.as_data(), said, as_json=as_json)


# -- read models and agents


@commands.command(epilog=examples("pipeline --app shop.bus:app ledger rebuild revenue"))
def rebuild(
    ctx: typer.Context,
    projection: Annotated[str, typer.Argument(help="The name of a projection of your app.")],
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Empty a read model and fill it again from the log; it is incomplete meanwhile."""
    app = app_of(ctx)
    import_agents(app.celery)
    name = app.projections[projection].name  # a wrong name is said before anything is asked
    confirm(f"Empty the read model of {name!r} and fill it again from {app.ledger}?", yes=yes)
    with working("rebuilding", "events", "the workers go on from there") as show:
        number = app.rebuild(name, show)
    report({"projection": projection, "events": number}, f"{projection}: {number:,} events passed", as_json=as_json)


@commands.command(epilog=examples("pipeline ledger forget billing"))
def forget(
    ctx: typer.Context,
    agent: Annotated[str, typer.Argument(help="The name of an agent that will never run again.")],
    as_json: AsJson = False,
) -> None:
    """Forget an agent: events are no longer kept for it."""
    app = app_of(ctx)
    subscribers = app.ledger.subscribers
    if any(one.id == agent for one in app.subscriptions.list()):
        raise InvalidAgent(f"{agent!r} is a subscription, which workers run: pipeline subscriptions remove {agent}")
    if not subscribers.forget(agent):
        raise InvalidAgent(f"no agent is called {agent!r}; {nearest(agent, subscribers.all())}")
    report({"agent": agent, "forgotten": True}, f"forgot {agent}", as_json=as_json)
