"""The commands about budgets: list, show, set."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from ...agents.loading import import_agents
from ...core.errors import UnknownBudget
from ..group import CommandSet, Group, app_of, examples
from ..options import AsJson, Limit
from ..output import print_json, print_table, report, say

if TYPE_CHECKING:
    from ...ledger.bounding.budgets import Account


class Budgets(Group):
    """The commands; `pipeline budget ID` is `pipeline budget show ID`."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Take what is no command for an id."""
        known = not args or args[0].startswith("-") or self.get_command(ctx, args[0]) is not None
        return super().resolve_command(ctx, args if known else ["show", *args])


commands = CommandSet(
    cls=Budgets, no_args_is_help=True, help="What may be spent: list budgets, show that of a tree, change one."
)
Tokens = Annotated[int | None, typer.Option(min=0, metavar="N", help="Tokens.")]
Cost = Annotated[int | None, typer.Option(min=0, metavar="N", help="Cost in millionths: 1.50 is 1500000.")]
Number = Annotated[int | None, typer.Option(min=0, metavar="N", help="Events.")]


@commands.command("list", epilog=examples("pipeline budget list", "pipeline budget list --name tenant --json"))
def list_(
    ctx: typer.Context,
    name: Annotated[str | None, typer.Option(metavar="NAME", help="Only this budget.")] = None,
    key: Annotated[str | None, typer.Option(metavar="KEY", help="Only of this key.")] = None,
    limit: Limit = 100,
    as_json: AsJson = False,
) -> None:
    """List budgets in use, those that were used last first; the budgets of trees have the name `tree`."""
    _print(app_of(ctx).budgets.list(name, key, limit), as_json=as_json)


@commands.command(
    epilog=examples(
        "pipeline budget show 01980c5e-7d1c-7a52-9f0e-6a4e8f7f0d11",
        "pipeline budget 01980c5e-7d1c-7a52-9f0e-6a4e8f7f0d11",
    )
)
def show(
    ctx: typer.Context,
    id: Annotated[str, typer.Argument(metavar="ID", help="A correlation id, or the id of one of its events.")],
    as_json: AsJson = False,
) -> None:
    """Show what a tree may spend, and what of it is left."""
    app = app_of(ctx)
    found = app.budgets.of_tree(id)
    if found is None:
        raise UnknownBudget(f"{id} has no budget; `pipeline budget set tree --key {id} --tokens N` gives it one")
    _print([found], as_json=as_json)


@commands.command(
    "set",
    epilog=examples(
        "pipeline budget set tenant --key acme --tokens 500000",
        "pipeline budget set tree --key 01980c5e-7d1c-7a52-9f0e-6a4e8f7f0d11 --cost 2500000",
    ),
)
def set_(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help="The budget; `tree` for that of a tree.")],
    key: Annotated[str, typer.Option(metavar="KEY", help="Of which key; default all that have no limit set.")] = "",
    tokens: Tokens = None,
    cost: Cost = None,
    events: Number = None,
    as_json: AsJson = False,
) -> None:
    """Change the limits of a budget, at once and everywhere; deliveries that wait for that go on."""
    from ...ledger.bounding.budget import amounts

    app = app_of(ctx)
    limit = amounts(f"budget {name!r}", tokens=tokens, cost=cost, events=events)
    if name not in app.bus.budgets:
        import_agents(app.celery)
    released = app.budgets.set(name, limit, key)
    told = f"set {name}{f' of {key}' if key else ''}; {released:,} deliveries that waited for it go on"
    report({"name": name, "key": key, "limit": limit.as_data(), "released": released}, told, as_json=as_json)


def _print(found: list[Account], *, as_json: bool) -> None:
    if as_json:
        print_json([account.as_data() for account in found])
    elif found:
        rows = [
            [account.name, account.key, account.period, unit, *_numbers(account, unit)]
            for account in found
            for unit in account.used._fields
            if getattr(account.limit, unit) is not None or getattr(account.used, unit)
        ]
        print_table(("budget", "key", "day", "unit", "limit", "used", "left"), rows)
    else:
        say("no budget is in use")


def _numbers(account: Account, unit: str) -> list[str]:
    values = (getattr(amounts, unit) for amounts in (account.limit, account.used, account.left))
    return ["" if value is None else f"{value:,}" for value in values]
