"""An application that is elsewhere for a while: on an embedded broker and a ledger of its own, in another directory."""

from __future__ import annotations

import shutil
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kombu import pools
from kombu.asynchronous import get_event_loop, set_event_loop
from kombu.utils.collections import eqhash

from ..app.subscribing import Subscribed
from ..app.wiring import _set
from ..brokers.embedded.owners import forget_owners
from ..brokers.kinds import kind_of_url
from ..bus import Bus, MadeOnce, Pulse
from ..core.errors import ConfigError
from ..core.times import monotonic
from ..publishing.publisher import Publisher

if TYPE_CHECKING:
    from ..app.app import Pipeline
    from ..settings import Settings

#: Seconds that threads have to end when the application comes back.
FAREWELL = 10.0
#: What is declared on a bus, and is the same wherever it is.
DECLARED = frozenset({"agents", "types", "lifespans", "budgets", "spans", "making", "flows_of", "celery", "names"})
DECLARED |= {"projections", "source"}
#: The embedded broker's file.
BROKER = "broker.db"
IN_USE = "{}: {} is in use in this process already; leave it first: a process has one worker, and one time"
EAGER = (
    "{}: task_always_eager is set on the Celery app, and with it tasks run where they are sent, and no delivery would "
    "be what it is in a worker. Remove it (or set it to False for these tests): all runs in this process without it"
)

_used = threading.Lock()
_by: list[str] = []


@contextmanager
def alone(what: str) -> Iterator[None]:
    """Refuse whoever comes second: nested, or in another thread; raises ConfigError that names the first one."""
    if not _used.acquire(blocking=False):
        raise ConfigError(IN_USE.format(what, _by[0] if _by else "another one"))
    _by.append(what)
    try:
        yield
    finally:
        _by.clear()
        _used.release()


@contextmanager
def elsewhere(app: Pipeline, directory: Path | None, what: str, conf: Mapping[str, Any]) -> Iterator[Path]:
    """Let an application have its broker, its ledger, its results and its blobs in a directory; then put all back.

    Arguments:
        directory: where; a temporary one, which is deleted afterwards, when it is None.
        what: what it is for, as errors name it.
        conf: settings of the Celery app meanwhile.

    Raises ConfigError for an app whose tasks are eager.

    """
    if app.celery.conf.task_always_eager:
        raise ConfigError(EAGER.format(what))
    place = Path(tempfile.mkdtemp(prefix="pipeline-")) if directory is None else directory.expanduser().absolute()
    threads = set(threading.enumerate())
    try:
        with _moved(app, place, conf):
            yield place
    finally:
        _wait_for_threads(threads)
        if directory is None:
            shutil.rmtree(place, ignore_errors=True)


@contextmanager
def _moved(app: Pipeline, place: Path, conf: Mapping[str, Any]) -> Iterator[None]:
    celery, bus = app.celery, app.bus
    settings = _settings_in(place, app.settings)
    changes = celery.conf.changes
    kept = [
        Kept(vars(app), ("settings", "_requests")),
        Kept(vars(bus), [*{*vars(bus), *_made(bus)} - DECLARED]),
        Kept(vars(celery), ("_pool", "_backend_cache")),
        Kept(vars(celery.amqp), ("_producer_pool",)),
        Kept(vars(celery._local), ("backend",)),
        Kept(changes, (*changes,)),
    ]
    celery._pool = celery._backend_cache = celery.amqp._producer_pool = None
    vars(celery._local).pop("backend", None)
    hub = get_event_loop()
    set_event_loop(None)
    try:
        for name, value in {**_conf_of(settings), **conf}.items():
            _set(celery.conf, name, value)
        _begin(app, bus, settings)
        yield
    finally:
        _end(app, bus)
        if (own := get_event_loop()) is not None:
            own.close()
        set_event_loop(hub)
        for name in set(changes) - set(kept[-1].names):
            del changes[name]
        for one in kept:
            one.put_back()
        _forget_ledger(app)


def _settings_in(place: Path, settings: Settings) -> Settings:
    """Return settings with everything in a directory, and nothing that only one process of a machine can have."""
    everything: dict[str, Any] = {
        "broker_url": "",
        "result_backend": "",
        "ledger_url": None if settings.has_ledger else "",
        "blob_store": "",
        "directory": place,
        "metrics_port": 0,
    }
    return settings.model_copy(update=everything)


def _conf_of(settings: Settings) -> dict[str, Any]:
    """Return what Celery's own settings are there."""
    url = settings.effective_broker_url
    kind = kind_of_url(url)
    assert kind is not None
    return {
        "broker_url": url,
        "broker_read_url": url,
        "broker_write_url": url,
        "broker_transport_options": kind.bounds(settings.broker_timeout),
        "result_backend": settings.effective_result_backend,
        "beat_schedule_filename": str(settings.directory / "beat-schedule"),
        "worker_hijack_root_logger": False,
        "worker_redirect_stdouts": False,
    }


class Kept:
    """Some attributes of something as they are now, those that it has not included."""

    def __init__(self, attributes: dict[str, Any], names: Sequence[str]) -> None:
        self.names = names
        self._attributes = attributes
        self._before = {name: attributes[name] for name in names if name in attributes}

    def put_back(self) -> None:
        """Let it have them again."""
        for name in self.names:
            self._attributes.pop(name, None)
        self._attributes.update(self._before)


def _made(bus: Bus) -> set[str]:
    return {name for name, one in vars(type(bus)).items() if isinstance(one, MadeOnce)}


def _forget_ledger(app: Pipeline) -> None:
    """Let the books of deliveries ask for the ledger once more; those that count attempts stand before them."""
    books = app._wiring._books
    for one in (books, vars(books).get("_books")) if books is not None else ():
        if one is not None:
            vars(one).pop("ledger", None)


def _begin(app: Pipeline, bus: Bus, settings: Settings) -> None:
    _forget_ledger(app)
    for name in _made(bus) - DECLARED:
        vars(bus).pop(name, None)
    vars(app).pop("_requests", None)
    app.settings = bus.settings = settings
    bus.publisher = Publisher(bus.celery, settings, bus.names, bus.spans)
    bus.pulse, bus.stop_running, bus.slots = Pulse(), bool, None
    bus.name_worker()
    if bus.subscribed is not None:
        bus.subscribed = Subscribed(bus, app._wiring)


def _end(app: Pipeline, bus: Bus) -> None:
    """Close all that was opened elsewhere."""
    celery = bus.celery
    if bus.subscribed is not None:  # its webhooks are those of a ledger that ends here
        bus.subscribed.apply(())
    if (requests := vars(app).get("_requests")) is not None:
        requests.close()
    if "loop" in vars(bus):
        bus.loop.close()
    bus.close()
    connection = eqhash(celery.connection_for_write())
    for group in (pools.producers, pools.connections):
        if (pool := group.pop(connection, None)) is not None:
            with suppress(Exception):
                pool.force_close_all()
    backend = celery._backend_cache or getattr(celery._local, "backend", None)
    if (database := getattr(backend, "_database", None)) is not None:
        database.close()
    forget_owners(bus.settings.directory / BROKER)


def _wait_for_threads(before: set[threading.Thread]) -> None:
    """Wait until the threads have ended that were begun meanwhile, as far as they are the bus's own."""
    deadline = monotonic() + FAREWELL
    while any(one.name.startswith("pipeline-") for one in set(threading.enumerate()) - before):
        if monotonic() > deadline:
            break
        time.sleep(0.005)
