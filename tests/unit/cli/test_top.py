"""The command that watches agents."""

from __future__ import annotations

import os
import pty
import re
import signal
import subprocess
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest

from pipeline.history import traffic
from pipeline.history.traffic import throughput
from tests.commands import Shop
from tests.records import age, die, order, succeed
from tests.servers import wait_for

pytestmark = pytest.mark.usefixtures("empty_directory")

Run = Callable[..., Any]


def agent(shop: Shop, name: str) -> dict[str, Any]:
    return next(row for row in shop.json("top", "--once")["agents"] if row["agent"] == name)


def test_agents_are_shown_with_what_is_dead_and_how_much_is_done(shop: Shop) -> None:
    placed = [shop.app.publish(order(n)) for n in range(7)]
    for event in placed[:6]:
        succeed(shop.app, event, "billing")
    die(shop.app, placed[6])
    shop.app.pause("stock", reason="a new disk")
    billing, stock = agent(shop, "billing"), agent(shop, "stock")
    assert (billing["done_per_second"], billing["dead"], billing["state"]) == (0.1, 1, "offline")
    assert (stock["done_per_second"], stock["dead"], stock["paused"]["reason"]) == (0.0, 0, "a new disk")
    totals = shop.json("top")["totals"]
    assert (totals["events"], totals["events_per_second"]) == (7, pytest.approx(7 / 60))
    heading, first, second, numbers, wrong = shop.out("top").splitlines()
    assert heading.split()[:5] == ["agent", "state", "waiting", "running", "done/s"]
    assert first.split()[:2] == ["billing", "offline"]
    assert second.endswith("a new disk")
    assert numbers.startswith("7 events, 0.1 a second; 0 workers; ")
    assert "1 dead letter; " in wrong
    assert "paused: stock" in wrong


def test_what_was_done_long_ago_does_not_count(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    placed = [shop.app.publish(order(n)) for n in range(4)]
    age(shop.app, placed[:2], 300 * 1_000_000)
    assert throughput(shop.app.ledger).events == pytest.approx(2 / 60)
    monkeypatch.setattr(traffic, "LOOKED_AT", 2)  # a busy log: of a shorter time it is known
    age(shop.app, placed[2:3], 9 * 1_000_000)
    assert throughput(shop.app.ledger).events == pytest.approx(1 / 9, rel=0.5)


def test_without_a_ledger_there_is_nothing_to_watch(run: Run) -> None:
    result = run("--ledger-url", "", "top")
    assert result.exit_code == 1
    assert "ledger" in result.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_on_a_terminal_it_goes_on_until_it_is_told_to_end_and_leaves_the_terminal_as_it_was(
    shop: Shop, number: int
) -> None:
    ours, theirs = pty.openpty()
    shown = bytearray()

    def saw(text: bytes) -> bool:
        os.set_blocking(ours, False)
        with suppress(BlockingIOError, OSError):  # nothing yet, and nobody there any more
            while piece := os.read(ours, 65536):
                shown.extend(piece)
        return text in shown

    environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "160", "LINES": "40"}
    command = shop.command("top", "--every", "0.2")
    with subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment) as running:
        os.close(theirs)
        try:
            wait_for(lambda: saw(b"billing"), "the agents")
            die(shop.app, shop.app.publish(order()))
            wait_for(lambda: saw(b"1 dead letter"), "what is wrong")
            running.send_signal(number)
            assert running.wait(30) == 130
        finally:
            running.kill()
    saw(b"")
    os.close(ours)
    screens = re.findall(rb"\x1b\[\?1049[hl]|\x1b\[\?25[hl]", bytes(shown))
    assert screens[0] == b"\x1b[?1049h"
    assert set(screens[-2:]) == {b"\x1b[?1049l", b"\x1b[?25h"}
    assert b"Traceback" not in shown
