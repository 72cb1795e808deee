"""What the HTTP front costs: publishing beside an empty handler, paced, with 100 readers; a tab; a page of a large log.

    python -m benchmarks.front
    python -m benchmarks.front --only post,paced,readers --events 10000

One server process, uvicorn, with a SQLite ledger on the embedded broker; what calls it is another process. The empty
handler is a FastAPI route that validates the same body and answers. The longest pause of the event loop is by how much
a task that sleeps 10 ms was late; on a machine with other work it is that work's, too.
"""

from __future__ import annotations

import argparse
import asyncio
import http.client
import json
import multiprocessing
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, closing, contextmanager
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel

from pipeline import Payload, Pipeline
from pipeline.http import front
from tests.servers import free_port, wait_for

from .logs import Log
from .progress import say
from .samples import median, percentile, ratio
from .workers import cpu_seconds

#: Requests of a measurement, and threads that send them; events a second, and for how many seconds.
REQUESTS, THREADS, RATE, SECONDS, READERS = 2000, 4, 200, 15, 100
KINDS = ("post", "paced", "readers", "page", "tab")
#: Events of the minute that a tab is watched, and its seconds.
A_MINUTE, MINUTE = 10_000, 60
BODY = json.dumps({"type": "order.placed", "data": {"order_id": "A-1", "total": 12.5}}).encode()
HEADERS = {"content-type": "application/json"}
#: Returns, in the browser, when something was first painted (milliseconds), once it is.
PAINTED = """new Promise(tell => new PerformanceObserver(list => {
    for (const one of list.getEntriesByName("first-contentful-paint")) tell(one.startTime);
}).observe({type: "paint", buffered: true}))"""


#: Keeps, in the browser, how long the longest task was (milliseconds); those under 50 ms are none.
TASKS = """() => {
    window.longest = 0;
    new PerformanceObserver(list => {
        for (const one of list.getEntries()) window.longest = Math.max(window.longest, one.duration);
    }).observe({type: "longtask"});
}"""


class Placed(Payload, type="order.placed"):
    """What is published."""

    order_id: str
    total: float


class Sent(BaseModel):
    """The body of a request, as the empty handler takes it."""

    type: str
    data: Placed


class Pause:
    """The longest pause of an event loop, in milliseconds, since somebody has asked."""

    def __init__(self) -> None:
        self.longest = 0.0

    async def watch(self) -> None:
        """Sleep again and again, and see how late it gets."""
        while True:
            begun = time.perf_counter()
            await asyncio.sleep(0.01)
            self.longest = max(self.longest, (time.perf_counter() - begun - 0.01) * 1000)

    def ask(self) -> float:
        """Return it."""
        longest, self.longest = self.longest, 0.0
        return longest


def built(kind: str, directory: str) -> FastAPI:
    """Return what is served: the front, or the empty handler."""
    pause = Pause()

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        watching = asyncio.create_task(pause.watch())
        yield
        watching.cancel()

    api = FastAPI(lifespan=lifespan)
    api.get("/pause")(pause.ask)
    if kind == "empty":

        @api.post("/events", status_code=201)
        def events(sent: Sent) -> dict[str, str]:
            return {"id": "1"}

        return api
    app = Pipeline("bench", directory=Path(directory), agents=())
    app.types.add(Placed)
    api.mount("/", front(app))
    return api


def serve(kind: str, directory: str, port: int) -> None:
    """Serve, until the process ends."""
    uvicorn.run(built(kind, directory), port=port, log_config=None, access_log=False)


@contextmanager
def served(kind: str, directory: str) -> Iterator[tuple[int, int]]:
    """Start a server; return its port and its process."""
    port = free_port()
    command = [sys.executable, "-m", "benchmarks.front", "--serve", kind, directory, str(port)]
    process = subprocess.Popen(command)
    try:
        wait_for(lambda: _answers(port), "the server to listen")
        yield port, process.pid
    finally:
        process.terminate()
        process.wait(30)


def _answers(port: int) -> bool:
    try:
        return call(port, "GET", "/pause")[0] == 200
    except OSError:
        return False


def call(port: int, method: str, path: str, body: bytes | None = None) -> tuple[int, bytes]:
    """Call a server; return the status and the body of its answer."""
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=30)) as connection:
        connection.request(method, path, body, HEADERS if body else {})
        answer = connection.getresponse()
        return answer.status, answer.read()


