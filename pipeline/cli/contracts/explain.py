"""The command that says who gets an event, and why not: explain."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import orjson
import typer

from ...agents.loading import import_agents
from ..group import CommandSet, app_of, examples
from ..options import AsJson, Metadata, read_data, read_pairs
from ..output import print_json, print_table, printable, say

if TYPE_CHECKING:
    from ...app.app import Pipeline
    from ...core.event import Event
    from ...operations.explain import Answer, Tally

commands = CommandSet()


@commands.command(
    epilog=examples(
        "pipeline explain 01980c5e-7d1c-7a52-9f0e-6a4e8f7f0d11",
        'pipeline explain --type alert.raised --data \'{"level": "high"}\'',
        "pipeline explain --last 1000 --agent pager --where 'level >= high AND amount > 100'",
    )
)
def explain(
    ctx: typer.Context,
    id: Annotated[str | None, typer.Argument(metavar="ID", help="An event of the log.")] = None,
    type: Annotated[str | None, typer.Option(metavar="TYPE", help="An event that is not published.")] = None,
    data: Annotated[str, typer.Option(help="Its data: JSON; @FILE reads a file, - reads standard input.")] = "null",
    metadata: Metadata = None,
    last: Annotated[int | None, typer.Option(metavar="N", min=1, help="The newest N events of the log.")] = None,
    agent: Annotated[str | None, typer.Option(metavar="NAME", help="Only this agent.")] = None,
    where: Annotated[
        str | None, typer.Option(metavar="FILTER", help="Tried instead of the agent's own filter: a text, or JSON.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Say which agents get an event, and why the others do not: each condition with the value that it saw."""
    from ...agents.filters import parse
    from ...operations.explain import explain, latest, try_on

    if sum(given is not None for given in (id, type, last)) != 1:
        raise typer.BadParameter("say one of them", param_hint="ID, --type and --last")
    if where is not None and agent is None:
        raise typer.BadParameter("say whose filter it is to be, with --agent", param_hint="--where")
    app = app_of(ctx)
    import_agents(app.celery)
    names = {app.agents[agent].name} if agent is not None else None
    filters = {name: parse(_filter(where)) for name in names or ()} if where is not None else None
    if last is None:
        event = _event(app, id, type, read_data(data), read_pairs(metadata))
        answers = [each for each in explain(app.bus, event, filters) if names is None or each.agent in names]
        _print_answers(answers, as_json=as_json)
        return
    tallies = try_on(app.bus, latest(app.ledger, last), filters)
    _print_tallies([each for each in tallies if names is None or each.agent in names], as_json=as_json)


def _filter(text: str) -> Any:
    """Return what --where says: JSON when it is written as such."""
    if not text.lstrip().startswith(("{", "[")):
        return text
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError as exc:
        raise typer.BadParameter(f"not JSON: {exc}", param_hint="--where") from None


def _event(app: Pipeline, id: str | None, type: str | None, data: Any, metadata: dict[str, str] | None) -> Event:
    from ...core.event import new_event

    if id is not None:
        return app.get_event(id).event
    assert type is not None
    return new_event(type, data, source=app.source, metadata=metadata, version=app.types.newest(type))


def _print_answers(answers: list[Answer], *, as_json: bool) -> None:
    if as_json:
        print_json([answer.as_data() for answer in answers])
        return
    if not answers:
        say("no agent is declared, and the ledger knows none")
    for answer in answers:
        typer.echo(printable(f"{'yes' if answer.gets else 'no ':<3}  {answer.agent}: {answer.why}"))
        for condition in answer.conditions:
            seen = orjson.dumps(condition.value, default=str).decode()
            fields = f"; there are {', '.join(condition.fields)}" if condition.result == "missing" else ""
            error = f": {condition.error}" if condition.error else ""
            typer.echo(printable(f"       {condition.result:<8}{condition.text}   (saw {seen}{fields}){error}"))


def _print_tallies(tallies: list[Tally], *, as_json: bool) -> None:
    if as_json:
        print_json([tally.as_data() for tally in tallies])
        return
    if not tallies:
        say("the log has no events")
        return
    print_table(
        ("agent", "gets", "filtered"), [(each.agent, f"{each.gets:,}", f"{each.filtered:,}") for each in tallies]
    )
    for tally in tallies:
        for (text, result), number in tally.conditions.most_common():
            typer.echo(printable(f"{tally.agent}: {number:>7,}  {result:<8}{text}"))
        for what, ids in (("would get", tally.gained), ("would no longer get", tally.lost)):
            for id in ids:
                typer.echo(printable(f"{tally.agent}: {what} {id}"))
