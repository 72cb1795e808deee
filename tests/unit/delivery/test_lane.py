"""What the worker's main process does with deliveries of its lane: given, ended, lost, cancelled."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from pipeline.agents.strand import Strand, to_end
from pipeline.core.event import new_event
from pipeline.delivery.lane.books import Books
from pipeline.delivery.lane.lane import Lane
from pipeline.delivery.lane.messages import Answer, Cancel, End, How, Job, Message, Ping
from pipeline.delivery.turns.turns import rest
from pipeline.ledger.facts import Delivery


class Host:
    """A host that does nothing by itself, and the line to it."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.writer = -1
        self.told: list[Message] = []
        self.answers: list[Answer] | None = []
        self.killed = False

    def send(self, message: Message) -> None:
        self.told.append(message)

    def fileno(self) -> int:
        return self.pid

    def has_unsent(self) -> bool:
        return False

    def flush(self) -> None: ...

    def receive(self) -> list[Answer]:
        if self.answers is None:
            raise EOFError
        answers, self.answers = self.answers, []
        return answers

    def kill(self) -> bool:
        self.killed = True
        return True

    def close(self) -> None: ...

    @property
    def jobs(self) -> list[str]:
        return [message.id for message in self.told if isinstance(message, Job)]


class Request:
    """A request as Celery makes one; what is called on it is written down."""

    name, body, content_type, content_encoding, ignore_result = "agent.a", ((), {}, {}), None, None, True
    lane: Any = None

    def __init__(self, id: str, *, retries: int = 0, redelivered: bool = False, limit: float | None = None) -> None:
        self.id = id
        self.request_dict: dict[str, Any] = {"retries": retries}
        self.delivery_info = {"redelivered": redelivered}
        self.time_limits = (None, None)
        self.task = SimpleNamespace(time_limit=limit, agent=SimpleNamespace(in_ledger=False))
        self.saw: list[str] = []

    def revoked(self) -> bool:
        return False

    def on_accepted(self, pid: int, at: float) -> None:
        self.saw.append(f"accepted {pid}")

    def on_success(self, what: Any) -> None:
        self.saw.append("ended")

    def on_failure(self, info: Any) -> None:
        self.saw.append(type(getattr(info.exception, "exc", info.exception)).__name__)  # as billiard wraps it

    def on_timeout(self, soft: bool, limit: float) -> None:
        self.saw.append("timeout")

    def _announce_revoked(self, *args: Any) -> None:
        self.saw.append("revoked")


class Bench:
    """A lane with such hosts."""

    def __init__(self, most: int | None = None) -> None:
        self.hosts: list[Host] = []
        self.in_pool: list[str] = []
        self.forgotten: list[int] = []
        self.later: list[Callable[[], None]] = []
        self.lane = Lane(
            self._start, lambda request: self.in_pool.append(request.id), self.forgotten.append,
            lambda seconds, call: self.later.append(call), most=most,
        )  # fmt: skip

    def _start(self) -> Host:
        self.hosts.append(Host(len(self.hosts) + 1))
        return self.hosts[-1]

    def give(self, *requests: Request) -> None:
        for request in requests:
            self.lane.give(request)

    def number(self, request: Request) -> int:
        return self.lane._by_id[request.id].number

    def hears(self, host: Host, *answers: Answer | None) -> None:
        """Let a host answer; None for its death."""
        host.answers = None if None in answers else [answer for answer in answers if answer]
        self.lane._receive(self.lane._homes[[home.line for home in self.lane._homes].index(host)])

    def dies(self) -> None:
        self.hears(self.hosts[-1], None)

    def time_passes(self) -> None:
        calls, self.later = self.later, []
        for call in calls:
            call()


@pytest.fixture
def bench() -> Bench:
    """A lane with one host."""
    return Bench()


def test_a_delivery_is_handed_over_and_its_end_is_its_requests(bench: Bench) -> None:
    one = Request("1")
    bench.give(one)
    assert bench.hosts[0].jobs == ["1"]
    bench.hears(bench.hosts[0], (bench.number(one), How.ENDED, (0, None, 0.1)))
    assert one.saw == ["accepted 1", "ended"]


def test_a_message_that_comes_again_while_its_delivery_runs_takes_the_place_of_the_first_one(bench: Bench) -> None:
    first, again = Request("1"), Request("1", redelivered=True)
    bench.give(first, again)
    assert bench.hosts[0].jobs == ["1"]
    bench.hears(bench.hosts[0], (bench.number(first), How.ENDED, (0, None, 0.1)))
    assert "ended" not in first.saw
    assert again.saw[-1] == "ended"


@pytest.mark.parametrize(
    ("retries", "redelivered", "bus"), [(1, False, {}), (0, False, {}), (1, True, {}), (0, True, {"message": 9})]
)
def test_a_retry_that_is_here_before_its_first_attempt_has_ended_waits_for_that(
    bench: Bench, retries: int, redelivered: bool, bus: dict[str, int]
) -> None:
    first, second = Request("1"), Request("1", retries=retries, redelivered=redelivered)
    second.request_dict["bus"] = bus
    bench.give(first, second)
    assert bench.hosts[0].jobs == ["1"]
    bench.hears(bench.hosts[0], (bench.number(first), How.ENDED, (1, None, 0.1)))
    assert first.saw[-1] == "ended"
    bench.time_passes()
    assert bench.hosts[0].jobs == ["1", "1"]
    bench.hears(bench.hosts[0], (bench.number(second), How.ENDED, (0, None, 0.1)))
    assert second.saw[-1] == "ended"


