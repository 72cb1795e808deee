"""The commands that handle what agents gave up: dead list, show, count, requeue, drop."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import orjson
import typer

from ..agents.loading import import_agents
from .group import CommandSet, app_of, confirm, examples, without_warnings, working
from .options import AsJson, By, Limit, OlderThan, Pattern, Yes, login_name, read_choice, read_data
from .output import clock, print_json, print_table, printable, report, say

if TYPE_CHECKING:
    from ..app.app import Pipeline
    from ..operations.changes import Changed
    from ..operations.letters import DeadLetter, LetterQuery
    from ..operations.selection import Selection

#: Dead letters that are counted before somebody is asked.
COUNTED = 1000
WHICH = "say which: ids, or filters (--agent, --error, --type, --older-than), or --all"


commands = CommandSet(no_args_is_help=True, help="Handle what agents gave up.", rich_markup_mode=None)


Agent = Annotated[str | None, typer.Option(help="Only those of this agent.")]
Error = Annotated[str | None, typer.Option(metavar="TEXT", help="Only those with this text in the error.")]
Ids = Annotated[
    list[str] | None, typer.Argument(metavar="ID", help="Ids of dead letters, or their first 8 characters.")
]
All = Annotated[bool, typer.Option("--all", help="All of them.")]


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
    from ..operations.letters import LetterQuery

    query = LetterQuery(agent, error, type, older_than)
    letters = app_of(ctx).dead_letters.find(query, limit=limit + 1, after=after)
    shown = letters[:limit]
    if as_json:
        print_json([letter.as_data() for letter in shown])
    elif shown:
        headings = ("id", "agent", "type", "attempts", "given up", "error")
        print_table(headings, [_cells(letter) for letter in shown])
    else:
        say("no dead letters")
    if len(letters) > limit:
        say(f"there are more than {limit:,} dead letters; see them with --limit or with --after {shown[-1].cursor}")


@commands.command(epilog=examples("pipeline dead show 01980c5e-7d1c-7a52-9f0e-6a4e8f7f0d11"))
def show(
    ctx: typer.Context,
    id: Annotated[str, typer.Argument(metavar="ID", help="A dead letter's id, or its first 8 characters.")],
    as_json: AsJson = False,
) -> None:
    """Show one dead letter: the event as the agent got it, the error, the traceback."""
    letter = app_of(ctx).dead_letters.get(id)
    if as_json:
        print_json(letter.as_data(whole=True))
        return
    started, ended = clock(letter.started), clock(letter.ended)
    about = {**letter.as_data(), "started": started, "ended": ended, "edited": letter.edited or None}
    del about["cursor"]
    for name, value in about.items():
        if value not in (None, ""):
            typer.echo(f"{name:<16}{printable(str(value))}")
    typer.echo("event")
    text = orjson.dumps(letter.event.attributes(), option=orjson.OPT_INDENT_2 | orjson.OPT_UTC_Z).decode()
    typer.echo(printable(text, keep="\n"))
    if letter.traceback:
        typer.echo("traceback")
        typer.echo(printable(letter.traceback.rstrip(), keep="\n\t"))


@commands.command(epilog=examples("pipeline dead count", "pipeline dead count --json"))
def count(ctx: typer.Context, as_json: AsJson = False) -> None:
    """Count the dead letters of each agent, and say since when there are any."""
    counts = app_of(ctx).dead_letters.count()
    if as_json:
        print_json([{"agent": agent, **count.as_data()} for agent, count in counts.items()])
    elif counts:
        table = [[agent, f"{count.number:,}", clock(count.oldest)] for agent, count in counts.items()]
        print_table(("agent", "number", "oldest"), table)
    else:
        say("no dead letters")


# -- requeuing and dropping


@commands.command(
    epilog=examples(
        "pipeline dead requeue 01980c5e 01980c61",
        "pipeline dead requeue --agent billing --error timeout --yes",
        "pipeline dead requeue 01980c5e --data @mended.json",
        "pipeline dead requeue 01980c5e --from-step draft",
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
    from_step: Annotated[
        str | None, typer.Option(metavar="NAME", help="Do this step again, and all that were begun after it.")
    ] = None,
    by: By = None,
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Give dead letters back to their agents, and to nobody else; what their steps have come to stays."""
    from ..operations.letters import LetterQuery

    chosen = read_choice(LetterQuery(agent, error, type, older_than), ids, all=all, of="dead letters", says=WHICH)
    app = app_of(ctx)
    options: dict[str, Any] = {}
    if data is not None:
        if len(chosen.ids or ()) != 1:
            raise typer.BadParameter("it is for exactly one dead letter; give one id", param_hint="--data")
        options["data"] = read_data(data)
        import_agents(app.celery)  # the agent says what data it takes
    if from_step is not None:
        options["from_step"] = from_step
    _ask(app, chosen, "Requeue", yes=yes)
    with (
        without_warnings("pipeline.publishing.outbox", "pipeline.operations.dead_letters"),
        working("requeuing", "dead letters", "do it again for the others") as show,
    ):
        changed = app.dead_letters.requeue_chosen(chosen, **options, by=login_name(by), progress=show)
    _report(changed, "requeued", {"sent": changed.sent}, as_json=as_json)
    if not changed.sent:
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
    from ..operations.letters import LetterQuery

    chosen = read_choice(LetterQuery(agent, error, type, older_than), ids, all=all, of="dead letters", says=WHICH)
    app = app_of(ctx)
    _ask(app, chosen, "Drop", yes=yes)
    with (
        without_warnings("pipeline.publishing.outbox"),
        working("dropping", "dead letters", "do it again for the others") as show,
    ):
        changed = app.dead_letters.drop_chosen(chosen, by=login_name(by), progress=show)
    _report(changed, "dropped", {}, as_json=as_json)


def _ask(app: Pipeline, chosen: Selection[LetterQuery], doing: str, *, yes: bool) -> None:
    """Ask before something is done to those that nobody has named one by one."""
    if yes or chosen.ids is not None:
        return
    number = len(app.dead_letters.find(chosen.query, limit=COUNTED + 1))
    if number:
        many = f"more than {COUNTED:,}" if number > COUNTED else f"{number:,}"
        confirm(f"{doing} {many} dead letter{'s'[: number != 1]} of {app.ledger}?", yes=yes)


def _cells(letter: DeadLetter) -> list[str]:
    error = " ".join(letter.error.split())
    return [letter.id, letter.agent, letter.event.type, str(letter.attempts), clock(letter.ended), error]


def _report(changed: Changed, done: str, more: dict[str, Any], *, as_json: bool) -> None:
    others = f"; {changed.skipped:,} had been handled by somebody else" if changed.skipped else ""
    said = f"{done} {changed.number:,} dead letter{'s'[: changed.number != 1]}{others}"
    report({**changed.as_data(done), **more}, said, as_json=as_json)
