"""A shop that runs, in which something has happened, for tests of the page and for its pictures."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pipeline import Pipeline
from tests.apps.page_app import MARKUP
from tests.harness import Broker, Worker
from tests.http import Server, serving
from tests.servers import wait_for


@dataclass(frozen=True)
class Shop:
    """A shop that runs, and its page."""

    bus: Pipeline
    server: Server
    worker: Worker

    def hold(self, agent: str) -> None:
        """Pause an agent, until when the worker has heard of it."""
        self.bus.pause(agent)
        queue = f"agent.{agent}"
        wait_for(lambda: f"{queue} is not consumed" in self.worker.output(), f"the worker to leave {queue} alone")

    @property
    def url(self) -> str:
        return self.server.url

    def get(self, path: str) -> object:
        return self.server.get(path).data

    def views(self) -> dict[str, str]:
        """Return a path for each view."""
        (flow,) = self.server.get("/flows").data["flows"]
        (approval,) = self.server.get("/approvals").data["approvals"]
        letter = self.server.get("/dead-letters?agent=billing").data["letters"][0]
        events = self.server.get("/events").data["events"]
        return {
            "now": "/ui/",
            "now, filtered": "/ui/?type=order.*&where=total+%3E+1",
            "an event": f"/ui/events/{events[0]['id']}",
            "one that nobody gets": f"/ui/events/{next(e['id'] for e in events if e['type'] == 'nobody.listens')}",
            "an event, to be edited": f"/ui/events/{events[1]['id']}/fork?agent=billing",
            "agents": "/ui/agents",
            "an agent": "/ui/agents/billing",
            "who would get it": "/ui/agents?type=order.paid&data=%7B%22order_id%22%3A+%22VIP%22%7D",
            "topology": "/ui/topology",
            "dead letters": "/ui/dead",
            "a dead letter": f"/ui/dead/{letter['id']}",
            "flows": "/ui/flows",
            "a flow": f"/ui/flows/{flow['id']}",
            "approvals": "/ui/approvals",
            "an approval": f"/ui/approvals/{approval['id']}",
            "send": "/ui/send?type=order.placed",
            "what is not there": "/ui/events/nothing",
        }


@contextmanager
def open_shop(directory: Path, strange: str = MARKUP) -> Iterator[Shop]:
    """Open one: orders, one of which failed, a refund to decide, a saga that failed.

    Arguments:
        strange: what strangers write where they can.

    """
    broker = Broker("embedded", f"sqlite:///{directory / 'state' / 'broker.db'}", directory)
    bus = Pipeline("publisher", broker_url=broker.url, directory=broker.directory / "state")
    worker = Worker(broker, app="page_app", pool="threads").start()
    try:
        with serving(broker, "page_app") as server:
            orders = ({"order_id": "VIP", "total": 5}, {"order_id": strange, "total": -1})
            ends = [bus.publish("order.placed", one, subject=strange, metadata={"note": strange}) for one in orders]
            bus.publish("refund.wanted", {"order": "A1", "amount": 25, "note": strange})
            ends += [bus.publish("box.wanted", {"n": 1}), bus.publish("nobody.listens", strange)]
            one = Shop(bus, server, worker)
            wait_for(lambda: server.get("/approvals").data["approvals"], "the approval")
            for event in ends:
                bus.settle(event, timeout=60)
            yield one
    finally:
        worker.stop()
        bus.close()
