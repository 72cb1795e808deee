"""The demonstration: a real worker runs the briefing example, answers questions, and shows what caused what."""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic, sleep
from typing import Any
from uuid import uuid4

from pipeline import Event, Pipeline

from .worker import DemoFailed, Worker, running

QUESTIONS = ("How do context managers work?", "How do I read a CSV file?", "What is a decorator?")
#: What one question leads to when all goes well; when research fails, a message still follows.
STEPS = Counter({"user.query": 1, "user.notified": 1, "research.found": 2, "research.complete": 1, "email.sent": 1})
#: Seconds between two looks at the audit log.
INTERVAL = 0.02


@dataclass(frozen=True)
class Story:
    """One question and every event that it led to, in the order of the audit log."""

    question: Event
    events: list[Event] = field(default_factory=list)

    @property
    def is_over(self) -> bool:
        """Say whether nothing more is to come."""
        seen = Counter(event.type for event in self.events)
        return seen >= STEPS or bool(seen["research.failed"] and seen["email.sent"])

    @property
    def missing(self) -> list[str]:
        """Return the types of the events that are still to come."""
        return sorted((STEPS - Counter(event.type for event in self.events)).keys())

    @property
    def answer(self) -> str:
        """Return the best answer that was found."""
        findings: list[dict[str, Any]] = [
            finding
            for event in self.events
            if event.type == "research.complete"
            for finding in event.data["results"].values()
        ]
        best = max(findings, key=lambda finding: finding["score"], default={"title": "", "summary": "No answer."})
        return f"{best['title']}: {best['summary']}" if best["title"] else "Nobody knows anything about this."

    @property
    def message(self) -> str | None:
        """Return the file of the message that was sent, or its receiver when a mail server took it."""
        sent = (event.data for event in self.events if event.type == "email.sent")
        return next((data["path"] or data["to"] for data in sent), None)

    def caused_by(self, event: Event) -> list[Event]:
        """Return the events that `event` directly caused, in the order of time."""
        effects = (effect for effect in self.events if effect.causation_id == event.id)
        return sorted(effects, key=lambda effect: effect.time)

    def seconds(self, event: Event) -> float:
        """Return the seconds from the question to `event`."""
        return (event.time - self.question.time).total_seconds()

    def as_data(self) -> dict[str, Any]:
        """Return the story as JSON data."""
        return {
            "question": self.question.data["query"],
            "correlation_id": self.question.correlation_id,
            "answer": self.answer,
            "message": self.message,
            "events": [json.loads(event.encode()) for event in sorted(self.events, key=lambda event: event.time)],
        }


@dataclass(frozen=True)
class Report:
    """What a demonstration showed, and where its files lie."""

    directory: Path
    audit: Path
    seconds: float
    stories: list[Story]

    def as_data(self) -> dict[str, Any]:
        """Return the report as JSON data."""
        return {
            "directory": str(self.directory),
            "audit": str(self.audit),
            "seconds": round(self.seconds, 3),
            "questions": [story.as_data() for story in self.stories],
        }


def run(
    questions: Sequence[str],
    *,
    directory: Path | None = None,
    timeout: float = 60.0,
    stage: Callable[[str], None] = lambda text: None,
    seen: Callable[[Story, Event], None] = lambda story, event: None,
) -> Report:
    """Start a worker, publish the questions, wait for the answers, and stop the worker.

    Arguments:
        directory: where all state goes; default a new temporary directory, which is kept.
        timeout: seconds for everything together.
        stage: called with what happens next.
        seen: called with each event as it appears in the audit log.

    Raises DemoFailed with the end of the worker's log, and BrokerUnavailable.

    """
    start = monotonic()
    place = (directory or Path(tempfile.mkdtemp(prefix="pipeline-demo-"))).absolute()
    place.mkdir(mode=0o700, parents=True, exist_ok=True)
    app = Pipeline("demo", directory=place)
    audit = place / "briefing" / "audit.jsonl"
    deadline = start + timeout
    stage("Starting a worker")
    with running(app, place) as worker:
        worker.wait_until_ready(deadline)
        stories = [Story(_question(text)) for text in questions]
        stage(f"Waiting for {len(stories)} answer{'s' if len(stories) > 1 else ''}")
        trail = _Trail(audit, stories, seen)
        app.publish_many([story.question for story in stories])
        _follow(trail, worker, deadline)
        stage("Stopping the worker")
    trail.read()
    return Report(place, audit, monotonic() - start, stories)


def _question(text: str) -> Event:
    user = os.environ.get("USER", "")
    data = {
        "user_id": user if re.fullmatch(r"[\w.-]{1,64}", user) else "you",
        "query": text,
        "session_id": f"demo-{os.getpid()}",
    }
    return Event(id=str(uuid4()), type="user.query", source="/demo", data=data)


def _follow(trail: _Trail, worker: Worker, deadline: float) -> None:
    """Read the audit log until every story is over; raise DemoFailed when that takes too long."""
    while not all(story.is_over for story in trail.stories):
        if not trail.read():
            worker.check()
            if monotonic() > deadline:
                missing = "; ".join(
                    f"{story.question.data['query']!r} lacks {', '.join(story.missing)}"
                    for story in trail.stories
                    if not story.is_over
                )
                raise DemoFailed(f"out of time: {missing}; {worker.hint()}.{worker.tail()}")
            sleep(INTERVAL)


class _Trail:
    """Reads the audit log as it grows."""

    def __init__(self, path: Path, stories: list[Story], seen: Callable[[Story, Event], None]) -> None:
        self._path = path
        # An earlier demonstration in the same directory has left its lines.
        self._at = path.stat().st_size if path.exists() else 0
        self.stories = stories
        self._by_correlation = {story.question.correlation_id: story for story in stories}
        self._known: set[str] = set()
        self._seen = seen

    def read(self) -> bool:
        """Take in the lines that are complete, and say whether there were any."""
        if not self._path.exists():
            return False
        with self._path.open("rb") as file:
            file.seek(self._at)
            lines = file.read()
        lines = lines[: lines.rfind(b"\n") + 1]
        self._at += len(lines)
        for line in lines.splitlines():
            self._take(Event.decode(line))
        return bool(lines)

    def _take(self, event: Event) -> None:
        story = self._by_correlation.get(event.correlation_id)
        if story is not None and event.id not in self._known:  # a redelivered event has a second line
            self._known.add(event.id)
            story.events.append(event)
            self._seen(story, event)
