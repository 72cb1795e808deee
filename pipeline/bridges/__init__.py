"""Bridges: agents that pass events on to what is no Celery worker, and the ways in which events come from there."""

from .systems.kafka import Kafka
from .systems.nats import Nats
from .systems.postgres import PostgresOutbox
from .systems.redis import RedisStream

__all__ = ["Kafka", "Nats", "PostgresOutbox", "RedisStream"]
