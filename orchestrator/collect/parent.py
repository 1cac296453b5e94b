"""An experiment's parent run in MLflow: the experiment file, the progress of its runs, and the report."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from orchestrator.collect import payload
from orchestrator.collect.batches import send, set_facts
from orchestrator.collect.cursor import Cursor, ExperimentCursors
from orchestrator.collect.mlflow_store import MlflowStore
from orchestrator.collect.progress import news, progress_of, progress_text, with_section
from orchestrator.collect.views import experiment_tags
from orchestrator.redaction import redacted
from orchestrator.runs import ExperimentView, RunView

#: The text that a run's page begins with.
NOTE_TAG = "mlflow.note.content"


@dataclass(frozen=True)
class ParentRun:
    """The parent run of one experiment in one store. The caller holds the lock."""

    store: MlflowStore
    cursors: ExperimentCursors
    experiment: ExperimentView

    def open(self, runs: Sequence[RunView]) -> str:
        """Find or create the parent run and store the experiment file with it. Returns MLflow's id.

        That it is looked for every time shows the twin that another machine created at the same moment. All collectors
        keep the same one, by MLflow's order. Runs below the other one are found by our ids and come below this one.
        """
        parent_id, cursor = self._find_or_create(runs), self.cursors.get("")
        if cursor is None or cursor.mlflow_run_id != parent_id:
            cursor = Cursor(parent_id)
        cursor = self._store_files(cursor)
        self.store.set_experiment_tags(experiment_tags(self.experiment, cursor.mlflow_run_id))
        self.cursors.put("", cursor)
        return cursor.mlflow_run_id

    def _store_files(self, cursor: Cursor) -> Cursor:
        """The experiment file, and those that it extends, under the folders by which it names them."""
        files = {self.experiment.file_path.name: self.experiment.file_text, **self.experiment.extended}
        for path, content in files.items():
            text = redacted(content)
            name, stamp = f"experiment/{path}", payload.fingerprint(text.encode())
            if cursor.artifacts.get(name) != stamp:
                self.store.client.log_text(cursor.mlflow_run_id, text, name)
                cursor = replace(cursor, artifacts={**cursor.artifacts, name: stamp})
        return cursor

    @property
    def mlflow_run_id(self) -> str:
        """MLflow's id. Needs :meth:`open` before it."""
        return self._cursor().mlflow_run_id

    def show_progress(self, runs: Sequence[RunView]) -> None:
        """Say how far the runs are. Needs :meth:`open` before it; asks and writes nothing where nothing has changed."""
        progress = progress_of(runs)
        is_over = all(run.state.is_terminal for run in runs)
        # That a trainer has written is no news by itself.
        shown = replace(progress, time_ms=progress.time_ms if is_over else 0)
        seen = payload.fingerprint(repr((shown, self.experiment.axes)).encode())
        cursor = self._cursor()
        if cursor.seen == seen:
            return
        known = self.store.client.get_run(cursor.mlflow_run_id)
        points = news(progress, known.data.metrics, known.info.start_time)
        send(self.store.client, cursor.mlflow_run_id, points, {}, {})
        facts = payload.parent_facts(self.experiment, runs, payload.experiment_ended_ms(runs))
        note = with_section(known.data.tags.get(NOTE_TAG, ""), "progress", progress_text(progress))
        set_facts(self.store.client, known, replace(facts, tags={**facts.tags, NOTE_TAG: note}))
        self.cursors.put("", replace(cursor, seen=seen))

    def show_report(self, files: Sequence[Path], summary: str) -> None:
        """Store the report's files, and its summary in the text that the page begins with. Needs :meth:`open` before.

        Args:
            summary: Markdown; what is longer than MLflow takes is cut.
        """
        parent_id = self.mlflow_run_id
        for path in files:
            self.store.client.log_artifact(parent_id, str(path), "report")
        note = self.store.client.get_run(parent_id).data.tags.get(NOTE_TAG, "")
        self.store.client.set_tag(parent_id, NOTE_TAG, with_section(note, "report", summary.strip()))

    def _cursor(self) -> Cursor:
        cursor = self.cursors.get("")
        if cursor is None:
            raise RuntimeError("the parent run is not open")
        return cursor

    def _find_or_create(self, runs: Sequence[RunView]) -> str:
        found = self.store.find_parents()
        if not found:
            begun = [payload.started_ms(run) for run in runs if payload.has_begun(run)]
            started = min(begun, default=round(time.time() * 1000))
            self.store.create_run(self.experiment.name, started, {payload.ROLE_TAG: payload.PARENT_ROLE})
            found = self.store.find_parents()
        parent_id, *twins = found
        for twin in twins:
            self.store.client.delete_run(twin)
        return parent_id
