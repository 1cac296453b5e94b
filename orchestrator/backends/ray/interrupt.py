"""Interrupts a run on whatever machines of the cluster its launchers are: the hand of ``sweep drill``.

``python -m orchestrator.backends.ray.interrupt RUN_DIR TOKEN KIND`` is a Ray job. It asks one node of every machine to
look for launchers of the token, because only there they can be signalled.
"""

from __future__ import annotations

import logging
import signal
import sys
from typing import Any

import psutil

#: Seconds that the machines have to answer.
_DEADLINE_S = 60.0
KINDS = ("signal", "kill", "actor")


def strike(run_dir: str, token: str, kind: str) -> int:
    """Interrupt what there is of the run on this machine; the number of launchers that were found.

    Args:
        kind: ``signal`` sends SIGTERM to the launchers, ``kill`` SIGKILL to everything below them, and ``actor``
            SIGKILL to the actors that have started them.
    """
    launchers = []
    for process in psutil.process_iter():
        try:
            words = process.cmdline()
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
        if "orchestrator.launch" in words and run_dir in words and f"--token={token}" in words:
            launchers.append((process, words))
    for launcher, words in launchers:
        if kind == "signal":
            launcher.send_signal(signal.SIGTERM)
        elif kind == "actor":
            actor = next(int(word.partition("=")[2]) for word in words if word.startswith("--tied-to="))
            psutil.Process(actor).kill()
        else:
            # Stopped first, so that nobody sees another die, and says so, before it dies itself.
            processes = [launcher, *launcher.children(recursive=True)]
            for process in processes:
                process.send_signal(signal.SIGSTOP)
            for process in processes:
                process.kill()
    return len(launchers)


def strike_everywhere(run_dir: str, token: str, kind: str) -> int:
    """As :func:`strike`, on all machines of the cluster."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    ray.init(log_to_driver=False, logging_level=logging.ERROR)
    nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    # One node of each machine: what is signalled twice takes the second time for haste.
    places = {node["NodeManagerHostname"]: node["NodeID"] for node in nodes if node["Alive"]}
    task = ray.remote(num_cpus=0, max_retries=0)(strike)
    answers = [
        task.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node_id, soft=False)).remote(
            run_dir, token, kind
        )
        for node_id in places.values()
    ]
    return sum(ray.get(answers, timeout=_DEADLINE_S))


if __name__ == "__main__":
    if not strike_everywhere(*sys.argv[1:4]):
        sys.exit("no launcher of the run was found on any machine of the cluster; it ended before the drill could")
