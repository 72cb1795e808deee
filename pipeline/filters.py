"""The kinds of filters that `where=` takes beside mappings and texts, and filters by themselves (docs/filters.md)."""

from .agents.filters import *  # noqa: F403  # the names are listed there, once
