"""The doctor: checks settings, broker, results, ledger, blobs, agents and workers, and says what mends them."""

from __future__ import annotations

import importlib.util
import os
import platform
import re
import sqlite3
import tomllib
from collections.abc import Callable, Iterator
from contextlib import closing
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from celery import Celery
from celery.utils.imports import symbol_by_name

from ..agents.agent import Agents
from ..agents.loading import import_agents
from ..brokers.embedded.store import Store
from ..brokers.kinds import kind_of_url
from ..brokers.urls import parse_url
from ..core.errors import ConfigError, EmbeddedBrokerError, to_install
from ..core.times import monotonic
from ..delivery.consumer import AgentConsumer
from ..publishing.publisher import Publisher
from ..settings import PREFIX, Settings, config_file
from .checks import Check, fail, ok, warn
from .listeners import listeners

if TYPE_CHECKING:
    from ..bus import Bus
    from ..contracts.registry import Types

#: Seconds that the broker gets to answer, and that workers get to say that they are there.
BROKER_TIMEOUT, WORKER_TIMEOUT = 5.0, 1.0
OLDEST = {"celery": (5, 6), "kombu": (5, 7)}
OLDEST_SQLITE = (3, 35)
#: Pools that cannot interrupt a task that takes too long.
POOLS_WITHOUT_LIMITS = ("threads", "solo", "gevent", "eventlet")
#: What lies on this machine, of results and ledgers.
LOCAL = ("sqlite", "memory")


def examine(bus: Bus, *, app: str = "", options: tuple[str, ...] = ()) -> Iterator[Check]:
    """Look at everything, one check after the other; exchanges are declared, and a few bytes tried as a blob.

    Arguments:
        app: what names the app to commands (`celery -A`); empty for the built-in one.
        options: settings that were given on the command line.

    """
    celery = bus.celery
    if not app:
        yield built_in(bus.settings)
    yield from versions()
    yield from settings(bus.settings, options)
    broker = _guarded("broker", lambda: broker_check(celery, bus.publisher), "see the message")
    yield broker
    if _is_embedded(_broker_url(celery)) and broker.status == "ok":
        mend = "stop the workers, move the file away and start again"
        yield _guarded("broker file", lambda: broker_file(celery), mend)
    yield _guarded("results", lambda: results(celery), "correct PIPELINE_RESULT_BACKEND, or start the server it names")
    yield from shared_results(celery)
    book = _guarded("ledger", lambda: ledger(bus), "do what the message says, or set PIPELINE_LEDGER_URL")
    yield book
    yield from shared_ledger(celery, bus.settings)
    yield _guarded("blobs", lambda: blobs(bus), "do what the message says")
    yield agent_modules(celery, bus.agents)
    yield schemas(bus.types)
    yield consumer(celery)
    running = workers(celery) if broker.status == "ok" else {}
    yield from time_limits(celery, bus.agents, running)
    if broker.status == "ok":
        yield _workers_check(running, celery, app)
    if bus.has_ledger and book.status != "fail":
        yield from listeners(bus, app or "pipeline", running)


def _guarded(name: str, look: Callable[[], Check], mend: str) -> Check:
    try:
        return look()
    except Exception as exc:  # whatever a driver raises is what the user has to know
        return fail(name, f"{type(exc).__name__}: {exc}", mend)


def built_in(used: Settings) -> Check:
    """Say that no app was named, and so whose agents are looked at."""
    mend = "if you have an app of your own, name it: pipeline -A MODULE doctor"
    if used.agents:
        return ok("app", f"the built-in one, with the agents in {', '.join(used.agents)}")
    return warn("app", "none is named, so this is the built-in one with the briefing example's agents", mend)


# -- what is installed


def versions() -> Iterator[Check]:
    """Check the versions of Python, Celery, Kombu and SQLite."""
    yield ok("python", f"{platform.python_version()} on {platform.system()}")
    for package, oldest in OLDEST.items():
        installed = version(package)
        if tuple(int(part) for part in re.findall(r"\d+", installed)[:2]) >= oldest:
            yield ok(package, installed)
        else:
            wanted = ".".join(map(str, oldest))
            yield fail(package, f"{installed} is too old", f"pip install --upgrade '{package}>={wanted}'")
    yield sqlite_check()


def sqlite_check() -> Check:
    """Check that SQLite is new enough for the embedded broker, and can search text for the briefing example."""
    installed = sqlite3.sqlite_version
    if sqlite3.sqlite_version_info[:2] < OLDEST_SQLITE:
        wanted = ".".join(map(str, OLDEST_SQLITE))
        return fail(
            "sqlite", f"{installed} is too old", f"the embedded broker needs {wanted}: use a newer Python build"
        )
    with closing(sqlite3.connect(":memory:")) as db:
        try:
            db.execute("CREATE VIRTUAL TABLE t USING fts5(c)")
        except sqlite3.OperationalError:
            mend = "only the briefing example needs it: use a Python build with it to run the demo"
            return warn("sqlite", f"{installed} without full-text search (FTS5)", mend)
    return ok("sqlite", f"{installed} with full-text search (FTS5)")


