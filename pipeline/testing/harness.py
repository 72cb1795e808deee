"""`with app.testing() as bus:` is the whole bus in one thread and in virtual time, and what a test asks of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import datetime, timedelta
from functools import partial
from random import Random
from typing import TYPE_CHECKING, Any

from celery import _state
from celery._state import _set_task_join_will_block, task_join_will_block
from sqlalchemy import event as sqlalchemy_event

from ..agents.filters import parse
from ..core.errors import ConfigError, LedgerOff
from ..core.event import Event, Payload
from ..core.times import SECOND, clocked, moment, seconds_of, utc_now
from ..publishing.outbox import PAUSE
from .beat import Beat
from .clock import VirtualClock, step
from .crashes import Crashes, Killed
from .elsewhere import alone, elsewhere
from .faults import Faults
from .ledger import empty_ledger, tell_the_time
from .worker import Driven

if TYPE_CHECKING:
    from ..agents.filters import Where
    from ..app.app import Pipeline
    from ..operations.explain import Answer
    from ..operations.letters import DeadLetter

WHAT = "app.testing()"
#: Times that the clock is moved within one call, before somebody is told that it goes on for ever.
MOST_MOVES = 100_000
#: Dead letters that a failing test shows.
SHOWN = 5


@contextmanager
def virtual(app: Pipeline, *, start: datetime | None = None, seed: int = 0) -> Iterator[TestedBus]:
    """Run an application's agents in this thread and in virtual time, for as long as a test needs.

    Arguments:
        start: when the clock begins, as an aware datetime; default now.
        seed: of all that is random, so that each run of a test is the same.

    Raises ConfigError where another one is in use in this process and for an app whose tasks are eager, LedgerOff for
    an app without a ledger, and AssertionError at the end for dead letters that nobody has expected.

    """
    if not app.bus.has_ledger:
        raise LedgerOff(f"{WHAT} needs a ledger, which has the timers: let ledger_url be unset in tests")
    if start is not None and start.tzinfo is None:
        raise ConfigError(f"{WHAT}: start={start.isoformat()} has no time zone; use datetime(..., tzinfo=UTC)")
    clock = VirtualClock(start or utc_now(), seed)
    with ExitStack() as stack:
        stack.enter_context(alone(WHAT))
        stack.enter_context(clocked(clock))
        place = stack.enter_context(elsewhere(app, None, WHAT, {"worker_enable_remote_control": False}))
        _ = (place / "ledger.db").write_bytes(empty_ledger())
        stack.enter_context(_current(app))
        bus = TestedBus(app, clock)
        stack.callback(bus._end)
        bus._begin()
        yield bus
        bus.check()


@contextmanager
def _current(app: Pipeline) -> Iterator[None]:
    """Let the application be the current one of this thread, as it is in a worker, and its tasks have its time."""
    before, blocks = getattr(_state._tls, "current_app", None), task_join_will_block()
    app.celery.set_current()
    vars(app.celery)["now"] = utc_now
    try:
        yield
    finally:
        vars(app.celery).pop("now", None)
        _state._tls.current_app = before
        _set_task_join_will_block(blocks)


class TestedBus:
    """The bus of an application under test.

    Attributes:
        app: the application.

    """

    __test__ = False  # pytest takes what is called so for a test

    def __init__(self, app: Pipeline, clock: VirtualClock) -> None:
        self.app = app
        self._clock = clock
        self._expected = False
        self._is_running = False
        self._crashes = Crashes(app)
        self._worker: Driven | None = None
        self._beat: Beat | None = None

    # -- time

    @property
    def now(self) -> datetime:
        """What time it is."""
        return moment(self._clock.at)

    def settle(self, within: float | timedelta | str | None = None) -> None:
        """Do all that is ready, and what follows from it.

        Arguments:
            within: also what becomes due within that time (seconds, a timedelta or a text such as "1h"), as long as
                anything does; default nothing that needs time.

        """
        self._run()
        if within is not None:
            end = self._clock.at + round(seconds_of(within, "within") * SECOND)
            self._move(end)

    def advance(self, duration: float | timedelta | str) -> None:
        """Let time pass, and do all that becomes due meanwhile, each when it is due.

        Arguments:
            duration: seconds, a timedelta, or a text such as "90s", "30m", "24h" and "7d".

        """
        end = self._clock.at + round(seconds_of(duration, "duration") * SECOND)
        self._run()
        self._move(end)
        self._clock.jump(end)
        self._run()

    def _move(self, end: int) -> None:
        """Go from one time at which something is due to the next, until an end (microseconds)."""
        for _ in range(MOST_MOVES):
            due = self._next()
            if due is None or due > end:
                return
            self._clock.jump(due)
            self._run()
        raise AssertionError(
            f"the clock was moved {MOST_MOVES:,} times, and there still is something due: does an agent "
            "wait again and again, or is a schedule due that often? Go on in shorter pieces"
        )

    def _next(self, *, beats: bool = True) -> int | None:
        assert self._worker is not None
        assert self._beat is not None
        ledger, clock = self.app.bus.ledger, self._clock
        due = ledger.due.next(clock.here)  # by the clock of the worker that will do it
        is_unsent = ledger.due.look().at_once  # which a worker tries again after a pause
        times = (
            None if due is None else due - clock.skew,
            clock.at + round(PAUSE * SECOND) if is_unsent else None,
            self._worker.timer.next(),
            self._beat.next() if beats else None,
        )
        return min((at for at in times if at is not None), default=None)

    def _run(self) -> bool:
        """Do what is ready, with a successor for a worker that is killed; say False where that goes on already."""
        if self._is_running:  # somebody asks in a handler
            return False
        with self._running():
            while True:
                worker, beat = self._worker, self._beat
                assert worker is not None
                assert beat is not None
                beat.ring()
                try:
                    worker.run()
                except Killed:
                    worker.die()
                    self._start()
                else:
                    return True

    @contextmanager
    def _running(self) -> Iterator[None]:
        """Let this be the worker's thread for a while: who waits for a result afterwards is no task."""
        blocks = task_join_will_block()
        self._is_running = True
        _set_task_join_will_block(True)
        try:
            yield
        finally:
            self._is_running = False
            _set_task_join_will_block(blocks)

    # -- what has become of it

    def published(self, what: str | type[Payload] | None = None, where: Where = None) -> list[Event]:
        """Return the events that were published so far, the oldest first, those of agents included.

        Arguments:
            what: an event type, a topic pattern or a Payload class; default all.
            where: a filter that they match.

        Raises InvalidPattern, InvalidFilter.

        """
        wanted = parse(where)
        events = (recorded.event for recorded in self.app.get_events(type=what))
        return [event for event in events if not wanted.nodes or wanted.matches(event.attributes())]

    def dead(self, **filters: Any) -> list[DeadLetter]:
        """Return the dead letters, the oldest first; who asks has expected them.

        Arguments:
            filters: those of `app.dead_letters.list()`: agent, error, event_type.

        """
        self._expected = True
        return self.app.dead_letters.list(limit=1000, **filters)[::-1]

    def expect_dead(self) -> None:
        """Let the test end well although there are dead letters."""
        self._expected = True

    def explain(self, *what: Any, **how: Any) -> list[Answer]:
        """Return whether each agent would get an event, and why not (see `app.explain()`)."""
        return self.app.explain(*what, **how)

    # -- what is done to it

    def reply(self, agent: str, answer: Any) -> None:
        """Let an agent answer with something from now on, instead of calling its handler.

        Arguments:
            agent: its name.
            answer: what it returns, an exception that it raises, or a function that is called with the event.

        Raises InvalidAgent for an agent that is not declared.

        """
        self._crashes.reply(agent, answer)

    def request(self, *what: Any, **options: Any) -> Any:
        """Publish a request and return the answer (see `app.request()`)."""
        return self.app.request(*what, **options)

    def approve(self, action: str, *, by: str = "test", **how: Any) -> list[str]:
        """Approve what waits for a decision about an action, once each; return the ids.

        Arguments:
            action: its name.
            by: who approves it.
            how: more of what `app.approvals.approve()` takes, such as `edit`, the arguments to act with instead.

        Raises AssertionError when nothing of that action waits.

        """
        return self._decide(action, lambda id: self.app.approvals.approve(id, by=by, **how))

    def veto(self, action: str, *, by: str = "test", **how: Any) -> list[str]:
        """Veto what waits for a decision about an action; return the ids (see approve())."""
        return self._decide(action, lambda id: self.app.approvals.veto(id, by=by, **how))

    def _decide(self, action: str, decide: Callable[[str], object]) -> list[str]:
        waiting = self.app.approvals.list(limit=1000)
        ids = [one.id for one in waiting if one.action == action]
        if not ids:
            others = ", ".join(sorted({one.action for one in waiting})) or "nothing"
            raise AssertionError(f"no {action!r} waits for a decision; what waits is: {others}")
        for id in ids:
            decide(id)
        return ids

    def crash(self, agent: str, at: str = "after_commit", times: int = 1) -> None:
        """Let the worker be killed in one of the next deliveries of an agent; another one takes its place.

        Arguments:
            agent: its name.
            at: before_handler, after_handler, after_commit or before_ack.
            times: how often.

        Raises InvalidAgent for an agent that is not declared, and ConfigError for another place.

        """
        self._crashes.plan(agent, at, times)

    # -- for simulations: one thing after the other

    def watch(
        self,
        kills: Callable[[str, str], bool],
        succeeds: Callable[[Any], object],
        takes: Callable[[str], float],
    ) -> None:
        """Ask whether the worker dies, by agent and point; tell each success; ask how long a handler takes."""
        self._crashes.kills, self._crashes.succeeds, self._crashes.takes = kills, succeeds, takes

    def take_one(self, chance: Random, faults: Faults) -> str:
        """Deliver one message, of a queue that chance chooses; return what was done, or nothing."""
        return str(self._one(lambda worker: worker.take_one(chance, faults)) or "")

    def do_chores(self) -> int:
        """Do what chores are due, and write down what waits for it; return how many things were done."""
        done = self._one(lambda worker: worker.timer.ring() + worker.sweep())
        return done if isinstance(done, int) else 1

    def jump(self, beats: int, *, is_over: bool) -> bool:
        """Let it be the time at which something is due next; say whether anything is.

        Arguments:
            beats: how often schedules publish at most, all in all.
            is_over: whether nothing is left to be done but what is due now: schedules are due again and again.

        """
        beat = self._beat
        assert beat is not None
        self.app.bus.outbox.flush()
        due = self._next(beats=False)
        if due is None and is_over:
            return False
        if beat.published < beats:
            due = min((at for at in (due, beat.next()) if at is not None), default=None)
        if due is not None:
            self._clock.jump(due)
        if beat.published < beats:
            beat.ring()
        return due is not None

    def skew(self, seconds: float) -> None:
        """Let the worker's clock be so far ahead of the time, or behind."""
        self._clock.skew = round(seconds * SECOND)

    def _one(self, do: Callable[[Driven], Any]) -> Any:
        worker = self._worker
        assert worker is not None
        with self._running():
            try:
                return do(worker)
            except Killed:
                worker.die()
                self._start()
                return "the next worker begins"

    # -- beginning and end

    def _begin(self) -> None:
        bus = self.app.bus
        bus.by_hand = self._run
        for engine in {bus.ledger.database.engine, bus.ledger.database.reader}:
            sqlalchemy_event.listen(engine, "connect", partial(tell_the_time, self._clock))
        self._crashes.begin()
        self._beat = Beat(self.app.celery, self._clock)
        with self._running():
            self._start()
        self._clock.waits = self._wait

    def _start(self) -> None:
        bus = self.app.bus
        for name in ("outbox", "pauses", "bounds"):  # what a process that was killed has known
            vars(bus).pop(name, None)
        bus.name_worker()
        self._worker = Driven(self.app, self._clock)

    def _wait(self, seconds: float) -> None:
        """Let time pass for somebody who waits: what happens meanwhile happens, unless he is in a handler."""
        if self._is_running:
            self._clock.jump(self._clock.at + step(seconds))
        else:
            self.advance(seconds)

    def check(self) -> None:
        """Raise AssertionError, once, for dead letters that nobody has expected; it is done at the end in any case."""
        if not self._expected and (letters := self.app.dead_letters.list(limit=SHOWN)):
            self._expected = True
            number = sum(count.number for count in self.app.dead_letters.count().values())
            shown = "".join(f"\n  agent {one.agent}, {one.event.type}: {one.error}" for one in letters[::-1])
            raise AssertionError(
                f"{number} dead letter(s) that the test has not expected (bus.dead() shows them, bus.expect_dead() "
                f"expects them):{shown}"
            )

    def _end(self) -> None:
        self._clock.waits = None
        try:
            if self._worker is not None:
                self._worker.stop()
        finally:
            self._crashes.end()