def post(kind: str) -> float:
    """Return the microseconds of CPU time of the server for a request."""
    with tempfile.TemporaryDirectory(prefix="bench-front-") as directory, served(kind, directory) as (port, pid):
        _send(port, REQUESTS // 10)
        begun = cpu_seconds(pid)
        threads = [threading.Thread(target=_send, args=(port, REQUESTS // THREADS)) for _ in range(THREADS)]
        for one in threads:
            one.start()
        for one in threads:
            one.join()
        return (cpu_seconds(pid) - begun) / REQUESTS * 1e6


def _send(port: int, number: int) -> None:
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=60)) as connection:
        for _ in range(number):
            connection.request("POST", "/events", BODY, HEADERS)
            answer = connection.getresponse()
            answer.read()
            assert answer.status == 201, answer.status


def paced() -> tuple[float, float, float]:
    """Return milliseconds that half, and 99 of 100 requests take at most, and the loop's longest pause."""
    took: list[float] = []
    with tempfile.TemporaryDirectory(prefix="bench-front-") as directory, served("front", directory) as (port, _):
        _send(port, 100)
        call(port, "GET", "/pause")
        with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=60)) as connection:
            started = time.perf_counter()
            for n in range(RATE * SECONDS):
                time.sleep(max(0.0, started + n / RATE - time.perf_counter()))  # a steady rate
                begun = time.perf_counter()
                connection.request("POST", "/events", BODY, HEADERS)
                connection.getresponse().read()
                took.append((time.perf_counter() - begun) * 1000)
        pause = float(call(port, "GET", "/pause")[1])
    return median(took), percentile(took, 99), pause


def read_all(port: int, seconds: float, come: Any) -> None:
    """Follow the log with many readers for some seconds; who has got nothing is an error.

    Arguments:
        come: is set when all of them follow it.

    """
    following = 0

    async def read() -> int:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET /stream HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        await reader.readuntil(b"retry:")  # the first thing that a reader gets
        nonlocal following
        following += 1
        if following == READERS:
            come.set()
        got, until = 0, time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            try:
                got += (await asyncio.wait_for(reader.read(65536), left)).count(b"event: event")
            except TimeoutError:
                break
        writer.close()
        return got

    async def many() -> list[int]:
        return await asyncio.gather(*(read() for _ in range(READERS)))

    found = asyncio.run(many())
    assert min(found) > RATE * seconds / 2, found


