"""The workspace: one folder, on storage that all nodes share, with everything that belongs to a user's experiments."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.errors import EnvironmentProblem, OrchestratorError
from trainers.rundir import RunDir

#: Environment variable that names the workspace where `--workspace` does not.
WORKSPACE_VARIABLE = "SWEEP_WORKSPACE"
DEFAULT_WORKSPACE = "sweeps"


@dataclass(frozen=True)
class Workspace:
    """Names of everything below one absolute folder."""

    path: Path

    @property
    def ledger_path(self) -> Path:
        return self.path / "ledger.db"

    @property
    def runs_dir(self) -> Path:
        return self.path / "runs"

    @property
    def cache_dir(self) -> Path:
        """Decoded images, shared by all runs (the trainer finds it as the neighbour of its run's parent)."""
        return self.path / "cache"

    @property
    def collect_lock_path(self) -> Path:
        """Held by the one process that collects from this workspace."""
        return self.path / "collect.lock"

    def run_dir(self, run_id: str) -> RunDir:
        return RunDir(self.runs_dir / run_id)

    def source_diff_path(self, sha256: str) -> Path:
        """How the source of a submission differs from its commit; the folders of its runs share the file."""
        return self.path / "sources" / f"{sha256}.diff"

    def source_diff_of(self, provenance: Mapping[str, Any]) -> Path | None:
        """That file, for runs of this provenance; None where there was no difference."""
        recorded = provenance.get("source_diff")
        path = None if recorded is None else self.source_diff_path(recorded["sha256"])
        return path if path is not None and path.exists() else None

    def report_dir(self, experiment: str) -> Path:
        return self.path / "reports" / experiment

    def controller_log_path(self, experiment: str) -> Path:
        """What a controller in the background prints."""
        return self.path / "controllers" / f"{experiment}.log"


def find_workspace(option: str | None) -> Workspace:
    """The workspace that the option, else the environment, else the current folder names. Not created yet."""
    return Workspace(Path(option or os.environ.get(WORKSPACE_VARIABLE) or DEFAULT_WORKSPACE).expanduser().absolute())


@contextmanager
def trial_workspace(workspace: Workspace) -> Iterator[None]:
    """The workspace, created if need be, for checks that may end in an error: then nothing new is left behind."""
    is_new = not workspace.path.exists()
    prepare_workspace(workspace)
    try:
        yield
    except OrchestratorError:
        if is_new:
            shutil.rmtree(workspace.path)
        raise


def prepare_workspace(workspace: Workspace) -> None:
    """Create the workspace's folders and prove that files can be written there.

    Raises:
        EnvironmentProblem: it cannot be created or written, or its disk is full.
    """
    try:
        workspace.runs_dir.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=workspace.path) as probe:
            probe.write(b"\0" * 65536)
            probe.flush()
            os.fsync(probe.fileno())
    except OSError as error:
        raise EnvironmentProblem(
            f"workspace {workspace.path} cannot be written: {error.strerror or error}; "
            "free space, mend its permissions, or name another folder with --workspace"
        ) from error
