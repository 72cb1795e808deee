"""Which events an agent wants, by what they say: one tree of conditions, and three ways to write it."""

from __future__ import annotations

from .explain import Explained, check_kinds, check_paths
from .filter import Filter, Where, parse
from .kinds import Content, EventType, Expression, Fields, JsonPath, Kind, Regex
from .values import Failed, Result

__all__ = [
    "Content",
    "EventType",
    "Explained",
    "Expression",
    "Failed",
    "Fields",
    "Filter",
    "JsonPath",
    "Kind",
    "Regex",
    "Result",
    "Where",
    "check_kinds",
    "check_paths",
    "parse",
]
