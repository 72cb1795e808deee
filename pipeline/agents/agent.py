"""Agents: named subscribers, and the registry of those that an app has."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, TypeVar

from ..brokers.topology import AGENT_PREFIX
from ..contracts.capability import Capability
from ..contracts.registry import payloads_in
from ..contracts.versions import version_of
from ..core.door.dids import is_did
from ..core.errors import InvalidAgent, UnknownAgent, nearest
from ..core.event import Event, Payload
from ..core.ids import Place, place_of
from ..core.limits.batch import Batch
from ..core.limits.limit import Limit, Order, Rule, names_of
from ..core.limits.single import Debounce, Singleton
from ..core.retry import Bound, Breaker, Retry
from ..core.routing import reaches, wants
from .filters import Filter
from .wanting import Wanting

#: The parameters and the result of a handler.
P = ParamSpec("P")
R = TypeVar("R")

if TYPE_CHECKING:
    import typing_extensions
    from celery import Celery, Signature

    # Those of an agent: where it is not said what they are, `Agent` is one of any.
    Params = typing_extensions.ParamSpec("Params", default=...)
    Returned = typing_extensions.TypeVar("Returned", default=Any)
else:
    Params, Returned = P, R

#: What a handler may return: nothing, the payload of the next event, or several of them.
Result = Payload | list[Payload] | tuple[Payload, ...] | None
Handler = Callable[..., Any]
#: Returns the names of agents by those of some dids that are theirs.
Elsewhere = Callable[[Sequence[str]], dict[str, str]]
_ONLY_HERE = "without a ledger a did reaches what is declared in the app that publishes: import the agent's module"
_NOWHERE = (
    "no worker has been started with it on this ledger, and the app that publishes does not declare it: start one"
)


@dataclass(eq=False)
class Agent(Generic[Params, Returned]):
    """A named subscriber: its handler runs once for every event that one of its patterns matches.

    To type checkers it is called like its handler, and returns what that returns.

    Attributes:
        patterns: AMQP topic patterns; none means that only joins and canvases call it.
        payload: the type that event data is validated into (a Payload class as a rule); None passes the data as it is.
        timeout: seconds an attempt may take; None means no limit.
        max_concurrent: deliveries that each worker runs at once; over all: `limits`. None means as many as its pool has
            room for, and for async agents the setting `async_concurrency`.
        rate_limit: attempts per second, minute or hour in each worker ("10/s", "30/m", "100/h"); over all of them:
            `limits`.
        priority: 1 to 10, the default priority of the events this agent emits.
        since: where in the ledger's past a new agent begins; None means now.
        did: its decentralized identifier, which is the source of what it emits.
        filter: which of the events that its patterns match it wants; None means all.
        scopes: what it uses that may be paused, such as a provider; the first one is what its errors are about.
        bound: how much may wait for it, and for how long; None means any number.
        breaker: when it is paused because it fails too often; None means never.
        limits: how much of it may run over all workers.
        order: that it handles one event at a time for each key, in their order; None for whatever comes first.
        batch: how many events one call of the handler gets, in a list; None for one event in each call.
        singleton: that one delivery runs at a time, and what becomes of an event that comes meanwhile.
        debounce: that only the last event of a series is handled.
        capabilities: what it can do, as others find it.
        respond: whether it answers each event with an `agent.response`.

    """

    name: str
    handler: Callable[Params, Returned]
    patterns: tuple[str, ...] = ()
    payload: Any = None
    retry: Retry = field(default_factory=Retry)
    rate_limit: str | None = None
    timeout: float | None = None
    max_concurrent: int | None = None
    priority: int | None = None
    since: datetime | int | None = None
    did: str | None = None
    filter: Filter | None = None
    scopes: tuple[str, ...] = ()
    breaker: Breaker | None = None
    bound: Bound | None = None
    limits: tuple[Limit, ...] = ()
    order: Order | None = None
    batch: Batch | None = None
    singleton: Singleton | None = None
    debounce: Debounce | None = None
    capabilities: tuple[Capability, ...] = ()
    respond: bool = False
    #: The agents that it joins, whose results it needs.
    members: tuple[str, ...] = ()
    #: What it emits beside what its handler returns, as far as that is declared.
    emits: tuple[str | type[Payload], ...] = ()
    #: The payload classes that it takes, listens to, or says that it returns.
    classes: tuple[type[Payload], ...] = ()
    wants_event: bool = False
    wants_context: bool = False
    is_async: bool = False
    #: Whether its declaration stands in the ledger instead of in code: it comes, changes and goes while workers run.
    in_ledger: bool = False
    app: Celery | None = field(default=None, repr=False)
    #: The name of the Celery task that runs it.
    task_name: str = field(init=False, repr=False)
    #: The newest version of each event type that its payload's classes have.
    reads: dict[str, str] = field(init=False, repr=False)
    #: Where it is declared, if its handler does not tell.
    declared: Place | None = field(default=None, repr=False)

    def __call__(self, *args: Params.args, **kwargs: Params.kwargs) -> Returned:
        """Call the handler itself, without the bus (for tests and other handlers)."""
        return self.handler(*args, **kwargs)

    def matches(self, event_type: str) -> bool:
        """Say whether one of the agent's patterns matches `event_type`."""
        return wants(self.patterns, event_type)

    def s(self, event: Event) -> Signature:
        """Return the Celery signature that runs this agent on `event`, for chords and chains."""
        if self.app is None:
            raise InvalidAgent(f"agent {self.name!r} belongs to no app; declare it with @app.agent(...)")
        return self.app.tasks[self.task_name].member(event)

    @cached_property
    def is_plain(self) -> bool:
        """Whether it declares nothing that is put around its handler beside what every agent has."""
        limits = (self.breaker, self.bound, self.batch, self.debounce)
        return not (self.is_limited or any(limits) or self.capabilities or self.respond)

    @cached_property
    def is_limited(self) -> bool:
        """Whether its deliveries need turns that are counted over all workers."""
        return bool(self.limits or self.order or self.singleton)

    @cached_property
    def counted(self) -> Mapping[str, Limit | Singleton]:
        """Its limits and its singleton by their names: the limit's own, or the agent's."""
        named: dict[str, Limit | Singleton] = dict(zip(names_of(self.name, self.limits), self.limits, strict=True))
        if self.singleton is not None:
            named[self.singleton.limit_of(self.name)] = self.singleton
        return named

    @cached_property
    def rules(self) -> Mapping[str, Rule]:
        """What those say."""
        return {name: limit.rule for name, limit in self.counted.items()}

    @property
    def place(self) -> Place:
        """Where it is declared, and with which options."""
        options = (
            self.payload,
            self.retry,
            self.rate_limit,
            self.timeout,
            self.max_concurrent,
            self.priority,
            self.since,
            self.did,
            self.filter,
            self.scopes,
            self.breaker,
            self.bound,
            self.limits,
            self.order,
            self.batch,
            self.singleton,
            self.debounce,
            self.capabilities,
            self.respond,
        )
        return self.declared or place_of(self.handler, *options)

    @cached_property
    def wanting(self) -> Wanting | None:
        """What it wants of the events that its patterns match, as others may ask it; None means all."""
        return Wanting(self.filter, self.reads) if self.filter is not None else None

    def versions(self, event_type: str) -> list[str]:
        """Return the versions of an event type that its payload's classes have."""
        return [cls.schema_version for cls in payloads_in(self.payload) if cls.event_type == event_type]

    def __post_init__(self) -> None:
        self.task_name = AGENT_PREFIX + self.name
        types = {cls.event_type for cls in payloads_in(self.payload)}
        self.reads = {type: max(self.versions(type), key=version_of) for type in types}


