"""How one gets into NATS: a password, a token or a key, which a server that is to be encrypted gets encrypted only."""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import urlsplit

from ...core.errors import BridgeAway, ConfigError, line_of
from ...core.observe import Log

if TYPE_CHECKING:
    from pathlib import Path

    from nats.aio.client import Client

logger = Log(logging.getLogger(__name__))

#: Errors of a connection that are remembered.
TOLD = 100


class Access(Protocol):
    """What Nats is declared with, as far as it is about getting in."""

    @property
    def url(self) -> str: ...  # noqa: D102  # as there

    @property
    def user(self) -> str | None: ...  # noqa: D102  # as there

    @property
    def password(self) -> str | None: ...  # noqa: D102  # as there

    @property
    def token(self) -> str | None: ...  # noqa: D102  # as there

    @property
    def credentials(self) -> str | Path | None: ...  # noqa: D102  # as there

    @property
    def tls(self) -> bool: ...  # noqa: D102  # as there

    @property
    def tls_ca(self) -> str | Path | None: ...  # noqa: D102  # as there

    @property
    def tls_cert(self) -> str | Path | None: ...  # noqa: D102  # as there

    @property
    def tls_key(self) -> str | Path | None: ...  # noqa: D102  # as there

    @property
    def name(self) -> str: ...  # noqa: D102  # as there

    @property
    def connect_timeout(self) -> float: ...  # noqa: D102  # as there


def place_of(urls: str) -> str:
    """Return addresses without whatever stands before their @: of NATS that may be a token alone."""
    return ",".join(_apart(one)[0] for one in urls.split(","))


def _apart(url: str) -> tuple[str, str]:
    """Return an address without its user, and that."""
    scheme, found, rest = url.strip().rpartition("://")
    user, _, host = rest.rpartition("@")
    return f"{scheme}{found}{host}", user


def is_encrypted(system: Access) -> bool:
    """Say whether a connection has to be encrypted."""
    schemes = {one.strip().partition("://")[0] for one in system.url.split(",")}
    return bool(system.tls or system.tls_ca or system.tls_cert or schemes & {"tls", "wss"})


async def connected(system: Access, group: str) -> tuple[Client, deque[Exception]]:
    """Connect once; return the client, and where it puts the errors that it is told of, the last TOLD of them.

    Raises BridgeAway, and ConfigError for what another attempt would not mend.

    """
    from nats.aio.client import Client
    from nats.errors import Error, SlowConsumerError

    told: deque[Exception] = deque(maxlen=TOLD)
    slow: list[Exception] = []

    async def heard(error: Exception) -> None:
        if not isinstance(error, SlowConsumerError):
            told.append(error)
        elif not slow:  # there may be thousands
            slow.append(error)
            logger.warning("%s sends faster than its messages are taken, and loses some: %s", system, line_of(error))

    client = Client()
    servers, options = options_of(system, client)
    try:
        async with asyncio.timeout(system.connect_timeout * len(servers) + 1):
            await client.connect(
                servers,
                name=system.name or f"pipeline {group}",
                allow_reconnect=False,
                max_reconnect_attempts=1,  # of each server
                reconnect_time_wait=0,
                connect_timeout=system.connect_timeout,  # type: ignore[arg-type]  # it may be a part of one
                error_cb=heard,
                **options,
            )
            if is_encrypted(system):
                refuse_plain(client)
    except (Error, OSError, TimeoutError) as exc:
        with suppress(Error, OSError, TimeoutError):
            async with asyncio.timeout(1):  # half of a connection may not end by itself
                await client.close()
        raise BridgeAway(f"{system} does not let us in: {line_of(told[-1] if told else exc)}") from None
    except Exception as exc:  # what is wrong with an address or a key has many classes
        raise ConfigError(f"{system} cannot be connected to as it is declared: {line_of(exc)}") from None
    return client, told


def options_of(system: Access, client: Client) -> tuple[list[str], dict[str, Any]]:
    """Return the servers, and the options of nats-py that say who wants to get in."""
    servers = [one.strip() for one in system.url.split(",")]
    options: dict[str, Any] = {}
    if system.credentials is not None:
        options["user_credentials"] = str(system.credentials)
    secrets = {"user": system.user, "password": system.password, "token": system.token}
    if not is_encrypted(system):
        return servers, {**options, **secrets}
    options["tls"] = _context(system)
    users = {user for _, user in map(_apart, servers) if user}
    if len(users) > 1:
        raise ConfigError(f"the servers of {system} have different users: with TLS give user=, password= or token=")
    if users and system.user is None and system.token is None:
        parts = urlsplit(f"nats://{users.pop()}@host")
        name = "token" if parts.password is None else "user"
        secrets = {name: parts.username, "password": parts.password}
    guarded = {name: _guarded(value, client) for name, value in secrets.items() if value is not None}
    return [_apart(one)[0] for one in servers], {**options, **guarded}


def _guarded(secret: str, client: Client) -> Callable[[], str]:
    """Return what nats-py asks for a secret when it is about to send it: where nothing is encrypted, it gets none."""

    def give() -> str:
        refuse_plain(client)
        return secret

    return give


def refuse_plain(client: Client) -> None:
    """Raise SecureConnWantedError for a server that does not offer TLS: nats-py would do without."""
    from nats.errors import SecureConnWantedError

    server = client._current_server  # there is no public way to know before the secret is sent
    if not client._server_info.get("tls_required") and (server is None or server.uri.scheme != "wss"):
        raise SecureConnWantedError


def _context(system: Access) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=None if system.tls_ca is None else str(system.tls_ca))
        if system.tls_cert is not None:
            context.load_cert_chain(str(system.tls_cert), None if system.tls_key is None else str(system.tls_key))
    except OSError as exc:
        raise ConfigError(f"the certificates for {system} cannot be read: {exc}") from None
    return context
