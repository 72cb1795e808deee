"""`with app.local():` runs the agents in this process, on the path that they run on everywhere."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from celery._state import _set_task_join_will_block
from celery._state import task_join_will_block as joins_would_block
from celery.worker import WorkController, state

from ..core.errors import ConfigError
from ..core.observe import Log
from .elsewhere import alone, elsewhere

logger = Log(logging.getLogger(__name__))
if TYPE_CHECKING:
    from ..app.app import Pipeline

#: Seconds within which the worker is there, and within which it ends when its handlers do.
WITHIN = 30.0
WHAT = "app.local()"


@contextmanager
def local(app: Pipeline, directory: str | Path | None = None) -> Iterator[Pipeline]:
    """Run an application's agents in this process for a while: what is published meanwhile is delivered here.

    Arguments:
        directory: where the broker's and the ledger's files are, and stay; default a temporary one.

    Raises ConfigError where another one is in use in this process, for an app whose tasks are eager, and when the
    worker cannot begin.

    """
    place = None if directory is None else Path(directory)
    with alone(WHAT), elsewhere(app, place, WHAT, {"worker_state_db": None}):
        worker = Worker(app)
        worker.begin()
        try:
            yield app
        finally:
            worker.end()


class Worker:
    """A Celery worker in a thread, with the pool that runs sync handlers there; async ones have a lane as always."""

    def __init__(self, app: Pipeline) -> None:
        self._app = app
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, name="pipeline-local", daemon=True)
        self._error: BaseException | None = None
        self._controller: Any = None

    def begin(self) -> None:
        """Return when it consumes; raise ConfigError when it cannot."""
        self._told = state.should_stop, state.should_terminate, joins_would_block()
        state.should_stop = state.should_terminate = None
        self._thread.start()
        is_there = self._ready.wait(WITHIN)
        if self._error is not None or not is_there:
            self.end()
            why = self._error or f"it has not begun within {WITHIN:g} s"
            raise ConfigError(f"{WHAT}: the worker has ended: {why}") from self._error
        _set_task_join_will_block(self._told[2])  # who waits for a result here is no task

    def _run(self) -> None:
        try:
            self._app.celery.set_current()  # in this thread
            self._controller = controller = WorkController(
                app=self._app.celery,
                hostname=f"local@{self._app.bus.worker_id.rpartition(':')[2]}",
                pool="solo",
                concurrency=1,
                without_heartbeat=True,
                without_mingle=True,
                without_gossip=True,
                ready_callback=lambda *_: self._ready.set(),
            )
            controller.blueprint.start(controller)
        except SystemExit as exc:
            if not self._ready.is_set():
                self._error = exc
        except BaseException as exc:
            self._error = exc
        finally:
            try:
                if self._controller is not None:
                    self._controller.stop()
            finally:
                self._ready.set()

    def end(self) -> None:
        """Let the handlers that run come to their end, and wait for that."""
        state.should_stop = 0
        self._thread.join(WITHIN)
        while self._thread.is_alive():  # it would go on with the app's own settings
            logger.warning("app.local() waits for a handler that has not ended in %g s", WITHIN)
            self._thread.join(WITHIN)
        consumer = getattr(self._controller, "consumer", None)
        if consumer is not None and consumer.filtered is not None:
            consumer.filtered.end()
        state.should_stop, state.should_terminate, joins_block = self._told
        _set_task_join_will_block(joins_block)
