"""Bringing one run into its store: everything that is new about it, its status last."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from orchestrator.collect import payload
from orchestrator.collect.artifacts import file_stamp, run_artifacts
from orchestrator.collect.batches import send, set_facts
from orchestrator.collect.children import Children
from orchestrator.collect.cursor import Cursor, ExperimentCursors
from orchestrator.collect.drawings import Drawings, upload_figures
from orchestrator.collect.evidence import appearance, glance
from orchestrator.collect.mlflow_store import MetricLink, MlflowStore, history
from orchestrator.collect.models import log_encoder
from orchestrator.collect.payload import Point
from orchestrator.collect.retrying import Patience, answers, explained, is_full, is_refused_login, is_trouble
from orchestrator.collect.run_files import RunFiles, UnreadableRunError
from orchestrator.collect.spool import last_points, pieces, tail_fingerprint
from orchestrator.runs import RunView
from trainers.rundir import Result

if TYPE_CHECKING:
    from mlflow.entities import Run as MlflowRun


@dataclass(frozen=True)
class Outcome:
    """What bringing one run did: points and files sent, and one sentence if it could not be finished."""

    run_id: str
    points: int
    artifacts: int
    problem: str | None


@dataclass(frozen=True)
class Sender:
    """Brings runs into one MLflow experiment. For any number of threads that each work on other runs."""

    store: MlflowStore
    cursors: ExperimentCursors
    children: Children
    drawings: Drawings
    patience: Patience

    def has_news(self, run: RunView) -> bool:
        """Whether there is something to bring, by what the files look like from outside."""
        cursor = self.cursors.get(run.run_id)
        if cursor is None or cursor.parent_id != self.children.parent_id:
            return payload.has_begun(run)
        seen_at_a_glance = glance(run)
        if seen_at_a_glance and cursor.glance == seen_at_a_glance:
            return False
        if cursor.seen != appearance(run):
            return payload.has_begun(run)
        if cursor.glance != seen_at_a_glance:
            self.cursors.put(run.run_id, replace(cursor, glance=seen_at_a_glance))
        return False

    def has_figures_to_draw(self, run: RunView) -> bool:
        """Whether there is a result that the store does not have yet."""
        result = file_stamp(run.run_dir.result_path)
        cursor = self.cursors.get(run.run_id)
        return run.tracking.figures and result is not None and (cursor is None or cursor.result != result)

    def bring(self, run: RunView) -> Outcome:
        """Bring what is new about one run.

        Raises:
            MlflowException, OSError: the store is in trouble that outlasts our patience, or refuses the login.
        """
        from mlflow.exceptions import MlflowException

        sending = _Sending(self, run)
        problem = None
        try:
            self.patience.call(sending.carry_out)
        except UnreadableRunError as error:
            problem = str(error)
        except FileNotFoundError as error:
            problem = f"{error.filename} went away while it was collected; the next collection looks again"
        except (MlflowException, OSError) as error:
            if is_refused_login(error) or is_full(error) or not self._is_its_own_fault(error):
                raise
            problem = f"MLflow refuses it: {explained(error)}"
        if problem is not None:
            problem = f"run {run.run_id} ({run.name}): {problem}"
        return Outcome(run.run_id, sending.points, sending.artifacts, problem)

    def _is_its_own_fault(self, error: Exception) -> bool:
        """Whether the store works but for this run."""
        return answers(self.store.client) if is_trouble(error) else getattr(error, "error_code", None) is not None


class _Sending:
    """One run on its way. May be carried out again after any failure, and then goes on behind what was done."""

    def __init__(self, sender: Sender, run: RunView) -> None:
        self._run = run
        self._store = sender.store
        self._cursors = sender.cursors
        self._children = sender.children
        self._drawings = sender.drawings
        self.points = 0
        self.artifacts = 0

    def carry_out(self) -> None:
        """Look at the run, and bring what is new. The cursor moves with every step that took long."""
        run = self._run
        # Before the content: what is changed in between is looked at again next time.
        try:
            looks_at_a_glance, looks = glance(run), appearance(run)
        except OSError as error:
            raise UnreadableRunError(str(error)) from error
        files = RunFiles.read(run)
        mlflow_run, cursor = self._find_or_create(files)
        cursor = self._upload_artifacts(mlflow_run, cursor)
        if files.dataset is not None and not (mlflow_run.inputs and mlflow_run.inputs.dataset_inputs):
            self._store.log_dataset(cursor.mlflow_run_id, files.dataset)
        final, link = self._final(mlflow_run, files, cursor)
        params = {key: value for key, value in files.params.items() if key not in mlflow_run.data.params}
        cursor = self._send_points(files, mlflow_run, cursor, dict.fromkeys(final, link), params)
        # Last, so that a run that shows as finished is complete.
        set_facts(self._store.client, mlflow_run, files.facts)
        result = files.result_stamp if files.result is not None else ""
        self._put(replace(cursor, result=result, seen=looks, glance=looks_at_a_glance))

    def _find_or_create(self, files: RunFiles) -> tuple[MlflowRun, Cursor]:
        """The MLflow run as of now, and a cursor that holds for it."""
        run, parent_id = self._run, self._children.parent_id
        cursor = self._cursors.get(run.run_id)
        if cursor is not None and cursor.parent_id == parent_id:
            known = self._store.living_run(cursor.mlflow_run_id)
            if known is not None:
                return known, cursor
        found = self._children.find(run.run_id)
        if found is None:
            tags = {key: value for key, value in files.facts.tags.items() if value is not None}
            found = self._children.create(run.run_id, run.name, payload.started_ms(run), tags)
        cursor = Cursor(found.info.run_id, parent_id)
        self._put(cursor)
        return found, cursor

    def _put(self, cursor: Cursor) -> None:
        self._cursors.put(self._run.run_id, cursor)

    def _upload_artifacts(self, mlflow_run: MlflowRun, cursor: Cursor) -> Cursor:
        for artifact in run_artifacts(self._run):
            if cursor.artifacts.get(artifact.name) != artifact.stamp:
                self._store.upload(mlflow_run, artifact)
                self.artifacts += 1
                cursor = replace(cursor, artifacts={**cursor.artifacts, artifact.name: artifact.stamp})
                self._put(cursor)
        return cursor

    # --- points -------------------------------------------------------------------------------------------------------

    def _final(self, mlflow_run: MlflowRun, files: RunFiles, cursor: Cursor) -> tuple[list[Point], MetricLink]:
        """Final metrics of a result that is new, and the logged model and data set that they are linked to."""
        result = files.result
        if result is None or cursor.result == files.result_stamp:
            return [], MetricLink()
        link = self._log_model(mlflow_run, files, result)
        self.artifacts += upload_figures(self._store, mlflow_run.info.run_id, self._run, self._drawings)
        final = payload.final_points(result, last_points(self._run.run_dir, files.committed, result.metrics))
        # As of before this pass: only what an earlier, interrupted or older result left has a history to look up.
        known = [point.key for point in final if mlflow_run.data.metrics.get(point.key) == point.value]
        return payload.news(final, history(self._store, mlflow_run.info.run_id, known)), link

    def _log_model(self, mlflow_run: MlflowRun, files: RunFiles, result: Result) -> MetricLink:
        link = MetricLink()
        if files.dataset is not None:
            link = replace(link, dataset_name=files.dataset.name, dataset_digest=files.dataset.digest)
        if not self._run.run_dir.encoder_path.exists():
            return link
        self.artifacts += 1
        model_id = log_encoder(self._store, mlflow_run, self._run, files.config, result.steps)
        return replace(link, model_id=model_id)

    def _send_points(
        self,
        files: RunFiles,
        mlflow_run: MlflowRun,
        cursor: Cursor,
        links: Mapping[Point, MetricLink],
        params: Mapping[str, str],
    ) -> Cursor:
        """Send the committed lines of the metrics file behind the cursor, and the final points that are not in them."""
        run_dir, client = self._run.run_dir, self._store.client
        path, run_id = run_dir.metrics_path, cursor.mlflow_run_id
        if not self._holds(cursor, files, mlflow_run):
            missing = self._missing_points(files, mlflow_run)
            self.points += send(client, run_id, with_final(missing, links), links, params)
            cursor = replace(
                cursor, metrics_offset=files.committed, metrics_tail=tail_fingerprint(path, files.committed)
            )
            self._put(cursor)
            return cursor
        ranges = list(pieces(path, cursor.metrics_offset, files.committed))
        for begin, end in ranges[:-1]:
            self.points += send(client, run_id, payload.points(run_dir.read_metrics(begin, end)), {}, params)
            params = {}
            cursor = replace(cursor, metrics_offset=end, metrics_tail=tail_fingerprint(path, end))
            self._put(cursor)
        newest = payload.points(run_dir.read_metrics(*ranges[-1])) if ranges else iter(())
        self.points += send(client, run_id, with_final(newest, links), links, params)
        if ranges:
            end = ranges[-1][1]
            cursor = replace(cursor, metrics_offset=end, metrics_tail=tail_fingerprint(path, end))
            self._put(cursor)
        return cursor

    def _holds(self, cursor: Cursor, files: RunFiles, mlflow_run: MlflowRun) -> bool:
        """Whether the store has exactly the metrics file up to the cursor (and perhaps the batches behind it)."""
        if cursor.metrics_offset == 0:
            return not mlflow_run.data.metrics
        return cursor.metrics_offset <= files.committed and cursor.metrics_tail == tail_fingerprint(
            self._run.run_dir.metrics_path, cursor.metrics_offset
        )

    def _missing_points(self, files: RunFiles, mlflow_run: MlflowRun) -> Sequence[Point]:
        """Compare the whole file with the store's whole history. Slow, and only after something went wrong."""
        measured = list(payload.points(self._run.run_dir.read_metrics(0, files.committed)))
        keys = sorted({point.key for point in measured} & set(mlflow_run.data.metrics))
        return payload.missing_points(measured, history(self._store, mlflow_run.info.run_id, keys))


def with_final(points: Iterator[Point] | Sequence[Point], final: Mapping[Point, MetricLink]) -> Iterator[Point]:
    """The points, and behind them those final ones that were not among them: each is sent once, with its link."""
    met = set()
    for point in points:
        if point in final:
            met.add(point)
        yield point
    yield from (point for point in final if point not in met)
