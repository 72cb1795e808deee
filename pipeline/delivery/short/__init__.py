"""The short way: an ordinary delivery is run beside Celery's request and tracer, which nobody would miss there."""
