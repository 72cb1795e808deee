"""What the page draws, in a real browser: topology, flows, charts; and an event that is sent again, edited."""

from __future__ import annotations

from typing import Any

from playwright.sync_api import Browser, Page, expect

from pipeline.ledger.database.tables import agents
from tests.apps.page_app import MARKUP
from tests.browser import tab, violations
from tests.servers import wait_for
from tests.shop import Shop

NARROW: dict[str, Any] = {"viewport": {"width": 400, "height": 800}, "color_scheme": "dark"}


def seen(shop: Shop, *names: str) -> None:
    """Let the ledger know agents that have run, and listen to types of their own."""
    zero = dict.fromkeys(("tx", "seq", "registered"), 0)
    rows = [{"name": name, "patterns": f'["of.{n}"]', "bound": "[]", **zero} for n, name in enumerate(names)]
    with shop.bus.ledger.database.transaction() as connection:
        connection.execute(shop.bus.ledger.database.insert(agents), rows)


def node(page: Page, name: str) -> Any:
    return page.locator(".picture .node", has=page.locator("text:not(.note)", has_text=name))


def test_the_topology_is_drawn_with_the_same_facts_in_tables_and_follows_what_changes(
    shop: Shop, browser: Browser
) -> None:
    with tab(browser) as page:
        page.goto(f"{shop.url}/ui/topology")
        expect(node(page, "billing")).to_contain_text("✓ online")
        lines = page.locator(".picture .line title").all_text_contents()
        assert {"billing listens to order.placed", "billing emits order.paid", "gift listens to order.paid"} <= {*lines}
        assert "pack works for parcel" in lines
        line = page.locator("tr", has=page.get_by_role("cell", name="order.paid", exact=True)).last
        expect(line).to_contain_text("billing")
        expect(line).to_contain_text("gift")
        shop.bus.pause("gift")
        expect(node(page, "gift")).to_contain_text("‖ paused", timeout=30_000)
        node(page, "gift").click()
        expect(page.get_by_role("heading", level=1)).to_have_text("Agent gift")
        page.go_back()
        node(page, "order.placed").click()
        expect(page.get_by_label("Type")).to_have_value("order.placed")


def test_a_picture_that_is_wider_than_the_screen_is_scrolled_and_stays_where_it_is(
    shop: Shop, browser: Browser
) -> None:
    with tab(browser, **NARROW) as page:
        page.goto(f"{shop.url}/ui/topology")
        picture = page.locator(".picture")
        assert picture.evaluate("one => one.scrollWidth > one.clientWidth")
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        picture.evaluate("one => (one.scrollLeft = 150)")
        shop.bus.pause("gift")
        expect(node(page, "gift")).to_contain_text("‖ paused", timeout=30_000)
        assert picture.evaluate("one => one.scrollLeft") == 150


def test_names_that_are_markup_are_text_in_pictures_and_charts(shop: Shop, browser: Browser) -> None:
    name = "<img src=x onerror='window.hacked = 1'>"
    seen(shop, name)
    with tab(browser, **NARROW) as page:
        for path in ("/ui/topology", "/ui/", "/ui/agents"):
            page.goto(shop.url + path)
            assert page.locator("main img, main script").count() == 0, path
            assert page.evaluate("window.hacked") is None, path
            assert violations(page) == [], path
        page.goto(f"{shop.url}/ui/topology")
        page.get_by_role("link", name=name, exact=True).click()
        expect(page.get_by_role("heading", level=1)).to_have_text(f"Agent {name}")
        assert page.evaluate("window.hacked") is None


def test_too_many_agents_are_in_the_tables_alone_which_is_said(shop: Shop, browser: Browser) -> None:
    seen(shop, *(f"agent{n}" for n in range(60)))
    with tab(browser) as page:
        page.goto(f"{shop.url}/ui/topology")
        expect(page.locator(".said")).to_contain_text("too many for a picture")
        assert page.locator(".picture").count() == 0
        expect(page.get_by_role("cell", name="agent59", exact=True).first).to_be_visible()
        assert violations(page) == []


