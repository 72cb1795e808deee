"""The crew with a real provider's client, over HTTP, as users run it: the setting is all that it takes.

Who answers is a stand-in (tests/openaiserver.py), as no provider can be called from here.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from time import monotonic
from typing import Any

import pytest

pytest.importorskip("pydantic_ai")
pytest.importorskip("openai")

from genai_prices import Usage as Tokens
from genai_prices import calc_price

from pipeline import Pipeline
from pipeline.examples.briefing import post
from pipeline.examples.crew.agents import TopicGiven
from pipeline.examples.crew.bill import bill
from pipeline.examples.crew.demo import BUDGET, MODULE
from pipeline.examples.crew.model import RESERVED
from pipeline.examples.stage import stage
from pipeline.examples.workers import running, start
from tests.demos import COMMAND, PATIENT, demo
from tests.openaiserver import Provider, Refusal, Usage, serving
from tests.servers import wait_for

pytestmark = pytest.mark.usefixtures("nothing_is_left")

MODEL = "openai:gpt-5"
#: Seconds that the provider asks to wait.
PAUSE = 2
#: One plan with three questions, two requests for each of them, one report.
REQUESTS = {"planner": 1, "searcher": 6, "writer": 1}
#: Makes OpenAI's client what it is where nobody has installed it.
WITHOUT = """
import sys


class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "openai":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


sys.meta_path.insert(0, Blocker())
"""


@pytest.fixture
def keyless(environment: dict[str, str]) -> dict[str, str]:
    """An environment that names the model, and has nobody's key."""
    return {**{name: text for name, text in environment.items() if not name.startswith("OPENAI_")}, "CREW_MODEL": MODEL}


def cost(usage: Usage) -> int:
    """Return what OpenAI takes for an answer, in millionths."""
    tokens = Tokens(input_tokens=usage.read, cache_read_tokens=usage.cached, output_tokens=usage.written)
    return round(calc_price(tokens, "gpt-5", provider_id="openai").total_price * 1_000_000)


def check_paid(provider: Provider, calls: list[dict[str, Any]]) -> None:
    """Check that each request was answered once, and is in the ledger with what the provider says that it took."""
    assert provider.wrong == []
    assert set(provider.times.values()) == {1}
    assert Counter(call["agent"] for call in calls) == REQUESTS
    took = [(usage.read + usage.written, cost(usage)) for _, usage in provider.answered]
    assert sorted((call["tokens"], call["cost"]) for call in calls) == sorted(took)
    assert all(each > 0 for one in took for each in one)


def attempts(app: Pipeline, correlation: str) -> Counter[tuple[str, int]]:
    """Return how many deliveries each agent has had, by how many attempts they took."""
    deliveries = [delivery for event in app.trace(correlation) for delivery in event.deliveries]
    return Counter((delivery.agent, delivery.attempts) for delivery in deliveries if delivery.agent)


@contextmanager
def told(directory: Path, environment: dict[str, str]) -> Iterator[subprocess.Popen[str]]:
    command = [*COMMAND, "crew", "--yes", "--json", "--directory", str(directory), *PATIENT]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True, env=environment
    ) as process:
        try:
            yield process
        finally:
            process.terminate()


def test_the_setting_is_all_that_a_provider_takes_and_its_429_is_a_pause(
    tmp_path: Path, keyless: dict[str, str]
) -> None:
    refusal = Refusal({"Retry-After": str(PAUSE)})
    place = tmp_path / "here"
    with serving(refusal, is_holding=True) as provider, told(place, {**keyless, **provider.environment}) as process:
        # What follows the first answers is held back: until then the ledger has not forgotten the pause.
        wait_for(lambda: provider.refused or process.poll() is not None, "the refusal")
        app = Pipeline("crew", directory=place, ledger_url=None)
        wait_for(lambda: app.pauses.list() or process.poll() is not None, "the pause")
        assert process.poll() is None, process.communicate()
        (pause,) = app.pauses.list()
        assert pause.name == MODEL
        assert pause.until - pause.since >= timedelta(seconds=PAUSE)
        provider.release()
        said, errors = process.communicate(timeout=180)
        assert (process.returncode, errors) == (0, "")
        found = json.loads(said)

        # The client has left waiting to the pause, and no attempt was spent.
        assert (provider.refused, provider.again) == (1, 0)
        correlation = found["correlation_id"]
        assert attempts(app, correlation) == {("planner", 1): 1, ("searcher", 1): 3, ("writer", 1): 1, ("sender", 1): 1}
        app.close()

        # The count of a real provider is your bill; what the ledger says is what it would say.
        paid = found["paid"]
        check_paid(provider, paid["calls"])
        assert (paid["provider"], found["killed"], found["paused"]) == (None, None, None)
        assert {call["answered"] for call in paid["calls"]} == {None}
        used = paid["budget"]["used"]
        assert (used["tokens"], used["cost"]) == (paid["tokens"], paid["cost"])

        assert found["sent"] == {"to": "ada@example.org", "approved_by": found["approval"]["by"]}
        assert list(found["mails"].values()) == [1]