def readers() -> tuple[float, float]:
    """Return the share of a core that many readers of 200 events a second cost, and the loop's longest pause."""
    with tempfile.TemporaryDirectory(prefix="bench-front-") as directory, served("front", directory) as (port, pid):
        spawn = multiprocessing.get_context("spawn")
        come = spawn.Event()
        reading = spawn.Process(target=read_all, args=(port, SECONDS + 3.0, come))
        with closing(Pipeline("bench", directory=Path(directory), agents=())) as app:
            app.publish("order.placed", {"order_id": "A", "total": 1.0})
            reading.start()
            assert come.wait(60), "not all readers have come"
            call(port, "GET", "/pause")
            begun, started = cpu_seconds(pid), time.perf_counter()
            for n in range(SECONDS * 10):
                app.publish_many([("order.placed", {"order_id": "A", "total": 1.0}) for _ in range(RATE // 10)])
                time.sleep(max(0.0, started + (n + 1) / 10 - time.perf_counter()))  # a steady rate
            share = (cpu_seconds(pid) - begun) / (time.perf_counter() - started)
            pause = float(call(port, "GET", "/pause")[1])
        reading.join(60)
        assert reading.exitcode == 0, "a reader has not got the events"
    return share, pause


def page(size: int) -> tuple[float, float, float]:
    """Return milliseconds until a page is painted with a large ledger: the newest events, one of them, agents."""
    from tests.browser import browsing, tab

    with tempfile.TemporaryDirectory(prefix="bench-front-") as directory:
        with closing(Pipeline("bench", directory=Path(directory), agents=())) as app:
            Log(app.ledger).grow(size)
            one = app.publish("order.placed", {"order_id": "A", "total": 1.0})
        say(f"a ledger of {size:,} events")
        paths = ("/ui/", f"/ui/events/{one.key}", "/ui/agents")
        with served("front", directory) as (port, _), browsing() as browser:
            found: dict[str, list[float]] = {path: [] for path in paths}
            for _ in range(3):
                for path in paths:
                    with tab(browser) as shown:
                        shown.goto(f"http://127.0.0.1:{port}{path}", wait_until="load")
                        found[path].append(shown.evaluate(PAINTED))
    newest, event, agents = (median(found[path]) for path in paths)
    return newest, event, agents


def watched() -> tuple[float, float, int]:
    """Return what an open tab does in a minute of 10,000 events: its longest task (ms), its share of a core, rows."""
    from tests.browser import browsing, tab

    with (
        tempfile.TemporaryDirectory(prefix="bench-front-") as directory,
        served("front", directory) as (port, _),
        closing(Pipeline("bench", directory=Path(directory), agents=())) as app,
        browsing() as browser,
        tab(browser) as shown,
    ):
        shown.goto(f"http://127.0.0.1:{port}/ui/", wait_until="load")
        shown.evaluate(TASKS)
        devtools = shown.context.new_cdp_session(shown)
        devtools.send("Performance.enable")
        begun, started = _busy(devtools), time.perf_counter()
        for n in range(MINUTE * 10):
            some = range(n * A_MINUTE // MINUTE // 10, (n + 1) * A_MINUTE // MINUTE // 10)
            app.publish_many([("order.placed", {"n": one + 1, "total": 1.0}) for one in some])
            time.sleep(max(0.0, started + (n + 1) / 10 - time.perf_counter()))  # a steady rate
        shown.get_by_text(f'"n":{A_MINUTE},', exact=False).first.wait_for(timeout=30_000)
        share = (_busy(devtools) - begun) / (time.perf_counter() - started)
        return shown.evaluate("window.longest"), share, shown.locator("#stream tbody tr").count()


def _busy(devtools: Any) -> float:
    """Return the seconds that a tab's main thread has worked."""
    found = {one["name"]: one["value"] for one in devtools.send("Performance.getMetrics")["metrics"]}
    return float(found["TaskDuration"])


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.front", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--only", default=",".join(KINDS), help=f"what is measured (default {','.join(KINDS)})")
    parser.add_argument("--repeats", type=int, default=3, help="rounds (default 3)")
    parser.add_argument(
        "--events", type=int, default=1_000_000, help="events in the ledger of `page` (default 1000000)"
    )
    parser.add_argument("--serve", nargs=3, metavar=("KIND", "DIRECTORY", "PORT"), help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.serve:
        kind, directory, port = options.serve
        serve(kind, directory, int(port))
        return
    only = options.only.split(",")
    if "post" in only:
        ours, empty = [], []
        for _ in range(options.repeats):
            ours.append(post("front"))
            empty.append(post("empty"))
            say(f"POST /events {ours[-1]:,.0f} us of CPU, an empty handler {empty[-1]:,.0f} us")
        print(f"POST /events: {median(ours):,.0f} us of CPU, {ratio(empty, ours)} of an empty handler's rate")
    if "paced" in only:
        half, most, pause = (median(one) for one in zip(*(paced() for _ in range(options.repeats)), strict=True))
        print(f"{RATE} a second: p50 {half:.1f} ms, p99 {most:.1f} ms; the loop's longest pause {pause:.0f} ms")
    if "readers" in only:
        share, pause = (median(one) for one in zip(*(readers() for _ in range(options.repeats)), strict=True))
        print(f"{READERS} readers, {RATE} events a second: {share:.0%} of a core; longest pause {pause:.0f} ms")
    if "tab" in only:
        longest, share, rows = watched()
        said = f"its longest task {longest:.0f} ms" if longest else "no task of 50 ms or more"
        print(
            f"a tab while {A_MINUTE:,} events come in a minute: {share:.0%} of a core, {said}, {rows} rows in the end"
        )
    if "page" in only:
        newest, event, agents = page(options.events)
        print(f"painted with {options.events:,} events: now {newest:.0f}, an event {event:.0f}, agents {agents:.0f} ms")


if __name__ == "__main__":
    main()
