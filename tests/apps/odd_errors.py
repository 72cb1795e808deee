"""Errors as no handler should raise them, and some do."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import NoReturn

from billiard.exceptions import Terminated, WorkerLostError
from celery.exceptions import Ignore, Reject, Retry, SoftTimeLimitExceeded


class NoTextError(Exception):
    def __str__(self) -> str:
        raise RuntimeError("this error has no text")


class NoReprError(Exception):
    def __repr__(self) -> str:
        raise RuntimeError("this error has no repr")


class ExitingTextError(Exception):
    def __str__(self) -> str:
        raise SystemExit("while the text was made")


class NoPickleError(Exception):
    def __reduce__(self) -> NoReturn:
        raise RuntimeError("this error cannot be pickled")


class TwoArgumentsError(Exception):
    def __init__(self, one: str, two: str) -> None:
        super().__init__(one)


class BaseError(BaseException):
    pass


def circle() -> Exception:
    one, two = ValueError("one"), ValueError("two")
    one.__cause__, two.__cause__ = two, one
    return one


def deep() -> Exception:
    error: Exception = ValueError("innermost")
    for _ in range(300):
        error = ExceptionGroup("a group", [error])
    return error


def with_notes() -> Exception:
    error = ValueError("with notes")
    error.__notes__ = 7  # type: ignore[assignment]
    return error


ODD: dict[str, Callable[[], BaseException]] = {
    "no text": NoTextError,
    "no repr": NoReprError,
    "text that exits": ExitingTextError,
    "no pickle": NoPickleError,
    "no unpickle": lambda: TwoArgumentsError("a", "b"),
    "surrogate": lambda: ValueError("caf\udce9.pdf"),
    "NUL": lambda: ValueError("a\0b"),
    "controls": lambda: ValueError("\x1b[31mred\x1b[0m\r\nsecond line\u2028third"),
    "huge": lambda: ValueError("x" * 5_000_000),
    "bytes": lambda: ValueError(b"\xff\xfe"),
    "circle": circle,
    "deep group": deep,
    "notes": with_notes,
    "Ignore": Ignore,
    "Reject": lambda: Reject("no", requeue=False),
    "Reject and requeue": lambda: Reject("no", requeue=True),
    "Retry": lambda: Retry("later", ValueError("why"), 1),
    "Terminated": Terminated,
    "WorkerLostError": WorkerLostError,
    "SoftTimeLimitExceeded": SoftTimeLimitExceeded,
    "MemoryError": MemoryError,
    "RecursionError": RecursionError,
    "SystemExit": lambda: SystemExit(3),
    "KeyboardInterrupt": KeyboardInterrupt,
    "GeneratorExit": GeneratorExit,
    "CancelledError": asyncio.CancelledError,
    "StopIteration": StopIteration,
    "StopAsyncIteration": StopAsyncIteration,
    "BaseException": BaseException,
    "a BaseException": BaseError,
}
