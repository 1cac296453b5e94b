"""Status and metrics files: replaced now and then, appended once."""

from __future__ import annotations

import resource
from pathlib import Path

import pytest

from trainers.journal import HEARTBEAT_S, Journal, MetricsFile, StatusFile
from trainers.rundir import Phase, RunDir, StopReason


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_heartbeats_are_rare_and_changes_of_phase_immediate(tmp_path: Path) -> None:
    run_dir, clock = RunDir(tmp_path), Clock()
    status_file = StatusFile(run_dir.status_path, attempt=4, clock=clock)
    seen = []

    def look() -> None:
        status = run_dir.read_status()
        seen.append(None if status is None else (status.phase, status.step, status.heartbeat))

    status_file.enter(Phase.TRAINING)
    look()
    for step in (1, 2, 3):
        clock.now += HEARTBEAT_S / 2
        status_file.at(step=step, total_steps=9, epoch=step / 3)
        look()
    status_file.enter(Phase.STOPPED, reason=StopReason.PREEMPTED, message="why")
    look()

    training, stopped = Phase.TRAINING, Phase.STOPPED
    assert seen == [
        (training, 0, 1000),
        (training, 0, 1000),
        (training, 2, 1002),
        (training, 2, 1002),
        (stopped, 3, 1003),
    ]
    status = run_dir.read_status()
    assert status is not None
    assert (status.attempt, status.total_steps, status.reason, status.message) == (4, 9, StopReason.PREEMPTED, "why")


def test_metrics_are_cut_back_to_the_checkpoint(tmp_path: Path) -> None:
    run_dir = RunDir(tmp_path)
    first = MetricsFile(run_dir.metrics_path, 0, 0)
    first.write(1, 0.5, {"train/loss": 1.0})
    offset = first.sync()
    first.write(2, 1.0, {"train/loss": 2.0})
    first.close()
    with run_dir.metrics_path.open("ab") as file:
        file.write(b'{"step": 3, "tor')  # killed inside a line

    second = MetricsFile(run_dir.metrics_path, offset, offset)
    second.write(2, 1.0, {"train/loss": 20.0})
    second.close()

    assert [(m.step, m.metrics["train/loss"]) for m in run_dir.read_metrics()] == [(1, 1.0), (2, 20.0)]


def test_lines_behind_a_damaged_checkpoint_are_not_written_twice(tmp_path: Path) -> None:
    run_dir = RunDir(tmp_path)
    first = MetricsFile(run_dir.metrics_path, 0, 0)
    first.write(1, 0.5, {"train/loss": 1.0})
    good = first.sync()
    first.write(2, 1.0, {"train/loss": 2.0})
    seen_by_readers = first.sync()
    first.write(3, 1.5, {"train/loss": 3.0})
    first.close()
    final = run_dir.metrics_path.read_bytes()[:seen_by_readers]

    second = MetricsFile(run_dir.metrics_path, good, seen_by_readers)
    assert second.sync() == seen_by_readers
    second.write(2, 1.0, {"train/loss": 2.5})
    second.write(2, 1.0, {"eval/knn/top1": 50.0})  # another measurement of the same step
    second.write(3, 1.5, {"train/loss": 3.0})
    second.close()

    assert run_dir.metrics_path.read_bytes().startswith(final)
    found = [(m.step, m.metrics) for m in run_dir.read_metrics()]
    assert found == [
        (1, {"train/loss": 1.0}),
        (2, {"train/loss": 2.0}),
        (2, {"eval/knn/top1": 50.0}),
        (3, {"train/loss": 3.0}),
    ]


def test_numbers_that_json_lacks_are_refused(tmp_path: Path) -> None:
    metrics = MetricsFile(tmp_path / "metrics.jsonl", 0, 0)
    with pytest.raises(ValueError, match="JSON"):
        metrics.write(1, 0.5, {"train/loss": float("nan")})
    metrics.close()


def test_other_ranks_write_nothing(tmp_path: Path) -> None:
    journal = Journal(None)
    journal.enter(Phase.TRAINING)
    journal.open_metrics(tmp_path / "metrics.jsonl", 0, 0)
    journal.write(1, 0.5, {"train/loss": 1.0})
    journal.at(step=1, total_steps=2, epoch=0.5)
    journal.measured(loss=1.0, images_per_s=2.0)
    assert journal.sync() == 0
    journal.close()
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_reported_by_the_write_and_closing_is_quiet(tmp_path: Path) -> None:
    metrics = MetricsFile(tmp_path / "metrics.jsonl", 0, 0)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, hard))
    try:
        with pytest.raises(OSError, match="File too large"):
            metrics.write(1, 0.5, {"train/loss": 1.0})
        metrics.close()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
