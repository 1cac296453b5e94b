"""Collection into real MLflow stores, from run directories that hold the trainer's own records."""

from __future__ import annotations

import contextlib
import itertools
import json
import multiprocessing
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from orchestrator.collect import CollectSummary, collect, log_report
from orchestrator.collect.store import connect
from orchestrator.errors import EnvironmentProblem
from orchestrator.report import build_report, write_report
from orchestrator.runs import ExperimentView, RunView
from orchestrator.state import RunState
from orchestrator.ui import experiment_path, free_port
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

    def cursor(self, uri: str, experiment: str, run_id: str) -> str | None:
        return (atomic.read_json(self.path) or {}).get(f"{uri} {experiment} {run_id}")

    def put_cursor(self, uri: str, experiment: str, run_id: str, cursor: str) -> None:
        atomic.write_json(self.path, (atomic.read_json(self.path) or {}) | {f"{uri} {experiment} {run_id}": cursor})


@dataclass
class Fabricated:
    """A workspace with run directories, written as the controller, launcher and trainer write them."""

    workspace: Workspace
    runs: list[RunView]

    @property
    def experiment(self) -> ExperimentView:
        return ExperimentView("digits-lt", "name: digits-lt\n", Path("experiments/digits_lt.yaml"), AXES)

    @property
    def cursors(self) -> JsonCursors:
        return JsonCursors(self.workspace.path / "cursors.json")

    def collect(self, uri: str | None = None) -> CollectSummary:
        return collect(self.experiment, self.runs, uri=uri, workspace=self.workspace, cursors=self.cursors)


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


def contents(uri: str) -> dict[str, Any]:
    """Everything that the store holds of the experiment, without MLflow's own ids: two equal stores are equal here."""
    client = connect(uri)
    experiment = client.get_experiment_by_name("digits-lt")
    assert experiment is not None
    parents = client.search_runs([experiment.experiment_id], "tags.`sweep.role` = 'experiment'")
    assert len(parents) == 1
    parent = parents[0]
    found: dict[str, Any] = {"": described(client, parent)}
    for run in client.search_runs([experiment.experiment_id], f"tags.`mlflow.parentRunId` = '{parent.info.run_id}'"):
        run_id = run.data.tags["sweep.run_id"]
        assert run_id not in found, "a run is in the store twice"
        found[run_id] = described(client, client.get_run(run.info.run_id)) | {"models": models(client, run)}
    everything = client.search_runs([experiment.experiment_id])
    assert len(everything) == len(found), "runs without a place"
    return found


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


# --- fixtures ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with MLflow's tables: making them takes longer than any test here."""
    path = tmp_path_factory.mktemp("store") / "mlflow.db"
    connect(f"sqlite:///{path}")
    return path


@pytest.fixture
def fabricated(tmp_path: Path, empty_store: Path) -> Fabricated:
    made = fabricate(tmp_path / "work space")
    shutil.copy(empty_store, made.workspace.path / "mlflow.db")
    return made


def uri_of(fabricated: Fabricated) -> str:
    return f"sqlite:///{fabricated.workspace.path / 'mlflow.db'}"


# --- what a store holds -----------------------------------------------------------------------------------------------


def test_a_completed_run_is_in_the_store_with_everything(fabricated: Fabricated) -> None:
    summary = fabricated.collect()
    assert (summary.runs, summary.changed, summary.problems) == (2, 2, ())
    found = contents(uri_of(fabricated))
    parent, isd = found[""], found["000000000001"]
    assert parent["status"] == "FINISHED"
    assert parent["tags"]["sweep.runs.completed"] == "2"
    assert ("experiment/digits_lt.yaml", 16) in parent["artifacts"]

    assert isd["name"] == "isd · long_tailed · seed=0"
    assert isd["status"] == "FINISHED"
    assert isd["times"] == (round(START * 1000), round((START + 99) * 1000))
    assert {key: isd["params"][key] for key in AXES} == {"method": "isd", "data.profile": "long_tailed", "seed": "0"}
    assert isd["params"]["method.queue_size"] == "128000"
    assert isd["params"]["data.profile.imbalance"] == "100.0"
    assert not any(key.startswith(("evaluate", "runtime", "data.root")) for key in isd["params"])
    assert isd["tags"]["sweep.state"] == "completed"
    assert isd["tags"]["sweep.job_id"] == "4711"

    trained = [(step, time_ms) for key, step, time_ms, _ in isd["points"] if key == "train/loss"]
    assert trained == [(step, round((START + step + 0.1234567) * 1000)) for step in range(10)]
    assert ("eval/knn/few", 10, round((START + 99) * 1000), 12.5) in isd["points"]
    assert ("untrained/eval/knn/top1", 0, round((START + 99) * 1000), 22.5) in isd["points"]

    dataset = isd["datasets"][0]
    assert (dataset["name"], dataset["digest"]) == ("digits", "d" * 32)
    assert json.loads(dataset["profile"])["class_counts"] == {"zero": 100, "one": 31, "two": 10}
    names = [name for name, _ in isd["artifacts"]]
    assert names == [
        "checkpoint/step_10/manifest.json",
        "checkpoint/step_10/state.pt",
        "dataset.json",
        "logs/attempt_1/attempt.json",
        "logs/attempt_1/rank_0.log",
        "result.json",
        "spec.json",
    ]
    assert 200_000 < dict(isd["artifacts"])["logs/attempt_1/rank_0.log"] < 300_000  # of 450,000 bytes
    name, status, params, files, metrics = isd["models"][0]
    assert (name, status) == ("isd · long_tailed · seed=0", "READY")
    assert params["method"] == "isd"
    assert files == ["MLmodel", "encoder.safetensors"]
    assert ("eval/knn/top1", 10, 71.25, "digits") in metrics


