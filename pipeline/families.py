"""Payloads of events that many systems of agents exchange, ready to use: tasks, agents, memory, oversight, tools."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from .core.announcements import DeliveryDead as DeliveryDead
from .core.announcements import DeliveryDropped as DeliveryDropped
from .core.announcements import DeliveryErased as DeliveryErased
from .core.announcements import DeliveryRequeued as DeliveryRequeued
from .core.event import Payload

Json = Any


class TaskCreated(Payload, type="task.created"):
    """A task exists and waits for somebody to do it."""

    task_id: str
    kind: str
    input: Json = None


class TaskAssigned(Payload, type="task.assigned"):
    """A task was given to an agent."""

    task_id: str
    agent_id: str


class TaskAcknowledged(Payload, type="task.acknowledged"):
    """An agent has accepted a task."""

    task_id: str
    agent_id: str


class Metrics(Payload):
    """What a task took."""

    duration_ms: float
    tokens_used: int | None = None


class TaskResult(Payload):
    """What a task came to."""

    status: Literal["success", "partial"]
    output: Json = None
    metrics: Metrics | None = None


class TaskCompleted(Payload, type="task.completed", version="2.0.0"):
    """A task is done."""

    task_id: str
    result: TaskResult


class TaskFailed(Payload, type="task.failed"):
    """A task could not be done."""

    task_id: str
    error: str


class AgentStarted(Payload, type="agent.started"):
    """An agent's process has started."""

    agent_id: str


class AgentPaused(Payload, type="agent.paused"):
    """An agent takes no events for now."""

    agent_id: str
    reason: str | None = None


class AgentOnline(Payload, type="agent.online"):
    """An agent is there and says what it can do; capacity in deliveries at once."""

    agent_id: str
    capabilities: tuple[str, ...] = ()
    capacity: int | None = None
    specializations: tuple[str, ...] = ()


class AgentOffline(Payload, type="agent.offline"):
    """An agent has left."""

    agent_id: str


class AgentHeartbeat(Payload, type="agent.heartbeat"):
    """An agent is alive; load from 0 to 1, memory in bytes."""

    agent_id: str
    status: str
    load: float
    memory_usage: int


class AgentSuspectedFailure(Payload, type="agent.suspected_failure"):
    """An agent has been silent for too long."""

    agent_id: str
    last_seen: datetime


class AgentBackpressure(Payload, type="agent.backpressure"):
    """An agent cannot keep up; sizes in events."""

    agent_id: str
    queue_size: int
    dropped: int = 0


class MemoryUpdated(Payload, type="memory.updated"):
    """An agent remembers something new."""

    agent_id: str
    key: str
    value: Json = None


class DocumentProcessed(Payload, type="document.processed"):
    """A document was read."""

    document_id: str
    chunks: int


class EmbeddingGenerated(Payload, type="embedding.generated"):
    """An embedding of something was computed."""

    subject_id: str
    model: str
    dimensions: int


class ActionProposed(Payload, type="action.proposed"):
    """An agent wants to do something that a human may have to approve."""

    action_id: str
    agent_id: str
    action: str
    params: dict[str, Json] = {}


class ActionApproved(Payload, type="action.approved"):
    """A proposed action may be done."""

    action_id: str
    by: str


class ActionVetoed(Payload, type="action.vetoed"):
    """A proposed action must not be done."""

    action_id: str
    by: str
    reason: str | None = None


class ScoreUpdated(Payload, type="score.updated"):
    """A score has changed."""

    subject_id: str
    score: float


class ViolationDetected(Payload, type="violation.detected"):
    """A rule was broken."""

    rule: str
    subject_id: str
    detail: str | None = None


class ToolInvoked(Payload, type="tool.invoked"):
    """An agent has called a tool."""

    agent_id: str
    tool: str
    params: dict[str, Json] = {}


class SystemShutdown(Payload, type="system.shutdown"):
    """Everything is asked to stop."""

    reason: str | None = None
