"""The command that shows the bus at work: demo briefing."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated

import typer

from ..options import AsJson
from ..output import printable
from .trying import Directory, Serve, Timeout, check_page, command, end, print_commands, print_document, teller

if TYPE_CHECKING:
    from ...examples.briefing.demo import Report

LONGEST_QUESTION = 2000
WIDTH = 100

WHAT = """\
pipeline is an event bus for Python, on Celery. A program publishes what has happened; every function that
subscribed to it, an agent, runs in a worker process, and what it returns is the next event. When an agent fails,
it alone is tried again; when a worker dies, another one takes over; nothing gets lost, and events take effect
once. It is for teams whose Celery tasks call each other, and whose work is slow, expensive, and fails at times.

This demo shows that. Questions about Python are published, agents look for answers and e-mail them:

  user.query --> audit       writes a line into a log, for each event
             --> notifier    tells the user that somebody is at work
             --> research    starts two researchers, reference and library, and waits for both
                             --> research.complete --> email

Meanwhile it breaks things on purpose. All of it is real (processes, messages, a mail server that keeps files),
runs on this machine, and needs nothing set up: a file of SQLite is the broker, and another one the history.
RabbitMQ or Redis, and PostgreSQL, take their places by a setting.
"""


def briefing(
    questions: Annotated[list[str] | None, typer.Argument(help="Questions about Python; default a few.")] = None,
    directory: Directory = None,
    timeout: Timeout = 60.0,
    serve: Serve = False,
    as_json: AsJson = False,
) -> None:
    """See it work: agents answer questions, a worker is killed, nothing is lost and nothing done twice."""
    check_page(serve)
    from ...examples.briefing.demo import QUESTIONS, run

    asked = questions or list(QUESTIONS)
    if not all(0 < len(question.strip()) <= LONGEST_QUESTION for question in asked):
        raise typer.BadParameter(f"a question has 1 to {LONGEST_QUESTION} characters", param_hint="QUESTIONS")
    if as_json:
        report = run(asked, directory=directory, timeout=timeout)
        print_document(report, _commands(report))
    else:
        typer.echo(WHAT)
        report = run(asked, directory=directory, timeout=timeout, tell=teller())
        _print_report(report)
    end(report.config, serve=serve, as_json=as_json)


def _print_report(report: Report) -> None:
    for story in report.stories:
        answer = textwrap.fill(printable(story.answer), WIDTH, max_lines=2, placeholder=" ...")
        typer.echo(f"\n{printable(story.question.data['query'])}\n{textwrap.indent(answer, '  ')}")
    typer.echo(f"\n{_balance(report)}\n")
    typer.echo(f"{report.seconds:.1f} s in all. Events, e-mails and logs are in {report.directory}. Try on them:")
    print_commands(_commands(report))
    typer.echo("\nYour own agents, in 30 lines: the example in README.md.")


def _balance(report: Report) -> str:
    """Say what was lost and what was done twice, by the ledger and by what the mail server has."""
    done, all_of_them = report.outcomes["succeeded"], report.outcomes.total()
    events, asked = sum(len(story.events) for story in report.stories), len(report.stories)
    return "\n".join(
        [
            f"LOST: {_found(report.lost)}.",
            f"  ledger       {events:,} events, {all_of_them:,} deliveries of them to agents: {done:,} are done",
            f"  mail server  {asked:,} asked, {len(report.mails):,} got an answer",
            f"DONE TWICE: {_found(report.twice)}.",
            f"  ledger       {report.attempts:,} attempts for {all_of_them:,} deliveries, as some were cut off or "
            "failed; each event is there once",
            f"  mail server  {report.mails.total():,} e-mails taken, {len(report.mails):,} different ones: each has "
            "its delivery's id",
        ]
    )


def _found(counts: Mapping[str, int]) -> str:
    """Return what there is of some things, such as "2 events", or "nothing"."""
    return ", ".join(f"{number:,} {name}" for name, number in counts.items() if number) or "nothing"


def _commands(report: Report) -> list[tuple[str, str]]:
    """Return commands to try on what the demonstration has left, each behind what it shows."""
    hardest = report.hardest.question.correlation_id
    replay = ("replay", "--to", "email", "--type", "research.complete", "--dry-run")
    shown = (
        ("what one question has caused: at which agent, how often tried, how long it took", ("trace", hardest)),
        ("what an agent had given up, and who gave it back to it", ("events", "--type", "delivery.*")),
        ("replay: how many past events one agent would get again, and act on again (without --dry-run)", replay),
    )
    return [(what, command(report.config, words)) for what, words in shown]
