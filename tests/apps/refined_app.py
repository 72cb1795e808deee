"""An agent in two versions, old and new, whose filters differ; one that filters in the new version alone."""

from __future__ import annotations

import os
from typing import Any

from contract_app import journal

from pipeline import Context, Pipeline

app = Pipeline("refined")
VERSION = os.environ.get("VERSION", "new")
WHERE: dict[str, dict[str, Any]] = {
    "old": {"sizes": "size IN (1, 3)", "all": None},
    "new": {"sizes": "size IN (2, 3)", "all": "size > 2"},
}


@app.agent(on="box.#", where=WHERE[VERSION]["sizes"])
def sizes(data: dict[str, Any], ctx: Context) -> None:
    journal("sizes", ctx, data, version=VERSION)


@app.agent(on="box.#", where=WHERE[VERSION]["all"])
async def all_of_them(data: dict[str, Any], ctx: Context) -> None:
    journal("all_of_them", ctx, data, version=VERSION)
