"""What a crew has paid for: by the ledger, where each call is a step, and by what the provider has counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import orjson
from pydantic_ai.messages import ModelMessagesTypeAdapter, ModelResponse

from pipeline import Pipeline
from pipeline.pydantic_ai import price

from .model import STEP
from .provider import Provider


@dataclass(frozen=True)
class Line:
    """A call of a model, as the ledger keeps it.

    Attributes:
        number: which call of its delivery it is, from 1 on.
        cost: in millionths.
        answered: how often the provider has answered it; None of a real one, whose count is your bill.

    """

    agent: str
    delivery: str
    number: int
    tokens: int
    cost: int
    answered: int | None

    def as_data(self) -> dict[str, Any]:
        """Return the line as JSON data."""
        return {
            "agent": self.agent,
            "delivery": self.delivery,
            "call": self.number,
            "tokens": self.tokens,
            "cost": self.cost,
            "answered": self.answered,
        }


@dataclass(frozen=True)
class Bill:
    """All that was paid for.

    Attributes:
        lines: the calls that the ledger keeps, as they were begun.
        answered: how often the provider has answered each call, by its key; None of a real one.
        refused, cut_off: the calls that it has refused (429), and whose worker was killed before it answered.
        budget: what counts as spent for the whole tree of work: tokens, and millionths.
        limit: what may be spent, likewise.

    """

    lines: Sequence[Line]
    answered: Counter[str] | None
    refused: int
    cut_off: int
    budget: tuple[int, int]
    limit: tuple[int, int]

    @property
    def tokens(self) -> int:
        """All tokens."""
        return sum(line.tokens for line in self.lines)

    @property
    def cost(self) -> int:
        """All costs, in millionths."""
        return sum(line.cost for line in self.lines)

    @property
    def twice(self) -> int:
        """How many answers the provider is paid for beyond one for each call."""
        return 0 if self.answered is None else self.answered.total() - len(self.answered)

    @property
    def lost(self) -> int:
        """How many calls are paid for, and not kept in the ledger."""
        return 0 if self.answered is None else len(self.answered) - len(self.lines)

    def as_data(self) -> dict[str, Any]:
        """Return the bill as JSON data."""
        return {
            "calls": [line.as_data() for line in self.lines],
            "tokens": self.tokens,
            "cost": self.cost,
            "twice": self.twice,
            "lost": self.lost,
            "provider": None
            if self.answered is None
            else {"answered": self.answered.total(), "refused": self.refused, "cut_off": self.cut_off},
            "budget": {
                "used": dict(zip(("tokens", "cost"), self.budget, strict=True)),
                "limit": dict(zip(("tokens", "cost"), self.limit, strict=True)),
            },
        }


def calls(app: Pipeline, correlation: str) -> list[tuple[str, str, ModelResponse]]:
    """Return the calls that the ledger keeps, as they were begun: the agent, the delivery's id, the response."""
    kept = app.bus.ledger.waiting.steps
    found = [
        (step.started, delivery.agent, delivery.id, response)
        for event in app.trace(correlation)
        for delivery in event.deliveries
        if delivery.steps
        for step in kept.of(delivery.id)
        if step.name.endswith(STEP)
        for response in ModelMessagesTypeAdapter.validate_python(orjson.loads(step.result)[0])
        if isinstance(response, ModelResponse)
    ]
    return [(agent, delivery, answer) for _, agent, delivery, answer in sorted(found, key=lambda each: each[:3])]


def bill(app: Pipeline, correlation: str, provider: Provider | None) -> Bill:
    """Return what was paid for in one tree of work.

    Arguments:
        provider: the one that only pretends; None for a real one.

    """
    times = None if provider is None else provider.times
    numbers: Counter[str] = Counter()
    lines = []
    for agent, delivery, response in calls(app, correlation):
        numbers[delivery] += 1
        answered = None if times is None else times[f"{delivery}/{numbers[delivery]}"]
        lines.append(Line(agent, delivery, numbers[delivery], response.usage.total_tokens, price(response), answered))
    tree = app.budgets.of_tree(correlation)
    used, limit = (tree.used.numbers[:2], tree.limit.numbers[:2]) if tree else ((0, 0), (0, 0))
    refused, cut_off = (provider.refused, provider.cut_off) if provider else (0, 0)
    return Bill(lines, times, refused, cut_off, used, limit)
