"""``sweep drill``: interrupt a small real job as the site would, and prove that it comes back as if nothing had been.

Two copies of one small run are submitted, each in a workspace of its own. One is left alone; the other is interrupted
while it trains. In the end both must have left the same behind.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
import uuid
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from importlib import resources
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from orchestrator.backends import create_backend
from orchestrator.backends.base import Unreachable
from orchestrator.backends.disturbances import Disturbance, Fired, find_disturbances
from orchestrator.cli import display
from orchestrator.cli.session import Asked, Session, open_session
from orchestrator.errors import EnvironmentProblem, InputError, OrchestratorError
from orchestrator.experiment import Experiment
from orchestrator.ledger import RunRow, Wanted
from orchestrator.proof import Check, Round, Trace, prove
from orchestrator.state import READY, RunState
from orchestrator.submission import check, submit
from orchestrator.workspace import Workspace, find_workspace
from trainers.rundir import AttemptRecord, Phase, RunDir

#: Seconds between two looks at the run directories.
_LOOK_S = 0.2
#: Sections that a drill takes from the experiment that it is done for.
_SECTIONS = ("resources", "backend", "retries")


def drill(target: str | None, asked: Asked, workspace_option: str | None, *, by: Sequence[str], as_json: bool) -> int:
    """Carry out a drill and print the proof; the exit code is 0 if it is one, 1 if not.

    Args:
        target: an experiment, or the file of one, whose resources, backend and retries the drill takes; None for those
            of the site profile.
        asked: what the command line says beside it. The file is not looked at.
        by: names of the disturbances, in order; the backend's usual ones if empty.

    Raises:
        InputError, EnvironmentProblem: it cannot be carried out as asked.
    """
    workspace = find_workspace(workspace_option)
    text = file_text(target, asked.site, workspace)
    folder = workspace.path / "drills" / f"{time.strftime('%Y%m%d-%H%M%S')}-{uuid.uuid4().hex[:4]}"
    file = folder / "drill.yaml"
    folder.mkdir(parents=True)
    file.write_text(text)
    # What was taken from the target stands in the file now, with what the site said below it.
    site = asked.site if target is None else None
    try:
        experiment = Asked(file, asked.overrides, asked.backend, site).load()
        name = experiment.backend.name
        disturbances = find_disturbances(name, tuple(by))
        if len(experiment.cells()) != 1:
            raise InputError(f"a drill has one run, and these settings make {len(experiment.cells())}")
        check(experiment, create_backend(name, workspace))
    except OrchestratorError:
        shutil.rmtree(folder)
        raise
    console = Console(stderr=True, highlight=False) if as_json else display.console()
    console.print(f"drill in {folder}, backend {name}", soft_wrap=True)
    copies: list[_Copy] = []
    try:
        for title in ("reference", "disturbed"):
            copies.append(_Copy(title, experiment, open_session(str(folder / title))))
        reference, disturbed = copies
        rehearsal = _Rehearsal(reference, disturbed, disturbances, console)
        rehearsal.carry_out()
    except KeyboardInterrupt:
        _cancel(copies)
        console.print("interrupted; the drill's jobs are cancelled", style="yellow")
        return 130
    except OrchestratorError:
        _cancel(copies)
        raise
    failed = [copy for copy in copies if copy.state is not RunState.COMPLETED]
    checks = [
        Check(f"{copy.title} completed", False, f"{copy.state}: {copy.row.reason}; {copy.hint}") for copy in failed
    ]
    if not failed:
        checks = prove(reference.trace(), disturbed.trace(), rehearsal.rounds)
        checks += rehearsal.further_checks()
    is_proven = all(one.holds for one in checks)
    if as_json:
        display.print_json(
            {
                "proven": is_proven,
                "backend": name,
                "folder": str(folder),
                "run_id": disturbed.run_id,
                "rounds": [{**asdict(finished), "lost_steps": finished.lost_steps} for finished in rehearsal.rounds],
                "checks": [asdict(one) for one in checks],
            }
        )
    else:
        _print_proof(console, checks, is_proven=is_proven)
    return 0 if is_proven else 1


def _cancel(copies: Sequence[_Copy]) -> None:
    for copy in copies:
        with suppress(OrchestratorError):  # what went wrong first is what the user must hear
            copy.cancel()


def file_text(target: str | None, site: Path | None, workspace: Workspace) -> str:
    """The drill's experiment file: its own run, with resources, backend and retries of the target.

    Args:
        target: an experiment of the workspace, or a file; None leaves these sections to the site profile.
        site: the profile that a file stands on.

    Raises:
        InputError: there is no such experiment, or the file is not valid.
    """
    sections = {} if target is None else _sections_of(target, site, workspace)
    # JSON is YAML; only the sign for environment variables must be written twice.
    lines = [f"{name}: {json.dumps(value)}\n".replace("${", "$${") for name, value in sections.items()]
    return "".join([resources.files(__package__).joinpath("drill.yaml").read_text(), *lines])


def _sections_of(target: str, site: Path | None, workspace: Workspace) -> dict[str, object]:
    if Path(target).suffix in (".yaml", ".yml"):
        settings = Asked(Path(target), site=site).load().options.model_dump(mode="json", exclude_unset=True)
    elif workspace.ledger_path.exists():
        settings = dict(open_session(str(workspace.path)).ledger.experiment(target).settings)
    else:
        raise InputError(f"no experiment named {target!r} in {workspace.path}; give a file (.yaml), or no name at all")
    return {name: settings[name] for name in _SECTIONS if name in settings}


class _Copy:
    """One of the two runs of a drill."""

    def __init__(self, title: str, experiment: Experiment, session: Session) -> None:
        self.title = title
        self._name = experiment.name
        self._session = session
        (cell,) = experiment.cells()
        self.run_id = cell.run_id
        self.run_dir: RunDir = session.workspace.run_dir(self.run_id)
        submit(experiment, session.controller)
        snapshot = session.controller.step(self._name)
        self._backend = session.controller.backend(experiment.backend.name)
        self.needs_controller = self._backend.needs_controller
        self.row: RunRow = snapshot.runs[0]
        self.note = ""
        self._next_look = 0.0

    @property
    def state(self) -> RunState:
        return self.row.state

    @property
    def hint(self) -> str:
        """Where to read on."""
        return f"sweep logs {self.run_id} --workspace {self._session.workspace.path}"

    def look(self) -> None:
        """Ask the backend, if it is time to. Jobs are only started here where the backend needs somebody who does."""
        if self.state.is_terminal or time.monotonic() < self._next_look:
            return
        controller = self._session.controller
        try:
            snapshot = controller.step(self._name) if self.needs_controller else controller.observe(self._name)
        except Unreachable:
            snapshot = controller.snapshot(self._name)
        self.row, self.note = snapshot.runs[0], snapshot.notes.get(self.run_id, "")
        if self.state in READY:
            self.needs_controller = True  # its job is over and has not asked for its own requeue
        self._next_look = time.monotonic() + self._backend.poll_interval_s

    def job_id(self) -> str:
        return self._session.ledger.jobs_of(self.run_id)[-1].job_id

    def disturb(self, disturbance: Disturbance) -> Fired:
        return disturbance.fire(self._session.ledger.jobs_of(self.run_id)[-1].as_job(self.run_dir.path))

    def training_attempt(self) -> int | None:
        """Number of the attempt that trains, or has come further; None while none does."""
        status = self.run_dir.read_status()
        has_begun = status is not None and status.phase in (Phase.TRAINING, Phase.EVALUATING, Phase.DONE)
        return status.attempt if status is not None and has_begun else None

    def total_steps(self) -> int:
        status = self.run_dir.read_status()
        return 0 if status is None else status.total_steps

    def last_step(self) -> int:
        """The step of the last line of metrics, 0 without one."""
        lines = self.run_dir.read_metrics()
        return lines[-1].step if lines else 0

    def attempt(self, number: int) -> AttemptRecord | None:
        return self.run_dir.read_attempt(number)

    def is_settled(self) -> bool:
        """Whether the run is over, and its last attempt closed."""
        if not self.state.is_terminal:
            return False
        attempts = self.run_dir.read_attempts()
        return self.state is not RunState.COMPLETED or not attempts or attempts[-1].ended is not None

    def cancel(self) -> None:
        self._session.ledger.want(self._name, Wanted.CANCELLED)
        self._session.controller.step(self._name)

    def trace(self) -> Trace:
        result = self.run_dir.read_result()
        assert result is not None, "a completed run has a result"
        return Trace(
            run_id=result.run_id,
            steps=result.steps,
            attempts=self.run_dir.read_attempts(),
            lines=self.run_dir.read_metrics(),
            final=result.metrics,
            encoder=hashlib.sha256(self.run_dir.encoder_path.read_bytes()).hexdigest(),
        )


@dataclass
class _Open:
    """A disturbance whose consequences are not all seen yet."""

    disturbance: Disturbance
    attempt: int
    at: float
    fired: Fired
    last_step: int
    is_undone: bool = False


class _Rehearsal:
    """The course of a drill: wait, disturb, watch it come back."""

    def __init__(
        self, reference: _Copy, disturbed: _Copy, disturbances: Sequence[Disturbance], console: Console
    ) -> None:
        self._reference = reference
        self._run = disturbed
        self._waiting = list(disturbances)
        self._num_rounds = len(disturbances)
        self._console = console
        self._open: _Open | None = None
        self._was_resubmitted = False
        self._said = ""
        self.rounds: list[Round] = []

    def carry_out(self) -> None:
        """Until both runs are over."""
        self._tell(f"submitted: reference as job {self._reference.job_id()}, the other as job {self._run.job_id()}")
        started_by_itself = not self._run.needs_controller
        try:
            while not (self._reference.is_settled() and self._run.is_settled()):
                self._reference.look()
                self._run.look()
                self._pass()
                time.sleep(_LOOK_S)
            self._pass()
        finally:
            self._undo()
        self._was_resubmitted = started_by_itself and self._run.needs_controller
        if self._open is not None:
            self._close(None)

    def further_checks(self) -> list[Check]:
        """What only the course of the drill tells."""
        checks = [
            Check(
                f"disturbed by {disturbance.name}", False, "the run was over before; lengthen it by --set train.epochs"
            )
            for disturbance in self._waiting
        ]
        if self._was_resubmitted:
            checks.append(Check("came back by itself", False, "its job did not ask for its requeue; see `--job` logs"))
        return checks

    def _pass(self) -> None:
        self._tell_state()
        training = self._run.training_attempt()
        if training is None:
            self._undo_if_ended()
            return
        if self._open is not None:
            if training <= self._open.attempt:
                self._open.last_step = max(self._open.last_step, self._run.last_step())
                self._undo_if_ended()
            else:
                self._close(training)
        elif self._waiting and self._run.state is RunState.RUNNING:
            self._disturb_if_due(training)

    def _disturb_if_due(self, attempt: int) -> None:
        number = self._num_rounds - len(self._waiting) + 1
        total, step = self._run.total_steps(), self._run.last_step()
        record = self._run.attempt(attempt)
        if record is None or record.ended is not None or not total or step * (self._num_rounds + 1) < total * number:
            return
        disturbance = self._waiting.pop(0)
        self._tell(f"step {step} of {total} on {', '.join(record.hosts)}: {disturbance.sentence}")
        at = time.monotonic()
        try:
            fired = self._run.disturb(disturbance)
        except EnvironmentProblem as problem:
            raise EnvironmentProblem(f"--by {disturbance.name}: {problem}; `--by` chooses another way") from problem
        self._open = _Open(disturbance, attempt, at, fired, step)

    def _undo_if_ended(self) -> None:
        if self._open is None:
            return
        record = self._run.attempt(self._open.attempt)
        if self._run.state is not RunState.RUNNING or (record is not None and record.ended is not None):
            self._undo()

    def _undo(self) -> None:
        if self._open is not None and not self._open.is_undone:
            self._open.is_undone = True
            try:
                self._open.fired.undo()
            except EnvironmentProblem as problem:
                self._tell(f"{self._open.disturbance.name}: {problem}")

    def _close(self, attempt: int | None) -> None:
        assert self._open is not None
        self._undo()
        away_s = None if attempt is None else time.monotonic() - self._open.at
        # Attempts that brought nothing may lie between.
        following = None if attempt is None else self._run.attempt(self._open.attempt + 1)
        finished = Round(
            name=self._open.disturbance.name,
            attempt=self._open.attempt,
            is_graceful=self._open.fired.is_graceful,
            last_step=self._open.last_step,
            resumed_step=None if following is None else following.first_step,
            away_s=away_s,
        )
        self.rounds.append(finished)
        self._open = None
        if attempt is not None and following is not None:
            self._tell(f"trains again, as attempt {attempt}, from step {following.first_step} after {away_s:.1f} s")

    def _tell_state(self) -> None:
        """Once for each state in which the run waits."""
        state = f"{self._run.state}{f': {self._run.note}' if self._run.note else ''}"
        kind = state.partition(",")[0]
        if kind != self._said and self._run.state is not RunState.SUBMITTING:
            self._said = kind
            self._tell(state)

    def _tell(self, text: str) -> None:
        self._console.print(Text(f"{time.strftime('%H:%M:%S')}  {text}"), soft_wrap=True)


def _print_proof(console: Console, checks: Sequence[Check], *, is_proven: bool) -> None:
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column()
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for one in checks:
        table.add_row(
            Text("good" if one.holds else "wrong", style="green" if one.holds else "bold red"),
            one.subject,
            Text(one.detail),
        )
    console.print()
    console.print(table)
    verdict = "proven: the interrupted run is the uninterrupted one" if is_proven else "not proven"
    console.print(f"\n{verdict}", style="bold green" if is_proven else "bold red")
