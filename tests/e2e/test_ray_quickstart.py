"""The quickstart on Ray, disturbed all the time, ends with exactly the numbers of an undisturbed local sweep."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from orchestrator.state import Cause
from tests.e2e.quickstart import SMALL, Sweep, disturbed_as_undisturbed, kill_controller
from tests.integration.ray.cluster import RayCluster, drivers_of, processes_of, tuning_of
from trainers.rundir import RunDir


@pytest.fixture
def cluster() -> Iterator[RayCluster]:
    """A head and two workers of one CPU each."""
    started = RayCluster()
    yield started
    started.down()


def kill_node(cluster: RayCluster, sweep: Sweep, rng: random.Random) -> None:
    """A worker on which a run trains is gone for good; another one joins."""

    def at_work() -> list[Any]:
        launchers = {process.pid for run_dir in sweep.run_dirs() for process in processes_of(run_dir.path)}
        return [node for node in cluster.workers if launchers & cluster.processes_on(node)]

    cluster.wait_for(lambda: sweep.is_over() or at_work(), 120)
    for node in at_work()[:1]:
        cluster.workers.remove(node)
        cluster.kill_node(node)
        time.sleep(rng.uniform(0, 5))
        cluster.workers.append(cluster.add_node())


def kill_driver(cluster: RayCluster, sweep: Sweep, rng: random.Random) -> None:
    """The entrypoint of the Ray job dies, and Ray counts the job as failed."""
    kill_all(drivers_of(sweep.folder))


def kill_tuning(cluster: RayCluster, sweep: Sweep, rng: random.Random) -> None:
    """Tune dies, and the driver starts it again."""
    kill_all(tuning_of(sweep.folder))


def kill_trial(cluster: RayCluster, sweep: Sweep, rng: random.Random) -> None:
    """An actor dies that has started the launcher of a run."""
    training = sweep.in_training()
    if training:
        run_dir, _ = rng.choice(training)
        launchers = [process for process in processes_of(run_dir.path) if "orchestrator.launch" in process.cmdline()]
        kill_all([launcher.parent() for launcher in launchers])


def kill_all(processes: list[psutil.Process | None]) -> None:
    for process in processes:
        if process is not None:
            process.kill()


@pytest.mark.parametrize(
    ("settings", "disturbances"),
    [
        pytest.param(SMALL, [kill_node, kill_driver, kill_controller], marks=pytest.mark.timeout(900)),
        pytest.param(
            (),
            [kill_node, kill_trial, kill_controller, kill_tuning, kill_driver] * 6,
            marks=[pytest.mark.soak, pytest.mark.timeout(7200)],
        ),
    ],
    ids=["small", "whole"],
)
def test_a_disturbed_sweep_has_the_numbers_of_an_undisturbed_one(
    settings: tuple[str, ...],
    disturbances: list[Any],
    cluster: RayCluster,
    tmp_path: Path,
    numbers_of: Callable[[RunDir], dict[str, Any]],
) -> None:
    attempts = disturbed_as_undisturbed(tmp_path, settings, "ray", cluster, disturbances, numbers_of)

    assert any(record.cause != Cause.DONE for record in attempts)
    run_dirs = (tmp_path / "disturbed" / "runs").glob("*")
    assert [process for run_dir in run_dirs for process in processes_of(run_dir)] == []
