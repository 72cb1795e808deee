"""The face: the application, its verbs, and how it dresses a Celery app."""
