"""Reading and writing one MLflow experiment through :class:`MlflowClient` with explicit ids.

Every write here may be repeated: it then finds what it would have made. MLflow's fluent API, with its global active
run, is not used anywhere.
"""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.collect.artifacts import Artifact, link_text, tail
from orchestrator.collect.payload import (
    PARENT_ROLE,
    ROLE_TAG,
    DatasetInput,
    Point,
)
from orchestrator.errors import EnvironmentProblem

if TYPE_CHECKING:
    from mlflow.entities import LoggedModel, Run
    from mlflow.entities.model_registry import ModelVersion
    from mlflow.store.artifact.artifact_repo import ArtifactRepository
    from mlflow.tracking import MlflowClient

#: What MLflow's REST API takes in one request.
MAX_BATCH = 1000
_PAGE = 1000
#: MLflow looks for an equal data set and then adds one, without a lock: of two runs that bring the same one at the same
#: moment, it refuses the second. Runs of one grid mostly share theirs.
_LOGS_DATASETS = threading.Lock()


@dataclass(frozen=True)
class MetricLink:
    """The logged model that metrics were measured on, and the data set they were measured with."""

    model_id: str | None = None
    dataset_name: str | None = None
    dataset_digest: str | None = None


@dataclass(frozen=True)
class MlflowStore:
    """One MLflow experiment in one store."""

    client: MlflowClient
    experiment_id: str
    experiment_name: str

    # --- finding and creating -----------------------------------------------------------------------------------------

    def living_run(self, mlflow_run_id: str) -> Run | None:
        """The run, or None if it was deleted or never was in this store."""
        from mlflow.exceptions import MlflowException

        try:
            run = self.client.get_run(mlflow_run_id)
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return None
            raise
        is_ours = run.info.lifecycle_stage == "active" and run.info.experiment_id == self.experiment_id
        return run if is_ours else None

    def find_parents(self) -> list[str]:
        """MLflow's ids of the experiment's parent runs, the one that stays first. Two are there for moments only."""
        return [run.info.run_id for run in self.search(f"tags.`{ROLE_TAG}` = '{PARENT_ROLE}'")]

    def create_run(self, name: str, started_ms: int, tags: Mapping[str, str]) -> str:
        """A new run, with the tags by which it is found again from its first instant on."""
        run = self.client.create_run(self.experiment_id, start_time=started_ms, tags=dict(tags), run_name=name)
        return str(run.info.run_id)

    def search(self, condition: str) -> Iterator[Run]:
        """Runs of the experiment that a filter of MLflow's finds, the oldest first."""
        token = None
        while True:
            page = self.client.search_runs(
                [self.experiment_id], condition, max_results=_PAGE, order_by=["attributes.start_time"], page_token=token
            )
            yield from page
            token = page.token
            if not token:
                return

    def models_of(self, mlflow_run_id: str) -> list[LoggedModel]:
        """The logged models that a run put out, the oldest by the store's own clock first."""
        found = self.client.search_logged_models([self.experiment_id], f"source_run_id = '{mlflow_run_id}'")
        return sorted(found, key=lambda model: (model.creation_timestamp, model.model_id))

    # --- writing ------------------------------------------------------------------------------------------------------

    def discard_run(self, mlflow_run_id: str) -> None:
        """Delete a run and what it put out: logged models, and their versions in the registry. Twice is once."""
        for version in self.client.search_model_versions(f"run_id = '{mlflow_run_id}'"):
            self.delete_version(version)
        for model in self.models_of(mlflow_run_id):
            self.client.delete_logged_model(model.model_id)
        self.client.delete_run(mlflow_run_id)

    def delete_version(self, version: ModelVersion) -> None:
        """Delete a version of a registered model, unless somebody has."""
        from mlflow.exceptions import MlflowException

        try:
            self.client.delete_model_version(version.name, version.version)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise

    def set_experiment_tags(self, tags: Mapping[str, str]) -> None:
        """Set those tags of the MLflow experiment that differ."""
        known = self.client.get_experiment(self.experiment_id).tags
        for key, value in tags.items():
            if known.get(key) != value:
                self.client.set_experiment_tag(self.experiment_id, key, value)

    def log_dataset(self, run_id: str, dataset: DatasetInput) -> None:
        """Add what the run trains on as its dataset input."""
        from mlflow.entities import Dataset, InputTag
        from mlflow.entities import DatasetInput as MlflowInput

        entity = Dataset(dataset.name, dataset.digest, "local", dataset.source, profile=dataset.profile)
        with _LOGS_DATASETS:
            self.client.log_inputs(run_id, [MlflowInput(entity, [InputTag("mlflow.data.context", "training")])])

    def files_of(self, run: Run) -> ArtifactRepository:
        """Where the run's artifacts are. The client's own ``log_artifact`` asks the store for the run once more."""
        from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

        return get_artifact_repository(run.info.artifact_uri, tracking_uri=self.client.tracking_uri)

    def upload(self, run: Run, artifact: Artifact) -> None:
        """Store an artifact, in place of an older one of the same name."""
        with tempfile.TemporaryDirectory() as scratch:
            path = artifact.path
            if artifact.linked or artifact.max_bytes is not None:
                path = Path(scratch) / path.name
            if artifact.linked:
                path.write_text(link_text(artifact.linked))
            elif artifact.max_bytes is not None:
                path.write_bytes(tail(artifact.path, artifact.max_bytes))
            self.files_of(run).log_artifact(str(path), artifact.folder or None)  # type: ignore[no-untyped-call]


def open_experiment(client: MlflowClient, name: str, artifact_root: str | None) -> MlflowStore:
    """The MLflow experiment of this name, created if there is none.

    Raises:
        EnvironmentProblem: it was deleted in MLflow, where its name is still taken.
    """
    from mlflow.exceptions import MlflowException

    found = client.get_experiment_by_name(name)
    if found is None:
        try:
            return MlflowStore(client, client.create_experiment(name, artifact_location=artifact_root), name)
        except MlflowException as error:
            # Another workspace on the same server may have been a moment faster.
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
            found = client.get_experiment_by_name(name)
    if found is None or found.lifecycle_stage != "active":
        raise EnvironmentProblem(
            f"MLflow experiment {name} was deleted and still holds its name; restore it "
            "(mlflow experiments restore) or delete it for good (mlflow gc), then collect again"
        )
    return MlflowStore(client, found.experiment_id, name)


def history(store: MlflowStore, run_id: str, keys: Sequence[str]) -> list[Point]:
    """Every point that the store holds of a run under the given names."""
    return [
        Point(metric.key, metric.value, metric.timestamp, metric.step)
        for key in keys
        for metric in store.client.get_metric_history(run_id, key)
    ]
