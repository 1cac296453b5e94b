"""What a command says while it works."""

from __future__ import annotations

import sys


def report(text: str) -> None:
    """Say what happens; standard output belongs to what a shell evaluates."""
    sys.stderr.write(f"dev-cluster: {text}\n")
