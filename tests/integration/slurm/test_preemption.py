"""Whatever SLURM does to a job, its run goes on without a controller, and ends with the undisturbed numbers."""

from __future__ import annotations

import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.integration.slurm.cluster import Cluster
from tests.integration.slurm.job_runs import TOTAL_STEPS, Submitted, budgets, submit, train_here, write_run
from trainers.rundir import RunDir

NumbersOf = Callable[[RunDir], dict[str, Any]]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    """The run as it ends when nothing happens to it, once for all tests."""
    return train_here(write_run(tmp_path_factory.mktemp("undisturbed")))


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    write_run(tmp_path)
    return tmp_path


def assert_went_on(job: Submitted, causes: list[str], undisturbed: RunDir, numbers_of: NumbersOf) -> None:
    """The run ended as if nothing had happened, with these attempts, each of which began where the last one stopped."""
    assert job.wait_until_over() == "COMPLETED", job.log()
    assert job.causes() == causes, job.log()
    attempts = job.attempts()
    assert [record.first_step for record in attempts[1:]] == [record.last_step for record in attempts[:-1]]
    assert attempts[-1].last_step == TOTAL_STEPS
    assert {record.job_id for record in attempts} == {job.job_id}
    assert numbers_of(job.run_dir) == numbers_of(undisturbed)


def test_preempted_with_grace(cluster: Cluster, workspace: Path, undisturbed: RunDir, numbers_of: NumbersOf) -> None:
    job = submit(cluster, workspace)
    job.wait_for_step(20)

    with cluster.urgent_job() as urgent:
        cluster.wait_for(lambda: cluster.job_field(urgent, "JobState") == "RUNNING")
        assert job.state() == "PENDING"

    assert_went_on(job, ["preempted", "done"], undisturbed, numbers_of)
    first = job.attempts()[0]
    assert (first.exit_code, first.detail) == (75, "stopped by SIGTERM")
    assert first.last_step >= 20


def test_preempted_without_grace(cluster: Cluster, workspace: Path, undisturbed: RunDir, numbers_of: NumbersOf) -> None:
    cluster.set_grace(0)
    job = submit(cluster, workspace)
    job.wait_for_step(20)

    with cluster.urgent_job() as urgent:
        cluster.wait_for(lambda: cluster.job_field(urgent, "JobState") == "RUNNING")

    assert_went_on(job, ["preempted", "done"], undisturbed, numbers_of)
    # The seconds before SIGKILL are enough for a checkpoint.
    assert job.attempts()[0].last_step >= 20


def test_preempted_by_the_users_signal(
    cluster: Cluster, workspace: Path, undisturbed: RunDir, numbers_of: NumbersOf
) -> None:
    with cluster.configured("SlurmctldParameters=preempt_send_user_signal"):
        job = submit(cluster, workspace)
        job.wait_for_step(20)
        with cluster.urgent_job() as urgent:
            cluster.wait_for(lambda: cluster.job_field(urgent, "JobState") == "RUNNING")

    assert_went_on(job, ["preempted", "done"], undisturbed, numbers_of)
    assert job.attempts()[0].detail == "stopped by SIGUSR1"


def test_time_limit(cluster: Cluster, workspace: Path, undisturbed: RunDir, numbers_of: NumbersOf) -> None:
    # A minute is SLURM's shortest limit; the grace of 50 s leaves 6 s of it for training.
    job = submit(cluster, workspace, time_s=60, grace_s=50)

    cluster.wait_for(lambda: job.causes()[:1] == ["timeout"], timeout_s=60)
    assert job.attempts()[0].detail == "stopped because the time limit is near"
    cluster.run("scontrol", "update", f"JobId={job.job_id}", "TimeLimit=10")

    assert_went_on(job, ["timeout", "done"], undisturbed, numbers_of)


@pytest.mark.soak  # CI sees it in the disturbed quickstart
def test_node_dies(cluster: Cluster, workspace: Path, undisturbed: RunDir, numbers_of: NumbersOf) -> None:
    job = submit(cluster, workspace)
    job.wait_for_step(20)
    node = job.attempts()[0].hosts[0]

    cluster.kill_node(node)

    assert_went_on(job, ["node_fail", "done"], undisturbed, numbers_of)
    assert job.attempts()[0].exit_code is None
    assert job.attempts()[1].hosts != (node,)


def test_requeued_by_hand_held_and_suspended(
    cluster: Cluster, workspace: Path, undisturbed: RunDir, numbers_of: NumbersOf
) -> None:
    job = submit(cluster, workspace)
    job.wait_for_step(5)
    cluster.run("scontrol", "requeue", job.job_id)

    job.wait_for_step(5, attempt=2)
    cluster.run("scontrol", "suspend", job.job_id)
    assert job.state() == "SUSPENDED"
    cluster.run("scontrol", "resume", job.job_id)
    job.wait_for_step(job.step() + 3, attempt=2)
    cluster.run("scontrol", "requeuehold", job.job_id)
    # After a suspension SLURM sometimes kills at once; then the next start closes the attempt.
    cluster.wait_for(lambda: job.state() == "PENDING")
    assert "held" in cluster.run("squeue", "-h", "-j", job.job_id, "-o", "%r")
    cluster.run("scontrol", "release", job.job_id)

    assert_went_on(job, ["preempted", "preempted", "done"], undisturbed, numbers_of)


