"""The command that follows the log: tail."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import orjson
import typer

from ...core.errors import LedgerUnavailable
from ...core.topics import check_pattern
from ..group import INTERRUPTED, CommandSet, app_of, examples
from ..options import AsJson, Correlation, Pattern
from ..output import escaped, print_event, printable, say

if TYPE_CHECKING:
    from ...history.events import Recorded
    from ...ledger.ledger import Ledger
    from ...ledger.notices.notice import Notice

commands = CommandSet()

#: Seconds between two looks at the log, and events that are read at once.
EVERY, PAGE = 0.25, 500


@commands.command(
    epilog=examples(
        "pipeline tail",
        "pipeline tail --type 'order.#' --where 'total > 100'",
        "pipeline tail --json > events.jsonl",
    )
)
def tail(
    ctx: typer.Context,
    type: Pattern = None,
    where: Annotated[str | None, typer.Option(metavar="FILTER", help="Which of them, such as 'total > 100'.")] = None,
    correlation: Correlation = None,
    as_json: AsJson = False,
) -> None:
    """Follow the log: print each event as it comes, until Ctrl-C; of one correlation also what its handlers say."""
    from ...agents.filters import parse
    from ...history.events import Recorded, Wanted

    if type is not None:
        check_pattern(type)
    wanted, ledger = Wanted(type, correlation, parse(where).matches if where else None), app_of(ctx).ledger
    if not as_json:
        say("following the log; Ctrl-C ends it")
    try:
        for record in _following(ledger, correlation):
            if not isinstance(record, Recorded):
                _print_notice(record, as_json=as_json)
            elif wanted.takes(record.event, record.event.attributes()):
                print_event(record, as_json=as_json)
    except KeyboardInterrupt:
        raise typer.Exit(INTERRUPTED) from None


def _print_notice(notice: Notice, *, as_json: bool) -> None:
    if as_json:
        typer.echo(escaped(orjson.dumps(notice.as_data())))
        return
    fraction = "" if notice.fraction is None else f"{notice.fraction:.0%} "
    what = fraction if notice.name is None else f"{notice.name}: "
    typer.echo(printable(f"{notice.at:%H:%M:%S}  {notice.agent}  {what}{notice.text}"))


def _following(ledger: Ledger, correlation: str | None) -> Iterator[Recorded | Notice]:
    """Yield what the log gets from now on, for ever; a ledger that is away is asked again.

    Arguments:
        correlation: also yield what its handlers say.

    """
    from ...history.events import end_of_log, next_events

    at, is_away = end_of_log(ledger), False
    heard = 0 if correlation is None else ledger.notices.end()
    while True:
        try:
            page = next_events(ledger, at, PAGE)
            said = [] if correlation is None else ledger.notices.of(correlation, heard)
        except LedgerUnavailable as exc:
            if not is_away:
                say(f"the ledger is away, and is asked again: {exc}")
            is_away = True
            time.sleep(EVERY)
            continue
        yield from page.records
        yield from said
        heard = said[-1].seq if said else heard
        at, is_away = page.end, False
        if not page.more:
            time.sleep(EVERY)
