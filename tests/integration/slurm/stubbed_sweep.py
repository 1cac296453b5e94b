"""A sweep whose trainers are a stub: everything else of it is real, and what became of each run is counted."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from orchestrator.backends.slurm.manifest import Manifest, run_id_of
from orchestrator.ledger import Ledger
from orchestrator.state import Cause, RunState
from tests import trainer_stub
from tests.integration.slurm.cluster import Cluster
from trainers.rundir import AttemptRecord, RunDir


class StubbedSweep:
    """One experiment in a workspace of its own.

    Args:
        steps: of each run; the stub takes 0.02 s for one.
        backend: further settings of the section ``backend``.
    """

    def __init__(
        self, folder: Path, cluster: Cluster, runs: int, *, steps: int = 1, backend: Mapping[str, Any] | None = None
    ) -> None:
        folder.mkdir(parents=True)
        self.name = folder.name
        self.folder = folder
        self.cluster = cluster
        self.workspace = folder / "workspace"
        self.log_path = folder / "controllers.log"
        self.file = folder / "experiment.yaml"
        # Shims and kills are meant for the controller, and sbatch hands its environment on to the jobs.
        setup = [f"export PATH={shlex.quote(os.environ['PATH'])}", "unset KILLED_AT"]
        python = str(trainer_stub.python(folder / "stub"))
        experiment = {
            "name": self.name,
            "base": {"data": {"name": "digits"}, "train": {"epochs": steps}},
            "grid": {"seed": list(range(runs))},
            "backend": {"name": "slurm", "python": python, "setup": setup, "grace_s": 3, **(backend or {})},
            # A preempted stub has always done something, but an attempt may be killed before its first step.
            "retries": {"without_progress": 100},
        }
        self.file.write_text(json.dumps(experiment))

    @property
    def hold_path(self) -> Path:
        """While it exists, no run makes progress."""
        return self.workspace / trainer_stub.HOLD_NAME

    def start(self, *command: str, environment: Mapping[str, str] | None = None) -> subprocess.Popen[bytes]:
        """Start a controller: ``sweep submit``, ``sweep watch``."""
        with self.log_path.open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "orchestrator", *command, f"--workspace={self.workspace}"],
                env={**self.cluster.environment(), **(environment or {})},
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

    def manifests(self) -> list[Manifest]:
        """Of all arrays that were, or were about to be, submitted."""
        return [Manifest.read(path) for path in sorted((self.workspace / "slurm").glob("*/*.json"))]

    def states_of_elements(self, *options: str) -> dict[str, list[str]]:
        """Run id -> states, by accounting, of every array element that was to carry it out.

        Args:
            options: ``--duplicates`` for a state for each time that an element was started.
        """
        manifests = {manifest.job_name: manifest for manifest in self.manifests()}
        rows = self.cluster.run(
            *("sacct", "--allocations", "--noheader", "--parsable2", "--starttime=now-1days", *options),
            *("--format=JobID,State,JobName", f"--name={','.join(manifests)}"),
        )
        found: dict[str, list[str]] = {run_dir.path.name: [] for run_dir in self.run_dirs()}
        for job_id, state, name in (row.split("|") for row in rows.splitlines()):
            for token in manifests[name].elements[int(job_id.partition("_")[2])]:
                found[run_id_of(token)].append(state.split()[0])
        return found

    def attempts(self) -> dict[str, list[AttemptRecord]]:
        return {run_dir.path.name: run_dir.read_attempts() for run_dir in self.run_dirs()}

    def assert_each_run_was_done_once(self, runs: int) -> None:
        """By the ledger, by run directories, by the stub's own log, and by SLURM's accounting."""
        states = Counter(run.state for run in self.ledger().runs(self.name))
        assert states == {RunState.COMPLETED: runs}, f"{states}\n{self.output()}"
        assert len(self.run_dirs()) == runs
        finished = {dir_.path.name: trainer_stub.count_lines(dir_, "finished") for dir_ in self.run_dirs()}
        assert set(finished.values()) == {1}, duplicates(finished)
        for run_id, attempts in self.attempts().items():
            assert [a.cause for a in attempts].count(Cause.DONE) == 1, (run_id, attempts)
            for earlier, later in pairwise(attempts):
                assert earlier.ended is not None and earlier.ended <= later.started, (run_id, earlier, later)
        # Accounting learns of an end a moment after slurmctld.
        self.cluster.wait_for(lambda: all(map(have_ended, self.states_of_elements().values())))
        # An element that was in vain also ends well, if it finds that there is nothing to do any more.
        states = self.states_of_elements()
        assert all("COMPLETED" in found for found in states.values()), f"{states}\n{self.output()}"

    def assert_no_job_was_in_vain(self) -> None:
        """Every run had exactly one element, which was started once and ended well."""
        states = self.states_of_elements("--duplicates")
        assert all(found == ["COMPLETED"] for found in states.values()), f"{states}\n{self.output()}"

    def assert_each_run_had_one_job(self) -> None:
        """Every run had exactly one element, however often that was requeued, and it ended well."""
        states = self.states_of_elements()
        assert all(found == ["COMPLETED"] for found in states.values()), f"{states}\n{self.output()}"


def have_ended(states: Sequence[str]) -> bool:
    """Whether accounting knows the ends of all jobs of a run, and there was one."""
    return bool(states) and {"PENDING", "RUNNING"}.isdisjoint(states)


def duplicates(counts: Mapping[str, int]) -> dict[str, int]:
    """What is not there exactly once."""
    return {name: count for name, count in counts.items() if count != 1}


def wait_for_all(processes: Sequence[subprocess.Popen[bytes]], timeout_s: float) -> list[int]:
    """Exit codes; processes that take too long are ended, and the test with them."""
    try:
        return [process.wait(timeout=timeout_s) for process in processes]
    finally:
        for process in processes:
            process.kill()
