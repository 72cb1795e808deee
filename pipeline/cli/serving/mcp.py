"""The command that lets a model use the bus: mcp."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Annotated

import typer

from ...agents.loading import import_agents
from ...core.errors import ConfigError
from ..group import CommandSet, app_of, examples
from ..output import say

if TYPE_CHECKING:
    from ...app.app import Pipeline

commands = CommandSet()


@commands.command(
    epilog=examples(
        "pipeline mcp",
        "pipeline --app shop mcp --allow request                  agents' capabilities are tools, too",
        "pipeline --app shop mcp --allow publish --allow request",
    )
)
def mcp(
    ctx: typer.Context,
    allow: Annotated[
        list[str] | None, typer.Option("--allow", metavar="WHAT", help="publish or request; repeatable.")
    ] = None,
) -> None:
    """Serve the app to a model over the Model Context Protocol, on standard input and output; it reads, at first.

    A program starts this command, and ends it by closing its input.
    """
    from ...mcp import serve, server_of, wire

    with wire() as ends:
        app = app_of(ctx)
        server = server_of(app, allow or ())
        _import(app)
        logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
        try:
            serve(server, ends)
        finally:
            app.close()


def _import(app: Pipeline) -> None:
    try:
        import_agents(app.celery)
    except ConfigError as exc:  # what runs elsewhere is known all the same
        say(f"what agents declare in code is not known here: {exc}")
