"""What operators do on the page, in a real browser: schedules and timers, replays with their progress, dead letters."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from celery.schedules import crontab
from playwright.sync_api import Browser, Page, ViewportSize, expect

from pipeline import Pipeline
from pipeline.http import new_token
from tests.apps.page_app import MARKUP
from tests.browser import tab, violations
from tests.http import Server, served
from tests.records import declare_agents, died, messages, order
from tests.servers import wait_for

NARROW: ViewportSize = {"width": 400, "height": 800}


@dataclass(frozen=True)
class Desk:
    """An app without workers, where there is something to operate, and its page."""

    app: Pipeline
    server: Server

    def job(self, **asked: object) -> str:
        return str(self.server.post("/replays", {"to": "billing", "all": True, **asked}).data["id"])


@pytest.fixture
def app(tmp_path: Path, no_settings: None) -> Iterator[Pipeline]:
    one = Pipeline("shop", directory=tmp_path)
    declare_agents(one)
    one.schedule("digest", crontab(minute=30, hour=4), "digest.due", {"note": MARKUP})
    yield one
    one.close()


@pytest.fixture
def desk(app: Pipeline) -> Iterator[Desk]:
    app.publish("later.on", MARKUP, delay=3600)
    died(app, 3, error=f"no account {MARKUP}")
    died(app, 2, error="timeout")
    with served(app) as server:
        yield Desk(app, server)


def opened(page: Page, desk: Desk, path: str) -> Page:
    page.goto(desk.server.url + path)
    return page


def test_every_view_can_be_used_by_everybody_and_what_strangers_write_is_text(desk: Desk, browser: Browser) -> None:
    counted, slow = desk.job(dry_run=True), desk.job(rate=0.001)
    dropped = desk.server.post("/dead-letters/drop", {"agent": "billing", "error": "nothing like that"}).data["id"]
    wait_for(lambda: desk.server.get(f"/jobs/{dropped}").data["state"] == "done", "the job to end")
    views = ("schedules", "replay", f"replay?of={slow}", f"jobs/{counted}", f"jobs/{slow}", f"jobs/{dropped}", "dead")
    for options in ({"viewport": {"width": 1200, "height": 800}}, {"viewport": NARROW}):
        for path in views:
            with tab(browser, **options, color_scheme="dark" if path == "dead" else "light") as page:
                opened(page, desk, f"/ui/{path}")
                assert violations(page) == [], path
                assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), path
                assert page.evaluate("window.hacked") is None, path
                assert page.locator("main img, main script").count() == 0, path


def test_it_is_read_and_done_without_javascript(desk: Desk, browser: Browser) -> None:
    with tab(browser, java_script_enabled=False) as page:
        opened(page, desk, "/ui/schedules")
        expect(page.locator("main")).to_contain_text("30 4 * * *")
        expect(page.locator("#timers")).to_contain_text("later.on")
        opened(page, desk, "/ui/replay")
        page.get_by_label("To", exact=True).fill("billing")
        page.get_by_label("Type").fill("order.*")
        page.get_by_role("button", name="Count them").click()
        wait_for(lambda: desk.server.get("/jobs").data["jobs"][0]["state"] == "done", "the job to end")
        page.reload()
        expect(page.locator("#job")).to_contain_text("5 counted")
        opened(page, desk, "/ui/dead")
        page.get_by_role("button", name="Requeue all").first.click()
        wait_for(lambda: desk.server.get("/jobs").data["jobs"][0]["state"] == "done", "the job to end")
        page.reload()
        expect(page.locator("#job")).to_contain_text("3 of 3")


def test_a_replay_is_counted_begun_and_seen_to_its_end(desk: Desk, browser: Browser) -> None:
    messages(desk.app, "billing")
    with tab(browser) as page:
        page.on("dialog", lambda dialog: dialog.accept())
        opened(page, desk, "/ui/")
        page.get_by_role("link", name="Replay").click()
        page.get_by_label("To", exact=True).fill("billing")
        page.get_by_label("Every event of the log").check()
        page.get_by_label("Events a second").fill("0.6")  # so that one sees it run
        page.get_by_role("button", name="Count them").click()
        expect(page.locator("#job")).to_contain_text("5 counted")
        assert messages(desk.app, "billing") == []
        page.get_by_role("button", name="Replay them").click()
        page.evaluate("window.unchanged = true")
        expect(page.locator("#job .chip")).to_have_text("running")
        expect(page.locator("#job .chip")).to_have_text("done", timeout=30_000)
        expect(page.locator("#job")).to_contain_text("5 done")
        assert page.evaluate("window.unchanged"), "it has renewed itself"
        assert len(messages(desk.app, "billing")) == 5


def test_a_replay_is_stopped_and_goes_on(desk: Desk, browser: Browser) -> None:
    id = desk.job(rate=0.001)
    with tab(browser) as page:
        opened(page, desk, f"/ui/jobs/{id}")
        expect(page.locator("#job")).to_contain_text("1 done")
        page.get_by_role("button", name="Stop").click()
        expect(page.locator("#job .chip")).to_have_text("stopped")
        page.get_by_role("link", name="Change what is asked for").click()
        asked = desk.server.get(f"/jobs/{id}").data["asked"]
        assert page.get_by_label("Go on with the replay").input_value() == asked["id"]
        assert page.locator("[name=up_to]").input_value() == str(asked["up_to"]), "every event that there was"
        page.go_back()
        page.get_by_role("button", name="Go on with it").click()
        expect(page.locator("#job")).to_contain_text("1 done")
        first, second = desk.server.get("/jobs").data["jobs"]
        assert (first["asked"], first["id"] != second["id"]) == (second["asked"], True)


def test_what_only_the_interface_can_choose_is_kept_when_it_is_replayed_from_the_page(
    desk: Desk, browser: Browser
) -> None:
    chosen = desk.app.publish(order(9), metadata={"user": "u1"})
    messages(desk.app, "billing")
    id = desk.job(all=False, type="order.*", metadata={"user": "u1"}, dry_run=True)
    with tab(browser) as page:
        page.on("dialog", lambda dialog: dialog.accept())
        opened(page, desk, f"/ui/jobs/{id}")
        expect(page.locator("#job")).to_contain_text("1 counted")
        expect(page.get_by_role("link", name="Change what is asked for")).to_have_count(0)
        page.get_by_role("button", name="Replay them").click()
        expect(page.locator("#job")).to_contain_text("1 done")
        expect(page.locator("#job .chip")).to_have_text("done")
        page.get_by_role("link", name="All jobs").click()
    assert [event["id"] for _, event in messages(desk.app, "billing")] == [chosen.id]


def test_a_group_of_dead_letters_is_dropped_and_another_one_requeued(desk: Desk, browser: Browser) -> None:
    with tab(browser) as page:
        answers = iter(("dismiss", "accept", "accept"))
        page.on("dialog", lambda dialog: getattr(dialog, next(answers))())
        opened(page, desk, "/ui/dead")
        line = page.locator("tr", has=page.get_by_role("cell", name="timeout", exact=True)).first
        line.get_by_role("button", name="Drop all").click()
        assert desk.server.get("/jobs").data["jobs"] == [], "who is asked may say no"
        line.get_by_role("button", name="Drop all").click()
        expect(page.locator("#job")).to_contain_text("dropped")
        expect(page.locator("#job")).to_contain_text("2 of 2 done")
        opened(page, desk, "/ui/dead")
        page.get_by_role("button", name="Requeue all").click()
        expect(page.locator("#job")).to_contain_text("3 of 3 done")
        opened(page, desk, "/ui/dead")
        expect(page.locator("main")).to_contain_text("There are no dead letters.")


def test_an_event_that_is_due_later_is_taken_back(desk: Desk, browser: Browser) -> None:
    with tab(browser, viewport=NARROW) as page:
        page.on("dialog", lambda dialog: dialog.accept())
        opened(page, desk, "/ui/schedules")
        page.get_by_role("button", name="Take back").click()
        expect(page.get_by_role("status")).to_contain_text("taken back")
        expect(page.locator("#timers")).to_contain_text("Nothing is due later.")
        assert desk.server.get("/timers").data["timers"] == []
        opened(page, desk, "/ui/schedules")
        assert violations(page) == []


def test_what_is_wrong_is_said_and_nothing_begins(desk: Desk, browser: Browser) -> None:
    wrong = ({"Type": "a..b"}, {"Events a second": "many"}, {"Since": "yesterday"}, {})
    with browser.new_context() as context:
        page = context.new_page()
        for fields in wrong:
            opened(page, desk, "/ui/replay")
            page.get_by_label("To", exact=True).fill("billing")
            for label, text in fields.items():
                page.get_by_label(label, exact=True).fill(text)
            page.get_by_role("button", name="Count them").click()
            expect(page.get_by_role("alert")).to_be_visible()
    assert desk.server.get("/jobs").data["jobs"] == []


def test_who_only_reads_can_begin_nothing(app: Pipeline, browser: Browser) -> None:
    text, token = new_token("reader", ["read"])
    died(app, 1)
    app.publish("later.on", delay=3600)
    form = {"Content-Type": "application/x-www-form-urlencoded", "Authorization": f"Bearer {text}"}
    with served(app, tokens=[token]) as server, browser.new_context(viewport=NARROW) as context:
        context.add_cookies([{"name": "pipeline_token", "value": text, "url": server.url}])
        page = context.new_page()
        for path, labels in (
            ("replay", ("Count them", "Replay them")),
            ("dead", ("Requeue all", "Drop all")),
            ("schedules", ("Take back",)),
        ):
            page.goto(f"{server.url}/ui/{path}")
            assert violations(page) == [], path
            for label in labels:
                expect(page.get_by_role("button", name=label)).to_be_disabled()
        letter = app.dead_letters.list()[0].id
        for path in ("replay", f"dead/like/{letter}", "jobs/x/stop", "jobs/x/again", "timers/x/cancel"):
            assert server.post(f"/ui/{path}", headers=form, body=b"verb=drop&to=billing&all=true").status == 403
        assert server.get("/jobs", Authorization=f"Bearer {text}").data["jobs"] == []


def test_a_form_of_another_site_does_nothing(desk: Desk) -> None:
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    letter = desk.app.dead_letters.list()[0].id
    body = b"verb=drop&to=billing&all=true"
    for path in ("replay", f"dead/like/{letter}"):
        for headers in ({"Origin": "https://evil.example"}, {"Sec-Fetch-Site": "cross-site"}):
            assert desk.server.post(f"/ui/{path}", headers={**form, **headers}, body=body).status == 403
    assert desk.server.get("/jobs").data["jobs"] == []
    assert desk.server.post("/ui/replay", headers=form, body=body).status == 303
