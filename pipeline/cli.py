"""The `pipeline` command: thin, each command calls a function that other fronts could call too."""

from __future__ import annotations

import importlib
import os
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import orjson
import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text
from rich.tree import Tree
from typer.core import TyperGroup

from .errors import ConfigError, PipelineError

if TYPE_CHECKING:
    from .app import Pipeline
    from .demo import Report, Story
    from .event import Event

INTERRUPTED = 130
LONGEST_QUESTION = 2000
#: Columns of a table that goes to a file or a program.
WIDE = 240
#: The field of each of the briefing's events that says what happened.
_SAYS = {"user.query": "query", "user.notified": "message", "research.failed": "error", "email.sent": "to"}
_COLOURS = {"ok": "green", "warn": "yellow", "fail": "red"}

out = Console(highlight=False, soft_wrap=True)
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


class Commands(TyperGroup):
    """All commands, with one way to end: errors are a line on stderr, Ctrl-C is silent."""

    def invoke(self, ctx: Any) -> Any:
        """Run a command; exit 1 on a PipelineError, 130 on Ctrl-C."""
        from .doctor import without_passwords

        try:
            return super().invoke(ctx)
        except PipelineError as exc:
            typer.echo(f"pipeline: {without_passwords(str(exc))}", err=True)
            raise typer.Exit(1) from None
        except KeyboardInterrupt:
            raise typer.Exit(INTERRUPTED) from None


cli = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,  # they show the values of variables, and with them passwords
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _examples(*lines: str) -> str:
    # A backspace alone on a line tells the help to leave the following lines as they are.
    return "\n".join(["\b", "Examples:", *(f"  {line}" for line in lines)])


def _version(wanted: bool) -> None:
    if wanted:
        from . import __version__

        typer.echo(f"pipeline {__version__}")
        raise typer.Exit


@cli.callback(
    epilog=_examples(
        "pipeline demo                                      see it work",
        "pipeline publish order.created --data '{\"id\": 7}'  publish an event",
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
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Event-driven agents on Celery."""
    # The environment reaches users' own apps too, and the worker that the demo starts.
    if config is not None:
        os.environ["PIPELINE_CONFIG"] = str(config)
    if broker_url is not None:
        os.environ["PIPELINE_BROKER_URL"] = broker_url
    if "" not in sys.path and str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))  # where `celery -A` looks too
    ctx.obj = {"app": app, "options": ("broker_url",) if broker_url is not None else ()}


@cli.command(
    epilog=_examples(
        'pipeline publish user.query --data \'{"user_id": "ada", "query": "What is a decorator?"}\'',
        "pipeline publish order.created --data @order.json --priority 1 --target billing",
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
    as_json: AsJson = False,
) -> None:
    """Publish one event and print its id."""
    app = load_app(ctx.obj["app"])
    event = app.publish(
        type,
        read_data(data),
        priority=priority,
        correlation_id=correlation_id,
        subject=subject,
        targets=tuple(target or ()),
    )
    typer.echo(event.encode() if as_json else event.id)


@cli.command(epilog=_examples("pipeline agents", "pipeline --app shop.bus:app agents --json"))
def agents(ctx: typer.Context, as_json: AsJson = False) -> None:
    """List the agents: what they subscribed to, and how they are run."""
    rows = agent_rows(load_app(ctx.obj["app"]))
    if as_json:
        _print_json(rows)
        return
    table = Table(box=None, pad_edge=False)
    for heading in ("agent", "patterns", "payload", "retries", "rate limit", "timeout", "queue"):
        table.add_column(heading, overflow="fold")
    for row in rows:
        seconds = f"{row['timeout']:g} s" if row["timeout"] else "-"
        patterns = " ".join(row["patterns"]) or "(called by joins)"
        cells = [row["name"], patterns, row["payload"], str(row["retries"]), row["rate_limit"], seconds, row["queue"]]
        table.add_row(*(Text(cell or "-") for cell in cells))
    screen = out if out.is_terminal else Console(width=WIDE)
    screen.print(table, soft_wrap=False)


@cli.command(epilog=_examples("pipeline doctor", "pipeline --broker-url redis://localhost/0 doctor --json"))
def doctor(ctx: typer.Context, as_json: AsJson = False) -> None:
    """Check settings, broker, results, agents and workers; exit 1 when something does not work."""
    from .doctor import Check, examine, fail

    found: list[Check] = []
    try:
        for check in examine(load_app(ctx.obj["app"]), options=ctx.obj["options"]):
            found.append(check)
            if not as_json:
                _print_check(check)
    except PipelineError as exc:
        found.append(fail("settings", str(exc), "correct it where the message says"))
        if not as_json:
            _print_check(found[-1])
    if as_json:
        _print_json([check.as_data() for check in found])
    raise typer.Exit(int(any(check.status == "fail" for check in found)))


@cli.command(
    epilog=_examples(
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
    from .demo import QUESTIONS, run

    asked = questions or list(QUESTIONS)
    if not all(0 < len(question.strip()) <= LONGEST_QUESTION for question in asked):
        raise typer.BadParameter(f"a question has 1 to {LONGEST_QUESTION} characters", param_hint="QUESTIONS")
    if as_json:
        _print_json(run(asked, directory=directory, timeout=timeout).as_data())
        return
    with out.status("") if out.is_terminal else nullcontext() as status:

        def stage(text: str) -> None:
            if status is not None:
                status.update(f"{text} ...")
            else:
                out.print(f"{text} ...")

        report = run(asked, directory=directory, timeout=timeout, stage=stage, seen=_print_progress)
    _print_report(report)


# -- what the commands call


def load_app(spec: str) -> Pipeline:
    """Return the app that `--app` names, or the default app; raise ConfigError when there is none.

    Arguments:
        spec: MODULE:NAME, or a MODULE that has one Pipeline; empty for the default app.

    """
    from .app import Pipeline, default_app

    if not spec:
        return default_app()
    module_name, _, name = spec.partition(":")
    try:
        module = importlib.import_module(module_name)
    except ImportError as exc:
        raise ConfigError(f"--app {spec}: {exc}") from exc
    if name:
        found = [getattr(module, name, None)]
    else:
        found = [value for value in vars(module).values() if isinstance(value, Pipeline)]
    # A Celery app that a Pipeline was built on knows it.
    apps = {id(app): app for app in (getattr(value, "pipeline", value) for value in found) if isinstance(app, Pipeline)}
    if len(apps) != 1:
        have = "is no Pipeline" if name else f"has {len(apps)} Pipelines; name one, as in {module_name}:app"
        raise ConfigError(f"--app {spec}: {have}")
    return next(iter(apps.values()))


def read_data(text: str) -> Any:
    """Return the JSON that `--data` gives; raise a usage error that names it otherwise."""
    try:
        if text == "-":
            content = sys.stdin.buffer.read()
        elif text.startswith("@"):
            content = Path(text[1:]).read_bytes()
        else:
            content = text.encode()
        return orjson.loads(content)
    except OSError as exc:
        raise typer.BadParameter(f"{text[1:]}: {exc.strerror}", param_hint="--data") from None
    except orjson.JSONDecodeError as exc:
        raise typer.BadParameter(f"not JSON: {exc}", param_hint="--data") from None


def agent_rows(app: Pipeline) -> list[dict[str, Any]]:
    """Import the agents' modules and return what each agent is, as JSON data; raise ConfigError when that fails."""
    from .doctor import import_agents
    from .topology import QUEUE_PREFIX

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


def _print_json(data: Any) -> None:
    typer.echo(orjson.dumps(data, option=orjson.OPT_INDENT_2))


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


if __name__ == "__main__":
    main()
