"""Limits: how much at once."""
