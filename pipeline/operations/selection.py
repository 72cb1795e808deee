"""Choosing what something is done to: ids, or what a query finds, or everything; exactly one of them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from ..core.errors import InvalidSelection


class Narrowing(Protocol):
    """A query that can say whether it leaves anything out: EventQuery, LetterQuery."""

    @property
    def narrows(self) -> bool:
        """Whether it says which ones at all."""


Query = TypeVar("Query", bound=Narrowing)


@dataclass(frozen=True)
class Selection(Generic[Query]):
    """What was chosen, made by choose().

    Attributes:
        query: what finds them; it finds all where everything was chosen.
        ids: these and no others, each once; then the query does not count.

    """

    query: Query
    ids: tuple[str, ...] | None = None


def choose(query: Query, ids: str | Iterable[str] | None = None, *, all: bool = False, says: str) -> Selection[Query]:
    """Return what somebody has chosen: an empty query alone is no choice, everything has to be asked for.

    Arguments:
        says: what to tell somebody who has chosen nothing, or in two ways, in the words of the caller.

    Raises InvalidSelection.

    """
    if (ids is not None) + query.narrows + all != 1:
        raise InvalidSelection(says)
    if ids is None:
        return Selection(query)
    return Selection(query, tuple(dict.fromkeys([ids] if isinstance(ids, str) else ids)))
