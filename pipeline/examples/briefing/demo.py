"""The demonstration: real workers answer questions, things go wrong on purpose, and at the end all is counted."""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any
from uuid import uuid4

from pipeline import Event, Pipeline

from ..stage import Tell, stage, still_open
from ..workers import Worker, running, until
from . import post
from .agents import EmailSent, ResearchComplete

QUESTIONS = ("How do context managers work?", "How do I read a CSV file?", "What is a decorator?")
#: What one question leads to: no more, or something was done twice; no less, or something was lost.
STEPS = Counter({"user.query": 1, "user.notified": 1, "research.found": 2, "research.complete": 1, "email.sent": 1})
WORKERS = 2


@dataclass(frozen=True)
class Story:
    """One question, and all that has followed from it.

    Attributes:
        message: the file of the message that the user got.
        outcomes: how many deliveries ended how.
        attempts: how often agents tried, in all.

    """

    question: Event
    events: Sequence[Event]
    message: Path
    outcomes: Counter[str]
    attempts: int

    @property
    def answer(self) -> str:
        """The best answer that was found."""
        done = (ResearchComplete.model_validate(e.data) for e in self.events if e.type == ResearchComplete.event_type)
        findings = [finding for one in done for finding in one.results.values()]
        best = max(findings, key=lambda finding: finding.score, default=None)
        return f"{best.title}: {best.summary}" if best and best.title else "Nobody knows anything about this."

    def as_data(self) -> dict[str, Any]:
        """Return the story as JSON data."""
        return {
            "question": self.question.data["query"],
            "correlation_id": self.question.correlation_id,
            "answer": self.answer,
            "message": str(self.message),
            "events": [json.loads(event.encode()) for event in self.events],
        }


@dataclass(frozen=True)
class Report:
    """What a demonstration showed.

    Attributes:
        directory: where its state, its messages and its logs lie.
        config: the settings file with which commands find that state.
        retried, dead: the deliveries that were tried again, and that was given up at first.
        mails: how often the mail server took each message.

    """

    directory: Path
    config: Path
    seconds: float
    stories: Sequence[Story]
    killed: int
    retried: str
    dead: str
    mails: Counter[str]

    @property
    def outcomes(self) -> Counter[str]:
        """How many deliveries ended how, in the ledger."""
        return sum((story.outcomes for story in self.stories), Counter())

    @property
    def attempts(self) -> int:
        """How often agents tried: more often than there are deliveries, as some attempts failed."""
        return sum(story.attempts for story in self.stories)

    @property
    def lost(self) -> dict[str, int]:
        """What should be there and is not: deliveries that are not done, events that did not follow, messages."""
        done = self.outcomes["succeeded"]
        return {
            "deliveries": self.outcomes.total() - done,
            "events": sum((STEPS - types).total() for types in self._types()),
            "messages": sum(not self.mails[story.message.stem] for story in self.stories),
        }

    @property
    def twice(self) -> dict[str, int]:
        """What is there once too often: events that followed again, messages that were taken again."""
        more = sum(n for types in self._types() for kind, n in (types - STEPS).items() if kind in STEPS)
        return {"events": more, "messages": self.mails.total() - len(self.mails)}

    def _types(self) -> Iterator[Counter[str]]:
        return (Counter(event.type for event in story.events) for story in self.stories)

    @property
    def hardest(self) -> Story:
        """The story in which agents had to try most often."""
        return max(self.stories, key=lambda story: story.attempts - story.outcomes.total())

    def as_data(self) -> dict[str, Any]:
        """Return the report as JSON data."""
        return {
            "directory": str(self.directory),
            "config": str(self.config),
            "seconds": round(self.seconds, 3),
            "killed": self.killed,
            "retried": self.retried,
            "dead": self.dead,
            "deliveries": dict(self.outcomes),
            "attempts": self.attempts,
            "lost": self.lost,
            "twice": self.twice,
            "questions": [story.as_data() for story in self.stories],
        }


def run(
    questions: Sequence[str],
    *,
    directory: Path | None = None,
    timeout: float = 60.0,
    tell: Tell = lambda text: None,
) -> Report:
    """Start workers, publish the questions, let things go wrong, and stop the workers when all is done.

    Arguments:
        directory: where all state goes; default a new temporary directory, which is kept.
        timeout: seconds for everything together.
        tell: called with what happens, when it happens.

    Raises DemoFailed with the end of a worker's log.

    """
    start = monotonic()
    scene = stage("demo", directory, ["pipeline.examples.briefing.agents"])
    place, app = scene.place, scene.app
    with post.open_at(place / "mail") as office:
        environment = {
            "PIPELINE_CONFIG": str(scene.config),
            "BRIEFING_STATE": str(place / "briefing"),
            "BRIEFING_SMTP_URL": office.url,
        }
        with running(app, place, WORKERS, environment) as workers:
            play = _Play(app, office, workers, start + timeout, tell)
            play.begin(questions)
            killed, retried, dead = play.kill_a_worker(), play.retry(), play.requeue_a_dead_letter()
            stories = play.end()
    return Report(place, scene.config, monotonic() - start, stories, killed, retried, dead, office.taken)


