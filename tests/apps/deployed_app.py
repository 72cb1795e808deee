"""Agents in two versions, old and new: one that listens to more in the new one, one to less, one to something else."""

from __future__ import annotations

import os
from typing import Any

from contract_app import journal

from pipeline import Context, Pipeline

app = Pipeline("deployed")
VERSION = os.environ.get("VERSION", "new")
PATTERNS = {
    "old": {"more": ["more.one"], "less": ["less.one", "less.two"], "named": ["named.before"]},
    "new": {"more": ["more.one", "more.two"], "less": ["less.one"], "named": ["named.after"]},
}[VERSION]


@app.agent(on=PATTERNS["more"])
def more(data: Any, ctx: Context) -> None:
    journal("more", ctx, data, version=VERSION)


@app.agent(on=PATTERNS["less"])
def less(data: Any, ctx: Context) -> None:
    journal("less", ctx, data, version=VERSION)


@app.agent(on=PATTERNS["named"])
def named(data: Any, ctx: Context) -> None:
    journal("named", ctx, data, version=VERSION)
