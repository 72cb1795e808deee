"""What commands share: how they find the app, and say how far a long work came."""

import sys
from collections.abc import Callable
from typing import Any

import pytest

from pipeline import ConfigError
from pipeline.cli.group import load_app, working

pytestmark = pytest.mark.usefixtures("empty_directory")


Run = Callable[..., Any]


def test_an_app_is_found_by_name_by_its_module_or_by_its_celery_app(module: str) -> None:
    app = load_app(f"{module}:app")
    assert load_app(module) is app
    assert load_app(f"{module}:app.celery".rpartition(".")[0]) is app
    vars(sys.modules[module])["celery_app"] = app.celery
    assert load_app(f"{module}:celery_app") is app


@pytest.mark.parametrize(("spec", "said"), [("no_such_shop:app", "no_such_shop"), ("json:loads", "is no Pipeline")])
def test_an_app_that_is_none_is_an_error(run: Run, spec: str, said: str) -> None:
    result = run("agents", app=spec)
    assert result.exit_code == 1
    assert result.stderr.startswith(f"pipeline: --app {spec}: ")
    assert said in result.stderr


def test_an_app_with_two_pipelines_wants_a_name(module: str) -> None:
    from pipeline import Pipeline

    load_app(module)
    vars(sys.modules[module])["second"] = Pipeline("second")
    with pytest.raises(ConfigError, match="has 2 Pipelines"):
        load_app(module)


# -- a long work


def test_ctrl_c_in_a_long_work_says_how_far_it_came() -> None:
    def stopped(said: str) -> str:
        try:
            with working("pruning", "events", "go on later") as show:
                show(1200)
                raise KeyboardInterrupt(said) if said else KeyboardInterrupt
        except KeyboardInterrupt as exc:
            return str(exc)

    assert stopped("") == "pruning stopped after 1,200 events; go on later"
    assert stopped("said already") == "said already"
