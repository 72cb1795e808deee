"""The commands that publish an event: publish, fork."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from ..agents.loading import import_agents
from ..core.door.dids import is_did
from .group import CommandSet, app_of, examples, saying_warnings
from .options import AsJson, Metadata, read_data, read_pairs, read_time
from .output import escaped, printable

commands = CommandSet()


@commands.command(
    epilog=examples(
        'pipeline publish user.query --data \'{"user_id": "ada", "query": "What is a decorator?"}\'',
        "pipeline publish order.created --data @order.json --priority 1 --target billing",
        "pipeline publish invoice.reminded --data '{\"number\": 7}' --at 2027-03-01T09:00",
    )
)
def publish(
    ctx: typer.Context,
    type: Annotated[str, typer.Argument(metavar="TYPE", help="The event type: dotted words, such as order.created.")],
    data: Annotated[str, typer.Option(help="JSON; @FILE reads a file, - reads standard input.")] = "null",
    priority: Annotated[int | None, typer.Option(min=1, max=10, help="1 (most urgent) to 10; default 5.")] = None,
    correlation_id: Annotated[str | None, typer.Option(help="Joins the event to others; default its own id.")] = None,
    subject: Annotated[str | None, typer.Option(help="What the event is about.")] = None,
    target: Annotated[
        list[str] | None,
        typer.Option(metavar="AGENT", help="Name or did of the only agent that may receive it; repeatable."),
    ] = None,
    metadata: Metadata = None,
    delay: Annotated[
        float | None, typer.Option(metavar="SECONDS", min=0, help="Publish it later; `pipeline cancel` takes it back.")
    ] = None,
    at: Annotated[
        Any, typer.Option(parser=read_time, metavar="TIME", help="Publish it then: an ISO time, local without a zone.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Publish one event, now or later, and print its id."""
    if delay is not None and at is not None:
        raise typer.BadParameter("not both of them", param_hint="--delay and --at")
    app = app_of(ctx)
    if any(map(is_did, target or ())):
        import_agents(app.celery)  # which know the names
    with saying_warnings():
        event = app.publish(
            type,
            read_data(data),
            priority=priority,
            correlation_id=correlation_id,
            subject=subject,
            targets=tuple(target or ()),
            metadata=read_pairs(metadata),
            delay=delay,
            at=at,
        )
    typer.echo(escaped(event.encode()) if as_json else printable(event.id))


@commands.command(
    epilog=examples(
        "pipeline fork 0b27b4dc-8151-52b0-9db2-0adf9ba05a56 --data @mended.json",
        "pipeline fork 0b27b4dc-8151-52b0-9db2-0adf9ba05a56 --agent billing",
    )
)
def fork(
    ctx: typer.Context,
    id: Annotated[str, typer.Argument(metavar="ID", help="The id of an event in the ledger.")],
    data: Annotated[
        str | None, typer.Option(help="Other data: JSON; @FILE reads a file, - reads standard input.")
    ] = None,
    agent: Annotated[str | None, typer.Option(help="Name or did of the only agent that gets it.")] = None,
    type: Annotated[str | None, typer.Option(metavar="TYPE", help="Another event type.")] = None,
    subject: Annotated[str | None, typer.Option(help="Another subject.")] = None,
    metadata: Metadata = None,
    as_json: AsJson = False,
) -> None:
    """Publish an event of the ledger as a new one, edited where wanted, and print its id."""
    app = app_of(ctx)
    import_agents(app.celery)  # they say what data they take
    options = {} if data is None else {"data": read_data(data)}
    with saying_warnings():
        event = app.fork(id, agent=agent, type=type, subject=subject, metadata=read_pairs(metadata), **options)
    typer.echo(escaped(event.encode()) if as_json else printable(event.id))
