"""Where a worker is killed on purpose, and what is said in a handler's place."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from celery.exceptions import WorkerTerminate

from ..core.errors import ConfigError, nearest
from ..core.times import pause
from ..delivery import steps
from ..delivery.request import DeliveryRequest
from ..delivery.short.way import ShortWay

if TYPE_CHECKING:
    from ..agents.agent import Agent
    from ..app.app import Pipeline

BEFORE_HANDLER, AFTER_HANDLER, AFTER_COMMIT, BEFORE_ACK = POINTS = (
    "before_handler",
    "after_handler",
    "after_commit",
    "before_ack",
)


class Killed(WorkerTerminate):  # type: ignore[misc]  # celery's classes are untyped
    """The worker's process is gone: an order to end, which no part of a delivery takes for a failure."""


class Crashes:
    """Stands at the points of a delivery at which a test may let its worker be killed."""

    def __init__(self, app: Pipeline) -> None:
        self._app = app
        self._planned: Counter[tuple[str, str]] = Counter()
        self._answers: dict[str, Any] = {}
        self._undo: list[Callable[[], None]] = []
        #: Whether the worker is killed at a point of an agent's delivery; what is told of each success; for how many
        #: seconds a handler runs.
        self.kills: Callable[[str, str], bool] = lambda agent, point: False
        self.succeeds: Callable[[Any], object] = bool
        self.takes: Callable[[str], float] = lambda agent: 0.0

    def plan(self, agent: str, at: str, times: int) -> None:
        """Let so many of an agent's deliveries end there."""
        if at not in POINTS:
            raise ConfigError(f"crash: at={at!r} is no point of a delivery; {nearest(at, POINTS)}")
        self._planned[self._app.agents[agent].name, at] += times

    def reply(self, agent: str, answer: Any) -> None:
        """Let an agent answer with something, instead of calling its handler."""
        self._answers[self._app.agents[agent].name] = answer

    def _at(self, point: str, agent: str) -> None:
        if self._planned[agent, point] > 0:
            self._planned[agent, point] -= 1
            raise Killed(1)
        if self.kills(agent, point):
            raise Killed(1)

    # -- the points

    def begin(self) -> None:
        """Stand there."""
        self._replace(steps, "call", self._calling)
        self._replace(DeliveryRequest, "acknowledge", self._acknowledging)
        self._replace(ShortWay, "_end", self._ending)
        for books in {
            id(one.books): one.books for one in self._app.celery.tasks.values() if hasattr(one, "books")
        }.values():
            self._replace(books, "succeed", self._succeeding)
            self._replace(books, "succeed_all", self._succeeding_all)

    def end(self) -> None:
        """Go away."""
        while self._undo:
            self._undo.pop()()

    def _replace(self, owner: Any, name: str, around: Callable[[Any], Any]) -> None:
        is_own, before = name in vars(owner), getattr(owner, name)
        setattr(owner, name, around(before))
        self._undo.append(lambda: setattr(owner, name, before) if is_own else delattr(owner, name))

    def _calling(self, call: Any) -> Any:
        def called(agent: Agent, arguments: tuple[Any, ...], loop: Any) -> Any:
            self._at(BEFORE_HANDLER, agent.name)
            if seconds := self.takes(agent.name):
                pause(seconds)
            if agent.name in self._answers:
                answer = self._answers[agent.name]
                if isinstance(answer, BaseException):
                    raise answer
                result = answer(*arguments) if callable(answer) else answer
            else:
                result = call(agent, arguments, loop)
            self._at(AFTER_HANDLER, agent.name)
            return result

        return called

    def _succeeding(self, succeed: Any) -> Any:
        def succeeded(delivery: Any, *more: Any, **named: Any) -> Any:
            emitted = succeed(delivery, *more, **named)
            self.succeeds(delivery)
            self._at(AFTER_COMMIT, delivery.agent)
            return emitted

        return succeeded

    def _succeeding_all(self, succeed: Any) -> Any:
        def succeeded(ended: Any) -> Any:
            found = succeed(ended)
            for one in ended:
                self.succeeds(one[0])
                self._at(AFTER_COMMIT, one[0].agent)
            return found

        return succeeded

    def _acknowledging(self, acknowledge: Any) -> Any:
        def acknowledged(request: Any) -> None:
            self._at(BEFORE_ACK, request.task.agent.name)
            acknowledge(request)

        return acknowledged

    def _ending(self, end: Any) -> Any:
        def ended(way: Any, taken: Any) -> None:
            self._at(BEFORE_ACK, taken.simple.agent.name)
            end(way, taken)

        return ended
