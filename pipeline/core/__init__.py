"""The words: events, types and patterns, who gets what, ids, outcomes, errors; no Celery, no SQL."""
