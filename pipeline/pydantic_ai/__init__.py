"""Runs of pydantic-ai's agents that go on where they were: `durable(agent)` (docs/llm-agents.md)."""

from __future__ import annotations

from ..core.errors import ConfigError, to_install

try:
    from .agent import durable
    from .answers import price
    from .run import Asking, Reserve
except ImportError as exc:
    if not (exc.name or "").startswith("pydantic_ai"):
        raise
    raise ConfigError(f"pipeline.pydantic_ai needs pydantic-ai ({exc}); {to_install('pydantic-ai')}") from None

__all__ = ["Asking", "Reserve", "durable", "price"]
