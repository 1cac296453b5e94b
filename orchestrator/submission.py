"""From a valid experiment to wishes in the ledger: the checks that need this machine, then one registration.

Everything that can be known to be wrong is said before anything is written; afterwards the reconciler does the rest.
"""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from orchestrator.backends.base import Backend, JobShape, Terms
from orchestrator.controller import Controller, job_shape
from orchestrator.data_check import DataProblem, read_data
from orchestrator.errors import EnvironmentProblem, InputError
from orchestrator.experiment import Cell, Experiment
from orchestrator.ledger import JobRow, Ledger, NewRun
from orchestrator.provenance import Origin, origin
from orchestrator.spec import RunSpec, with_absolute_paths
from orchestrator.state import RunState
from orchestrator.studies import Study, StudyDir, position_of, studies_of
from orchestrator.workspace import Workspace
from trainers.config import Balanced, Data, Full, ListFile, LongTailed, RunConfig
from trainers.rundir import RunDir, atomic

#: Images of the rarest digit in the pool: a profile with this imbalance leaves every class an image.
_DIGITS_IN_SMALLEST_CLASS = 124


@dataclass(frozen=True)
class Submission:
    """What a submission found: how many runs are new, and where the others were already.

    Attributes:
        num_to_evaluate: runs that are trained, and of which a protocol is asked for that they were not evaluated by.
    """

    name: str
    num_runs: int
    num_new: int
    num_completed: int
    num_to_evaluate: int
    num_failed: int


def check(experiment: Experiment, backend: Backend) -> None:
    """Everything that this machine can tell to be wrong, before anything is written.

    Raises:
        InputError: a data set is not where the file says.
        EnvironmentProblem: the backend can never run these jobs.
    """
    cells = experiment.cells()
    _check_backend(experiment, cells, backend)
    if backend.runs_here:
        _check_packages(experiment, cells)
    _check_data_exists(experiment, cells)


def check_data(experiment: Experiment, workspace: Workspace) -> None:
    """Read the data sets as the runs will, and decode them into the cache that the runs share.

    For backends that run on this machine; elsewhere each run says the same when it starts.

    Raises:
        InputError: an image is damaged, a class has too few images, or the layout is not one of those documented.
        EnvironmentProblem: the check itself could not be carried out.
    """
    asked: dict[str, tuple[Cell, int]] = {}
    for cell in experiment.cells():
        for number, data in enumerate(_data_sets(cell.config)):
            if not _always_works(data):
                asked.setdefault(data.model_dump_json(), (cell, number))
    if not asked:
        return
    cells = list(asked.values())
    folder = Path.cwd()
    sections = [_data_sets(RunSpec.of(cell.config, {}, folder).config)[number] for cell, number in cells]
    answer = read_data(sections, workspace.cache_dir)
    if not isinstance(answer, DataProblem):
        return
    cell, number = cells[answer.number]
    if number:
        raise InputError(f"{experiment.position_of('evaluate.transfer', None)}: {answer.text}")
    value: object = cell.config
    for name in answer.option.split("."):
        value = getattr(value, name, None)
    raise InputError(f"{experiment.position_of(answer.option, value)}: {answer.text}")


def _data_sets(config: RunConfig) -> list[Data]:
    """What a run reads: its own data set first, then those that it is evaluated on, whole."""
    transfers = (Data(name=other.name, root=other.root, profile=Full()) for other in config.evaluate.transfer)
    return [config.data, *transfers]


def _always_works(data: Data) -> bool:
    """Whether this selection from the digits, which come with the installation, needs no check (it costs seconds)."""
    whole = data.name == "digits" and not data.holdout_per_class and data.class_list is None
    match data.profile:
        case Full() | Balanced(size=None, match_imbalance=None, match=None):
            return whole
        case LongTailed(imbalance=imbalance, size=None) | Balanced(size=None, match_imbalance=float(imbalance)):
            return whole and imbalance <= _DIGITS_IN_SMALLEST_CLASS
    return False


