"""Dead letters: deliveries that their agents gave up, to be looked at, given back to the agent, or dropped."""

from __future__ import annotations

import builtins
import logging
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from enum import Enum
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple, Unpack

import orjson
from sqlalchemy import func, select, tuple_

from ..agents.payloads import payload_of, plain
from ..core.errors import InvalidAgent, InvalidSelection, TreeWasCancelled, UnknownEvent
from ..core.event import Encoded, Event, Payload
from ..core.observe import Log
from ..core.times import as_json_time, moment
from ..ledger.database.rows import chunks
from ..ledger.database.tables import deliveries, events
from ..ledger.deliveries import DEAD
from .changes import BATCH, Changed, Drop, Requeue, belongs, change, letters_of
from .letters import IDS, LETTERS, DeadLetter, Group, LetterFilters, LetterQuery, letter_of, place_of, whole_error
from .selection import Selection, choose

if TYPE_CHECKING:
    from ..bus import Bus

logger = Log(logging.getLogger(__name__))

#: The fewest characters of an id that stand for it.
SHORTEST_PREFIX = 8
ID_LENGTH = 36
WHICH = "say which dead letters: ids, or a filter (agent=, error=, event_type=, older_than=), or all=True"


class Unset(Enum):
    """The type of UNSET."""

    UNSET = "unset"


#: No new payload was given; None is one.
UNSET = Unset.UNSET


class Count(NamedTuple):
    """How many dead letters an agent has, and since when."""

    number: int
    oldest: datetime

    def as_data(self) -> dict[str, Any]:
        """Return it as JSON data."""
        return {"number": self.number, "oldest": as_json_time(self.oldest)}


