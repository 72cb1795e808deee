"""The ledger's tables. Times are microseconds since 1970 (UTC), ids are text, JSON is text.

The order of the ledger is (tx, seq): on PostgreSQL sequence numbers become visible out of order, so what reads along
(projections, reconciliation, snapshots) goes by the writing transaction first and stops before those that still run.
SQLite has one writer at a time; there `tx` is 0 and `seq` alone is the order.
"""

from __future__ import annotations

from sqlalchemy import BigInteger, Boolean, Column, Float, Index, Integer, MetaData, String, Table, Text, text, true

from ...core.outcome import FINAL

metadata = MetaData()

BIG = BigInteger().with_variant(Integer, "sqlite")
#: Compared byte by byte, whatever the database's language: a range of types is then a range of the index.
WORD = String(255).with_variant(String(255, collation="C"), "postgresql")
ID = String(255)

#: Has an outcome that is not final; SQLite uses the index of open deliveries only in a query that repeats it.
OPEN = text("outcome NOT IN ({})".format(", ".join(f"'{outcome.value}'" for outcome in FINAL)))
_UNROUTED = text("outcome = 'unrouted'")
#: Is a step of a flow.
IN_FLOW = text("flow IS NOT NULL")
IS_STEP, IS_ANEW = text("step IS NOT NULL"), text("origin IS NOT NULL")
#: Of flows that go on; as above.
ACTIVE = text("ended IS NULL")
#: Is to be sent with the next sweep, or is being sent by somebody, since -due; as above.
AT_ONCE = text("outcome = 'queued' AND due <= 0")

#: One row for each event that was accepted.
events = Table(
    "pipeline_events",
    metadata,
    Column("seq", BIG, primary_key=True, autoincrement=True),
    Column("tx", BIG, nullable=False, server_default="0"),
    Column("id", ID, nullable=False, unique=True),
    Column("type", WORD, nullable=False),
    #: Whose history it belongs to: the agent that emitted it, else its subject.
    Column("stream", WORD),
    Column("correlation", ID, nullable=False),
    Column("causation", ID),
    #: The delivery that emitted it.
    Column("delivery", ID),
    #: The only agents it is for, joined by commas.
    Column("targets", Text),
    Column("time", BIG, nullable=False),
    Column("recorded", BIG, nullable=False),
    #: The replay that emitted it; such events are not broadcast and not part of any history.
    Column("replay", ID),
    Column("body", Text, nullable=False),
    Index("pipeline_events_order", "tx", "seq"),
    Index("pipeline_events_type", "type", "tx", "seq"),
    Index("pipeline_events_stream", "stream", "tx", "seq"),
    Index("pipeline_events_correlation", "correlation", "tx", "seq"),
    Index("pipeline_events_time", "time", "tx", "seq"),
    sqlite_autoincrement=True,
)

#: One row for each name in an event's metadata whose value is a text, a number or a truth value: by which it is found.
tags = Table(
    "pipeline_tags",
    metadata,
    Column("name", WORD, primary_key=True),
    Column("value", WORD, primary_key=True),
    #: Where the event stands in the log.
    Column("tx", BIG, primary_key=True, autoincrement=False),
    Column("seq", BIG, primary_key=True, autoincrement=False),
    Index("pipeline_tags_seq", "seq"),
    sqlite_with_rowid=False,
)

#: One row for each event that was not yet handed to the broker; the relay sends it when it is due.
outbox = Table(
    "pipeline_outbox",
    metadata,
    Column("event_id", ID, primary_key=True),
    Column("due", BIG, nullable=False),
    Index("pipeline_outbox_due", "due"),
)

