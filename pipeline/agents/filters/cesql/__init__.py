"""CESQL 1.0: expressions on the attributes of events."""
