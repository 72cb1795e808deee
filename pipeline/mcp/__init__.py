"""The bus for programs that let a model choose: its verbs as tools of the Model Context Protocol."""

from __future__ import annotations

from ..core.errors import ConfigError, to_install

try:
    from .server import server_of
    from .stdio import serve, wire
except ModuleNotFoundError as exc:
    if (exc.name or "").partition(".")[0] not in ("mcp", "mcp_types", "anyio"):
        raise
    raise ConfigError(f"`pipeline mcp` needs {exc.name}, which is not installed: {to_install('mcp')}") from None

from .tools import ALLOWED

__all__ = ["ALLOWED", "serve", "server_of", "wire"]
