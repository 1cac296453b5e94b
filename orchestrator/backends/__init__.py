"""Backends by name. Each module is imported on first use only: Ray alone takes seconds."""

from __future__ import annotations

from importlib import import_module

from orchestrator.backends.base import Backend
from orchestrator.errors import InputError

#: Backend name -> module with a function ``create() -> Backend``.
BACKENDS = {"local": "orchestrator.backends.local"}


def create_backend(name: str) -> Backend:
    """The backend of that name.

    Raises:
        InputError: no backend has this name.
    """
    if name not in BACKENDS:
        raise InputError(f"backend {name!r} is not available here; available: {', '.join(BACKENDS)}")
    backend: Backend = import_module(BACKENDS[name]).create()
    return backend
