"""What commands print: lines, tables, JSON, and complaints on stderr."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

import orjson
import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..core.door.dids import emitter_of
from ..core.errors import visible, without_passwords

if TYPE_CHECKING:
    from ..history.events import Recorded

_BEYOND_ASCII = re.compile("[\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")

out = Console(highlight=False, soft_wrap=True)


def say(text: str) -> None:
    """Tell something on stderr, in one line without passwords."""
    typer.echo(f"pipeline: {printable(without_passwords(' '.join(text.split())))}", err=True)


def printable(text: str, keep: str = "") -> str:
    """Return a text that somebody else has written, with what a terminal would obey made visible."""
    return visible(text, keep)


def escaped(json: bytes) -> str:
    """Return JSON that no terminal obeys: what ASCII has it escapes by itself, and here the rest is."""
    return _BEYOND_ASCII.sub(lambda found: f"\\u{ord(found[0]):04x}", json.decode())


def clock(when: datetime | None) -> str:
    """Return a time as people here read it, and as the options take it."""
    return "" if when is None else when.astimezone().isoformat(timespec="milliseconds")


def print_json(data: Any) -> None:
    """Print data as JSON for people and programs."""
    typer.echo(indented(data))


def indented(data: Any) -> str:
    """Return data as JSON for people and programs, which no terminal obeys."""
    return escaped(orjson.dumps(data, option=orjson.OPT_INDENT_2))


def print_table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table: fitted to a terminal, else one line for each row."""
    if not out.is_terminal:
        cells = [[printable(cell) or "-" for cell in row] for row in rows]
        lines = [list(headings), *cells]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        for line in lines:
            padded = (cell.ljust(width) for cell, width in zip(line, widths, strict=True))
            typer.echo("  ".join(padded).rstrip())
        return
    out.print(table_of(headings, rows), soft_wrap=False)


def table_of(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    """Return a table for a terminal, which it fits."""
    table = Table(box=None, pad_edge=False)
    for heading in headings:
        table.add_column(heading, overflow="fold")
    for row in rows:
        table.add_row(*(Text(printable(cell) or "-") for cell in row))
    return table


def print_event(record: Recorded, *, as_json: bool) -> None:
    """Print one event of the log as one line."""
    if as_json:
        typer.echo(escaped(orjson.dumps(record.as_data(), option=orjson.OPT_UTC_Z)))
        return
    event = record.event
    whose = emitter_of(event.source) or event.subject or "-"
    cells = (f"{record.seq:>6}", clock(event.time), f"{event.type:<24}", event.key, whose, event.source)
    line = [printable(cell) for cell in cells]
    if out.is_terminal:
        styles = ("dim", "dim", "bold", "", "", "dim")
        out.print(Text("  ").join(Text(cell, style=style) for cell, style in zip(line, styles, strict=True)))
    else:
        typer.echo("  ".join(line))


def report(data: dict[str, Any], said: str, *, as_json: bool) -> None:
    """Print what was done: as JSON, or as a sentence."""
    if as_json:
        print_json(data)
    else:
        typer.echo(printable(said))
