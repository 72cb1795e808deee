"""The options that several commands have, and how what they say is read."""

from __future__ import annotations

import getpass
import re
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any

import orjson
import typer

from ..core.errors import InvalidEvent, InvalidSelection
from ..core.times import UNITS, seconds_of, utc_now
from ..operations.selection import Query, Selection, choose

HOW_TO_WRITE_A_TIME = (
    "an ISO time such as 2026-03-01T09:30 (local time when it has no zone), "
    "a sequence number such as 120, or an age such as 2h, 30m, 7d"
)


_SEQUENCE_NUMBER = re.compile(r"\d{1,18}", re.ASCII)


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


def read_pairs(texts: list[str] | None) -> dict[str, str] | None:
    """Return what options say as NAME=VALUE; raise a usage error for what is said in another way."""
    if not texts:
        return None
    pairs = [text.partition("=") for text in texts]
    for text, (name, equals, _) in zip(texts, pairs, strict=True):
        if not (name and equals):
            raise typer.BadParameter(f"{text!r} is no NAME=VALUE, such as session_id=s1", param_hint="--metadata")
    return {name: value for name, _, value in pairs}


def read_age(text: str) -> timedelta:
    """Return the length of time that an option gives, such as 30m; raise a usage error otherwise."""
    try:
        return timedelta(seconds=seconds_of(text.strip(), "age"))
    except InvalidEvent:
        raise typer.BadParameter(f"{text!r} is no age; write one such as 90s, 30m, 2h, 7d or 4w") from None


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
        return utc_now() - read_age(wanted) if wanted[-1:] in UNITS else _time(wanted)
    except (ValueError, OverflowError, typer.BadParameter):
        raise typer.BadParameter(f"{text!r} is no time; write {HOW_TO_WRITE_A_TIME}") from None


def _time(text: str) -> datetime:
    time = datetime.fromisoformat(text.strip())
    # As UTC, so that a time at the end of the calendar is refused here.
    return (time if time.utcoffset() is not None else time.astimezone()).astimezone(UTC)


def read_choice(query: Query, ids: list[str] | None, *, all: bool, of: str, says: str) -> Selection[Query]:
    """Return what arguments and options choose; raise a usage error when that is nothing, or said in two ways.

    Arguments:
        of: what is chosen from, such as "dead letters".
        says: what to say then.

    """
    try:
        return choose(query, ids or None, all=all, says=says)
    except InvalidSelection as exc:
        raise typer.BadParameter(str(exc), param_hint=of) from None


def login_name(by: str | None) -> str:
    """Return who does something: who is named, else who has logged in."""
    if by is not None:
        return by
    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):  # a container's user may have no name
        return ""


AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
Pattern = Annotated[str | None, typer.Option("--type", metavar="PATTERN", help="An event type or topic pattern.")]
Correlation = Annotated[str | None, typer.Option(metavar="ID", help="Only what has this correlation id.")]
Metadata = Annotated[list[str] | None, typer.Option(metavar="NAME=VALUE", help="In the event's metadata; repeatable.")]
Stream = Annotated[str | None, typer.Option(metavar="NAME", help="Whose history: an agent's name, or a subject.")]
# Any, because typer knows no unions; the parser says what it is.
Since = Annotated[
    Any, typer.Option(parser=read_moment, metavar="T", help="From then on: an ISO time, a sequence number, or an age.")
]
UpTo = Annotated[Any, typer.Option(parser=read_moment, metavar="T", help="Until then, likewise.")]
OlderThan = Annotated[Any, typer.Option(parser=read_age, metavar="AGE", help="Longer ago than this, such as 30d.")]
Limit = Annotated[int, typer.Option(min=1, help="How many at most.")]
By = Annotated[str | None, typer.Option(metavar="NAME", help="Who does it, for the log; default the login name.")]
