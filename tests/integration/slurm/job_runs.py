"""Jobs of one run each, submitted as the backend does and then left alone: no controller lives in these tests."""

from __future__ import annotations

import json
import subprocess
import sys
import uuid
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psutil

from orchestrator.backends.slurm.manifest import JobOptions, JobShape, Manifest
from orchestrator.backends.slurm.script import batch_script
from orchestrator.experiment.schema import Retries, Slurm
from orchestrator.retry import RetryBudgets
from tests.conftest import TINY
from tests.integration.slurm.cluster import Cluster
from trainers.config import SCHEMA_VERSION, RunConfig
from trainers.rundir import AttemptRecord, RunDir

#: 100 epochs of 3 steps: some 10 s on one core, and time enough to disturb it.
TOTAL_STEPS = 300
TRAIN: dict[str, Any] = {"epochs": 100, "batch_size": 32, "learning_rate": 0.06}


def write_run(workspace: Path, number: int = 0) -> RunDir:
    """The run of these tests in a workspace; ``number`` is its seed."""
    run_id = f"{number:012x}"
    evaluate = {"knn": {"k": [5], "bank": "train", "every_epochs": 50}}
    config = {**json.loads(json.dumps(TINY)), "train": TRAIN, "evaluate": evaluate, "seed": number}
    run_dir = RunDir(workspace / "runs" / run_id)
    run_dir.path.mkdir(parents=True)
    spec = {
        "schema_version": SCHEMA_VERSION,
        "run_id": run_id,
        "config": RunConfig.model_validate(config).model_dump(mode="json"),
        "provenance": {},
    }
    run_dir.spec_path.write_text(json.dumps(spec))
    return run_dir


def train_here(run_dir: RunDir, processes: int = 1) -> RunDir:
    """Carry a run out on this machine, undisturbed, with as many threads as its jobs use."""
    command = [sys.executable, "-m", "orchestrator.launch", str(run_dir.path), "--token=here", "--backend=local"]
    subprocess.run([*command, "--threads=1", "--devices=", f"--processes={processes}"], check=True, timeout=240)
    return run_dir


@dataclass(frozen=True)
class Submitted:
    """One array element with its runs."""

    cluster: Cluster
    job_id: str
    token: str
    run_dir: RunDir
    manifest: Manifest

    def state(self) -> str:
        """SLURM's word for the job; of an ended one for 300 s."""
        return self.cluster.job_field(self.job_id, "JobState")

    def log(self) -> str:
        """What the job and the launcher printed."""
        logs = [*self.manifest.log_dir.glob("*.log"), self.run_dir.path / "launcher.log"]
        return "\n".join(path.read_text() for path in logs if path.exists())

    def step(self) -> int:
        status = self.run_dir.read_status()
        return 0 if status is None else status.step

    def attempts(self) -> list[AttemptRecord]:
        return self.run_dir.read_attempts()

    def causes(self) -> list[str]:
        """How the attempts ended, oldest first; empty text for one that is open."""
        return [record.cause for record in self.attempts()]

    def wait_for_step(self, step: int, attempt: int = 1) -> None:
        """Wait until an attempt has done some steps."""

        def has_come() -> bool:
            status = self.run_dir.read_status()
            return status is not None and status.attempt == attempt and status.step >= step

        self.cluster.wait_for(has_come, timeout_s=90)

    def wait_until_over(self, timeout_s: float = 120) -> str:
        """Wait until SLURM has nothing left to do for the job; its last state."""
        over = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "PREEMPTED")
        self.cluster.wait_for(lambda: self.state() in over, timeout_s)
        return self.state()

    def launchers(self) -> list[psutil.Process]:
        """The processes that slurmstepd has started for the run, in the order of the nodes."""
        found = {}
        for process in psutil.process_iter():
            try:
                command = process.cmdline()
                if "orchestrator.launch" not in command or str(self.run_dir.path) not in command:
                    continue
                parent = process.parent()
                if parent is not None and parent.name().startswith("slurmstepd"):
                    found[int(process.environ()["SLURM_PROCID"])] = process
            except (psutil.NoSuchProcess, psutil.AccessDenied):
                continue
        return [found[rank] for rank in sorted(found)]

    def ranks(self) -> list[psutil.Process]:
        """The ranks on the first node."""
        agent = self.launchers()[0].children()[0]
        return sorted(agent.children(), key=lambda process: process.pid)


def budgets(**changes: int) -> RetryBudgets:
    """The default budgets, with changes by cause or ``without_progress``."""
    return RetryBudgets.of(Retries(**changes))


def submit(
    cluster: Cluster,
    workspace: Path,
    *,
    nodes: int = 1,
    runs: int = 1,
    grace_s: int = 5,
    time_s: int = 600,
    retries: RetryBudgets | None = None,
    change: Callable[[Manifest], Manifest] = lambda manifest: manifest,
    **options: str,
) -> Submitted:
    """Submit an array of one element.

    Args:
        runs: of the element, side by side.
        change: what the job reads may differ from what the batch script was made from.
        options: further options of sbatch.
    """
    shape = JobShape(nodes=nodes, time_s=time_s)
    submission = uuid.uuid4().hex[:12]
    run_dirs = [RunDir(workspace / "runs" / f"{number:012x}") for number in range(runs)]
    tokens = tuple(f"{run_dir.path.name}-{submission}" for run_dir in run_dirs)
    manifest = Manifest(
        workspace=workspace,
        experiment="test",
        submission=submission,
        number=0,
        shape=shape,
        options=JobOptions(python=sys.executable, grace_s=grace_s, requeue=True),
        budgets=retries or budgets(),
        elements=(tokens,),
    )
    slurm = Slurm(grace_s=grace_s, sbatch=options)
    script = batch_script(manifest, replace(shape, cpus=1), slurm, None)
    manifest.log_dir.mkdir(parents=True)
    change(manifest).write()
    path = manifest.log_dir / "script.sh"
    path.write_text(script)
    answer = cluster.run("sbatch", "--parsable", str(path))
    return Submitted(cluster, f"{answer.split(';')[0]}_0", tokens[0], run_dirs[0], manifest)
