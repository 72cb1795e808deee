"""Subscriptions: webhooks that are agents, added, changed and removed while everything runs."""

from __future__ import annotations

import builtins
from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ...agents.filters import Where, parse
from ...bridges import signing
from ...bridges.webhooks import agent_of, check_extra
from ...core.errors import InvalidSubscription
from ...ledger.subscribing.subscription import Subscription
from ...ledger.workers import ALL, json
from ...publishing.queues import bind, unbind

if TYPE_CHECKING:
    from ...agents.agent import Agent
    from ...bus import Bus
    from ...ledger.subscribing.subscriptions import Removed

#: What says that an option is to stay as it is.
SAME: Any = type("Same", (), {"__repr__": lambda _: "SAME"})()
#: How often a change is tried again, because somebody else has changed the same subscription meanwhile.
TRIES = 20


class Subscriptions:
    """The subscriptions of an app's ledger."""

    def __init__(self, bus: Bus) -> None:
        """Take what the app's rooms share; raises LedgerOff when there is no ledger."""
        self._bus = bus
        self._table = bus.ledger.subscriptions

    def add(
        self,
        id: str,
        *,
        on: str | Iterable[str],
        url: str,
        where: Where = None,
        priority: int = 5,
        max_concurrent: int = 10,
        timeout: float = 30.0,
        retry: int = 3,
        since: int | None = None,
        secret: str | None = None,
    ) -> Subscription:
        """Add an agent that calls a URL with each event; what is published from now on is for it, whoever runs.

        Arguments:
            id: the agent's name, as one that is declared in code has it.
            on: a topic pattern, or several.
            url: http:// or https://; called by POST, with the event as CloudEvents JSON.
            where: which of those events it wants (docs/filters.md).
            priority: 1 (most urgent) to 10, for what it emits.
            max_concurrent: calls at once, over all workers.
            timeout: seconds that a call may take.
            retry: calls again after one that has failed.
            since: a sequence number of the ledger: what was published from there on comes first (0: everything).
            secret: what calls are signed with, as new_secret() makes it.

        Raises InvalidSubscription, InvalidAgent, InvalidPattern or InvalidFilter that says what is wrong, and
        ConfigError when what makes the calls is not installed.

        """
        check_extra()
        if since is not None and (isinstance(since, bool) or not isinstance(since, int) or since < 0):
            raise InvalidSubscription(f"subscription {id!r}: since={since!r} is no sequence number, 0 or more")
        if id in self._bus.agents and not (taken := self._bus.agents[id]).in_ledger:
            raise InvalidSubscription(
                f"{id!r} is the id of an agent that is declared in code, {taken.place}: choose another id"
            )
        new = Subscription(
            id=id,
            on=_patterns(on),
            url=url,
            where=_data(where),
            priority=priority,
            max_concurrent=max_concurrent,
            timeout=timeout,
            retry=retry,
            since=since,
            secret=secret,
        )
        agent = agent_of(new)
        self._table.check_free(id)
        # First: what is published between the two is in its queue, and not found missing a minute later.
        bind(self._bus.publisher, self._bus.names, id, agent.patterns)
        self._table.add(replace(new, on=agent.patterns), self._filters(agent))
        return self._table.get(id)

    def change(
        self,
        id: str,
        *,
        on: str | Iterable[str] = SAME,
        url: str = SAME,
        where: Where = SAME,
        priority: int = SAME,
        max_concurrent: int = SAME,
        timeout: float = SAME,
        retry: int = SAME,
        secret: str | None = SAME,
    ) -> Subscription:
        """Change what is given of a subscription; arguments and errors are those of add().

        What waits is judged, and called, as it is declared by then. Raises UnknownSubscription when there is none.
        """
        given = {
            "on": on if on is SAME else _patterns(on),
            "url": url,
            "where": where if where is SAME else _data(where),
            "priority": priority,
            "max_concurrent": max_concurrent,
            "timeout": timeout,
            "retry": retry,
            "secret": secret,
        }
        wanted = {name: value for name, value in given.items() if value is not SAME}
        for _ in range(TRIES):
            new = replace(self._table.get(id, secrets=True), **wanted)
            agent = agent_of(new)
            if self._table.change(replace(new, on=agent.patterns), self._filters(agent)):
                break
        else:
            raise InvalidSubscription(f"subscription {id!r} is changed by others all the time; try again")
        if on is not SAME and bind(self._bus.publisher, self._bus.names, id, agent.patterns):
            self._unbind_left_over(id)
        return self._table.get(id)

    def remove(self, id: str) -> Removed:
        """Remove a subscription; what waits for it is a dead letter that says so, and what runs ends as it does.

        Raises UnknownSubscription when there is none.
        """
        removed = self._table.remove(id)
        unbind(self._bus.publisher, self._bus.names, id, removed.bound)
        return removed

    def list(self) -> builtins.list[Subscription]:
        """Return all of them, by their ids, without their secrets."""
        return self._table.all()

    def get(self, id: str) -> Subscription:
        """Return one, without its secret; raise UnknownSubscription when there is none."""
        return self._table.get(id)

    def agents(self) -> builtins.list[Agent]:
        """Return them as the agents that they are, which nobody can run here."""
        return [agent_of(one) for one in self.list()]

    @staticmethod
    def new_secret() -> str:
        """Return a secret for `secret=`, to be given to who is called, too."""
        return signing.new_secret()

    def _filters(self, agent: Agent) -> str:
        return ALL if agent.wanting is None else json([agent.wanting.as_data(self._bus.settings.filtered_share)])

    def _unbind_left_over(self, id: str) -> None:
        subscribers = self._bus.ledger.subscribers
        patterns = subscribers.left_over([id]).get(id, ())
        if patterns and unbind(self._bus.publisher, self._bus.names, id, patterns):
            subscribers.unbound(id, patterns)


def _patterns(on: str | Iterable[str]) -> tuple[str, ...]:
    return (on,) if isinstance(on, str) else tuple(on)


def _data(where: Where) -> Any:
    """Return a filter as JSON data; raise InvalidFilter when it is none."""
    filter = parse(where)
    return filter.as_data() if filter.nodes else None
