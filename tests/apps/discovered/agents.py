"""Agents that a worker finds by itself."""

from __future__ import annotations

from typing import Any

from contract_app import journal  # type: ignore[import-not-found]
from discovering_app import app  # type: ignore[import-not-found]

from pipeline import Context


@app.agent(on="found.#")
def found(data: Any, ctx: Context) -> None:
    journal("found", ctx, data)
