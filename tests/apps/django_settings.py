"""The settings of a Django project, those of Celery and its beat among them."""

from __future__ import annotations

import os
from pathlib import Path

SECRET_KEY = "not for production"
INSTALLED_APPS = ["django_celery_beat"]
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": str(Path(os.environ["PIPELINE_DIRECTORY"]).parent / "site.db"),
        "OPTIONS": {"timeout": 30},
    }
}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
TIME_ZONE = "Asia/Kolkata"
USE_TZ = True

CELERY_BROKER_URL = os.environ["PIPELINE_BROKER_URL"]
CELERY_TIMEZONE = "Europe/Berlin"
CELERY_TASK_IGNORE_RESULT = True
CELERY_BEAT_SCHEDULER = "django_celery_beat.schedulers:DatabaseScheduler"
CELERY_BEAT_MAX_LOOP_INTERVAL = 1