def test_a_flow_is_drawn_and_its_steps_change_while_one_looks(shop: Shop, browser: Browser) -> None:
    shop.hold("pack")
    shop.bus.publish("box.wanted", {"n": 2})
    wait_for(lambda: shop.bus.flows.list(status="active"), "the saga")
    (flow,) = shop.bus.flows.list(status="active")
    with tab(browser, **NARROW) as page:
        page.goto(f"{shop.url}/ui/flows/{flow.id}")
        expect(node(page, "make")).to_contain_text("✓ succeeded", timeout=30_000)
        expect(node(page, "pack")).to_contain_text("… queued", timeout=30_000)
        assert page.locator(".line title").all_text_contents()[:2] == ["make follows saga parcel", "pack follows make"]
        assert violations(page) == []
        shop.bus.resume("pack")
        expect(node(page, "pack")).to_contain_text("✗ dead", timeout=30_000)
        expect(node(page, "box.failed")).to_contain_text("✗ step 'pack' is dead", timeout=30_000)
        assert page.evaluate("window.hacked") is None


def test_an_event_is_sent_again_edited_to_one_agent_alone(shop: Shop, browser: Browser) -> None:
    found = shop.server.get("/events?type=order.placed").data["events"]
    failed = next(one for one in found if one["data"]["total"] < 0)
    with tab(browser) as page:
        page.goto(f"{shop.url}/ui/events/{failed['id']}")
        page.get_by_role("link", name="billing", exact=True).click()
        expect(page.get_by_label("Who gets it")).to_have_value("billing")
        expect(page.get_by_label("Subject")).to_have_value(MARKUP)
        page.get_by_label("Data", exact=True).fill('{"order_id": "mended", "total": 3}')
        page.get_by_role("button", name="Send").click()
        expect(page.get_by_role("status")).to_have_text("sent")
        expect(page.locator(".waterfall")).to_contain_text("order.paid", timeout=30_000)
        expect(page.locator("dl")).to_contain_text("billing")  # its targets
        page.get_by_role("link", name=failed["id"]).click()
        expect(page.locator(".waterfall .chosen")).to_contain_text("order.placed")
        assert page.url.endswith(failed["id"])
    forks = shop.server.get(f"/events?metadata=forked_from={failed['id']}").data["events"]
    assert [one["type"] for one in forks] == ["order.placed", "order.paid"]
    assert (forks[0]["targets"], forks[0]["subject"], forks[1]["data"]) == ("billing", MARKUP, {"order_id": "mended"})


def test_what_is_wrong_with_an_edited_event_is_said_and_nothing_is_sent(shop: Shop, browser: Browser) -> None:
    events = shop.server.get("/events?limit=1000").data["events"]
    with browser.new_context() as context:
        page = context.new_page()
        for label, text, said in (
            ("Data", "{", "data: it is no JSON"),
            ("Data", '{"total": 1}', "order_id"),
            ("Metadata", "[]", "metadata: it is an object"),
            ("Type", "order placed", "type"),
        ):
            page.goto(f"{shop.url}/ui/events/{events[0]['id']}/fork")
            page.get_by_label(label, exact=True).fill(text)
            page.get_by_role("button", name="Send").click()
            expect(page.get_by_role("alert")).to_contain_text(said)
    assert len(shop.server.get("/events?limit=1000").data["events"]) == len(events)


def test_charts_say_in_words_what_they_show(shop: Shop, browser: Browser) -> None:
    number = len(shop.server.get("/events?limit=1000").data["events"])
    with tab(browser, java_script_enabled=False) as page:
        page.goto(f"{shop.url}/ui/")
        chart = page.get_by_role("img", name=f"Events in the last 15 minutes, of the newest 100,000: {number} events")
        expect(chart).to_be_visible()
        assert 1 <= chart.locator("rect.event").count() <= 60
        expect(page.get_by_role("img", name="refund: 1 parked")).to_be_visible()
        page.goto(f"{shop.url}/ui/agents/billing")
        chart = page.get_by_role("img", name="By the minute: 1 done, 1 failed")
        expect(chart.locator("rect.dead")).to_have_count(1)
        for name in ("Its handler", "From the event to the end"):
            assert "s" in page.get_by_role("row", name=name).get_by_role("cell").last.inner_text()
    assert shop.server.get("/ui/agents/nobody").status == 404
