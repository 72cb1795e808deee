"""The HTTP front: every verb of an app as a route, to be served by itself or mounted in your own FastAPI app."""

from __future__ import annotations

from ..core.errors import ConfigError, to_install

try:
    from .access import SCOPES, Token, new_token
    from .server import front
except ModuleNotFoundError as exc:
    if exc.name not in ("fastapi", "starlette", "uvicorn", "jinja2"):
        raise
    raise ConfigError(f"the HTTP front needs {exc.name}, which is not installed: {to_install('http')}") from None

__all__ = ["SCOPES", "Token", "front", "new_token"]
