"""What the controller asks of a backend: a small protocol and the values that cross it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from orchestrator.errors import EnvironmentProblem
from orchestrator.state import Cause, JobState

if TYPE_CHECKING:  # jobs import this module too, and pydantic takes them a third of a second
    from orchestrator.experiment.schema import Backend as BackendOptions
    from orchestrator.experiment.schema import Retries
    from orchestrator.studies import Study


@dataclass(frozen=True)
class JobShape:
    """What a job occupies while it lives.

    Attributes:
        nodes: machines.
        processes: ranks on each node.
        cpus, gpus: cores and GPUs on each node.
        memory_mb: main memory on each node in MiB; None is the backend's default.
        time_s: seconds that one attempt may take; None is the backend's default.
    """

    nodes: int = 1
    processes: int = 1
    cpus: int = 1
    gpus: int = 0
    memory_mb: int | None = None
    time_s: int | None = None

    @property
    def threads(self) -> int:
        """Compute threads of each rank. Fixed by the shape and never by the machine, because it can change rounding."""
        return max(1, self.cpus // self.processes)


@dataclass(frozen=True)
class Terms:
    """What an experiment says about its jobs as a whole: its sections ``backend`` and ``retries``.

    Attributes:
        search: its section of that name, as JSON, and ``studies``: what is suggested or stopped early by it.
    """

    experiment: str
    options: BackendOptions
    retries: Retries
    search: Mapping[str, Any] | None = None
    studies: Sequence[Study] = ()


@dataclass(frozen=True)
class JobRequest:
    """A job to start. The token travels with the job, so that it can be found again by it.

    Attributes:
        token: ``<run id>-<submission>``; the requests that are submitted together share their submission.
        devices: GPUs that the job may use, as CUDA_VISIBLE_DEVICES numbers them. Filled in by :meth:`Backend.admit`
            where the backend assigns GPUs itself.
        reset_at: seconds since the Unix epoch; attempts that began before count against no budget.
    """

    token: str
    run_id: str
    run_dir: Path
    shape: JobShape
    devices: tuple[str, ...] = ()
    reset_at: float = 0.0


def run_id_of(token: str) -> str:
    """The run that a token was made for."""
    return token.rpartition("-")[0]


def submission_of(token: str) -> str:
    """The submission that a token belongs to."""
    return token.rpartition("-")[2]


@dataclass(frozen=True)
class Job:
    """A job that was, or may have been, started. ``job_id`` is empty until the backend has given one."""

    token: str
    job_id: str
    run_dir: Path
    shape: JobShape
    devices: tuple[str, ...]


@dataclass(frozen=True)
class Sighting:
    """What a backend says of a job at one moment.

    Attributes:
        cause: why a job ended, where the backend knows more than the run directory can; None if it does not.
        note: for people: why a job waits and when it is expected to start, or how it ended.
    """

    state: JobState
    job_id: str = ""
    cause: Cause | None = None
    note: str = ""


class Refused(EnvironmentProblem):
    """The backend said no: of the requests none was, or ever will be, started but those in ``job_ids``."""

    def __init__(self, message: str, job_ids: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.job_ids: Mapping[str, str] = job_ids or {}


class Unreachable(EnvironmentProblem):
    """The backend gave no answer. Whether it has taken the jobs is not known, and a later look will tell."""


class Backend(Protocol):
    """Starts, watches and stops jobs. Implementations hold no state that a restarted controller would miss."""

    name: str
    #: Seconds that a job may be unknown to the backend before it counts as gone: covers the lag of its bookkeeping.
    absence_deadline_s: float
    #: Whether jobs only start, and start again, while a controller lives, so that `sweep submit` must leave one behind.
    needs_controller: bool
    #: Whether jobs run on this very machine, so that what they need can be checked here.
    runs_here: bool

    @property
    def poll_interval_s(self) -> float:
        """Seconds until the next look at the jobs; may grow while the backend is busy or does not answer."""

    def prepare(self, terms: Terms) -> None:
        """Learn what :meth:`admit` needs to know.

        Raises:
            Unreachable: the backend gives no answer.
        """

    def admit(self, candidates: Sequence[JobRequest], active: Sequence[Job], terms: Terms) -> list[JobRequest]:
        """Those of ``candidates``, in order, that may be submitted now, given the jobs that are already there.

        Called while the ledger is locked, so it asks nobody.
        """

    def render(self, request: JobRequest, terms: Terms) -> str:
        """What :meth:`submit` would execute, for people. Pure."""

    def submit(self, requests: Sequence[JobRequest], terms: Terms) -> Mapping[str, str]:
        """Start jobs; token -> job id. Submitting a token twice starts one job.

        A token without an id was not taken, for want of room, and never will be under this token.

        Raises:
            Refused: the backend said no to some or all of the requests.
            Unreachable: the backend gave no answer; :meth:`poll` will tell which jobs it has.
        """

    def poll(self, jobs: Sequence[Job]) -> Mapping[str, Sighting]:
        """Token -> what is seen of every job, by a constant number of questions to the scheduler."""

    def cancel(self, jobs: Sequence[Job]) -> None:
        """Ask jobs to checkpoint and stop. Returns at once; safe to repeat."""

    def revoke(self, job: Job) -> bool:
        """Make sure that a job which seems absent can never start (again). False if it has started after all."""

    def log_path(self, job: Job) -> Path | None:
        """Where what the backend started for the job prints, outside of any attempt; None if there is nothing yet."""

    def dashboards(self, jobs: Sequence[Job]) -> Mapping[str, str]:
        """Addresses of web pages that show these jobs -> what they ask of the reader. Asks nobody."""

    def problems(self, shape: JobShape, terms: Terms) -> list[str]:
        """Why jobs of this shape can never run here, one sentence each; empty if they can."""
