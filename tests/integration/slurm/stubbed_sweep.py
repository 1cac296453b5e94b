"""A sweep on SLURM whose trainers are a stub, with SLURM's own word for what became of each run."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from orchestrator.backends.base import run_id_of
from orchestrator.backends.slurm.manifest import Manifest
from tests import trainer_stub
from tests.integration.slurm.cluster import Cluster
from tests.integration.stubbed_sweep import StubbedSweep


class SlurmSweep(StubbedSweep):
    """One experiment in a workspace of its own.

    Args:
        steps: of each run; the stub takes 0.02 s for one.
        backend: further settings of the section ``backend``.
    """

    def __init__(
        self, folder: Path, cluster: Cluster, runs: int, *, steps: int = 1, backend: Mapping[str, Any] | None = None
    ) -> None:
        self.cluster = cluster
        # Shims and kills are meant for the controller, and sbatch hands its environment on to the jobs.
        setup = [f"export PATH={shlex.quote(os.environ['PATH'])}", "unset KILLED_AT"]
        python = str(trainer_stub.python(folder / "stub"))
        options = {"name": "slurm", "python": python, "setup": setup, **(backend or {})}
        super().__init__(folder, runs, steps=steps, backend=options)

    def environment(self) -> dict[str, str]:
        return self.cluster.environment()

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

    def assert_each_run_was_done_once(self, runs: int) -> None:
        """By the ledger, by run directories, by the stub's own log, and by SLURM's accounting."""
        super().assert_each_run_was_done_once(runs)
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
