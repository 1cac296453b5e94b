"""Which nodes are about to leave the cluster: asked once for a submission, told to its trials by a file."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from orchestrator.backends.ray.manifest import Manifest
from trainers.rundir import atomic


def path_of(manifest: Manifest) -> Path:
    """Where the names of the nodes stand, once there are any."""
    return manifest.folder / "draining.json"


def read(manifest: Manifest) -> frozenset[str]:
    """Ray's names of the nodes that are to leave."""
    return frozenset(atomic.read_json(path_of(manifest)) or ())


def write(manifest: Manifest, nodes: Collection[str]) -> None:
    """Tell the trials.

    Raises:
        OSError: the workspace cannot be written.
    """
    atomic.write_json(path_of(manifest), sorted(nodes))


def ask() -> frozenset[str]:
    """Ray's names of the nodes that are to leave; none where this Ray cannot tell."""
    # Ray has no public question for it. Its own libraries ask in this way.
    from ray._private import state

    ask_ray = getattr(state.state, "get_draining_nodes", None)
    return frozenset() if ask_ray is None else frozenset(ask_ray())
