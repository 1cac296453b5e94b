"""The ``local`` backend: jobs are launcher processes on this machine, detached from the controller.

A job is found again by its token: the launcher claims the token in the run directory before it does anything else,
exclusively, with the identity of its process. Whether a job lives is then a question to the kernel, and starting the
same token twice is harmless, because the second launcher finds the claim and leaves.
"""

from __future__ import annotations

import os
import shlex
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from orchestrator.backends.base import Backend, Job, JobRequest, JobShape, Sighting, Terms
from orchestrator.backends.source import python_path
from orchestrator.processes import ProcessName
from orchestrator.state import JobState
from orchestrator.workspace import Workspace
from trainers.rundir import Claim, RunDir


def create(_workspace: Workspace) -> Backend:
    """The local backend with this machine's cores and GPUs."""
    return LocalBackend(num_cpus=available_cpus(), gpus=visible_gpus())


def available_cpus() -> int:
    """Cores that this process may run on; cgroup quotas and affinity masks are respected where the kernel tells."""
    return len(os.sched_getaffinity(0))


def visible_gpus() -> tuple[str, ...]:
    """GPUs as CUDA_VISIBLE_DEVICES numbers them, asked of the driver, because importing torch takes seconds."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return tuple(device.strip() for device in named.split(",") if device.strip())
    try:
        listing = subprocess.run(
            ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"],
            capture_output=True,
            text=True,
            timeout=20,
            check=True,
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return ()
    return tuple(line.strip() for line in listing.splitlines() if line.strip())


class LocalBackend:
    """Runs jobs on this machine, as many at once as fit."""

    name = "local"
    absence_deadline_s = 30.0
    poll_interval_s = 0.5
    needs_controller = True
    runs_here = True

    def __init__(self, num_cpus: int, gpus: tuple[str, ...]) -> None:
        self.num_cpus = num_cpus
        self.gpus = gpus
        # Children of this controller: without waiting for them they would stay zombies, which look alive.
        self._children: dict[str, subprocess.Popen[bytes]] = {}

    def prepare(self, terms: Terms) -> None:
        pass  # it knows its cores and GPUs

    def admit(self, candidates: Sequence[JobRequest], active: Sequence[Job], terms: Terms) -> list[JobRequest]:
        free_cpus = self.num_cpus - sum(job.shape.cpus for job in active)
        taken = {device for job in active for device in job.devices}
        free_gpus = [device for device in self.gpus if device not in taken]
        free_slots = (terms.options.max_parallel or len(candidates) + len(active)) - len(active)
        admitted: list[JobRequest] = []
        for request in candidates:
            # First come, first served: a large job is not overtaken for ever by small ones behind it.
            if free_slots < 1 or request.shape.cpus > free_cpus or request.shape.gpus > len(free_gpus):
                break
            devices, free_gpus = free_gpus[: request.shape.gpus], free_gpus[request.shape.gpus :]
            free_cpus -= request.shape.cpus
            free_slots -= 1
            admitted.append(replace(request, devices=tuple(devices)))
        return admitted

    def render(self, request: JobRequest, terms: Terms) -> str:
        return shlex.join(self._command(request))

    def _command(self, request: JobRequest) -> list[str]:
        return [
            sys.executable,
            "-m",
            "orchestrator.launch",
            str(request.run_dir),
            f"--token={request.token}",
            "--backend=local",
            "--once",
            f"--processes={request.shape.processes}",
            f"--threads={request.shape.threads}",
            f"--devices={','.join(request.devices)}",
        ]

    def submit(self, requests: Sequence[JobRequest], terms: Terms) -> Mapping[str, str]:
        job_ids = {}
        for request in requests:
            log_path = request.run_dir / "launcher.log"
            with log_path.open("ab") as log:
                # A session of its own: Ctrl-C in the terminal and a closed terminal do not reach the job.
                child = subprocess.Popen(
                    self._command(request),
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                    cwd="/",
                    env=self._environment(),
                )
            self._children[request.token] = child
            job_ids[request.token] = str(child.pid)
        return job_ids

    @staticmethod
    def _environment() -> dict[str, str]:
        # The controller may run from a source checkout that is not installed; its modules must be found from "/".
        return {**os.environ, "PYTHONPATH": python_path(os.environ.get("PYTHONPATH"))}

    def poll(self, jobs: Sequence[Job]) -> Mapping[str, Sighting]:
        return {job.token: self._look(job) for job in jobs}

    def _look(self, job: Job) -> Sighting:
        child = self._children.get(job.token)
        is_our_living_child = child is not None and child.poll() is None
        claim = RunDir(job.run_dir).read_claim(job.token)
        if claim is None:
            if is_our_living_child:
                return Sighting(JobState.PENDING, job.job_id)
            return Sighting(JobState.ENDED if child is not None else JobState.ABSENT, job.job_id)
        if claim.is_revocation:
            return Sighting(JobState.ENDED, job.job_id)
        launcher = _launcher(claim)
        if not launcher.is_here:
            return Sighting(JobState.UNKNOWN, job.job_id)  # another machine's kernel is out of our sight
        return Sighting(JobState.RUNNING if launcher.is_alive else JobState.ENDED, str(claim.pid))

    def cancel(self, jobs: Sequence[Job]) -> None:
        for job in jobs:
            claim = RunDir(job.run_dir).read_claim(job.token)
            if claim is None or claim.is_revocation:
                continue
            launcher = _launcher(claim)
            if launcher.is_here and launcher.is_alive:
                os.kill(launcher.pid, signal.SIGTERM)

    def revoke(self, job: Job) -> bool:
        return RunDir(job.run_dir).revoke(job.token, socket.gethostname())

    def log_path(self, job: Job) -> Path | None:
        path = job.run_dir / "launcher.log"
        return path if path.exists() else None

    def dashboards(self, jobs: Sequence[Job]) -> Mapping[str, str]:
        return {}

    def problems(self, shape: JobShape, terms: Terms) -> list[str]:
        found = []
        if shape.nodes > 1:
            found.append(
                f"resources.nodes={shape.nodes}, and backend local has this machine only; use nodes: 1, or slurm or ray"
            )
        if shape.cpus > self.num_cpus:
            found.append(
                f"resources.cpus_per_node={shape.cpus} and this machine has {self.num_cpus} cores; "
                f"use {self.num_cpus} or fewer"
            )
        if shape.gpus > len(self.gpus):
            found.append(
                f"resources.gpus_per_node={shape.gpus} and this machine has {len(self.gpus)} GPUs; "
                f"use {len(self.gpus)} or fewer"
            )
        return found


def _launcher(claim: Claim) -> ProcessName:
    return ProcessName(claim.host, claim.boot_id, claim.pid, claim.create_time)