# -- a host that dies


def test_who_ran_alone_has_ended_the_process(bench: Bench) -> None:
    one = Request("1")
    bench.give(one)
    bench.dies()
    assert one.saw[-1] == "WorkerLostError"
    assert bench.forgotten == []
    bench.give(Request("1", retries=1), Request("2"))
    assert bench.in_pool == ["1"]
    assert bench.hosts[1].jobs == ["2"]


def test_of_many_nobody_has_and_all_run_again(bench: Bench) -> None:
    many = [Request(str(n)) for n in range(3)]
    bench.give(*many)
    bench.dies()
    assert bench.forgotten == [1]
    assert bench.hosts[1].jobs == ["0", "1", "2"]
    assert [request.saw for request in many] == [["accepted 1", "accepted 2"]] * 3


def test_those_that_ran_in_two_that_died_go_on_in_the_pool_the_latest_first(bench: Bench) -> None:
    bench.give(*(Request(str(n)) for n in range(3)))
    bench.dies()
    bench.hears(bench.hosts[1], (bench.lane._by_id["1"].number, How.ENDED, (0, None, 0.1)))
    bench.give(Request("3"))
    bench.dies()
    assert bench.in_pool == ["2", "0"]
    assert bench.hosts[2].jobs == ["3"]


def test_what_waited_for_the_end_of_a_lost_delivery_comes_later(bench: Bench) -> None:
    bench.give(Request("1"), Request("2"), Request("1", retries=1))
    bench.dies()
    bench.time_passes()
    assert bench.hosts[1].jobs == ["1", "2"]
    assert [one.request_dict["retries"] for one in bench.lane._by_id["1"].next] == [1]


# -- the end of a handler, and of a host


def test_a_handler_that_hangs_at_its_limit_takes_its_process_and_no_neighbour_with_it(bench: Bench) -> None:
    hangs, neighbour = Request("1", limit=10), Request("2")
    bench.give(hangs, neighbour)
    number = bench.number(hangs)
    bench.time_passes()
    assert hangs.saw[-2:] == ["TimeLimitExceeded", "timeout"]
    assert bench.hosts[0].told[-2:] == [Cancel(number), Ping(number)]
    bench.time_passes()
    assert bench.hosts[0].killed
    bench.dies()
    assert neighbour.saw == ["accepted 1", "accepted 2"]
    assert bench.forgotten == [1]


def test_a_loop_that_answers_is_left_alone(bench: Bench) -> None:
    stubborn = Request("1", limit=10)
    bench.give(stubborn)
    number = bench.number(stubborn)
    bench.time_passes()
    bench.hears(bench.hosts[0], (number, How.PONG, None))
    bench.time_passes()
    assert not bench.hosts[0].killed


@pytest.mark.parametrize(("signal", "seen"), [(15, "revoked"), (0, "accepted 1")])
def test_a_cancelled_delivery_is_revoked_if_somebody_has_asked_for_that(bench: Bench, signal: int, seen: str) -> None:
    one = Request("1")
    bench.give(one)
    number = bench.number(one)
    assert bench.lane.cancel(one, signal)
    bench.hears(bench.hosts[0], (number, How.CANCELLED, None))
    assert one.saw[-1] == seen
    assert not bench.lane.cancel(one, signal)


def test_a_host_that_has_had_its_number_ends_when_it_is_done_and_another_one_goes_on() -> None:
    bench = Bench(most=2)
    many = [Request(str(n)) for n in range(3)]
    bench.give(*many)
    old, new = bench.hosts
    assert (old.jobs, new.jobs) == (["0", "1"], ["2"])
    bench.hears(old, (bench.number(many[0]), How.ENDED, (0, None, 0.1)))
    assert End() not in old.told
    bench.hears(old, (bench.number(many[1]), How.ENDED, (0, None, 0.1)))
    assert old.told[-1] == End()
    bench.hears(old, None)
    assert bench.forgotten == []
    assert many[2].saw == ["accepted 2"]


def test_a_lane_that_is_closing_takes_nothing_more(bench: Bench) -> None:
    bench.lane.finish(lambda: None)
    bench.give(Request("1"))
    assert bench.hosts[0].jobs == []


def test_whoever_waits_for_a_turn_on_the_loop_holds_no_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    held: list[float] = []
    monkeypatch.setattr("pipeline.delivery.turns.turns.pause", held.append)
    inbox: Any = SimpleNamespace(told=None, ledger=object(), turn=lambda _: (0.05, None), take=lambda _: rest(0.05))
    books, one = Books(inbox), Delivery("d1", new_event("a.b", {}, source="/test"), "a")

    async def main() -> list[Any]:
        return await asyncio.gather(*(to_end(Strand("work", lambda: books.take(one))) for _ in range(30)))

    assert asyncio.run(main()) == [None] * 30
    assert held == []
    assert books.take(one) is None
    assert held == [0.05], "where there is no loop"
