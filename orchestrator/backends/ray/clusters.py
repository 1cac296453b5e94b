"""Which Ray cluster is meant, and which one carries a submission.

The cluster that is asked for today need not be the one that carries yesterday's jobs: each submission keeps a note of
its own.
"""

from __future__ import annotations

import functools
import os
import socket
import subprocess
import sys
import urllib.parse
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

from orchestrator.backends.base import Unreachable
from orchestrator.backends.ray.jobs import Api
from orchestrator.errors import InputError
from orchestrator.processes import ProcessName
from trainers.rundir import atomic

#: Seconds in which a cluster has to say where its dashboard is.
_RESOLVE_TIMEOUT_S = 30.0
_USE_THE_DASHBOARD = "set backend.address to the address of its dashboard, such as http://head:8265"


@dataclass(frozen=True)
class Cluster:
    """A cluster that jobs were, or are to be, sent to.

    Attributes:
        address: of the dashboard, where the Jobs API is.
        token: file with the token that it asks for; empty where Ray's own variables say it.
        keeper: name of the process that keeps it alive, where this program has started it; empty otherwise.
    """

    address: str
    token: str = ""
    keeper: str = ""

    @property
    def api(self) -> Api:
        """Its HTTP interface."""
        return Api(self.address, Path(self.token) if self.token else None)

    @property
    def is_over(self) -> bool:
        """Whether it is certain that the cluster has ended and none of its jobs starts anything any more."""
        process = self._keeping_process()
        return process is not None and process.is_here and not process.is_alive

    @property
    def other_host(self) -> str:
        """The machine from which alone it can be seen; empty if it can be seen from here."""
        process = self._keeping_process()
        return "" if process is None or process.is_here else process.host

    def _keeping_process(self) -> ProcessName | None:
        return ProcessName.from_text(self.keeper) if self.keeper else None

    def write(self, path: Path) -> None:
        """Write it to a file, durably. The folder is made.

        Raises:
            OSError: the workspace cannot be written.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        atomic.write_json(path, asdict(self))

    @classmethod
    def read(cls, path: Path) -> Self | None:
        """The reverse of :meth:`write`; None if there is no such file."""
        value = atomic.read_json(path)
        return None if value is None else cls(**value)


def find_cluster(address: str | None) -> Cluster | None:
    """The cluster that the option, else the environment names; None if neither does.

    Raises:
        InputError: what is named is no address.
        Unreachable: it is named by its own address, and does not say where its dashboard is.
    """
    if address is not None:
        return Cluster(_dashboard(address, "backend.address"))
    if named := os.environ.get("RAY_API_SERVER_ADDRESS"):
        return Cluster(_dashboard(named, "RAY_API_SERVER_ADDRESS"))
    named = os.environ.get("RAY_ADDRESS")
    if named and named != "local":
        is_dashboard = named.startswith(("http://", "https://"))
        return Cluster((_dashboard if is_dashboard else _ask_for_dashboard)(named, "RAY_ADDRESS"))
    return None


def find_local_cluster() -> Cluster | None:
    """The cluster that the user has started on this machine by `ray start`, if it lives.

    Raises:
        Unreachable: it does not say where its dashboard is.
    """
    folder = os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or "/tmp"  # noqa: S108 - Ray's own place
    path = Path(folder) / "ray" / "ray_current_cluster"
    try:
        # Anybody may write there, and what runs on a cluster runs as the user who started it.
        address = path.read_text().strip() if path.stat().st_uid == os.getuid() else ""
    except OSError:
        return None
    return Cluster(_ask_for_dashboard(address, str(path))) if address and _listens(address) else None


def _dashboard(address: str, source: str) -> str:
    if address.startswith("ray://"):
        return _ask_for_dashboard(address, source)
    url = address if "://" in address else f"http://{address}"
    if not _is_url(url):
        raise InputError(f"{source}={address} is no address of a dashboard; write one such as http://head:8265")
    return url


def _is_url(text: str) -> bool:
    try:
        parts = urllib.parse.urlsplit(text)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


def _listens(address: str) -> bool:
    """Whether somebody takes connections at ``host:port``: Ray leaves the file behind when it is killed."""
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=3):
            return True
    except (OSError, ValueError):
        return False


@functools.cache
def _ask_for_dashboard(address: str, source: str) -> str:
    """The dashboard of the cluster at ``host:port``, ``ray://host:port`` or ``auto``.

    Asked by a process of its own: Ray's client waits long for a cluster that is not there, and prints as it likes.
    """
    code = "from ray.dashboard.utils import get_address_for_submission_client as f; print('dashboard', f('auto'))"
    environment = {**os.environ, "RAY_ADDRESS": address}
    environment.pop("RAY_API_SERVER_ADDRESS", None)
    try:
        done = subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            timeout=_RESOLVE_TIMEOUT_S,
            check=False,
            env=environment,
        )
        lines, why = done.stdout.splitlines(), (done.stderr.strip().splitlines() or ["no answer"])[-1]
    except subprocess.TimeoutExpired:
        lines, why = [], f"no answer within {_RESOLVE_TIMEOUT_S:g} s"
    found = [line.removeprefix("dashboard ") for line in lines if line.startswith("dashboard ")]
    if not found:
        raise Unreachable(f"no Ray cluster answers at {address} ({source}): {why}; {_USE_THE_DASHBOARD}")
    return found[-1]
