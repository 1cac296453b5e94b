"""A Ray cluster of this machine alone, started by a submission that finds none, ended when it has no work.

    python -m orchestrator.backends.ray.own_cluster FOLDER IDLE_S ANSWER

is its keeper: it outlives the terminal, holds the cluster below it, and ends with it. Everything listens on loopback
only, and lets in who shows the token that lies in the folder, readable for the user alone.
"""

from __future__ import annotations

import fcntl
import logging
import os
import secrets
import select
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import psutil

from orchestrator.backends.base import Unreachable
from orchestrator.backends.local import available_cpus, visible_gpus
from orchestrator.backends.ray.clusters import Cluster
from orchestrator.backends.ray.demands import Node
from orchestrator.backends.source import python_path
from orchestrator.errors import EnvironmentProblem
from orchestrator.launch.network import free_port
from orchestrator.processes import ProcessName

logger = logging.getLogger(__name__)

#: Seconds without a living job after which the cluster ends.
_IDLE_S = 600.0
#: Seconds between two looks at its jobs.
_LOOK_S = 10.0
#: Seconds in which a cluster has to come up: Ray takes a few, and some more on a machine that is busy.
_START_TIMEOUT_S = 120.0
#: Seconds in which Ray has to end its processes.
_STOP_TIMEOUT_S = 20.0
#: Ray keeps objects in shared memory; we keep none there. No less than Ray's own least.
_OBJECT_STORE_BYTES = 80 * 2**20
_LOOPBACK = "127.0.0.1"


def folder_of(workspace: Path) -> Path:
    """Where the cluster of this machine has its files: token, log, address."""
    return workspace / "ray" / f"own-{socket.gethostname()}"


def node() -> Node:
    """The one node that the cluster has, or would have."""
    return Node({"CPU": available_cpus(), "GPU": len(visible_gpus()), "memory": psutil.virtual_memory().total})


def find(workspace: Path) -> Cluster | None:
    """The cluster of the workspace on this machine; None if it does not live."""
    cluster = Cluster.read(folder_of(workspace) / "cluster.json")
    return None if cluster is None or cluster.is_over else cluster


