"""Whose account of a failure the user reads."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import torch.distributed as dist

from trainers import failure
from trainers.checkpoint import CheckpointError, ForeignCheckpoint
from trainers.data import DataProblem
from trainers.loop import Diverged
from trainers.rundir import RankFailure, RunDir, StopReason

SENTENCE = "one sentence; and what to do"


@pytest.mark.parametrize(
    ("error", "reason", "message"),
    [
        (failure.ConfigProblem(SENTENCE), StopReason.CONFIG, SENTENCE),
        (ForeignCheckpoint(SENTENCE), StopReason.CONFIG, SENTENCE),
        (DataProblem(SENTENCE), StopReason.DATA, SENTENCE),
        (Diverged(SENTENCE), StopReason.DIVERGED, SENTENCE),
        (CheckpointError(SENTENCE), StopReason.ERROR, SENTENCE),
        (RuntimeError("first line\nsecond line"), StopReason.ERROR, "RuntimeError: first line"),
        (AssertionError(), StopReason.ERROR, "AssertionError"),
        (
            OSError(28, "No space left on device", "f"),
            StopReason.ERROR,
            "OSError: [Errno 28] No space left on device: 'f'",
        ),
    ],
)
def test_a_failure_is_one_sentence_with_a_reason(error: Exception, reason: StopReason, message: str) -> None:
    found = failure.describe(error, rank=2)
    assert (found.rank, found.reason, found.message, found.is_consequence) == (2, reason, message, False)


def test_a_lost_peer_is_a_consequence(tmp_path: Path) -> None:
    error = RuntimeError("[gloo/transport/tcp/pair.cc:547] Connection closed by peer [127.0.0.1]:9")
    assert not failure.describe(error, 0).is_consequence, "a run of one process has no peer"
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        found = failure.describe(error, 0)
        assert found.is_consequence and found.message.startswith("rank 0 lost another rank (RuntimeError: ")
        assert not failure.describe(RuntimeError("index out of range"), 0).is_consequence
    finally:
        dist.destroy_process_group()


def record(rank: int, message: str, *, is_consequence: bool = False) -> RankFailure:
    return RankFailure(
        rank=rank, reason=StopReason.ERROR, message=message, is_consequence=is_consequence, time=time.time()
    )


def test_a_better_account_is_preferred_and_not_awaited_for_long(tmp_path: Path) -> None:
    run_dir = RunDir(tmp_path)
    run_dir.attempt_dir(1).mkdir(parents=True)
    own, cause = record(0, "lost another rank", is_consequence=True), record(1, "the disk is on fire")
    failure.record(run_dir, 1, own)

    started = time.monotonic()
    assert failure.root_cause(run_dir, 1, own) == own
    assert time.monotonic() - started < 5

    failure.record(run_dir, 1, cause)
    assert failure.root_cause(run_dir, 1, own) == cause
    assert failure.root_cause(run_dir, 1, record(0, "an error of its own")).message == "an error of its own"
