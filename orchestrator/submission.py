"""From a valid experiment to wishes in the ledger: the checks that need this machine, then one registration.

Everything that can be known to be wrong is said before anything is written; afterwards the reconciler does the rest.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from orchestrator.backends.base import Backend, JobShape
from orchestrator.controller import Controller, job_shape
from orchestrator.errors import EnvironmentProblem, InputError
from orchestrator.experiment import Cell, Experiment
from orchestrator.ledger import JobRow, NewRun
from orchestrator.spec import RunSpec, provenance
from orchestrator.state import RunState
from orchestrator.workspace import Workspace
from trainers.rundir import RunDir

#: Exit code of the check of data sets when one of them cannot be trained on.
_DATA_PROBLEM = 2


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
    _check_data_exists(experiment, cells)


def check_data(experiment: Experiment, workspace: Workspace) -> None:
    """Read the data sets as the runs will, and decode them into the cache that the runs share.

    For backends that run on this machine; elsewhere each run says the same when it starts.

    Raises:
        InputError: an image is damaged, a class has too few images, or the layout is not one of those documented.
        EnvironmentProblem: the check itself could not be carried out.
    """
    first_cells: dict[str, Cell] = {}
    for cell in experiment.cells():
        data = cell.config.data
        if data.name != "digits" or data.profile.size is not None:  # the digits come with the installation
            first_cells.setdefault(data.model_dump_json(), cell)
    if not first_cells:
        return
    cells = list(first_cells.values())
    sections = [RunSpec.of(cell.config, {}, Path.cwd()).config.data.model_dump(mode="json") for cell in cells]
    answer = subprocess.run(
        [sys.executable, "-m", "trainers.data", str(workspace.cache_dir)],
        input=json.dumps(sections),
        capture_output=True,
        text=True,
        check=False,
    )
    if answer.returncode == 0:
        return
    if answer.returncode != _DATA_PROBLEM:
        last = (answer.stderr.strip().splitlines() or [f"exit code {answer.returncode}"])[-1]
        raise EnvironmentProblem(f"the data sets could not be checked: {last}")
    found = json.loads(answer.stdout)
    cell = cells[found["number"]]
    key, value = ("data.root", cell.config.data.root)
    if cell.config.data.name == "digits":
        key, value = ("data.profile.size", cell.config.data.profile.size)
    raise InputError(f"{experiment.position_of(key, value)}: {found['problem']}")


def submit(experiment: Experiment, controller: Controller) -> Submission:
    """Record that these runs are wanted. Submitting twice is the same as submitting once."""
    cells = experiment.cells()
    ledger = controller.ledger
    run_ids = [cell.run_id for cell in cells]
    known = ledger.states(run_ids)
    origin = provenance(experiment.name, experiment.digest, experiment.overrides)
    folder = Path.cwd()
    ledger.register(
        name=experiment.name,
        path=str(experiment.path),
        text=experiment.text,
        digest=experiment.digest,
        axes=experiment.axes,
        settings=experiment.options.model_dump(mode="json"),
        provenance=origin,
        new_runs=[
            NewRun(
                run_id=cell.run_id,
                position=position,
                axes=cell.axes,
                config=RunSpec.of(cell.config, origin, folder).to_json()["config"],
                resources=cell.resources.model_dump(mode="json"),
            )
            for position, cell in enumerate(cells)
        ],
    )
    registered = ledger.states(run_ids)
    unfinished = [cell for cell in cells if registered[cell.run_id] is not RunState.COMPLETED]
    to_evaluate = _recognise(controller, experiment.name, unfinished)
    states = ledger.states(run_ids)
    return Submission(
        name=experiment.name,
        num_runs=len(cells),
        num_new=len(set(run_ids) - set(known)),
        num_completed=sum(state is RunState.COMPLETED for state in states.values()),
        num_to_evaluate=to_evaluate,
        num_failed=sum(state in (RunState.FAILED, RunState.LOST) for state in states.values()),
    )


def _check_backend(experiment: Experiment, cells: Iterable[Cell], backend: Backend) -> None:
    for shape in {job_shape(cell.resources) for cell in cells}:
        for problem in backend.problems(shape):
            raise EnvironmentProblem(f"{experiment.path}: {problem}")


def _check_data_exists(experiment: Experiment, cells: Sequence[Cell]) -> None:
    first_cells: dict[str, Cell] = {}
    for cell in cells:
        if cell.config.data.name != "digits":
            first_cells.setdefault(cell.config.data.root, cell)
    for root, cell in first_cells.items():
        if not Path(root).expanduser().exists():
            raise InputError(
                f"{experiment.position_of('data.root', root)}: data.root={root} does not exist "
                f"(looked for {Path(root).expanduser().absolute()}); "
                f"data set {cell.config.data.name} must be there before a run can start"
            )


def _recognise(controller: Controller, name: str, cells: Iterable[Cell]) -> int:
    """Believe the run directories: results are proof, and a living job that the ledger does not know is adopted.

    This is how a ledger that was lost is rebuilt, and how runs of another experiment or machine count.

    Returns:
        How many runs have a result that does not hold all that is asked of them.
    """
    num_to_evaluate = 0
    for cell in cells:
        run_dir = controller.workspace.run_dir(cell.run_id)
        result = run_dir.read_result()
        if result is not None and result.holds(cell.config.evaluate.protocols()):
            controller.ledger.move(cell.run_id, RunState.COMPLETED)
            continue
        num_to_evaluate += result is not None
        if run_dir.attempts_dir.exists():
            _adopt(controller, name, cell.run_id, run_dir)
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
            absent_since=None,
            stop_requested=False,
            ended=None,
            cause="",
            detail="",
            first_step=0,
            last_step=0,
        )
    )
