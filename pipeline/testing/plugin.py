"""The pytest plugin: a fixture that is the bus under test. It imports nothing of the bus before a test asks for that.

In the wheel this file has a name of its own, as what pytest loads: a name inside of the package would have every run of
pytest import Celery, for projects too that have nothing to do with it.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from importlib import import_module
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from ..app.app import Pipeline
    from .harness import TestedBus

MARKER = (
    "pipeline(app=None, start=None, seed=0, expect_dead=False): the application of the `pipeline` fixture as "
    "'module:name', when its clock begins, the seed of what is random, whether dead letters are expected"
)
NO_APP = (
    "the `pipeline` fixture does not know which application is tested: name it in pytest's settings (pipeline_app = "
    '"shop:app"), in @pytest.mark.pipeline(app="shop:app"), or let a fixture `pipeline_app` return it'
)
KNOWN = ("app", "start", "seed", "expect_dead")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the setting that names the application."""
    try:
        parser.addini("pipeline_app", "the application that the `pipeline` fixture tests, as module:name", default="")
    except ValueError:  # somebody has named the plugin although it was installed
        return


def pytest_configure(config: pytest.Config) -> None:
    """Make the marker known."""
    config.addinivalue_line("markers", MARKER)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, Any, Any]:
    """Let a test fail, and not what comes after it, for dead letters that it has not expected."""
    result = yield
    bus = getattr(item, "funcargs", {}).get("pipeline")
    if bus is not None and hasattr(bus, "check"):  # and no fixture of somebody else
        bus.check()
    return result


def _marked(request: pytest.FixtureRequest) -> dict[str, Any]:
    """Return what the test's marker says, the nearest one first."""
    said: dict[str, Any] = {}
    for marker in request.node.iter_markers("pipeline"):
        if marker.args or (unknown := [name for name in marker.kwargs if name not in KNOWN]):
            what = f"{marker.args[0]!r} without a name" if marker.args else unknown[0]
            raise pytest.UsageError(f"@pytest.mark.pipeline takes {', '.join(KNOWN)}, and was given {what}")
        said = {**marker.kwargs, **said}
    return said


@pytest.fixture
def pipeline_app(request: pytest.FixtureRequest) -> Pipeline:
    """Return the application that is tested; define a fixture of this name to make one for each test."""
    name = _marked(request).get("app") or request.config.getini("pipeline_app")
    if not name:
        raise pytest.UsageError(NO_APP)
    module, _, attribute = str(name).partition(":")
    try:
        app: Pipeline = getattr(import_module(module), attribute or "app")
    except (ImportError, AttributeError) as exc:
        raise pytest.UsageError(f"pipeline_app = {name!r}: {exc}") from exc
    return app


@pytest.fixture
def pipeline(request: pytest.FixtureRequest, pipeline_app: Pipeline) -> Iterator[TestedBus]:
    """Run the application's agents in virtual time for the test (see `app.testing()`)."""
    said = {name: value for name, value in _marked(request).items() if name != "app"}
    is_expected = said.pop("expect_dead", False)
    with pipeline_app.testing(**said) as bus:
        if is_expected:
            bus.expect_dead()
        yield bus