#: One row for each delivery: the inbox, the count of its attempts, and the dead letters.
deliveries = Table(
    "pipeline_deliveries",
    metadata,
    Column("id", ID, primary_key=True),
    Column("event_id", ID, nullable=False),
    Column("agent", WORD, nullable=False),
    Column("outcome", String(16), nullable=False),
    Column("attempts", Integer, nullable=False, server_default="0"),
    #: How many events it emitted: their ids follow from its own.
    Column("emitted", Integer, nullable=False, server_default="0"),
    Column("started", BIG),
    Column("ended", BIG),
    #: When a queued or retrying delivery is to be in its queue, and a parked one is released at the latest.
    Column("due", BIG),
    Column("worker", ID),
    #: The number of that worker's process, which may die while the worker lives.
    Column("process", BIG),
    #: Which of its messages the attempt belongs to: 0 for the event's own one.
    Column("message", BIG),
    Column("error", Text),
    Column("traceback", Text),
    #: What a chord's member returned, for the case that it is asked again.
    Column("result", Text),
    #: The event as somebody edited it for this delivery only.
    Column("body", Text),
    Column("replay", ID),
    #: Whether what a replayed delivery emits is sent.
    Column("broadcast", Boolean, nullable=False, server_default=true()),
    #: How often somebody has given it back to its agent: each time Celery knows it by another id.
    Column("requeued", Integer, nullable=False, server_default="0"),
    #: Since when it waits for a worker that reads its event's version.
    Column("waits", BIG),
    #: The flow that it is a step of, and which one.
    Column("flow", ID),
    Column("pos", Integer),
    Index("pipeline_deliveries_event", "event_id"),
    Index("pipeline_deliveries_unrouted", "event_id", sqlite_where=_UNROUTED, postgresql_where=_UNROUTED),
    Index("pipeline_deliveries_open", "outcome", "agent", "due", sqlite_where=OPEN, postgresql_where=OPEN),
    Index("pipeline_deliveries_flow", "flow", sqlite_where=IN_FLOW, postgresql_where=IN_FLOW),
    Index("pipeline_deliveries_at_once", "id", sqlite_where=AT_ONCE, postgresql_where=AT_ONCE),
)

#: One row for each thing that is due later.
timers = Table(
    "pipeline_timers",
    metadata,
    Column("id", ID, primary_key=True),
    Column("kind", String(16), nullable=False),
    Column("due", BIG, nullable=False),
    Column("correlation", ID, nullable=False),
    Column("body", Text),
    Index("pipeline_timers_due", "due"),
    Index("pipeline_timers_correlation", "correlation"),
)

#: One row for each agent that ever ran: what it listens to, and how far its past was checked for missing deliveries.
#: Patterns are JSON lists.
agents = Table(
    "pipeline_agents",
    metadata,
    Column("name", ID, primary_key=True),
    #: What any version listens to that runs, or has run until a moment ago.
    Column("patterns", Text, nullable=False),
    #: What its queue may be bound to.
    Column("bound", Text, nullable=False),
    Column("tx", BIG, nullable=False),
    Column("seq", BIG, nullable=False),
    Column("registered", BIG, nullable=False),
    #: What the filters of those versions say that run (JSON); an empty list is no filter: all that the patterns match.
    Column("filters", Text, nullable=False, server_default="[]"),
    #: Its decentralized identifier, as the worker that was started last has it.
    Column("did", ID),
    #: When the last of its workers was heard of, while they are suspected to have failed; as told to everybody.
    Column("suspected", BIG),
)

#: One row for each agent whose declaration stands here instead of in code, and calls a URL; what is removed stays.
subscriptions = Table(
    "pipeline_subscriptions",
    metadata,
    Column("id", ID, primary_key=True),
    #: One more with each change: the sum of all tells workers that there is something new, whoever commits first.
    Column("version", BIG, nullable=False),
    Column("patterns", Text, nullable=False),
    #: As JSON.
    Column("filter", Text),
    Column("url", Text, nullable=False),
    Column("priority", Integer, nullable=False),
    Column("max_concurrent", Integer, nullable=False),
    #: In seconds.
    Column("timeout", Float, nullable=False),
    Column("retry", Integer, nullable=False),
    #: The sequence number that it has begun with.
    Column("since", BIG),
    #: Whether there is a secret, for those who may not read it.
    Column("signed", Boolean, nullable=False),
    Column("secret", Text),
    Column("created", BIG, nullable=False),
    Column("changed", BIG, nullable=False),
    Column("removed", BIG),
    Index("pipeline_subscriptions_version", "version"),
)