class Agents:
    """The registry: every agent by name, and by its did if it has one."""

    def __init__(self) -> None:
        self._by_name: dict[str, Agent] = {}
        self._typed: dict[str, dict[str, Agent]] = {}
        self._by_did: dict[str, Agent] = {}

    def add(self, agent: Agent) -> None:
        """Keep `agent`; raise InvalidAgent when its name is taken, unless by itself: its module was imported again."""
        taken = self._by_name.get(agent.name)
        if taken is not None and not (taken.patterns == agent.patterns and taken.place.is_again(agent.place)):
            raise InvalidAgent(
                f"agent name {agent.name!r} is used twice: by {taken.place} and by {agent.place}; "
                "pass name='...' to one of them"
            )
        if agent.did and (other := self._by_did.get(agent.did)) is not None and other.name != agent.name:
            raise InvalidAgent(
                f"did {agent.did!r} is used twice: by agent {other.name!r}, {other.place}, and by agent "
                f"{agent.name!r}, {agent.place}; give each of them its own"
            )
        self._check_limits(agent)
        if taken is not None and taken.did:
            del self._by_did[taken.did]
        if agent.did:
            self._by_did[agent.did] = agent
        self._by_name[agent.name] = agent
        self._typed.setdefault(getattr(agent.payload, "event_type", ""), {})[agent.name] = agent

    def put(self, agent: Agent) -> None:
        """Keep an agent that the ledger declares, in place of what it was; raise InvalidAgent for one in code."""
        taken = self._by_name.get(agent.name)
        if taken is not None and not taken.in_ledger:
            raise InvalidAgent(
                f"agent {agent.name!r} is declared in code, {taken.place}, and is a subscription, too: give one of "
                f"them another name (`pipeline subscriptions remove {agent.name}`)"
            )
        self._check_limits(agent)
        self._by_name[agent.name] = agent
        self._typed.setdefault("", {})[agent.name] = agent

    def drop(self, name: str) -> None:
        """Forget an agent that the ledger declared."""
        self._by_name.pop(name, None)
        self._typed.get("", {}).pop(name, None)

    def _check_limits(self, agent: Agent) -> None:
        """Raise InvalidAgent for a limit that another agent shares and declares otherwise: only one would hold."""
        for other in self._by_name.values():
            for name in agent.rules.keys() & other.rules.keys() if other.name != agent.name else ():
                if agent.rules[name] != other.rules[name]:
                    raise InvalidAgent(
                        f"the limit {name!r} is {other.rules[name]} in agent {other.name!r}, {other.place}, and "
                        f"{agent.rules[name]} in agent {agent.name!r}, {agent.place}: agents that share a limit "
                        "declare it alike; give it another name=, or the same rate, burst, concurrent and weight"
                    )

    def typed(self, event: Event) -> Sequence[Agent]:
        """Return the agents that an event is for whose payload is the class of its type."""
        agents = self._typed.get(event.type)
        if agents is None:
            return ()
        return [a for a in agents.values() if reaches(a.name, a.patterns, event.type, event.targets)]

    def __getitem__(self, name: str) -> Agent:
        """Return the agent with a name or a did, or raise InvalidAgent with the nearest known one."""
        try:
            return self._by_did[name] if is_did(name) else self._by_name[name]
        except KeyError:
            raise InvalidAgent(self.unknown(name)) from None

    def addressed(self, event: Event, elsewhere: Elsewhere | None = None) -> Event:
        """Return an event with the agents' names where its targets are dids; raise UnknownAgent for one of nobody.

        Arguments:
            elsewhere: finds agents that are not declared here; None where there is no ledger to ask.

        """
        if not any(map(is_did, event.targets)) or event.key != event.id:  # another program's stays as it came
            return event
        names = {target: self._by_did[target].name for target in event.targets if target in self._by_did}
        others = [target for target in event.targets if is_did(target) and target not in names]
        if others and elsewhere is not None:
            names |= elsewhere(others)
        if unknown := [target for target in others if target not in names]:
            told = "; ".join(map(self.unknown, unknown))
            raise UnknownAgent(f"targets: {told}; {_ONLY_HERE if elsewhere is None else _NOWHERE}, or use its name")
        return event.evolve(targets=tuple(dict.fromkeys(names.get(target, target) for target in event.targets)))

    def history_of(self, name: str) -> str:
        """Return what an agent's events are kept under: its did, where it is declared with one."""
        agent = self._by_name.get(name)
        return agent.did if agent is not None and agent.did else name

    def of_task(self, name: str) -> Agent | None:
        """Return the agent that a Celery task runs, or None for other tasks."""
        return self._by_name.get(name.removeprefix(AGENT_PREFIX)) if name.startswith(AGENT_PREFIX) else None

    def unknown(self, name: str) -> str:
        """Return what to tell somebody who named an agent that is not declared."""
        if is_did(name):
            return f"no agent has the did {name!r}; {nearest(name, self._by_did)}"
        return f"no agent is called {name!r}; {nearest(name, self._by_name)}"

    def __iter__(self) -> Iterator[Agent]:
        """Iterate in the order of declaration."""
        return iter(tuple(self._by_name.values()))

    def __len__(self) -> int:
        return len(self._by_name)

    def __contains__(self, name: object) -> bool:
        return name in self._by_name or name in self._by_did
