"""The verbs for those who ask, and wait for an answer."""

from __future__ import annotations

import asyncio
from functools import cached_property
from typing import TYPE_CHECKING, Any

from ..core.event import Payload
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
        have to answer; and what publish() raises.

        """
        event = self._one(what, data, **options)
        asked, agents = self._requests.prepared(event, timeout, durable=durable)
        sent = self.publish(asked)
        if durable:
            return sent.id
        return _first(self._requests.wait(sent, agents, timeout).result())

    async def arequest(
        self,
        what: Payload | str,
        data: Any = None,
        *,
        timeout: float = TIMEOUT,  # noqa: ASYNC109  # it travels with the request
        **options: Any,
    ) -> Any:
        """Do what request() does without blocking the event loop; any number may wait at once."""
        event = self._one(what, data, **options)
        asked, agents = await asyncio.to_thread(self._requests.prepared, event, timeout)
        sent = await self.apublish(asked)
        return _first(await asyncio.wrap_future(self._requests.wait(sent, agents, timeout)))

    def gather(
        self, what: Payload | str, data: Any = None, *, timeout: float = TIMEOUT, **options: Any
    ) -> dict[str, AgentResponse]:
        """Publish an event and wait for what all agents return that get it: their answers, by name.

        The answer of one that is dead has the status "failure", and the error as its result. Arguments and errors are
        those of request(), but for RequestFailed.
        """
        event = self._one(what, data, **options)
        asked, agents = self._requests.prepared(event, timeout)
        sent = self.publish(asked)
        return self._requests.wait(sent, agents, timeout, every=True).result()

    def reply(self, request: str) -> AgentResponse | None:
        """Return the answer to a request, by the event's id; None while there is none.

        Raises UnknownEvent, and RequestFailed when all who could have answered are dead.
        """
        return self._requests.reply(request)


def _first(answers: dict[str, AgentResponse]) -> AgentResponse:
    return next(iter(answers.values()))
