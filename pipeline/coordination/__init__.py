"""Coordination: chords and joins that end in events, and schedules."""
