"""Bridges to other systems: what a system has to offer, and what a bridge is declared with.

A system is one small file in systems/: what it is reached with, and a link, which is one connection to it. Everything
else is the same for all: what a message looks like (wire.py), what sends (outgoing.py), what takes (running.py).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, NamedTuple, Protocol

from ..core.errors import ConfigError, to_install
from ..core.topics import check_pattern

#: Messages that are taken together, and seconds that a link waits for the first of them.
MOST, PATIENCE = 100, 1.0


class Outgoing(NamedTuple):
    """An event as it is sent.

    Attributes:
        type: the event's type.
        id: what tells its message apart from all others: the same whenever it is sent again.
        headers: what goes with it, by names in lower case.
        key: what those have in common that belong in one order.

    """

    type: str
    id: str
    body: bytes
    headers: Mapping[str, str]
    key: str


class Answered(NamedTuple):
    """What a request is answered with.

    Attributes:
        code: a status of HTTP; 200 for what went well.
        error: what went wrong, in words.

    """

    body: bytes
    code: int = 200
    error: str = ""


class Message(Protocol):
    """What has come, and is there until it is done.

    Attributes:
        type: the event type that its place stands for; empty where it says nothing.
        id: what the system knows it by, the same whenever it comes again; empty where it knows it by nothing.
        headers: what came with it, by names in lower case.

    """

    @property
    def type(self) -> str: ...  # noqa: D102  # above

    @property
    def id(self) -> str: ...  # noqa: D102  # above

    @property
    def body(self) -> bytes: ...  # noqa: D102  # above

    @property
    def headers(self) -> Mapping[str, str]: ...  # noqa: D102  # above

    async def done(self) -> None:
        """Let it not come again: its event is accepted."""

    async def hold(self) -> None:
        """Tell the system that it is still worked on."""

    async def put_aside(self, reason: str) -> None:
        """Let it not come again, and keep it where somebody finds it with the reason, as far as the system can."""


#: Waits for messages, PATIENCE at most, and returns those that are there, in their order.
Source = Callable[[], Awaitable[Sequence[Message]]]
Answer = Callable[[Message], Awaitable[Answered]]


class Link(Protocol):
    """A connection to a system; its methods raise BridgeAway when that is away, and it is of no use from then on."""

    @property
    def is_open(self) -> bool:
        """Whether it is of use."""

    async def send(self, message: Outgoing) -> None:
        """Send an event; return when the system has it. Raise BridgeRefused for what it does not take."""

    async def ask(self, message: Outgoing, timeout: float) -> bytes:  # noqa: ASYNC109  # it travels
        """Send a request and return the answer's body; raise NoResponder, RequestTimeout or RequestFailed."""

    async def sources(self, patterns: Sequence[str]) -> Sequence[Source]:
        """Return where the messages come from whose event types match; each is asked by one task."""

    async def answer(self, patterns: Sequence[str], answer: Answer) -> None:
        """Let requests be answered from now on."""

    async def close(self) -> None:
        """End it; whatever is wrong with it does not matter any more."""


class System(Protocol):
    """Another system, as it is declared: plain data, which connects nothing.

    Attributes:
        kind: what it is called.
        extra: the extra that brings its library, and the library's module.
        reconnect_wait: seconds between two attempts to connect.
        max_reconnects: attempts in a row after which a bridge gives up; -1 for none.

    """

    @property
    def kind(self) -> str: ...  # noqa: D102  # above

    @property
    def extra(self) -> tuple[str, str]: ...  # noqa: D102  # above

    @property
    def reconnect_wait(self) -> float: ...  # noqa: D102  # above

    @property
    def max_reconnects(self) -> int: ...  # noqa: D102  # above

    def __str__(self) -> str:
        """Return where it is, without passwords."""

    def check(self, bridge: Bridge) -> None:
        """Raise ConfigError for what it cannot do."""

    async def connect(self, group: str) -> Link:
        """Connect; raise BridgeAway when it is away.

        Arguments:
            group: the bridge's.

        """


@dataclass(frozen=True)
class Bridge:
    """A bridge as it is declared.

    Attributes:
        group: what its processes have in common, and no other app's: they share what comes in.
        out: patterns of the events that are sent.
        into: patterns of the events that are taken.
        ask: patterns of the events that are requests to the other system.
        answer: patterns of the requests that are answered.
        format: how an event is written, of wire.FORMATS.
        timeout: seconds that a request may take, either way.

    """

    name: str
    system: System
    group: str
    out: tuple[str, ...] = ()
    into: tuple[str, ...] = ()
    ask: tuple[str, ...] = ()
    answer: tuple[str, ...] = ()
    format: str = "cloudevents"
    timeout: float = 30.0

    @property
    def comes_in(self) -> bool:
        """Whether a process has to run it."""
        return bool(self.into or self.answer)

    def as_data(self) -> dict[str, Any]:
        """Return it as JSON data."""
        ways = {way: list(getattr(self, way)) for way in ("out", "into", "ask", "answer")}
        return {"name": self.name, "system": self.system.kind, "at": str(self.system), **ways, "format": self.format}


def patterns_of(name: str, option: str, given: str | Sequence[str]) -> tuple[str, ...]:
    """Return checked topic patterns."""
    patterns = (given,) if isinstance(given, str) else tuple(given)
    for one in patterns:
        try:
            check_pattern(one)
        except ValueError as exc:
            raise ConfigError(f"bridge {name!r}: {option}: {exc}") from None
    return patterns


def library(system: System) -> None:
    """Raise ConfigError where a system's library is not installed."""
    extra, module = system.extra
    if find_spec(module) is None:
        raise ConfigError(f"bridges to {system.kind} need the package {module}; {to_install(extra)}")


def options_of(given: Mapping[str, Any], bridge: str) -> dict[str, Any]:
    """Return what the agent that sends is declared with beside what the bridge says."""
    if wrong := {"on", "name", "scope", "batch", "respond"} & given.keys():
        raise ConfigError(f"bridge {bridge!r}: {', '.join(sorted(wrong))}: the bridge says that")
    return dict(given)
