"""Events of which the broker refuses some: whichever they are, the others are sent."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from hypothesis import given
from hypothesis import strategies as st

from pipeline.core.errors import BrokerUnavailable, EventRefused
from pipeline.core.event import Encoded, new_event
from pipeline.publishing.apart import send_apart
from pipeline.publishing.publisher import Publisher


class Broker:
    """Takes a batch as RabbitMQ does: up to the first event that it refuses; some agents' queues take nothing."""

    def __init__(self, refused: set[str], troubled: set[str], away_after: int) -> None:
        self.refused = refused
        self.troubled = troubled
        self.away_after = away_after
        self.has: set[str] = set()

    def send_encoded(self, batch: Sequence[Encoded], **_: Any) -> None:
        self.away_after -= 1
        if self.away_after < 0:
            raise BrokerUnavailable("away")
        for encoded in batch:
            if encoded.agent in self.troubled:
                unavailable = BrokerUnavailable("the queue has other arguments")
                unavailable.answered = True
                raise unavailable
            if encoded.event.id in self.refused:
                raise EventRefused(encoded.event.id)
            self.has.add(encoded.event.id)


def event(number: int, agent: str | None) -> Encoded:
    one = new_event("order.placed", number, source="/test", id=f"e{number}")
    return Encoded(one, b"", agent)


@given(
    agents=st.lists(st.sampled_from([None, "billing", "stock"]), max_size=20),
    refused=st.sets(st.integers(0, 20)),
    troubled=st.sets(st.sampled_from(["billing", "stock"])),
    away_after=st.one_of(st.just(1000), st.integers(0, 10)),
)
def test_each_event_is_taken_refused_or_waits_and_nobody_pays_for_another(
    agents: list[str | None], refused: set[int], troubled: set[str], away_after: int
) -> None:
    batch = [event(number, agent) for number, agent in enumerate(agents)]
    broker = Broker({f"e{number}" for number in refused}, troubled, away_after)
    sent = send_apart(cast(Publisher, broker), batch)
    taken = {one.event.id for one in sent.taken}
    set_aside = {one.event.id for one, _ in sent.refused}
    waiting = {one.event.id for one in sent.waiting}
    assert len(sent.taken) + len(sent.refused) + len(sent.waiting) == len(batch)
    assert taken | set_aside | waiting == {one.event.id for one in batch}
    assert taken <= broker.has
    assert set_aside <= broker.refused
    assert (sent.trouble is None) == (not waiting)
    if away_after == 1000:
        assert waiting == {one.event.id for one in batch if one.agent in troubled}
        assert set_aside == {one.event.id for one in batch if one.agent not in troubled} & broker.refused
