"""How long a test takes in virtual time: `python -m benchmarks.testing`. No server is needed.

Prints seconds of a test without events, and of tests of 1,000: published one by one, at once, and to an async agent.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

from pipeline import Payload, Pipeline

EVENTS, REPEATS = 1000, 5


class Work(Payload, type="bench.work"):
    """What the sync agent handles."""

    number: int


def build(directory: Path) -> tuple[Pipeline, list[int]]:
    """Return an application, and what its agents have handled."""
    app, handled = Pipeline("bench", directory=directory), list[int]()

    @app.agent(on=Work)
    def sync(work: Work) -> None:
        handled.append(work.number)

    @app.agent(on="bench.waiting")
    async def waiting(data: dict[str, int]) -> None:
        handled.append(data["number"])

    return app, handled


def measured(app: Pipeline, handled: list[int], publish: Callable[[], object], events: int) -> tuple[float, float]:
    """Return the seconds of a test on the wall, and of the CPU."""
    handled.clear()
    wall, cpu = time.perf_counter(), time.process_time()
    with app.testing() as bus:
        publish()
        bus.settle()
    assert len(handled) == events
    return time.perf_counter() - wall, time.process_time() - cpu


def main() -> None:
    """Measure and print."""
    with tempfile.TemporaryDirectory() as place:
        app, handled = build(Path(place))
        tests: tuple[tuple[str, Callable[[], object], int], ...] = (
            ("no event", lambda: None, 0),
            ("publish", lambda: [app.publish(Work(number=number)) for number in range(EVENTS)], EVENTS),
            ("publish_many", lambda: app.publish_many([Work(number=number) for number in range(EVENTS)]), EVENTS),
            (
                "publish, async agent",
                lambda: [app.publish("bench.waiting", {"number": number}) for number in range(EVENTS)],
                EVENTS,
            ),
        )
        measured(app, handled, lambda: None, 0)  # a process's first test makes an empty ledger for all
        print(f"{'a test of':24} {'seconds':>8} {'of CPU':>8}   (median of {REPEATS}; {EVENTS:,} events)")
        for name, publish, events in tests:
            runs = [measured(app, handled, publish, events) for _ in range(REPEATS)]
            print(f"{name:24} {median(wall for wall, _ in runs):8.3f} {median(cpu for _, cpu in runs):8.3f}")


if __name__ == "__main__":
    main()
