"""A real Ray cluster of several nodes on this machine, for tests: everything on loopback, no port seen from outside."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
from ray.cluster_utils import Cluster
from ray.job_submission import JobSubmissionClient

ENVIRONMENT = {
    # Ray replaces the loopback address by one of the machine, unless it believes that it knows no clusters here.
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    # Ray lets its workers give way to everything else on the machine: here, to the tests that wait for them.
    "RAY_worker_niceness": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
}

_OBJECT_STORE_BYTES = 80_000_000  # nothing of ours is kept there
_NODE = {"num_cpus": 1, "num_gpus": 0, "node_ip_address": "127.0.0.1", "object_store_memory": _OBJECT_STORE_BYTES}


class RayCluster:
    """A head and workers of one CPU each, as processes below this one."""

    def __init__(self, workers: int = 2) -> None:
        # Ray gives a job the address of the cluster that was started last, of all that share this folder. Its path is
        # the beginning of those of sockets, which may not be long.
        self._folder = tempfile.mkdtemp(prefix="ray-", dir="/tmp")
        os.environ.update(ENVIRONMENT, RAY_TMPDIR=self._folder)
        self._num_workers = workers
        # The head that is there now and those before it: a worker belongs to the head that it was started for.
        self._clusters = [_head(dashboard_port=0)]
        self._gcs_address: str = self._cluster.gcs_address
        self.workers = [self.add_node() for _ in range(workers)]
        self._cluster.wait_for_nodes()
        self.wait_for(self._takes_jobs)

    @property
    def _cluster(self) -> Cluster:
        return self._clusters[-1]

    @property
    def address(self) -> str:
        """Of the dashboard, where the Jobs API is."""
        return f"http://{self._cluster.webui_url}"

    @property
    def gcs_address(self) -> str:
        """Of the head itself, as ``ray start --address`` takes it."""
        return self._gcs_address

    @property
    def client(self) -> JobSubmissionClient:
        return JobSubmissionClient(self.address)

    def environment(self) -> dict[str, str]:
        """The environment of this process, by which commands find this cluster and no other."""
        inherited = {key: value for key, value in os.environ.items() if key not in ("RAY_ADDRESS", "RAY_NAMESPACE")}
        return {**inherited, "RAY_API_SERVER_ADDRESS": self.address}

    def num_cpus(self) -> float:
        """Of all nodes that live."""
        return sum(node["Resources"].get("CPU", 0) for node in self._nodes() if node["Alive"])

    def _nodes(self) -> list[dict[str, Any]]:
        return self._cluster.global_state.node_table()

    def add_node(self, **arguments: Any) -> Any:
        """Another worker: 1 CPU, if not said otherwise."""
        return self._cluster.add_node(**{**_NODE, "wait": False, **arguments})

    def processes_on(self, node: Any) -> set[int]:
        """Process ids of a node: its raylet's, and of all below that."""
        raylet = psutil.Process(node.all_processes["raylet"][0].process.pid)
        return {process.pid for process in [raylet, *raylet.children(recursive=True)]}

    def kill_node(self, node: Any) -> None:
        """End a worker and everything that runs on it at once, as a power cut does."""
        owner = next(cluster for cluster in self._clusters if node in cluster.worker_nodes)
        pids = self.processes_on(node)
        owner.remove_node(node, allow_graceful=False)
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def drain(self, node: Any, deadline_s: int) -> None:
        """Announce that a worker will be taken away, as a cloud does before it takes a spot machine. It stays."""
        self.workers.remove(node)  # nothing is placed there any more
        subprocess.run(
            [
                *(sys.executable, "-m", "ray.scripts.scripts", "drain-node", f"--node-id={node.node_id}"),
                *(f"--address={self._gcs_address}", "--reason=DRAIN_NODE_REASON_PREEMPTION"),
                *("--reason-message=spot removal", f"--deadline-remaining-seconds={deadline_s}"),
            ],
            check=True,
            capture_output=True,
        )

    def kill_head(self) -> None:
        """End the head with all that it knows. Raylets of workers give it up only after a minute."""
        self._cluster.remove_node(self._cluster.head_node, allow_graceful=False)

    def start_head(self) -> None:
        """A head at the address of the one that was killed. It knows nothing, and has no workers."""
        ports = [int(address.rpartition(":")[2]) for address in (self._cluster.webui_url, self._gcs_address)]
        self._clusters.append(_head(dashboard_port=ports[0], gcs_server_port=ports[1]))
        self.wait_for(self._takes_jobs)

    def _takes_jobs(self) -> bool:
        try:
            job = self.client.submit_job(entrypoint="true")
        except RuntimeError as problem:
            assert "No available agent" in str(problem)  # one comes seconds after the head
            return False
        self.wait_for(lambda: self.client.get_job_status(job).is_terminal())
        return self.client.delete_job(job)

    def reset(self) -> None:
        """Make the cluster as a test expects it: no job at work, a head and as many workers as ever."""
        if self._cluster.head_node is None:
            self.start_head()
        for job in self.client.list_jobs():
            if not job.status.is_terminal() and job.submission_id is not None:
                self.client.stop_job(job.submission_id)
        self.wait_for(lambda: all(job.status.is_terminal() for job in self.client.list_jobs()))
        living = {node["NodeID"] for node in self._nodes() if node["Alive"]}
        for cluster in self._clusters:
            for node in set(cluster.worker_nodes):
                if node not in self.workers or node.node_id not in living:
                    cluster.remove_node(node, allow_graceful=False)
        self.workers = [node for node in self.workers if node in self._cluster.worker_nodes]
        self.workers += [self.add_node() for _ in range(self._num_workers - len(self.workers))]
        self._cluster.wait_for_nodes()

    def down(self) -> None:
        """End everything."""
        for cluster in self._clusters:
            cluster.shutdown()
        os.environ.pop("RAY_TMPDIR", None)
        shutil.rmtree(self._folder, ignore_errors=True)

    @staticmethod
    def wait_for(condition: Callable[[], object], timeout_s: float = 90) -> None:
        """Wait until the condition holds; a test fails that waits for longer."""
        deadline = time.monotonic() + timeout_s
        while not condition():
            assert time.monotonic() < deadline, f"waited {timeout_s} s in vain"
            time.sleep(0.2)


