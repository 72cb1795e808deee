"""Flows of which there is one for each business key: of those who start one at once the first one does."""

from __future__ import annotations

import pytest

from pipeline import Pipeline
from pipeline.core.outcome import Outcome
from pipeline.ledger.database.tables import flows
from pipeline.ledger.flows.rows import Member, Start
from pipeline.ledger.ledger import Ledger
from tests.ledgers import append
from tests.records import rows
from tests.threads import in_threads

pytestmark = pytest.mark.pooled


def test_of_those_who_start_a_flow_of_one_key_at_once_one_does_with_all_of_its_steps(
    app: Pipeline, ledger: Ledger
) -> None:
    events = append(ledger, 4)

    def start(number: int) -> None:
        event = events[number // 2]
        members = {number: Member(f"agent-{number}"), 10: Member("last", outcome=Outcome.SUCCEEDED, result=f"{number}")}
        about = ("register", "saga", event.key, event.correlation_id, b"{}")
        one = Start("key", *about, members, number=2, step=f"step-{number}" if number else None, keyed=True)
        for _ in range(2):  # a transaction may be made once more
            ledger.append([], due_in=None, rows=one.rows())

    in_threads(8, start)
    (flow,) = rows(app, flows)
    number = int((flow["step"] or "step-0").removeprefix("step-"))
    assert flow["event_id"] == events[number // 2].key
    found = {row["pos"]: (row["agent"], row["outcome"], row["result"]) for row in rows(app) if row["flow"]}
    assert found == {number: (f"agent-{number}", "queued", None), 10: ("last", "succeeded", str(number))}
