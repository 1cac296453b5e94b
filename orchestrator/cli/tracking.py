"""The tracking side of the commands: collect once or beside a running sweep, report, serve the UI."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

from rich.console import Console

from orchestrator.cli.display import console as make_console
from orchestrator.cli.display import print_json
from orchestrator.cli.session import Session
from orchestrator.collect import CollectSummary, collect, log_report, store_uri
from orchestrator.errors import EnvironmentProblem
from orchestrator.experiment.schema import Report, Tracking
from orchestrator.runs import ExperimentView, ReportOptions, RunView, TrackingOptions

_Answer = TypeVar("_Answer")

#: Seconds between two collections beside a running sweep. The first imports MLflow, which costs seconds of a core.
_COLLECT_INTERVAL_S = 15.0


def experiment_view(session: Session, name: str) -> tuple[ExperimentView, list[RunView], str | None]:
    """The experiment and its runs as collection and report see them, and the tracking URI as the file has it."""
    row = session.ledger.experiment(name)
    # What an older version stored lacks the options of this one.
    report = Report.model_validate(row.settings["report"])
    tracking = Tracking.model_validate(row.settings["tracking"])
    view = ExperimentView(
        name=row.name,
        file_text=row.text,
        file_path=Path(row.path),
        axes=row.axes,
        report=ReportOptions(
            rows=report.rows,
            columns=report.columns,
            metrics=report.metrics,
            over=report.over,
            reference=report.reference,
            baseline=report.baseline,
            confidence=report.confidence,
            detect=report.detect,
        ),
        tracking=TrackingOptions(
            checkpoints=tracking.checkpoints,
            register_models=tracking.register_models,
            figures=tracking.figures,
        ),
        extended=row.settings.get("extended", {}),
    )
    newest = session.ledger.newest_jobs(name)
    runs = []
    for run in session.ledger.runs(name):
        run_dir = session.workspace.run_dir(run.run_id)
        job, _ = newest.get(run.run_id, (None, 0))
        runs.append(
            RunView(
                run_id=run.run_id,
                position=run.position,
                axes=run.axes,
                state=run.state,
                reason=run.reason,
                backend=job.backend if job else "",
                job_id=job.job_id if job else "",
                attempts=len(run_dir.attempt_numbers()) if job else 0,
                run_dir=run_dir,
                tracking=view.tracking,
            )
        )
    return view, runs, tracking.uri


def _without_waiting(work: Callable[[], _Answer]) -> _Answer:
    """What the work answers. Ctrl-C leaves it where it is, which does no harm to a collection.

    A request to a server, or SQLite at a lock that somebody else holds, hears of no signal for twenty seconds.

    Raises:
        Exception: what the work raised.
    """
    future: Future[_Answer] = Future()

    def carry_out() -> None:
        try:
            future.set_result(work())
        except BaseException as error:  # noqa: BLE001 - raised again where it is waited for
            future.set_exception(error)

    threading.Thread(target=carry_out, name="store", daemon=True).start()
    return future.result()


def collect_now(session: Session, name: str, notice: Callable[[str], None] | None = None) -> CollectSummary:
    """Bring what is new into the experiment's store. ``notice`` is told of trouble that is waited for."""
    view, runs, uri = experiment_view(session, name)
    return collect(view, runs, uri=uri, workspace=session.workspace, cursors=session.ledger, notice=notice)


