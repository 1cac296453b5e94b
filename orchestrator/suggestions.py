"""How suggested runs come into the ledger: the controller's part of a search. Safe to repeat, and to be killed in."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from orchestrator.backends.base import JobShape
from orchestrator.experiment import Resources
from orchestrator.ledger import ExperimentRow, JobRow, Ledger, NewRun, RunRow
from orchestrator.state import READY
from orchestrator.studies import Study, StudyDir, Suggestion
from orchestrator.workspace import Workspace

#: Seconds for which the driver of a study is given time to suggest the next run, after its last one has ended.
_PATIENCE_S = 60.0


def study_dirs(experiment: ExperimentRow, workspace: Workspace) -> list[StudyDir]:
    """The studies of an experiment as it was submitted."""
    studies = experiment.settings.get("studies", ())
    return [StudyDir(Study.from_json(study), workspace.path) for study in studies]


def adopt(
    ledger: Ledger,
    experiment: ExperimentRow,
    dirs: Sequence[StudyDir],
    owner: str,
    shape_of: Callable[[Resources], JobShape],
    now: float,
) -> None:
    """Bring suggestions that the ledger does not have into it, each with the job that carries it.

    Args:
        owner: name of this controller's process.
        now: seconds since the Unix epoch.
    """
    known = {run.run_id for run in ledger.runs(experiment.name)} if dirs else set()
    found = []
    for study_dir in dirs:
        study = study_dir.study
        for suggestion in study_dir.suggestions():
            if suggestion.run_id and suggestion.run_id not in known:
                shape = shape_of(Resources.model_validate(study.resources))
                found.append((_new_run(study, suggestion), _job(experiment.name, suggestion, shape, owner, now)))
    ledger.adopt_runs(experiment.name, found)


def _new_run(study: Study, suggestion: Suggestion) -> NewRun:
    return NewRun(
        run_id=suggestion.run_id,
        position=study.position + suggestion.number,
        axes=study.labels(suggestion.values),
        config=suggestion.config,
        resources=study.resources,
    )


def _job(experiment: str, suggestion: Suggestion, shape: JobShape, owner: str, now: float) -> JobRow | None:
    """The job of a run that a driver suggested to itself."""
    if not suggestion.token:
        return None
    return JobRow(
        token=suggestion.token,
        run_id=suggestion.run_id,
        experiment=experiment,
        backend="ray",
        job_id="",  # the backend finds it by the token
        shape=shape,
        devices=(),
        owner=owner,
        created=now,
        submitted=now,
    )


def num_missing(dirs: Sequence[StudyDir], runs: Sequence[RunRow]) -> int:
    """How many runs of the experiment are yet to be suggested, or to be adopted."""
    known = {run.run_id for run in runs} if dirs else set()
    return sum(
        len(study_dir.study.numbers) - sum(not found.run_id or found.run_id in known for found in found_of)
        for study_dir, found_of in ((study_dir, study_dir.suggestions()) for study_dir in dirs)
    )


def go_on(ledger: Ledger, dirs: Sequence[StudyDir], runs: Sequence[RunRow], now: float) -> None:
    """Have studies go on. One that lacks runs while none of its own lives has lost its driver: it gets one run more.

    Submitted like any other, this run brings a driver along, which suggests the others.
    """
    states = {run.run_id: run.state for run in runs}
    for study_dir in dirs:
        study_dir.go_on()
        found = study_dir.suggestions()
        missing = sorted(set(study_dir.study.numbers) - {suggestion.number for suggestion in found})
        run_ids = [
            *(sample.run_id for sample in study_dir.study.known),
            *(sample.run_id for sample in found if sample.run_id),
        ]
        is_moving = any(
            run_id in states and (states[run_id].is_active or states[run_id] in READY) for run_id in run_ids
        )
        if missing and not is_moving and now - _last_end(ledger, run_ids) > _PATIENCE_S:
            from orchestrator.backends.ray.searching import suggest  # it takes seconds to import

            suggest(study_dir, missing[0])


def _last_end(ledger: Ledger, run_ids: Sequence[str]) -> float:
    """When the last job of these runs ended, in seconds since the Unix epoch."""
    ends = [job.ended for jobs in ledger.jobs_of_all(run_ids).values() for job in jobs if job.ended is not None]
    return max(ends, default=0.0)