def _head(**ports: int) -> Cluster:
    # An agent whose usual port is taken, by another cluster on this machine, is never seen to come.
    dashboard = {"include_dashboard": True, "dashboard_host": "127.0.0.1", "dashboard_agent_listen_port": 0}
    arguments = {**_NODE, **ports, **dashboard}
    return Cluster(initialize_head=True, head_node_args=arguments)


def processes_of(run_dir: Path) -> list[psutil.Process]:
    """Launchers, agents and ranks of a run, on all nodes."""
    return _processes(lambda words: str(run_dir) in words)


def drivers_of(workspace: Path) -> list[psutil.Process]:
    """The entrypoints of the workspace's Ray jobs."""
    return _processes(lambda words: _runs(words, "driver", workspace))


def tuning_of(workspace: Path) -> list[psutil.Process]:
    """What drivers have started, in which Tune runs."""
    return _processes(lambda words: _runs(words, "tuning", workspace))


def _runs(words: list[str], module: str, workspace: Path) -> bool:
    is_there = any(Path(word).is_relative_to(workspace) for word in words)
    return is_there and f"orchestrator.backends.ray.{module}" in words


def _processes(is_wanted: Callable[[list[str]], bool]) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        try:
            if is_wanted(process.cmdline()):
                found.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return found


def addresses_listened_on(root: psutil.Process) -> set[str]:
    """Where a process and everything below it listen."""
    found = set()
    for process in [root, *root.children(recursive=True)]:
        try:
            found |= {c.laddr.ip for c in process.net_connections("inet") if c.status == psutil.CONN_LISTEN}
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return found
