"""Importing the modules that declare agents, as a worker does."""

from __future__ import annotations

import importlib
import traceback
from pathlib import Path
from typing import TYPE_CHECKING

import celery as celery_package
import kombu

from ..core.errors import ConfigError, PipelineError

if TYPE_CHECKING:
    from celery import Celery

#: Where files begin whose lines do not help the author of a module: Python's import, Celery, and the bus.
NOT_THEIRS = (
    "<",
    *(str(Path(str(module.__file__)).parent) for module in (importlib, celery_package, kombu)),
    str(Path(__file__).parents[1]),
)


def import_agents(celery: Celery) -> None:
    """Import the modules that declare agents; raise ConfigError that says where it goes wrong."""
    try:
        celery.loader.import_default_modules()
    except Exception as exc:
        names = ", ".join(celery.conf.imports or ()) or "the agents' modules"
        raise ConfigError(f"importing {names}: {told(exc)}") from exc


def told(exc: Exception) -> str:
    """Return what went wrong in an import, and at which line of the user's."""
    frames = [frame for frame in traceback.extract_tb(exc.__traceback__) if not frame.filename.startswith(NOT_THEIRS)]
    where = f" ({frames[-1].filename}:{frames[-1].lineno})" if frames else ""
    return f"{exc}{where}" if isinstance(exc, PipelineError) else f"{type(exc).__name__}: {exc}{where}"
