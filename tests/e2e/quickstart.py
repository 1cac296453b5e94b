"""The quickstart in a workspace of its own, for tests that disturb it: started, watched and killed as a user could."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar

from orchestrator.state import Cause
from trainers.rundir import AttemptRecord, Phase, RunDir

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

    def attempts(self) -> list[AttemptRecord]:
        """Of all runs."""
        return [record for run_dir in self.run_dirs() for record in run_dir.read_attempts()]

    def in_training(self) -> list[tuple[RunDir, AttemptRecord]]:
        """Runs that are training now, each with its attempt."""
        found = []
        for run_dir in self.run_dirs():
            status = run_dir.read_status()
            if status is not None and status.phase is Phase.TRAINING and status.step > 0:
                attempt = run_dir.read_attempt(status.attempt)
                found += [(run_dir, attempt)] if attempt is not None and attempt.ended is None else []
        return found

    def comes_to_train(self, timeout_s: float = 120) -> bool:
        """Wait until a run trains. False if the sweep is over before; an assertion fails that waits for longer."""
        deadline = time.monotonic() + timeout_s
        while not self.is_over():
            if self.in_training():
                return True
            assert time.monotonic() < deadline, f"no run trained for {timeout_s:.0f} s: {self.output()}"
            time.sleep(0.2)
        return False

    def is_over(self) -> bool:
        return self.process.poll() is not None


@contextmanager
def ended_at_last(sweep: Sweep) -> Iterator[Sweep]:
    """Kill the controller that is left over, if a test fails."""
    try:
        yield sweep
    finally:
        if not sweep.is_over():
            sweep.kill()


class Cluster(Protocol):
    """Where a sweep is disturbed."""

    def environment(self) -> dict[str, str]:
        """In which a controller finds it."""


ClusterT = TypeVar("ClusterT", bound=Cluster)


def kill_controller(cluster: Cluster, sweep: Sweep, rng: random.Random) -> None:
    """The controller dies, and for a while there is none."""
    if not sweep.is_over():
        sweep.kill()
        time.sleep(rng.uniform(0, 5))
        sweep.start("watch")


def disturbed_as_undisturbed(
    folder: Path,
    settings: Sequence[str],
    backend: str,
    cluster: ClusterT,
    disturbances: Sequence[Callable[[ClusterT, Sweep, random.Random], None]],
    numbers_of: Callable[[RunDir], dict[str, Any]],
) -> list[AttemptRecord]:
    """Carry the quickstart out locally and, disturbed whenever a run trains, on a backend; both have the same numbers.

    Args:
        settings: of the command line's ``--set``, for both.
        disturbances: each takes something away from the sweep, by chance, and may give it back.

    Returns:
        The attempts of the disturbed sweep, each of which ended in a way that its disturbances explain.
    """
    options = tuple(part for setting in settings for part in ("--set", setting))
    with ended_at_last(Sweep(folder / "undisturbed", (*options, "--backend=local"))) as undisturbed:
        undisturbed.start_on_file("run")
        assert undisturbed.wait() == 0, undisturbed.output()
    rng, started = random.Random(4), time.monotonic()
    disturbed_options = (*options, f"--backend={backend}", "--set", "backend.grace_s=5")
    with ended_at_last(Sweep(folder / "disturbed", disturbed_options, cluster.environment())) as disturbed:
        disturbed.start_on_file("submit")
        assert disturbed.wait() == 0, disturbed.output()
        disturbed.start("watch")
        happened: Counter[str] = Counter()
        for disturb in disturbances:
            if not disturbed.comes_to_train():
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
    assert causes[Cause.DONE] == len(expected)
    assert set(causes) <= {Cause.DONE, Cause.PREEMPTED, Cause.NODE_FAIL, Cause.LOST}
    return attempts
