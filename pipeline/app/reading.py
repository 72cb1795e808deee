"""What an app offers to those who read its ledger: history, traces, dead letters, replays, read models."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from ..core.event import Event, Payload, new_event

if TYPE_CHECKING:
    from ..agents.agent import Agent
    from ..bus import Bus
    from ..coordination.approvals import Approvals
    from ..history.events import Recorded
    from ..history.presence import AgentPresence, Presence
    from ..history.projections import Projection, Projections
    from ..history.tree import Trace
    from ..ledger.notices.notice import Notice
    from ..limits.cluster import Limits
    from ..operations.dead_letters import DeadLetters
    from ..operations.explain import Answer
    from ..operations.keeping.erasure import Erased
    from ..operations.keeping.restore import Restored
    from ..operations.keeping.retention import Pruned
    from ..operations.replay import Replayed

State = TypeVar("State")
Moment = datetime | int | None


class Reading:
    """The reading side of a Pipeline; everything here raises LedgerOff when there is no ledger."""

    bus: Bus

    @property
    def presence(self) -> Presence:
        """Which agents are there, on which workers, and how busy they are."""
        from ..history.presence import Presence

        return Presence(self.bus.ledger, self.bus.settings.suspect_after)

    def find_capable_agents(self, capability: str, *, busy: bool = False) -> list[AgentPresence]:
        """Return the agents that are there and can do something, those with the most free capacity first.

        Arguments:
            capability: its id, as in `capability("summarize")`.
            busy: whether those come too that have no free capacity now.

        Raises InvalidSelection for a capability that no agent has.

        """
        return self.presence.capable(capability, busy=busy)

    def get_events(
        self,
        *,
        agent_id: str | None = None,
        type: str | type[Payload] | None = None,
        correlation: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        since: Moment = None,
        up_to: Moment = None,
        replayed: bool = False,
        batch: int = 1000,
    ) -> Iterator[Recorded]:
        """Read events in the ledger's order, a page at a time.

        Arguments:
            agent_id: whose history: an agent's name or did, or the subject that events were published with.
            type: an event type, a topic pattern or a Payload class.
            correlation: a correlation id.
            metadata: names in the events' metadata, each with its value, such as {"session_id": "s1"}.
            since: the first moment: an aware datetime or a sequence number.
            up_to: the last moment, likewise; both belong to the range.
            replayed: include what replayed deliveries emitted without sending it.
            batch: events that are in memory at once.

        Raises InvalidSelection or InvalidPattern at once.

        """
        from ..history.events import EventQuery, get_events

        query = EventQuery(
            agent_id=agent_id and self.bus.agents.history_of(agent_id),
            type=type,
            correlation=correlation,
            metadata=metadata,
            since=since,
            up_to=up_to,
            replayed=replayed,
            batch=batch,
        )
        return get_events(self.bus.ledger, query)

    def get_event(self, id: str) -> Recorded:
        """Return one event; raises UnknownEvent."""
        from ..history.events import get_event

        return get_event(self.bus.ledger, id)

    def explain(
        self,
        what: Event | Payload | str,
        data: Any = None,
        *,
        metadata: Mapping[str, Any] | None = None,
        where: Mapping[str, Any] | None = None,
    ) -> list[Answer]:
        """Return whether each agent would get an event, and why not: each condition with the value that it saw.

        Arguments:
            what: an event, a typed payload, the id of an event in the ledger, or with `data` an event type.
            data: the event's data, with an event type.
            metadata: of an event that is not published.
            where: filters that are tried instead of agents' own, by the agents' names.

        Raises UnknownEvent, InvalidEvent, InvalidFilter.

        """
        from ..agents.filters import parse
        from ..operations.explain import explain

        filters = {self.bus.agents[name].name: parse(filter) for name, filter in (where or {}).items()}
        if isinstance(what, Event):
            event = what
        elif isinstance(what, str) and data is None:
            event = self.get_event(what).event
        else:
            version = self.bus.types.newest(what) if isinstance(what, str) else Payload.schema_version
            event = new_event(what, data, source=self.bus.source, metadata=metadata, version=version)
        return explain(self.bus, event, filters)

    def reconstruct(
        self, agent_id: str, state: type[State], *, up_to: Moment = None, snapshot_every: int = 500
    ) -> State:
        """Fold a history into a state: `state()`, then `.apply(event)` for each event.

        Arguments:
            agent_id: whose history (see get_events).
            state: a class; apply() returns the next state, or None when it has changed itself. The states of pydantic
                models are kept as snapshots, from which the next reconstruction starts.
            up_to: the last moment that counts: an aware datetime or a sequence number.
            snapshot_every: events between two snapshots.

        """
        from ..history.state import reconstruct

        agent_id = self.bus.agents.history_of(agent_id)
        return reconstruct(self.bus.ledger, agent_id, state, up_to=up_to, snapshot_every=snapshot_every)

    def trace(self, of: Event | str) -> Trace:
        """Return what an event caused, or everything with a correlation id, as a tree; raises UnknownEvent."""
        from ..history.trace import trace

        return trace(self.bus.ledger, of if isinstance(of, str) else of.key)

    def settle(self, event: Event | str, timeout: float = 30.0) -> Trace:
        """Wait until everything that an event has caused is done, in whichever process, and return its trace.

        Arguments:
            timeout: seconds.

        Raises SettleTimeout that lists what is still open, or UnknownEvent.

        """
        from ..history.settle import settle

        return settle(self.bus.ledger, event if isinstance(event, str) else event.key, timeout)

    def notices(self, of: Event | str, after: int = 0) -> list[Notice]:
        """Return what handlers have said of an event's correlation in the last ten minutes, the oldest first.

        Arguments:
            of: an event, or a correlation id.
            after: only what has a higher number (`seq`).

        """
        return self.bus.ledger.notices.of(of if isinstance(of, str) else of.correlation_id, after)

    @property
    def dead_letters(self) -> DeadLetters:
        """The deliveries that failed for good: list, show, requeue, drop, count."""
        from ..operations.dead_letters import DeadLetters

        return DeadLetters(self.bus)

    @property
    def approvals(self) -> Approvals:
        """What agents ask people for: list, show, approve, veto, rules."""
        from ..coordination.approvals import Approvals

        return Approvals(self.bus)

    @property
    def limits(self) -> Limits:
        """What runs at once over all workers: list, set, clear."""
        from ..limits.cluster import Limits

        return Limits(self.bus.ledger, {name: rule for agent in self.bus.agents for name, rule in agent.rules.items()})

    def replay(
        self,
        *,
        to: str | Agent | Callable[[Event], Any] | None = None,
        type: str | type[Payload] | None = None,
        since: Moment = None,
        up_to: Moment = None,
        correlation: str | None = None,
        agent_id: str | None = None,
        ids: Iterable[str] | None = None,
        all: bool = False,
        rate: float | None = None,
        broadcast: bool = False,
        dry_run: bool = False,
        progress: Callable[[int], None] | None = None,
        id: str | None = None,
    ) -> Replayed:
        """Deliver events of the past once more, to one agent or to a function; nobody else sees them again.

        Arguments:
            to: an agent's name or did, or the agent; or a function, sync or async, that is called with each event in
                this process.
            type: which events: those of this type or pattern.
            since: those from this time or sequence number on.
            up_to: those until then.
            correlation: those of this correlation.
            agent_id: those of this agent's history; all of these are as in get_events().
            ids: these events instead.
            all: every event; the one choice that has to be made expressly.
            rate: events per second, evenly paced; default as fast as it goes.
            broadcast: send what the agent emits to everybody, as if it were emitted now; else it is only recorded.
            dry_run: only count.
            progress: called with the number of events sent so far, after each batch.
            id: the id of an earlier replay, to go on with it: deliveries that the agent has done already are not run
                again.

        Raises InvalidSelection, InvalidAgent (nobody knows the agent), UnknownEvent (one of `ids`), InvalidPattern;
        with a summary in the message BrokerUnavailable, LedgerUnavailable and, for Ctrl-C, ReplayInterrupted.

        """
        from ..history.events import EventQuery
        from ..operations.replay import WHICH, replay
        from ..operations.selection import choose

        agent_id = agent_id and self.bus.agents.history_of(agent_id)
        query = EventQuery(agent_id=agent_id, type=type, correlation=correlation, since=since, up_to=up_to)
        chosen = choose(query, ids, all=all, says=WHICH)
        return replay(self.bus, to, chosen, rate=rate, broadcast=broadcast, dry_run=dry_run, progress=progress, id=id)

    def unrouted(self, **options: Any) -> list[Recorded]:
        """Return events that no agent listens to, newest first; see pipeline.operations.unrouted."""
        from ..operations.unrouted import unrouted

        return unrouted(self.bus.ledger, **options)

    def replay_unrouted(self, **options: Any) -> int:
        """Deliver unrouted events to the agents that now listen to them, and return how many deliveries that are."""
        from ..operations.unrouted import replay_unrouted

        return replay_unrouted(self.bus.ledger, **options)

    def prune(
        self, *, older_than: timedelta | None = None, keep: int | None = None, archive: Path | None = None, **more: Any
    ) -> Pruned:
        """Delete events that are settled, after writing them to an archive, and blobs that no event needs any more.

        Arguments:
            older_than: their least age.
            keep: the number of the newest events that stay.
            archive: a JSON Lines file that must not exist; `.gz` is compressed. None keeps nothing.

        """
        from ..operations.keeping.retention import prune

        return prune(self.bus.ledger, older_than=older_than, keep=keep, archive=archive, blobs=self.bus.blobs, **more)

    def restore(self, archive: Path, **more: Any) -> Restored:
        """Bring back what prune() has written to an archive; nobody receives it again."""
        from ..operations.keeping.restore import restore

        return restore(self.bus.ledger, archive, **more)

    def erase(
        self, *, subject: str | None = None, correlation: str | None = None, by: str = "", dry_run: bool = False
    ) -> Erased:
        """Blank the data of the events about one subject and of all that followed, or of one correlation.

        Arguments:
            by: who does it, for the record, an event `delivery.erased`.
            dry_run: only count.

        """
        from ..operations.keeping.erasure import erase

        return erase(self.bus, subject=subject, correlation=correlation, by=by, dry_run=dry_run)

    # -- projections

    @property
    def projections(self) -> Projections:
        """The read models, by name."""
        return self.bus.projections

    def projection(
        self, *, on: str | type[Payload] | Iterable[str | type[Payload]], name: str | None = None
    ) -> Callable[[Callable[[Event, Any], None]], Projection]:
        """Keep a read model up to date with the decorated `function(event, session)`; workers call it in order.

        Arguments:
            on: topic patterns or Payload classes.
            name: the projection's name; default the function's.

        """
        from ..history.projections import Projection

        def decorate(function: Callable[[Event, Any], None]) -> Projection:
            projection = Projection(name or function.__name__, on, function)
            self.projections.add(projection)
            return projection

        return decorate

    def rebuild(self, name: str, progress: Callable[[int, int], None] | None = None) -> int:
        """Empty a read model with its reset function and fill it anew; return the number of events passed."""
        from ..history.projections import rebuild

        return rebuild(self.bus.ledger, self.projections[name], progress)
