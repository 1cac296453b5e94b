"""Whether a run has changed since it was collected, from names and stamps alone: no file is opened for it."""

from __future__ import annotations

import time
from pathlib import Path

from orchestrator.collect import payload
from orchestrator.collect.artifacts import file_stamp, run_artifacts
from orchestrator.runs import RunView

#: A stamp younger than this proves nothing: clocks of file systems are coarse, and whoever wrote may not be through.
_SETTLES_S = 10.0


def glance(run: RunView) -> str:
    """Fingerprint of half a dozen stamps; empty while one of them is too young to be trusted.

    Every file of a run but its metrics and logs is put in place whole, which moves the time of its folder. Logs end
    before the folder of their attempt settles.
    """
    run_dir = run.run_dir
    paths = (
        run_dir.path,
        run_dir.metrics_path,
        run_dir.checkpoints_dir,
        run_dir.attempts_dir,
        run_dir.attempt_dir(run.attempts),
    )
    stamps = [_stamp(path) for path in paths]
    newest_ns = max((changed_ns for _, changed_ns in stamps), default=0)
    if time.time() - newest_ns / 1e9 < _SETTLES_S:
        return ""
    return payload.fingerprint(repr((_ledger(run), stamps)).encode())


def appearance(run: RunView) -> str:
    """Fingerprint of everything that a collection of this run would look at."""
    run_dir = run.run_dir
    paths = [run_dir.spec_path, run_dir.dataset_path, run_dir.metrics_path, run_dir.result_path, run_dir.encoder_path]
    stamps = [file_stamp(path) for path in paths]
    artifacts = [(artifact.name, artifact.stamp) for artifact in run_artifacts(run)]
    checkpoints = [path.name for path in run_dir.checkpoint_dirs()]
    return payload.fingerprint(repr((_ledger(run), stamps, artifacts, checkpoints)).encode())


def _ledger(run: RunView) -> tuple[object, ...]:
    return run.state, run.reason, run.backend, run.job_id, run.attempts, run.name, run.tracking


def _stamp(path: Path) -> tuple[int, int]:
    try:
        status = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return 0, 0
    return status.st_size, status.st_mtime_ns
