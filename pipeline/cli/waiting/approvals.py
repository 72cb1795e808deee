"""The commands for what somebody has to approve: approvals list, show, approve, veto, rules."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import orjson
import typer

from ...core.times import utc_now
from ..group import CommandSet, app_of, examples
from ..options import AsJson, By, Correlation, Limit, login_name, read_age, read_data, read_time
from ..output import clock, print_json, print_table, printable, report, say

if TYPE_CHECKING:
    from ...ledger.waiting.approval import Proposal

commands = CommandSet(no_args_is_help=True, help="Decide what agents ask for.", rich_markup_mode=None)
rules = CommandSet(help="The rules by which nobody is asked.", rich_markup_mode=None)
commands.add_typer(rules, name="rules")

Id = Annotated[str, typer.Argument(metavar="ID", help="An approval's id, or its first 8 characters.")]
Agent = Annotated[str | None, typer.Option(help="Only those of this agent.")]
Action = Annotated[str | None, typer.Option(help="Only this action.")]
Groups = Annotated[list[str] | None, typer.Option("--group", metavar="NAME", help="A group of theirs; repeatable.")]
Reason = Annotated[str | None, typer.Option(metavar="TEXT", help="Why.")]


@commands.command("list", epilog=examples("pipeline approvals list", "pipeline approvals list --status vetoed --json"))
def list_(
    ctx: typer.Context,
    status: Annotated[str, typer.Option(help="pending, approved, vetoed, expired or cancelled; or all.")] = "pending",
    agent: Agent = None,
    action: Action = None,
    correlation: Correlation = None,
    limit: Limit = 100,
    as_json: AsJson = False,
) -> None:
    """List what waits for a decision, the oldest first."""
    wanted = None if status == "all" else status
    which = {"agent": agent, "action": action, "correlation": correlation}
    found = app_of(ctx).approvals.list(status=wanted, **which, limit=limit + 1)
    if as_json:
        print_json([each.as_data() for each in found[:limit]])
    elif found:
        print_table(("id", "agent", "action", "args", "asked", "expires", "status"), [_cells(e) for e in found[:limit]])
    else:
        say("nothing waits for a decision" if wanted == "pending" else "no approvals")
    if len(found) > limit:
        say(f"there are more than {limit:,}; see them with --limit")


@commands.command(epilog=examples("pipeline approvals show 01980c5e", "pipeline approvals show 01980c5e --json"))
def show(ctx: typer.Context, id: Id, as_json: AsJson = False) -> None:
    """Show one: who wants to do what with which arguments, who may decide, who has."""
    found = app_of(ctx).approvals.show(id)
    data = found.as_data(whole=True)
    if as_json:
        print_json(data)
        return
    about = data.pop("metadata")
    decision = about.pop("decision", {})
    decision.pop("answer", None)
    for name, value in {**data, **about, **{f"decision_{key}": part for key, part in decision.items()}}.items():
        if value not in (None, "", [], {}):
            text = value if isinstance(value, str) else orjson.dumps(value).decode()
            typer.echo(printable(f"{name:<16}{text}"))


@commands.command(
    epilog=examples(
        "pipeline approvals approve 01980c5e",
        "pipeline approvals approve 01980c5e --edit '{\"amount\": 5}' --reason 'half of it'",
    )
)
def approve(
    ctx: typer.Context,
    id: Id,
    edit: Annotated[
        str | None, typer.Option(help="All arguments, as they may be: JSON; @FILE reads a file, - standard input.")
    ] = None,
    by: By = None,
    group: Groups = None,
    reason: Reason = None,
    as_json: AsJson = False,
) -> None:
    """Say that it may be done, with the arguments that were proposed or with others."""
    options: dict[str, Any] = {} if edit is None else {"edit": read_data(edit)}
    who = login_name(by)
    _report(app_of(ctx).approvals.approve(id, by=who, groups=group or (), reason=reason, **options), as_json=as_json)


@commands.command(epilog=examples("pipeline approvals veto 01980c5e --reason 'too much'"))
def veto(
    ctx: typer.Context, id: Id, by: By = None, group: Groups = None, reason: Reason = None, as_json: AsJson = False
) -> None:
    """Say that it must not be done."""
    found = app_of(ctx).approvals.veto(id, by=login_name(by), groups=group or (), reason=reason)
    _report(found, as_json=as_json)


def _report(found: Proposal, *, as_json: bool) -> None:
    from ...ledger.waiting.approval import PENDING

    missing = found.n_of - len(found.votes)
    more = f"; {missing} more have to approve" if found.status == PENDING else ""
    said = "approved" if found.status == PENDING else found.status
    report(found.as_data(), f"{said} {found.action} ({found.id}){more}", as_json=as_json)


def _cells(found: Proposal) -> list[str]:
    args = orjson.dumps(found.args).decode()
    return [
        found.id, found.agent, found.action, args[:60] + "..." * (len(args) > 60), clock(found.asked),
        clock(found.expires), found.status,
    ]  # fmt: skip


# -- rules


@rules.callback(invoke_without_command=True)
def rules_(ctx: typer.Context) -> None:
    """List the rules that hold, or do something with them."""
    if ctx.invoked_subcommand is None:
        list_rules(ctx)


@rules.command(
    "add",
    epilog=examples(
        "pipeline approvals rules add refund --agent support --where 'amount < 10' --for 30d",
        "pipeline approvals rules add refund --until 2026-12-31",
    ),
)
def add(
    ctx: typer.Context,
    action: Annotated[str, typer.Argument(metavar="ACTION", help="The action's name.")],
    agent: Agent = None,
    where: Annotated[
        str | None, typer.Option(metavar="FILTER", help="What its arguments have to match, such as 'amount < 10'.")
    ] = None,
    until: Annotated[Any, typer.Option(parser=read_time, metavar="T", help="Until then it holds: an ISO time.")] = None,
    length: Annotated[Any, typer.Option("--for", parser=read_age, metavar="AGE", help="The same as an age.")] = None,
    by: By = None,
    as_json: AsJson = False,
) -> None:
    """Approve an action from now on without asking, also what waits already."""
    if until is not None and length is not None:
        raise typer.BadParameter("say one of them", param_hint="--until and --for")
    end = utc_now() + length if length is not None else until
    rule = app_of(ctx).approvals.rules.add(action, agent=agent, where=where, until=end, by=login_name(by))
    report(rule.as_data(), f"{rule.action} is approved without asking (rule {rule.id})", as_json=as_json)


@rules.command("list", epilog=examples("pipeline approvals rules list", "pipeline approvals rules list --json"))
def list_rules(ctx: typer.Context, as_json: AsJson = False) -> None:
    """List the rules that hold."""
    found = app_of(ctx).approvals.rules.list()
    if as_json:
        print_json([rule.as_data() for rule in found])
    elif found:
        cells = [[r.id, r.action, r.agent or "any", _where(r.where), clock(r.until) or "removed", r.by] for r in found]
        print_table(("id", "action", "agent", "where", "until", "by"), cells)
    else:
        say("no rules: somebody is asked each time")


@rules.command("remove", epilog=examples("pipeline approvals rules remove 01980c5e"))
def remove(
    ctx: typer.Context,
    id: Annotated[str, typer.Argument(metavar="ID", help="A rule's id, or its first 8 characters.")],
    as_json: AsJson = False,
) -> None:
    """Remove a rule: somebody is asked again."""
    rule = app_of(ctx).approvals.rules.remove(id)
    report(rule.as_data(), f"{rule.action} is asked for again", as_json=as_json)


def _where(condition: Any) -> str:
    return "" if condition is None else orjson.dumps(condition).decode()
