"""The quickstart on SLURM, disturbed all the time, ends with exactly the numbers of an undisturbed local sweep."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from orchestrator.state import Cause
from tests.e2e.quickstart import SMALL, Sweep, as_options, ended_at_last
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


def kill_controller(cluster: Cluster, sweep: Sweep, rng: random.Random) -> None:  # noqa: F811
    """The controller dies, and for a while there is none."""
    if not sweep.is_over():
        sweep.kill()
        time.sleep(rng.uniform(0, 5))
        sweep.start("watch")


Disturbance = Callable[[Cluster, Sweep, random.Random], None]


@pytest.mark.parametrize(
    ("settings", "disturbances"),
    [
        (SMALL, [preempt, kill_controller, kill_node]),
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
    disturbances: list[Disturbance],
    cluster: Cluster,  # noqa: F811
    tmp_path: Path,
    numbers_of: Callable[[RunDir], dict[str, Any]],
) -> None:
    options = as_options(settings)
    with ended_at_last(Sweep(tmp_path / "undisturbed", (*options, "--backend=local"))) as undisturbed:
        undisturbed.start_on_file("run")
        assert undisturbed.wait() == 0, undisturbed.output()
    rng, started = random.Random(4), time.monotonic()
    disturbed_options = (*options, "--backend=slurm", "--set", "backend.grace_s=5")
    with ended_at_last(Sweep(tmp_path / "disturbed", disturbed_options, cluster.environment())) as disturbed:
        disturbed.start_on_file("submit")
        assert disturbed.wait() == 0, disturbed.output()
        disturbed.start("watch")
        happened: Counter[str] = Counter()
        for disturb in disturbances:
            cluster.wait_for(lambda: disturbed.is_over() or disturbed.in_training(), 120)
            if disturbed.is_over():
                break
            disturb(cluster, disturbed, rng)
            happened[disturb.__name__] += 1
        assert disturbed.wait() == 0, disturbed.output()

    attempts = disturbed.attempts()
    causes = Counter(record.cause for record in attempts)
    print(f"{dict(happened)}: {len(attempts)} attempts, {dict(causes)}, {time.monotonic() - started:.0f} s")
    expected = {run_dir.path.name: numbers_of(run_dir) for run_dir in undisturbed.run_dirs()}
    found = {run_dir.path.name: numbers_of(run_dir) for run_dir in disturbed.run_dirs()}
    assert found == expected
    assert set(happened) == {disturb.__name__ for disturb in disturbances}, "it was over too early"
    assert causes[Cause.DONE] == len(expected) and causes[Cause.PREEMPTED] >= 1
    assert set(causes) <= {Cause.DONE, Cause.PREEMPTED, Cause.NODE_FAIL, Cause.LOST}
