"""What the commands share: how they find the app, ask, show how far a long work has come, and end."""

from __future__ import annotations

import importlib
import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console
from typer.core import TyperGroup

from ..core.errors import ConfigError, PipelineError
from .output import printable, say

if TYPE_CHECKING:
    from ..app.app import Pipeline

INTERRUPTED = 130


class Interrupted(KeyboardInterrupt):
    """Somebody pressed Ctrl-C in a long work; the message says how far it came."""


class Commands(TyperGroup):
    """All commands, with one way to end: errors are a line on stderr, and so is what Ctrl-C has stopped."""

    def invoke(self, ctx: Any) -> Any:
        """Run a command; exit 1 on a PipelineError, 130 on Ctrl-C."""
        try:
            return super().invoke(ctx)
        except PipelineError as exc:
            say(str(exc))
            raise typer.Exit(1) from None
        except KeyboardInterrupt as exc:
            if str(exc):
                say(str(exc))
            raise typer.Exit(INTERRUPTED) from None


def examples(*lines: str) -> str:
    """Return the examples for the end of a command's help."""
    # A backspace alone on a line tells the help to leave the following lines as they are.
    return "\n".join(["\b", "Examples:", *(f"  {line}" for line in lines)])


# -- the app


def load_app(spec: str) -> Pipeline:
    """Return the app that `--app` names, or the default app; raise ConfigError when there is none.

    Arguments:
        spec: MODULE:NAME, or a MODULE that has one Pipeline; empty for the default app.

    """
    from ..app.app import Pipeline
    from ..app.default import default_app

    if not spec:
        return default_app()
    module_name, _, name = spec.partition(":")
    try:
        module = importlib.import_module(module_name)
    except ImportError as exc:
        raise ConfigError(f"--app {spec}: {exc}") from exc
    if name:
        values = [getattr(module, name, None)]
    else:
        values = [value for value in vars(module).values() if isinstance(value, Pipeline)]
    # A Celery app that a Pipeline was built on knows it.
    owners = (getattr(value, "pipeline", value) for value in values)
    apps = {id(app): app for app in owners if isinstance(app, Pipeline)}
    if len(apps) != 1:
        have = "is no Pipeline" if name else f"has {len(apps)} Pipelines; name one, as in {module_name}:app"
        raise ConfigError(f"--app {spec}: {have}")
    return next(iter(apps.values()))


def app_of(ctx: typer.Context) -> Pipeline:
    """Return the app that a command is to use."""
    return load_app(ctx.obj["app"])


# -- asking, and showing how far a work has come


def confirm(question: str, *, yes: bool) -> None:
    """Ask before something is done to many things; end the command unless the answer is yes."""
    if yes:
        return
    if not can_ask():
        raise typer.BadParameter(
            f"needed, because standard input is no terminal to ask on: {question}", param_hint="--yes"
        )
    typer.echo(f"{printable(question)} [y/N] ", nl=False, err=True)
    # Not typer.confirm(): it takes Ctrl-C for an answer.
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        say("nothing was done")
        raise typer.Exit(1)


def can_ask() -> bool:
    """Say whether somebody is there to answer."""
    return sys.stdin.isatty()


@contextmanager
def working(doing: str, things: str = "", advice: str = "") -> Iterator[Callable[..., None]]:
    """Show on a terminal how far a long work has come, and say it when Ctrl-C stops it.

    Yields a function that takes the number of things done, and how many there are when that is known.

    Arguments:
        doing: what is done, such as "pruning".
        things: what the work counts, such as "events".
        advice: how to go on after Ctrl-C.

    """
    done = 0
    screen = Console(stderr=True, highlight=False)
    with screen.status(f"{doing} ...") if screen.is_terminal else nullcontext() as status:

        def show(number: int, total: int | None = None) -> None:
            nonlocal done
            done = number
            if status is not None:
                of = "" if total is None else f" of {total:,}"
                status.update(f"{doing}: {number:,}{of} {things}")

        try:
            yield show
        except KeyboardInterrupt as exc:
            if str(exc):  # it says more
                raise
            after = f" after {done:,} {things}" if things else ""
            raise Interrupted(f"{doing} stopped{after}" + (f"; {advice}" if advice else "")) from None


@contextmanager
def without_warnings(*names: str) -> Iterator[None]:
    """Keep loggers from saying what the command itself says."""
    loggers = [(logger, logger.level) for logger in map(logging.getLogger, names)]
    for logger, _ in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in loggers:
            logger.setLevel(level)
