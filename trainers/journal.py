"""What a run tells the outside while it trains: ``status.json`` and ``metrics.jsonl``. Only rank 0 writes."""

from __future__ import annotations

import json
import logging
import math
import os
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

from trainers.rundir import Metric, Phase, Status, StopReason, atomic

logger = logging.getLogger(__name__)

#: Seconds between two heartbeats, at least: being watched must not cost the training anything.
HEARTBEAT_S = 2.0


class StatusFile:
    """``status.json``: replaced whole, at once when the phase changes, else now and then.

    Args:
        attempt: number of the attempt that writes.
        clock: seconds since the Unix epoch.
    """

    def __init__(self, path: Path, attempt: int, clock: Callable[[], float] = time.time) -> None:
        self._path = path
        self._clock = clock
        self._status = Status(phase=Phase.STARTING, attempt=attempt)
        self._written_at = -math.inf

    def enter(self, phase: Phase, *, reason: StopReason | None = None, message: str = "") -> None:
        """Record a change of phase; a stop with its reason."""
        self._status = replace(self._status, phase=phase, reason=reason, message=message)
        self._write()

    def at(self, *, step: int, total_steps: int, epoch: float) -> None:
        """Note where the training is. Reaches the file with the next heartbeat."""
        self._status = replace(self._status, step=step, total_steps=total_steps, epoch=epoch)
        if self._clock() - self._written_at >= HEARTBEAT_S:
            self._write()

    def measured(self, *, loss: float, images_per_s: float) -> None:
        """Note what was measured last. Reaches the file with the next heartbeat."""
        self._status = replace(self._status, loss=loss, images_per_s=images_per_s)

    def _write(self) -> None:
        self._written_at = self._clock()
        self._status = replace(self._status, heartbeat=self._written_at)
        atomic.write_json(self._path, self._status.to_json())


class MetricsFile:
    """``metrics.jsonl``: one line per measurement, appended; never rewritten once a checkpoint stands behind it.

    Args:
        path: the file; created if it is not there.
        resume_offset: length in bytes at the checkpoint that the run goes on from. What follows will be measured anew.
        final_offset: length that readers may have relied on. It is larger than ``resume_offset`` if a newer checkpoint
            turned out damaged; the lines in between stay, and are not written again.
    """

    def __init__(self, path: Path, resume_offset: int, final_offset: int) -> None:
        kept = max(resume_offset, final_offset)
        self._written = {
            (line["step"], _measured(line["metrics"])) for line in atomic.read_jsonl(path, resume_offset, kept)
        }
        self._file: BinaryIO = open(path, "ab")  # noqa: SIM115 - closed by close()
        size = os.fstat(self._file.fileno()).st_size
        if size < kept:
            # Appending after a gap would hand readers bytes that were never measured.
            logger.warning("%s has %d bytes, its checkpoint knew %d: earlier lines are lost", path, size, kept)
        self._file.truncate(min(size, kept))

    def write(self, step: int, epoch: float, metrics: Mapping[str, float]) -> None:
        """Append what was measured at ``step``, unless exactly this stands there already."""
        if (step, _measured(metrics)) in self._written:
            return
        line = Metric(step=step, epoch=epoch, time=time.time(), metrics=dict(metrics))
        self._file.write(json.dumps(line.to_json(), allow_nan=False).encode() + b"\n")
        self._file.flush()

    def sync(self) -> int:
        """Make all lines durable; the file's length in bytes."""
        os.fsync(self._file.fileno())
        return os.fstat(self._file.fileno()).st_size

    def close(self) -> None:
        try:
            self._file.close()
        except OSError as error:
            # What the last write could not write, it has raised; closing tries once more.
            logger.warning("%s: %s", self._file.name, error)


def _measured(metrics: Iterable[str]) -> frozenset[str]:
    """The names by which a line is known again: what is said of the machine comes and goes with the clock."""
    return frozenset(name for name in metrics if not name.startswith("system/"))


class Journal:
    """Status and metrics of a run as the training sees them: the same calls on every rank, of which rank 0 writes.

    Args:
        status: None on the other ranks.
    """

    def __init__(self, status: StatusFile | None) -> None:
        self._status = status
        self._metrics: MetricsFile | None = None

    def enter(self, phase: Phase, *, reason: StopReason | None = None, message: str = "") -> None:
        """Record a change of phase; a stop with its reason."""
        if self._status is not None:
            self._status.enter(phase, reason=reason, message=message)

    def open_metrics(self, path: Path, resume_offset: int, final_offset: int) -> None:
        """Go on with the metrics of the run, as :class:`MetricsFile` says."""
        if self._status is not None:
            self._metrics = MetricsFile(path, resume_offset, final_offset)

    def at(self, *, step: int, total_steps: int, epoch: float) -> None:
        """Note where the training is."""
        if self._status is not None:
            self._status.at(step=step, total_steps=total_steps, epoch=epoch)

    def measured(self, *, loss: float, images_per_s: float) -> None:
        """Note the training's loss and speed, for the status."""
        if self._status is not None:
            self._status.measured(loss=loss, images_per_s=images_per_s)

    def write(self, step: int, epoch: float, metrics: Mapping[str, float]) -> None:
        """Append a line of metrics."""
        if self._metrics is not None:
            self._metrics.write(step, epoch, metrics)

    def sync(self) -> int:
        """Make the metrics durable; their length in bytes, 0 on the other ranks."""
        return self._metrics.sync() if self._metrics is not None else 0

    def close(self) -> None:
        if self._metrics is not None:
            self._metrics.close()
