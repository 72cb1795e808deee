"""Whatever a handler raises or returns, and whatever the ledger does, a delivery ends in exactly one recorded state."""

from __future__ import annotations

import asyncio
import linecache
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from contextvars import copy_context
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from celery.exceptions import Ignore, Reject, Retry, SoftTimeLimitExceeded
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline import Context, Event, Pipeline
from pipeline.agents import context
from pipeline.core.errors import LedgerError, LedgerRefused, LedgerUnavailable
from pipeline.delivery import inbox, steps, task
from pipeline.ledger.ledger import Ledger
from pipeline.publishing.outbox import Outbox
from tests.apps.odd_errors import ODD
from tests.endings import ACKED, ASIDE, BACK, take, take_to_its_end
from tests.records import make_app, rows

Do = Callable[[Context], Any]

#: Methods that handling an error calls, or Python for it.
METHODS = ("__str__", "__repr__", "__reduce__", "__reduce_ex__", "__eq__", "__hash__", "__getattr__", "__bool__")
BASES: tuple[type[BaseException], ...] = (
    *(Exception, ValueError, OSError, KeyError, BaseException, SystemExit, KeyboardInterrupt, LookupError, MemoryError),
    *(UnicodeError, StopIteration, asyncio.CancelledError, Ignore, Reject, Retry, LedgerUnavailable),
)
TEXTS = st.one_of(st.text(st.characters(exclude_categories=())), st.text(min_size=3).map(lambda text: text * 50_000))
SLOW = settings(
    deadline=None,
    max_examples=60,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture, HealthCheck.data_too_large],
)


class Held:
    """An error that hypothesis may look at, whatever its class does."""

    def __init__(self, error: BaseException, made_of: str) -> None:
        self.error = error
        self._made_of = made_of

    def __repr__(self) -> str:
        return self._made_of


@st.composite
def broken(draw: st.DrawFn) -> Held:
    """Return an error whose class is broken in any way, with any text."""
    methods = draw(st.sets(st.sampled_from(METHODS), max_size=3))
    raises = draw(st.sampled_from([RuntimeError, SystemExit, RecursionError, KeyboardInterrupt]))

    def fail(*_: object) -> Any:
        raise raises("broken")

    def init(self: BaseException, one: object, *, needed: object) -> None: ...

    body: dict[str, Any] = dict.fromkeys(methods, fail)
    if draw(st.booleans()):
        body["__init__"] = init
    kind = type(draw(st.sampled_from(["OddError", "Ödd\nError\x1b[31m"])), (draw(st.sampled_from(BASES)),), body)
    text = draw(st.one_of(TEXTS, st.binary(), st.none()))
    made = kind(text, needed=1) if "__init__" in body else kind(text)
    return Held(made, f"{kind.__name__!r}({text!r:.60}) of {kind.__bases__} without {sorted(body)} ({raises.__name__})")


def odd() -> st.SearchStrategy[Held]:
    return st.sampled_from(sorted(ODD)).map(lambda name: Held(ODD[name](), name))


@st.composite
def chained(draw: st.DrawFn) -> Held:
    """Return an error with notes, causes and contexts, which may be a group, and may go round in circles."""
    held = draw(st.lists(st.one_of(broken(), odd()), min_size=1, max_size=4))
    errors = [one.error for one in held]
    if draw(st.booleans()):
        errors.append(BaseExceptionGroup(draw(st.text()), errors[:]))
    others = st.one_of(st.none(), st.integers(0, len(errors) - 1))
    for error in errors:
        cause, context = draw(others), draw(others)
        error.__cause__ = None if cause is None else errors[cause]
        error.__context__ = None if context is None else errors[context]
        if draw(st.booleans()):
            notes: Any = draw(st.one_of(st.integers(), st.lists(st.one_of(st.text(), st.integers()))))
            error.__notes__ = notes
    return Held(errors[-1], f"the last of {held}, {len(errors)} with groups")


@pytest.fixture(scope="module")
def app() -> Iterator[Pipeline]:
    with tempfile.TemporaryDirectory() as directory:
        one = make_app(f"sqlite:///{directory}/ledger.db", Path(directory), agents=False)

        @one.agent(on="odd.sync", retry=0)
        def plain(event: Event, ctx: Context) -> Any:
            return does[0](ctx)

        @one.agent(on="odd.again", retry=2)
        def patient(event: Event, ctx: Context) -> Any:
            return does[0](ctx)

        @one.agent(on="odd.async", retry=0)
        async def asynchronous(event: Event, ctx: Context) -> Any:
            return does[0](ctx)

        does: list[Do] = []
        one.does = does  # type: ignore[attr-defined]
        one.ledger.subscribers.register({name: ((kind,), None) for kind, name in AGENTS.items()})
        one.ledger.workers.heartbeat(one.bus.worker_id)
        yield one
        one.close()