class _StoreState:
    """Says once that the store cannot be used, and once that it can again."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self.trouble: str | None = None

    def met(self, trouble: EnvironmentProblem) -> None:
        """A collection failed."""
        if self.trouble is None:
            self._say(f"{trouble}; trying again")
        self.trouble = str(trouble)

    def works(self) -> None:
        """A collection succeeded."""
        if self.trouble is not None:
            self._say("the tracking store works again")
        self.trouble = None


class Collecting:
    """Collects beside a running sweep, in a thread. A store that is down delays collection, and is said once."""

    def __init__(self, session: Session, name: str, console: Console) -> None:
        self._session = session
        self._name = name
        self._console = console
        self._is_over = threading.Event()
        self._store = _StoreState(self._say)
        # A daemon: after a second Ctrl-C nobody waits for it, and stopping it anywhere does no harm.
        self._thread = threading.Thread(target=self._work, name="collect", daemon=True)

    def __enter__(self) -> Self:
        # MLflow imports it. If that happened in the thread, a statement of the ledger in the main thread could meet it
        # half imported and fail: `sqlalchemy.inspect` uses it from the first line on that registers it.
        import sqlalchemy.orm  # noqa: F401

        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._is_over.set()

    def _say(self, sentence: str) -> None:
        if not self._is_over.is_set():  # what is left at the end, `finish` says
            self._console.print(sentence, style="yellow", soft_wrap=True)

    def _work(self) -> None:
        while not self._is_over.wait(_COLLECT_INTERVAL_S):
            self._try()

    def _try(self) -> None:
        try:
            collect_now(self._session, self._name)
        except EnvironmentProblem as error:
            self._store.met(error)
        else:
            self._store.works()

    def finish(self) -> None:
        """Collect what is left, after the sweep has settled; say so if the store did not take it."""
        self._is_over.set()
        self._thread.join()
        _without_waiting(self._try)
        if self._store.trouble is not None:
            self._console.print(
                f"not everything is in MLflow yet: {self._store.trouble}; `sweep collect {self._name}` brings the rest",
                style="yellow",
                soft_wrap=True,
            )


def collect_once(session: Session, name: str, *, follow: bool, as_json: bool) -> None:
    """``sweep collect``; with ``follow`` again and again until the experiment is settled, also through trouble.

    A store that cannot be used from the start ends the command: the next word is the user's.
    """
    store = _StoreState(_say)
    is_first = True
    while True:
        is_settled = session.controller.snapshot(name).is_settled  # asked first: what ends meanwhile is collected next
        try:
            summary = _without_waiting(lambda: collect_now(session, name, _say))
        except EnvironmentProblem as error:
            if is_first or not follow:
                raise
            store.met(error)
            time.sleep(_COLLECT_INTERVAL_S)
            continue
        store.works()
        is_first = False
        if as_json:
            print_json(
                {
                    "uri": summary.uri,
                    "experiment_id": summary.experiment_id,
                    "runs": summary.runs,
                    "changed": summary.changed,
                    "points": summary.points,
                    "artifacts": summary.artifacts,
                    "problems": list(summary.problems),
                }
            )
        else:
            _print_summary(make_console(), summary)
        if not follow or is_settled:
            return
        time.sleep(_COLLECT_INTERVAL_S)


def _say(sentence: str) -> None:
    Console(stderr=True, highlight=False).print(sentence, style="yellow", soft_wrap=True)


def _print_summary(console: Console, summary: CollectSummary) -> None:
    console.print(
        f"{summary.changed} of {summary.runs} runs had news: {summary.points:,} points, "
        f"{summary.artifacts} files → {summary.uri}",
        soft_wrap=True,
    )
    for problem in summary.problems:
        console.print(problem, style="red", soft_wrap=True)


def make_report(session: Session, name: str, output: Path | None, console: Console | None) -> list[Path]:
    """Write the report, log it to the parent run, and print its table."""
    from orchestrator.figures import report_figures
    from orchestrator.report import build_report, markdown_note, render_summary, write_report

    view, runs, uri = experiment_view(session, name)
    try:
        report = build_report(view, runs)
    except ValueError as error:
        raise EnvironmentProblem(str(error)) from error
    figures = report_figures(report, view, runs)
    paths = write_report(report, output or session.workspace.report_dir(name), figures)
    if console is not None:
        console.print(render_summary(report, console.width))
        console.print(f"\n{paths[0].parent}: {', '.join(path.name for path in paths)}", style="dim", soft_wrap=True)
    try:
        note = markdown_note(report)
        _without_waiting(
            lambda: log_report(view, runs, paths, note, uri=uri, workspace=session.workspace, cursors=session.ledger)
        )
    except EnvironmentProblem as error:
        if console is None:
            raise
        console.print(f"the report is not in MLflow yet: {error}", style="yellow", soft_wrap=True)
    return paths


def serve_ui(session: Session, name: str | None, port: int | None, *, show: bool) -> None:
    """``sweep ui``. Without a name, on the store of the experiment used last."""
    from orchestrator.ui import serve

    if name is not None:
        view, _, uri = experiment_view(session, name)
    else:
        newest = next(iter(session.ledger.experiments()), None)
        view, uri = None, newest.settings["tracking"]["uri"] if newest is not None else None
    serve(store_uri(uri, session.workspace.path), session.workspace, view, port, show)
