"""The commands about webhooks that are agents: subscriptions list, show, add, change, remove."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import orjson
import typer

from ...agents.loading import import_agents
from ..group import CommandSet, app_of, examples, without_warnings
from ..options import AsJson
from ..output import clock, print_json, print_table, report, say

if TYPE_CHECKING:
    from ...ledger.subscribing.subscription import Subscription
    from ...operations.subscribing.subscriptions import Subscriptions

commands = CommandSet(
    no_args_is_help=True, help="Webhooks that are agents: add, change and remove them.", rich_markup_mode=None
)

Id = Annotated[str, typer.Argument(metavar="ID", help="Its id, which is the agent's name.")]
On = Annotated[list[str], typer.Option("--on", metavar="PATTERN", help="What it listens to; repeatable.")]
Url = Annotated[str, typer.Option(metavar="URL", help="What is called with each event.")]
Where = Annotated[
    str | None, typer.Option(metavar="FILTER", help="Which events it wants, such as 'amount > 100'; '' for all.")
]
Priority = Annotated[int, typer.Option(metavar="N", help="1 (most urgent) to 10, for what it emits.")]
AtOnce = Annotated[int, typer.Option(metavar="N", help="Calls at once, over all workers.")]
Timeout = Annotated[float, typer.Option(metavar="SECONDS", help="How long a call may take.")]
Retry = Annotated[int, typer.Option(metavar="N", help="Calls again after one that has failed.")]
Secret = Annotated[
    str | None, typer.Option("--secret-file", metavar="FILE", help="What calls are signed with; - reads it from stdin.")
]
NewSecret = Annotated[bool, typer.Option("--new-secret", help="Make a new secret, and print it this once.")]


@commands.command("list", epilog=examples("pipeline subscriptions list", "pipeline subscriptions list --json"))
def list_(ctx: typer.Context, as_json: AsJson = False) -> None:
    """List the subscriptions, by their ids."""
    found = app_of(ctx).subscriptions.list()
    if as_json:
        print_json([one.as_data() for one in found])
    elif found:
        headings = ("id", "patterns", "filter", "url", "at once", "timeout", "retries", "signed", "changed")
        print_table(headings, [_cells(one.as_data(), one) for one in found])
    else:
        say("there are no subscriptions")


@commands.command(epilog=examples("pipeline subscriptions show crm", "pipeline subscriptions show crm --json"))
def show(ctx: typer.Context, id: Id, as_json: AsJson = False) -> None:
    """Show a subscription; its secret is never shown."""
    _print(app_of(ctx).subscriptions.get(id), as_json=as_json)


@commands.command(
    epilog=examples(
        "pipeline subscriptions add crm --on 'order.*' --url https://crm.example.com/hook",
        "pipeline subscriptions add crm --on 'order.*' --where 'total > 100' --url https://crm.example.com/hook",
        "pipeline subscriptions add audit --on '#' --since 0 --new-secret --url https://audit.example.com/",
    )
)
def add(
    ctx: typer.Context,
    id: Id,
    on: On,
    url: Url,
    where: Where = None,
    priority: Priority = 5,
    max_concurrent: AtOnce = 10,
    timeout: Timeout = 30.0,
    retry: Retry = 3,
    since: Annotated[
        int | None, typer.Option(metavar="SEQUENCE", help="Begin with this event of the log; 0: with the first one.")
    ] = None,
    secret_file: Secret = None,
    new_secret: NewSecret = False,
    as_json: AsJson = False,
) -> None:
    """Add a webhook that is called with each event from now on, whichever workers run."""
    table = _table(ctx)
    secret = _secret(table, secret_file, new=new_secret)
    added = table.add(
        id,
        on=on,
        url=url,
        where=where or None,
        priority=priority,
        max_concurrent=max_concurrent,
        timeout=timeout,
        retry=retry,
        since=since,
        secret=secret,
    )
    _done(added, "added", secret if new_secret else None, as_json=as_json)


@commands.command(
    epilog=examples(
        "pipeline subscriptions change crm --where 'total > 500'",
        "pipeline subscriptions change crm --on order.placed --on order.paid",
        "pipeline subscriptions change crm --new-secret",
    )
)
def change(
    ctx: typer.Context,
    id: Id,
    on: Annotated[list[str] | None, typer.Option("--on", metavar="PATTERN", help="Instead of what there was.")] = None,
    url: Annotated[str | None, typer.Option(metavar="URL", help="What is called.")] = None,
    where: Where = None,
    priority: Annotated[int | None, typer.Option(metavar="N", help="1 to 10, for what it emits.")] = None,
    max_concurrent: Annotated[int | None, typer.Option(metavar="N", help="Calls at once, over all workers.")] = None,
    timeout: Annotated[float | None, typer.Option(metavar="SECONDS", help="How long a call may take.")] = None,
    retry: Annotated[int | None, typer.Option(metavar="N", help="Calls again after one that has failed.")] = None,
    secret_file: Secret = None,
    new_secret: NewSecret = False,
    as_json: AsJson = False,
) -> None:
    """Change what is given, while everything runs; what waits is called as it is declared by then."""
    table = _table(ctx)
    secret = _secret(table, secret_file, new=new_secret)
    given: dict[str, Any] = {
        "on": on,
        "url": url,
        "priority": priority,
        "max_concurrent": max_concurrent,
        "timeout": timeout,
        "retry": retry,
        "secret": secret,
    }
    wanted = {name: value for name, value in given.items() if value is not None}
    if where is not None:
        wanted["where"] = where or None
    if not wanted:
        raise typer.BadParameter("say what is to be another one, such as --where 'total > 500'", param_hint="options")
    _done(table.change(id, **wanted), "changed", secret if new_secret else None, as_json=as_json)


@commands.command(epilog=examples("pipeline subscriptions remove crm", "pipeline dead list --agent crm"))
def remove(ctx: typer.Context, id: Id, as_json: AsJson = False) -> None:
    """Remove a webhook; what waits for it is a dead letter, which can be requeued when it is added again."""
    with without_warnings("pipeline.ledger.deliveries"):  # a line for each of the dead letters
        removed = app_of(ctx).subscriptions.remove(id)
    what = f"{removed.dead:,} deliveries that waited are dead letters now (`pipeline dead list --agent {id}`)"
    report(
        {"id": id, "removed": True, "dead": removed.dead},
        f"removed {id}; {what if removed.dead else 'nothing waited for it'}",
        as_json=as_json,
    )


def _table(ctx: typer.Context) -> Subscriptions:
    app = app_of(ctx)
    import_agents(app.celery)  # whose names are taken
    return app.subscriptions


def _secret(table: Subscriptions, file: str | None, *, new: bool) -> str | None:
    """Return the secret that the options give: from a file, as arguments can be seen by everybody on the machine."""
    if file is not None and new:
        raise typer.BadParameter("give --secret-file or --new-secret, not both", param_hint="options")
    if new:
        return table.new_secret()
    try:
        return None if file is None else (sys.stdin.read() if file == "-" else Path(file).read_text()).strip()
    except (OSError, UnicodeDecodeError) as exc:
        raise typer.BadParameter(f"{file} cannot be read: {exc}", param_hint="--secret-file") from None


def _done(one: Subscription, done: str, secret: str | None, *, as_json: bool) -> None:
    more = {} if secret is None else {"secret": secret}
    said = f"{done} {one.id}: {' '.join(one.on)} -> {one.as_data()['url']}"
    told = f"{said}\nits secret, which is not shown again: {secret}" if secret else said
    if as_json:
        print_json({**one.as_data(), **more})
    else:
        typer.echo(told)


def _print(one: Subscription, *, as_json: bool) -> None:
    data = one.as_data()
    if as_json:
        print_json(data)
    else:
        print_table(("what", "value"), [[name, _text(value)] for name, value in data.items()])


def _cells(data: dict[str, Any], one: Subscription) -> list[str]:
    numbers = [f"{one.max_concurrent:,}", f"{one.timeout:g} s", f"{one.retry:,}", "yes" if one.signed else "no"]
    return [one.id, " ".join(one.on), _text(data["where"]), data["url"], *numbers, clock(one.changed)]


def _text(value: Any) -> str:
    return "" if value is None else value if isinstance(value, str) else orjson.dumps(value).decode()
