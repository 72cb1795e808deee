"""The way of one event, counted: which files it enters from publish() to the recorded outcome, and how often it moves.

    python -m benchmarks.way

A solo worker on the embedded broker, in this process, so that one profiler sees both sides; the ledger is SQLite. The
handler returns another event, which somebody listens to. Counted is the second half of a warm run, from where Celery
hands the message over until its burst has ended. The agent has no second attempt, so that what it gets goes alone, and
not in a group. A move is a call into another file of the package, or the return from it. What a broker's transport does
inside is left out: it is another one on another broker. A file that itself calls on into others has to be understood;
one that only answers can be read as a word, and core/ is the words.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import pipeline
from pipeline import Payload, Pipeline

PACKAGE = str(Path(pipeline.__file__).parent) + os.sep
TRANSPORTS = ("brokers/embedded/", "brokers/amqp", "brokers/redis")
WORDS = "core/"
EVENTS = 8


class Asked(Payload, type="way.asked"):
    """What is published."""

    n: int


class Answered(Payload, type="way.answered"):
    """What the handler returns."""

    n: int


@dataclass
class Trail:
    """What a profiler saw: files in the order in which the way goes through them, and who calls whom."""

    files: list[str] = field(default_factory=list)
    calls: set[tuple[str, str]] = field(default_factory=set)
    _stack: list[str] = field(default_factory=list)

    def profile(self, frame: FrameType, event: str, _: object) -> None:
        """Take note of calls into the package, and of returns from there."""
        path = frame.f_code.co_filename
        if event not in ("call", "return") or not path.startswith(PACKAGE):
            return
        name = path.removeprefix(PACKAGE)
        if event == "call":
            self._enter(name, frame.f_back)
        elif self._stack:
            self._leave()

    def _enter(self, name: str, caller: FrameType | None) -> None:
        self._stack.append(name)
        if not self._is_in_transport:
            self.files.append(name)
            calling = caller.f_code.co_filename if caller else ""
            if calling.startswith(PACKAGE):
                self.calls.add((calling.removeprefix(PACKAGE), name))

    def _leave(self) -> None:
        inside = self._is_in_transport
        self._stack.pop()
        if self._stack and not inside:
            self.files.append(self._stack[-1])

    @property
    def _is_in_transport(self) -> bool:
        return any(name.startswith(TRANSPORTS) for name in self._stack)

    @property
    def moves(self) -> int:
        """How often the way goes from one file to another."""
        return sum(one != other for one, other in zip(self.files, self.files[1:], strict=False))

    @property
    def understood(self) -> list[str]:
        """The files that call on into others."""
        others = ((caller, name) for caller, name in self.calls if caller != name and not name.startswith(WORDS))
        return sorted({caller for caller, _ in others})


@contextlib.contextmanager
def profiled(trail: Trail) -> Iterator[None]:
    """Let a trail see what this thread does."""
    sys.setprofile(trail.profile)
    try:
        yield
    finally:
        sys.setprofile(None)


def walk(directory: Path) -> tuple[Trail, Trail]:
    """Publish events and let a worker in this process deliver them; return the way of one on each side."""
    app = Pipeline("way", directory=directory, broker_url="", ledger_url=f"sqlite:///{directory / 'ledger.db'}")
    published, delivered = Trail(), Trail()
    app.celery.conf.worker_redirect_stdouts = False
    last: list[Any] = []

    @app.agent(on=Asked, retry=0)
    def answer(asked: Asked) -> Answered:
        return Answered(n=asked.n)

    @app.agent(on=Answered)
    def listen(answered: Answered) -> None:
        if answered.n == EVENTS - 1:
            last[0].stop()

    with app.celery.connection_for_write() as connection:
        for queue in app.celery.amqp.queues.consume_from.values():
            queue(connection.default_channel).declare()
    app.ledger.subscribers.register({agent.name: (agent.patterns, None) for agent in app.agents})
    for n in range(EVENTS - 1):
        app.publish(Asked(n=n))
    with profiled(published):
        app.publish(Asked(n=EVENTS - 1))
    last.append(Worker(app, delivered))
    last[0].run()
    app.close()
    return published, delivered


class Worker:
    """A solo worker in this process, which profiles the delivery of one event."""

    def __init__(self, app: Pipeline, trail: Trail) -> None:
        # Celery writes a banner to the standard output.
        self._worker = app.celery.Worker(
            app=app.celery, pool="solo", concurrency=1, hostname="way@localhost", loglevel="CRITICAL", quiet=True,
            logfile=os.devnull, without_mingle=True, without_gossip=True,
        )  # fmt: skip
        self._trail = trail

    def run(self) -> None:
        """Run until stop() is called."""
        from pipeline.delivery.consumer import AgentConsumer

        number = 0
        create = AgentConsumer.create_task_handler

        def create_watched(consumer: Any, *args: Any, **kwargs: Any) -> Any:
            handle = create(consumer, *args, **kwargs)

            def on_message(message: Any) -> None:
                nonlocal number
                number += message.headers.get("type") == Asked.event_type
                if number != EVENTS - 2 or message.headers.get("type") != Asked.event_type:
                    handle(message)
                    return
                burst: Any = consumer._short
                burst.run()  # what came before it
                with profiled(self._trail):
                    handle(message)
                    burst.run()

            return on_message

        # Patched, so that what is counted begins where Celery hands a message over, and not in its own loop.
        AgentConsumer.create_task_handler = create_watched  # type: ignore[method-assign,assignment]  # as said above
        try:
            with contextlib.suppress(SystemExit):
                self._worker.start()
        finally:
            AgentConsumer.create_task_handler = create  # type: ignore[method-assign]  # as it was

    def stop(self) -> None:
        """Let the worker end when it has handled what it has in hand."""
        from celery.worker import state

        state.should_stop = 0


def counted(published: Trail, delivered: Trail) -> dict[str, Any]:
    """Return the counts as JSON data."""
    return {
        "understood": sorted({*published.understood, *delivered.understood}),
        "files": sorted({*published.files, *delivered.files}),
        "moves": {"publish": published.moves, "delivery": delivered.moves},
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Count, and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.way", description=__doc__.split("\n")[0])
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="way-") as directory:
        found = counted(*walk(Path(directory)))
    moves = found["moves"]
    if options.json:
        print(json.dumps(found))
        return
    print(f"files entered: {len(found['files'])}")
    print(f"files to understand: {len(found['understood'])}", *found["understood"], sep="\n  ")
    print(f"moves: {moves['publish']} to publish, {moves['delivery']} to deliver")


if __name__ == "__main__":
    main()
