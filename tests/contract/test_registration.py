"""What agents listen to, as the workers of several versions register it, on every ledger."""

from __future__ import annotations

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import delete

from pipeline.ledger.database.rows import DEAD_AFTER, GONE_AFTER
from pipeline.ledger.database.tables import agents, workers
from pipeline.ledger.ledger import Ledger
from tests.ledgers import move

OLD, NEW = ("order.placed",), ("order.placed", "order.cancelled")


def test_an_old_workers_heartbeat_takes_nothing_from_a_newer_version(ledger: Ledger) -> None:
    for worker, patterns in (("old", OLD), ("new", NEW), ("old", OLD), ("new", NEW), ("old", OLD)):
        ledger.subscribers.register({"billing": (patterns, None)}, worker)
        assert ledger.subscribers.is_wanted("billing", "order.placed")
    assert set(ledger.subscribers.all()["billing"]) == set(NEW)


def test_a_pattern_is_left_over_when_no_version_with_it_has_run_for_a_while(ledger: Ledger) -> None:
    ledger.subscribers.register({"billing": (NEW, None)}, "old")
    ledger.workers.leave("old")
    ledger.subscribers.register({"billing": (OLD, None)}, "new")
    assert ledger.subscribers.left_over(["billing"]) == {}
    assert ledger.subscribers.is_wanted("billing", "order.cancelled")
    move(ledger, workers, GONE_AFTER - DEAD_AFTER, "seen")
    ledger.subscribers.register({"billing": (OLD, None)}, "new")
    assert not ledger.subscribers.is_wanted("billing", "order.cancelled")
    assert ledger.subscribers.all() == {"billing": OLD}
    assert ledger.subscribers.left_over(["billing", "other"]) == {"billing": ("order.cancelled",)}
    ledger.subscribers.unbound("billing", ("order.cancelled",))
    assert ledger.subscribers.left_over(["billing"]) == {}


def test_what_a_version_that_comes_back_listens_to_is_not_noted_as_unbound(ledger: Ledger) -> None:
    ledger.subscribers.register({"billing": (NEW, None)}, "old")
    move(ledger, workers, GONE_AFTER, "seen")
    ledger.subscribers.register({"billing": (OLD, None)}, "new")
    ledger.subscribers.register({"billing": (NEW, None)}, "back")
    ledger.subscribers.unbound("billing", ("order.cancelled",))
    move(ledger, workers, GONE_AFTER, "seen")
    ledger.subscribers.register({"billing": (OLD, None)}, "new")
    assert ledger.subscribers.left_over(["billing"]) == {"billing": ("order.cancelled",)}


_WORKERS = st.sampled_from(["w1", "w2", "w3"])
_VERSIONS = st.lists(st.sampled_from(["a", "b", "c.#", "d.*"]), unique=True, max_size=4).map(tuple)


@given(st.lists(st.tuples(_WORKERS, st.one_of(_VERSIONS, st.none())), max_size=8))
@settings(max_examples=25, deadline=None, suppress_health_check=[*HealthCheck])
def test_an_agent_listens_to_what_any_version_does_in_whatever_order_workers_start_and_end(
    ledger: Ledger, steps: list[tuple[str, tuple[str, ...] | None]]
) -> None:
    with ledger.database.transaction() as connection:
        connection.execute(delete(agents))
        connection.execute(delete(workers))
    last: dict[str, tuple[str, ...]] = {}
    for worker, patterns in steps:
        if patterns is None:
            ledger.workers.leave(worker)
        else:
            last[worker] = patterns
            ledger.subscribers.register({"billing": (patterns, None)}, worker)
    wanted = {one for patterns in last.values() for one in patterns}
    assert set(ledger.subscribers.all().get("billing", ())) == wanted
    # The next heartbeat changes nothing.
    for worker, patterns in last.items():
        ledger.subscribers.register({"billing": (patterns, None)}, worker)
    assert set(ledger.subscribers.all().get("billing", ())) == wanted