# -- settings


def settings(used: Settings, options: tuple[str, ...]) -> Iterator[Check]:
    """Say which settings file is read, and for each setting its value and where that comes from."""
    path = config_file()
    yield ok("settings file", str(path.absolute()) if path else "none")
    in_file = tomllib.loads(path.read_text(encoding="utf-8")) if path else {}
    without_arguments = Settings.load()
    for name in Settings.model_fields:
        value = getattr(used, name)
        variable = PREFIX + name.upper()
        if value != getattr(without_arguments, name):
            origin = "argument of Pipeline()"
        elif name in options:
            origin = f"--{name.replace('_', '-')}"
        elif variable in os.environ:
            origin = f"environment {variable}"
        else:
            origin = f"file {path}" if name in in_file else "default"
        shown = list(value) if isinstance(value, tuple) else value
        yield ok(f"setting {name}", f"{str(shown) or '(empty)'}  [{origin}]")


# -- broker and results


def _broker_url(celery: Celery) -> str:
    conf = celery.conf
    return str(conf.broker_write_url or conf.broker_url or "")


def _scheme(url: str) -> str:
    return url.partition("://")[0].partition("+")[0]


def _is_embedded(url: str) -> bool:
    kind = kind_of_url(url)
    return kind is not None and kind.is_embedded


def _is_local(url: str) -> bool:
    return _is_embedded(url) or _scheme(url) == "memory"  # Kombu's own, within one process


def broker_check(celery: Celery, publisher: Publisher) -> Check:
    """Connect as publishing does, which declares the exchanges and publishes nothing."""
    start = monotonic()
    needed = _needed_package(_broker_url(celery))
    if needed and not _is_installed(needed):
        return fail("broker", f"the {needed} package is not installed", to_install(needed))
    url = publisher.address
    try:
        publisher.connect(start + BROKER_TIMEOUT).close(start + BROKER_TIMEOUT)
    except Exception as exc:
        mend = "start the broker, or set PIPELINE_BROKER_URL; leave it empty for the embedded broker"
        if isinstance(exc, EmbeddedBrokerError):
            mend = "do what the message says, or set PIPELINE_DIRECTORY to another place"
        return fail("broker", f"{url} does not answer: {type(exc).__name__}: {exc}", mend)
    return ok("broker", f"{url} answered in {(monotonic() - start) * 1000:.0f} ms")


def _needed_package(url: str) -> str:
    """Return what has to be installed for a broker beside the core; nothing for most."""
    kind = kind_of_url("redis" if _scheme(url) == "sentinel" else url)
    return kind.package if kind else ""


def _is_installed(package: str) -> bool:
    return importlib.util.find_spec(package) is not None


def broker_file(celery: Celery) -> Check:
    """Let SQLite look for damage in the embedded broker's file."""
    path, options = parse_url(_broker_url(celery))
    with closing(Store(path, **options)) as store:
        return _file_check("broker file", path, store._database.read("PRAGMA quick_check"))


def _file_check(name: str, path: Path, said: list[tuple[Any, ...]]) -> Check:
    problems = [row[0] for row in said if row[0] != "ok"]
    if problems:
        mend = "stop the workers, move the file away and start again"
        return fail(name, f"{path} is damaged: {problems[0]}", mend)
    return ok(name, f"{path} is sound ({path.stat().st_size:,} bytes)")


def results(celery: Celery) -> Check:
    """Read from the result backend, where chords keep what their members return, and joins without a ledger."""
    backend = celery.backend
    url = celery.conf.result_backend
    if type(backend).__name__ == "DisabledBackend":
        mend = "set PIPELINE_RESULT_BACKEND, or result_backend of your Celery app"
        return fail("results", "no result backend: chords cannot end, nor joins without a ledger", mend)
    if hasattr(backend, "database"):
        path, _ = parse_url(backend.url)
        return _file_check("results", path, backend.database.read("PRAGMA quick_check"))
    if _scheme(str(url)) == "rpc":
        return fail("results", "rpc:// cannot collect a chord", "use redis://, a database or the embedded backend")
    backend.get_task_meta("pipeline-doctor", cache=False)
    return ok("results", f"{backend.as_uri(include_password=False)} answers")


