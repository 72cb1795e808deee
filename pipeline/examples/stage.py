"""Where a demonstration plays: a directory with all of its state, the settings that find it, and an app on it."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from pipeline import Event, Pipeline, SettleTimeout

#: Tells what happens, when it happens.
Tell = Callable[[str], None]


@dataclass(frozen=True)
class Stage:
    """Where a demonstration plays.

    Attributes:
        place: the directory with all of its state.
        config: the settings file with which workers, and commands later, find that state.
        app: publishes into it, and reads what has become of that.

    """

    place: Path
    config: Path
    app: Pipeline


def stage(name: str, directory: Path | None, agents: Iterable[str] = (), **more: float) -> Stage:
    """Make a stage, on the embedded broker and a ledger in SQLite, whatever the environment says.

    Arguments:
        name: the demonstration's, in the name of a temporary directory too.
        directory: where all state goes; default a new temporary directory, which is kept.
        agents: the modules with agents that the built-in app is to have.
        more: further settings of its workers.

    """
    place = (directory or Path(tempfile.mkdtemp(prefix=f"pipeline-{name}-"))).absolute()
    place.mkdir(mode=0o700, parents=True, exist_ok=True)
    config = place / "pipeline.toml"
    settings = {"directory": str(place), **({"agents": [*agents]} if agents else {}), **more}
    config.write_text("".join(f"{key} = {json.dumps(value)}\n" for key, value in settings.items()))
    return Stage(
        place, config, Pipeline(name, directory=place, broker_url="", ledger_url=None, result_backend="", namespace="")
    )


def still_open(app: Pipeline, events: Iterable[Event]) -> str | None:
    """Say what of some events is not done yet; None when all of it is."""
    try:
        for event in events:
            app.settle(event, timeout=0)
    except SettleTimeout as exc:
        return str(exc)
    return None
