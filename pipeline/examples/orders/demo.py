"""The orders' demonstration: a worker is killed while a payment is made; the services' books say what came of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import Any
from uuid import uuid4

from pipeline import Event, Pipeline

from ..stage import Stage, Tell, stage, still_open
from ..workers import Worker, running, start, until
from .agents import OrderPlaced
from .picture import NOT_BEGUN, Seen, steps_of
from .services import EXPIRED, NOWHERE, Effect, Services
from .verdict import Verdict, judge, sold

MODULE = "pipeline.examples.orders.agents"
#: What the warehouse has at first, and what a piece costs, in cents.
STOCK = {"tea": 40, "coffee": 40, "jam": 40}
PRICES = {"tea": 450, "coffee": 890, "jam": 320}
#: What is ordered: a product, how many pieces, how it is paid, and where it goes.
ORDERS = (
    ("tea", 2, "card", "Lisbon"),
    ("coffee", 1, "card", "Oslo"),
    ("jam", 3, "invoice", "Kyoto"),
    ("tea", 1, "card", "Quito"),
    ("coffee", 2, f"{EXPIRED} card", "Accra"),
    ("jam", 1, "card", NOWHERE),
    ("tea", 4, "invoice", "Turin"),
    ("coffee", 1, "card", "Hanoi"),
)
#: Of which order the payment is made when the worker is killed, and which one the customer places twice.
HELD, TWICE = 2, 1
#: Seconds between two looks at what steps have come to.
INTERVAL = 0.1
#: Outcomes that a step goes on from.
_OPEN = (NOT_BEGUN, "queued", "running", "retrying", "parked")


@dataclass(frozen=True)
class Story:
    """One order, and what has become of it.

    Attributes:
        flow: the id of its saga.
        status: what the bus says that it is.
        mermaid: the saga's picture, as a text for Mermaid.

    """

    order: OrderPlaced
    flow: str
    status: str
    reason: str
    steps: Sequence[Seen]
    mermaid: str
    effects: Sequence[Effect]

    def as_data(self) -> dict[str, Any]:
        """Return it as JSON data."""
        return {
            **self.order.model_dump(mode="json"),
            "flow": self.flow,
            "status": self.status,
            "reason": self.reason,
            "steps": [one.as_data() for one in self.steps],
            "effects": [{"what": effect.what, "asked": effect.asked} for effect in self.effects],
            "mermaid": self.mermaid,
        }


@dataclass(frozen=True)
class Report:
    """What the demonstration showed.

    Attributes:
        killed: the process id of the worker that was killed.
        held: the order whose payment was being made then.
        in_hand: how many steps the worker ran when it was killed.
        stock: how many pieces of each product there were before, and are now.
        published: how many events asked for the orders: one came twice.

    """

    directory: Path
    config: Path
    seconds: float
    killed: int
    held: str
    in_hand: int
    published: int
    stories: Sequence[Story]
    stock: Mapping[str, tuple[int, int]]
    verdict: Verdict

    @property
    def sold(self) -> Mapping[str, int]:
        """How many pieces of each product were delivered."""
        orders = {story.order.order_id: (story.order.product_id, story.order.quantity) for story in self.stories}
        return sold(orders, self.verdict.delivered)

    @property
    def astray(self) -> list[str]:
        """The products of which the warehouse has more or less than what was delivered leaves."""
        return [name for name, (before, now) in self.stock.items() if before - now != self.sold.get(name, 0)]

    @property
    def contradicted(self) -> list[str]:
        """The orders of which the bus says something else than the services' books."""
        said = {"completed": self.verdict.delivered, "compensated": self.verdict.undone}
        return [one.order.order_id for one in self.stories if one.order.order_id not in said.get(one.status, ())]

    @property
    def hardest(self) -> Story:
        """The order of which most was undone."""
        return max(self.stories, key=lambda story: sum(one.undone is not None for one in story.steps))

    def as_data(self) -> dict[str, Any]:
        """Return the report as JSON data."""
        verdict = self.verdict
        return {
            "directory": str(self.directory),
            "config": str(self.config),
            "seconds": round(self.seconds, 3),
            "killed": self.killed,
            "held": self.held,
            "in_hand": self.in_hand,
            "published": self.published,
            "orders": [story.as_data() for story in self.stories],
            "delivered": [*verdict.delivered],
            "undone": [*verdict.undone],
            "twice": [*verdict.twice],
            "forgotten": [*verdict.forgotten],
            "backwards": [*verdict.backwards],
            "contradicted": self.contradicted,
            "effects": verdict.done,
            "asked_again": verdict.asked_again,
            "stock": {
                name: {"before": before, "now": now, "sold": self.sold.get(name, 0)}
                for name, (before, now) in self.stock.items()
            },
        }


def run(*, directory: Path | None = None, timeout: float = 60.0, tell: Tell = lambda text: None) -> Report:
    """Place orders, kill the worker in the middle of a payment, and return what the services' books say.

    Arguments:
        directory: where all state goes; default a new temporary directory, which is kept.
        timeout: seconds for everything together.
        tell: called with what happens, when it happens.

    Raises DemoFailed with the end of a worker's log.

    """
    begun = monotonic()
    scene = stage("orders", directory)
    services = Services(scene.place / "orders")
    environment = {"PIPELINE_CONFIG": str(scene.config), "ORDERS_STATE": str(scene.place / "orders")}
    services.fill(STOCK)
    before = services.stock()
    with running(scene.app, scene.place, 1, environment, MODULE) as workers:
        play = _Play(scene, services, environment, workers, begun + timeout, tell)
        play.begin()
        killed, in_hand = play.kill_the_worker()
        stories = play.end()
    now = services.stock()
    orders = [story.order.order_id for story in stories]
    return Report(
        directory=scene.place,
        config=scene.config,
        seconds=monotonic() - begun,
        killed=killed,
        held=orders[HELD],
        in_hand=in_hand,
        published=len(play.events),
        stories=stories,
        stock={name: (pieces, now[name]) for name, pieces in before.items()},
        verdict=judge(orders, services.effects(orders)),
    )


