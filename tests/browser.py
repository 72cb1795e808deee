"""A real browser, as the distribution has it, and what it has to say of a page."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import axe_playwright_python
import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

AXE = (Path(axe_playwright_python.__file__).parent / "axe.min.js").read_text()
NAMES = ("chromium", "chromium-browser", "google-chrome")


@contextmanager
def browsing() -> Iterator[Browser]:
    """Start the browser; where there is none the test is skipped, or fails if TESTS_REQUIRE names `chromium`."""
    path = next(filter(None, map(shutil.which, NAMES)), None)
    if path is None:
        say = "no Chromium is installed; `make setup-servers` installs one"
        if "chromium" in os.environ.get("TESTS_REQUIRE", "").split(","):
            pytest.fail(say)
        pytest.skip(say)
    expect.set_options(timeout=30_000)  # milliseconds, in which something comes on a machine that is busy
    # What runs as root, as in containers, has no sandbox of the browser's own.
    arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=arguments)
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def tab(browser: Browser, **options: Any) -> Iterator[Page]:
    """Open a page, on which nothing may go wrong: no error of a script, nothing that its policy forbids."""
    wrong: list[str] = []
    context = browser.new_context(**options)
    page = context.new_page()
    page.on("console", lambda said: wrong.append(said.text) if said.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: wrong.append(str(error)))
    try:
        yield page
        assert wrong == []
    finally:
        context.close()


def violations(page: Page) -> list[str]:
    """Return what axe finds that keeps somebody from using a page."""
    page.evaluate(AXE)
    found = page.evaluate("axe.run()")["violations"]
    return [f"{one['id']}: {one['help']}: {one['nodes'][0]['html'][:200]}" for one in found]
