"""The tables of what waits, is limited, approved, paused, or stopped."""

from __future__ import annotations

from sqlalchemy import Boolean, Column, Index, Integer, String, Table, Text, false, text, true

from .tables import BIG, ID, WORD, metadata

NOT_LOOKED = text("NOT looked")
HAS_EVENT = text("event_id IS NOT NULL")
HAS_WAITING = text("waiting > 0")

#: One row for each parked delivery: what it waits for.
waits = Table(
    "pipeline_waits",
    metadata,
    Column("delivery", ID, primary_key=True),
    #: The step of the delivery that the wait's end is the result of; none when it waits before its handler is called.
    Column("name", WORD),
    Column("number", Integer, nullable=False, server_default="0"),
    #: time, event, or what else releases it.
    Column("kind", String(16), nullable=False),
    #: What it waits for among those of its kind: an event's type, an approval's id.
    Column("key", WORD, nullable=False),
    #: The only correlation whose events end it; none for all.
    Column("correlation", ID),
    #: The filter that an event has to match, as JSON.
    Column("condition", Text),
    Column("since", BIG, nullable=False),
    #: When it ends in any case.
    Column("due", BIG),
    #: After which place in the log the event comes (of a wait for a quiet time: where its own is), and whether what was
    #: there when it was parked was looked through.
    Column("tx", BIG, nullable=False, server_default="0"),
    Column("seq", BIG, nullable=False, server_default="0"),
    Column("looked", Boolean, nullable=False, server_default=true()),
    Index("pipeline_waits_due", "due"),
    Index("pipeline_waits_key", "kind", "key", "correlation"),
    Index("pipeline_waits_new", "key", sqlite_where=NOT_LOOKED, postgresql_where=NOT_LOOKED),
)

#: One row for each thing that a handler has said while it worked; numbers are not used twice, as readers go by them.
notices = Table(
    "pipeline_notices",
    metadata,
    Column("seq", BIG, primary_key=True, autoincrement=True),
    Column("at", BIG, nullable=False),
    Column("correlation", ID, nullable=False),
    Column("delivery", ID, nullable=False),
    #: Who says it, and what, as JSON.
    Column("body", Text, nullable=False),
    Index("pipeline_notices_correlation", "correlation", "seq"),
    Index("pipeline_notices_at", "at"),
    sqlite_autoincrement=True,
)

#: One row for each step of a delivery that has ended: it is not done again.
steps = Table(
    "pipeline_steps",
    metadata,
    Column("delivery", ID, primary_key=True),
    Column("name", WORD, primary_key=True),
    #: The n-th use of the name in the delivery, from 0 on.
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("started", BIG, nullable=False),
    Column("ended", BIG, nullable=False),
    #: As JSON.
    Column("result", Text, nullable=False),
    #: The event that a wait has come to.
    Column("event_id", ID),
    Index("pipeline_steps_event", "event_id", sqlite_where=HAS_EVENT, postgresql_where=HAS_EVENT),
)

