"""Many events at once: one that the broker refuses for itself does not hold up the others."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import TYPE_CHECKING

from ..core.errors import BrokerUnavailable, EventRefused, QueueConflict
from ..core.event import Encoded

if TYPE_CHECKING:
    from .publisher import Publisher


@dataclass
class Sent:
    """What became of events that were to be sent.

    Attributes:
        taken: those that the broker has.
        refused: those that it will never take, each with the reason.
        waiting: those that it does not take now.
        trouble: why not.

    """

    taken: list[Encoded] = field(default_factory=list)
    refused: list[tuple[Encoded, str]] = field(default_factory=list)
    waiting: list[Encoded] = field(default_factory=list)
    trouble: BrokerUnavailable | QueueConflict | None = None


def send_apart(publisher: Publisher, batch: Sequence[Encoded], timeout: float | None = None) -> Sent:
    """Send events; what is wrong with one of them, or with the queue that it is for, is its own.

    Arguments:
        timeout: seconds for each message to the broker; default the setting `publish_timeout`.

    """
    sent = Sent()
    is_away = False
    for group in _by_address(batch):
        if is_away:
            sent.waiting += group
            continue
        _send(publisher, group, timeout, sent)
        is_away = sent.trouble is not None and not sent.trouble.answered
    return sent


def _by_address(batch: Sequence[Encoded]) -> Iterator[Sequence[Encoded]]:
    """Return what goes to everybody together, and what goes to the same agents: a queue may be in trouble too."""

    def address(encoded: Encoded) -> tuple[str, ...]:
        return encoded.event.targets if encoded.agent is None else (encoded.agent,)

    return (list(group) for _, group in groupby(sorted(batch, key=address), key=address))


def _send(publisher: Publisher, batch: Sequence[Encoded], timeout: float | None, sent: Sent) -> None:
    try:
        publisher.send_encoded(batch, timeout=timeout, patient=False)
    except EventRefused as exc:
        if len(batch) == 1:
            sent.refused.append((batch[0], str(exc)))
            return
        # Those that it took before are sent twice then: their ids stay, and the inbox knows them.
        middle = len(batch) // 2
        for half in (batch[:middle], batch[middle:]):
            if sent.trouble is None or sent.trouble.answered:
                _send(publisher, half, timeout, sent)
            else:
                sent.waiting += half
    except (BrokerUnavailable, QueueConflict) as exc:
        sent.waiting += batch
        sent.trouble = exc
    else:
        sent.taken += batch
