"""Commands to try on what a demonstration has left, as they can be pasted into the same shell."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

import typer

from ...core.times import monotonic

#: Where the text of a line begins, behind the seconds.
INDENT = " " * 8


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
