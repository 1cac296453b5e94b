"""What a run becomes in MLflow: parameters, points, tags and status as plain values.

Parameters are immutable in MLflow, so only what the run id is made of becomes a parameter. Whatever may change from one
submission to the next (state, backend, attempts) is a tag.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from orchestrator.runs import ExperimentView, RunView
from orchestrator.state import RunState, count_states
from trainers.config import IDENTITY_SECTIONS, RunConfig, identity
from trainers.rundir import Metric, Result

#: Tags by which the collector finds its runs again.
RUN_ID_TAG = "sweep.run_id"
ROLE_TAG = "sweep.role"
PARENT_ROLE = "experiment"
#: Why a search stopped a run before its end; empty if the run has gone on since, absent if none ever did.
EARLY_TAG = "sweep.stopped_early"
MLFLOW_PARENT_TAG = "mlflow.parentRunId"

#: MLflow's status of each of our states. A preempted run waits to go on.
STATUS: Mapping[RunState, str] = {
    RunState.PLANNED: "SCHEDULED",
    RunState.SUBMITTING: "SCHEDULED",
    RunState.QUEUED: "SCHEDULED",
    RunState.RUNNING: "RUNNING",
    RunState.PREEMPTED: "SCHEDULED",
    RunState.COMPLETED: "FINISHED",
    RunState.FAILED: "FAILED",
    RunState.LOST: "FAILED",
    RunState.CANCELLED: "KILLED",
}

#: MLflow refuses longer values of tags (8000); a reason never needs half of it.
_MAX_TAG = 4000
_MAX_DIGEST = 36


class Point(NamedTuple):
    """One value of one metric, with the trainer's own time in milliseconds since the Unix epoch."""

    key: str
    value: float
    timestamp_ms: int
    step: int


@dataclass(frozen=True)
class Facts:
    """What may change about an MLflow run: its status, its end and its tags, of which one that is None is not there."""

    status: str
    ended_ms: int | None
    tags: Mapping[str, str | None]


@dataclass(frozen=True)
class DatasetInput:
    """What a run trains on, in the words of MLflow's dataset inputs."""

    name: str
    digest: str
    source: str
    profile: str


def fingerprint(data: bytes) -> str:
    """Short digest, for "is this still the same?"."""
    return hashlib.sha256(data).hexdigest()[:16]


def has_begun(run: RunView) -> bool:
    """Whether the run has something to show: it was started once, or ended without.

    Runs that only wait are counted in the parent's tags; so each run's duration in MLflow is that of its work, and
    collecting early or late gives the same store.
    """
    ended = run.state in (RunState.COMPLETED, RunState.FAILED, RunState.LOST)
    return ended or bool(run.run_dir.attempt_numbers())


def params(config: Mapping[str, Any], axes: Mapping[str, str]) -> dict[str, str]:
    """The run's parameters: every option that its numbers depend on, and its place on each axis of the grid.

    Options are named as in the experiment file (``method.queue_size``) and left out where they are not set. The axes
    keep their names and short labels (``method`` = isd), so that they can be columns and can be compared.

    Raises:
        ValueError: the configuration is not one of this version.
    """
    resolved = RunConfig.model_validate_json(json.dumps(config))
    sections = {name: getattr(resolved, name) for name in IDENTITY_SECTIONS}
    options = {name: value if isinstance(value, int) else identity(value) for name, value in sections.items()}
    named = {key: _text(value) for key, value in flatten(options) if value is not None}
    return {**axes, **named, **axes}  # the axes come first on the page, and have the last word