def submit(experiment: Experiment, controller: Controller) -> Submission:
    """Record that these runs are wanted. Submitting twice is the same as submitting once."""
    cells = experiment.cells()
    ledger = controller.ledger
    run_ids = [cell.run_id for cell in cells]
    known = ledger.states(run_ids)
    found = _origin(experiment, controller.workspace)
    folder = Path.cwd()
    studies, samples = studies_of(experiment), experiment.search.samples if experiment.search else 1
    ledger.register(
        name=experiment.name,
        path=str(experiment.path.absolute()),  # later commands may be called from elsewhere
        text=experiment.text,
        digest=experiment.digest,
        axes=experiment.axes,
        settings={
            **experiment.options.model_dump(mode="json"),
            "studies": [study.to_json() for study in studies],
            "extended": dict(experiment.extended),
        },
        provenance=found.record,
        new_runs=[
            NewRun(
                run_id=cell.run_id,
                position=position_of(cell, samples),
                axes=cell.axes,
                config=with_absolute_paths(cell.config, folder).model_dump(mode="json"),
                resources=cell.resources.model_dump(mode="json"),
            )
            for cell in cells
        ],
    )
    suggested = [run_id for study in studies for run_id, _ in suggested_runs(study, controller.workspace)]
    wanted = to_finish(experiment, ledger.states([*run_ids, *suggested]), controller.workspace)
    ledger.reset(sorted(wanted), "wanted in full")
    registered = ledger.states(run_ids)
    unfinished = [cell for cell in cells if registered[cell.run_id] is not RunState.COMPLETED]
    to_evaluate = _recognise(controller, experiment, unfinished)
    states = ledger.states(run_ids)
    return Submission(
        name=experiment.name,
        num_runs=len(cells),
        num_new=len(set(run_ids) - set(known)),
        num_completed=sum(state is RunState.COMPLETED for state in states.values()),
        num_to_evaluate=to_evaluate,
        num_failed=sum(state in (RunState.FAILED, RunState.LOST) for state in states.values()),
    )


def _origin(experiment: Experiment, workspace: Workspace) -> Origin:
    """Where the runs come from; how the source differs from its commit is kept before a run can need it."""
    found = origin(
        experiment.name,
        experiment.digest,
        experiment.overrides,
        experiment.site,
        folder=experiment.path.absolute().parent,
        exclude=workspace.path,
    )
    if found.source_diff:
        path = workspace.source_diff_path(found.record["source_diff"]["sha256"])
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            atomic.write_bytes(path, found.source_diff)
    return found


def suggested_runs(study: Study, workspace: Workspace) -> list[tuple[str, Mapping[str, str]]]:
    """(run id, axis -> label) of what was suggested in a study so far."""
    found = StudyDir(study, workspace.path).suggestions()
    return [(one.run_id, study.labels(one.values)) for one in found if one.run_id]


def to_finish(experiment: Experiment, states: Mapping[str, RunState], workspace: Workspace) -> set[str]:
    """Completed runs that a search ended early, and that this experiment wants in full because it stops none early.

    Args:
        states: run id -> state, of the runs of the experiment.
    """
    if experiment.search is not None and experiment.search.stop is not None:
        return set()
    completed = (run_id for run_id, state in states.items() if state is RunState.COMPLETED)
    return {run_id for run_id in completed if workspace.run_dir(run_id).read_early_stop() is not None}


def to_evaluate(cells: Sequence[Cell], ledger: Ledger, workspace: Workspace) -> set[str]:
    """Completed runs of which a protocol is asked for that their results lack: submitting would evaluate them."""
    states = ledger.states([cell.run_id for cell in cells])
    completed = [cell for cell in cells if states.get(cell.run_id) is RunState.COMPLETED]
    known = ledger.configs([cell.run_id for cell in completed])
    found = set()
    for cell in completed:
        # A run directory is read only where something has changed: there may be ten thousand.
        if known[cell.run_id]["evaluate"] != cell.config.evaluate.model_dump(mode="json"):
            result = workspace.run_dir(cell.run_id).read_result()
            if result is not None and not result.holds(cell.config.evaluate.protocols()):
                found.add(cell.run_id)
    return found


