"""The page in a real browser: every view, every action, what strangers write into it, and who may do what."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from pipeline import ConfigError, Pipeline
from pipeline.http import new_token
from pipeline.ledger.notices.notice import Speaker
from tests.apps.page_app import MARKUP
from tests.browser import tab, violations
from tests.http import served
from tests.servers import wait_for
from tests.shop import Shop


def opened(page: Page, shop: Shop, path: str) -> Page:
    page.goto(shop.url + path)
    return page


def test_every_view_can_be_used_by_everybody_and_what_strangers_write_is_text(shop: Shop, browser: Browser) -> None:
    wide, narrow = ({"viewport": {"width": width, "height": 800}} for width in (1200, 400))
    for options in (wide, {**narrow, "color_scheme": "dark"}):
        for name, path in shop.views().items():
            if name == "what is not there":
                continue
            with tab(browser, **options) as page:
                opened(page, shop, path)
                assert violations(page) == [], name
                assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), name
                assert page.evaluate("window.hacked") is None, name
                assert page.locator("main img, main script").count() == 0, name


def test_every_view_can_be_read_without_javascript(shop: Shop, browser: Browser) -> None:
    shown = {
        "now": "order.placed",
        "an event": "billing",
        "an event, to be edited": "billing alone",
        "agents": "order.paid",
        "an agent": "order.placed",
        "topology": "order.paid",
        "who would get it": "it listens to order.paid",
        "dead letters": "negative",
        "a dead letter": "ValueError: negative",
        "a flow": "pack",
        "an approval": "refund",
        "send": "order_id",
        "what is not there": "no event 'nothing'",
    }
    with tab(browser, java_script_enabled=False) as page:
        for name, path in shop.views().items():
            if name == "what is not there":
                assert shop.server.get(path).status == 404
                continue
            opened(page, shop, path)
            expect(page.locator("main")).to_contain_text(shown.get(name, ""))


def test_events_come_while_one_looks_and_only_those_that_are_wanted(shop: Shop, browser: Browser) -> None:
    with tab(browser) as page:
        opened(page, shop, "/ui/?type=tick.*&where=n+%3E+1")
        rows = page.locator("#stream tbody tr")
        expect(rows).to_have_count(0)
        shop.bus.publish_many([("tick.one", {"n": 1}), ("tock.one", {"n": 2}), ("tick.two", {"n": 2})])
        expect(rows).to_have_count(1)
        expect(rows.first).to_contain_text("tick.two")
        page.get_by_role("button", name="Hold").click()
        shop.bus.publish("tick.three", {"n": 3})
        page.wait_for_timeout(1500)
        expect(rows).to_have_count(1)
        page.get_by_role("button", name="Go on").click()
        expect(rows).to_have_count(2)
        shop.bus.publish_many([("tick.many", {"n": n + 2}) for n in range(900)])
        expect(rows.first).to_contain_text('"n":901', timeout=30_000)
        assert rows.count() == 200


def test_what_can_be_done_is_done(shop: Shop, browser: Browser) -> None:
    with tab(browser) as page:
        page.on("dialog", lambda dialog: dialog.accept())
        # An agent is paused, and goes on.
        opened(page, shop, "/ui/agents")
        line = page.locator("tr", has=page.get_by_role("cell", name="gift", exact=True))
        line.get_by_role("button", name="Pause").click()
        expect(page.get_by_role("status")).to_have_text("gift: paused")
        line.get_by_role("button", name="Resume").click()
        expect(page.get_by_role("status")).to_have_text("gift: resumed")
        # A dead letter is edited and requeued, another one dropped.
        letter = shop.server.get("/dead-letters?agent=billing").data["letters"][0]
        opened(page, shop, f"/ui/dead/{letter['id']}")
        page.get_by_label("What the agent gets").fill('{"order_id": "B", "total": 3}')
        page.get_by_role("button", name="Requeue").click()
        expect(page.get_by_role("status")).to_contain_text("requeued 1")
        wait_for(lambda: not shop.server.get("/dead-letters?agent=billing").data["letters"], "it to be done")
        opened(page, shop, "/ui/dead?agent=pack")
        page.get_by_label("All of them").check()
        page.get_by_role("button", name="Drop those").click()
        expect(page.get_by_role("status")).to_contain_text("dropped 1")
        # A proposal is edited and approved.
        opened(page, shop, "/ui/approvals")
        page.get_by_role("link", name="refund").click()
        page.get_by_label("As they may be").fill('{"order": "A1", "amount": 5}')
        page.get_by_label("Who you are").fill("ada")
        page.get_by_role("button", name="Approve").click()
        expect(page.get_by_role("status")).to_have_text("approved")
        wait_for(lambda: shop.server.get("/events?type=refund.made").data["events"], "the refund")
        assert shop.server.get("/events?type=refund.made").data["events"][0]["data"]["amount"] == 5
        # An event is sent, and what it causes is seen as it comes.
        opened(page, shop, "/ui/send?type=order.placed")
        filled = json.loads(page.get_by_label("Data").input_value())
        assert filled == {"order_id": "", "total": 1.0}
        page.get_by_label("Data").fill('{"order_id": "C", "total": 2}')
        page.get_by_role("button", name="Send").click()
        expect(page.locator(".waterfall")).to_contain_text("charge", timeout=30_000)
        expect(page.locator(".waterfall")).to_contain_text("order.paid")


def test_what_is_wrong_is_said_and_nothing_is_lost(shop: Shop, browser: Browser) -> None:
    before = len(shop.server.get("/events?limit=1000").data["events"])
    with browser.new_context() as context:
        page = context.new_page()
        opened(page, shop, "/ui/send?type=order.placed")
        page.get_by_label("Data").fill("{")
        page.get_by_role("button", name="Send").click()
        expect(page.get_by_role("alert")).to_contain_text("data: it is no JSON")
        opened(page, shop, "/ui/send?type=order.placed")
        page.get_by_label("Data").fill('{"total": 1}')
        page.get_by_role("button", name="Send").click()
        expect(page.get_by_role("alert")).to_contain_text("order_id")
        opened(page, shop, "/ui/?where=a+b+c")
        expect(page.get_by_role("alert")).to_be_visible()
    assert len(shop.server.get("/events?limit=1000").data["events"]) == before


def test_who_has_a_token_comes_in_with_it_and_may_do_what_it_says(
    tmp_path: Path, no_settings: None, browser: Browser
) -> None:
    text, token = new_token("reader", ["read"])
    app = Pipeline("shop", directory=tmp_path)
    with served(app, tokens=[token]) as server, browser.new_context() as context:
        url, page = server.url, context.new_page()
        page.goto(f"{url}/ui/agents")
        page.get_by_label("Token").fill("wrong")
        page.get_by_role("button", name="Enter").click()
        expect(page.get_by_role("status")).to_contain_text("no token that is known")
        page.get_by_label("Token").fill(text)
        page.get_by_role("button", name="Enter").click()
        expect(page.get_by_role("heading", level=1)).to_have_text("Now")
        (cookie,) = context.cookies()
        assert (cookie["httpOnly"], cookie["sameSite"]) == (True, "Strict")
        page.goto(f"{url}/ui/send")
        expect(page.get_by_role("button", name="Send")).to_be_disabled()
        page.get_by_role("button", name="Leave").click()
        expect(page.get_by_label("Token")).to_be_visible()
        assert context.cookies() == []
    app.close()


def test_a_form_of_another_site_does_nothing(shop: Shop) -> None:
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    body = b"type=order.placed&data=%7B%22order_id%22%3A%221%22%7D"
    before = len(shop.server.get("/events?limit=1000").data["events"])
    for headers in ({"Origin": "https://evil.example"}, {"Sec-Fetch-Site": "cross-site"}, {"Host": "evil.example"}):
        assert shop.server.post("/ui/send", headers={**form, **headers}, body=body).status in (403, 421)
    assert len(shop.server.get("/events?limit=1000").data["events"]) == before
    assert shop.server.post("/ui/send", headers=form, body=body).status == 303


def test_a_page_lets_nothing_in_from_elsewhere(shop: Shop) -> None:
    answer = shop.server.get("/ui/")
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert "unsafe" not in answer.headers["content-security-policy"]
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert "http://" not in answer.body.decode().replace(shop.url, "")
    assert "https://" not in answer.body.decode()


def test_the_page_leads_to_flower_where_it_is_said_where_that_is(tmp_path: Path, no_settings: None) -> None:
    for address in ("", "https://flower.example.com/?a=1&b=2"):
        app = Pipeline("shop", directory=tmp_path, agents=(), flower_url=address)
        with closing(app), served(app) as server:
            page = server.get("/ui/").body.decode()
        assert (">Flower</a>" in page) is bool(address)
    assert '<a href="https://flower.example.com/?a=1&amp;b=2" rel="noreferrer">Flower</a>' in page
    with pytest.raises(ConfigError, match="flower_url"):
        Pipeline("shop", directory=tmp_path, flower_url="javascript:alert(1)")


def test_what_handlers_say_grows_while_one_looks_and_is_text(shop: Shop, browser: Browser) -> None:
    (event,) = shop.server.get("/events?type=refund.wanted").data["events"]
    notices, speaker = shop.bus.ledger.notices, Speaker(event["id"], "d-1", "writer", 1)
    notices.add(speaker, "answer", MARKUP)
    notices.progress(speaker, 0.25, "a quarter")
    notices.flush()
    with tab(browser, java_script_enabled=False) as page:
        opened(page, shop, f"/ui/events/{event['id']}")
        expect(page.locator("#says pre")).to_have_text(MARKUP)
        expect(page.locator("#says .doing")).to_contain_text("a quarter")
    with tab(browser, viewport={"width": 400, "height": 800}) as page:
        opened(page, shop, f"/ui/events/{event['id']}")
        expect(page.locator("#says progress")).to_have_attribute("value", "0.25")
        notices.add(speaker, "answer", " and more")
        notices.add(Speaker(event["id"], "d-2", "reader", 1), "notes", MARKUP)
        notices.progress(speaker, 0.5, "half")
        notices.flush()
        texts = page.locator("#says pre")
        expect(texts).to_have_text([f"{MARKUP} and more", MARKUP])
        expect(page.locator("#says article").first).to_contain_text("half")
        assert violations(page) == []
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        notices.add(speaker._replace(attempt=2), "answer", "anew")
        notices.flush()
        expect(texts).to_have_text(["anew", MARKUP])
        notices.add(speaker, "answer", "too late")
        notices.add(speaker._replace(attempt=2), "answer", " and on")
        notices.flush()
        expect(texts).to_have_text(["anew and on", MARKUP])
        assert page.evaluate("window.hacked") is None
