"""Rows of the ledger as frozen values, and how they are read from SQL."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from orchestrator.backends.base import Job, JobShape
from orchestrator.state import RunState


class Wanted(StrEnum):
    """What the user wants of an experiment."""

    RUNNING = "running"
    PAUSED = "paused"
    """Stop with a checkpoint and wait: Ctrl-C in `sweep run`."""
    CANCELLED = "cancelled"


@dataclass(frozen=True)
class NewRun:
    """A cell of an experiment that is being registered. The mappings are JSON values."""

    run_id: str
    position: int
    axes: Mapping[str, str]
    config: Mapping[str, Any]
    resources: Mapping[str, Any]


@dataclass(frozen=True)
class ExperimentRow:
    """An experiment as the ledger knows it."""

    name: str
    path: str
    text: str
    digest: str
    axes: tuple[str, ...]
    settings: Mapping[str, Any]
    provenance: Mapping[str, Any]
    wanted: Wanted
    created: float
    updated: float


@dataclass(frozen=True)
class RunRow:
    """A run, as a cell of one experiment."""

    run_id: str
    experiment: str
    position: int
    axes: Mapping[str, str]
    resources: Mapping[str, Any]
    state: RunState
    reason: str
    reset_at: float


@dataclass(frozen=True)
class JobRow:
    """A submission. ``ended`` is None while the job may live; ``submitted`` while only the intent is written."""

    token: str
    run_id: str
    experiment: str
    backend: str
    job_id: str
    shape: JobShape
    devices: tuple[str, ...]
    owner: str
    created: float
    submitted: float | None
    absent_since: float | None = None
    stop_requested: bool = False
    ended: float | None = None
    cause: str = ""
    detail: str = ""
    first_step: int = 0
    last_step: int = 0

    def as_job(self, run_dir: Path) -> Job:
        """The same job, as a backend sees it."""
        return Job(token=self.token, job_id=self.job_id, run_dir=run_dir, shape=self.shape, devices=self.devices)


def experiment_row(row: sa.RowMapping) -> ExperimentRow:
    return ExperimentRow(
        **{
            **row,
            "axes": tuple(json.loads(row["axes"])),
            "settings": json.loads(row["settings"]),
            "provenance": json.loads(row["provenance"]),
            "wanted": Wanted(row["wanted"]),
        }
    )


def run_row(row: sa.RowMapping) -> RunRow:
    return RunRow(
        **{
            **row,
            "axes": json.loads(row["axes"]),
            "resources": json.loads(row["resources"]),
            "state": RunState(row["state"]),
        }
    )


def job_row(row: sa.RowMapping) -> JobRow:
    values = {key: row[key] for key in JobRow.__dataclass_fields__}
    return JobRow(
        **{
            **values,
            "shape": JobShape(**json.loads(row["shape"])),
            "devices": tuple(json.loads(row["devices"])),
            "stop_requested": bool(row["stop_requested"]),
        }
    )
