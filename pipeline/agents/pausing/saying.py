"""What handlers say while they work, to whoever looks on: how far they are, and texts that grow."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

from ...core.errors import InvalidStep
from ...ledger.notices.notice import LONGEST, Speaker
from ..strand import await_done

if TYPE_CHECKING:
    from ...core.event import Event
    from ...ledger.ledger import Ledger

#: Characters of a text's name.
LONGEST_NAME = 200
#: Seconds that a delivery which ends waits for what it has said to be written.
HEARD = 1.0


class Saying:
    """What handlers call on their context to say how it goes."""

    __slots__ = ("_has_said",)

    event: Event
    agent: str
    delivery_id: str
    attempt: int
    _ledger: Ledger | None
    _check_open: Callable[[str], None]

    def progress(self, fraction: float | None, text: str = "") -> None:
        """Say how far the work is, to those who look on: the page, and who follows the correlation over HTTP.

        It is kept for ten minutes beside the log, reaches no agent, and is lost when the ledger is away; without a
        ledger nobody hears of it. What is outside of steps says it again when the handler runs again.

        Arguments:
            fraction: how much is done, 0 to 1, what is beyond them counts as them; None where nobody knows.
            text: what is being done, up to 8,192 characters.

        Raises InvalidStep for what is no number or no text, PipelineError when the delivery has ended.

        """
        if fraction is not None:
            if isinstance(fraction, bool) or not isinstance(fraction, (int, float)) or math.isnan(fraction):
                raise InvalidStep(f"progress: {fraction!r} is no fraction: write a number of 0 to 1, or None")
            fraction = min(max(float(fraction), 0.0), 1.0)
        speaker = self._speaker("progress", text)
        if self._ledger is not None:
            self._ledger.notices.progress(speaker, fraction, text[:LONGEST])

    def stream(self, name: str, text: str) -> None:
        """Add to a text that grows while those look on, such as a model's answer, token by token; as `progress` does.

        Arguments:
            name: the text's name, 1 to 200 characters.
            text: what is added.

        Raises InvalidStep for what is no text, PipelineError when the delivery has ended.

        """
        if not isinstance(name, str) or not 0 < len(name) <= LONGEST_NAME:
            raise InvalidStep(f"stream: {name!r:.60} is no name: a text of 1 to {LONGEST_NAME} characters")
        speaker = self._speaker("stream", text)
        if self._ledger is not None:
            self._ledger.notices.add(speaker, name, text)

    def _say_all(self) -> None:
        """Have written what was said: who sees that the delivery has ended is to have heard it.

        Where that takes longer than HEARD the delivery ends before.
        """
        self._has_said = False
        if self._ledger is not None:
            await_done(self._ledger.notices.hurry(), HEARD)

    def _speaker(self, what: str, text: str) -> Speaker:
        if not isinstance(text, str):
            raise InvalidStep(f"{what}: {text!r:.60} is no text")
        self._check_open(f"ctx.{what}()")
        self._has_said = True
        return Speaker(self.event.correlation_id, self.delivery_id, self.agent, self.attempt)