#: One row for each worker that lives, and for a while after.
workers = Table(
    "pipeline_workers",
    metadata,
    Column("id", ID, primary_key=True),
    #: When it was last heard of, on the database's clock.
    Column("seen", BIG, nullable=False),
    #: How often it was heard of since it was last silent.
    Column("beats", Integer, nullable=False, server_default="1"),
    #: When it began to stop, and when it had ended.
    Column("leaves", BIG),
    Column("ended", BIG),
    #: What it says of itself: its machine, its size, what its agents can do (JSON).
    Column("about", Text, nullable=False, server_default="{}"),
    #: The agents that it runs, each with the patterns of the worker's own version (JSON).
    Column("agents", Text, nullable=False, server_default="{}"),
    #: What the filters of its agents say, of those that have one (JSON).
    Column("filters", Text, nullable=False, server_default="{}"),
)

#: One row for each thing that could not be used, and stands in nobody's way: who could not use it, and why.
aside = Table(
    "pipeline_aside",
    metadata,
    Column("place", ID, primary_key=True),
    Column("id", ID, primary_key=True),
    Column("at", BIG, nullable=False),
    Column("reason", Text, nullable=False),
    #: A delayed event that is nowhere else.
    Column("body", Text),
)

#: How far each projection has read.
positions = Table(
    "pipeline_positions",
    metadata,
    Column("name", ID, primary_key=True),
    Column("tx", BIG, nullable=False),
    Column("seq", BIG, nullable=False),
)

#: States that were reconstructed before, so that the next reconstruction starts there.
snapshots = Table(
    "pipeline_snapshots",
    metadata,
    Column("stream", WORD, primary_key=True),
    Column("state", ID, primary_key=True),
    Column("tx", BIG, primary_key=True, autoincrement=False),
    Column("seq", BIG, primary_key=True, autoincrement=False),
    #: The highest sequence number and the latest time in it: it is of no use for a state before those.
    Column("max_seq", BIG, nullable=False),
    Column("max_time", BIG, nullable=False),
    Column("body", Text, nullable=False),
)

#: One row for each flow that was started: several deliveries that belong together, such as the members of a join.
flows = Table(
    "pipeline_flows",
    metadata,
    #: That of the delivery that has started it.
    Column("id", ID, primary_key=True),
    Column("name", ID, nullable=False),
    Column("kind", String(16), nullable=False),
    Column("status", String(16), nullable=False),
    #: The event that it works on.
    Column("event_id", ID, nullable=False),
    Column("correlation", ID, nullable=False),
    Column("definition", ID, nullable=False),
    #: How many steps it has, how many of them have ended well, and how many are dead. The rows of the deliveries say
    #: which; these numbers say when it is worth while to look at them.
    Column("members", Integer, nullable=False),
    Column("done", Integer, nullable=False, server_default="0"),
    #: How many have to have ended before anything may follow.
    Column("need", Integer, nullable=False, server_default="0"),
    Column("failed", Integer, nullable=False, server_default="0"),
    Column("started", BIG, nullable=False),
    Column("ended", BIG),
    #: When somebody has to look at it in any case: its time, or that of a step, is over.
    Column("due", BIG),
    #: Which of them when, as JSON, where steps have times of their own.
    Column("clocks", Text),
    #: What it was complete by, or why it has failed.
    Column("reason", Text),
    #: The delivery of another flow that it is the step of.
    Column("step", ID),
    #: The first of those that it was started instead of, one after the other, as they had ended badly.
    Column("origin", ID),
    Index("pipeline_flows_correlation", "correlation"),
    Index("pipeline_flows_event", "event_id"),
    Index("pipeline_flows_active", "id", sqlite_where=ACTIVE, postgresql_where=ACTIVE),
    Index("pipeline_flows_due", "due", sqlite_where=ACTIVE, postgresql_where=ACTIVE),
    Index("pipeline_flows_step", "step", sqlite_where=IS_STEP, postgresql_where=IS_STEP),
    Index("pipeline_flows_origin", "origin", sqlite_where=IS_ANEW, postgresql_where=IS_ANEW),
)

#: One row for each definition that a flow was started with, by its digest: newer versions do not change those that run.
definitions = Table(
    "pipeline_definitions",
    metadata,
    Column("id", ID, primary_key=True),
    Column("body", Text, nullable=False),
)

#: Facts about the ledger itself: its id, and the secret that signs the bus's own messages.
meta = Table(
    "pipeline_meta",
    metadata,
    Column("name", ID, primary_key=True),
    Column("value", Text, nullable=False),
)
