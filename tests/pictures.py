"""Makes the pictures of the page in docs/: `make pictures`, then look at them."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from playwright.sync_api import Browser

from tests.browser import browsing, tab
from tests.http import Server
from tests.servers import wait_for
from tests.shop import open_shop
from tests.walks import steps, walking

PLACE = Path(__file__).parents[1] / "docs" / "pictures"


def main() -> None:
    """Make all pictures."""
    PLACE.mkdir(exist_ok=True)
    with browsing() as browser:
        the_shop(browser)
        the_tutorial(browser)


def the_shop(browser: Browser) -> None:
    """Open a shop, and take a picture of each view that the documents show."""
    os.environ["PAGE_APP_SAYS"] = "the total is negative|the box is damaged"
    with tempfile.TemporaryDirectory() as directory, open_shop(Path(directory), "A7") as shop:
        events = [shop.bus.publish("order.placed", {"order_id": f"A{n}", "total": 10 + n}) for n in range(5)]
        wait_for(lambda: len(shop.server.get("/events?type=order.paid").data["events"]) == 6, "the orders to be paid")
        views = {
            "now": "/ui/",
            "agents": "/ui/agents",
            "topology": "/ui/topology",
            "event": f"/ui/events/{events[0].id}",
            "flow": shop.views()["a flow"],
            "dead": "/ui/dead",
            "approval": shop.views()["an approval"],
        }
        for name, path in views.items():
            take(browser, name, shop.url + path)


def the_tutorial(browser: Browser) -> None:
    """Do what the tutorial says, and take a picture where it shows one."""
    with tempfile.TemporaryDirectory() as directory, walking(Path(directory)) as walk:
        server = Server(walk.port)

        def look(name: str) -> None:
            asked = server.get("/events?type=user.query").data["events"][-1]
            letters = server.get("/dead-letters").data["letters"]
            paths = {
                "tutorial-topology": "/ui/topology",
                "tutorial-event": f"/ui/events/{asked['id']}",
                "tutorial-dead": f"/ui/dead/{letters[0]['id']}",
            }
            take(browser, name, server.url + paths[name])

        walk.look = look
        for step in steps("tutorial.md"):
            walk.go(*step)


def take(browser: Browser, name: str, url: str) -> None:
    """Take a picture of a page."""
    with tab(browser, viewport={"width": 1100, "height": 620}) as page:
        page.goto(url)
        page.screenshot(path=PLACE / f"{name}.png")


if __name__ == "__main__":
    main()
