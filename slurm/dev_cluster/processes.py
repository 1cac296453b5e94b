"""Which processes belong to a cluster, by what the kernel says of them, and how they end.

There are no pid files: a number may have been given to somebody else since. A daemon carries the cluster's folder in
its environment, a job's process the node and the configuration file that slurmd gave it, and whatever dropped both of
these is found as a descendant. Before it is signalled, a process is looked at again through a handle that cannot change
owner.
"""

from __future__ import annotations

import os
import select
import signal
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from .errors import Problem

#: In the environment of every daemon: the cluster's folder, and which daemon it is.
CLUSTER_MARK = "SLURM_DEV_CLUSTER"
DAEMON_MARK = "SLURM_DEV_DAEMON"


@dataclass(frozen=True)
class Process:
    """One process as the kernel knew it a moment ago."""

    pid: int
    parent: int
    started: int
    """Clock ticks since the machine's start: with the pid, this names one process for ever."""
    name: str
    environment: Mapping[str, str]


def read_process(pid: int) -> Process | None:
    """The process of this number; None when it is gone, a zombie, or somebody else's."""
    folder = Path("/proc", str(pid))
    try:
        name, _, rest = (folder / "stat").read_text(errors="replace").partition(" (")[2].rpartition(") ")
        environ = (folder / "environ").read_bytes()
    except OSError:
        return None
    state, parent, *fields = rest.split()
    if state in "ZX":
        return None
    pairs = (entry.partition("=") for entry in environ.decode(errors="replace").split("\0") if "=" in entry)
    return Process(
        pid=pid,
        parent=int(parent),
        started=int(fields[17]),
        name=name,
        environment={key: value for key, _, value in pairs},
    )


def all_processes() -> dict[int, Process]:
    """Every process that this user may look into."""
    pids = (int(entry) for entry in os.listdir("/proc") if entry.isdecimal())
    return {process.pid: process for pid in pids if (process := read_process(pid))}


def with_descendants(chosen: Iterable[Process], everyone: Mapping[int, Process]) -> list[Process]:
    """These processes and everything below them."""
    found = {process.pid: process for process in chosen}
    grew = True
    while grew:
        below = {p.pid: p for p in everyone.values() if p.parent in found and p.pid not in found}
        found.update(below)
        grew = bool(below)
    return list(found.values())


def end_all(find: Callable[[], list[Process]], signal_number: signal.Signals, timeout_s: float) -> int:
    """Signal what ``find`` finds until it finds nothing more; how many processes there were.

    Repeated, because a process may have started another one between being found and being ended.

    Raises:
        Problem: something is still there after ``timeout_s`` seconds.
    """
    deadline = time.monotonic() + timeout_s
    ended: set[tuple[int, int]] = set()
    while found := find():
        ended |= {(process.pid, process.started) for process in found}
        handles = [handle for process in found if (handle := _signalled(process, signal_number)) is not None]
        try:
            for handle in handles:
                if not _has_ended(handle, deadline):
                    still = ", ".join(f"{process.pid} ({process.name})" for process in find())
                    raise Problem(f"still running {timeout_s:.0f} s after {signal_number.name}: {still}")
        finally:
            for handle in handles:
                os.close(handle)
    return len(ended)


def _signalled(process: Process, signal_number: signal.Signals) -> int | None:
    """A handle of the process after the signal was sent; None when it was gone already."""
    try:
        handle = os.pidfd_open(process.pid)
    except ProcessLookupError:
        return None
    now = read_process(process.pid)
    if now is None or now.started != process.started:
        os.close(handle)
        return None
    signal.pidfd_send_signal(handle, signal_number)
    return handle


def _has_ended(handle: int, deadline: float) -> bool:
    """Wait for a process to end, at most until the deadline of the monotonic clock."""
    poller = select.poll()
    poller.register(handle, select.POLLIN)
    return bool(poller.poll(max(0.0, deadline - time.monotonic()) * 1000))
