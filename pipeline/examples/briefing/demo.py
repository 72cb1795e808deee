"""The demonstration: a real worker runs the briefing example, answers questions, and shows what caused what."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic, sleep
from types import FrameType
from typing import Any, Never

from ...app.app import Pipeline
from ...core.errors import PipelineError
from ...core.event import Event, new_event

QUESTIONS = ("How do context managers work?", "How do I read a CSV file?", "What is a decorator?")
#: What one question leads to when all goes well; when research fails, a message still follows.
STEPS = Counter({"user.query": 1, "user.notified": 1, "research.found": 2, "research.complete": 1, "email.sent": 1})
#: Seconds the worker gets to finish what it is doing before it is killed.
GRACE = 5.0
#: Seconds between two looks at the audit log.
INTERVAL = 0.02
#: Lines, and characters of each, that a failure shows of the worker's log.
TAIL, LONGEST = 20, 160


class DemoFailed(PipelineError):
    """The worker did not start, stopped, or did not answer in time; the message ends with its log."""


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
        found: list[dict[str, Any]] = [
            finding
            for event in self.events
            if event.type == "research.complete"
            for finding in event.data["results"].values()
        ]
        best = max(found, key=lambda finding: finding["score"], default={"title": "", "summary": "No answer."})
        return f"{best['title']}: {best['summary']}" if best["title"] else "Nobody knows anything about this."

    @property
    def message(self) -> str | None:
        """Return the file of the message that was sent, or its receiver when a mail server took it."""
        sent = (event.data for event in self.events if event.type == "email.sent")
        return next((data["path"] or data["to"] for data in sent), None)

    def caused_by(self, event: Event) -> list[Event]:
        """Return the events that `event` directly caused, in the order of time."""
        return sorted((each for each in self.events if each.causation_id == event.id), key=lambda each: each.time)

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
    with _worker(app, place) as worker:
        worker.wait_until_ready(deadline)
        stories = [Story(_question(app, text)) for text in questions]
        stage(f"Waiting for {len(stories)} answer{'s' if len(stories) > 1 else ''}")
        trail = _Trail(audit, stories, seen)
        app.publish_many([story.question for story in stories])
        _follow(trail, worker, deadline)
        stage("Stopping the worker")
    trail.read()
    return Report(place, audit, monotonic() - start, stories)


def _question(app: Pipeline, text: str) -> Event:
    user = os.environ.get("USER", "")
    data = {
        "user_id": user if re.fullmatch(r"[\w.-]{1,64}", user) else "you",
        "query": text,
        "session_id": f"demo-{os.getpid()}",
    }
    return new_event("user.query", data, source=app.source)


def _follow(trail: _Trail, worker: _Worker, deadline: float) -> None:
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


class _Worker:
    """A `celery worker` process of our own."""

    def __init__(self, app: Pipeline, directory: Path) -> None:
        self._app = app
        self._name = f"demo-{os.getpid()}@localhost"
        self._log = directory / "worker.log"
        command = [sys.executable, "-m", "celery", "--app", "pipeline", "worker", "--hostname", self._name]
        # Threads start at once and share an index; mingling would wait a second for neighbours.
        options = [
            "--pool",
            "threads",
            "--concurrency",
            "4",
            "--without-mingle",
            "--without-gossip",
            "--loglevel",
            "INFO",
        ]
        environment = {
            **os.environ,
            "PIPELINE_DIRECTORY": str(directory),
            "PIPELINE_AGENTS": '["pipeline.examples.briefing.agents"]',
            "BRIEFING_STATE": str(directory / "briefing"),
        }
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(  # noqa: S603
                [*command, *options],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment,
                start_new_session=True,  # Ctrl-C is for us; we stop the worker in our own order
            )

    def wait_until_ready(self, deadline: float) -> None:
        """Wait until the worker answers, which it does after it has declared its queues."""
        inspect = self._app.celery.control.inspect(destination=[self._name], timeout=0.5, limit=1)
        while not inspect.ping():
            self.check()
            if monotonic() > deadline:
                raise DemoFailed(f"the worker did not become ready in time; {self.hint()}.{self.tail()}")

    def check(self) -> None:
        """Raise DemoFailed when the worker has stopped."""
        code = self._process.poll()
        if code is not None:
            raise DemoFailed(f"the worker stopped with exit code {code}.{self.tail()}")

    def hint(self) -> str:
        """Return what may help when answers do not come in time."""
        others = self._app.settings.broker_url and "stop other workers on this broker, which may have taken them, or "
        return f"{others}try a larger --timeout"

    def tail(self) -> str:
        """Return where the log lies and its last lines, to end an error message with."""
        with suppress(OSError):
            lines = self._log.read_text(encoding="utf-8", errors="replace").splitlines()[-TAIL:]
            return "\n".join([f" The end of {self._log}:", *(f"  {line[:LONGEST]}" for line in lines)])
        return ""

    def stop(self) -> None:
        """Let the worker finish, then kill it and whatever it started."""
        self._process.terminate()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(GRACE)
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()


@contextmanager
def _worker(app: Pipeline, directory: Path) -> Iterator[_Worker]:
    """Run a worker, and stop it whatever happens; a signal that ends this process ends the worker first."""
    worker = None
    try:
        with _signals(_terminated, signal.SIGTERM):
            with _signals_held():
                worker = _Worker(app, directory)
            yield worker
    finally:
        with _signals_held():
            if worker is not None:
                worker.stop()
            app.close()


@contextmanager
def _signals_held() -> Iterator[None]:
    """Let nothing interrupt the block: a process that was just started has to be known before we may end."""
    caught: list[int] = []
    with _signals(lambda number, _: caught.append(number), signal.SIGINT, signal.SIGTERM):
        yield
    for number in caught[:1]:
        signal.raise_signal(number)


@contextmanager
def _signals(handler: Callable[[int, FrameType | None], Any], *numbers: int) -> Iterator[None]:
    """Handle signals during the block; outside the main thread, where nobody can, do nothing."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)


def _terminated(number: int, frame: FrameType | None) -> Never:
    raise SystemExit(128 + number)
