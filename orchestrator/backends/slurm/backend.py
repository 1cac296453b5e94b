"""The ``slurm`` backend: jobs are elements of arrays, found again by the names of their arrays and by manifests."""

from __future__ import annotations

import os
import socket
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from orchestrator.backends.base import (
    Backend,
    Job,
    JobRequest,
    JobShape,
    Refused,
    Sighting,
    Terms,
    Unreachable,
    submission_of,
)
from orchestrator.backends.slurm import commands, demands
from orchestrator.backends.slurm.arrays import Array, arrays_of, divide, element_shape, free_slots, to_list
from orchestrator.backends.slurm.commands import CommandFailed
from orchestrator.backends.slurm.facts import ClusterFacts, ask_cluster
from orchestrator.backends.slurm.manifest import (
    ContainerOptions,
    JobOptions,
    Manifest,
    manifest_path,
    submission_dir,
)
from orchestrator.backends.slurm.queue import Answer, Element, Queue
from orchestrator.backends.slurm.script import NoRoom, Refusal, batch_script, python_of, refusal_of, send
from orchestrator.backends.slurm.throttles import Throttles, alone
from orchestrator.experiment.schema import Slurm
from orchestrator.retry import RetryBudgets
from orchestrator.state import Cause, JobState
from orchestrator.workspace import Workspace
from trainers.rundir import RunDir

#: After SLURM said that there is no room, nothing is submitted for so long.
_NO_ROOM_PAUSE_S = 30.0
#: Seconds that scancel has: a signal is sent at once, but scancel may repeat it for minutes (see `_signal`).
_SCANCEL_TIMEOUT_S = 10.0
#: Array ids with their indices that go into one call of scancel.
_IDS_PER_CALL = 500


def create(workspace: Workspace) -> Backend:
    """The backend of the cluster that SLURM's programs lead to."""
    return SlurmBackend(workspace.path)


