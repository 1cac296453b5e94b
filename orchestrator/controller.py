"""The reconciler: look at jobs and run directories, decide, act, record. Every command is "record the wish, reconcile".

A pass can be killed at any line, and the next pass of any controller finishes the job.
"""

from __future__ import annotations

import logging
import time
import uuid
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from orchestrator import suggestions
from orchestrator.backends import create_backend
from orchestrator.backends.base import Backend, JobRequest, JobShape, Refused, Sighting, Terms, Unreachable
from orchestrator.experiment import Resources, Retries
from orchestrator.experiment.schema import BACKEND_OPTIONS
from orchestrator.ledger import ExperimentRow, JobRow, Ledger, RunRow, Wanted
from orchestrator.plan import Absent, Action, EndJob, Evidence, LivingJob, Move, Revoke, RunPicture, decide
from orchestrator.processes import ProcessName
from orchestrator.retry import EndedAttempt, Ending, past
from orchestrator.state import READY, Cause, JobState, RunState
from orchestrator.workspace import Workspace
from trainers.config import SCHEMA_VERSION, Evaluate
from trainers.rundir import RunDir, Status, atomic

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Snapshot:
    """The picture after a pass: what `watch` and `status` draw.

    Attributes:
        statuses: the trainer's own word, for the runs that are running.
        notes: run id -> what the backend said of its job when it was last asked, such as why it waits.
        to_suggest: runs that a search is yet to suggest.
    """

    experiment: ExperimentRow
    runs: Sequence[RunRow]
    statuses: Mapping[str, Status]
    notes: Mapping[str, str] = field(default_factory=dict)
    to_suggest: int = 0

    @property
    def is_settled(self) -> bool:
        """Whether nothing more happens without the user: no job lives, and none is to be submitted."""
        if self.to_suggest and self.experiment.wanted is Wanted.RUNNING:
            return False
        for run in self.runs:
            if run.state.is_active:
                return False
            if run.state in READY and self.experiment.wanted is Wanted.RUNNING:
                return False
        return True


