"""Plain tasks for chords: members that succeed, fail or die, a body that returns what it is given, and an errback."""

from __future__ import annotations

import json
import os
import signal
from functools import partial
from types import SimpleNamespace
from typing import Any

from celery import Celery

from pipeline import Pipeline

app = Pipeline("chords")


def declare(celery: Celery) -> SimpleNamespace:
    """Add the tasks to a Celery app and return them by their names."""
    task = partial(celery.task, shared=False)  # Celery would add them to every other app of the process too

    @task(name="chords.ok")
    def ok(number: int) -> int:
        return number

    @task(name="chords.plus")
    def plus(number: int, more: int) -> int:
        return number + more

    @task(name="chords.bad")
    def bad() -> None:
        raise ValueError("bad")

    @task(name="chords.die")
    def die() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    @task(name="chords.again", bind=True)
    def again(self: Any, number: int) -> int:
        if not self.request.retries:
            raise self.retry(countdown=0)
        return number

    @task(name="chords.replaced", bind=True)
    def replaced(self: Any, number: int) -> None:
        raise self.replace(ok.si(number))

    @task(name="chords.more", bind=True)
    def more(self: Any, number: int) -> int:
        self.add_to_chord(ok.si(number + 1))
        return number

    @task(name="chords.body")
    def body(results: Any) -> Any:
        return results

    @task(name="chords.note")
    def note(request: Any, error: Any, traceback: Any, case: str) -> None:
        line = {"case": case, "error": type(error).__name__, "text": str(error)}
        fd = os.open(os.environ["JOURNAL"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(fd, (json.dumps(line) + "\n").encode())
        os.close(fd)

    tasks = (ok, plus, bad, die, again, replaced, more, body, note)
    return SimpleNamespace(**{one.name.partition(".")[2]: one for one in tasks})


tasks = declare(app.celery)
