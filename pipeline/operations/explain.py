"""Who gets an event, and why not: each agent's answer with the conditions of its filter; a filter tried on the log."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from sqlalchemy import func, select

from ..agents.filters import Explained, Filter
from ..agents.payloads import attributes_read
from ..agents.wanting import filters_of
from ..core.errors import InvalidEvent
from ..core.event import Event
from ..core.outcome import Outcome
from ..core.routing import reaches
from ..history.events import EventQuery, get_events
from ..ledger.database.tables import deliveries, events
from ..ledger.ledger import Ledger
from ..ledger.subscribers import Listener
from ..ledger.workers import ALL

if TYPE_CHECKING:
    from ..agents.agent import Agent
    from ..bus import Bus

#: Events that are named as examples of what a changed filter changes.
MOST_EXAMPLES = 5


@dataclass(frozen=True)
class Answer:
    """Whether an agent gets an event.

    Attributes:
        why: in words.
        conditions: of its filter, each with what it comes to; none where nothing depends on them.

    """

    agent: str
    gets: bool
    why: str
    conditions: tuple[Explained, ...] = ()

    def as_data(self) -> dict[str, Any]:
        """Return it as JSON data."""
        conditions = [condition.as_data() for condition in self.conditions]
        return {"agent": self.agent, "gets": self.gets, "why": self.why, "conditions": conditions}


def explain(bus: Bus, event: Event, filters: Mapping[str, Filter | None] | None = None) -> list[Answer]:
    """Return every agent's answer: those of this program, then those that only the ledger knows.

    Arguments:
        filters: what is tried instead of some agents' own filters.

    """
    instead = filters or {}
    answers = [
        _answer(event, _read(bus, agent, event), agent.name, agent.patterns, instead.get(agent.name, agent.filter))
        for agent in bus.agents
    ]
    if bus.has_ledger:
        listeners = bus.ledger.database.read(bus.ledger.subscribers.listeners)
        answers += [_others(event, listener) for listener in listeners if listener.name not in bus.agents]
    return answers


def _others(event: Event, listener: Listener) -> Answer:
    """Return the answer of another program's agent: that of the version that gets the event, if one does."""
    found: list[Answer] = []
    for filter in filters_of(listener.filters, event) or [None]:
        answer = _answer(event, event.attributes(), listener.name, listener.patterns, filter)
        if answer.gets and filter is None and listener.filters != ALL:
            why = "; its program is another one, and what it filters is not known here"
            answer = replace(answer, why=answer.why + why)
        found.append(answer)
    return next((answer for answer in found if answer.gets), found[-1])


def _read(bus: Bus, agent: Agent, event: Event) -> Mapping[str, Any]:
    """Return an event as an agent's filter sees it."""
    try:
        return attributes_read(agent, event, bus.types)
    except InvalidEvent:  # it will wait, or be a dead letter: what its filter says is then of no account
        return event.attributes()


def _answer(
    event: Event, attributes: Mapping[str, Any], agent: str, patterns: Iterable[str], filter: Filter | None
) -> Answer:
    if event.targets:
        names = ", ".join(event.targets)
        return Answer(agent, agent in event.targets, f"the event's targets are {names}, and nobody else gets it")
    listened = ", ".join(patterns) or "nothing: joins and canvases call it"
    if not reaches(agent, patterns, event.type):
        return Answer(agent, False, f"it listens to {listened}")
    if filter is None:
        return Answer(agent, True, f"it listens to {listened}")
    conditions = tuple(filter.explain(attributes))
    if filter.matches(attributes):
        return Answer(agent, True, f"it listens to {listened}, and its filter matches", conditions)
    return Answer(agent, False, f"it listens to {listened}, but its filter does not match", conditions)


def nearest_to(bus: Bus, event: Event) -> str:
    """Return what came nearest to wanting an event that nobody wanted: a condition, or else a pattern."""
    refused = [answer for answer in explain(bus, event) if answer.conditions and not answer.gets]
    if not refused:
        filtered = select(deliveries.c.agent, deliveries.c.error).where(
            deliveries.c.event_id == event.key, deliveries.c.outcome == Outcome.FILTERED.value
        )
        rows = bus.ledger.database.read(lambda connection: connection.execute(filtered).all())
        if not rows:
            return bus.ledger.subscribers.why_missed(event)
        said = "; ".join(f"agent {row.agent}: {row.error}" for row in rows[:MOST_EXAMPLES])
        return f"{said}. Filters that have changed since let it through with `pipeline replay --event {event.key}`"

    def unmet(answer: Answer) -> list[Explained]:
        return [condition for condition in answer.conditions if condition.result != "true"]

    answer = min(refused, key=lambda answer: len(unmet(answer)))
    first = unmet(answer)[0]
    seen = f"it saw {first.value!r}" if first.result != "missing" else f"there are {', '.join(first.fields) or 'none'}"
    return f"nearest is agent {answer.agent}, whose condition {first.text} is {first.result} ({seen})"


@dataclass
class Tally:
    """What an agent would have got of some events.

    Attributes:
        gets: how many of them.
        filtered: how many its patterns match and its filter does not.
        conditions: of those, how often each condition came to what.
        gained, lost: the first events that a changed filter lets through, or keeps back, and its own does not.

    """

    agent: str
    gets: int = 0
    filtered: int = 0
    conditions: Counter[tuple[str, str]] = field(default_factory=Counter)
    gained: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)

    def add(self, answer: Answer) -> None:
        """Count one event."""
        self.gets += answer.gets
        if answer.conditions and not answer.gets:
            self.filtered += 1
            self.conditions.update((each.text, each.result) for each in answer.conditions)

    def compare(self, event: Event, own: Answer, changed: Answer) -> None:
        """Note an event about which the agent's own filter and the changed one do not agree."""
        if own.gets != changed.gets:
            examples = self.gained if changed.gets else self.lost
            if len(examples) < MOST_EXAMPLES:
                examples.append(event.key)

    def as_data(self) -> dict[str, Any]:
        """Return it as JSON data."""
        conditions = [{"text": text, "result": result, "events": n} for (text, result), n in self.conditions.items()]
        return {**vars(self), "conditions": conditions}


def try_on(bus: Bus, some: Iterable[Event], filters: Mapping[str, Filter | None] | None = None) -> list[Tally]:
    """Return what each agent would have got of events; with other filters also where they change that."""
    tallies: dict[str, Tally] = {}
    for event in some:
        own = explain(bus, event) if filters else ()
        for place, answer in enumerate(explain(bus, event, filters)):
            tally = tallies.setdefault(answer.agent, Tally(answer.agent))
            tally.add(answer)
            if own:
                tally.compare(event, own[place], answer)
    return list(tallies.values())


def latest(ledger: Ledger, number: int) -> Iterator[Event]:
    """Return the newest events of the log, the oldest of them first.

    Arguments:
        number: how many at most.

    """
    last = ledger.database.read(lambda connection: connection.execute(select(func.max(events.c.seq))).scalar())
    query = EventQuery(since=max((last or 0) - number + 1, 0))
    return (record.event for record in get_events(ledger, query))
