"""The tests that the how-to shows: a user's own, run by pytest as they stand there, without any server."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

HOWTO = Path(__file__).parents[2] / "docs" / "howto.md"
_FENCE = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)

#: Eager tasks run no agents: an event needs a worker.
EAGER = """
app.celery.conf.task_always_eager = True


def test_eager_tasks_run_no_agents() -> None:
    (page,) = app.settle(app.publish("page.requested", {}), timeout=60)
    assert [each.outcome for each in page.deliveries] == ["unrouted"]


def test_eager_tasks_change_nothing_with_a_worker(worker: None) -> None:
    (page,) = app.settle(app.publish("page.requested", {}), timeout=60)
    assert [(each.agent, each.outcome) for each in page.deliveries] == [("fetch", "succeeded")]
"""


def run(directory: Path, *snippets: str) -> str:
    """Write the snippets into one module of tests, as the how-to says that they belong to one, and run it."""
    (directory / "test_shop.py").write_text("\n\n".join(snippets))
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PIPELINE_", "PYTEST_"))}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"], cwd=directory,
        env={**kept, "PIPELINE_BROKER_URL": "amqp://nobody.invalid//"}, capture_output=True, text=True,
        timeout=180, check=False, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_tests_that_the_howto_shows_pass_and_leave_nothing_where_they_run(tmp_path: Path) -> None:
    text = HOWTO.read_text()
    chapter = text.index("## Testing your agents")
    agents = [body for body in _FENCE.findall(text[:chapter]) if not re.search("autodiscover|fastapi|django", body)]
    first, second, conftest, third = _FENCE.findall(text[chapter:])
    assert conftest.startswith("# conftest.py\n")
    (tmp_path / "conftest.py").write_text(conftest)
    output = run(tmp_path, *agents, first, second, third)
    assert "4 passed" in output
    assert {path.name for path in tmp_path.iterdir()} - {"__pycache__"} == {"conftest.py", "test_shop.py"}
    assert "2 passed" in run(tmp_path, *agents, third.split("def test")[0], EAGER)
