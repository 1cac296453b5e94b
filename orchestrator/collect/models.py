"""The trained encoder of a run as a logged model of MLflow, and as a version of a registered one.

``mlflow.pytorch.load_model`` gives a module that embeds a batch of images, in any process that has MLflow and torch;
the weights are there as safetensors too. What may have been interrupted is found again and completed, never made twice.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.collect.exported import NotExportedError, Weights, fill, graphs_of, torch_version
from orchestrator.collect.mlflow_store import MlflowStore
from orchestrator.collect.payload import RUN_ID_TAG
from orchestrator.runs import RunView
from trainers.config import Data

if TYPE_CHECKING:
    from mlflow.entities import LoggedModel as MlflowModel
    from mlflow.entities import Run
    from mlflow.models.model import Model

#: Why a model holds weights alone, and cannot be loaded by MLflow.
WEIGHTS_ONLY_TAG = "sweep.weights_only"
#: SHA-256 of the weights of a registered version; with the run's id it says which encoder a version is.
ENCODER_TAG = "sweep.encoder"
#: Characters that MLflow refuses in the name of a model.
_REFUSED_IN_NAMES = str.maketrans(dict.fromkeys("/:.%\"'", "_"))
_GRAPH = Path("data/model.pt2")


def log_encoder(store: MlflowStore, mlflow_run: Run, run: RunView, config: Mapping[str, Any], steps: int) -> str:
    """Store the encoder of a completed run as a logged model that the run put out. Returns MLflow's id of it.

    An architecture that torch cannot export does not keep the weights from being stored: the model says so.

    Args:
        config: of the run.
        steps: optimizer steps of the encoder.

    Raises:
        MlflowException, OSError: the store is in trouble. Called again, it goes on.
    """
    from mlflow.entities import LoggedModelOutput

    client, run_id = store.client, mlflow_run.info.run_id
    model = _find_or_create_model(store, run_id, run)
    model_id = str(model.model_id)
    with tempfile.TemporaryDirectory(prefix="sweep-model-") as scratch:
        problem = _write_model(Path(scratch), run, config, run_id, model_id)
        client.log_model_artifact(model_id, str(run.run_dir.encoder_path))
        client.log_model_artifacts(model_id, scratch)
    tags = {RUN_ID_TAG: run.run_id}
    if problem or WEIGHTS_ONLY_TAG in model.tags:
        tags[WEIGHTS_ONLY_TAG] = problem
    client.set_logged_model_tags(model_id, tags)
    client.finalize_logged_model(model_id, "READY")
    known = mlflow_run.outputs.model_outputs if mlflow_run.outputs is not None else []
    if model_id not in {output.model_id for output in known}:
        client.log_outputs(run_id, [LoggedModelOutput(model_id, steps)])
    if run.tracking.register_models:
        _register(store, run, config, run_id, model_id)
    return model_id


def registered_name(experiment: str, method: str) -> str:
    """The registered model that encoders of a method become versions of."""
    return f"{experiment}-{method}".translate(_REFUSED_IN_NAMES)


# --- the logged model -------------------------------------------------------------------------------------------------


def _find_or_create_model(store: MlflowStore, run_id: str, run: RunView) -> MlflowModel:
    """The model of the run: the oldest by the store's clock, should another machine have created one at this moment.

    The order of creation is that of the search: whoever sees only its own model has the one that stays.
    """
    found = store.models_of(run_id)
    if not found:
        store.client.create_logged_model(
            store.experiment_id,
            name=run.name.translate(_REFUSED_IN_NAMES),
            source_run_id=run_id,
            params=dict(run.axes),
            model_type="encoder",
        )
        found = store.models_of(run_id)
    for twin in found[1:]:
        store.client.delete_logged_model(twin.model_id)
    return found[0]


def _write_model(folder: Path, run: RunView, config: Mapping[str, Any], run_id: str, model_id: str) -> str:
    """Write what belongs beside the weights. Returns why the model cannot be loaded by MLflow; empty if it can."""
    from mlflow.models.model import Model

    encoder = run.run_dir.encoder_path
    description = Model(run_id=run_id, model_id=model_id, model_uuid=model_id)
    # A file of its own form, for who builds the network otherwise.
    description.add_flavor("safetensors", weights=encoder.name, backbone=config["backbone"])
    problem, origin = "", {}
    try:
        weights = Weights.of(encoder)
        origin = dict(weights.origin)
        side = Data.model_validate_json(json.dumps(config["data"])).side
        graph = graphs_of(run.run_dir.path.parents[1] / "cache").graph(config["backbone"], side)
        (folder / _GRAPH).parent.mkdir()
        fill(graph, weights, folder / _GRAPH)
        _describe_graph(description, side, torch_version(graph))
        (folder / "requirements.txt").write_text(f"torch=={torch_version(graph).partition('+')[0]}\n")
    except NotExportedError as error:
        shutil.rmtree((folder / _GRAPH).parent, ignore_errors=True)
        problem = str(error)
    description.metadata = {"method": config["method"]["name"], "data": config["data"]["name"], **origin}
    description.save(str(folder / "MLmodel"))
    return problem


def _describe_graph(description: Model, side: int, version: str) -> None:
    """Add what ``mlflow.pytorch.load_model`` reads, and what goes in and comes out."""
    import numpy as np
    from mlflow.models.signature import ModelSignature
    from mlflow.types.schema import Schema, TensorSpec

    pixels = np.dtype(np.float32)
    description.add_flavor("pytorch", model_data=_GRAPH.parent.name, pytorch_version=version, code=None)
    description.signature = ModelSignature(
        inputs=Schema([TensorSpec(pixels, (-1, 3, side, side), "images")]),
        outputs=Schema([TensorSpec(pixels, (-1, -1), "features")]),
    )


# --- the registry -----------------------------------------------------------------------------------------------------


def _register(store: MlflowStore, run: RunView, config: Mapping[str, Any], run_id: str, model_id: str) -> None:
    """Make the logged model a version, unless it is one. A version has its tags from its first instant on."""
    from mlflow.exceptions import MlflowException

    client, name = store.client, registered_name(store.experiment_name, config["method"]["name"])
    with open(run.run_dir.encoder_path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    condition = f"name = '{name}' and tags.`{RUN_ID_TAG}` = '{run.run_id}' and tags.`{ENCODER_TAG}` = '{digest}'"
    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    if not client.search_model_versions(condition):
        client.create_model_version(
            name,
            client.get_logged_model(model_id).artifact_location,
            run_id=run_id,
            model_id=model_id,
            tags={
                RUN_ID_TAG: run.run_id,
                ENCODER_TAG: digest,
                "seed": str(config["seed"]),
                "data.profile": config["data"]["profile"]["name"],
            },
            await_creation_for=0,
        )
        # Another machine may have created one at the same moment: the first stays.
        present = sorted(client.search_model_versions(condition), key=lambda version: int(version.version))
        for twin in present[1:]:
            store.delete_version(twin)
