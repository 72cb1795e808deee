"""Benchmarks: this bus beside raw Kombu, aio-pika and bare Celery tasks, on the same broker in the same run."""
