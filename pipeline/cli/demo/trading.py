"""The command that shows priorities, filters and pauses: demo trading."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated

import typer

from ..options import AsJson
from .trying import Directory, Serve, Timeout, check_page, command, end, print_commands, print_document, teller

if TYPE_CHECKING:
    from ...examples.trading.report import Report

WHAT = """\
A trading desk. One agent, the trader, takes five events at once; what else comes waits in its queue, and what is urgent
overtakes what is routine:

  market.tick   --> trader      symbols AAPL, MSFT, GOOGL; volume > 1.5 x average: evaluate   priority 5
  order.updated --> trader      writes down what the desk owns                                priority 3
  market.alert  --> trader      urgency below 3; risk_limit_exceeded: close all positions     priority 1
                --> supervisor  urgency below 3; market_halt pauses the trader, market_resumed lets it go on
  market.news   --> newsdesk    those symbols, and the word "volatility": smaller orders

The market only pretends: a seed makes its data, the same for the same seed.
"""


def trading(
    seed: Annotated[int | None, typer.Option(min=0, help="Makes the market's data; default one that is known.")] = None,
    directory: Directory = None,
    timeout: Timeout = 60.0,
    serve: Serve = False,
    as_json: AsJson = False,
) -> None:
    """See a trading desk: an urgent alert overtakes what waits, and a halt of the market holds the trader back."""
    check_page(serve)
    from ...examples.trading.demo import MODULE, SEED, run

    chosen = SEED if seed is None else seed
    if as_json:
        report = run(chosen, directory=directory, timeout=timeout)
        print_document(report, _commands(report))
    else:
        typer.echo(WHAT)
        report = run(chosen, directory=directory, timeout=timeout, tell=teller())
        _print_report(report)
    end(report.config, MODULE, serve=serve, as_json=as_json)


def _print_report(report: Report) -> None:
    typer.echo(f"\n{_filtered(report)}\n\n{_order(report)}\n\n{_balance(report)}\n")
    typer.echo(f"{report.seconds:.1f} s in all. Events, the desk's book and logs are in {report.directory}. Try:")
    print_commands(_commands(report))
    typer.echo("\nYour own desk: pipeline/examples/trading/agents.py, and docs/trading.md.")


def _filtered(report: Report) -> str:
    """Return what came to each agent, and what its filter has kept back."""
    lines = ["What came to whom, and what filters kept back:"]
    for agent in ("trader", "supervisor", "newsdesk"):
        for type, ends in report.deliveries.get(agent, {}).items():
            back = ends.get("filtered", 0)
            lines.append(f"  {agent:<12}{type:<15}{sum(ends.values()) - back:>4} handled {back:>4} filtered")
    return "\n".join(lines)


def _order(report: Report) -> str:
    """Return what overtook what, and what the halt held back."""
    alert, halt = report.overtaking, report.halt
    return "\n".join(
        [
            f"OVERTAKEN: the alert (priority 1) has overtaken {alert.overtaken} events that were published before it.",
            f"  {alert.waiting} ticks waited when it was published; {alert.begun_before} events, which the worker had "
            "got by then, were begun before it",
            f"  {report.updates_ahead} order updates (priority 3) have overtaken ticks as well",
            f"  closed: {_pieces(alert.closed)}",
            f"HALTED: {halt.handled} events were begun while the market was halted, and {halt.waiting} ticks waited.",
            f"  {halt.finished} events, which the worker had got before, were finished first",
            f"AT ONCE: {report.most_at_once} events were handled at once, at most.",
        ]
    )


def _balance(report: Report) -> str:
    """Say what was lost, what was done twice, and whether the desk's book is right."""
    is_right = report.positions == report.by_ledger
    ledger = "the same" if is_right else f"something else: {_pieces(report.by_ledger)}"
    return "\n".join(
        [
            f"LOST: {len(report.lost) or 'nothing'}. HANDLED TWICE: {len(report.twice) or 'nothing'}.",
            f"  {report.evaluated} ticks were evaluated; {report.requested} orders, {report.filled} filled",
            f"  the desk's book has {_pieces(report.positions)}; the orders in the ledger say {ledger}",
        ]
    )


def _pieces(pieces: Mapping[str, int]) -> str:
    return ", ".join(f"{number:+,} {symbol}" for symbol, number in pieces.items()) or "nothing"


def _commands(report: Report) -> list[tuple[str, str]]:
    """Return commands to try on what the demonstration has left, each behind what it shows."""
    from ...examples.trading.demo import MODULE

    xmsft = '{"symbol": "XMSFT", "price": 12, "previous": 11, "volume": 9, "average_volume": 1}'
    shown = (
        ("who would get a tick of XMSFT, and why not", ("explain", "--type", "market.tick", "--data", xmsft)),
        ("what has come of the last hundred events", ("explain", "--last", "100")),
        ("the alerts", ("events", "--type", "market.alert")),
        ("the agents, with what they listen to", ("agents",)),
    )
    return [(what, command(report.config, words, MODULE)) for what, words in shown]
