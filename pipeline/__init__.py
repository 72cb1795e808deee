"""Event-driven agents on Celery: publish an event, and every agent that subscribed runs as a Celery task."""

from __future__ import annotations

from typing import Any

from .agents.agent import Agent
from .agents.context import Context
from .app.app import Pipeline
from .app.default import default_app
from .app.driven import EventDrivenAgent
from .contracts.blobs.blob import Blob
from .contracts.capability import capability
from .coordination.chords import emit
from .coordination.flows.saga import step
from .core.errors import (
    AlreadyDecided,
    BlobAltered,
    BlobMissing,
    BlobTooLarge,
    BlobUnavailable,
    BrokerUnavailable,
    ConfigError,
    EventTooLarge,
    IdTaken,
    InvalidAgent,
    InvalidBudget,
    InvalidCollaboration,
    InvalidEvent,
    InvalidFilter,
    InvalidPattern,
    InvalidSelection,
    InvalidStep,
    LedgerError,
    LedgerOff,
    LedgerRefused,
    LedgerUnavailable,
    NoResponder,
    NotAllowed,
    OverBudget,
    Overloaded,
    PipelineError,
    RateLimited,
    RequestFailed,
    RequestTimeout,
    SettleTimeout,
    TooManyHops,
    TreeWasCancelled,
    UnknownAgent,
    UnknownBudget,
    UnknownEvent,
    UnknownFlow,
    Vetoed,
    WaitsForItself,
    WaitTimeout,
)
from .core.event import Event, Payload
from .core.limits.batch import Batch
from .core.limits.limit import Limit
from .core.limits.single import Debounce, Singleton
from .core.retry import Breaker, Retry
from .ledger.waiting.approval import Approval

__version__ = "0.2.0"

__all__ = [
    "Agent",
    "AlreadyDecided",
    "Approval",
    "Batch",
    "Blob",
    "BlobAltered",
    "BlobMissing",
    "BlobTooLarge",
    "BlobUnavailable",
    "Breaker",
    "BrokerUnavailable",
    "ConfigError",
    "Context",
    "Debounce",
    "Event",
    "EventDrivenAgent",
    "EventTooLarge",
    "IdTaken",
    "InvalidAgent",
    "InvalidBudget",
    "InvalidCollaboration",
    "InvalidEvent",
    "InvalidFilter",
    "InvalidPattern",
    "InvalidSelection",
    "InvalidStep",
    "LedgerError",
    "LedgerOff",
    "LedgerRefused",
    "LedgerUnavailable",
    "Limit",
    "NoResponder",
    "NotAllowed",
    "OverBudget",
    "Overloaded",
    "Payload",
    "Pipeline",
    "PipelineError",
    "RateLimited",
    "RequestFailed",
    "RequestTimeout",
    "Retry",
    "SettleTimeout",
    "Singleton",
    "TooManyHops",
    "TreeWasCancelled",
    "UnknownAgent",
    "UnknownBudget",
    "UnknownEvent",
    "UnknownFlow",
    "Vetoed",
    "WaitTimeout",
    "WaitsForItself",
    "__version__",
    "capability",
    "default_app",
    "emit",
    "step",
]


def __getattr__(name: str) -> Any:
    """Find the default app under the name that `celery -A pipeline` looks for."""
    if name == "celery":
        return default_app().celery
    raise AttributeError(f"module 'pipeline' has no attribute {name!r}")