def shared_results(celery: Celery) -> Iterator[Check]:
    """Warn when several machines may share the broker, but not the results."""
    backend = _scheme(str(celery.conf.result_backend or ""))
    if not _is_local(_broker_url(celery)) and backend in LOCAL:
        yield warn(
            "chords",
            "the broker may serve many machines, but results lie in a file on this one: a chord ends only when all "
            "of its members run here, and so does a join without a ledger",
            "set PIPELINE_RESULT_BACKEND to a server that all workers reach, such as redis://HOST/1",
        )


# -- ledger


def ledger(bus: Bus) -> Check:
    """Open the ledger and count what lies in it."""
    if not bus.has_ledger:
        from ..workers.step import OFF

        return warn("ledger", OFF, "unset PIPELINE_LEDGER_URL for a file on this machine, or name a database")
    from ..ledger.status import status

    numbers = status(bus.ledger.database)
    said = f"{bus.ledger}: {numbers}"
    if numbers.aside:
        return warn("ledger", said, "`pipeline ledger aside` shows what was set aside, and why; --forget clears it")
    return ok("ledger", said)


def blobs(bus: Bus) -> Check:
    """Write, read and delete a few bytes where blobs are kept."""
    bus.blobs.probe()
    return ok("blobs", f"{bus.blobs.store!r} can be written, read and cleared")


def shared_ledger(celery: Celery, used: Settings) -> Iterator[Check]:
    """Warn when several machines may share the broker, but not the ledger."""
    if not _is_local(_broker_url(celery)) and _scheme(used.effective_ledger_url) in LOCAL:
        yield warn(
            "ledger",
            "the broker may serve many machines, but the ledger lies in a file on this one: another machine's workers "
            "would not know what was delivered here",
            "set PIPELINE_LEDGER_URL to a PostgreSQL database that all of them reach: postgresql://USER@HOST/NAME",
        )


# -- agents and workers


def agent_modules(celery: Celery, agents: Agents) -> Check:
    """Import the modules that declare agents, as a worker does."""
    try:
        import_agents(celery)
    except ConfigError as exc:
        return fail("agents", str(exc), "correct the module, or PIPELINE_AGENTS")
    if not agents:
        mend = "declare them with @app.agent(...), and name their modules in PIPELINE_AGENTS"
        return warn("agents", "no agent is declared", mend)
    return ok("agents", f"{len(agents)}: {', '.join(agent.name for agent in agents)}")


def schemas(types: Types) -> Check:
    """Check that each upcaster leads to a version that a class has."""
    if problems := types.problems():
        return fail("schemas", "; ".join(problems), "declare what is missing, as docs/schemas.md says")
    return ok("schemas", f"{len(list(types))} event types with a class, {len(list(types.upcasters))} upcasters")


def consumer(celery: Celery) -> Check:
    """Check that workers of this app understand events."""
    name = celery.conf.worker_consumer
    mend = "remove worker_consumer from your Celery settings, or set it to a subclass of AgentConsumer"
    try:
        named = symbol_by_name(name)
    except (ImportError, AttributeError) as exc:
        return fail("consumer", f"worker_consumer = {name!r}: {exc}", mend)
    if isinstance(named, type) and issubclass(named, AgentConsumer):
        return ok("consumer", f"{named.__module__}:{named.__qualname__}")
    return fail("consumer", f"worker_consumer = {name!r} does not take events", mend)


def workers(celery: Celery) -> dict[str, str]:
    """Return the pool of each running worker by the worker's name."""
    answers = celery.control.inspect(timeout=WORKER_TIMEOUT).stats() or {}
    return {name: str(stats["pool"].get("implementation", "?")) for name, stats in answers.items()}


def _workers_check(running: dict[str, str], celery: Celery, app: str) -> Check:
    if running:
        return ok("workers", ", ".join(sorted(running)))
    where = "in this directory, or with the same PIPELINE_DIRECTORY" if _is_embedded(_broker_url(celery)) else "on it"
    return warn(
        "workers",
        f"none answers on the broker above within {WORKER_TIMEOUT:g} s",
        f"start one {where}: celery -A {app or 'pipeline'} worker",
    )


def time_limits(celery: Celery, agents: Agents, running: dict[str, str]) -> Iterator[Check]:
    """Warn about sync agents whose time limit the worker's pool ignores."""
    limited = [agent.name for agent in agents if agent.timeout and not agent.is_async]
    modules = {"threads": "thread"}
    weak = {name: pool for name in POOLS_WITHOUT_LIMITS for pool in [f".{modules.get(name, name)}:"]}
    places = [worker for worker, pool in running.items() if any(part in pool for part in weak.values())]
    if celery.conf.worker_pool in weak:
        places.append(f"worker_pool = {celery.conf.worker_pool!r}")
    if limited and places:
        yield warn(
            "time limits",
            f"{', '.join(places)} cannot stop a sync handler: the timeout of {', '.join(limited)} has no effect there",
            "use the prefork pool, or make the handler async",
        )
