"""Many simulations: `python -m tests.seeds 1000 500` runs the 500 seeds from 1000 on, in processes side by side.

It says how far it is, and at the end which seeds have failed, each with the shorter run that fails, too.
"""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from queue import SimpleQueue
from threading import Thread
from time import monotonic

from pipeline.testing import SimulationFailed
from tests.simulated import simulate

ROOT = Path(__file__).parents[1]
#: Seconds between two lines about how far it is.
TOLD = 15.0
Ended = tuple[int, str | None]


def one_by_one(seeds: Iterable[int]) -> Iterator[Ended]:
    """Run seeds; yield each with what it has failed with, if it has."""
    for seed in seeds:
        try:
            simulate(seed)
        except SimulationFailed as exc:
            yield seed, str(exc)
        except Exception as exc:  # a fault of its own, whatever it is
            yield seed, f"seed {seed}: {exc!r}"
        else:
            yield seed, None


def side_by_side(first: int, number: int, say: Callable[[str], object], processes: int = 0) -> list[str]:
    """Run so many seeds in so many processes (default as many as there are processors); return what has failed."""
    processes = min(processes or os.cpu_count() or 1, number)
    ended: SimpleQueue[Ended | int] = SimpleQueue()
    running = [_begun(first + each, first + number, processes) for each in range(processes)]
    for one in running:
        Thread(target=_hear, args=(one, ended), daemon=True).start()
    done, left, failures = 0, processes, list[str]()
    since = told = monotonic()
    try:
        while left:
            match ended.get():
                case (_, failure):
                    done += 1
                    failures += [] if failure is None else [failure]
                case code:
                    left -= 1
                    failures += [f"a process has ended with {code}"] if code else []
            if monotonic() - told > TOLD or not left:
                told = monotonic()
                say(f"{done:,} of {number:,} seeds, {done / (told - since):.1f} a second; failed: {len(failures)}")
    finally:
        for one in running:
            one.kill()
            one.wait()
    return failures


def _begun(first: int, end: int, step: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.seeds", "--these", str(first), str(end), str(step)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)


def _hear(process: subprocess.Popen[str], ended: SimpleQueue[Ended | int]) -> None:
    assert process.stdout is not None
    with process.stdout:
        for line in process.stdout:
            seed, failure = json.loads(line)
            ended.put((seed, failure))
    ended.put(process.wait())


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def main(arguments: list[str]) -> int:
    """Run what the command line says."""
    if arguments[:1] == ["--these"]:
        logging.disable(logging.CRITICAL)
        for one in one_by_one(range(*map(int, arguments[1:]))):
            _say(json.dumps(one))
        return 0
    first, number, processes = (*map(int, arguments), *(0, 100, 0)[len(arguments) :])
    failures = side_by_side(first, number, _say, processes)
    _say("\n\n".join(failures))
    return len(failures) > 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