def test_collecting_twice_is_collecting_once(fabricated: Fabricated) -> None:
    fabricated.collect()
    before = contents(uri_of(fabricated))
    again = fabricated.collect()
    assert (again.changed, again.points, again.artifacts) == (0, 0, 0)
    assert contents(uri_of(fabricated)) == before


def test_losing_the_cursors_changes_nothing(fabricated: Fabricated) -> None:
    fabricated.collect()
    before = contents(uri_of(fabricated))
    fabricated.cursors.path.unlink()
    fabricated.collect()
    assert contents(uri_of(fabricated)) == before


def test_a_store_made_anew_is_filled_again(fabricated: Fabricated, empty_store: Path) -> None:
    fabricated.collect()
    before = contents(uri_of(fabricated))
    shutil.copy(empty_store, fabricated.workspace.path / "mlflow.db")
    fabricated.collect()
    assert contents(uri_of(fabricated)) == before


def test_only_the_committed_part_of_a_working_run_is_collected(fabricated: Fabricated) -> None:
    run = fabricated.runs[0]
    run.run_dir.result_path.unlink()
    append_metrics(run.run_dir, range(10, 15))  # behind the last checkpoint
    fabricated.runs[0] = replace(run, state=RunState.RUNNING)
    fabricated.collect()
    found = contents(uri_of(fabricated))[run.run_id]
    assert found["status"] == "RUNNING"
    assert max(step for _, step, _, _ in found["points"]) == 9
    assert found["models"] == []
    assert not any(name.startswith("logs/") for name, _ in found["artifacts"])


def test_runs_that_wait_are_counted_and_not_shown(fabricated: Fabricated) -> None:
    waiting = view(fabricated.workspace, 2, "f" * 12, {"method": "sdssl"}, RunState.QUEUED)
    fabricated.runs.append(waiting)
    fabricated.collect()
    found = contents(uri_of(fabricated))
    assert waiting.run_id not in found
    assert found[""]["tags"]["sweep.runs.queued"] == "1"
    assert found[""]["status"] == "RUNNING"


def test_runs_that_ended_otherwise_say_so(fabricated: Fabricated) -> None:
    expected = {RunState.FAILED: "FAILED", RunState.CANCELLED: "KILLED", RunState.PREEMPTED: "SCHEDULED"}
    for number, state in enumerate(expected):
        run = fabricate_run(fabricated.workspace, number + 2, 3)
        run.run_dir.result_path.unlink()
        fabricated.runs.append(replace(run, state=state, reason=f"it is {state}"))
    fabricated.collect()
    found = contents(uri_of(fabricated))
    for run in fabricated.runs[2:]:
        held = found[run.run_id]
        assert (held["status"], held["tags"]["sweep.reason"]) == (expected[run.state], f"it is {run.state}")
        assert any(name.startswith("logs/") for name, _ in held["artifacts"])
    assert found[""]["status"] == "SCHEDULED"  # the preempted run waits


# --- following --------------------------------------------------------------------------------------------------------


