"""The quickstart on SLURM, disturbed all the time, ends with exactly the numbers of an undisturbed local sweep."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from orchestrator.state import Cause
from tests.e2e.quickstart import SMALL, Sweep, disturbed_as_undisturbed, kill_controller
from tests.integration.slurm.cluster import Cluster
from tests.integration.slurm.conftest import cluster  # noqa: F401 - a fixture
from trainers.rundir import RunDir


def preempt(cluster: Cluster, sweep: Sweep, rng: random.Random) -> None:  # noqa: F811
    """An urgent job takes some nodes for a moment. One alone may be free."""
    with cluster.urgent_job(nodes=rng.randint(2, 4)) as job:
        cluster.wait_for(lambda: cluster.job_field(job, "JobState") == "RUNNING", 60)
        time.sleep(rng.uniform(0, 1))


def kill_node(cluster: Cluster, sweep: Sweep, rng: random.Random) -> None:  # noqa: F811
    """A node on which a run trains loses its power and comes back, before or after SLURM has noticed."""
    training = sweep.in_training()
    if training:
        node = rng.choice([attempt.hosts[0] for _, attempt in training])
        cluster.kill_node(node)
        time.sleep(rng.uniform(0, 15))
        cluster.start_node(node)


@pytest.mark.parametrize(
    ("settings", "disturbances"),
    [
        pytest.param(SMALL, [preempt, kill_controller, kill_node], marks=pytest.mark.timeout(900)),
        pytest.param(
            (),
            [preempt, preempt, kill_controller, preempt, kill_node] * 6,
            marks=[pytest.mark.soak, pytest.mark.timeout(7200)],
        ),
    ],
    ids=["small", "whole"],
)
def test_a_disturbed_sweep_has_the_numbers_of_an_undisturbed_one(
    settings: tuple[str, ...],
    disturbances: list[Any],
    cluster: Cluster,  # noqa: F811
    tmp_path: Path,
    numbers_of: Callable[[RunDir], dict[str, Any]],
) -> None:
    attempts = disturbed_as_undisturbed(tmp_path, settings, "slurm", cluster, disturbances, numbers_of)

    assert any(record.cause == Cause.PREEMPTED for record in attempts)
