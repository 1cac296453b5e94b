"""Bad input and faults on a real cluster: each is one sentence, and the other runs go on."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from orchestrator.backends.ray.checks import object_stores
from orchestrator.backends.ray.jobs import Api
from orchestrator.findings import Verdict
from tests.conftest import TINY
from tests.integration.ray.cluster import RayCluster

ROOT = Path(__file__).parents[3]
NO_CLUSTER = "http://127.0.0.1:1"


def experiment(folder: Path, seeds: int = 1, **sections: Any) -> Path:
    """An experiment file of tiny runs that differ in their seeds."""
    value = {"name": "faults", "base": TINY, "grid": {"seed": list(range(seeds))}, "backend": {"name": "ray"}}
    path = folder / "faults.yaml"
    path.write_text(json.dumps({**value, **sections}))
    return path


def sweep(cluster: RayCluster, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "orchestrator", *arguments],
        cwd=folder,
        env={**cluster.environment(), "PYTHONPATH": str(ROOT), "SWEEP_WORKSPACE": str(folder / "ws")},
        capture_output=True,
        text=True,
        check=False,
        timeout=280,
    )


@pytest.mark.parametrize(
    ("sections", "exit_code", "words"),
    [
        (
            {"backend": {"name": "ray", "strategi": "PACK"}},
            2,
            "backend.strategi is not an option of backend ray; did you",
        ),
        ({"backend": {"name": "ray", "strategy": "STRICT_SPRED"}}, 2, "did you mean STRICT_SPREAD"),
        ({"backend": {"name": "ray", "runtime_env": {"env_var": {}}}}, 3, "did you mean env_vars"),
        ({"backend": {"name": "ray", "address": NO_CLUSTER}}, 3, f"{NO_CLUSTER} does not answer"),
        (
            {"backend": {"name": "ray", "runs_per_gpu": 2}, "resources": {"gpus_per_node": 2}},
            3,
            "backend.runs_per_gpu=2 and resources.gpus_per_node=2: only a single GPU can be shared",
        ),
        ({"resources": {"gpus_per_node": 1}}, 3, "no node of the Ray cluster has a GPU"),
        ({"resources": {"nodes": 4}}, 3, "a run needs 4 nodes with 1 CPU each"),
    ],
)
def test_what_can_never_run_is_said_in_one_sentence_before_anything_starts(
    cluster: RayCluster, tmp_path: Path, sections: dict[str, Any], exit_code: int, words: str
) -> None:
    done = sweep(cluster, tmp_path, "submit", str(experiment(tmp_path, **sections)))
    assert done.returncode == exit_code, done.stdout + done.stderr
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert not (tmp_path / "ws" / "ray").exists()


#: Holds most of the store of the node that it runs on, until it is stopped.
HOLD = "import ray, time; ray.init(); held = ray.put(bytes(74_000_000)); print('held', flush=True); time.sleep(600)"


@contextmanager
def full_object_store(cluster: RayCluster) -> Iterator[None]:
    job = cluster.client.submit_job(entrypoint=shlex.join([sys.executable, "-c", HOLD]))
    cluster.wait_for(lambda: "held" in cluster.client.get_job_logs(job).splitlines())
    yield
    cluster.client.stop_job(job)


@pytest.mark.soak
def test_of_four_runs_one_finds_no_memory_and_one_cannot_save(cluster: RayCluster, tmp_path: Path) -> None:
    # The only node with two cores believes that memory is short whatever there is, and kills what it started. It has
    # too little to give for the other runs.
    cluster.add_node(num_cpus=2, memory=300 * 2**20, env_vars={"RAY_memory_usage_threshold": "0.001"})
    cluster.wait_for(lambda: cluster.num_cpus() == 5)
    file = experiment(
        tmp_path,
        seeds=4,
        resources={"memory": "400M"},
        when=[{"if": {"seed": 0}, "set": {"resources.cpus_per_node": 2, "resources.memory": "100M"}}],
        retries={"out_of_memory": 0, "failed": 0, "without_progress": 2},
    )
    planned = json.loads(sweep(cluster, tmp_path, "plan", str(file), "--json").stdout)["runs"]
    hungry, homeless, *others = [run["run_id"] for run in planned]
    checkpoints = tmp_path / "ws" / "runs" / homeless / "checkpoints"
    checkpoints.parent.mkdir(parents=True)
    checkpoints.touch()  # in the way of the folder

    with full_object_store(cluster):
        cluster.wait_for(lambda: object_stores(Api(cluster.address).object_stores()).verdict is Verdict.WARNING)
        done = sweep(cluster, tmp_path, "run", str(file))
    assert done.returncode == 1, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    status = json.loads(sweep(cluster, tmp_path, "status", "--json").stdout)
    runs = {run["run_id"]: run for run in status["runs"]}
    assert {runs[run_id]["state"] for run_id in others} == {"completed"}
    assert runs[hungry]["state"] == runs[homeless]["state"] == "failed"
    assert "ran out of memory" in runs[hungry]["reason"], runs[hungry]
    assert "checkpoints" in runs[homeless]["reason"], runs[homeless]
