"""Somebody who stops a tree, and is killed on the way: `python crash_canceller.py POINT EVENT`."""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

from stops_crash_app import app  # type: ignore[import-not-found]

from pipeline.ledger.bounding.trees import Trees

POINT, ID = sys.argv[1:]
_mark, _announce, _pass = Trees._mark, Trees._announce, Trees._pass
passes = 0


def die(point: str) -> None:
    if point == POINT:
        os.kill(os.getpid(), signal.SIGKILL)


def mark(self: Trees, *which: Any) -> bool:
    is_new = _mark(self, *which)
    die("marked")  # that it was stopped is written; nothing else is
    return is_new


def announce(self: Trees, *done: Any) -> None:
    _announce(self, *done)
    die("written")  # so is all the rest; nothing is committed


def one_pass(self: Trees, *about: Any, **how: Any) -> Any:
    found = _pass(self, *about, **how)
    global passes  # noqa: PLW0603
    passes += 1
    if passes > 1:  # the first one is committed by now
        die("committed")
    return found


Trees._mark, Trees._announce, Trees._pass = mark, announce, one_pass  # type: ignore[method-assign]
app.cancel(ID, tree=True, by="ada")
