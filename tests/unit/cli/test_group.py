"""What commands share: how they find the app, and say how far a long work came."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from celery.app.utils import find_app

from pipeline import Pipeline
from pipeline.cli.group import load_app, working

pytestmark = pytest.mark.usefixtures("empty_directory")


Run = Callable[..., Any]


def test_an_app_is_found_by_name_by_its_module_or_by_its_celery_app(module: str) -> None:
    app = load_app(f"{module}:app")
    assert load_app(module) is app
    assert load_app(f"{module}:app.celery".rpartition(".")[0]) is app
    vars(sys.modules[module])["celery_app"] = app.celery
    assert load_app(f"{module}:celery_app") is app


#: Modules, and what they say.
MODULES = {
    "shop.py": 'from pipeline import Pipeline\norders = Pipeline("shop")\n',
    "web.py": 'class Other: ...\napp = Other()\nfrom pipeline import Pipeline\nbus = Pipeline("web")\n',
    "plain.py": 'from celery import Celery\napp = Celery("plain")\n',
    "empty.py": "",
    "broken.py": "\nimport no_such_thing\n",
    "bare.py": 'from pipeline import Pipeline\napp = Pipeline("x")\n@app.agent\ndef seen(data): ...\n',
    "typo.py": "import sys\nsys.nowhere\n",
    "site/__init__.py": "",
    "site/celery.py": 'from celery import Celery\napp = Celery("site")\napp.conf.imports = ["site.events"]\n',
    "site/events.py": "from pipeline import Pipeline\nfrom .celery import app\nbus = Pipeline(app)\n",
}


@pytest.fixture
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Lay MODULES into the working directory, under names that nothing else has."""
    monkeypatch.syspath_prepend(tmp_path)
    for name, source in MODULES.items():
        path = tmp_path / f"my{name}"
        path.parent.mkdir(exist_ok=True)
        path.write_text(source.replace("site", "mysite"))
    yield
    for name in MODULES:
        sys.modules.pop(f"my{name}".removesuffix(".py").removesuffix("/__init__").replace("/", "."), None)


@pytest.mark.usefixtures("modules")
@pytest.mark.parametrize(
    ("spec", "name"),
    [
        ("myshop", "shop"),
        ("myshop:orders", "shop"),
        ("myshop.orders", "shop"),
        ("myweb", "web"),
        ("mysite", "mysite"),
        ("mysite.celery", "mysite"),
        ("mysite.events:bus", "mysite"),
    ],
)
def test_what_celery_finds_is_found_under_any_name(spec: str, name: str) -> None:
    assert load_app(spec).celery.main == name


@pytest.mark.usefixtures("modules")
def test_the_celery_command_finds_a_pipeline_under_any_name() -> None:
    assert find_app("myshop") is load_app("myshop")
    assert find_app("mysite.events") is load_app("mysite").celery


def test_of_two_pipelines_the_one_called_app_is_taken(module: str) -> None:
    app = load_app(module)
    vars(sys.modules[module])["before"] = Pipeline("second")
    assert load_app(module) is app is find_app(module)


@pytest.mark.usefixtures("modules")
@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("no_such_shop:app", "there is no module 'no_such_shop' in {here} or among what is installed; run the command"),
        ("myshp", "there is no module 'myshp' in {here} or among what is installed; did you mean 'myshop'?"),
        ("myshop:order", "it has no 'order'; did you mean 'orders'?"),
        ("myempty", "it has no Pipeline and no Celery app; name the module that makes one"),
        ("myempty:app", "it has no 'app', nor any Pipeline"),
        ("myplain", "that is a Celery without a Pipeline; name the module that makes one"),
        ("myweb:app", "that is a Other without a Pipeline; name the module"),
        ("json:loads", "that is a function without a Pipeline"),
        ("mybroken", "ModuleNotFoundError: No module named 'no_such_thing' ({here}/mybroken.py:2)"),
        ("mytypo", "AttributeError: module 'sys' has no attribute 'nowhere' ({here}/mytypo.py:2)"),
        ("mybare", 'write @app.agent(on="order.placed"), with what the agent listens to in the brackets ({here}/'),
    ],
)
def test_an_app_that_is_none_is_one_line_that_says_why(run: Run, tmp_path: Path, spec: str, said: str) -> None:
    result = run("agents", app=spec)
    assert (result.exit_code, result.stdout, result.stderr.count("\n")) == (1, "", 1)
    assert result.stderr.startswith(f"pipeline: --app {spec}: {said.format(here=tmp_path)}")


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
