"""The commands for flows: flows list, show, check, resume, retry-step, skip, abort, cancel."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from ..group import CommandSet, app_of, examples
from ..options import AsJson, By, Limit, login_name
from ..output import clock, print_json, print_table, printable, say

if TYPE_CHECKING:
    from ...coordination.flows.instances import Flow

HELP = "See joins, sagas and workflows, and help those that cannot go on."
STATUS = "Only those that are active, stuck, compensating, completed, failed, compensated or cancelled."
GIVEN_UP, CANCELLED = "somebody has given it up", "somebody has cancelled it"
commands = CommandSet(no_args_is_help=True, help=HELP, rich_markup_mode=None)

Id = Annotated[str, typer.Argument(metavar="ID", help="A flow's id, or its first 8 characters.")]
Step = Annotated[str, typer.Argument(metavar="STEP", help="A step's name.")]


@commands.command("list", epilog=examples("pipeline flows list", "pipeline flows list --status failed --json"))
def list_(
    ctx: typer.Context,
    name: Annotated[str | None, typer.Option(help="Only those of this join, saga or workflow.")] = None,
    status: Annotated[str | None, typer.Option(help=STATUS)] = None,
    limit: Limit = 100,
    as_json: AsJson = False,
) -> None:
    """List flows, the newest first."""
    found = app_of(ctx).flows.list(name=name, status=status, limit=limit + 1)
    if as_json:
        print_json([flow.as_data() for flow in found[:limit]])
    elif found:
        rows = [
            (f.id[:8], f.kind, f.name, f.status, f"{f.done}/{f.members}", clock(f.started), f.reason or "")
            for f in found[:limit]
        ]
        print_table(("id", "kind", "name", "status", "done", "started", "why"), rows)
    else:
        say("no flows")
    if len(found) > limit:
        say(f"there are more than {limit:,}; see them with --limit")


@commands.command(epilog=examples("pipeline flows show 01980c5e", "pipeline flows show 01980c5e --mermaid"))
def show(
    ctx: typer.Context,
    id: Id,
    mermaid: Annotated[bool, typer.Option("--mermaid", help="Print its picture, as a text for Mermaid.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show one: its steps, what has become of them, and what follows."""
    flow = app_of(ctx).flows.show(id)
    if mermaid:
        typer.echo(printable(flow.mermaid, keep="\n"))
    elif as_json:
        print_json(flow.as_data())
    else:
        until = f", until {clock(flow.due)}" if flow.due and not flow.ended else ""
        why = f" ({flow.reason})" if flow.reason else ""
        typer.echo(printable(f"{flow.kind} {flow.name} {flow.id}: {flow.status}{why}{until}"))
        typer.echo(printable(f"event {flow.event_id}, since {clock(flow.started)}"))
        if flow.outer:
            typer.echo(f"a step of flow {flow.outer}")
        for inner in flow.inner:
            typer.echo(f"its step is flow {inner}")
        rows = [(flow.title(s), s.agent, s.outcome.value, s.error or s.result or "") for s in flow.steps]
        print_table(("step", "agent", "outcome", "result"), rows)


@commands.command(epilog=examples("pipeline flows abort 01980c5e --reason 'the customer has called'"))
def abort(
    ctx: typer.Context,
    id: Id,
    reason: Annotated[str, typer.Option(metavar="TEXT", help="Why, for those who see it.")] = GIVEN_UP,
    as_json: AsJson = False,
) -> None:
    """Give a saga or workflow up: what runs of it is stopped, and what it has done is undone."""
    flows = app_of(ctx).flows
    is_new = flows.abort(id, reason)
    _tell(flows.show(id), None if is_new else "it had ended before", as_json=as_json)


@commands.command(epilog=examples("pipeline flows cancel 01980c5e --reason 'it was a test'"))
def cancel(
    ctx: typer.Context,
    id: Id,
    reason: Annotated[str, typer.Option(metavar="TEXT", help="Why, for those who see it.")] = CANCELLED,
    as_json: AsJson = False,
) -> None:
    """Stop a flow as it stands: nothing is undone, and no event follows."""
    flows = app_of(ctx).flows
    is_new = flows.cancel(id, reason)
    _tell(flows.show(id), None if is_new else "it had ended before", as_json=as_json)


@commands.command(epilog=examples("pipeline flows resume 01980c5e"))
def resume(ctx: typer.Context, id: Id, by: By = None, as_json: AsJson = False) -> None:
    """Let a flow that is stuck go on: what holds it is done again."""
    flows = app_of(ctx).flows
    names = flows.resume(id, by=login_name(by))
    told = f"done again: {', '.join(names)}" if names else "nothing is dead in it; it was looked at again"
    _tell(flows.show(id), told, as_json=as_json)


@commands.command("retry-step", epilog=examples("pipeline flows retry-step 01980c5e ship"))
def retry_step(ctx: typer.Context, id: Id, step: Step, by: By = None, as_json: AsJson = False) -> None:
    """Do a step again that has failed, or what undoes it."""
    flows = app_of(ctx).flows
    names = flows.retry_step(id, step, by=login_name(by))
    _tell(flows.show(id), f"done again: {', '.join(names)}", as_json=as_json)


@commands.command(epilog=examples("pipeline flows skip 01980c5e ship"))
def skip(ctx: typer.Context, id: Id, step: Step, by: By = None, as_json: AsJson = False) -> None:
    """Let a flow go on without a step that holds it, or without what undoes it."""
    flows = app_of(ctx).flows
    names = flows.skip(id, step, by=login_name(by))
    _tell(flows.show(id), f"left out: {', '.join(names)}", as_json=as_json)


def _tell(flow: Flow, what: str | None, *, as_json: bool) -> None:
    """Say what was done, and what the flow is now."""
    if as_json:
        print_json(flow.as_data())
    else:
        why = f": {flow.reason}" if flow.reason else ""
        say(f"{f'{what}; ' if what else ''}it is {flow.status}{why}")


@commands.command(epilog=examples("pipeline flows check", "pipeline flows check --json"))
def check(ctx: typer.Context, as_json: AsJson = False) -> None:
    """Say which flows that go on need agents that this version of the app does not declare; then the exit code is 1."""
    found = app_of(ctx).flows.check()
    if as_json:
        print_json([{"id": flow.id, "name": flow.name, "missing": missing} for flow, missing in found])
    for flow, missing in [] if as_json else found:
        told = ", ".join(name if " " in name else f"agent {name}" for name in missing)
        typer.echo(printable(f"{flow.kind} {flow.name} {flow.id}: no {told}"))
    if found:
        raise typer.Exit(1)
    if not as_json:
        say("all flows that go on find their agents in this version")
