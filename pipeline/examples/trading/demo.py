"""The trading demonstration: an urgent alert overtakes what waits, a halt holds the trader back; the records tell."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import TypeVar
from uuid import uuid4

from pipeline import Event, Payload, Pipeline

from ..stage import Stage, Tell, stage, still_open
from ..workers import Worker, running, until
from . import market
from .agents import ROUTINE, URGENT, WORTHY, supervisor, trader
from .book import Book, Handled
from .figures import ahead, most_at_once, overtaken, positions, tally, twice
from .market import Kind, MarketAlert, MarketTick, OrderRequested, OrderUpdated, SessionOpened
from .report import Halt, Overtaking, Report

MODULE = "pipeline.examples.trading.agents"
SEED = 7
#: Ticks when the market opens, and while it is halted; handlers that the worker runs at once.
OPENING, DURING, THREADS = 250, 40, 8
#: Seconds in which nothing is begun when the worker has taken note of the pause, and that the market is halted then.
QUIET, HALTED = 3.0, 1.5
#: Seconds between two looks at the book, and at what is open; and between two lines about what is routine.
INTERVAL, COUNTED = 0.2, 1.0
#: Outcomes of deliveries that are done, or were not wanted.
_WELL = ("succeeded", "filtered")
_TICK, _UPDATE = MarketTick.event_type, OrderUpdated.event_type

Logged = TypeVar("Logged", bound=Payload)


def run(
    seed: int = SEED,
    *,
    directory: Path | None = None,
    timeout: float = 60.0,
    tell: Tell = lambda text: None,
) -> Report:
    """Trade for a while, let an alert overtake, halt the market, and return what the book and the ledger say.

    Arguments:
        seed: makes the market's data.
        directory: where all state goes; default a new temporary directory, which is kept.
        timeout: seconds for everything together.
        tell: called with what happens, when it happens.

    Raises DemoFailed with the end of a worker's log.

    """
    begun = monotonic()
    scene = stage("trading", directory)
    environment = {"PIPELINE_CONFIG": str(scene.config), "TRADING_STATE": str(scene.place / "trading")}
    with running(scene.app, scene.place, 1, environment, MODULE, THREADS) as workers:
        play = _Play(scene, workers, begun + timeout, tell, seed)
        play.begin()
        alert, waiting, last = play.overtake()
        halt = play.halt()
        play.end()
        return play.report(begun, alert, waiting, last, halt)


@dataclass
class _Play:
    """What happens, one act after the other; each waits for what it shows, and tells what is handled meanwhile."""

    scene: Stage
    workers: Sequence[Worker]
    deadline: float
    tell: Tell
    seed: int
    opened: Event = field(init=False)
    book: Book = field(init=False)
    ours: int = 0
    _last: int = 0
    _looked: float = 0.0
    _routine: Counter[str] = field(default_factory=Counter)
    _counted: float = field(default_factory=monotonic)

    @property
    def app(self) -> Pipeline:
        return self.scene.app

    def begin(self) -> None:
        self.workers[0].wait_until_ready(self.deadline)
        self.tell(
            f"A worker runs, the process {self.workers[0].pid}; the market's data is made from the seed {self.seed}."
        )
        for _ in self._paused():  # in a run before, which was interrupted
            self.app.resume(trader.name)
        self.opened = self.app.publish(SessionOpened(seed=self.seed, ticks=OPENING))
        self.book = Book(self.scene.place / "trading" / "book.db", self.opened.correlation_id)
        self.ours = _of_ours(market.ticks(self.seed, OPENING))
        self.tell(
            f"OPEN: {OPENING} ticks, of which {self.ours} are for the trader; it takes five at once, the others wait "
            "in its queue.\nWhat is not routine, as it is handled:"
        )

    def overtake(self) -> tuple[Event, int, int]:
        """Publish an urgent alert while ticks wait; return it, how many did, and the last that was begun before."""
        self._until(lambda: len(self.book.positions()) > 1 or self._waiting() < self.ours / 2, "some positions")
        waiting, last = self._waiting(), self._begun()
        alert = self._publish_alert("risk_limit_exceeded", "the desk's risk is too high")
        self.tell(
            f"ALERT: the risk limit is exceeded, with priority {URGENT}; {waiting} ticks of priority 5 wait before it."
        )
        self._until(lambda: any(one.event == alert.id for one in self.book.handled()), "the alert")
        self.tell(
            f"OVERTAKEN: the trader has it; {self._waiting()} of those ticks wait still. It closes all positions."
        )
        return alert, waiting, last

    def halt(self) -> Halt:
        """Halt the market, publish more ticks, and let it go on; return what was handled meanwhile."""
        before = self._begun()
        self._publish_alert("market_halt", "the exchange has halted the market")
        self._until(lambda: bool(self._paused()), "the pause")
        (reason,) = self._paused()
        self.tell(f"HALT: the supervisor has paused the trader ({reason});\nwhat the worker has got, it finishes.")
        self._until(self._is_quiet(), "the end of what the worker had got")
        finished, last = self._since(before), self._begun()
        more = [*market.ticks(self.seed + 1, DURING)]
        self.app.publish_many([self._caused(tick) for tick in more])
        self.ours += _of_ours(more)
        over = monotonic() + HALTED
        self._until(lambda: monotonic() > over, "the end of the halt")
        found = Halt(finished, self._since(last), self._waiting(), reason)
        self.tell(
            f"{DURING} more ticks have come; {found.waiting} wait for the trader now, and {found.handled} were begun."
        )
        self._publish_alert("market_resumed", "the exchange goes on")
        self._until(lambda: not self._paused(), "the end of the pause")
        self.tell("RESUMED: the supervisor lets the trader go on with what has waited.")
        return found

    def end(self) -> None:
        """Wait until nothing is open."""
        self._until(lambda: self._is_time() and self._open() is None, "the end")
        self._news(is_last=True)
        self.tell("DONE: nothing is left to do.")

    def report(self, begun: float, alert: Event, waiting: int, last: int, halt: Halt) -> Report:
        """Return what the book and the ledger say of it all."""
        handled = self.book.handled()
        mine = [one for one in handled if one.agent == trader.name]
        events = sorted(self.app.trace(self.opened), key=lambda event: event.position)
        published, order = [event.id for event in events], [one.event for one in mine]
        ends = [(event, delivery) for event in events for delivery in event.deliveries]
        requests, updates = self._logged(OrderRequested), self._logged(OrderUpdated)
        closing = {request.order_id for request in requests if request.reason == "risk"}
        at = next(one.number for one in mine if one.event == alert.id)
        return Report(
            directory=self.scene.place,
            config=self.scene.config,
            seconds=monotonic() - begun,
            seed=self.seed,
            session=self.opened.correlation_id,
            deliveries=tally((end.agent, event.type, end.outcome.value) for event, end in ends),
            overtaking=Overtaking(
                waiting=waiting,
                begun_before=sum(last < one.number < at for one in mine),
                overtaken=overtaken(published, order, alert.id),
                closed=positions((update.symbol, update.change) for update in updates if update.order_id in closing),
            ),
            updates_ahead=ahead(published, mine, _UPDATE, _TICK),
            halt=halt,
            most_at_once=most_at_once(mine),
            evaluated=sum(one.about.endswith(WORTHY) for one in mine),
            requested=len(requests),
            filled=sum(update.status == "filled" for update in updates),
            positions=self.book.positions(),
            by_ledger=positions((update.symbol, update.change) for update in updates),
            lost=[end.id for _, end in ends if end.outcome.value not in _WELL],
            twice=twice(handled),
        )

    def _logged(self, kind: type[Logged]) -> list[Logged]:
        """Return what the ledger has of a type of events."""
        found = self.app.get_events(correlation=self.opened.correlation_id, type=kind)
        return [kind.model_validate(one.event.data) for one in found]

    # -- publishing

    def _publish_alert(self, kind: Kind, message: str) -> Event:
        alert = MarketAlert(kind=kind, urgency=1, message=message)
        return self.app.publish(self._caused(alert, priority=URGENT))

    def _caused(self, payload: Payload, priority: int = ROUTINE) -> Event:
        """Return an event that belongs to this session."""
        return Event(
            id=str(uuid4()),
            type=payload.event_type,
            source="/demo",
            data=payload.model_dump(mode="json"),
            correlationid=self.opened.correlation_id,
            causationid=self.opened.id,
            priority=priority,
        )

    # -- looking

    def _begun(self) -> int:
        return max((one.number for one in self.book.handled()), default=0)

    def _since(self, number: int) -> int:
        """Return how many events the trader has begun since then."""
        return sum(one.agent == trader.name for one in self.book.handled(after=number))

    def _waiting(self) -> int:
        """Return how many ticks wait for the trader."""
        return self.ours - len({one.event for one in self.book.handled() if one.type == _TICK})

    def _paused(self) -> list[str]:
        return [pause.reason for pause in self.app.pauses.list() if pause.name == trader.name]

    def _is_quiet(self) -> Callable[[], bool]:
        """Return what says whether the trader has begun nothing for a while."""
        seen, since = self._begun(), monotonic()

        def is_quiet() -> bool:
            nonlocal seen, since
            if self._since(seen):
                seen, since = self._begun(), monotonic()
            return monotonic() - since > QUIET

        return is_quiet

    def _is_time(self) -> bool:
        """Say whether the look at what is open, which is a long one, may be taken again."""
        if monotonic() < self._looked + INTERVAL:
            return False
        self._looked = monotonic()
        return True

    def _open(self) -> str | None:
        """Say what is still open."""
        return still_open(self.app, [self.opened])

    def _news(self, *, is_last: bool = False) -> None:
        """Tell what was handled since the last look; what is routine is counted, and told now and then."""
        rows = self.book.handled(after=self._last)
        self._last = rows[-1].number if rows else self._last
        for one in rows:
            if not _is_routine(one) and one.agent != supervisor.name:
                self.tell(f"  {one.agent:<10}{one.about}")
        self._routine.update(one.type for one in rows if _is_routine(one))
        if self._routine and (is_last or monotonic() > self._counted + COUNTED):
            ticks, updates = self._routine[_TICK], self._routine[_UPDATE]
            self.tell(f"  {trader.name:<10}... and {ticks} routine ticks, {updates} order updates")
            self._routine.clear()
            self._counted = monotonic()

    def _until(self, condition: Callable[[], bool], what: str) -> None:
        told = monotonic()

        def has_come() -> bool:
            nonlocal told
            if monotonic() > told + INTERVAL:
                self._news()
                told = monotonic()
            return condition()

        until(has_come, what, self.workers, self.deadline, self._open)


def _of_ours(ticks: Iterable[MarketTick]) -> int:
    return sum(tick.symbol in market.OURS for tick in ticks)


def _is_routine(one: Handled) -> bool:
    return one.type == _UPDATE or (one.type == _TICK and not one.about.endswith(WORTHY))
