"""Bringing an experiment into MLflow: what is new since the last time, exactly once, whatever was interrupted.

Why repeating is harmless: a point carries the trainer's own time, and a SQL store keeps equal points once; a run is
looked for by its tags before it is created, under one lock; tags, artifacts and the status are replaced by the same
values; parameters are added only where they are missing. Cursors only save work. Only the part of ``metrics.jsonl``
that no resume will cut back is sent, so no step is ever taken back, and MLflow's "latest value" is the latest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from orchestrator.collect import payload
from orchestrator.collect.cursor import CursorStore, ExperimentCursors
from orchestrator.collect.mlflow_store import MlflowStore, open_experiment
from orchestrator.collect.parent import ParentRun
from orchestrator.collect.retrying import PATIENCE_S, Patience, explained, is_refused_login
from orchestrator.collect.rounds import Brought, Rounds
from orchestrator.collect.store import (
    artifact_root,
    connect,
    held,
    lock_path,
    refused_login,
    store_uri,
    without_login,
)
from orchestrator.errors import EnvironmentProblem
from orchestrator.redaction import redacted
from orchestrator.runs import ExperimentView, RunView
from orchestrator.workspace import Workspace


@dataclass(frozen=True)
class CollectSummary:
    """What one collection did.

    Attributes:
        uri: the store, in full but for a password.
        experiment_id, parent_run_id: MLflow's names for the experiment and its parent run.
        runs: runs of the experiment; ``changed`` of them had something new.
        points, artifacts: number of metric points and files sent.
        problems: one sentence for each run that could not be collected.
    """

    uri: str
    experiment_id: str
    parent_run_id: str
    runs: int
    changed: int
    points: int
    artifacts: int
    problems: tuple[str, ...]


@dataclass(frozen=True)
class CollectProgress:
    """How far a collection is: runs looked at, of all, and points sent so far."""

    done: int
    total: int
    points: int


@dataclass(frozen=True)
class _Opened:
    """An experiment in its store, alone with it."""

    uri: str
    store: MlflowStore
    cursors: ExperimentCursors
    patience: Patience


def collect(
    experiment: ExperimentView,
    runs: Sequence[RunView],
    *,
    uri: str | None,
    workspace: Workspace,
    cursors: CursorStore,
    progress: Callable[[CollectProgress], None] | None = None,
    notice: Callable[[str], None] | None = None,
    patience_s: float = PATIENCE_S,
) -> CollectSummary:
    """Bring everything that is new about the experiment's runs into its store.

    A run that cannot be collected (a damaged file) does not keep the others from it; it is named in the summary.

    Args:
        notice: is told, in one sentence each, that the store is in trouble and is being waited for, and that it works
            again. May be called from other threads.
        patience_s: seconds for which a request is repeated while the store is in trouble.

    Raises:
        InputError: the URI is not one of a store that can be used.
        EnvironmentProblem: the store does not answer, or stops answering and outlasts our patience; call again later,
            nothing is lost.
    """
    with _opened(experiment, uri, workspace, cursors, Patience(notice, patience_s)) as opened:
        parent = ParentRun(opened.store, opened.cursors, experiment)

        def step(brought: Brought) -> None:
            if progress is not None:
                known = len(runs) - len(brought.changed)
                progress(CollectProgress(known + len(brought.done), len(runs), brought.points))

        rounds = Rounds(opened.store, opened.cursors, opened.patience, opened.uri.startswith("sqlite"), step)
        brought = rounds.carry_out(parent, runs)
        # Last, so that an experiment that shows as finished is complete.
        _show_progress(parent, opened, runs, is_news=bool(brought.changed))
        return CollectSummary(
            uri=redacted(opened.uri),
            experiment_id=opened.store.experiment_id,
            parent_run_id=parent.mlflow_run_id,
            runs=len(runs),
            changed=len(brought.changed),
            points=brought.points,
            artifacts=brought.artifacts,
            problems=tuple(brought.problems[run.run_id] for run in runs if run.run_id in brought.problems),
        )


def log_report(
    experiment: ExperimentView,
    runs: Sequence[RunView],
    files: Sequence[Path],
    summary: str,
    *,
    uri: str | None,
    workspace: Workspace,
    cursors: CursorStore,
) -> None:
    """Store the report's files with the parent run, and its summary as the text that the parent's page begins with.

    Args:
        summary: Markdown; what is longer than MLflow takes is cut.

    Raises:
        InputError, EnvironmentProblem: as for :func:`collect`.
    """
    with _opened(experiment, uri, workspace, cursors, Patience()) as opened:
        parent = ParentRun(opened.store, opened.cursors, experiment)
        opened.patience.call(lambda: parent.open(runs))
        parent.show_report(files, summary)


def _show_progress(parent: ParentRun, opened: _Opened, runs: Sequence[RunView], *, is_news: bool) -> None:
    """Bring the parent run up to date, unless no run has changed since that was done."""
    states = payload.fingerprint(repr([(run.run_id, run.name, run.state, run.reason) for run in runs]).encode())
    cursor = opened.cursors.get("")
    if not is_news and cursor is not None and cursor.glance == states:
        return
    parent.show_progress(runs)
    shown = opened.cursors.get("")
    if shown is not None:
        opened.cursors.put("", replace(shown, glance=states))


@contextmanager
def _opened(
    experiment: ExperimentView,
    uri: str | None,
    workspace: Workspace,
    cursors: CursorStore,
    patience: Patience,
) -> Iterator[_Opened]:
    """The experiment in its store; a store that fails is reported in one sentence."""
    full_uri = store_uri(uri, workspace.path)
    # The first connection creates the tables of a new database, which two processes at once would break.
    with held(lock_path(full_uri, workspace)):
        client = connect(full_uri, patience)
        from mlflow.exceptions import MlflowException

        remembered = ExperimentCursors(cursors, without_login(full_uri), experiment.name)
        try:
            store = open_experiment(client, experiment.name, artifact_root(full_uri, workspace.path))
            yield _Opened(full_uri, store, remembered, patience)
        except (MlflowException, OSError) as error:
            if is_refused_login(error):
                raise refused_login(full_uri, error) from error
            raise EnvironmentProblem(
                f"tracking store {redacted(full_uri)} failed: {redacted(explained(error))}; "
                "nothing is lost, collect again when it works"
            ) from error
        finally:
            remembered.flush()
