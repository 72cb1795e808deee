"""Agents that ask before they act."""

from __future__ import annotations

from typing import Any

from contract_app import append, once  # type: ignore[import-not-found]
from pydantic import BaseModel, Field

from pipeline import Context, Pipeline, Retry, Vetoed
from pipeline.families import ActionApproved, ActionEscalated, ActionProposed, ActionVetoed

app = Pipeline("approvals")


class Refund(BaseModel):
    order: str
    amount: float = Field(gt=0, le=100)


def note(what: str, ctx: Context, **more: Any) -> None:
    append({"agent": what, "id": ctx.event.id, "attempt": ctx.attempt, **more})


def pay(ctx: Context, refund: Refund) -> str:
    note("paid", ctx, amount=refund.amount)
    return "paid"


@app.agent(on="refund.wanted", retry=Retry(max=3, base=0.01))
def support(data: dict[str, Any], ctx: Context) -> None:
    note("begun", ctx)
    refund = Refund(order=data["order"], amount=data["amount"])
    try:
        answer = ctx.ask("refund", refund, message=f"Pay {refund.amount}?", expires=data.get("expires", "1h"))
    except Vetoed as exc:
        note("vetoed", ctx, said=str(exc))
        return
    ctx.step("pay", pay, ctx, answer.args)
    if data.get("fails") and once(f"failed-{ctx.event.id}"):
        raise RuntimeError("after it was paid")
    ctx.publish("refund.paid", {"order": answer.args.order, "by": answer.by})
    note("support", ctx, amount=answer.args.amount, by=answer.by, reason=answer.reason)


@app.agent(on="letter.wanted")
async def writer(data: dict[str, Any], ctx: Context) -> None:
    schema = {"type": "object", "properties": {"to": {"type": "string"}}, "required": ["to"]}
    answer = ctx.ask("send", {"to": data["to"]}, schema=schema, n_of=2, who=["ada", "bob"], veto="return")
    note("writer", ctx, status=answer.status, args=answer.args, by=answer.by)


@app.agent(on="purge.wanted")
def purger(data: dict[str, Any], ctx: Context) -> None:
    ctx.ask("purge")
    note("purger", ctx)


@app.agent(on="mistake.made", retry=Retry(max=0))
def mistaken(data: dict[str, Any], ctx: Context) -> None:
    ctx.ask(**data)


@app.agent(on=[ActionProposed, ActionApproved, ActionVetoed, ActionEscalated])
def audit(data: dict[str, Any], ctx: Context) -> None:
    note(ctx.event.type, ctx, action_id=data["action_id"])
