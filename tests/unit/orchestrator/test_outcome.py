"""What became of an attempt is read from files, whatever exit code torchrun had."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.launch.outcome import Stop, judge, saved_steps
from orchestrator.state import Cause
from trainers.rundir import Phase, RankFailure, Result, RunDir, Status, StopReason, atomic

ATTEMPT = 3


@pytest.fixture
def run_dir(tmp_path: Path) -> RunDir:
    run_dir = RunDir(tmp_path)
    run_dir.attempt_dir(ATTEMPT).mkdir(parents=True)
    return run_dir


def stopped(run_dir: RunDir, reason: StopReason, message: str, attempt: int = ATTEMPT) -> None:
    status = Status(phase=Phase.STOPPED, attempt=attempt, reason=reason, message=message)
    atomic.write_json(run_dir.status_path, status.to_json())


def failed(run_dir: RunDir, rank: int, message: str, *, time: float, is_consequence: bool = False) -> None:
    failure = RankFailure(rank=rank, reason=StopReason.ERROR, message=message, is_consequence=is_consequence, time=time)
    atomic.write_json(run_dir.rank_failure_path(ATTEMPT, rank), failure.to_json())


def verdict(run_dir: RunDir, stop_signal: str | None = None) -> tuple[int, Cause, str]:
    outcome = judge(run_dir, ATTEMPT, Stop(stop_signal) if stop_signal else None)
    return outcome.exit_code, outcome.cause, outcome.detail


def test_a_result_is_proof(run_dir: RunDir) -> None:
    stopped(run_dir, StopReason.ERROR, "a crash after the result")
    atomic.write_json(run_dir.result_path, Result(run_id="r", steps=9, epochs=1, metrics={}).to_json())
    assert verdict(run_dir, "SIGTERM") == (0, Cause.DONE, "")
    assert saved_steps(run_dir) == 9


@pytest.mark.parametrize("stop_signal", [None, "SIGTERM"])
@pytest.mark.parametrize("reason", [StopReason.CONFIG, StopReason.DATA, StopReason.DIVERGED])
def test_what_will_not_help_again_is_a_failure(run_dir: RunDir, reason: StopReason, stop_signal: str | None) -> None:
    stopped(run_dir, reason, "one sentence")
    assert verdict(run_dir, stop_signal) == (1, Cause.FAILED, f"{reason}: one sentence")


def test_a_stop_on_request_can_go_on(run_dir: RunDir) -> None:
    assert verdict(run_dir, "SIGUSR1") == (75, Cause.PREEMPTED, "stopped by SIGUSR1")
    # Ranks that were torn apart while stopping lose no more than a checkpoint interval.
    stopped(run_dir, StopReason.ERROR, "lost a peer")
    assert verdict(run_dir, "SIGUSR1") == (75, Cause.PREEMPTED, "stopped by SIGUSR1")


def test_a_stop_before_a_time_limit_is_counted_as_such(run_dir: RunDir) -> None:
    outcome = judge(run_dir, ATTEMPT, Stop("SIGUSR1", is_time_limit=True))
    assert (outcome.exit_code, outcome.cause) == (75, Cause.TIMEOUT)
    assert outcome.detail == "stopped because the time limit is near"


def test_a_stop_that_only_the_ranks_heard_of(run_dir: RunDir) -> None:
    stopped(run_dir, StopReason.PREEMPTED, "stopped on request after step 4")
    assert verdict(run_dir) == (75, Cause.PREEMPTED, "stopped on request after step 4")


def test_another_attempts_status_says_nothing(run_dir: RunDir) -> None:
    stopped(run_dir, StopReason.PREEMPTED, "long ago", attempt=ATTEMPT - 1)
    assert verdict(run_dir) == (1, Cause.FAILED, "torchrun ended without a word")


def test_the_first_cause_is_told(run_dir: RunDir) -> None:
    stopped(run_dir, StopReason.ERROR, "rank 0 lost another rank")
    failed(run_dir, 0, "rank 0 lost another rank", time=1.0, is_consequence=True)
    failed(run_dir, 2, "CUDA out of memory", time=3.0)
    failed(run_dir, 1, "rank 1 was killed by SIGKILL", time=2.0)
    assert verdict(run_dir) == (1, Cause.FAILED, "error: rank 1 was killed by SIGKILL")


def test_a_failure_for_want_of_memory_has_a_budget_of_its_own(run_dir: RunDir) -> None:
    failed(run_dir, 0, "rank 0 was killed by SIGKILL", time=1.0)
    outcome = judge(run_dir, ATTEMPT, None, is_out_of_memory=True)
    assert (outcome.exit_code, outcome.cause) == (1, Cause.OUT_OF_MEMORY)
    assert outcome.detail == "more memory was needed than there is: error: rank 0 was killed by SIGKILL"
    # Who was asked to stop, and lost a helper process on the way, was not ended by that.
    assert judge(run_dir, ATTEMPT, Stop("SIGTERM"), is_out_of_memory=True).cause is Cause.PREEMPTED


def test_without_any_account_the_log_speaks(run_dir: RunDir) -> None:
    run_dir.launcher_log_path(ATTEMPT).write_text("Traceback\n  ...\nModuleNotFoundError: No module named 'torch'\n\n")
    expected = "torchrun ended without a result: ModuleNotFoundError: No module named 'torch'"
    assert verdict(run_dir) == (1, Cause.FAILED, expected)


def test_saved_steps_are_those_of_the_newest_checkpoint(run_dir: RunDir) -> None:
    assert saved_steps(run_dir) == 0
    for name in ("step_9", "step_10", "step_11.tmp", "encoder_epoch_12.safetensors"):
        (run_dir.checkpoints_dir / name).mkdir(parents=True)
    assert saved_steps(run_dir) == 10
