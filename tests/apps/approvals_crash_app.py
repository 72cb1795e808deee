"""The agents of approvals_app in processes that kill themselves around each answer, once for each, and each place."""

from __future__ import annotations

import os
import signal
from typing import Any

from approvals_app import app  # type: ignore[import-not-found]
from contract_app import once  # type: ignore[import-not-found]

from pipeline.agents.pausing.ask import Ask
from pipeline.ledger.waiting.steps import Place, Steps

__all__ = ["app"]

_answer, _keep = Ask.answer, Steps.keep


def die(mark: str) -> None:
    """End this process as `kill -9` does, the first time that anybody asks for the mark."""
    if once(mark):
        os.kill(os.getpid(), signal.SIGKILL)


def answer(self: Ask, ledger: Any, id: str, *, is_new: bool) -> tuple[int, str] | None:
    found = _answer(self, ledger, id, is_new=is_new)
    if found is not None:
        die(f"answered-{id}")
    return found


def keep(self: Steps, delivery: str, place: Place, started: int, result: str) -> str:
    kept = _keep(self, delivery, place, started, result)
    if place[0].startswith("ask "):
        die(f"kept-{delivery}")
    return kept


Ask.answer = answer  # type: ignore[method-assign]
Steps.keep = keep  # type: ignore[method-assign]