def test_cancelled_stays_cancelled(cluster: Cluster, workspace: Path) -> None:
    job = submit(cluster, workspace)
    job.wait_for_step(10)

    cluster.run("scancel", job.job_id)

    assert job.wait_until_over() == "CANCELLED"
    assert "whether it starts again is not for it to say" in job.log()
    assert (job.causes(), cluster.job_field(job.job_id, "Restarts")) == (["preempted"], "0")
    assert job.attempts()[0].last_step >= 10


def test_stopped_on_request(cluster: Cluster, workspace: Path) -> None:
    job = submit(cluster, workspace)
    job.wait_for_step(10)

    job.run_dir.stop_path(job.token).touch()
    cluster.run("scancel", "--signal=TERM", job.job_id)

    assert job.wait_until_over() == "FAILED"
    assert cluster.job_field(job.job_id, "ExitCode") == "75:0"
    assert (job.causes(), cluster.job_field(job.job_id, "Restarts")) == (["preempted"], "0")


def test_stopped_on_request_while_it_waits_for_its_requeue(cluster: Cluster, workspace: Path) -> None:
    job = submit(cluster, workspace)
    job.wait_for_step(10)
    cluster.stop("slurmctld")
    job.launchers()[0].send_signal(signal.SIGTERM)
    cluster.wait_for(lambda: job.causes() == ["preempted"])

    job.run_dir.stop_path(job.token).touch()
    cluster.start("slurmctld")

    assert job.wait_until_over() == "FAILED"
    assert cluster.job_field(job.job_id, "Restarts") == "0"
    assert "stopped on request" in job.log()


def test_slurmctld_is_away_when_the_requeue_is_due(
    cluster: Cluster, workspace: Path, undisturbed: RunDir, numbers_of: NumbersOf
) -> None:
    job = submit(cluster, workspace)
    job.wait_for_step(20)
    # In peace: one that is killed may not have saved that the job runs, starts it a second time, and SLURM then holds
    # the job and drains the node ("launch failed requeued held"), which is for its administrator to mend.
    cluster.stop("slurmctld")

    job.launchers()[0].send_signal(signal.SIGTERM)
    job.launchers()[0].send_signal(signal.SIGTERM)  # the same again: terms come in twos
    cluster.wait_for(lambda: job.causes() == ["preempted"])
    cluster.start("slurmctld")

    assert_went_on(job, ["preempted", "done"], undisturbed, numbers_of)


def test_node_dies_while_accounting_is_down(
    cluster: Cluster, workspace: Path, undisturbed: RunDir, numbers_of: NumbersOf
) -> None:
    job = submit(cluster, workspace)
    job.wait_for_step(20)
    cluster.stop("slurmdbd")

    cluster.kill_node(job.attempts()[0].hosts[0])

    assert_went_on(job, ["preempted", "done"], undisturbed, numbers_of)
    # Nobody can say why the job was requeued, but that it was.
    assert job.attempts()[0].detail == "requeued; the launcher was killed"


def test_crashes_and_preemptions_have_budgets_of_their_own(
    cluster: Cluster, workspace: Path, undisturbed: RunDir, numbers_of: NumbersOf
) -> None:
    job = submit(cluster, workspace, retries=budgets(failed=1, preempted=1, lost=1))
    job.wait_for_step(10)
    job.ranks()[0].kill()
    job.wait_for_step(20, attempt=2)  # in the same allocation, at once
    assert cluster.job_field(job.job_id, "Restarts") == "0"
    job.launchers()[0].kill()
    job.wait_for_step(30, attempt=3)
    cluster.run("scancel", "--signal=TERM", job.job_id)

    assert_went_on(job, ["failed", "lost", "preempted", "done"], undisturbed, numbers_of)
    assert cluster.job_field(job.job_id, "Restarts") == "1"


def test_what_never_makes_a_step_is_given_up(cluster: Cluster, workspace: Path) -> None:
    broken = "/bin/false"  # stands for an installation that does not work on the node

    job = submit(
        cluster,
        workspace,
        retries=budgets(failed=10, without_progress=2),
        change=lambda manifest: replace(manifest, options=replace(manifest.options, python=broken)),
    )

    assert job.wait_until_over() == "FAILED"
    assert cluster.job_field(job.job_id, "ExitCode") == "1:0"
    assert job.causes() == ["failed", "failed"]
    assert "2 attempts in a row brought no new step" in job.log()
    assert "the launcher was not started" in job.attempts()[0].detail


def test_runs_that_share_a_job_are_runs_of_their_own(
    cluster: Cluster, workspace: Path, undisturbed: RunDir, numbers_of: NumbersOf
) -> None:
    second = write_run(workspace, number=1)
    job = submit(cluster, workspace, runs=2)
    job.wait_for_step(20)

    job.ranks()[0].kill()
    job.wait_for_step(60, attempt=2)
    cluster.run("scancel", "--signal=TERM", job.job_id)

    assert_went_on(job, ["failed", "preempted", "done"], undisturbed, numbers_of)
    result = second.read_result()
    assert result is not None and result.steps == TOTAL_STEPS
    assert [record.cause for record in second.read_attempts()] == ["preempted", "done"]
