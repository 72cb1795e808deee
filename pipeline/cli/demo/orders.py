"""The command that shows a saga: demo orders."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

import typer

from ..options import AsJson
from ..output import printable
from .trying import Directory, Serve, Timeout, check_page, command, end, print_commands, print_document, teller

if TYPE_CHECKING:
    from ...examples.orders.demo import Report

WHAT = """\
A shop's orders, each a saga: four steps one after the other, and when one fails, those that were done are undone, the
last one first:

  create ----> reserve ----> pay ----> complete
  cancel <---- release <---- refund <--'

Most orders are delivered; one is paid with an expired card, and one goes where nobody delivers to. A step asks a
service (a warehouse, a payment provider, a carrier), which is outside of the bus and writes down what it has done. In
the middle of a payment the worker is killed.
"""
HONEST = """\
To be honest: the bus asks at least once. That nothing was done twice is the services' doing as well: each call carries
the id of its delivery, which is the same when it is made again, and what they have done for that they do not do again.
"""


def orders(
    directory: Directory = None,
    timeout: Timeout = 60.0,
    serve: Serve = False,
    as_json: AsJson = False,
) -> None:
    """See orders go through a saga: some are undone, a worker is killed, nothing is done twice or forgotten."""
    check_page(serve)
    from ...examples.orders.demo import MODULE, run

    if as_json:
        report = run(directory=directory, timeout=timeout)
        print_document(report, _commands(report))
    else:
        typer.echo(WHAT)
        report = run(directory=directory, timeout=timeout, tell=teller())
        _print_report(report)
    end(report.config, MODULE, serve=serve, as_json=as_json)


def _print_report(report: Report) -> None:
    typer.echo(f"\n{_orders(report)}\n\n{_balance(report)}\n")
    if report.verdict.is_good:
        typer.echo(HONEST)
    typer.echo(f"{_picture(report)}\n")
    typer.echo(f"{report.seconds:.1f} s in all. Events, the services' books and logs are in {report.directory}. Try:")
    print_commands(_commands(report))
    typer.echo("\nYour own saga: pipeline/examples/orders/agents.py, and docs/orders.md.")


def _orders(report: Report) -> str:
    """Return what has become of each order, by the services' books."""
    lines = []
    for story in report.stories:
        what = f"{story.order.quantity} {story.order.product_id}"
        done = " ".join(effect.what for effect in story.effects)
        lines.append(f"  {story.order.order_id:<8}{what:<10}{story.status:<13}{done}")
    return "\n".join(["What the bus says of each order, and what was really done, in that order:", *lines])


def _balance(report: Report) -> str:
    """Say what was done twice and what was forgotten."""
    verdict = report.verdict
    sold = [
        f"{name} {had:,} - {report.sold.get(name, 0):,} sold = {has:,}" for name, (had, has) in report.stock.items()
    ]
    each, again = "" if verdict.twice else ", each once", verdict.asked_again
    return "\n".join(
        [
            f"DONE TWICE: {_found(verdict.twice)}. FORGOTTEN: {_found(verdict.forgotten)}.",
            f"  services   {verdict.done} things done for {len(report.stories)} orders{each}; {again} of them "
            f"{'was' if again == 1 else 'were'} asked for again",
            f"  undone     {len(verdict.undone)} orders, the last step first{_but(verdict.backwards)}",
            f"  warehouse  {', '.join(sold)}{_but(report.astray)}",
            f"  ledger     {report.published} events asked for {len(report.stories)} orders; it says of each what the "
            f"services' books say{_but(report.contradicted)}",
        ]
    )


def _found(things: Sequence[str]) -> str:
    return ", ".join(things) or "nothing"


def _but(things: Sequence[str]) -> str:
    """Return for which things a sentence is not true."""
    return f", but not for {', '.join(things)}" if things else ""


def _picture(report: Report) -> str:
    """Return the saga of the order of which most was undone, for the terminal and for Mermaid."""
    from ...examples.orders.picture import drawn

    story = report.hardest
    return "\n".join(
        [
            f"The saga of order {story.order.order_id}: {printable(story.reason)}.\n",
            textwrap.indent(drawn(story.steps), "  "),
            "\nThe same for Mermaid (https://mermaid.live), as `pipeline flows show --mermaid` prints it:\n",
            textwrap.indent(printable(story.mermaid, keep="\n"), "  "),
        ]
    )


def _commands(report: Report) -> list[tuple[str, str]]:
    """Return commands to try on what the demonstration has left, each behind what it shows."""
    from ...examples.orders.demo import MODULE

    flow = report.hardest.flow
    held = next(story.flow for story in report.stories if story.order.order_id == report.held)
    shown = (
        ("all sagas, and why some were undone", ("flows", "list")),
        ("one of them, step by step; with --mermaid its picture", ("flows", "show", flow)),
        (f"the order whose payment was cut off ({report.held})", ("flows", "show", held)),
        ("the steps that were refused: what, by whom, why", ("dead", "list")),
    )
    return [(what, command(report.config, words, MODULE)) for what, words in shown]
