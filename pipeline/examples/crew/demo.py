"""The crew's demonstration: a provider refuses, a worker is killed, a person is asked, and the bill is looked at."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import Any

from pipeline import AlreadyDecided, Event, Pipeline

from ..briefing import post
from ..stage import Tell, stage, still_open
from ..workers import DemoFailed, Worker, running, start, until
from . import model, provider
from .agents import ReportDropped, ReportSent, TopicGiven
from .bill import Bill, bill, calls

MODULE = "pipeline.examples.crew.agents"
TOPIC = "decorators, context managers and generators"
#: What everything together may spend: tokens, and millionths.
BUDGET = {"tokens": 60_000, "cost": 1_000_000}


@dataclass(frozen=True)
class Decision:
    """What somebody says to what the crew wants to do."""

    is_yes: bool
    by: str
    reason: str | None = None


#: Asks somebody about a report: its address, subject and text.
Decide = Callable[[Mapping[str, Any]], Decision]


@dataclass(frozen=True)
class Report:
    """What the demonstration showed.

    Attributes:
        directory: where its state, its e-mails and its logs lie.
        config: the settings file with which commands find that state.
        correlation: the id of the whole work.
        killed: the process id of the worker that was killed; None with a real provider.
        paused: the scope that the provider's 429 has paused, and how many deliveries waited for it.
        approval: what was asked, what somebody has said, and who.
        mails: how often the mail server took each e-mail.

    """

    directory: Path
    config: Path
    seconds: float
    correlation: str
    killed: int | None
    paused: tuple[str, int] | None
    approval: Mapping[str, Any]
    sent: Mapping[str, Any] | None
    mails: Mapping[str, int]
    bill: Bill

    def as_data(self) -> dict[str, Any]:
        """Return the report as JSON data."""
        return {
            "directory": str(self.directory),
            "config": str(self.config),
            "seconds": round(self.seconds, 3),
            "correlation_id": self.correlation,
            "killed": self.killed,
            "paused": self.paused and {"scope": self.paused[0], "waiting": self.paused[1]},
            "approval": dict(self.approval),
            "sent": self.sent and dict(self.sent),
            "mails": dict(self.mails),
            "paid": self.bill.as_data(),
        }


def run(
    topic: str,
    decide: Decide,
    *,
    directory: Path | None = None,
    timeout: float = 120.0,
    tell: Tell = lambda text: None,
) -> Report:
    """Let the crew work, break things, and return what it has come to.

    Arguments:
        decide: asked whether the e-mail may go out; the time that it takes does not count.
        directory: where all state goes; default a new temporary directory, which is kept.
        timeout: seconds for everything else together.
        tell: called with what happens, when it happens.

    Raises DemoFailed with the end of a worker's log.

    """
    begun = monotonic()
    scene = stage("crew", directory)
    place, config, app = scene.place, scene.config, scene.app
    with ExitStack() as opened:
        office = opened.enter_context(post.open_at(place / "mail", is_calm=True))
        pretended = None if model.NAME else opened.enter_context(provider.serving())
        environment = _environment(place, config, office.url, pretended.url if pretended else "")
        workers = opened.enter_context(running(app, place, 1, environment, MODULE))
        play = _Play(app, place, environment, workers, begun + timeout, tell)
        play.begin(topic)
        paused = play.wait_for_the_pause() if pretended else None
        killed = play.kill_the_worker(pretended) if pretended else None
        approval = play.approve(decide)
        sent = play.end()
        paid = bill(app, play.topic.correlation_id, pretended)
    seconds = monotonic() - begun
    return Report(place, config, seconds, play.topic.correlation_id, killed, paused, approval, sent, office.taken, paid)


def _environment(place: Path, config: Path, mail: str, provider: str) -> dict[str, str]:
    """Return the workers' environment; without a provider's address the model is a real one."""
    return {
        "PIPELINE_CONFIG": str(config),
        "CREW_STATE": str(place / "crew"),
        "CREW_SMTP_URL": mail,
        "CREW_MODEL": model.NAME,
        "CREW_PROVIDER_URL": provider,
    }


@dataclass
class _Play:
    """What happens, one act after the other; each waits for what it shows, and tells it."""

    app: Pipeline
    place: Path
    environment: Mapping[str, str]
    workers: list[Worker]
    deadline: float
    tell: Tell
    topic: Event = field(init=False)

    def begin(self, topic: str) -> None:
        self.workers[0].wait_until_ready(self.deadline)
        self.tell(f"A worker runs, the process {self.workers[0].pid}; the model is {model.NAME or 'a pretended one'}.")
        user = os.environ.get("USER", "")
        given = TopicGiven(topic=topic, to=f"{user if user.isidentifier() else 'you'}@example.org")
        self.topic = self.app.publish(given, budget=BUDGET)
        self.tell(
            f'The topic "{topic}" is published, with a budget of {BUDGET["tokens"]:,} tokens.\nThe planner splits it '
            "into questions, and a searcher looks for each answer, side by side."
        )

    def wait_for_the_pause(self) -> tuple[str, int]:
        """Wait until the provider has refused a call, and the ledger says so; return the scope and what waits."""
        # The search that goes on first is held back by the provider: until then the ledger has not forgotten the pause.
        self._until(lambda: bool(self._paused()), "the provider's refusal")
        self._until(lambda: self._paused()[0].waiting == self._searches() or not self._paused()[0].is_on, "the pause")
        pause = self._paused()[0]
        seconds = (pause.until - pause.since).total_seconds()
        number = f"{pause.waiting} search{'es' * (pause.waiting != 1)} wait{'s' * (pause.waiting == 1)}"
        self.tell(
            f"429: the provider refuses a search: too many requests. `{pause.name}` is paused for {seconds:.1f} s, for "
            f"all agents\nthat call it; {number} in the ledger, without a worker, and no attempt is spent."
        )
        return pause.name, pause.waiting

    def kill_the_worker(self, pretended: provider.Provider) -> int:
        """Kill the worker while a search waits for its second answer, and start another one; return its process id."""
        # From here on the provider answers nobody: when all that it has answered is kept, a kill pays nothing twice.
        self._until(lambda: bool(pretended.held) and self._kept() == len(pretended.answered), "a search's second call")
        (victim,) = self.workers
        victim.kill()
        self._until(lambda: not pretended.held, "the end of its calls")
        pretended.release()
        self.tell(
            f"KILLED: the worker {victim.pid} (kill -9), in the middle of a search: its first call is paid for and "
            f"kept,\nits second one has no answer yet. {self._kept()} calls are kept so far."
        )
        start(self.workers, self.app, self.place, self.environment, MODULE).wait_until_ready(self.deadline)
        self.tell(
            f"BACK: a new worker, {self.workers[-1].pid}. The search begins at its top again; its first call returns "
            "what is kept,\nand only the second one is made."
        )
        return victim.pid

    def approve(self, decide: Decide) -> dict[str, Any]:
        """Wait until the crew asks, let somebody decide, and return what was said by whom."""
        self._until(lambda: bool(self._asked()), "the report")
        (proposal,) = self._asked()
        self.tell(
            "APPROVAL: the report is written, and the sender asks before it sends it; it waits, and holds no worker."
        )
        before = monotonic()
        decision = decide(proposal.args)
        self.deadline += monotonic() - before
        say = self.app.approvals.approve if decision.is_yes else self.app.approvals.veto
        try:
            decided = say(proposal.id, by=decision.by, reason=decision.reason)
        except AlreadyDecided:  # in another terminal
            decided = self.app.approvals.show(proposal.id)
        self.tell(f"{decided.status.upper()} by {decided.by}.")
        return {"id": decided.id, "action": decided.action, "status": decided.status, "by": decided.by}

    def end(self) -> dict[str, Any] | None:
        """Wait until nothing is open; return what the last event says when the report was sent."""
        self._until(lambda: self._open() is None, "the end")
        last = [one.event for one in self.app.get_events(correlation=self.topic.correlation_id)]
        sent = next((event.data for event in last if event.type == ReportSent.event_type), None)
        if sent is None and not any(event.type == ReportDropped.event_type for event in last):
            raise DemoFailed(f"an agent has given up; `pipeline dead list` says why.{self.workers[-1].tail()}")
        self.tell("DONE: the e-mail is sent." if sent else "DONE: nothing was sent.")
        return sent

    def _paused(self) -> list[Any]:
        return [pause for pause in self.app.pauses.list() if pause.name == model.SCOPE]

    def _searches(self) -> int:
        return sum(event.type == "question.asked" for event in self.app.trace(self.topic))

    def _kept(self) -> int:
        return len(calls(self.app, self.topic.correlation_id))

    def _asked(self) -> list[Any]:
        return self.app.approvals.list(correlation=self.topic.correlation_id)

    def _open(self) -> str | None:
        """Say what is still open."""
        return still_open(self.app, [self.topic])

    def _until(self, condition: Callable[[], bool], what: str) -> None:
        """Wait for something, as long as no agent gives up."""

        def has_come() -> bool:
            if letters := self.app.dead_letters.list():
                raise DemoFailed(f"{letters[0].agent} has given up: {letters[0].error}")
            return condition()

        until(has_come, what, self.workers, self.deadline, self._open)
