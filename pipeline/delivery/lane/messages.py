"""What a worker's main process and the host of its lane say to each other."""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum, auto
from typing import Any, NamedTuple, Protocol

from ...ledger.subscribing.subscription import Subscription


class Job(NamedTuple):
    """A delivery for the host, as Celery gives it to a process of its pool.

    Attributes:
        number: what the answer names.
        name: the task's.
        id: the task's id, for Celery.
        request: the task's request, as a mapping.
        body: arguments, keyword arguments and the rest; still encoded if there is a content type.
        in_canvas: whether a chord or chain waits for what the handler returns.

    """

    number: int
    name: str
    id: str
    request: dict[str, Any]
    body: Any
    content_type: str | None
    content_encoding: str | None
    in_canvas: bool


class Cancel(NamedTuple):
    """A job that is to end now."""

    number: int


class Ping(NamedTuple):
    """A question that the loop answers when it turns."""

    number: int


class Adopt(NamedTuple):
    """The agents that the ledger declares, as they are from now on."""

    wanted: Sequence[Subscription]


class End(NamedTuple):
    """No more jobs come: the process may end."""


class How(Enum):
    """What an answer says."""

    #: With what Celery's tracer returns: whether it failed, its result, its seconds.
    ENDED = auto()
    CANCELLED = auto()
    PONG = auto()


Message = Job | Cancel | Ping | Adopt | End
Answer = tuple[int, How, Any]


class Line(Protocol):
    """The connection to a host, used by the main thread alone.

    Attributes:
        pid: the process in which the host runs.
        writer: a descriptor that is writable when flush() gets on; another one than that which is read, as Kombu's loop
            waits for one thing on each.

    """

    pid: int
    writer: int

    def send(self, message: Message) -> None:
        """Say something to the host; never blocks."""

    def fileno(self) -> int:
        """Return what is readable when there are answers."""

    def has_unsent(self) -> bool:
        """Say whether flush() is to be called as soon as the descriptor is writable."""

    def flush(self) -> None:
        """Write what is still unsent, as far as that goes."""

    def receive(self) -> list[Answer]:
        """Return the answers that have come; raise EOFError when no more will come: the host's process has died."""

    def kill(self) -> bool:
        """Kill the host's process, and say so; False when it is this one."""

    def close(self) -> None:
        """Let the host end when it has done what it was told."""
