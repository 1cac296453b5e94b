"""The folder of a cluster: where each file lies, and what the cluster was asked to be."""

from __future__ import annotations

import json
import os
import re
from dataclasses import asdict, dataclass
from pathlib import Path

from .errors import MachineProblem, UsageProblem

#: A Unix socket's path is limited to 107 characters; the longest one here is a step's, under a node's spool folder.
SOCKET_PATH_LIMIT = 107
LONGEST_SOCKET = "/n999/n999_99999999.4294967291"


@dataclass(frozen=True)
class Settings:
    """What a cluster is made of. Written once, by ``up``; every later command reads it."""

    nodes: int
    cpus: int
    memory_mb: int
    gpus: int
    grace_s: int
    max_array_size: int
    accounting: bool
    address: str
    """What the daemons call each other by: a loopback address."""
    only_loopback: bool
    """Whether they listen there only; else on every address of the machine."""
    control_port: int
    database_port: int
    node_ports: tuple[int, ...]

    @property
    def node_names(self) -> tuple[str, ...]:
        """n1, n2, ..."""
        return tuple(f"n{number}" for number in range(1, self.nodes + 1))


@dataclass(frozen=True)
class Layout:
    """One property per file of a cluster."""

    root: Path

    @property
    def settings_path(self) -> Path:
        return self.root / "cluster.json"

    @property
    def lock_path(self) -> Path:
        return self.root / "lock"

    @property
    def slurm_conf(self) -> Path:
        return self.root / "slurm.conf"

    @property
    def gres_conf(self) -> Path:
        return self.root / "gres.conf"

    @property
    def cgroup_conf(self) -> Path:
        return self.root / "cgroup.conf"

    @property
    def slurmdbd_conf(self) -> Path:
        return self.root / "slurmdbd.conf"

    @property
    def munge_key(self) -> Path:
        return self.root / "munge.key"

    @property
    def munge_socket(self) -> Path:
        return self.root / "munge.socket"

    @property
    def database_dir(self) -> Path:
        return self.root / "database"

    @property
    def database_socket(self) -> Path:
        return self.root / "database.socket"

    @property
    def state_dir(self) -> Path:
        """slurmctld's memory: jobs and nodes survive its restart here."""
        return self.root / "state"

    def gpu_path(self, index: int) -> Path:
        return self.root / "gpu" / f"gpu{index}"

    def spool_dir(self, node: str) -> Path:
        return self.root / node

    @property
    def log_dir(self) -> Path:
        return self.root / "log"

    def log_path(self, daemon: str) -> Path:
        return self.log_dir / f"{daemon}.log"

    def exists(self) -> bool:
        return self.settings_path.is_file()

    def read_settings(self) -> Settings:
        """What the cluster was asked to be.

        Raises:
            MachineProblem: there is no cluster in this folder, or its description cannot be read.
        """
        try:
            values = json.loads(self.settings_path.read_text())
        except FileNotFoundError:
            raise MachineProblem(f"there is no cluster in {self.root}: `up --dir {self.root}` starts one") from None
        try:
            return Settings(**{**values, "node_ports": tuple(values["node_ports"])})
        except (TypeError, KeyError, ValueError) as problem:
            raise MachineProblem(
                f"{self.settings_path} is of another version ({problem}): `down --dir {self.root}`, then `up`"
            ) from None

    def write_settings(self, settings: Settings) -> None:
        self.settings_path.write_text(json.dumps(asdict(settings), indent=2) + "\n")


def checked_layout(folder: str) -> Layout:
    """The layout below a folder that may not exist yet.

    Raises:
        UsageProblem: the path cannot be used: SLURM's files cannot hold it, or its sockets' names became too long.
    """
    root = Path(os.path.realpath(folder))
    if odd := sorted(set(re.sub(r"[\w./+@-]", "", str(root), flags=re.ASCII))):
        raise UsageProblem(f"--dir {root}: slurm.conf cannot hold {''.join(odd)!r} in a path; choose another folder")
    if (surplus := len(str(root)) + len(LONGEST_SOCKET) - SOCKET_PATH_LIMIT) > 0:
        raise UsageProblem(
            f"--dir {root}: too long by {surplus} characters for the Unix sockets below it;"
            " choose a shorter one, such as --dir /tmp/slurm-dev"
        )
    return Layout(root)
