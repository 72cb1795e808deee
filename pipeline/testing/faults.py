"""What goes wrong in a simulation: drawn from its seed, each occurrence by itself, so that some can be left out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from random import Random

from ..core.errors import ConfigError, nearest

#: A worker is killed at one of the points of a delivery; a message comes twice; messages overtake each other; the
#: broker takes nothing; a handler takes its time; the worker's clock is put forward or back.
CRASH, DUPLICATE, REORDER, AWAY, SLOW, SKEW = KINDS = (
    "crash",
    "duplicate",
    "reorder",
    "broker_away",
    "slow",
    "skew",
)
#: How likely each is, wherever it could happen.
USUAL: Mapping[str, float] = {CRASH: 0.02, DUPLICATE: 0.05, REORDER: 0.1, AWAY: 0.02, SLOW: 0.02, SKEW: 0.01}
Occurrence = tuple[str, int]


class Faults:
    """The faults of one run.

    Arguments:
        seed: what they are drawn from.
        shares: how likely each kind is, 0 to 1.
        only: those that may happen; default all that are drawn.

    """

    def __init__(self, seed: int, shares: Mapping[str, float], only: Collection[Occurrence] | None = None) -> None:
        """Raise ConfigError for a kind or a share that is none."""
        for kind, share in shares.items():
            if kind not in KINDS:
                raise ConfigError(f"faults: {kind!r} is no fault; {nearest(kind, KINDS)}")
            if not 0 <= share <= 1:
                raise ConfigError(f"faults: {kind}={share!r} is no share from 0 to 1")
        self._random = {kind: Random(f"{seed}/{kind}") for kind in KINDS}  # the same each time
        self._shares, self._only = shares, only
        self._numbers: Counter[str] = Counter()
        self.happened: list[Occurrence] = []

    def happens(self, kind: str) -> bool:
        """Say whether a fault happens here and now."""
        share = self._shares.get(kind, 0.0)
        self._numbers[kind] += 1
        occurrence = kind, self._numbers[kind]
        if self._random[kind].random() >= share or (self._only is not None and occurrence not in self._only):
            return False
        self.happened.append(occurrence)
        return True