#: One row for each tree of work that was stopped, by its correlation or by the event on top, and for each event under
#: that: whatever has one of these keys as its correlation, its cause or its own id does not run any more.
cancelled = Table(
    "pipeline_cancelled",
    metadata,
    Column("key", ID, primary_key=True),
    #: The key of the tree; its row says who has stopped it, when and why.
    Column("root", ID, nullable=False),
    Column("at", BIG, nullable=False),
    Column("by", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Index("pipeline_cancelled_root", "root"),
)

#: One row for each delivery that ran when its tree was stopped, until its worker has heard of it.
stops = Table(
    "pipeline_stops",
    metadata,
    Column("delivery", ID, primary_key=True),
    Column("worker", ID, nullable=False),
    #: Whether its process is ended, if it cannot be stopped in another way.
    Column("terminate", Boolean, nullable=False),
    Column("at", BIG, nullable=False),
)

#: One row for each budget, its key and its day (empty for none): what was spent of it.
budgets = Table(
    "pipeline_budgets",
    metadata,
    Column("name", WORD, primary_key=True),
    Column("key", WORD, primary_key=True),
    Column("period", String(16), primary_key=True),
    Column("tokens", BIG, nullable=False, server_default="0"),
    #: In millionths.
    Column("cost", BIG, nullable=False, server_default="0"),
    Column("events", BIG, nullable=False, server_default="0"),
    Column("tokens_limit", BIG),
    Column("cost_limit", BIG),
    Column("events_limit", BIG),
    #: Whether somebody has set these limits at run time; else they are what was declared.
    Column("is_set", Boolean, nullable=False, server_default=false()),
    #: Whether it was told that there is no more room.
    Column("exceeded", Boolean, nullable=False, server_default=false()),
    Column("at", BIG, nullable=False),
    Index("pipeline_budgets_at", "at"),
)

#: One row for each use of budgets: the n-th of an attempt of a delivery.
reservations = Table(
    "pipeline_reservations",
    metadata,
    Column("delivery", ID, primary_key=True),
    Column("attempt", Integer, primary_key=True, autoincrement=False),
    Column("number", Integer, primary_key=True, autoincrement=False),
    #: The rows of the budgets that it was taken from (JSON).
    Column("places", Text, nullable=False),
    Column("tokens", BIG, nullable=False),
    Column("cost", BIG, nullable=False),
    Column("events", BIG, nullable=False),
    Column("settled", Boolean, nullable=False),
    Column("at", BIG, nullable=False),
)

#: One row for each action that somebody has to approve, or has decided about.
approvals = Table(
    "pipeline_approvals",
    metadata,
    Column("id", ID, primary_key=True),
    #: The event that proposed it.
    Column("event_id", ID, nullable=False),
    Column("agent", WORD, nullable=False),
    Column("action", WORD, nullable=False),
    Column("correlation", ID, nullable=False),
    #: What was proposed, and the event's metadata, as JSON.
    Column("proposal", Text, nullable=False),
    Column("metadata", Text, nullable=False),
    Column("asked", BIG, nullable=False),
    Column("expires", BIG),
    #: When it is to be looked at: 0 at once; at half time; when it expires; never for what is decided.
    Column("due", BIG),
    Column("status", String(16), nullable=False),
    #: The arguments as somebody has edited them (JSON).
    Column("args", Text),
    #: Those who have approved so far (JSON).
    Column("votes", Text, nullable=False, server_default="[]"),
    Column("by", ID),
    Column("reason", Text),
    Column("decided", BIG),
    Index("pipeline_approvals_due", "due"),
    Index("pipeline_approvals_status", "status", "asked", "id"),
    Index("pipeline_approvals_correlation", "correlation"),
)

#: One row for each rule by which actions are approved without asking.
approval_rules = Table(
    "pipeline_approval_rules",
    metadata,
    Column("id", ID, primary_key=True),
    Column("action", WORD, nullable=False),
    #: Whose actions; none for every agent's.
    Column("agent", WORD),
    #: The filter that the arguments have to match, as JSON.
    Column("condition", Text),
    #: Until when it holds.
    Column("until", BIG),
    Column("by", ID, nullable=False),
    Column("made", BIG, nullable=False),
    Index("pipeline_approval_rules_action", "action"),
)

#: One row for each agent that somebody has paused, or that has more waiting than it may, and for each scope that is
#: paused, or starts slowly after a pause.
pauses = Table(
    "pipeline_pauses",
    metadata,
    #: agent, full or scope.
    Column("kind", String(16), primary_key=True),
    Column("name", WORD, primary_key=True),
    #: What becomes of what is too much.
    Column("policy", String(32)),
    Column("reason", Text, nullable=False),
    Column("since", BIG, nullable=False),
    #: When a scope goes on; an agent waits for somebody.
    Column("until", BIG),
    #: How often a scope was paused again before it had started well.
    Column("times", Integer, nullable=False, server_default="0"),
    #: From then on: how many deliveries of the scope run at once, how many of so many have ended, and which run (JSON).
    #: Of an agent with too much waiting: how many are to be shed in all, and how many were.
    Column("width", Integer, nullable=False, server_default="1"),
    Column("ended", Integer, nullable=False, server_default="0"),
    Column("admitted", Text, nullable=False, server_default="[]"),
    Index("pipeline_pauses_until", "until"),
)

#: One row for each minute in which an agent with a breaker has made attempts.
attempts = Table(
    "pipeline_attempts",
    metadata,
    Column("agent", WORD, primary_key=True),
    #: Minutes since 1970.
    Column("minute", BIG, primary_key=True, autoincrement=False),
    Column("made", Integer, nullable=False, server_default="0"),
    Column("failed", Integer, nullable=False, server_default="0"),
)

#: One row for each agent and type of which events wait for a worker that reads them, once somebody was told.
newcomers = Table(
    "pipeline_newcomers",
    metadata,
    Column("agent", WORD, primary_key=True),
    Column("type", WORD, primary_key=True),
    #: When a worker looked last at one of them.
    Column("seen", BIG, nullable=False),
)

#: One row for each limit over all workers.
limits = Table(
    "pipeline_limits",
    metadata,
    Column("name", WORD, primary_key=True),
    #: What the version of its agents says that ran last, and what somebody has changed of that since, as JSON.
    Column("declared", Text, nullable=False),
    Column("changed", Text),
)

#: One row for each key of a limit, of an agent's order, or of its debounce: whoever takes or gives back a turn, or is
#: to wait for a quiet time, has locked it.
lines = Table(
    "pipeline_lines",
    metadata,
    Column("line", WORD, primary_key=True),
    #: When the next turn would come if they came evenly: see gcra.py. Of a debounce: when a series has to end.
    Column("tat", BIG, nullable=False, server_default="0"),
    #: When the next one of those that wait is to be called; none where somebody else says when.
    Column("due", BIG),
    #: How far its fair sharing has come.
    Column("passed", BIG, nullable=False, server_default="0"),
    Index("pipeline_lines_due", "due"),
)

#: One row for each agent and key of which deliveries gather until they are a batch: whoever parks one counts it here.
batches = Table(
    "pipeline_batches",
    metadata,
    Column("key", WORD, primary_key=True),
    #: How many are one batch.
    Column("most", Integer, nullable=False),
    #: How many have gathered, those that were stopped since included.
    Column("gathered", Integer, nullable=False),
    #: When somebody looks whether a batch is complete: 0 at once.
    Column("due", BIG, nullable=False),
    Index("pipeline_batches_due", "due"),
)

#: One row for each value that a line's turns are shared fairly by: the one that has spent least is next.
shares = Table(
    "pipeline_shares",
    metadata,
    Column("line", WORD, primary_key=True),
    Column("share", WORD, primary_key=True),
    Column("spent", BIG, nullable=False),
    #: How many deliveries wait.
    Column("waiting", Integer, nullable=False),
    Index("pipeline_shares_next", "line", "spent", sqlite_where=HAS_WAITING, postgresql_where=HAS_WAITING),
)

#: One row for each delivery in a line: those that wait, that were called, that run, and in an order those to come.
turns = Table(
    "pipeline_turns",
    metadata,
    Column("delivery", ID, primary_key=True),
    Column("line", WORD, primary_key=True),
    Column("share", WORD, nullable=False, server_default=""),
    Column("state", String(8), nullable=False),
    #: Its place in the line: priority and age, or in an order the event's place in the log.
    Column("first", BIG, nullable=False),
    Column("second", BIG, nullable=False),
    #: Since when it is in this state.
    Column("since", BIG, nullable=False),
    Index("pipeline_turns_next", "line", "state", "share", "first", "second"),
    Index("pipeline_turns_order", "line", "first", "second"),
    Index("pipeline_turns_state", "state", "since"),
)
