"""A running development cluster, as tests handle it."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

DEV_CLUSTER = Path(__file__).parents[3] / "slurm" / "dev-cluster"

#: GraceTime of the partition ``batch``, as every test finds it.
GRACE_S = 10


def without_slurm(environment: Mapping[str, str]) -> dict[str, str]:
    """An environment without what SLURM left there: tests may run inside somebody's job."""
    return {key: value for key, value in environment.items() if not key.startswith(("SLURM", "SBATCH", "SRUN"))}


def dev_cluster(*arguments: str | Path, check: bool = True, timeout_s: float = 120) -> subprocess.CompletedProcess[str]:
    """Run ``slurm/dev-cluster`` as a user does."""
    done = subprocess.run(
        [sys.executable, DEV_CLUSTER, *arguments],
        env=without_slurm(os.environ),
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )
    assert not check or done.returncode == 0, f"dev-cluster {arguments} ended with {done.returncode}: {done.stderr}"
    return done


@dataclass(frozen=True)
class Cluster:
    """A cluster by its folder. Nodes are n1, n2, ...; ``urgent`` preempts ``batch``, the default partition."""

    root: Path

    @property
    def conf(self) -> Path:
        """What SLURM_CONF names."""
        return self.root / "slurm.conf"

    def environment(self) -> dict[str, str]:
        """The environment of this process, by which commands find this cluster and nothing else."""
        return {**without_slurm(os.environ), "SLURM_CONF": str(self.conf)}

    def run(self, *command: str | Path) -> str:
        """What a command prints, without the last newline; it must succeed."""
        done = subprocess.run(command, env=self.environment(), capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{command} ended with {done.returncode}: {done.stderr}{done.stdout}"
        return done.stdout.rstrip("\n")

    def wait_for(self, condition: Callable[[], object], timeout_s: float = 30) -> None:
        """Wait until the condition holds; a test fails that waits for longer."""
        deadline = time.monotonic() + timeout_s
        while not condition():
            if time.monotonic() > deadline:
                raise AssertionError(f"waited {timeout_s} s in vain; jobs: {self.run('squeue', '-o', '%i %T %R')}")
            time.sleep(0.05)

    def job_field(self, job: str, field: str) -> str:
        """A field of ``scontrol show job``, such as ``JobState`` or ``Restarts``; of an ended job for 300 s."""
        words = self.run("scontrol", "-o", "show", "job", job).split()
        return next(word.partition("=")[2] for word in words if word.startswith(f"{field}="))

    def kill_node(self, node: str) -> None:
        """As by a power cut. SLURM finds out after some 15 s."""
        dev_cluster("kill-node", node, "--dir", self.root)

    def start_node(self, node: str) -> None:
        """Start a node and wait until it is in service."""
        dev_cluster("start-node", node, "--dir", self.root)

    def stop(self, daemon: str, *, kill: bool = False) -> None:
        """Stop ``slurmctld`` or ``slurmdbd``; with ``kill``, by SIGKILL."""
        dev_cluster("stop", daemon, "--dir", self.root, *(["--kill"] if kill else []))

    def start(self, daemon: str) -> None:
        """Start ``slurmctld`` or ``slurmdbd`` and wait until it works."""
        dev_cluster("start", daemon, "--dir", self.root)

    def set_grace(self, seconds: int) -> None:
        """Change the time that preempted jobs get; until the end of the test."""
        self.run("scontrol", "update", "partitionname=batch", f"gracetime={seconds}")

    @contextmanager
    def configured(self, *lines: str) -> Iterator[None]:
        """Let these lines of slurm.conf replace those of the same key for a while, if SLURM can change them live."""
        before = self.conf.read_text()
        keys = tuple(f"{line.partition('=')[0]}=" for line in lines)
        kept = [line for line in before.splitlines() if not line.startswith(keys)]
        self.conf.write_text("\n".join([*lines, *kept]) + "\n")
        self.run("scontrol", "reconfigure")
        try:
            yield
        finally:
            self.conf.write_text(before)
            self.run("scontrol", "reconfigure")

    @contextmanager
    def urgent_job(self, nodes: int = 4, seconds: int = 600) -> Iterator[str]:
        """A job that takes whole nodes from ``batch``: its id, as soon as it is submitted; cancelled at the end."""
        job = self.run(
            *("sbatch", "--parsable", "--partition=urgent", "--exclusive", f"--nodes={nodes}", "--output=/dev/null"),
            *("--job-name=urgent", "--chdir=/tmp", f"--wrap=exec sleep {seconds}"),
        )
        try:
            yield job
        finally:
            self.run("scancel", job)

    def reset(self) -> None:
        """Make the cluster as a test expects it: all daemons up, no jobs, all nodes idle, the grace time as ever."""
        dev_cluster("up", "--dir", self.root)
        self.run("scontrol", "update", "partitionname=batch", f"gracetime={GRACE_S}", "state=up")
        self.run("scontrol", "update", "partitionname=urgent", "state=up")
        if jobs := self.run("squeue", "-h", "-o", "%A").split():
            self.run("scancel", *jobs)
            self.wait_for(lambda: not self.run("squeue", "-h"))
        states = dict(line.split() for line in self.run("sinfo", "-hN", "-p", "batch", "-o", "%N %T").splitlines())
        for node in (node for node, state in states.items() if state != "idle"):
            self.start_node(node)
        self.wait_for(lambda: set(self.run("sinfo", "-h", "-o", "%T").split()) == {"idle"})
