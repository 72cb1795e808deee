"""The lane of async handlers: they run on an event loop of the worker, hundreds at once, beside the pool."""
