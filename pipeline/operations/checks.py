"""What the doctor says about one thing that was looked at."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Literal

from ..core.errors import without_passwords


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at: what it is, how it is, and how to mend it."""

    name: str
    status: Literal["ok", "warn", "fail"]
    detail: str
    mend: str = ""

    def as_data(self) -> dict[str, str]:
        """Return the check as JSON data."""
        return asdict(self)


def ok(name: str, detail: str) -> Check:
    """Return that something is as it should be."""
    return Check(name, "ok", without_passwords(detail))


def warn(name: str, detail: str, mend: str) -> Check:
    """Return that something works, but may surprise."""
    return Check(name, "warn", without_passwords(detail), mend)


def fail(name: str, detail: str, mend: str) -> Check:
    """Return that something does not work."""
    return Check(name, "fail", without_passwords(detail), mend)
