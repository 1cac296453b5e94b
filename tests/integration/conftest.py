"""A launcher under test: started as a backend would, watched through the run directory, killed in all ways."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import psutil
import pytest

from trainers.rundir import RunDir

#: What a submitting job may leave in the environment. A launcher that took it seriously would wait for rank 0 for ever.
LEFTOVERS = {"RANK": "7", "WORLD_SIZE": "9", "MASTER_ADDR": "192.0.2.1", "MASTER_PORT": "1", "PET_NNODES": "4"}


@dataclass
class Launched:
    """One running launcher and everything below it that was seen so far."""

    run_dir: RunDir
    process: subprocess.Popen[bytes]
    _seen: dict[int, psutil.Process] = field(default_factory=dict)

    def agent(self) -> psutil.Process:
        return psutil.Process(self.process.pid).children()[0]

    def ranks(self) -> list[psutil.Process]:
        """The ranks of the node, in order of their start."""
        return sorted(self.agent().children(), key=lambda process: process.pid)

    def last_step(self) -> int:
        """The step of the last line of metrics, 0 without one."""
        lines = self.run_dir.read_metrics()
        return lines[-1].step if lines else 0

    def wait_until(self, is_true: Callable[[], bool], timeout_s: float = 240) -> None:
        """Wait for something to become true while the launcher lives; remember the processes that are there then."""
        deadline = time.monotonic() + timeout_s
        while not is_true():
            assert self.process.poll() is None, f"the launcher ended early with {self.process.returncode}"
            assert time.monotonic() < deadline, "waited in vain"
            time.sleep(0.02)
        for process in psutil.Process(self.process.pid).children(recursive=True):
            self._seen[process.pid] = process

    def wait(self, timeout_s: float = 240) -> int:
        """Wait for the launcher; its exit code."""
        return self.process.wait(timeout_s)

    def assert_nothing_is_left(self, timeout_s: float = 60) -> None:
        """Every process that was remembered is gone, within a moment."""
        _, alive = psutil.wait_procs(list(self._seen.values()), timeout=timeout_s)
        for process in alive:
            process.kill()
        assert not alive, f"still running: {alive}"


@pytest.fixture
def launch() -> Iterator[Callable[..., Launched]]:
    """Start a launcher: ``launch(run_dir, "token", "--processes=2")``. What a failed test leaves running is ended."""
    started: list[Launched] = []

    def start(run_dir: RunDir, token: str, *options: str) -> Launched:
        command = [
            *(sys.executable, "-m", "orchestrator.launch", str(run_dir.path)),
            *(f"--token={token}", "--backend=local", "--threads=1", "--devices=", *options),
        ]
        with (run_dir.path / "launcher.log").open("ab") as log:
            process = subprocess.Popen(
                command, env={**os.environ, **LEFTOVERS}, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        started.append(Launched(run_dir, process))
        return started[-1]

    yield start
    for launched in started:
        launched.process.kill()
        launched.process.wait()


@pytest.fixture
def undisturbed() -> Callable[[RunDir], RunDir]:
    """Carry a run out in this process, from beginning to end, without any launcher."""

    def train(run_dir: RunDir) -> RunDir:
        from trainers.journal import Journal, StatusFile
        from trainers.train import carry_out

        journal = Journal(StatusFile(run_dir.status_path, 0))
        carry_out(run_dir, journal, 0, stop_requested=lambda: False)
        journal.close()
        return run_dir

    return train
