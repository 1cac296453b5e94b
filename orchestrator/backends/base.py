"""What the controller asks of a backend: a small protocol and the values that cross it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from orchestrator.state import JobState


@dataclass(frozen=True)
class JobShape:
    """What a job occupies while it lives.

    Attributes:
        nodes: machines.
        processes: ranks on each node.
        cpus, gpus: cores and GPUs on each node.
    """

    nodes: int = 1
    processes: int = 1
    cpus: int = 1
    gpus: int = 0

    @property
    def threads(self) -> int:
        """Compute threads of each rank. Fixed by the shape and never by the machine, because it can change rounding."""
        return max(1, self.cpus // self.processes)


@dataclass(frozen=True)
class JobRequest:
    """A job to start. The token travels with the job, so that it can be found again by it.

    Attributes:
        devices: GPUs that the job may use, as CUDA_VISIBLE_DEVICES numbers them. Filled in by :meth:`Backend.admit`
            where the backend assigns GPUs itself.
    """

    token: str
    run_id: str
    run_dir: Path
    shape: JobShape
    devices: tuple[str, ...] = ()


@dataclass(frozen=True)
class Job:
    """A job that was, or may have been, started. ``job_id`` is empty until the backend has given one."""

    token: str
    job_id: str
    run_dir: Path
    shape: JobShape
    devices: tuple[str, ...]


class Backend(Protocol):
    """Starts, watches and stops jobs. Implementations hold no state that a restarted controller would miss."""

    name: str
    #: Seconds that a job may be unknown to the backend before it counts as gone: covers the lag of its bookkeeping.
    absence_deadline_s: float
    #: Seconds between two looks at the jobs.
    poll_interval_s: float
    #: Whether jobs only start while a controller lives, so that `sweep submit` must leave one behind.
    needs_controller: bool
    #: Whether jobs run on this very machine, so that what they need can be checked here.
    runs_here: bool

    def admit(
        self, candidates: Sequence[JobRequest], active: Sequence[Job], max_parallel: int | None
    ) -> list[JobRequest]:
        """Those of ``candidates``, in order, that may be submitted now, given the jobs that are already there. Pure."""

    def render(self, request: JobRequest) -> str:
        """What :meth:`submit` would execute, for people. Pure."""

    def submit(self, requests: Sequence[JobRequest]) -> Mapping[str, str]:
        """Start jobs; token -> job id. Submitting a token twice starts one job.

        Raises:
            EnvironmentProblem: the backend refused or could not be reached.
        """

    def poll(self, jobs: Sequence[Job]) -> Mapping[str, tuple[JobState, str]]:
        """Token -> state and job id of every job, by a constant number of questions to the scheduler."""

    def cancel(self, jobs: Sequence[Job]) -> None:
        """Ask jobs to checkpoint and stop. Returns at once; safe to repeat."""

    def revoke(self, job: Job) -> bool:
        """Make sure that a job which seems absent can never start. False if it has started after all."""

    def problems(self, shape: JobShape) -> list[str]:
        """Why jobs of this shape can never run here, one sentence each; empty if they can."""
