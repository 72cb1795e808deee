"""What the failure of an attempt means in the worker's main process."""

from __future__ import annotations

import pytest
from billiard.exceptions import Terminated, TimeLimitExceeded, WorkerLostError
from celery.exceptions import Ignore, Reject, Retry

from pipeline import InvalidEvent
from pipeline.core.errors import NotAnEventError, WorkerDied
from pipeline.delivery.request import Death, after_death


@pytest.mark.parametrize(
    ("error", "cancelled", "death"),
    [
        # Celery's control flow, and what is no delivery at all
        (Reject("no"), False, Death.CELERYS),
        (Ignore(), False, Death.CELERYS),
        (Retry(), False, Death.CELERYS),
        (Terminated(9), False, Death.CELERYS),
        (NotAnEventError("no JSON"), False, Death.CELERYS),
        (SystemExit(1), True, Death.CELERYS),
        (KeyboardInterrupt(), True, Death.CELERYS),
        # the process died, or left, before it could record anything
        (TimeLimitExceeded(5), False, Death.UNRECORDED),
        (WorkerLostError("signal 9"), False, Death.UNRECORDED),
        (SystemExit(1), False, Death.UNRECORDED),
        (KeyboardInterrupt(), False, Death.UNRECORDED),
        (TimeLimitExceeded(5), True, Death.UNRECORDED),
        # the process has recorded it, and has said so
        (ValueError("boom"), False, Death.RECORDED),
        (ValueError("boom"), True, Death.RECORDED),
        (InvalidEvent("data: wrong"), False, Death.RECORDED),
        (WorkerDied("no attempt left"), False, Death.RECORDED),
        (MemoryError(), False, Death.RECORDED_QUIETLY),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else str(value),
)
def test_what_a_failed_attempt_means(error: BaseException, cancelled: bool, death: Death) -> None:
    assert after_death(error, cancelled=cancelled) is death
