"""One run of an agent in a delivery, and what its steps are called."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta
from hashlib import sha256
from typing import Any, TypedDict

from ..agents.context import Context
from ..agents.waiting import MOST_LETTERS


class Reserve(TypedDict, total=False):
    """What a model request reserves from the budgets: tokens, and a cost in millionths."""

    tokens: int
    cost: int


class Asking(TypedDict, total=False):
    """How people are asked about a tool's call: what `ctx.ask` takes."""

    expires: float | timedelta | str | None
    n_of: int
    who: str | tuple[str, ...]


@dataclass
class Begun:
    """The runs of one name in a delivery, in the same step or outside of all.

    Attributes:
        number: how many have begun.
        going: how many go on.
        ended: how many have ended since there was none.
        beside: whether another run of the delivery went on since there was none of these.

    """

    number: int = 0
    going: int = 0
    ended: int = 0
    beside: bool = False


@dataclass(frozen=True)
class Run:
    """One run of an agent in a delivery.

    Attributes:
        name: how the names of its steps begin, the same each time that the delivery goes on.
        begun: the runs of its agent's name.

    """

    ctx: Context
    name: str
    reserve: dict[str, Any]
    ask: dict[str, Any] | bool
    begun: Begun

    async def step(self, what: str, function: Callable[..., Awaitable[Any]], *arguments: Any) -> Any:
        """Do something once."""
        return await self.ctx.step(short(f"{self.name}: {what}"), function, *arguments)


def short(name: str) -> str:
    """Return the name of a step, which is not too long for one."""
    if len(name) <= MOST_LETTERS:
        return name
    return f"{name[: MOST_LETTERS - 17]} {sha256(name.encode()).hexdigest()[:16]}"
