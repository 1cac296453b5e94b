"""The ``ray`` backend: each submission is one Ray job, found again by its id, with a manifest of the runs in it."""

from __future__ import annotations

import logging
import shlex
import socket
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

from orchestrator.backends.backoff import Backoff
from orchestrator.backends.base import (
    Backend,
    Job,
    JobRequest,
    JobShape,
    Refused,
    Sighting,
    Terms,
    Unreachable,
    run_id_of,
    submission_of,
)
from orchestrator.backends.ray import demands, own_cluster
from orchestrator.backends.ray.board import Board, TrialNote
from orchestrator.backends.ray.clusters import Cluster, find_cluster, find_local_cluster
from orchestrator.backends.ray.environment import (
    entrypoint,
    environment_problems,
    python_of,
    runtime_env_of,
    variables_of,
)
from orchestrator.backends.ray.manifest import (
    Manifest,
    TrialOptions,
    manifest_path,
    submission_dir,
)
from orchestrator.backends.ray.states import RayJob, meaning
from orchestrator.experiment.schema import Ray
from orchestrator.launch.attempts import wait_for_writer
from orchestrator.retry import RetryBudgets
from orchestrator.state import Cause, JobState
from orchestrator.studies import search_section
from orchestrator.workspace import Workspace
from trainers.rundir import RunDir

logger = logging.getLogger(__name__)

#: Seconds for which a submission that gets no answer is sent again. A cluster that has just begun takes no job yet.
_PATIENCE_S = 20.0
_PAUSE_S = 0.5
#: Seconds beyond the grace in which the launchers of a job that is over write how it ended.
_CLOSING_S = 15.0
#: Seconds for which a cluster may be silent before its jobs are taken for gone.
_SILENCE_DEADLINE_S = 600.0


def create(workspace: Workspace) -> Backend:
    """The backend of the cluster that the options or the environment name, or of one on this machine."""
    return RayBackend(workspace.path)


@dataclass(frozen=True)
class _Place:
    """A submission, and the cluster that carries it."""

    manifest: Manifest
    cluster: Cluster


@dataclass
class _Silence:
    """That a cluster does not answer.

    Attributes:
        since: on the monotonic clock.
        why: the sentence for people.
    """

    backoff: Backoff = field(default_factory=Backoff)
    since: float = 0.0
    why: str = ""


