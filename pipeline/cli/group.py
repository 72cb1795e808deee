"""What the commands share: how they find the app, ask, show how far a long work has come, and end."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from difflib import get_close_matches
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, cast

import typer
from celery import Celery
from celery.app.utils import find_app
from rich.console import Console
from typer.core import TyperCommand, TyperGroup

from ..agents.loading import import_agents, told
from ..core.errors import ConfigError, PipelineError, nearest
from .output import printable, say

if TYPE_CHECKING:
    from ..app.app import Pipeline

INTERRUPTED = 130
#: Options of all commands.
BEFORE = ("-A", "--app", "--config", "--broker-url", "--ledger-url")
_HOW_TO_NAME_ONE = "name the module that makes one, as in --app shop or --app shop.bus:app"


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


class Placed:
    """Mixed into commands and groups: an option that stands in the wrong place is not one that does not exist."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Read the arguments, and say where the options of all commands stand."""
        try:
            found: list[str] = super().parse_args(ctx, args)  # type: ignore[misc]  # a mixin: the class beside it has the method
        except typer.TyperException as exc:
            option = getattr(exc, "option_name", "")
            if option in BEFORE:
                command, _, rest = ctx.command_path.partition(" ")
                exc.message = f"{option} stands before the command: {command} {option} ... {rest}"
            raise
        return found


class Command(Placed, TyperCommand):
    """A command whose usage is written as everybody writes it, and that knows the options of all commands."""

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """Return what follows the command's name, in capitals, and what is needed without braces around it."""
        return [piece.removeprefix("{").removesuffix("}").upper() for piece in super().collect_usage_pieces(ctx)]


class Group(Placed, TyperGroup):
    """Commands that belong together, as they are shown."""


class CommandSet(typer.Typer):
    """Commands that belong together."""

    def __init__(self, **options: Any) -> None:
        """Take Typer's options."""
        super().__init__(**{"cls": Group, **options})

    def command(self, *arguments: Any, **options: Any) -> Callable[[Any], Any]:
        """Declare the decorated function as one of them."""
        return super().command(*arguments, cls=Command, **options)


def examples(*lines: str) -> str:
    """Return the examples for the end of a command's help."""
    # A backspace alone on a line tells the help to leave the following lines as they are.
    return "\n".join(["\b", "Examples:", *(f"  {line}" for line in lines)])


# -- the app


def load_app(spec: str) -> Pipeline:
    """Return the Pipeline that `--app` names, or the default app; raise ConfigError when there is none.

    Arguments:
        spec: what `celery -A` takes: MODULE, PACKAGE or MODULE:NAME; empty for the default app.

    """
    from ..app.default import default_app

    if not spec:
        return default_app()
    return _of(_found(spec), f"--app {spec}")


def _of(found: Any, said: str) -> Pipeline:
    """Return the Pipeline of what was found; raise ConfigError when it has none."""
    if type(found) is Celery and not hasattr(found, "pipeline"):
        import_agents(found)  # a worker does that first, too: the Pipeline may be made beside the agents
    app = getattr(found, "pipeline", None)  # a Celery app knows the Pipeline that was built on it
    if not _is_pipeline(app):
        raise ConfigError(f"{said}: that is a {type(found).__name__} without a Pipeline; {_HOW_TO_NAME_ONE}")
    return cast("Pipeline", app)


def _found(spec: str) -> Any:
    """Return what `celery -A` finds, or the Pipeline beside an `app` that is somebody else's, a FastAPI say."""
    module_name = spec.partition(":")[0]
    try:
        found = find_app(spec)
    except Exception as exc:
        if module_name in sys.modules:  # it was imported, so it is the name that is wrong
            raise ConfigError(f"--app {spec}: {_no_app(spec, sys.modules[module_name])}") from exc
        if isinstance(exc, ValueError) and isinstance(exc.__context__, ValueError):
            exc = exc.__context__  # Kombu has put its own words around what the module has raised
        is_missing = getattr(exc, "name", None) in _parents(module_name)
        raise ConfigError(f"--app {spec}: {_no_module(module_name) if is_missing else told(exc)}") from exc
    if hasattr(found, "pipeline") or spec not in sys.modules:
        return found
    return next(filter(_is_pipeline, vars(sys.modules[spec]).values()), found)


def _is_pipeline(value: object) -> bool:
    from ..app.app import Pipeline

    return isinstance(value, Pipeline)


def _parents(module: str) -> list[str]:
    """Return a module's name, and the names of the packages that it is in."""
    words = module.split(".")
    return [".".join(words[:number]) for number in range(1, len(words) + 1)]


def _no_module(name: str) -> str:
    here = [path.stem if path.suffix == ".py" else path.name for path in Path.cwd().iterdir()]
    near = get_close_matches(name, here, n=1)
    hint = f"did you mean {near[0]!r}?" if near else "run the command where it lies, or install it"
    return f"there is no module {name!r} in {Path.cwd()} or among what is installed; {hint}"


def _no_app(spec: str, module: ModuleType) -> str:
    name = spec.partition(":")[2]
    apps = [own for own, value in vars(module).items() if isinstance(value, Celery)]
    if not name:
        return f"it has no Pipeline and no Celery app; {_HOW_TO_NAME_ONE}"
    return f"it has no {name!r}" + (f"; {nearest(name, apps)}" if apps else ", nor any Pipeline")


def app_of(ctx: typer.Context) -> Pipeline:
    """Return the app that a command is to use: what `--app` names, else that of the `celery` command."""
    if not ctx.obj["app"] and "celery" in ctx.obj:
        return _of(ctx.obj["celery"], "celery -A")
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


class _Said(logging.Handler):
    """Says what the bus warns of, as the command says what is wrong itself."""

    def emit(self, record: logging.LogRecord) -> None:
        """Say it in one line on stderr."""
        say(record.getMessage())


@contextmanager
def saying_warnings() -> Iterator[None]:
    """Let what the bus warns of be lines of the command; users' own handlers get them as ever."""
    logger, handler = logging.getLogger("pipeline"), _Said(logging.WARNING)
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)


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
