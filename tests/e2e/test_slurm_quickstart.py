"""The quickstart on SLURM, disturbed all the time, ends with exactly the numbers of an undisturbed local sweep."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from orchestrator.state import Cause
from tests.integration.slurm.cluster import Cluster
from tests.integration.slurm.conftest import cluster  # noqa: F401 - a fixture
from trainers.rundir import Phase, RunDir

QUICKSTART = Path(__file__).parents[2] / "experiments" / "quickstart.yaml"
#: One run of each method.
SMALL = ("seed=0", "data.profile={name: long_tailed, imbalance: 10}", "train.epochs=20")


@dataclass
class Sweep:
    """The quickstart in a workspace of its own, with one controller at a time."""

    folder: Path
    options: tuple[str, ...]
    environment: dict[str, str] | None = None
    process: subprocess.Popen[bytes] = field(init=False)

    def __post_init__(self) -> None:
        self.folder.mkdir()

    def start(self, *command: str) -> None:
        """Start a controller, such as ``sweep watch``."""
        with (self.folder / "controllers.log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "orchestrator", *command, f"--workspace={self.folder}"],
                env=self.environment,
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def start_on_file(self, command: str) -> None:
        """Start a controller that reads the experiment: ``sweep run``, ``sweep submit``."""
        # Checkpoints seldom enough that a killed node costs something, often enough to get on in between. Disturbances
        # come so fast one upon the other that an attempt often ends before its first step.
        settings = ("--set", "runtime.checkpoint_every_s=2", "--set", "retries.without_progress=20")
        self.start(command, str(QUICKSTART), *settings, *self.options)

    def wait(self) -> int:
        return self.process.wait(timeout=3600)

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def output(self) -> str:
        return (self.folder / "controllers.log").read_text()

    def run_dirs(self) -> list[RunDir]:
        return [RunDir(path) for path in sorted((self.folder / "runs").glob("*"))]

    def hosts_in_training(self) -> list[str]:
        """First nodes of the attempts that are training now."""
        found = []
        for run_dir in self.run_dirs():
            status = run_dir.read_status()
            if status is not None and status.phase is Phase.TRAINING and status.step > 0:
                attempt = run_dir.read_attempt(status.attempt)
                found += [attempt.hosts[0]] if attempt is not None and attempt.ended is None else []
        return found

    def is_over(self) -> bool:
        return self.process.poll() is not None


@contextmanager
def ended_at_last(sweep: Sweep) -> Iterator[Sweep]:
    try:
        yield sweep
    finally:
        if not sweep.is_over():
            sweep.kill()


def preempt(cluster: Cluster, sweep: Sweep, rng: random.Random) -> None:  # noqa: F811
    """An urgent job takes some nodes for a moment. One alone may be free."""
    with cluster.urgent_job(nodes=rng.randint(2, 4)) as job:
        cluster.wait_for(lambda: cluster.job_field(job, "JobState") == "RUNNING", 60)
        time.sleep(rng.uniform(0, 1))


def kill_node(cluster: Cluster, sweep: Sweep, rng: random.Random) -> None:  # noqa: F811
    """A node on which a run trains loses its power and comes back, before or after SLURM has noticed."""
    hosts = sweep.hosts_in_training()
    if hosts:
        node = rng.choice(hosts)
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
    options = tuple(part for setting in settings for part in ("--set", setting))
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
            cluster.wait_for(lambda: disturbed.is_over() or disturbed.hosts_in_training(), 120)
            if disturbed.is_over():
                break
            disturb(cluster, disturbed, rng)
            happened[disturb.__name__] += 1
        assert disturbed.wait() == 0, disturbed.output()

    attempts = [record for run_dir in disturbed.run_dirs() for record in run_dir.read_attempts()]
    causes = Counter(record.cause for record in attempts)
    print(f"{dict(happened)}: {len(attempts)} attempts, {dict(causes)}, {time.monotonic() - started:.0f} s")
    expected = {run_dir.path.name: numbers_of(run_dir) for run_dir in undisturbed.run_dirs()}
    found = {run_dir.path.name: numbers_of(run_dir) for run_dir in disturbed.run_dirs()}
    assert found == expected
    assert set(happened) == {disturb.__name__ for disturb in disturbances}, "it was over too early"
    assert causes[Cause.DONE] == len(expected) and causes[Cause.PREEMPTED] >= 1
    assert set(causes) <= {Cause.DONE, Cause.PREEMPTED, Cause.NODE_FAIL, Cause.LOST}
