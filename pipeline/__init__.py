"""Event-driven agents on Celery: publish an event, and every agent that subscribed runs as a Celery task."""

from __future__ import annotations

from typing import Any

from .agent import Agent, Context
from .app import Pipeline, default_app
from .emit import emit
from .errors import (
    BrokerUnavailable,
    ConfigError,
    EventTooLarge,
    InvalidAgent,
    InvalidEvent,
    InvalidPattern,
    PipelineError,
)
from .event import Event, Payload
from .retry import Retry

__version__ = "0.1.0"

__all__ = [
    "Agent",
    "BrokerUnavailable",
    "ConfigError",
    "Context",
    "Event",
    "EventTooLarge",
    "InvalidAgent",
    "InvalidEvent",
    "InvalidPattern",
    "Payload",
    "Pipeline",
    "PipelineError",
    "Retry",
    "__version__",
    "default_app",
    "emit",
]


def __getattr__(name: str) -> Any:
    """Find the default app under the name that `celery -A pipeline` looks for."""
    if name == "celery":
        return default_app().celery
    raise AttributeError(f"module 'pipeline' has no attribute {name!r}")
