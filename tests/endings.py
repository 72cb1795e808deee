"""A delivery as a worker has it: taken, traced by Celery, and at its end acked, set aside or given back."""

from __future__ import annotations

from functools import partial
from typing import Any

from celery.app.trace import trace_task_ret
from celery.concurrency.solo import TaskPool
from celery.worker.request import create_request_cls
from kombu.message import Message
from kombu.utils.imports import symbol_by_name

from pipeline import Event, Pipeline
from pipeline.core.event import CONTENT_TYPE
from pipeline.delivery.consumer import to_task_message
from pipeline.delivery.poison import check_event
from pipeline.delivery.process.guarded import guard
from pipeline.delivery.process.returns import Returns
from pipeline.publishing.link import wire_headers

ACKED, ASIDE, BACK = "acked", "set aside", "back in its queue"


def take(
    app: Pipeline, event: Event, agent: str, *, logged: bool = True, redelivered: bool = False, in_canvas: bool = False
) -> list[str]:
    """Let this process run one delivery of an event as a worker with the solo pool does; return its ends."""
    app.celery.finalize()
    task = app.celery.tasks[f"agent.{agent}"]
    ends: list[str] = []
    queue = app.bus.names.queue_of(agent)
    seal = app.ledger.seal if logged else None
    encoded = event.encoded(10**9, {"ledger": seal.ledger} if seal else None, seal)
    message = Message(
        encoded.body, headers=wire_headers(encoded), content_type=CONTENT_TYPE, content_encoding="utf-8", properties={},
        delivery_info={"routing_key": queue, "redelivered": redelivered},
    )  # fmt: skip
    assert to_task_message(message, check_event(message, 10**9, app.ledger.seal), app.bus.agents[agent], queue)
    if in_canvas:
        message.headers["ignore_result"] = False
    guard(task)
    kind = create_request_cls(
        symbol_by_name(task.Request), task, TaskPool(), "w1@test", None, trace=partial(trace_task_ret, app=app.celery)
    )
    request = kind(
        message, app=app.celery, task=task, hostname="w1@test",
        on_ack=lambda *_: ends.append(ACKED),
        on_reject=lambda log, errors, requeue: ends.append(BACK if requeue else ASIDE),
    )  # fmt: skip
    request.returns = Returns(lambda seconds, give_back: give_back())
    try:
        request.execute_using_pool(TaskPool())
    except BaseException as exc:  # such an error would have left the message in the worker's hands
        ends.append(f"{type(exc).__name__} in the worker")
    return ends


def take_to_its_end(app: Pipeline, event: Event, agent: str, **how: Any) -> list[str]:
    """Take a delivery until it is not given back any more; return the last time's ends."""
    for _ in range(10):
        ends = take(app, event, agent, redelivered=True, **how)
        if ends != [BACK]:
            return ends
    raise AssertionError(f"{event.id} is given back again and again")
