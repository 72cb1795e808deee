"""The steps of a saga as a terminal shows them: what was done from left to right, and below it what was undone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

NOT_BEGUN = "not begun"
#: Characters between two columns: an arrow has room there.
GAP = 7


@dataclass(frozen=True)
class Seen:
    """A step with what has become of it.

    Attributes:
        undo: the agent that undoes it; empty for none.
        undone: what has become of that; None while it has not begun.
        ended, undone_at: when (microseconds).
        says: what it has come to, or why it has failed.

    """

    name: str
    outcome: str = NOT_BEGUN
    ended: int = 0
    says: str = ""
    undo: str = ""
    undone: str | None = None
    undone_at: int = 0

    def as_data(self) -> dict[str, Any]:
        """Return it as JSON data."""
        return {"step": self.name, "outcome": self.outcome, "undo": self.undo or None, "undone": self.undone}


def steps_of(flow: Any) -> list[Seen]:
    """Return the steps of a saga that `app.flows.show()` has found: what undoes a step stands behind all of them."""
    nodes = flow.definition["nodes"]
    begun = {step.pos: step for step in flow.steps}
    found = []
    for pos, node in enumerate(nodes):
        done, undone = begun.get(pos), begun.get(pos + len(nodes))
        found.append(
            Seen(
                name=node["name"],
                outcome=done.outcome.value if done else NOT_BEGUN,
                ended=(done.ended or 0) if done else 0,
                says=(done.error or done.result or "") if done else "",
                undo=node["undo"] or "",
                undone=undone.outcome.value if undone else None,
                undone_at=(undone.ended or 0) if undone else 0,
            )
        )
    return found


def drawn(steps: Sequence[Seen]) -> str:
    """Return the picture, of two lines, or of four when something was undone."""
    width = max(len(text) for one in steps for text in (one.name, one.outcome, one.undo, one.undone or "")) + GAP
    begun = [one.outcome != NOT_BEGUN for one in steps]
    rows = [
        [_arrow(one.name, ">" if after else "", width) for one, after in zip(steps, [*begun[1:], False], strict=True)],
        [one.outcome.ljust(width) for one in steps],
    ]
    if undone := [pos for pos, one in enumerate(steps) if one.undone]:
        columns = steps[: undone[-1] + 1]
        names = [_arrow(one.undo, "<", width) if one.undone else " " * width for one in columns]
        names[-1] = names[-1].rstrip() + "-'"  # the arrow comes from the step that has failed
        rows += [names, [(one.undone or "").ljust(width) for one in columns]]
    return "\n".join("".join(row).rstrip() for row in rows)


def _arrow(name: str, head: str, width: int) -> str:
    """Return a name that fills a column, with an arrow behind it to the right, to the left, or none."""
    room = width - len(name) - 2
    line = {">": "-" * (room - 1) + ">", "<": "<" + "-" * (room - 1), "": " " * room}[head]
    return f"{name} {line} "
