"""The `pipeline` command: thin, each command calls a function that other fronts could call too."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from . import agents, doctor, events, ledger, letters, publish, replay
from .contracts import asyncapi, explain, schemas
from .demo import commands as demo
from .group import INTERRUPTED, Commands, examples
from .serving import bridge, mcp, serve, tail, top, up
from .subscribing import subscriptions
from .waiting import approvals, budget, cancel, collaborations, flows, limits, pauses

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
    ctx.obj = {**(ctx.obj or {}), "app": app, "options": tuple(given)}


cli.add_typer(publish.commands)
cli.add_typer(agents.commands, name="agents")
cli.add_typer(asyncapi.commands)
cli.add_typer(explain.commands)
cli.add_typer(doctor.commands)
cli.add_typer(demo.commands, name="demo")
cli.add_typer(serve.commands)
cli.add_typer(mcp.commands)
cli.add_typer(up.commands)
cli.add_typer(tail.commands)
cli.add_typer(top.commands)
cli.add_typer(events.commands)
cli.add_typer(cancel.commands)
cli.add_typer(replay.commands)
cli.add_typer(budget.commands, name="budget")
cli.add_typer(flows.commands, name="flows")
cli.add_typer(collaborations.commands, name="collaborations")
cli.add_typer(letters.commands, name="dead")
cli.add_typer(approvals.commands, name="approvals")
cli.add_typer(ledger.commands, name="ledger")
cli.add_typer(schemas.commands, name="schemas")
cli.add_typer(subscriptions.commands, name="subscriptions")
cli.add_typer(limits.commands, name="limits")
cli.add_typer(pauses.commands, name="pauses")
cli.add_typer(bridge.commands, name="bridge")


def main() -> None:
    """Run the command."""
    try:
        cli(prog_name="pipeline")
    except KeyboardInterrupt:  # before the command had begun
        sys.exit(INTERRUPTED)


if __name__ == "__main__":
    main()
