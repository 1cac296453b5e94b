"""`sweep drill` on a real SLURM: requeued by the user, and preempted by another partition."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from tests.integration.slurm.cluster import Cluster

SITE = Path(__file__).parents[3] / "slurm" / "sites" / "dev-cluster.yaml"

#: The drill's run, made small: 240 steps of a few milliseconds.
SMALL = (
    "--set=backbone.width=4",
    "--set=data.profile={name: balanced, size: 100, match_imbalance: null}",
    "--set=train.batch_size=32",
    "--set=train.epochs=80",
    "--set=evaluate.knn.every_epochs=35",
)


def drill(cluster: Cluster, folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "orchestrator", "drill", f"--site={SITE}", "--json", *SMALL, *options],
        cwd=folder,
        env={**cluster.environment(), "PYTHONPATH": str(Path(__file__).parents[3])},
        capture_output=True,
        text=True,
        check=False,
        timeout=280,
    )


def test_a_run_that_is_requeued_and_preempted_is_proven_to_be_the_same(cluster: Cluster, tmp_path: Path) -> None:
    done = drill(cluster, tmp_path, "--by=partition:urgent", "--by=requeue")
    assert done.returncode == 0, done.stdout + done.stderr
    answer = json.loads(done.stdout)
    assert answer["proven"]
    assert [(one["name"], one["is_graceful"], one["lost_steps"]) for one in answer["rounds"]] == [
        ("partition:urgent", True, 0),
        ("requeue", True, 0),
    ]
    # One job each, that came back under its id; and what took the node is gone.
    assert len(list(tmp_path.glob("sweeps/drills/*/disturbed/slurm/*/0.json"))) == 1
    assert cluster.run("squeue", "--noheader", "--partition=urgent", "--states=PENDING,RUNNING") == ""


def test_a_partition_that_is_not_there_is_said_before_anything_starts(cluster: Cluster, tmp_path: Path) -> None:
    done = drill(cluster, tmp_path, "--set=backend.partition=bacth")
    assert done.returncode == 3
    assert "bacth" in done.stderr
    assert "did you mean batch" in done.stderr
    assert cluster.run("squeue", "--noheader") == ""
