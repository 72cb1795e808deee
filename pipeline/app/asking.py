"""The verbs for those who ask, and wait for an answer."""

from __future__ import annotations

import asyncio
from contextlib import AbstractContextManager
from functools import cached_property
from typing import TYPE_CHECKING, Any

from ..core.event import Event, Payload
from ..core.observe import About
from ..core.times import time_limit
from ..families import AgentResponse
from .publishing import Publishing

if TYPE_CHECKING:
    from ..coordination.requests import Requests

#: Seconds that an answer is waited for.
TIMEOUT = 30.0


class Asking(Publishing):
    """The asking side of a Pipeline; everything here raises LedgerOff when there is no ledger."""

    @cached_property
    def _requests(self) -> Requests:
        from ..coordination.requests import Requests

        _ = self.bus.ledger  # or say that there is none
        return Requests(self.bus)

    def request(
        self, what: Payload | str, data: Any = None, *, timeout: float = TIMEOUT, durable: bool = False, **options: Any
    ) -> Any:
        """Publish an event and wait for what an agent returns that gets it: the first one that returns something.

        The answer is an AgentResponse: `result`, `agent_id`, `time`, `processing_time_ms`, and ids.

        Arguments:
            what: a typed payload, or an event type that `data` goes with.
            timeout: seconds to wait; an agent that has not begun by then does not begin.
            durable: return the event's id at once instead; reply() has the answer later.
            options: those of publish(): `targets` names the agents that are asked.

        Raises NoResponder when no agent listens to it, or no worker runs one now; RequestTimeout; RequestFailed with
        `code` and `retryable` when all who could answer are dead; WaitsForItself in a handler whose own worker would
        have to answer; InvalidEvent for a timeout of no time, or without an end; and what publish() raises.

        """
        timeout = timeout if durable else time_limit(timeout, "timeout")
        event = self._one(what, data, **options)
        with self._span(event, timeout):
            asked, agents = self._requests.prepared(event, timeout, durable=durable)
            sent = self.publish(asked)
            if durable:
                return sent.id
            return _first(self._requests.wait(sent, agents, timeout).result())

    def _span(self, event: Event, timeout: float) -> AbstractContextManager[About]:
        """Return what lets those hear of a request who listen."""
        self.bus.spans.look()
        return self.bus.spans.span("request", event=event, timeout=timeout)

    async def arequest(
        self,
        what: Payload | str,
        data: Any = None,
        *,
        timeout: float = TIMEOUT,  # noqa: ASYNC109  # it travels with the request
        **options: Any,
    ) -> Any:
        """Do what request() does without blocking the event loop; any number may wait at once."""
        timeout = time_limit(timeout, "timeout")
        event = self._one(what, data, **options)
        with self._span(event, timeout):
            asked, agents = await asyncio.to_thread(self._requests.prepared, event, timeout)
            sent = await self.apublish(asked)
            return _first(await asyncio.wrap_future(self._requests.wait(sent, agents, timeout)))

    def gather(
        self, what: Payload | str, data: Any = None, *, timeout: float = TIMEOUT, **options: Any
    ) -> dict[str, AgentResponse]:
        """Publish an event and wait for what all agents return that get it: their answers, by name.

        The answer of one that is dead has the status "failure", and the error as its result. Arguments and errors are
        those of request(), but for RequestFailed; RequestTimeout has those that have come as its `answers`.
        """
        timeout = time_limit(timeout, "timeout")
        event = self._one(what, data, **options)
        with self._span(event, timeout):
            asked, agents = self._requests.prepared(event, timeout)
            sent = self.publish(asked)
            return self._requests.wait(sent, agents, timeout, every=True).result()

    def call(self, capability: str, data: Any = None, *, timeout: float = TIMEOUT, **options: Any) -> AgentResponse:
        """Let the agent do something that can do it and has the most free capacity, and wait for its answer.

        Arguments:
            capability: its id, as in `capability("summarize")`.
            data: what it takes.

        Raises InvalidSelection for a capability that no agent has, InvalidEvent for data that is not what it takes,
        NoResponder when no agent that has it is there, and what request() raises.

        """
        type, agent = self._requests.capable(capability, data)
        found: AgentResponse = self.request(type, data, timeout=timeout, targets=[agent], **options)
        return found

    async def acall(
        self,
        capability: str,
        data: Any = None,
        *,
        timeout: float = TIMEOUT,  # noqa: ASYNC109  # it travels with the request
        **options: Any,
    ) -> AgentResponse:
        """Do what call() does without blocking the event loop."""
        type, agent = await asyncio.to_thread(self._requests.capable, capability, data)
        found: AgentResponse = await self.arequest(type, data, timeout=timeout, targets=[agent], **options)
        return found

    def reply(self, request: str) -> AgentResponse | None:
        """Return the answer to a request, by the event's id; None while there is none.

        Raises UnknownEvent, and RequestFailed when all who could have answered are dead.
        """
        return self._requests.reply(request)


def _first(answers: dict[str, AgentResponse]) -> AgentResponse:
    return next(iter(answers.values()))
