"""Another system of each kind, and the processes of a bridge to it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.bridges import JetStream, Other, Outbox, Running, Servers, Streams, described
from tests.harness import Broker, StartWorker, Worker
from tests.topics import Topics

KINDS: dict[str, Callable[[Servers, Path], Other]] = {
    "jetstream": JetStream, "redis": Streams, "postgresql": Outbox, "kafka": Topics,
}  # fmt: skip


@pytest.fixture(params=KINDS)
def other(request: pytest.FixtureRequest, servers: Servers, tmp_path: Path) -> Iterator[Other]:
    """An empty system of each kind."""
    one = KINDS[request.param](servers, tmp_path)
    yield one
    one.close()


@pytest.fixture
def both(other: Other) -> Other:
    """One that events can be sent to, too."""
    if not other.sends:
        pytest.skip(f"from {other.system} events come in only")
    return other


@pytest.fixture
def bridge(broker: Broker, other: Other) -> Iterator[Callable[..., Running]]:
    """Start processes that take what comes: they end with the test."""
    started: list[Running] = []

    def start(*arguments: str, ready: bool = True, **about: object) -> Running:
        one = Running(broker, described(other, **about), f"bridge{len(started) + 1}")
        started.append(one)
        return one.start(*arguments, ready=ready)

    yield start
    for one in started:
        one.kill()


@pytest.fixture
def sender(worker: StartWorker, other: Other) -> Callable[..., Worker]:
    """Start a worker that sends what goes out, and runs the agents."""
    return lambda **about: worker(app="bridged_app", environment=described(other, **about))
