"""A saga of five steps whose effects are rows, in processes that kill themselves on the way, once for each order.

An order's data names the step that fails, and the point at which somebody dies, and at which step.
"""

from __future__ import annotations

import os
import signal
from typing import Any

from contract_app import is_open, once  # type: ignore[import-not-found]
from sqlalchemy import text

from pipeline import Agent, Context, Pipeline, Retry, step
from pipeline.coordination.flows.flows import Flows
from pipeline.core.event import Encoded
from pipeline.delivery import inbox
from pipeline.ledger.database import leases
from pipeline.publishing import outbox
from pipeline.workers.chores import Chores

# What a dead process has left in the outbox is sent again after seconds: the test is quicker, and sees more copies.
outbox.GRACE = inbox.GRACE = 1.0
leases.LEASE = 2.0

app = Pipeline("sagas")
AGAIN = Retry(max=50, base=0.01)


def works(ctx: Context) -> None:
    """Write a row, in the transaction that records the step."""
    assert ctx.flow is not None
    order = ctx.flow.original
    if order["fails"] == ctx.agent and not is_open(f"mended-{order['key']}"):
        raise ValueError(f"{ctx.agent} was told to fail")
    ctx.session.execute(
        text("INSERT INTO effects (name, agent) VALUES (:name, :agent)"), {"name": order["key"], "agent": ctx.agent}
    )
    die("inside", ctx.agent, order)


def does(name: str) -> Agent[Any, Any]:
    def handler(data: Any, ctx: Context) -> dict[str, str]:
        works(ctx)
        return {"by": ctx.agent}

    return app.agent(name=name, retry=Retry(max=50, base=0.01, give_up_on=(ValueError,)))(handler)


def undoes(name: str) -> Agent[Any, Any]:
    def handler(result: dict[str, str], ctx: Context) -> None:
        assert result == {"by": ctx.agent.removeprefix("un-")}
        works(ctx)

    return app.agent(name=name, retry=AGAIN)(handler)


NAMES = [f"step-{n}" for n in range(5)]
app.saga("order", on="order.placed", steps=[step(does(name), undo=undoes(f"un-{name}")) for name in NAMES])


def die(point: str, agent: str, order: Any) -> None:
    """End this process as `kill -9` does, the first time that the order passes its point."""
    if isinstance(order, dict) and order.get("point") == [point, agent] and once(f"{point}-{order['key']}"):
        os.kill(os.getpid(), signal.SIGKILL)


_move, _ending, _send = Flows._move, Flows.ending, Chores._send


def move(self: Flows, connection: Any, row: Any, *args: Any, **options: Any) -> list[Encoded]:
    follows = _move(self, connection, row, *args, **options)
    cause = self._flows.cause(connection, row.id)
    for one in self._flows.steps(connection, row.id):
        if one.outcome != "queued":
            die("moving", one.agent, cause and cause.data)  # all is written but for the commit
    return follows


def ending(self: Flows, run: Any, delivery: Any, *args: Any) -> bool:
    recorded = _ending(self, run, delivery, *args)
    die("moved", delivery.agent, self._ledger.waiting.flows.view(delivery.flow).original)
    return recorded


def send(self: Chores, messages: Any, what: str) -> Any:
    return _send(self, [each for message in messages for each in (message, message)], what)


Flows._move, Flows.ending, Chores._send = move, ending, send  # type: ignore[method-assign]
