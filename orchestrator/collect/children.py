"""The runs below an experiment's parent run in MLflow: each found or created, and none there twice.

MLflow takes no name of ours as the key of a run, so that "look for it, then create it" can go wrong in two ways:
another machine does the same at the same moment, or the answer to a creation is lost. The first search after either
shows twins; all collectors then agree on one of them by MLflow's own order, and delete the other.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from orchestrator.collect.mlflow_store import MlflowStore
from orchestrator.collect.payload import MLFLOW_PARENT_TAG, RUN_ID_TAG

if TYPE_CHECKING:
    from mlflow.entities import Run

#: So many runs are looked for one by one; for more, all are read.
_FEW = 20


@dataclass
class Children:
    """MLflow runs of our runs below one parent, for any number of threads that each work on other runs.

    Attributes:
        known: our run id -> MLflow's, of all children as of the start of the pass; None if nobody has looked.
        created: the same, of those that were created since.
    """

    store: MlflowStore
    parent_id: str
    known: Mapping[str, str] | None
    created: dict[str, str] = field(default_factory=dict)
    _doubtful: set[str] = field(default_factory=set)

    def find(self, run_id: str) -> str | None:
        """MLflow's id of a run, if it is there."""
        if self.known is not None and run_id not in self._doubtful:
            return self.known.get(run_id)
        return next(self._search(run_id), None)

    def create(self, run_id: str, name: str, started_ms: int, tags: Mapping[str, str]) -> Run:
        """Create a run that was not found, with the tags by which it is found from its first instant on.

        If this fails, the run may be there nevertheless: look for it again before creating it again.
        """
        self._doubtful.add(run_id)
        own = {**tags, RUN_ID_TAG: run_id, MLFLOW_PARENT_TAG: self.parent_id}
        run = self.store.client.create_run(self.store.experiment_id, started_ms, own, name)
        self._doubtful.discard(run_id)
        self.created[run_id] = run.info.run_id
        return run

    def settle(self) -> list[str]:
        """Delete twins of what was created. Our ids of the runs of which another than the created one has stayed."""
        if not self.created:
            return []
        moved = []
        for run_id, mlflow_ids in self._present().items():
            for twin in mlflow_ids[1:]:
                self.store.client.delete_run(twin)
            if mlflow_ids[:1] != [self.created[run_id]]:
                moved.append(run_id)
        return moved

    def _present(self) -> dict[str, list[str]]:
        """MLflow's ids of every created run, the one that stays first."""
        if len(self.created) <= _FEW:
            return {run_id: list(self._search(run_id)) for run_id in self.created}
        present: dict[str, list[str]] = {run_id: [] for run_id in self.created}
        for run in self._pages(""):
            run_id = run.data.tags.get(RUN_ID_TAG, "")
            if run_id in present:
                present[run_id].append(run.info.run_id)
        return present

    def _search(self, run_id: str) -> Iterator[str]:
        for run in self._pages(f" and tags.`{RUN_ID_TAG}` = '{run_id}'"):
            yield str(run.info.run_id)

    def _pages(self, condition: str) -> Iterator[Run]:
        return self.store.search(f"tags.`{MLFLOW_PARENT_TAG}` = '{self.parent_id}'{condition}")
