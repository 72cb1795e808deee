"""Who may do what over HTTP: tokens with scopes, and on this machine alone everybody."""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from hashlib import sha256
from ipaddress import ip_address
from typing import Annotated, Any

from fastapi import Depends, Request

from ..app.app import Pipeline
from ..core.errors import ConfigError, nearest
from .problems import Problem
from .rates import Rates

#: What a token may allow: to publish events and ask; to read; to change what runs.
SCOPES = ("publish", "read", "operate")
#: The names under which a server on this machine alone is called.
LOOPBACK = ("localhost", "127.0.0.1", "[::1]")
#: Where a browser keeps a token.
COOKIE = "pipeline_token"
#: What a page of another site can send without being asked: what it sends changes nothing here.
_SAFE = ("GET", "HEAD", "OPTIONS")


@dataclass(frozen=True)
class Token:
    """Who may do what; the token itself is not kept.

    Attributes:
        name: who has it, for the ledger and the log.
        scopes: what it allows, of SCOPES.
        digest: the SHA-256 of the token, in hexadecimal digits. A token is as random as a key, so that no slower hash
            is needed (NIST SP 800-63B, 5.1.1.2 is about what people choose).

    """

    name: str
    scopes: frozenset[str]
    digest: str = field(repr=False)

    @classmethod
    def read(cls, text: str) -> Token:
        """Return a token as a setting has it: `NAME:SCOPE+SCOPE:DIGEST`; raise ConfigError that says what is wrong."""
        name, _, rest = text.partition(":")
        words, _, digest = rest.partition(":")
        scopes = frozenset(filter(None, words.split("+")))
        for scope in scopes:
            if scope not in SCOPES:
                raise ConfigError(f"token {name!r}: {scope!r} is no scope; {nearest(scope, SCOPES)}")
        if not (name and scopes and len(digest) == 64 and set(digest) <= set("0123456789abcdef")):
            raise ConfigError(
                "a token is written NAME:SCOPES:DIGEST, as `pipeline token NAME --scope read` prints it; "
                "what was written is not shown here"
            )
        return cls(name, scopes, digest)

    def __str__(self) -> str:
        """Return what a setting has of it."""
        return f"{self.name}:{'+'.join(scope for scope in SCOPES if scope in self.scopes)}:{self.digest}"


def new_token(name: str, scopes: Iterable[str]) -> tuple[str, Token]:
    """Return a new token, and what is kept of it; raise ConfigError for a name or a scope that is none."""
    text = f"pl_{secrets.token_urlsafe(32)}"
    return text, Token.read(f"{name}:{'+'.join(scopes)}:{_digest(text)}")


@dataclass(frozen=True)
class Caller:
    """Who has sent a request.

    Attributes:
        name: the token's name; empty where none is asked for.
        scopes: what may be done.

    """

    name: str = ""
    scopes: frozenset[str] = frozenset(SCOPES)


class Access:
    """Lets in whoever may come.

    Arguments:
        tokens: those that are known; none lets everybody in, which is for a server on this machine alone.
        hosts: names under which the server may be called, so that no other site's name leads a browser to it; None for
            any.

    """

    def __init__(self, tokens: Collection[Token], hosts: Collection[str] | None) -> None:
        self._tokens = tuple(tokens)
        self._hosts = None if hosts is None else frozenset(host.lower() for host in hosts)

    @property
    def asks(self) -> bool:
        """Whether callers need a token."""
        return bool(self._tokens)

    def caller(self, request: Request) -> Caller:
        """Return who has sent a request; raise Problem for who may not."""
        self._check_site(request)
        if not self._tokens:
            return Caller()
        kind, _, given = request.headers.get("authorization", "").partition(" ")
        found = self._token(given.strip() if kind.lower() == "bearer" else request.cookies.get(COOKIE, ""))
        if found is None:
            raise Problem(401, "a token is needed", "unauthorized", {"WWW-Authenticate": "Bearer"})
        return Caller(found.name, found.scopes)

    def knows(self, request: Request, token: str) -> bool:
        """Say whether a token lets somebody in; raise Problem for a request of another site."""
        self._check_site(request)
        return self._token(token) is not None

    def _token(self, given: str) -> Token | None:
        digest, found = _digest(given), None
        for token in self._tokens:  # all of them, so that the time says nothing
            if hmac.compare_digest(digest, token.digest):
                found = token
        return found

    def check_host(self, request: Request) -> None:
        """Raise Problem for a request that came by another name than the server's."""
        if self._hosts is not None and _name_of(request.headers.get("host", "")) not in self._hosts:
            raise Problem(421, "this server is not called that", "wrong-host")

    def _check_site(self, request: Request) -> None:
        self.check_host(request)
        if request.method not in _SAFE and request.headers.get("sec-fetch-site") == "cross-site":
            raise Problem(403, "a page of another site may change nothing here", "cross-site")
        origin = request.headers.get("origin")
        if (
            origin is not None
            and request.method not in _SAFE
            and origin.partition("://")[2] != request.headers.get("host", "")
        ):
            raise Problem(403, "a page of another site may change nothing here", "cross-site")


def _needs(scope: str) -> Any:
    """Return what lets a route be called by those alone who have a scope."""

    async def check(request: Request) -> None:
        access: Access = request.app.state.access
        caller = access.caller(request)
        if scope not in caller.scopes:
            raise Problem(403, f"this token does not have the scope {scope!r}", "missing-scope", scope=scope)
        if scope != "read":
            rates: Rates = request.app.state.rates
            rates.take(caller.name or (request.client.host if request.client else ""))
        request.state.caller = caller

    return Depends(check)


PUBLISHES, READS, OPERATES = map(_needs, SCOPES)


async def _app(request: Request) -> Any:
    return request.app.state.pipeline


async def _caller(request: Request) -> Any:
    return request.state.caller


#: What a route takes that uses the app.
App = Annotated[Pipeline, Depends(_app)]
#: What a route takes that wants to know who calls it.
Who = Annotated[Caller, Depends(_caller)]


def is_local(address: str) -> bool:
    """Say whether an address is reached from this machine alone."""
    if address == "localhost":
        return True
    try:
        return ip_address(address.strip("[]")).is_loopback
    except ValueError:
        return False


def _name_of(host: str) -> str:
    """Return the name in a Host header, without its port."""
    name, colon, port = host.rpartition(":")
    return (name if colon and port.isdigit() else host).lower()


def _digest(text: str) -> str:
    return sha256(text.encode()).hexdigest()
