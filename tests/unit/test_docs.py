"""What the documentation says is true: its snippets run, its links lead somewhere, its tables are complete."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from runpy import run_path
from typing import Any

import pytest

from pipeline import __version__
from pipeline.settings import Settings
from tests.harness import PING
from tests.servers import wait_for

ROOT = Path(__file__).parents[2]
DOCS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
PAGES = pytest.mark.parametrize("page", DOCS, ids=[page.name for page in DOCS])

#: Frameworks that some snippets are for; where one is not installed, its snippets are left out.
FRAMEWORKS = ("django", "fastapi", "pydantic_ai")
#: What the page on first mistakes spells wrong.
MISSPELT = {"publsh", "PIPELINE_BROKR_URL"}

_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\[[^\]]+\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#+ +(.+)$", re.MULTILINE)


def fences(page: Path, language: str) -> list[str]:
    """Return the contents of a page's code fences in one language, without those for what is not installed."""
    missing = [name for name in FRAMEWORKS if importlib.util.find_spec(name) is None]
    needs = re.compile(rf"^(?:from|import) (?:{'|'.join(missing)})\b", re.MULTILINE) if missing else None
    found = [body for name, body in _FENCE.findall(page.read_text()) if name == language]
    return [body for body in found if not (needs and needs.search(body))]


def prose(page: Path) -> str:
    return _FENCE.sub("", page.read_text())


def anchors(page: Path) -> set[str]:
    """Return the anchors that hosts of Markdown make from a page's headings."""
    kept = (re.sub(r"[^\w\- ]", "", heading.lower()) for heading in _HEADING.findall(prose(page)))
    return {heading.replace(" ", "-") for heading in kept}


def clean_environment() -> dict[str, str]:
    return {k: v for k, v in os.environ.items() if not k.startswith(("PIPELINE_", "CELERY_"))} | {
        "PYTHONUNBUFFERED": "1"
    }


