"""Where this program's own modules lie, for processes that begin elsewhere."""

from __future__ import annotations

import os
from pathlib import Path

import orchestrator


def source_root() -> Path | None:
    """The source checkout that this program runs from; None where it is installed and found without help."""
    root = Path(orchestrator.__file__).resolve().parents[1]
    return None if root.name in ("site-packages", "dist-packages") else root


def python_path(inherited: str | None) -> str:
    """The value of PYTHONPATH by which the same modules are found; empty if it needs none."""
    root = source_root()
    return os.pathsep.join([*([str(root)] if root is not None else []), *([inherited] if inherited else [])])
