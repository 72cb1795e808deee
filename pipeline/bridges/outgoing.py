"""What a bridge sends: an agent for what goes out, and one that asks, each with a queue, retries and dead letters.

While the other system is away its deliveries wait as those of a provider that asks to wait: no attempt is counted.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any
from weakref import WeakKeyDictionary

import orjson

from ..agents.agent import Agent
from ..agents.declare import declare
from ..agents.payloads import Said
from ..core.errors import BridgeAway, BridgeRefused, RateLimited, RequestFailed
from ..core.event import Event
from ..core.observe import Log
from ..core.retry import Retry
from .bridge import Bridge, Link, options_of
from .wire import outgoing, way_of

logger = Log(logging.getLogger(__name__))

#: Attempts after the first one.
RETRIES = 3
#: Seconds that events wait at most until it is tried again whether the other system is back.
LONGEST_AWAY = 300.0


class _Away(RateLimited):
    """The other system is away: events wait for it, no longer than a few minutes from one look to the next."""

    longest = LONGEST_AWAY


class Links:
    """The connection that a process sends over, on each event loop one; it is made anew when it has gone."""

    def __init__(self, bridge: Bridge) -> None:
        self._bridge = bridge
        self._links: WeakKeyDictionary[asyncio.AbstractEventLoop, Link] = WeakKeyDictionary()
        self._making: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Lock] = WeakKeyDictionary()

    async def get(self) -> Link:
        """Return one that is open; raise RateLimited while the other system is away."""
        loop, bridge = asyncio.get_running_loop(), self._bridge
        async with self._making.setdefault(loop, asyncio.Lock()):
            link = self._links.get(loop)
            if link is not None and link.is_open:
                return link
            if link is not None:
                logger.warning("bridge %s: disconnected from %s", bridge.name, bridge.system)
                await self._drop(loop)
            try:
                link = self._links[loop] = await bridge.system.connect(bridge.group)
            except BridgeAway as exc:
                raise self.away(exc) from None
            logger.info("bridge %s: connected to %s", bridge.name, bridge.system)
            return link

    def away(self, error: BridgeAway) -> RateLimited:
        """Say that the other system is away, and return what lets deliveries wait for it."""
        logger.warning("bridge %s: %s; its events wait", self._bridge.name, error)
        return _Away(max(self._bridge.system.reconnect_wait, 0.1))

    async def _drop(self, loop: asyncio.AbstractEventLoop) -> None:
        if (link := self._links.pop(loop, None)) is not None:
            await link.close()

    @asynccontextmanager
    async def lifespan(self) -> AsyncIterator[None]:
        """Close the loop's connection at its end."""
        yield
        await self._drop(asyncio.get_running_loop())


class Sending:
    """Sends an event, unless it came over this bridge."""

    def __init__(self, bridge: Bridge, links: Links, bus_id: Callable[[], str], order_by: str | None) -> None:
        self._bridge, self._links, self._bus_id, self._order_by = bridge, links, bus_id, order_by

    async def __call__(self, event: Event) -> None:
        """Return when the other system has it."""
        here = here_of(await asyncio.to_thread(self._bus_id), self._bridge)
        if here in way_of(event):
            return
        link = await self._links.get()
        try:
            await link.send(outgoing(event, self._bridge.format, here, self._order_by))
        except BridgeAway as exc:
            raise self._links.away(exc) from None


class AskingOut:
    """Sends an event as a request; what is answered is its result."""

    def __init__(self, bridge: Bridge, links: Links, bus_id: Callable[[], str]) -> None:
        self._bridge, self._links, self._bus_id = bridge, links, bus_id

    async def __call__(self, event: Event) -> Said:
        """Return what is answered as JSON."""
        here = here_of(await asyncio.to_thread(self._bus_id), self._bridge)
        if here in way_of(event):
            raise RequestFailed(f"{event.type}: the request came over this bridge", code="508", retryable=False)
        link = await self._links.get()
        try:
            body = await link.ask(outgoing(event, self._bridge.format, here), self._bridge.timeout)
        except BridgeAway as exc:
            raise self._links.away(exc) from None
        try:
            return Said(orjson.loads(body) if body else None)
        except orjson.JSONDecodeError as exc:
            raise RequestFailed(f"{event.type}: the answer is no JSON: {exc}", retryable=False) from None


def here_of(bus_id: str, bridge: Bridge) -> str:
    """Return what an event's way gets from a bridge."""
    return f"{bus_id}:{bridge.name}"


def agents_of(bridge: Bridge, links: Links, bus_id: Callable[[], str], given: Mapping[str, Any]) -> list[Agent]:
    """Return the agents that send for a bridge.

    Arguments:
        given: the options of agent() that the one has which sends.

    """
    found: list[Agent] = []
    made: Any
    if bridge.out:
        options = {"retry": Retry(max=RETRIES, give_up_on=(BridgeRefused,)), **options_of(given, bridge.name)}
        made = Sending(bridge, links, bus_id, options.get("order_by"))
        found.append(declare(made, on=bridge.out, name=bridge.name, scope=f"bridge:{bridge.name}", **options))
    if bridge.ask:
        made = AskingOut(bridge, links, bus_id)
        retry = Retry(max=RETRIES, give_up_on=(BridgeRefused, RequestFailed))
        scope = f"bridge:{bridge.name}"
        found.append(declare(made, on=bridge.ask, name=f"{bridge.name}-ask", scope=scope, retry=retry))
    return found
