"""The command that watches agents work: top."""

from __future__ import annotations

import signal
import time
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from ...core.errors import LedgerUnavailable
from ..group import INTERRUPTED, CommandSet, app_of, examples
from ..options import AsJson
from ..output import out, print_json, print_table, printable, table_of
from .up import ENDS

if TYPE_CHECKING:
    from ...app.app import Pipeline

commands = CommandSet()

HEADINGS = ("agent", "state", "waiting", "running", "done/s", "retrying", "parked", "dead", "oldest", "paused")


@commands.command(epilog=examples("pipeline top", "pipeline --app shop top --every 5", "pipeline top --once --json"))
def top(
    ctx: typer.Context,
    every: Annotated[float, typer.Option(metavar="SECONDS", min=0.2, help="How often it looks.")] = 2.0,
    once: Annotated[bool, typer.Option("--once", help="Look once, and end; so it is where no terminal is.")] = False,
    as_json: AsJson = False,
) -> None:
    """Watch the agents: what waits, runs and is done a second, what is dead, and what is wrong, until Ctrl-C."""
    app = app_of(ctx)
    seen = look(app)
    if as_json:
        print_json(seen)
    elif once or not out.is_terminal:
        print_table(HEADINGS, _cells(seen))
        typer.echo(printable("\n".join(_totals(seen)), keep="\n"))
    else:
        _watch(app, seen, every)


def look(app: Pipeline) -> dict[str, Any]:
    """Return how the agents and the ledger stand now, as JSON data."""
    from ...app.overview import agent_rows, what_is_wrong
    from ...history.traffic import throughput
    from ...ledger.status import status

    numbers, now, dead = status(app.ledger.database), throughput(app.ledger), app.dead_letters.count()
    agents = [
        {
            **row,
            "done_per_second": now.done.get(row["agent"], 0.0),
            "dead": dead[row["agent"]].number if row["agent"] in dead else 0,
        }
        for row in agent_rows(app)
    ]
    wrong = [text for text, _ in what_is_wrong(app, numbers)]
    return {"agents": agents, "totals": {**numbers._asdict(), "events_per_second": now.events}, "wrong": wrong}


def _watch(app: Pipeline, seen: dict[str, Any], every: float) -> None:
    """Show one look after the other on a screen of its own, which gives way to what was there before."""
    for number in ENDS:
        signal.signal(number, signal.default_int_handler)
    away = ""
    try:
        with Live(console=Console(highlight=False), screen=True, auto_refresh=False) as live:
            while True:
                live.update(_picture(seen, away), refresh=True)
                time.sleep(every)
                try:
                    seen, away = look(app), ""
                except LedgerUnavailable as exc:
                    away = f"the ledger is away, and is asked again: {exc}"
    except KeyboardInterrupt:
        raise typer.Exit(INTERRUPTED) from None


def _picture(seen: dict[str, Any], away: str) -> Group:
    numbers, wrong = map(printable, _totals(seen))
    is_right = not (seen["wrong"] or away)
    said = Text(printable(away) or wrong, style="green" if is_right else "bold red")
    return Group(Text(numbers), said, Text(), table_of(HEADINGS, _cells(seen)), Text("\nCtrl-C ends it", style="dim"))


def _cells(seen: dict[str, Any]) -> list[list[str]]:
    return [_agent(row) for row in seen["agents"]]


def _agent(row: dict[str, Any]) -> list[str]:
    waiting = "" if row["waiting"] is None else f"{row['waiting']:,}"
    running = f"{row['running']:,}" + ("" if row["capacity"] is None else f" / {row['capacity']:,}")
    parked = ", ".join(f"{number:,} {kind}" for kind, number in sorted(row["parked"].items()))
    paused = "" if row["paused"] is None else row["paused"]["reason"] or "yes"
    numbers = (f"{row['done_per_second']:,.1f}", f"{row['retrying']:,}", parked, f"{row['dead']:,}")
    return [row["agent"], row["state"], waiting, running, *numbers, row["oldest"] or "", paused]


def _totals(seen: dict[str, Any]) -> tuple[str, str]:
    """Return the ledger's numbers, and what is wrong, each in one line."""
    from ...ledger.status import several

    of = seen["totals"]
    outcomes = [f"{number:,} {outcome}" for outcome, number in of["outcomes"].items()]
    parts = (
        f"{several(of['events'], 'event')}, {of['events_per_second']:,.1f} a second",
        several(of["workers"], "worker"),
        f"{of['unsent']:,} to be sent",
        f"{of['timers']:,} due later",
        *outcomes,
    )
    return "; ".join(parts), "; ".join(seen["wrong"]) or "nothing is wrong"
