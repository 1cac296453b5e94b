"""A sweep whose trainers are a stub: everything else of it is real, and what became of each run is counted."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from orchestrator.ledger import Ledger
from orchestrator.state import Cause, RunState
from tests import trainer_stub
from trainers.rundir import AttemptRecord, RunDir

_KILLED_AT = Path(__file__).parent / "killed_at"


class StubbedSweep(ABC):
    """One experiment in a workspace of its own.

    Args:
        steps: of each run; the stub takes 0.02 s for one.
        backend: the section ``backend``.
    """

    def __init__(self, folder: Path, runs: int, *, steps: int, backend: Mapping[str, Any]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.name = folder.name
        self.folder = folder
        self.workspace = folder / "workspace"
        self.log_path = folder / "controllers.log"
        self.file = folder / "experiment.yaml"
        experiment = {
            "name": self.name,
            "base": {"data": {"name": "digits"}, "train": {"epochs": steps}},
            "grid": {"seed": list(range(runs))},
            "backend": {"grace_s": 3, **backend},
            # A preempted stub has always done something, but an attempt may be killed before its first step.
            "retries": {"without_progress": 100},
        }
        self.file.write_text(json.dumps(experiment))

    @abstractmethod
    def environment(self) -> dict[str, str]:
        """The environment by which commands find the cluster."""

    @property
    def hold_path(self) -> Path:
        """While it exists, no run makes progress."""
        return self.workspace / trainer_stub.HOLD_NAME

    def start(self, *command: str, environment: Mapping[str, str] | None = None) -> subprocess.Popen[bytes]:
        """Start a controller: ``sweep submit``, ``sweep watch``."""
        with self.log_path.open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "orchestrator", *command, f"--workspace={self.workspace}"],
                env={**self.environment(), **(environment or {})},
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def submit(self, environment: Mapping[str, str] | None = None) -> subprocess.Popen[bytes]:
        return self.start("submit", str(self.file), environment=environment)

    def watch(self, environment: Mapping[str, str] | None = None) -> subprocess.Popen[bytes]:
        return self.start("watch", self.name, environment=environment)

    def output(self) -> str:
        return self.log_path.read_text()

    def ledger(self) -> Ledger:
        return Ledger(self.workspace / "ledger.db")

    def run_dirs(self) -> list[RunDir]:
        return [RunDir(path) for path in sorted((self.workspace / "runs").glob("*"))]

    def attempts(self) -> dict[str, list[AttemptRecord]]:
        return {run_dir.path.name: run_dir.read_attempts() for run_dir in self.run_dirs()}

    def assert_each_run_was_done_once(self, runs: int) -> None:
        """By the ledger, by run directories, and by the stub's own log."""
        states = Counter(run.state for run in self.ledger().runs(self.name))
        assert states == {RunState.COMPLETED: runs}, f"{states}\n{self.output()}"
        assert len(self.run_dirs()) == runs
        finished = {dir_.path.name: trainer_stub.count_lines(dir_, "finished") for dir_ in self.run_dirs()}
        assert set(finished.values()) == {1}, duplicates(finished)
        for run_id, attempts in self.attempts().items():
            assert [a.cause for a in attempts].count(Cause.DONE) == 1, (run_id, attempts)
            for earlier, later in pairwise(attempts):
                assert earlier.ended is not None and earlier.ended <= later.started, (run_id, earlier, later)


def duplicates(counts: Mapping[str, int]) -> dict[str, int]:
    """What is not there exactly once."""
    return {name: count for name, count in counts.items() if count != 1}


def killed_at(moments: Sequence[str]) -> dict[str, str]:
    """Variables with which a controller dies at the last of these deeds (see killed_at/sitecustomize.py)."""
    search_path = os.pathsep.join([str(_KILLED_AT), *filter(None, [os.environ.get("PYTHONPATH")])])
    return {"PYTHONPATH": search_path, "KILLED_AT": "\n".join(moments)}


def wait_for_all(processes: Sequence[subprocess.Popen[bytes]], timeout_s: float) -> list[int]:
    """Exit codes; processes that take too long are ended, and the test with them."""
    try:
        return [process.wait(timeout=timeout_s) for process in processes]
    finally:
        for process in processes:
            process.kill()
