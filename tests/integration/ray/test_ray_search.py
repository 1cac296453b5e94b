"""Searches on a real cluster: bad runs end early and can go on, good ones end with the numbers of any other backend."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from orchestrator.controller import Controller, Snapshot, watch
from orchestrator.experiment import load_experiment
from orchestrator.ledger import Ledger
from orchestrator.state import RunState
from orchestrator.submission import submit
from orchestrator.workspace import Workspace
from tests.conftest import TINY
from tests.integration.ray.cluster import RayCluster, tuning_of
from trainers.rundir import RunDir

Numbers = dict[str, Any]


class Sweep:
    """One experiment, carried through in this process."""

    def __init__(self, folder: Path, cluster: RayCluster, search: dict[str, Any], epochs: int) -> None:
        train = {"epochs": epochs, "batch_size": 32}
        base = {**TINY, "train": train, "evaluate": {"knn": {"k": [5], "bank": "train", "every_epochs": 4}}}
        space = {"train.learning_rate": {"loguniform": [0.001, 3.0]}}
        backend = {"name": "ray", "address": cluster.address, "grace_s": 20}
        content = {"name": "found", "base": base, "search": {"space": space, **search}, "backend": backend}
        self.file = folder / "found.yaml"
        self.file.write_text(yaml.safe_dump(content))
        self.workspace = Workspace(folder / "sweeps")
        self.workspace.runs_dir.mkdir(parents=True)

    def run(self, *overrides: str) -> Snapshot:
        """Submit, and watch until everything is settled."""
        controller = Controller(Ledger(self.workspace.ledger_path), self.workspace)
        submit(load_experiment(self.file, overrides), controller)
        return watch(controller, "found", on_step=lambda snapshot: None, is_interrupted=lambda: False)

    def run_dir(self, run_id: str) -> RunDir:
        return self.workspace.run_dir(run_id)


@pytest.mark.soak
def test_bad_runs_end_early_and_go_on_elsewhere_to_the_same_numbers(
    cluster: RayCluster,
    tmp_path: Path,
    undisturbed: Callable[[RunDir], RunDir],
    numbers_of: Callable[[RunDir], Numbers],
) -> None:
    asha = {"name": "asha", "grace_epochs": 4, "reduction_factor": 2}
    sweep = Sweep(tmp_path, cluster, {"samples": 4, "stop": asha}, epochs=20)
    found = sweep.run()
    assert {run.state for run in found.runs} == {RunState.COMPLETED}
    early = [run.run_id for run in found.runs if run.reason]
    whole = [run.run_id for run in found.runs if not run.reason]
    assert early
    assert whole
    for run in found.runs:
        assert run.reason == "" or run.reason.startswith("stopped early at epoch")
        assert (sweep.run_dir(run.run_id).read_result() is None) == bool(run.reason)
        assert not run.reason or "by asha (eval/knn/top1" in run.reason
    steps = {run_id: sweep.run_dir(run_id).read_attempts()[-1].last_step for run_id in early}
    assert all(0 < step < 20 * 3 for step in steps.values())
    assert all(run.state is RunState.COMPLETED and run.reason for run in sweep.run().runs if run.run_id in early)

    again = sweep.run("backend=local", "search.stop=null")
    assert all(run.state is RunState.COMPLETED and not run.reason for run in again.runs)
    one = early[0]
    assert [record.backend for record in sweep.run_dir(one).read_attempts()] == ["ray", "local"]
    assert sweep.run_dir(one).read_attempts()[-1].first_step == steps[one]
    for run_id in (one, whole[0]):
        alone = RunDir(tmp_path / "alone" / "runs" / run_id)
        alone.path.mkdir(parents=True)
        shutil.copy(sweep.run_dir(run_id).spec_path, alone.spec_path)
        assert numbers_of(undisturbed(alone)) == numbers_of(sweep.run_dir(run_id))


@pytest.mark.soak
def test_what_is_suggested_outlives_tune_and_is_never_too_much(cluster: RayCluster, tmp_path: Path) -> None:
    search = {"samples": 6, "sampler": "optuna", "startup": 2}
    sweep = Sweep(tmp_path, cluster, search, epochs=8)
    ends: list[Snapshot] = []
    watching = threading.Thread(target=lambda: ends.append(sweep.run()))
    watching.start()
    studies = sweep.workspace.path / "studies"
    cluster.wait_for(lambda: len(list(studies.glob("*/*.json"))) >= 2, timeout_s=120)
    (tuning,) = tuning_of(sweep.workspace.path)
    tuning.kill()
    watching.join(timeout=240)
    (end,) = ends
    assert [run.state for run in end.runs] == [RunState.COMPLETED] * 6
    assert [run.position for run in end.runs] == list(range(6))
    assert end.to_suggest == 0
    assert len(list(studies.glob("*/*.json"))) == 4
    rates = {run.axes["train.learning_rate"] for run in end.runs}
    assert len(rates) == 6
    assert len(list((sweep.workspace.path / "ray").iterdir())) == 1  # all in one Ray job
    for run in end.runs:
        assert [record.cause for record in sweep.run_dir(run.run_id).read_attempts()][-1] == "done"
