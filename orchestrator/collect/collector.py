"""Bringing an experiment into MLflow: what is new since the last time, exactly once, whatever was interrupted.

Why repeating is harmless: a point carries the trainer's own time, and a SQL store keeps equal points once; a run is
looked for by its tags before it is created, under one lock; tags, artifacts and the status are replaced by the same
values; parameters are added only where they are missing. Cursors only save work. Only the part of ``metrics.jsonl``
that no resume will cut back is sent, so no step is ever taken back, and MLflow's "latest value" is the latest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.collect import payload
from orchestrator.collect.artifacts import file_stamp, run_artifacts
from orchestrator.collect.cursor import Cursor, CursorStore, ExperimentCursors
from orchestrator.collect.mlflow_store import LoggedModel, MetricLink, MlflowStore, history, open_experiment
from orchestrator.collect.parent import ParentRun
from orchestrator.collect.spool import last_points, pieces, tail_fingerprint
from orchestrator.collect.store import artifact_root, connect, first_line, held, redacted, store_uri
from orchestrator.errors import EnvironmentProblem
from orchestrator.runs import ExperimentView, RunView
from orchestrator.workspace import Workspace
from trainers.rundir import Result, atomic

if TYPE_CHECKING:
    from mlflow.entities import Run as MlflowRun

#: Error codes with which MLflow says that the store is in trouble, and not what it was asked.
_STORE_TROUBLE = frozenset({"INTERNAL_ERROR", "TEMPORARILY_UNAVAILABLE", "DEADLINE_EXCEEDED", "REQUEST_LIMIT_EXCEEDED"})


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


@dataclass
class _Tally:
    changed: int = 0
    points: int = 0
    artifacts: int = 0
    problems: list[str] = field(default_factory=list)


def collect(
    experiment: ExperimentView,
    runs: Sequence[RunView],
    *,
    uri: str | None,
    workspace: Workspace,
    cursors: CursorStore,
    progress: Callable[[CollectProgress], None] | None = None,
) -> CollectSummary:
    """Bring everything that is new about the experiment's runs into its store.

    A run that cannot be collected (a damaged file) does not keep the others from it; it is named in the summary.

    Raises:
        InputError: the URI is not one of a store that can be used.
        EnvironmentProblem: the store does not answer, or stops answering; call again later, nothing is lost.
    """
    with _opened(experiment, uri, workspace, cursors) as collector:
        parent = ParentRun(collector.store, collector.cursors, experiment)
        parent_id = parent.open(runs)
        for number, run in enumerate(runs, 1):
            collector.collect_run(run, parent_id)
            if progress is not None:
                progress(CollectProgress(number, len(runs), collector.tally.points))
        # Last, so that an experiment that shows as finished is complete.
        parent.show_progress(runs)
        tally = collector.tally
        return CollectSummary(
            uri=redacted(collector.cursors.uri),
            experiment_id=collector.store.experiment_id,
            parent_run_id=parent_id,
            runs=len(runs),
            changed=tally.changed,
            points=tally.points,
            artifacts=tally.artifacts,
            problems=tuple(tally.problems),
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
    with _opened(experiment, uri, workspace, cursors) as collector:
        parent = ParentRun(collector.store, collector.cursors, experiment)
        parent.open(runs)
        parent.show_report(files, summary)


@contextmanager
def _opened(
    experiment: ExperimentView, uri: str | None, workspace: Workspace, cursors: CursorStore
) -> Iterator[_Collector]:
    """A collector that is alone with the experiment; a store that fails is reported in one sentence."""
    full_uri = store_uri(uri, workspace.path)
    # The first connection creates the tables of a new database, which two processes at once would break.
    with held(workspace.collect_lock_path):
        client = connect(full_uri)
        from mlflow.exceptions import MlflowException

        try:
            store = open_experiment(client, experiment.name, artifact_root(full_uri, workspace.path))
            yield _Collector(store, ExperimentCursors(cursors, full_uri, experiment.name))
        except (MlflowException, OSError) as error:
            raise EnvironmentProblem(
                f"tracking store {redacted(full_uri)} failed: {first_line(error)}; "
                "nothing is lost, collect again when it works"
            ) from error


@dataclass(frozen=True)
class _Files:
    """What the files of a run say, read before anything is written to the store."""

    config: Mapping[str, Any]
    provenance: Mapping[str, Any]
    dataset: payload.DatasetInput | None
    result: Result | None
    result_stamp: str
    committed: int
    params: Mapping[str, str]
    facts: payload.Facts


def _read(run: RunView) -> _Files:
    """Read a run directory.

    Raises:
        ValueError, OSError: a file is missing, damaged or of another version; the message names it.
    """
    run_dir = run.run_dir
    # The stamp before the content: if the file is replaced in between, it is read again next time.
    result_stamp = file_stamp(run_dir.result_path) or ""
    spec, result = run_dir.read_spec(), run_dir.read_result()
    if spec is None:
        raise ValueError(f"{run_dir.spec_path} is missing")
    provenance = spec.get("provenance", {})
    dataset = atomic.read_json(run_dir.dataset_path)
    return _Files(
        config=spec["config"],
        provenance=provenance,
        dataset=None if dataset is None else payload.dataset_input(dataset, spec["config"]["data"]["root"]),
        result=result,
        result_stamp=result_stamp,
        committed=run_dir.committed_metrics_offset(),
        params=payload.params(spec["config"], run.axes),
        facts=payload.run_facts(run, provenance, result),
    )


class _Collector:
    """One pass over one experiment. The lock is held by the caller."""

    def __init__(self, store: MlflowStore, cursors: ExperimentCursors) -> None:
        self.store = store
        self.cursors = cursors
        self.tally = _Tally()
        self._children: dict[str, str] | None = None

    def collect_run(self, run: RunView, parent_id: str) -> None:
        """Bring what is new about one run into the store, or note why that cannot be done."""
        from mlflow.exceptions import MlflowException

        try:
            seen = _appearance(run)
            cursor = self.cursors.get(run.run_id)
            if not payload.has_begun(run) or (
                cursor is not None and (cursor.parent_id, cursor.seen) == (parent_id, seen)
            ):
                return
            files = _read(run)
        except (ValueError, KeyError, OSError) as error:
            self.tally.problems.append(f"run {run.run_id} ({run.name}): {first_line(error)}")
            return
        try:
            self._write(run, files, parent_id, seen)
        except MlflowException as error:
            if error.error_code in _STORE_TROUBLE:
                raise
            self.tally.problems.append(f"run {run.run_id} ({run.name}): MLflow refuses it: {first_line(error)}")

    def _write(self, run: RunView, files: _Files, parent_id: str, seen: str) -> None:
        self.tally.changed += 1
        mlflow_run, cursor = self._mlflow_run(run, parent_id)
        self.store.log_missing_params(mlflow_run, files.params)
        cursor = self._send_points(run, files, mlflow_run, cursor)
        if files.dataset is not None and not (mlflow_run.inputs and mlflow_run.inputs.dataset_inputs):
            self.store.log_dataset(cursor.mlflow_run_id, files.dataset)
        cursor = self._upload_artifacts(run, cursor)
        if files.result is not None and cursor.result != files.result_stamp:
            self._finish(run, mlflow_run, files, files.result)
            cursor = replace(cursor, result=files.result_stamp)
        # Last, so that a run that shows as finished is complete.
        self.store.set_facts(cursor.mlflow_run_id, files.facts)
        self.cursors.put(run.run_id, replace(cursor, seen=seen))

    def _mlflow_run(self, run: RunView, parent_id: str) -> tuple[MlflowRun, Cursor]:
        """The MLflow run of a run, created if there is none, and a cursor that holds for it."""
        cursor = self.cursors.get(run.run_id)
        if cursor is not None and cursor.parent_id == parent_id:
            known = self.store.living_run(cursor.mlflow_run_id)
            if known is not None:
                return known, cursor
        if self._children is None:
            self._children = self.store.find_children(parent_id)
        found = self._children.get(run.run_id)
        if found is None:
            tags = {payload.RUN_ID_TAG: run.run_id, payload.MLFLOW_PARENT_TAG: parent_id}
            found = self.store.create_run(run.name, payload.started_ms(run), tags)
        cursor = Cursor(found, parent_id)
        self.cursors.put(run.run_id, cursor)
        return self.store.client.get_run(found), cursor

    def _send_points(self, run: RunView, files: _Files, mlflow_run: MlflowRun, cursor: Cursor) -> Cursor:
        """Send the committed lines of the metrics file behind the cursor; the cursor moves with them."""
        path, run_id = run.run_dir.metrics_path, cursor.mlflow_run_id
        if not self._holds(cursor, path, files.committed, mlflow_run):
            return self._send_missing_points(run, files, mlflow_run, cursor)
        for begin, end in pieces(path, cursor.metrics_offset, files.committed):
            self.tally.points += self.store.log_points(run_id, payload.points(run.run_dir.read_metrics(begin, end)))
            cursor = replace(cursor, metrics_offset=end, metrics_tail=tail_fingerprint(path, end))
            self.cursors.put(run.run_id, cursor)
        return cursor

    @staticmethod
    def _holds(cursor: Cursor, path: Path, committed: int, mlflow_run: MlflowRun) -> bool:
        """Whether the store has exactly the metrics file up to the cursor (and perhaps the batch behind it)."""
        if cursor.metrics_offset == 0:
            return not mlflow_run.data.metrics
        return cursor.metrics_offset <= committed and cursor.metrics_tail == tail_fingerprint(
            path, cursor.metrics_offset
        )

    def _send_missing_points(self, run: RunView, files: _Files, mlflow_run: MlflowRun, cursor: Cursor) -> Cursor:
        """Compare the whole file with the store's whole history. Slow, and only after something went wrong."""
        measured = list(payload.points(run.run_dir.read_metrics(0, files.committed)))
        keys = sorted({point.key for point in measured} & set(mlflow_run.data.metrics))
        missing = payload.missing_points(measured, history(self.store, cursor.mlflow_run_id, keys))
        self.tally.points += self.store.log_points(cursor.mlflow_run_id, missing)
        fingerprint = tail_fingerprint(run.run_dir.metrics_path, files.committed)
        cursor = replace(cursor, metrics_offset=files.committed, metrics_tail=fingerprint)
        self.cursors.put(run.run_id, cursor)
        return cursor

    def _upload_artifacts(self, run: RunView, cursor: Cursor) -> Cursor:
        for artifact in run_artifacts(run):
            if cursor.artifacts.get(artifact.name) != artifact.stamp:
                self.store.upload(cursor.mlflow_run_id, artifact)
                self.tally.artifacts += 1
                cursor = replace(cursor, artifacts={**cursor.artifacts, artifact.name: artifact.stamp})
        return cursor

    def _finish(self, run: RunView, mlflow_run: MlflowRun, files: _Files, result: Result) -> None:
        """Store the encoder as a logged model, and the final metrics, linked to it."""
        link = MetricLink()
        if files.dataset is not None:
            link = replace(link, dataset_name=files.dataset.name, dataset_digest=files.dataset.digest)
        if run.run_dir.encoder_path.exists():
            link = replace(link, model_id=self.store.log_model(mlflow_run, _encoder(run, files, result)))
            self.tally.artifacts += 1
        final = payload.final_points(result, last_points(run.run_dir, files.committed, result.metrics))
        # As of before this pass: only what an earlier, interrupted or older result left has a history to look up.
        known = [point.key for point in final if mlflow_run.data.metrics.get(point.key) == point.value]
        final = payload.news(final, history(self.store, mlflow_run.info.run_id, known))
        self.tally.points += self.store.log_points(mlflow_run.info.run_id, final, link)


def _appearance(run: RunView) -> str:
    """Fingerprint of everything that a collection of this run would look at, from names and stamps alone."""
    run_dir = run.run_dir
    paths = [run_dir.spec_path, run_dir.dataset_path, run_dir.metrics_path, run_dir.result_path, run_dir.encoder_path]
    ledger = [run.state, run.reason, run.backend, run.job_id, run.attempts, run.name]
    stamps = [file_stamp(path) for path in paths]
    artifacts = [(artifact.name, artifact.stamp) for artifact in run_artifacts(run)]
    checkpoints = [path.name for path in run_dir.checkpoint_dirs()]
    return payload.fingerprint(repr((ledger, stamps, artifacts, checkpoints)).encode())


def _encoder(run: RunView, files: _Files, result: Result) -> LoggedModel:
    return LoggedModel(
        name=run.name,
        weights=run.run_dir.encoder_path,
        flavor={"backbone": files.config["backbone"], "data": files.config["data"]["name"]},
        params=run.axes,
        step=result.steps,
    )
