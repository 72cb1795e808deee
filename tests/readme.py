"""The README's example, as it stands there."""

from __future__ import annotations

import re
from pathlib import Path

README = (Path(__file__).parents[1] / "README.md").read_text()


def blocks(language: str, under: str) -> list[str]:
    """Return the code blocks of a language under a heading of the README."""
    section = README.split(f"\n## {under}\n")[1].split("\n## ")[0]
    return re.findall(rf"^```{language}\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)


(SHOP,) = blocks("python", "An example")
