"""Real DDP over two nodes: the same numbers as on one, whatever happens to either node."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.integration.slurm.cluster import Cluster
from tests.integration.slurm.job_runs import TOTAL_STEPS, submit, train_here, write_run
from trainers.rundir import RunDir

NumbersOf = Callable[[RunDir], dict[str, Any]]


@pytest.fixture(scope="module")
def on_one_node(tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    """The run of two processes on this machine, undisturbed."""
    return train_here(write_run(tmp_path_factory.mktemp("undisturbed")), processes=2)


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    write_run(tmp_path)
    return tmp_path


def test_preempted_on_two_nodes(cluster: Cluster, workspace: Path, on_one_node: RunDir, numbers_of: NumbersOf) -> None:
    job = submit(cluster, workspace, nodes=2)
    job.wait_for_step(20)

    with cluster.urgent_job(nodes=3) as urgent:  # which leaves one of our two nodes alone
        cluster.wait_for(lambda: cluster.job_field(urgent, "JobState") == "RUNNING")

    assert job.wait_until_over() == "COMPLETED", job.log()
    assert job.causes() == ["preempted", "done"], job.log()
    first, second = job.attempts()
    assert first.processes == 2 and len(first.hosts) == len(set(first.hosts)) == 2
    assert second.first_step == first.last_step >= 20
    # Neither the port nor the id of a meeting is used twice.
    meetings = [
        {part for part in record.command if part.startswith(("--rdzv-endpoint", "--rdzv-id"))}
        for record in (first, second)
    ]
    assert len(meetings[0]) == 2 and not meetings[0] & meetings[1]
    assert numbers_of(job.run_dir) == numbers_of(on_one_node)


@pytest.mark.soak
@pytest.mark.parametrize("victim", [0, 1])
def test_a_launcher_of_two_is_killed(
    cluster: Cluster, workspace: Path, on_one_node: RunDir, numbers_of: NumbersOf, victim: int
) -> None:
    job = submit(cluster, workspace, nodes=2)
    job.wait_for_step(20)
    launchers = job.launchers()
    assert len(launchers) == 2

    launchers[victim].kill()

    # The ranks that are left notice within seconds, and neither side waits for the other.
    cluster.wait_for(lambda: job.causes()[0], timeout_s=40)
    assert job.wait_until_over() == "COMPLETED", job.log()
    assert len(job.causes()) == 2 and job.causes()[1] == "done"
    assert job.attempts()[1].last_step == TOTAL_STEPS
    assert numbers_of(job.run_dir) == numbers_of(on_one_node)


def test_a_network_that_is_not_there_is_said(cluster: Cluster, workspace: Path) -> None:
    job = submit(
        cluster,
        workspace,
        nodes=2,
        change=lambda manifest: replace(manifest, options=replace(manifest.options, interface="ib7")),
    )

    assert job.wait_until_over() == "FAILED"
    assert {record.cause for record in job.attempts()} == {"failed"}
    assert "has no network interface 'ib7'; it has" in job.attempts()[0].detail
