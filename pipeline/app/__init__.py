"""The face: the application, its verbs, and how it dresses a Celery app."""

from __future__ import annotations

from .app import Pipeline, default_app

__all__ = ["Pipeline", "default_app"]
