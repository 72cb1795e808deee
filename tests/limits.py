"""What journals say of limits."""

from __future__ import annotations

from collections import Counter
from typing import Any


def most_at_once(lines: list[dict[str, Any]], killed: dict[int, float] | None = None) -> int:
    """Return how many attempts ran at once, at most; those of a killed process end with it."""
    moments: list[tuple[float, int]] = []
    ends = Counter((line["id"], line["pid"]) for line in lines if line["does"] == "ends")
    for line in lines:
        moments.append((line["at"], 1 if line["does"] == "begins" else -1))
        if line["does"] == "begins":
            if not ends[line["id"], line["pid"]]:
                moments.append(((killed or {})[line["pid"]], -1))
            ends[line["id"], line["pid"]] -= 1
    running = most = 0
    for _, change in sorted(moments):
        running += change
        most = max(most, running)
    return most
