"""Joins: several agents work on one event, and one event follows when all of them are done."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from celery import chord, group

from ..agents.agent import Agent
from ..agents.context import Context
from ..brokers.topology import EMIT_FAILED_TASK, EMIT_TASK
from ..core.errors import InvalidAgent
from ..core.event import Event, Payload
from ..core.ids import caused_id, delivery_id, derived_id
from ..core.topics import check_type
from ..ledger.database.rows import join_started

if TYPE_CHECKING:
    from celery import Celery


def starter(
    celery: Celery, name: str, agents: Iterable[Agent], emits: str | type[Payload], fails: str | None
) -> Callable[[Event, Context], None]:
    """Return the handler of the agent that starts a join: it sends the members as a chord.

    Arguments:
        emits: the type of the event that follows, with data `{"original": ..., "results": {agent: result}}`.
        fails: the type of the event that follows when a member is dead; default `emits` with its last word `failed`.

    Raises InvalidAgent or InvalidEvent when the declaration is wrong.

    """
    members = _members(name, agents)
    done = check_type(emits if isinstance(emits, str) else emits.event_type)
    failed = check_type(fails or failed_type(done))
    names = [agent.name for agent in members]

    def start(event: Event, ctx: Context) -> None:
        cause = {**event.__json__(), "correlationid": event.correlation_id}
        tasks = celery.tasks
        body = tasks[EMIT_TASK].s(event_type=done, cause=cause, names=names, join=ctx.delivery_id, of=event.key)
        body.link_error(tasks[EMIT_FAILED_TASK].s(event_type=failed, cause=cause, join=ctx.delivery_id, of=event.key))
        # For those who wait until everything has settled.
        ctx.write(join_started(ctx.delivery_id, name, event.key, event.correlation_id))
        # All ids follow from the event's: a join that is started twice is still one join.
        header = group(
            [agent.s(event).set(task_id=delivery_id(event.key, agent.name)) for agent in members],
            app=celery,
            task_id=derived_id(ctx.delivery_id, "members"),
        )
        chord(header, body, app=celery).apply_async(task_id=caused_id(ctx.delivery_id, 0))

    return start


def failed_type(emits: str) -> str:
    """Return the type of the event that follows when a member is dead, where nobody says another."""
    return ".".join([*emits.split(".")[:-1], "failed"])


def _members(name: str, agents: Iterable[Agent]) -> list[Agent]:
    members = list(agents)
    for agent in members:
        if not isinstance(agent, Agent):
            raise InvalidAgent(f"join {name!r}: {agent!r} is not an agent; decorate it with @app.agent() first")
    if len({agent.name for agent in members}) != len(members):
        raise InvalidAgent(f"join {name!r}: an agent is named twice")
    if len(members) < 2:
        raise InvalidAgent(
            f"join {name!r} has {len(members)} agent(s); one agent needs no join, subscribe it with on=..."
        )
    return members
