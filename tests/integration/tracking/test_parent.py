"""The experiment's parent run: what a reader sees of progress, report and files; looking again adds nothing."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from orchestrator.collect import collect, log_report
from orchestrator.collect.store import connect
from orchestrator.state import RunState
from tests.integration.tracking.fabricated import START, Fabricated, contents, uri_of
from trainers.rundir import Phase, Status, atomic


def at_work(fabricated: Fabricated, number: int, step: int, heartbeat: float) -> None:
    """Make a run one that trains, at ``step`` of 100."""
    run = fabricated.runs[number]
    run.run_dir.result_path.unlink(missing_ok=True)
    status = Status(phase=Phase.TRAINING, attempt=1, step=step, total_steps=100, heartbeat=heartbeat)
    atomic.write_json(run.run_dir.status_path, status.to_json())
    os.utime(run.run_dir.status_path, (heartbeat, heartbeat))
    fabricated.runs[number] = replace(run, state=RunState.RUNNING)


def progress_points(fabricated: Fabricated) -> list[tuple[str, int, int, float]]:
    points = contents(uri_of(fabricated))[""]["points"]
    return [(key, step, time, value) for key, step, time, value in points if key.startswith("sweep/")]


def test_progress_is_a_curve_over_time_with_each_value_once(fabricated: Fabricated) -> None:
    os.utime(fabricated.runs[0].run_dir.result_path, (START + 60, START + 60))
    at_work(fabricated, 1, 20, START + 70)
    fabricated.collect()
    at_work(fabricated, 1, 21, START + 71)  # no whole percent of both runs
    fabricated.collect()
    fabricated.collect()
    at_work(fabricated, 1, 40, START + 90)
    fabricated.cursors.path.unlink()
    fabricated.collect()
    time = round(START * 1000)
    assert progress_points(fabricated) == [
        ("sweep/completed", 60, time + 60_000, 1.0),
        ("sweep/percent_done", 70, time + 70_000, 60.0),
        ("sweep/percent_done", 90, time + 90_000, 70.0),
    ]


def test_the_latest_value_is_the_latest_also_where_a_status_is_newer_than_the_result(fabricated: Fabricated) -> None:
    done = fabricated.runs[1]
    result = done.run_dir.result_path.read_bytes()
    for run in fabricated.runs:
        os.utime(run.run_dir.result_path, (START + 60, START + 60))
    at_work(fabricated, 1, 99, START + 70)
    parent = fabricated.collect().parent_run_id
    done.run_dir.result_path.write_bytes(result)
    os.utime(done.run_dir.result_path, (START + 65, START + 65))
    fabricated.runs[1] = done
    fabricated.collect()
    metrics = connect(uri_of(fabricated)).get_run(parent).data.metrics
    assert metrics == {"sweep/completed": 2.0, "sweep/percent_done": 100.0}


def test_progress_report_and_a_users_words_share_the_description(fabricated: Fabricated, tmp_path: Path) -> None:
    at_work(fabricated, 1, 50, START)
    summary = fabricated.collect()
    client = connect(uri_of(fabricated))
    client.set_tag(summary.parent_run_id, "mlflow.note.content", "Do not forget the ablation.")
    table = tmp_path / "report.md"
    table.write_text("| a table |")
    arguments = {"uri": None, "workspace": fabricated.workspace, "cursors": fabricated.cursors}
    log_report(fabricated.experiment, fabricated.runs, [table], table.read_text(), **arguments)
    fabricated.runs[1] = replace(fabricated.runs[1], state=RunState.FAILED, reason="loss is nan")
    fabricated.collect()
    note = contents(uri_of(fabricated))[""]["tags"]["mlflow.note.content"]
    places = [note.index(text) for text in ("1 of 2 runs", "loss is nan", "| a table |", "Do not forget")]
    assert places == sorted(places)
    assert "running" not in note


def test_the_files_that_the_experiment_extends_are_beside_it(fabricated: Fabricated) -> None:
    experiment = replace(fabricated.experiment, extended={"recipes/short.yaml": "base: {}\n"})
    arguments = {"uri": None, "workspace": fabricated.workspace, "cursors": fabricated.cursors}
    collect(experiment, fabricated.runs, **arguments)
    names = [name for name, _ in contents(uri_of(fabricated))[""]["artifacts"]]
    assert names == ["experiment/digits_lt.yaml", "experiment/recipes/short.yaml"]
