"""The commands that handle what agents gave up: dead list, show, count, requeue, drop."""

from __future__ import annotations

import getpass
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Annotated, Any

import orjson
import typer

from .group import app_of, confirm, examples, without_warnings, working
from .options import AsJson, Limit, OlderThan, Pattern, Yes, read_data
from .output import as_json_time, clock, print_json, print_table, printable, say

if TYPE_CHECKING:
    from ..app.app import Pipeline
    from ..operations.letters import DeadLetter

#: Dead letters that are counted before somebody is asked.
COUNTED = 1000


commands = typer.Typer(no_args_is_help=True, help="Handle what agents gave up.", rich_markup_mode=None)


Agent = Annotated[str | None, typer.Option(help="Only those of this agent.")]
Error = Annotated[str | None, typer.Option(metavar="TEXT", help="Only those with this text in the error.")]
Ids = Annotated[
    list[str] | None, typer.Argument(metavar="[ID]...", help="Ids of dead letters, or their first 8 characters.")
]
All = Annotated[bool, typer.Option("--all", help="All of them.")]
By = Annotated[str | None, typer.Option(metavar="NAME", help="Who does it, for the log; default the login name.")]


@dataclass(frozen=True)
class Selection:
    """Which dead letters an option or argument chose."""

    ids: list[str]
    agent: str | None
    error: str | None
    event_type: str | None
    older_than: timedelta | None
    all: bool

    def __post_init__(self) -> None:
        """Refuse what chooses nothing, or in two ways."""
        filtered = any(value is not None for value in self.filters.values())
        if bool(self.ids) + filtered + self.all != 1:
            raise typer.BadParameter(
                "say which: ids, or filters (--agent, --error, --type, --older-than), or --all",
                param_hint="dead letters",
            )

    @property
    def filters(self) -> dict[str, Any]:
        """Return what list() takes."""
        names = ("agent", "error", "event_type", "older_than")
        return {name: getattr(self, name) for name in names}

    def options(self) -> dict[str, Any]:
        """Return what requeue() and drop() take."""
        return {"ids": self.ids or None, **self.filters, "all": self.all}

    def ask(self, app: Pipeline, doing: str, *, yes: bool) -> None:
        """Ask before something is done to those that nobody has named one by one."""
        if yes or self.ids:
            return
        found = len(app.dead_letters.list(**self.filters, limit=COUNTED + 1))
        if found:
            number = f"more than {COUNTED:,}" if found > COUNTED else f"{found:,}"
            confirm(f"{doing} {number} dead letter{'s'[: found != 1]} of {app.ledger}?", yes=yes)


@commands.command(
    "list", epilog=examples("pipeline dead list", "pipeline dead list --agent billing --older-than 1h --json")
)
def list_(
    ctx: typer.Context,
    agent: Agent = None,
    error: Error = None,
    type: Pattern = None,
    older_than: OlderThan = None,
    limit: Limit = 100,
    after: Annotated[str | None, typer.Option(metavar="CURSOR", help="Go on behind this `cursor` of --json.")] = None,
    as_json: AsJson = False,
) -> None:
    """List dead letters, the newest first."""
    letters = app_of(ctx).dead_letters
    found = letters.list(agent=agent, error=error, event_type=type, older_than=older_than, limit=limit + 1, after=after)
    shown = found[:limit]
    if as_json:
        print_json([letter_data(letter) for letter in shown])
    elif shown:
        headings = ("id", "agent", "type", "attempts", "given up", "error")
        print_table(headings, [_cells(letter) for letter in shown])
    else:
        say("no dead letters")
    if len(found) > limit:
        say(f"there are more than {limit:,} dead letters; see them with --limit or with --after {shown[-1].cursor}")


@commands.command(epilog=examples("pipeline dead show 01980c5e-7d1c-7a52-9f0e-6a4e8f7f0d11"))
def show(
    ctx: typer.Context,
    id: Annotated[str, typer.Argument(metavar="ID", help="A dead letter's id, or its first 8 characters.")],
    as_json: AsJson = False,
) -> None:
    """Show one dead letter: the event as the agent got it, the error, the traceback."""
    letter = app_of(ctx).dead_letters.get(id)
    event = letter.event.attributes()
    if as_json:
        print_json({**letter_data(letter), "traceback": letter.traceback, "event": event})
        return
    started, ended = clock(letter.started), clock(letter.ended)
    about = {**letter_data(letter), "started": started, "ended": ended, "edited": letter.edited or None}
    del about["cursor"]
    for name, value in about.items():
        if value not in (None, ""):
            typer.echo(f"{name:<16}{printable(str(value))}")
    typer.echo("event")
    text = orjson.dumps(event, option=orjson.OPT_INDENT_2 | orjson.OPT_UTC_Z).decode()
    typer.echo(printable(text, keep="\n"))
    if letter.traceback:
        typer.echo("traceback")
        typer.echo(printable(letter.traceback.rstrip(), keep="\n\t"))


