"""Agents: named subscribers, and the registry of those that an app has."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, TypeVar

from ..brokers.topology import AGENT_PREFIX
from ..core.errors import InvalidAgent, nearest
from ..core.event import Event, Payload
from ..core.ids import Place, place_of
from ..core.retry import Retry
from ..core.routing import reaches, wants

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


@dataclass(eq=False)
class Agent(Generic[Params, Returned]):
    """A named subscriber: its handler runs once for every event that one of its patterns matches.

    To type checkers it is called like its handler, and returns what that returns.

    Attributes:
        patterns: AMQP topic patterns; none means that only joins and canvases call it.
        payload: the type that event data is validated into (a Payload class as a rule); None passes the data as it is.
        timeout: seconds an attempt may take; None means no limit.
        max_concurrent: deliveries that each worker runs at once; None means as many as its pool has room for, and for
            async agents the setting `async_concurrency`.
        rate_limit: attempts per second, minute or hour in each worker ("10/s", "30/m", "100/h").
        priority: 1 to 10, the default priority of the events this agent emits.
        since: where in the ledger's past a new agent begins; None means now.

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
    #: The agents that it joins, whose results it needs.
    members: tuple[str, ...] = ()
    wants_event: bool = False
    wants_context: bool = False
    is_async: bool = False
    app: Celery | None = field(default=None, repr=False)
    #: The name of the Celery task that runs it.
    task_name: str = field(init=False, repr=False)
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
        )
        return self.declared or place_of(self.handler, *options)

    def __post_init__(self) -> None:
        self.task_name = AGENT_PREFIX + self.name


class Agents:
    """The registry: every agent by name."""

    def __init__(self) -> None:
        self._by_name: dict[str, Agent] = {}
        self._typed: dict[str, dict[str, Agent]] = {}

    def add(self, agent: Agent) -> None:
        """Keep `agent`; raise InvalidAgent when its name is taken, unless by itself: its module was imported again."""
        taken = self._by_name.get(agent.name)
        if taken is not None and not (taken.patterns == agent.patterns and taken.place.is_again(agent.place)):
            raise InvalidAgent(
                f"agent name {agent.name!r} is used twice: by {taken.place} and by {agent.place}; "
                "pass name='...' to one of them"
            )
        self._by_name[agent.name] = agent
        self._typed.setdefault(getattr(agent.payload, "event_type", ""), {})[agent.name] = agent

    def typed(self, event: Event) -> Sequence[Agent]:
        """Return the agents that an event is for whose payload is the class of its type."""
        agents = self._typed.get(event.type)
        if agents is None:
            return ()
        return [a for a in agents.values() if reaches(a.name, a.patterns, event.type, event.targets)]

    def __getitem__(self, name: str) -> Agent:
        """Return the agent called `name`, or raise InvalidAgent with the nearest known name."""
        try:
            return self._by_name[name]
        except KeyError:
            raise InvalidAgent(self.unknown(name)) from None

    def of_task(self, name: str) -> Agent | None:
        """Return the agent that a Celery task runs, or None for other tasks."""
        return self._by_name.get(name.removeprefix(AGENT_PREFIX)) if name.startswith(AGENT_PREFIX) else None

    def unknown(self, name: str) -> str:
        """Return what to tell somebody who named an agent that is not declared."""
        return f"no agent is called {name!r}; {nearest(name, self._by_name)}"

    def __iter__(self) -> Iterator[Agent]:
        """Iterate in the order of declaration."""
        return iter(tuple(self._by_name.values()))

    def __len__(self) -> int:
        return len(self._by_name)

    def __contains__(self, name: object) -> bool:
        return name in self._by_name
