"""``sweep doctor`` beside a real cluster: each thing that can be wrong there is made wrong once."""

from __future__ import annotations

import http.server
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from orchestrator.backends.base import JobShape
from orchestrator.backends.ray import own_cluster
from orchestrator.backends.ray.checks import check
from orchestrator.experiment.schema import Ray
from orchestrator.findings import Finding, Verdict
from orchestrator.processes import ProcessName
from orchestrator.workspace import Workspace
from tests.integration.ray.cluster import RayCluster


def wrong(found: list[Finding]) -> list[tuple[str, str]]:
    """Subject and sentence of what is wrong."""
    return [(finding.subject, finding.detail) for finding in found if finding.verdict is Verdict.WRONG]


def examine(cluster: RayCluster, folder: Path, deadline_s: float = 60, **options: Any) -> list[Finding]:
    """All findings for small runs with these options."""
    return list(check(Ray(**{"address": cluster.address, **options}), JobShape(), Workspace(folder), deadline_s))


def test_nothing_is_wrong_with_a_healthy_cluster_but_its_lack_of_gpus(cluster: RayCluster, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "orchestrator", "doctor", "--backend=ray", "--json", "--set=resources.gpus_per_node=1"],
        env={**cluster.environment(), "SWEEP_WORKSPACE": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 3, done.stderr
    found = {finding["subject"]: finding for finding in json.loads(done.stdout)["findings"]}
    lack = found.pop("resources")
    assert lack["detail"].startswith("resources.gpus_per_node=1, and no node of the Ray cluster has a GPU")
    # How full the disks are is this machine's own affair.
    assert {finding["verdict"] for subject, finding in found.items() if not subject.startswith("disk")} == {"good"}
    assert found["workspace on nodes"]["detail"] == "3 nodes and this machine see each other's files"
    assert found.keys() >= {"ray", "authentication", "object store", "clocks", "program on nodes", "torch on nodes"}
    assert not list(tmp_path.glob(".doctor*"))
    assert all(job.status.is_terminal() for job in cluster.client.list_jobs())


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("http://127.0.0.1:1", "at http://127.0.0.1:1 does not answer ([Errno 111] Connection refused)"),
        ("127.0.0.1:1", "at http://127.0.0.1:1 does not answer"),
    ],
)
def test_a_cluster_that_does_not_answer(address: str, words: str, tmp_path: Path) -> None:
    began = time.monotonic()
    ((subject, sentence),) = wrong(list(check(Ray(address=address), JobShape(), Workspace(tmp_path))))
    assert time.monotonic() - began < 5
    assert subject == "ray"
    assert words in sentence
    assert "backend.address" in sentence


def test_something_else_that_answers(tmp_path: Path) -> None:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), http.server.SimpleHTTPRequestHandler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        options = Ray(address=f"http://127.0.0.1:{server.server_port}")
        ((subject, sentence),) = wrong(list(check(options, JobShape(), Workspace(tmp_path))))
        server.shutdown()
    assert subject == "ray"
    assert "404" in sentence or "not the dashboard of Ray" in sentence


def test_a_workspace_that_nodes_do_not_see(
    cluster: RayCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    # A name that means another folder to every process.
    folder = Path("/proc/self/cwd/workspace")
    folder.mkdir()
    ((subject, sentence),) = wrong(examine(cluster, folder))
    assert subject == "workspace on nodes"
    assert sentence.startswith("3 of 3 nodes do not see /proc/self/cwd/workspace")


@pytest.mark.parametrize(
    ("options", "subject", "words"),
    [
        ({"python": "/nowhere/python"}, "program on nodes", "/nowhere/python: not found"),
        ({"runtime_env": {"conda": "no-such-one"}}, "runtime environment", "onda"),
        ({"runtime_env": {"working_dir": "/nowhere"}}, "probe job", "/nowhere must be an existing directory"),
    ],
)
def test_a_job_that_cannot_begin(
    cluster: RayCluster, tmp_path: Path, options: dict[str, Any], subject: str, words: str
) -> None:
    ((found, sentence),) = wrong(examine(cluster, tmp_path, **options))
    assert found == subject
    assert words in sentence


def test_a_driver_without_the_program(cluster: RayCluster, tmp_path: Path) -> None:
    bare = tmp_path / "python"
    bare.write_text(f'#!/bin/sh\nexec {sys.executable} -S "$@"\n')
    bare.chmod(0o755)
    ((subject, sentence),) = wrong(examine(cluster, tmp_path, python=str(bare)))
    assert subject == "program on nodes"
    assert "lacks ray" in sentence


def test_a_driver_of_another_version(cluster: RayCluster, tmp_path: Path) -> None:
    # Ray takes its own version from its module: this one calls itself older than the cluster.
    (tmp_path / "sitecustomize.py").write_text("import ray\nray.__version__ = '2.9.0'\n")
    found = examine(cluster, tmp_path, runtime_env={"env_vars": {"PYTHONPATH": str(tmp_path)}})
    ((subject, sentence),) = wrong(found)
    assert subject == "ray"
    assert "The cluster was started with: Ray: 2." in sentence
    assert "was started with: Ray: 2.9.0" in sentence


def test_no_cluster_is_started_to_look_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    found = list(check(Ray(), JobShape(cpus=4096), Workspace(tmp_path)))
    assert "the first submission starts one on this machine" in found[0].detail
    assert "resources.cpus_per_node=4096" in wrong(found)[0][1]
    assert own_cluster.find(tmp_path) is None


@pytest.mark.soak
def test_a_cluster_that_asks_for_a_token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    started = own_cluster.start(tmp_path)
    try:
        found = list(check(Ray(), JobShape(), Workspace(tmp_path)))
        assert wrong(found) == []
        assert {finding.subject: finding.detail for finding in found}["authentication"].startswith("the cluster asks")
        # Nobody who was not told of the token is let in.
        ((subject, sentence),) = wrong(list(check(Ray(address=started.address), JobShape(), Workspace(tmp_path))))
        assert subject == "ray"
        assert "it asks for a token; set RAY_AUTH_MODE=token" in sentence
    finally:
        keeper = ProcessName.from_text(started.keeper)
        os.kill(keeper.pid, 15)
        RayCluster.wait_for(lambda: not keeper.is_alive)
