"""A workspace with run directories as the controller, launcher and trainer write them, and a store read back whole."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.collect import CollectSummary, collect
from orchestrator.collect.store import connect
from orchestrator.runs import ExperimentView, RunView, TrackingOptions
from orchestrator.state import RunState
from orchestrator.workspace import Workspace
from trainers.config import ISD, Data, LongTailed, MoCoV2, RunConfig
from trainers.rundir import AttemptRecord, Manifest, Metric, Result, RunDir, atomic

START = 1_700_000_000.0
CLASSES = ("zero", "one", "two")
AXES = ("method", "data.profile", "seed")


@dataclass(frozen=True)
class JsonCursors:
    """Cursors in one JSON file, as the ledger keeps them in its database."""

    path: Path

    def cursors(self, uri: str, experiment: str) -> dict[str, str]:
        return (atomic.read_json(self.path) or {}).get(f"{uri} {experiment}", {})

    def put_cursors(self, uri: str, experiment: str, cursors: Mapping[str, str]) -> None:
        known = atomic.read_json(self.path) or {}
        name = f"{uri} {experiment}"
        atomic.write_json(self.path, {**known, name: {**known.get(name, {}), **cursors}})


@dataclass
class Fabricated:
    """A workspace with run directories, written as the controller, launcher and trainer write them."""

    workspace: Workspace
    runs: list[RunView]
    name: str = "digits-lt"

    @property
    def experiment(self) -> ExperimentView:
        return ExperimentView(self.name, "name: digits-lt\n", Path("experiments/digits_lt.yaml"), AXES)

    @property
    def cursors(self) -> JsonCursors:
        return JsonCursors(self.workspace.path / "cursors.json")

    def collect(self, uri: str | None = None, **options: Any) -> CollectSummary:
        return collect(self.experiment, self.runs, uri=uri, workspace=self.workspace, cursors=self.cursors, **options)


def view(workspace: Workspace, position: int, run_id: str, axes: dict[str, str], state: RunState) -> RunView:
    return RunView(
        run_id=run_id,
        position=position,
        axes=axes,
        state=state,
        reason="",
        backend="local",
        job_id="4711",
        attempts=1,
        run_dir=workspace.run_dir(run_id),
        # Of so many runs, drawing would take most of the time.
        tracking=TrackingOptions(figures=False),
    )


def fabricate(path: Path, num_runs: int = 2, num_lines: int = 10) -> Fabricated:
    """Completed runs."""
    workspace = Workspace(path)
    return Fabricated(workspace, [fabricate_run(workspace, number, num_lines) for number in range(num_runs)])


def fabricate_run(workspace: Workspace, number: int, num_lines: int) -> RunView:
    config = RunConfig(method=(MoCoV2(), ISD())[number % 2], data=Data(profile=LongTailed()), seed=number // 2)
    axes = {"method": config.method.name, "data.profile": "long_tailed", "seed": str(config.seed)}
    run = view(workspace, number, f"{number:012x}", axes, RunState.COMPLETED)
    write_start(run.run_dir, run.run_id, config)
    append_metrics(run.run_dir, range(num_lines))
    write_end(run.run_dir, run.run_id, num_lines)
    return run


def write_start(run_dir: RunDir, run_id: str, config: RunConfig) -> None:
    run_dir.attempt_dir(1).mkdir(parents=True)
    run_dir.checkpoints_dir.mkdir()
    spec = {"schema_version": 1, "run_id": run_id, "config": config.model_dump(mode="json"), "provenance": {}}
    atomic.write_json(run_dir.spec_path, spec)
    histogram = {"class_counts": dict(zip(CLASSES, (100, 31, 10), strict=True)), "num_train": 141}
    atomic.write_json(run_dir.dataset_path, {"name": "digits", "label": "", "digest": "d" * 32, **histogram})
    attempt = AttemptRecord(number=1, token="t", backend="local", job_id="4711", started=START, ended=START + 100)
    atomic.write_json(run_dir.attempt_path(1), attempt.to_json())
    run_dir.rank_log_path(1, 0).write_text("training\n" * 50_000)


def append_metrics(run_dir: RunDir, steps: range, delay_s: float = 0.0) -> None:
    """Lines as the trainer appends them. ``delay_s`` moves their times, as a second attempt does."""
    with open(run_dir.metrics_path, "a") as file:
        for step in steps:
            metrics = {"train/loss": 7.0 / (step + 1), "train/lr": 0.03}
            if step % 5 == 0:
                metrics["eval/knn/top1"] = 50.0 + step
            line = Metric(step=step, epoch=step / 5, time=START + step + delay_s + 0.1234567, metrics=metrics)
            file.write(json.dumps(line.to_json()) + "\n")


def write_checkpoint(run_dir: RunDir, run_id: str, step: int) -> None:
    folder = run_dir.checkpoints_dir / f"step_{step}"
    folder.mkdir(exist_ok=True)
    (folder / "state.pt").write_bytes(b"weights" * step)
    size = run_dir.metrics_path.stat().st_size
    manifest = Manifest(run_id=run_id, step=step, epoch=1, metrics_offset=size, files={}, attempt=1, time=START)
    atomic.write_json(folder / "manifest.json", manifest.to_json())


def write_end(run_dir: RunDir, run_id: str, steps: int, finished: float = START + 99) -> None:
    write_checkpoint(run_dir, run_id, steps)
    run_dir.encoder_path.write_bytes(b"safetensors")
    last = run_dir.read_metrics()[-1]
    result = Result(
        run_id=run_id,
        steps=steps,
        epochs=2,
        metrics={"train/loss": last.metrics["train/loss"], "eval/knn/top1": 71.25, "eval/knn/few": 12.5},
        untrained={"eval/knn/top1": 22.5},
        per_class={"knn": dict.fromkeys(CLASSES, 71.25)},
        class_counts=dict(zip(CLASSES, (100, 31, 10), strict=True)),
        groups=dict(zip(CLASSES, ("many", "medium", "few"), strict=True)),
        finished=finished,
    )
    atomic.write_json(run_dir.result_path, result.to_json())


# --- reading a store back ---------------------------------------------------------------------------------------------


def contents(uri: str, name: str = "digits-lt") -> dict[str, Any]:
    """Everything that the store holds of the experiment, without MLflow's own ids: two equal stores are equal here."""
    client = connect(uri)
    experiment = client.get_experiment_by_name(name)
    assert experiment is not None
    parents = client.search_runs([experiment.experiment_id], "tags.`sweep.role` = 'experiment'")
    assert len(parents) == 1
    parent = parents[0]
    found: dict[str, Any] = {"": described(client, parent)}
    registered = versions(client, name)
    for run in client.search_runs([experiment.experiment_id], f"tags.`mlflow.parentRunId` = '{parent.info.run_id}'"):
        run_id = run.data.tags["sweep.run_id"]
        assert run_id not in found, "a run is in the store twice"
        found[run_id] = described(client, client.get_run(run.info.run_id)) | {"models": models(client, run)}
        found[run_id]["versions"] = registered.pop(run_id, [])
    everything = client.search_runs([experiment.experiment_id])
    assert len(everything) == len(found), "runs without a place"
    assert not registered, "versions of runs that are not there"
    return found


