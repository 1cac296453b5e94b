"""A real Ray cluster of several nodes on this machine, for tests: everything on loopback, no port seen from outside."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
from ray.cluster_utils import Cluster
from ray.job_submission import JobSubmissionClient

#: Ray replaces the loopback address by the machine's own, unless it believes that it runs where it knows no clusters.
ENVIRONMENT = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_USAGE_STATS_ENABLED": "0"}

_OBJECT_STORE_BYTES = 80_000_000  # nothing of ours is kept there


class RayCluster:
    """A head and workers of one CPU each, as processes below this one."""

    def __init__(self, workers: int = 2) -> None:
        os.environ.update(ENVIRONMENT)
        self._cluster = Cluster(
            initialize_head=True,
            head_node_args={
                "num_cpus": 1,
                "num_gpus": 0,
                "node_ip_address": "127.0.0.1",
                "include_dashboard": True,
                "dashboard_host": "127.0.0.1",
                "dashboard_port": 0,
                "object_store_memory": _OBJECT_STORE_BYTES,
            },
        )
        self.workers = [self.add_node() for _ in range(workers)]
        self._cluster.wait_for_nodes()

    @property
    def address(self) -> str:
        """Of the dashboard, where the Jobs API is."""
        return f"http://{self._cluster.webui_url}"

    @property
    def client(self) -> JobSubmissionClient:
        return JobSubmissionClient(self.address)

    def add_node(self, **arguments: Any) -> Any:
        """Another worker: 1 CPU, if not said otherwise."""
        defaults = {"num_cpus": 1, "num_gpus": 0, "node_ip_address": "127.0.0.1", "wait": False}
        return self._cluster.add_node(**{**defaults, "object_store_memory": _OBJECT_STORE_BYTES, **arguments})

    def kill_node(self, node: Any) -> None:
        """End a worker's raylet at once; its actors end when they notice."""
        self._cluster.remove_node(node, allow_graceful=False)

    def down(self) -> None:
        """End everything."""
        self._cluster.shutdown()

    @staticmethod
    def wait_for(condition: Callable[[], object], timeout_s: float = 90) -> None:
        """Wait until the condition holds; a test fails that waits for longer."""
        deadline = time.monotonic() + timeout_s
        while not condition():
            assert time.monotonic() < deadline, f"waited {timeout_s} s in vain"
            time.sleep(0.2)


def processes_of(run_dir: Path) -> list[psutil.Process]:
    """Launchers, agents and ranks of a run, on all nodes."""
    found = []
    for process in psutil.process_iter():
        try:
            if str(run_dir) in process.cmdline():
                found.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return found
