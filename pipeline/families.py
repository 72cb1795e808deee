"""Payloads of events that many systems of agents exchange, ready to use: tasks, agents, oversight, coordination.

docs/families.md has all of them in one table.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import AwareDatetime

from .core.announcements import ActionApproved as ActionApproved
from .core.announcements import ActionEscalated as ActionEscalated
from .core.announcements import ActionProposed as ActionProposed
from .core.announcements import ActionVetoed as ActionVetoed
from .core.announcements import BudgetExceeded as BudgetExceeded
from .core.announcements import DeliveryDead as DeliveryDead
from .core.announcements import DeliveryDropped as DeliveryDropped
from .core.announcements import DeliveryErased as DeliveryErased
from .core.announcements import DeliveryRequeued as DeliveryRequeued
from .core.announcements import TreeCancelled as TreeCancelled
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
    input: Json = None


class TaskReceived(Payload, type="task.received"):
    """A task has come to the agent that is to do it."""

    task_id: str
    agent_id: str
    input: Json = None


class TaskAcknowledged(Payload, type="task.acknowledged"):
    """An agent has accepted a task."""

    task_id: str
    agent_id: str


class Metrics(Payload):
    """What a task took: milliseconds, and tokens of a language model."""

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


class AgentInitialized(Payload, type="agent.initialized"):
    """An agent was set up, with the model that it asks and what it can do."""

    agent_id: str
    model: str | None = None
    capabilities: tuple[str, ...] = ()


class AgentStarted(Payload, type="agent.started"):
    """An agent's process has started."""

    agent_id: str


class AgentPaused(Payload, type="agent.paused"):
    """An agent takes no events for now."""

    agent_id: str
    reason: str | None = None


class AgentOnline(Payload, type="agent.online"):
    """An agent is there, on a worker, and says what it can do; capacity in deliveries at once."""

    agent_id: str
    worker: str | None = None
    capabilities: tuple[str, ...] = ()
    capacity: int | None = None
    specializations: tuple[str, ...] = ()


class AgentOffline(Payload, type="agent.offline"):
    """An agent has left, or a worker of it: it takes nothing new, and ends what it has begun."""

    agent_id: str
    worker: str | None = None


class AgentHeartbeat(Payload, type="agent.heartbeat"):
    """An agent is alive, on a worker; load from 0 to 1, memory in bytes."""

    agent_id: str
    worker: str | None = None
    status: str
    load: float
    memory_usage: int


class AgentSuspectedFailure(Payload, type="agent.suspected_failure"):
    """An agent has been silent for too long: none of its workers was heard of, and none has said that it leaves."""

    agent_id: str
    last_seen: AwareDatetime


class AgentRecovered(Payload, type="agent.recovered"):
    """An agent whose failure was suspected is there again; last_seen is what that had said."""

    agent_id: str
    last_seen: AwareDatetime


class AgentBackpressure(Payload, type="agent.backpressure"):
    """An agent cannot keep up; sizes in events."""

    agent_id: str
    queue_size: int
    dropped: int = 0


class AgentResponse(Payload, type="agent.response"):
    """What an agent answers to an event: how it went, the result, when, and after how many milliseconds."""

    response_id: str
    original_event_id: str
    agent_id: str
    status: Literal["success", "failure", "partial"]
    result: Json = None
    time: AwareDatetime
    processing_time_ms: float


class AgentError(Payload, type="agent.error"):
    """An agent could not handle an event, or has failed on its own."""

    agent_id: str
    error: str
    original_event_id: str | None = None


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


class CollaborationRequest(Payload, type="collaboration.request"):
    """Several agents are asked to work on something together; the pattern says how."""

    collaboration_id: str
    pattern: str
    participants: tuple[str, ...]
    payload: Json = None


class CollaborationComplete(Payload, type="collaboration.complete"):
    """A collaboration has ended: results and errors by participant, and when it began and ended."""

    collaboration_id: str
    pattern: str
    participants: tuple[str, ...]
    status: Literal["completed", "failed", "compensated"]
    start: AwareDatetime
    end: AwareDatetime
    results: dict[str, Json] = {}
    errors: dict[str, str] = {}


class ChoreographyStart(Payload, type="choreography.start"):
    """Agents begin to work on something, each on its own, by reacting to what the others emit."""

    collaboration_id: str
    participants: tuple[str, ...]
    payload: Json = None


class SagaStep(Payload, type="saga.step"):
    """A step of a saga is to be done; results are those of the steps before it, by step."""

    saga_id: str
    step: str
    input: Json = None
    results: dict[str, Json] = {}


class SagaCompensate(Payload, type="saga.compensate"):
    """A step of a saga that was completed is to be undone; the result is what it came to."""

    saga_id: str
    step: str
    result: Json = None
    reason: str | None = None