class Controller:
    """Reconciles the experiments of one workspace. Any number of controllers may do so at once.

    Args:
        clock: seconds since the Unix epoch.
        backends: name -> backend, for those that are not to be made by name.
    """

    def __init__(
        self,
        ledger: Ledger,
        workspace: Workspace,
        *,
        clock: Callable[[], float] = time.time,
        backends: Mapping[str, Backend] | None = None,
    ) -> None:
        self.ledger = ledger
        self.workspace = workspace
        self._clock = clock
        self._backends: dict[str, Backend] = dict(backends or {})
        self._notes: dict[str, str] = {}
        self.owner = ProcessName.of_this().to_text()

    def backend(self, name: str) -> Backend:
        """The backend of that name, made on first use."""
        if name not in self._backends:
            self._backends[name] = create_backend(name, self.workspace)
        return self._backends[name]

    def step(self, name: str) -> Snapshot:
        """One pass over the experiment: observe, decide, act, record; then the new picture."""
        experiment = self.ledger.experiment(name)
        self._look(experiment)
        if experiment.wanted is Wanted.RUNNING:
            self._submit_ready(experiment)
        else:
            self._stop(experiment)
        return self.snapshot(name)

    def observe(self, name: str) -> Snapshot:
        """Look at the jobs and record what became of them; start and stop nothing."""
        self._look(self.ledger.experiment(name))
        return self.snapshot(name)

    def snapshot(self, name: str) -> Snapshot:
        """The picture as the ledger and the run directories have it, changing nothing."""
        runs = self.ledger.runs(name)
        statuses = {}
        for run in runs:
            if run.state is RunState.RUNNING:
                status = self.workspace.run_dir(run.run_id).read_status()
                if status is not None:
                    statuses[run.run_id] = status
        experiment = self.ledger.experiment(name)
        to_suggest = suggestions.num_missing(suggestions.study_dirs(experiment, self.workspace), runs)
        return Snapshot(experiment, runs, statuses, dict(self._notes), to_suggest)

    # --- observe and record -----------------------------------------------------------------------------------------

    def _look(self, experiment: ExperimentRow) -> None:
        dirs = suggestions.study_dirs(experiment, self.workspace)
        suggestions.adopt(self.ledger, experiment, dirs, self.owner, job_shape, self._clock())
        self._settle_jobs(experiment)

    def _settle_jobs(self, experiment: ExperimentRow) -> None:
        jobs = self.ledger.living_jobs(experiment.name)
        sightings = self._poll(jobs)
        self._notes = {job.run_id: sightings[job.token].note for job in jobs if sightings[job.token].note}
        # Its controller died before it could note the id, or the backend knows a better one by now.
        self.ledger.jobs_submitted(
            {
                job.token: sighting.job_id
                for job, sighting in ((job, sightings[job.token]) for job in jobs)
                if sighting.state in (JobState.PENDING, JobState.RUNNING)
                and (job.submitted is None or sighting.job_id != job.job_id)
            }
        )
        runs = self.ledger.states([job.run_id for job in jobs])
        retries = Retries.model_validate(experiment.settings["retries"])
        # The files are only read where they decide something: there may be ten thousand jobs that wait.
        over = [job for job in jobs if sightings[job.token].state in (JobState.ENDED, JobState.ABSENT)]
        reset_at = {run.run_id: run.reset_at for run in self.ledger.runs(experiment.name)} if over else {}
        jobs_of = self.ledger.jobs_of_all([job.run_id for job in over])
        # One controller owns thousands of jobs: the kernel is asked about it once.
        living_owners = {owner for owner in {job.owner for job in jobs} if is_owner_alive(owner)}
        decided: list[tuple[JobRow, Sequence[Action]]] = []
        for job in jobs:
            evidence, history = Evidence(), []
            if job.run_id in jobs_of:
                evidence = self._evidence(job)
                history = self._history(job, evidence, jobs_of[job.run_id], reset_at[job.run_id])
            living = self._living(job, sightings[job.token], is_owner_alive=job.owner in living_owners)
            picture = RunPicture(job.run_id, runs[job.run_id], evidence, living, history)
            decided.append((job, decide(picture, retries, self.backend(job.backend).absence_deadline_s)))
        self._record(decided)

    def _poll(self, jobs: Sequence[JobRow]) -> dict[str, Sighting]:
        by_backend: dict[str, list[JobRow]] = defaultdict(list)
        for job in jobs:
            by_backend[job.backend].append(job)
        sightings = {job.token: Sighting(JobState.UNKNOWN, job.job_id) for job in jobs}
        for name, group in by_backend.items():
            sightings.update(self.backend(name).poll([job.as_job(self._path(job)) for job in group]))
        return sightings

    def _history(
        self, job: JobRow, evidence: Evidence, jobs_of_run: Sequence[JobRow], reset_at: float
    ) -> list[EndedAttempt]:
        """The run's earlier attempts that budgets count, oldest first; those that never began stand in the ledger."""
        records = RunDir(self._path(job)).read_attempts(since=reset_at)
        earlier = [record for record in records if evidence.attempt is None or record.number < evidence.attempt.number]
        jobs = {row.token: row for row in jobs_of_run}
        stopped = {token for token, row in jobs.items() if row.stop_requested}
        dated = [(record.started, ended) for record, ended in zip(earlier, past(earlier, stopped), strict=True)]
        begun = {record.token for record in records}
        dated += [
            (row.created, EndedAttempt(Cause(row.cause), 0, 0, row.stop_requested))
            for row in jobs.values()
            if row.token not in begun and row.created >= reset_at and row.cause not in ("", Cause.LOST, Cause.CANCELLED)
        ]
        return [ended for _, ended in sorted(dated, key=lambda entry: entry[0])]

    def _evidence(self, job: JobRow) -> Evidence:
        run_dir = RunDir(self._path(job))
        attempt = None
        for number in reversed(run_dir.attempt_numbers()):
            record = run_dir.read_attempt(number)
            if record is not None and record.token == job.token:
                attempt = record
                break
        has_result = run_dir.is_complete()
        is_asked_more = has_result and self._is_asked_more(job.run_id, run_dir)
        status = run_dir.read_status()
        silent_s = None if status is None else self._clock() - status.heartbeat
        early = run_dir.read_early_stop()
        ended_early = early.sentence if early is not None and early.token == job.token else ""
        return Evidence(has_result, is_asked_more, attempt, status, silent_s, ended_early)

    def _is_asked_more(self, run_id: str, run_dir: RunDir) -> bool:
        """Whether the user has asked for another evaluation since the job was given its spec."""
        result, config = run_dir.read_result(), self.ledger.configs([run_id])[run_id]
        return result is not None and not result.holds(_protocols(config))

    def _living(self, job: JobRow, sighting: Sighting, *, is_owner_alive: bool) -> LivingJob:
        now = self._clock()
        return LivingJob(
            token=job.token,
            state=sighting.state,
            age_s=now - job.created,
            is_submitted=job.submitted is not None,
            is_owner_alive=is_owner_alive,
            absent_s=None if job.absent_since is None else now - job.absent_since,
            stop_requested=job.stop_requested,
            seen=None if sighting.cause is None else Ending(sighting.cause, sighting.note),
        )

    def _record(self, decided: Sequence[tuple[JobRow, Sequence[Action]]]) -> None:
        """Write what was decided, all of one kind at once: thousands of jobs may be cancelled together."""
        moves: list[Move] = []
        absences: dict[str, float | None] = {}
        ends: list[EndJob] = []
        for job, actions in decided:
            for action in actions:
                match action:
                    case Move():
                        moves.append(action)
                    case Absent(token, seconds):
                        absences[token] = None if seconds is None else self._clock() - seconds
                    case Revoke(end):
                        if self.backend(job.backend).revoke(job.as_job(self._path(job))):
                            ends.append(end)
                    case EndJob():
                        ends.append(action)
        self.ledger.jobs_absent(absences)
        self.ledger.move_all(moves)
        ended = self.ledger.end_jobs(ends)
        for end in ends:
            if end.token in ended and end.cause is not Cause.DONE:
                logger.info("run %s: attempt ended (%s): %s", end.run_id, end.cause, end.detail)

    # --- act --------------------------------------------------------------------------------------------------------

    def _submit_ready(self, experiment: ExperimentRow) -> None:
        dirs = suggestions.study_dirs(experiment, self.workspace)
        if dirs:
            suggestions.go_on(self.ledger, dirs, self.ledger.runs(experiment.name), self._clock())
        ready = [run for run in self.ledger.runs(experiment.name) if run.state in READY]
        if not ready:
            return
        terms = Terms(
            experiment=experiment.name,
            options=BACKEND_OPTIONS.validate_python(experiment.settings["backend"]),
            retries=Retries.model_validate(experiment.settings["retries"]),
            search=experiment.settings.get("search"),
            studies=tuple(study_dir.study for study_dir in dirs),
        )
        backend = self.backend(terms.options.name)
        backend.prepare(terms)
        submission = uuid.uuid4().hex[:12]
        candidates = [
            JobRequest(
                token=f"{run.run_id}-{submission}",
                run_id=run.run_id,
                run_dir=self.workspace.run_dir(run.run_id).path,
                shape=job_shape(Resources.model_validate(run.resources)),
                reset_at=run.reset_at,
            )
            for run in ready
        ]
        admitted = self.ledger.open_jobs(
            experiment=experiment.name,
            backend=backend.name,
            candidates=candidates,
            admit=partial(backend.admit, terms=terms),
            owner=self.owner,
        )
        if not admitted:
            return
        configs = self.ledger.configs([request.run_id for request in admitted])
        write_specs(
            {RunDir(request.run_dir): configs[request.run_id] for request in admitted},
            experiment.provenance,
            self.workspace.source_diff_of(experiment.provenance),
        )
        tokens = {request.token for request in admitted}
        # Any other error leaves intents without a job: a later pass finds them absent, revokes and plans them again.
        try:
            job_ids = backend.submit(admitted, terms)
        except Refused as refusal:
            self.ledger.jobs_submitted(refusal.job_ids)
            self.ledger.withdraw_jobs(tokens - set(refusal.job_ids))
            raise
        self.ledger.jobs_submitted(job_ids)
        self.ledger.withdraw_jobs(tokens - set(job_ids))

    def _stop(self, experiment: ExperimentRow) -> None:
        for study_dir in suggestions.study_dirs(experiment, self.workspace):
            study_dir.pause()
        jobs = [job for job in self.ledger.living_jobs(experiment.name) if job.experiment == experiment.name]
        by_backend: dict[str, list[JobRow]] = defaultdict(list)
        for job in jobs:
            by_backend[job.backend].append(job)
        for name, group in by_backend.items():
            self.backend(name).cancel([job.as_job(self._path(job)) for job in group])
        # Marked after the signal was sent: a controller that dies in between sends it again.
        self.ledger.request_stop([job.token for job in jobs if not job.stop_requested])
        if experiment.wanted is Wanted.CANCELLED:
            wanted_elsewhere = self.ledger.wanted_by_others(experiment.name)
            self.ledger.move_all(
                Move(run.run_id, RunState.CANCELLED, "cancelled by the user")
                for run in self.ledger.runs(experiment.name)
                if run.state in READY and run.run_id not in wanted_elsewhere
            )

    def _path(self, job: JobRow) -> Path:
        return self.workspace.run_dir(job.run_id).path


