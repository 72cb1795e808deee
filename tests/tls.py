"""Certificates for the tests."""

from __future__ import annotations

import subprocess
from pathlib import Path


def certificate(directory: Path, name: str) -> Path:
    """Make a certificate that is signed by itself, for a host of that name; its key lies beside it."""
    path = directory / f"{name}.crt"
    subprocess.run(
        [
            "openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", f"/CN={name}",
            "-addext", f"subjectAltName=DNS:{name}", "-out", str(path), "-keyout", str(path.with_suffix(".key")),
        ],
        check=True, capture_output=True,
    )  # fmt: skip
    return path
