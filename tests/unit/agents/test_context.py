"""What a handler's context promises: ids by position, a session that is lazy and ends with the attempt."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.exc import InvalidRequestError

from pipeline import Context, Payload
from pipeline.agents.effects import NOTHING
from pipeline.core.errors import InvalidEvent, LedgerOff, LedgerUnavailable, PipelineError
from pipeline.core.event import new_event
from pipeline.core.ids import caused_id, delivery_id
from pipeline.ledger.database.rows import attempt_made
from pipeline.ledger.ledger import Ledger

CAUSE = new_event("order.placed", {"n": 1}, source="/test", priority=2)
DELIVERY = delivery_id(CAUSE.id, "billing")


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    one = Ledger(f"sqlite:///{tmp_path / 'ledger.db'}", timeout=0.3)
    with one.database.transaction() as connection:
        connection.execute(text("CREATE TABLE accounts (name TEXT)"))
    yield one
    one.close()


def context(ledger: Ledger | None = None) -> Context:
    return Context(CAUSE, "billing", DELIVERY, 1, "/t/agent/billing", None, ledger=ledger)


def accounts(ledger: Ledger) -> list[str]:
    with ledger.database.reading() as connection:
        return list(connection.execute(text("SELECT name FROM accounts")).scalars())


def test_the_ids_of_what_is_emitted_follow_from_its_position_now_or_later(ledger: Ledger) -> None:
    ctx = context(ledger)
    emitted = [
        ctx.publish("order.paid", {}),
        ctx.publish("order.late", {}, delay=60),
        ctx.publish("order.sent", {}),
        ctx.publish("order.later", {}, at=datetime.now(UTC) + timedelta(hours=1)),
    ]
    assert [event.id for event in emitted] == [caused_id(DELIVERY, position, ledger.secret) for position in range(4)]
    assert [event.type for event in ctx.effects().events] == ["order.paid", "order.sent"]
    assert [event.type for event, _ in ctx.effects().later] == ["order.late", "order.later"]
    assert all(event.time == due for event, due in ctx.effects().later)
    assert {(event.causation_id, event.correlation_id, event.priority) for event in emitted} == {
        (CAUSE.id, CAUSE.id, 2)
    }


def test_an_event_that_is_refused_takes_no_position(ledger: Ledger) -> None:
    ctx = context(ledger)
    for options in ({"priority": 11}, {"delay": -1}, {"delay": "soon"}, {"at": datetime(2030, 1, 1)}):
        with pytest.raises(InvalidEvent):
            ctx.publish("order.paid", {}, **options)  # type: ignore[arg-type]
    assert ctx.publish("order.paid", {}).id == caused_id(DELIVERY, 0, ledger.secret)


def test_without_a_ledger_what_needs_one_says_so() -> None:
    ctx = context()
    for call in (
        lambda: ctx.session,
        lambda: ctx.publish("order.late", {}, delay=1),
        lambda: ctx.publish("order.late", {}, at=datetime.now(UTC)),
    ):
        with pytest.raises(LedgerOff, match="ledger_url is empty"):
            call()
    assert (ctx.effects(), ctx.has_ledger) == (NOTHING, False)
    ctx.close()


def test_a_handler_that_needs_no_session_holds_no_lock(ledger: Ledger) -> None:
    ctx = context(ledger)
    with ledger.database.transaction() as connection:
        connection.execute(text("INSERT INTO accounts VALUES ('ada')"))
    assert ctx.opened_session is None
    ctx.close()


def test_a_session_is_one_and_is_rolled_back_unless_it_is_committed(ledger: Ledger) -> None:
    ctx = context(ledger)
    ctx.session.execute(text("INSERT INTO accounts VALUES ('gone')"))
    assert ctx.session is ctx.opened_session
    ctx.close()
    ctx.close()
    assert accounts(ledger) == []
    second = context(ledger)
    second.session.execute(text("INSERT INTO accounts VALUES ('kept')"))
    second.session.commit()
    second.close()
    assert accounts(ledger) == ["kept"]


def test_an_open_session_keeps_other_writers_waiting_until_it_is_closed(ledger: Ledger) -> None:
    ctx = context(ledger)
    ctx.session.execute(text("INSERT INTO accounts VALUES ('ada')"))
    with pytest.raises(LedgerUnavailable, match=r"another transaction of this process.*ctx\.publish\(\)"):
        ledger.database.run(lambda connection: connection.execute(text("INSERT INTO accounts VALUES ('bob')")))
    ctx.close()
    ledger.database.run(lambda connection: connection.execute(text("INSERT INTO accounts VALUES ('bob')")))
    assert accounts(ledger) == ["bob"]


def test_a_session_may_be_closed_by_another_thread(ledger: Ledger) -> None:
    ctx = context(ledger)
    opener = threading.Thread(target=lambda: ctx.session.execute(text("INSERT INTO accounts VALUES ('ada')")))
    opener.start()
    opener.join()
    assert ctx.opened_session is not None
    ctx.opened_session.commit()
    ctx.close()
    with ledger.database.transaction():
        assert accounts(ledger) == ["ada"]


def test_a_session_on_a_locked_ledger_fails_in_time_and_can_be_asked_for_again(ledger: Ledger) -> None:
    first, second = context(ledger), context(ledger)
    assert first.session is not None
    with pytest.raises(LedgerUnavailable):
        _ = second.session
    assert second.opened_session is None
    first.close()
    assert second.session is not None
    second.close()


# -- threads of one handler, and the end


@pytest.fixture
def busy() -> Iterator[None]:
    """Threads that take turns as often as on a busy machine."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def test_threads_of_one_handler_emit_events_with_ids_of_their_own(busy: None, ledger: Ledger) -> None:
    ctx = context(ledger)

    def emit(number: int) -> str:
        return ctx.publish("part.ready", {"n": number}, delay=60 if number % 3 == 0 else None).id

    with ThreadPoolExecutor(8) as pool:
        ids = list(pool.map(emit, range(600)))
    assert sorted(ids) == sorted(caused_id(DELIVERY, position, ledger.secret) for position in range(600))
    effects = ctx.end()
    assert (len(effects.events), len(effects.later)) == (400, 200)


def test_threads_of_one_handler_share_one_session(busy: None, ledger: Ledger) -> None:
    ctx = context(ledger)
    with ThreadPoolExecutor(4) as pool:
        sessions = {id(session) for session in pool.map(lambda _: ctx.session, range(8))}
    assert len(sessions) == 1
    ctx.close()


@pytest.mark.parametrize("end", [Context.end, Context.close])
@pytest.mark.parametrize(
    ("use", "what"),
    [
        (lambda ctx: ctx.publish("order.paid", {}), r"ctx\.publish\(\)"),
        (lambda ctx: ctx.publish("order.paid", {}, delay=5), r"ctx\.publish\(\)"),
        (lambda ctx: ctx.session, r"ctx\.session"),
        (lambda ctx: ctx.write(attempt_made("pair")), r"ctx\.write\(\)"),
    ],
)
def test_what_comes_after_the_end_of_a_delivery_is_refused(
    ledger: Ledger, end: Callable[[Context], object], use: Callable[[Context], object], what: str
) -> None:
    ctx = context(ledger)
    kept = ctx.publish("order.sent", {})
    end(ctx)
    with pytest.raises(
        PipelineError, match=rf"^{what} comes too late: delivery {DELIVERY} of agent 'billing' has ended"
    ):
        use(ctx)
    assert ctx.effects().events == (kept,)
    ctx.close()


def test_a_session_that_a_thread_has_kept_is_of_no_use_after_the_end(ledger: Ledger) -> None:
    ctx = context(ledger)
    session = ctx.session
    ctx.close()
    with pytest.raises(InvalidRequestError, match="closed"):
        session.execute(text("INSERT INTO accounts VALUES ('late')"))
    with ledger.database.transaction():
        assert accounts(ledger) == []


# -- made by hand, for tests of handlers


def test_a_context_made_by_hand_shows_what_a_handler_has_emitted() -> None:
    ctx = Context.for_test(CAUSE, agent="billing", attempt=2, replay=True)
    ctx.publish("order.late", {"n": 2}, delay=60)
    ctx.publish("order.paid", {"n": 1})
    assert [(event.type, event.data, event.causation_id) for event in ctx.published] == [
        ("order.paid", {"n": 1}, CAUSE.id),
        ("order.late", {"n": 2}, CAUSE.id),
    ]
    assert (ctx.event, ctx.agent, ctx.attempt, ctx.replay) == (CAUSE, "billing", 2, True)
    assert ctx.delivery_id == DELIVERY, "as the bus would call it"


def test_a_context_made_by_hand_of_a_payload_has_an_event_of_it() -> None:
    class Paid(Payload, type="order.paid", version="2.0.0"):
        order_id: str

    event = Context.for_test(Paid(order_id="A1")).event
    assert (event.type, event.schema_version, event.data) == ("order.paid", "2.0.0", {"order_id": "A1"})


def test_a_context_made_by_hand_has_the_session_that_it_is_given(ledger: Ledger) -> None:
    with ledger.database.session() as session:
        ctx = Context.for_test(CAUSE, session=session)
        ctx.session.execute(text("INSERT INTO accounts VALUES ('ada')"))
        session.commit()
    assert accounts(ledger) == ["ada"]
    with pytest.raises(PipelineError, match=r"pass Context\.for_test\(\.\.\., session=\.\.\.\)"):
        _ = Context.for_test(CAUSE).session
