"""`celery pipeline`: every `celery` command imports this, so the one that runs imports what the commands need."""

from __future__ import annotations

from typing import Any

import click


@click.command(
    "pipeline",
    add_help_option=False,
    context_settings={"ignore_unknown_options": True, "allow_extra_args": True, "allow_interspersed_args": False},
)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
@click.pass_context
def plugin(ctx: Any, arguments: tuple[str, ...]) -> None:
    """Events: publish, trace, dead letters, agents and all else that the `pipeline` command does."""
    from .main import cli

    cli(arguments or ("--help",), prog_name="celery pipeline", obj={"celery": ctx.obj.app})
