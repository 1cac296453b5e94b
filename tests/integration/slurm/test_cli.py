"""What a user sees of runs on SLURM: why they wait, their logs over a requeue, what a failed setup line printed."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import TINY
from tests.integration.slurm.cluster import Cluster

ROOT = Path(__file__).parents[3]
SITE = ROOT / "slurm" / "sites" / "dev-cluster.yaml"


class User:
    """Somebody with an experiment file, the development cluster's profile, and a terminal."""

    def __init__(self, cluster: Cluster, folder: Path) -> None:
        self.cluster = cluster
        self.folder = folder
        self.environment = {**cluster.environment(), "PYTHONPATH": str(ROOT), "SWEEP_SITE": str(SITE)}
        self.started: list[subprocess.Popen[str]] = []
        runtime = {"log_every_steps": 1, "checkpoint_every_s": 1}
        base = {**TINY, "train": {**TINY["train"], "epochs": 150}, "runtime": runtime}
        base["evaluate"] = {"knn": {"k": [5], "bank": "train"}}
        (folder / "x.yaml").write_text(json.dumps({"name": "x", "base": base}))

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Begin a command, to be waited for."""
        self.started.append(
            subprocess.Popen(
                [sys.executable, "-m", "orchestrator", *arguments],
                cwd=self.folder,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
        return self.started[-1]

    def sweep(self, *arguments: str, code: int = 0) -> str:
        """What a command prints, output and errors."""
        output, errors = self.start(*arguments).communicate(timeout=200)
        assert self.started[-1].returncode == code, output + errors
        return output + errors

    def run(self) -> dict[str, Any]:
        """The one run, as status says."""
        (found,) = json.loads(self.sweep("status", "x", "--json"))["runs"]
        return dict(found)

    def steps(self) -> int:
        """Lines of metrics so far."""
        lines = [path.read_text().count("\n") for path in self.folder.glob("sweeps/runs/*/metrics.jsonl")]
        return sum(lines)


@pytest.fixture
def user(cluster: Cluster, tmp_path: Path) -> Iterator[User]:
    found = User(cluster, tmp_path)
    yield found
    for process in found.started:
        process.kill()
        process.wait()


def test_watch_says_why_a_run_waits_and_cancel_takes_it_back(user: User) -> None:
    user.sweep("submit", "x.yaml", "--set=backend.sbatch={hold: true}")
    watching = user.start("watch", "x")
    assert watching.stdout is not None
    line = next(line for line in watching.stdout if "queued" in line)
    assert "held; `scontrol release" in line
    watching.send_signal(signal.SIGINT)
    assert watching.wait(30) == 130
    assert "held; `scontrol" in user.sweep("status", "x")
    printed = user.sweep("cancel", "x")
    assert printed.startswith("1 jobs are asked to save")
    assert printed.splitlines()[-1] == "x  1 run: 1 cancelled"
    user.cluster.wait_for(lambda: not user.cluster.run("squeue", "--noheader"))


def test_logs_follow_a_run_over_a_requeue_to_its_end(user: User) -> None:
    user.sweep("submit", "x.yaml")
    run_id = user.run()["run_id"]
    following = user.start("logs", "-f", run_id[:6])
    user.cluster.wait_for(lambda: user.steps() > 20, 120)
    job = json.loads(user.sweep("show", run_id, "--json"))["jobs"][-1]["job_id"]
    user.cluster.run("scontrol", "requeue", job)
    output, errors = following.communicate(timeout=200)
    assert following.returncode == 0, errors
    assert output.count("epoch 150 of 150") == 1
    assert f"--- attempt 2 (job {job} on n" in output
    assert user.run()["state"] == "completed"  # though no other command has looked meanwhile
    page = user.sweep("show", run_id)
    assert "1 preempted, 1 done" in page
    assert job in page


def test_what_a_failed_setup_line_printed_is_shown(user: User) -> None:
    user.sweep(
        "run", "x.yaml", "--set=backend.setup=[echo no such module >&2, exit 3]", "--set=retries.failed=0", code=1
    )
    run = user.run()
    assert run["state"] == "failed"
    assert "`sweep logs RUN --job` shows why" in run["reason"]
    printed = user.sweep("logs", run["run_id"])
    assert "no such module" in printed
    assert "has begun no attempt" in printed
