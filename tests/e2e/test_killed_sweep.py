"""The promise, end to end: whoever is killed in the middle of a sweep, the same command goes on to the same numbers."""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from orchestrator.ledger import Ledger
from orchestrator.state import RunState
from trainers.rundir import Phase, RunDir

EXPERIMENT = """
name: tiny
base:
  data: {name: digits, profile: {name: balanced, size: 200}}
  backbone: {name: resnet18, width: 4}
  augment: {flip_probability: 0.0, blur_probability: 0.0}
  train: {epochs: 60, batch_size: 32, learning_rate: 0.06}
  evaluate: {knn: {k: [5], bank: train, every_epochs: 20}}
  runtime: {checkpoint_every_s: 0.3}
grid:
  method: [{name: moco_v2, queue_size: 64, bn_group_size: 16}, {name: isd, queue_size: 64, bn_group_size: 16}]
report: {metrics: [eval/knn/top1]}
"""

Numbers = dict[str, Any]
Victim = Callable[[subprocess.Popen[bytes], list[RunDir]], None]


class Sweep:
    """One workspace, on which `sweep run` is started as often as it takes."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.file = folder / "tiny.yaml"
        self.file.write_text(EXPERIMENT)
        self.workspace = folder / "workspace"
        self.log_path = folder / "output.log"

    def start(self) -> subprocess.Popen[bytes]:
        with self.log_path.open("ab") as log:
            command = [sys.executable, "-m", "orchestrator", "run", str(self.file), f"--workspace={self.workspace}"]
            return subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)

    def run(self) -> int:
        return self.start().wait(timeout=240)

    def run_dirs(self) -> list[RunDir]:
        return [RunDir(path) for path in sorted((self.workspace / "runs").glob("*"))]

    def wait_until_training(self, min_step: int, process: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            statuses = [run_dir.read_status() for run_dir in self.run_dirs()]
            if any(s is not None and s.phase is Phase.TRAINING and s.step >= min_step for s in statuses):
                return
            assert process.poll() is None, self.output()
            time.sleep(0.05)
        raise AssertionError(f"no run reached step {min_step}:\n{self.output()}")

    def output(self) -> str:
        return self.log_path.read_text()

    def living_processes(self) -> list[psutil.Process]:
        """Launchers, agents and ranks that work in this workspace."""
        marker = str(self.workspace)
        found = []
        for process in psutil.process_iter(["cmdline"]):
            if any(marker in part for part in process.info["cmdline"] or []):
                found.append(process)
        return found


def numbers(sweep: Sweep) -> Numbers:
    """Everything that the runs computed, without clocks and speeds."""
    found: Numbers = {}
    for run_dir in sweep.run_dirs():
        result = run_dir.read_result()
        assert result is not None, sweep.output()
        lines = [
            (line.step, {name: value for name, value in line.metrics.items() if not name.startswith("system/")})
            for line in run_dir.read_metrics()
        ]
        found[run_dir.path.name] = (result.metrics, lines, run_dir.encoder_path.read_bytes())
    return found


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Numbers:
    sweep = Sweep(tmp_path_factory.mktemp("undisturbed") / "sweep")
    assert sweep.run() == 0, sweep.output()
    return numbers(sweep)


def interrupt_controller(process: subprocess.Popen[bytes], _: list[RunDir]) -> None:
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=60) == 130


def terminate_controller(process: subprocess.Popen[bytes], _: list[RunDir]) -> None:
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) == 130


def kill_controller(process: subprocess.Popen[bytes], _: list[RunDir]) -> None:
    process.kill()
    process.wait()


def kill_launcher(_: subprocess.Popen[bytes], run_dirs: list[RunDir]) -> None:
    for launcher in launchers(run_dirs)[:1]:
        launcher.kill()


def kill_rank(_: subprocess.Popen[bytes], run_dirs: list[RunDir]) -> None:
    ranks = [child for launcher in launchers(run_dirs) for child in launcher.children(recursive=True)[-1:]]
    ranks[0].kill()


def launchers(run_dirs: list[RunDir]) -> list[psutil.Process]:
    """The launchers that live now, by their claims."""
    found = []
    for run_dir in run_dirs:
        for path in (run_dir.path / "claims").glob("*.json"):
            claim = run_dir.read_claim(path.stem)
            if claim is not None and claim.host == socket.gethostname() and psutil.pid_exists(claim.pid):
                found.append(psutil.Process(claim.pid))
    return found


@pytest.mark.parametrize(
    "victim",
    [
        interrupt_controller,
        pytest.param(terminate_controller, marks=pytest.mark.soak),  # the same path as Ctrl-C
        kill_controller,
        # What the kernel then does to agent and ranks is tested on the launcher alone, in test_resume.py.
        pytest.param(kill_launcher, marks=pytest.mark.soak),
        kill_rank,
    ],
)
def test_the_same_command_goes_on_to_the_same_numbers(victim: Victim, undisturbed: Numbers, tmp_path: Path) -> None:
    sweep = Sweep(tmp_path / "sweep")
    process = sweep.start()
    sweep.wait_until_training(20, process)
    victim(process, sweep.run_dirs())
    if process.poll() is None:
        assert process.wait(timeout=240) == 0, sweep.output()  # the controller lived and mended it by itself
    assert sweep.run() == 0, sweep.output()
    assert numbers(sweep) == undisturbed
    assert sweep.living_processes() == []


def test_two_commands_at_once_start_no_run_twice(undisturbed: Numbers, tmp_path: Path) -> None:
    sweep = Sweep(tmp_path / "sweep")
    processes = [sweep.start() for _ in range(2)]
    assert [process.wait(timeout=240) for process in processes] == [0, 0], sweep.output()
    assert numbers(sweep) == undisturbed
    ledger = Ledger(sweep.workspace / "ledger.db")
    assert [len(ledger.jobs_of(run_dir.path.name)) for run_dir in sweep.run_dirs()] == [1, 1]


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("seed", range(5))
def test_random_kills_end_in_the_same_numbers(seed: int, undisturbed: Numbers, tmp_path: Path) -> None:
    sweep = Sweep(tmp_path / "sweep")
    rng = random.Random(seed)
    deadline = time.monotonic() + 600
    process = sweep.start()
    for _ in range(8):
        time.sleep(rng.uniform(0.1, 6))
        candidates = [child for child in sweep.living_processes() if child.pid != os.getpid()]
        if candidates:
            victim = rng.choice(candidates)
            try:
                victim.send_signal(rng.choice([signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGKILL]))
            except psutil.NoSuchProcess:
                continue
        if process.poll() is not None:
            process = sweep.start()
    process.wait()
    while sweep.run() != 0:
        assert time.monotonic() < deadline, sweep.output()
        subprocess.run([sys.executable, "-m", "orchestrator", "resume", f"--workspace={sweep.workspace}"], check=True)
    assert numbers(sweep) == undisturbed
    states = {run.state for run in Ledger(sweep.workspace / "ledger.db").runs("tiny")}
    assert states == {RunState.COMPLETED}
