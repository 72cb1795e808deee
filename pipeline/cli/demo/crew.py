"""The command that shows a crew of LLM agents: demo crew."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ...core.errors import ConfigError, to_install
from ..group import can_ask
from ..options import AsJson, By, Yes, login_name
from ..output import printable
from .trying import Directory, Serve, check_page, command, end, print_commands, print_document, teller

if TYPE_CHECKING:
    from ...examples.crew.bill import Bill
    from ...examples.crew.demo import Decide, Report

LONGEST_TOPIC = 500
WIDTH = 100
MILLIONTH = 1_000_000

WHAT = """\
A crew of LLM agents (pydantic-ai) writes a report, on the bus. Each model call is paid for, so none may be lost, and
none made twice:

  topic.given --> planner          splits the topic into questions
                  --> searcher     one for each question, side by side, with a tool
                  --> writer       waits for all findings, and writes
                      --> sender   asks you, and e-mails the report

The agents are in pipeline/examples/crew/agents.py, as you would write them. Each call of a model is a step that the
ledger keeps, and reserves what it may cost from a budget.
"""
PRETENDED = """\
The model is a pretended one, a server on this machine that counts what it is paid for; nothing costs. On the way it
refuses (429), and the worker is killed. For a real model set CREW_MODEL as pydantic-ai names it (openai:gpt-5), and its
key (OPENAI_API_KEY); then nothing is broken on purpose.
"""
HONEST = """\
To be honest: the kill came when all that was answered was kept. A worker that dies between an answer and the ledger's
commit, some milliseconds later, makes that call again, and it is paid twice; and a provider may charge for what it was
still writing. Each call carries an Idempotency-Key, for those that know it.
"""


def crew(
    topic: Annotated[
        str | None, typer.Argument(help="What the report is about, something in Python; parts stand between commas.")
    ] = None,
    directory: Directory = None,
    timeout: Annotated[float, typer.Option(min=1, help="Seconds for everything but your answer.")] = 120.0,
    yes: Yes = False,
    by: By = None,
    serve: Serve = False,
    as_json: AsJson = False,
) -> None:
    """See LLM agents plan, search, write and ask before they send: a worker is killed, nothing is paid twice."""
    _check_installed()
    check_page(serve)
    from ...examples.crew import model
    from ...examples.crew.demo import MODULE, TOPIC, run

    model.check()
    wanted = TOPIC if topic is None else topic
    if not 0 < len(wanted.strip()) <= LONGEST_TOPIC:
        raise typer.BadParameter(f"a topic has 1 to {LONGEST_TOPIC} characters", param_hint="TOPIC")
    if not yes and not can_ask():
        raise typer.BadParameter("needed, because standard input is no terminal to ask on", param_hint="--yes")
    decide = _decider(login_name(by) or "you", yes=yes)
    if as_json:
        report = run(wanted, decide, directory=directory, timeout=timeout)
        print_document(report, _commands(report))
    else:
        typer.echo(WHAT if model.NAME else f"{WHAT}\n{PRETENDED}")
        report = run(wanted, decide, directory=directory, timeout=timeout, tell=teller())
        _print_report(report)
    end(report.config, MODULE, serve=serve, as_json=as_json)


def _check_installed() -> None:
    """Raise ConfigError that says what to install where pydantic-ai is missing."""
    try:
        import pydantic_ai  # noqa: F401
    except ImportError as exc:
        raise ConfigError(f"demo crew needs pydantic-ai ({exc}); {to_install('crew')}") from None


def _decider(by: str, *, yes: bool) -> Decide:
    """Return what says whether the report may be sent: whoever sits at the terminal, or --yes."""
    from ...examples.crew.demo import Decision

    def decide(report: Mapping[str, Any]) -> Decision:
        if yes:
            return Decision(True, by, "--yes")
        typer.echo(_shown(report), err=True)
        typer.echo("Send it? [y/N] ", nl=False, err=True)
        # Not typer.confirm(): it takes Ctrl-C for an answer.
        is_yes = sys.stdin.readline().strip().lower() in ("y", "yes")
        return Decision(is_yes, by, None if is_yes else "not wanted")

    return decide


def _shown(report: Mapping[str, Any]) -> str:
    lines = [f"To: {report['to']}", f"Subject: {report['subject']}", ""]
    for line in str(report["text"]).splitlines():
        lines += textwrap.wrap(printable(line), WIDTH) or [""]
    return "\n" + textwrap.indent("\n".join(printable(line) for line in lines), "  | ", lambda line: True) + "\n"


def _print_report(report: Report) -> None:
    typer.echo(f"\n{_paid(report.bill)}\n\n{_balance(report)}\n")
    if report.killed:
        typer.echo(HONEST)
    typer.echo(f"{report.seconds:.1f} s in all. Events, the e-mail and logs are in {report.directory}. Try on them:")
    print_commands(_commands(report))
    typer.echo("\nYour own crew: pipeline/examples/crew/agents.py, and docs/crew.md.")


def _paid(bill: Bill) -> str:
    """Return each call that was paid for, by the ledger and by the provider."""
    rows = [
        f"  {line.agent:<10}{line.delivery[:8]}  call {line.number}  {line.tokens:>7,} tokens  {_money(line.cost)}"
        + ("" if line.answered is None else f"   kept, answered {_times(line.answered)}")
        for line in bill.lines
    ]
    total = f"PAID: {len(bill.lines)} model calls, {bill.tokens:,} tokens, {_money(bill.cost)} in all."
    return "\n".join([total, *rows])


def _balance(report: Report) -> str:
    """Say what was paid for twice, by the ledger, the provider and the mail server."""
    bill = report.bill
    twice, lost = f"{bill.twice} calls" if bill.twice else "nothing", f"{bill.lost} calls" if bill.lost else "nothing"
    mails = sum(report.mails.values())
    lines = [
        f"PAID TWICE: {twice}. PAID AND LOST: {lost}." if bill.answered is not None else "PAID TWICE: see your bill.",
        f"  ledger       {len(bill.lines)} model calls are kept, each is a step of its delivery",
    ]
    if bill.answered is not None:
        lines.append(
            f"  provider     {bill.answered.total()} answers to {len(bill.answered)} different calls; "
            f"{bill.refused} refused (429) and {bill.cut_off} cut off before its answer, which cost nothing"
        )
    more = bill.budget[0] - bill.tokens
    lines += [
        f"  budget       {bill.budget[0]:,} of {bill.limit[0]:,} tokens"
        + (f": {more:,} are what the killed attempt had reserved; that counts as spent" if more else ""),
        f"  mail server  {mails} e-mail{'s'[: mails != 1]} taken, {len(report.mails)} different",
        f"  approval     {report.approval['status']} by {report.approval['by']}",
    ]
    return "\n".join(lines)


def _times(number: int) -> str:
    return {0: "never", 1: "once"}.get(number, f"{number} times")


def _money(millionths: int) -> str:
    return f"${millionths / MILLIONTH:.6f}" if millionths else "at no known price"


def _commands(report: Report) -> list[tuple[str, str]]:
    """Return commands to try on what the demonstration has left, each behind what it shows."""
    from ...examples.crew.demo import MODULE

    id = report.correlation
    killed = ", and the killed search has 2 attempts" if report.killed else ""
    shown = (
        (f"what the topic has caused: each model call is a step{killed}", ("trace", id)),
        ("what was spent of the budget", ("budget", id)),
        ("who has approved what", ("approvals", "show", str(report.approval["id"]))),
        ("the report as an event", ("events", "--type", "report.*", "--json")),
    )
    return [(what, command(report.config, words, MODULE)) for what, words in shown]
