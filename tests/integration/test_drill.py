"""`sweep drill` on this machine: a run that is interrupted twice is proven to be the same run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

#: The drill's run, made small: 240 steps of a few milliseconds.
SMALL = (
    "--set=backbone.width=4",
    "--set=data.profile={name: balanced, size: 100, match_imbalance: null}",
    "--set=train.batch_size=32",
    "--set=train.epochs=80",
    "--set=evaluate.knn.every_epochs=35",
)


def sweep(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "orchestrator", *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )


def test_a_run_that_is_stopped_and_killed_is_proven_to_be_the_same(tmp_path: Path) -> None:
    done = sweep("drill", "--backend=local", "--json", *SMALL, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    answer = json.loads(done.stdout)
    assert answer["proven"]
    assert [one["name"] for one in answer["rounds"]] == ["signal", "kill"]
    assert answer["rounds"][0]["lost_steps"] == 0
    assert {"steps", "same metrics", "same encoder"} <= {one["subject"] for one in answer["checks"]}
    assert not [one for one in answer["checks"] if not one["holds"]]
    assert "SIGTERM to the launcher" in done.stderr
    attempts = Path(answer["folder"], "disturbed", "runs", answer["run_id"], "attempts")
    assert {path.name for path in attempts.iterdir()} >= {"1", "2", "3"}


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--by=requeue"], "--by requeue is no disturbance of backend local; there are signal, kill"),
        (["nowhere.yaml"], "nowhere.yaml: there is no such file"),
        (["nowhere"], "no experiment named 'nowhere'"),
        (["--set=grid.seed=[0, 1]"], "a drill has one run, and these settings make 2"),
        (["--set=resources.cpus_per_node=4096"], "cpus_per_node=4096"),
    ],
)
def test_what_cannot_be_done_is_said_before_anything_starts(
    arguments: list[str], sentence: str, tmp_path: Path
) -> None:
    done = sweep("drill", *arguments, cwd=tmp_path)
    assert done.returncode in (2, 3), done.stdout
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.rglob("*.*"))
