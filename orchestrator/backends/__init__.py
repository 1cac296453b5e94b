"""Backends by name. Each module is imported on first use only: Ray alone takes seconds."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from orchestrator.errors import InputError

if TYPE_CHECKING:
    # Jobs import modules below this package, and must not pay for what the controller needs.
    from orchestrator.backends.base import Backend
    from orchestrator.workspace import Workspace

#: Backend name -> module with a function ``create(workspace) -> Backend``.
BACKENDS = {
    "local": "orchestrator.backends.local",
    "slurm": "orchestrator.backends.slurm.backend",
    "ray": "orchestrator.backends.ray.backend",
}


def create_backend(name: str, workspace: Workspace) -> Backend:
    """The backend of that name, for the runs of a workspace.

    Raises:
        InputError: no backend has this name.
    """
    if name not in BACKENDS:
        raise InputError(f"backend {name!r} is not available here; available: {', '.join(BACKENDS)}")
    backend: Backend = import_module(BACKENDS[name]).create(workspace)
    return backend
