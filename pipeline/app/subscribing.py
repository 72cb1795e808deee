"""Agents that the ledger declares: what an app offers to those who add them, and how a worker's process has them."""

from __future__ import annotations

import logging
import sys
from abc import abstractmethod
from collections.abc import Iterable, Sequence
from contextlib import suppress
from datetime import timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Any

from ..agents.agent import Agent
from ..bus import Change
from ..core.errors import ConfigError, LedgerOff, PipelineError, nearest
from ..core.ids import place_of_call
from ..core.observe import Log
from ..core.times import passed, time_limit

if TYPE_CHECKING:
    from ..bridges.bridge import Bridge, System
    from ..bridges.client import Client
    from ..bus import Bus
    from ..core.limits.limit import Rule
    from ..ledger.subscribing.subscription import Subscription
    from ..operations.subscribing.subscriptions import Subscriptions
    from .wiring import Wiring

logger = Log(logging.getLogger(__name__))
#: Seconds for which limits that have changed are declared again: deliveries that had begun before say the old ones.
SAID_AGAIN = 10.0


class Subscribing:
    """The side of a Pipeline on which agents are added for others: webhooks, and bridges to other systems."""

    bus: Bus

    @property
    def subscriptions(self) -> Subscriptions:
        """Webhooks that are agents: add, change, remove, list and get them, while everything runs; needs a ledger."""
        from ..operations.subscribing.subscriptions import Subscriptions

        return Subscriptions(self.bus)

    def bridge(
        self,
        name: str,
        system: System,
        *,
        out: str | Iterable[str] = (),
        into: str | Iterable[str] = (),
        ask: str | Iterable[str] = (),
        answer: str | Iterable[str] = (),
        format: str = "cloudevents",
        timeout: float | timedelta | str = 30.0,
        **options: Any,
    ) -> Bridge:
        """Declare a bridge to another system: workers send over it, `pipeline bridge run` takes what comes.

        Arguments:
            name: its name, which also is that of the agent that sends.
            system: where it leads, such as Nats("nats://127.0.0.1:4222") of pipeline.bridges.
            out: patterns of the events that are sent there.
            into: patterns of the events that are taken from there.
            ask: patterns of the events that are sent as requests; what is answered is their result.
            answer: patterns of the requests from there that agents answer.
            format: how events are written: "cloudevents", "binary" or "envelope".
            timeout: how long a request may take: seconds, a timedelta, or a text such as "30s".
            options: those of agent() for the agent that sends, such as where=, retry= and order_by=.

        Raises ConfigError or InvalidAgent that says what is wrong, and LedgerOff for `answer` without a ledger.

        """
        from ..bridges.bridge import Bridge, patterns_of
        from ..bridges.outgoing import Links, agents_of
        from ..bridges.wire import FORMATS

        given = {"out": out, "into": into, "ask": ask, "answer": answer}
        patterns = {
            way: patterns_of(name, way, tuple([one] if isinstance(one, str) else one)) for way, one in given.items()
        }
        if not any(patterns.values()):
            raise ConfigError(f"bridge {name!r}: say what goes over it: out=, into=, ask= or answer=")
        if format not in FORMATS:
            raise ConfigError(f"bridge {name!r}: format={format!r} is none; {nearest(str(format), FORMATS)}")
        if patterns["answer"] and not self.bus.has_ledger:
            raise LedgerOff(f"bridge {name!r}: answer= needs a ledger, and the setting ledger_url is empty")
        bus = self.bus
        group = "-".join(filter(None, (bus.settings.namespace, bus.celery.main, name)))
        limit = time_limit(timeout, f"bridge {name!r}: timeout", ConfigError)
        bridge = Bridge(name, system, group, **patterns, format=format, timeout=limit)
        system.check(bridge)
        links = Links(bridge)
        agents = agents_of(bridge, links, self.bus_id, options)
        if self.bridges.setdefault(name, bridge) != bridge:
            raise ConfigError(f"bridge {name!r} is declared twice, and not the same")
        for agent in agents:
            agent.declared = place_of_call(sys._getframe(1), name, str(system), *patterns.values())
            self._add(agent)
        bus.lifespans.append(links.lifespan)
        return bridge

    @cached_property
    def bridges(self) -> dict[str, Bridge]:
        """The bridges that were declared, by name."""
        return {}

    def bus_id(self) -> str:
        """Return what tells this bus apart from others that events may come from."""
        bus = self.bus
        return (
            bus.ledger.id
            if bus.has_ledger
            else f"{bus.settings.namespace}{bus.source}".replace(":", "").replace(",", "")
        )

    @abstractmethod
    def _add(self, agent: Agent[Any, Any]) -> Agent[Any, Any]:
        """Add an agent that is declared."""


