"""Deliveries: what a worker takes from a queue becomes a task (2), and is delivered once (3)."""
