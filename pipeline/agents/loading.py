"""Importing the modules that declare agents, as a worker does."""

from __future__ import annotations

import traceback
from typing import TYPE_CHECKING

from ..core.errors import ConfigError, PipelineError

if TYPE_CHECKING:
    from celery import Celery


def import_agents(celery: Celery) -> None:
    """Import the modules that declare agents; raise ConfigError that says where it goes wrong."""
    try:
        celery.loader.import_default_modules()
    except PipelineError as exc:
        raise ConfigError(str(exc)) from exc
    except Exception as exc:
        frame = traceback.extract_tb(exc.__traceback__)[-1]
        where = "" if frame.filename.startswith("<") else f" ({frame.filename}:{frame.lineno})"
        names = ", ".join(celery.conf.imports or ()) or "the agents' modules"
        raise ConfigError(f"importing {names}: {type(exc).__name__}: {exc}{where}") from exc
