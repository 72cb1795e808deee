"""What a saga or a workflow does next: a pure function of its definition and of its deliveries' rows."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from pipeline.coordination.graphs.graph import Begin, Close, Command, Graph, Hold, Node, Progress, circle_in
from pipeline.coordination.graphs.plan import Clocks, open_places, planned, wound
from pipeline.coordination.graphs.work import Work
from pipeline.core.event import new_event
from pipeline.core.outcome import OPEN, Outcome
from pipeline.ledger.flows.items import is_undo, needless
from pipeline.ledger.flows.rows import Step


def graph(*nodes: Node) -> Graph:
    return Graph(kind="saga", name="g", emits="g.done", fails="g.failed", source="/s", nodes=nodes)


def chain(number: int, **more: Any) -> Graph:
    """Return steps that follow each other, each with something that undoes it."""
    names = [f"s{n}" for n in range(number)]
    after = [()] + [(name,) for name in names[:-1]]
    return graph(*(Node(name=n, agent=n, after=a, undo=f"un{n}", **more) for n, a in zip(names, after, strict=True)))


def step(pos: int, outcome: Outcome, ended: int | None = None) -> Step:
    return Step(f"d{pos}", pos, f"a{pos}", outcome, None, "E: no" if outcome is Outcome.DEAD else None, ended)


def steps(**outcomes: str) -> dict[int, Step]:
    """Return rows by position: `p0="succeeded"`, which have ended in the order in which they are given."""
    found = (step(int(name[1:]), Outcome(outcome), at) for at, (name, outcome) in enumerate(outcomes.items()))
    return {one.pos: one for one in found}


THREE = chain(3)
DEAD = "step 's2' is dead: E: no"


@pytest.mark.parametrize(
    ("rows", "commands"),
    [
        ({}, [Begin(0)]),
        ({"p0": "running"}, []),
        ({"p0": "succeeded"}, [Begin(1)]),
        ({"p0": "succeeded", "p1": "filtered"}, [Begin(2)]),
        ({"p0": "succeeded", "p1": "succeeded", "p2": "parked"}, []),
        ({"p0": "succeeded", "p1": "succeeded", "p2": "succeeded"}, [Close("completed", "all")]),
        ({"p0": "dead"}, [Close("failed", "step 's0' is dead: E: no")]),
        ({"p0": "succeeded", "p1": "succeeded", "p2": "dead"}, [Begin(4, DEAD)]),
        ({"p0": "succeeded", "p1": "succeeded", "p2": "dead", "p4": "retrying"}, []),
        ({"p0": "succeeded", "p1": "succeeded", "p2": "dead", "p4": "succeeded"}, [Begin(3, DEAD)]),
        (
            {"p0": "succeeded", "p1": "succeeded", "p2": "dead", "p4": "dead"},
            [Hold("what undoes 's1' is dead: requeue it, or drop it to go on without it")],
        ),
        ({"p0": "succeeded", "p1": "succeeded", "p2": "dead", "p4": "dropped"}, [Begin(3, DEAD)]),
        (
            {"p0": "succeeded", "p1": "succeeded", "p2": "dead", "p4": "succeeded", "p3": "succeeded"},
            [Close("compensated", DEAD)],
        ),
        ({"p0": "succeeded", "p1": "late"}, [Begin(3, "step 's1' is late: no reason")]),
    ],
)
def test_what_a_saga_does_next(rows: dict[str, str], commands: list[Command]) -> None:
    assert Progress(THREE, steps(**rows), lambda _: True).next() == commands


def test_what_runs_beside_a_step_that_has_failed_is_waited_for_and_undone() -> None:
    sides = graph(*(Node(name=n, agent=n, undo=f"un{n}") for n in ("a", "b", "c")))
    assert Progress(sides, {}, lambda _: True).next() == [Begin(0), Begin(1), Begin(2)]
    failed = steps(p0="succeeded", p1="dead", p2="running")
    assert Progress(sides, failed, lambda _: True).next() == []
    over = steps(p0="succeeded", p1="dead", p2="succeeded")
    assert Progress(sides, over, lambda _: True).next() == [Begin(5, "step 'b' is dead: E: no")]


def test_after_its_point_of_no_return_it_waits_for_somebody() -> None:
    final = graph(Node(name="a", agent="a", undo="u", final=True), Node(name="b", agent="b", after=("a",)))
    (held,) = Progress(final, steps(p0="succeeded", p1="dead"), lambda _: True).next()
    assert isinstance(held, Hold)
    assert held.reason.endswith("nothing is undone after 'a': requeue or drop what is dead")
    assert Progress(final, steps(p0="succeeded", p1="queued"), lambda _: True).next() == []
    dropped = Progress(final, steps(p0="succeeded", p1="dropped"), lambda _: True).next()
    assert dropped == [Close("completed", "all")], "and goes on without what somebody has dropped"


def test_what_has_begun_to_be_undone_is_undone_whatever_its_steps_say_later() -> None:
    again = steps(p0="succeeded", p1="succeeded", p2="succeeded", p4="succeeded")
    assert Progress(THREE, again, lambda _: True).next() == [Begin(5, "it was given up")]


def test_what_comes_after_a_step_that_is_left_out_begins_if_anything_before_it_was_done() -> None:
    nodes = graph(
        Node(name="a", agent="a"),
        Node(name="b", agent="b", after=("a",), when="no"),
        Node(name="c", agent="c", after=("a", "b")),
        Node(name="d", agent="d", after=("b",)),
    )
    assert Progress(nodes, steps(p0="succeeded"), lambda when: when != "no").next() == [Begin(2)]
    both = steps(p0="succeeded", p2="succeeded")
    assert Progress(nodes, both, lambda when: when != "no").next() == [Close("completed", "all")]


def test_circles_are_named() -> None:
    assert circle_in({"a": (), "b": ("a",), "c": ("b",)}) == []
    assert circle_in({"a": (), "b": ("c",), "c": ("b", "a")}) in (["b", "c"], ["c", "b"])
    assert circle_in({"a": ("a",)}) == ["a"]


@given(st.integers(1, 6))
def test_a_graph_is_kept_as_json(number: int) -> None:
    made = chain(number, input={"a": "data.b"}, when={"data.x": 1})
    data = json.loads(json.dumps(made.as_data()))
    assert Graph.of(data) == made
    data["nodes"][0]["of_a_newer_version"] = 1
    assert Graph.of({**data, "more": 2}) == made


class Saga(RuleBasedStateMachine):
    """A saga whose steps end in any way, or in time, and whose facts come twice, late and in any order.

    A step is done once, or for each item of a list.
    """

    @initialize(lists=st.lists(st.one_of(st.none(), st.integers(0, 3)), min_size=1, max_size=4), collects=st.booleans())
    def start(self, lists: list[int | None], collects: bool) -> None:
        plain = chain(len(lists), timeout=60.0)
        nodes = (
            node if many is None else replace(node, each=f"data.{node.name}", collect=collects)
            for node, many in zip(plain.nodes, lists, strict=True)
        )
        self.graph = replace(plain, nodes=tuple(nodes))
        self.lists = lists
        self.number = len(lists)
        data = {node.name: list(range(many or 0)) for node, many in zip(plain.nodes, lists, strict=True)}
        self.cause = new_event("order.placed", data, source="/s")
        self.rows: dict[int, Step] = {}
        self.clocks: Clocks = {}
        self.clock = 0
        self.undone: list[int] = []
        self.end: Close | None = None
        self.look()

    def look(self) -> None:
        """Do what is next, as whoever records a fact does; twice, since facts may come twice."""
        for _ in range(2):
            if self.end is not None:
                return
            for pos in needless(self.rows, self.number, self.graph.collecting):
                self.rows[pos] = self.rows[pos]._replace(outcome=Outcome.LATE, ended=self.clock)
            plan = planned(self.graph, self.rows, self.cause, {}, "flow")
            assert plan.counts.members >= plan.counts.done + plan.counts.failed
            over = {pos: row for pos, row in plan.rows.items() if row.outcome not in OPEN and row.ended is None}
            self.rows = plan.rows | {pos: row._replace(ended=self.clock) for pos, row in over.items()}
            self.clocks = wound(self.clocks, plan, self.clock)
            self.end = plan.end if isinstance(plan.end, Close) else None

    def open(self) -> list[int]:
        return [pos for pos, row in self.rows.items() if row.outcome in OPEN]

    @precondition(lambda self: self.open())
    @rule(data=st.data(), outcome=st.sampled_from([Outcome.SUCCEEDED, Outcome.SUCCEEDED, Outcome.DEAD]))
    def ends(self, data: st.DataObject, outcome: Outcome) -> None:
        pos = data.draw(st.sampled_from(self.open()))
        self.clock += 1
        self.rows[pos] = step(pos, outcome, self.clock)._replace(result=str(pos))
        if is_undo(pos, self.number) and outcome is Outcome.SUCCEEDED:
            self.undone.append(pos - self.number)
        self.look()

    @precondition(lambda self: self.clocks)
    @rule(data=st.data())
    def its_time_is_over(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.clocks)))
        self.clock += 1
        for pos in open_places(self.rows, self.number, [int(name)]):
            self.rows[pos] = self.rows[pos]._replace(outcome=Outcome.LATE, ended=self.clock, error="too slow")
        self.look()

    def stuck(self) -> list[int]:
        rows = self.rows.items()
        return [pos for pos, row in rows if row.outcome is Outcome.DEAD and is_undo(pos, self.number)]

    @rule()
    def somebody_looks(self) -> None:
        self.look()

    @precondition(lambda self: self.stuck())
    @rule(drop=st.booleans())
    def helped(self, drop: bool) -> None:
        """Somebody requeues, or drops, what undoes a step and is dead."""
        pos = self.stuck()[0]
        self.rows[pos] = step(pos, Outcome.DROPPED if drop else Outcome.QUEUED, self.clock)
        self.look()

    def to_be_undone(self) -> set[int]:
        """Return the steps that are done, or of which an item is."""
        rows = self.rows.items()
        some = {pos % self.number for pos, row in rows if row.outcome is Outcome.SUCCEEDED}
        return {pos for pos in some if any(self.came_to(pos))}

    def came_to(self, pos: int) -> list[bool]:
        """Say of each delivery of a step whether it has succeeded."""
        mine = [p for p in self.rows if p % self.number == pos and not is_undo(p, self.number)]
        return [self.rows[p].outcome is Outcome.SUCCEEDED for p in sorted(mine)]

    @invariant()
    def nothing_is_undone_that_was_not_done_and_in_reverse_order(self) -> None:
        assert set(self.undone) <= self.to_be_undone()
        assert self.undone == sorted(self.undone, reverse=True)
        assert len(self.undone) == len(set(self.undone))

    @invariant()
    def it_has_ended_or_something_is_still_to_come(self) -> None:
        assert self.end is not None or self.open() or self.stuck()

    @invariant()
    def only_what_is_open_has_a_time(self) -> None:
        assert {int(name) for name in self.clocks} == {
            pos % self.number for pos in open_places(self.rows, self.number) if not self.undoes()
        }

    def undoes(self) -> bool:
        return any(is_undo(pos, self.number) for pos in self.rows)

    @invariant()
    def it_ends_as_its_steps_say(self) -> None:
        if self.end is None:
            return
        done = [self.came_to(pos) for pos in range(self.number)]
        if self.end.status == "completed":
            assert [len(some) for some in done] == [max(1, many or 1) for many in self.lists]
            results = Work(self.graph, self.rows, self.cause).results
            for pos, (node, many) in enumerate(zip(self.graph.nodes, self.lists, strict=True)):
                assert any(done[pos])
                assert node.collect or all(done[pos])
                if many is not None:
                    assert [one is not None for one in results[node.name]] == done[pos][:many]
            assert not self.undone
        else:
            assert not all(all(some) for some in done)
            dropped = {pos - self.number for pos, row in self.rows.items() if row.outcome is Outcome.DROPPED}
            assert self.to_be_undone() == {*self.undone} | dropped


TestSaga = Saga.TestCase
TestSaga.settings = settings(max_examples=150, stateful_step_count=30, deadline=None)