class Subscribed:
    """The agents that the ledger declares, in a process that runs them.

    In a worker's main process a chore looks, and the loop's thread applies what it has found. The process of a lane is
    told by the main one.

    Attributes:
        is_on: whether this process is that of a worker which runs them.

    """

    def __init__(self, bus: Bus, wiring: Wiring) -> None:
        self._bus, self._wiring = bus, wiring
        self._client: Client | None = None
        self._seen = -1
        self._wanted: Sequence[Subscription] = ()
        self._changed: Sequence[Subscription] = ()
        self._changed_until = 0.0
        self._have: dict[str, tuple[int, Agent | None]] = {}
        self._applied: Sequence[Subscription] = ()
        self.is_on = False

    def look(self) -> bool:
        """Find out what there is; say whether that is something else than before."""
        table = self._bus.ledger.subscriptions
        version = table.version()  # first: what changes between the two is found with the next look
        if version == self._seen:
            if self._changed and passed() < self._changed_until:
                self._bus.ledger.limits.rules.declare(_rules(self._changed))
            return False
        before, wanted = {one.id: one.version for one in self._wanted}, table.all(secrets=True)
        self._changed = [one for one in wanted if before.get(one.id) != one.version]
        self._changed_until = passed() + SAID_AGAIN
        self._bus.ledger.limits.rules.declare(_rules(self._changed))
        self._wanted, self._seen = wanted, version
        return True

    def apply(self, wanted: Sequence[Subscription] | None = None) -> Change | None:
        """Let this process have those that were found, or some others; None where it has them already."""
        wanted = self._wanted if wanted is None else wanted
        if wanted is self._applied:
            return None
        self._applied = wanted
        ids = {one.id for one in wanted}
        gone = [self._drop(id) for id in tuple(self._have) if id not in ids]
        made = [self._put(one) for one in wanted if self._have.get(one.id, (0,))[0] != one.version]
        return Change([agent for agent in made if agent], [agent for agent in gone if agent], wanted)

    def _put(self, subscription: Subscription) -> Agent | None:
        """Declare an agent; one that cannot be declared here is left to workers that can."""
        try:
            agent = self._declared(subscription)
            self._bus.agents.put(agent)
        except (PipelineError, ImportError) as exc:
            logger.error("subscription %s is not run by this worker: %s", subscription.id, exc)
            self._have[subscription.id] = subscription.version, None
            return None
        self._wiring.put(agent)
        self._have[subscription.id] = subscription.version, agent
        return agent

    def _declared(self, subscription: Subscription) -> Agent:
        from ..bridges.webhooks import agent_of, check_extra

        if self._client is None:
            check_extra()
            from ..bridges.client import Client

            self._client = Client(self._bus.settings.webhook_networks)
            # Of a loop on which handlers have run before, the connections end with the process.
            self._bus.lifespans.append(self._client.lifespan)
        return agent_of(subscription, self._client)

    def _drop(self, id: str) -> Agent | None:
        _, agent = self._have.pop(id)
        if agent is not None:
            self._bus.agents.drop(id)
            self._wiring.drop(agent)
        return agent


def _rules(wanted: Sequence[Subscription]) -> dict[str, Rule]:
    """Return what the limits of subscriptions say: who stands in line goes on when there is more room."""
    from ..bridges.webhooks import agent_of

    found: dict[str, Rule] = {}
    for one in wanted:
        with suppress(PipelineError):  # said where it is taken on
            found |= agent_of(one).rules
    return found
