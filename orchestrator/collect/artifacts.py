"""Which files of a run directory become artifacts of its MLflow run."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from orchestrator.runs import RunView
from orchestrator.state import RunState
from trainers.rundir import RunDir

#: Logs of this many attempts, and of each log this many bytes from its end, go to the store. The rest stays in the run
#: directory.
_LOGGED_ATTEMPTS = 3
MAX_LOG_BYTES = 256 * 1024


@dataclass(frozen=True)
class Artifact:
    """One file to upload.

    Attributes:
        path: the file.
        folder: its folder below the MLflow run's artifacts; empty for the top.
        max_bytes: upload only this much, from the end; None uploads all of it.
        stamp: changes whenever the file does.
    """

    path: Path
    folder: str
    max_bytes: int | None
    stamp: str

    @property
    def name(self) -> str:
        """Path below the MLflow run's artifacts."""
        return f"{self.folder}/{self.path.name}" if self.folder else self.path.name


def run_artifacts(run: RunView) -> list[Artifact]:
    """Everything to upload for a run as it stands, in the order of upload.

    Logs are left out while the run is working: they would be uploaded again with every line.
    """
    run_dir = run.run_dir
    wanted = [
        _artifact(run_dir.spec_path),
        _artifact(run_dir.source_diff_path),
        _artifact(run_dir.dataset_path),
        _artifact(run_dir.indices_path),
        _artifact(run_dir.result_path),
    ]
    if not run.state.is_active:
        wanted += [_artifact(path, f"logs/attempt_{number}", MAX_LOG_BYTES) for number, path in _logs(run_dir)]
    if run.state is RunState.COMPLETED:
        wanted += [_artifact(path, f"checkpoint/{path.parent.name}") for path in _final_checkpoint(run_dir)]
    return [artifact for artifact in wanted if artifact is not None]


def file_stamp(path: Path) -> str | None:
    """Size and time of change of a file, or None where there is no file. Reading the content is left for the upload."""
    try:
        status = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    return f"{status.st_size}:{status.st_mtime_ns}"


def tail(path: Path, max_bytes: int) -> bytes:
    """The last bytes of a file, from the start of a line on, below one line that says what was left out."""
    with open(path, "rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - max_bytes))
        data = file.read(max_bytes)
    if size <= max_bytes:
        return data
    kept = data[data.find(b"\n") + 1 :]
    return f"[the first {size - len(kept)} bytes of {path} are left out]\n".encode() + kept


def _artifact(path: Path, folder: str = "", max_bytes: int | None = None) -> Artifact | None:
    stamp = file_stamp(path)
    return None if stamp is None else Artifact(path, folder, max_bytes, stamp)


def _logs(run_dir: RunDir) -> Iterator[tuple[int, Path]]:
    for number in run_dir.attempt_numbers()[-_LOGGED_ATTEMPTS:]:
        folder = run_dir.attempt_dir(number)
        for path in [folder / "attempt.json", *sorted(folder.glob("*.log"))]:
            if path.exists() and path.stat().st_size:
                yield number, path


def _final_checkpoint(run_dir: RunDir) -> list[Path]:
    """Files of the newest checkpoint, as its manifest and folder list them."""
    newest = next(iter(run_dir.checkpoint_dirs()), None)
    return [] if newest is None else sorted(path for path in newest.iterdir() if path.is_file())