def job_shape(resources: Resources) -> JobShape:
    """What a run's ``resources`` section asks of a backend."""
    return JobShape(
        nodes=resources.nodes,
        processes=resources.processes,
        cpus=resources.cpus_per_node,
        gpus=resources.gpus_per_node,
        memory_mb=resources.memory_mb,
        time_s=resources.time_s,
    )


def write_specs(
    configs: Mapping[RunDir, Mapping[str, Any]], origin: Mapping[str, Any], source_diff: Path | None = None
) -> None:
    """Write ``spec.json`` before the first job of each run, and beside it how the source differs from its commit.

    A later submission may only change what is outside the identity (where the data lies, what is evaluated); the file
    is then replaced, because a job must not look for data where it no longer is.
    """
    files = {}
    for run_dir, config in configs.items():
        present = run_dir.read_spec()
        if present is not None and present["config"] == config:
            continue
        run_dir.path.mkdir(parents=True, exist_ok=True)
        if source_diff is None:
            run_dir.source_diff_path.unlink(missing_ok=True)
        else:
            atomic.share(source_diff, run_dir.source_diff_path)
        spec = {
            "schema_version": SCHEMA_VERSION,
            "run_id": run_dir.path.name,
            "config": config,
            "protocols": _protocols(config),
            "provenance": origin,
        }
        files[run_dir.spec_path] = atomic.json_lines_bytes(spec)
    atomic.write_all(files)


