"""The `pipeline` command: thin, each command calls a function that other fronts could call too."""

from __future__ import annotations

import os
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text
from rich.tree import Tree

from ..cli import ledger, letters
from ..core.errors import PipelineError
from .group import (
    INTERRUPTED,
    AsJson,
    Commands,
    app_of,
    examples,
    load_app,
    out,
    print_json,
    print_table,
    read_data,
    read_time,
    say,
    without_warnings,
)

if TYPE_CHECKING:
    from ..app.app import Pipeline
    from ..core.event import Event
    from ..examples.briefing.demo import Report, Story

LONGEST_QUESTION = 2000
#: The field of each of the briefing's events that says what happened.
_SAYS = {"user.query": "query", "user.notified": "message", "research.failed": "error", "email.sent": "to"}
_COLOURS = {"ok": "green", "warn": "yellow", "fail": "red"}

cli = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,  # they show the values of variables, and with them passwords
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        from .. import __version__

        typer.echo(f"pipeline {__version__}")
        raise typer.Exit


@cli.callback(
    epilog=examples(
        "pipeline demo                                      see it work",
        "pipeline publish order.created --data '{\"id\": 7}'  publish an event",
        "pipeline trace ID                                  what an event has caused",
        "pipeline dead list                                 what agents gave up",
        "pipeline agents                                    who subscribed to what",
        "pipeline doctor                                    find out what is wrong",
    )
)
def common(
    ctx: typer.Context,
    app: Annotated[
        str, typer.Option("--app", "-A", metavar="MODULE:NAME", help="Your Pipeline; default the built-in app.")
    ] = "",
    config: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, help="The settings file; default pipeline.toml.")
    ] = None,
    broker_url: Annotated[str | None, typer.Option(help="The broker; wins over settings and environment.")] = None,
    ledger_url: Annotated[str | None, typer.Option(help="The ledger, likewise; an empty one switches it off.")] = None,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Event-driven agents on Celery."""
    # The environment reaches users' own apps too, and the worker that the demo starts.
    if config is not None:
        os.environ["PIPELINE_CONFIG"] = str(config)
    given = {name: url for name, url in (("broker_url", broker_url), ("ledger_url", ledger_url)) if url is not None}
    for name, url in given.items():
        os.environ[f"PIPELINE_{name.upper()}"] = url
    if "" not in sys.path and str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))  # where `celery -A` looks too
    ctx.obj = {"app": app, "options": tuple(given)}


@cli.command(
    epilog=examples(
        'pipeline publish user.query --data \'{"user_id": "ada", "query": "What is a decorator?"}\'',
        "pipeline publish order.created --data @order.json --priority 1 --target billing",
        "pipeline publish invoice.reminded --data '{\"number\": 7}' --at 2027-03-01T09:00",
    )
)
def publish(
    ctx: typer.Context,
    type: Annotated[str, typer.Argument(help="The event type: dotted words, such as order.created.")],
    data: Annotated[str, typer.Option(help="JSON; @FILE reads a file, - reads standard input.")] = "null",
    priority: Annotated[int | None, typer.Option(min=1, max=10, help="1 (most urgent) to 10; default 5.")] = None,
    correlation_id: Annotated[str | None, typer.Option(help="Joins the event to others; default its own id.")] = None,
    subject: Annotated[str | None, typer.Option(help="What the event is about.")] = None,
    target: Annotated[
        list[str] | None, typer.Option(metavar="AGENT", help="The only agent that may receive it; repeatable.")
    ] = None,
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
    with without_warnings("pipeline.publishing.outbox"):
        event = app.publish(
            type,
            read_data(data),
            priority=priority,
            correlation_id=correlation_id,
            subject=subject,
            targets=tuple(target or ()),
            delay=delay,
            at=at,
        )
    typer.echo(event.encode() if as_json else event.id)
    if not event.sent and delay is None and at is None:
        broker = app.celery.connection_for_write().as_uri()
        say(f"the broker {broker} is away; the event is accepted, and a worker sends it when the broker is back")


@cli.command(epilog=examples("pipeline agents", "pipeline --app shop.bus:app agents --json"))
def agents(ctx: typer.Context, as_json: AsJson = False) -> None:
    """List the agents: what they subscribed to, and how they are run."""
    rows = agent_rows(app_of(ctx))
    if as_json:
        print_json(rows)
        return
    headings = ("agent", "patterns", "payload", "retries", "rate limit", "timeout", "queue")
    print_table(headings, [_agent_cells(row) for row in rows])


@cli.command(epilog=examples("pipeline doctor", "pipeline --broker-url redis://localhost/0 doctor --json"))
def doctor(ctx: typer.Context, as_json: AsJson = False) -> None:
    """Check settings, broker, results, agents and workers; exit 1 when something does not work."""
    from ..operations.doctor import Check, examine, fail

    found: list[Check] = []
    try:
        for check in examine(app_of(ctx), options=ctx.obj["options"]):
            found.append(check)
            if not as_json:
                _print_check(check)
    except PipelineError as exc:
        found.append(fail("settings", str(exc), "correct it where the message says"))
        if not as_json:
            _print_check(found[-1])
    if as_json:
        print_json([check.as_data() for check in found])
    raise typer.Exit(int(any(check.status == "fail" for check in found)))


@cli.command(
    epilog=examples(
        "pipeline demo", 'pipeline demo "How do exceptions work?" "How do I sort a list?" --directory /tmp/briefing'
    )
)
def demo(
    questions: Annotated[list[str] | None, typer.Argument(help="Questions about Python; default a few.")] = None,
    directory: Annotated[
        Path | None, typer.Option(file_okay=False, help="Where all state goes; default a new temporary directory.")
    ] = None,
    timeout: Annotated[float, typer.Option(min=1, help="Seconds for everything together.")] = 60.0,
    as_json: AsJson = False,
) -> None:
    """Start a worker with the briefing example, ask it questions, and show what caused what."""
    from ..examples.briefing.demo import QUESTIONS, run

    asked = questions or list(QUESTIONS)
    if not all(0 < len(question.strip()) <= LONGEST_QUESTION for question in asked):
        raise typer.BadParameter(f"a question has 1 to {LONGEST_QUESTION} characters", param_hint="QUESTIONS")
    if as_json:
        print_json(run(asked, directory=directory, timeout=timeout).as_data())
        return
    with out.status("") if out.is_terminal else nullcontext() as status:

        def stage(text: str) -> None:
            if status is not None:
                status.update(f"{text} ...")
            else:
                out.print(f"{text} ...")

        report = run(asked, directory=directory, timeout=timeout, stage=stage, seen=_print_progress)
    _print_report(report)


cli.add_typer(ledger.commands)
cli.add_typer(letters.commands)
cli.add_typer(letters.dead, name="dead")
cli.add_typer(ledger.ledger, name="ledger")


# -- what the commands call


def agent_rows(app: Pipeline) -> list[dict[str, Any]]:
    """Import the agents' modules and return what each agent is, as JSON data; raise ConfigError when that fails."""
    from ..brokers.topology import QUEUE_PREFIX
    from ..operations.doctor import import_agents

    import_agents(app)
    return [
        {
            "name": agent.name,
            "patterns": list(agent.patterns),
            "payload": agent.payload.__name__ if agent.payload else "Event" if agent.wants_event else None,
            "retries": agent.retry.max,
            "rate_limit": agent.rate_limit,
            "timeout": agent.timeout,
            "priority": agent.priority,
            "queue": QUEUE_PREFIX + agent.name,
        }
        for agent in app.agents
    ]


