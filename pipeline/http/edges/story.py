"""What happens with one correlation, told in the events of the AG-UI protocol; no clock and no I/O.

Source: https://docs.ag-ui.com/concepts/events, and the schema of its version 1.0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal, NamedTuple

from ...core.outcome import OPEN, Outcome
from ...core.times import as_json_time
from ...history.events import Recorded
from ...history.tree import DeliveryNode, EventNode, Trace
from ...ledger.log import BEGIN, Position
from ...ledger.notices.notice import Notice
from ...ledger.waiting.approval import Proposal

#: How a run stands: something is still to come; it waits for people alone; somebody has stopped it; all is done.
State = Literal["open", "waiting", "cancelled", "settled"]
#: Dead deliveries that an error tells of.
_TOLD = 3


class Seen(NamedTuple):
    """What a look at the ledger has found.

    Attributes:
        records: events since the look before.
        notices: what handlers have said since.
        waits_for: what people have to decide, where the state is "waiting".

    """

    records: Sequence[Recorded]
    notices: Sequence[Notice]
    tree: Trace
    state: State
    waits_for: Sequence[Proposal] = ()


@dataclass
class Story:
    """What a reader has been told so far of a run.

    Attributes:
        thread, run: the ids that the reader knows it by.
        place, heard: how far the log was read, and what handlers say.
        is_over: whether the end was told.

    """

    thread: str
    run: str
    place: Position = BEGIN
    heard: int = 0
    is_over: bool = False
    _begun: dict[str, str] = field(default_factory=dict)  # the name of each step that goes on, by its delivery
    _done: set[str] = field(default_factory=set)
    _texts: dict[str, tuple[str, int]] = field(default_factory=dict)  # of each that grows, whose it is
    _state: State = "open"

    def begin(self) -> list[dict[str, Any]]:
        """Return how it begins."""
        return [{"type": "RUN_STARTED", **self._ids()}]

    def tell(self, seen: Seen) -> list[dict[str, Any]]:
        """Return what is new."""
        late = self._done.copy()  # what a handler says may come a moment after its end
        found = [_published(record) for record in seen.records]
        deliveries = [(node, one) for node in seen.tree for one in node.deliveries]
        for event, delivery in deliveries:
            found += self._step_begun(event, delivery)
        for notice in seen.notices:
            found += self._said(notice)
        for _, delivery in deliveries:
            found += self._step_done(delivery)
        found += self._texts_done(late)
        if seen.records:
            self.place = seen.records[-1].position
        if seen.notices:
            self.heard = seen.notices[-1].seq
        is_quiet = seen.state == self._state and not found
        self._state = seen.state
        return found if seen.state == "open" or not is_quiet else self._end(seen, [one for _, one in deliveries])

    # -- deliveries are steps

    def _step_begun(self, event: EventNode, delivery: DeliveryNode) -> list[dict[str, Any]]:
        if delivery.started is None or delivery.id in self._begun or delivery.id in self._done:
            return []
        name = self._begun[delivery.id] = f"{delivery.agent} {delivery.id}"
        about = {"agent": delivery.agent, "delivery": delivery.id, "event": event.id, "eventType": event.type}
        return [{"type": "STEP_STARTED", "timestamp": _ms(delivery.started), "stepName": name, "metadata": about}]

    def _step_done(self, delivery: DeliveryNode) -> list[dict[str, Any]]:
        if delivery.outcome in OPEN or delivery.id not in self._begun:
            return []
        self._done.add(delivery.id)
        about = {"outcome": delivery.outcome.value, "attempts": delivery.attempts}
        if delivery.outcome is not Outcome.SUCCEEDED and delivery.error:
            about["error"] = delivery.error
        at = {} if delivery.ended is None else {"timestamp": _ms(delivery.ended)}
        return [{"type": "STEP_FINISHED", **at, "stepName": self._begun.pop(delivery.id), "metadata": about}]

    # -- what handlers say

    def _said(self, notice: Notice) -> list[dict[str, Any]]:
        at = _ms(notice.at)
        if notice.name is None:
            progress = {"agent": notice.agent, "fraction": notice.fraction, "text": notice.text}
            id = f"{notice.delivery}/progress"
            shown = {"messageId": id, "activityType": "progress", "content": progress, "replace": True}
            return [{"type": "ACTIVITY_SNAPSHOT", "timestamp": at, **shown}]
        whose, id = (notice.delivery, notice.attempt), f"{notice.delivery}/{notice.attempt}/{notice.name}"
        found: list[dict[str, Any]] = []
        if id not in self._texts:
            others = [one for one, other in self._texts.items() if other[0] == notice.delivery and other != whose]
            found += [self._text_done(one) for one in others]  # an earlier attempt has failed
            self._texts[id] = whose
            about = {"role": "assistant", "name": notice.agent, "metadata": {"text": notice.name}}
            found.append({"type": "TEXT_MESSAGE_START", "timestamp": at, "messageId": id, **about})
        if notice.text:
            found.append({"type": "TEXT_MESSAGE_CONTENT", "timestamp": at, "messageId": id, "delta": notice.text})
        return found

    def _texts_done(self, deliveries: set[str]) -> list[dict[str, Any]]:
        ended = [id for id, (delivery, _) in self._texts.items() if delivery in deliveries]
        return [self._text_done(id) for id in ended]

    def _text_done(self, id: str) -> dict[str, Any]:
        del self._texts[id]
        return {"type": "TEXT_MESSAGE_END", "messageId": id}

    # -- the end

    def _end(self, seen: Seen, deliveries: Sequence[DeliveryNode]) -> list[dict[str, Any]]:
        self.is_over = True
        found = [self._text_done(id) for id in list(self._texts)]
        found += [{"type": "STEP_FINISHED", "stepName": name} for name in self._begun.values()]
        finished = {"type": "RUN_FINISHED", **self._ids()}
        if seen.state == "waiting":
            return [*found, {**finished, "outcome": {"type": "interrupt", "interrupts": _interrupts(seen.waits_for)}}]
        if seen.state == "cancelled":
            return [*found, {**finished, "outcome": {"type": "cancelled"}}]
        if dead := [one for one in deliveries if one.outcome is Outcome.DEAD]:
            said = "; ".join(f"{one.agent}: {one.error}" for one in dead[:_TOLD])
            more = f"; and {len(dead) - _TOLD} more" if len(dead) > _TOLD else ""
            return [*found, {"type": "RUN_ERROR", "message": said + more, "code": "dead"}]
        return [*found, {**finished, "outcome": {"type": "success"}}]

    def _ids(self) -> dict[str, str]:
        return {"threadId": self.thread, "runId": self.run}


def _published(record: Recorded) -> dict[str, Any]:
    return {"type": "CUSTOM", "timestamp": _ms(record.recorded), "name": "event", "value": record.as_answer()}


def _interrupts(proposals: Sequence[Proposal]) -> list[dict[str, Any]]:
    found = []
    for one in proposals:
        about: dict[str, Any] = {"id": one.id, "reason": one.action}
        if one.message is not None:
            about["message"] = one.message
        if isinstance(one.schema, dict):
            about["responseSchema"] = one.schema
        if one.expires is not None:
            about["expiresAt"] = as_json_time(one.expires)
        found.append({**about, "metadata": {"agent": one.agent, "args": one.args}})
    return found


def _ms(when: datetime) -> int:
    return int(when.timestamp() * 1000)
