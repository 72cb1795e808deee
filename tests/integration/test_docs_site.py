"""The site of the documents: made without a warning, its links lead somewhere, it can be read and searched."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from html.parser import HTMLParser
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urljoin, urlsplit

import pytest
from playwright.sync_api import expect

import pipeline
from pipeline.settings import Settings
from tests.browser import browsing, tab

ROOT = Path(__file__).parents[2]
HOME = "http://127.0.0.1/"


class Links(HTMLParser):
    """The anchors of a page, what it links to, and what a browser loads for it."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.anchors: set[str] = set()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.anchors |= {given.get("id", ""), given.get("name", "") if tag == "a" else ""}
        if tag == "a" and "href" in given:
            self.links.append(given["href"])
        elif tag == "link" and given.get("rel") == "stylesheet":
            self.loaded.append(given["href"])
        elif tag in ("script", "img", "iframe") and "src" in given:
            self.loaded.append(given["src"])


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, as `make docs` makes it, in a directory of its own."""
    place = tmp_path_factory.mktemp("site")
    command = ["-m", "mkdocs", "build", "--strict", "--config-file", "config/mkdocs.yml", "--site-dir", str(place)]
    done = subprocess.run(
        [sys.executable, *command], cwd=ROOT, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"}, capture_output=True,
        text=True, timeout=300, check=False, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return place


@pytest.fixture
def address(site: Path) -> Iterator[str]:
    """Serve the site's files."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(site))) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_every_link_and_anchor_leads_somewhere_and_nothing_comes_from_another_host(site: Path) -> None:
    pages = {str(path.relative_to(site)): Links(path.read_text()) for path in site.rglob("*.html")}
    del pages["404.html"]  # which is shown at any address, and so has absolute links
    wrong = []
    for name, page in pages.items():
        for link in [*page.links, *page.loaded]:
            url = urlsplit(urljoin(f"{HOME}{name}", link))
            path = unquote(url.path).removeprefix("/") or "index.html"
            if url.netloc == urlsplit(HOME).netloc:
                lost = url.fragment and path in pages and unquote(url.fragment) not in pages[path].anchors
                wrong += [(name, link)] if lost or not (site / path).is_file() else []
            elif link in page.loaded or url.scheme not in ("https", "mailto"):
                wrong.append((name, link))
    assert wrong == []
    styles = "".join(path.read_text() for path in site.rglob("*.css"))
    assert re.findall(r"(?:@import|url\()\s*[\"']?(?:https?:)?//[^)\"']*", styles) == []


def test_every_document_public_name_setting_and_command_is_on_the_site(site: Path) -> None:
    home = Links((site / "index.html").read_text())
    documents = {path.stem for path in (ROOT / "docs").glob("*.md")} | {"contributing", "changelog"}
    assert {f"{name}.html" for name in documents} <= {link.partition("#")[0] for link in home.links}
    api = Links((site / "api" / "pipeline.html").read_text()).anchors
    assert {f"pipeline.{name}" for name in pipeline.__all__ if not name.startswith("__")} <= api
    assert {"pipeline.Pipeline.publish", "pipeline.Pipeline.trace", "pipeline.Context.step"} <= api
    assert "pipeline.families.TaskCreated" in Links((site / "api" / "families.html").read_text()).anchors
    assert "pipeline.testing.Simulation" in Links((site / "api" / "testing.html").read_text()).anchors
    assert "pipeline.http.front" in Links((site / "api" / "http.html").read_text()).anchors
    assert "pipeline.filters.JsonPath" in Links((site / "api" / "filters.html").read_text()).anchors
    commands = (site / "api" / "commands.html").read_text()
    assert {"pipeline-publish", "pipeline-dead-requeue"} <= Links(commands).anchors
    assert "pipeline dead requeue 01980c5e 01980c61" in commands
    settings = (site / "settings.html").read_text()
    assert [name for name in Settings.model_fields if f"<code>{name}</code>" not in settings] == []


def test_what_is_there_for_language_models_leads_to_markdown_beside_the_pages(site: Path) -> None:
    listed = re.findall(r"\]\((\S+)\)", (site / "llms.txt").read_text())
    assert len(listed) > 40
    assert [name for name in listed if not (site / name).is_file()] == []
    whole = (site / "llms-full.txt").read_text()
    for path in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]:
        assert path.read_text() in whole, path.name


@pytest.mark.parametrize("width", [1300, 390])
def test_it_can_be_read_and_searched_in_a_browser(address: str, width: int) -> None:
    with browsing() as browser, tab(browser, viewport={"width": width, "height": 844}) as page:
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        for path in ("index.html", "settings.html", "api/pipeline.html", "api/commands.html", "http.html"):
            page.goto(f"{address}/{path}")
            assert page.evaluate("document.documentElement.scrollWidth") <= width, path
        assert page.locator("img").evaluate_all("all => all.every(one => one.naturalWidth > 0)")
        page.goto(f"{address}/index.html")
        if width < 1000:
            page.locator("label[for=__search]").first.click()
        page.get_by_role("textbox", name="Search").press_sequentially("visibility timeout")
        expect(page.locator(".md-search-result__link").first).to_be_visible(timeout=60_000)  # the index comes first
        assert [url for url in asked if not url.startswith(address)] == []
