"""`pipeline demo orders`, as a user runs it: a worker is killed while it takes money, and the books are right."""

from __future__ import annotations

import json
import signal
import sqlite3
import subprocess
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.demos import demo, interrupted

pytestmark = pytest.mark.usefixtures("nothing_is_left")

STEPS = ["create", "reserve", "pay", "complete"]


def books(directory: Path) -> dict[str, list[str]]:
    """Return what the services have really done for each order, in that order."""
    found: dict[str, list[str]] = {}
    file = sqlite3.connect(directory / "orders" / "services.db")
    try:
        for order, what in file.execute("SELECT order_id, what FROM answers WHERE done ORDER BY number"):
            found.setdefault(order, []).append(what)
    finally:
        file.close()
    return found


def test_nothing_is_done_twice_or_forgotten_though_a_worker_is_killed_while_it_takes_money(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    # As somebody has it who uses the bus already: it may not be asked.
    environment |= {"PIPELINE_LEDGER_URL": "postgresql://nobody@127.0.0.1:1/none", "ORDERS_STATE": "/nowhere"}
    found = demo("orders", "--json", "--directory", "here", environment=environment)
    assert (found.returncode, found.stderr) == (0, "")
    told = json.loads(found.stdout)
    done = books(tmp_path / "here")

    # Most orders are delivered, one is not paid, and one cannot be delivered: what was done for it is undone backwards.
    assert [done[order["order_id"]] for order in told["orders"]] == [
        STEPS, STEPS, STEPS, STEPS,
        ["create", "reserve", "release", "cancel"],
        ["create", "reserve", "pay", "refund", "release", "cancel"],
        STEPS, STEPS,
    ]  # fmt: skip
    assert Counter(order["status"] for order in told["orders"]) == {"completed": 6, "compensated": 2}
    assert "the payment with expired card is declined" in told["orders"][4]["reason"]

    # What it says of the books is what they say.
    assert set(told["delivered"]) == {order for order, whats in done.items() if whats == STEPS}
    assert (told["twice"], told["forgotten"], told["backwards"], told["contradicted"]) == ([], [], [], [])
    assert told["effects"] == sum(len(whats) for whats in done.values()) == 34
    assert all(one["before"] - one["now"] == one["sold"] > 0 for one in told["stock"].values())

    # The worker was killed when the money was taken: it was asked for again, and not taken again.
    assert not Path(f"/proc/{told['killed']}").exists()
    assert told["in_hand"] >= 1
    (held,) = (order for order in told["orders"] if order["order_id"] == told["held"])
    assert [effect["asked"] for effect in held["effects"] if effect["what"] == "pay"] == [2]
    # One order was placed twice, and there is one saga of it.
    assert (told["published"], len({order["flow"] for order in told["orders"]})) == (9, 8)

    # The commands that it ends with say the same.
    listed, shown, cut_off, dead = (
        subprocess.run(line, shell=True, capture_output=True, text=True, env=environment, timeout=60, check=True).stdout
        for line in told["try"]
    )
    assert (listed.count(" completed "), listed.count(" compensated ")) == (6, 2)
    assert "nobody delivers to Atlantis" in shown
    assert "T-" in cut_off
    assert "Refused: the payment with expired card is declined" in dead

    # Another run in the same directory keeps to its own orders, and the warehouse has what was left.
    again = json.loads(demo("orders", "--json", "--directory", "here", environment=environment).stdout)
    assert (again["effects"], again["twice"], again["forgotten"]) == (34, [], [])
    assert not {order["order_id"] for order in again["orders"]} & done.keys()


def test_it_tells_each_step_as_it_comes_and_draws_what_was_undone(environment: dict[str, str]) -> None:
    found = demo("orders", environment=environment)
    assert (found.returncode, found.stderr) == (0, "")
    told = found.stdout
    # Other orders may be complete before the worker is killed; the one that was held is complete only after that.
    order = [told.index(word) for word in (" create    done", "KILLED:", "AGAIN:")]
    order += [told.rindex(" complete  done"), *(told.index(word) for word in ("DONE:", "DONE TWICE: nothing."))]
    assert order == sorted(order)
    # One line for each step that was done, refused or undone.
    lines = [line.split() for line in told.splitlines() if " s   " in line]
    assert Counter(words[3] for words in lines) == {
        "create": 8, "reserve": 8, "pay": 8, "complete": 7, "refund": 1, "release": 2, "cancel": 2,
    }  # fmt: skip
    assert "FORGOTTEN: nothing." in told
    # The picture, for the terminal and for Mermaid.
    assert "\n  create -------> reserve ------> pay ----------> complete\n" in told
    assert "\n  cancel <------- release <------ refund <--------'\n" in told
    assert "  flowchart LR\n" in told
    assert all(f"s{pos} -. undone by .-> s{pos + 4}\n" in told for pos in range(3))


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_demo_that_is_interrupted_stops_its_worker(
    tmp_path: Path, environment: dict[str, str], number: signal.Signals, code: int
) -> None:
    how: Any = {"said": " create    done", "number": number, "directory": tmp_path, "environment": environment}
    ended, told, errors = interrupted("orders", **how)
    assert (ended, errors) == (code, "")
    assert "DONE" not in told
