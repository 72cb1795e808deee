"""Agents that are given tasks by events: a class to derive from, and what the bus runs for it."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from ..agents.context import Context
from ..core.announcements import DeliveryDead
from ..core.errors import InvalidAgent
from ..core.event import Payload
from ..core.times import monotonic
from ..families import Metrics, SystemShutdown, TaskAcknowledged, TaskAssigned, TaskCompleted, TaskFailed, TaskResult

if TYPE_CHECKING:
    from ..bus import Bus

#: Seconds of the pause in which the acknowledgement goes out, before the work begins.
AT_ONCE = 0.001


class EventDrivenAgent:
    """An agent that is given tasks and asked questions by events; derive from it, and hand it to `app.add_agent()`.

    The methods may be async, all of them or none.
    """

    def __init__(self, agent_id: str) -> None:
        """Take its id: the agent's name."""
        self.agent_id = agent_id

    def perform(self, task: TaskAssigned, ctx: Context) -> Any:
        """Do a task, and return what it came to: any JSON, or a TaskResult. What is raised is tried again."""
        raise NotImplementedError

    def answer(self, query: Any, ctx: Context) -> Any:
        """Answer a question with any JSON."""
        raise LookupError(f"agent {self.agent_id!r} answers no questions")

    def shut_down(self, reason: str | None, ctx: Context) -> Any:
        """Prepare for the end: everything is asked to stop."""


def patterns_of(agent: EventDrivenAgent) -> tuple[str, str, str]:
    """Return the types of the events that assign it tasks, ask it, and let it prepare for the end."""
    assert SystemShutdown.event_type is not None
    return f"task.assigned.{agent.agent_id}", f"agent.{agent.agent_id}.query", SystemShutdown.event_type


def handler_of(agent: EventDrivenAgent) -> Any:
    """Return the handler of an agent; raise InvalidAgent when it is none, or cannot do anything."""
    if not isinstance(agent, EventDrivenAgent):
        raise InvalidAgent(f"add_agent() takes an EventDrivenAgent, not {agent!r:.60}")
    if type(agent).perform is EventDrivenAgent.perform:
        raise InvalidAgent(f"{type(agent).__name__} has no perform(self, task, ctx): that does its tasks")
    methods = (type(agent).perform, type(agent).answer, type(agent).shut_down)
    own = [one for one in methods if one.__qualname__.partition(".")[0] != EventDrivenAgent.__name__]
    kinds = {inspect.iscoroutinefunction(one) for one in own}
    if len(kinds) > 1:
        raise InvalidAgent(
            f"{type(agent).__name__}: perform(), answer() and shut_down() are async, all or none of them"
        )
    if not kinds.pop():

        def handle(data: dict[str, Any], ctx: Context) -> Any:
            value, answered = begin(agent, data, ctx)
            return answered(value)

        return handle

    async def handle_async(data: dict[str, Any], ctx: Context) -> Any:
        value, answered = begin(agent, data, ctx)
        return answered(await value if inspect.isawaitable(value) else value)

    return handle_async


def begin(agent: EventDrivenAgent, data: Any, ctx: Context) -> tuple[Any, Callable[[Any], Any]]:
    """Call what an event is for; return what that returns, and what makes the handler's answer of it."""
    assigned, asked, _ = patterns_of(agent)
    if ctx.event.type == assigned:
        task = TaskAssigned.model_validate({"agent_id": agent.agent_id, **data})
        ctx.publish(TaskAcknowledged(task_id=task.task_id, agent_id=agent.agent_id))
        ctx.sleep(AT_ONCE)  # what was emitted before goes out then, once
        return agent.perform(task, ctx), partial(_completed, task.task_id, monotonic())
    if ctx.event.type == asked:
        return agent.answer(data, ctx), _same
    return agent.shut_down(data.get("reason"), ctx), _nothing


def _completed(task_id: str, started: float, value: Any) -> TaskCompleted:
    metrics = Metrics(duration_ms=(monotonic() - started) * 1000)
    output = value.model_dump(mode="json") if isinstance(value, Payload) else value
    result = value if isinstance(value, TaskResult) else TaskResult(status="success", output=output, metrics=metrics)
    return TaskCompleted(task_id=task_id, result=result)


def _same(value: Any) -> Any:
    return value


def _nothing(value: Any) -> None:
    """Leave out what was returned: nobody has asked."""


def failures_of(bus: Bus) -> Any:
    """Return the handler that tells of tasks whose deliveries are dead, whatever they have died of."""

    def handle(dead: DeliveryDead) -> TaskFailed | None:
        event = bus.ledger.waiting.arrivals.event(dead.event_id)
        data = event.data if event is not None else None
        task_id = data.get("task_id") if isinstance(data, dict) else None
        return TaskFailed(task_id=task_id, error=dead.error) if isinstance(task_id, str) else None

    return handle
