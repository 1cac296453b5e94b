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

#: Variables by which an outer torchrun, or a job that this one was submitted from, would speak to the new one.
_FOREIGN_PREFIXES = ("TORCHELASTIC_", "TORCH_ELASTIC_", "PET_", "MASTER_")
_FOREIGN_NAMES = frozenset(
    {"RANK", "LOCAL_RANK", "GROUP_RANK", "ROLE_RANK", "ROLE_NAME"}
    | {"WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_WORLD_SIZE", "ROLE_WORLD_SIZE"}
)

#: Seconds that the agent waits for its ranks beyond the grace in which they end themselves.
_AGENT_MARGIN_S = 3


@dataclass(frozen=True)
class Rendezvous:
    """Where the nodes of an attempt find each other.

    Attributes:
        nodes: machines of the attempt.
        node_rank: this machine's number, from 0.
        endpoint: ``host:port`` on the first node; not used with one node, which meets on a free port of its own.
        id: new for every attempt, so that an attempt never joins what is left of another.
    """

    nodes: int
    node_rank: int
    endpoint: str
    id: str

    def options(self) -> list[str]:
        if self.nodes == 1:
            where = ["--rdzv-backend=c10d", "--rdzv-endpoint=127.0.0.1:0", "--local-addr=127.0.0.1"]
        else:
            # Static: the node rank decides who hosts and who gets which ranks; c10d guesses the host by its name.
            where = ["--rdzv-backend=static", f"--rdzv-endpoint={self.endpoint}", f"--node-rank={self.node_rank}"]
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
    inherited: Mapping[str, str], *, threads: int, devices: str | None, is_single_node: bool
) -> dict[str, str]:
    """The environment of the agent and its ranks.

    Args:
        threads: compute threads of each rank.
        devices: what CUDA_VISIBLE_DEVICES becomes, an empty string hiding all GPUs; None leaves it as it is.
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
    if is_single_node:
        # Otherwise gloo looks the machine's own name up, which fails or takes seconds where it is in no DNS.
        environment.setdefault("GLOO_SOCKET_IFNAME", "lo")
    return environment
