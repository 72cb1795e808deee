"""The kinds of brokers: whatever differs between them is one row here, beside the transport itself."""

from __future__ import annotations

import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from kombu import transport as kombu_transports

from ..core.errors import ConfigError

#: The socket option of that name, where the system has it.
TCP_USER_TIMEOUT: int | None = getattr(socket, "TCP_USER_TIMEOUT", None)
#: Heartbeats within the time after which a silent connection is given up: three may be late or lost.
PARTS = 3
Options = dict[str, Any]


def _is_declared(connection: Any, exchange: str, queue: str) -> bool:
    # On a channel of its own: RabbitMQ closes one on which something is missing.
    with connection.channel() as channel:
        try:
            channel.queue_declare(queue, passive=True)
        except connection.channel_errors:
            return False
    return True


class Objection(Enum):
    """What a broker that is there has an objection to."""

    EVENT = "event"
    QUEUE = "queue"


@dataclass(frozen=True)
class Kind:
    """One kind of broker.

    Attributes:
        driver: what Kombu calls it (`transport.driver_type`).
        transports: the transport's class for each scheme of an address.
        is_embedded: whether it is a file of this machine instead of a server.
        lowest_first: whether the lower priority number is served first.
        has_exclusive_queues: whether a worker's name is taken as long as its mailbox is locked; else it is asked.
        has_windows_for_all: whether a window of its own costs an agent nothing; else only those with a limit get one.
        gives_unseen: whether what a consumer waits for is given to it although its loop stands still: that is lost when
            it is killed then. So a worker whose loop runs handlers waits on one channel alone.
        package: what has to be installed beside the core, and the extra that brings it.
        bounds: transport options that end every wait on a connection after so many seconds.
        of_worker: transport options of a worker's own loop, which has to notice within so many seconds that the broker
            is silent.
        options: transport options of an app of ours, by the settings `confirm` and `redis_visibility_timeout`.
        objection: what an error says that is not about the broker: Objection.EVENT or Objection.QUEUE; else None.
        has_queue: whether somebody has declared a queue: asked with a connection, its exchange and its name.

    """

    driver: str
    transports: Mapping[str, str]
    is_embedded: bool = False
    lowest_first: bool = False
    has_exclusive_queues: bool = True
    has_windows_for_all: bool = False
    gives_unseen: bool = False
    package: str = ""
    bounds: Callable[[float], Options] = field(default=lambda seconds: {})
    of_worker: Callable[[float], Options] = field(default=lambda seconds: {})
    options: Callable[[bool, int], Options] = field(default=lambda confirm, visibility_timeout: {})
    objection: Callable[[BaseException], Objection | None] = field(default=lambda exc: None)
    has_queue: Callable[[Any, str, str], bool] = field(default=_is_declared)

    def priority(self, priority: int) -> int:
        """Return the broker's number for an event's priority (1 is most urgent)."""
        return priority - 1 if self.lowest_first else 10 - priority


def _is_bound(connection: Any, exchange: str, queue: str) -> bool:
    # Redis keeps no empty lists: of a queue in which nothing waits only its binding is there.
    with connection.channel() as channel:
        return any(bound == queue for _, _, bound in channel.bindings_of(exchange))


def _bounds_of_amqp(seconds: float) -> Options:
    # Without these a broker that is stopped, not gone, would hold the caller for ever; and py-amqp lets the kernel drop
    # a connection on which the broker has read nothing for one second.
    settings = {TCP_USER_TIMEOUT: int(max(seconds, 10) * 1000)} if TCP_USER_TIMEOUT else {}
    return {"patience": seconds, "write_timeout": seconds, "socket_settings": settings}


#: Answers of AMQP that are about what was sent: 311 is content too large, 501 and 502 frames that cannot be.
_ABOUT_THE_MESSAGE = (311, 501, 502)
_PRECONDITION_FAILED = 406
#: The method that a channel was closed for: a message that is larger than RabbitMQ's `max_message_size`.
_PUBLISH = (60, 40)


def _objection_of_amqp(exc: BaseException) -> Objection | None:
    from amqp import ChannelError

    from .amqp.channel import BatchRefused

    code = getattr(exc, "reply_code", None) or getattr(exc, "code", None)
    is_published = code == _PRECONDITION_FAILED and getattr(exc, "method_sig", None) == _PUBLISH
    if is_published or code in _ABOUT_THE_MESSAGE:
        return Objection.EVENT
    return Objection.QUEUE if isinstance(exc, (ChannelError, BatchRefused)) else None


