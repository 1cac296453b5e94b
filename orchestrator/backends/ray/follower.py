"""One launcher below one actor: in the trial's own process, or in a follower on another bundle of its group."""

from __future__ import annotations

import os
import select
import socket
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import ray


@dataclass(frozen=True)
class Place:
    """Where an actor is.

    Attributes:
        node_id: Ray's name of the node.
        address: the node's, by which Ray reaches it.
        devices: GPUs that Ray gave to the actor, as CUDA_VISIBLE_DEVICES numbers them; None if it gave none.
        pid: of the actor's process.
    """

    node_id: str
    host: str
    address: str
    devices: str | None
    pid: int


def own_place() -> Place:
    """Where the calling actor is."""
    gpus = ray.get_gpu_ids()
    return Place(
        node_id=ray.get_runtime_context().get_node_id(),
        host=socket.gethostname(),
        address=str(ray.util.get_node_ip_address()),  # type: ignore[no-untyped-call]
        devices=os.environ.get("CUDA_VISIBLE_DEVICES") if gpus else None,
        pid=os.getpid(),
    )


class LauncherProcess:
    """A launcher that was started by this process, and ends with it.

    To be made by the main thread: the kernel tells the launcher when the thread that started it is gone.
    """

    def __init__(self, command: Sequence[str], log_path: Path) -> None:
        with log_path.open("ab") as log:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                # A raylet kills all that is left of a dead worker's process group, before it could save anything.
                start_new_session=True,
            )
        self._end = select.poll()
        self._pidfd = os.pidfd_open(self._process.pid)
        self._end.register(self._pidfd, select.POLLIN)

    def wait(self, timeout_s: float) -> int | None:
        """The exit code, negative for a signal; None if the launcher still runs when the time is up."""
        if self._process.returncode is None and self._end.poll(timeout_s * 1000):
            self._process.wait()
            os.close(self._pidfd)
        return self._process.returncode

    def ask_to_stop(self) -> None:
        """Have the run checkpoint and leave."""
        self._process.terminate()

    def kill(self) -> None:
        """End the launcher at once; the processes below it are told by the kernel."""
        self._process.kill()


class Follower:
    """Starts a launcher in another bundle than the trial's. A Ray actor, made by the trial."""

    def __init__(self) -> None:
        self._launcher: LauncherProcess | None = None

    def place(self) -> Place:
        """Where it is."""
        return own_place()

    def start(self, command: Sequence[str], log_path: Path) -> None:
        """Start the launcher."""
        self._launcher = LauncherProcess(command, log_path)

    def wait(self, timeout_s: float) -> int | None:
        """As :meth:`LauncherProcess.wait`."""
        return None if self._launcher is None else self._launcher.wait(timeout_s)

    def ask_to_stop(self) -> None:
        """As :meth:`LauncherProcess.ask_to_stop`."""
        if self._launcher is not None:
            self._launcher.ask_to_stop()