class DeadLetters:
    """The dead letters of an app's ledger."""

    def __init__(self, bus: Bus) -> None:
        """Take what the app's rooms share; raises LedgerOff when there is no ledger."""
        self._bus = bus
        self._ledger = bus.ledger

    def list(self, *, limit: int = 100, after: str | None = None, **filters: Unpack[LetterFilters]) -> list[DeadLetter]:
        """Return dead letters, the newest first.

        Arguments:
            agent: whose they are.
            error: a part of the error; upper and lower case are the same.
            event_type: a topic pattern.
            older_than: a timedelta: only those that were given up longer ago.
            same_error: the error as a whole.
            limit: how many to return at most.
            after: the cursor of the last one of the page before.

        Raises InvalidPattern, and InvalidSelection when `after` is no cursor.

        """
        return self.find(LetterQuery(**filters), limit=limit, after=after)

    def find(self, query: LetterQuery, *, limit: int = 100, after: str | None = None) -> builtins.list[DeadLetter]:
        """Do what list() does, for those who have a query."""
        order = (deliveries.c.ended, deliveries.c.id)
        statement = query.narrow(IDS).order_by(*(column.desc() for column in order))
        place = place_of(after)
        if place is not None:
            statement = statement.where(tuple_(*order) < tuple_(*place))
        if query.event_type is None:
            statement = statement.limit(max(limit, 0))
        with self._ledger.database.reading() as connection:
            rows = connection.execute(statement)
            ids = list(islice((row.id for row in rows if query.accepts(row.type)), max(limit, 0)))
            return [letter for some in chunks(ids, BATCH) for letter in letters_of(connection, some)]

    def get(self, id: str) -> DeadLetter:
        """Return one dead letter by its delivery's id, or by the beginning of that.

        Raises UnknownEvent when there is none, when it is no longer dead, or when several ids begin like that.
        """
        if len(id) < SHORTEST_PREFIX:
            raise UnknownEvent(f"{id!r} is too short for a delivery's id; write at least {SHORTEST_PREFIX} characters")
        wanted = id.lower()
        is_whole = len(wanted) >= ID_LENGTH
        same = deliveries.c.id == wanted if is_whole else deliveries.c.id.startswith(wanted, autoescape=True)
        with self._ledger.database.reading() as connection:
            rows = connection.execute(LETTERS.where(same).limit(2)).all()
            if len(rows) == 1:
                return letter_of(rows[0])
            outcome = connection.execute(select(deliveries.c.outcome).where(deliveries.c.id == wanted)).scalar()
        if rows:
            raise UnknownEvent(f"several dead letters begin with {id!r}; write more of the id")
        if outcome:
            raise UnknownEvent(f"delivery {id} is {outcome}, not dead")
        raise UnknownEvent(f"there is no dead letter {id!r}; list them to see their ids")

    def count(self) -> dict[str, Count]:
        """Return the number and the age of the dead letters of each agent that has any."""
        columns = deliveries.c.agent, func.count(), func.min(deliveries.c.ended)
        query = select(*columns).where(DEAD).group_by(deliveries.c.agent).order_by(deliveries.c.agent)
        with self._ledger.database.reading() as connection:
            return {agent: Count(number, moment(oldest)) for agent, number, oldest in connection.execute(query)}

    def groups(self, *, limit: int = 100) -> builtins.list[Group]:
        """Return dead letters by agent and error, the largest groups first.

        Arguments:
            limit: how many groups to return at most.

        """
        number, ended, id = func.count(), deliveries.c.ended, deliveries.c.id
        columns = deliveries.c.agent, whole_error, number, func.min(ended), func.max(ended), func.min(id)
        query = select(*columns).where(DEAD).group_by(deliveries.c.agent, whole_error)
        ordered = query.order_by(number.desc(), deliveries.c.agent, whole_error).limit(max(limit, 0))
        with self._ledger.database.reading() as connection:
            rows = connection.execute(ordered).all()
        return [Group(agent, error, n, moment(first), moment(last), one) for agent, error, n, first, last, one in rows]

    def number(self, chosen: Selection[LetterQuery]) -> int:
        """Return how many dead letters a selection has."""
        return len(self._ids(chosen))

    # -- changing them

    def requeue(
        self,
        ids: str | Iterable[str] | None = None,
        *,
        all: bool = False,
        data: Any = UNSET,
        from_step: str | None = None,
        by: str = "",
        progress: Callable[[int], None] | None = None,
        **filters: Unpack[LetterFilters],
    ) -> Changed:
        """Give dead letters back to their agents, with all their attempts before them; nobody else gets them.

        Arguments:
            ids: ids of deliveries, or their beginnings; instead of them a filter (as in list()), or all=True.
            data: the event's data for this delivery instead of what was published; for exactly one id. All its steps
                are done again then.
            from_step: a step (`ctx.step`) that is done again, with all that were begun after it; default none is.
            by: who does it, for the audit event `delivery.requeued`.
            progress: called with the number of those that were looked at, after each batch.

        Raises InvalidSelection, UnknownEvent, TreeWasCancelled for one of `ids` (of others such ones are skipped: their
        agents would be refused them), and for `data` InvalidEvent, EventTooLarge or InvalidAgent (the agent is
        not declared in this process, so nobody can say whether the data suits it); then nothing was changed.

        """
        chosen = choose(LetterQuery(**filters), ids, all=all, says=WHICH)
        return self.requeue_chosen(chosen, data=data, from_step=from_step, by=by, progress=progress)

    def requeue_chosen(
        self,
        chosen: Selection[LetterQuery],
        *,
        data: Any = UNSET,
        from_step: str | None = None,
        by: str = "",
        progress: Callable[[int], None] | None = None,
    ) -> Changed:
        """Do what requeue() does, for those who have a selection."""
        if data is not UNSET and chosen.ids is None:
            raise InvalidSelection("data: one payload is for one dead letter; give its id")
        ids = self._ids(chosen)
        if chosen.ids is not None:
            self._check_not_cancelled(ids)
        edited = None if data is UNSET else self._edit(ids, data)
        changed = change(self._bus, Requeue(self._bus, by, edited, from_step), ids, progress)
        if not changed.sent:
            logger.warning("the broker is away: what was requeued is sent by a worker as soon as it is back")
        return changed

    def _check_not_cancelled(self, ids: Sequence[str]) -> None:
        """Raise TreeWasCancelled for deliveries that would be refused at once."""
        trees = self._ledger.waiting.trees
        with self._ledger.database.reading() as connection:
            for some in chunks(ids, BATCH):
                rows = connection.execute(
                    select(deliveries.c.id, events.c.correlation, events.c.causation, events.c.id)
                    .join(events, events.c.id == deliveries.c.event_id)
                    .where(deliveries.c.id.in_(some), deliveries.c.replay.is_(None))
                )
                for id, *keys in rows:
                    if (found := trees.of(connection, *keys)) is not None:
                        raise TreeWasCancelled(f"delivery {id}: {belongs(found)}")

    def drop(
        self,
        ids: str | Iterable[str] | None = None,
        *,
        all: bool = False,
        by: str = "",
        progress: Callable[[int], None] | None = None,
        **filters: Unpack[LetterFilters],
    ) -> Changed:
        """Decide that dead letters are not to be handled; their rows stay, with the outcome `dropped`.

        Arguments and errors are those of requeue(), the audit event is `delivery.dropped`.
        """
        chosen = choose(LetterQuery(**filters), ids, all=all, says=WHICH)
        return self.drop_chosen(chosen, by=by, progress=progress)

    def drop_chosen(
        self, chosen: Selection[LetterQuery], *, by: str = "", progress: Callable[[int], None] | None = None
    ) -> Changed:
        """Do what drop() does, for those who have a selection."""
        return change(self._bus, Drop(self._bus, by), self._ids(chosen), progress)

    def _ids(self, chosen: Selection[LetterQuery]) -> Sequence[str]:
        """Return the ids of the deliveries that are meant, the oldest first where a query chose them."""
        if chosen.ids is not None:
            return self._resolve(chosen.ids)
        statement = chosen.query.narrow(IDS).order_by(deliveries.c.ended, deliveries.c.id)
        with self._ledger.database.reading() as connection:
            return [row.id for row in connection.execute(statement) if chosen.query.accepts(row.type)]

    def _resolve(self, ids: Sequence[str]) -> Sequence[str]:
        """Return whole ids; raise UnknownEvent for one that is none. What is no longer dead is skipped later on."""
        whole: set[str] = set()
        with self._ledger.database.reading() as connection:
            for some in chunks(ids, BATCH):
                whole.update(connection.execute(select(deliveries.c.id).where(deliveries.c.id.in_(some))).scalars())
        return [*dict.fromkeys(id if id in whole else self.get(id).id for id in ids)]

    def _edit(self, ids: Sequence[str], data: Any) -> Encoded:
        """Return the one event with other data, as its agent will get it, once it is sure that the agent takes it."""
        if len(ids) != 1:
            raise InvalidSelection(f"data: one payload is for one dead letter, and {len(ids)} ids are given")
        letter = self.get(ids[0])
        if letter.agent not in self._bus.agents:
            raise InvalidAgent(
                f"agent {letter.agent!r} is not declared in this process, so its data cannot be checked; "
                "import its module, or name that in PIPELINE_AGENTS"
            )
        version = data.schema_version if isinstance(data, Payload) else letter.event.schema_version
        event = letter.event.evolve(data=plain(data, self._bus.blobs.context), schema_version=version)
        if letter.event.key != event.key:  # another program's: whatever else it came with stays
            edited = orjson.dumps({**letter.event.attributes(), "data": event.data, "schemaversion": version})
            event = Event.decode(edited, letter.event.key)
        encoded = self._bus.publisher.encode(event)
        event = Event.decode(encoded.body, event.key)
        payload_of(self._bus.agents[letter.agent], event, self._bus.types, self._bus.blobs.context)
        return encoded._replace(event=event)
