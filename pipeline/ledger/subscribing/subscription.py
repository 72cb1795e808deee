"""A subscription: the declaration of an agent that calls a URL, as the ledger keeps it."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from ...core.errors import without_passwords
from ...core.times import as_json_time


@dataclass(frozen=True)
class Subscription:
    """The declaration of an agent that calls a URL.

    Attributes:
        id: the agent's name.
        on: AMQP topic patterns.
        where: which of those events it wants, as JSON data; None for all.
        url: what is called with each event.
        priority: 1 to 10, the default priority of what it emits.
        max_concurrent: calls at once, over all workers.
        timeout: seconds that a call may take.
        retry: calls after the first one that has failed.
        since: the sequence number that it has begun with; None for the moment when it was added.
        signed: whether calls are signed.
        secret: what they are signed with; None also where it was not read.
        version: how often it was changed.
        created, changed: when it was added, and changed last.

    """

    id: str
    on: tuple[str, ...]
    url: str = field(repr=False)  # which may hold a secret
    where: Any = None
    priority: int = 5
    max_concurrent: int = 10
    timeout: float = 30.0
    retry: int = 3
    since: int | None = None
    signed: bool = False
    secret: str | None = field(default=None, repr=False)
    version: int = 0
    created: datetime | None = None
    changed: datetime | None = None

    def as_data(self) -> dict[str, Any]:
        """Return it as JSON data, without its secret and what may be one in its URL."""
        shown = {name: value for name, value in vars(self).items() if name != "secret"}
        times = {"created": as_json_time(self.created), "changed": as_json_time(self.changed)}
        return {**shown, "on": list(self.on), "url": without_passwords(self.url), **times}
