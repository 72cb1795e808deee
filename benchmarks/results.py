"""Everything that one run found."""

from __future__ import annotations

import os
import platform
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from .execute import Executions
from .imports import Imports
from .latency import Latency
from .ledger import Measured
from .publish import Published


@dataclass(frozen=True)
class Target:
    """What should be reached, what was, and whether that is enough."""

    number: int
    what: str
    wanted: str
    measured: str
    met: bool


@dataclass
class Results:
    """What was measured, and on what."""

    environment: dict[str, str]
    skipped: dict[str, str] = field(default_factory=dict)
    publish: list[Published] = field(default_factory=list)
    execute: list[Executions] = field(default_factory=list)
    latency: list[Latency] = field(default_factory=list)
    imports: Imports | None = None
    ledger: Measured = field(default_factory=Measured)

    def as_json(self, targets: list[Target]) -> dict[str, Any]:
        """Return it as JSON-compatible data."""
        return {
            "environment": self.environment,
            "skipped": self.skipped,
            "publish": [one.as_json() for one in self.publish],
            "execute": [one.as_json() for one in self.execute],
            "latency": [one.as_json() for one in self.latency],
            "import": self.imports and self.imports.as_json(),
            "ledger": self.ledger.as_json(),
            "targets": [asdict(target) for target in targets],
        }


def environment(repeats: int) -> dict[str, str]:
    """Return what the numbers depend on."""
    found = {
        "date": datetime.now(UTC).date().isoformat(),
        "machine": f"{os.cpu_count()} x {_processor()}, {platform.system()}",
        "python": platform.python_version(),
    }
    packages = ("celery", "kombu", "amqp", "aio-pika", "pydantic", "sqlalchemy")
    return {
        **found,
        "packages": ", ".join(f"{name} {version(name)}" for name in packages),
        "repeats": str(repeats),
        "load before": f"{os.getloadavg()[0]:.2f}",
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.machine()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())
