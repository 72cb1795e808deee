"""What it costs to say something while a handler runs, token by token, with a SQLite ledger.

    python -m benchmarks.saying

The CPU time of `ctx.stream`, the writing included: of one text as fast as it comes, and of 100 side by side with 50
tokens a second each, as models yield them.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from pipeline import Context, Pipeline
from pipeline.core.event import new_event

from .samples import median

TOKENS, TEXTS, RATE, SECONDS = 200_000, 100, 50, 5
TOKEN = "token "


def contexts(app: Pipeline, number: int) -> list[Context]:
    """Return contexts of so many deliveries."""
    events = [new_event("bench.told", source="/bench") for _ in range(number)]
    return [Context(event, "bench", event.id, 1, "/bench", None, ledger=app.ledger) for event in events]


def at_once(app: Pipeline) -> float:
    """Return the microseconds of CPU time that a token of one text costs."""
    (context,) = contexts(app, 1)
    begun = time.process_time()
    for _ in range(TOKENS):
        context.stream("answer", TOKEN)
    app.ledger.notices.flush()
    return (time.process_time() - begun) / TOKENS * 1e6


def side_by_side(app: Pipeline) -> float:
    """Return the share of a core that many texts cost which grow slowly."""
    many = contexts(app, TEXTS)
    begun, started = time.process_time(), time.monotonic()
    for n in range(RATE * SECONDS):
        for context in many:
            context.stream("answer", TOKEN)
        time.sleep(max(0.0, started + (n + 1) / RATE - time.monotonic()))
    app.ledger.notices.flush()
    return (time.process_time() - begun) / (time.monotonic() - started)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--repeats", type=int, default=3, help="rounds (default 3)")
    repeats = parser.parse_args(arguments).repeats
    with (
        tempfile.TemporaryDirectory(prefix="bench-saying-") as directory,
        closing(Pipeline("bench", directory=Path(directory), agents=())) as app,
    ):
        fast = median([at_once(app) for _ in range(repeats)])
        slow = median([side_by_side(app) for _ in range(repeats)])
    print(f"one text as fast as it comes: {fast:.1f} us of CPU a token")
    print(f"{TEXTS} texts with {RATE} tokens a second each: {slow:.0%} of a core")


if __name__ == "__main__":
    main()
