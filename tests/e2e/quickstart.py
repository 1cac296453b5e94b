"""The quickstart in a workspace of its own, for tests that disturb it: started, watched and killed as a user could."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from trainers.rundir import AttemptRecord, Phase, RunDir

QUICKSTART = Path(__file__).parents[2] / "experiments" / "quickstart.yaml"
#: One run of each method.
SMALL = ("seed=0", "data.profile={name: long_tailed, imbalance: 10}", "train.epochs=20")


def as_options(settings: tuple[str, ...]) -> tuple[str, ...]:
    """Settings as the command line takes them."""
    return tuple(part for setting in settings for part in ("--set", setting))


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