def flatten(value: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Leaves of nested mappings with dotted names."""
    for key, item in value.items():
        if isinstance(item, Mapping):
            yield from flatten(item, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", item


def points(metrics: Iterable[Metric]) -> Iterator[Point]:
    """Every value of every line, in order."""
    for line in metrics:
        timestamp_ms = round(line.time * 1000)
        for key, value in line.metrics.items():
            yield Point(key, value, timestamp_ms, line.step)


def final_points(result: Result, last: Mapping[str, Point]) -> list[Point]:
    """The final value of every metric, and the untrained encoder's under ``untrained/``.

    A final value that is the last one measured under its name is that very point, so that sending it again adds
    nothing. Others are dated with the end of the run.

    Args:
        last: the last point of the metrics file, by metric.
    """
    finished_ms = round(result.finished * 1000)
    final: list[Point] = []
    for key, value in result.metrics.items():
        measured = last.get(key)
        is_measured = measured is not None and _same(measured.value, value)
        final.append(measured if measured and is_measured else Point(key, value, finished_ms, result.steps))
    return final + [Point(f"untrained/{key}", value, finished_ms, 0) for key, value in result.untrained.items()]


def news(final: Sequence[Point], stored: Iterable[Point]) -> list[Point]:
    """Final points without those that an earlier result brought under another date.

    A later evaluation writes a new result; what it did not measure again stays in the store once. A point that is
    itself in the store is news too: it may not be linked to the model yet.
    """
    held = set(stored)
    brought = {(point.key, point.step, point.value) for point in held}
    return [point for point in final if point in held or (point.key, point.step, point.value) not in brought]


def missing_points(candidates: Sequence[Point], stored: Iterable[Point]) -> list[Point]:
    """Points of a metrics file that a store does not hold yet, given everything that it does hold.

    Needed when the collector's memory of a run is lost, or when the file was cut back behind what had been collected
    (a damaged newest checkpoint). Steps that were then measured again are in the store already, under an older time,
    and stay there once.
    """
    ours = {(point.key, point.step, point.timestamp_ms) for point in candidates}
    held = {(point.key, point.step, point.timestamp_ms) for point in stored}
    measured_before = {(key, step) for key, step, _ in held - ours}
    return [
        point
        for point in candidates
        if (point.key, point.step, point.timestamp_ms) not in held and (point.key, point.step) not in measured_before
    ]


def started_ms(run: RunView) -> int:
    """When the run began: its first attempt, or when its directory was written if there was none."""
    for number in run.run_dir.attempt_numbers():
        attempt = run.run_dir.read_attempt(number)
        if attempt is not None and attempt.started:
            return round(attempt.started * 1000)
    path = run.run_dir.spec_path
    return round(path.stat().st_mtime * 1000) if path.exists() else 0


def ended_ms(run: RunView, result: Result | None) -> int | None:
    """When a run that is over ended, by the best witness: its result, its last attempt, its last heartbeat."""
    if not run.state.is_terminal:
        return None
    if result is not None and result.finished:
        return round(result.finished * 1000)
    for number in reversed(run.run_dir.attempt_numbers()):
        attempt = run.run_dir.read_attempt(number)
        if attempt is not None and attempt.ended:
            return round(attempt.ended * 1000)
    status = run.run_dir.read_status()
    return round(status.heartbeat * 1000) if status is not None and status.heartbeat else started_ms(run)


def run_facts(run: RunView, provenance: Mapping[str, Any], result: Result | None) -> Facts:
    """Status and tags of a run's MLflow run."""
    tags: dict[str, str | None] = {
        RUN_ID_TAG: run.run_id,
        "sweep.state": run.state.value,
        "sweep.reason": run.reason[:_MAX_TAG] or None,
        "sweep.backend": run.backend,
        "sweep.job_id": run.job_id,
        "sweep.attempts": str(run.attempts),
        "mlflow.runName": run.name,
        "mlflow.source.name": "sweep",
        "mlflow.source.type": "JOB",
    }
    if run.run_dir.was_ever_stopped_early():
        early = run.run_dir.read_early_stop()
        tags[EARLY_TAG] = early.sentence[:_MAX_TAG] if early is not None else ""  # it has gone on since
    commit = (provenance.get("git") or {}).get("commit")
    if isinstance(commit, str) and commit:
        tags["mlflow.source.git.commit"] = commit
    return Facts(STATUS[run.state], ended_ms(run, result), tags)


def parent_facts(experiment: ExperimentView, runs: Sequence[RunView], ended: int | None) -> Facts:
    """Status and tags of the parent run: how many runs are in which state."""
    counts = count_states(run.state for run in runs)
    tags: dict[str, str | None] = {
        ROLE_TAG: PARENT_ROLE,
        "mlflow.runName": experiment.name,
        "mlflow.source.name": experiment.file_path.name,
        "mlflow.source.type": "PROJECT",
        "sweep.axes": ", ".join(experiment.axes),
        "sweep.runs": str(len(runs)),
        **{f"sweep.runs.{state.value}": str(number) if number else None for state, number in counts.items()},
    }
    return Facts(parent_status(counts), ended, tags)


def experiment_ended_ms(runs: Sequence[RunView]) -> int | None:
    """When the last run ended; None while one of them is not over."""
    if not runs or not all(run.state.is_terminal for run in runs):
        return None
    return max(ended_ms(run, run.run_dir.read_result()) or 0 for run in runs)


def parent_status(counts: Mapping[RunState, int]) -> str:
    """MLflow's status of an experiment from the number of its runs in each state."""
    if any(counts[state] for state in RunState if state.is_active):
        return "RUNNING"
    if counts[RunState.PLANNED] or counts[RunState.PREEMPTED]:
        return "SCHEDULED"
    if counts[RunState.FAILED] or counts[RunState.LOST]:
        return "FAILED"
    return "KILLED" if counts[RunState.CANCELLED] else "FINISHED"


def dataset_input(record: Mapping[str, Any], root: str) -> DatasetInput:
    """A run's dataset from ``dataset.json``: who it is in name and digest, the class histogram in its profile."""
    name = " ".join(str(part) for part in (record["name"], record.get("label")) if part)
    lists = ("indices", "held_out")
    profile = {key: value for key, value in record.items() if key not in lists and not _is_long_list(value)}
    return DatasetInput(
        name=name,
        digest=str(record["digest"])[:_MAX_DIGEST],
        source=json.dumps({"uri": root}),
        profile=json.dumps(profile),
    )


def _is_long_list(value: object) -> bool:
    return isinstance(value, list) and len(value) > 1000


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _same(first: float, second: float) -> bool:
    return first == second or (math.isnan(first) and math.isnan(second))
