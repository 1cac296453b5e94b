"""Figures of many runs, drawn ahead by processes of their own."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from orchestrator.collect.drawings import Drawings
from orchestrator.collect.store import connect
from orchestrator.figures import run_figures
from orchestrator.runs import TrackingOptions
from tests.integration.tracking.fabricated import Fabricated, fabricate_run, uri_of

NUM_RUNS = 6


@pytest.fixture
def many(fabricated: Fabricated) -> Fabricated:
    """More runs than are drawn one after the other, with figures."""
    runs = [fabricate_run(fabricated.workspace, number, 10) for number in range(2, NUM_RUNS)]
    fabricated.runs = [replace(run, tracking=TrackingOptions()) for run in fabricated.runs + runs]
    return fabricated


def test_the_store_has_the_figures_that_the_runs_directories_give(many: Fabricated) -> None:
    many.collect()
    stored = figures_in_store(many)
    assert stored == {run.run_id: run_figures(run.run_dir, run.name) for run in many.runs}
    assert all({"loss.png", "class_histogram.png"} <= set(figures) for figures in stored.values())


def test_they_are_drawn_by_other_processes_which_end_with_the_pass(many: Fabricated) -> None:
    drawings = Drawings()
    with drawings.ahead(many.runs):
        for run in many.runs:
            drawings.of(run)
        workers = workers_of(psutil.Process())
        assert workers
    psutil.wait_procs(workers, timeout=60)
    assert not any(worker.is_running() for worker in workers)


def test_a_process_that_is_killed_keeps_no_figure_out(many: Fabricated) -> None:
    expected = {run.run_id: run_figures(run.run_dir, run.name) for run in many.runs}
    drawings, drawn = Drawings(), {}
    with drawings.ahead(many.runs):
        for run in many.runs:
            drawn[run.run_id] = drawings.of(run)
            for worker in workers_of(psutil.Process()):
                worker.kill()
    assert drawn == expected


def test_a_run_with_a_damaged_file_is_the_only_one_without(many: Fabricated, caplog: pytest.LogCaptureFixture) -> None:
    damaged = many.runs[2].run_dir.confusion_path("knn")
    damaged.parent.mkdir(exist_ok=True)
    damaged.write_bytes(b"no arrays")
    assert many.collect().problems == ()
    assert set(figures_in_store(many)) == {run.run_id for run in many.runs} - {many.runs[2].run_id}
    assert f"run {many.runs[2].run_id} has no figures: {damaged}: damaged" in caplog.text


ASKING = """
import json, os, signal, sys
from pathlib import Path
from orchestrator.collect.drawings import Drawings
from orchestrator.runs import RunView
from orchestrator.state import RunState
from trainers.rundir import RunDir

if __name__ == "__main__":
    runs = [
        RunView(path[-12:], number, {}, RunState.COMPLETED, "", "local", "1", 1, RunDir(Path(path)))
        for number, path in enumerate(sys.argv[1:])
    ]
    drawings = Drawings()
    with drawings.ahead(runs):
        drawings.of(runs[0])
        print("drawn", flush=True)
        signal.pause()
"""


def test_they_end_with_a_collector_that_is_killed(many: Fabricated, tmp_path: Path) -> None:
    script = tmp_path / "asking.py"
    script.write_text(ASKING)
    paths = [str(run.run_dir.path) for run in many.runs]
    with subprocess.Popen([sys.executable, script, *paths], stdout=subprocess.PIPE, text=True) as collecting:
        assert collecting.stdout is not None
        assert collecting.stdout.readline() == "drawn\n"
        workers = workers_of(psutil.Process(collecting.pid))
        assert workers
        collecting.kill()
    _, alive = psutil.wait_procs(workers, timeout=60)
    assert not alive


def workers_of(process: psutil.Process) -> list[psutil.Process]:
    """Its processes that draw, and not the one that only watches over what they share."""
    return [child for child in process.children() if "spawn_main" in " ".join(child.cmdline())]


def figures_in_store(many: Fabricated) -> dict[str, dict[str, bytes]]:
    client, found = connect(uri_of(many)), {}
    experiment = client.get_experiment_by_name(many.name)
    for run in client.search_runs([experiment.experiment_id], "tags.`sweep.run_id` != ''"):
        folder = Path(run.info.artifact_uri) / "figures"
        if folder.exists():
            found[run.data.tags["sweep.run_id"]] = {path.name: path.read_bytes() for path in folder.iterdir()}
    return found
