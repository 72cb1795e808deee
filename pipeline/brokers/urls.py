"""URLs of brokers and results: files written as URLs and back, and what is wrong, said without any password."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, quote, unquote, urlsplit

from kombu import Connection
from kombu.utils.url import url_to_parts

from ..core.errors import ConfigError, nearest, without_passwords
from .kinds import SCHEMES, SENTINEL, kind_of_url

#: What helps where a URL cannot be read.
ESCAPE = (
    "write special characters in a name, a password or a path as %23 (#), %3F (?), %2F (/), %40 (@), %3A (:), "
    "%3B (;), %5B ([), %5D (]) and %25 (%)"
)
#: What Celery takes for results beside the brokers' schemes, and reads in the same way.
_ALSO_FOR_RESULTS = ("sentinel", "rpc")
_WORD = re.compile(r"[A-Za-z][\w.+-]*")


def file_url(path: Path) -> str:
    """Return the URL of a file, whatever its directories are called."""
    return f"sqlite:///{quote(str(path))}"


def parse_url(url: str) -> tuple[Path, dict[str, str]]:
    """Return the file and the options that `sqlite:///FILE?synchronous=full` names; raise ConfigError otherwise."""
    shown = without_passwords(url)
    if "#" in url or ";" in url:
        raise ConfigError(f"{shown!r}: in a path write # as %23 and ; as %3B")
    parts = urlsplit(url)
    path = unquote(parts.path).removeprefix("/")
    if parts.netloc or not path:
        raise ConfigError(f"{shown!r} names no file; write sqlite:///relative.db or sqlite:////absolute.db")
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    if set(options) - {"synchronous"} or options.get("synchronous", "normal") not in ("normal", "full"):
        raise ConfigError(f"{shown!r}: the only option is synchronous=normal or =full; in a path write ? as %3F")
    return Path(path), options


def scheme_of(url: str) -> str:
    """Return a URL's scheme, as far as it can be shown: what is no URL may begin with a password."""
    scheme = url.partition("://")[0]
    return scheme if _WORD.fullmatch(scheme) else ""


def check_broker(url: str) -> None:
    """Raise ConfigError when a broker's URL cannot be read; several may be joined by semicolons."""
    if scheme_of(url) not in SCHEMES:
        hint = f"use redis://{SENTINEL}" if scheme_of(url) == "sentinel" else nearest(scheme_of(url), SCHEMES)
        raise ConfigError(f"unknown broker scheme {scheme_of(url)!r}; {hint}")
    # Read as when it is connected to, but without importing the transport.
    _check(url, lambda each: Connection(each, transport="memory"))


def check_results(url: str) -> None:
    """Raise ConfigError when the URL of a result backend cannot be read, as far as its kind is known."""
    scheme = scheme_of(url)
    if "://" not in url and "@" in url:  # what has neither may be the name of a class
        raise ConfigError("it has no scheme; write redis://:PASSWORD@HOST/1")
    if scheme in SCHEMES or scheme in _ALSO_FOR_RESULTS:
        _check(url, url_to_parts)
    elif scheme.startswith("db+"):
        from sqlalchemy import make_url
        from sqlalchemy.exc import ArgumentError

        try:
            make_url(url.removeprefix("db+"))
        except (ArgumentError, ValueError):
            raise ConfigError(f"{scheme}:// is followed by no address of a database; {ESCAPE}") from None


def _check(url: str, read: Callable[[str], Any]) -> None:
    kind = kind_of_url(url)
    if kind is not None and kind.is_embedded:
        parse_url(url)
        return
    for each in url.split(";"):  # as Kombu does
        full = each if "://" in each else f"{scheme_of(url)}://{each}"
        if not _is_escaped(full):
            raise ConfigError(f"what follows {scheme_of(url)}:// cannot be read; {ESCAPE}")
        try:
            read(full)
        except Exception:  # whatever is raised may show the password
            raise ConfigError(f"{scheme_of(full)}://: what follows ? has an option that Kombu does not know") from None


def _is_escaped(url: str) -> bool:
    """Say whether a URL has nothing in it that ends a password too early."""
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        return False
    return "#" not in url and ("@" in parts.netloc or "@" not in url)
