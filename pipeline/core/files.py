"""Files that are for their owner only, and what tells one from another of the same name."""

from __future__ import annotations

import os
from pathlib import Path


def make_private(path: Path) -> None:
    """Create a database's file, for its owner only, and its directory, where they are missing."""
    make_directory(path.parent)
    if not path.exists():
        # Nobody in this process has it open yet, so closing it drops no lock.
        os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))


def make_directory(path: Path) -> None:
    """Create a directory, for its owner only, and those around it, where they are missing."""
    path.mkdir(mode=0o700, parents=True, exist_ok=True)


def file_id(path: Path) -> tuple[int, int] | None:
    """Return what tells a file from another one of the same name; None when there is none."""
    try:
        status = os.stat(path)
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino
