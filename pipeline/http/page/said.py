"""What handlers say, as the page shows it: of each delivery how far it is, and the texts that it has written so far."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from ...ledger.notices.notice import Notice

#: Characters of a text's end that are shown.
SHOWN = 20_000


@dataclass
class Said:
    """What the newest attempt at a delivery has said.

    Attributes:
        fraction: how much is done, 0 to 1; None where nobody knows.
        doing: what is being done.
        texts: by their names.

    """

    delivery: str
    agent: str
    attempt: int
    fraction: float | None = None
    doing: str = ""
    texts: dict[str, str] = field(default_factory=dict)

    def hear(self, notice: Notice) -> None:
        """Take note of something that it says."""
        if notice.name is None:
            self.fraction, self.doing = notice.fraction, notice.text
        else:
            self.texts[notice.name] = (self.texts.get(notice.name, "") + notice.text)[-SHOWN:]


def said_of(notices: Iterable[Notice]) -> list[Said]:
    """Return what was said, by deliveries, in the order in which they began to say something."""
    found: dict[str, Said] = {}
    for notice in notices:
        one = found.get(notice.delivery)
        if one is None or one.attempt < notice.attempt:
            one = found[notice.delivery] = Said(notice.delivery, notice.agent, notice.attempt)
        if one.attempt == notice.attempt:
            one.hear(notice)
    return list(found.values())