def test_following_a_run_brings_every_point_once(fabricated: Fabricated) -> None:
    run = fabricated.runs[0]
    for path in (run.run_dir.result_path, run.run_dir.metrics_path, run.run_dir.encoder_path):
        path.unlink()
    shutil.rmtree(run.run_dir.checkpoints_dir)
    run.run_dir.checkpoints_dir.mkdir()
    fabricated.runs[0] = replace(run, state=RunState.RUNNING)
    sent = []
    for begin in (0, 4, 8):
        append_metrics(run.run_dir, range(begin, begin + 4))
        write_checkpoint(run.run_dir, run.run_id, begin + 4)
        sent.append(fabricated.collect().points)
    assert sent[1:] == [9, 9]  # two metrics at four steps, and one evaluation; nothing is sent again
    write_end(run.run_dir, run.run_id, 12)
    fabricated.runs[0] = run
    fabricated.collect()
    steps = [step for key, step, _, _ in contents(uri_of(fabricated))[run.run_id]["points"] if key == "train/loss"]
    assert steps == list(range(12))


def test_a_run_resumed_from_an_older_checkpoint_keeps_each_step_once(fabricated: Fabricated) -> None:
    """The newest checkpoint was damaged after its steps were collected: they are measured again, at another time."""
    run = fabricated.runs[0]
    run.run_dir.result_path.unlink()
    fabricated.runs[0] = replace(run, state=RunState.RUNNING)
    fabricated.collect()
    lines = run.run_dir.metrics_path.read_text().splitlines(keepends=True)
    run.run_dir.metrics_path.write_text("".join(lines[:6]))
    append_metrics(run.run_dir, range(6, 14), delay_s=1000)
    write_end(run.run_dir, run.run_id, 14)
    fabricated.runs[0] = run
    fabricated.collect()
    steps = [step for key, step, _, _ in contents(uri_of(fabricated))[run.run_id]["points"] if key == "train/loss"]
    assert steps == list(range(14))


def test_a_later_evaluation_adds_its_metrics_and_repeats_none(fabricated: Fabricated) -> None:
    fabricated.collect()
    run = fabricated.runs[0]
    before = contents(uri_of(fabricated))[run.run_id]["points"]
    result = run.run_dir.read_result()
    assert result is not None
    evaluated = replace(result, metrics={**result.metrics, "eval/linear/top1": 80.0}, finished=START + 5000)
    atomic.write_json(run.run_dir.result_path, evaluated.to_json())
    fabricated.collect()
    after = contents(uri_of(fabricated))[run.run_id]["points"]
    assert set(after) - set(before) == {("eval/linear/top1", 10, round((START + 5000) * 1000), 80.0)}


# --- interruptions ----------------------------------------------------------------------------------------------------


class RefusedError(Exception):
    """Raised in place of a write."""


@contextlib.contextmanager
def failing_from_write(number: int) -> Iterator[None]:
    """The database refuses its ``number``-th commit from now on, and all that follow."""
    import sqlalchemy as sa

    commits = itertools.count(1)

    def refuse(_connection: Any) -> None:
        if next(commits) >= number:
            raise RefusedError

    sa.event.listen(sa.engine.Engine, "commit", refuse)
    try:
        yield
    finally:
        sa.event.remove(sa.engine.Engine, "commit", refuse)


def test_a_store_that_fails_at_any_write_ends_as_if_it_had_not(fabricated: Fabricated, empty_store: Path) -> None:
    del fabricated.runs[1:]
    fabricated.collect()
    expected = contents(uri_of(fabricated))
    for number in itertools.count(1, 3):
        for leftover in (fabricated.workspace.path / "mlartifacts", fabricated.cursors.path):
            shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink(missing_ok=True)
        shutil.copy(empty_store, fabricated.workspace.path / "mlflow.db")
        is_through = False
        with failing_from_write(number), contextlib.suppress(EnvironmentProblem, RefusedError):
            is_through = not fabricated.collect().problems
        if is_through:
            break
        fabricated.collect()
        assert contents(uri_of(fabricated)) == expected, f"write {number}"
    assert number > 20  # every kind of write was refused


def test_killed_collectors_and_two_at_once_leave_every_point_once(tmp_path: Path, empty_store: Path) -> None:
    fabricated = fabricate(tmp_path / "killed", num_runs=3, num_lines=1500)
    shutil.copy(empty_store, fabricated.workspace.path / "mlflow.db")
    moments = random.Random(5)
    # Forked, so that MLflow is imported once; nothing here has opened this store before.
    context = multiprocessing.get_context("fork")
    killed = 0
    for _ in range(5):
        process = context.Process(target=fabricated.collect)
        process.start()
        time.sleep(moments.uniform(0.1, 0.6))
        process.kill()
        process.join()
        killed += process.exitcode == -signal.SIGKILL
    assert killed, "every collector ended before it was killed: give them more to do"
    pair = [context.Process(target=fabricated.collect) for _ in range(2)]
    for process in pair:
        process.start()
    for process in pair:
        process.join(timeout=120)
        assert process.exitcode == 0
    found = contents(uri_of(fabricated))
    for run in fabricated.runs:
        steps = [step for key, step, _, _ in found[run.run_id]["points"] if key == "train/loss"]
        assert steps == list(range(1500))


