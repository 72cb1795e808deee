"""The client that calls webhooks, on each event loop one with connections of its own.

It is httpcore, on which httpx is built, and not httpx: the address that was checked has to be the one that is connected
to, and httpcore's network backend is where that is documented. It follows no redirects, and heeds no proxies.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import httpcore

from ..core.errors import WebhookFailed, WebhookRefused, line_of
from .addresses import is_allowed, shown

#: Bytes of an answer that are read.
MOST_READ = 65_536
#: Seconds that a connection is kept open while nobody uses it, and how many such connections.
KEPT_FOR, KEPT = 15.0, 20
#: Names that are looked up at once.
LOOKUPS = 8


class Answer(NamedTuple):
    """What a webhook has answered.

    Attributes:
        headers: with their names in lower case.
        body: its beginning; all of it where `is_whole`.

    """

    status: int
    headers: Mapping[str, str]
    body: bytes
    is_whole: bool


class Client:
    """Makes calls.

    Arguments:
        networks: those that may be called beside the public ones.

    """

    def __init__(self, networks: Sequence[str]) -> None:
        self._networks = networks
        self._pools: WeakKeyDictionary[asyncio.AbstractEventLoop, httpcore.AsyncConnectionPool] = WeakKeyDictionary()

    async def post(self, url: str, headers: Mapping[str, str], body: bytes) -> Answer:
        """Send something; raise WebhookFailed where nobody answers, and WebhookRefused where nobody may be called."""
        given = list(headers.items())
        try:
            async with self._pool.stream("POST", url, headers=given, content=body) as response:
                return await _answer(response)
        except (httpcore.NetworkError, httpcore.TimeoutException, httpcore.ProtocolError, OSError) as exc:
            raise WebhookFailed(f"{shown(url)} does not answer: {line_of(_telling(exc))}") from None

    @property
    def _pool(self) -> httpcore.AsyncConnectionPool:
        loop = asyncio.get_running_loop()
        if loop not in self._pools:
            self._pools[loop] = httpcore.AsyncConnectionPool(
                max_connections=None,
                max_keepalive_connections=KEPT,
                keepalive_expiry=KEPT_FOR,
                network_backend=Guarded(self._networks),
            )
        return self._pools[loop]

    @asynccontextmanager
    async def lifespan(self) -> AsyncIterator[None]:
        """Close the loop's connections at its end."""
        yield
        pool = self._pools.pop(asyncio.get_running_loop(), None)
        if pool is not None:
            await pool.aclose()


def _telling(error: BaseException) -> BaseException:
    """Return the nearest of an error and its causes that has a text: what httpcore makes of a reset has none."""
    one: BaseException | None = error
    while one is not None and not str(one):
        one = one.__cause__ or one.__context__
    return one or error


async def _answer(response: httpcore.Response) -> Answer:
    body = bytearray()
    is_whole = True
    async for piece in response.aiter_stream():
        body += piece
        if len(body) > MOST_READ:
            is_whole = False
            break
    headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in response.headers}
    return Answer(response.status, headers, bytes(body[:MOST_READ]), is_whole)


class Guarded(httpcore.AsyncNetworkBackend):
    """Connects to addresses that may be called, and to no others: whatever a name means by then."""

    def __init__(self, networks: Sequence[str]) -> None:
        self._networks = networks
        self._backend = httpcore.AnyIOBackend()
        self._lookups = ThreadPoolExecutor(LOOKUPS, thread_name_prefix="pipeline-lookup")

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109  # the backend's signature
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """Look a name up, and connect to the first of its addresses that answers."""
        # Not in the loop's own threads, which ledger calls need: a name whose server is silent keeps its thread long.
        look_up = partial(socket.getaddrinfo, host, port, type=socket.SOCK_STREAM)
        async with asyncio.timeout(timeout):
            found = await asyncio.get_running_loop().run_in_executor(self._lookups, look_up)
        addresses = list(dict.fromkeys(str(one[4][0]) for one in found))
        allowed = [address for address in addresses if is_allowed(address, self._networks)]
        if not allowed:
            raise WebhookRefused(
                f"{host} is {', '.join(addresses)}, which is not public: name its network in the setting "
                "webhook_networks of the workers where it may be called, and requeue this"
            )
        for address in allowed[:-1]:
            try:
                return await self._backend.connect_tcp(address, port, timeout, local_address, socket_options)
            except httpcore.NetworkError:  # the next one may answer
                continue
        return await self._backend.connect_tcp(allowed[-1], port, timeout, local_address, socket_options)

    async def connect_unix_socket(
        self,
        path: str,
        timeout: float | None = None,  # noqa: ASYNC109  # as above
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """Refuse: a URL names no socket."""
        raise WebhookRefused(f"{path}: a socket is no webhook")

    async def sleep(self, seconds: float) -> None:
        """Wait."""
        await self._backend.sleep(seconds)
