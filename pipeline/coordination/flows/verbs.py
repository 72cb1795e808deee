"""What somebody may say to a flow that goes on; it is moved on in the same transaction."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

from ...core.outcome import Outcome
from ...core.times import SECOND, now
from ...ledger.flows.rows import Step
from ..graphs.graph import Graph
from ..graphs.plan import Clocks, clocks_of
from .flows import Flows

if TYPE_CHECKING:
    from sqlalchemy import Connection


class Verbs(Flows):
    """Moves flows on as somebody says."""

    def look_again(self, id: str) -> None:
        """Do what is next in a flow, if anything is."""
        self._ledger.database.run(partial(self._end, id, is_over=False))

    def cancel(self, id: str, reason: str) -> bool:
        """End a flow as it stands: nothing is undone; say whether it had not ended before."""

        def work(connection: Connection) -> bool:
            row = self._flows.read(connection, id)
            if row is not None:
                self._cancel(connection, row, reason)
            return row is not None

        return self._ledger.database.run(work)

    def begin_anew(self, id: str, steps: Sequence[Step]) -> int:
        """Let steps begin once more that were stopped, or could not begin; return how many of them there were.

        Their time, and that of dead ones, begins anew, too.
        """

        def change(connection: Connection, graph: Graph, ids: Sequence[str], clocks: Clocks) -> Clocks:
            number, mine = len(graph.nodes), [step for step in steps if step.id in ids]
            self._flows.forget(connection, [step.id for step in mine if step.outcome is Outcome.CANCELLED])
            self._flows.again(connection, [step.id for step in mine if step.outcome is Outcome.LATE])
            times = {pos: graph.nodes[pos].timeout for pos in {s.pos % number for s in steps}}
            return clocks | {str(pos): now() + round(time * SECOND) for pos, time in times.items() if time}

        return self._change(id, change, steps)

    def do_without(self, id: str, steps: Sequence[Step]) -> int:
        """Let a flow go on without steps that were stopped, or could not begin; return how many there were."""

        def change(connection: Connection, _: Graph, ids: Sequence[str], clocks: Clocks) -> Clocks:
            self._flows.drop(connection, ids)
            return clocks

        return self._change(id, change, [step for step in steps if step.outcome is not Outcome.DEAD])

    def _change(
        self, id: str, change: Callable[[Connection, Graph, Sequence[str], Clocks], Clocks], steps: Sequence[Step]
    ) -> int:
        def work(connection: Connection) -> int:
            row = self._flows.read(connection, id)
            definition = None if row is None else self._definition_of(connection, row)
            if row is None or not isinstance(definition, Graph):
                return 0
            known = self._rows(connection, id)  # somebody may have been quicker
            ids = [step.id for step in steps if known.get(step.pos) == step]
            clocks = change(connection, definition, ids, clocks_of(row.clocks, row.due))
            self._move(connection, row, definition, due_in=0, clocks=clocks)
            return len(ids)

        return self._ledger.database.run(work)

    def abort(self, id: str, reason: str) -> bool:
        """Give a saga or workflow up: what it has done is undone; say whether it had not ended before."""

        def work(connection: Connection) -> bool:
            row = self._flows.read(connection, id)
            definition = None if row is None else self._definition_of(connection, row)
            if isinstance(definition, Graph):
                self._move(connection, row, definition, due_in=0, given_up=reason)
            return isinstance(definition, Graph)

        return self._ledger.database.run(work)