def _protocols(config: Mapping[str, Any]) -> dict[str, str]:
    return Evaluate.model_validate(config["evaluate"]).protocols()


def is_owner_alive(owner: str) -> bool:
    """Whether the controller may still live. One on another host is out of sight and gets the benefit of the doubt."""
    process = ProcessName.from_text(owner)
    return not process.is_here or process.is_alive


def watch(
    controller: Controller, name: str, *, on_step: Callable[[Snapshot], None], is_interrupted: Callable[[], bool]
) -> Snapshot:
    """Reconcile until nothing more happens without the user. The only place that sleeps.

    Args:
        on_step: called with the picture after each pass.
        is_interrupted: asked after each pass; True pauses the experiment, and the watch goes on until its jobs have
            saved their state and left.
    """
    backend = controller.backend(controller.ledger.experiment(name).settings["backend"]["name"])
    is_reachable = True
    while True:
        if is_interrupted() and controller.ledger.experiment(name).wanted is Wanted.RUNNING:
            controller.ledger.want(name, Wanted.PAUSED)
        try:
            snapshot = controller.step(name)
            is_reachable = True
        except Unreachable as problem:
            if is_reachable:  # said once, however long it lasts
                logger.warning("%s; trying again", problem)
            is_reachable = False
            snapshot = controller.snapshot(name)
        on_step(snapshot)
        if snapshot.is_settled:
            return snapshot
        time.sleep(backend.poll_interval_s)
