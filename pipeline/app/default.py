"""The default app: the one that `celery -A pipeline` and the `pipeline` command use."""

from __future__ import annotations

from functools import lru_cache

from .app import Pipeline

#: Whose agents it has where the settings name none.
EXAMPLE = "pipeline.examples.briefing.agents"


@lru_cache(maxsize=1)
def default_app() -> Pipeline:
    """Return the one app that `celery -A pipeline` and the `pipeline` command use, made from the settings.

    Without any agents configured it has those of the briefing example.
    """
    app = Pipeline("pipeline")
    if not app.settings.agents:
        app.celery.conf.update(imports=(EXAMPLE,))
    return app
