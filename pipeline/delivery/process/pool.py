"""Celery's pool of processes, when a connection ends: what a process was given is not forgotten."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from celery.concurrency.asynpool import AsynPool


@contextmanager
def keeping_what_was_given(pool: Any) -> Iterator[None]:
    """Keep Celery from forgetting jobs that a process has got, but not yet said so: it runs them all the same.

    A forgotten job's result is overheard, so its message is not acknowledged and another worker runs it again; and its
    process, which waits until its results are read, ends half a minute late.
    """
    pool = getattr(pool, "_pool", None)  # Celery's pool is a shell around billiard's; other pools have no processes
    given = [job for job in pool._cache.values() if _is_given(job)] if isinstance(pool, AsynPool) else []
    for job in given:
        _finish_writing(pool, job)
        job._accepted = True  # all that Celery looks at
    try:
        yield
    finally:
        for job in given:
            job._accepted = bool(job.worker_pids())


def _is_given(job: Any) -> bool:
    return not job._accepted and job._write_to is not None and bool(job._write_to._is_alive())


def _finish_writing(pool: Any, job: Any) -> None:
    """Write the rest of a job, of which a process has got a part: it would wait for it for ever."""
    writer = job._writer()
    if writer in pool._active_writers:
        pool._flush_writer(job._write_to, writer)