def orders_of(run: str) -> list[OrderPlaced]:
    """Return the orders of a run, whose text makes their ids other ones than those of runs before."""
    return [
        OrderPlaced(
            order_id=f"{run}-{number}",
            product_id=product,
            quantity=pieces,
            amount=pieces * PRICES[product],
            payment_method=method,
            shipping_address=address,
        )
        for number, (product, pieces, method, address) in enumerate(ORDERS, start=1)
    ]


@dataclass
class _Play:
    """What happens, one act after the other; each waits for what it shows, and tells what steps come to meanwhile."""

    scene: Stage
    services: Services
    environment: Mapping[str, str]
    workers: list[Worker]
    deadline: float
    tell: Tell
    orders: Sequence[OrderPlaced] = field(default_factory=lambda: orders_of(uuid4().hex[:4]))
    events: Sequence[Event] = ()
    _told: set[tuple[str, str]] = field(default_factory=set)
    _looked: float = 0.0

    @property
    def app(self) -> Pipeline:
        return self.scene.app

    def begin(self) -> None:
        self.workers[0].wait_until_ready(self.deadline)
        self.tell(f"A worker runs, the process {self.workers[0].pid}.")
        self.services.hold(self.orders[HELD].order_id)
        self.events = self.app.publish_many([*self.orders, self.orders[TWICE]])
        self.tell(
            f"{len(self.orders)} orders are placed, one of them twice, as a customer does who clicks once more. "
            "Their steps,\nas they come:"
        )

    def kill_the_worker(self) -> tuple[int, int]:
        """Kill the worker when it has made a payment that nobody knows of yet; return its process id, and its steps."""
        held = self.orders[HELD].order_id
        self._until(lambda: any(effect.what == "pay" for effect in self.services.effects([held])), "the payment")
        in_hand = sum(outcome == "running" for _, flow in self._flows() for outcome in _outcomes(steps_of(flow)))
        (victim,) = self.workers
        victim.kill()
        self.services.let_go()
        work = "1 step" if in_hand == 1 else f"{in_hand} steps"
        self.tell(
            f"KILLED: the worker {victim.pid} (kill -9), with {work} in hand: the money for order {held} is taken, and "
            "nobody\nhas written that down. What the worker had sent last is sent once more after some seconds:\n"
            "nobody else knows whether the broker has it."
        )
        start(self.workers, self.app, self.scene.place, self.environment, MODULE)
        self.tell(
            f"AGAIN: another worker starts, {self.workers[-1].pid}. What was in hand is asked for again, with the same "
            "key;\nwhat a service has done it does not do again."
        )
        return victim.pid, in_hand

    def end(self) -> Sequence[Story]:
        """Wait until nothing is open, and return what has become of the orders."""
        self._until(lambda: self._open() is None, "the end")
        self._news()
        self.tell("DONE: nothing is left to do.")
        return [self._story(order, flow) for order, flow in self._flows()]

    def _story(self, order: OrderPlaced, flow: Any) -> Story:
        effects = self.services.effects([order.order_id])
        return Story(order, flow.id, flow.status, flow.reason or "", steps_of(flow), flow.mermaid, effects)

    def _flows(self) -> Iterator[tuple[OrderPlaced, Any]]:
        """Yield the orders whose saga has begun, with it."""
        found = {flow.event_id: flow.id for flow in self.app.flows.list(name="order")}
        # The order that came twice has one saga, of whichever event came first.
        for number, order in enumerate(self.orders):
            events = (
                [self.events[number], *self.events[len(self.orders) :]] if number == TWICE else [self.events[number]]
            )
            id = next((found[event.id] for event in events if event.id in found), None)
            if id is not None:
                yield order, self.app.flows.show(id)

    def _news(self) -> None:
        """Tell what steps have come to since the last look."""
        news = [
            (at, order.order_id, agent, what)
            for order, flow in self._flows()
            for at, agent, what in _lines(steps_of(flow))
            if (order.order_id, agent) not in self._told
        ]
        for _, order_id, agent, what in sorted(news):
            self._told.add((order_id, agent))
            self.tell(f"  {order_id:<8}{agent:<10}{what}")

    def _open(self) -> str | None:
        """Say what is still open."""
        return still_open(self.app, self.events)

    def _until(self, condition: Callable[[], bool], what: str) -> None:
        def has_come() -> bool:
            if monotonic() > self._looked + INTERVAL:
                self._news()
                self._looked = monotonic()
            return condition()

        until(has_come, what, self.workers, self.deadline, self._open)


def _outcomes(steps: Sequence[Seen]) -> Iterator[str]:
    """Yield the outcomes of steps, and of what undoes them."""
    for one in steps:
        yield one.outcome
        if one.undone is not None:
            yield one.undone


def _lines(steps: Sequence[Seen]) -> Iterator[tuple[int, str, str]]:
    """Yield when each step has ended, who has done it, and what it has come to."""
    for one in steps:
        if one.outcome not in _OPEN:
            is_done = one.outcome == "succeeded"
            yield one.ended, one.name, "done" if is_done else f"{one.outcome.upper()}: {one.says}"
        if one.undone not in (None, *_OPEN):
            yield (
                one.undone_at,
                one.undo,
                f"done: {one.name} is undone" if one.undone == "succeeded" else one.undone.upper(),
            )