def run(*command: str, cwd: Path) -> str:
    """Run a command and return what it printed; fail with that when the command fails."""
    found = subprocess.run(
        command, cwd=cwd, env=clean_environment(), capture_output=True, text=True, timeout=180, check=False,
        stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert found.returncode == 0, found.stdout + found.stderr
    return found.stdout


@pytest.fixture
def celery(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """Run a `celery ...` command of the docs in the background until the test ends; returns its log."""
    started: list[subprocess.Popen[bytes]] = []

    def start(command: str) -> Path:
        log = tmp_path / f"{len(started)}.log"
        with log.open("wb") as output:
            started.append(
                subprocess.Popen(
                    [sys.executable, "-m", *command.split()], cwd=tmp_path, env=clean_environment(),
                    stdout=output, stderr=output, stdin=subprocess.DEVNULL, start_new_session=True,
                )
            )  # fmt: skip
        wait_for(lambda: " ready." in log.read_text() or started[-1].poll() is not None, "the worker", 90)
        assert started[-1].poll() is None, log.read_text()
        return log

    yield start
    for process in started:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(timeout=20)


def wait_for_lines(log: Path, *lines: str) -> None:
    for line in lines:
        try:
            wait_for(lambda line=line: line in log.read_text(), line)
        except AssertionError as exc:
            raise AssertionError(f"{exc} in:\n{log.read_text()}") from None


# -- the snippets


def test_the_example_of_the_readme_runs_as_the_readme_says(tmp_path: Path, celery: Callable[[str], Path]) -> None:
    readme = ROOT / "README.md"
    (tmp_path / "shop.py").write_text(fences(readme, "python")[1])
    _, _, worker, publish, *_ = [fence.strip() for fence in fences(readme, "sh")]
    assert worker.startswith("celery -A shop worker")
    log = celery(f"{worker} --concurrency=2")
    assert publish.splitlines()[-1] == "python shop.py"
    run(sys.executable, "shop.py", cwd=tmp_path)
    wait_for_lines(
        log,
        "billing: 9.5 for order A1",
        "audit: order.placed {'order_id': 'A1', 'total': 9.5}",
        "audit: order.paid {'order_id': 'A1'}",
    )
    (name,) = re.findall(r"(\S+@\S+) ready\.", log.read_text())
    assert "pong" in run(sys.executable, "-m", "celery", "-A", "shop", *PING, name, cwd=tmp_path)


def test_the_one_file_of_the_readme_is_enough(tmp_path: Path) -> None:
    (tmp_path / "hello.py").write_text(fences(ROOT / "README.md", "python")[0])
    assert run(sys.executable, "-W", "error", "hello.py", cwd=tmp_path) == "a bill over 9.5\n"
    assert [path.name for path in tmp_path.iterdir() if path.name != "__pycache__"] == ["hello.py"]


def test_the_snippets_of_the_testing_page_are_tests_that_pass(tmp_path: Path) -> None:
    script, *tests = fences(ROOT / "docs" / "testing.md", "python")
    (tmp_path / "one.py").write_text(f"{script}\nmain()\n")
    assert run(sys.executable, "one.py", cwd=tmp_path) == "a bill over 9.5\n"
    (tmp_path / "test_shop.py").write_text("\n\n".join([*tests, "import pytest\npytestmark = pytest.mark.anyio\n"]))
    (tmp_path / "pytest.ini").write_text("[pytest]\npipeline_app = test_shop:app\n")
    others = (f"-pno:{name}" for name in ("celery", "asyncio", "django", "cacheprovider"))
    plugins = (*others, "-p", "pipeline.testing.plugin")
    said = run(sys.executable, "-m", "pytest", "-W", "error", *plugins, "-k", "not trio", cwd=tmp_path)
    assert re.search(r"\b9 passed", said), said


def test_the_five_lines_of_the_readme_add_the_bus_to_a_celery_app(tmp_path: Path) -> None:
    lines = [line for line in fences(ROOT / "README.md", "python")[2].splitlines() if line]
    assert len(lines) == 5
    before = ["from celery import Celery", "celery_app = Celery('legacy', broker='sqlite:///legacy.db')"]
    after = ["print([agent.name for agent in bus.agents], 'agent.audit' in celery_app.tasks)"]
    (tmp_path / "shop.py").write_text("\n".join([*before, *lines, *after]))
    assert run(sys.executable, "shop.py", cwd=tmp_path) == "['audit'] True\n"


def test_the_snippet_of_the_migration_guide_runs_tasks_and_agents_in_one_worker(
    tmp_path: Path, celery: Callable[[str], Path]
) -> None:
    (tmp_path / "shop.py").write_text("".join(fences(ROOT / "docs" / "migrating.md", "python")))
    log = celery("celery -A shop worker --loglevel=INFO --concurrency=1")
    run(sys.executable, "-c", "import shop; shop.bus.publish('order.placed', {'order_id': 'A1'})", cwd=tmp_path)
    wait_for_lines(log, "mail for A1")


def test_the_snippets_of_the_howto_do_together_what_it_says(tmp_path: Path, celery: Callable[[str], Path]) -> None:
    tap = '@app.agent(on="#")\ndef tap(event: Event) -> None:\n    print(f"TAP {event.type} {event.data}")\n'
    snippets = fences(ROOT / "docs" / "howto.md", "python")
    listed = [snippet for snippet in snippets if "autodiscover" not in snippet]  # needs a package called shop
    (tmp_path / "shop.py").write_text("\n\n".join([*listed, tap]))
    log = celery("celery -A shop worker --loglevel=INFO --concurrency=2")
    use = "import shop; shop.place('A1', 9.5); shop.asyncio.run(shop.place_async('A2')); shop.urgent(); shop.squares()"
    use += "; shop.register('ada'); assert shop.remind(); print(shop.place_and_wait('W1')); print(shop.ask('bees'))"
    printed = run(sys.executable, "-c", use, cwd=tmp_path)
    assert printed.startswith("['order.placed', ")
    assert "'order.checked'" in printed
    assert printed.endswith("\nresearch\n")
    wait_for_lines(
        log,
        "TAP user.registered {'user_id': 'ada'}",
        "TAP mail.requested {'to': 'ada', 'key': ",
        "TAP order.reminded {'order_id': 'A1'}",
        "TAP order.placed {'order_id': 'A2', 'total': 9.5}",
        "TAP order.noted {'order_id': 'B1'}",
        "TAP parcel.requested {'order_id': 'A1'}",
        "A1: {'available': True}, {'limit': 100}",
        "TAP squares.done {'results': [4, 9]}",
        "TAP square.done {'result': 16}",
        "TAP paper.found {'topic': 'bees'}",
    )
    assert "{'order_id': 'A1', 'total': 1}" not in log.read_text()  # its only target is billing


def test_the_snippets_of_the_ledger_page_do_together_what_it_says(
    tmp_path: Path, celery: Callable[[str], Path]
) -> None:
    (tmp_path / "shop.py").write_text("\n\n".join(fences(ROOT / "docs" / "ledger.md", "python")))
    log = celery("celery -A shop worker --loglevel=INFO --concurrency=2")
    (tmp_path / "use.py").write_text(
        "import time\n"
        "from sqlalchemy.exc import OperationalError\n"
        "from shop import *\n"
        "print(app.settle(place('A1', 9.5)))\n"
        "app.settle(later_than_commit(lambda callback: callback()))\n"
        "(reminder,) = remind('A1')\n"
        "print(app.settle(reminder))\n"
        "wrong = place('B1', -2.0)\n"
        "app.settle(wrong)\n"
        "print('mended', mend())\n"
        "app.settle(wrong)\n"
        "history()\n"
        "print('totals', totals())\n"
        "def query(statement):\n"
        "    try:\n"
        "        with Session(engine) as session:\n"
        "            return session.execute(text(statement)).all()\n"
        "    except OperationalError:  # the worker has not made the table yet\n"
        "        return []\n"
        "deadline = time.monotonic() + 60\n"
        "while len(rows := query('SELECT * FROM revenue')) < 3 and time.monotonic() < deadline:\n"
        "    time.sleep(0.1)\n"
        "print('revenue', rows)\n"
        "print('entries', sorted(query('SELECT * FROM entries')))\n"
    )
    printed = run(sys.executable, "use.py", cwd=tmp_path)
    for line in (
        "-> bookkeeping: succeeded",
        "order.booked",
        "order.reminded",
        "mended 1",
        "{'tea': 2, 'jam': 1}",
        "basket.filled",
        "totals 8.5",
        "revenue [('A1', 9.5), ('C1', 1.0), ('B1', -2.0)]",
        "entries [('A1', 950), ('B1', 200), ('C1', 100)]",
    ):
        assert line in printed
    wait_for_lines(log, "statistics: order.reminded")
    command = [str(Path(sys.executable).parent / "pipeline"), "-A", "shop", "ledger", "rebuild", "revenue", "--yes"]
    assert "events passed" in run(*command, cwd=tmp_path)


def test_the_snippets_of_the_approvals_page_do_together_what_it_says(
    tmp_path: Path, celery: Callable[[str], Path]
) -> None:
    (tmp_path / "shop.py").write_text("\n\n".join(fences(ROOT / "docs" / "approvals.md", "python")))
    log = celery("celery -A shop worker --loglevel=INFO --concurrency=2")
    use = "from shop import *; app.publish(RefundWanted(order='A1', amount=50)); propose('B1')"
    run(sys.executable, "-c", use, cwd=tmp_path)
    command = [str(Path(sys.executable).parent / "pipeline"), "-A", "shop", "approvals"]

    def asked() -> dict[str, str]:
        found = json.loads(run(*command, "list", "--json", cwd=tmp_path))
        return {each["reason"]: each["id"] for each in found}

    wait_for(lambda: asked().keys() == {"refund", "cancel"}, "both to be asked for")
    ids = asked()
    run(*command, "approve", ids["refund"], "--by", "ada", "--edit", '{"order": "A1", "amount": 25}', cwd=tmp_path)
    run(*command, "approve", ids["cancel"], "--by", "ada", cwd=tmp_path)
    wait_for_lines(log, "paid 25 for A1, approved by ada", "cancelled B1, approved by ada")
    assert "cancelled A1" not in log.read_text()


@PAGES
def test_python_snippets_can_be_run_from_top_to_bottom(page: Path, tmp_path: Path) -> None:
    snippets = fences(page, "python")
    if page.name == "README.md":  # its third one says "the Celery app you have"
        snippets.insert(2, "from celery import Celery\ncelery_app = Celery('legacy', broker='sqlite:///legacy.db')\n")
    (tmp_path / "snippets.py").write_text("\n\n".join(snippets))
    if snippets:
        run(sys.executable, "-W", "error", "-c", "import snippets", cwd=tmp_path)


@PAGES
def test_json_snippets_parse(page: Path) -> None:
    for snippet in fences(page, "json"):
        json.loads(snippet)


def test_the_cloudevent_of_the_architecture_page_is_one_that_the_bus_writes() -> None:
    from pipeline import Event

    (snippet,) = fences(ROOT / "docs" / "architecture.md", "json")
    assert json.loads(Event.decode(snippet).encode()) == json.loads(snippet) | {"time": "2026-01-31T09:30:00Z"}


# -- the pages


@PAGES
def test_links_lead_to_files_and_headings_that_exist(page: Path) -> None:
    for link in _LINK.findall(prose(page)):
        if link.startswith(("https://", "mailto:")):
            continue
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        assert target.is_relative_to(ROOT), link
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


@PAGES
def test_tests_that_are_named_exist(page: Path) -> None:
    named = re.findall(r"`(tests/[\w/.]+)`", page.read_text())
    assert [name for name in named if not (ROOT / name).exists()] == []


@PAGES
def test_a_page_says_nothing_twice(page: Path) -> None:
    long = Counter(line for line in prose(page).splitlines() if len(line) > 80 and line[0] not in "| ")
    assert [line for line, count in long.items() if count > 1] == []


def test_the_readme_leads_to_every_page_at_once() -> None:
    linked = {(ROOT / link.partition("#")[0]).resolve() for link in _LINK.findall(prose(ROOT / "README.md"))}
    assert {page.name for page in DOCS if page not in linked} == {"README.md"}


def test_the_list_for_language_models_is_that_of_the_readme() -> None:
    made = run_path(str(ROOT / "config" / "docs_site.py"))
    assert (ROOT / "docs" / "llms.txt").read_text() == made[
        "llms"
    ]()  # else `python config/docs_site.py` writes it anew
    entries = [one for entries in made["listed"]().values() for one in entries]
    assert {ROOT / one.path for one in entries} == {*DOCS} - {ROOT / "README.md"}
    assert all(one.title and one.about for one in entries)


@PAGES
def test_make_commands_that_are_named_exist(page: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    text = page.read_text()
    named = re.findall(r"(?:^|`)make ([a-z-]+)", text, re.MULTILINE)
    assert set(named) <= targets


@PAGES
def test_pipeline_commands_that_are_named_exist(page: Path, tmp_path: Path) -> None:
    pattern = r"(?:^|`|exec worker )pipeline (?:-A shop )?([a-z]+)(?: ([a-z]+))?"
    commands = re.findall(pattern, page.read_text(), re.MULTILINE)
    groups: dict[tuple[str, ...], set[str]] = {(): {name for name, _ in commands}}
    for name, inner in commands:
        if name in ("dead", "ledger") and inner:
            groups.setdefault((name,), set()).add(inner)
    for group, named in groups.items():
        if named:
            listed = run(str(Path(sys.executable).parent / "pipeline"), *group, "--help", cwd=tmp_path)
            assert named - MISSPELT <= set(re.findall(r"^  ([a-z]+) ", listed, re.MULTILINE))


@PAGES
def test_environment_variables_that_are_named_exist(page: Path) -> None:
    known = {"PIPELINE_CONFIG", *MISSPELT, *(f"PIPELINE_{name.upper()}" for name in Settings.model_fields)}
    assert set(re.findall(r"\bPIPELINE_[A-Z_]+\b", page.read_text())) <= known


def test_settings_are_documented_with_their_names_and_defaults() -> None:
    rows = {}
    for line in (ROOT / "docs" / "settings.md").read_text().splitlines():
        if line.startswith("| `"):
            name, variable, default, unit, meaning = (cell.strip() for cell in line.strip("|").split("|"))
            assert unit, name
            assert meaning, name
            rows[name.strip("`")] = (variable.strip("`"), default.strip("`"))
    expected = {
        name: (f"PIPELINE_{name.upper()}", spelled(field.get_default(call_default_factory=True)))
        for name, field in Settings.model_fields.items()
    }
    assert rows == expected


def spelled(value: Any) -> str:
    """Return a default as one would write it in the settings file."""
    return str(value) if isinstance(value, Path) else json.dumps(value)


def test_the_changelog_begins_with_the_current_version() -> None:
    first = re.search(r"^## (\d+\.\d+\.\d+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert first is not None
    assert first[1] == __version__