class SlurmBackend:
    """Submits job arrays. The arrays of a workspace are in ``<workspace>/slurm``, one folder a submission."""

    name = "slurm"
    #: Accounting lags by seconds to a minute, and slurmctld forgets nothing that it still works on.
    absence_deadline_s = 120.0
    needs_controller = False
    runs_here = False

    def __init__(self, workspace: Path) -> None:
        self.workspace = workspace
        self._queue = Queue()
        self._throttles = Throttles(workspace)
        self._asked_facts: ClusterFacts | None = None
        self._places: dict[str, tuple[Manifest, int]] = {}
        self._no_room_until = 0.0

    @property
    def poll_interval_s(self) -> float:
        """Seconds until the next look at the jobs."""
        return self._queue.poll_interval_s

    def _facts(self) -> ClusterFacts:
        if self._asked_facts is None:
            try:
                self._asked_facts = ask_cluster()
            except CommandFailed as failure:
                raise Unreachable(f"SLURM does not answer ({failure}); `sweep doctor --backend slurm` says more") from (
                    failure
                )
        return self._asked_facts

    # --- before submitting ------------------------------------------------------------------------------------------

    def problems(self, shape: JobShape, terms: Terms) -> list[str]:
        options = _options(terms)
        found = []
        if any(character in str(self.workspace) for character in "%\\"):
            found.append(
                f"workspace {self.workspace} has a % or a backslash in its path, which SLURM replaces in the names of "
                "log files; use another folder"
            )
        if "clusters" in options.sbatch:
            found.append("backend.sbatch.clusters sends jobs out of sight; submit on a login node of that cluster")
        full = Array(shape, (tuple([_request_of(shape)] * (options.runs_per_job if shape.nodes == 1 else 1)),))
        return found + demands.problems(self._facts(), element_shape(full, options.runs_per_gpu), options)

    def prepare(self, terms: Terms) -> None:
        self._facts()

    def admit(self, candidates: Sequence[JobRequest], active: Sequence[Job], terms: Terms) -> list[JobRequest]:
        options = _options(terms)
        if time.monotonic() < self._no_room_until:
            return []
        admitted = list(candidates)
        limit = demands.submit_limit(self._facts(), options)
        if limit is not None:
            num_active = len({self._element(job.token) or job.token for job in active})
            admitted = admitted[: max(0, limit - num_active) * options.runs_per_job]
        if options.max_parallel is None:
            return admitted
        arrays = self._arrays(admitted, options)
        num_arrays = self._throttles.room_for_arrays(terms.experiment, options.max_parallel, len(arrays))
        let_in = {request.token for array in arrays[:num_arrays] for request in array.requests}
        return [request for request in admitted if request.token in let_in]

    def render(self, request: JobRequest, terms: Terms) -> str:
        array = Array(request.shape, ((request,),))
        return self._script(self._manifest(array, 0, terms), array, _options(terms), None)

    def _arrays(self, requests: Sequence[JobRequest], options: Slurm) -> list[Array]:
        return arrays_of(requests, runs_per_job=options.runs_per_job, max_elements=max(1, self._facts().max_elements()))

    def _manifest(self, array: Array, number: int, terms: Terms) -> Manifest:
        options = _options(terms)
        return Manifest(
            workspace=self.workspace,
            experiment=terms.experiment,
            submission=submission_of(array.elements[0][0].token),
            number=number,
            shape=array.shape,
            options=_job_options(options),
            budgets=RetryBudgets.of(terms.retries),
            elements=tuple(tuple(request.token for request in element) for element in array.elements),
            reset_at={request.run_id: request.reset_at for request in array.requests if request.reset_at},
            created=time.time(),
            max_parallel=options.max_parallel,
        )

    @staticmethod
    def _script(manifest: Manifest, array: Array, options: Slurm, throttle: int | None) -> str:
        return batch_script(manifest, element_shape(array, options.runs_per_gpu), options, throttle)

    # --- submitting -------------------------------------------------------------------------------------------------

    def submit(self, requests: Sequence[JobRequest], terms: Terms) -> Mapping[str, str]:
        if not requests:
            return {}
        if manifest_path(self.workspace, submission_of(requests[0].token), 0).exists():
            return self._found_again(requests)
        options = _options(terms)
        arrays = self._arrays(requests, options)
        sizes = [len(array.elements) for array in arrays]
        if options.max_parallel is None:
            return self._send_all(arrays, sizes, terms)
        with alone(self.workspace):
            standing = self._throttles.measure(terms.experiment)
            shares = divide(free_slots(options.max_parallel, standing), sizes)
            return self._send_all(arrays, shares, terms)

    def _found_again(self, requests: Sequence[JobRequest]) -> Mapping[str, str]:
        """The ids of jobs that were sent before, or may have been: nothing is sent twice."""
        sightings = self._look([request.token for request in requests])
        job_ids = {token: sighting.job_id for token, sighting in sightings.items() if sighting.job_id}
        if len(job_ids) < len(requests):
            raise Unreachable("these jobs may have been submitted before, and SLURM does not know them yet")
        return job_ids

    def _send_all(self, arrays: Sequence[Array], shares: Sequence[int], terms: Terms) -> Mapping[str, str]:
        job_ids: dict[str, str] = {}
        for number, (array, share) in enumerate(zip(arrays, shares, strict=True)):
            if share == 0:
                continue
            try:
                sent = self._send_what_fits(array, number, share, terms)
            except Refused as refusal:
                raise Refused(str(refusal), job_ids) from refusal
            job_ids.update(sent)
            if len(sent) < len(array.requests):
                self._no_room_until = time.monotonic() + _NO_ROOM_PAUSE_S
                break
        return job_ids

    def _send_what_fits(self, array: Array, number: int, share: int, terms: Terms) -> Mapping[str, str]:
        """Submit an array, or as much of its beginning as a limit that nobody told us lets in."""
        options = _options(terms)
        while True:
            size = len(array.elements)
            throttle = share if share < size else None
            manifest = self._manifest(array, number, terms)
            manifest.write()
            manifest.log_dir.mkdir(exist_ok=True)
            script_path = manifest.path.with_suffix(".sh")
            script_path.write_text(self._script(manifest, array, options, throttle))
            try:
                array_id = send(script_path)
            except NoRoom as limit:
                if size > 1:
                    array = replace(array, elements=array.elements[: size // 2])
                    continue
                if _has_jobs():
                    return {}
                # Nothing of the user's is there that could make room: it will never be taken.
                raise Refused(f"sbatch refused the jobs: {limit}") from limit
            if not array_id:
                raise Unreachable("sbatch did not print the id of the job that it submitted")
            return {
                token: f"{array_id}_{index}" for index, element in enumerate(manifest.elements) for token in element
            }

    # --- looking ----------------------------------------------------------------------------------------------------

    def poll(self, jobs: Sequence[Job]) -> Mapping[str, Sighting]:
        sightings = dict(self._look([job.token for job in jobs]))
        for job in jobs:
            seen = sightings[job.token]
            is_shared = seen.state is JobState.RUNNING and self._has_neighbours(job.token)
            if is_shared and RunDir(job.run_dir).is_complete():
                # The job goes on for the other runs of its element; this one has nothing more to do in it.
                sightings[job.token] = replace(seen, state=JobState.ENDED, cause=Cause.DONE, note="")
            elif seen.state is JobState.ABSENT and _was_stopped_early(job):
                # SLURM keeps no record of an element that was cancelled before it ever started.
                sightings[job.token] = Sighting(JobState.ENDED, job.job_id, Cause.CANCELLED, "cancelled")
        manifests = {place[0].path: place[0] for job in jobs if (place := self._places.get(job.token)) is not None}
        self._throttles.adjust(manifests.values())
        return sightings

    def _look(self, tokens: Sequence[str]) -> Mapping[str, Sighting]:
        elements = {token: self._element(token) for token in tokens}
        # A job whose manifest was not written has never been submitted.
        wanted = {element for element in elements.values() if element is not None}
        since = min((self._places[token][0].created for token in tokens if token in self._places), default=0.0)
        answer: Answer = self._queue.look(wanted, since)
        return {
            token: Sighting(JobState.ABSENT) if element is None else answer.sighting(element)
            for token, element in elements.items()
        }

    def _element(self, token: str) -> Element | None:
        """Name of the array, and index, that carry a token; None if there is no manifest with it."""
        if token not in self._places:
            for path in submission_dir(self.workspace, submission_of(token)).glob("*.json"):
                manifest = Manifest.read(path)
                for index, element in enumerate(manifest.elements):
                    self._places.update((other, (manifest, index)) for other in element)
        found = self._places.get(token)
        return None if found is None else (found[0].job_name, found[1])

    def _has_neighbours(self, token: str) -> bool:
        manifest, index = self._places[token]
        return len(manifest.elements[index]) > 1

    def log_path(self, job: Job) -> Path | None:
        folder = submission_dir(self.workspace, submission_of(job.token))
        return next(folder.glob(f"*/{job.job_id}.log"), None) if job.job_id else None

    def dashboards(self, jobs: Sequence[Job]) -> Mapping[str, str]:
        return {}

    # --- stopping ---------------------------------------------------------------------------------------------------

    def cancel(self, jobs: Sequence[Job]) -> None:
        for job in jobs:
            _mark_stopped(job)
        tokens = {job.token for job in jobs}
        known = [job for job in jobs if job.job_id and self._element(job.token) is not None]
        whole = [job for job in known if tokens.issuperset(self._neighbours(job.token))]
        # An element that others wait in too finds the mark when it starts.
        _scancel("--state=PENDING", jobs=whole)
        # After that: while elements of an array wait, SLURM answers "can not be altered now" to a signal for those
        # that run, although it delivers it, and scancel sends it again and again.
        _scancel("--signal=TERM", jobs=known)

    def _neighbours(self, token: str) -> Sequence[str]:
        manifest, index = self._places[token]
        return manifest.elements[index]

    def revoke(self, job: Job) -> bool:
        if not RunDir(job.run_dir).revoke(job.token, socket.gethostname()):
            _mark_stopped(job)
            if job.job_id and self._element(job.token) is not None and not self._has_neighbours(job.token):
                _scancel(jobs=[job])
        return True


def _options(terms: Terms) -> Slurm:
    if not isinstance(terms.options, Slurm):
        raise TypeError(f"options of backend {terms.options.name} given to backend slurm")
    return terms.options


def _job_options(options: Slurm) -> JobOptions:
    container = options.container
    return JobOptions(
        python=python_of(options),
        grace_s=options.grace_s,
        requeue=options.requeue,
        runs_per_gpu=options.runs_per_gpu,
        interface=options.interface,
        container=None
        if container is None
        else ContainerOptions(container.image, container.runtime, container.mounts, container.python),
    )


def _request_of(shape: JobShape) -> JobRequest:
    return JobRequest(token="", run_id="", run_dir=Path(), shape=shape)


def _mark_stopped(job: Job) -> None:
    path = RunDir(job.run_dir).stop_path(job.token)
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def _was_stopped_early(job: Job) -> bool:
    """Whether no launcher has begun to act for the job, and none will."""
    run_dir = RunDir(job.run_dir)
    return run_dir.stop_path(job.token).exists() and run_dir.read_claim(job.token) is None


def _scancel(*options: str, jobs: Sequence[Job]) -> None:
    """Cancel or signal jobs, in one call for hundreds of arrays. Those that are over already are no error.

    Raises:
        Unreachable: SLURM does not answer.
    """
    indices: dict[str, set[int]] = defaultdict(set)
    for job in jobs:
        array_id, _, index = job.job_id.partition("_")
        indices[array_id].add(int(index))
    ids = [f"{array_id}_[{to_list(sorted(found))}]" for array_id, found in indices.items()]
    for start in range(0, len(ids), _IDS_PER_CALL):
        try:
            commands.run("scancel", *options, *ids[start : start + _IDS_PER_CALL], timeout_s=_SCANCEL_TIMEOUT_S)
        except CommandFailed as failure:
            if failure.returncode is not None and refusal_of(failure) is Refusal.NO_ANSWER:
                raise Unreachable(f"scancel got no answer from SLURM: {failure.sentence}") from failure


def _has_jobs() -> bool:
    """Whether the user has any job that waits or runs."""
    try:
        return bool(commands.run("squeue", f"--user={os.getuid()}", "--all", "--noheader", "--format=%i").strip())
    except CommandFailed:
        return True
