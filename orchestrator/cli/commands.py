"""What the subcommands do: open a session, call one function of the orchestrator, print."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console

from orchestrator.backends import create_backend
from orchestrator.cli import display
from orchestrator.cli.hosts import SuspectHost, suspect_hosts
from orchestrator.cli.live import Interruption, drawing
from orchestrator.cli.logs import find_run
from orchestrator.cli.outlook import Outlook, forecast_json, live_text, measured_runs, plan_lines, plan_outlook
from orchestrator.cli.session import Asked, Session, find_experiment, open_session
from orchestrator.cli.tracking import Collecting, collect_once, make_report
from orchestrator.collect import check_store, store_uri
from orchestrator.controller import Snapshot, watch
from orchestrator.errors import InputError
from orchestrator.experiment import Experiment
from orchestrator.forecast import Measured
from orchestrator.ledger import RunRow, Wanted
from orchestrator.state import READY, RunState, count_states
from orchestrator.studies import studies_of
from orchestrator.submission import Submission, check, check_data, submit, suggested_runs, to_evaluate, to_finish
from orchestrator.workspace import find_workspace, trial_workspace
from trainers.config.advice import advice_on

#: More rows than this are of no use to a reader; `--all` and `--json` print them.
_MAX_PLAN_ROWS = 60

#: States of runs whose attempts may tell of a host that fails. Files are read for this many of them at most.
_TROUBLED = (RunState.RUNNING, RunState.QUEUED, RunState.PREEMPTED, RunState.FAILED, RunState.LOST)
_MAX_READ_RUNS = 500
_MAX_NAMED_HOSTS = 3


def _prepare(asked: Asked, workspace_option: str | None) -> tuple[Experiment, Session]:
    """The experiment, checked against this machine, and a session. What is wrong is said before anything is written."""
    experiment = asked.load()
    workspace = find_workspace(workspace_option)
    backend = create_backend(experiment.backend.name, workspace)
    check(experiment, backend)
    uri = store_uri(experiment.tracking.uri, workspace.path)
    with trial_workspace(workspace):
        check_store(uri)
        if backend.runs_here:
            check_data(experiment, workspace)
    return experiment, open_session(workspace_option, backend)


def plan_file(asked: Asked, workspace: str | None, *, as_json: bool, show_all: bool) -> None:
    """``sweep plan``. Reads the ledger if there is one, and creates nothing."""
    experiment = asked.load()
    cells = experiment.cells()
    states: dict[str, RunState] = {}
    measured: list[Measured] = []
    lacking: set[str] = set()
    to_train: set[str] = set()
    place, studies = find_workspace(workspace), studies_of(experiment)
    suggested = [found for study in studies for found in suggested_runs(study, place)]
    to_suggest = sum(len(study.numbers) for study in studies) - len(suggested)
    if place.ledger_path.exists():
        session = open_session(workspace)
        ledger = session.ledger
        states = ledger.states([*(cell.run_id for cell in cells), *(run_id for run_id, _ in suggested)])
        to_train = to_finish(experiment, states, place)
        states |= dict.fromkeys(to_train, RunState.PREEMPTED)
        lacking = to_evaluate(cells, ledger, session.workspace)
        measured = measured_runs(session)
    to_do = [cell for cell in cells if states.get(cell.run_id) is not RunState.COMPLETED]
    outlook = plan_outlook(experiment, to_do, measured)
    special = {**dict.fromkeys(lacking, "to evaluate"), **dict.fromkeys(to_train, "to finish")}
    rows = [
        (run_id, axes, special.get(run_id) or states.get(run_id, RunState.PLANNED))
        for run_id, axes in (*((cell.run_id, cell.axes) for cell in cells), *suggested)
    ]
    num_done = sum(states.get(run_id) is RunState.COMPLETED for run_id, _, _ in rows)
    advised = advice_on(cell.config for cell in cells)
    if as_json:
        display.print_json(
            {
                "experiment": experiment.name,
                "runs": [{"run_id": run_id, "axes": dict(axes), "state": state} for run_id, axes, state in rows],
                "to_suggest": to_suggest,
                "forecast": forecast_json(outlook),
                "advice": [{"text": sentence, "runs": count} for sentence, count in advised.items()],
            }
        )
        return
    console = display.console()
    shown = rows if show_all else rows[:_MAX_PLAN_ROWS]
    console.print(display.plan_table(shown, experiment.axes))
    if len(shown) < len(rows):
        console.print(f"… and {len(rows) - len(shown)} more (--all prints them)", style="dim")
    for count in experiment.expansion.excluded:
        console.print(f"exclude {count.text} removed {display.count_runs(count.cells)}", style="dim")
    for sentence, num_runs in advised.items():
        console.print(f"{sentence} ({num_runs} of {len(rows)} runs)", style="yellow", soft_wrap=True)
    console.print(
        f"\n{experiment.name}: {display.count_runs(len(rows))}, {num_done} done, {len(rows) - num_done} to do"
    )
    if to_suggest:
        console.print(f"{to_suggest} more will be suggested, by what these bring")
    if lacking:
        console.print(f"{len(lacking)} of those done will be evaluated by what is new, and not trained")
    for line in plan_lines(outlook):
        console.print(line, soft_wrap=True)


def run_file(asked: Asked, workspace: str | None) -> int:
    """``sweep run``: the exit code is 0 if every run is done, 1 if some are not, 130 after Ctrl-C."""
    experiment, session = _prepare(asked, workspace)
    console = display.console()
    with Collecting(session, experiment.name, console) as collecting:
        submission = submit(experiment, session.controller)
        _print_submission(console, submission)
        snapshot, is_interrupted = _watch(session, console, experiment.name, is_stopping=True)
        collecting.finish()
    console.print(display.summary_line(snapshot))
    if is_interrupted:
        console.print("stopped, every run's state is saved; the same command goes on", style="yellow")
        return 130
    _print_troubles(console, snapshot)
    make_report(session, experiment.name, None, console)
    return _exit_code(snapshot)


def evaluate_experiment(session: Session, name: str | None, overrides: Sequence[str], workspace: str | None) -> int:
    """``sweep evaluate``: the experiment as it was submitted, with other settings of its evaluation and report.

    Raises:
        InputError: a setting is none of the evaluation, or the file is not the one that was submitted.
    """
    row = session.ledger.experiment(find_experiment(session, name))
    foreign = next((text for text in overrides if not text.strip().startswith(("evaluate", "report"))), None)
    if foreign is not None:
        raise InputError(
            f"--set {foreign} is no setting of the evaluation; `sweep evaluate` takes evaluate.* and report.* "
            f"(`sweep plan {row.path}` shows what another setting would train)"
        )
    before = row.provenance["experiment"]
    site = before.get("site")
    asked = Asked(
        file=Path(row.path),
        overrides=[*before["overrides"], *overrides],
        backend=row.settings["backend"]["name"],
        site=None if site is None else Path(site),
    )
    if asked.load().digest != row.digest:
        raise InputError(
            f"{row.path} (or what it extends) has changed since {row.name} was submitted; "
            f"`sweep run {row.path}` takes it as it is now, and evaluates finished runs too"
        )
    return run_file(asked, workspace)


def _watch(session: Session, console: Console, name: str, *, is_stopping: bool) -> tuple[Snapshot, bool]:
    """Reconcile and draw until all is settled. Ctrl-C stops the jobs; without ``is_stopping`` only the watching."""
    interruption = Interruption()

    def is_pausing() -> bool:
        if interruption.is_asked and not is_stopping:
            raise KeyboardInterrupt
        return interruption.is_asked

    with interruption.listening(), drawing(console, interruption, Outlook(session)) as show:
        snapshot = watch(session.controller, name, on_step=show, is_interrupted=is_pausing)
    return snapshot, interruption.is_asked


def _exit_code(snapshot: Snapshot) -> int:
    return 0 if all(run.state is RunState.COMPLETED for run in snapshot.runs) else 1


def _print_submission(console: Console, submission: Submission) -> None:
    known = submission.num_runs - submission.num_new
    line = f"{submission.name}: {display.count_runs(submission.num_runs)}, {submission.num_new} new"
    if known:
        line += f", {submission.num_completed} done already"
    console.print(line)
    if submission.num_to_evaluate:
        console.print(f"{submission.num_to_evaluate} finished runs will be evaluated by what is new, and not trained")
    if submission.num_failed:
        console.print(
            f"{submission.num_failed} runs failed earlier and are left alone; "
            f"`sweep resume {submission.name}` tries them again",
            style="yellow",
        )


def _print_troubles(console: Console, snapshot: Snapshot) -> None:
    for run in snapshot.runs:
        if run.state in (RunState.FAILED, RunState.LOST):
            labels = " ".join(run.axes.values())
            console.print(f"{run.run_id} ({labels}) {run.state}: {run.reason}", style="red", soft_wrap=True)
            console.print(f"  sweep logs {run.run_id} shows what it printed", style="dim")


def submit_file(asked: Asked, workspace: str | None, *, as_json: bool) -> None:
    """``sweep submit``: one pass of the reconciler, and a controller in the background where the backend needs one."""
    experiment, session = _prepare(asked, workspace)
    submission = submit(experiment, session.controller)
    snapshot = _carry_on(session, experiment.name)
    if as_json:
        display.print_json({**asdict(submission), "states": _state_counts(snapshot)})
        return
    console = display.console()
    _print_submission(console, submission)
    console.print(display.summary_line(snapshot))
    if not snapshot.is_settled:
        console.print(f"`sweep watch {experiment.name}` shows how it goes", style="dim")


def _carry_on(session: Session, name: str) -> Snapshot:
    """Reconcile once; leave a controller in the background where jobs remain that only start while one lives."""
    snapshot = session.controller.step(name)
    options = snapshot.experiment.settings["backend"]
    backend = session.controller.backend(options["name"])
    has_more = any(run.state in READY for run in snapshot.runs)  # for which there was no room
    is_carried_on = not backend.needs_controller and options.get("requeue", True)
    if (has_more or not is_carried_on) and not snapshot.is_settled:
        log_path = session.workspace.controller_log_path(name)
        log_path.parent.mkdir(exist_ok=True)
        with log_path.open("ab") as log:
            subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    "orchestrator",
                    "watch",
                    name,
                    f"--workspace={session.workspace.path}",
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
    return snapshot if backend.needs_controller else session.controller.observe(name)


def _state_counts(snapshot: Snapshot) -> dict[str, int]:
    return {str(state): count for state, count in count_states(run.state for run in snapshot.runs).items() if count}


def show_status(session: Session, name: str | None, *, as_json: bool) -> None:
    """``sweep status``: where the runs are now; nothing is started or stopped.

    A scheduler that carries jobs on by itself is asked, because no controller may have looked for days.
    """
    found = find_experiment(session, name)
    snapshot = session.controller.snapshot(found)
    if not session.controller.backend(snapshot.experiment.settings["backend"]["name"]).needs_controller:
        snapshot = session.controller.observe(found)
    dashboards = _dashboards(session, found)
    outlook = None if snapshot.is_settled else Outlook(session).of(snapshot)
    if as_json:
        display.print_json(
            {
                "experiment": snapshot.experiment.name,
                "wanted": snapshot.experiment.wanted,
                "states": _state_counts(snapshot),
                "dashboards": list(dashboards),
                "forecast": forecast_json(outlook),
                "suspect_hosts": [asdict(host) for host in _suspects(session, snapshot)],
                "runs": [_run_json(session, snapshot, run) for run in snapshot.runs],
            }
        )
        return
    console = display.console()
    console.print(display.summary_line(snapshot))
    console.print(display.status_table(snapshot))
    if outlook is not None:
        console.print(live_text(outlook, snapshot.to_suggest, time.time()), style="dim", soft_wrap=True)
    for address, demand in dashboards.items():
        console.print(f"{address} shows its jobs{f' ({demand})' if demand else ''}", style="dim", soft_wrap=True)
    _print_hints(console, session, snapshot)


def _dashboards(session: Session, name: str) -> Mapping[str, str]:
    """Web pages of the clusters that have living jobs of the experiment -> what they ask of the reader."""
    jobs = session.ledger.living_jobs(name)
    found: dict[str, str] = {}
    for backend in dict.fromkeys(job.backend for job in jobs):
        of_backend = [job.as_job(session.workspace.run_dir(job.run_id).path) for job in jobs if job.backend == backend]
        found.update(session.controller.backend(backend).dashboards(of_backend))
    return found


def _suspects(session: Session, snapshot: Snapshot) -> list[SuspectHost]:
    """Hosts on which attempts fail more often than elsewhere."""
    troubled = [run for run in snapshot.runs if run.state in _TROUBLED][:_MAX_READ_RUNS]
    return suspect_hosts(
        attempt for run in troubled for attempt in session.workspace.run_dir(run.run_id).read_attempts()
    )


def _print_hints(console: Console, session: Session, snapshot: Snapshot) -> None:
    """What the table cannot tell: which host fails."""
    for host in _suspects(session, snapshot)[:_MAX_NAMED_HOSTS]:
        console.print(f"{host.sentence}; backend.exclude leaves a node out", style="yellow", soft_wrap=True)


def _run_json(session: Session, snapshot: Snapshot, run: RunRow) -> dict[str, Any]:
    status = snapshot.statuses.get(run.run_id)
    return {
        "run_id": run.run_id,
        "axes": dict(run.axes),
        "state": run.state,
        "reason": run.reason,
        "run_dir": str(session.workspace.run_dir(run.run_id).path),
        "status": None if status is None else status.to_json(),
    }


def watch_experiment(session: Session, name: str | None) -> int:
    """``sweep watch``: reconcile and draw until everything is settled."""
    console = display.console()
    try:
        snapshot, _ = _watch(session, console, find_experiment(session, name), is_stopping=False)
    except KeyboardInterrupt:
        console.print("the jobs go on; `sweep watch` finds them again", style="dim")
        return 130
    console.print(display.summary_line(snapshot))
    _print_troubles(console, snapshot)
    return _exit_code(snapshot)


def resume_experiment(session: Session, name: str | None, *, as_json: bool) -> None:
    """``sweep resume``: fresh budgets for what stopped, then the same as ``submit``."""
    found = find_experiment(session, name)
    stopped = (RunState.PREEMPTED, RunState.FAILED, RunState.LOST, RunState.CANCELLED)
    run_ids = [run.run_id for run in session.ledger.runs(found) if run.state in stopped]
    count = session.ledger.reset(run_ids, "resumed by the user")
    session.ledger.want(found, Wanted.RUNNING)
    snapshot = _carry_on(session, found)
    if as_json:
        display.print_json({"experiment": found, "resumed": count, "states": _state_counts(snapshot)})
        return
    console = display.console()
    console.print(f"{display.count_runs(count)} resumed" if count else "nothing to resume")
    console.print(display.summary_line(snapshot))


def cancel_experiment(session: Session, name: str | None) -> int:
    """``sweep cancel``: ask every job to stop, and wait until each has saved its state and left.

    Ctrl-C ends the waiting only: what was asked of the jobs is not taken back.
    """
    found = find_experiment(session, name)
    console = display.console()
    session.ledger.want(found, Wanted.CANCELLED)
    try:
        num_jobs = sum(run.state.is_active for run in session.controller.step(found).runs)
        if num_jobs:
            console.print(f"{num_jobs} jobs are asked to save their state and stop (Ctrl-C: do not wait for them)")
        snapshot, _ = _watch(session, console, found, is_stopping=False)
    except KeyboardInterrupt:
        console.print(f"{found} is cancelled; `sweep watch {found}` waits until its last job has left", style="dim")
        return 130
    console.print(display.summary_line(snapshot))
    return 0


def show_run(session: Session, prefix: str, *, as_json: bool) -> None:
    """``sweep show``."""
    from orchestrator.cli.run_page import run_page, run_record

    run = find_run(session, prefix)
    record = run_record(session, run)
    if as_json:
        display.print_json(record)
    else:
        display.console().print(run_page(record))


def collect_experiment(session: Session, name: str | None, *, follow: bool, as_json: bool) -> None:
    """``sweep collect``."""
    collect_once(session, find_experiment(session, name), follow=follow, as_json=as_json)


def report_experiment(session: Session, name: str | None, output: Path | None, *, as_json: bool) -> None:
    """``sweep report``."""
    found = find_experiment(session, name)
    paths = make_report(session, found, output, None if as_json else display.console())
    if as_json:
        display.print_json({"experiment": found, "files": [str(path) for path in paths]})


def start_ui(session: Session, name: str | None, port: int | None, *, show: bool) -> None:
    """``sweep ui``: serves until it is stopped."""
    from orchestrator.cli.tracking import serve_ui

    serve_ui(session, find_experiment(session, name) if name else None, port, show=show)
