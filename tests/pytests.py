"""Runs of pytest of their own, as a user has them, on an application and some tests."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
APP = """
from pipeline import Event, Payload, Pipeline

app = Pipeline("shop")

class OrderPaid(Payload, type="order.paid", version="1.0.0"):
    number: int

@app.agent(on="order.placed", retry=0)
def pay(data: dict) -> OrderPaid:
    if data["number"] < 0:
        raise ValueError("no such order")
    return OrderPaid(number=data["number"])

@app.agent(on="order.paid")
async def ship(paid: OrderPaid) -> None: ...
"""
INI = "[pytest]\npipeline_app = shop:app\nfilterwarnings = error\n"
PLUGIN = ("-p", "pipeline.testing.plugin")
#: The plugins of others that these runs do without, unless a test is about them.
OTHERS = ("celery", "asyncio", "django")


class Run:
    """Runs pytest in a directory with an application and some tests.

    Arguments:
        others: the plugins of others that are loaded.

    """

    def __init__(self, place: Path, others: tuple[str, ...] = ()) -> None:
        self.place = place
        self._without = [word for name in OTHERS if name not in others for word in ("-p", f"no:{name}")]
        (place / "shop.py").write_text(APP)

    def __call__(self, tests: str, *arguments: str, ini: str = INI, plugin: tuple[str, ...] = PLUGIN) -> str:
        (self.place / "pytest.ini").write_text(ini)
        (self.place / "test_shop.py").write_text(tests)
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("PIPELINE_", "PYTEST_"))}
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *self._without, *plugin, *arguments],
            cwd=self.place, capture_output=True, text=True, timeout=120, check=False,
            env={**kept, "PYTHONPATH": f"{self.place}{os.pathsep}{ROOT}"},
        )  # fmt: skip
        return done.stdout + done.stderr
