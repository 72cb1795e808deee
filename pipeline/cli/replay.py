"""The commands that give events to agents once more: replay, unrouted."""

from __future__ import annotations

from contextlib import suppress
from typing import Annotated, Any

import orjson
import typer

from ..agents.loading import import_agents
from ..core.errors import ConfigError
from .group import CommandSet, app_of, examples, working
from .options import AsJson, Correlation, Limit, Pattern, Since, Stream, UpTo, read_choice
from .output import escaped, print_event, report, say

commands = CommandSet()
#: Different reasons why nobody gets an event that are told at once.
MOST_TOLD = 10

WHICH = "say which: --event, or filters (--type, --since, --up-to, --correlation, --agent-id), or --all"


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
    from ..history.events import EventQuery
    from ..operations.replay import replay

    app = app_of(ctx)
    import_agents(app.celery)
    agent_id = agent_id and app.agents.history_of(agent_id)
    query = EventQuery(agent_id, type, correlation, since, up_to)
    chosen = read_choice(query, event, all=all, of="events", says=WHICH)
    options: dict[str, Any] = {"rate": rate, "broadcast": broadcast, "dry_run": dry_run, "id": id}
    with working("replaying", "events") as show:
        replayed = replay(app.bus, to, chosen, **options, progress=show)
    skipped = f"; {replayed.skipped:,} are not for it" if replayed.skipped else ""
    skipped += f"; {replayed.aside:,} cannot be sent (`pipeline ledger aside` says why)" if replayed.aside else ""
    said = f"replay {replayed.id}: {replayed.number:,} events sent to {to} in {replayed.seconds:.1f} s{skipped}"
    if dry_run:
        said = f"{replayed.number:,} events would be sent to {to}{skipped}"
    report({**replayed.as_data(), "to": to, "dry_run": dry_run}, said, as_json=as_json)


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
    """List events that no agent listened to, then those that no agent's filter let through; the newest first."""
    from ..operations.explain import nearest_to
    from ..operations.unrouted import replay_unrouted, unrouted, unwanted

    app = app_of(ctx)
    ledger = app.ledger
    if replay:
        with working("routing", "events", "do it again for the others") as show:
            number = replay_unrouted(ledger, type=type, progress=show)
        report({"replayed": number}, f"{number:,} events have an agent now; the workers send them", as_json=as_json)
        return
    records = [*unrouted(ledger, type=type, limit=limit + 1), *unwanted(ledger, type=type, limit=limit)]
    with suppress(ConfigError):  # who only reads may lack what the agents' modules need
        import_agents(app.celery)
    told: set[str] = set()
    for record in records[:limit]:
        nearest = nearest_to(app.bus, record.event)
        if as_json:
            data = {**record.as_data(), "nearest": nearest}
            typer.echo(escaped(orjson.dumps(data, option=orjson.OPT_UTC_Z)))
            continue
        print_event(record, as_json=False)
        if nearest not in told and len(told) < MOST_TOLD:
            told.add(nearest)
            say(f"{record.event.type}: {nearest}")
    if not records and not as_json:
        say("no unrouted events")
    if len(records) > limit:
        say(f"there are more than {limit:,} unrouted events; see them with --limit")
