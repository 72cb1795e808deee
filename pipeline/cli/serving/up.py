"""The command for development: up, which runs worker, beat and the page, and starts them anew with each change."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Annotated

import typer

from ...core.errors import ConfigError, to_install
from ...core.times import monotonic
from ..group import INTERRUPTED, CommandSet, app_of, examples
from ..output import say

commands = CommandSet()

#: Seconds that the parts have to end in, before they are killed.
GRACE = 20.0
#: What ends it as Ctrl-C does: somebody asks for it, or closes the terminal.
ENDS = (signal.SIGTERM, signal.SIGHUP)
#: Milliseconds between two looks whether all parts still run.
LOOK = 500


@commands.command(
    epilog=examples("pipeline up", "pipeline --app shop up --port 9000", "pipeline --app shop up --no-reload")
)
def up(
    ctx: typer.Context,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Where the page is; 0 takes a free port.")] = 8000,
    pool: Annotated[str, typer.Option(metavar="POOL", help="The worker's pool: prefork, threads or solo.")] = "prefork",
    reload: Annotated[bool, typer.Option(help="Start everything anew when a file of yours has changed.")] = True,
) -> None:
    """Run a worker, beat and the page together, for development; Ctrl-C ends all of them."""
    app_of(ctx)  # what is wrong with the app is said once
    name = ctx.obj["app"] or ("pipeline" if "celery" not in ctx.obj else "")
    if not name:
        raise ConfigError("Celery's command does not say which app that is: use `pipeline --app MODULE up`")
    celery = [sys.executable, "-m", "celery", "-A", name]
    parts = [
        Part("worker", [*celery, "worker", "--loglevel=INFO", f"--pool={pool}"]),
        Part("beat", [*celery, "beat", "--loglevel=INFO"]),
        Part("http", [sys.executable, "-m", "pipeline.cli.main", "-A", name, "serve", "--port", str(port)]),
    ]
    changes = _changes(Path.cwd()) if reload else _no_changes()
    for number in ENDS:
        signal.signal(number, signal.default_int_handler)
    try:
        for part in parts:
            part.start()
        for changed in changes:
            if changed:
                say(f"{changed} has changed: starting anew")
                _stop(parts)
                for part in parts:
                    part.start()
            _look(parts, reload=reload)
    except KeyboardInterrupt:
        say("ending; what runs has time to be done")
        raise typer.Exit(INTERRUPTED) from None
    finally:
        _stop(parts)


class Part:
    """A process, whose lines are shown behind its name."""

    def __init__(self, name: str, command: Sequence[str]) -> None:
        self.name = name
        self._command = command
        self._process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        """Start it, in a group of its own: Ctrl-C is for us."""
        self._process = subprocess.Popen(  # noqa: S603  # our own command
            self._command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
            start_new_session=True,
        )
        threading.Thread(target=self._show, args=(self._process.stdout,), daemon=True).start()

    def has_ended(self) -> int | None:
        """Return the exit code of one that has ended by itself, once."""
        if self._process is None or (code := self._process.poll()) is None:
            return None
        self._kill()
        return code

    def ask(self) -> None:
        """Ask it to end."""
        if self._process is not None:
            with suppress(ProcessLookupError):
                self._process.send_signal(signal.SIGTERM)

    def end(self, deadline: float) -> None:
        """Wait until it has ended; kill it, and whatever it has started, when it takes too long."""
        if self._process is not None:
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(max(deadline - monotonic(), 0))
            self._kill()

    def _kill(self) -> None:
        assert self._process is not None
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._process = None

    def _show(self, lines: IO[str] | None) -> None:
        for line in lines or ():
            with suppress(ValueError):  # the terminal was closed before
                typer.echo(f"{self.name:<6} | {line.rstrip()}")


def _look(parts: Sequence[Part], *, reload: bool) -> None:
    """Say which parts have ended by themselves; without a change to come that would start them, this is the end."""
    for part in parts:
        if (code := part.has_ended()) is None:
            continue
        if not reload:
            say(f"{part.name} has ended with exit code {code}")
            raise typer.Exit(1)
        say(f"{part.name} has ended with exit code {code}; it starts again when a file has changed")


def _stop(parts: Sequence[Part]) -> None:
    """End all parts: in their own time, and at once when somebody presses Ctrl-C again."""
    deadline = monotonic() + GRACE
    try:
        for part in parts:
            part.ask()
        for part in parts:
            part.end(deadline)
    finally:
        before = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, *ENDS)}
        for part in parts:
            part.end(0)
        for number, handler in before.items():
            signal.signal(number, handler)


def _changes(place: Path) -> Iterator[str]:
    """Yield the file that has changed, and again and again nothing when none has."""
    try:
        from watchfiles import DefaultFilter, watch
    except ModuleNotFoundError:
        raise ConfigError(f"--reload needs watchfiles: {to_install('http')}; or use --no-reload") from None

    class Ours(DefaultFilter):
        """Python files and settings, but not what programs write themselves, nor installed packages."""

        def __call__(self, change: object, path: str) -> bool:
            inside = Path(path).relative_to(place).parts
            hidden = any(part.startswith(".") for part in inside)
            return path.endswith((".py", ".toml")) and not hidden and "site-packages" not in inside

    for found in watch(place, watch_filter=Ours(), rust_timeout=LOOK, yield_on_timeout=True, raise_interrupt=True):
        yield next((str(Path(path).relative_to(place)) for _, path in sorted(found)), "")


def _no_changes() -> Iterator[str]:
    pause = threading.Event()
    while True:
        pause.wait(LOOK / 1000)
        yield ""