AGENTS = {"odd.sync": "plain", "odd.again": "patient", "odd.async": "asynchronous"}


def outcomes(app: Pipeline, event: Event) -> list[str]:
    return [row["outcome"] for row in rows(app, event_id=event.key)]


def raising(held: Held) -> Do:
    def do(ctx: Context) -> None:
        raise held.error

    return do


@SLOW
@given(error=chained(), kind=st.sampled_from(sorted(AGENTS)))
def test_whatever_a_handler_raises_its_delivery_is_acked_with_one_row(app: Pipeline, error: Held, kind: str) -> None:
    app.does[:] = [raising(error)]  # type: ignore[attr-defined]
    event = app.publish(kind, 1)
    assert take(app, event, AGENTS[kind]) == [ACKED]
    (outcome,) = outcomes(app, event)
    assert outcome in ("dead", "retrying")
    (row,) = rows(app, event_id=event.id)
    assert row["error"]


class Broken:
    """What a handler may return, and nobody can use."""

    def __repr__(self) -> str:
        raise RuntimeError("it has no repr")

    __str__ = __repr__


class Lying(Broken):
    @property
    def __class__(self) -> Any:
        raise RuntimeError("it has no class")


class NeverAwaited(Broken):
    def __await__(self) -> Any:
        return 7


class Leaving(list[Any]):
    def __iter__(self) -> Any:
        raise SystemExit("while it was looked at")


