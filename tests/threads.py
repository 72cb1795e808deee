"""Work that several threads do at once."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any


def in_threads(number: int, work: Callable[[int], Any]) -> list[Any]:
    """Run `work(0)`, `work(1)`, ... all at once; return what they return, and raise what one of them raises."""
    start = threading.Barrier(number)

    def run(n: int) -> Any:
        start.wait(60)
        return work(n)

    with ThreadPoolExecutor(number) as pool:
        return list(pool.map(run, range(number)))