@commands.command(epilog=examples("pipeline dead count", "pipeline dead count --json"))
def count(ctx: typer.Context, as_json: AsJson = False) -> None:
    """Count the dead letters of each agent, and say since when there are any."""
    found = app_of(ctx).dead_letters.count()
    if as_json:
        rows = [
            {"agent": agent, "number": each.number, "oldest": as_json_time(each.oldest)}
            for agent, each in found.items()
        ]
        print_json(rows)
    elif found:
        table = [[agent, f"{each.number:,}", clock(each.oldest)] for agent, each in found.items()]
        print_table(("agent", "number", "oldest"), table)
    else:
        say("no dead letters")


# -- requeuing and dropping


@commands.command(
    epilog=examples(
        "pipeline dead requeue 01980c5e 01980c61",
        "pipeline dead requeue --agent billing --error timeout --yes",
        "pipeline dead requeue 01980c5e --data @mended.json",
    )
)
def requeue(
    ctx: typer.Context,
    ids: Ids = None,
    agent: Agent = None,
    error: Error = None,
    type: Pattern = None,
    older_than: OlderThan = None,
    all: All = False,
    data: Annotated[
        str | None, typer.Option(help="Other data for exactly one: JSON; @FILE reads a file, - standard input.")
    ] = None,
    by: By = None,
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Give dead letters back to their agents, and to nobody else."""
    chosen = Selection(ids or [], agent, error, type, older_than, all)
    options: dict[str, Any] = {}
    if data is not None:
        if len(chosen.ids) != 1:
            raise typer.BadParameter("it is for exactly one dead letter; give one id", param_hint="--data")
        options["data"] = read_data(data)
    app = app_of(ctx)
    if data is not None:
        from ..agents.loading import import_agents

        import_agents(app.celery)  # the agent says what data it takes
    chosen.ask(app, "Requeue", yes=yes)
    with (
        without_warnings("pipeline.publishing.outbox", "pipeline.operations.dead_letters"),
        working("requeuing", "dead letters", "do it again for the others") as show,
    ):
        found = app.dead_letters.requeue(**chosen.options(), **options, by=_who(by), progress=show)
    _report("requeued", found.number, found.skipped, {"sent": found.sent}, as_json=as_json)
    if not found.sent:
        say("the broker is away; the workers send what was requeued when it is back")


@commands.command(
    epilog=examples("pipeline dead drop 01980c5e", "pipeline dead drop --type 'test.#' --older-than 30d --yes")
)
def drop(
    ctx: typer.Context,
    ids: Ids = None,
    agent: Agent = None,
    error: Error = None,
    type: Pattern = None,
    older_than: OlderThan = None,
    all: All = False,
    by: By = None,
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Decide that dead letters are not to be handled; they cannot be requeued then."""
    chosen = Selection(ids or [], agent, error, type, older_than, all)
    app = app_of(ctx)
    chosen.ask(app, "Drop", yes=yes)
    with (
        without_warnings("pipeline.publishing.outbox"),
        working("dropping", "dead letters", "do it again for the others") as show,
    ):
        found = app.dead_letters.drop(**chosen.options(), by=_who(by), progress=show)
    _report("dropped", found.number, found.skipped, {}, as_json=as_json)


def letter_data(letter: DeadLetter) -> dict[str, Any]:
    """Return what is known about a dead letter, as JSON data, but the event itself."""
    data = asdict(letter)
    del data["event"], data["traceback"]
    times = {"started": as_json_time(letter.started), "ended": as_json_time(letter.ended)}
    event = {"event_id": letter.event.id, "type": letter.event.type, "correlation": letter.event.correlation_id}
    return {**data, **event, **times, "cursor": letter.cursor}


def _cells(letter: DeadLetter) -> list[str]:
    error = " ".join(letter.error.split())
    return [letter.id, letter.agent, letter.event.type, str(letter.attempts), clock(letter.ended), error]


def _who(by: str | None) -> str:
    if by is not None:
        return by
    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):  # a container's user may have no name
        return ""


def _report(done: str, number: int, skipped: int, more: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        print_json({done: number, "skipped": skipped, **more})
        return
    others = f"; {skipped:,} had been handled by somebody else" if skipped else ""
    typer.echo(f"{done} {number:,} dead letter{'s'[: number != 1]}{others}")