def nameless(uri: str, name: str) -> Any:
    """What the store holds of an experiment, for comparing it with another one of the same runs."""
    return json.loads(json.dumps(contents(uri, name)).replace(name, "NAME"))


def described(client: Any, run: Any) -> dict[str, Any]:
    return {
        "name": run.info.run_name,
        "status": run.info.status,
        "times": (run.info.start_time, run.info.end_time),
        "params": run.data.params,
        "tags": {
            key: value for key, value in run.data.tags.items() if key not in ("mlflow.parentRunId", "mlflow.user")
        },
        "points": points(client, run),
        "datasets": [item.dataset.to_dictionary() for item in run.inputs.dataset_inputs] if run.inputs else [],
        "artifacts": artifacts(client, run.info.run_id),
    }


def points(client: Any, run: Any) -> list[tuple[str, int, int, float]]:
    history = [item for key in run.data.metrics for item in client.get_metric_history(run.info.run_id, key)]
    return sorted((item.key, item.step, item.timestamp, item.value) for item in history)


def artifacts(client: Any, run_id: str, folder: str | None = None) -> list[tuple[str, int]]:
    found = []
    for item in client.list_artifacts(run_id, folder):
        found += artifacts(client, run_id, item.path) if item.is_dir else [(item.path, item.file_size)]
    return sorted(found)


def models(client: Any, run: Any) -> list[Any]:
    known = client.search_logged_models([run.info.experiment_id], f"source_run_id = '{run.info.run_id}'")
    outputs = [output.model_id for output in client.get_run(run.info.run_id).outputs.model_outputs]
    assert outputs == [model.model_id for model in known]
    return [
        (
            model.name,
            str(model.status),
            model.params,
            sorted(item.path for item in client.list_logged_model_artifacts(model.model_id)),
            sorted((item.key, item.step, item.value, item.dataset_name) for item in model.metrics or []),
        )
        for model in known
    ]


def versions(client: Any, name: str) -> dict[str, list[Any]]:
    """Our run id -> its versions of the experiment's registered models; each has files of a model that is there."""
    found: dict[str, list[Any]] = {}
    for version in client.search_model_versions(f"name LIKE '{name}-%'"):
        experiment_id = client.get_run(version.run_id).info.experiment_id
        known = client.search_logged_models([experiment_id], f"source_run_id = '{version.run_id}'")
        assert version.source in {model.artifact_location for model in known}
        found.setdefault(version.tags["sweep.run_id"], []).append((version.name, version.tags))
    return found


def uri_of(fabricated: Fabricated) -> str:
    return f"sqlite:///{fabricated.workspace.path / 'mlflow.db'}"