def _question(text: str) -> Event:
    user = os.environ.get("USER", "")
    data = {
        "user_id": user if re.fullmatch(r"[\w.-]{1,64}", user) else "you",
        "query": text,
        "session_id": f"demo-{os.getpid()}",
    }
    return Event(id=str(uuid4()), type="user.query", source="/demo", data=data)


@dataclass
class _Play:
    """What happens, one act after the other; each waits for what it shows, and tells it."""

    app: Pipeline
    office: post.PostOffice
    workers: Sequence[Worker]
    deadline: float
    tell: Tell
    questions: Sequence[Event] = ()

    def begin(self, questions: Sequence[str]) -> None:
        for worker in self.workers:
            worker.wait_until_ready(self.deadline)
        pids = " and ".join(str(worker.pid) for worker in self.workers)
        self.tell(f"{len(self.workers)} workers run, the processes {pids}.")
        self.questions = [_question(text) for text in questions]
        self.app.publish_many(self.questions)
        number = len(questions)
        self.tell(
            f"{number} question{'s'[: number != 1]} published. Each agent that listens gets a copy of its own, and all "
            "work side by side;\nfinding the answers takes a few seconds."
        )

    def kill_a_worker(self) -> int:
        """Kill the worker that hands over the first message; return its process id."""
        silence = self.office.mishaps.silence
        self._until(lambda: silence.happened, "the first message")
        held = [delivery for delivery in self._deliveries() if delivery.outcome == "running"]
        of_mail = next(delivery for delivery in held if delivery.id == silence.message)
        (victim,) = (worker for worker in self.workers if f":{worker.pid}:" in of_mail.worker)
        victim.kill()
        number = sum(delivery.worker == of_mail.worker for delivery in held)
        work = "1 piece of work" if number == 1 else f"{number} pieces of work"
        self.tell(
            f"KILLED: worker {victim.pid} (kill -9), while it hands over the first e-mail, which the mail server has "
            f"not taken.\nIt had {work} in hand; the other worker takes over. What it had sent last is sent once more\n"
            "after ten seconds, as nobody else knows whether the broker has it: who had it then does nothing."
        )
        return victim.pid

    def retry(self) -> str:
        """Wait until the mail server has sent somebody away; return the delivery's id."""
        busy = self.office.mishaps.busy
        self._until(lambda: busy.happened, "the next message")
        self.tell(
            f"RETRY: the mail server says it is busy ({(busy.reply or '')[:3]}). The agent `email` will try this one "
            "again\nin a second or two; nobody else notices."
        )
        return str(busy.message)

    def requeue_a_dead_letter(self) -> str:
        """Give back to its agent what that has given up; return the delivery's id."""
        full = self.office.mishaps.full
        self._until(lambda: full.happened, "the message that is refused")
        id = str(full.message)
        self._until(lambda: any(letter.id == id for letter in self.app.dead_letters.list()), "the dead letter")
        self.tell(
            f"DEAD LETTER: the mail server refuses an e-mail for good ({(full.reply or '')[:3]}, mailbox full). "
            "`email` gives up;\nthe event and the error are kept for somebody to look at, and everything else goes on."
        )
        self.app.dead_letters.requeue(id, by="the demo")
        self.tell("REQUEUED: somebody has emptied the mailbox, so `email`, and no other agent, gets that event again.")
        return id

    def end(self) -> Sequence[Story]:
        """Wait until nothing is open, and return what has happened."""
        self._until(lambda: self._open() is None, "the end")
        number = len(self.questions)
        self.tell(f"DONE: {number} answer{'s'[: number != 1]} sent, nothing is left to do.")
        return [self._story(question) for question in self.questions]

    def _story(self, question: Event) -> Story:
        events = [found.event for found in self.app.get_events(correlation=question.correlation_id)]
        trace = self.app.trace(question.correlation_id)
        sent = next(node for node in trace if node.type == EmailSent.event_type)
        deliveries = [delivery for event in trace for delivery in event.deliveries]
        outcomes = Counter(str(delivery.outcome) for delivery in deliveries)
        attempts = sum(delivery.attempts for delivery in deliveries)
        return Story(question, events, self.office.path_of(str(sent.delivery)), outcomes, attempts)

    def _deliveries(self) -> Iterator[Any]:
        for question in self.questions:
            for event in self.app.trace(question.correlation_id):
                yield from event.deliveries

    def _open(self) -> str | None:
        """Say what is still open."""
        return still_open(self.app, self.questions)

    def _until(self, condition: Callable[[], bool], what: str) -> None:
        until(condition, what, self.workers, self.deadline, self._open)
