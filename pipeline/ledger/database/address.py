"""Addresses of ledgers: read, written for a file, and the directory that such a file lies in."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

from sqlalchemy import URL, make_url
from sqlalchemy.exc import ArgumentError

from ...core.errors import ConfigError
from ...core.files import make_directory

_DRIVERS = {"sqlite": "sqlite", "postgresql": "postgresql+psycopg", "postgres": "postgresql+psycopg"}


def parse(url: str) -> tuple[URL, dict[str, Any]]:
    """Return a ledger's address for SQLAlchemy, and our own options; raise ConfigError when it is none."""
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):  # ValueError: a port that is no number, and may be a piece of a password
        raise ConfigError(
            "ledger_url is no database address; use sqlite:///FILE or postgresql://USER:PASSWORD@HOST/NAME, "
            "with special characters as %23 (#), %3F (?), %2F (/), %40 (@), %3A (:) and %25 (%)"
        ) from None
    backend = parsed.get_backend_name()
    if backend not in _DRIVERS:
        raise ConfigError(f"ledger_url: the ledger does not work on {backend!r}; use sqlite:///FILE or postgresql://")
    if "@" in (parsed.host or ""):  # and what is before it would be shown as part of the host
        raise ConfigError("ledger_url: write an @ in the user's name or password as %40")
    address = parsed.set(drivername=_DRIVERS[backend])
    if backend != "sqlite":
        return address, {}
    if not parsed.database or parsed.database == ":memory:":
        raise ConfigError("ledger_url: the ledger is shared by processes and needs a file; use sqlite:///FILE")
    if "?" in url and not parsed.query:  # which SQLAlchemy drops without a word
        raise ConfigError("ledger_url: SQLite takes ?synchronous=normal or =full; in a path write ? as %3F")
    return address.set(query={}), _sqlite_options(dict(parsed.query))


def _sqlite_options(options: dict[str, Any]) -> dict[str, Any]:
    for name, value in options.items():
        if name != "synchronous" or value not in ("normal", "full"):
            raise ConfigError(f"ledger_url: there is no {name}={value}; SQLite takes synchronous=normal or =full")
    return options


def file_url(path: Path) -> str:
    """Return the address of a file as the SQLAlchemy reads it that is installed, whatever its directories are called.

    Raises ConfigError when it has no way to write it.
    """
    url = URL.create("sqlite", database=str(path)).render_as_string()
    if make_url(url).database != str(path):  # 2.0 escapes nothing
        raise ConfigError(f"directory: SQLAlchemy 2.0 cannot open {str(path)!r}; install 2.1, or use no ? in its name")
    return url


def make_place(url: str) -> None:
    """Create the directory of a ledger that is a file; where that fails, opening the file says why."""
    address, _ = parse(url)
    if address.get_backend_name() == "sqlite":
        with contextlib.suppress(OSError):
            make_directory(Path(str(address.database)).parent)
