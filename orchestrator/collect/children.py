"""The runs below an experiment's parent run in MLflow: each found or created, and none there twice.

MLflow takes no name of ours as the key of a run, so that "look for it, then create it" can go wrong in two ways:
another machine does the same at the same moment, or the answer to a creation is lost. The first search after either
shows twins; all collectors then agree on one of them by MLflow's own order, and discard the other. They look in the
whole MLflow experiment: a parent run may have had a twin too, below which runs were created.
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
        created: our run id -> MLflow's, of those that were created in this pass.
    """

    store: MlflowStore
    parent_id: str
    created: dict[str, str] = field(default_factory=dict)
    _known: Mapping[str, str] | None = None
    _doubtful: set[str] = field(default_factory=set)
    _doubled: set[str] = field(default_factory=set)

    def look(self) -> None:
        """Read all runs at once, so that they need not be looked for one by one, and see which are there twice."""
        known: dict[str, str] = {}
        for run_id, mlflow_id in self._all():
            if known.setdefault(run_id, mlflow_id) != mlflow_id:
                self._doubled.add(run_id)
        self._known = known

    def find(self, run_id: str) -> Run | None:
        """The MLflow run of a run, if it is there; it is put below this parent if it was below another."""
        if self._known is not None and run_id not in self._doubtful:
            mlflow_id = self._known.get(run_id)
        else:
            mlflow_id = next(self._search(run_id), None)
        found = None if mlflow_id is None else self.store.living_run(mlflow_id)
        if found is not None and found.data.tags.get(MLFLOW_PARENT_TAG) != self.parent_id:
            self.store.client.set_tag(found.info.run_id, MLFLOW_PARENT_TAG, self.parent_id)
        return found

    def create(self, run_id: str, name: str, started_ms: int, tags: Mapping[str, str]) -> Run:
        """Create a run that was not found, with the tags by which it is found from its first instant on.

        If this fails, the run may be there nevertheless: look for it again before creating it again.
        """
        self._doubtful.add(run_id)
        own = {**tags, RUN_ID_TAG: run_id, MLFLOW_PARENT_TAG: self.parent_id}
        run = self.store.client.create_run(self.store.experiment_id, started_ms, own, name)
        self.created[run_id] = run.info.run_id
        return run

    def settle(self) -> set[str]:
        """Discard twins. Our ids of the runs that had one: what was sent may have gone to it, so bring them again."""
        doubled = set()
        for run_id, mlflow_ids in self._present().items():
            created = self.created.get(run_id)
            losers = mlflow_ids[1:]
            if created is not None and created not in mlflow_ids:
                losers.append(created)  # another collector has deleted it, while we still gave it something
            for loser in losers:
                self.store.discard_run(loser)
                doubled.add(run_id)
        self._known = None
        return doubled

    def _present(self) -> dict[str, list[str]]:
        """MLflow's ids of every run that may be there twice, the one that stays first."""
        doubtful = self._doubled | set(self.created)
        if len(doubtful) <= _FEW:
            return {run_id: list(self._search(run_id)) for run_id in doubtful}
        present: dict[str, list[str]] = {run_id: [] for run_id in doubtful}
        for run_id, mlflow_id in self._all():
            if run_id in present:
                present[run_id].append(mlflow_id)
        return present

    def _all(self) -> Iterator[tuple[str, str]]:
        for run in self.store.search(""):
            run_id = run.data.tags.get(RUN_ID_TAG)
            if run_id is not None:
                yield run_id, run.info.run_id

    def _search(self, run_id: str) -> Iterator[str]:
        for run in self.store.search(f"tags.`{RUN_ID_TAG}` = '{run_id}'"):
            yield run.info.run_id