# --- trouble ----------------------------------------------------------------------------------------------------------


def test_one_damaged_run_does_not_keep_the_others(fabricated: Fabricated) -> None:
    damaged = fabricated.runs[0]
    damaged.run_dir.spec_path.write_text("{")
    summary = fabricated.collect()
    assert len(summary.problems) == 1
    assert damaged.run_id in summary.problems[0]
    assert "spec.json" in summary.problems[0]
    assert fabricated.runs[1].run_id in contents(uri_of(fabricated))


def test_a_deleted_mlflow_experiment_is_named(fabricated: Fabricated) -> None:
    fabricated.collect()
    client = connect(uri_of(fabricated))
    experiment = client.get_experiment_by_name("digits-lt")
    assert experiment is not None
    client.delete_experiment(experiment.experiment_id)
    with pytest.raises(EnvironmentProblem, match="digits-lt was deleted"):
        fabricated.collect()


def test_a_server_that_does_not_answer_is_one_sentence_in_seconds(fabricated: Fabricated) -> None:
    begin = time.monotonic()
    with pytest.raises(EnvironmentProblem, match=r"tracking server http://127\.0\.0\.1:\d+ does not answer"):
        fabricated.collect(f"http://127.0.0.1:{free_port()}")
    assert time.monotonic() - begin < 10


# --- the report in the store, and a real server -----------------------------------------------------------------------


def test_the_report_is_with_the_parent_run(fabricated: Fabricated, tmp_path: Path) -> None:
    report = build_report(fabricated.experiment, fabricated.runs)
    paths = write_report(report, tmp_path / "report")
    arguments = {"uri": None, "workspace": fabricated.workspace, "cursors": fabricated.cursors}
    log_report(fabricated.experiment, fabricated.runs, paths, "| a table |", **arguments)
    fabricated.collect()
    parent = contents(uri_of(fabricated))[""]
    assert {f"report/{path.name}" for path in paths} <= {name for name, _ in parent["artifacts"]}
    assert parent["tags"]["mlflow.note.content"] == "| a table |"


@contextlib.contextmanager
def served(folder: Path, store: Path) -> Iterator[str]:
    """A tracking server on a database, as ``sweep ui`` starts it. Yields its address."""
    program = (
        "import sys; from pathlib import Path; from orchestrator.ui import serve; "
        "from orchestrator.workspace import Workspace; serve(sys.argv[1], Workspace(Path(sys.argv[2])), None, None)"
    )
    command = [sys.executable, "-c", program, f"sqlite:///{store}", str(folder)]
    with open(folder / "server.log", "w") as log:
        process = subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=log, text=True)
    assert process.stdout is not None
    try:
        link = next((line for line in process.stdout if line.startswith("http")), "")
        assert link.endswith("/#/experiments\n"), (folder / "server.log").read_text()
        yield link.partition("/#")[0]
    finally:
        process.terminate()
        assert process.wait(timeout=30) == 0
        process.stdout.close()


def test_a_tracking_server_holds_the_same_as_a_database(
    fabricated: Fabricated, tmp_path: Path, empty_store: Path
) -> None:
    fabricated.collect()
    expected = contents(uri_of(fabricated))
    store = tmp_path / "server.db"
    shutil.copy(empty_store, store)
    with served(tmp_path, store) as uri:
        # Files through the server, as for a client that does not see its disk.
        connect(uri).create_experiment("digits-lt", artifact_location="mlflow-artifacts:/digits-lt")
        fabricated.collect(uri)
        assert contents(uri) == expected
        assert fabricated.collect(uri).changed == 0
        fabricated.cursors.path.unlink()
        fabricated.collect(uri)
        assert contents(uri) == expected
        experiment = connect(uri).get_experiment_by_name("digits-lt")
        assert experiment is not None
        link = experiment_path(uri, "digits-lt")
        assert f"/{experiment.experiment_id}/" in link
        view = json.loads(experiment.tags["mlflow.sharedViewState.sweep"])
        assert view["selectedColumns"] == [*(f"params.`{axis}`" for axis in AXES), "metrics.`eval/knn/top1`"]
    with pytest.raises(EnvironmentProblem, match="does not answer"):
        fabricated.collect(uri)
