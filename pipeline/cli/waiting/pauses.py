"""The commands about pauses: pauses list, pauses clear."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from ..group import CommandSet, app_of, examples
from ..options import AsJson
from ..output import clock, print_json, print_table, report, say

if TYPE_CHECKING:
    from ...ledger.waiting.pauses import Pause

commands = CommandSet(no_args_is_help=True, help="See what is paused, and end a pause.", rich_markup_mode=None)


@commands.command("list", epilog=examples("pipeline pauses list", "pipeline pauses list --json"))
def list_(ctx: typer.Context, as_json: AsJson = False) -> None:
    """List what is paused, the oldest first: agents by somebody, scopes because their provider has asked for it."""
    found = app_of(ctx).pauses.list()
    if as_json:
        print_json([pause.as_data() for pause in found])
    elif found:
        headings = ("kind", "name", "since", "until", "waiting", "at once", "reason")
        print_table(headings, [_cells(pause) for pause in found])
    else:
        say("nothing is paused")


@commands.command(epilog=examples("pipeline pauses clear openai:gpt-5"))
def clear(
    ctx: typer.Context,
    scope: Annotated[str, typer.Argument(metavar="NAME", help="A scope of the list, or an agent that is full.")],
    as_json: AsJson = False,
) -> None:
    """End the pause of a scope, or that an agent is full: all that waits for it goes on.

    What `pipeline agents pause` has paused goes on with `pipeline agents resume`.
    """
    app_of(ctx).pauses.clear(scope)
    report({"scope": scope, "cleared": True}, f"{scope} goes on", as_json=as_json)


def _cells(pause: Pause) -> list[str]:
    at_once = f"{pause.width:,}" if pause.until else ""
    times = clock(pause.since), clock(pause.until)
    return [pause.kind, pause.name, *times, f"{pause.waiting:,}" if pause.until else "", at_once, pause.reason]
