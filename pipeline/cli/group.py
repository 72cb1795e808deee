"""What the commands share: how they find the app, read their options, print, ask, show progress, and end."""

from __future__ import annotations

import importlib
import logging
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import orjson
import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text
from typer.core import TyperGroup

from ..core.errors import ConfigError, PipelineError

if TYPE_CHECKING:
    from ..app.app import Pipeline
    from ..history.events import Recorded

INTERRUPTED = 130
HOW_TO_WRITE_A_TIME = (
    "an ISO time such as 2026-03-01T09:30 (local time when it has no zone), "
    "a sequence number such as 120, or an age such as 2h, 30m, 7d"
)

_AGE = re.compile(r"(\d{1,12}(?:\.\d{1,6})?) ?([smhdw])", re.ASCII)
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_SEQUENCE_NUMBER = re.compile(r"\d{1,18}", re.ASCII)

out = Console(highlight=False, soft_wrap=True)
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]


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
    from ..app.app import Pipeline, default_app

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


def app_of(ctx: typer.Context) -> Pipeline:
    """Return the app that a command is to use."""
    return load_app(ctx.obj["app"])


# -- what options say


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
    except (orjson.JSONDecodeError, UnicodeEncodeError) as exc:
        raise typer.BadParameter(f"not JSON: {exc}", param_hint="--data") from None


def read_age(text: str) -> timedelta:
    """Return the length of time that an option gives, such as 30m; raise a usage error otherwise."""
    found = _AGE.fullmatch(text.strip())
    try:
        if found:
            return timedelta(**{_UNITS[found[2]]: float(found[1])})
    except OverflowError:
        pass
    raise typer.BadParameter(f"{text!r} is no age; write one such as 90s, 30m, 2h, 7d or 4w")


def read_time(text: str) -> datetime:
    """Return the ISO time that an option gives; raise a usage error otherwise."""
    try:
        return _time(text)
    except (ValueError, OverflowError):
        raise typer.BadParameter(
            f"{text!r} is no time; write an ISO time such as 2026-03-01T09:30 (local time when it has no zone)"
        ) from None


def read_moment(text: str) -> datetime | int:
    """Return the time or the sequence number that an option gives; raise a usage error otherwise."""
    wanted = text.strip()
    if _SEQUENCE_NUMBER.fullmatch(wanted):
        return int(wanted)
    try:
        return datetime.now(UTC) - read_age(wanted) if _AGE.fullmatch(wanted) else _time(wanted)
    except (ValueError, OverflowError, typer.BadParameter):
        raise typer.BadParameter(f"{text!r} is no time; write {HOW_TO_WRITE_A_TIME}") from None


def _time(text: str) -> datetime:
    found = datetime.fromisoformat(text.strip())
    # As UTC, so that a time at the end of the calendar is refused here.
    return (found if found.utcoffset() is not None else found.astimezone()).astimezone(UTC)


Pattern = Annotated[str | None, typer.Option("--type", metavar="PATTERN", help="An event type or topic pattern.")]
Correlation = Annotated[str | None, typer.Option(metavar="ID", help="Only what has this correlation id.")]
Stream = Annotated[str | None, typer.Option(metavar="NAME", help="Whose history: an agent's name, or a subject.")]
# Any, because typer knows no unions; the parser says what it is.
Since = Annotated[
    Any, typer.Option(parser=read_moment, metavar="T", help="From then on: an ISO time, a sequence number, or an age.")
]
UpTo = Annotated[Any, typer.Option(parser=read_moment, metavar="T", help="Until then, likewise.")]
OlderThan = Annotated[Any, typer.Option(parser=read_age, metavar="AGE", help="Longer ago than this, such as 30d.")]
Limit = Annotated[int, typer.Option(min=1, help="How many at most.")]


# -- printing


def say(text: str) -> None:
    """Tell something on stderr, in one line without passwords."""
    from ..operations.doctor import without_passwords

    typer.echo(f"pipeline: {printable(without_passwords(' '.join(text.split())))}", err=True)


def printable(text: str, keep: str = "") -> str:
    """Return a text that somebody else has written, with what a terminal would obey made visible."""
    return "".join(char if char.isprintable() or char in keep else ascii(char)[1:-1] for char in text)


def clock(when: datetime | None) -> str:
    """Return a time as people here read it, and as the options take it."""
    return "" if when is None else when.astimezone().isoformat(timespec="milliseconds")


def as_json_time(when: datetime | None) -> str | None:
    """Return a time as JSON has it."""
    return None if when is None else when.astimezone(UTC).isoformat().replace("+00:00", "Z")


def print_json(data: Any) -> None:
    """Print data as JSON for people and programs."""
    typer.echo(orjson.dumps(data, option=orjson.OPT_INDENT_2))


def print_table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table: fitted to a terminal, else one line for each row."""
    cells = [[printable(cell) or "-" for cell in row] for row in rows]
    if not out.is_terminal:
        lines = [list(headings), *cells]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        for line in lines:
            padded = (cell.ljust(width) for cell, width in zip(line, widths, strict=True))
            typer.echo("  ".join(padded).rstrip())
        return
    table = Table(box=None, pad_edge=False)
    for heading in headings:
        table.add_column(heading, overflow="fold")
    for row in cells:
        table.add_row(*map(Text, row))
    out.print(table, soft_wrap=False)


def print_event(found: Recorded, *, as_json: bool) -> None:
    """Print one event of the log as one line."""
    event = found.event
    if as_json:
        typer.echo(orjson.dumps(event_data(found), option=orjson.OPT_UTC_Z))
        return
    whose = event.source.partition("/agent/")[2] or event.subject or "-"
    cells = (f"{found.seq:>6}", clock(event.time), f"{event.type:<24}", event.id, whose, event.source)
    line = [printable(cell) for cell in cells]
    if out.is_terminal:
        styles = ("dim", "dim", "bold", "", "", "dim")
        out.print(Text("  ").join(Text(cell, style=style) for cell, style in zip(line, styles, strict=True)))
    else:
        typer.echo("  ".join(line))


def event_data(found: Recorded) -> dict[str, Any]:
    """Return an event of the log as a CloudEvent, with its sequence number, and the replay that emitted it."""
    data = {**found.event.attributes(), "seq": found.seq}
    return data if found.replay is None else {**data, "replay": found.replay}


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