def start(workspace: Path, idle_s: float = _IDLE_S) -> Cluster:
    """Start the cluster, or find the one that another command has just started.

    Args:
        idle_s: seconds without a living job after which it ends.

    Raises:
        EnvironmentProblem: Ray does not start here.
    """
    folder = folder_of(workspace)
    folder.mkdir(parents=True, exist_ok=True)
    with _alone(folder):
        cluster = find(workspace)
        if cluster is not None:
            return cluster
        _launch_keeper(folder, idle_s)
        cluster = find(workspace)
    if cluster is None:
        raise EnvironmentProblem(f"the Ray cluster ended as soon as it had started; {folder / 'ray.log'} says more")
    pid = ProcessName.from_text(cluster.keeper).pid
    logger.warning(
        "started a Ray cluster on this machine (%s); it ends %d minutes after its last job, or by `kill %d`",
        cluster.address,
        idle_s // 60,
        pid,
    )
    return cluster


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Alone of all commands on this machine."""
    with (folder / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _launch_keeper(folder: Path, idle_s: float) -> None:
    """Start the keeper, and wait until it says that the cluster takes jobs."""
    reading, writing = os.pipe()
    with os.fdopen(reading, "rb") as answer, (folder / "ray.log").open("ab") as log:
        environment = {**os.environ, "PYTHONPATH": python_path(os.environ.get("PYTHONPATH"))}
        with os.fdopen(writing, "wb"):
            subprocess.Popen(
                [sys.executable, "-m", "orchestrator.backends.ray.own_cluster", str(folder), str(idle_s), str(writing)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                cwd="/",
                env=environment,
                pass_fds=[writing],
            )
        is_answered, _, _ = select.select([answer], [], [], _START_TIMEOUT_S + _STOP_TIMEOUT_S)
        said = answer.read().decode() if is_answered else "it takes too long"
    if said != "ready":
        raise EnvironmentProblem(
            f"no Ray cluster could be started on this machine: {said or 'its keeper was killed'}; "
            f"{folder / 'ray.log'} says more, and backend.address names another one"
        )


# --- the keeper -----------------------------------------------------------------------------------------------------


def main(arguments: Sequence[str]) -> int:
    """Keep the cluster of a folder until it has no more work, or is asked to end.

    Args:
        arguments: the folder; seconds without a living job after which the cluster ends; a file descriptor for the
            word ``ready`` or a sentence.
    """
    folder, idle_s, writing = Path(arguments[0]), float(arguments[1]), int(arguments[2])
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT, signal.SIGCHLD})
    # Its path is the beginning of the paths of sockets, which may have no more than 107 characters.
    temporary = Path(tempfile.mkdtemp(prefix="sweep-ray-", dir="/tmp"))
    token_path = folder / "token"
    _write_token(token_path)
    dashboard_port = free_port()
    cluster = Cluster(f"http://{_LOOPBACK}:{dashboard_port}", str(token_path), ProcessName.of_this().to_text())
    head = _start_head(temporary, token_path, dashboard_port)
    try:
        why = _wait_until_up(cluster, head)
        if not why:
            cluster.write(folder / "cluster.json")
        with os.fdopen(writing, "wb") as answer:
            answer.write((why or "ready").encode())
        if why:
            return 1
        _wait_for_the_end(cluster, head, idle_s)
        return 0
    finally:
        (folder / "cluster.json").unlink(missing_ok=True)
        _end(head, temporary)


def _write_token(path: Path) -> None:
    path.unlink(missing_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(secrets.token_hex(32))


def _start_head(temporary: Path, token_path: Path, dashboard_port: int) -> subprocess.Popen[bytes]:
    here = node().resources
    command = [
        str(Path(sysconfig.get_path("scripts")) / "ray"),
        "start",
        "--head",
        "--block",
        f"--node-ip-address={_LOOPBACK}",
        f"--port={free_port()}",
        "--include-dashboard=true",
        f"--dashboard-host={_LOOPBACK}",
        f"--dashboard-port={dashboard_port}",
        # Any that are free: the usual ones may be taken by another cluster on this machine.
        f"--ray-client-server-port={free_port()}",
        "--dashboard-agent-listen-port=0",
        "--min-worker-port=0",
        "--max-worker-port=0",
        f"--temp-dir={temporary}",
        f"--num-cpus={here['CPU']:g}",
        f"--num-gpus={here['GPU']:g}",
        f"--object-store-memory={_OBJECT_STORE_BYTES}",
        "--disable-usage-stats",
    ]
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    environment = {
        **inherited,
        # Otherwise Ray replaces the loopback address by one that others reach.
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        # Otherwise Ray lets its workers, and with them the ranks, give way to everything else on the machine.
        "RAY_worker_niceness": "0",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token_path),
    }
    return subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        env=environment,
        preexec_fn=lambda: signal.pthread_sigmask(signal.SIG_SETMASK, set()) and None,  # noqa: PLW1509 - one thread
    )


def _wait_until_up(cluster: Cluster, head: subprocess.Popen[bytes]) -> str:
    """Wait until the cluster has its node; empty, or why it does not come up."""
    give_up_at = time.monotonic() + _START_TIMEOUT_S
    while time.monotonic() < give_up_at:
        if head.poll() is not None:
            return f"`ray start` ended with exit code {head.returncode}"
        try:
            if cluster.api.nodes():
                return ""
        except Unreachable:
            pass
        if signal.sigtimedwait({signal.SIGTERM, signal.SIGINT}, 0.2) is not None:
            return "its keeper was asked to end"
    return f"it does not answer within {_START_TIMEOUT_S:g} s"


def _wait_for_the_end(cluster: Cluster, head: subprocess.Popen[bytes], idle_s: float) -> None:
    """Wait until Ray ends, until somebody asks for the end, or until no job has lived for a while."""
    last_at_work = time.monotonic()
    while time.monotonic() < last_at_work + idle_s:
        received = signal.sigtimedwait({signal.SIGTERM, signal.SIGINT, signal.SIGCHLD}, min(_LOOK_S, idle_s / 2))
        if head.poll() is not None or (received is not None and received.si_signo != signal.SIGCHLD):
            return
        try:
            if any(job.status in ("PENDING", "RUNNING") for job in cluster.api.jobs().values()):
                last_at_work = time.monotonic()
        except Unreachable as problem:
            print(problem, flush=True)  # noqa: T201 - into its log


def _end(head: subprocess.Popen[bytes], temporary: Path) -> None:
    """End Ray's processes and remove their files. Launchers are left alone: they save their state and leave."""
    head.terminate()
    try:
        head.wait(_STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        head.kill()
        head.wait()
    for process in psutil.process_iter():
        try:
            if any(str(temporary) in word for word in process.cmdline()):
                process.kill()
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    shutil.rmtree(temporary, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
