"""Event-driven agents on Celery: publish an event, and every agent that subscribed runs as a Celery task."""

from __future__ import annotations

from typing import Any

from .agents.agent import Agent
from .agents.context import Context
from .app.app import Pipeline
from .app.default import default_app
from .coordination.chords import emit
from .core.errors import (
    BrokerUnavailable,
    ConfigError,
    EventTooLarge,
    IdTaken,
    InvalidAgent,
    InvalidEvent,
    InvalidPattern,
    InvalidSelection,
    LedgerError,
    LedgerOff,
    LedgerRefused,
    LedgerUnavailable,
    PipelineError,
    SettleTimeout,
    UnknownAgent,
    UnknownEvent,
)
from .core.event import Event, Payload
from .core.retry import Retry

__version__ = "0.1.0"

__all__ = [
    "Agent",
    "BrokerUnavailable",
    "ConfigError",
    "Context",
    "Event",
    "EventTooLarge",
    "IdTaken",
    "InvalidAgent",
    "InvalidEvent",
    "InvalidPattern",
    "InvalidSelection",
    "LedgerError",
    "LedgerOff",
    "LedgerRefused",
    "LedgerUnavailable",
    "Payload",
    "Pipeline",
    "PipelineError",
    "Retry",
    "SettleTimeout",
    "UnknownAgent",
    "UnknownEvent",
    "__version__",
    "default_app",
    "emit",
]


def __getattr__(name: str) -> Any:
    """Find the default app under the name that `celery -A pipeline` looks for."""
    if name == "celery":
        return default_app().celery
    raise AttributeError(f"module 'pipeline' has no attribute {name!r}")
