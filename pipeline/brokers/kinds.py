"""The brokers: Kombu's transports, hardened, and what differs between them."""

from __future__ import annotations

from kombu import transport as kombu_transports

#: Kombu keeps one table of transports per process; ours are drop-in subclasses of what it names there.
_TRANSPORTS = {
    "sqlite": "pipeline.brokers.embedded.transport:Transport",
    "amqp": "pipeline.brokers.amqp:Transport",
    "amqps": "pipeline.brokers.amqp:SSLTransport",
    "pyamqp": "pipeline.brokers.amqp:Transport",
    "redis": "pipeline.brokers.redis:Transport",
    "rediss": "pipeline.brokers.redis:Transport",
}


def register() -> None:
    """Make Kombu use this package's transports; calling it again changes nothing."""
    for name, path in _TRANSPORTS.items():
        if kombu_transports.TRANSPORT_ALIASES.get(name) != path:
            kombu_transports.TRANSPORT_ALIASES[name] = path
            kombu_transports._transport_cache.pop(name, None)


def wire_priority(priority: int, driver_type: str) -> int:
    """Return the broker's number for an event's priority (1 is most urgent).

    RabbitMQ and the embedded broker serve the higher number first, Redis the lower one.
    """
    return priority - 1 if driver_type == "redis" else 10 - priority
