"""How far a reader, and an event, has to go from publish() to the recorded outcome."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

#: Files that a reader must understand, and moves of one delivery between files (benchmarks/way.py says what counts).
MOST_FILES, MOST_MOVES = 9, 101


def test_the_way_of_one_event_goes_through_few_files_and_seldom_back_and_forth() -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PIPELINE_")}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "benchmarks.way", "--json"],
        cwd=Path(__file__).parents[2], env=environment, capture_output=True, text=True, timeout=120, check=False,
        stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert {"delivery/consumer.py", "delivery/short/way.py", "ledger/ledger.py"} <= set(found["understood"])
    assert len(found["understood"]) <= MOST_FILES
    assert 0 < found["moves"]["delivery"] <= MOST_MOVES
