"""The settings of a Django project, those of Celery and its beat among them."""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import urlsplit

SECRET_KEY = "not for production"
INSTALLED_APPS = ["django_celery_beat"]
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": str(Path(os.environ["PIPELINE_DIRECTORY"]).parent / "site.db"),
        # Who reads first and then writes waits for nobody in SQLite, and fails at once when another one has written.
        "OPTIONS": {"timeout": 30, "transaction_mode": "IMMEDIATE"},
    }
}
if "SITE_POSTGRESQL" in os.environ:
    at = urlsplit(os.environ["SITE_POSTGRESQL"])
    DATABASES["default"] = {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": at.path.removeprefix("/"),
        "USER": at.username,
        "HOST": at.hostname,
        "PORT": at.port,
        "CONN_MAX_AGE": None,  # so that nobody but the bus and Celery closes a connection
    }
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
TIME_ZONE = "Asia/Kolkata"
USE_TZ = True

CELERY_BROKER_URL = os.environ["PIPELINE_BROKER_URL"]
CELERY_TIMEZONE = "Europe/Berlin"
CELERY_TASK_IGNORE_RESULT = True
CELERY_BEAT_SCHEDULER = "django_celery_beat.schedulers:DatabaseScheduler"
CELERY_BEAT_MAX_LOOP_INTERVAL = 1