def test_a_worker_that_is_killed_in_the_middle_pays_the_provider_nothing_twice(
    tmp_path: Path, keyless: dict[str, str]
) -> None:
    scene = stage("crew", tmp_path / "here")
    with serving(is_holding=True) as provider, post.open_at(tmp_path / "mail", is_calm=True) as office:
        state = {
            "PIPELINE_CONFIG": str(scene.config),
            "CREW_STATE": str(tmp_path / "crew"),
            "CREW_SMTP_URL": office.url,
        }
        environment = {**keyless, **provider.environment, **state}
        with running(scene.app, scene.place, 1, environment, MODULE) as workers:
            workers[0].wait_until_ready(monotonic() + 60)
            topic = scene.app.publish(TopicGiven(topic="lambdas", to="ada@example.org"), budget=BUDGET)
            tree = topic.correlation_id
            # Each search has its first answer, and waits for the second one.
            wait_for(lambda: len(provider.held) == 3, workers[0].tail)
            wait_for(lambda: len(bill(scene.app, tree, None).lines) == len(provider.answered) == 4, "what is kept")
            workers[0].kill()
            wait_for(lambda: provider.held == [], "the end of its requests")
            provider.release()
            start(workers, scene.app, scene.place, environment, MODULE)
            wait_for(lambda: scene.app.approvals.list(correlation=tree), workers[-1].tail, 120)
            (proposal,) = scene.app.approvals.list(correlation=tree)
            scene.app.approvals.approve(proposal.id, by="grace")
            scene.app.settle(topic, timeout=120)
            assert provider.cut_off == 3
            assert attempts(scene.app, tree)["searcher", 2] == 3
            paid = bill(scene.app, tree, None)
        check_paid(provider, [line.as_data() for line in paid.lines])
        # What the killed attempts had reserved counts as spent: somebody may have to pay for it.
        assert paid.budget[0] == paid.tokens + 3 * RESERVED["tokens"]
        assert list(office.taken.values()) == [1]


@pytest.mark.parametrize("key", [None, ""])
def test_without_its_key_it_says_which_one_before_anything_starts(
    tmp_path: Path, keyless: dict[str, str], key: str | None
) -> None:
    found = demo("crew", "--yes", environment=keyless if key is None else {**keyless, "OPENAI_API_KEY": key})
    assert (found.returncode, found.stdout) == (1, "")
    assert found.stderr.startswith(f"pipeline: CREW_MODEL={MODEL}: ")
    assert "OPENAI_API_KEY" in found.stderr
    assert "Traceback" not in found.stderr
    assert list(tmp_path.iterdir()) == []


def test_without_its_client_it_says_what_to_install_before_anything_starts(
    tmp_path: Path, keyless: dict[str, str]
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "sitecustomize.py").write_text(WITHOUT)
    environment = {**keyless, "OPENAI_API_KEY": "any", "PYTHONPATH": str(elsewhere)}
    found = demo("crew", "--yes", environment=environment)
    assert (found.returncode, found.stdout) == (1, "")
    assert found.stderr.startswith(f"pipeline: CREW_MODEL={MODEL}: Please install the `openai` package")
    assert 'pip install "pydantic-ai-slim[openai]"' in found.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["elsewhere"]
    # Without the setting nobody needs it, and neither does who only wants to read.
    for code in ("import pipeline.examples.crew.agents", "import pipeline.pydantic_ai"):
        subprocess.run([sys.executable, "-c", code], env={**environment, "CREW_MODEL": ""}, check=True)
