"""Celery's requests, so that no error of a result backend ends the worker or keeps a message from its end."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from celery.utils.imports import symbol_by_name
from celery.utils.log import get_logger

from ...core.errors import line_of
from ...core.observe import Log

logger = Log(get_logger(__name__))


class Guarded:
    """Goes before a class of requests: what Celery does in the worker's main process, where nobody catches errors."""

    def on_failure(self, *args: Any, **options: Any) -> None:
        """Record a failure; the message has its end in any case."""
        try:
            super().on_failure(*args, **options)  # type: ignore[misc]  # a mixin: the class beside it has the method
        except MemoryError:  # so Celery ends a worker that has none left
            raise
        except Exception as exc:
            self._has_ended(exc)

    def on_timeout(self, soft: bool, timeout: float) -> None:
        """Record that a process was killed at its time limit; the message has its end in any case."""
        try:
            super().on_timeout(soft, timeout)  # type: ignore[misc]  # a mixin: the class beside it has the method
        except Exception as exc:
            self._has_ended(exc)

    def cancel(self, *args: Any, **options: Any) -> None:
        """End what runs because the worker ends, or has lost its connection; what the pool cannot end goes on.

        Celery's pools of threads, and the solo one, raise instead: in a signal's handler, into whatever runs just then.
        """
        with suppress(NotImplementedError):
            super().cancel(*args, **options)  # type: ignore[misc]  # a mixin: the class beside it has the method

    def _announce_revoked(self, *args: Any) -> None:
        try:
            super()._announce_revoked(*args)  # type: ignore[misc]  # a mixin: the class beside it has the method
        except Exception as exc:
            self._has_ended(exc)
            self._already_revoked = True

    def _has_ended(self: Any, exc: Exception) -> None:
        """Say what was not recorded, and acknowledge what nobody has acknowledged or rejected."""
        logger.error(
            "%s[%s]: how it ended could not be recorded, and what waits for it (a chord, a caller) waits on: %s",
            self.name, self.id, line_of(exc), exc_info=exc,
        )  # fmt: skip
        self.acknowledge()


def guard(task: Any) -> None:
    """Let a task's requests be guarded, whoever has written their class; doing it again changes nothing."""
    requests = symbol_by_name(task.Request)
    if not issubclass(requests, Guarded):
        task.Request = type(requests.__name__, (Guarded, requests), {"__module__": requests.__module__})
