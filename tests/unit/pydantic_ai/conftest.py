"""An agent that counts what its model was asked, and what its tools have done."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pydantic_ai import Agent


@pytest.fixture
def made() -> Counter[str]:
    """Count what the model was asked, and what the tools have done."""
    return Counter()


@pytest.fixture
def agent(made: Counter[str]) -> Agent[None, str]:
    def call(name: str) -> str:
        made[name] += 1
        return f"{name}ed"

    def heard(number: int, prompt: str) -> None:
        made[f"request {number}"] += 1

    from tests.llm import investigator

    return investigator(call, heard)