def nested(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


def cyclic() -> list[Any]:
    value: list[Any] = []
    value.append(value)
    return value


def numbers() -> Iterator[int]:
    yield 1


async def numbers_to_come() -> AsyncIterator[int]:
    yield 1


RESULTS: dict[str, Callable[[], Any]] = {
    "nested": lambda: nested(50_000),
    "cyclic": cyclic,
    "bytes": lambda: b"\xff",
    "a set": lambda: {1},
    "a large number": lambda: 2**70,
    "a surrogate": lambda: "caf\udce9",
    "a key that is no text": lambda: {(1, 2): 3},
    "an error": lambda: ValueError("no"),
    "a class": lambda: Event,
    "a generator": numbers,
    "an async generator": numbers_to_come,
    "broken": Broken,
    "lying": Lying,
    "never awaited": NeverAwaited,
    "leaving": Leaving,
}


@pytest.mark.parametrize("name", RESULTS)
@pytest.mark.parametrize("kind", ["odd.sync", "odd.async"])
@pytest.mark.parametrize("in_canvas", [False, True])
def test_what_a_handler_should_not_return_is_a_failure_that_says_so(
    app: Pipeline, name: str, kind: str, in_canvas: bool
) -> None:
    app.does[:] = [lambda ctx: RESULTS[name]()]  # type: ignore[attr-defined]
    event = app.publish(kind, 1)
    ends = take(app, event, AGENTS[kind], in_canvas=in_canvas)
    (row,) = rows(app, event_id=event.id)
    if name == "leaving" and in_canvas:  # what is to be JSON is read as the list that it is
        assert (ends, row["outcome"], row["result"]) == ([ACKED], "succeeded", "[]")
        return
    assert (ends, row["outcome"]) == ([ACKED], "dead")
    if name not in ("lying", "never awaited", "leaving"):
        assert f"agent '{AGENTS[kind]}' returned a " in row["error"]


def test_what_a_canvas_gets_is_what_its_copy_gets(app: Pipeline) -> None:
    app.does[:] = [lambda ctx: (1, {"at": datetime(2026, 1, 1, tzinfo=UTC)})]  # type: ignore[attr-defined]
    event = app.publish("odd.sync", 1)
    assert take(app, event, "plain", in_canvas=True) == [ACKED]
    (row,) = rows(app, event_id=event.id)
    assert row["result"] == '[1,{"at":"2026-01-01T00:00:00+00:00"}]'


#: What the ledger and the outbox do for a delivery.
STEPS = [*((Ledger, name) for name in ("claim", "succeed", "again", "die")), (Outbox, "send"), (Outbox, "encode")]
TROUBLES: tuple[type[BaseException], ...] = (
    *(LedgerUnavailable, LedgerError, LedgerRefused, OSError, RuntimeError, MemoryError, OverflowError, TypeError),
    *(UnicodeEncodeError, SystemExit, KeyboardInterrupt, asyncio.CancelledError, RecursionError, BaseException),
)


def trouble(kind: type[BaseException]) -> Held:
    made = UnicodeEncodeError("utf-8", "\udce9", 0, 1, "no") if kind is UnicodeEncodeError else kind("trouble")
    return Held(made, repr(made))


@contextmanager
def failing(owner: type, step: str, error: BaseException, *, after: bool) -> Iterator[None]:
    """Let a step of the bookkeeping fail, before it has done anything or after it has done it all."""
    real = getattr(owner, step)

    def fail(*arguments: Any, **options: Any) -> Any:
        if after:
            real(*arguments, **options)
        raise error

    with patch.object(owner, step, fail):
        yield


@SLOW
@given(
    step=st.sampled_from(STEPS),
    error=st.one_of(st.sampled_from(TROUBLES).map(trouble), chained()),
    after=st.booleans(),
    fails=st.booleans(),
    logged=st.booleans(),
    event_type=st.sampled_from(sorted(AGENTS)),
)
def test_whatever_the_bookkeeping_raises_nothing_is_acked_without_a_row(
    app: Pipeline, step: tuple[type, str], error: Held, after: bool, fails: bool, logged: bool, event_type: str
) -> None:
    def do(ctx: Context) -> None:
        ctx.publish("odd.answer", {})
        if fails:
            raise ValueError("no")

    app.does[:] = [do]  # type: ignore[attr-defined]
    event = app.publish(event_type, 1)
    agent = AGENTS[event_type]
    with failing(*step, error.error, after=after):
        ends = take(app, event, agent, logged=logged)
    assert ends in ([ACKED], [ASIDE], [BACK]), ends
    event = event if logged else Event.decode(event.encode(), None)  # what is not signed is another program's
    if ends == [ACKED]:
        assert outcomes(app, event)[0] in ("succeeded", "dead", "retrying")
    if ends == [BACK]:  # once the trouble is over, whoever gets it brings it to its end
        assert take_to_its_end(app, event, agent, logged=logged) == [ACKED]
        assert outcomes(app, event)[0] in ("succeeded", "dead", "retrying")
    assert len(outcomes(app, event)) <= 1


@contextmanager
def interrupted(number: int, error: BaseException) -> Iterator[list[str]]:
    """Let the nth line that runs in the task and its bookkeeping raise an error; yield where that was."""
    files = tuple(module.__file__ for module in (task, inbox, steps, context))
    left, where = number, list[str]()

    def trace(frame: Any, what: str, _: Any) -> Any:
        nonlocal left
        if frame.f_code.co_filename not in files:
            return None
        line = linecache.getline(frame.f_code.co_filename, frame.f_lineno)
        if what == "line" and not line.lstrip().startswith("with "):  # Python lets no signal in while it leaves a block
            left -= 1
            if not left:
                where.append(f"{frame.f_code.co_qualname}:{frame.f_lineno}")
                raise error  # which ends the tracing, too
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        yield where
    finally:
        sys.settrace(before)


@pytest.mark.parametrize("error", [NotImplementedError, SoftTimeLimitExceeded, MemoryError])
@pytest.mark.parametrize("fails", [False, True])
def test_what_a_signal_raises_between_any_two_lines_loses_nothing(
    app: Pipeline, error: type[BaseException], fails: bool
) -> None:
    def do(ctx: Context) -> None:
        ctx.publish("odd.answer", {})
        if fails:
            raise ValueError("no")

    app.does[:] = [do]  # type: ignore[attr-defined]
    take(app, app.publish("odd.again", 1), "patient")  # so that everything is made
    for number in range(1, 1000):
        event = app.publish("odd.again", 1)
        with interrupted(number, error("interrupted")) as where:
            ends = copy_context().run(take, app, event, "patient")  # what is set when it ends is left to nobody else
        if not where:
            break
        if ends == [BACK]:
            ends = take_to_its_end(app, event, "patient")
        assert ends == [ACKED], where
        assert outcomes(app, event)[0] in ("succeeded", "dead", "retrying"), where
    assert number > 40
