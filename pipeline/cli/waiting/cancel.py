"""The command that stops what is still to come: a delayed event, or a whole tree of work."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Annotated

import typer

from ...core.errors import UnknownEvent
from ..group import CommandSet, app_of, examples
from ..options import AsJson
from ..output import print_json, print_table, report, say

if TYPE_CHECKING:
    from ...ledger.facts import Cancelled

commands = CommandSet()


@commands.command(
    epilog=examples(
        "pipeline cancel 01980c5e-7d1c-7a52-9f0e-6a4e8f7f0d11",
        "pipeline cancel --tree 01980c5e-7d1c-7a52-9f0e-6a4e8f7f0d11 --by ada --reason 'wrong customer'",
        "pipeline cancel --correlation order-4711 --terminate",
    )
)
def cancel(
    ctx: typer.Context,
    id: Annotated[str | None, typer.Argument(metavar="ID", help="An event that is published later.")] = None,
    tree: Annotated[
        str | None, typer.Option(metavar="ID", help="Stop an event and all that it has caused, and what still comes.")
    ] = None,
    correlation: Annotated[
        str | None, typer.Option(metavar="ID", help="Stop everything that has this correlation.")
    ] = None,
    by: Annotated[str, typer.Option(metavar="WHO", help="Who stops it, for the record.")] = "",
    reason: Annotated[str, typer.Option(metavar="WHY", help="Why, for the record.")] = "",
    terminate: Annotated[
        bool, typer.Option("--terminate", help="End the processes of sync handlers that run, too.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Take back an event that is published later, or stop a whole tree of work."""
    if sum(given is not None for given in (id, tree, correlation)) != 1:
        raise typer.BadParameter("say one of them", param_hint="ID, --tree and --correlation")
    app = app_of(ctx)
    if id is not None:
        if by or reason or terminate:
            raise typer.BadParameter("they are for --tree and --correlation", param_hint="--by, --reason, --terminate")
        if not app.cancel(id):
            raise UnknownEvent(
                f"no event {id!r} is due later: it was published or cancelled, or never there; "
                "`pipeline cancel --tree` stops what it has caused"
            )
        report({"id": id, "cancelled": True}, f"cancelled {id}", as_json=as_json)
        return
    found = app.ledger.waiting.trees.cancel(tree, correlation=correlation, by=by, reason=reason, terminate=terminate)
    if as_json:
        print_json(found.as_data())
    else:
        _print(found)


def _print(found: Cancelled) -> None:
    """Say what was stopped, what ran, and what had happened."""
    groups = (("stopped", found.stopped), ("ran", found.running), ("had ended", found.done))
    rows = [[what, part.agent, part.type, part.event, part.outcome.value] for what, some in groups for part in some]
    rows += [["stopped", "", "", id, "delayed"] for id in found.delayed]
    if rows:
        print_table(("what", "agent", "type", "event", "was"), rows)
    numbers = Counter(row[0] for row in rows)
    say(
        f"cancelled {found.tree}: {numbers['stopped']:,} stopped, {numbers['ran']:,} ran (what they emit is refused), "
        f"{numbers['had ended']:,} had ended before"
    )
