"""Limits over all workers: what they say, and how a rate is counted."""
