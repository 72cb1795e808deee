"""What demonstrations have in common: options, how they tell, and how one looks at what they have left."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from ...core.times import monotonic
from ..output import print_json

#: Where the text of a line begins, behind the seconds.
INDENT = " " * 8


Directory = Annotated[
    Path | None, typer.Option(file_okay=False, help="Where all state goes; default a new temporary directory.")
]
Timeout = Annotated[float, typer.Option(min=1, help="Seconds for everything together.")]
Serve = Annotated[bool, typer.Option("--serve", help="Then serve the page with all that happened, until Ctrl-C.")]
#: Commands to try, each behind what it shows; they can be pasted into the same shell.
Commands = Sequence[tuple[str, str]]


def print_document(report: Any, commands: Commands) -> None:
    """Print what a demonstration has come to as JSON, with the commands."""
    print_json({**report.as_data(), "try": [line for _, line in commands]})


def print_commands(commands: Commands) -> None:
    """Print commands to try."""
    for what, line in commands:
        typer.echo(f"\n  # {what}\n  {line}")


def teller() -> Callable[[str], None]:
    """Return what prints lines, each text behind the seconds since now."""
    start = monotonic()

    def tell(text: str) -> None:
        first, *more = text.splitlines()
        typer.echo("\n".join([f"{monotonic() - start:5.1f} s {first}", *(f"{INDENT}{line}" for line in more)]))

    return tell


def command(config: Path, words: Iterable[str], app: str = "") -> str:
    """Return a command that finds the state of a demonstration.

    Arguments:
        config: its settings file.
        words: the command's own.
        app: the module with its agents; default the built-in app.

    """
    which = ["-A", app] if app else []
    return shlex.join([*_without_settings(), *_this_command(), *which, "--config", str(config), *words])


def check_page(serve: bool) -> None:
    """Raise ConfigError that says what to install where the page is asked for and cannot be served."""
    if serve:
        from ... import http  # noqa: F401  # it says so itself


def end(config: Path, app: str = "", *, serve: bool, as_json: bool) -> None:
    """End a demonstration: become the command that serves the page of what it has left, or say that there is one.

    Arguments:
        config: its settings file.
        app: the module with its agents; default the built-in app.

    """
    if serve:
        if not as_json:
            typer.echo("\nIts events as trees, in a browser; no worker runs any more, so what is sent there waits.")
        sys.stdout.flush()
        which = ["-A", app] if app else []
        command = [sys.executable, "-m", "pipeline.cli.main", *which, "--config", str(config), "serve", "--port", "0"]
        clean = {name: value for name, value in os.environ.items() if not name.startswith("PIPELINE_")}
        os.execve(sys.executable, command, clean)  # noqa: S606  # our own command
    elif not as_json:
        typer.echo("\nIts events as trees, in a browser: the same once more with --serve.")


def _this_command() -> list[str]:
    """Return how this command was called, so that it can be called again in the same shell."""
    called = Path(sys.argv[0])
    if called.suffix == ".py":
        return [sys.executable, "-m", "pipeline.cli.main"]
    found = shutil.which(called.name)
    return [called.name if found and Path(found).resolve() == called.resolve() else str(called)]


def _without_settings() -> list[str]:
    """Return what keeps settings in the environment from winning over those of the demonstration."""
    names = [name for name in os.environ if name.startswith("PIPELINE_")]
    return ["env", *(word for name in sorted(names) for word in ("-u", name))] if names else []
