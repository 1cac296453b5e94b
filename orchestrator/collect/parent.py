"""An experiment's parent run in MLflow: the experiment file, the progress of its runs, and the report."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from orchestrator.collect import payload
from orchestrator.collect.cursor import Cursor, ExperimentCursors
from orchestrator.collect.mlflow_store import MlflowStore
from orchestrator.runs import ExperimentView, RunView

#: MLflow takes 8,000 characters in a tag.
_MAX_NOTE = 8000


@dataclass(frozen=True)
class ParentRun:
    """The parent run of one experiment in one store. The caller holds the lock."""

    store: MlflowStore
    cursors: ExperimentCursors
    experiment: ExperimentView

    def open(self, runs: Sequence[RunView]) -> str:
        """Find or create the parent run and store the experiment file with it. Returns MLflow's id."""
        cursor = self.cursors.get("")
        if cursor is None or self.store.living_run(cursor.mlflow_run_id) is None:
            cursor = Cursor(self.store.find_parent() or self._create(runs))
        text = self.experiment.file_text
        name, stamp = f"experiment/{self.experiment.file_path.name}", payload.fingerprint(text.encode())
        if cursor.artifacts.get(name) != stamp:
            self.store.client.log_text(cursor.mlflow_run_id, text, name)
            cursor = replace(cursor, artifacts={**cursor.artifacts, name: stamp})
        self.store.set_experiment_tags(payload.experiment_tags(self.experiment, cursor.mlflow_run_id))
        self.cursors.put("", cursor)
        return cursor.mlflow_run_id

    def show_progress(self, runs: Sequence[RunView]) -> None:
        """Say how many runs are in which state. Needs :meth:`open` before it; writes only what has changed."""
        facts = payload.parent_facts(self.experiment, runs, payload.experiment_ended_ms(runs))
        seen = payload.fingerprint(repr(facts).encode())
        cursor = self._cursor()
        if cursor.seen != seen:
            self.store.set_facts(cursor.mlflow_run_id, facts)
            self.cursors.put("", replace(cursor, seen=seen))

    def show_report(self, files: Sequence[Path], summary: str) -> None:
        """Store the report's files, and its summary as the text that the page begins with. Needs :meth:`open` before.

        Args:
            summary: Markdown; what is longer than MLflow takes is cut.
        """
        parent_id = self._cursor().mlflow_run_id
        for path in files:
            self.store.client.log_artifact(parent_id, str(path), "report")
        self.store.client.set_tag(parent_id, "mlflow.note.content", summary[:_MAX_NOTE])

    def _cursor(self) -> Cursor:
        cursor = self.cursors.get("")
        if cursor is None:
            raise RuntimeError("the parent run is not open")
        return cursor

    def _create(self, runs: Sequence[RunView]) -> str:
        begun = [payload.started_ms(run) for run in runs if payload.has_begun(run)]
        started = min(begun, default=round(time.time() * 1000))
        return self.store.create_run(self.experiment.name, started, {payload.ROLE_TAG: payload.PARENT_ROLE})