# -- printing


def _agent_cells(row: dict[str, Any]) -> list[str]:
    patterns = " ".join(row["patterns"]) or "(called by joins)"
    seconds = f"{row['timeout']:g} s" if row["timeout"] else ""
    limit, payload = row["rate_limit"] or "", row["payload"] or ""
    return [row["name"], patterns, payload, str(row["retries"]), limit, seconds, row["queue"]]


def _print_check(check: Any) -> None:
    line = Text.assemble((f"{check.status:<5}", _COLOURS[check.status]), f"{check.name}: {check.detail}")
    out.print(line)
    if check.mend and check.status != "ok":
        out.print(Text(f"      {check.mend}", style="dim"))


def _print_progress(story: Story, event: Event) -> None:
    out.print(Text(f"  {story.seconds(event):5.2f} s  {event.type:<18} {_about(event)}"))


def _about(event: Event) -> str:
    """Return what an event of the briefing says, in a few words."""
    if event.type == "research.found":
        title = event.data["title"]
        return f"{event.data['researcher']}: {title}" if title else str(event.data["summary"])
    if event.type == "research.complete":
        return f"by {' and '.join(event.data['results'])}"
    return str(event.data.get(_SAYS.get(event.type, ""), ""))


def _print_report(report: Report) -> None:
    for story in report.stories:
        out.print()
        out.print(Text(story.question.data["query"], style="bold"))
        out.print(Text(story.answer), width=min(out.width, 100), soft_wrap=False)
        out.print(_tree(story))
    out.print()
    for story in report.stories:
        out.print(Text(f"message    {story.message}"))
    out.print(Text(f"audit log  {report.audit}"))
    out.print(Text(f"everything in {report.seconds:.1f} s; all state is in {report.directory}"))


def _tree(story: Story) -> Tree:
    """Return what caused what, with the seconds since the question."""

    def grow(branch: Tree, event: Event) -> None:
        for caused in story.caused_by(event):
            _, is_agent, name = caused.source.partition("/agent/")
            who = name if is_agent else "the join"
            grow(branch.add(Text(f"{caused.type}  +{story.seconds(caused):.2f} s  by {who}")), caused)

    root = Tree(Text(f"{story.question.type}  {story.question.id}"))
    grow(root, story.question)
    return root


def main() -> None:
    """Run the command."""
    try:
        cli(prog_name="pipeline")
    except KeyboardInterrupt:  # before the command had begun
        sys.exit(INTERRUPTED)


__all__ = ["agent_rows", "cli", "load_app", "main"]

if __name__ == "__main__":
    main()
