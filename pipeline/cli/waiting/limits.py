"""The commands about limits over all workers: limits list, set, clear."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from ...agents.loading import import_agents
from ..group import CommandSet, app_of, examples
from ..options import AsJson
from ..output import print_json, print_table, report, say

commands = CommandSet(
    no_args_is_help=True, help="Show and change what runs at once over all workers.", rich_markup_mode=None
)
Name = Annotated[str, typer.Argument(metavar="NAME", help="The limit's name, as `limits list` shows it.")]


@commands.command("list", epilog=examples("pipeline limits list", "pipeline --app shop.bus:app limits list --json"))
def list_(ctx: typer.Context, as_json: AsJson = False) -> None:
    """List the limits: what is in force, how much runs, and how much waits in line."""
    stated = _limits(ctx).list()
    if as_json:
        print_json([each.as_data() for each in stated])
        return
    if not stated:
        say("no agent has a limit; `@agent(limit=Limit(...))` sets one")
        return
    headings = ["limit", "rate", "burst", "concurrent", "running", "waiting", "keys", "changed"]
    rows = [
        [
            each.name,
            each.rule.rate or "",
            str(each.rule.burst or 1) if each.rule.rate else "",
            str(each.rule.concurrent or ""),
            str(each.running),
            str(each.waiting),
            str(each.keys),
            "yes" if each.changed else "",
        ]
        for each in stated
    ]
    print_table(headings, rows)


@commands.command(
    "set", epilog=examples("pipeline limits set research --rate 10/m", "pipeline limits set research --concurrent 2")
)
def set_(
    ctx: typer.Context,
    name: Name,
    rate: Annotated[
        str | None, typer.Option(metavar="RATE", help="Such as 10/s, 30/m, 100/h; 'none' lifts it.")
    ] = None,
    burst: Annotated[int | None, typer.Option(min=1, help="Attempts that may begin at once.")] = None,
    concurrent: Annotated[
        int | None, typer.Option(min=0, help="Attempts that may run at once; 0 lifts the limit.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Change a limit, everywhere within a second, until it is cleared; agents need no new start."""
    given: dict[str, Any] = {"rate": rate, "burst": burst, "concurrent": concurrent}
    changes = {option: value for option, value in given.items() if value is not None}
    if not changes:
        raise typer.BadParameter("say at least one of them", param_hint="--rate, --burst and --concurrent")
    if rate == "none" and burst is not None:
        raise typer.BadParameter("without a rate there are no bursts; leave it out", param_hint="--burst")
    if rate == "none":
        changes |= {"rate": None, "burst": None}
    if concurrent == 0:
        changes["concurrent"] = None
    rule = _limits(ctx).set(name, **changes)
    report({"limit": name, **rule.as_data()}, f"the limit {name} is {rule} now", as_json=as_json)


@commands.command(epilog=examples("pipeline limits clear research"))
def clear(ctx: typer.Context, name: Name, as_json: AsJson = False) -> None:
    """Let a limit be again what its agents declare."""
    rule = _limits(ctx).clear(name)
    report({"limit": name, **rule.as_data()}, f"the limit {name} is {rule} again", as_json=as_json)


def _limits(ctx: typer.Context) -> Any:
    app = app_of(ctx)
    import_agents(app.celery)
    return app.limits