def _bounds_of_redis(seconds: float) -> Options:
    return {"socket_timeout": seconds, "socket_connect_timeout": seconds}


def _worker_on_redis(seconds: float) -> Options:
    # A silent connection costs one event of the worker's, one look of Kombu's at what is overdue, and one attempt to
    # connect, one after the other.
    part = seconds / PARTS
    return {**_bounds_of_redis(part), "health_check_interval": part}


def _options_of_redis(confirm: bool, visibility_timeout: int) -> Options:
    return {
        "visibility_timeout": visibility_timeout,
        # Kombu's defaults look for what dead workers held only every 100 seconds.
        "unacked_restore_interval": min(max(visibility_timeout / 10, 0.5), 10),
        "unacked_restore_throttle": 1,
    }


_EMBEDDED = "pipeline.brokers.embedded.transport:Transport"
_AMQP, _AMQPS = "pipeline.brokers.amqp.transport:Transport", "pipeline.brokers.amqp.transport:SSLTransport"
_REDIS = "pipeline.brokers.redis:Transport"

KINDS = (
    Kind(driver="sqlite", transports={"sqlite": _EMBEDDED}, is_embedded=True),
    Kind(
        driver="amqp",
        transports={"amqp": _AMQP, "amqps": _AMQPS, "pyamqp": _AMQP},
        has_windows_for_all=True,
        bounds=_bounds_of_amqp,
        objection=_objection_of_amqp,
        # The loop must not wait for the confirm of a worker's event.
        of_worker=lambda seconds: {"confirm_publish": False},
        options=lambda confirm, visibility_timeout: {"confirm_publish": confirm},
    ),
    Kind(
        driver="redis",
        transports={"redis": _REDIS, "rediss": _REDIS},
        lowest_first=True,
        has_exclusive_queues=False,
        gives_unseen=True,
        package="redis",
        bounds=_bounds_of_redis,
        of_worker=_worker_on_redis,
        options=_options_of_redis,
        has_queue=_is_bound,
    ),
)
#: What helps those whose Redis has Sentinels.
SENTINEL = " with the address of a proxy that follows the Sentinels' master, such as HAProxy"
SCHEMES = tuple(scheme for kind in KINDS for scheme in kind.transports)
_BY_SCHEME = {scheme: kind for kind in KINDS for scheme in kind.transports}
_BY_TRANSPORT = {path: kind for kind in KINDS for path in kind.transports.values()}
_BY_DRIVER = {kind.driver: kind for kind in KINDS}


def kind_of_url(url: str) -> Kind | None:
    """Return the kind that an address belongs to; None for another program's."""
    return _BY_SCHEME.get(url.partition("://")[0].partition("+")[0])


def kind_of(transport: Any) -> Kind:
    """Return the kind of a connection's transport; raise ConfigError for one that events cannot be published through.

    Another transport of a broker that we know will not do: ours give each agent a copy of its own.
    """
    for each in type(transport).__mro__:
        if kind := _BY_TRANSPORT.get(f"{each.__module__}:{each.__qualname__}"):
            return kind
    raise ConfigError(
        f"the bus does not work through {type(transport).__module__}.{type(transport).__qualname__}; use sqlite://, "
        f"amqp:// or redis://{SENTINEL if 'entinel' in type(transport).__qualname__ else ''}"
    )


def has_exclusive_queues(driver: str) -> bool:
    """Say whether a worker's name is taken as long as its mailbox is locked; also for brokers of other programs."""
    return driver not in _BY_DRIVER or _BY_DRIVER[driver].has_exclusive_queues


def register() -> None:
    """Make Kombu use this package's transports; calling it again changes nothing."""
    # Kombu keeps one table of transports per process; ours are drop-in subclasses of what it names there.
    for kind in KINDS:
        for scheme, path in kind.transports.items():
            if kombu_transports.TRANSPORT_ALIASES.get(scheme) != path:
                kombu_transports.TRANSPORT_ALIASES[scheme] = path
                kombu_transports._transport_cache.pop(scheme, None)
