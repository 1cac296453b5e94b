"""`sweep drill` on a real Ray cluster: the trial's actor is killed, on whatever node it is."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.integration.ray.cluster import RayCluster

#: The drill's run, made small: steps of a few milliseconds, as many as last until a Ray job has come to interrupt them.
SMALL = (
    "--set=backbone.width=4",
    "--set=data.profile={name: balanced, size: 100, match_imbalance: null}",
    "--set=train.batch_size=32",
    "--set=train.epochs=150",
    "--set=evaluate.knn.every_epochs=70",
)


def drill(cluster: RayCluster, folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "orchestrator", "drill", "--backend=ray", "--json", *SMALL, *options],
        cwd=folder,
        env={**cluster.environment(), "PYTHONPATH": str(Path(__file__).parents[3])},
        capture_output=True,
        text=True,
        check=False,
        timeout=280,
    )


@pytest.mark.soak
def test_a_run_whose_actor_is_killed_is_proven_to_be_the_same(cluster: RayCluster, tmp_path: Path) -> None:
    done = drill(cluster, tmp_path, "--by=actor")
    assert done.returncode == 0, done.stdout + done.stderr
    answer = json.loads(done.stdout)
    assert answer["proven"]
    assert [(one["name"], one["is_graceful"], one["lost_steps"]) for one in answer["rounds"]] == [
        ("actor", True, 0),
    ]
    # One job each, in which the run came back.
    assert len(list(tmp_path.glob("sweeps/drills/*/disturbed/ray/*/manifest.json"))) == 1


def test_what_can_never_run_is_said_before_anything_starts(cluster: RayCluster, tmp_path: Path) -> None:
    done = drill(cluster, tmp_path, "--set=resources.gpus_per_node=1")
    assert done.returncode == 3
    assert "no node of the Ray cluster has a GPU" in done.stderr
    assert not list(tmp_path.glob("sweeps/drills/*"))
