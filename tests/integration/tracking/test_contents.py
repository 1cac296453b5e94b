"""What a store holds of an experiment after collection."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from orchestrator.collect import log_report
from orchestrator.report import build_report, write_report
from orchestrator.state import RunState
from tests.integration.tracking.fabricated import (
    AXES,
    START,
    Fabricated,
    append_metrics,
    contents,
    fabricate_run,
    uri_of,
    view,
)


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


def test_the_report_is_with_the_parent_run(fabricated: Fabricated, tmp_path: Path) -> None:
    report = build_report(fabricated.experiment, fabricated.runs)
    paths = write_report(report, tmp_path / "report")
    arguments = {"uri": None, "workspace": fabricated.workspace, "cursors": fabricated.cursors}
    log_report(fabricated.experiment, fabricated.runs, paths, "| a table |", **arguments)
    fabricated.collect()
    parent = contents(uri_of(fabricated))[""]
    assert {f"report/{path.name}" for path in paths} <= {name for name, _ in parent["artifacts"]}
    note = parent["tags"]["mlflow.note.content"]
    assert note.index("2 of 2 runs completed") < note.index("| a table |")
