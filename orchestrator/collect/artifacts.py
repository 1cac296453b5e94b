"""Which files of a run directory become artifacts of its MLflow run."""

from __future__ import annotations

import hashlib
import json
import os
import socket
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from orchestrator.collect.payload import fingerprint
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
        linked: in place of the file, which need not exist, upload where these files are, with sizes and digests.
    """

    path: Path
    folder: str
    max_bytes: int | None
    stamp: str
    linked: tuple[Path, ...] = ()

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
    wanted += _checkpoints(run)
    return [artifact for artifact in wanted if artifact is not None]


def link_text(paths: Sequence[Path]) -> str:
    """Where files are, as JSON: path, size in bytes and SHA-256 of each. Reads them whole."""
    found = []
    for path in paths:
        with open(path, "rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        found.append({"path": str(path), "size": path.stat().st_size, "sha256": digest})
    return json.dumps({"host": socket.gethostname(), "files": found}, indent=2) + "\n"


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


def _checkpoints(run: RunView) -> list[Artifact | None]:
    """What ``tracking.checkpoints`` wants of a run as it stands. Full checkpoints come when the run is completed."""
    policy, run_dir = run.tracking.checkpoints, run.run_dir
    if policy == "none":
        return []
    full = run_dir.checkpoint_dirs() if run.state is RunState.COMPLETED else []
    encoders = _kept_encoders(run_dir)
    if not run.state.is_terminal:
        encoders.pop(run_dir.best_encoder_path, None)  # there may be a better one yet
    if policy == "link":
        files = (*_files(full[:1]), *encoders, run_dir.encoder_path)
        return [_link(run_dir, tuple(path for path in files if path.exists()))] if full else []
    if policy != "all":
        full = full[:1]
        every = int(policy.removeprefix("every:")) if policy.startswith("every:") else None
        encoders = {
            path: epoch
            for path, epoch in encoders.items()
            if (policy.startswith("best:") if epoch is None else every is not None and epoch % every == 0)
        }
    return [
        *(_artifact(path, f"checkpoint/{path.parent.name}") for path in _files(full)),
        *(_artifact(path, "checkpoint") for path in encoders),
    ]


def _link(run_dir: RunDir, paths: tuple[Path, ...]) -> Artifact:
    stamp = fingerprint(repr([(str(path), file_stamp(path)) for path in paths]).encode())
    return Artifact(run_dir.checkpoints_dir / "link.json", "checkpoint", None, stamp, paths)


def _kept_encoders(run_dir: RunDir) -> dict[Path, int | None]:
    """Encoders that were kept on the way -> their epoch; None for the best one."""
    found: dict[Path, int | None] = {}
    for path in run_dir.checkpoints_dir.glob("encoder_epoch_*.safetensors"):
        epoch = path.stem.removeprefix("encoder_epoch_")
        if epoch.isdigit():
            found[path] = int(epoch)
    ordered: dict[Path, int | None] = dict(sorted(found.items(), key=lambda item: item[1] or 0))
    return {**ordered, run_dir.best_encoder_path: None}


def _files(folders: Sequence[Path]) -> list[Path]:
    """Files of checkpoints, as their manifests and folders list them."""
    return sorted(path for folder in folders for path in folder.iterdir() if path.is_file())
