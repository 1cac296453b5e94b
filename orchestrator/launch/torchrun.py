"""The torchrun command of an attempt and its environment. Pure.

Every default of torchrun that costs a run or leaves a process behind is overridden here, in one place.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

#: Signals that mean "checkpoint and stop". By default torchrun dies of SIGUSR1 and leaves its workers running.
STOP_SIGNAL_NAMES = ("SIGTERM", "SIGINT", "SIGUSR1")

#: The interface over which the ranks of a single node speak.
LOOPBACK = "lo"

#: Variables by which an outer torchrun, or a job that this one was submitted from, would speak to the new one.
_FOREIGN_PREFIXES = ("TORCHELASTIC_", "TORCH_ELASTIC_", "PET_", "MASTER_")
_FOREIGN_NAMES = frozenset(
    {"RANK", "LOCAL_RANK", "GROUP_RANK", "ROLE_RANK", "ROLE_NAME"}
    | {"WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_WORLD_SIZE", "ROLE_WORLD_SIZE"}
)

#: Seconds that the agent waits for its ranks beyond the grace in which they end themselves.
_AGENT_MARGIN_S = 3


#: Seconds that a node waits for the others to come. Their launchers start within seconds of each other.
_JOIN_TIMEOUT_S = 300


@dataclass(frozen=True)
class Rendezvous:
    """Where the nodes of an attempt find each other.

    Attributes:
        nodes: machines of the attempt.
        node_rank: this machine's number, from 0.
        endpoint: ``host:port`` on the first node; not used with one node, which meets on a free port of its own.
        id: new for every attempt, so that an attempt never joins what is left of another.
        address: this machine's own, by which the other nodes reach it; used with several nodes only.
    """

    nodes: int
    node_rank: int
    endpoint: str
    id: str
    address: str = ""

    def options(self) -> list[str]:
        if self.nodes == 1:
            where = ["--rdzv-backend=c10d", "--rdzv-endpoint=127.0.0.1:0", "--local-addr=127.0.0.1"]
        else:
            # Who hosts is said: torch would guess it by comparing names, and wait for ever where it guesses wrong.
            conf = f"is_host={int(self.node_rank == 0)},join_timeout={_JOIN_TIMEOUT_S}"
            where = ["--rdzv-backend=c10d", f"--rdzv-endpoint={self.endpoint}", f"--rdzv-conf={conf}"]
            where.append(f"--local-addr={self.address}")
        return [f"--nnodes={self.nodes}", *where, f"--rdzv-id={self.id}"]


def build_command(run_dir: Path, attempt: int, rendezvous: Rendezvous, processes: int, grace_s: int) -> list[str]:
    """The command of this node's torchrun agent.

    Args:
        processes: ranks on this node.
        grace_s: seconds that a rank has to checkpoint and leave after a request to stop.
    """
    return [
        *(sys.executable, "-m", "trainers.agent"),
        *rendezvous.options(),
        f"--nproc-per-node={processes}",
        "--max-restarts=0",  # a restart inside an attempt would hide from the accounting of attempts
        f"--signals-to-handle={','.join(STOP_SIGNAL_NAMES)}",
        f"--shutdown-timeout={grace_s + _AGENT_MARGIN_S}",
        *("-m", "trainers", str(run_dir), f"--attempt={attempt}", f"--grace-s={grace_s}"),
    ]


def build_environment(
    inherited: Mapping[str, str], *, threads: int, devices: str | None, interface: str
) -> dict[str, str]:
    """The environment of the agent and its ranks.

    Args:
        threads: compute threads of each rank.
        devices: what CUDA_VISIBLE_DEVICES becomes, an empty string hiding all GPUs; None leaves it as it is.
        interface: network interface by which this node reaches the others; the user's own choice comes first.
    """
    environment = {
        name: value
        for name, value in inherited.items()
        if name not in _FOREIGN_NAMES and not name.startswith(_FOREIGN_PREFIXES)
    }
    environment["OMP_NUM_THREADS"] = str(threads)
    environment["PYTHONUNBUFFERED"] = "1"
    if devices is not None:
        environment["CUDA_VISIBLE_DEVICES"] = devices
    # Otherwise gloo looks the machine's own name up, which fails, takes seconds, or leads to another network.
    environment.setdefault("GLOO_SOCKET_IFNAME", interface)
    if interface != LOOPBACK:
        environment.setdefault("NCCL_SOCKET_IFNAME", interface)
    return environment