class RayBackend:
    """Submits Ray jobs. Those of a workspace are in ``<workspace>/ray``, one folder a submission.

    Args:
        given_up_after_s: seconds of silence after which a cluster counts as gone.
    """

    name = "ray"
    #: The head of a cluster answers for all its jobs, and knows each as soon as it has taken it.
    absence_deadline_s = 30.0
    needs_controller = False
    runs_here = False

    def __init__(self, workspace: Path, given_up_after_s: float = _SILENCE_DEADLINE_S) -> None:
        self.workspace = workspace
        self._given_up_after_s = given_up_after_s
        self._places: dict[str, _Place] = {}
        self._silences: dict[str, _Silence] = {}
        self._revoked: set[str] = set()
        self._asked_to_stop: dict[str, float] = {}
        self._num_jobs = 0

    @property
    def poll_interval_s(self) -> float:
        """Seconds until the next look at the jobs."""
        # One cluster that is silent does not keep us from looking at the others.
        pauses = [silence.backoff.remaining_s for silence in self._silences.values()]
        return max(min(pauses, default=0.0), min(10.0, 1.0 + self._num_jobs / 1000))

    # --- before submitting ------------------------------------------------------------------------------------------

    def problems(self, shape: JobShape, terms: Terms) -> list[str]:
        options = _options(terms)
        found = environment_problems(options)
        cluster = self._find(options)
        if cluster is None:
            return found + demands.problems([own_cluster.node()], shape, options)
        api = cluster.api
        found += demands.problems(api.nodes(), shape, options)
        if python_of(options) == sys.executable and (there := api.ray_version()) != version("ray"):
            found.insert(
                0,
                f"the Ray cluster at {cluster.address} runs Ray {there}, and this installation has {version('ray')}; "
                "install the same one here, or name a Python of the cluster as backend.python",
            )
        return found

    def prepare(self, terms: Terms) -> None:
        self._cluster(_options(terms)).api.ray_version()

    def _find(self, options: Ray) -> Cluster | None:
        return find_cluster(options.address) or own_cluster.find(self.workspace) or find_local_cluster()

    def _cluster(self, options: Ray) -> Cluster:
        """The cluster for a new submission, started on this machine if there is none."""
        return self._find(options) or own_cluster.start(self.workspace)

    def admit(self, candidates: Sequence[JobRequest], active: Sequence[Job], terms: Terms) -> list[JobRequest]:
        limit = _options(terms).max_parallel
        if limit is None:
            return list(candidates)
        num_active = sum(self._experiment_of(job.token) in (terms.experiment, "") for job in active)
        # A driver keeps the limit over the runs of its own submission, however many they are.
        return list(candidates)[: len(candidates) if num_active == 0 else max(0, limit - num_active)]

    def _experiment_of(self, token: str) -> str:
        """The experiment of a job; empty while its controller has written no manifest yet."""
        place = self._place(token)
        return "" if place is None else place.manifest.experiment

    def render(self, request: JobRequest, terms: Terms) -> str:
        manifest, options = self._manifest([request], terms), _options(terms)
        variables = " ".join(f"{name}={shlex.quote(value)}" for name, value in variables_of(options).items())
        return f"# Ray job {manifest.submission_id}\n{variables} {entrypoint(manifest, options)}"

    def _manifest(self, requests: Sequence[JobRequest], terms: Terms) -> Manifest:
        options = _options(terms)
        return Manifest(
            workspace=self.workspace,
            experiment=terms.experiment,
            submission=submission_of(requests[0].token),
            namespace=options.namespace,
            options=TrialOptions(
                grace_s=options.grace_s,
                strategy=options.strategy,
                runs_per_gpu=options.runs_per_gpu,
                bundle=options.bundle,
                interface=options.interface,
            ),
            budgets=RetryBudgets.of(terms.retries),
            shapes={request.run_id: request.shape for request in requests},
            reset_at={request.run_id: request.reset_at for request in requests if request.reset_at},
            max_parallel=options.max_parallel,
            search=search_section(
                terms.search, terms.studies, {request.run_id for request in requests}, self.workspace
            ),
            created=time.time(),
        )

    # --- submitting -------------------------------------------------------------------------------------------------

    def submit(self, requests: Sequence[JobRequest], terms: Terms) -> Mapping[str, str]:
        if not requests:
            return {}
        options = _options(terms)
        place = self._place(requests[0].token)
        if place is None:
            place = _Place(self._manifest(requests, terms), self._cluster(options))
            # The manifest comes last: where it lies, the cluster is known that has the job, or may have it.
            place.cluster.write(cluster_path(self.workspace, place.manifest.submission))
            place.manifest.write()
        self._send(place, options)
        return {request.token: place.manifest.submission_id for request in requests}

    @staticmethod
    def _send(place: _Place, options: Ray) -> None:
        """Submit the job, again and again while the cluster does not take it: its id makes that one job."""
        manifest, api = place.manifest, place.cluster.api
        metadata = {
            "experiment": manifest.experiment,
            "workspace": str(manifest.workspace),
            "runs": str(len(manifest.shapes)),
        }
        give_up_at = time.monotonic() + _PATIENCE_S
        while True:
            try:
                api.submit(manifest.submission_id, entrypoint(manifest, options), runtime_env_of(options), metadata)
                return
            except Unreachable:
                if time.monotonic() > give_up_at:
                    raise
            time.sleep(_PAUSE_S)

    # --- looking ----------------------------------------------------------------------------------------------------

    def poll(self, jobs: Sequence[Job]) -> Mapping[str, Sighting]:
        self._num_jobs = len(jobs)
        places = {job.token: self._place(job.token) for job in jobs}
        present = {place.manifest.submission: place for place in places.values() if place is not None}
        clusters = {place.cluster for place in present.values()}
        answers = {cluster: self._ask(cluster) for cluster in clusters if not cluster.is_over}
        boards = {submission: Board.read(place.manifest.board_path) for submission, place in present.items()}
        sightings = {}
        for job in jobs:
            place = places[job.token]
            if place is None:  # what has no manifest has never been submitted
                sightings[job.token] = self._unless_stopped(job, Sighting(JobState.ABSENT))
                continue
            manifest, answer = place.manifest, answers.get(place.cluster)
            if isinstance(answer, str):
                seen = Sighting(JobState.UNKNOWN, job.job_id, note=answer)
            else:
                over = RayJob(manifest.submission_id, "FAILED", "the Ray cluster on this machine has ended")
                ray_job = over if answer is None else answer.get(manifest.submission_id)
                seen = _sighting(job, manifest, ray_job, boards[manifest.submission].trials.get(run_id_of(job.token)))
            sightings[job.token] = self._unless_stopped(job, seen)
        return sightings

    def _ask(self, cluster: Cluster) -> Mapping[str, RayJob] | str:
        """Submission id -> job on that cluster, by one question; a sentence if there is no answer.

        A cluster that has been silent for long counts as gone, with its jobs: those that live are believed all the
        same, and no other can start once it is revoked.
        """
        if cluster.other_host:
            return f"its Ray cluster was started on {cluster.other_host}, and can only be seen from there"
        silence = self._silences.setdefault(cluster.address, _Silence())
        if silence.backoff.remaining_s > 0:
            return silence.why
        try:
            found = cluster.api.jobs()
        except (Unreachable, Refused) as problem:
            silence.why = str(problem)
            if silence.backoff.failed():
                silence.since = time.monotonic()
                logger.warning("%s; asked again later", problem)
            if isinstance(problem, Unreachable) and time.monotonic() - silence.since > self._given_up_after_s:
                return {}
            return silence.why
        if silence.backoff.succeeded():
            logger.warning("the Ray cluster at %s answers again", cluster.address)
        return found

    def _unless_stopped(self, job: Job, seen: Sighting) -> Sighting:
        """What is seen of a job; its end, if nothing can start for it any more, whatever the cluster says or does not.

        No launcher starts for what is revoked, or where the user's request to stop stands.
        """
        if seen.state is JobState.ENDED:
            return seen
        if job.token in self._revoked:
            return Sighting(JobState.ENDED, seen.job_id or job.job_id, Cause.CANCELLED, "cancelled while it waited")
        asked = self._asked_to_stop.get(job.token)
        if asked is None or time.monotonic() < asked + _CLOSING_S or _has_open_attempt(job):
            return seen
        return Sighting(JobState.ENDED, seen.job_id or job.job_id, Cause.CANCELLED, "cancelled")

    def _place(self, token: str) -> _Place | None:
        """The submission that carries a token; None if it has no manifest."""
        submission = submission_of(token)
        if submission not in self._places:
            path = manifest_path(self.workspace, submission)
            if not path.exists():
                return None
            cluster = Cluster.read(cluster_path(self.workspace, submission))
            if cluster is None:
                raise ValueError(f"{path.parent} does not say which cluster has its job")
            self._places[submission] = _Place(Manifest.read(path), cluster)
        return self._places[submission]

    def log_path(self, job: Job) -> Path | None:
        launcher_log = job.run_dir / "launcher.log"
        if RunDir(job.run_dir).read_claim(job.token) is not None and launcher_log.exists():
            return launcher_log
        place = self._place(job.token)
        return place.manifest.driver_log_path if place and place.manifest.driver_log_path.exists() else None

    def dashboards(self, jobs: Sequence[Job]) -> Mapping[str, str]:
        places = [self._place(job.token) for job in jobs]
        clusters = {place.cluster for place in places if place is not None and not place.cluster.is_over}
        return {
            cluster.address: f"asks for the token in {cluster.token}" if cluster.token else "" for cluster in clusters
        }

    # --- stopping ---------------------------------------------------------------------------------------------------

    def cancel(self, jobs: Sequence[Job]) -> None:
        for job in jobs:
            if job.token in self._revoked:
                continue
            run_dir = RunDir(job.run_dir)
            path = run_dir.stop_path(job.token)
            if not path.exists():
                path.parent.mkdir(parents=True, exist_ok=True)
                path.touch()
            self._asked_to_stop.setdefault(job.token, time.monotonic())
            # What has not begun never will: nobody needs to wait until its driver comes to it.
            run_dir.revoke(job.token, socket.gethostname())
            claim = run_dir.read_claim(job.token)
            if claim is not None and claim.is_revocation:
                self._revoked.add(job.token)

    def revoke(self, job: Job) -> bool:
        run_dir = RunDir(job.run_dir)
        if not run_dir.revoke(job.token, socket.gethostname()):
            run_dir.stop_path(job.token).touch()
        return True


