"""The cluster that a submission starts where there is none: seen by nobody else, started once, ended with its work."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from orchestrator.backends.base import Refused, Unreachable
from orchestrator.backends.ray import clusters, own_cluster
from orchestrator.backends.ray.clusters import Cluster, find_cluster, find_local_cluster
from orchestrator.backends.ray.jobs import Api
from orchestrator.errors import EnvironmentProblem, InputError
from orchestrator.launch.network import free_port
from orchestrator.processes import ProcessName
from tests.integration.ray.cluster import RayCluster, addresses_listened_on

LOOPBACK = {"127.0.0.1", "::1", "::ffff:127.0.0.1"}
IDLE_S = 6.0


def keeper_of(cluster: Cluster) -> psutil.Process:
    return psutil.Process(ProcessName.from_text(cluster.keeper).pid)


@pytest.fixture
def workspace(tmp_path: Path) -> Iterator[Path]:
    """A folder with a blank in its name, and no cluster when the test is over."""
    path = tmp_path / "my sweeps"
    yield path
    cluster = own_cluster.find(path)
    if cluster is not None:
        keeper = keeper_of(cluster)
        keeper.terminate()
        keeper.wait(60)


def test_two_commands_at_once_start_one_that_only_its_user_can_use_and_that_ends_with_its_work(
    workspace: Path,
) -> None:
    code = (
        "import sys; from pathlib import Path; from orchestrator.backends.ray import own_cluster;"
        f"print(own_cluster.start(Path(sys.argv[1]), idle_s={IDLE_S}))"
    )
    commands = [
        subprocess.Popen([sys.executable, "-c", code, str(workspace)], stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    one, other = (command.communicate(timeout=150)[0] for command in commands)
    cluster = own_cluster.find(workspace)
    assert cluster is not None
    assert one == other == f"{cluster}\n"

    keeper = keeper_of(cluster)
    below = [keeper, *keeper.children(recursive=True)]
    assert {"gcs_server", "raylet"} <= {process.name() for process in below}
    assert addresses_listened_on(keeper) <= LOOPBACK
    assert os.getsid(keeper.pid) != os.getsid(0)

    assert Path(cluster.token).stat().st_mode & 0o777 == 0o600
    wrong = workspace / "wrong"
    wrong.write_text("0" * 64)
    with pytest.raises(Refused, match="asks for a token; set RAY_AUTH_MODE=token"):
        Api(cluster.address).jobs()
    with pytest.raises(Refused, match="the token that was shown is not its own"):
        Api(cluster.address, wrong).jobs()
    with pytest.raises(Refused, match="lets us not in"):
        Api(cluster.address).submit("sweep-1", "true", {}, {})

    def submit() -> bool:
        try:
            cluster.api.submit("sweep-1", f"sleep {1.5 * IDLE_S}", {}, {})
        except Unreachable:
            return False  # it takes jobs some seconds after it answers
        return True

    RayCluster.wait_for(submit)
    cluster.api.submit("sweep-1", "true", {}, {})
    RayCluster.wait_for(lambda: cluster.api.jobs()["sweep-1"].status == "SUCCEEDED")
    ended = cluster.api.jobs()["sweep-1"].ended
    RayCluster.wait_for(lambda: not any(process.is_running() for process in below))
    assert ended is not None
    assert time.time() - ended > IDLE_S - 1  # it was not idle before
    assert own_cluster.find(workspace) is None
    assert cluster.is_over


def test_a_cluster_that_cannot_start_is_named_with_its_log(
    workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "ray").mkdir()
    (tmp_path / "ray" / "__init__.py").write_text("raise SystemExit('no Ray here')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(EnvironmentProblem, match=r"`ray start` ended with exit code 1.*ray\.log says more"):
        own_cluster.start(workspace)
    assert own_cluster.find(workspace) is None
    assert "no Ray here" in (own_cluster.folder_of(workspace) / "ray.log").read_text()


class TestWhichClusterIsMeant:
    def test_one_named_by_its_own_address_says_where_its_dashboard_is(
        self, cluster: RayCluster, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.delenv("RAY_API_SERVER_ADDRESS", raising=False)
        monkeypatch.setenv("RAY_ADDRESS", cluster.gcs_address)
        assert find_cluster(None) == Cluster(cluster.address)

    def test_one_that_runs_here_is_found_while_it_lives(
        self, cluster: RayCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
        assert find_local_cluster() is None
        note = tmp_path / "ray" / "ray_current_cluster"
        note.parent.mkdir()
        note.write_text(cluster.gcs_address)
        assert find_local_cluster() == Cluster(cluster.address)
        note.write_text(f"127.0.0.1:{free_port()}")
        assert find_local_cluster() is None

    def test_what_is_said_comes_before_the_environment(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("RAY_ADDRESS", "http://third:8265")
        assert find_cluster(None) == Cluster("http://third:8265")
        monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "second:8265")
        assert find_cluster(None) == Cluster("http://second:8265")
        assert find_cluster("https://first") == Cluster("https://first")

    @pytest.mark.parametrize("address", ["file:///etc/passwd", "http://", "http://head:dashboard"])
    def test_what_is_no_address_is_refused(self, address: str) -> None:
        with pytest.raises(InputError, match=f"backend.address={address} is no address of a dashboard"):
            find_cluster(address)

    def test_one_that_does_not_answer_is_named_with_what_to_set(self, monkeypatch: pytest.MonkeyPatch) -> None:
        address = f"127.0.0.1:{free_port()}"
        monkeypatch.setattr(clusters, "_RESOLVE_TIMEOUT_S", 3.0)
        monkeypatch.delenv("RAY_API_SERVER_ADDRESS", raising=False)
        monkeypatch.setenv("RAY_ADDRESS", address)
        with pytest.raises(Unreachable, match=rf"no Ray cluster answers at {address} .*set backend\.address"):
            find_cluster(None)
