"""Checkpoints: written so that a kill at any instant leaves a good one, read so that a bad one is never believed.

A checkpoint is a folder ``step_<n>`` with one file of plain tensors and numbers and a manifest of sizes and SHA-256.
It is built under another name, synced, renamed, and read back; only then the one before the last is removed.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO, cast

import safetensors.torch
import torch
from torch import Tensor

from trainers.rundir import Manifest, RunDir, atomic

logger = logging.getLogger(__name__)

_STATE_FILE = "state.pt"
_MANIFEST_FILE = "manifest.json"
_HASH_BLOCK = 1 << 20


class CheckpointError(Exception):
    """A checkpoint cannot be used or written; the message is one sentence for the user."""


class ForeignCheckpoint(CheckpointError):
    """The checkpoint belongs to another run."""


class Checkpoints:
    """The rolling checkpoints of one run. Rank 0 writes and judges; the others read what it has chosen.

    Args:
        run_dir: where they are.
        run_id: the run; checkpoints of another one are refused.
        attempt: noted in the manifests.
    """

    def __init__(self, run_dir: RunDir, run_id: str, attempt: int) -> None:
        self._run_dir = run_dir
        self._run_id = run_id
        self._attempt = attempt
        self._newest: Path | None = None  # the newest one that was verified

    def find(self) -> Manifest | None:
        """The newest checkpoint that is whole; every damaged one before it is named in the log. None if there is none.

        Raises:
            ForeignCheckpoint: it belongs to another run.
        """
        for folder in self._run_dir.checkpoint_dirs():
            manifest, damage = _verify(folder)
            if manifest is None:
                logger.warning("checkpoint %s is damaged (%s); going back to the one before it", folder, damage)
                continue
            if manifest.run_id != self._run_id:
                raise ForeignCheckpoint(
                    f"{folder} belongs to run {manifest.run_id}, and this is run {self._run_id}; "
                    f"remove {self._run_dir.checkpoints_dir} or restore the run's own"
                )
            self._newest = folder
            return manifest
        return None

    def read(self, step: int) -> dict[str, Any]:
        """The state that was saved at ``step``, on the CPU. Nothing in it can run code."""
        state: dict[str, Any] = torch.load(self._folder(step) / _STATE_FILE, map_location="cpu", weights_only=True)
        return state

    def save(self, state: Mapping[str, Any], *, step: int, epoch: float, metrics_offset: int) -> None:
        """Write a checkpoint, verify it, then remove all but it and the one before it.

        A checkpoint of the same step that is known to be whole is left as it is: the state is the same.

        Args:
            state: nested dicts and lists of tensors, numbers and strings.
            metrics_offset: durable length of the metrics file at this step, in bytes.

        Raises:
            CheckpointError: the disk is full or fails. The earlier checkpoints are untouched.
        """
        folder = self._folder(step)
        if folder == self._newest:
            return
        building = folder.with_name(f"{folder.name}.tmp")
        try:
            shutil.rmtree(building, ignore_errors=True)
            building.mkdir(parents=True)
            entry = _write_state(building / _STATE_FILE, state)
            manifest = Manifest(
                run_id=self._run_id,
                step=step,
                epoch=epoch,
                metrics_offset=metrics_offset,
                files={_STATE_FILE: entry},
                attempt=self._attempt,
                time=time.time(),
            )
            atomic.write_json(building / _MANIFEST_FILE, manifest.to_json())
            shutil.rmtree(folder, ignore_errors=True)  # a damaged one of the same step
            building.rename(folder)
            atomic.sync_folder(folder.parent)
        except OSError as error:
            shutil.rmtree(building, ignore_errors=True)
            raise CheckpointError(
                f"the checkpoint of step {step} cannot be written to {folder}: {error.strerror or error}; "
                "the one before it is untouched"
            ) from error
        _, damage = _verify(folder)
        if damage:
            raise CheckpointError(
                f"the checkpoint of step {step} reads back differently from what was written ({damage}); "
                f"the storage of {folder} cannot be trusted, and the checkpoint before it is kept"
            )
        self._remove_all_but(folder, self._newest)
        self._newest = folder

    def final_metrics_offset(self) -> int:
        """Length of the metrics file that readers may have relied on: the largest that any manifest names."""
        manifests = [_read_manifest(folder) for folder in self._run_dir.checkpoint_dirs()]
        return max((manifest.metrics_offset for manifest in manifests if manifest is not None), default=0)

    def _folder(self, step: int) -> Path:
        return self._run_dir.checkpoints_dir / f"step_{step}"

    def _remove_all_but(self, *kept: Path | None) -> None:
        for path in self._run_dir.checkpoints_dir.glob("step_*"):
            if path not in kept:
                shutil.rmtree(path, ignore_errors=True)


def write_encoder(
    path: Path,
    weights: Mapping[str, Tensor],
    *,
    run_id: str,
    network: str,
    step: int,
    more: Mapping[str, object] | None = None,
) -> None:
    """Write the weights of one network as safetensors, atomically. Equal weights of a run give equal bytes.

    Where they come from stands in the file's metadata, as JSON under ``origin``.

    Args:
        more: plain values that are added to the metadata.
    """
    # One entry only: the library writes several in an order that changes from one process to the next.
    origin = json.dumps({"run_id": run_id, "network": network, "step": step, **(more or {})})
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic.write_bytes(path, safetensors.torch.save(tensors, {"origin": origin}))


class _HashingFile:
    """A file that knows the digest of what was written to it, so that writing and hashing are one pass."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.digest = hashlib.sha256()
        self.size = 0

    def write(self, data: bytes) -> int:
        self.digest.update(data)
        self.size += len(data)
        return self._file.write(data)

    def flush(self) -> None:
        self._file.flush()


def _write_state(path: Path, state: Mapping[str, Any]) -> dict[str, Any]:
    """Write a state durably; its entry in the manifest."""
    with open(path, "wb") as file:
        hashing = _HashingFile(file)
        torch.save(dict(state), cast(BinaryIO, hashing))
        file.flush()
        os.fsync(file.fileno())
    return {"size": hashing.size, "sha256": hashing.digest.hexdigest()}


def _read_manifest(folder: Path) -> Manifest | None:
    try:
        value = atomic.read_json(folder / _MANIFEST_FILE)
        return None if value is None else Manifest.from_json(value)
    except (ValueError, TypeError, AttributeError):
        return None


def _verify(folder: Path) -> tuple[Manifest | None, str]:
    """The manifest of a checkpoint if every file is as it says, else None and what is wrong."""
    manifest = _read_manifest(folder)
    if manifest is None:
        return None, f"{_MANIFEST_FILE} is missing or unreadable"
    if _STATE_FILE not in manifest.files:
        return None, f"{_MANIFEST_FILE} does not name {_STATE_FILE}"
    for name, entry in manifest.files.items():
        try:
            size, digest = _digest(folder / name)
        except FileNotFoundError:
            return None, f"{name} is missing"
        if size != entry.get("size"):
            return None, f"{name} has {size} bytes instead of {entry.get('size')}"
        if digest != entry.get("sha256"):
            return None, f"{name} has another SHA-256 than its manifest says"
    return manifest, ""


def _digest(path: Path) -> tuple[int, str]:
    digest, size = hashlib.sha256(), 0
    with open(path, "rb") as file:
        while block := file.read(_HASH_BLOCK):
            digest.update(block)
            size += len(block)
    return size, digest.hexdigest()
