"""A crew: one plans, several search side by side, one writes, a person approves, and an e-mail goes out.

topic.given    --> planner   --> plan.made, and question.asked for each of its questions
question.asked --> searcher  --> finding.made     (as many at once as there are questions)
plan.made      --> writer    --> report.written   (waits for all findings)
report.written --> sender    --> report.sent      (waits for somebody's approval), or report.dropped

`ask()` (model.py) runs an agent durably: each request to its model, and each call of a tool, has its place in the
ledger, so that it is made once. Nothing else here is special: a handler that fails, is killed, or waits begins at its
top again.
"""

from __future__ import annotations

import os
from pathlib import Path

from pydantic import BaseModel, Field
from pydantic_ai import Agent

from pipeline import Context, Payload, Pipeline, Retry, Vetoed

from ..briefing import corpus, mail
from ..briefing.search import Index
from .model import SCOPE, ask

app = Pipeline("crew")

# -- what happens


class TopicGiven(Payload, type="topic.given"):
    """Somebody wants a report."""

    topic: str = Field(min_length=1, max_length=500)
    to: str


class PlanMade(Payload, type="plan.made"):
    """The questions that the report has to answer."""

    topic: str
    to: str
    questions: list[str]


class QuestionAsked(Payload, type="question.asked"):
    """Somebody has to find out."""

    text: str


class FindingMade(Payload, type="finding.made"):
    """The answer to one question."""

    question: str
    answer: str


class ReportWritten(Payload, type="report.written"):
    """A report that nobody has approved yet."""

    to: str
    subject: str
    text: str


class ReportSent(Payload, type="report.sent"):
    """The mail server has taken the report."""

    to: str
    approved_by: str


class ReportDropped(Payload, type="report.dropped"):
    """Somebody did not want it sent, or nobody said anything in time."""

    reason: str


# -- the models' side: pydantic-ai agents, as you would write them anywhere


class Plan(BaseModel):
    """What the planner answers."""

    questions: list[str] = Field(min_length=1, max_length=5)


class Finding(BaseModel):
    """What the searcher answers."""

    answer: str


class Report(BaseModel):
    """What the writer answers."""

    subject: str
    text: str


plans = Agent(
    name="plans", output_type=Plan, instructions="Split the topic into at most five short questions, one for each part."
)
finds = Agent(name="finds", output_type=Finding, instructions="Look the question up, and answer it in two sentences.")
writes = Agent(
    name="writes", output_type=Report, instructions="Write a short report from these findings, and a subject for it."
)


@finds.tool_plain
def look_up(query: str) -> str:
    """Search the language reference of Python."""
    index = Index(Path(os.environ.get("CREW_STATE", "crew")), "reference", corpus.reference)
    return "\n".join(hit.summary for hit in index.search(query)) or "Nothing is known about this."


# -- the bus's side: who reacts to what


@app.agent(on=TopicGiven, scope=SCOPE)
async def planner(given: TopicGiven, ctx: Context) -> PlanMade:
    """Plan: one question for each part of the topic."""
    plan = await ask(plans, given.topic, ctx)
    for question in plan.questions:
        ctx.publish(QuestionAsked(text=question))
    return PlanMade(topic=given.topic, to=given.to, questions=plan.questions)


@app.agent(on=QuestionAsked, scope=SCOPE)
async def searcher(question: QuestionAsked, ctx: Context) -> FindingMade:
    """Search: the model asks for the tool, then answers; these are two calls, and each is kept."""
    found = await ask(finds, question.text, ctx)
    return FindingMade(question=question.text, answer=found.answer)


@app.agent(on=PlanMade, scope=SCOPE)
async def writer(plan: PlanMade, ctx: Context) -> ReportWritten:
    """Write, when each question has its finding; what waits holds no worker."""
    events = [ctx.wait_for("finding.made", timeout="1h") for _ in plan.questions]
    findings = [FindingMade.model_validate(event.data) for event in events]
    about = "\n\n".join(f"{finding.question}\n{finding.answer}" for finding in findings)
    report = await ask(writes, f"{plan.topic}\n\n{about}", ctx)
    return ReportWritten(to=plan.to, subject=report.subject, text=report.text)


@app.agent(on=ReportWritten, retry=Retry(max=5, give_up_on=(mail.Refused,)))
def sender(report: ReportWritten, ctx: Context) -> ReportSent | ReportDropped:
    """Ask a person, then send what they have approved: they may have changed it."""
    try:
        answer = ctx.ask("send", report, message=f"Send {report.subject!r} to {report.to}?", expires="24h")
    except Vetoed as veto:
        return ReportDropped(reason=str(veto))
    approved = ReportWritten.model_validate(answer.payload)
    message = mail.compose(
        sender="crew@example.org",
        to=approved.to,
        subject=approved.subject,
        greeting="Your crew reports:",
        sections=[mail.Section(approved.subject, approved.text)],
        id=ctx.delivery_id,  # sent again after a crash, it is the same message
        date=ctx.event.time,
    )
    mail.send(os.environ.get("CREW_SMTP_URL", "smtp://localhost"), message)
    return ReportSent(to=approved.to, approved_by=answer.by)