def cluster_path(workspace: Path, submission: str) -> Path:
    """The note of which cluster carries a submission."""
    return submission_dir(workspace, submission) / "cluster.json"


def _sighting(job: Job, manifest: Manifest, ray_job: RayJob | None, trial: TrialNote | None) -> Sighting:
    means = meaning(ray_job, trial)
    if means.state is JobState.ABSENT:
        return Sighting(JobState.ABSENT, job.job_id)
    if means.state is JobState.ENDED:
        ends = [ray_job.ended if ray_job is not None else None, trial.since if trial is not None else None]
        over_since = max((end for end in ends if end is not None), default=0.0)
        if _has_launchers(job, over_since + manifest.options.grace_s + _CLOSING_S):
            return Sighting(JobState.RUNNING, manifest.submission_id, note="its launchers save their state")
    return Sighting(means.state, manifest.submission_id, means.cause, means.note)


def _has_launchers(job: Job, deadline: float) -> bool:
    """Whether launchers of a job that is over may still be at work.

    Args:
        deadline: seconds since the Unix epoch, until which they are given time to write how the attempt ended. Beyond
            it only a trainer counts that is seen to write.
    """
    return _has_open_attempt(job) and (time.time() < deadline or not wait_for_writer(RunDir(job.run_dir), timeout_s=0))


def _has_open_attempt(job: Job) -> bool:
    """Whether the job's newest attempt has not been closed."""
    run_dir = RunDir(job.run_dir)
    for number in reversed(run_dir.attempt_numbers()):
        record = run_dir.read_attempt(number)
        if record is not None and record.token == job.token:
            return record.ended is None
    return False


def _options(terms: Terms) -> Ray:
    if not isinstance(terms.options, Ray):
        raise TypeError(f"options of backend {terms.options.name} given to backend ray")
    return terms.options
