"""Flows: deliveries that belong together."""