def _check_backend(experiment: Experiment, cells: Iterable[Cell], backend: Backend) -> None:
    terms = Terms(experiment.name, experiment.backend, experiment.options.retries)
    for shape in {job_shape(cell.resources) for cell in cells}:
        for problem in backend.problems(shape, terms):
            raise EnvironmentProblem(f"{experiment.path}: {problem}")


def _check_packages(experiment: Experiment, cells: Iterable[Cell]) -> None:
    """UMAP is no dependency, and is asked for by few."""
    embeddings = (cell.config.evaluate.embedding for cell in cells)
    is_asked = any(embedding is not None and embedding.method == "umap" for embedding in embeddings)
    if is_asked and importlib.util.find_spec("umap") is None:
        raise InputError(
            f"{experiment.position_of('evaluate.embedding.method', 'umap')}: evaluate.embedding.method=umap needs "
            "the package umap-learn, which is not installed here: pip install 'ssl-sweep[umap]', or use tsne"
        )


def _check_data_exists(experiment: Experiment, cells: Sequence[Cell]) -> None:
    for key, path, needed_for in dict.fromkeys(needed for cell in cells for needed in _needed_paths(cell.config)):
        place = Path(path).expanduser()
        if not place.exists():
            option = key.replace("evaluate.transfer", "evaluate.transfer.root")
            raise InputError(
                f"{experiment.position_of(key, path)}: {option}={path} does not exist (looked for {place.absolute()}); "
                f"{needed_for} must be there before a run can start"
            )


def _needed_paths(config: RunConfig) -> Iterator[tuple[str, str, str]]:
    """Option, path, and what must be there, for each file or folder that a run reads."""
    data = config.data
    if data.name != "digits":
        yield "data.root", data.root, f"data set {data.name}"
    if data.class_list is not None:
        yield "data.class_list", data.class_list, "the list of classes"
    match data.profile:
        case ListFile(path=path):
            yield "data.profile.path", path, "the list of images"
        case Balanced(match=ListFile(path=path)):
            yield "data.profile.match.path", path, "the list of images"
    for other in config.evaluate.transfer:
        if other.name != "digits":
            yield "evaluate.transfer", other.root, f"data set {other.name}"


def _recognise(controller: Controller, experiment: Experiment, cells: Iterable[Cell]) -> int:
    """Believe the run directories: results are proof, and a living job that the ledger does not know is adopted.

    This is how a ledger that was lost is rebuilt, and how runs of another experiment or machine count.

    Returns:
        How many runs have a result that does not hold all that is asked of them.
    """
    num_to_evaluate = 0
    stops_early = experiment.search is not None and experiment.search.stop is not None
    for cell in cells:
        run_dir = controller.workspace.run_dir(cell.run_id)
        result = run_dir.read_result()
        if result is not None and result.holds(cell.config.evaluate.protocols()):
            controller.ledger.move(cell.run_id, RunState.COMPLETED)
            continue
        num_to_evaluate += result is not None
        early = run_dir.read_early_stop() if stops_early else None
        if early is not None:
            controller.ledger.move(cell.run_id, RunState.COMPLETED, early.sentence)
        elif run_dir.attempts_dir.exists():
            _adopt(controller, experiment.name, cell.run_id, run_dir)
    return num_to_evaluate


def _adopt(controller: Controller, name: str, run_id: str, run_dir: RunDir) -> None:
    numbers = run_dir.attempt_numbers()
    attempt = run_dir.read_attempt(numbers[-1]) if numbers else None
    if attempt is None or attempt.ended is not None:
        return
    controller.ledger.adopt_job(
        JobRow(
            token=attempt.token,
            run_id=run_id,
            experiment=name,
            backend=attempt.backend,
            job_id=attempt.job_id,
            # The cores of a job that the ledger forgot are not on record; each rank holds one at least.
            shape=JobShape(processes=attempt.processes, cpus=attempt.processes, gpus=len(attempt.devices)),
            devices=attempt.devices,
            owner=controller.owner,
            created=attempt.started,
            submitted=time.time(),
        )
    )
