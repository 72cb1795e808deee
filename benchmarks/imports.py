"""How long `import celery` and `import pipeline` take in a fresh interpreter, in turns."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import asdict, dataclass
from typing import Any

from .progress import say
from .samples import median
from .workers import ROOT

#: `Celery` and `Pipeline` are named because Celery imports its parts when they are first used.
STATEMENTS = {"celery": "from celery import Celery", "pipeline": "from pipeline import Pipeline"}
_PROGRAM = "import time; t = time.perf_counter(); {}; print(time.perf_counter() - t)"


@dataclass(frozen=True)
class Imports:
    """Seconds of each import."""

    celery: list[float]
    pipeline: list[float]

    @property
    def more(self) -> float:
        """Seconds that importing pipeline takes more than importing celery."""
        return median(self.pipeline) - median(self.celery)

    def as_json(self) -> dict[str, Any]:
        """Return everything that was measured."""
        return asdict(self)


def measure(repeats: int) -> Imports:
    """Import both in turns, after one of each that fills the disk cache."""
    found = Imports([], [])
    for repeat in range(repeats + 1):
        for name, statement in STATEMENTS.items():
            seconds = _import(statement)
            if repeat:
                getattr(found, name).append(seconds)
    say(f"import: celery {median(found.celery):.3f} s, pipeline {median(found.pipeline):.3f} s")
    return found


def _import(statement: str) -> float:
    program = [sys.executable, "-c", _PROGRAM.format(statement)]
    return float(subprocess.run(program, cwd=ROOT, check=True, capture_output=True, text=True).stdout)
